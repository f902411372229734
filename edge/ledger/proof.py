"""The proof files: of one record (C2SP tlog-proof), and that a log only grew.

    c2sp.org/tlog-proof@v1
    extra <base64 of a CBOR map>         docs/ledger-format.md section 5
    index <the batch entry's index>
    <base64 hash>                        one line each, the entry's sibling first
    <an empty line>
    <checkpoint, a signed note, to the end of the file>

The map of `extra` carries what leads from the record to the batch entry:

    1: 1, 2: entry, 3: leaf index, 4: path, 5: leaf hash; disclosed 6: salt, 7: record,
    8: [index, path, entry] of the enrolment of the device that signed the record, or
       of the entry by which it got the key that signed

The proof that a later checkpoint continues an earlier one (section 10 there):

    iomt/consistency@v1
    <base64 hash>                        RFC 6962 section 2.1.2, in its order
    <an empty line>
    <the earlier checkpoint, a signed note>
    <an empty line>
    <the later checkpoint, a signed note, to the end of the file>

Nothing in a proof is believed: `check_batch`, `root_of_log` and `check_enrolment`
recompute it.
"""

from __future__ import annotations

from base64 import b64encode
from dataclasses import dataclass

from edge import cbor
from edge.errors import RejectError
from edge.ledger import device_key, tlog
from edge.ledger.batch import (
    SALT_SIZE,
    Batch,
    DeviceEnrolment,
    DeviceKey,
    batch_leaf,
    decode_entry,
)
from edge.ledger.note import NOTE_SIZE_MAX, decode_base64
from edge.ledger.tlog import HASH_SIZE, SIZE_MAX

PROOF_SIZE_MAX = 1024 * 1024  # a record of 65,536 bytes and a checkpoint: below 300 kB
PATH_LENGTH_MAX = 63
CONSISTENCY_LENGTH_MAX = 64
EXTRA_VERSION = 1
_FIRST_LINE = "c2sp.org/tlog-proof@v1"
_CONSISTENCY_FIRST_LINE = "iomt/consistency@v1"


@dataclass(frozen=True, slots=True)
class EnrolmentProof:
    """The entry with a device's key, and its place in the tree of the checkpoint."""

    index: int
    path: tuple[bytes, ...]
    entry: bytes


@dataclass(frozen=True, slots=True)
class BatchProof:
    """What leads from a record to its batch entry; 6 to 8 only where disclosed."""

    entry: bytes
    leaf_index: int
    path: tuple[bytes, ...]
    leaf_hash: bytes
    salt: bytes | None = None
    record: bytes | None = None
    enrolment: EnrolmentProof | None = None

    def __post_init__(self) -> None:
        if (self.salt is None) != (self.record is None):
            raise ValueError("salt and record are disclosed together")
        if self.enrolment is not None and self.record is None:
            raise ValueError("an enrolment belongs to a disclosed record")

    def encode(self) -> bytes:
        """The bytes of `extra`."""
        values: dict[int, object] = {
            1: EXTRA_VERSION,
            2: self.entry,
            3: self.leaf_index,
            4: self.path,
            5: self.leaf_hash,
        }
        if self.salt is not None:
            values |= {6: self.salt, 7: self.record}
        if self.enrolment is not None:
            one = self.enrolment
            values[8] = [one.index, one.path, one.entry]
        return cbor.encode(values)


@dataclass(frozen=True, slots=True)
class LogProof:
    """A tlog-proof file; `checkpoint` is the signed note verbatim."""

    index: int
    path: tuple[bytes, ...]
    checkpoint: bytes
    extra: bytes | None = None

    def encode(self) -> bytes:
        """The file's content."""
        lines = [_FIRST_LINE]
        if self.extra is not None:
            lines.append(f"extra {b64encode(self.extra).decode()}")
        lines.append(f"index {self.index}")
        lines += [b64encode(one).decode() for one in self.path]
        return "\n".join((*lines, "", "")).encode() + self.checkpoint


