"""Writes tests/vectors/proofs: proofs and ledgers, good and broken, with the verdict.

    python tests/vectors/make_proofs.py [DIR]

The same bytes come out each time: keys, times and salts are fixed. `index.json` has the
keys and a list of cases:

    name     of the case
    kind     proof or ledger
    base     the file, or the directory, relative to index.json
    changes  done to it first, in memory and in this order (broken bytes cost none):
               {"file": F, "offset": N, "xor": M}   the byte at N
               {"file": F, "cut": N}                only the first N bytes
               {"file": F, "append": HEX, "times": N}   bytes more, N times
               {"file": F, "content": HEX}          a new file, or another content
               {"file": F, "remove": true}          no such file
             F is a path in the ledger, and "" in a proof
    key      one of `keys`, or null for none
    device   one of `device_keys`, the device's key that was pinned, or null for none
    verdict  OK, REFUSED or NOT ENOUGH
    reason   why, in the words of the second verifier, where refused
    place    in a ledger the file, and the entry, hash or byte; in a proof its part

What only a gateway that signs nonsense can make (a wrong history, a record that is
none) has files of its own; the keys that sign are no secret.
"""

from __future__ import annotations

import json
import shutil
import sys
from base64 import b64encode
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

_HERE = Path(__file__).resolve().parent
sys.path.append(str(_HERE.parent / "unit"))

import ledger_files  # noqa: E402  its directory was only now known
from cryptography.hazmat.primitives.asymmetric.ed25519 import (  # noqa: E402
    Ed25519PrivateKey,
)
from ledger_files import KEY, ORIGIN, STARTED_MS, VERIFIER  # noqa: E402

from edge import cbor  # noqa: E402
from edge.ledger import batch, note, proof, tlog  # noqa: E402
from edge.model import Attestation, Flag, Kind, Record  # noqa: E402

LOG = "../ledger/log"  # 300 entries, written by make_ledger.py
LOG_SIZE = 300
ENTRIES = "tile/entries"
_OTHER = note.Verifier(ORIGIN, bytes(range(1, 33)))  # nobody's key, the same name
_ELSEWHERE = note.Verifier("clinic.example/ward-4", VERIFIER.public_key)
KEYS = {
    "log": VERIFIER.vkey,
    "another key": _OTHER.vkey,
    "another log": _ELSEWHERE.vkey,
}
_LATE_MS = STARTED_MS + 10_000_000

_DEVICE = Ed25519PrivateKey.from_private_bytes(sha256(b"monitor-7").digest())
_DEVICE_KEY = _DEVICE.public_key().public_bytes_raw()
_STRANGER = Ed25519PrivateKey.from_private_bytes(sha256(b"monitor-8").digest())
DEVICE_KEYS = {
    "monitor-7": _DEVICE_KEY.hex(),
    "monitor-8": _STRANGER.public_key().public_bytes_raw().hex(),
}
_ENROLLED_AT = 5  # in the logs that proofs are taken from
_EIGHTH = 0x5FC536D880238B13933C6D305ACDFD5F098EFF289F4C345B027B2C28F95E826

Change = dict[str, Any]


@dataclass(frozen=True, slots=True)
class _Leaf:
    """What one leaf commits to."""

    salt: bytes
    record: bytes

    @property
    def hash(self) -> bytes:
        return batch.batch_leaf(self.salt, self.record)


@dataclass(slots=True)
class _Maker:
    """Writes the files and keeps the cases."""

    top: Path
    cases: list[dict[str, Any]]

    def case(
        self,
        name: str,
        kind: str,
        base: str,
        *changes: Change,
        key: str | None = "log",
        device: str | None = None,
        verdict: str = "OK",
        reason: str | None = None,
        place: str | None = None,
    ) -> None:
        self.cases.append(
            {
                "name": name,
                "kind": kind,
                "base": base,
                "changes": list(changes),
                "key": key,
                "device": device,
                "verdict": "REFUSED" if reason else verdict,
                "reason": reason,
                "place": place,
            }
        )

    def proof(self, name: str, content: bytes, **said: Any) -> None:
        """A proof in a file of its own."""
        path = f"{name}.tlog-proof"
        ledger_files.put(self.top, path, content)
        self.case(name, "proof", path, **said)

    def ledger(
        self, name: str, entries: Sequence[batch.Entry | bytes], **said: Any
    ) -> None:
        """A ledger in a directory of its own."""
        encoded = [one if isinstance(one, bytes) else one.encode() for one in entries]
        ledger_files.write_ledger(self.top / name, encoded)
        self.case(name, "ledger", name, **said)


def _signed(text: str) -> bytes:
    return note.sign_note(text, VERIFIER, KEY.sign)


def _envelope(device: str = "monitor-7", spoil: int = 0, algorithm: int = -8) -> bytes:
    """What monitor-7 signed; `spoil` changes a bit of the signature."""
    kid = sha256(_DEVICE_KEY).digest()[:8]
    header = cbor.encode({1: algorithm, 4: kid})
    readings = [{1: 72, 3: cbor.Tag(4, [-1, 367])}, {0: -1000, 2: 97}]
    payload = cbor.encode(
        {1: device, 2: "vitals", 3: 41, 4: STARTED_MS - 250, 5: readings}
    )
    signed = cbor.encode(["Signature1", header, b"iomt/reading/v1", payload])
    signature = bytearray(_DEVICE.sign(signed))
    signature[9] ^= spoil
    return cbor.encode(cbor.Tag(18, [header, {}, payload, bytes(signature)]))


