"""The contracts once more, written to be read: what the fast machine is held against.

It keeps every sample and every report that a subject ever had and looks back over them
at each question: what is known at a time, what was heard, what a window holds. Trees
are walked. There are no timers: `advance` tries every moment at which anything could
change, in order. So it is slow, and there is little in it that can be wrong.

Left out: limits on subjects, faults, snapshots, and the order of firings of different
subjects at one moment (the tests sort them).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal
from fractions import Fraction

from edge.contracts.actions import Action
from edge.contracts.mkt import mean_kinetic
from edge.contracts.program import Contract, Rule, Table, Tree, Window
from edge.model import Firing

Logic = bool | None
_COMPARE = {
    "<": lambda a, b: a < b,
    "<=": lambda a, b: a <= b,
    ">": lambda a, b: a > b,
    ">=": lambda a, b: a >= b,
    "==": lambda a, b: a == b,
    "!=": lambda a, b: a != b,
}


@dataclass(slots=True)
class _Report:
    """What a device said of an input: a value, or (None) that it cannot tell."""

    at_ms: int
    device: str
    value: int | None


@dataclass(slots=True)
class _Life:
    """Where a rule is."""

    phase: str = "idle"
    since_ms: int = 0
    acked: bool = False
    steps: int = 0
    paused_ms: int | None = None
    starts: list[int] = field(default_factory=list)
    known_once: bool = False
    unknown_ms: int | None = None
    lost: bool = False
    lost_acked: bool = False


class _Subject:
    """Everything that was ever said of a patient or device to one contract."""

    def __init__(self, key: str, contract: Contract) -> None:
        self.key, self.contract = key, contract
        self.reports: list[list[_Report]] = [[] for _ in contract.inputs]
        self.sets: list[list[tuple[int, int]]] = [[] for _ in contract.params]
        self.lives = [_Life() for _ in contract.rules]
        self.late = False  # only a late reading, which is in no window

    # ---- What is known at a time ----

    def held(self, index: int, at_ms: int) -> _Report | None:
        """The newest usable sample, while it is fresh."""
        usable = [one for one in self.reports[index] if one.value is not None]
        if not usable:
            return None
        fresh_ms = self.contract.inputs[index].fresh_ms
        return usable[-1] if at_ms - usable[-1].at_ms <= fresh_ms else None

    def value(self, index: int, at_ms: int) -> int | None:
        """The held sample, unless its own device has said since that it cannot tell."""
        sample = self.held(index, at_ms)
        if sample is None:
            return None
        after = self.reports[index]
        after = after[_place(after, sample) + 1 :]
        return (
            None
            if any(one.device == sample.device for one in after)
            else (sample.value)
        )

    def silent(self, index: int, at_ms: int) -> bool:
        reports = self.reports[index]
        fresh_ms = self.contract.inputs[index].fresh_ms
        return bool(reports) and at_ms - reports[-1].at_ms > fresh_ms

    def param(self, index: int, at_ms: int) -> int | None:
        if self.is_set(index, at_ms):
            return self.sets[index][-1][1]
        return self.contract.params[index].default

    def is_set(self, index: int, at_ms: int) -> bool:
        expires_ms = self.contract.params[index].expires_ms
        sets = self.sets[index]
        return bool(sets) and (not expires_ms or at_ms < sets[-1][0] + expires_ms)

    def field(self, window: Window, name: str, at_ms: int) -> int | None:
        newest = at_ms // window.bucket_ms
        buckets: dict[int, list[_Report]] = {}
        for one in self.reports[window.input]:
            number = one.at_ms // window.bucket_ms
            inside = newest - window.count < number <= newest and not self.late
            if one.value is not None and inside:
                buckets.setdefault(number, []).append(one)
        samples = [one for each in buckets.values() for one in each]
        values = [one.value for one in samples if one.value is not None]
        if name == "count":
            return len(values)
        if name == "filled":
            return len(buckets)
        if not values or len(buckets) < window.filled:
            return None
        first, last = samples[0], samples[-1]
        change = values[-1] - values[0]
        match name:
            case "sum":
                return sum(values)
            case "min":
                return min(values)
            case "max":
                return max(values)
            case "mean":
                return _half_away(Fraction(sum(values), len(values)))
            case "mkt":
                means = [
                    Fraction(sum(one.value or 0 for one in each), len(each))
                    for each in buckets.values()
                ]
                return mean_kinetic(map(_half_away, means))
            case "change":
                return change
        passed_ms = last.at_ms - first.at_ms
        if passed_ms < window.bucket_ms:
            return None
        return int(Fraction(change * 3_600_000, passed_ms))  # toward zero

    def is_forgotten(self, at_ms: int) -> bool:
        """Whether nothing of it matters any more: it is as if it had never been."""
        contract = self.contract
        stale = all(self.held(i, at_ms) is None for i in range(len(contract.inputs)))
        empty = not any(self.field(one, "count", at_ms) for one in contract.windows)
        unset = not any(self.is_set(i, at_ms) for i in range(len(contract.params)))
        unheard = not any(self.reports[index] for index in contract.silents)
        idle = all(
            life.phase == "idle"
            and life.paused_ms is None
            and not life.known_once
            and not (rule.max_rate and life.starts)
            for rule, life in zip(contract.rules, self.lives, strict=True)
        )
        return stale and empty and unset and unheard and idle

    # ---- Expressions ----

    def number(  # noqa: PLR0912 - one case a node
        self, tree: Tree, at_ms: int, *, held: bool = False
    ) -> int | None:
        def part(one: Tree) -> int | None:
            return self.number(one, at_ms, held=held)

        contract = self.contract
        match tree:
            case ("const", value):
                return int(value)
            case ("input", index):
                if held:
                    sample = self.held(index, at_ms)
                    return None if sample is None else sample.value
                return self.value(index, at_ms)
            case ("param", index):
                return self.param(index, at_ms)
            case ("let", index):
                return part(contract.lets[index].program.tree)
            case ("window", index, name):
                return self.field(contract.windows[index], name, at_ms)
            case ("table", index):
                table: Table = contract.tables[index]
                value = part(table.of)
                if value is None:
                    return None
                for bound, points in zip(table.bounds, table.points, strict=False):
                    if value <= bound:
                        return points
                return table.points[-1]
            case ("if", condition, yes, no):
                truth = self.truth(condition, at_ms, held=held)
                return None if truth is None else part(yes if truth else no)
            case ("sum", terms):
                numbers = [(factor, part(one)) for factor, one in terms]
                if any(value is None for _, value in numbers):
                    return None
                return sum(int(factor) * (value or 0) for factor, value in numbers)
        kind, parts = tree
        values = [part(one) for one in parts]
        if None in values:
            return None
        known = [one for one in values if one is not None]
        return max(known) if kind == "max" else min(known)

    def truth(self, tree: Tree, at_ms: int, *, held: bool = False) -> Logic:
        def part(one: Tree) -> Logic:
            return self.truth(one, at_ms, held=held)

        match tree:
            case ("truth", value):
                return bool(value)
            case ("silent", index):
                return self.silent(index, at_ms)
            case ("let", index):
                return part(self.contract.lets[index].program.tree)
            case ("missing", parts):
                return any(self.unknown(one, at_ms, held=held) for one in parts)
            case ("not", one):
                value = part(one)
                return None if value is None else not value
            case ("and", parts):
                return _at_least(len(parts), [part(one) for one in parts])
            case ("or", parts):
                return _at_least(1, [part(one) for one in parts])
            case ("at_least", wanted, parts):
                return _at_least(wanted, [part(one) for one in parts])
            case ("if", condition, yes, no):
                chosen = part(condition)
                return None if chosen is None else part(yes if chosen else no)
        kind, left, right = tree
        a = self.number(left, at_ms, held=held)
        b = self.number(right, at_ms, held=held)
        return None if a is None or b is None else _COMPARE[kind](a, b)

    def unknown(self, tree: Tree, at_ms: int, *, held: bool) -> bool:
        truth = tree[0] == "let" and self.contract.lets[tree[1]].truth
        if truth:
            return self.truth(tree, at_ms, held=held) is None
        return self.number(tree, at_ms, held=held) is None

    # ---- Rules ----

    def evaluate(self, at_ms: int) -> list[Firing]:
        fired: list[Firing] = []
        for rule, life in zip(self.contract.rules, self.lives, strict=True):
            holds = self.truth(rule.when.tree, at_ms)
            self._step(rule, life, holds, at_ms, fired)
            if rule.on_unknown is not None:
                self._step_unknown(rule, life, holds is None, at_ms, fired)
        return fired

    def _step(  # noqa: PLR0912 - the whole life of a rule, in one place to read
        self, rule: Rule, life: _Life, holds: Logic, at_ms: int, fired: list[Firing]
    ) -> None:
        def fire(phase: str, **more: str) -> None:
            fired.append(self.firing(rule, rule.name, phase, at_ms, **more))

        if rule.rearm is None:
            over = holds is False
        else:
            over = self.truth(rule.rearm.tree, at_ms) is True and holds is not True
        others = [self.lives[one].phase for one in rule.inhibited_by]
        covered = "active" in others
        if life.paused_ms is not None and at_ms >= life.paused_ms:
            life.paused_ms = None
            if life.phase in ("active", "latched"):
                fire("resumed")
        if life.phase == "idle" and holds:
            life.phase, life.since_ms = "pending", at_ms
        elif life.phase in ("active", "inhibited"):
            if over:
                life.phase = "latched" if rule.latch else "idle"
                fire("latched" if rule.latch else "end")
            elif covered and life.phase == "active":
                life.phase = "inhibited"
                fire("inhibited")
            elif not covered and life.phase == "inhibited":
                life.phase = "active"
                fire("start")
        elif life.phase == "latched" and holds and not covered:
            self._start(rule, life, at_ms, fired)
        if life.phase == "pending":
            could = self.truth(rule.when.tree, at_ms, held=True)
            if holds and at_ms >= life.since_ms + rule.for_ms:
                life.phase, life.since_ms = "ready", at_ms
            elif holds is False or (holds is None and could is not True):
                life.phase = "idle"
        elif life.phase == "ready" and over:
            life.phase = "idle"
        if life.phase == "ready" and not covered:
            recent = life.starts
            if rule.max_rate is not None:
                recent = [one for one in recent if one > at_ms - rule.max_rate[1]]
            free = rule.max_rate is None or len(recent) < rule.max_rate[0]
            if free and at_ms >= life.since_ms + rule.delay_ms:
                self._start(rule, life, at_ms, fired)
        if life.phase in ("active", "latched") and not life.acked:
            while (
                life.paused_ms is None
                and life.steps < len(rule.escalate)
                and at_ms >= life.since_ms + rule.escalate[life.steps].after_ms
            ):
                life.steps += 1
                fire("escalate", to=rule.escalate[life.steps - 1].to)

    def _start(self, rule: Rule, life: _Life, at_ms: int, fired: list[Firing]) -> None:
        life.phase, life.since_ms = "active", at_ms
        life.acked, life.steps = False, 0
        life.starts.append(at_ms)
        fired.append(self.firing(rule, rule.name, "start", at_ms))

    def _step_unknown(
        self, rule: Rule, life: _Life, unknown: bool, at_ms: int, fired: list[Firing]
    ) -> None:
        label = rule.on_unknown or ""
        if not unknown:
            life.known_once, life.unknown_ms = True, None
            if life.lost:
                life.lost = life.lost_acked = False
                fired.append(self.firing(rule, label, "end", at_ms))
            return
        if not life.known_once or life.lost:
            return
        if life.unknown_ms is None:
            life.unknown_ms = at_ms
        if at_ms - life.unknown_ms > rule.fresh_ms:
            life.lost = True
            fired.append(self.firing(rule, label, "start", at_ms))

    def firing(
        self, rule: Rule, name: str, phase: str, at_ms: int, **more: str
    ) -> Firing:
        contract = self.contract
        life = self.lives[contract.rules.index(rule)]
        values: dict[str, int | None] = {
            contract.inputs[one].name: self.value(one, at_ms) for one in rule.inputs
        }
        for shown in rule.show:
            get = self.truth if shown.truth else self.number
            value = get(shown.tree, at_ms)
            values[shown.name] = None if value is None else int(value)
        own = name == rule.name
        detail = rule.when.source if own else f"{rule.name} cannot be decided"
        made = Firing(
            contract=contract.name,
            contract_hash=contract.hash,
            rule=name,
            priority=rule.priority if own else "technical",
            phase=phase,
            subject=self.key,
            at_ms=at_ms,
            values=values,
            detail=detail,
            paused=life.paused_ms is not None,
        )
        return replace(made, **more) if more else made  # type: ignore[arg-type]

    # ---- Time ----

    def moments(self, after_ms: int, until_ms: int) -> set[int]:
        """Every time in between at which anything could change."""
        found: set[int] = set()
        contract = self.contract
        for item, reports in zip(contract.inputs, self.reports, strict=True):
            found |= {one.at_ms + item.fresh_ms + 1 for one in reports}
        for window in contract.windows:
            for one in self.reports[window.input]:
                number = one.at_ms // window.bucket_ms + window.count
                found.add(number * window.bucket_ms)
        for param, sets in zip(contract.params, self.sets, strict=True):
            found |= {at_ms + param.expires_ms for at_ms, _ in sets if param.expires_ms}
        for rule, life in zip(contract.rules, self.lives, strict=True):
            found |= {life.since_ms + rule.for_ms, life.since_ms + rule.delay_ms}
            found |= {life.since_ms + one.after_ms for one in rule.escalate}
            if rule.max_rate is not None:
                found |= {one + rule.max_rate[1] for one in life.starts}
            if life.paused_ms is not None:
                found.add(life.paused_ms)
            if life.unknown_ms is not None:
                found.add(life.unknown_ms + rule.fresh_ms + 1)
        return {one for one in found if after_ms < one <= until_ms}


def _place(reports: list[_Report], sample: _Report) -> int:
    return next(i for i, one in enumerate(reports) if one is sample)


def _half_away(value: Fraction) -> int:
    whole = int(abs(value) + Fraction(1, 2))
    return whole if value >= 0 else -whole


def _at_least(wanted: int, truths: list[Logic]) -> Logic:
    if sum(one is True for one in truths) >= wanted:
        return True
    return False if sum(one is not False for one in truths) < wanted else None


class Reference:
    """The readable evaluator; its face is that of Machine."""

    def __init__(self, contracts: Collection[Contract]) -> None:
        self._contracts = sorted(contracts, key=lambda one: one.name)
        self._subjects: dict[tuple[str, str], _Subject] = {}
        self._now_ms = -1

    @property
    def contracts(self) -> list[Contract]:
        """Those at work, in their order."""
        return self._contracts

    def observe(
        self,
        received_ms: int,
        device: str,
        patient: str | None,
        values: Mapping[str, Decimal | str],
        unknown: Collection[str] = (),
    ) -> list[Firing]:
        """What fires when a device's reading arrives, after what fell due before it."""
        fired = self.advance(received_ms)
        for contract in self._contracts:
            metrics = {one.metric for one in contract.inputs}
            if not metrics & (set(values) | set(unknown)):
                continue
            key = f"device:{device}" if contract.subject == "device" else None
            if key is None and patient is not None:
                key = f"patient:{patient}"
            if key is None:
                continue
            subject = self._subject(contract, key)
            for index, item in enumerate(contract.inputs):
                if item.metric in unknown:
                    report = _Report(received_ms, device, None)
                elif item.metric in values:
                    value = values[item.metric]
                    report = _Report(received_ms, device, _fixed(value, item.scale))
                else:
                    continue
                subject.reports[index].append(report)
            fired += subject.evaluate(received_ms)
        return fired

    def late(
        self,
        received_ms: int,
        device: str,
        patient: str | None,
        values: Mapping[str, Decimal | str],
        device_time_ms: int,
    ) -> list[Firing]:
        """What rules that look back find in a late reading by itself."""
        fired = self.advance(received_ms)
        for contract in self._contracts:
            key = f"device:{device}" if contract.subject == "device" else None
            if key is None and patient is not None:
                key = f"patient:{patient}"
            if key is None:
                continue
            alone = _Subject(key, contract)
            alone.late = True
            known = self._subjects.get((contract.name, key))
            if known is not None:
                alone.sets = known.sets
            for index, item in enumerate(contract.inputs):
                if item.metric in values:
                    value = _fixed(values[item.metric], item.scale)
                    alone.reports[index].append(_Report(received_ms, device, value))
            for rule in contract.rules:
                if rule.retrospective and alone.truth(rule.when.tree, received_ms):
                    made = alone.firing(rule, rule.name, "finding", received_ms)
                    detail = f"late: device time {device_time_ms}"
                    fired.append(replace(made, detail=detail))
        return fired

    def _subject(self, contract: Contract, key: str) -> _Subject:
        place = contract.name, key
        if place not in self._subjects:
            self._subjects[place] = _Subject(key, contract)
        return self._subjects[place]

    def advance(self, now_ms: int) -> list[Firing]:
        """What falls due up to and with `now_ms`."""
        fired: list[Firing] = []
        while True:
            moments = {
                moment
                for one in self._subjects.values()
                for moment in one.moments(self._now_ms, now_ms)
            }
            if not moments:
                break
            self._now_ms = min(moments)
            for _, one in sorted(self._subjects.items()):
                if self._now_ms in one.moments(self._now_ms - 1, self._now_ms):
                    fired += one.evaluate(self._now_ms)
        self._now_ms = max(self._now_ms, now_ms)
        return fired

    def act(self, now_ms: int, action: Action) -> list[Firing]:
        """What a person's action fires."""
        fired = self.advance(now_ms)
        for contract in self._contracts:
            if contract.name != action.contract:
                continue
            if action.kind == "set":
                fired += self._set(contract, now_ms, action)
            elif (contract.name, action.subject) in self._subjects:
                subject = self._subjects[contract.name, action.subject]
                if subject.is_forgotten(now_ms):
                    continue
                fired += self._touch(subject, now_ms, action)
                fired += subject.evaluate(now_ms)
        return fired

    def activate(self, now_ms: int, contract: Contract) -> list[Firing]:
        """Have a contract from now on, in place of the one of its name."""
        fired = self.advance(now_ms)
        old = [one for one in self._contracts if one.name == contract.name]
        others = [one for one in self._contracts if one.name != contract.name]
        if old and not (contract.carry and contract.schema == old[0].schema):
            fired += self._end(
                old[0], now_ms, f"replaced by version {contract.version}"
            )
        self._contracts = sorted([*others, contract], key=lambda one: one.name)
        for (name, _), subject in sorted(self._subjects.items()):
            if name == contract.name:
                subject.contract = contract
                fired += subject.evaluate(now_ms)
        return fired

    def deactivate(self, now_ms: int, digest: bytes) -> list[Firing]:
        """Have a contract no more, by its hash."""
        fired = self.advance(now_ms)
        for one in self._contracts:
            if one.hash == digest:
                fired += self._end(one, now_ms, "the contract is not active any more")
        self._contracts = [one for one in self._contracts if one.hash != digest]
        return fired

    def _end(self, contract: Contract, now_ms: int, detail: str) -> list[Firing]:
        """End all that the contract has started, and forget what it knew."""
        fired = []
        for place, subject in sorted(self._subjects.items()):
            if place[0] != contract.name:
                continue
            del self._subjects[place]
            for rule, life in zip(contract.rules, subject.lives, strict=True):
                if life.phase in ("active", "latched", "inhibited"):
                    fired.append(subject.firing(rule, rule.name, "end", now_ms))
                if life.lost:
                    label = rule.on_unknown or ""
                    fired.append(subject.firing(rule, label, "end", now_ms))
        return [replace(one, detail=detail) for one in fired]

    def _set(self, contract: Contract, now_ms: int, action: Action) -> list[Firing]:
        for index, param in enumerate(contract.params):
            if (param.name, param.set_by) != (action.name, f"role:{action.role}"):
                continue
            value = Fraction(action.value) * param.scale
            good = (
                value in param.choices
                if param.choices
                else (param.low <= value <= param.high)
            )
            if value.denominator == 1 and good:
                subject = self._subject(contract, action.subject)
                subject.sets[index].append((now_ms, int(value)))
                return subject.evaluate(now_ms)
        return []

    def _touch(self, subject: _Subject, now_ms: int, action: Action) -> list[Firing]:
        for rule, life in zip(subject.contract.rules, subject.lives, strict=True):
            phase, standing = "", life.phase in ("active", "latched", "inhibited")
            if action.name == rule.on_unknown and action.kind == "acknowledge":
                if life.lost and not life.lost_acked:
                    life.lost_acked, phase = True, "acknowledged"
            elif action.name != rule.name:
                continue
            elif action.kind == "acknowledge" and standing and not life.acked:
                life.acked, phase = True, "acknowledged"
            elif action.kind == "pause" and action.until_ms > now_ms:
                life.paused_ms, phase = action.until_ms, "paused"
            elif action.kind == "release" and life.phase == "latched":
                life.phase, phase = "idle", "end"
            if phase:
                made = subject.firing(rule, action.name, phase, now_ms)
                until_ms = action.until_ms if phase == "paused" else 0
                return [replace(made, actor=action.actor, until_ms=until_ms)]
        return []


def _fixed(value: Decimal | str, scale: int) -> int:
    if isinstance(value, str):
        return "ACVPU".index(value)
    return _half_away(Fraction(value) * scale)
