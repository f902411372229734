"""What the machine remembers of a subject, and the bytes of a snapshot.

A snapshot is deterministic CBOR:

    {0: 1 (version), 1: now_ms, 2: [contract, ...]}
    contract  [name, hash, the subject that found no room or null, [subject, ...]]
    subject   [key, faulted, inputs, rules]            in ascending order of key
    inputs    value, held, at_ms, device               of each input, in one array
    rules     phase, since_ms, known_once, unknown_ms, lost      of each rule, likewise
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

from edge import cbor
from edge.contracts.language import Contract
from edge.errors import RejectError

SNAPSHOT_VERSION = 1
IDLE, PENDING, ACTIVE = range(3)
NEVER = 2**63

T = TypeVar("T")


class RuleState:
    """One rule for one subject; a time is -1 where there is none."""

    __slots__ = ("known_once", "lost", "phase", "since_ms", "unknown_ms")

    def __init__(self) -> None:
        self.phase = IDLE
        self.since_ms = -1  # pending: since when TRUE; active: since when
        self.known_once = False  # on_unknown: ever not UNKNOWN,
        self.unknown_ms = -1  # UNKNOWN since; lost: since when
        self.lost = False  # UNKNOWN, and said so


class Subject:
    """One contract's state for one patient or device."""

    __slots__ = (
        "at_ms",
        "devices",
        "faulted",
        "held",
        "key",
        "queued_ms",
        "rules",
        "values",
    )

    def __init__(self, key: str, contract: Contract) -> None:
        count = len(contract.inputs)
        self.key = key
        self.values: list[int | None] = [None] * count  # what expressions see
        self.held: list[int | None] = [None] * count  # last usable sample while fresh
        self.at_ms = [-1] * count  # when `held` came
        self.devices = [""] * count  # and from which device
        self.rules = [RuleState() for _ in contract.rules]
        self.faulted = False
        self.queued_ms = NEVER  # its timer: never after what is due, maybe before

    def is_new(self) -> bool:
        """Whether nothing would be lost by forgetting it."""
        return (
            not self.faulted
            and all(held is None for held in self.held)
            and not any(rule.phase or rule.known_once for rule in self.rules)
        )

    def expire(self, contract: Contract, at_ms: int) -> None:
        """Make the inputs UNKNOWN whose freshness is over at `at_ms`."""
        for index, item in enumerate(contract.inputs):
            if self.held[index] is None:
                continue
            if at_ms - self.at_ms[index] > item.fresh_ms:
                self.values[index] = self.held[index] = None
                self.at_ms[index], self.devices[index] = -1, ""

    def due_ms(self, contract: Contract, after_ms: int) -> int:
        """When it next changes with no reading; NEVER if it does not.

        A `for` that ended at or before `after_ms` has been looked at and is not due.
        """
        due_ms = NEVER
        for index, item in enumerate(contract.inputs):
            if self.held[index] is not None:
                due_ms = min(due_ms, self.at_ms[index] + item.fresh_ms + 1)
        for rule, state in zip(contract.rules, self.rules, strict=True):
            if state.phase == PENDING and state.since_ms + rule.for_ms > after_ms:
                due_ms = min(due_ms, state.since_ms + rule.for_ms)
            if state.unknown_ms >= 0 and not state.lost:
                due_ms = min(due_ms, state.unknown_ms + rule.fresh_ms + 1)
        return due_ms

    def clear(self) -> None:
        """Forget inputs and what is pending; what is active stays active."""
        count = len(self.held)
        self.values, self.held = [None] * count, [None] * count
        self.at_ms, self.devices = [-1] * count, [""] * count
        for state in self.rules:
            if state.phase == PENDING:
                state.phase, state.since_ms = IDLE, -1
            if not state.lost:
                state.unknown_ms = -1


# A contract's state: name, hash, the refused subject, its subjects
Packed = tuple[str, bytes, str | None, list[object]]


def encode(now_ms: int, contracts: Iterable[Packed]) -> bytes:
    """The bytes of a snapshot."""
    return cbor.encode({0: SNAPSHOT_VERSION, 1: now_ms, 2: list(contracts)})


def decode(data: bytes) -> tuple[int, list[Packed]]:
    """now_ms and each contract's state; RejectError for what is no snapshot."""
    fields = _of(dict, cbor.decode(data))
    if fields.get(0) != SNAPSHOT_VERSION or set(fields) != {0, 1, 2}:
        raise RejectError(f"snapshot: not a map of version {SNAPSHOT_VERSION}")
    contracts: list[Packed] = []
    for item in _of(list, fields[2]):
        name, digest, refused, subjects = _row(item, 4)
        contracts.append(
            (
                _of(str, name),
                _of(bytes, digest),
                None if refused is None else _of(str, refused),
                _of(list, subjects),
            )
        )
    return _of(int, fields[1]), contracts


def pack(subject: Subject) -> object:
    """A subject as CBOR has it."""
    inputs: list[object] = []
    columns = (subject.values, subject.held, subject.at_ms, subject.devices)
    for row in zip(*columns, strict=True):
        inputs += row
    rules: list[object] = []
    for state in subject.rules:
        rules += (
            state.phase,
            state.since_ms,
            state.known_once,
            state.unknown_ms,
            state.lost,
        )
    return [subject.key, subject.faulted, inputs, rules]


def unpack(packed: object, contract: Contract) -> Subject:
    """The subject that `pack` made; RejectError where it does not fit the contract."""
    key, faulted, inputs, rules = _row(packed, 4)
    subject = Subject(_of(str, key), contract)
    subject.faulted = _of(bool, faulted)
    flat = _row(inputs, 4 * len(contract.inputs))
    for index in range(len(contract.inputs)):
        value, held, at_ms, device = flat[4 * index : 4 * index + 4]
        subject.values[index] = None if value is None else _of(int, value)
        subject.held[index] = None if held is None else _of(int, held)
        subject.at_ms[index] = _of(int, at_ms)
        subject.devices[index] = _of(str, device)
    flat = _row(rules, 5 * len(contract.rules))
    for index, state in enumerate(subject.rules):
        phase, since_ms, known_once, unknown_ms, lost = flat[5 * index : 5 * index + 5]
        state.phase = _of(int, phase)
        if state.phase not in (IDLE, PENDING, ACTIVE):
            raise RejectError(f"snapshot: a rule has no phase {phase}")
        state.since_ms = _of(int, since_ms)
        state.known_once = _of(bool, known_once)
        state.unknown_ms = _of(int, unknown_ms)
        state.lost = _of(bool, lost)
    return subject


def _row(item: object, length: int) -> list[object]:
    row = _of(list, item)
    if len(row) != length:
        raise RejectError(f"snapshot: {len(row)} items where {length} belong")
    return row


def _of(kind: type[T], item: object) -> T:
    if not isinstance(item, kind) or (kind is int and isinstance(item, bool)):
        raise RejectError(f"snapshot: no {kind.__name__} where one belongs")
    return item
