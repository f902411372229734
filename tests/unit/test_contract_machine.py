"""The machine as a whole: against another evaluator, cut anywhere, ticked anyhow."""

from __future__ import annotations

import csv
import random
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import TypeAlias

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.contracts import running
from edge.contracts.compiled import compile_rules
from edge.contracts.language import load, load_directory
from edge.contracts.machine import Machine
from edge.contracts.program import Contract
from edge.devices.metrics import make_reading
from edge.errors import RejectError
from edge.model import Firing, Reading

ROOT = Path(__file__).resolve().parents[2]
LIBRARY = ROOT / "edge" / "contracts" / "library"
RECORDINGS = (
    ROOT / "firmware_sim" / "recordings" / "icu-numerics.csv",
    ROOT.parent / "shared" / "data" / "icu-numerics.csv",
)

# --- a naive reference ---
# Written the other way round: it keeps every sample, walks every millisecond, and looks
# back over the whole past instead of keeping state. Truth is 0, 1 (unknown) or 2.

Numbers: TypeAlias = dict[str, "int | None"]
Truth: TypeAlias = Callable[[Numbers], int]
FRESH = {"a": 5, "b": 8}
METRIC = {"a": "spo2", "b": "heart_rate"}


@dataclass(frozen=True)
class Case:
    """A rule in both notations."""

    when: str
    truth: Truth
    rearm: str | None
    rearm_truth: Truth | None
    for_ms: int
    on_unknown: bool
    when_fresh: int

    def contract(self) -> Contract:
        rearm = f'rearm = "{self.rearm}"' if self.rearm else ""
        unknown = 'on_unknown = "technical:lost"' if self.on_unknown else ""
        text = f"""
contract = "case"
version = 1
engine = "rules/1"
subject = "patient"
[inputs]
a = {{ metric = "spo2", unit = "%", fresh = "5ms" }}
b = {{ metric = "heart_rate", unit = "/min", fresh = "8ms" }}
[rules.r]
priority = "low"
when = "{self.when}"
for = "{self.for_ms}ms"
{rearm}
{unknown}
"""
        return load(text, "case.toml")


@dataclass(frozen=True)
class Arrival:
    at_ms: int
    device: str
    values: tuple[tuple[str, int], ...]
    unknown: tuple[str, ...]


def reference(
    case: Case, arrivals: list[Arrival], end_ms: int
) -> list[tuple[int, str]]:
    """(at_ms, what) of every firing."""
    samples: dict[str, list[tuple[int, str, int | None]]] = {"a": [], "b": []}
    trace: list[tuple[int, int, int]] = []  # at_ms, truth, truth by last usable samples
    out: list[tuple[int, str]] = []
    active = lost = False
    ended_at = -1  # index in the trace

    def look(name: str, at_ms: int, usable: bool) -> int | None:
        past = samples[name]
        good = [n for n, (_, _, value) in enumerate(past) if value is not None]
        if not good or at_ms - past[good[-1]][0] > FRESH[name]:
            return None
        _, device, value = past[good[-1]]
        later = past[good[-1] + 1 :]
        if not usable and any(source == device for _, source, _ in later):
            return None
        return value

    def instant(at_ms: int) -> None:
        nonlocal active, lost, ended_at
        if not samples["a"] and not samples["b"]:
            return
        seen = {name: look(name, at_ms, usable=False) for name in FRESH}
        held = {name: look(name, at_ms, usable=True) for name in FRESH}
        truth = case.truth(seen)
        trace.append((at_ms, truth, case.truth(held)))
        if active:
            ends = case.rearm_truth(seen) == 2 if case.rearm_truth else truth == 0
            if ends and truth != 2:
                active, ended_at = False, len(trace) - 1
                out.append((at_ms, "end"))
        elif truth == 2:
            first = at_ms
            for when, then, then_held in reversed(trace[ended_at + 1 :]):
                if then == 2:
                    first = when
                elif then == 0 or then_held != 2:
                    break
            if at_ms - first >= case.for_ms:
                active = True
                out.append((at_ms, "start"))
        if case.on_unknown and lost_at(at_ms) is not lost:
            lost = not lost
            out.append((at_ms, "lost" if lost else "found"))

    def lost_at(at_ms: int) -> bool:
        known = [n for n, (_, then, _) in enumerate(trace) if then != 1]
        if not known or known[-1] == len(trace) - 1:
            return False
        return at_ms - trace[known[-1] + 1][0] > case.when_fresh

    by_time: dict[int, list[Arrival]] = {}
    for arrival in arrivals:
        by_time.setdefault(arrival.at_ms, []).append(arrival)
    for at_ms in range(end_ms + 1):
        instant(at_ms)
        for arrival in by_time.get(at_ms, []):
            for name, value in arrival.values:
                samples[name].append((at_ms, arrival.device, value))
            for name in arrival.unknown:
                samples[name].append((at_ms, arrival.device, None))
            instant(at_ms)
    return out