@dataclass(frozen=True, slots=True)
class ConsistencyProof:
    """A consistency proof file; both checkpoints are signed notes verbatim."""

    path: tuple[bytes, ...]
    older: bytes
    newer: bytes

    def encode(self) -> bytes:
        """The file's content; ValueError for notes that would not be found again."""
        for one in (self.older, self.newer):
            if one.count(b"\n\n") != 1 or not one.endswith(b"\n"):
                raise ValueError("a checkpoint is one text and one block of signatures")
        lines = [
            _CONSISTENCY_FIRST_LINE,
            *(b64encode(one).decode() for one in self.path),
        ]
        return "\n".join((*lines, "", "")).encode() + self.older + b"\n" + self.newer


def is_consistency(content: bytes) -> bool:
    """Whether the file says that it is a consistency proof, in its first line."""
    return content.partition(b"\n")[0] == _CONSISTENCY_FIRST_LINE.encode()


def parse_proof(content: bytes) -> LogProof:
    """The parts of a tlog-proof file; RejectError names the line that is wrong."""
    _check_size(content, PROOF_SIZE_MAX, "proof")
    head, blank, checkpoint = content.partition(b"\n\n")
    if not blank:
        raise RejectError("no empty line before the checkpoint")
    _check_size(checkpoint, NOTE_SIZE_MAX, "checkpoint")
    lines = _lines(head)
    if lines[0] != _FIRST_LINE:
        raise RejectError(f"line 1: not {_FIRST_LINE}")
    at = 1
    extra = None
    if lines[at:] and lines[at].startswith("extra "):
        extra = _base64_line(lines[at].removeprefix("extra "), at)
        at += 1
    if not lines[at:] or not lines[at].startswith("index "):
        raise RejectError(f"line {at + 1}: no index")
    index = _decimal_line(lines[at].removeprefix("index "), at)
    path = _hash_lines(lines, at + 1, PATH_LENGTH_MAX)
    return LogProof(index, path, checkpoint, extra)


def parse_consistency(content: bytes) -> ConsistencyProof:
    """The parts of a consistency proof; RejectError names the line that is wrong."""
    _check_size(content, PROOF_SIZE_MAX, "proof")
    if not is_consistency(content):
        raise RejectError(f"line 1: not {_CONSISTENCY_FIRST_LINE}")
    parts = content.split(b"\n\n")
    if len(parts) != 5:
        raise RejectError(
            "not two checkpoints (each a text, an empty line and signatures) after the "
            f"hashes: {len(parts)} parts between empty lines where there should be 5"
        )
    head, old_text, old_signatures, new_text, new_signatures = parts
    older = old_text + b"\n\n" + old_signatures + b"\n"
    newer = new_text + b"\n\n" + new_signatures
    for checkpoint in (older, newer):
        _check_size(checkpoint, NOTE_SIZE_MAX, "checkpoint")
    path = _hash_lines(_lines(head), 1, CONSISTENCY_LENGTH_MAX)
    return ConsistencyProof(path, older, newer)


def _check_size(content: bytes, size_max: int, what: str) -> None:
    if len(content) > size_max:
        raise RejectError(f"a {what} of more than {size_max} bytes")


def _lines(head: bytes) -> list[str]:
    try:
        return head.decode("ascii").split("\n")
    except UnicodeDecodeError as error:
        raise RejectError(f"not ASCII at byte {error.start}") from error


def _hash_lines(lines: list[str], start: int, most: int) -> tuple[bytes, ...]:
    """The hashes from line `start` (counted from 0) to the end."""
    if len(lines) - start > most:
        raise RejectError(f"a path of more than {most} hashes")
    return tuple(_hash_line(lines[at], at) for at in range(start, len(lines)))


def _base64_line(text: str, at: int) -> bytes:
    try:
        return decode_base64(text)
    except RejectError as error:
        raise RejectError(f"line {at + 1}: {error}") from error


def _hash_line(text: str, at: int) -> bytes:
    content = _base64_line(text, at)
    if len(content) != HASH_SIZE:
        raise RejectError(f"line {at + 1}: a hash of {len(content)} bytes")
    return content


def _decimal_line(text: str, at: int) -> int:
    if not text.isdigit() or len(text) > len(str(SIZE_MAX)):
        raise RejectError(f"line {at + 1}: {text[:40]!r} is not an index")
    number = int(text)
    if str(number) != text or number >= SIZE_MAX:
        raise RejectError(f"line {at + 1}: {text} is not an index")
    return number


