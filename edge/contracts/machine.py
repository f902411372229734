"""The machine: readings in, firings out. Deterministic, integers only, no clock.

Time is what the caller says: `received_ms` of the records in their order, never going
back. What falls due between two records falls due at its own deadline: a firing's
`at_ms` does not depend on when somebody called `advance`, and due work at a time is
done before a record of that same time. So the same records give the same firings for
any batching, any ticks, and after a restore at any index.

An input of a subject is, at time t,

    known     its newest sample, until `fresh` has passed since it came (t - at > fresh)
    UNKNOWN   never sent, older than that, or called unknown by the device it came from

and a rule is, by the value of its `when`,

              TRUE, for "for" without a break
    idle ───► pending ─────────────────────► active ───► idle
                │  ▲                fires "start"   fires "end"
                └──┘ FALSE, or a gap over `fresh`    when `rearm` is TRUE, `when` is not

UNKNOWN neither starts nor ends anything. A pending rule outlives an UNKNOWN only while
the last usable samples, none older than its `fresh`, still make it TRUE; to fire, it
must be TRUE itself at that moment.
"""

from __future__ import annotations

import heapq
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal

from edge.contracts import state
from edge.contracts.expression import Evaluate, evaluator, fixed_point
from edge.contracts.language import Contract, Rule
from edge.contracts.state import ACTIVE, IDLE, NEVER, PENDING, RuleState, Subject
from edge.model import Firing

SUBJECTS_MAX = 1_024  # of one contract
PLANS_MAX = 256  # remembered combinations of metrics in one reading
TIMERS_SLACK = 256  # timers, beside two for each subject, before they are rebuilt
FAULT, SUBJECTS = "fault", "subjects"  # rules of the machine's own firings


@dataclass(frozen=True, slots=True)
class _RunningRule:
    rule: Rule
    when: Evaluate
    rearm: Evaluate | None


@dataclass(slots=True)
class _Running:
    """A contract at work; `refused` is the subject that found no room."""

    contract: Contract
    order: int
    rules: list[_RunningRule]
    subjects: dict[str, Subject]
    refused: str | None = None


# One contract's share of a reading: (input, metric, scale) of the known, unknown inputs
_Share = tuple[_Running, list[tuple[int, str, int]], list[int]]


