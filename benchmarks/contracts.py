"""What contracts cost: `python benchmarks/contracts.py [--seconds 1] [--rounds 5]`.

Readings a second and core (CPU time) through the machine and through the reference, in
one run and in turns, medians of the rounds: fifty plain rules, fifty with windows,
tables and lets among them, the same while a third of the patients has alarms, and the
shipped library. Bytes of state for a patient, and how much of a ward's time one minute
replays. Nothing asserts a number.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from decimal import Decimal
from itertools import count
from pathlib import Path
from statistics import median

import edge.contracts
from edge.contracts.language import load
from edge.contracts.machine import Machine
from edge.contracts.program import Contract
from edge.contracts.reference import Reference

LIBRARY = Path(edge.contracts.__file__).parent / "library"
PATIENTS_COUNT = 50
Observed = tuple[int, str, str, dict[str, Decimal | str]]
WINDOWED = """
[windows]
recent = { of = "spo2", span = "60s", bucket = "10s", keep = ["mean", "change"] }
[tables]
rate = { of = "heart", rows = [[40, 3], [50, 1], [90, 0], [110, 1], ["*", 3]] }
[let]
score = "rate.pts + (2 if spo2 < 92 else 0)"
"""


def fifty(more: str = "") -> list[Contract]:
    """Ten contracts of five rules over three vital signs, all evaluated each time."""
    return [load(text, name) for name, text in texts(more).items()]


def texts(more: str = "") -> dict[str, str]:
    """The same as texts, by their names."""
    found = {}
    for number in range(10):
        rules = ""
        for place in range(5):
            when = f"spo2 < {60 + place + number} or heart > {150 + place}"
            if more and place == 4:
                when = "score >= 5 or recent.mean < 80 and recent.change < -9"
            rules += (
                f'[rules.r{place}]\npriority = "high"\nwhen = "{when}"\nfor = "15s"\n'
                f'rearm = "spo2 >= {80 + place}"\n'
            )
        text = (
            f'contract = "c{number}"\nversion = 1\nengine = "rules/1"\n'
            'subject = "patient"\n[inputs]\nspo2 = { unit = "%", fresh = "10s" }\n'
            'heart = { metric = "heart_rate", unit = "/min", fresh = "10s" }\n'
            'breaths = { metric = "respiratory_rate", unit = "/min", fresh = "10s" }\n'
        )
        found[f"c{number}"] = text + more + rules
    return found


def readings(ill_every: int = 0) -> Iterator[Observed]:
    """Fifty patients, one reading a second each, with values that move.

    Every so many patients one is ill: its saturation is around the thresholds.
    """
    for number in count():
        place = number % PATIENTS_COUNT
        patient = f"p{place}"
        step = number // PATIENTS_COUNT
        ill = ill_every and place % ill_every == 0
        values: dict[str, Decimal | str] = {
            "spo2": Decimal((59 if ill else 94) + (step + number) % 5),
            "heart_rate": Decimal(70 + step % 17),
            "respiratory_rate": Decimal(14 + step % 3),
            "body_temperature": Decimal("36.8"),
        }
        yield number * 1000 // PATIENTS_COUNT, f"d-{patient}", patient, values


class Course:
    """One evaluator on its way through the readings; it goes on where it stopped."""

    def __init__(self, evaluator: Machine | Reference, ill_every: int) -> None:
        self._observe: Callable[..., object] = evaluator.observe
        self._stream = readings(ill_every)
        self.rates: list[float] = []

    def go(self, readings_count: int) -> None:
        """So many readings, not timed."""
        for _, one in zip(range(readings_count), self._stream, strict=False):
            self._observe(*one)

    def time(self, seconds: float) -> None:
        """Note the readings a second of CPU time, of this many seconds."""
        done, began_s = 0, time.process_time()
        for one in self._stream:
            self._observe(*one)
            done += 1
            if done % 16 == 0 and time.process_time() - began_s >= seconds:
                break
        self.rates.append(done / (time.process_time() - began_s))


def measured(
    contracts: list[Contract], ill_every: int, seconds: float, rounds: int
) -> tuple[float, float, float]:
    """Readings a second of the machine and the reference, and bytes for a patient."""
    machine, slow = Machine(contracts), list[float]()
    ours = Course(machine, ill_every)
    ours.go(5_000)
    for _ in range(rounds):
        ours.time(seconds)
        # Anew each round: it looks back over all that it was ever told
        theirs = Course(Reference(contracts), ill_every)
        theirs.go(200)
        theirs.time(seconds)
        slow.append(theirs.rates[0])
    state = len(machine.snapshot()) / PATIENTS_COUNT
    return median(ours.rates), median(slow), state


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    library = [
        load(one.read_text(), one.name) for one in sorted(LIBRARY.glob("*.toml"))
    ]
    print("| contracts | rules | machine, readings/s | reference | bytes a patient |")
    print("| --- | --: | --: | --: | --: |")
    for name, contracts, ill_every in (
        ("plain thresholds", fifty(), 0),
        ("a fifth with windows, tables, lets", fifty(WINDOWED), 0),
        ("the same, a third of the patients ill", fifty(WINDOWED), 3),
        ("the library", library, 0),
    ):
        ours, theirs, state = measured(
            contracts, ill_every, options.seconds, options.rounds
        )
        rules = sum(len(one.rules) for one in contracts)
        print(f"| {name} | {rules} | {ours:,.0f} | {theirs:,.0f} | {state:,.0f} |")
    days = ours * 60 / PATIENTS_COUNT / 86_400
    print(f"\nThe library replays {days:.2f} days of a 50-bed ward a minute.")


if __name__ == "__main__":
    main()