def decode_extra(content: bytes) -> BatchProof:
    """The batch proof in `extra`; RejectError names the field that is wrong."""
    found = cbor.decode(content)
    # true is a number to Python, and equal to 1
    version = found.get(1) if isinstance(found, dict) else None
    if not isinstance(found, dict) or version is True or version != EXTRA_VERSION:
        raise RejectError(f"extra: not a map of version {EXTRA_VERSION}")
    disclosed = 6 in found or 7 in found or 8 in found
    wanted = 6 if not disclosed else 9 if 8 in found else 8
    if set(found) != set(range(1, wanted)):
        raise RejectError(
            "extra: fields 1 to 5 are needed, 6 and 7 only together, 8 only with them"
        )
    return BatchProof(
        entry=_octets(found[2], "2"),
        leaf_index=_number(found[3], "3"),
        path=_path(found[4], "4"),
        leaf_hash=_octets(found[5], "5", HASH_SIZE),
        salt=_octets(found[6], "6", SALT_SIZE) if disclosed else None,
        record=_octets(found[7], "7") if disclosed else None,
        enrolment=_enrolment(found[8]) if 8 in found else None,
    )


def _enrolment(value: object) -> EnrolmentProof:
    if not isinstance(value, list) or len(value) != 3:
        raise RejectError("extra: field 8 is not [index, path, entry]")
    index, path, entry = value
    return EnrolmentProof(_number(index, "8"), _path(path, "8"), _octets(entry, "8"))


def _number(value: object, field: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise RejectError(f"extra: field {field} is not an index")
    return value


def _path(value: object, field: str) -> tuple[bytes, ...]:
    if not isinstance(value, list) or len(value) > PATH_LENGTH_MAX:
        raise RejectError(f"extra: field {field} is not a path")
    return tuple(_octets(one, field, HASH_SIZE) for one in value)


def _octets(value: object, field: str, size: int | None = None) -> bytes:
    if not isinstance(value, bytes) or (size is not None and len(value) != size):
        wanted = "bytes" if size is None else f"{size} bytes"
        raise RejectError(f"extra: field {field} is not {wanted}")
    return value


def check_batch(proof: BatchProof) -> Batch:
    """The batch entry, if the leaf (and a disclosed record) belongs to it."""
    entry = decode_entry(proof.entry)
    if not isinstance(entry, Batch):
        raise RejectError("extra: the entry is not a batch")
    if proof.salt is not None and proof.record is not None:
        leaf = batch_leaf(proof.salt, proof.record)
        if leaf != proof.leaf_hash:
            raise RejectError("extra: salt and record do not give the leaf hash")
    size = 1 << len(proof.path)
    root = tlog.root_from_inclusion(proof.leaf_index, size, proof.leaf_hash, proof.path)
    if root != entry.root:
        raise RejectError("extra: the path does not lead to the batch entry's root")
    return entry


def root_of_log(proof: LogProof, entry: bytes, size: int) -> bytes:
    """The log's root at `size`, by this proof of the entry."""
    leaf = tlog.leaf_hash(entry)
    return tlog.root_from_inclusion(proof.index, size, leaf, proof.path)


def check_enrolment(
    proof: EnrolmentProof, before: int, size: int, root: bytes
) -> bytes:
    """The enrolled public key, if it stands in the tree before entry `before`.

    `before` is the index of the batch entry that holds the device's record, `size` and
    `root` are the checkpoint's.
    """
    entry = decode_entry(proof.entry)
    if not isinstance(entry, DeviceEnrolment | DeviceKey) or entry.public_key is None:
        raise RejectError("extra: field 8 is not the enrolment of a device that signs")
    if proof.index >= before:
        raise RejectError(f"extra: field 8 is no enrolment before entry {before}")
    leaf = tlog.leaf_hash(proof.entry)
    if tlog.root_from_inclusion(proof.index, size, leaf, proof.path) != root:
        raise RejectError("extra: field 8 does not lead to the checkpoint's root")
    fault = device_key.key_fault(entry.public_key)
    if fault:
        raise RejectError(f"extra: field 8: the device's key: {fault}")
    return entry.public_key
