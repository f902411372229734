"""The keys that devices without signatures share with us: meta `shared-key-ID`, sealed.

Sealed under the gateway's own key, like everything that belongs to no patient; a new
master key re-wraps that one and leaves these as they are.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

import apsw

from edge import cbor
from edge.errors import IntegrityError
from edge.store.database import rows
from edge.store.vault import seal, unseal

PREFIX = "shared-key-"

log = logging.getLogger("edge.keys")


def statement(
    gateway_key: bytes, device: int, ref: bytes, key: bytes
) -> tuple[str, tuple[str, bytes]]:
    """What stores the key of a device of this id and random reference."""
    sealed = seal(gateway_key, key, _associated(ref))
    return "INSERT OR REPLACE INTO meta VALUES (?, ?)", (f"{PREFIX}{device}", sealed)


def load(connection: apsw.Connection, gateway_key: bytes) -> Mapping[int, bytes]:
    """The keys by the device's id; one that does not open is told and left out.

    What its device sends is refused then, and the others go on.
    """
    keys = {}
    for id_, name, ref, sealed in rows(
        connection,
        "SELECT d.id, d.name, d.ref, m.value FROM devices d "
        "JOIN meta m ON m.key = ? || d.id WHERE d.kind = 'shared'",
        (PREFIX,),
    ):
        try:
            keys[id_] = unseal(gateway_key, sealed, _associated(ref))
        except IntegrityError as error:
            log.error("device %s: its shared key: %s", name, error)
    return keys


def _associated(ref: bytes) -> bytes:
    return cbor.encode(["shared key", ref])
