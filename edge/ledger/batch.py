"""The entries of the log and the tree under a batch entry (docs/ledger-format.md).

    entry     = type byte || deterministic CBOR map with integer keys
    leaf hash = SHA-256(0x00 || salt || record)
    salt      = HMAC-SHA-256(salt key, leaf index as 8 bytes, big-endian)[:16]
    batch     = leaf hashes, padded with random ones to a power of two; their root
                (RFC 6962) stands in the batch entry

The table of type bytes and fields is in the document and, in code, in the classes
below: a field's place in its class is its key in the map, counted from 1.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from enum import IntEnum
from hashlib import sha256
from typing import ClassVar, TypeAlias

from edge import cbor
from edge.errors import RejectError
from edge.ledger import tlog
from edge.ledger.tiles import ENTRY_SIZE_MAX
from edge.ledger.tlog import HASH_SIZE
from edge.model import Attestation

ID_SIZE = 16  # a boot id, a device's random id
SALT_SIZE = 16
SALT_KEY_SIZE = 32
PUBLIC_KEY_SIZE = 32
SIGNATURE_SIZE = 64
DEVICE_KEY_SIZES = frozenset({PUBLIC_KEY_SIZE, 65})  # Ed25519, P-256 (device_key.py)
APPROVERS_MAX = 16
TIME_MAX_MS = 2**63 - 1


class _Body:
    """Encoding shared by all entries; `TYPE` is the type byte."""

    __slots__ = ()
    TYPE: ClassVar[int]
    NAME: ClassVar[str]

    def encode(self) -> bytes:
        """The entry's bytes, type byte first; ValueError when they are too many."""
        values = {
            key: int(value) if isinstance(value, bool) else value
            for key, field in enumerate(fields(self), start=1)  # type: ignore[arg-type]
            if (value := getattr(self, field.name)) is not None
        }
        entry = bytes([self.TYPE]) + cbor.encode(values)
        if len(entry) > ENTRY_SIZE_MAX:
            raise ValueError(f"{self.NAME}: an entry of {len(entry)} bytes")
        return entry


@dataclass(frozen=True, slots=True)
class Batch(_Body):
    """One commit that holds records."""

    TYPE: ClassVar[int] = 0x01
    NAME: ClassVar[str] = "batch"
    boot_id: bytes
    number: int  # from 0 in each boot
    time_ms: int
    synchronised: bool  # whether the gateway's clock was
    root: bytes


@dataclass(frozen=True, slots=True)
class EpochStart(_Body):
    """Entry 0 of a log.

    After a rollback it names the log before, the signed checkpoint that proved it, and
    size and root of the branch that the store was found with.
    """

    TYPE: ClassVar[int] = 0x02
    NAME: ClassVar[str] = "epoch start"
    origin: str
    time_ms: int
    previous_origin: str | None = None
    previous_checkpoint: bytes | None = None
    branch_size: int | None = None
    branch_root: bytes | None = None

    def __post_init__(self) -> None:
        later = (self.previous_origin, self.branch_size, self.branch_root)
        if len({one is None for one in later}) != 1:
            raise ValueError("the epoch before is named whole or not at all")
        if self.previous_checkpoint is not None and self.previous_origin is None:
            raise ValueError("a checkpoint of an epoch before that is not named")


@dataclass(frozen=True, slots=True)
class GatewayStart(_Body):
    """A process of the gateway began; its batches bear this boot id."""

    TYPE: ClassVar[int] = 0x03
    NAME: ClassVar[str] = "gateway start"
    boot_id: bytes
    time_ms: int
    synchronised: bool
    version: str
    software: bytes  # SHA-256
    configuration: bytes  # SHA-256
    contracts: tuple[bytes, ...]  # SHA-256 of each
    core: bytes | None = None  # SHA-256 of the C core alone; older starts have none


@dataclass(frozen=True, slots=True)
class ClockTick(_Body):
    """Nothing else was committed for a while."""

    TYPE: ClassVar[int] = 0x04
    NAME: ClassVar[str] = "clock tick"
    boot_id: bytes
    time_ms: int
    synchronised: bool


@dataclass(frozen=True, slots=True)
class DeviceEnrolment(_Body):
    """A device may send from now on; the key is there when it signs."""

    TYPE: ClassVar[int] = 0x05
    NAME: ClassVar[str] = "device enrolment"
    device_id: bytes
    time_ms: int
    attestation: Attestation
    public_key: bytes | None = None

    def __post_init__(self) -> None:
        if (self.public_key is not None) != (self.attestation is Attestation.DEVICE):
            raise ValueError("a key belongs to attestation 1 and to no other")