def label(firing: Firing) -> tuple[int, str]:
    if firing.rule == "lost":
        return firing.at_ms, "lost" if firing.phase == "start" else "found"
    return firing.at_ms, firing.phase


# An expression: its text, its truth, the inputs in it
Piece: TypeAlias = tuple[str, Truth, frozenset[str]]
OPERATORS: dict[str, Callable[[int, int], bool]] = {
    "<": lambda x, y: x < y,
    "<=": lambda x, y: x <= y,
    ">": lambda x, y: x > y,
    ">=": lambda x, y: x >= y,
    "==": lambda x, y: x == y,
    "!=": lambda x, y: x != y,
}


def _compare(name: str, operator: str, limit: int) -> Piece:
    def truth(numbers: Numbers) -> int:
        value = numbers[name]
        return 1 if value is None else 2 * OPERATORS[operator](value, limit)

    return f"{name} {operator} {limit}", truth, frozenset({name})


def _missing(name: str) -> Piece:
    def truth(numbers: Numbers) -> int:
        return 2 if numbers[name] is None else 0

    return f"missing({name})", truth, frozenset({name})


def _not(piece: Piece) -> Piece:
    return f"not ({piece[0]})", lambda numbers: 2 - piece[1](numbers), piece[2]


def _join(word: str, left: Piece, right: Piece) -> Piece:
    choose = min if word == "and" else max
    return (
        f"({left[0]}) {word} ({right[0]})",
        lambda numbers: choose(left[1](numbers), right[1](numbers)),
        left[2] | right[2],
    )


names = st.sampled_from("ab")
comparisons = st.builds(
    _compare, names, st.sampled_from(sorted(OPERATORS)), st.integers(89, 91)
)
expressions = st.recursive(
    comparisons | comparisons | st.builds(_missing, names),
    lambda inner: (
        st.builds(_not, inner)
        | st.builds(_join, st.sampled_from(["and", "or"]), inner, inner)
    ),
    max_leaves=4,
)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    when = draw(expressions)
    rearm = draw(st.none() | expressions)
    return Case(
        when[0],
        when[1],
        rearm[0] if rearm else None,
        rearm[1] if rearm else None,
        draw(st.sampled_from([0, 1, 4, 5, 6, 9, 15])),
        draw(st.booleans()),
        max(FRESH[name] for name in when[2]),
    )


@st.composite
def timelines(draw: st.DrawFn) -> list[Arrival]:
    steps = draw(
        st.lists(
            st.tuples(
                st.sampled_from([0, 1, 1, 2, 3, 5, 6, 9, 12, 20]),
                st.sampled_from(["x", "x", "x", "y"]),
                st.dictionaries(names, st.none() | st.integers(88, 92), min_size=1),
            ),
            max_size=20,
        )
    )
    arrivals: list[Arrival] = []
    at_ms = 0
    for step_ms, device, sent in steps:
        at_ms += step_ms
        known = tuple((n, v) for n, v in sent.items() if v is not None)
        unknown = tuple(n for n, v in sent.items() if v is None)
        arrivals.append(Arrival(at_ms, device, known, unknown))
    return arrivals


def observe(machine: Machine, arrival: Arrival) -> list[Firing]:
    return machine.observe(
        arrival.at_ms,
        arrival.device,
        "ada",
        {METRIC[name]: Decimal(value) for name, value in arrival.values},
        {METRIC[name] for name in arrival.unknown},
    )


def run(
    contracts: list[Contract], arrivals: list[Arrival], end_ms: int
) -> list[Firing]:
    machine = Machine(contracts)
    firings = [firing for arrival in arrivals for firing in observe(machine, arrival)]
    return firings + machine.advance(end_ms)