def _leaves() -> list[_Leaf]:
    """One record of each kind, and a reading of each sort of original."""
    envelope = _envelope()
    senml = b'[{"n":"heart_rate","u":"/min","v":71,"t":1790000000}]'
    assignment = sha256(b"assignment").digest()[: batch.ID_SIZE]
    count = cbor.encode({1: 6, 2: 5, 3: 2, 4: 2, 5: 1})
    firing = cbor.encode(
        {
            1: "spo2-low",
            2: sha256(b"contract").digest(),
            3: "low",
            4: 2,
            5: "start",
            6: {"spo2": 85, "heart_rate": None},
            7: "spo2 < 90",
            8: "patient:Bed 1",
            9: STARTED_MS,
        }
    )
    moved = cbor.encode({1: assignment, 2: "monitor-7", 3: "Bed 1"})
    vouched, signed = Attestation.GATEWAY, Attestation.DEVICE
    records = [
        Record(Kind.COUNT, STARTED_MS, count),
        Record(
            Kind.READING,
            STARTED_MS,
            envelope,
            "monitor-7",
            "vitals",
            signed,
            "mqtt",
            Flag.UNSYNCED | Flag.LATE,
            assignment,
        ),
        Record(Kind.READING, STARTED_MS, senml, "scale-1", "weight", vouched, "mqtt"),
        Record(Kind.FIRING, STARTED_MS, firing),
        Record(Kind.TICK, STARTED_MS, b"\xa0"),
        Record(Kind.ASSIGNMENT, STARTED_MS, moved, "monitor-7"),
    ]
    salt_key = sha256(b"salt key").digest()
    return [
        _Leaf(batch.salt(salt_key, at), one.encode()) for at, one in enumerate(records)
    ]


@dataclass(frozen=True, slots=True)
class _Log:
    """A history that ends with the batch of some leaves, to take proofs from."""

    leaves: Sequence[_Leaf]
    before: int = 24  # entries before the batch
    after: int = 3
    batch_entry: bytes | None = None  # instead of the batch that the leaves make
    enrolment: bytes = b"an entry"  # the entry at _ENROLLED_AT

    def _hashes(self) -> list[bytes]:
        hashes = [one.hash for one in self.leaves]
        return batch.padded(hashes, lambda size: b"\x5a" * size)

    def entry(self) -> bytes:
        if self.batch_entry is not None:
            return self.batch_entry
        boot = sha256(b"boot").digest()[: batch.ID_SIZE]
        root = batch.batch_root(self._hashes())
        return batch.Batch(boot, 7, STARTED_MS, synchronised=True, root=root).encode()

    def extra(self, leaf: int, *, disclose: bool) -> proof.BatchProof:
        one = self.leaves[leaf]
        return proof.BatchProof(
            entry=self.entry(),
            leaf_index=leaf,
            path=tuple(batch.batch_path(self._hashes(), leaf)),
            leaf_hash=one.hash,
            salt=one.salt if disclose else None,
            record=one.record if disclose else None,
        )

    def _tree(self) -> list[bytes]:
        """The leaf hashes of the log."""
        filler = [sha256(b"entry %d" % at).digest() for at in range(self.before)]
        if self.before > _ENROLLED_AT:
            filler[_ENROLLED_AT] = tlog.leaf_hash(self.enrolment)
        more = [sha256(b"later %d" % at).digest() for at in range(self.after)]
        return [*filler, tlog.leaf_hash(self.entry()), *more]

    def path(self, index: int) -> tuple[bytes, ...]:
        hashes = self._tree()
        known = [
            tlog.tree_root(hashes[one.index << one.level : one.index + 1 << one.level])
            for one in tlog.plan_inclusion(index, len(hashes))
        ]
        return tuple(tlog.inclusion(index, len(hashes), known))

    def proof(self, leaf: int, *, disclose: bool = True) -> proof.LogProof:
        hashes = self._tree()
        root = tlog.tree_root(hashes)
        return proof.LogProof(
            index=self.before,
            path=self.path(self.before),
            checkpoint=ledger_files.signed_checkpoint(len(hashes), root),
            extra=self.extra(leaf, disclose=disclose).encode(),
        )

    def enrolled_proof(
        self, leaf: int = 0, index: int = _ENROLLED_AT, entry: bytes | None = None
    ) -> bytes:
        """A proof with key 8: by default the enrolment that stands in the log."""
        values = _fields(self.extra(leaf, disclose=True).encode())
        values[8] = [index, self.path(index), entry or self.enrolment]
        return replace(self.proof(leaf), extra=cbor.encode(values)).encode()


def _fields(encoded: bytes) -> dict[object, object]:
    decoded = cbor.decode(encoded)
    assert isinstance(decoded, dict)
    return dict(decoded)


