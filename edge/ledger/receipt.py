"""Receipts: what became of a device's messages, signed (docs/wire-format.md section 4).

    d2 84                 COSE_Sign1 (RFC 9052), deterministic CBOR, at most 2,000 bytes
    4d a2 01 27 04 48 k   protected header {alg: EdDSA, kid: SHA-256(log's key)[:8]}
    a0                    unprotected header, empty
    58|59 n               payload, a map:
       01 text               device
       02 unsigned           the commit's time, ms since 1970
       03 array              accepted:   [sequence or null, leaf, digest]
       04 array              duplicates: [sequence or null, digest]; absent when empty
       05 array              refused:    [sequence or null, digest, reason]; likewise
       06 bytes              the batch entry, as it stands in the log
       07 unsigned           its index in the log
       08 bytes              its inclusion path, 32 bytes a hash, the lowest first
       09 bytes              the checkpoint: a signed note of the log
    58 40 s               Ed25519 signature by the log's key over
    84 "Signature1" h'protected header' 'iomt/receipt/v1' h'payload'

A digest is the first 16 bytes of SHA-256 over the message as it was published (of one
that was refused as too large: over its first 1,024 bytes). A message's leaf is the
index in the batch's own tree; `boot id[:6]-number-leaf` is the name that `iomt prove`
takes. A commit that holds more of a device than one receipt can say gives several.

The receipt is evidence by itself: the gateway's signature binds the bytes to a place in
the log, and entry, path and checkpoint show that the log had that place. A log whose
record at the place is another contradicts what its own key signed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import NamedTuple

from edge import cbor
from edge.errors import RejectError
from edge.ledger import tlog
from edge.ledger.batch import TIME_MAX_MS, Batch, decode_entry
from edge.ledger.device_key import KID_SIZE
from edge.ledger.note import Checkpoint

RECEIPT_SIZE_MAX = 2_000
DIGEST_SIZE = 16
SIGNATURE_SIZE = 64
EXTERNAL_AAD = b"iomt/receipt/v1"
COSE_SIGN1 = b"\xd2\x84"
_PROTECTED_HEAD = b"\xa2\x01\x27\x04\x48"
_DEVICE, _TIME, _ACCEPTED, _DUPLICATES, _REFUSED, _ENTRY, _INDEX, _PATH, _CHECKPOINT = (
    range(1, 10)
)
# What COSE and the heads of the three arrays and the payload add, at the most.
_FRAME_SIZE = len(COSE_SIGN1) + 14 + 1 + 3 + 2 + SIGNATURE_SIZE + 3 * 4


class Accepted(NamedTuple):
    """A message that became a record of the batch."""

    sequence: int | None
    leaf: int
    digest: bytes


class Duplicate(NamedTuple):
    """A message that was in the ledger before."""

    sequence: int | None
    digest: bytes


class Refused(NamedTuple):
    """A message that is in quarantine; `reason` is edge.errors.Reason's text."""

    sequence: int | None
    digest: bytes
    reason: str


class Place(NamedTuple):
    """Where a commit's batch entry stands in the log, and what shows it."""

    entry: bytes
    entry_index: int
    path: tuple[bytes, ...]
    checkpoint: bytes


@dataclass(frozen=True, slots=True)
class Receipt:
    """What a receipt says."""

    device: str
    time_ms: int
    accepted: tuple[Accepted, ...]
    duplicates: tuple[Duplicate, ...]
    refused: tuple[Refused, ...]
    place: Place


def digest_of(message: bytes) -> bytes:
    """What a receipt names a message by."""
    return sha256(message).digest()[:DIGEST_SIZE]


# ---- Writing ----


def build(
    device: str,
    time_ms: int,
    answers: Sequence[Accepted | Duplicate | Refused],
    place: Place,
    *,
    kid: bytes,
    sign: Callable[[bytes], bytes],
) -> list[bytes]:
    """The receipts about these answers, in their order; mostly it is one."""
    fixed: dict[int, object] = {
        _DEVICE: device,
        _TIME: time_ms,
        _ENTRY: place.entry,
        _INDEX: place.entry_index,
        _PATH: b"".join(place.path),
        _CHECKPOINT: place.checkpoint,
    }
    room = RECEIPT_SIZE_MAX - _FRAME_SIZE - len(cbor.encode(fixed))
    return [
        _signed(fixed | _lists(some), kid, sign) for some in _portions(answers, room)
    ]


def _portions(
    answers: Sequence[Accepted | Duplicate | Refused], room: int
) -> Iterator[list[Accepted | Duplicate | Refused]]:
    """The answers, as many together as fit into `room` bytes, and one at the least."""
    portion: list[Accepted | Duplicate | Refused] = []
    size = 0
    for answer in answers:
        own = len(cbor.encode(list(answer)))
        if portion and size + own > room:
            yield portion
            portion, size = [], 0
        portion.append(answer)
        size += own
    if portion:
        yield portion


def _lists(answers: Sequence[Accepted | Duplicate | Refused]) -> dict[int, object]:
    kinds = {_ACCEPTED: Accepted, _DUPLICATES: Duplicate, _REFUSED: Refused}
    lists: dict[int, object] = {_ACCEPTED: []}
    for key, kind in kinds.items():
        found = [list(one) for one in answers if isinstance(one, kind)]
        if found:
            lists[key] = found
    return lists


def _signed(
    fields: dict[int, object], kid: bytes, sign: Callable[[bytes], bytes]
) -> bytes:
    protected, payload = _PROTECTED_HEAD + kid, cbor.encode(fields)
    signature = sign(_signed_bytes(protected, payload))
    return cbor.encode(cbor.Tag(18, [protected, {}, payload, signature]))


