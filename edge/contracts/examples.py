"""A contract's own examples: what goes in, and the firings that have to come out.

    [[examples]]
    name    = "a dip that lasts"
    steps   = [
      { at = "0s", spo2 = 89 },                        # a reading of these inputs
      { at = "5s", lost = ["spo2"] },                  # the sensor says it cannot tell
      { at = "9s", set = { limit = "88" }, role = "doctor", by = "dr.a" },
      { at = "20s", acknowledge = "low", by = "n.b" }, # or pause (with `for`), release
      { at = "50s", late = { spo2 = 80 } },  # sent only now
      { at = "60s" },                                  # time passes
    ]
    firings = ["15s low start", "20s low acknowledged"]        # TIME RULE PHASE [ROLE]

One patient with one device, from 2026-01-01T00:00:00Z on, where every bucket begins.
The list of firings is the whole of them, in their order.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal

from edge.contracts.actions import ACKNOWLEDGE, PAUSE, RELEASE, SET, Action
from edge.contracts.expression import literal
from edge.contracts.machine import Machine, allowed
from edge.contracts.program import Contract, Input
from edge.contracts.reference import Reference
from edge.contracts.toml_text import Field, Sheet, duration_of
from edge.model import PHASES, Firing

START_MS = 1_767_225_600_000  # 2026-01-01T00:00:00Z
STEPS_MAX = 1_000
FIRINGS_MAX = 200
LATE_MS = 3_600_000  # how old a late reading of an example is
DEVICE, PATIENT = "example", "example"
_STEP = "at lost set role by acknowledge pause for release late"


@dataclass(frozen=True, slots=True)
class Step:
    """One moment of an example: a call of the evaluator, by its name."""

    at_ms: int
    call: str  # observe, act, late or advance
    values: Mapping[str, Decimal | str]
    lost: tuple[str, ...] = ()
    action: Action | None = None


@dataclass(frozen=True, slots=True)
class Example:
    """A checked example; `expected` as in its file, times in ms of START_MS."""

    name: str
    steps: tuple[Step, ...]
    expected: tuple[tuple[int, str, str, str], ...]  # time, rule, phase, role


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of an example in one evaluator."""

    example: Example
    evaluator: str
    found: tuple[tuple[int, str, str, str], ...]

    @property
    def good(self) -> bool:
        """Whether that is what was expected."""
        return self.found == self.example.expected


def read_examples(text: str, name: str, contract: Contract) -> list[Example]:
    """The examples in a contract's file; ConfigurationError with every mistake."""
    sheet = Sheet(text, name)
    listed = sheet.document.get("examples", [])
    found = [
        _Reader(sheet, contract, ("examples",), number).example(item)
        for number, item in enumerate(listed if isinstance(listed, list) else [], 1)
    ]
    sheet.check()
    return found


def run(contract: Contract, example: Example) -> Iterator[Outcome]:
    """The example in the machine, and in the reference."""
    for name, evaluator in (
        ("machine", Machine([contract])),
        ("reference", Reference([contract])),
    ):
        firings: list[Firing] = []
        for step in example.steps:
            firings += _take(evaluator, step)
        found = tuple(
            (one.at_ms - START_MS, one.rule, one.phase, one.to) for one in firings
        )
        yield Outcome(example, name, found)


def _take(evaluator: Machine | Reference, step: Step) -> list[Firing]:
    at_ms = START_MS + step.at_ms
    if step.action is not None:
        return evaluator.act(at_ms, step.action)
    if step.call == "late":
        time_ms = at_ms - LATE_MS
        return evaluator.late(at_ms, DEVICE, PATIENT, step.values, time_ms)
    if step.call == "observe":
        return evaluator.observe(at_ms, DEVICE, PATIENT, step.values, step.lost)
    return evaluator.advance(at_ms)


def shown(firing: tuple[int, str, str, str]) -> str:
    """A firing as it stands in an example."""
    time_ms, rule, phase, role = firing
    return " ".join(one for one in (shown_time(time_ms), rule, phase, role) if one)


def shown_time(time_ms: int) -> str:
    """Milliseconds as a time of a contract, in the largest unit that is exact."""
    for unit, size_ms in (("h", 3_600_000), ("m", 60_000), ("s", 1_000)):
        if time_ms and time_ms % size_ms == 0:
            return f"{time_ms // size_ms}{unit}"
    return f"{time_ms}ms" if time_ms else "0s"


