"""A ledger as files, built from the pure room's functions, for tests and vectors.

The store writes the real one; this is small, all at once, and its key is no secret.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from decimal import Decimal
from hashlib import sha256
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from edge import cbor
from edge.devices import envelope
from edge.ledger import batch, note, tiles, tlog
from edge.ledger.device_key import kid_of
from edge.ledger.proof import BatchProof, ConsistencyProof, EnrolmentProof, LogProof
from edge.model import Attestation, Flag, Kind, Reading, Record

ORIGIN = "clinic.example/ward-3"
KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
VERIFIER = note.Verifier(ORIGIN, KEY.public_key().public_bytes_raw())
DEVICE_KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32, 64)))
DEVICE_PUBLIC_KEY = DEVICE_KEY.public_key().public_bytes_raw()
WITNESS_KEYS = {
    f"witness-{at}.example": Ed25519PrivateKey.from_private_bytes(bytes([at] * 32))
    for at in (1, 2, 3)
}
WITNESSES = {
    name: note.Verifier(name, key.public_key().public_bytes_raw(), note.COSIGNATURE)
    for name, key in WITNESS_KEYS.items()
}
# Nobody can check it here, so it need not be a key.
ML_DSA_WITNESS = note.Verifier("pq.example", bytes(range(164)) * 8, note.ML_DSA_44)
STARTED_MS = 1_790_000_000_000
COSIGNED_S = 1_790_000_301
ENROLMENT_INDEX = 2  # of monitor-7
LEAF_COUNT = 3  # of each sample batch, before padding to four


def _id(name: str) -> bytes:
    return sha256(name.encode()).digest()[: batch.ID_SIZE]


def sample_envelope(number: int, leaf: int) -> bytes:
    """What monitor-7 sent and signed."""
    return envelope.build(
        "monitor-7",
        "vitals",
        10 * number + leaf,
        STARTED_MS + 1000 * number - 20,
        [Reading(None, {"heart_rate": Decimal(70 + leaf)})],
        kid=kid_of(DEVICE_PUBLIC_KEY),
        sign=DEVICE_KEY.sign,
    )


def sample_record(number: int, leaf: int) -> bytes:
    """The record of one leaf of sample batch `number`."""
    count = {1: LEAF_COUNT, 2: 2, 3: 2, 4: 0, 5: 0}
    return Record(
        kind=Kind.READING if leaf else Kind.COUNT,
        received_ms=STARTED_MS + 1000 * number,
        original=sample_envelope(number, leaf) if leaf else cbor.encode(count),
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
            _id("device 1"), STARTED_MS + 2000, Attestation.DEVICE, DEVICE_PUBLIC_KEY
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


def cosigned(checkpoint: bytes, names: Iterable[str] = WITNESSES) -> bytes:
    """The checkpoint with the cosignatures of these witnesses too."""
    text = note.parse_note(checkpoint).text
    lines = [
        note.cosign(text, WITNESSES[name], COSIGNED_S, WITNESS_KEYS[name].sign).line
        for name in names
    ]
    return checkpoint + "".join(lines).encode()


def ml_dsa_line() -> bytes:
    """A signature line of ML_DSA_WITNESS, with nothing behind it."""
    signature = COSIGNED_S.to_bytes(8, "big") + bytes(2420)
    one = note.Signature(ML_DSA_WITNESS.name, ML_DSA_WITNESS.key_id, signature)
    return one.line.encode()


def policy_text(quorum: str = "2", *, with_log: bool = True) -> str:
    """A policy of the three witnesses and one of ML-DSA; `quorum` of the three."""
    lines = ["# the auditor's own", f"log {VERIFIER.vkey}"] if with_log else []
    for at, one in enumerate((*WITNESSES.values(), ML_DSA_WITNESS), start=1):
        lines.append(f"witness w{at} {one.vkey} https://{one.name}/")
    lines += [f"group three {quorum} w1 w2 w3", "quorum three", ""]
    return "\n".join(lines)


def log_path(entries: Sequence[bytes], index: int) -> tuple[bytes, ...]:
    """The inclusion path of entry `index` in the tree of these entries."""
    hashes = [tlog.leaf_hash(entry) for entry in entries]
    wanted = tlog.plan_inclusion(index, len(entries))
    return tuple(tlog.inclusion(index, len(entries), _roots(hashes, wanted)))


def _roots(hashes: Sequence[bytes], wanted: Sequence[tlog.Subtree]) -> list[bytes]:
    return [
        tlog.tree_root(hashes[one.index << one.level : one.index + 1 << one.level])
        for one in wanted
    ]


def sample_consistency(entries: Sequence[bytes], old: int) -> bytes:
    """The proof file that these entries continue their first `old` ones."""
    hashes = [tlog.leaf_hash(entry) for entry in entries]
    new = len(hashes)
    wanted = tlog.plan_consistency(old, new)
    return ConsistencyProof(
        tuple(tlog.consistency(old, new, _roots(hashes, wanted))),
        signed_checkpoint(old, tlog.tree_root(hashes[:old])),
        signed_checkpoint(new, tlog.tree_root(hashes)),
    ).encode()


def sample_proof(
    entries: Sequence[bytes],
    index: int,
    leaf: int,
    disclose: bool,
    *,
    enrolment: bool = False,
    witnesses: Iterable[str] = (),
) -> bytes:
    """The proof file of one leaf of the sample batch that is entry `index`.

    With `enrolment` it holds that of the device which signed the disclosed record.
    """
    size = len(entries)
    root = tlog.tree_root([tlog.leaf_hash(entry) for entry in entries])
    leaves = sample_leaves(index)
    extra = BatchProof(
        entry=entries[index],
        leaf_index=leaf,
        path=tuple(batch.batch_path(leaves, leaf)),
        leaf_hash=leaves[leaf],
        salt=sample_salt(index, leaf) if disclose else None,
        record=sample_record(index, leaf) if disclose else None,
        enrolment=sample_enrolment(entries) if enrolment else None,
    )
    return LogProof(
        index=index,
        path=log_path(entries, index),
        checkpoint=cosigned(signed_checkpoint(size, root), witnesses),
        extra=extra.encode(),
    ).encode()


def sample_enrolment(entries: Sequence[bytes]) -> EnrolmentProof:
    """What proves that monitor-7 was enrolled."""
    path = log_path(entries, ENROLMENT_INDEX)
    return EnrolmentProof(ENROLMENT_INDEX, path, entries[ENROLMENT_INDEX])
