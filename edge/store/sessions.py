"""MQTT sessions in the store: one sealed row of `meta` for each.

The key is `mqtt.session.` and a keyed tag of the session's name, so that the file says
neither who is subscribed nor from which device. What the row says is the listener's own
(sources/mqtt_session.py).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

import apsw

from edge.errors import IntegrityError
from edge.store import vault
from edge.store.commit import Writer
from edge.store.database import rows
from edge.store.keys import Keys

KEY_PREFIX = "mqtt.session."
TAG_SIZE = 16
_ASSOCIATED = b"mqtt session"

log = logging.getLogger("edge.sessions")


def write(writer: Writer, changes: Mapping[str, bytes | None]) -> None:
    """Keep these, by their names; None removes. Within a transaction."""
    for name, kept in changes.items():
        key = KEY_PREFIX + writer.keys.tag(name)[:TAG_SIZE].hex()
        if kept is None:
            writer.connection.execute("DELETE FROM meta WHERE key = ?", (key,))
        else:
            sealed = vault.seal(writer.keys.gateway, kept, _ASSOCIATED)
            writer.connection.execute(
                "INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, sealed)
            )


def read(connection: apsw.Connection, keys: Keys) -> list[bytes]:
    """All that are kept; one that does not open is left out."""
    found = []
    for (sealed,) in rows(
        connection,
        "SELECT value FROM meta WHERE key >= ? AND key < ?",
        (KEY_PREFIX, KEY_PREFIX + "\uffff"),
    ):
        try:
            found.append(vault.unseal(keys.gateway, sealed, _ASSOCIATED))
        except IntegrityError as error:
            log.error("an MQTT session that was kept is lost: %s", error)
    return found
