"""Forgetting: what an erasure and a retention policy remove from the store.

    erasure    intent (a commit) ─► keys ─► refused messages ─► frames ─► rows that
               named the patient ─► free pages, WAL ─► completion (a commit)
    retention  frames of a class older than its days; with the last of a batch its leaf
               hashes and the gateway's own frame in it

Everything here runs on the writer's thread, in transactions of bounded size, so that a
device waits for its answer no longer than for a large commit. The log's entries stay,
and so do the leaf hashes of a batch while any of its records can be proven.

Keys go first: after the first transaction nothing of the patient can be read. Each step
only removes, so whoever starts again after a crash begins with the first one. The
database is opened with secure_delete, so what is removed is overwritten with zeros; the
old pages in the WAL go when it is truncated. What a flash translation layer keeps of
all that is beyond any program: the receipt says so.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

import apsw

from edge import cbor
from edge.errors import IntegrityError, RejectError
from edge.store import vault
from edge.store.commit import Class, Writer
from edge.store.database import (
    BUSY_TIMEOUT_MS,
    FRAME_BITS,
    index_frames,
    meta,
    rows,
)
from edge.store.migrate import remove_copies

FRAMES_STEP_COUNT = 500
REFUSALS_STEP_COUNT = 200
BATCHES_STEP_COUNT = 500
VACUUM_STEP_PAGES = 500
TRUNCATE_WAIT_MS = 100
_DAMAGED = object()  # a refusal that nobody can read: it may be anybody's
NO_KEY = b""  # stands for the wrapped key of an episode that nobody may open again
FOREVER_MS = 2**63 - 1


class Phase(IntEnum):
    """Of an erasure's record."""

    INTENT = 0
    COMPLETED = 1


PHASE = 1  # its key in the record's body


@dataclass(slots=True)
class Destroyed:
    """What an erasure has removed so far; counted anew after a restart."""

    episodes: int = 0
    frames: int = 0
    refusals: int = 0


def pending(connection: apsw.Connection) -> list[tuple[int, bytes]]:
    """(patient, random reference) of the erasures that are begun and not completed."""
    return rows(
        connection,
        "SELECT patient, ref FROM erasures WHERE completed_ms IS NULL ORDER BY id",
    )


def destroy(writer: Writer, patient: int, gone: Destroyed) -> Iterator[None]:
    """Destroy everything of a patient, one transaction at each step.

    The intent stands in `erasures` already, and nothing new can come for the patient.
    """
    execute = writer.connection.execute

    def keys() -> None:
        execute("DELETE FROM patients WHERE id = ?", (patient,))
        execute("UPDATE episodes SET wrapped = ? WHERE patient = ?", (NO_KEY, patient))
        gone.episodes += writer.connection.changes()
        writer.keys.forget(patient)
        writer.close_episodes(patient=patient)

    writer.transact(keys)
    yield
    yield from _destroy_refusals(writer, patient, gone)

    def frames() -> int:
        execute(
            "DELETE FROM frames WHERE id IN (SELECT f.id FROM episodes e "
            "JOIN episode_frames f ON f.episode = e.id WHERE e.patient = ? LIMIT ?)",
            (patient, FRAMES_STEP_COUNT),
        )
        return writer.connection.changes()

    while count := writer.transact(frames):
        gone.frames += count
        yield

    def names() -> None:
        execute("DELETE FROM episodes WHERE patient = ?", (patient,))
        execute("DELETE FROM assignments WHERE patient = ?", (patient,))

    writer.transact(names)
    yield
    database = Path(writer.connection.db_filename("main"))
    yield from remove_copies(database.parent)
    yield from sweep(writer)


def _destroy_refusals(writer: Writer, patient: int, gone: Destroyed) -> Iterator[None]:
    """Refused messages that came from a device while it was at the patient.

    They are sealed for the gateway, not for the patient, but hold what a sensor said.
    """
    worn = rows(
        writer.connection,
        "SELECT d.name, a.from_ms, ifnull(a.until_ms, ?) FROM assignments a "
        "JOIN devices d ON d.id = a.device WHERE a.patient = ?",
        (FOREVER_MS, patient),
    )
    after = 0
    while worn:
        page = rows(
            writer.connection,
            "SELECT id, time_ms, sealed FROM quarantine WHERE id > ? "
            "ORDER BY id LIMIT ?",
            (after, REFUSALS_STEP_COUNT),
        )
        if not page:
            return
        after = page[-1][0]
        ids = [
            id_
            for id_, time_ms, sealed in page
            for device in (_refused_device(writer, sealed),)
            if any(
                device in (name, _DAMAGED) and begin <= time_ms <= end
                for name, begin, end in worn
            )
        ]
        if ids:
            _drop_refusals(writer, ids)
        gone.refusals += len(ids)
        yield