def end_of(arrivals: list[Arrival]) -> int:
    return (arrivals[-1].at_ms if arrivals else 0) + 60


@given(cases(), timelines())
@settings(max_examples=400, deadline=None)
def test_the_machine_agrees_with_an_evaluator_that_looks_back_over_everything(
    case: Case, arrivals: list[Arrival]
) -> None:
    """Two evaluators that share no idea but the rules of docs/contracts.md."""
    end_ms = end_of(arrivals)
    firings = run([case.contract()], arrivals, end_ms)
    assert [label(f) for f in firings] == reference(case, arrivals, end_ms)


def random_arrivals(seed: int, count: int) -> list[Arrival]:
    """Two inputs that stay low or high for a while, with gaps and lost contacts."""
    source = random.Random(seed)
    arrivals: list[Arrival] = []
    at_ms, level = 0, 91
    for _ in range(count):
        at_ms += source.choice([0, 1, 2, 3, 4, 4, 4, 7, 30])
        level = source.choice([88, 92]) if source.random() < 0.15 else level
        sent = {name: level for name in "ab" if source.random() < 0.7} or {"a": level}
        gone = tuple(name for name in sent if source.random() < 0.1)
        known = tuple((n, v) for n, v in sent.items() if n not in gone)
        arrivals.append(Arrival(at_ms, source.choice("xxxy"), known, gone))
    return arrivals


def test_the_comparison_with_the_reference_is_not_hollow() -> None:
    """On a stream made for it every kind of firing occurs, and often."""
    when = _join("or", _compare("a", "<", 90), _compare("b", "<", 90))
    case = Case(when[0], when[1], None, None, 9, True, 8)
    arrivals = random_arrivals(7, 600)
    end_ms = end_of(arrivals)
    labels = [label(f) for f in run([case.contract()], arrivals, end_ms)]
    assert labels == reference(case, arrivals, end_ms)
    kinds = [kind for _, kind in labels]
    assert all(kinds.count(k) >= 10 for k in ("start", "end", "lost", "found")), kinds


# --- the same firings however it is driven ---


def all_contracts() -> list[Contract]:
    """Four contracts, so that their firings interleave."""
    joined = _join("and", _compare("a", "<", 90), _not(_missing("b")))
    pieces = [_compare("a", "<", 90), _missing("a"), joined]
    found = []
    for number, piece in enumerate(pieces):
        case = Case(piece[0], piece[1], None, None, 4 + 3 * number, True, 8)
        found.append(case.contract())
    texts = {"spo2-low.toml": LIBRARY.joinpath("spo2-low.toml").read_text()}
    named = [
        Contract(f"c{n}", 1, bytes([n]) * 32, c.subject, c.inputs, c.rules, c.cost)
        for n, c in enumerate(found)
    ]
    return named + load_directory(texts)


@given(timelines(), st.lists(st.integers(0, 250), max_size=30))
@settings(max_examples=150, deadline=None)
def test_ticks_at_any_time_change_no_firing(
    arrivals: list[Arrival], ticks: list[int]
) -> None:
    """A timer's firing has its deadline as its time, whoever notices it, and when."""
    end_ms = end_of(arrivals)
    machine = Machine(all_contracts())
    firings: list[Firing] = []
    waiting = sorted(tick for tick in ticks if tick <= end_ms)
    for arrival in arrivals:
        while waiting and waiting[0] <= arrival.at_ms:
            firings += machine.advance(waiting.pop(0))
        firings += observe(machine, arrival)
    for tick in [*waiting, end_ms]:
        firings += machine.advance(tick)
    assert firings == run(all_contracts(), arrivals, end_ms)


@given(timelines())
@settings(max_examples=100, deadline=None)
def test_waking_at_each_deadline_gives_the_firings_and_nothing_is_due_in_between(
    arrivals: list[Arrival],
) -> None:
    """`next_deadline_ms` is all that a gateway needs to be on time."""
    end_ms = end_of(arrivals)
    machine = Machine(all_contracts())
    firings: list[Firing] = []

    def sleep_until(at_ms: int) -> None:
        while (due_ms := machine.next_deadline_ms()) is not None and due_ms <= at_ms:
            assert not machine.advance(due_ms - 1)
            at_deadline = machine.advance(due_ms)
            assert all(f.at_ms == due_ms for f in at_deadline)
            firings.extend(at_deadline)

    for arrival in arrivals:
        sleep_until(arrival.at_ms)
        firings.extend(observe(machine, arrival))
    sleep_until(end_ms)
    assert firings == run(all_contracts(), arrivals, end_ms)