@dataclass(frozen=True, slots=True)
class DeviceRevocation(_Body):
    """What the device sends from now on is refused."""

    TYPE: ClassVar[int] = 0x06
    NAME: ClassVar[str] = "device revocation"
    device_id: bytes
    time_ms: int


@dataclass(frozen=True, slots=True)
class DeviceKey(_Body):
    """A device signs with another key from now on, with the one before until then."""

    TYPE: ClassVar[int] = 0x0B
    NAME: ClassVar[str] = "device key"
    device_id: bytes
    time_ms: int
    public_key: bytes
    until_ms: int  # the key before is taken until then

    def __post_init__(self) -> None:
        if self.until_ms < self.time_ms:
            raise ValueError("the key before ends ahead of the one after it")


@dataclass(frozen=True, slots=True)
class Authority(_Body):
    """Who may approve contracts from now on, and how many of them it takes.

    Approvals are signed for `scope`, the gateway's origin in its first epoch. A quorum
    of 0, with no approver: the files of the gateway's directory are active.
    """

    TYPE: ClassVar[int] = 0x07
    NAME: ClassVar[str] = "authority"
    scope: str
    time_ms: int
    quorum: int
    approvers: tuple[tuple[str, bytes], ...]  # name, Ed25519 public key


@dataclass(frozen=True, slots=True)
class ContractProposal(_Body):
    """A contract may be approved; its sequence is above that of all before."""

    TYPE: ClassVar[int] = 0x08
    NAME: ClassVar[str] = "contract proposal"
    sequence: int
    time_ms: int
    contract: bytes  # SHA-256 of its file
    name: str
    version: int


@dataclass(frozen=True, slots=True)
class ContractApproval(_Body):
    """An approver's signature over this very proposal (lifecycle.py)."""

    TYPE: ClassVar[int] = 0x09
    NAME: ClassVar[str] = "contract approval"
    sequence: int
    time_ms: int
    contract: bytes
    approver: str
    signature: bytes


class Step(IntEnum):
    """What happens to a contract that was proposed."""

    ACTIVATE = 1
    SUSPEND = 2
    RESUME = 3
    REVOKE = 4


@dataclass(frozen=True, slots=True)
class ContractStep(_Body):
    """A contract begins, pauses, goes on, or ends for ever, from this entry on.

    An activation rests on the approvals; the other steps are signed by one approver.
    """

    TYPE: ClassVar[int] = 0x0A
    NAME: ClassVar[str] = "contract step"
    sequence: int
    time_ms: int
    contract: bytes
    step: Step
    approver: str | None = None
    signature: bytes | None = None

    def __post_init__(self) -> None:
        signed = self.approver is not None, self.signature is not None
        if set(signed) != {self.step is not Step.ACTIVATE}:
            raise ValueError("every step but an activation is signed by an approver")


Entry: TypeAlias = (
    Batch
    | EpochStart
    | GatewayStart
    | ClockTick
    | DeviceEnrolment
    | DeviceRevocation
    | DeviceKey
    | Authority
    | ContractProposal
    | ContractApproval
    | ContractStep
)


class _Fields:
    """A decoded map whose fields are taken out once each, by key and type."""

    def __init__(self, name: str, content: bytes) -> None:
        self._name = name
        decoded = cbor.decode(content)
        if not isinstance(decoded, dict):
            raise RejectError(f"{name}: not a map")
        self._left = decoded

    def _fail(self, key: int, what: str) -> RejectError:
        return RejectError(f"{self._name}: field {key} {what}")

    def number(self, key: int, most: int = TIME_MAX_MS) -> int:
        value = self._left.pop(key, None)
        if not isinstance(value, int) or isinstance(value, bool):
            raise self._fail(key, "is not a number")
        if not 0 <= value <= most:
            raise self._fail(key, f"is not 0 to {most}")
        return value

    def has(self, key: int) -> bool:
        return key in self._left

    def octets(self, key: int, size: int | None = None) -> bytes:
        value = self._left.pop(key, None)
        if not isinstance(value, bytes) or len(value) != (size or len(value)):
            wanted = "bytes" if size is None else f"a string of {size} bytes"
            raise self._fail(key, f"is not {wanted}")
        return value

    def text(self, key: int) -> str:
        value = self._left.pop(key, None)
        if not isinstance(value, str) or not value:
            raise self._fail(key, "is not a text")
        return value

    def pairs(self, key: int, most: int) -> tuple[tuple[str, bytes], ...]:
        """An array of [text, 32 bytes], at most so many."""
        value = self._left.pop(key, None)
        if not isinstance(value, list) or len(value) > most:
            raise self._fail(key, f"is not an array of at most {most}")
        found = []
        for one in value:
            match one:
                case [str(name), bytes(octets)] if len(octets) == PUBLIC_KEY_SIZE:
                    found.append((name, octets))
                case _:
                    raise self._fail(key, "holds what is not a name with its key")
        return tuple(found)

    def hashes(self, key: int) -> tuple[bytes, ...]:
        value = self._left.pop(key, None)
        if not isinstance(value, list):
            raise self._fail(key, "is not an array")
        found = [one for one in value if isinstance(one, bytes)]
        if len(found) != len(value) or any(len(one) != HASH_SIZE for one in found):
            raise self._fail(key, f"holds what is not a hash of {HASH_SIZE} bytes")
        return tuple(found)

    def end(self) -> None:
        if self._left:
            unknown = ", ".join(sorted(map(repr, self._left)))
            raise RejectError(f"{self._name}: unknown field {unknown}")


