"""Epochs: which log this store writes, and what became of the ones before.

An epoch is one unbroken history under one origin and one key. A rollback (the store is
older than what the gateway has signed, edge/store/evidence.py) ends it: going on would
be a second history under one key. The next epoch is a log of its own:

    epoch   origin                  key              tiles
    1       <origin>                keys/log.key     ledger/
    N       <origin>/epoch-<N>      keys/log-N.key   ledger-N/

    meta `epoch`      N, absent in the first epoch
    meta `ended-<N>`  what the store holds of an epoch that ended (`Ended`, CBOR)
    meta `kept-<N>`   its kept checkpoints: CBOR array of [size, time_ms, note]

A number is never used twice, not even by a store that was restored again: `begin` takes
one above every number that the store, the keys or the evidence have seen, and a key
that is there has perhaps signed.
"""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass
from pathlib import Path

import apsw

from edge import cbor
from edge.devices.registry import Device, Registry
from edge.errors import ConfigurationError, IntegrityError, NotFoundError, RejectError
from edge.ledger import core, note, tiles, tlog
from edge.ledger.batch import DeviceEnrolment, DeviceKey, EpochStart
from edge.model import Attestation
from edge.store.database import TILE_DIRECTORY, meta, rows
from edge.store.vault import KEY_SIZE, LOG_KEY, write_secret

PREVIOUS_NOTE_SIZE_MAX = 48 * 1024  # an entry has at most 65,535 bytes
_KEY_NAME = re.compile(r"log-([1-9][0-9]{0,5})\.key", re.ASCII)


@dataclass(frozen=True, slots=True)
class Ended:
    """What the store holds of an epoch that has ended: its branch and the evidence.

    `size` is 0 and `checkpoint` empty where the store held nothing. Batches up to
    `last_batch` stand in the branch. Size and root stand in entry 0 of the next log.

    `original` says that the checkpoint is known to be of the first history (`iomt
    restore` put it there and nothing was signed since), so that proofs may go on using
    it. Otherwise nobody can tell whether it was signed after the rollback, before the
    evidence turned up: then it is not released.
    """

    origin: str
    size: int
    checkpoint: bytes
    tail: tuple[bytes, ...]  # the entries of the partial bundle
    upper: tuple[bytes, ...]  # the partial tiles from level 1 on
    last_batch: int
    original: bool
    evidence: bytes  # the signed checkpoint that proves it, empty where none is left
    reason: str

    def edge(self) -> tiles.TileEdge:
        """The right edge of the branch."""
        partial = [b"".join(map(tlog.leaf_hash, self.tail)), *self.upper]
        return tiles.TileEdge.load(self.size, partial[: tiles.levels(self.size)])

    def encode(self) -> bytes:
        """The meta row."""
        return cbor.encode(
            [
                *(self.origin, self.size, self.checkpoint, self.tail, self.upper),
                *(self.last_batch, int(self.original), self.evidence, self.reason),
            ]
        )

    @classmethod
    def decode(cls, content: bytes) -> Ended:
        """The row's meaning; IntegrityError where it has none."""
        match cbor.decode(content):
            case [
                str(origin),
                int(size),
                bytes(checkpoint),
                list(tail),
                list(upper),
                int(last_batch),
                int(original),
                bytes(evidence),
                str(reason),
            ]:
                return cls(
                    origin=origin,
                    size=size,
                    checkpoint=checkpoint,
                    tail=tuple(one for one in tail if isinstance(one, bytes)),
                    upper=tuple(one for one in upper if isinstance(one, bytes)),
                    last_batch=last_batch,
                    original=bool(original),
                    evidence=evidence,
                    reason=reason,
                )
        raise IntegrityError("the store's row of an ended epoch is damaged")


# ---- Names, keys, places ----


def current(connection: apsw.Connection) -> int:
    """The number of the epoch that the store writes."""
    stored = meta(connection, "epoch")
    return stored if isinstance(stored, int) else 1


def log_name(origin: str, epoch: int) -> str:
    """The log's origin in this epoch."""
    return origin if epoch == 1 else f"{origin}/epoch-{epoch}"


def tile_directory(epoch: int) -> str:
    """Where below the data directory the epoch's tiles are."""
    return TILE_DIRECTORY if epoch == 1 else f"{TILE_DIRECTORY}-{epoch}"


def key_name(epoch: int) -> str:
    """The file with the epoch's log key."""
    return LOG_KEY if epoch == 1 else f"log-{epoch}.key"


def load_log_seed(keys: Path, epoch: int) -> bytes:
    """The log key of an epoch; ConfigurationError where it is missing, open or bad."""
    path = keys / key_name(epoch)
    try:
        if path.stat().st_mode & 0o077:
            raise ConfigurationError([f"{path}: others may read it; chmod 600 {path}"])
        seed = bytes.fromhex(path.read_text().strip())
    except FileNotFoundError:
        raise ConfigurationError(
            [f"{path}: missing; epoch {epoch} of this log is signed with it"]
        ) from None
    except (OSError, ValueError) as error:
        raise ConfigurationError([f"{path}: cannot be read ({error})"]) from error
    if len(seed) != KEY_SIZE:
        raise ConfigurationError([f"{path}: not {KEY_SIZE} bytes in hexadecimal"])
    return seed


def verifier(keys: Path, origin: str, epoch: int) -> note.Verifier:
    """The public key of an epoch under its name."""
    seed = load_log_seed(keys, epoch)
    return note.Verifier(log_name(origin, epoch), core.public_key(seed))


