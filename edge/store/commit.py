"""The one transaction: everything that a commit makes durable, or nothing.

A Batch is collected on the event loop by the intake and handed to the Writer, which
runs on a thread of its own and alone owns the writing connection and the edge of the
log. The Writer turns records into leaves and frames, appends the entries, signs the
checkpoint and puts all of it into one SQLite transaction:

    batches, frames, episodes, entries, edge, tiles, checkpoint, sequences,
    quarantine, counters, outbox, contract_state, and the changes of an administrator

After the transaction the tiles that became full are written as files; their rows go
with the next transaction. A crash in between writes the same files again at the start.
Any failure here is a DurabilityError and the process must stop: what SQLite or the
kernel then believes is not ours to guess.
"""

from __future__ import annotations

import os
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple, TypeAlias, TypeVar

import apsw

from edge import cbor
from edge.errors import DurabilityError, IntegrityError, RejectError
from edge.ledger import batch as ledger_batch
from edge.ledger import core, note, tiles, tlog
from edge.ledger.receipt import Place
from edge.model import Kind, Record
from edge.store import leaf_hashes, vault
from edge.store.database import FRAME_BITS, index_frames, rows
from edge.store.epochs import current, tile_directory
from edge.store.firings import release
from edge.store.head import check_tiles, keep_checkpoint
from edge.store.keys import Keys, episode_associated, frame_associated
from edge.store.tile_files import write_once

BOOT_ID_SIZE = 16
EPISODE_MS = 24 * 3600 * 1000
EPISODE_UNASSIGNED_MS = 3600 * 1000
EPISODES_KEPT_MAX = 4096
WAL_CHECKPOINT_PAGES = 1000
INDEX_BATCHES = 64  # commits between two times that frames are indexed by episode
QUARANTINE_TOTAL_BYTES_MAX = 64 << 20
SqlValue: TypeAlias = int | str | bytes | None
T = TypeVar("T")


class Class(IntEnum):
    """Retention classes: which frames a policy may remove apart from others."""

    GATEWAY = 0
    READINGS = 1
    EVENTS = 2


class Slot(NamedTuple):
    """Whose frame a record belongs into; 0 stands for none (then the gateway's)."""

    device: int
    assignment: int
    patient: int
    retention: Class


_SALT_ROOM = bytes(core.SALT_SIZE)
_PAIR = cbor.array_head(2)
GATEWAY_SLOT = Slot(0, 0, 0, Class.GATEWAY)


class Refusal(NamedTuple):
    """A refused message on its way into quarantine."""

    principal: str
    device: str
    stream: str
    reason: str
    detail: str
    payload: bytes
    time_ms: int  # when it came, which may be before its commit


@dataclass(slots=True)
class Batch:
    """What one commit will hold; collected by the intake, in the order of arrival.

    `records[i]` becomes leaf i + 1, for leaf 0 is the count. `counts` are added to the
    counters; `sequences` maps a device's id to its dedupe state; `outbox` holds (kind,
    leaf), `deliveries` the leaves that the webhook gets; `statements` are the changes
    of an administrator, `steps` those that need what stands in the store already: they
    run last in the transaction.
    """

    number: int
    records: list[bytes] = field(default_factory=list)
    slots: list[Slot] = field(default_factory=list)
    entries: list[bytes] = field(default_factory=list)
    refusals: list[Refusal] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    sequences: dict[int, bytes] = field(default_factory=dict)
    outbox: list[tuple[str, int]] = field(default_factory=list)
    outbox_done: int = 0
    deliveries: list[int] = field(default_factory=list)
    statements: list[tuple[str, tuple[SqlValue, ...]]] = field(default_factory=list)
    steps: list[Callable[[Writer], None]] = field(default_factory=list)
    contract_state: bytes | None = None
    size: int = 0
    time_ms: int = 0
    clock_synced: bool = False

    @property
    def message_count(self) -> int:
        """How many messages wait for this commit."""
        return self.counts["received"]

    @property
    def has_leaves(self) -> bool:
        """Whether the commit needs a batch entry, and not only public ones."""
        return bool(self.records or self.counts)

    @property
    def has_news(self) -> bool:
        """Whether there is more than counts of what was refused or came again."""
        return bool(self.records or self.entries or self.statements or self.steps)

    @property
    def empty(self) -> bool:
        """Whether there is nothing to commit."""
        return not (
            self.records or self.counts or self.entries or self.statements or self.steps
        )

    def add(self, record: Record, slot: Slot) -> int:
        """Append a record; returns its leaf index."""
        encoded = record.encode()
        self.records.append(encoded)
        self.slots.append(slot)
        self.size += len(encoded)
        return len(self.records)


