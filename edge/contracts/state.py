"""What the machine remembers of a subject, and the bytes of a snapshot.

A snapshot is deterministic CBOR:

    {0: 2 (version), 1: now_ms, 2: [contract, ...]}
    contract  [name, hash, schema, who found no room or null, [subject, ...]]
    subject   [key, faulted, inputs, rules, params, windows]  in ascending order of key
    inputs    value, held, at_ms, device, heard_ms     of each input, in one array
    rules     phase, since_ms, known_once, unknown_ms, lost, acked_by, lost_acked_by,
              steps, paused_ms, [start, ...]           of each rule, likewise
    params    value, set_ms                            of each param, likewise
    windows   [number, count, total, low, high, first, first_ms, last, last_ms, ...]
              one array of the buckets for each window

Version 1, of before there were params and windows, is read as well: its contracts have
no schema, its subjects four items, its inputs no heard_ms, its rules the first five.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

from edge import cbor
from edge.contracts.program import Contract, Rule
from edge.contracts.windows import Bucket, Samples
from edge.errors import RejectError

SNAPSHOT_VERSION, SNAPSHOT_BEFORE = 2, 1
# READY: `for` is met, and it waits for its delay, an inhibitor or its rate
IDLE, PENDING, ACTIVE, READY, LATCHED, INHIBITED = range(6)
NEVER = 2**63
_RULE_ITEMS, _BUCKET_ITEMS = 10, 9

T = TypeVar("T")


class RuleState:
    """One rule for one subject; a time is -1 where there is none."""

    __slots__ = (
        "acked_by",
        "known_once",
        "lost",
        "lost_acked_by",
        "paused_ms",
        "phase",
        "since_ms",
        "starts",
        "steps",
        "unknown_ms",
    )

    def __init__(self) -> None:
        self.phase = IDLE
        self.since_ms = -1  # pending: since when TRUE; ready: since when; else: start
        self.known_once = False  # on_unknown: ever not UNKNOWN,
        self.unknown_ms = -1  # UNKNOWN since; lost: since when
        self.lost = False  # UNKNOWN, and said so
        self.acked_by = ""  # who acknowledged the alarm, and the lost one
        self.lost_acked_by = ""
        self.steps = 0  # of the escalation that were taken
        self.paused_ms = -1  # until when
        self.starts: list[int] = []  # the newest, as many as max_rate counts

    def is_new(self) -> bool:
        """Whether nothing would be lost by forgetting it."""
        return (
            self.phase == IDLE
            and not self.known_once
            and not self.starts
            and self.paused_ms < 0
        )


class Subject:
    """One contract's state for one patient or device.

    `quiet` says that nothing is to be done for a rule that is not TRUE (and, with
    `on_unknown`, not UNKNOWN): it follows from the rest by `settle`.
    """

    __slots__ = (
        "at_ms",
        "devices",
        "faulted",
        "heard_ms",
        "held",
        "key",
        "params",
        "queued_ms",
        "quiet",
        "rules",
        "samples",
        "set_ms",
        "values",
    )

    def __init__(self, key: str, contract: Contract) -> None:
        count = len(contract.inputs)
        self.key = key
        self.values: list[int | None] = [None] * count  # what expressions see
        self.held: list[int | None] = [None] * count  # last usable sample while fresh
        self.at_ms = [-1] * count  # when `held` came
        self.heard_ms = [-1] * count  # when anything came, usable or not
        self.devices = [""] * count  # and from which device
        self.rules = [RuleState() for _ in contract.rules]
        self.params: list[int | None] = [one.default for one in contract.params]
        self.set_ms = [-1] * len(contract.params)  # when somebody set it
        self.samples = [Samples() for _ in contract.windows]
        self.faulted = False
        self.quiet = False
        self.settle(contract)
        self.queued_ms = NEVER  # its timer: never after what is due, maybe before

    def is_new(self, contract: Contract) -> bool:
        """Whether nothing would be lost by forgetting it."""
        return (
            not self.faulted
            and all(self.heard_ms[index] < 0 for index in contract.silents)
            and all(held is None for held in self.held)
            and all(rule.is_new() for rule in self.rules)
            and all(at < 0 for at in self.set_ms)
            and not any(one.buckets for one in self.samples)
        )

    def settle(self, contract: Contract) -> None:
        """Work out `quiet`, after anything but `take` may have changed a rule."""
        self.quiet = not self.faulted and all(
            state.phase == IDLE
            and state.paused_ms < 0
            and (rule.on_unknown is None or (state.known_once and state.unknown_ms < 0))
            for rule, state in zip(contract.rules, self.rules, strict=True)
        )

    def expire(self, contract: Contract, at_ms: int) -> None:
        """Forget what is too old at `at_ms`: samples, set params, buckets."""
        for index, item in enumerate(contract.inputs):
            if 0 <= self.at_ms[index] < at_ms - item.fresh_ms:
                self.values[index] = self.held[index] = None
                self.at_ms[index], self.devices[index] = -1, ""
        for index, param in enumerate(contract.params):
            set_ms = self.set_ms[index]
            if param.expires_ms and 0 <= set_ms <= at_ms - param.expires_ms:
                self.params[index], self.set_ms[index] = param.default, -1
        for window, samples in zip(contract.windows, self.samples, strict=True):
            samples.expire(window, at_ms)

    def clear(self) -> None:
        """Forget inputs and what is pending; what is active or set stays."""
        self.quiet = False
        count = len(self.held)
        self.values, self.held = [None] * count, [None] * count
        self.at_ms, self.devices = [-1] * count, [""] * count
        self.heard_ms = [-1] * count
        self.samples = [Samples() for _ in self.samples]
        for state in self.rules:
            if state.phase in (PENDING, READY):
                state.phase, state.since_ms = IDLE, -1
            if not state.lost:
                state.unknown_ms = -1


def rules_due_ms(subject: Subject, contract: Contract, after_ms: int) -> int:
    """When a rule next has to be looked at, with no reading; NEVER if not."""
    due_ms = NEVER
    for rule, state in zip(contract.rules, subject.rules, strict=True):
        if state.phase != IDLE or state.paused_ms >= 0:
            for one in _rule_due(rule, state):
                if after_ms < one < due_ms:
                    due_ms = one
        if state.unknown_ms >= 0 and not state.lost:
            due_ms = min(due_ms, state.unknown_ms + rule.fresh_ms + 1)
    return due_ms


def _rule_due(rule: Rule, state: RuleState) -> list[int]:
    """The times at which a rule has to be looked at again."""
    if state.phase == ACTIVE and state.paused_ms < 0 and not rule.escalate:
        return []  # as long as an alarm lasts
    found = [state.paused_ms]
    if state.phase == PENDING:
        found.append(state.since_ms + rule.for_ms)
    elif state.phase == READY:
        found.append(state.since_ms + rule.delay_ms)
        if rule.max_rate and len(state.starts) >= rule.max_rate[0]:
            found.append(state.starts[0] + rule.max_rate[1])
    elif (
        state.phase in (ACTIVE, LATCHED)
        and not state.acked_by
        and state.steps < len(rule.escalate)
    ):
        found.append(state.since_ms + rule.escalate[state.steps].after_ms)
    return found


# A contract's state: name, hash, schema, the refused subject, its subjects
Packed = tuple[str, bytes, bytes, str | None, list[object]]


def encode(now_ms: int, contracts: Iterable[Packed]) -> bytes:
    """The bytes of a snapshot."""
    return cbor.encode({0: SNAPSHOT_VERSION, 1: now_ms, 2: list(contracts)})


def decode(data: bytes) -> tuple[int, list[Packed]]:
    """now_ms and each contract's state; RejectError for what is no snapshot."""
    fields = _of(dict, cbor.decode(data))
    known = fields.get(0) in (SNAPSHOT_VERSION, SNAPSHOT_BEFORE)
    if not known or set(fields) != {0, 1, 2}:
        raise RejectError(f"snapshot: not a map of version {SNAPSHOT_VERSION}")
    contracts: list[Packed] = []
    for item in _of(list, fields[2]):
        row = _row(item, 4 if fields[0] == SNAPSHOT_BEFORE else 5)
        name, digest, *more, refused, subjects = row
        contracts.append(
            (
                _of(str, name),
                _of(bytes, digest),
                _of(bytes, more[0]) if more else b"",
                None if refused is None else _of(str, refused),
                _of(list, subjects),
            )
        )
    return _of(int, fields[1]), contracts