def _good_proofs(make: _Maker, log: _Log) -> None:
    for leaf, name in enumerate(
        ("count", "signed", "senml", "firing", "tick", "assignment")
    ):
        # Who signed "signed" takes the device's key to say.
        verdict = "NOT ENOUGH" if name == "signed" else "OK"
        make.proof(f"good-{name}", log.proof(leaf).encode(), verdict=verdict)
    markup = "<img src=x onerror=\"document.title='!'\">"
    hostile = Record(Kind.READING, STARTED_MS, b"\x1b[2J", markup).encode()
    alone = _Log([_Leaf(bytes(16), hostile)], 2, 1)
    make.proof("good-hostile", alone.proof(0).encode())
    closed = log.proof(1, disclose=False)
    make.proof("good-closed", closed.encode())
    make.proof("good-alone", _Log(log.leaves[:1], 0, 0).proof(0).encode())
    many = [
        replace(one, salt=bytes([at]) * 16) for at in range(7) for one in log.leaves
    ]
    make.proof("good-last-of-many", _Log(many, 200, 0).proof(40).encode())
    make.proof("good-first-of-many", _Log(many, 1, 500).proof(0).encode())
    cosigned = (
        closed.checkpoint
        + note.Signature("witness.example/w1", b"\1\2\3\4", bytes(72)).line.encode()
    )
    make.proof(
        "good-unknown-cosignature", replace(closed, checkpoint=cosigned).encode()
    )
    for name in ("good-signed", "good-closed"):
        path = f"{name}.tlog-proof"
        make.case(f"{name}, no key", "proof", path, key=None, verdict="NOT ENOUGH")
    for key, reason in (
        ("another key", "no signature by the given key"),
        ("another log", "the checkpoint is of another log than the key"),
    ):
        path = "good-closed.tlog-proof"
        make.case(key, "proof", path, key=key, reason=reason, place="checkpoint")


def _broken_lines(make: _Maker, log: _Log) -> None:
    """The text of a proof: what stands where."""
    good = log.proof(1)
    content = good.encode()
    lines = content.split(b"\n")
    assert lines[2] == b"index 24"

    def line(number: int, text: bytes) -> bytes:
        return b"\n".join((*lines[:number], text, *lines[number + 1 :]))

    # No line may begin otherwise, and each number has one form.
    for name, number, text, reason, place in (
        ("another-version", 0, b"c2sp.org/tlog-proof@v2", "not a tlog-proof", "line 1"),
        ("index-padded", 2, b"index 024", "the index is not a decimal number", "index"),
        ("index-signed", 2, b"index +24", "the index is not a decimal number", "index"),
        (
            "index-enormous",
            2,
            b"index 9223372036854775808",
            "the index is too large",
            "index",
        ),
        (
            "index-outside",
            2,
            b"index 28",
            "the index lies outside the log",
            "index",
        ),
        ("index-of-another", 2, b"index 23", "the entry is not in the log", "path"),
        ("hash-short", 3, b64encode(bytes(31)), "a hash is not 32 bytes", "path"),
        (
            "hash-another",
            3,
            b64encode(bytes(32)),
            "the entry is not in the log",
            "path",
        ),
        ("hash-in-two-forms", 3, lines[3][:-2] + b"B=", "a hash is not base64", "path"),
        ("extra-spaced", 1, lines[1] + b" ", "extra is not base64", "extra"),
    ):
        make.proof(f"bad-{name}", line(number, text), reason=reason, place=place)
    make.proof(
        "bad-line-ends",
        content.replace(b"\n", b"\r\n"),
        reason="no empty line before the checkpoint",
        place="proof",
    )
    for name, path in (
        ("short", good.path[:-1]),
        ("long", (*good.path, bytes(32))),
        ("swapped", (good.path[1], good.path[0], *good.path[2:])),
    ):
        make.proof(
            f"bad-path-{name}",
            replace(good, path=path).encode(),
            reason="the entry is not in the log",
            place="path",
        )
    make.proof(
        "bad-path-endless",
        replace(good, path=(bytes(32),) * 64).encode(),
        reason="the log's path is too long",
        place="path",
    )
    make.proof(
        "bad-no-extra",
        replace(good, extra=None).encode(),
        reason="no extra line",
        place="extra",
    )
    make.proof(
        "bad-no-index",
        content.replace(b"index 24\n", b""),
        reason="no index line",
        place="index",
    )
    make.proof(
        "bad-genuine-parts-of-two",
        replace(good, extra=_Log(log.leaves, 25).proof(1).extra)
        .encode()
        .replace(b"index 24", b"index 25"),
        reason="the entry is not in the log",
        place="path",
    )