@dataclass(frozen=True, slots=True)
class Committed:
    """A commit that is durable."""

    tree_size: int
    batch_id: int | None
    outbox_last: int
    time_ms: int
    place: Place | None  # of the batch entry, which is the commit's last


@dataclass(slots=True)
class _Episode:
    id: int
    ref: bytes
    key: bytes
    until_ms: int


@dataclass(slots=True)
class _Frame:
    """Records of one slot, each an encoded pair of its leaf index and its bytes."""

    number: int  # of its salt key, in this batch
    episode: _Episode
    retention: Class
    salt_key: bytes
    records: list[bytes] = field(default_factory=list)


def partial_tile(connection: apsw.Connection, level: int, size: int) -> bytes:
    """The partial tile of a level in the log of this size."""
    if level == 0:
        entries = rows(
            connection,
            "SELECT body FROM entries WHERE idx >= ? AND idx < ? ORDER BY idx",
            (size - size % tiles.TILE_WIDTH, size),
        )
        return b"".join(tlog.leaf_hash(body) for (body,) in entries)
    found = rows(connection, "SELECT hashes FROM edge WHERE level = ?", (level,))
    width = (size >> tiles.TILE_HEIGHT * level) % tiles.TILE_WIDTH
    return bytes(found[0][0][: width * tlog.HASH_SIZE]) if found else b""


def load_edge(connection: apsw.Connection, size: int) -> tiles.TileEdge:
    """The right edge of the log of this size; RejectError where rows are missing."""
    partial = [
        partial_tile(connection, level, size) for level in range(tiles.levels(size))
    ]
    return tiles.TileEdge.load(size, partial, core.tree_root)


def create(connection: apsw.Connection, origin: str, master: bytes) -> None:
    """Fill in a new store's meta rows; the epoch start entry is the first commit."""
    sealed = vault.seal(master, vault.new_key(), b"gateway")
    try:
        with connection:
            for key, value in (("origin", origin), ("gateway_key", sealed)):
                connection.execute("INSERT INTO meta VALUES (?, ?)", (key, value))
    except apsw.Error as error:
        raise DurabilityError(f"the new store: {error}") from error


