"""A contract at work: its compiled rules, its subjects, and the firings they make."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from functools import partial
from typing import Any

from edge.contracts.compiled import Evaluate, compile_rules, compile_shown
from edge.contracts.expression import fixed_point
from edge.contracts.program import Contract, Rule
from edge.contracts.rules import Turn, step, step_unknown
from edge.contracts.shortcut import (
    EVALUATE,
    WAKE,
    Due,
    Known,
    Look,
    Take,
    compile_due,
    compile_look,
    compile_take,
)
from edge.contracts.state import (
    ACTIVE,
    IDLE,
    INHIBITED,
    LATCHED,
    PENDING,
    READY,
    RuleState,
    Subject,
)
from edge.model import Firing

SUBJECTS_MAX = 1_024  # of one contract
TAKES_MAX = 64  # compiled combinations of inputs in one reading
FAULT, SUBJECTS = "fault", "subjects"  # rules of the machine's own firings
Value = Decimal | str  # of a metric that is a letter


class AlarmState(StrEnum):
    """The states of an alarm, in the words of IEC 60601-1-8 and IHE ACM."""

    PENDING = "pending"
    ACTIVE = "active"
    LATCHED = "latched"
    ACKNOWLEDGED = "acknowledged"
    PAUSED = "paused"
    ESCALATED = "escalated"
    INHIBITED = "inhibited"


@dataclass(frozen=True, slots=True)
class Alarm:
    """What a rule is at for a subject, where it is not idle."""

    contract: str
    rule: str
    priority: str
    subject: str
    state: AlarmState
    since_ms: int
    acked_by: str
    paused_ms: int  # until when, -1 where it is not
    values: Mapping[str, int | None]


class Running:
    """One contract and the state of its subjects; `refused` is who found no room."""

    def __init__(self, contract: Contract) -> None:
        self.contract = contract
        self.subjects: dict[str, Subject] = {}
        self.refused: str | None = None
        self._rules = [
            (
                *(2 * index, index, rule, rule.on_unknown is None),
                not rule.inhibited_by and not rule.escalate,
            )
            for index, rule in enumerate(contract.rules)
        ]
        self._takes: dict[tuple[Known, ...], Take] = {}
        self.due_ms: Due = compile_due(contract)
        self._look: Look = compile_look(contract)
        self._evaluate: Evaluate = compile_rules(contract)
        self._show = [compile_shown(contract, rule) for rule in contract.rules]

    # ---- Subjects ----

    def key(self, device: str, patient: str | None) -> str | None:
        """The subject that a device's reading belongs to, None for nobody's."""
        if self.contract.subject == "device":
            return f"device:{device}"
        return None if patient is None else f"patient:{patient}"

    def admit(self, key: str, at_ms: int, firings: list[Firing]) -> Subject | None:
        """A subject; None, and a technical firing, when there is no room for it."""
        subject = self.subjects.get(key)
        if subject is not None:
            return subject
        if len(self.subjects) >= SUBJECTS_MAX:
            if self.refused is None:
                self.refused = key
                detail = f"not watched: {SUBJECTS_MAX} subjects already"
                firings.append(self.own(SUBJECTS, "start", key, at_ms, detail))
            return None
        if self.refused is not None:
            firings.append(self.own(SUBJECTS, "end", self.refused, at_ms))
            self.refused = None
        subject = self.subjects[key] = Subject(key, self.contract)
        return subject

    def taking(self, known: tuple[Known, ...]) -> Take:
        """What takes the samples of readings that make these inputs known.

        A device that always sends another set must not have us compile for ever.
        """
        found = self._takes.get(known)
        if found is None:
            if len(self._takes) >= TAKES_MAX:
                return partial(self._take, known)
            found = self._takes[known] = compile_take(self.contract, known)
        return found

    def _take(
        self,
        known: tuple[Known, ...],
        subject: Subject,
        numbers: Sequence[int],
        at_ms: int,
        device: str,
    ) -> int:
        """Like what `taking` gives; that there is nothing to do it never says."""
        for index, place in known:
            value = numbers[place]
            subject.values[index] = subject.held[index] = value
            subject.at_ms[index] = subject.heard_ms[index] = at_ms
            subject.devices[index] = device
            for number, window in enumerate(self.contract.windows):
                if window.input == index:
                    subject.samples[number].add(window, value, at_ms)
        return EVALUATE | WAKE

    def lose(self, subject: Subject, index: int, at_ms: int, device: str) -> None:
        """A device says that it cannot tell; another's value stays."""
        subject.heard_ms[index] = at_ms
        if subject.devices[index] == device:
            subject.values[index] = None

    # ---- Evaluation ----

    def evaluate(self, subject: Subject, at_ms: int, firings: list[Firing]) -> bool:
        """Bring every rule up to date; False where all stays as it is.

        A mistake in one contract's evaluation must not silence the other contracts.
        """
        moved = False
        try:
            if not self._look(subject, at_ms):
                moved = self._step_all(subject, at_ms, firings)
        except Exception as error:  # noqa: BLE001 - whatever it is, see above
            self.fault(subject, at_ms, f"{type(error).__name__}: {error}", firings)
            return True
        if subject.faulted:
            subject.faulted = False
            subject.settle(self.contract)
            firings.append(self.own(FAULT, "end", subject.key, at_ms))
            return True
        return moved

    def _step_all(self, subject: Subject, at_ms: int, firings: list[Firing]) -> bool:
        results = self._results(subject, subject.values, at_ms)
        turn: Turn | None = None
        states = subject.rules
        for at, index, rule, untold, plain in self._rules:
            holds, now = results[at], states[index]
            if now.paused_ms < 0 and (
                untold or (holds is not None and now.known_once and now.unknown_ms < 0)
            ):
                if now.phase == IDLE:
                    if not holds:
                        continue
                elif plain and now.phase == ACTIVE:
                    ends = results[at + 1] if rule.rearm else holds is False
                    if holds or not ends:
                        continue
            if turn is None:
                turn = self._turn(subject, at_ms, firings)
            step(turn, rule, index, holds, results[at + 1])
            if rule.on_unknown is not None:
                step_unknown(turn, rule, index, holds is None)
        if turn is None:
            return False
        subject.settle(self.contract)
        return True

    def _results(
        self, subject: Subject, values: list[int | None], at_ms: int
    ) -> tuple[Any, ...]:
        return self._evaluate(
            values, subject.params, subject.heard_ms, subject.samples, at_ms
        )

    def _turn(self, subject: Subject, at_ms: int, firings: list[Firing]) -> Turn:
        held: list[tuple[Any, ...]] = []

        def could(index: int) -> bool | None:
            if not held:
                held.append(self._results(subject, subject.held, at_ms))
            truth: bool | None = held[0][2 * index]
            return truth

        def fire(index: int, name: str, phase: str, **more: Any) -> None:
            firings.append(self.firing(subject, index, name, phase, at_ms, **more))

        return Turn(subject, at_ms, fire, could)

    def findings(
        self, key: str, at_ms: int, values: Mapping[str, Value], detail: str
    ) -> list[Firing]:
        """What rules that look back would have raised by a late reading alone."""
        looking = [i for i, one in enumerate(self.contract.rules) if one.retrospective]
        if not looking:
            return []
        subject = Subject(key, self.contract)
        known = self.subjects.get(key)
        if known is not None:
            subject.params = list(known.params)
        for index, item in enumerate(self.contract.inputs):
            if item.metric in values:
                subject.values[index] = number_of(
                    values[item.metric], item.scale, item.letters
                )
        results = self._results(subject, subject.values, at_ms)
        return [
            self.firing(subject, index, "", "finding", at_ms, detail=detail)
            for index in looking
            if results[2 * index]
        ]

    # ---- Firings ----

    def firing(
        self,
        subject: Subject,
        index: int,
        name: str,
        phase: str,
        at_ms: int,
        **more: Any,
    ) -> Firing:
        """A firing of a rule, under its name or that of its `on_unknown`."""
        rule, now = self.contract.rules[index], subject.rules[index]
        name = name or rule.name
        technical = name != rule.name
        detail = f"{rule.name} cannot be decided" if technical else rule.when.source
        fields: dict[str, Any] = {"detail": detail, "paused": now.paused_ms >= 0}
        return Firing(
            contract=self.contract.name,
            contract_hash=self.contract.hash,
            rule=name,
            priority="technical" if technical else rule.priority,
            phase=phase,
            subject=subject.key,
            at_ms=at_ms,
            values=self._values(subject, index, at_ms),
            **(fields | more),
        )

    def _values(
        self, subject: Subject, index: int, at_ms: int
    ) -> dict[str, int | None]:
        contract, rule = self.contract, self.contract.rules[index]
        values = {contract.inputs[i].name: subject.values[i] for i in rule.inputs}
        if rule.show:
            shown = self._show[index](
                *(subject.values, subject.params, subject.heard_ms),
                *(subject.samples, at_ms),
            )
            for one, value in zip(rule.show, shown, strict=True):
                values[one.name] = None if value is None else int(value)
        return values

    def own(
        self, rule: str, phase: str, key: str, at_ms: int, detail: str = ""
    ) -> Firing:
        """A technical firing of the machine itself about one contract and subject."""
        contract = self.contract
        return Firing(
            *(contract.name, contract.hash, rule, "technical", phase, key, at_ms),
            {},
            detail,
        )

    def fault(
        self, subject: Subject, at_ms: int, detail: str, firings: list[Firing]
    ) -> None:
        """Contain a fault: this subject begins anew, but what is active stays so."""
        subject.clear()
        if not subject.faulted:
            subject.faulted = True
            firings.append(self.own(FAULT, "start", subject.key, at_ms, detail))

    def end_all(self, subject: Subject, at_ms: int, **more: Any) -> list[Firing]:
        """The end of everything that the subject has started."""
        firings = []
        for index, rule in enumerate(self.contract.rules):
            firings += [
                self.firing(subject, index, name, "end", at_ms, **more)
                for name in started(rule, subject.rules[index])
            ]
        if subject.faulted:
            firings.append(self.own(FAULT, "end", subject.key, at_ms))
        return firings

    def end(self, at_ms: int, detail: str) -> list[Firing]:
        """The end of everything that the contract has started, for all subjects."""
        firings = []
        for _, subject in sorted(self.subjects.items()):
            firings += self.end_all(subject, at_ms, detail=detail)
        if self.refused is not None:
            firings.append(self.own(SUBJECTS, "end", self.refused, at_ms))
        return firings

    def alarms(self, now_ms: int) -> list[Alarm]:
        """What is not idle, by subject and rule."""
        found = []
        for key, subject in sorted(self.subjects.items()):
            for index, rule in enumerate(self.contract.rules):
                now = subject.rules[index]
                values = self._values(subject, index, now_ms)
                for name, state, since_ms in _not_idle(rule, now):
                    technical = name != rule.name
                    found.append(
                        Alarm(
                            contract=self.contract.name,
                            rule=name,
                            priority="technical" if technical else rule.priority,
                            subject=key,
                            state=state,
                            since_ms=since_ms,
                            acked_by=now.lost_acked_by if technical else now.acked_by,
                            paused_ms=now.paused_ms,
                            values=values,
                        )
                    )
        return found


