"""The core types that every room speaks of; no I/O, no clock, no randomness.

A *message* is what a device sent (an MQTT payload, a GATT notification). The intake
takes it as an Arrival and answers with an Outcome once it is durable. Admitted, it is
one Record (docs/ledger-format.md section 3) and holds one or more Readings.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from enum import IntEnum, IntFlag, StrEnum
from functools import lru_cache
from typing import NamedTuple, TypeVar

from edge import cbor
from edge.errors import Reason, RejectError

T = TypeVar("T")

RECORD_VERSION = 1
NAME_CHARACTERS = frozenset(
    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-"
)
NAME_LENGTH_MAX = 64
RESERVED_NAMES = frozenset({"alerts", "cmd", "receipt"})
EMPTY: Mapping[str, Decimal] = {}
NO_TEXTS: Mapping[str, str] = {}
HEADS_KEPT = 4096  # of records: a device in one assignment has one or two
# Of a firing. `inhibited`: a graver rule of the contract covers it; `resumed`: a pause
# is over and the alarm still there; `finding`: what a late reading would have raised.
PHASES = (
    *("start", "end", "latched", "inhibited", "escalate"),
    *("acknowledged", "paused", "resumed", "finding"),
)


def is_name(text: str) -> bool:
    """Whether `text` may name a device or a stream (docs/wire-format.md)."""
    return (
        0 < len(text) <= NAME_LENGTH_MAX
        and NAME_CHARACTERS.issuperset(text)
        and text not in RESERVED_NAMES
    )


class Source(StrEnum):
    """The door a message came through."""

    MQTT = "mqtt"
    BLE = "ble"
    TYPED = "typed"


class Kind(IntEnum):
    """What a record is."""

    COUNT = 0
    READING = 1
    FIRING = 2
    TICK = 3
    ASSIGNMENT = 4
    ERASURE = 5
    TRANSFER = 6
    ACTION = 7
    CONTRACT = 8
    EVENT = 9


class Attestation(IntEnum):
    """Who vouches for a reading."""

    GATEWAY = 0
    DEVICE = 1


class Flag(IntFlag):
    """What a record says about the circumstances of its reading."""

    LATE = 1
    UNSYNCED = 2
    BACKLOG = 4
    IMPLAUSIBLE = 8
    NO_CONTACT = 16
    TYPED = 32


NO_FLAGS = Flag(0)


class Verdict(StrEnum):
    """What became of a message."""

    COMMITTED = "committed"
    DUPLICATE = "duplicate"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Outcome:
    """The answer to a message, given only after it is durable."""

    verdict: Verdict
    reason: Reason | None = None
    detail: str = ""


@dataclass(slots=True)
class Arrival:
    """A message at a door, as the door received it.

    `principal` is who the door knows the sender to be, for quotas and quarantine
    (`mqtt:<user or peer>`, `ble:<address>`); `user` is the authenticated user name, or
    None. `device` and `stream` are what the address says (topic, GATT characteristic),
    empty when the address could not be read: then `refusal` holds the door's own
    refusal, and the intake counts and keeps it like any other. `redelivered` and
    `packet_id` are MQTT's own marks, 0 where there is none; over BLE `redelivered` says
    that we asked for what the device had stored. `backlog` says that the door knows
    the message to be too old to tell of now. `address` is a Bluetooth device's, 6
    bytes. `will` says that the device vanished and left this payload for that case.
    `settle` is called once, on the event loop, after the commit that holds the message.
    `mapping` is the rule (devices/mapped.py) by which a payload that is not of ours is
    read.
    """

    source: Source
    principal: str
    device: str
    stream: str
    payload: bytes
    settle: Callable[[Outcome], None]
    user: str | None = None
    redelivered: bool = False
    packet_id: int = 0
    backlog: bool = False
    link: str | None = "mqtt"
    will: bool = False
    mapping: bytes = b""
    address: bytes | None = None
    refusal: tuple[Reason, str] | None = None


class Reading(NamedTuple):
    """Values that a device measured at one time.

    `time_ms` is the device's, or None where it told none. `values` maps metric names
    (devices/metrics.py) to exact decimals in the metric's unit; `texts` holds the one
    metric that is a letter (acvpu). `implausible` names the values outside their range.
    """

    time_ms: int | None
    values: Mapping[str, Decimal]
    texts: Mapping[str, str] = NO_TEXTS
    implausible: frozenset[str] = frozenset()

    @property
    def no_contact(self) -> bool:
        """Whether the sensor itself says that it touches nobody."""
        return self.values.get("sensor_contact") == 0

    def known(self) -> Mapping[str, Decimal]:
        """The values that a contract may rely on; the others are unknown to it."""
        if self.no_contact:
            return EMPTY
        if not self.implausible:
            return self.values
        return {n: v for n, v in self.values.items() if n not in self.implausible}


class Record(NamedTuple):
    """A canonical record: what a leaf of a batch commits to.

    A tuple, as is all that each message makes: it costs a third of a frozen dataclass.
    """

    kind: Kind
    received_ms: int
    original: bytes
    device: str | None = None
    stream: str | None = None
    attestation: Attestation = Attestation.GATEWAY
    link: str | None = None
    flags: Flag = NO_FLAGS
    assignment: bytes | None = None
    address: bytes | None = None  # 6 bytes, highest first: a Bluetooth device's

    def encode(self) -> bytes:
        """The canonical bytes (docs/ledger-format.md section 3)."""
        kind, received_ms, original, device, stream, *_, address = self
        before, between = _around(
            kind,
            device,
            stream,
            self.attestation,
            self.link,
            self.flags,
            self.assignment,
            address is not None,
        )
        time, head = cbor.integer(received_ms), cbor.bytes_head(len(original))
        encoded = before + time + between + head + original
        return encoded if address is None else encoded + b"\x0a" + cbor.encode(address)

    @staticmethod
    def decode(data: bytes) -> Record:
        """The record of these bytes; RejectError names the field that is wrong."""
        fields = cbor.decode(data)
        if not isinstance(fields, dict) or _field(fields, 0, int) != RECORD_VERSION:
            raise RejectError("record: not a map of version 1")
        unknown = set(fields) - set(range(11))
        if unknown:
            raise RejectError(f"record: unknown field {min(map(str, unknown))}")
        try:
            return Record(
                kind=Kind(_field(fields, 1, int)),
                received_ms=_field(fields, 4, int),
                original=_field(fields, 9, bytes),
                device=_optional(fields, 2, str),
                stream=_optional(fields, 3, str),
                attestation=Attestation(_field(fields, 5, int)),
                link=_optional(fields, 6, str),
                flags=Flag(_field(fields, 7, int)),
                assignment=_optional(fields, 8, bytes),
                address=_optional(fields, 10, bytes),
            )
        except ValueError as error:
            raise RejectError(f"record: {error}") from error


@lru_cache(HEADS_KEPT)
def _around(
    kind: int,
    device: str | None,
    stream: str | None,
    attestation: int,
    link: str | None,
    flags: int,
    assignment: bytes | None,
    address_known: bool,
) -> tuple[bytes, bytes]:
    """What stands in a record before the value of its field 4, and up to 9's value."""
    optional = ((2, device), (3, stream), (6, link), (8, assignment))
    fields: dict[int, int | str | bytes] = {
        0: RECORD_VERSION,
        1: int(kind),
        5: int(attestation),
        7: int(flags),
        **{key: value for key, value in optional if value is not None},
    }
    pairs = {key: cbor.encode(key) + cbor.encode(fields[key]) for key in sorted(fields)}
    before = [pair for key, pair in pairs.items() if key < 4]
    between = [pair for key, pair in pairs.items() if key > 4]
    head = cbor.map_head(len(pairs) + 2 + address_known)
    return b"".join([head, *before, b"\x04"]), b"".join([*between, b"\x09"])