@given(timelines(), st.data())
@settings(max_examples=150, deadline=None)
def test_a_restore_at_any_index_gives_the_firings_of_the_full_run(
    arrivals: list[Arrival], data: st.DataObject
) -> None:
    """Prometheus and Home Assistant forget their `for` in a restart; this does not."""
    cut = data.draw(st.integers(0, len(arrivals)))
    end_ms = end_of(arrivals)
    before, after = Machine(all_contracts()), Machine(all_contracts())
    firings = [f for arrival in arrivals[:cut] for f in observe(before, arrival)]
    assert after.restore(before.snapshot()) == []
    assert after.snapshot() == before.snapshot()
    assert after.next_deadline_ms() == before.next_deadline_ms()
    firings += [f for arrival in arrivals[cut:] for f in observe(after, arrival)]
    firings += after.advance(end_ms)
    assert firings == run(all_contracts(), arrivals, end_ms)


def test_due_work_comes_by_deadline_then_contract_then_subject() -> None:
    """One order for everybody, whatever the order in which the subjects came."""
    machine = Machine(
        load_directory(
            {
                name: LIBRARY.joinpath("spo2-low.toml")
                .read_text()
                .replace('"spo2-low"', f'"{name}"')
                for name in ("first", "second")
            }
        )
    )
    for at_ms in (0, 8_000):
        for patient in ("zoe", "bob", "ada"):
            machine.observe(at_ms, f"d-{patient}", patient, {"spo2": Decimal(80)})
    machine.observe(8_001, "d-cyd", "cyd", {"spo2": Decimal(80)})
    firings = machine.observe(15_000, "d-cyd", "cyd", {"spo2": Decimal(80)})
    firings += machine.advance(30_000)
    starts = [(f.at_ms, f.contract, f.subject[8:]) for f in firings if f.rule == "low"]
    assert starts == [
        (15_000, "first", "ada"),
        (15_000, "first", "bob"),
        (15_000, "first", "zoe"),
        (15_000, "second", "ada"),
        (15_000, "second", "bob"),
        (15_000, "second", "zoe"),
        (23_001, "first", "cyd"),
        (23_001, "second", "cyd"),
    ]


# --- subjects ---


def spo2_low(subject: str = "patient", extra: str = "") -> Contract:
    text = f"""
contract = "low"
version = 1
engine = "rules/1"
subject = "{subject}"
[inputs]
spo2 = {{ unit = "%", fresh = "10s" }}
[rules.low]
priority = "high"
when = "spo2 < 90"
{extra}
"""
    return load(text, "low.toml")


LOW, GOOD = {"spo2": Decimal(80)}, {"spo2": Decimal(97)}


def test_a_reading_of_nobody_is_not_evaluated_for_patients() -> None:
    """An unassigned device is recorded; it raises no patient's alarm."""
    machine = Machine([spo2_low()])
    assert machine.observe(0, "probe", None, LOW) == []
    assert machine.observe(1, "probe", "ada", LOW)[0].subject == "patient:ada"


def test_a_contract_about_devices_runs_under_the_devices_name() -> None:
    """With or without a patient."""
    machine = Machine([spo2_low("device")])
    assert machine.observe(0, "probe", None, LOW)[0].subject == "device:probe"
    assert machine.observe(1, "other", "ada", LOW)[0].subject == "device:other"


def test_patients_do_not_share_state() -> None:
    """One patient's good value ends no other's alarm."""
    machine = Machine([spo2_low()])
    assert machine.observe(0, "a", "ada", LOW)
    assert machine.observe(1, "b", "bob", GOOD) == []
    assert [f.phase for f in machine.observe(2, "a", "ada", GOOD)] == ["end"]