class Writer:
    """The log's one writer; every method runs on the writer thread."""

    def __init__(
        self,
        connection: apsw.Connection,
        directory: Path,
        keys: Keys,
        verifier: note.Verifier,
        sign: Callable[[bytes], bytes],
        boot_id: bytes,
        quarantine_quota: int,
    ) -> None:
        self._connection = connection
        self._directory = directory / tile_directory(current(connection))
        self._keys = keys
        self._verifier = verifier
        self._sign = sign
        self._boot_id = boot_id
        self._quarantine_quota = quarantine_quota
        self._episodes: dict[tuple[int, int, int], _Episode] = {}
        self._flushed_size = 0  # leaves whose bundles and tiles are durable files
        self._sound = True
        self._wal_pages = 0
        self._quarantined = Counter(
            dict(
                rows(
                    connection,
                    "SELECT principal, SUM(size) FROM quarantine GROUP BY principal",
                )
            )
        )
        self._quarantined_total = self._quarantined.total()
        connection.set_wal_hook(self._note_wal)
        self._edge = self._load_edge()
        # The bits of a size are those of its digits to the base of a tile's width.
        self._range = b"".join(
            core.extend_range(0, b"", row) for row in reversed(self._edge.dump())
        )

    @property
    def verifier(self) -> note.Verifier:
        """The key that the log's checkpoints are signed with."""
        return self._verifier

    def sign(self, message: bytes) -> bytes:
        """Sign with the log's key; on any thread. The caller keeps kinds apart."""
        return self._sign(message)

    @property
    def tree_size(self) -> int:
        """How many entries the log has."""
        return self._edge.size

    # ---- Start ----

    def _load_edge(self) -> tiles.TileEdge:
        """Recompute the head from what is stored; check it against the checkpoint."""
        stored = rows(self._connection, "SELECT size, note FROM checkpoint")
        if not stored:
            return tiles.TileEdge(core.tree_root)
        [(size, signed)] = stored
        try:
            opened = note.open_note(signed, [self._verifier], core.verify)
            checkpoint = note.parse_checkpoint(opened.text)
            edge = load_edge(self._connection, size)
        except RejectError as error:
            raise IntegrityError(f"the stored head is damaged: {error}") from error
        if (checkpoint.size, checkpoint.root) != (size, edge.root()):
            raise IntegrityError(
                f"the stored entries do not lead to the checkpoint of size {size}"
            )
        return edge

    def recover(self) -> None:
        """Write the tiles that a crash may have kept from their files."""
        self._flush_tiles()
        check_tiles(self._directory, self._edge)

    # ---- Commit ----

    def commit(self, batch: Batch) -> Committed:
        """Make the batch durable; DurabilityError when that is not certain.

        After any failure every later call fails: the edge in memory may be ahead of
        what was rolled back, and a head over entries that are not there must never be
        signed.
        """
        self._check_sound()
        self._sound = False
        try:
            with self._connection:
                committed = self._write(batch)
            self._flush_tiles()
            self._checkpoint_wal()
        except (apsw.Error, OSError) as error:
            raise DurabilityError(f"commit: {error}") from error
        self._sound = True
        return committed

    def _check_sound(self) -> None:
        if not self._sound:
            raise DurabilityError("an earlier commit failed: nothing more is written")

    def _write(self, batch: Batch) -> Committed:
        execute = self._connection.execute
        for sql, values in batch.statements:
            execute(sql, values)
        entries = list(batch.entries)
        batch_id = None
        if batch.has_leaves:
            body, leaves, frames = self._seal(batch)
            execute(
                "INSERT INTO batches (boot, number, time_ms, entry, body, leaves) "
                "VALUES (?, ?, ?, ?, ?, ?)",
                (
                    self._boot_id,
                    batch.number,
                    batch.time_ms,
                    self._edge.size + len(entries),
                    body,
                    leaves,
                ),
            )
            batch_id = self._connection.last_insert_rowid()
            self._connection.executemany(
                "INSERT INTO frames VALUES (?, ?, ?, ?)",
                [
                    (batch_id << FRAME_BITS | place, *frame)
                    for place, frame in enumerate(frames)
                ],
            )
            if batch_id % INDEX_BATCHES == 0:
                index_frames(self._connection)
            entries.append(body)
        path, signed = self._append(entries, batch.time_ms)
        place = None
        if batch_id is not None:
            place = Place(entries[-1], self._edge.size - 1, path, signed)
        outbox_last = self._write_side_tables(batch, batch_id)
        for step in batch.steps:
            step(self)
        return Committed(self._edge.size, batch_id, outbox_last, batch.time_ms, place)

    def _append(
        self, entries: list[bytes], time_ms: int
    ) -> tuple[tuple[bytes, ...], bytes]:
        """Entries, tiles and the signed checkpoint over them.

        Returns the last entry's inclusion path, and the checkpoint.
        """
        path: tuple[bytes, ...] = ()
        signed = b""
        execute = self._connection.execute
        first = self._edge.size
        for place, body in enumerate(entries):
            execute("INSERT INTO entries VALUES (?, ?)", (first + place, body))
        ends = array("Q", accumulate(map(len, entries)))
        hashes = core.leaf_hashes(b"".join(entries), ends) or b""
        if entries:
            last = len(hashes) - tlog.HASH_SIZE
            before = core.extend_range(first, self._range, hashes[:last])
            # The roots that stand before a leaf are its path, the smallest first.
            path = tuple(reversed(tiles.split_hashes(before)))
            size = first + len(entries) - 1
            self._range = core.extend_range(size, before, hashes[last:])
        full = self._edge.extend(hashes)
        for tile in full:
            execute(
                "INSERT INTO tiles VALUES (?, ?, ?)",
                (tile.level, tile.index, tile.content),
            )
        if full:
            for level, hashes in enumerate(self._edge.dump()[1:], start=1):
                execute("INSERT OR REPLACE INTO edge VALUES (?, ?)", (level, hashes))
        if entries:
            checkpoint = note.Checkpoint(
                self._verifier.name, self._edge.size, core.range_root(self._range)
            )
            signed = note.sign_note(checkpoint.text, self._verifier, self._sign)
            execute(
                "INSERT OR REPLACE INTO checkpoint VALUES (1, ?, ?, ?)",
                (self._edge.size, time_ms, signed),
            )
            keep_checkpoint(self._connection, self._edge.size, time_ms, signed)
        if self._flushed_size:
            execute("DELETE FROM entries WHERE idx < ?", (self._flushed_size,))
            execute(
                "DELETE FROM tiles WHERE (idx + 1) << (8 * (level + 1)) <= ?",
                (self._flushed_size,),
            )
            self._flushed_size = 0
        return path, signed

    def _seal(self, batch: Batch) -> tuple[bytes, bytes, list[tuple[int, int, bytes]]]:
        """(batch entry, leaf hashes to store, [(episode, class, sealed frame)])."""
        count = Record(
            kind=Kind.COUNT,
            received_ms=batch.time_ms,
            original=cbor.encode(
                {
                    1: len(batch.records) + 1,
                    2: batch.counts["received"],
                    3: batch.counts["committed"],
                    4: batch.counts["duplicates"],
                    5: batch.counts["refused"],
                }
            ),
        )
        records = [count.encode(), *batch.records]
        frames: dict[Slot, _Frame] = {}
        salted = bytearray()
        ends, key_of = array("Q"), array("I")
        for index, (record, slot) in enumerate(
            zip(records, [GATEWAY_SLOT, *batch.slots], strict=True)
        ):
            frame = frames.get(slot)
            if frame is None:
                episode = self._episode(slot, batch.time_ms)
                frame = _Frame(len(frames), episode, slot.retention, vault.new_key())
                frames[slot] = frame
            head = _PAIR + cbor.integer(index) + cbor.bytes_head(len(record))
            frame.records.append(head + record)
            key_of.append(frame.number)
            salted += _SALT_ROOM
            salted += record
            ends.append(len(salted))
        seed = leaf_hashes.new_seed(len(records))
        tree = core.batch_tree(
            salted,
            ends,
            b"".join(frame.salt_key for frame in frames.values()),
            key_of,
            leaf_hashes.padding(seed, len(records)),
        )
        body = ledger_batch.Batch(
            boot_id=self._boot_id,
            number=batch.number,
            time_ms=batch.time_ms,
            synchronised=batch.clock_synced,
            root=tree.root,
        ).encode()
        sealed = [self._seal_frame(batch, one) for one in frames.values()]
        own = tree.leaf_hashes[: len(records) * tlog.HASH_SIZE]
        return body, own + seed, sealed

    def _seal_frame(self, batch: Batch, frame: _Frame) -> tuple[int, int, bytes]:
        head = _PAIR + cbor.encode(frame.salt_key) + cbor.array_head(len(frame.records))
        plain = b"".join([head, *frame.records])
        associated = frame_associated(
            self._boot_id, batch.number, frame.episode.ref, frame.retention
        )
        sealed = vault.seal(frame.episode.key, plain, associated)
        return frame.episode.id, frame.retention, sealed

    def _episode(self, slot: Slot, time_ms: int) -> _Episode:
        """The open episode of a slot; a new key when there is none or it is too old."""
        place = (slot.device, slot.assignment, slot.patient)
        episode = self._episodes.get(place)
        if episode is not None and time_ms < episode.until_ms:
            return episode
        if len(self._episodes) >= EPISODES_KEPT_MAX:
            self._episodes.clear()
        ref, key = os.urandom(BOOT_ID_SIZE), vault.new_key()
        until_ms = time_ms + (EPISODE_MS if slot.patient else EPISODE_UNASSIGNED_MS)
        wrapped = vault.seal(
            self._keys.patient(slot.patient), key, episode_associated(ref, slot.patient)
        )
        self._connection.execute(
            "INSERT INTO episodes (ref, device, assignment, patient, wrapped, "
            "opened_ms, until_ms) VALUES (?, ?, ?, ?, ?, ?, ?)",
            (ref, *place, wrapped, time_ms, until_ms),
        )
        episode = _Episode(self._connection.last_insert_rowid(), ref, key, until_ms)
        self._episodes[place] = episode
        return episode

    def _write_side_tables(self, batch: Batch, batch_id: int | None) -> int:
        """Everything beside ledger and frames; returns the last outbox row, or 0."""
        many = self._connection.executemany
        many("INSERT OR REPLACE INTO sequences VALUES (?, ?)", batch.sequences.items())
        for refusal in batch.refusals:
            self._write_refusal(refusal, batch)
        many(
            "INSERT INTO counters VALUES (?, ?) "
            "ON CONFLICT (name) DO UPDATE SET value = value + excluded.value",
            list(batch.counts.items()),
        )
        if batch.contract_state is not None:
            sealed = vault.seal(self._keys.gateway, batch.contract_state, b"contracts")
            self._connection.execute(
                "INSERT OR REPLACE INTO contract_state VALUES (1, ?, ?)",
                (batch_id, sealed),
            )
        if batch.outbox_done:
            release(self._connection, batch.outbox_done)
        many(
            "INSERT INTO outbox (kind, batch, leaf) VALUES (?, ?, ?)",
            [(kind, batch_id, leaf) for kind, leaf in batch.outbox],
        )
        outbox_last = self._connection.last_insert_rowid() if batch.outbox else 0
        self._connection.executemany(
            "INSERT INTO deliveries (batch, leaf, attempts) VALUES (?, ?, 0)",
            [(batch_id, leaf) for leaf in batch.deliveries],
        )
        return outbox_last

    def _write_refusal(self, refusal: Refusal, batch: Batch) -> None:
        """Quarantine with a quota for each sender; what has to go is counted."""
        execute = self._connection.execute
        tag = self._keys.tag(refusal.principal)[:BOOT_ID_SIZE]
        kept = cbor.encode(list(refusal[:-1]))  # its time stands beside it
        sealed = vault.seal(self._keys.gateway, kept, b"quarantine")
        execute(
            "INSERT INTO quarantine (time_ms, principal, reason, size, sealed) "
            "VALUES (?, ?, ?, ?, ?)",
            (refusal.time_ms, tag, refusal.reason, len(sealed), sealed),
        )
        self._quarantined[tag] += len(sealed)
        self._quarantined_total += len(sealed)
        while self._quarantined[tag] > self._quarantine_quota:
            self._evict(
                "SELECT id, principal, size FROM quarantine "
                "WHERE principal = ? ORDER BY id LIMIT 1",
                (tag,),
                batch,
            )
        while self._quarantined_total > QUARANTINE_TOTAL_BYTES_MAX:
            self._evict(
                "SELECT id, principal, size FROM quarantine ORDER BY id LIMIT 1",
                (),
                batch,
            )

    def _evict(self, query: str, values: tuple[SqlValue, ...], batch: Batch) -> None:
        self._uncount(query, *values)
        batch.counts["quarantine-evicted"] += 1

    def _uncount(self, query: str, *values: SqlValue) -> None:
        [(id_, tag, size)] = rows(self._connection, query, values)
        self._connection.execute("DELETE FROM quarantine WHERE id = ?", (id_,))
        self._quarantined_total -= size
        self._quarantined[tag] -= size
        if not self._quarantined[tag]:
            del self._quarantined[tag]

    # ---- After the commit ----

    def _flush_tiles(self) -> None:
        """Write the full tiles and bundles that are still rows as files."""
        unwritten = rows(
            self._connection,
            "SELECT level, idx, body FROM tiles ORDER BY idx, level",
        )
        for level, index, body in unwritten:
            if level == 0:
                first = index * tiles.TILE_WIDTH
                entries = rows(
                    self._connection,
                    "SELECT body FROM entries WHERE idx >= ? AND idx < ? ORDER BY idx",
                    (first, first + tiles.TILE_WIDTH),
                )
                bundle = tiles.encode_bundle(body for (body,) in entries)
                write_once(self._directory, tiles.entries_path(index), bundle)
            write_once(self._directory, tiles.tile_path(level, index), body)
        if unwritten:
            self._flushed_size = self._edge.size - self._edge.size % tiles.TILE_WIDTH

    def _note_wal(self, _connection: object, _name: str, pages: int) -> int:
        self._wal_pages = pages
        return apsw.SQLITE_OK

    def _checkpoint_wal(self) -> None:
        """Bring the WAL into the database file once it is long enough; never blocks."""
        if self._wal_pages >= WAL_CHECKPOINT_PAGES:
            self._connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)

    # ---- Upkeep: claims, erasures, retention ----

    @property
    def connection(self) -> apsw.Connection:
        """The writing connection, for a step of the writer's thread."""
        return self._connection

    @property
    def keys(self) -> Keys:
        """The store's keys."""
        return self._keys

    def transact(self, step: Callable[[], T]) -> T:
        """Run a step in a transaction of its own; DurabilityError ends the writer."""
        self._check_sound()
        self._sound = False
        try:
            with self._connection:
                result = step()
            self._checkpoint_wal()
        except (apsw.Error, OSError) as error:
            raise DurabilityError(f"upkeep: {error}") from error
        self._sound = True
        return result

    def close_episodes(self, *, device: int = -1, patient: int = -1) -> None:
        """Open no frame under the present episode keys of a device or patient again."""
        for place in list(self._episodes):
            if place[0] == device or place[2] == patient:
                del self._episodes[place]

    def drop_quarantine(self, ids: Iterable[int]) -> None:
        """Delete these rows of the quarantine, within a transaction."""
        query = "SELECT id, principal, size FROM quarantine WHERE id = ?"
        for id_ in ids:
            self._uncount(query, id_)

    def mark(self, values: Mapping[str, SqlValue]) -> None:
        """Set meta rows in a transaction of their own (None removes)."""
        self._check_sound()
        try:
            with self._connection:
                for key, value in values.items():
                    if value is None:
                        self._connection.execute(
                            "DELETE FROM meta WHERE key = ?", (key,)
                        )
                    else:
                        self._connection.execute(
                            "INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value)
                        )
        except apsw.Error as error:
            raise DurabilityError(f"mark: {error}") from error