def _broken_extra(make: _Maker, log: _Log) -> None:
    """The map of `extra`, and its CBOR; nothing of it is signed."""
    good = log.proof(1)
    parts = log.extra(1, disclose=True)
    assert parts.salt is not None
    assert parts.record is not None
    fields = _fields(parts.encode())

    def put(name: str, extra: bytes, reason: str, place: str = "extra") -> None:
        content = replace(good, extra=extra).encode()
        make.proof(f"bad-extra-{name}", content, reason=reason, place=place)

    def changed(name: str, reason: str, place: str = "extra", **by: object) -> None:
        values = fields | {int(key[1:]): value for key, value in by.items()}
        kept = {key: value for key, value in values.items() if value is not None}
        put(name, cbor.encode(kept), reason, place)

    flipped = bytes([parts.record[-1] ^ 1])
    changed("version-2", "extra of an unknown version", k1=2)
    changed("version-true", "extra: key 1 is not what it must be", k1=True)
    changed("unknown-key", "extra has key 99", k99=0)
    changed("salt-alone", "salt and record come together", k7=None)
    changed("salt-short", "extra: key 6 is not what it must be", k6=parts.salt[1:])
    changed("no-leaf-hash", "extra lacks key 5", k5=None)
    changed("leaf-outside", "the leaf index lies outside the batch", k3=8)
    changed("leaf-negative", "extra: key 3 is not what it must be", k3=-1)
    changed("leaf-of-another", "the leaf is not in the batch", "batch entry", k3=0)
    changed("batch-path-long", "the batch's path is too long", k4=(bytes(32),) * 64)
    changed(
        "record-altered",
        "the record is not this leaf's",
        "record",
        k7=parts.record[:-1] + flipped,
    )
    changed("salt-altered", "the record is not this leaf's", "record", k6=bytes(16))
    changed(
        "leaf-hash-altered",
        "the leaf is not in the batch",
        "batch entry",
        k5=bytes(32),
        k6=None,
        k7=None,
    )
    changed(
        "entry-altered",
        "the entry is not in the log",
        "path",
        k2=parts.entry.replace(b"\x02\x07", b"\x02\x08", 1),
    )
    changed(
        "entry-a-tick",
        "the entry is not a batch",
        "batch entry",
        k2=batch.ClockTick(bytes(16), 0, synchronised=True).encode(),
    )
    encoded = parts.encode()
    at = encoded.index(b"\x03\x01\x04\x83")  # 3: leaf 1, 4: array of three
    put(
        "number-in-two-forms",
        encoded[:at] + b"\x03\x18\x01" + encoded[at + 2 :],
        "a CBOR number is longer than it must be",
    )
    put("key-twice", b"\xa8\x01\x01" + encoded[1:], "CBOR keys do not ascend")
    put("bytes-after", encoded + b"\0", "bytes after the CBOR")
    put("cut", encoded[:-1], "CBOR ends too early")
    put("indefinite", b"\xbf" + encoded[1:] + b"\xff", "CBOR of no definite length")
    put("no-map", cbor.encode([1]), "extra is not a map")
    put("float", b"\xa1\x01\xf9\x3c\x00", "a CBOR value that does not occur here")


def _broken_checkpoints(make: _Maker, log: _Log) -> None:
    """Signed by the right key and still no checkpoint; or not signed at all."""
    good = log.proof(1, disclose=False)
    text, signature = good.checkpoint.split(b"\n\n")
    origin, size, root = text.decode().split("\n")

    def put(name: str, checkpoint: bytes, reason: str, **said: Any) -> None:
        content = replace(good, checkpoint=checkpoint).encode()
        name = f"bad-checkpoint-{name}"
        make.proof(name, content, reason=reason, place="checkpoint", **said)

    def lines(name: str, reason: str, *lines: str) -> None:
        put(name, _signed("\n".join((*lines, ""))), reason)

    lines("extension", "a checkpoint has three lines", origin, size, root, "more")
    lines("no-root", "a checkpoint has three lines", origin, size)
    lines("size-padded", "the tree size is not a decimal number", origin, "028", root)
    lines("size-enormous", "the tree size is too large", origin, str(2**63), root)
    lines("root-short", "the root is not 32 bytes", origin, size, root[:-4])
    lines("root-unpadded", "the root is not base64", origin, size, root[:-1])
    lines(
        "another-origin",
        "the checkpoint is of another log than the key",
        "clinic.example/ward-4",
        size,
        root,
    )
    lines("empty-log", "not the root of an empty log", origin, "0", root)
    put("no-line-end", good.checkpoint[:-1], "the checkpoint is not a signed note")
    put("no-signature", text + b"\n\n", "a malformed signature line")
    put("more-after", good.checkpoint + b"more\n", "a malformed signature line")
    put(
        "hyphen",
        good.checkpoint.replace("— ".encode(), b"- "),
        "a malformed signature line",
    )
    put("tab", good.checkpoint.replace(b"\n28\n", b"\t\n28\n"), "a control character")
    put("not-utf-8", b"\xff" + good.checkpoint, "the checkpoint is not UTF-8")
    blob = bytearray(KEY.sign(text + b"\n"))
    blob[40] ^= 1
    bad = note.Signature(ORIGIN, VERIFIER.key_id, bytes(blob)).line.encode()
    put("bad-signature", text + b"\n\n" + bad, "the signature does not hold")
    put(
        "good-and-bad-signature",
        text + b"\n\n" + signature + bad,
        "the signature does not hold",
    )
    make.case(
        "a bad signature, no key",
        "proof",
        "bad-checkpoint-bad-signature.tlog-proof",
        key=None,
        verdict="NOT ENOUGH",
    )
    nameless = _signed(f"\n{size}\n{root}\n")
    put("no-origin", nameless, "the checkpoint has no origin", key=None)
    short = f"— {ORIGIN} {b64encode(bytes(4)).decode()}\n".encode()
    put("signature-short", good.checkpoint + short, "a signature that is too short")
    line = note.Signature("witness.example/w1", bytes(4), bytes(8)).line.encode()
    start, end = line[:-1], line[-1:]
    for name, reason, *more in (
        ("99 signatures more", None, (line, 99)),
        ("100 signatures more", "too many signatures", (line, 100)),
        ("as long as allowed", None, (start, 1), (b"AAAA", 32_000), (end, 1)),
        (
            "too long",
            "the checkpoint is too long",
            (start, 1),
            (b"AAAA", 33_000),
            (end, 1),
        ),
    ):
        make.case(
            f"checkpoint, {name}",
            "proof",
            "good-closed.tlog-proof",
            *({"file": "", "append": one.hex(), "times": times} for one, times in more),
            reason=reason,
            place=reason and "checkpoint",
        )
    make.case(
        "proof, too long",
        "proof",
        "good-closed.tlog-proof",
        {"file": "", "append": b"AAAA".hex(), "times": 1 << 18},
        reason="the proof is too long",
        place="proof",
    )
    make.case(
        "a bad path, no key",
        "proof",
        "bad-path-short.tlog-proof",
        key=None,
        reason="the entry is not in the log",
        place="path",
    )


