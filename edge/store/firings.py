"""The newest firings in the order of their commits, for readers with a cursor.

A row of `outbox` names a firing by batch and leaf; its id is the firing's number. Up to
meta `outbox_released` they were shown once. A released row is kept until KEPT_COUNT
newer ones are, so that who was away can read on from the number they know; the newest
row always stays, or SQLite would begin to count at 1 again.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, NamedTuple

import apsw

from edge.errors import ErasedError, IntegrityError
from edge.store.database import meta, rows

if TYPE_CHECKING:
    from edge.store.reader import Reader, StoredRecord

KEPT_COUNT = 10_000
RELEASED_KEY = "outbox_released"

log = logging.getLogger("edge.firings")


class FiringsPage(NamedTuple):
    """(number, record) of firings; `through` is the last number that was looked at."""

    firings: list[tuple[int, StoredRecord]]
    through: int


def release(connection: apsw.Connection, through: int) -> None:
    """Note that all up to this number were shown; within a transaction."""
    connection.execute(
        "INSERT OR REPLACE INTO meta VALUES (?, ?)", (RELEASED_KEY, through)
    )
    connection.execute("DELETE FROM outbox WHERE id <= ?", (through - KEPT_COUNT,))


def released(connection: apsw.Connection) -> int:
    """The number up to which all were shown."""
    number = meta(connection, RELEASED_KEY)
    return number if isinstance(number, int) else 0


def bounds(connection: apsw.Connection) -> tuple[int, int]:
    """(the oldest number that is kept, the newest); (1, 0) where there was never one.

    Where none is kept, the released number is the newest.
    """
    last = released(connection)
    [(oldest, newest)] = rows(connection, "SELECT min(id), max(id) FROM outbox")
    return oldest or last + 1, newest or last


def unshown(reader: Reader) -> list[tuple[int, StoredRecord]]:
    """(number, record) of those that were committed and not shown, as in a page."""
    last = released(reader.connection)
    newest = bounds(reader.connection)[1]
    return page(reader, last, newest, newest - last + 1).firings


def page(reader: Reader, after: int, through: int, count: int) -> FiringsPage:
    """At most `count` firings with numbers above `after` and not above `through`.

    Those of a patient who was erased are passed over, and so are damaged ones: nobody
    who has to be told of the others may hang on them.
    """
    found = []
    looked = rows(
        reader.connection,
        "SELECT id, batch, leaf FROM outbox WHERE id > ? AND id <= ? "
        "ORDER BY id LIMIT ?",
        (after, through, count),
    )
    for number, batch_id, leaf in looked:
        try:
            found.append((number, reader.firing_at(batch_id, leaf)))
        except ErasedError:
            continue
        except IntegrityError as error:
            log.error(
                "alert %d cannot be told (see `iomt store check`): %s", number, error
            )
    return FiringsPage(found, looked[-1][0] if len(looked) == count else through)