@dataclass(frozen=True, slots=True)
class Firing:
    """What a contract emits when an alarm of one of its rules changes.

    `phase` is one of PHASES. `subject` is the key the contract ran under:
    `patient:<id>` or `device:<name>`. `values` are the inputs the rule saw and what it
    shows, in fixed point, None for unknown. `at_ms` is on the records' received_ms
    clock. `to` is the role of an escalation, `actor` who acknowledged, paused or
    released, `until_ms` the end of a pause; a `paused` alarm is recorded, not sounded.
    """

    contract: str
    contract_hash: bytes
    rule: str
    priority: str  # high, medium, low, technical
    phase: str
    subject: str
    at_ms: int
    values: Mapping[str, int | None]
    detail: str = ""
    to: str = ""
    actor: str = ""
    paused: bool = False
    until_ms: int = 0

    def encode(self) -> bytes:
        """The original of a firing's record (docs/ledger-format.md section 3)."""
        fields: dict[int, object] = {
            1: self.contract,
            2: self.contract_hash,
            3: self.rule,
            4: self.priority,
            5: self.phase,
            6: dict(self.values),
            7: self.detail,
            8: self.subject,
            9: self.at_ms,
        }
        more = {10: self.to, 11: self.actor, 12: self.paused, 13: self.until_ms}
        fields.update({key: value for key, value in more.items() if value})
        return cbor.encode(fields)

    @classmethod
    def decode(cls, original: bytes) -> Firing:
        """The firing of a record's original; RejectError where it is none."""
        fields = cbor.decode(original)
        if not isinstance(fields, dict) or not (
            set(range(1, 10)) <= set(fields) <= set(range(1, 14))
        ):
            raise RejectError("firing: not a map of the keys 1 to 9, perhaps 10 to 13")
        if fields.get(12, True) is not True:
            raise RejectError("firing: field 12 is not true")
        return cls(
            contract=_field(fields, 1, str),
            contract_hash=_field(fields, 2, bytes),
            rule=_field(fields, 3, str),
            priority=_field(fields, 4, str),
            phase=_field(fields, 5, str),
            subject=_field(fields, 8, str),
            at_ms=_field(fields, 9, int),
            values=_field(fields, 6, dict),
            detail=_field(fields, 7, str),
            to=_optional(fields, 10, str) or "",
            actor=_optional(fields, 11, str) or "",
            paused=12 in fields,
            until_ms=_optional(fields, 13, int) or 0,
        )


