"""Random contracts, not only random lives: the machine against the reference.

Each case has contracts and a life of its own (random_contracts.py). IOMT_DIFFERENTIAL
says how many cases; a failure names the case, which is the same on every machine.
"""

from __future__ import annotations

import os
from collections import Counter
from functools import cache

import pytest
from random_contracts import Life, contracts_of

from edge.contracts import running
from edge.contracts.machine import Machine
from edge.contracts.program import Contract, Tree, parts_of
from edge.contracts.reference import Reference
from edge.contracts.state import Subject
from edge.model import PHASES, Firing

CASES_COUNT = int(os.environ.get("IOMT_DIFFERENTIAL", "40"))
STEPS_COUNT = 100
HOLLOW_COUNT = 60  # cases in which everything has to happen
contracts_for = cache(contracts_of)


def by_subject(firings: list[Firing]) -> list[Firing]:
    """The order of subjects at one moment is the machine's own; that of each is not."""
    return sorted(firings, key=lambda one: (one.at_ms, one.contract, one.subject))


def subjects_of(machine: Machine) -> list[tuple[Contract, Subject]]:
    return [
        (one.contract, subject)
        for one in machine._running.values()
        for subject in one.subjects.values()
    ]


@pytest.mark.parametrize("case", range(CASES_COUNT))
def test_the_machine_does_what_the_reference_says_whatever_the_contract(
    case: int,
) -> None:
    """Also when it is put away and restored in between, at any step."""
    contracts = contracts_for(case)
    life = Life(case, contracts)
    machine, reference = Machine(contracts), Reference(contracts)
    for number in range(STEPS_COUNT):
        kind, arguments = life.step()
        ours = getattr(machine, kind)(*arguments)
        theirs = getattr(reference, kind)(*arguments)
        assert by_subject(ours) == by_subject(theirs), (case, number, kind, arguments)
        if life.chance.random() < 0.1:
            again = Machine(contracts)
            assert again.restore(machine.snapshot()) == []
            assert again.alarms() == machine.alarms()
            assert again.snapshot() == machine.snapshot()
            machine = again


@pytest.mark.parametrize("case", range(CASES_COUNT))
def test_no_shortcut_and_no_tick_changes_a_firing_or_a_byte_of_the_state(
    case: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One machine as it is, one asked at every deadline, one with no shortcuts."""
    contracts = contracts_for(case)
    life = Life(case, contracts)
    lazy, eager = Machine(contracts), Machine(contracts)
    monkeypatch.setattr(running, "TAKES_MAX", 0)
    monkeypatch.setattr(running, "compile_look", lambda _: lambda *_: False)
    plain = Machine(contracts)
    monkeypatch.undo()
    for _ in range(STEPS_COUNT):
        kind, arguments = life.step()
        eagerly: list[Firing] = []
        while (due := eager.next_deadline_ms()) is not None and due < life.at_ms:
            eagerly += eager.advance(due)
        eagerly += getattr(eager, kind)(*arguments)
        lazily = getattr(lazy, kind)(*arguments)
        assert lazily == eagerly
        assert lazily == getattr(plain, kind)(*arguments)
        again: list[Firing] = []
        for one in plain._running.values():
            for subject in one.subjects.values():
                one.evaluate(subject, life.at_ms, again)
        assert again == [], "to look once more changes nothing"
        assert lazy.snapshot() == eager.snapshot() == plain.snapshot()
        for contract, subject in subjects_of(lazy):
            quiet = subject.quiet
            subject.settle(contract)
            assert quiet == subject.quiet, "what `quiet` says follows from the state"


def kinds_in(contract: Contract) -> Counter[str]:
    """How often each node and each option of a rule stands in a contract."""
    found: Counter[str] = Counter()
    waiting: list[Tree] = [one.when.tree for one in contract.rules]
    waiting += [one.rearm.tree for one in contract.rules if one.rearm]
    waiting += [one.program.tree for one in contract.lets]
    waiting += [one.of for one in contract.tables]
    while waiting:
        tree = waiting.pop()
        found[str(tree[0])] += 1
        if tree[0] == "window":
            found[f"window.{tree[2]}"] += 1
        waiting += parts_of(tree)
    for rule in contract.rules:
        for option in rule.__slots__:
            found[option] += bool(getattr(rule, option))
    found[contract.subject] += 1
    found["expires"] += any(one.expires_ms for one in contract.params)
    found["undefined"] += any(one.default is None for one in contract.params)
    return found


def test_the_random_contracts_are_not_hollow() -> None:
    """Every node, option and phase happens somewhere, and not just once."""
    seen: Counter[str] = Counter()
    phases: Counter[str] = Counter()
    for case in range(HOLLOW_COUNT):
        contracts = contracts_for(case)
        life, machine = Life(case, contracts), Machine(contracts)
        for contract in contracts:
            seen += kinds_in(contract)
        for _ in range(STEPS_COUNT):
            kind, arguments = life.step()
            phases.update(one.phase for one in getattr(machine, kind)(*arguments))
    nodes = "const input param let window table sum max min if truth missing silent not"
    nodes += " and or at_least < <= > >= == != patient device expires undefined"
    fields = "sum min max mean count change rate mkt filled"
    options = "for_ms rearm on_unknown delay_ms latch max_rate escalate inhibited_by"
    options += " show retrospective"
    wanted = [*nodes.split(), *options.split()]
    wanted += [f"window.{one}" for one in fields.split()]
    assert {one: seen[one] for one in wanted if seen[one] < 3} == {}
    assert {one: phases[one] for one in PHASES if phases[one] < 10} == {}
