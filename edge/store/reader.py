"""The reading side of the store: readings, proofs, tiles, counts; changes nothing.

A Reader has a connection of its own and works beside a running gateway as well as
without one. Each question is one short read transaction.
"""

from __future__ import annotations

import heapq
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import apsw

from edge import cbor
from edge.devices.registry import (
    HASHES_KEPT,
    Assignment,
    Device,
    DeviceKind,
    Registry,
    SequenceWindow,
)
from edge.errors import IntegrityError, NotFoundError, RejectError
from edge.ledger import batch as ledger_batch
from edge.ledger import core, proof, tiles, tlog
from edge.model import Kind, Record
from edge.store import vault
from edge.store.commit import partial_tile
from edge.store.database import (
    FRAME_BITS,
    TILE_DIRECTORY,
    meta,
    open_reader,
    rows,
)
from edge.store.keys import (
    Keys,
    episode_associated,
    frame_associated,
    patient_associated,
)

READING_ID = re.compile(r"([0-9a-f]{12})-([0-9]{1,18})-([0-9]{1,7})(?:\.([0-9]{1,4}))?")
EPISODE_KEYS_KEPT = 1024
PAGE_COUNT = 256


@dataclass(frozen=True, slots=True)
class StoredRecord:
    """A record and where it stands."""

    batch_id: int
    boot_id: bytes
    number: int
    leaf: int
    record: Record

    def reading_id(self, place: int) -> str:
        """The name of a reading in it."""
        return ledger_batch.reading_id(self.boot_id, self.number, self.leaf, place)


@dataclass(frozen=True, slots=True)
class _Opened:
    """One frame, opened."""

    salt_key: bytes
    records: list[tuple[int, bytes]]


