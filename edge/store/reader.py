"""The reading side of the store: readings, proofs, tiles, counts; changes nothing.

A Reader has a connection of its own and works beside a running gateway as well as
without one. Each question is one short read transaction.
"""

from __future__ import annotations

import heapq
import logging
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
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
from edge.errors import ErasedError, IntegrityError, NotFoundError, RejectError
from edge.ledger import batch as ledger_batch
from edge.model import Kind, Record
from edge.store import device_keys, epochs, forget, proving, shared_keys, vault
from edge.store.database import (
    FRAME_BITS,
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
from edge.store.leaf_hashes import padded
from edge.store.log_reader import LogReader

READING_ID = re.compile(r"([0-9a-f]{12})-([0-9]{1,18})-([0-9]{1,7})(?:\.([0-9]{1,4}))?")
EPISODE_KEYS_KEPT = 1024
PAGE_COUNT = 256
_EVENTS = 2  # store.commit.Class.EVENTS, whose module imports this one's

log = logging.getLogger("edge.reader")


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
class StoredBatch:
    """A batch: what its entry says and the leaf hashes that prove it."""

    id: int
    name: str
    time_ms: int
    body: bytes
    leaves: bytes


@dataclass(frozen=True, slots=True)
class Opened:
    """One frame, opened."""

    salt_key: bytes
    records: list[tuple[int, bytes]]


@dataclass(frozen=True, slots=True)
class Located:
    """A record's place: epoch, index and bytes of its batch's entry, leaf, salt."""

    epoch: int
    entry: int
    body: bytes
    leaves: bytes
    leaf: int
    salt: bytes
    record: bytes


def leaf_count(count: Record) -> int:
    """How many leaves the batch of this count (its leaf 0) has before padding."""
    fields = cbor.decode(count.original)
    leaves = fields.get(1) if isinstance(fields, dict) else None
    return leaves if isinstance(leaves, int) else 0


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
        self._log = LogReader(self._connection, directory)
        self._episode_keys: dict[int, tuple[bytes, bytes]] = {}

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    # ---- Settings, counts, registry ----

    @property
    def origin(self) -> str:
        """The log's name, of the epoch that the store writes."""
        return epochs.log_name(self.base_origin, self._log.epoch)

    @property
    def base_origin(self) -> str:
        """The name that the configuration gives to the log."""
        return str(meta(self._connection, "origin"))

    def counters(self) -> Counter[str]:
        """Messages and refusals counted since the store began."""
        found = rows(self._connection, "SELECT name, value FROM counters")
        return Counter(dict(found))

    def newest_ms(self) -> int:
        """The newest received_ms the store knows; 0 for an empty one."""
        [(newest,)] = rows(
            self._connection,  # the log has no checkpoint yet when its epoch begins
            "SELECT max(ifnull((SELECT time_ms FROM checkpoint), 0), ifnull("
            "(SELECT time_ms FROM batches ORDER BY id DESC LIMIT 1), 0))",
        )
        return int(newest)

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
        former = device_keys.former_keys(self._connection)
        shared = shared_keys.load(self._connection, self._keys.gateway)
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
                former_key=former[id_].key if id_ in former else None,
                former_until_ms=(former[id_].until_ms or 0) if id_ in former else 0,
                shared_key=shared.get(id_),
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

    @property
    def connection(self) -> apsw.Connection:
        """The read-only connection, for one more query."""
        return self._connection

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

    def records_after(
        self, batch_id: int, damaged: Callable[[str], None] | None = None
    ) -> Iterator[StoredRecord]:
        """Every record of the batches after this one, in leaf order.

        A frame that cannot be read is an IntegrityError, unless `damaged` takes it.
        """
        yield from self._frames_records(
            self._pages(
                "SELECT id FROM frames WHERE id > ? ORDER BY id LIMIT ?",
                ((batch_id + 1) << FRAME_BITS) - 1,
            ),
            damaged,
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
                "SELECT id FROM episode_frames WHERE episode = ? ORDER BY id DESC "
                "LIMIT ?",
                (episode, HASHES_KEPT),
            ):
                bodies = self._records_of(frame, log.error)
                opened = [Record.decode(body) for _, body in bodies]
                found += [one for one in reversed(opened) if one.kind is Kind.READING]
                if len(found) >= HASHES_KEPT:
                    return found[:HASHES_KEPT][::-1]
        return found[::-1]

    def _frame_ids(self, episode: int) -> Iterator[int]:
        return self._pages(
            "SELECT id FROM episode_frames WHERE id > ? AND episode = ? "
            "ORDER BY id LIMIT ?",
            0,
            episode,
        )

    def _pages(self, query: str, after: int, *values: int) -> Iterator[int]:
        """The ids of a query, page by page: a long list is no long transaction."""
        while page := rows(self._connection, query, (after, *values, PAGE_COUNT)):
            yield from (id_ for (id_,) in page)
            after = page[-1][0]

    def _frames_records(
        self, frames: Iterable[int], damaged: Callable[[str], None] | None = None
    ) -> Iterator[StoredRecord]:
        """The records of these frames, in the order of batches and leaves."""
        for batch_id, ids in groupby(frames, lambda one: one >> FRAME_BITS):
            place = rows(
                self._connection,
                "SELECT boot, number FROM batches WHERE id = ?",
                (batch_id,),
            )
            found = [
                StoredRecord(batch_id, boot_id, number, leaf, Record.decode(body))
                for boot_id, number in place
                for one in ids
                for leaf, body in self._records_of(one, damaged)
            ]
            yield from sorted(found, key=lambda stored: stored.leaf)

    def _records_of(
        self, frame: int, damaged: Callable[[str], None] | None = None
    ) -> list[tuple[int, bytes]]:
        """(leaf, record) of a frame; nothing where it was forgotten meanwhile."""
        try:
            return self.open_frame(frame).records
        except ErasedError:
            return []
        except IntegrityError as error:
            if damaged is None:
                raise
            damaged(f"frame {frame}: {error}")
            return []

    # ---- What was forgotten ----

    def forget_keys(self) -> None:
        """Keep no key in memory: some of them may have been destroyed."""
        self._episode_keys.clear()
        self._keys.forget_all()

    def last_patient_id(self) -> int:
        """The highest id that a patient ever had, those erased included."""
        [(highest,)] = rows(
            self._connection,
            "SELECT max(ifnull((SELECT MAX(id) FROM patients), 0), "
            "ifnull((SELECT MAX(patient) FROM erasures), 0))",
        )
        return int(highest)

    def forgotten_until(self) -> tuple[int, int]:
        """(when the newest erasure began, the newest batch a retention passed)."""
        [(erased_ms,)] = rows(self._connection, "SELECT MAX(started_ms) FROM erasures")
        [(batch,)] = rows(
            self._connection,
            "SELECT MAX(value) FROM meta WHERE key LIKE 'retained.%'",
        )
        return erased_ms or 0, batch or 0

    def batches(self) -> Iterator[StoredBatch]:
        """Every batch whose leaf hashes are kept, oldest first."""
        for id_ in self._pages(
            "SELECT id FROM batches WHERE id > ? ORDER BY id LIMIT ?", 0
        ):
            for boot, number, time_ms, body, leaves in rows(
                self._connection,
                "SELECT boot, number, time_ms, body, leaves FROM batches WHERE id = ?",
                (id_,),
            ):
                name = f"{boot[:6].hex()}-{number}"
                yield StoredBatch(id_, name, time_ms, body, padded(leaves))

    def has_batch(self, batch_id: int) -> bool:
        """Whether a batch is still there: a retention policy may have passed it."""
        query = "SELECT 1 FROM batches WHERE id = ?"
        return bool(rows(self._connection, query, (batch_id,)))

    def erasures_pending(self) -> list[tuple[int, bytes]]:
        """(patient, random reference) of the erasures that are not completed."""
        return forget.pending(self._connection)

    def devices_of(self, patient: int) -> frozenset[int]:
        """The devices that were ever assigned to a patient."""
        found = rows(
            self._connection,
            "SELECT DISTINCT device FROM assignments WHERE patient = ?",
            (patient,),
        )
        return frozenset(id_ for (id_,) in found)

    def last_assignment(self, device: int, patient: int) -> tuple[int, bytes] | None:
        """(id, random reference) of a device's newest assignment to a patient."""
        found = rows(
            self._connection,
            "SELECT id, ref FROM assignments WHERE device = ? AND patient = ? "
            "ORDER BY id DESC LIMIT 1",
            (device, patient),
        )
        return found[0] if found else None

    def contract_state(self) -> tuple[int, bytes] | None:
        """(batch the snapshot includes, snapshot), or None before the first."""
        found = rows(self._connection, "SELECT batch, sealed FROM contract_state")
        if not found:
            return None
        [(batch_id, sealed)] = found
        return batch_id, vault.unseal(self._keys.gateway, sealed, b"contracts")

    def quarantine(self) -> Iterator[tuple[int, int, list[object]]]:
        """(row, time_ms, [principal, device, stream, reason, detail, payload])."""
        for id_, time_ms, sealed in rows(
            self._connection, "SELECT id, time_ms, sealed FROM quarantine ORDER BY id"
        ):
            plain = vault.unseal(self._keys.gateway, sealed, b"quarantine")
            refusal = cbor.decode(plain)
            if isinstance(refusal, list):
                yield id_, time_ms, refusal

    def record_at(self, batch_id: int, leaf: int) -> StoredRecord:
        """One record; ErasedError where it is gone."""
        return self._record_among(self.frames_of(batch_id), batch_id, leaf)

    def firing_at(self, batch_id: int, leaf: int) -> StoredRecord:
        """The same for a firing, without opening the frames of readings."""
        found = rows(
            self._connection,
            "SELECT id FROM frames WHERE id >= ? AND id < ? AND class = ?",
            (batch_id << FRAME_BITS, (batch_id + 1) << FRAME_BITS, _EVENTS),
        )
        return self._record_among([id_ for (id_,) in found], batch_id, leaf)

    def _record_among(
        self, frames: Iterable[int], batch_id: int, leaf: int
    ) -> StoredRecord:
        damaged: list[str] = []  # frames of the batch, of which that is one perhaps
        for stored in self._frames_records(frames, damaged.append):
            if stored.leaf == leaf:
                return stored
        if damaged:
            raise IntegrityError(damaged[0])
        raise ErasedError(f"batch {batch_id} has no record {leaf} any more")

    def frames_of(self, batch_id: int) -> list[int]:
        """The frames of a batch."""
        found = rows(
            self._connection,
            "SELECT id FROM frames WHERE id >= ? AND id < ?",
            (batch_id << FRAME_BITS, (batch_id + 1) << FRAME_BITS),
        )
        return [id_ for (id_,) in found]

    def open_frame(self, frame: int) -> Opened:
        """A frame, unsealed; IntegrityError where it is not what it should be."""
        stored = rows(
            self._connection,
            "SELECT f.episode, f.class, f.sealed, b.boot, b.number FROM frames f "
            "JOIN batches b ON b.id = f.id >> ? WHERE f.id = ?",
            (FRAME_BITS, frame),
        )
        if not stored:
            raise ErasedError(f"frame {frame} is gone")
        [(episode, retention, sealed, boot_id, number)] = stored
        ref, key = self._episode_key(episode)
        associated = frame_associated(boot_id, number, ref, retention)
        try:
            plain = cbor.decode(vault.unseal(key, sealed, associated))
        except RejectError as error:
            raise IntegrityError(f"frame {frame}: {error}") from error
        match plain:
            case [bytes(salt_key), list(pairs)]:
                return Opened(salt_key, [(leaf, body) for leaf, body in pairs])
        raise IntegrityError(f"frame {frame} has another form")

    def _episode_key(self, episode: int) -> tuple[bytes, bytes]:
        kept = self._episode_keys.get(episode)
        if kept is None:
            stored = rows(
                self._connection,
                "SELECT ref, patient, wrapped FROM episodes WHERE id = ?",
                (episode,),
            )
            if not stored or not stored[0][2]:
                raise ErasedError(f"the key of episode {episode} is gone")
            [(ref, patient, wrapped)] = stored
            key = vault.unseal(
                self._keys.patient(patient), wrapped, episode_associated(ref, patient)
            )
            if len(self._episode_keys) >= EPISODE_KEYS_KEPT:
                self._episode_keys.clear()
            kept = self._episode_keys[episode] = (ref, key)
        return kept

    # ---- The log ----

    def log(self) -> LogReader:
        """The log of the epoch that the store writes."""
        return self._log

    def log_of(self, epoch: int) -> LogReader:
        """The log of this epoch, which may have ended."""
        if epoch == self._log.epoch:
            return self._log
        return LogReader(self._connection, self._directory, epoch)

    def log_after(self, epoch: int) -> LogReader:
        """The log that went on where this epoch ended."""
        later = [one for one in epochs.all_ended(self._connection) if one > epoch]
        return self.log_of(min(later, default=self._log.epoch))

    def epoch_of(self, batch_id: int) -> int:
        """The epoch of the log that a batch stands in."""
        return epochs.epoch_of(self._connection, batch_id)

    def kept_checkpoints(self) -> list[tuple[int, int, bytes]]:
        """(size, time_ms, signed checkpoint), one an hour, oldest first."""
        return rows(
            self._connection,
            "SELECT size, time_ms, note FROM kept_checkpoints ORDER BY size",
        )

    def comparable_checkpoints(self) -> list[tuple[int, int, bytes]]:
        """The kept ones and the newest, each as in `kept_checkpoints`."""
        newest = rows(self._connection, "SELECT size, time_ms, note FROM checkpoint")
        kept = self.kept_checkpoints()
        return kept + [one for one in newest if not kept or one[0] > kept[-1][0]]

    def checkpoint(self) -> tuple[int, bytes]:
        """(tree size, signed checkpoint)."""
        return self._log.checkpoint()

    def resource(self, path: str) -> bytes | None:
        """What a tlog-tiles client gets for `path`, or None."""
        return self._log.resource(path)

    def export(self, target: Path) -> int:
        """Write the whole log as a static directory, `checkpoint` last; its size."""
        return self._log.export(target)

    # ---- Proofs ----

    def prove(self, reading_id: str, *, disclose: bool = False) -> bytes:
        """The .tlog-proof file of a reading; NotFoundError where there is none."""
        return proving.prove(self, reading_id, disclose=disclose)

    def signing_key(
        self, device: str, kid: bytes
    ) -> tuple[bytes, device_keys.SigningKey] | None:
        """(the device's random id, its key of this identifier), present or former."""
        found: list[tuple[int, bytes]] = rows(
            self._connection, "SELECT id, ref FROM devices WHERE name = ?", (device,)
        )
        for id_, ref in found:
            keys = device_keys.keys_of(self._connection, id_)
            key = device_keys.with_kid(keys, kid)
            if key is not None:
                return ref, key
        return None

    def located(self, reading_id: str) -> Located:
        """Where a reading stands, and its record; NotFoundError where it does not."""
        match = READING_ID.fullmatch(reading_id)
        if match is None:
            raise NotFoundError(
                f"{reading_id!r} is not a reading's name (see `iomt readings`)"
            )
        boot, number, leaf = match[1], int(match[2]), int(match[3])
        with self._log.snapshot():
            batch_id, entry, body, leaves = self._batch_named(boot, number)
            salt, record = self._disclosed(batch_id, leaf)
            epoch = self.epoch_of(batch_id)
        return Located(epoch, entry, body, leaves, leaf, salt, record)

    def _batch_named(self, boot: str, number: int) -> tuple[int, int, bytes, bytes]:
        """(id, entry index, entry, leaf hashes) of the batch a reading's name tells."""
        for batch_id, boot_id, entry, body, leaves in rows(
            self._connection,
            "SELECT id, boot, entry, body, leaves FROM batches WHERE number = ?",
            (number,),
        ):
            if boot_id[:6].hex() == boot:
                return batch_id, entry, body, padded(leaves)
        raise NotFoundError(f"no batch {boot}-{number} in this store")

    def _disclosed(self, batch_id: int, leaf: int) -> tuple[bytes, bytes]:
        """(salt, record) of a leaf; ErasedError, NotFoundError where there is none."""
        count = 0
        for frame in self.frames_of(batch_id):
            try:
                opened = self.open_frame(frame)
            except ErasedError:
                continue  # another's, perhaps
            for index, body in opened.records:
                if index == leaf:
                    return ledger_batch.salt(opened.salt_key, leaf), body
                if index == 0:
                    count = leaf_count(Record.decode(body))
        if leaf < count:
            raise ErasedError("the record was forgotten: its bytes are destroyed")
        raise NotFoundError(f"the batch has no record {leaf}")
