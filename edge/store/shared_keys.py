"""The keys that devices without signatures share with us: meta `shared-key-ID`, sealed.

Sealed under the gateway's own key, like everything that belongs to no patient; a new
master key re-wraps that one and leaves these as they are.
"""

from __future__ import annotations

from collections.abc import Mapping

import apsw

from edge import cbor
from edge.store.database import rows
from edge.store.vault import seal, unseal

PREFIX = "shared-key-"


def statement(
    gateway_key: bytes, device: int, ref: bytes, key: bytes
) -> tuple[str, tuple[str, bytes]]:
    """What stores the key of a device of this id and random reference."""
    sealed = seal(gateway_key, key, _associated(ref))
    return "INSERT OR REPLACE INTO meta VALUES (?, ?)", (f"{PREFIX}{device}", sealed)


def load(connection: apsw.Connection, gateway_key: bytes) -> Mapping[int, bytes]:
    """The keys by the device's id."""
    found = rows(
        connection,
        "SELECT d.id, d.ref, m.value FROM devices d "
        "JOIN meta m ON m.key = ? || d.id WHERE d.kind = 'shared'",
        (PREFIX,),
    )
    return {
        id_: unseal(gateway_key, sealed, _associated(ref)) for id_, ref, sealed in found
    }


def _associated(ref: bytes) -> bytes:
    return cbor.encode(["shared key", ref])