def test_a_strap_and_an_oximeter_on_one_patient_feed_one_contract() -> None:
    """The heart rate goes first; the pulse counts when the strap loses contact."""
    text = LIBRARY.joinpath("heart-rate.toml").read_text()
    machine = Machine([load(text, "heart-rate.toml")])
    found: list[tuple[int, str, str]] = []
    for second in range(60):
        at_ms = second * 1_000
        pulse = {"pulse_rate": Decimal(140), "spo2": Decimal(97)}
        firings = machine.observe(at_ms, "oximeter", "ada", pulse)
        if second < 20:
            strap = {"heart_rate": Decimal(80), "sensor_contact": Decimal(1)}
            firings += machine.observe(at_ms, "strap", "ada", strap)
        else:
            lost = {"heart_rate", "sensor_contact"}
            firings += machine.observe(at_ms, "strap", "ada", {}, lost)
        found += [(f.at_ms, f.rule, f.phase) for f in firings]
    assert found == [(30_000, "high", "start")], "the pulse, 10 s after the strap"


def test_a_subject_too_many_is_refused_aloud_and_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """State is bounded; that somebody is not watched is never silent."""
    monkeypatch.setattr(running, "SUBJECTS_MAX", 2)
    machine = Machine([spo2_low()])
    assert machine.observe(0, "a", "ada", GOOD) == []
    assert machine.observe(0, "b", "bob", GOOD) == []
    refused = machine.observe(1, "c", "cyd", LOW)
    assert [(f.rule, f.phase, f.priority) for f in refused] == [
        ("subjects", "start", "technical")
    ]
    assert refused[0].subject == "patient:cyd"
    assert machine.observe(2, "c", "cyd", LOW) == []
    firings = machine.observe(20_000, "c", "cyd", LOW)  # the two others are forgotten
    assert [(f.rule, f.phase) for f in firings] == [
        ("subjects", "end"),
        ("low", "start"),
    ]


def test_a_silent_subject_with_nothing_to_remember_is_forgotten() -> None:
    """Yesterday's patients hold no memory: the snapshot is as at the beginning."""
    machine = Machine([spo2_low()])
    machine.observe(0, "a", "ada", GOOD)
    machine.observe(1, "b", "bob", {}, {"spo2"})
    machine.advance(20_000)
    empty = Machine([spo2_low()])
    empty.advance(20_000)
    assert machine.snapshot() == empty.snapshot()


def test_a_released_subject_ends_what_was_active_and_is_forgotten() -> None:
    """A discharged patient leaves no alarm behind."""
    machine = Machine([spo2_low(extra='on_unknown = "technical:gone"')])
    machine.observe(0, "a", "ada", LOW)
    machine.advance(30_000)
    ends = machine.release(31_000, "patient:ada")
    assert [(f.rule, f.phase, f.at_ms) for f in ends] == [
        ("low", "end", 31_000),
        ("gone", "end", 31_000),
    ]
    assert machine.release(31_000, "patient:ada") == []


def test_time_that_goes_back_is_a_mistake_of_ours() -> None:
    """received_ms never goes back; equal times are fine."""
    machine = Machine([spo2_low()])
    machine.observe(5, "a", "ada", GOOD)
    machine.observe(5, "a", "ada", GOOD)
    with pytest.raises(AssertionError, match="went back"):
        machine.advance(4)


def test_contracts_read_one_metric_each_in_its_own_scale() -> None:
    """96.26 is 963 tenths for one and 96 for the other."""
    text = LIBRARY.joinpath("spo2-low.toml").read_text()
    fine = text.replace('"spo2-low"', '"fine"').replace("scale = 1,", "scale = 10,")
    loaded = load_directory({"1": fine, "2": text.replace("< 90", "< 97")})
    machine = Machine([*loaded, spo2_low(extra="for = '1ms'")])
    machine.observe(0, "a", "ada", {"spo2": Decimal("96.26")})
    firings = machine.observe(8_000, "a", "ada", {"spo2": Decimal("85.26")})
    firings += machine.observe(16_000, "a", "ada", {"spo2": Decimal("85.26")})
    firings += machine.observe(23_000, "a", "ada", {"spo2": Decimal("85.26")})
    seen = {(f.contract, f.at_ms): f.values["spo2"] for f in firings}
    assert seen == {
        ("low", 8_001): 85,
        ("spo2-low", 15_000): 85,
        ("fine", 23_000): 853,
    }


# --- faults ---