def _broken_records(make: _Maker, log: _Log) -> None:
    """Committed and signed, and still no record or no batch entry."""
    salt = bytes(16)
    fields = _fields(log.leaves[1].record)

    def put(name: str, record: bytes, reason: str) -> None:
        content = _Log([_Leaf(salt, record)], 2, 1).proof(0).encode()
        make.proof(f"bad-record-{name}", content, reason=reason, place="record")

    def changed(name: str, reason: str, **by: object) -> None:
        values = fields | {int(key[1:]): value for key, value in by.items()}
        kept = {key: value for key, value in values.items() if value is not None}
        put(name, cbor.encode(kept), reason)

    def wrong(key: int) -> str:
        return f"the record: key {key} is not what it must be"

    put("no-cbor", b"no record", "CBOR ends too early")
    put("no-map", cbor.encode([1]), "the record is not a map")
    changed("version-2", "a record of an unknown version", k0=2)
    changed("kind-99", wrong(1), k1=99)
    changed("attestation-2", wrong(5), k5=2)
    changed("unknown-key", "the record has key 11", k11=0)
    changed("address-short", wrong(10), k10=bytes(5))
    changed("no-original", "the record lacks key 9", k9=None)
    changed("original-a-map", wrong(9), k9={})
    changed("device-a-number", wrong(2), k2=7)
    # What the document allows is narrower than what a lenient reader takes.
    changed("flag-64", wrong(7), k7=64)
    changed("link-usb", wrong(6), k6="usb")
    changed("assignment-short", wrong(8), k8=bytes(15))
    changed("received-before-1970", wrong(4), k4=-1)

    genuine = _Log(log.leaves[:1], 2, 1).entry()
    for name, entry, reason in (
        ("unknown-key", b"\x01\xa6" + genuine[2:] + b"\x06\x00", "batch has key 6"),
        ("empty", b"", "an entry is empty"),
        ("unknown-type", b"\x7f\xa0", "an entry of the unknown type 127"),
        ("clock-2", genuine.replace(b"\x04\x01\x05", b"\x04\x02\x05"), None),
    ):
        content = _Log(log.leaves[:1], 2, 1, entry).proof(0).encode()
        said = reason or "batch: key 4 is not what it must be"
        make.proof(f"bad-entry-{name}", content, reason=said, place="batch entry")