class Machine:
    """Evaluates contracts over readings; holds the state of every subject."""

    def __init__(self, contracts: Sequence[Contract]) -> None:
        if len({contract.name for contract in contracts}) != len(contracts):
            raise ValueError("two contracts of one name")
        self._running = [_run(c, order) for order, c in enumerate(contracts)]
        self._now_ms = 0
        self._timers: list[tuple[int, int, str]] = []  # heap: deadline, order, subject
        self._timers_max = TIMERS_SLACK
        self._plans: dict[tuple[tuple[str, ...], tuple[str, ...]], list[_Share]] = {}

    def observe(
        self,
        received_ms: int,
        device: str,
        patient: str | None,
        values: Mapping[str, Decimal],
        unknown: Collection[str] = (),
    ) -> list[Firing]:
        """What fires when a device's reading arrives, after what fell due before it.

        `values` are the reading's known metrics; `unknown` names those that it sent but
        that nobody may rely on (implausible, or no contact): they become UNKNOWN at
        once, unless the value at hand is another device's. A reading that comes late
        (store and forward) is not for the machine, which takes all as measured now.
        """
        firings = self.advance(received_ms)
        scaled: dict[tuple[str, int], int] = {}
        for running, known, lost in self._plan(values, unknown):
            key = _subject_key(running.contract, device, patient)
            if key is None:
                continue
            subject = running.subjects.get(key)
            if subject is None:
                subject = _admit(running, key, received_ms, firings)
                if subject is None:
                    continue
            try:
                for index, metric, scale in known:
                    value = scaled.get((metric, scale))
                    if value is None:
                        value = fixed_point(values[metric], scale)
                        scaled[metric, scale] = value
                    self._take(running, subject, index, value, received_ms, device)
            except ArithmeticError as error:
                _fault(running, subject, received_ms, str(error), firings)
                continue
            for index in lost:
                if subject.devices[index] == device:
                    subject.values[index] = None
            self._evaluate(running, subject, received_ms, firings)
            if not known and subject.is_new():
                del running.subjects[key]
        return firings

    def advance(self, now_ms: int) -> list[Firing]:
        """What falls due up to and with `now_ms`, by deadline, contract and subject."""
        if now_ms < self._now_ms:
            raise AssertionError(f"time went back from {self._now_ms} to {now_ms}")
        firings: list[Firing] = []
        timers = self._timers
        while timers and timers[0][0] <= now_ms:
            at_ms, order, key = heapq.heappop(timers)
            running = self._running[order]
            subject = running.subjects.get(key)
            if subject is None or subject.queued_ms != at_ms:
                continue  # forgotten, or an earlier timer took its place
            self._now_ms = at_ms
            subject.queued_ms = NEVER
            if subject.due_ms(running.contract, at_ms - 1) == at_ms:
                subject.expire(running.contract, at_ms)
                self._evaluate(running, subject, at_ms, firings)
                if subject.is_new():
                    del running.subjects[key]
                    continue
            self._wake(running, subject, subject.due_ms(running.contract, at_ms))
        self._now_ms = now_ms
        if len(timers) > self._timers_max:
            self._rebuild_timers()
        return firings

    def next_deadline_ms(self) -> int | None:
        """When something falls due next if no reading comes; None if nothing does."""
        timers = self._timers
        while timers:
            at_ms, order, key = timers[0]
            running = self._running[order]
            subject = running.subjects.get(key)
            if subject is not None and subject.queued_ms == at_ms:
                due_ms = subject.due_ms(running.contract, self._now_ms)
                if due_ms == at_ms:
                    return at_ms
                subject.queued_ms = NEVER
                self._wake(running, subject, due_ms)
            heapq.heappop(timers)
        return None

    def release(self, now_ms: int, subject: str) -> list[Firing]:
        """Forget a subject (`patient:<id>` or `device:<name>`), as on its discharge.

        Ends what is active for it. Without this a subject of rules with `on_unknown` is
        kept for ever.
        """
        firings = self.advance(now_ms)
        for running in self._running:
            found = running.subjects.pop(subject, None)
            if found is None:
                continue
            for index, rule in enumerate(running.contract.rules):
                for label in _active(rule, found.rules[index]):
                    firings.append(_fire(running, found, index, label, "end", now_ms))
            if found.faulted:
                firings.append(_own(running, FAULT, "end", subject, now_ms))
        return firings

    def active(self) -> list[Firing]:
        """The start of everything that has not ended, as when it fired.

        For a view that begins anew, such as the page after a restart. The values are
        those of now.
        """
        firings: list[Firing] = []
        for running in self._running:
            for subject in running.subjects.values():
                for index, rule in enumerate(running.contract.rules):
                    now = subject.rules[index]
                    for name in _active(rule, now):
                        at_ms = now.since_ms if name == rule.name else now.unknown_ms
                        firings.append(
                            _fire(running, subject, index, name, "start", at_ms)
                        )
        return firings

    def snapshot(self) -> bytes:
        """The whole state (format: state.py), for `restore` into the same contracts."""
        contracts: list[state.Packed] = []
        for running in self._running:
            subjects = sorted(running.subjects.items())
            packed = [state.pack(subject) for _, subject in subjects]
            contract = running.contract
            contracts.append((contract.name, contract.hash, running.refused, packed))
        return state.encode(self._now_ms, contracts)

    def restore(self, data: bytes) -> list[str]:
        """Take the state of a snapshot in place of this one; what could not be taken.

        State of a contract that is not here with that very hash is dropped, and a
        sentence says so. Raises RejectError, with nothing changed, for bytes that are
        no snapshot.
        """
        now_ms, states = state.decode(data)
        dropped: list[str] = []
        found: list[tuple[_Running, str | None, dict[str, Subject]]] = []
        here = {running.contract.hash: running for running in self._running}
        for name, digest, refused, packed in states:
            running = here.get(digest)
            if running is not None:
                subjects = [state.unpack(item, running.contract) for item in packed]
                found.append((running, refused, {s.key: s for s in subjects}))
            elif packed:
                dropped.append(
                    f"contract {name} ({digest.hex()[:12]}) is not active any more: "
                    f"its state of {len(packed)} subjects is dropped"
                )
        for running in self._running:
            running.subjects, running.refused = {}, None
        for running, refused, taken in found:
            running.subjects, running.refused = taken, refused
        self._now_ms = now_ms
        self._rebuild_timers()
        return dropped

    def _take(
        self,
        running: _Running,
        subject: Subject,
        index: int,
        value: int,
        at_ms: int,
        device: str,
    ) -> None:
        if subject.held[index] is None:  # otherwise its timer comes early, and is moved
            fresh_ms = running.contract.inputs[index].fresh_ms
            self._wake(running, subject, at_ms + fresh_ms + 1)
        subject.values[index] = subject.held[index] = value
        subject.at_ms[index] = at_ms
        subject.devices[index] = device

    def _plan(
        self, values: Mapping[str, Decimal], unknown: Collection[str]
    ) -> list[_Share]:
        key = (tuple(values), tuple(sorted(unknown)))
        plan = self._plans.get(key)
        if plan is None:
            plan = [_share(running, values, unknown) for running in self._running]
            plan = [share for share in plan if share[1] or share[2]]
            if len(self._plans) >= PLANS_MAX:
                self._plans.clear()
            self._plans[key] = plan
        return plan

    def _wake(self, running: _Running, subject: Subject, at_ms: int) -> None:
        """Have a timer for the subject at `at_ms` or before."""
        if at_ms >= subject.queued_ms:
            return
        subject.queued_ms = at_ms
        heapq.heappush(self._timers, (at_ms, running.order, subject.key))

    def _rebuild_timers(self) -> None:
        self._timers.clear()
        for running in self._running:
            for subject in running.subjects.values():
                subject.queued_ms = subject.due_ms(running.contract, self._now_ms)
                if subject.queued_ms != NEVER:
                    self._timers.append((subject.queued_ms, running.order, subject.key))
        heapq.heapify(self._timers)
        self._timers_max = 2 * len(self._timers) + TIMERS_SLACK

    def _evaluate(
        self, running: _Running, subject: Subject, at_ms: int, firings: list[Firing]
    ) -> None:
        try:
            for index, running_rule in enumerate(running.rules):
                self._step(running, subject, index, running_rule, at_ms, firings)
        # a mistake in one contract's evaluation must not silence the other contracts
        except Exception as error:  # noqa: BLE001
            detail = f"{type(error).__name__}: {error}"
            _fault(running, subject, at_ms, detail, firings)
            return
        if subject.faulted:
            subject.faulted = False
            firings.append(_own(running, FAULT, "end", subject.key, at_ms))

    def _step(
        self,
        running: _Running,
        subject: Subject,
        index: int,
        running_rule: _RunningRule,
        at_ms: int,
        firings: list[Firing],
    ) -> None:
        rule, now = running_rule.rule, subject.rules[index]
        holds = running_rule.when(subject.values)
        if now.phase == ACTIVE:
            rearm = running_rule.rearm
            ends = holds is False if rearm is None else rearm(subject.values)
            if ends and not holds:
                now.phase, now.since_ms = IDLE, -1
                firings.append(_fire(running, subject, index, rule.name, "end", at_ms))
        elif holds:
            if now.phase == IDLE:
                now.phase, now.since_ms = PENDING, at_ms
                if rule.for_ms:
                    self._wake(running, subject, at_ms + rule.for_ms)
            if at_ms - now.since_ms >= rule.for_ms:
                now.phase, now.since_ms = ACTIVE, at_ms
                firings.append(
                    _fire(running, subject, index, rule.name, "start", at_ms)
                )
        elif now.phase == PENDING and (
            holds is False or not running_rule.when(subject.held)
        ):
            now.phase, now.since_ms = IDLE, -1
        if rule.on_unknown is not None:
            self._step_unknown(running, subject, index, holds is None, at_ms, firings)

    def _step_unknown(
        self,
        running: _Running,
        subject: Subject,
        index: int,
        unknown: bool,
        at_ms: int,
        firings: list[Firing],
    ) -> None:
        rule, now = running.contract.rules[index], subject.rules[index]
        label = rule.on_unknown or ""
        if not unknown:
            now.known_once, now.unknown_ms = True, -1
            if now.lost:
                now.lost = False
                firings.append(_fire(running, subject, index, label, "end", at_ms))
        elif now.known_once and not now.lost:
            if now.unknown_ms < 0:
                now.unknown_ms = at_ms
                self._wake(running, subject, at_ms + rule.fresh_ms + 1)
            elif at_ms - now.unknown_ms > rule.fresh_ms:
                now.lost, now.unknown_ms = True, at_ms
                firings.append(_fire(running, subject, index, label, "start", at_ms))


