"""A CSV of readings run through a contract: the values, the rules' states, the firings.

    time,spo2,heart
    0,97,71             seconds since the beginning, or an ISO 8601 time
    1,,72               an empty field: not measured then

The first column is the time, the others are inputs of the contract (or metrics' names);
columns that are neither are left out. All is of one patient and one device.
"""

from __future__ import annotations

import csv
import datetime
from collections.abc import Iterator
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from pathlib import Path

from edge.contracts.examples import DEVICE, PATIENT, START_MS
from edge.contracts.machine import Machine
from edge.contracts.program import Contract, Input
from edge.devices.metrics import BY_NAME
from edge.errors import ConfigurationError
from edge.model import Firing

ROWS_MAX = 2_000_000


@dataclass(slots=True)
class Run:
    """What became of a recording; times in ms since its beginning."""

    values: dict[str, list[tuple[int, float]]] = field(default_factory=dict)
    implausible: int = 0
    states: dict[str, list[tuple[int, str]]] = field(default_factory=dict)
    firings: list[Firing] = field(default_factory=list)
    last_ms: int = 0


def run_recording(contract: Contract, file: Path) -> Run:
    """Run the recording; ConfigurationError names the line that is wrong."""
    machine, run = Machine([contract]), Run()
    for at_ms, values, unknown in _readings(contract, file, run):
        due = machine.next_deadline_ms()
        while due is not None and due < START_MS + at_ms:
            run.firings += machine.advance(due)
            _note(machine, run, due - START_MS)
            due = machine.next_deadline_ms()
        run.firings += machine.observe(
            START_MS + at_ms, DEVICE, PATIENT, values, unknown
        )
        _note(machine, run, at_ms)
        run.last_ms = at_ms
    return run


def _note(machine: Machine, run: Run, at_ms: int) -> None:
    """Note the states of the rules where they have changed."""
    now = {one.rule: str(one.state) for one in machine.alarms()}
    for rule in {*run.states, *now}:
        history = run.states.setdefault(rule, [])
        state = now.get(rule, "")
        if (history[-1][1] if history else "") != state:
            history.append((at_ms, state))


def _readings(
    contract: Contract, file: Path, run: Run
) -> Iterator[tuple[int, dict[str, Decimal | str], list[str]]]:
    with file.open(newline="") as stream:
        rows = csv.reader(stream)
        head = next(rows, [])
        columns = {
            place: item
            for place, name in enumerate(head)
            for item in contract.inputs
            if place and name.strip() in (item.name, item.metric)
        }
        if not columns:
            names = ", ".join(one.name for one in contract.inputs)
            raise ConfigurationError(
                [f"{file}:1: no column is an input of the contract ({names})"]
            )
        begin: int | None = None
        last_ms = 0
        for number, row in enumerate(rows, start=2):
            if number > ROWS_MAX:
                raise ConfigurationError([f"{file}: more than {ROWS_MAX} lines"])
            if not row:
                continue
            at_ms = _time_ms(row[0], f"{file}:{number}")
            begin = at_ms if begin is None else begin
            if at_ms < last_ms:
                raise ConfigurationError([f"{file}:{number}: time goes back"])
            last_ms = at_ms
            values, unknown = _row(row, columns, f"{file}:{number}", run, at_ms - begin)
            if values or unknown:
                yield at_ms - begin, values, unknown


def _row(
    row: list[str], columns: dict[int, Input], place: str, run: Run, at_ms: int
) -> tuple[dict[str, Decimal | str], list[str]]:
    values: dict[str, Decimal | str] = {}
    unknown = []
    for column, item in columns.items():
        text = row[column].strip() if column < len(row) else ""
        if not text:
            continue
        if item.letters:
            if text not in item.letters:
                raise ConfigurationError([f"{place}: {item.name}: no letter {text!r}"])
            values[item.metric] = text
            continue
        try:
            value = Decimal(text)
        except InvalidOperation:
            value = Decimal("NaN")
        if not value.is_finite():
            raise ConfigurationError([f"{place}: {item.name}: {text!r} is no number"])
        if not BY_NAME[item.metric].is_plausible(value):
            run.implausible += 1
            unknown.append(item.metric)
            continue
        values[item.metric] = value
        run.values.setdefault(item.name, []).append((at_ms, float(value)))
    return values, unknown


def _time_ms(text: str, place: str) -> int:
    try:
        return int(Decimal(text) * 1000)
    except (InvalidOperation, ValueError, OverflowError):
        pass
    try:
        moment = datetime.datetime.fromisoformat(text)
    except ValueError:
        raise ConfigurationError([f"{place}: {text!r} is no time"]) from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=datetime.UTC)
    return int(moment.timestamp() * 1000)