def _device_signatures(make: _Maker, log: _Log) -> None:
    """Who signed a reading: by a pinned key, by its enrolment (key 8), or nobody."""
    short = "the device's signature is by another key"
    for name, device, expected in (
        ("good-signed", "monitor-7", {}),
        ("good-signed", "monitor-8", {"reason": short, "place": "record"}),
        ("good-senml", "monitor-7", {"verdict": "NOT ENOUGH"}),
        ("good-closed", "monitor-7", {"verdict": "NOT ENOUGH"}),
    ):
        path = f"{name}.tlog-proof"
        title = f"{name}, key of {device}"
        make.case(title, "proof", path, device=device, **expected)

    def enrolment(key: bytes | None, name: str = "monitor-7") -> bytes:
        id_ = sha256(name.encode()).digest()[: batch.ID_SIZE]
        kind = Attestation.GATEWAY if key is None else Attestation.DEVICE
        return batch.DeviceEnrolment(id_, STARTED_MS - 9000, kind, key).encode()

    reading = _fields(log.leaves[1].record)

    def leaf(**by: object) -> _Leaf:
        values = reading | {int(key[1:]): value for key, value in by.items()}
        kept = {key: value for key, value in values.items() if value is not None}
        return _Leaf(bytes(16), cbor.encode(kept))

    def put(name: str, content: bytes, place: str = "", **said: Any) -> None:
        make.proof(f"{name}", content, place=place or None, **said)

    enrolled = _Log([leaf()], 24, 3, None, enrolment(_DEVICE_KEY))
    put("good-enrolled", enrolled.enrolled_proof())
    id_ = sha256(b"monitor-7").digest()[: batch.ID_SIZE]
    later = batch.DeviceKey(id_, STARTED_MS - 8000, _DEVICE_KEY, STARTED_MS)
    got_later = replace(enrolled, enrolment=later.encode())
    put("good-new-key", got_later.enrolled_proof())
    path = "good-enrolled.tlog-proof"
    make.case("enrolled and pinned", "proof", path, device="monitor-7")
    make.case("enrolled, no log key", "proof", path, key=None, verdict="NOT ENOUGH")
    put(
        "bad-enrolled-another-key",
        _Log(
            [leaf()], 24, 3, None, enrolment(bytes.fromhex(DEVICE_KEYS["monitor-8"]))
        ).enrolled_proof(),
        "record",
        reason=short,
    )
    make.case(
        "pinned, and the ledger has another key",
        "proof",
        "bad-enrolled-another-key.tlog-proof",
        device="monitor-7",
        reason="the ledger has another key for the device",
        place="enrolment",
    )
    for name, spoilt, reason in (
        (
            "signature",
            leaf(k9=_envelope(spoil=1)),
            "the device's signature does not hold",
        ),
        (
            "of-another-device",
            leaf(k9=_envelope("monitor-9")),
            "the record's device is not the envelope's",
        ),
        (
            "of-another-stream",
            leaf(k3="ecg"),
            "the record's stream is not the envelope's",
        ),
        (
            "algorithm",
            leaf(k9=_envelope(algorithm=-6)),
            "the envelope's header is not {alg, kid}",
        ),
        (
            "algorithm-of-no-such-key",
            leaf(k9=_envelope(algorithm=-7)),
            "the envelope's algorithm is not the key's",
        ),
        ("no-envelope", leaf(k9=b"\x01"), "not a signed envelope"),
        ("no-cbor", leaf(k9=b"[{}]"), "CBOR ends too early"),
        (
            "tag-17",
            leaf(k9=b"\xd1" + _envelope()[1:]),
            "not a signed envelope",
        ),
        (
            "a-firing",
            leaf(k1=2),
            "what is no reading claims a device's signature",
        ),
    ):
        spoilt_log = replace(enrolled, leaves=[spoilt])
        put(f"bad-device-{name}", spoilt_log.enrolled_proof(), "record", reason=reason)
    outside = "the enrolment is not in the log"
    after = "the enrolment does not stand before the reading"
    no_key = "not the enrolment of a device that signs"
    entry = enrolled.enrolment
    for name, content, reason in (
        ("elsewhere", enrolled.enrolled_proof(index=6, entry=entry), outside),
        (
            "foreign",
            enrolled.enrolled_proof(entry=enrolment(bytes(range(32)))),
            outside,
        ),
        ("after", enrolled.enrolled_proof(index=25), after),
        (
            "unsigned",
            replace(enrolled, enrolment=enrolment(None)).enrolled_proof(),
            no_key,
        ),
        (
            "revoked",
            replace(
                enrolled, enrolment=batch.DeviceRevocation(bytes(16), 0).encode()
            ).enrolled_proof(),
            no_key,
        ),
        (
            "weak-key",
            replace(
                enrolled, enrolment=enrolment(_EIGHTH.to_bytes(32, "little"))
            ).enrolled_proof(),
            "the enrolled key is not a proper one",
        ),
        (
            "key-off-the-curve",
            replace(
                enrolled, enrolment=enrolment(b"\x02" + bytes(31))
            ).enrolled_proof(),
            "the enrolled key is not a proper one",
        ),
        (
            "new-weak-key",
            replace(
                enrolled,
                enrolment=replace(
                    later, public_key=_EIGHTH.to_bytes(32, "little")
                ).encode(),
            ).enrolled_proof(),
            "the enrolled key is not a proper one",
        ),
        (
            "for-nobody",
            replace(enrolled, leaves=[log.leaves[2]]).enrolled_proof(),
            "an enrolment, but no device signed this record",
        ),
    ):
        put(f"bad-enrolment-{name}", content, "enrolment", reason=reason)
    values = _fields(enrolled.extra(0, disclose=False).encode())
    values[8] = [_ENROLLED_AT, enrolled.path(_ENROLLED_AT), entry]
    put(
        "bad-enrolment-of-nothing",
        replace(enrolled.proof(0), extra=cbor.encode(values)).encode(),
        "extra",
        reason="an enrolment without a record",
    )


def _good_ledgers(make: _Maker) -> None:
    make.case("300 entries", "ledger", LOG)
    make.case("300 entries, no key", "ledger", LOG, key=None, verdict="NOT ENOUGH")
    for size in (0, 1, 24, 256, 257):
        entries = ledger_files.sample_entries(max(size, 24))[:size]
        make.ledger(f"ledger-{size}", entries)
    device: Any = entries[2]
    changed = [
        batch.DeviceKey(device.device_id, _LATE_MS, key, _LATE_MS + 9)
        for key in (bytes.fromhex(DEVICE_KEYS["monitor-8"]), device.public_key)
    ]
    make.ledger("ledger-new-keys", [*entries[:24], *changed])
    values = {1: ORIGIN, 2: STARTED_MS, 3: "before", 4: b"a note", 5: 7, 6: bytes(32)}
    rest = ledger_files.sample_entries(24)[1:]
    make.ledger("ledger-after-a-rollback", [b"\x02" + cbor.encode(values), *rest])
    earlier = (
        "tile/0/000.p/100",
        "tile/0/001.p/24",
        f"{ENTRIES}/000.p/100",
        f"{ENTRIES}/001.p/24",
    )
    removed = [{"file": one, "remove": True} for one in earlier]
    make.case("earlier partial tiles gone", "ledger", LOG, *removed)