def _subject_key(contract: Contract, device: str, patient: str | None) -> str | None:
    if contract.subject == "device":
        return f"device:{device}"
    return None if patient is None else f"patient:{patient}"


def _run(contract: Contract, order: int) -> _Running:
    rules = [
        _RunningRule(
            rule,
            evaluator(rule.when.tree),
            None if rule.rearm is None else evaluator(rule.rearm.tree),
        )
        for rule in contract.rules
    ]
    return _Running(contract, order, rules, {})


def _share(
    running: _Running, values: Mapping[str, Decimal], unknown: Collection[str]
) -> _Share:
    known: list[tuple[int, str, int]] = []
    lost: list[int] = []
    for index, item in enumerate(running.contract.inputs):
        if item.metric in unknown:
            lost.append(index)
        elif item.metric in values:
            known.append((index, item.metric, item.scale))
    return running, known, lost


def _admit(
    running: _Running, key: str, at_ms: int, firings: list[Firing]
) -> Subject | None:
    """A new subject; None, and a technical firing, when there is no room for it."""
    if len(running.subjects) >= SUBJECTS_MAX:
        if running.refused is None:
            running.refused = key
            detail = f"not watched: {SUBJECTS_MAX} subjects already"
            firings.append(_own(running, SUBJECTS, "start", key, at_ms, detail))
        return None
    if running.refused is not None:
        firings.append(_own(running, SUBJECTS, "end", running.refused, at_ms))
        running.refused = None
    subject = running.subjects[key] = Subject(key, running.contract)
    return subject