def _batch(body: _Fields) -> Batch:
    return Batch(
        boot_id=body.octets(1, ID_SIZE),
        number=body.number(2),
        time_ms=body.number(3),
        synchronised=bool(body.number(4, most=1)),
        root=body.octets(5, HASH_SIZE),
    )


def _epoch_start(body: _Fields) -> EpochStart:
    origin, time_ms = body.text(1), body.number(2)
    if not body.has(3):
        return EpochStart(origin, time_ms)
    return EpochStart(
        origin,
        time_ms,
        previous_origin=body.text(3),
        previous_checkpoint=body.octets(4) if body.has(4) else None,
        branch_size=body.number(5),
        branch_root=body.octets(6, HASH_SIZE),
    )


def _gateway_start(body: _Fields) -> GatewayStart:
    return GatewayStart(
        boot_id=body.octets(1, ID_SIZE),
        time_ms=body.number(2),
        synchronised=bool(body.number(3, most=1)),
        version=body.text(4),
        software=body.octets(5, HASH_SIZE),
        configuration=body.octets(6, HASH_SIZE),
        contracts=body.hashes(7),
        core=body.octets(8, HASH_SIZE) if body.has(8) else None,
    )


def _clock_tick(body: _Fields) -> ClockTick:
    return ClockTick(
        boot_id=body.octets(1, ID_SIZE),
        time_ms=body.number(2),
        synchronised=bool(body.number(3, most=1)),
    )


def _device_enrolment(body: _Fields) -> DeviceEnrolment:
    device_id = body.octets(1, ID_SIZE)
    time_ms = body.number(2)
    attestation = Attestation(body.number(3, most=1))
    signs = attestation is Attestation.DEVICE
    key = body.octets(4) if signs else None
    if key is not None and len(key) not in DEVICE_KEY_SIZES:
        raise RejectError(f"{DeviceEnrolment.NAME}: field 4 is no key's size")
    return DeviceEnrolment(device_id, time_ms, attestation, key)


def _device_revocation(body: _Fields) -> DeviceRevocation:
    return DeviceRevocation(device_id=body.octets(1, ID_SIZE), time_ms=body.number(2))


def _device_key(body: _Fields) -> DeviceKey:
    device_id, time_ms = body.octets(1, ID_SIZE), body.number(2)
    key, until_ms = body.octets(3), body.number(4)
    if len(key) not in DEVICE_KEY_SIZES:
        raise RejectError(f"{DeviceKey.NAME}: field 3 is no key's size")
    if until_ms < time_ms:
        raise RejectError(f"{DeviceKey.NAME}: field 4 lies before field 2")
    return DeviceKey(device_id, time_ms, key, until_ms)


def _authority(body: _Fields) -> Authority:
    return Authority(
        scope=body.text(1),
        time_ms=body.number(2),
        quorum=body.number(3, most=APPROVERS_MAX),
        approvers=body.pairs(4, most=APPROVERS_MAX),
    )


def _contract_proposal(body: _Fields) -> ContractProposal:
    return ContractProposal(
        sequence=body.number(1),
        time_ms=body.number(2),
        contract=body.octets(3, HASH_SIZE),
        name=body.text(4),
        version=body.number(5),
    )


def _contract_approval(body: _Fields) -> ContractApproval:
    return ContractApproval(
        sequence=body.number(1),
        time_ms=body.number(2),
        contract=body.octets(3, HASH_SIZE),
        approver=body.text(4),
        signature=body.octets(5, SIGNATURE_SIZE),
    )