def _damaged_ledgers(make: _Maker, top: Path) -> None:
    """Bytes of the good one changed after it was written."""
    begins = sum(
        2 + len(one.encode()) for one in ledger_files.sample_entries(LOG_SIZE)[:200]
    )
    hash_ = "the hash is not what lies below it gives"
    entry = "not the entry that was logged"
    below = "not how {} begins"
    for file, offset, reason, spot in (
        ("tile/0/000", 3205, hash_, ", hash 100 (byte 3200)"),
        ("tile/0/001.p/44", 1376, hash_, ", hash 43 (byte 1376)"),
        ("tile/1/000.p/1", 31, hash_, ", hash 0 (byte 0)"),
        (f"{ENTRIES}/000", begins + 30, entry, f", entry 200 (byte {begins})"),
        (f"{ENTRIES}/000", 1, entry, ", entry 0 (byte 0)"),
        (f"{ENTRIES}/001.p/44", 2, entry, ", entry 256 (byte 0)"),
        ("tile/0/000.p/100", 77, below.format("tile/0/000"), ", byte 77"),
        ("tile/0/001.p/24", 0, below.format("tile/0/001.p/44"), ", byte 0"),
        (f"{ENTRIES}/000.p/100", 7, below.format(f"{ENTRIES}/000"), ", byte 7"),
        ("checkpoint", 22, "the signature does not hold", ""),
    ):
        make.case(
            f"flipped byte {offset} of {file}",
            "ledger",
            LOG,
            {"file": file, "offset": offset, "xor": 1},
            reason=reason,
            place=file + spot,
        )
    log = (top / LOG).resolve()
    for path in ("tile/0/000", f"{ENTRIES}/001.p/44", "tile/1/000.p/1", "checkpoint"):
        make.case(
            f"{path} missing",
            "ledger",
            LOG,
            {"file": path, "remove": True},
            reason="the file is missing",
            place=path,
        )
    size = (log / "tile/0/000").stat().st_size
    for name, change in (
        ("cut", {"cut": size - 1}),
        ("longer", {"append": "00", "times": 1}),
    ):
        make.case(
            f"tile {name}",
            "ledger",
            LOG,
            {"file": "tile/0/000", **change},
            reason="the file's size is wrong",
            place="tile/0/000",
        )
    make.case(
        "bundle longer",
        "ledger",
        LOG,
        {"file": f"{ENTRIES}/000", "append": "0000", "times": 1},
        reason="bytes after the last entry",
        place=f"{ENTRIES}/000",
    )
    make.case(
        "bundle cut",
        "ledger",
        LOG,
        {"file": f"{ENTRIES}/001.p/44", "cut": 3000},
        reason="the bundle ends inside entry 41",
        place=f"{ENTRIES}/001.p/44",
    )
    make.case(
        "earlier partial tile cut",
        "ledger",
        LOG,
        {"file": "tile/0/000.p/100", "cut": 64},
        reason="not how tile/0/000 begins",
        place="tile/0/000.p/100, byte 64",
    )
    no_place = "a file that the log has no place for"
    no_tile = f"a log of {LOG_SIZE} entries has no such tile"
    for path, reason in (
        ("README", no_place),
        (".hidden", no_place),
        ("tile/0/1", no_place),
        ("tile/0/000~", no_place),
        ("tile/0/x000/000", no_place),
        ("tile/0/000.p/256", no_place),
        ("tile/0/000.p/0", no_place),
        ("tile/8/000.p/1", no_place),
        ("sub/checkpoint", no_place),
        ("tile/0/001.p/45", no_tile),
        ("tile/0/002.p/1", no_tile),
        ("tile/2/000.p/1", no_tile),
        (f"{ENTRIES}/001", no_tile),
    ):
        make.case(
            f"foreign {path}",
            "ledger",
            LOG,
            {"file": path, "content": ""},
            reason=reason,
            place=path,
        )
    make.case(
        "another key, a ledger",
        "ledger",
        LOG,
        key="another key",
        reason="no signature by the given key",
        place="checkpoint",
    )
    _rewritten_ledgers(make, log)


def _rewritten_ledgers(make: _Maker, log: Path) -> None:
    """Whoever changes an entry will change the hashes above it too."""
    bundle = (log / ENTRIES / "000").read_bytes()
    changed = bundle[:-1] + bytes([bundle[-1] ^ 1])
    entry = ledger_files.sample_entries(LOG_SIZE)[255].encode()
    leaf = tlog.leaf_hash(entry[:-1] + changed[-1:])
    old = (log / "tile/0/000").read_bytes()
    hashes = [old[at : at + 32] for at in range(0, len(old) - 32, 32)] + [leaf]
    flip = {"file": f"{ENTRIES}/000", "offset": len(bundle) - 1, "xor": 1}
    leaves = [
        {"file": "tile/0/000", "offset": len(old) - 32 + at, "xor": one ^ other}
        for at, (one, other) in enumerate(zip(old[-32:], leaf, strict=True))
        if one != other
    ]
    make.case(
        "an entry and its leaf hash rewritten",
        "ledger",
        LOG,
        flip,
        *leaves,
        reason="its root is not the hash in the tile above",
        place="tile/0/000",
    )
    root = tlog.tree_root(hashes)
    make.case(
        "an entry and all tiles rewritten",
        "ledger",
        LOG,
        flip,
        *leaves,
        {"file": "tile/1/000.p/1", "content": root.hex()},
        reason="the root is not that of the tiles",
        place="checkpoint",
    )


