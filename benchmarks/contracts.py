"""What contracts cost: `python benchmarks/contracts.py [--seconds 2]`.

Readings a second and core (CPU time) through the machine and through the reference, in
one run: fifty plain rules, and the shipped library. Bytes of state for a patient, and
how much of a ward's time one minute replays. Nothing asserts a number.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from decimal import Decimal
from itertools import count
from pathlib import Path

import edge.contracts
from edge.contracts.language import load
from edge.contracts.machine import Machine
from edge.contracts.program import Contract
from edge.contracts.reference import Reference

LIBRARY = Path(edge.contracts.__file__).parent / "library"
PATIENTS_COUNT = 50
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


def readings() -> Iterator[tuple[int, str, str, dict[str, Decimal | str]]]:
    """Fifty patients, one reading a second each, with values that move."""
    for number in count():
        patient = f"p{number % PATIENTS_COUNT}"
        step = number // PATIENTS_COUNT
        values: dict[str, Decimal | str] = {
            "spo2": Decimal(94 + (step + number) % 5),
            "heart_rate": Decimal(70 + step % 17),
            "respiratory_rate": Decimal(14 + step % 3),
            "body_temperature": Decimal("36.8"),
        }
        yield number * 1000 // PATIENTS_COUNT, f"d-{patient}", patient, values


def rate(evaluator: Machine | Reference, seconds: float, warm: int) -> float:
    """Readings a second of CPU time."""
    stream = readings()
    observe: Callable[..., object] = evaluator.observe
    for _, one in zip(range(warm), stream, strict=False):
        observe(*one)
    done, began_s = 0, time.process_time()
    for one in stream:
        observe(*one)
        done += 1
        if done % 16 == 0 and time.process_time() - began_s >= seconds:
            break
    return done / (time.process_time() - began_s)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=2.0)
    seconds = parser.parse_args().seconds
    library = [
        load(one.read_text(), one.name) for one in sorted(LIBRARY.glob("*.toml"))
    ]
    print("| contracts | rules | machine, readings/s | reference | bytes a patient |")
    print("| --- | --: | --: | --: | --: |")
    for name, contracts in (
        ("plain thresholds", fifty()),
        ("a fifth with windows, tables, lets", fifty(WINDOWED)),
        ("the library", library),
    ):
        machine = Machine(contracts)
        ours = rate(machine, seconds, 5_000)
        theirs = rate(Reference(contracts), seconds, 200)
        rules = sum(len(one.rules) for one in contracts)
        state = len(machine.snapshot()) / PATIENTS_COUNT
        print(f"| {name} | {rules} | {ours:,.0f} | {theirs:,.0f} | {state:,.0f} |")
        if name == "the library":
            days = ours * 60 / PATIENTS_COUNT / 86_400
            print(f"\nThe library replays {days:.2f} days of a 50-bed ward a minute.")


if __name__ == "__main__":
    main()