def _contract_step(body: _Fields) -> ContractStep:
    sequence, time_ms = body.number(1), body.number(2)
    contract, number = body.octets(3, HASH_SIZE), body.number(4, most=max(Step))
    if not number:
        raise RejectError(f"{ContractStep.NAME}: field 4 is not 1 to {max(Step)}")
    step = Step(number)
    if step is Step.ACTIVATE:
        return ContractStep(sequence, time_ms, contract, step)
    approver, signature = body.text(5), body.octets(6, SIGNATURE_SIZE)
    return ContractStep(sequence, time_ms, contract, step, approver, signature)


_DECODERS: dict[int, tuple[str, Callable[[_Fields], Entry]]] = {
    Batch.TYPE: (Batch.NAME, _batch),
    EpochStart.TYPE: (EpochStart.NAME, _epoch_start),
    GatewayStart.TYPE: (GatewayStart.NAME, _gateway_start),
    ClockTick.TYPE: (ClockTick.NAME, _clock_tick),
    DeviceEnrolment.TYPE: (DeviceEnrolment.NAME, _device_enrolment),
    DeviceRevocation.TYPE: (DeviceRevocation.NAME, _device_revocation),
    DeviceKey.TYPE: (DeviceKey.NAME, _device_key),
    Authority.TYPE: (Authority.NAME, _authority),
    ContractProposal.TYPE: (ContractProposal.NAME, _contract_proposal),
    ContractApproval.TYPE: (ContractApproval.NAME, _contract_approval),
    ContractStep.TYPE: (ContractStep.NAME, _contract_step),
}


def decode_entry(content: bytes) -> Entry:
    """The entry of these bytes; RejectError unless they are exactly its encoding."""
    if len(content) > ENTRY_SIZE_MAX:
        raise RejectError(f"an entry of more than {ENTRY_SIZE_MAX} bytes")
    if not content or content[0] not in _DECODERS:
        raise RejectError(f"no entry begins with {content[:1].hex() or 'nothing'}")
    name, decode = _DECODERS[content[0]]
    body = _Fields(name, content[1:])
    entry = decode(body)
    body.end()
    return entry


def reading_id(boot_id: bytes, number: int, leaf: int, place: int) -> str:
    """The name of a reading (docs/ledger-format.md section 4)."""
    return f"{boot_id[:6].hex()}-{number}-{leaf}.{place}"


def salt(salt_key: bytes, index: int) -> bytes:
    """The salt of the leaf at `index` of its batch."""
    return hmac.digest(salt_key, index.to_bytes(8, "big"), sha256)[:SALT_SIZE]


def batch_leaf(leaf_salt: bytes, record: bytes) -> bytes:
    """The leaf hash of a record's canonical bytes."""
    if len(leaf_salt) != SALT_SIZE:
        raise ValueError(f"a salt of {len(leaf_salt)} bytes")
    return tlog.leaf_hash(leaf_salt + record)


def padded(
    leaf_hashes: Sequence[bytes], randomness: Callable[[int], bytes]
) -> list[bytes]:
    """The leaf hashes and as many random ones as make a power of two.

    `randomness(size)` gives that many random bytes; it is called once.
    """
    count = len(leaf_hashes)
    if not count:
        raise ValueError("a batch has at least its leaf 0")
    missing = (1 << (count - 1).bit_length()) - count
    noise = randomness(missing * HASH_SIZE) if missing else b""
    if len(noise) != missing * HASH_SIZE:
        raise ValueError(f"{len(noise)} random bytes for {missing} hashes")
    starts = range(0, len(noise), HASH_SIZE)
    return [*leaf_hashes, *(noise[at : at + HASH_SIZE] for at in starts)]


def batch_root(leaf_hashes: Sequence[bytes]) -> bytes:
    """The root that the batch entry bears, over the padded leaf hashes."""
    _check_padded(leaf_hashes)
    return tlog.tree_root(leaf_hashes)


def batch_path(leaf_hashes: Sequence[bytes], index: int) -> list[bytes]:
    """The path of one leaf, from its sibling up, through the padded leaf hashes."""
    _check_padded(leaf_hashes)
    if not 0 <= index < len(leaf_hashes):
        raise ValueError(f"no leaf {index} in a batch of {len(leaf_hashes)}")
    path = []
    row = list(leaf_hashes)
    while len(row) > 1:
        path.append(row[index ^ 1])
        pairs = zip(row[::2], row[1::2], strict=True)
        row = [tlog.node_hash(*pair) for pair in pairs]
        index >>= 1
    return path


def _check_padded(leaf_hashes: Sequence[bytes]) -> None:
    if len(leaf_hashes).bit_count() != 1:
        raise ValueError(f"{len(leaf_hashes)} leaf hashes are no power of two")