def _wrong_histories(make: _Maker) -> None:
    """A faulty or cheating gateway signs what it likes; the entry is named."""
    sample: list[Any] = [*ledger_files.sample_entries(24)]
    start = sample[1]
    later = replace(sample[-1], number=sample[-1].number + 1, time_ms=_LATE_MS)

    def put(name: str, entries: list[Any], index: int, reason: str) -> None:
        encoded = [e if isinstance(e, bytes) else e.encode() for e in entries]
        at = sum(2 + len(one) for one in encoded[:index])
        width = len(entries)
        place = f"{ENTRIES}/000.p/{width}, entry {index} (byte {at})"
        make.ledger(f"history-{name}", encoded, reason=reason, place=place)

    epoch = "entry 0, and no other, is the epoch start"
    boot = "the boot id is not that of the last gateway start"
    put("two-epochs", [*sample[:2], sample[0], *sample[2:]], 2, epoch)
    put("no-epoch", sample[1:], 0, epoch)
    another = batch.EpochStart("clinic.example/ward-4", 0)
    put("epoch-of-another", [another, *sample[1:]], 0, "the epoch is of another origin")
    put("no-start", [sample[0], *sample[2:]], 3, boot)
    again = replace(start, time_ms=_LATE_MS)
    twice = "a boot id comes for the second time"
    put("boot-twice", [*sample, again], 24, twice)
    put("foreign-boot", [*sample, replace(later, boot_id=bytes(16))], 24, boot)
    tick = batch.ClockTick(start.boot_id, _LATE_MS, synchronised=True)
    put("tick-of-an-earlier-boot", [*sample, tick], 24, boot)
    put(
        "batch-missing",
        [*sample, replace(later, number=later.number + 1)],
        24,
        f"batch {later.number} is due",
    )
    put(
        "batch-twice",
        [*sample, replace(later, number=later.number - 1)],
        24,
        f"batch {later.number} is due",
    )
    back = "the time goes back"
    put("time-goes-back", [*sample, replace(later, time_ms=5)], 24, back)
    revoked = batch.DeviceRevocation(bytes(16), 5)
    put("public-time-goes-back", [*sample, revoked], 24, back)
    put("unknown-type", [*sample, b"\x7f\xa0"], 24, "an entry of the unknown type 127")
    put("empty-entry", [*sample, b""], 24, "an entry is empty")
    put("bare-revocation", [*sample, b"\x06\xa0"], 24, "device revocation lacks key 1")
    enrolment = sample[2].encode()
    put(
        "key-without-attestation",
        [*sample[:2], enrolment.replace(b"\x03\x01\x04", b"\x03\x00\x04"), *sample[3:]],
        2,
        "the enrolment's key does not fit its attestation",
    )
    unsigned = sample[3].encode().replace(b"\x03\x00", b"\x03\x01")
    put(
        "attestation-without-key",
        [*sample[:3], unsigned, *sample[4:]],
        3,
        "the enrolment's key does not fit its attestation",
    )
    _wrong_device_keys(put, sample)
    wrong = "{}: key {} is not what it must be"
    put(
        "time-enormous",
        [*sample, b"\x06" + cbor.encode({1: bytes(16), 2: 2**63})],
        24,
        wrong.format("device revocation", 2),
    )
    put(
        "half-a-rollback",
        [b"\x02" + cbor.encode({1: ORIGIN, 2: 0, 3: "before"}), *sample[1:]],
        0,
        "the epoch before is named whole or not at all",
    )
    put(
        "no-version",
        [sample[0], replace(start, version=""), *sample[2:]],
        1,
        wrong.format("gateway start", 4),
    )
    put(
        "nested",
        [*sample, b"\x06" + b"\x81" * 40 + b"\0"],
        24,
        "CBOR is nested too deeply",
    )


def _wrong_device_keys(put: Callable[..., None], sample: list[Any]) -> None:
    """New keys (0x0b) that no device can have got."""
    device, unsigned = sample[2], sample[3]
    other = bytes.fromhex(DEVICE_KEYS["monitor-8"])
    good = batch.DeviceKey(device.device_id, _LATE_MS, other, _LATE_MS)
    none = "a new key of a device that signs nothing"
    for name, entries, reason in (
        ("of-nobody", [replace(good, device_id=bytes(16))], none),
        ("of-unsigned", [replace(good, device_id=unsigned.device_id)], none),
        (
            "of-revoked",
            [batch.DeviceRevocation(device.device_id, _LATE_MS), good],
            none,
        ),
        (
            "again",
            [replace(good, public_key=device.public_key)],
            "a new key that is the one before",
        ),
        ("twice", [good, good], "a new key that is the one before"),
        (
            "weak",
            [replace(good, public_key=_EIGHTH.to_bytes(32, "little"))],
            "the device's key is not a proper one",
        ),
        (
            "before-itself",
            [good.encode().replace(*_pair(_LATE_MS))],
            "the key before ends ahead of the one after it",
        ),
    ):
        at = len(sample) + len(entries) - 1
        put(f"new-key-{name}", [*sample, *entries], at, reason)


def _pair(time_ms: int) -> tuple[bytes, bytes]:
    """Field 4 as it is, and a millisecond before."""
    return b"\x04" + cbor.encode(time_ms), b"\x04" + cbor.encode(time_ms - 1)


def main(directory: Path) -> None:
    """Write everything into `directory`, instead of what was there."""
    shutil.rmtree(directory, ignore_errors=True)
    make = _Maker(directory, [])
    log = _Log(_leaves())
    _good_proofs(make, log)
    _broken_lines(make, log)
    _broken_extra(make, log)
    _broken_checkpoints(make, log)
    _broken_records(make, log)
    _device_signatures(make, log)
    _good_ledgers(make)
    _damaged_ledgers(make, _HERE / "proofs")
    _wrong_histories(make)
    index = {"keys": KEYS, "device_keys": DEVICE_KEYS, "cases": make.cases}
    text = json.dumps(index, indent=1, ensure_ascii=False) + "\n"
    ledger_files.put(directory, "index.json", text.encode())


if __name__ == "__main__":
    main(Path(sys.argv[1]) if sys.argv[1:] else _HERE / "proofs")