class _Reader:
    """One example on its way; its mistakes go to the sheet."""

    def __init__(
        self, sheet: Sheet, contract: Contract, field: Field, number: int
    ) -> None:
        self._sheet, self._contract = sheet, contract
        self._field = (*field, str(number))
        self._inputs = {one.name: one for one in contract.inputs}
        self._rules = {one.name for one in contract.rules}
        self._labels = {
            one.on_unknown for one in contract.rules if one.on_unknown is not None
        }

    def example(self, value: object) -> Example:
        sheet, field = self._sheet, self._field
        table = sheet.table(value, field) or {}
        sheet.only(table, field, "name steps firings")
        name = sheet.string(table.get("name"), (*field, "name")) or ""
        place = (*field, "steps")
        steps = [
            self._step(one, place)
            for one in sheet.array(table.get("steps"), place, 1, STEPS_MAX)
        ]
        known = [one for one in steps if one is not None]
        for before, after in itertools.pairwise(known):
            if after.at_ms < before.at_ms:
                sheet.problem(place, f"{shown_time(after.at_ms)} comes too late")
        place = (*field, "firings")
        expected = [
            self._expected(one, place)
            for one in sheet.array(table.get("firings"), place, 0, FIRINGS_MAX)
        ]
        return Example(
            name, tuple(known), tuple(one for one in expected if one is not None)
        )

    def _step(self, value: object, field: Field) -> Step | None:
        sheet = self._sheet
        table = sheet.table(value, field)
        if table is None:
            return None
        at_ms = sheet.duration(table.get("at"), (*field, "at"), 0)
        sheet.only(table, field, " ".join((_STEP, *self._inputs)))
        action = self._action(table, field, at_ms)
        if action is not None:
            return Step(at_ms, "act", {}, action=action)
        if "late" in table:
            late = sheet.table(table["late"], (*field, "late")) or {}
            return Step(at_ms, "late", self._values(late, (*field, "late")))
        given = {key: one for key, one in table.items() if key in self._inputs}
        values = self._values(given, field)
        lost = []
        for one in sheet.array(table.get("lost", []), (*field, "lost"), 0, 99):
            if one not in self._inputs:
                sheet.problem((*field, "lost"), f"no input is named {one!r}")
            else:
                lost.append(self._inputs[str(one)].metric)
        call = "observe" if values or lost else "advance"
        return Step(at_ms, call, values, tuple(lost))

    def _values(
        self, given: Mapping[str, object], field: Field
    ) -> dict[str, Decimal | str]:
        found: dict[str, Decimal | str] = {}
        for name, value in given.items():
            item = self._inputs.get(name)
            if item is None:
                self._sheet.problem(field, f"no input is named {name!r}")
                continue
            number = self._value(item, value, (*field, name))
            if number is not None:
                found[item.metric] = number
        return found

    def _value(self, item: Input, value: object, field: Field) -> Decimal | str | None:
        if isinstance(value, int) and not isinstance(value, bool):
            value = str(value)
        text = self._sheet.string(value, field)
        if text is None:
            return None
        if item.letters:
            if len(text) != 1 or text not in item.letters:
                self._sheet.problem(field, f"not one of the letters {item.letters}")
                return None
            return text
        try:
            literal(text, 1_000_000)  # finer than any scale: sensors are, too
        except ValueError as error:
            self._sheet.problem(field, str(error))
            return None
        return Decimal(text)

    def _action(
        self, table: Mapping[str, object], field: Field, at_ms: int
    ) -> Action | None:
        sheet = self._sheet
        subject = (
            f"device:{DEVICE}"
            if self._contract.subject == "device"
            else f"patient:{PATIENT}"
        )
        by = sheet.string(table.get("by", "somebody"), (*field, "by")) or ""
        role = sheet.string(table.get("role", ""), (*field, "role")) or ""
        name = self._contract.name
        for kind in (ACKNOWLEDGE, PAUSE, RELEASE):
            if kind not in table:
                continue
            rule = sheet.string(table[kind], (*field, kind)) or ""
            if rule not in self._rules | self._labels:
                sheet.problem((*field, kind), f"no rule is named {rule!r}")
            until_ms = 0
            if kind == PAUSE:
                lasting = sheet.duration(table.get("for"), (*field, "for"), 1)
                until_ms = START_MS + at_ms + lasting
            return Action(kind, name, rule, subject, by, role, until_ms)
        if SET not in table:
            return None
        place = (*field, SET)
        items = list((sheet.table(table[SET], place) or {}).items())
        if len(items) != 1:
            sheet.problem(place, "sets one param at a time")
            return None
        [(key, value)] = items
        param = next((one for one in self._contract.params if one.name == key), None)
        if param is None:
            sheet.problem(place, f"no param is named {key!r}")
            return None
        if allowed(param, str(value)) is None:
            sheet.problem(place, f"{value} may not be set")
        role = role or param.set_by.removeprefix("role:")
        return Action(SET, name, key, subject, by, role, 0, str(value))

    def _expected(
        self, value: object, field: Field
    ) -> tuple[int, str, str, str] | None:
        text = self._sheet.string(value, field)
        if text is None:
            return None
        time, rule, phase, *role = [*text.split(), "", "", ""][:4]
        time_ms = duration_of(time)
        if time_ms is None:
            self._sheet.problem(field, f"{text!r} does not begin with a time")
        elif rule not in self._rules | self._labels:
            self._sheet.problem(field, f"no rule is named {rule!r}")
        elif phase not in PHASES or len(text.split()) > 4:
            self._sheet.problem(field, f"{text!r} is not TIME RULE PHASE [ROLE]")
        else:
            return time_ms, rule, phase, role[0]
        return None