def _signed_bytes(protected: bytes, payload: bytes) -> bytes:
    return cbor.encode(["Signature1", protected, EXTERNAL_AAD, payload])


# ---- Reading ----


@dataclass(frozen=True, slots=True)
class SignedReceipt:
    """A receipt as it came: well formed, nothing in it verified yet."""

    receipt: Receipt
    kid: bytes
    signed_bytes: bytes
    signature: bytes


def is_receipt(content: bytes) -> bool:
    """Whether this is meant to be one, by its first bytes."""
    return content.startswith(COSE_SIGN1)


def parse(content: bytes) -> SignedReceipt:
    """The receipt in these bytes; RejectError names the field that is wrong."""
    if len(content) > RECEIPT_SIZE_MAX:
        raise RejectError(f"a receipt has at most {RECEIPT_SIZE_MAX} bytes")
    match cbor.decode(content):
        case cbor.Tag(
            18, [bytes(protected), dict(unprotected), bytes(payload), bytes(signature)]
        ) if not unprotected and len(signature) == SIGNATURE_SIZE:
            pass
        case _:
            raise RejectError("not a COSE_Sign1 with a signature of 64 bytes")
    head = len(_PROTECTED_HEAD)
    if protected[:head] != _PROTECTED_HEAD or len(protected) != head + KID_SIZE:
        raise RejectError("header: not {alg: EdDSA, kid: 8 bytes}")
    fields = cbor.decode(payload)
    if not isinstance(fields, dict):
        raise RejectError("payload: not a map")
    receipt = _receipt(fields)
    signed_bytes = _signed_bytes(protected, payload)
    return SignedReceipt(receipt, protected[head:], signed_bytes, signature)


def _receipt(fields: dict[object, object]) -> Receipt:
    required = {_DEVICE, _TIME, _ACCEPTED, _ENTRY, _INDEX, _PATH, _CHECKPOINT}
    keys = set(fields)
    if not required <= keys <= required | {_DUPLICATES, _REFUSED}:
        raise RejectError("payload: a field is missing or unknown")
    match fields[_DEVICE], fields[_ENTRY], fields[_PATH], fields[_CHECKPOINT]:
        case str(device), bytes(entry), bytes(path), bytes(checkpoint):
            pass
        case _:
            raise RejectError("payload: field 1, 6, 8 or 9 is of another type")
    if len(path) % tlog.HASH_SIZE:
        raise RejectError("payload: field 8 is no list of hashes")
    hashes = tuple(
        path[at : at + tlog.HASH_SIZE] for at in range(0, len(path), tlog.HASH_SIZE)
    )
    return Receipt(
        device=device,
        time_ms=_number(fields[_TIME], "field 2"),
        accepted=tuple(map(_accepted, _list(fields, _ACCEPTED))),
        duplicates=tuple(map(_duplicate, _list(fields, _DUPLICATES))),
        refused=tuple(map(_refused, _list(fields, _REFUSED))),
        place=Place(entry, _number(fields[_INDEX], "field 7"), hashes, checkpoint),
    )


def _list(fields: dict[object, object], key: int) -> list[object]:
    found = fields.get(key, [])
    if not isinstance(found, list):
        raise RejectError(f"payload: field {key} is not an array")
    if not found and key in fields and key != _ACCEPTED:
        raise RejectError(f"payload: field {key} is empty; leave it out instead")
    return found


def _number(value: object, what: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise RejectError(f"payload: {what} is no number")
    if not 0 <= value <= TIME_MAX_MS:
        raise RejectError(f"payload: {what} is not 0 to {TIME_MAX_MS}")
    return value


def _sequence(value: object) -> int | None:
    if value is None:
        return None
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value  # 64 bits: a device counts as far as it likes
    raise RejectError("payload: a sequence is no unsigned number and not null")


def _digest(value: object) -> bytes:
    if not isinstance(value, bytes) or len(value) != DIGEST_SIZE:
        raise RejectError(f"payload: a digest is not {DIGEST_SIZE} bytes")
    return value


def _accepted(value: object) -> Accepted:
    match value:
        case [sequence, leaf, digest]:
            leaf = _number(leaf, "a leaf")
            return Accepted(_sequence(sequence), leaf, _digest(digest))
    raise RejectError("payload: field 3 holds what is not [sequence, leaf, digest]")


def _duplicate(value: object) -> Duplicate:
    match value:
        case [sequence, digest]:
            return Duplicate(_sequence(sequence), _digest(digest))
    raise RejectError("payload: field 4 holds what is not [sequence, digest]")


def _refused(value: object) -> Refused:
    match value:
        case [sequence, digest, str(reason)]:
            return Refused(_sequence(sequence), _digest(digest), reason)
    raise RejectError("payload: field 5 holds what is not [sequence, digest, reason]")


def check_place(receipt: Receipt, checkpoint: Checkpoint) -> Batch:
    """The batch entry, if it stands where the receipt says in the checkpoint's tree.

    RejectError otherwise; the checkpoint's own signature is not looked at.
    """
    place = receipt.place
    entry = decode_entry(place.entry)
    if not isinstance(entry, Batch):
        raise RejectError("field 6: the entry is not a batch")
    if entry.time_ms != receipt.time_ms:
        raise RejectError("field 2: the time is not the batch entry's")
    root = tlog.root_from_inclusion(
        place.entry_index, checkpoint.size, tlog.leaf_hash(place.entry), place.path
    )
    if root != checkpoint.root:
        raise RejectError("field 8: the path does not lead to the checkpoint's root")
    return entry