class EventKind(StrEnum):
    """What happened to a device, other than that it measured something."""

    LOST = "lost"  # it vanished, and its will was published
    GAP = "gap"  # it skipped sequences; they may come later


@dataclass(frozen=True, slots=True)
class Event:
    """The original of a record of kind EVENT (docs/ledger-format.md section 3)."""

    what: EventKind
    first: int | None = None  # of the sequences that are missing
    last: int | None = None
    will: bytes | None = None

    def encode(self) -> bytes:
        """The canonical bytes."""
        fields: dict[int, object] = {1: self.what.value}
        optional = {2: self.first, 3: self.last, 4: self.will}
        fields.update({k: v for k, v in optional.items() if v is not None})
        return cbor.encode(fields)

    @classmethod
    def decode(cls, original: bytes) -> Event:
        """The event of a record's original; RejectError where it is none."""
        fields = cbor.decode(original)
        if not isinstance(fields, dict) or not {1} <= set(fields) <= {1, 2, 3, 4}:
            raise RejectError("event: not a map of the keys 1 to 4")
        try:
            return cls(
                EventKind(_field(fields, 1, str)),
                _optional(fields, 2, int),
                _optional(fields, 3, int),
                _optional(fields, 4, bytes),
            )
        except ValueError as error:
            raise RejectError(f"event: {error}") from error


class LiveReading(NamedTuple):
    """A committed reading on its way to the live views."""

    device: str
    patient: str | None
    link: str
    attestation: Attestation
    flags: Flag
    received_ms: int
    reading: Reading


@dataclass(frozen=True, slots=True)
class LiveFiring:
    """A committed firing on its way out; `reading_id` is its name in the ledger.

    `number` is its place among all firings, 0 where it is shown once more.
    """

    firing: Firing
    device: str | None
    patient: str | None
    reading_id: str
    number: int = 0


class FeedItem(NamedTuple):
    """One message of a feed: what every subscriber reads at their own pace."""

    number: int
    topic: str
    payload: bytes


class FeedPage(NamedTuple):
    """What follows a number; `through` is the last number that was looked at."""

    items: tuple[FeedItem, ...]
    through: int


@dataclass(frozen=True, slots=True)
class CommitReport:
    """What one commit made durable; built after it, for everything that shows it.

    `totals` counts messages since the store began: received, committed, duplicates,
    refused. `refusals` are (device as the message named it, reason, detail).
    """

    time_ms: int
    tree_size: int
    clock_synced: bool
    readings: tuple[LiveReading, ...]
    firings: tuple[LiveFiring, ...]
    refusals: tuple[tuple[str, Reason, str], ...]
    totals: Mapping[str, int]


def _field(fields: dict[object, object], key: int, kind: type[T]) -> T:
    value = fields.get(key)
    if not isinstance(value, kind) or isinstance(value, bool):
        raise RejectError(f"record: field {key} is missing or no {kind.__name__}")
    return value


def _optional(fields: dict[object, object], key: int, kind: type[T]) -> T | None:
    return _field(fields, key, kind) if key in fields else None