def number_of(value: Value, scale: int, letters: str) -> int:
    """A metric's value as an input has it: fixed point, or the letter's index."""
    if isinstance(value, str):
        return letters.index(value)
    return fixed_point(value, scale)


def started(rule: Rule, now: RuleState) -> list[str]:
    """The names under which the rule has started something that has not ended."""
    names = [rule.name] if now.phase in (ACTIVE, LATCHED, INHIBITED) else []
    if now.lost and rule.on_unknown is not None:
        names.append(rule.on_unknown)
    return names


def standing(now: RuleState, *, own: bool) -> Iterator[tuple[str, dict[str, Any]]]:
    """The phases, with their fields, that lead a view to where the alarm is."""
    yield "start", {}
    acked_by = now.acked_by if own else now.lost_acked_by
    if own and now.phase == LATCHED:
        yield "latched", {}
    if own and now.phase == INHIBITED:
        yield "inhibited", {}
    if acked_by:
        yield "acknowledged", {"actor": acked_by}
    if own and now.paused_ms >= 0:
        yield "paused", {"until_ms": now.paused_ms}


def _not_idle(rule: Rule, now: RuleState) -> list[tuple[str, AlarmState, int]]:
    found = []
    if now.phase != IDLE:
        found.append((rule.name, _state_of(now), now.since_ms))
    if now.lost and rule.on_unknown is not None:
        state = AlarmState.ACKNOWLEDGED if now.lost_acked_by else AlarmState.ACTIVE
        found.append((rule.on_unknown, state, now.unknown_ms))
    return found


def _state_of(now: RuleState) -> AlarmState:
    if now.phase in (PENDING, READY):
        return AlarmState.PENDING
    if now.phase == INHIBITED:
        return AlarmState.INHIBITED
    if now.paused_ms >= 0:
        return AlarmState.PAUSED
    if now.acked_by:
        return AlarmState.ACKNOWLEDGED
    if now.phase == LATCHED:
        return AlarmState.LATCHED
    return AlarmState.ESCALATED if now.steps else AlarmState.ACTIVE
