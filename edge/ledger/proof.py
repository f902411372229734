"""The proof of one record: a C2SP tlog-proof file with our `extra`.

    c2sp.org/tlog-proof@v1
    extra <base64 of a CBOR map>         docs/ledger-format.md section 5
    index <the batch entry's index>
    <base64 hash>                        one line each, the entry's sibling first
    <an empty line>
    <checkpoint, a signed note, to the end of the file>

The map of `extra` carries what leads from the record to the batch entry:

    1: 1, 2: entry, 3: leaf index, 4: path, 5: leaf hash; disclosed 6: salt, 7: record

Nothing in a proof is believed: `check_batch` and `root_of_log` recompute it.
"""

from __future__ import annotations

from base64 import b64encode
from dataclasses import dataclass

from edge import cbor
from edge.errors import RejectError
from edge.ledger import tlog
from edge.ledger.batch import SALT_SIZE, Batch, batch_leaf, decode_entry
from edge.ledger.note import NOTE_SIZE_MAX, decode_base64
from edge.ledger.tlog import HASH_SIZE, SIZE_MAX

PROOF_SIZE_MAX = 1024 * 1024  # a record of 65,536 bytes and a checkpoint: below 300 kB
PATH_LENGTH_MAX = 63
EXTRA_VERSION = 1
_FIRST_LINE = "c2sp.org/tlog-proof@v1"


@dataclass(frozen=True, slots=True)
class BatchProof:
    """What leads from a record to its batch entry; 6 and 7 only where disclosed."""

    entry: bytes
    leaf_index: int
    path: tuple[bytes, ...]
    leaf_hash: bytes
    salt: bytes | None = None
    record: bytes | None = None

    def __post_init__(self) -> None:
        if (self.salt is None) != (self.record is None):
            raise ValueError("salt and record are disclosed together")

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


def parse_proof(content: bytes) -> LogProof:
    """The parts of a tlog-proof file; RejectError names the line that is wrong."""
    if len(content) > PROOF_SIZE_MAX:
        raise RejectError(f"a proof of more than {PROOF_SIZE_MAX} bytes")
    head, blank, checkpoint = content.partition(b"\n\n")
    if not blank:
        raise RejectError("no empty line before the checkpoint")
    if len(checkpoint) > NOTE_SIZE_MAX:
        raise RejectError(f"a checkpoint of more than {NOTE_SIZE_MAX} bytes")
    try:
        lines = head.decode("ascii").split("\n")
    except UnicodeDecodeError as error:
        raise RejectError(f"not ASCII at byte {error.start}") from error
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
    at += 1
    path = tuple(_hash_line(line, at + n) for n, line in enumerate(lines[at:]))
    if len(path) > PATH_LENGTH_MAX:
        raise RejectError(f"a path of more than {PATH_LENGTH_MAX} hashes")
    return LogProof(index, path, checkpoint, extra)


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
    disclosed = 6 in found or 7 in found
    if set(found) != set(range(1, 8 if disclosed else 6)):
        raise RejectError("extra: fields 1 to 5, and 6 and 7 together, are needed")
    index, path = found[3], found[4]
    if not isinstance(index, int) or isinstance(index, bool) or index < 0:
        raise RejectError("extra: field 3 is not a leaf index")
    if not isinstance(path, list) or len(path) > PATH_LENGTH_MAX:
        raise RejectError("extra: field 4 is not a path")
    return BatchProof(
        entry=_octets(found[2], "2"),
        leaf_index=index,
        path=tuple(_octets(one, "4", HASH_SIZE) for one in path),
        leaf_hash=_octets(found[5], "5", HASH_SIZE),
        salt=_octets(found[6], "6", SALT_SIZE) if disclosed else None,
        record=_octets(found[7], "7") if disclosed else None,
    )


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