class Reader:
    """Questions to a data directory; `master` is the keyring's master key."""

    def __init__(
        self,
        directory: Path,
        master: bytes,
        connection: apsw.Connection | None = None,
    ) -> None:
        self._directory = directory
        self._connection = connection or open_reader(directory)
        self._keys = Keys(master, self._connection)
        self._episode_keys: dict[int, tuple[bytes, bytes]] = {}

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    @contextmanager
    def _snapshot(self) -> Iterator[None]:
        """Several queries over one state of the store."""
        self._connection.execute("BEGIN")
        try:
            yield
        finally:
            self._connection.execute("COMMIT")

    # ---- Settings, counts, registry ----

    @property
    def origin(self) -> str:
        """The log's name."""
        return str(meta(self._connection, "origin"))

    def counters(self) -> Counter[str]:
        """Messages and refusals counted since the store began."""
        found = rows(self._connection, "SELECT name, value FROM counters")
        return Counter(dict(found))

    def newest_ms(self) -> int:
        """The newest received_ms the store knows; 0 for an empty one."""
        [(newest,)] = rows(self._connection, "SELECT MAX(time_ms) FROM checkpoint")
        return newest or 0

    def registry(self) -> Registry:
        """Devices and assignments."""
        assignments = {}
        current: dict[int, Assignment] = {}
        for id_, ref, device, patient, patient_ref, until_ms in rows(
            self._connection,
            "SELECT a.id, a.ref, a.device, a.patient, p.ref, a.until_ms "
            "FROM assignments a JOIN patients p ON p.id = a.patient ORDER BY a.id",
        ):
            assignments[id_] = Assignment(id_, ref, patient, patient_ref)
            if until_ms is None:
                current[device] = assignments[id_]
        devices = [
            Device(
                id=id_,
                name=name,
                ref=ref,
                kind=DeviceKind(kind),
                public_key=public_key,
                address=address,
                assignment=current.get(id_),
                revoked=revoked_ms is not None,
            )
            for id_, name, ref, kind, public_key, address, revoked_ms in rows(
                self._connection,
                "SELECT id, name, ref, kind, public_key, address, revoked_ms "
                "FROM devices ORDER BY id",
            )
        ]
        return Registry(devices, assignments.values())

    def windows(self) -> dict[int, SequenceWindow]:
        """The dedupe state of every device that signs."""
        return {
            device: SequenceWindow.decode(state)
            for device, state in rows(
                self._connection, "SELECT device, state FROM sequences"
            )
        }

    def patients(self) -> dict[str, tuple[int, str]]:
        """Random reference (hex) to (id, the name the clinic gave)."""
        found = {}
        for id_, ref, sealed in rows(
            self._connection, "SELECT id, ref, sealed_name FROM patients"
        ):
            key = self._keys.patient(id_)
            name = vault.unseal(key, sealed, patient_associated(ref, "name")).decode()
            found[ref.hex()] = (id_, name)
        return found

    # ---- Records ----

    def records(
        self, *, device: int | None = None, patient: int | None = None
    ) -> Iterator[StoredRecord]:
        """Every record, oldest first; of one device or patient where told."""
        if device is None and patient is None:
            yield from self.records_after(0)
            return
        episodes = rows(
            self._connection,
            "SELECT id FROM episodes WHERE ifnull(?1, device) = device "
            "AND ifnull(?2, patient) = patient",
            (device, patient),
        )
        frames = heapq.merge(*(self._frame_ids(episode) for (episode,) in episodes))
        yield from self._frames_records(frames)

    def records_after(self, batch_id: int) -> Iterator[StoredRecord]:
        """Every record of the batches after this one, in leaf order."""
        yield from self._frames_records(
            self._pages(
                "SELECT id FROM frames WHERE id > ? ORDER BY id LIMIT ?",
                ((batch_id + 1) << FRAME_BITS) - 1,
            )
        )

    def newest_of(self, device: Device) -> list[Record]:
        """The newest HASHES_KEPT readings of a device, oldest first."""
        found: list[Record] = []
        for (episode,) in rows(
            self._connection,
            "SELECT id FROM episodes WHERE device = ? ORDER BY id DESC",
            (device.id,),
        ):
            for (frame,) in rows(
                self._connection,
                "SELECT id FROM frames WHERE episode = ? ORDER BY id DESC LIMIT ?",
                (episode, HASHES_KEPT),
            ):
                opened = [Record.decode(body) for _, body in self._open(frame).records]
                found += [one for one in reversed(opened) if one.kind is Kind.READING]
                if len(found) >= HASHES_KEPT:
                    return found[:HASHES_KEPT][::-1]
        return found[::-1]

    def _frame_ids(self, episode: int) -> Iterator[int]:
        return self._pages(
            "SELECT id FROM frames WHERE id > ? AND episode = ? ORDER BY id LIMIT ?",
            0,
            episode,
        )

    def _pages(self, query: str, after: int, *values: int) -> Iterator[int]:
        """The ids of a query, page by page: a long list is no long transaction."""
        while page := rows(self._connection, query, (after, *values, PAGE_COUNT)):
            yield from (id_ for (id_,) in page)
            after = page[-1][0]

    def _frames_records(self, frames: Iterable[int]) -> Iterator[StoredRecord]:
        """The records of these frames, in the order of batches and leaves."""
        for batch_id, ids in groupby(frames, lambda one: one >> FRAME_BITS):
            [(boot_id, number)] = rows(
                self._connection,
                "SELECT boot, number FROM batches WHERE id = ?",
                (batch_id,),
            )
            found = [
                StoredRecord(batch_id, boot_id, number, leaf, Record.decode(body))
                for one in ids
                for leaf, body in self._open(one).records
            ]
            yield from sorted(found, key=lambda stored: stored.leaf)

    def contract_state(self) -> tuple[int, bytes] | None:
        """(batch the snapshot includes, snapshot), or None before the first."""
        found = rows(self._connection, "SELECT batch, sealed FROM contract_state")
        if not found:
            return None
        [(batch_id, sealed)] = found
        return batch_id, vault.unseal(self._keys.gateway, sealed, b"contracts")

    def undelivered(self) -> list[tuple[int, StoredRecord]]:
        """(outbox row, record) of alerts that were committed and not yet released."""
        return [
            (id_, self._record_at(batch_id, leaf))
            for id_, batch_id, leaf in rows(
                self._connection, "SELECT id, batch, leaf FROM outbox ORDER BY id"
            )
        ]

    def quarantine(self) -> Iterator[tuple[int, int, list[object]]]:
        """(row, time_ms, [principal, device, stream, reason, detail, payload])."""
        for id_, time_ms, sealed in rows(
            self._connection, "SELECT id, time_ms, sealed FROM quarantine ORDER BY id"
        ):
            plain = vault.unseal(self._keys.gateway, sealed, b"quarantine")
            refusal = cbor.decode(plain)
            if isinstance(refusal, list):
                yield id_, time_ms, refusal

    def _record_at(self, batch_id: int, leaf: int) -> StoredRecord:
        for stored in self._frames_records(self._batch_frames(batch_id)):
            if stored.leaf == leaf:
                return stored
        raise IntegrityError(f"batch {batch_id} has no record {leaf}")

    def _batch_frames(self, batch_id: int) -> list[int]:
        found = rows(
            self._connection,
            "SELECT id FROM frames WHERE id >= ? AND id < ?",
            (batch_id << FRAME_BITS, (batch_id + 1) << FRAME_BITS),
        )
        return [id_ for (id_,) in found]

    def _open(self, frame: int) -> _Opened:
        """A frame, unsealed; IntegrityError where it is not what it should be."""
        [(episode, retention, sealed, boot_id, number)] = rows(
            self._connection,
            "SELECT f.episode, f.class, f.sealed, b.boot, b.number FROM frames f "
            "JOIN batches b ON b.id = f.id >> ? WHERE f.id = ?",
            (FRAME_BITS, frame),
        )
        ref, key = self._episode_key(episode)
        associated = frame_associated(boot_id, number, ref, retention)
        try:
            plain = cbor.decode(vault.unseal(key, sealed, associated))
        except RejectError as error:
            raise IntegrityError(f"frame {frame}: {error}") from error
        match plain:
            case [bytes(salt_key), list(pairs)]:
                return _Opened(salt_key, [(leaf, body) for leaf, body in pairs])
        raise IntegrityError(f"frame {frame} has another form")

    def _episode_key(self, episode: int) -> tuple[bytes, bytes]:
        kept = self._episode_keys.get(episode)
        if kept is None:
            [(ref, patient, wrapped)] = rows(
                self._connection,
                "SELECT ref, patient, wrapped FROM episodes WHERE id = ?",
                (episode,),
            )
            key = vault.unseal(
                self._keys.patient(patient), wrapped, episode_associated(ref, patient)
            )
            if len(self._episode_keys) >= EPISODE_KEYS_KEPT:
                self._episode_keys.clear()
            kept = self._episode_keys[episode] = (ref, key)
        return kept

    # ---- The log ----

    def checkpoint(self) -> tuple[int, bytes]:
        """(tree size, signed checkpoint)."""
        found = rows(self._connection, "SELECT size, note FROM checkpoint")
        if not found:
            raise NotFoundError("the log has no checkpoint yet")
        [(size, signed)] = found
        return size, signed

    def resource(self, path: str) -> bytes | None:
        """What a tlog-tiles client gets for `path`, or None.

        Partial tiles are served at every width up to what the newest checkpoint covers.
        """
        with self._snapshot():
            size, signed = self.checkpoint()
            if path == tiles.CHECKPOINT_PATH:
                return signed
            try:
                tile = tiles.parse_path(path)
            except RejectError:
                return None
            if tile.width > tiles.width_at(tile.level, tile.index, size):
                return None
            if tile.level is None:
                return self._bundle(tile.index, tile.width)
            content = self._tile(tile.level, tile.index, size)
            return content[: tile.width * tlog.HASH_SIZE]

    def _file(self, path: str) -> bytes | None:
        try:
            return (self._directory / TILE_DIRECTORY / path).read_bytes()
        except FileNotFoundError:
            return None

    def _tile(self, level: int, index: int, size: int) -> bytes:
        """A tile of hashes as wide as the tree has it."""
        if tiles.width_at(level, index, size) < tiles.TILE_WIDTH:
            return partial_tile(self._connection, level, size)
        content = self._file(tiles.tile_path(level, index))
        if content is not None:
            return content
        found = rows(
            self._connection,
            "SELECT body FROM tiles WHERE level = ? AND idx = ?",
            (level, index),
        )
        if not found:
            raise IntegrityError(f"{tiles.tile_path(level, index)}: missing")
        return bytes(found[0][0])

    def _bundle(self, index: int, width: int) -> bytes:
        content = self._file(tiles.entries_path(index))
        if content is not None:
            if width == tiles.TILE_WIDTH:
                return content
            entries = tiles.decode_bundle(content, tiles.TILE_WIDTH)[:width]
            return tiles.encode_bundle(entries)
        first = index * tiles.TILE_WIDTH
        found = rows(
            self._connection,
            "SELECT body FROM entries WHERE idx >= ? AND idx < ? ORDER BY idx",
            (first, first + width),
        )
        if len(found) != width:
            raise IntegrityError(f"{tiles.entries_path(index, width)}: missing")
        return tiles.encode_bundle(body for (body,) in found)

    def export(self, target: Path) -> int:
        """Write the whole log as a static directory, `checkpoint` last; its size.

        The gateway may run and append meanwhile: what is written is the log at the
        checkpoint of the start. Files that are there already are overwritten.
        """
        size, signed = self.checkpoint()
        paths = [
            one.path
            for level in (None, *range(tiles.levels(size)))
            for one in tiles.level_tiles(level, size)
        ]
        for path in paths:
            content = self.resource(path)
            if content is None:
                raise IntegrityError(f"{path}: missing")
            file = target / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
        temporary = target / (tiles.CHECKPOINT_PATH + ".tmp")
        target.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as stream:
            stream.write(signed)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.rename(target / tiles.CHECKPOINT_PATH)
        return size

    def prove(self, reading_id: str, *, disclose: bool = False) -> bytes:
        """The .tlog-proof file of a reading; NotFoundError where there is none."""
        match = READING_ID.fullmatch(reading_id)
        if match is None:
            raise NotFoundError(
                f"{reading_id!r} is not a reading's name (see `iomt readings`)"
            )
        boot, number, leaf = match[1], int(match[2]), int(match[3])
        with self._snapshot():
            batch_id, entry, body, leaves = self._batch_named(boot, number)
            hashes = tiles.split_hashes(leaves)
            salt, record = self._disclosed(batch_id, leaf)
            size, signed = self.checkpoint()
            wanted = tlog.plan_inclusion(entry, size)
            found = tiles.read_subtrees(
                wanted,
                lambda level, index: self._tile(level, index, size),
                core.tree_root,
            )
        extra = proof.BatchProof(
            entry=body,
            leaf_index=leaf,
            path=tuple(ledger_batch.batch_path(hashes, leaf)),
            leaf_hash=hashes[leaf],
            salt=salt if disclose else None,
            record=record if disclose else None,
        )
        return proof.LogProof(
            index=entry,
            path=tuple(tlog.inclusion(entry, size, found)),
            checkpoint=signed,
            extra=extra.encode(),
        ).encode()

    def _batch_named(self, boot: str, number: int) -> tuple[int, int, bytes, bytes]:
        """(id, entry index, entry, leaf hashes) of the batch a reading's name tells."""
        for batch_id, boot_id, entry, body, leaves in rows(
            self._connection,
            "SELECT id, boot, entry, body, leaves FROM batches WHERE number = ?",
            (number,),
        ):
            if boot_id[:6].hex() == boot:
                return batch_id, entry, body, leaves
        raise NotFoundError(f"no batch {boot}-{number} in this store")

    def _disclosed(self, batch_id: int, leaf: int) -> tuple[bytes, bytes]:
        """(salt, record) of a leaf; NotFoundError for padding."""
        for frame in self._batch_frames(batch_id):
            opened = self._open(frame)
            for index, body in opened.records:
                if index == leaf:
                    return ledger_batch.salt(opened.salt_key, leaf), body
        raise NotFoundError(f"the batch has no record {leaf}")