def _fault(
    running: _Running, subject: Subject, at_ms: int, detail: str, firings: list[Firing]
) -> None:
    """Contain a fault: this subject begins anew here, but what is active stays so."""
    subject.clear()
    if not subject.faulted:
        subject.faulted = True
        firings.append(_own(running, FAULT, "start", subject.key, at_ms, detail))


def _active(rule: Rule, now: RuleState) -> list[str]:
    """The names under which the rule has started something that has not ended."""
    names = [rule.name] if now.phase == ACTIVE else []
    if now.lost and rule.on_unknown is not None:
        names.append(rule.on_unknown)
    return names


def _fire(
    running: _Running, subject: Subject, index: int, name: str, phase: str, at_ms: int
) -> Firing:
    contract = running.contract
    rule = contract.rules[index]
    technical = name != rule.name
    return Firing(
        contract=contract.name,
        contract_hash=contract.hash,
        rule=name,
        priority="technical" if technical else rule.priority,
        phase=phase,
        subject=subject.key,
        at_ms=at_ms,
        values={contract.inputs[i].name: subject.values[i] for i in rule.inputs},
        detail=f"{rule.name} cannot be decided" if technical else rule.when.source,
    )


def _own(
    running: _Running, rule: str, phase: str, key: str, at_ms: int, detail: str = ""
) -> Firing:
    """A technical firing of the machine itself about one contract and subject."""
    contract = running.contract
    return Firing(
        contract.name, contract.hash, rule, "technical", phase, key, at_ms, {}, detail
    )
