"""A ledger as files, built from the pure room's functions, for tests and vectors.

The store writes the real one; this is small, all at once, and its key is no secret.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from hashlib import sha256
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from edge.ledger import batch, note, tiles, tlog
from edge.ledger.proof import BatchProof, LogProof
from edge.model import Attestation, Flag, Kind, Record

ORIGIN = "clinic.example/ward-3"
KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
VERIFIER = note.Verifier(ORIGIN, KEY.public_key().public_bytes_raw())
STARTED_MS = 1_790_000_000_000
LEAF_COUNT = 3  # of each sample batch, before padding to four


def _id(name: str) -> bytes:
    return sha256(name.encode()).digest()[: batch.ID_SIZE]


def sample_record(number: int, leaf: int) -> bytes:
    """The record of one leaf of sample batch `number`."""
    return Record(
        kind=Kind.READING if leaf else Kind.COUNT,
        received_ms=STARTED_MS + 1000 * number,
        original=b"a reading %d" % leaf,
        device="monitor-7" if leaf else None,
        stream="vitals" if leaf else None,
        attestation=Attestation.DEVICE if leaf else Attestation.GATEWAY,
        link="mqtt" if leaf else None,
        flags=Flag.UNSYNCED,
    ).encode()


def sample_salt(number: int, leaf: int) -> bytes:
    """The salt of one leaf of sample batch `number`."""
    return batch.salt(sha256(b"salt key %d" % number).digest(), leaf)


def sample_leaves(number: int) -> list[bytes]:
    """The padded leaf hashes of sample batch `number`."""
    hashes = [
        batch.batch_leaf(sample_salt(number, leaf), sample_record(number, leaf))
        for leaf in range(LEAF_COUNT)
    ]
    return batch.padded(hashes, lambda size: b"\x5a" * size)


def _start(boot: str, number: int) -> batch.GatewayStart:
    return batch.GatewayStart(
        boot_id=_id(boot),
        time_ms=STARTED_MS + 1000 * number,
        synchronised=False,
        version="0.1.0",
        software=sha256(b"software").digest(),
        configuration=sha256(b"configuration").digest(),
        contracts=(sha256(b"contract").digest(),),
    )


def sample_entries(count: int) -> list[batch.Entry]:
    """A history with every kind of entry and two starts; `count` is at least 24."""
    entries: list[batch.Entry] = [
        batch.EpochStart(ORIGIN, STARTED_MS),
        _start("first boot", 1),
        batch.DeviceEnrolment(
            _id("device 1"), STARTED_MS + 2000, Attestation.DEVICE, bytes(range(32, 64))
        ),
        batch.DeviceEnrolment(_id("device 2"), STARTED_MS + 3000, Attestation.GATEWAY),
    ]
    boot, number = "first boot", 0
    while len(entries) < count:
        place = len(entries)
        time_ms = STARTED_MS + 1000 * place
        if place == 10:
            entries.append(batch.ClockTick(_id(boot), time_ms, synchronised=True))
        elif place == 11:
            entries.append(batch.DeviceRevocation(_id("device 2"), time_ms))
        elif place == count // 2:
            boot, number = "second boot", 0
            entries.append(_start(boot, place))
        else:
            root = batch.batch_root(sample_leaves(place))
            entries.append(
                batch.Batch(_id(boot), number, time_ms, synchronised=True, root=root)
            )
            number += 1
    return entries


def put(directory: Path, path: str, content: bytes) -> None:
    """Write one file and the directories above it."""
    whole = directory / path
    whole.parent.mkdir(parents=True, exist_ok=True)
    whole.write_bytes(content)


def write_ledger(
    directory: Path, entries: Sequence[bytes], narrower: Iterable[int] = ()
) -> bytes:
    """The static directory of these entries; its root.

    The partial tiles of level 0 and the bundles of the sizes `narrower` stay there too.
    """
    edge = tiles.TileEdge()
    for entry in entries:
        for full in edge.append(tlog.leaf_hash(entry)):
            put(directory, tiles.tile_path(full.level, full.index), full.content)
    for tile in tiles.partial_tiles(len(entries)):
        assert tile.level is not None
        put(directory, tile.path, edge.partial(tile.level))
    sizes = (len(entries), *narrower)
    bundles = {one for size in sizes for one in tiles.level_tiles(None, size)}
    for tile in bundles:
        start = tile.index * tiles.TILE_WIDTH
        part = entries[start : start + tile.width]
        put(directory, tile.path, tiles.encode_bundle(part))
        hashes = b"".join(map(tlog.leaf_hash, part))
        put(directory, tiles.tile_path(0, tile.index, tile.width), hashes)
    root = edge.root()
    put(directory, tiles.CHECKPOINT_PATH, signed_checkpoint(len(entries), root))
    return root


def signed_checkpoint(size: int, root: bytes, origin: str = ORIGIN) -> bytes:
    """A checkpoint with the signature of KEY."""
    text = note.Checkpoint(origin, size, root).text
    verifier = note.Verifier(origin, VERIFIER.public_key)
    return note.sign_note(text, verifier, KEY.sign)


def sample_proof(
    entries: Sequence[bytes], index: int, leaf: int, disclose: bool
) -> bytes:
    """The proof file of one leaf of the sample batch that is entry `index`."""
    hashes = [tlog.leaf_hash(entry) for entry in entries]
    size = len(hashes)
    known = [
        tlog.tree_root(hashes[one.index << one.level : one.index + 1 << one.level])
        for one in tlog.plan_inclusion(index, size)
    ]
    leaves = sample_leaves(index)
    extra = BatchProof(
        entry=entries[index],
        leaf_index=leaf,
        path=tuple(batch.batch_path(leaves, leaf)),
        leaf_hash=leaves[leaf],
        salt=sample_salt(index, leaf) if disclose else None,
        record=sample_record(index, leaf) if disclose else None,
    )
    return LogProof(
        index=index,
        path=tuple(tlog.inclusion(index, size, known)),
        checkpoint=signed_checkpoint(size, tlog.tree_root(hashes)),
        extra=extra.encode(),
    ).encode()