def test_a_value_out_of_all_bounds_is_a_fault_of_that_contract_and_subject() -> None:
    """It says so once, goes on with the others, and ends with the next good value."""
    fine = LIBRARY.joinpath("heart-rate.toml").read_text().replace('"8s"', '"60s"')
    machine = Machine([spo2_low(), load(fine, "heart-rate.toml")])
    machine.observe(0, "a", "ada", LOW)
    both = {"spo2": Decimal("1E+30"), "heart_rate": Decimal(150)}
    fault = machine.observe(1_000, "a", "ada", both)
    assert [(f.contract, f.rule, f.priority, f.phase) for f in fault] == [
        ("low", "fault", "technical", "start")
    ]
    assert machine.observe(2_000, "a", "ada", both) == []
    assert machine.observe(2_000, "b", "bob", LOW)[0].phase == "start"
    assert [f.contract for f in machine.advance(11_000)] == ["heart-rate"]
    after = machine.observe(12_000, "a", "ada", GOOD)
    assert {(f.rule, f.phase) for f in after} == {("low", "end"), ("fault", "end")}


def test_an_input_that_stays_away_after_a_fault_is_lost_like_any_other() -> None:
    """The fault forgets what was known, not that it was known."""
    machine = Machine([spo2_low(extra='on_unknown = "technical:gone"')])
    machine.observe(0, "a", "ada", GOOD)
    machine.observe(500, "a", "ada", {}, {"spo2"})
    machine.observe(1_000, "a", "ada", {"spo2": Decimal("1E+30")})
    assert machine.next_deadline_ms() is None
    ended = machine.observe(2_000, "a", "ada", {}, {"spo2"})
    assert [(f.rule, f.phase) for f in ended] == [("fault", "end")]
    lost = machine.advance(60_000)
    assert [(f.rule, f.at_ms) for f in lost] == [("gone", 12_001)]


@pytest.mark.parametrize("value", ["NaN", "sNaN", "Infinity", "-Infinity", "9E+999999"])
def test_what_is_no_number_is_a_fault_and_no_crash(value: str) -> None:
    """Decoders let none of these through; the machine does not depend on it."""
    machine = Machine([spo2_low()])
    fault = machine.observe(0, "a", "ada", {"spo2": Decimal(value)})
    assert [f.rule for f in fault] == ["fault"]