def pack(subject: Subject, known: cbor.Encodings) -> cbor.Encoded:
    """A subject as CBOR has it; `known` may be shared by all of a snapshot."""
    inputs: list[int | str | None] = []
    columns = (
        *(subject.values, subject.held, subject.at_ms),
        *(subject.devices, subject.heard_ms),
    )
    for row in zip(*columns, strict=True):
        inputs += row
    rules = [cbor.array_head(_RULE_ITEMS * len(subject.rules))]
    rules += map(_rule, subject.rules)
    params: list[int | None] = []
    for value, set_ms in zip(subject.params, subject.set_ms, strict=True):
        params += (value, set_ms)
    windows = [
        known.array([number for one in each.buckets for number in _bucket(one)])
        for each in subject.samples
    ]
    parts = (known.array(inputs), b"".join(rules), known.array(params))
    head = [cbor.array_head(6), known[subject.key], cbor.encode(subject.faulted)]
    return cbor.Encoded(
        b"".join([*head, *parts, cbor.array_head(len(windows)), *windows])
    )


def _rule(one: RuleState) -> bytes:
    """The items of a rule; nearly always it is idle and nothing is to be said of it."""
    if (
        one.phase == IDLE
        and one.since_ms < 0
        and one.unknown_ms < 0
        and one.paused_ms < 0
        and not (one.lost or one.starts or one.steps)
        and not (one.acked_by or one.lost_acked_by)
    ):
        return _IDLE_RULE[one.known_once]
    return _rule_items(one)


