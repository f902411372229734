"""Every firing once more, from what is stored: what is missing, extra, altered or late.

The records are fed to the everyday evaluator in their order, and what it fires is held
against the firings that stand in the ledger. A firing belongs into the batch of the
record that caused it. Pure: reading the store is the caller's (store/replaying.py).

Replay proves function, not input: it shows that the contracts were followed over the
readings that are there. What a gateway left out before it committed shows elsewhere: a
gap in a device's own sequence, a time that stands still. `Inputs` looks for these.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum

from edge.model import Firing

GATEWAY = "gateway"  # the contract of its own technical alarms, which nobody recomputes
SILENCE_MAX_MS = 30_000  # a tick is due every 10 s; a busy machine may be late


class Fault(StrEnum):
    """What is wrong about a firing, or about the readings below it."""

    MISSING = "missing"  # the contract fired, and nothing is stored
    EXTRA = "extra"  # stored, and the contract did not fire (or not twice)
    ALTERED = "altered"  # stored otherwise than it fired
    LATE = "late"  # stored in a later batch than what caused it
    LOST = "lost"  # a record that is not there, or not the one of its batch
    GAP = "gap"  # numbers of a device that never came
    ORDER = "order"  # a device's numbers that go back without a word of being late
    CONTRACT = "contract"  # a step that records and public entries tell differently
    SILENCE = "silence"  # the log stood still longer than its ticks allow


@dataclass(frozen=True, slots=True)
class Finding:
    """One fault: where it stands, and in words."""

    fault: Fault
    batch: int
    at_ms: int
    text: str
    firing: Firing | None = None


@dataclass(frozen=True, slots=True)
class Placed:
    """A firing and the batch that it was fired in, or stands in."""

    batch: int
    firing: Firing


def compare(fired: Iterable[Placed], stored: Iterable[Placed]) -> Iterator[Finding]:
    """The findings about firings, by batch; each is matched once."""
    waiting: dict[bytes, list[Placed]] = defaultdict(list)
    for one in fired:
        waiting[one.firing.encode()].append(one)
    extra: list[Placed] = []
    found: list[Finding] = []
    for one in stored:
        matches = waiting.get(one.firing.encode())
        if not matches:
            extra.append(one)
            continue
        match = matches.pop(0)
        if match.batch != one.batch:
            found.append(_finding(Fault.LATE, one, f"fired in batch {match.batch}"))
    missing = [one for matches in waiting.values() for one in matches]
    for one in extra:
        twin = next((each for each in missing if _same(each, one)), None)
        if twin is not None:
            missing.remove(twin)
            found.append(_finding(Fault.ALTERED, one, _difference(twin, one)))
        else:
            found.append(_finding(Fault.EXTRA, one, "nothing fires so"))
    found += [_finding(Fault.MISSING, one, "not in the ledger") for one in missing]
    yield from sorted(found, key=lambda one: (one.batch, one.at_ms, one.fault))


def _same(one: Placed, other: Placed) -> bool:
    """Whether these may be one firing that was altered."""
    a, b = one.firing, other.firing
    about = (a.contract, a.rule, a.subject, a.phase) == (
        *(b.contract, b.rule, b.subject, b.phase),
    )
    return about and one.batch == other.batch


def _difference(fired: Placed, stored: Placed) -> str:
    names = [
        name
        for name in Firing.__slots__
        if getattr(fired.firing, name) != getattr(stored.firing, name)
    ]
    return f"fired with other {', '.join(names)}"


def _finding(fault: Fault, one: Placed, why: str) -> Finding:
    firing = one.firing
    text = f"{firing.contract}/{firing.rule} {firing.phase} of {firing.subject}: {why}"
    return Finding(fault, one.batch, firing.at_ms, text, firing)


class Inputs:
    """Watches what the devices and the log itself say about completeness."""

    def __init__(self) -> None:
        self._newest: dict[str, int] = {}
        self._open: dict[str, set[int]] = defaultdict(set)
        self._last_ms: int | None = None
        self._batch: dict[str, int] = {}
        self.found: list[Finding] = []

    def signed(
        self, device: str, sequence: int, batch: int, at_ms: int, *, late: bool
    ) -> None:
        """A signed reading of a device, in record order."""
        newest = self._newest.get(device)
        if newest is not None and sequence < newest:
            if not late:
                text = f"{device}: number {sequence} comes after {newest}"
                self.found.append(Finding(Fault.ORDER, batch, at_ms, text))
            self._open[device].discard(sequence)
            return
        if newest is not None:
            self._open[device].update(range(newest + 1, min(sequence, newest + 1000)))
        self._newest[device] = sequence
        self._batch[device] = batch

    def entry(self, batch: int, time_ms: int, *, start: bool) -> None:
        """An entry of the log; a start of the gateway ends a silence rightly."""
        last_ms, self._last_ms = self._last_ms, time_ms
        if last_ms is None or start or time_ms - last_ms <= SILENCE_MAX_MS:
            return
        text = f"no entry for {(time_ms - last_ms) // 1000} s: ticks are due every 10 s"
        self.found.append(Finding(Fault.SILENCE, batch, time_ms, text))

    def end(self) -> list[Finding]:
        """All findings, with the numbers that never came."""
        for device, numbers in sorted(self._open.items()):
            if numbers:
                shown = ", ".join(map(str, sorted(numbers)[:10]))
                more = "" if len(numbers) <= 10 else f" and {len(numbers) - 10} more"
                text = f"{device}: number {shown}{more} never came"
                self.found.append(Finding(Fault.GAP, self._batch[device], 0, text))
        return self.found