def test_a_mistake_in_evaluation_stays_with_its_contract(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whatever breaks inside a contract is an alarm of it, not the gateway's end."""

    bad, good = spo2_low(), load(LIBRARY.joinpath("spo2-low.toml").read_text(), "l")
    compiled = compile_rules

    def broken(*_: object) -> tuple[bool, ...]:
        raise ZeroDivisionError("a mistake of ours")

    monkeypatch.setattr(
        running, "compile_rules", lambda one: broken if one is bad else compiled(one)
    )
    monkeypatch.setattr(running, "compile_look", lambda _: lambda *_: False)
    machine = Machine([bad, good])
    firings: list[Firing] = []
    for second in range(0, 20, 5):
        firings += machine.observe(second * 1_000, "a", "ada", LOW)
    assert [(f.contract, f.rule, f.phase, f.at_ms) for f in firings] == [
        ("low", "fault", "start", 0),
        ("spo2-low", "low", "start", 15_000),
    ]
    assert "a mistake of ours" in firings[0].detail
    for second in (20, 21):
        firings = machine.observe(second * 1_000, "b", "bob", {}, {"spo2"})
        assert len(firings) == (second == 20), "said once, and remembered"


# --- snapshots ---


def test_state_of_another_version_of_a_contract_is_dropped_and_named() -> None:
    """Only the same bytes of a contract may take up its state."""
    old, new = spo2_low(), spo2_low(extra='for = "5s"')
    machine = Machine([old])
    machine.observe(0, "a", "ada", LOW)
    other = Machine([new])
    dropped = other.restore(machine.snapshot())
    assert len(dropped) == 1
    assert "low" in dropped[0]
    assert old.hash.hex()[:12] in dropped[0]
    assert other.next_deadline_ms() is None


@given(st.binary(max_size=200), st.integers(0, 400), st.integers(1, 255))
@settings(max_examples=200, deadline=None)
def test_bytes_that_are_no_snapshot_are_refused_and_change_nothing(
    noise: bytes, place: int, change: int
) -> None:
    """RejectError or a state that can be snapshotted again; never anything else."""
    machine = Machine(all_contracts())
    machine.observe(3, "a", "ada", LOW)
    good = machine.snapshot()
    with pytest.raises(RejectError):
        machine.restore(noise)
    assert machine.snapshot() == good
    spoiled = bytearray(good)
    spoiled[place % len(good)] ^= change
    try:
        machine.restore(bytes(spoiled))
    except RejectError:
        assert machine.snapshot() == good
    else:
        machine.snapshot()


def test_timers_do_not_pile_up() -> None:
    """Each start of `for` queues an earlier timer; the others must not stay for 4 h."""
    text = spo2_low_text().replace('"10s"', '"4h"')
    machine = Machine([load(text, "long.toml")])
    for second in range(5_000):
        values = LOW if second % 4 < 3 else GOOD
        machine.observe(second * 1_000, "a", "ada", values)
    assert len(machine._timers) < 600


def spo2_low_text() -> str:
    text = LIBRARY.joinpath("spo2-low.toml").read_text()
    return text.replace('for        = "15s"', 'for = "2s"')


# --- recorded patient ---

ICU_METRICS = {
    "HR": "heart_rate",
    "PULSE": "pulse_rate",
    "SpO2": "spo2",
    "RESP": "respiratory_rate",
    "ABPSys": "systolic_pressure",
    "ABPDias": "diastolic_pressure",
    "ABPMean": "mean_pressure",
}


def icu_readings() -> list[Reading]:
    for path in RECORDINGS:
        if path.exists():
            with path.open(newline="") as file:
                return [
                    make_reading(
                        None,
                        {
                            metric: Decimal(row[column])
                            for column, metric in ICU_METRICS.items()
                            if row[column]
                        },
                    )
                    for row in csv.DictReader(file)
                ]
    pytest.skip("no recording of the intensive-care patient here")


def play_icu(judge: bool) -> list[Firing]:
    """One recorded minute a second; without `judge` every value counts as known."""
    texts = {path.name: path.read_text() for path in LIBRARY.glob("*.toml")}
    machine = Machine(load_directory(texts))
    firings: list[Firing] = []
    for second, reading in enumerate(icu_readings()):
        known = reading.known() if judge else reading.values
        unknown = reading.values.keys() - known.keys()
        firings += machine.observe(second * 1_000, "icu", "ada", known, unknown)
    return firings


def test_a_recorded_patients_zeros_raise_no_low_alarm() -> None:
    """0.0 means that the sensor was off. Taken for values, they do raise it."""
    firings = play_icu(judge=True)
    lows = [f for f in firings if f.rule == "low" and f.phase == "start"]
    for firing in lows:
        assert all(v is None or v > 0 for v in firing.values.values()), firing
        assert any(v is not None for v in firing.values.values()), firing
    naive = [f for f in play_icu(judge=False) if f.rule == "low" and f.phase == "start"]
    zeros = [f for f in naive if 0 in f.values.values()]
    assert zeros, "the test would prove nothing on a recording without zeros"


@pytest.mark.parametrize(
    ("state", "change", "carried"),
    [
        ("carry", ("spo2 < 90", "spo2 < 91"), True),
        ("reset", ("spo2 < 90", "spo2 < 91"), False),
        ("carry", ('fresh = "10s"', 'fresh = "11s"'), False),
        ("carry", ("[rules.low]", "[rules.lower]"), False),
    ],
)
def test_a_later_version_goes_on_with_the_state_where_it_says_so(
    state: str, change: tuple[str, str], carried: bool
) -> None:
    """Only where the state means the same: its schema is equal."""
    text = (LIBRARY / "spo2-low.toml").read_text().partition("[[examples]]")[0]
    assert change[0] in text
    text = text.replace("version  = 1", f'version = 2\nstate = "{state}"')
    old, new = load(text, "l"), load(text.replace(*change), "l")
    machine, later = Machine([old]), Machine([new])
    for second in (0, 8, 16):
        machine.observe(second * 1000, "a", "ada", LOW)
    assert [one.rule for one in machine.active()] == ["low"]
    dropped = later.restore(machine.snapshot())
    assert bool(later.active()) is carried
    assert bool(dropped) is not carried