def _rule_items(one: RuleState) -> bytes:
    items = (
        *(one.phase, one.since_ms, one.known_once, one.unknown_ms, one.lost),
        *(one.acked_by, one.lost_acked_by, one.steps, one.paused_ms),
        list(one.starts),
    )
    return b"".join(map(cbor.encode, items))


def _idle_rule(*, known_once: bool) -> bytes:
    state = RuleState()
    state.known_once = known_once
    return _rule_items(state)


_IDLE_RULE = (_idle_rule(known_once=False), _idle_rule(known_once=True))


def _bucket(one: Bucket) -> list[int]:
    return [
        *(one.number, one.count, one.total, one.low, one.high),
        *(one.first, one.first_ms, one.last, one.last_ms),
    ]


def unpack(packed: object, contract: Contract) -> Subject:
    """The subject that `pack` made; RejectError where it does not fit the contract."""
    items = _of(list, packed)
    before = len(items) == 4  # of version 1
    key, faulted, inputs, rules, *more = _row(items, 4 if before else 6)
    subject = Subject(_of(str, key), contract)
    subject.faulted = _of(bool, faulted)
    width = 4 if before else 5
    flat = _row(inputs, width * len(contract.inputs))
    for index in range(len(contract.inputs)):
        value, held, at_ms, device, *heard = flat[width * index : width * (index + 1)]
        subject.values[index] = None if value is None else _of(int, value)
        subject.held[index] = None if held is None else _of(int, held)
        subject.at_ms[index] = -1 if held is None else _of(int, at_ms)
        subject.devices[index] = _of(str, device)
        subject.heard_ms[index] = _of(int, heard[0] if heard else at_ms)
    width = 5 if before else _RULE_ITEMS
    flat = _row(rules, width * len(contract.rules))
    for index, state in enumerate(subject.rules):
        _unpack_rule(state, flat[width * index : width * (index + 1)])
    if more:
        _unpack_params(subject, more[0], contract)
        _unpack_windows(subject, more[1], contract)
    subject.settle(contract)
    return subject


def _unpack_rule(state: RuleState, items: list[object]) -> None:
    phase, since_ms, known_once, unknown_ms, lost, *more = items
    state.phase = _of(int, phase)
    if state.phase not in range(INHIBITED + 1):
        raise RejectError(f"snapshot: a rule has no phase {phase}")
    state.since_ms = _of(int, since_ms)
    state.known_once = _of(bool, known_once)
    state.unknown_ms = _of(int, unknown_ms)
    state.lost = _of(bool, lost)
    if more:
        acked_by, lost_acked_by, steps, paused_ms, starts = more
        state.acked_by = _of(str, acked_by)
        state.lost_acked_by = _of(str, lost_acked_by)
        state.steps = _of(int, steps)
        state.paused_ms = _of(int, paused_ms)
        state.starts = [_of(int, one) for one in _of(list, starts)]


def _unpack_params(subject: Subject, packed: object, contract: Contract) -> None:
    flat = _row(packed, 2 * len(contract.params))
    for index in range(len(contract.params)):
        value, set_ms = flat[2 * index : 2 * index + 2]
        subject.params[index] = None if value is None else _of(int, value)
        subject.set_ms[index] = _of(int, set_ms)


def _unpack_windows(subject: Subject, packed: object, contract: Contract) -> None:
    listed = _row(packed, len(contract.windows))
    for samples, numbers in zip(subject.samples, listed, strict=True):
        flat = [_of(int, one) for one in _of(list, numbers)]
        if len(flat) % _BUCKET_ITEMS:
            raise RejectError("snapshot: a bucket is cut")
        for at in range(0, len(flat), _BUCKET_ITEMS):
            number, count, total, low, high, *rest = flat[at : at + _BUCKET_ITEMS]
            bucket = Bucket(number, 0, 0)
            bucket.count, bucket.total = count, total
            bucket.low, bucket.high = low, high
            bucket.first, bucket.first_ms, bucket.last, bucket.last_ms = rest
            samples.buckets.append(bucket)
            samples.count += count
            samples.total += total


def _row(item: object, length: int) -> list[object]:
    row = _of(list, item)
    if len(row) != length:
        raise RejectError(f"snapshot: {len(row)} items where {length} belong")
    return row


def _of(kind: type[T], item: object) -> T:
    if not isinstance(item, kind) or (kind is int and isinstance(item, bool)):
        raise RejectError(f"snapshot: no {kind.__name__} where one belongs")
    return item