def _drop_refusals(writer: Writer, ids: list[int]) -> None:
    writer.transact(lambda: writer.drop_quarantine(ids))


def _refused_device(writer: Writer, sealed: bytes) -> object:
    try:
        refusal = cbor.decode(vault.unseal(writer.keys.gateway, sealed, b"quarantine"))
    except (IntegrityError, RejectError):
        return _DAMAGED
    return refusal[1] if isinstance(refusal, list) else None


def sweep(writer: Writer) -> Iterator[None]:
    """Give the free pages back, a few at each step."""

    def vacuum() -> None:
        statement = f"PRAGMA incremental_vacuum({VACUUM_STEP_PAGES})"
        writer.connection.execute(statement).fetchall()

    left = _free_pages(writer.connection)
    while left:
        writer.transact(vacuum)
        yield
        before, left = left, _free_pages(writer.connection)
        if left >= before:
            return


def _free_pages(connection: apsw.Connection) -> int:
    [(count,)] = rows(connection, "PRAGMA freelist_count")
    return int(count)


def truncate_wal(writer: Writer) -> bool:
    """Move the WAL into the database and cut it; False while a reader is in the way."""
    connection = writer.connection
    connection.set_busy_timeout(TRUNCATE_WAIT_MS)
    try:
        connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
    except apsw.BusyError:
        return False
    finally:
        connection.set_busy_timeout(BUSY_TIMEOUT_MS)
    return True


def resume(writer: Writer) -> None:
    """At the start: destroy what erasures of an earlier process had left to destroy.

    Their completion is a commit and follows once the intake runs.
    """
    for patient, _ in pending(writer.connection):
        for _ in destroy(writer, patient, Destroyed()):
            pass


# ---- Retention ----


def remove_old(writer: Writer, which: Class, before_ms: int) -> int | None:
    """Remove frames of a class from some batches older than `before_ms`.

    Returns how many frames went; None once there is nothing left to look at. Batches
    that a replay of the contracts would need are kept for another day.
    """
    connection, mark = writer.connection, f"retained.{which.value}"
    stored = meta(connection, mark)
    done = stored if isinstance(stored, int) else 0
    [(kept,)] = rows(connection, "SELECT ifnull(MAX(batch), 0) FROM contract_state")
    last = min(_last_batch_before(connection, before_ms), kept - 1)
    if last <= done:
        return None
    until = min(last, done + BATCHES_STEP_COUNT)
    span = ((done + 1) << FRAME_BITS, (until + 1) << FRAME_BITS)

    def remove() -> int:
        connection.execute(
            "DELETE FROM frames WHERE id >= ? AND id < ? AND class = ?",
            (*span, which.value),
        )
        count: int = connection.changes()
        _remove_empty(connection, done + 1, until)
        connection.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (mark, until))
        return count

    return writer.transact(remove)


def _remove_empty(connection: apsw.Connection, first: int, last: int) -> None:
    """Batches of which only the gateway's own counts are left go, and those too."""
    empty = rows(
        connection,
        "SELECT id FROM batches b WHERE id BETWEEN ? AND ? AND NOT EXISTS "
        "(SELECT 1 FROM frames WHERE frames.id >= b.id << ? "
        "AND frames.id < (b.id + 1) << ? AND class <> ?)",
        (first, last, FRAME_BITS, FRAME_BITS, Class.GATEWAY.value),
    )
    for (id_,) in empty:
        connection.execute(
            "DELETE FROM frames WHERE id >= ? AND id < ?",
            (id_ << FRAME_BITS, (id_ + 1) << FRAME_BITS),
        )
        connection.execute("DELETE FROM batches WHERE id = ?", (id_,))


def _last_batch_before(connection: apsw.Connection, before_ms: int) -> int:
    """The newest batch older than this, 0 for none; times never go back with ids."""
    [(low, high)] = rows(connection, "SELECT MIN(id), MAX(id) FROM batches")
    if low is None:
        return 0
    low -= 1
    while low < high:  # batches up to `low` are older, those above `high` are not
        middle = (low + high + 1) // 2
        [(id_, time_ms)] = rows(
            connection,
            "SELECT id, time_ms FROM batches WHERE id >= ? ORDER BY id LIMIT 1",
            (middle,),
        )
        if time_ms < before_ms:
            low = id_
        else:
            high = middle - 1
    return int(low)


def remove_empty_episodes(writer: Writer, before_ms: int) -> None:
    """Keys that were closed before this and seal nothing any more."""

    def remove() -> None:
        index_frames(writer.connection)  # so that the index alone has them all
        writer.connection.execute(
            "DELETE FROM episodes WHERE until_ms < ? AND NOT EXISTS "
            "(SELECT 1 FROM frame_index f WHERE f.episode = episodes.id)",
            (before_ms,),
        )

    writer.transact(remove)