def newest_key(keys: Path) -> int:
    """The highest epoch that has a key file."""
    found = [_KEY_NAME.fullmatch(one.name) for one in keys.glob("log-*.key")]
    return max((int(one[1]) for one in found if one), default=1)


# ---- The end of one, the start of the next ----


def ended(connection: apsw.Connection, epoch: int) -> Ended:
    """What is known of an epoch before; NotFoundError where it left nothing."""
    stored = meta(connection, f"ended-{epoch}")
    if not isinstance(stored, bytes):
        raise NotFoundError(f"this store has no epoch {epoch} that ended")
    return Ended.decode(stored)


def all_ended(connection: apsw.Connection) -> dict[int, Ended]:
    """Every epoch that ended and that this store holds something of, oldest first."""
    found = rows(
        connection, "SELECT key, value FROM meta WHERE key GLOB 'ended-[1-9]*'"
    )
    numbered = sorted((int(key.removeprefix("ended-")), value) for key, value in found)
    return {number: Ended.decode(value) for number, value in numbered}


def epoch_of(connection: apsw.Connection, batch_id: int) -> int:
    """The epoch that a batch stands in."""
    for number, one in all_ended(connection).items():
        if batch_id <= one.last_batch:
            return number
    return current(connection)


def begin(
    connection: apsw.Connection,
    keys: Path,
    origin: str,
    *,
    reason: str,
    evidence: bytes = b"",
    original: bool = False,
    seen: int = 1,
) -> int:
    """End the store's epoch and begin the next; its number.

    `evidence` is the signed checkpoint that proves the rollback, `seen` the highest
    number that anything else knows, `original` is as in Ended. The key is durable
    before the one transaction.
    """
    was = current(connection)
    number = 1 + max(was, seen, newest_key(keys))
    write_secret(keys / key_name(number), secrets.token_hex(KEY_SIZE))
    found = rows(connection, "SELECT size, note FROM checkpoint")
    size, checkpoint = found[0] if found else (0, b"")
    tail = rows(
        connection,
        "SELECT body FROM entries WHERE idx >= ? AND idx < ? ORDER BY idx",
        (size - size % tiles.TILE_WIDTH, size),
    )
    [(last_batch,)] = rows(connection, "SELECT ifnull(max(id), 0) FROM batches")
    closed = Ended(
        origin=log_name(origin, was),
        size=size,
        checkpoint=checkpoint,
        tail=tuple(body for (body,) in tail),
        upper=tuple(
            _partial(connection, level, size) for level in range(1, tiles.levels(size))
        ),
        last_batch=last_batch,
        original=original,
        evidence=evidence,
        reason=reason,
    )
    kept = rows(
        connection, "SELECT size, time_ms, note FROM kept_checkpoints ORDER BY size"
    )
    with connection:
        for key, value in (
            (f"ended-{was}", closed.encode()),
            (f"kept-{was}", cbor.encode([list(one) for one in kept])),
            ("epoch", number),
            ("rollback_alarm", reason),
        ):
            connection.execute(
                "INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value)
            )
        connection.execute("DELETE FROM meta WHERE key = 'restored'")
        for table in ("entries", "edge", "tiles", "checkpoint", "kept_checkpoints"):
            connection.execute(f"DELETE FROM {table}")  # noqa: S608 - names above
    return number


def _partial(connection: apsw.Connection, level: int, size: int) -> bytes:
    found = rows(connection, "SELECT hashes FROM edge WHERE level = ?", (level,))
    width = (size >> tiles.TILE_HEIGHT * level) % tiles.TILE_WIDTH
    return bytes(found[0][0][: width * tlog.HASH_SIZE]) if found else b""


def first_entry(connection: apsw.Connection, origin: str, now_ms: int) -> EpochStart:
    """Entry 0 of the log that the store begins."""
    number = current(connection)
    name = log_name(origin, number)
    before = all_ended(connection)
    if not before:
        return EpochStart(name, now_ms)
    last = before[max(before)]
    return EpochStart(
        name,
        now_ms,
        previous_origin=last.origin,
        previous_checkpoint=_bounded(last.evidence) or None,
        branch_size=last.size,
        branch_root=last.edge().root(),
    )


def first_entries(
    connection: apsw.Connection, origin: str, registry: Registry, now_ms: int
) -> list[bytes]:
    """What a log begins with: entry 0 and, after a rollback, the enrolments again."""
    found = [first_entry(connection, origin, now_ms).encode()]
    if current(connection) == 1:
        return found
    for device in registry.all():
        if not device.revoked:
            found += enrolled_again(device, now_ms)
    return found


def enrolled_again(device: Device, now_ms: int) -> list[bytes]:
    """The enrolment of a device, by a key that is still good and then by its own."""
    key, former, until_ms = device.public_key, device.former_key, device.former_until_ms
    if key is None:
        entry = DeviceEnrolment(device.ref, now_ms, Attestation.GATEWAY)
        return [entry.encode()]
    if former is None or until_ms <= now_ms:
        return [DeviceEnrolment(device.ref, now_ms, Attestation.DEVICE, key).encode()]
    first = DeviceEnrolment(device.ref, now_ms, Attestation.DEVICE, former)
    return [first.encode(), DeviceKey(device.ref, now_ms, key, until_ms).encode()]


def _bounded(signed: bytes) -> bytes:
    """The note, or with its first signature alone where cosignatures make it long."""
    if len(signed) <= PREVIOUS_NOTE_SIZE_MAX:
        return signed
    try:
        parsed = note.parse_note(signed)
    except RejectError as error:
        raise IntegrityError(f"the kept evidence is damaged: {error}") from error
    return f"{parsed.text}\n{parsed.signatures[0].line}".encode()
