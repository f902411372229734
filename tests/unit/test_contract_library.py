"""The contracts that we ship: their examples, and NEWS2 at its chart's boundaries."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pytest

import edge.contracts
from edge.contracts.actions import SET, Action
from edge.contracts.examples import read_examples, run, shown
from edge.contracts.explain import explain
from edge.contracts.language import load
from edge.contracts.machine import Machine
from edge.contracts.program import Contract
from edge.contracts.reference import Reference
from edge.model import Firing

LIBRARY = Path(edge.contracts.__file__).parent / "library"
FILES = sorted(LIBRARY.glob("*.toml"))
VECTORS = sorted((Path(__file__).parents[1] / "vectors" / "contracts").glob("*.toml"))
START_MS = 1_767_225_600_000
# Royal College of Physicians, NEWS2 (2017), chart 1; worked out by hand from it:
# breaths, SpO2, oxygen, systolic, pulse, ACVPU, temperature, scale -> total
NEWS2 = """
16 98 0 120  80 A 37.0 1  0
12 96 0 111  51 A 36.1 1  0
20 96 0 219  90 A 38.0 1  0
18 95 0 120  80 A 36.8 1  1
22 93 0  98 112 A 38.4 1  9
28 92 1  95 120 V 38.5 1 15
25 96 0 120  80 A 37.0 1  3
21 95 0 110  91 A 38.1 1  6
11 94 0 110  50 A 36.0 1  5
 9 92 0 101  41 A 35.1 1  6
24 93 0 100 110 A 39.0 1  8
25 91 0  91 111 A 39.1 1 12
16 89 1 120  80 A 37.0 1  5
16 89 1 120  80 A 37.0 2  2
16 88 0 120  80 A 37.0 2  0
16 87 0 120  80 A 37.0 2  1
16 85 1 120  80 A 37.0 2  4
16 92 1 120  80 A 37.0 2  2
16 93 1 120  80 A 37.0 2  3
16 95 1 120  80 A 37.0 2  4
16 97 1 120  80 A 37.0 2  5
16 97 0 120  80 A 37.0 2  0
 8 83 1  90 131 U 35.0 2 20
 8 91 1 220  40 C 35.0 1 20
"""


def loaded(file: Path) -> Contract:
    return load(file.read_text(), file.name)


@pytest.mark.parametrize("file", [*FILES, *VECTORS], ids=lambda one: one.stem)
def test_every_example_comes_out_in_both_evaluators(file: Path) -> None:
    contract = loaded(file)
    examples = read_examples(file.read_text(), file.name, contract)
    for example in examples:
        for one in run(contract, example):
            found = [shown(each) for each in one.found]
            assert one.good, (example.name, one.evaluator, found)


@pytest.mark.parametrize("file", FILES, ids=lambda one: one.stem)
def test_every_shipped_contract_has_examples_a_warning_and_an_explanation(
    file: Path,
) -> None:
    text, contract = file.read_text(), loaded(file)
    assert read_examples(text, file.name, contract)
    assert "Secondary notification only" in text
    assert "examples for a clinic to set" in text
    assert all(rule.name in "\n".join(explain(contract)) for rule in contract.rules)


def readings_of(line: str) -> tuple[dict[str, Decimal | str], str, int]:
    breaths, spo2, o2, systolic, pulse, acvpu, temp, scale, total = line.split()
    values: dict[str, Decimal | str] = {
        "respiratory_rate": Decimal(breaths),
        "spo2": Decimal(spo2),
        "supplemental_oxygen": Decimal(o2),
        "systolic_pressure": Decimal(systolic),
        "pulse_rate": Decimal(pulse),
        "acvpu": acvpu,
        "body_temperature": Decimal(temp),
    }
    return values, scale, int(total)


def setting(name: str, value: str) -> Action:
    return Action(SET, "news2", name, "patient:p", "dr.a", "clinician", 0, value)


def scored(
    evaluator: Machine | Reference, values: dict[str, Decimal | str], scale: str
) -> list[Firing]:
    """What a set of readings fires; each evaluator sees an adult first."""
    evaluator.act(START_MS, setting("age", "70"))
    evaluator.act(START_MS, setting("scale", scale))
    return evaluator.observe(START_MS + 1, "d", "p", values)


@pytest.mark.parametrize("line", NEWS2.strip().splitlines())
@pytest.mark.parametrize("evaluator", [Machine, Reference])
def test_news2_scores_as_its_chart_says(
    line: str, evaluator: type[Machine] | type[Reference]
) -> None:
    """The score stands in what fires; the contract with other limits fires for each."""
    text = (LIBRARY / "news2.toml").read_text()
    always = text.replace("adult and score >= 7", "adult and score >= 0")
    values, scale, total = readings_of(line)
    [first, *_] = scored(evaluator([load(always, "news2.toml")]), values, scale)
    assert (first.rule, first.values["score"]) == ("emergency", total)
    rules = {
        one.rule
        for one in scored(evaluator([loaded(LIBRARY / "news2.toml")]), values, scale)
    }
    if total >= 7:
        assert rules == {"emergency"}
    elif total >= 5:
        assert rules == {"urgent"}
    else:
        assert rules <= {"single"}


@pytest.mark.parametrize("missing", range(7))
def test_news2_never_scores_a_partial_set(missing: int) -> None:
    values, scale, _ = readings_of("28 92 1  95 120 V 38.5 1 15")
    del values[list(values)[missing]]
    fired = scored(Machine([loaded(LIBRARY / "news2.toml")]), values, scale)
    # A single sign of three points is one whatever else is missing; a sum is none.
    assert {one.rule for one in fired} <= {"single"}
    assert {one.values["score"] for one in fired} <= {None}
