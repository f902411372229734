"""The machine against the reference, over random lives of contracts.

Two evaluators of ours may share a mistake; test_contract_examples.py holds both to
expectations that were worked out by hand.
"""

from __future__ import annotations

import random
from collections import Counter
from decimal import Decimal
from pathlib import Path

import pytest

from edge.contracts.actions import Action
from edge.contracts.language import load
from edge.contracts.machine import Machine
from edge.contracts.program import Contract
from edge.contracts.reference import Reference
from edge.model import PHASES, Firing

START_MS = 1_767_225_600_000  # 2026-01-01T00:00:00Z
VECTORS = Path(__file__).parents[1] / "vectors" / "contracts"
RULES = ("low", "delayed", "held", "scored", "covered", "spo2-lost", "freeze", "gap")


@pytest.fixture(scope="module")
def contracts() -> list[Contract]:
    return [
        load((VECTORS / name).read_text(), name)
        for name in ("everything.toml", "cold.toml")
    ]


class Life:
    """A random stream of readings, silences and actions about a few patients."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.at_ms = START_MS + self.chance.randrange(10_000)
        self.mood = {"a": 0, "b": 0}

    def step(self) -> tuple[str, tuple[object, ...]]:
        chance = self.chance
        pause = chance.choices(
            (0, 1, 1_000, 3_000, 9_000, 16_000, 47_000), (1, 1, 9, 9, 5, 3, 1)
        )
        self.at_ms += pause[0] + chance.choice((0, 0, 0, 1, 500))
        kind = chance.choices(("observe", "act", "advance"), (16, 4, 1))[0]
        who = chance.choice("ab")
        if kind == "advance":
            return kind, (self.at_ms,)
        if kind == "act":
            return kind, (self.at_ms, self.action(who))
        return kind, (self.at_ms, *self.reading(who))

    def reading(self, who: str) -> tuple[object, ...]:
        chance = self.chance
        if chance.random() < 0.12:
            self.mood[who] = chance.randrange(3)
        ill = self.mood[who]
        values: dict[str, Decimal | str] = {}
        if chance.random() < 0.8:
            values["spo2"] = Decimal(
                chance.randint(*((94, 99), (84, 93), (78, 96))[ill])
            )
        if chance.random() < 0.6:
            values["heart_rate"] = Decimal(
                chance.randint(*((60, 90), (95, 140), (30, 180))[ill])
            )
        if chance.random() < 0.4:
            low, high = ((364, 375), (376, 390), (360, 400))[ill]
            values["body_temperature"] = Decimal(chance.randint(low, high)) / 10
        if chance.random() < 0.3:
            values["supplemental_oxygen"] = Decimal(chance.randrange(2))
        if chance.random() < 0.3:
            values["acvpu"] = chance.choice("AAAACVPU")
        if chance.random() < 0.5:
            low, high = ((25, 74), (60, 130), (-30, 90))[ill]
            values["ambient_temperature"] = Decimal(chance.randint(low, high)) / 10
        unknown = [one for one in values if chance.random() < 0.06]
        for one in unknown:
            del values[one]
        device = f"dev-{who}{chance.choice('12')}"
        return device, who if chance.random() < 0.95 else None, values, unknown

    def action(self, who: str) -> Action:
        chance = self.chance
        kind = chance.choice(("acknowledge", "acknowledge", "pause", "release", "set"))
        rule = chance.choice(RULES)
        contract = "cold" if rule in ("freeze", "gap") else "everything"
        subject = f"patient:{who}"
        if contract == "cold":
            subject = f"device:dev-{who}{chance.choice('12')}"
        if kind == "set":
            name, value = chance.choice(
                (("limit", "88"), ("limit", "99"), ("scale", "2"), ("scale", "1"))
            )
            role = chance.choice(("doctor", "doctor", "nurse"))
            return Action(
                kind, "everything", name, f"patient:{who}", "dr", role, 0, value
            )
        until_ms = (
            self.at_ms + chance.choice((0, 5_000, 30_000)) if kind == "pause" else 0
        )
        return Action(kind, contract, rule, subject, "n.n.", "nurse", until_ms)


def by_subject(firings: list[Firing]) -> list[Firing]:
    """The order of subjects at one moment is the machine's own; that of each is not."""
    return sorted(firings, key=lambda one: (one.at_ms, one.contract, one.subject))


@pytest.mark.parametrize("seed", range(24))
def test_the_machine_does_what_the_reference_says(
    contracts: list[Contract], seed: int
) -> None:
    """Also when it is put away and restored in between, at any step."""
    life = Life(seed)
    machine, reference = Machine(contracts), Reference(contracts)
    seen: Counter[str] = Counter()
    for number in range(220):
        kind, arguments = life.step()
        ours = getattr(machine, kind)(*arguments)
        theirs = getattr(reference, kind)(*arguments)
        assert by_subject(ours) == by_subject(theirs), (seed, number, kind, arguments)
        seen.update(f"{one.rule} {one.phase}" for one in ours)
        if life.chance.random() < 0.1:
            again = Machine(contracts)
            assert again.restore(machine.snapshot()) == []
            assert again.alarms() == machine.alarms()
            assert again.snapshot() == machine.snapshot()
            machine = again
    assert len(seen) > 12, seen


@pytest.mark.parametrize("seed", range(8))
def test_contracts_that_come_and_go_are_the_same_to_both(seed: int) -> None:
    """Suspended, resumed, and replaced by versions that carry the state or reset it."""
    text, cold = (
        (VECTORS / f"{one}.toml").read_text() for one in ("everything", "cold")
    )
    head = 'version  = 1\nengine   = "rules/1"'
    assert head in text
    assert 'when     = "heart > 100"' in text
    versions = [
        load(
            text.replace(head, f'{head}\nstate = "{state}"').replace(
                'when     = "heart > 100"', f'when     = "heart > {limit}"'
            ),
            "everything.toml",
        )
        for state in ("carry", "reset")
        for limit in (70, 100, 120)
    ]
    life, seen = Life(1000 + seed), Counter[str]()
    machine = Machine([versions[0], load(cold, "cold.toml")])
    reference = Reference(machine.contracts)
    for number in range(300):
        kind, arguments = life.step()
        if life.chance.random() < 0.06:
            kind, version = "activate", life.chance.choice(versions)
            arguments = life.at_ms, version
            if life.chance.random() < 0.3:
                kind, arguments = "deactivate", (life.at_ms, version.hash)
        ours = getattr(machine, kind)(*arguments)
        theirs = getattr(reference, kind)(*arguments)
        assert by_subject(ours) == by_subject(theirs), (seed, number, kind, arguments)
        seen.update((kind, *(f"{kind} {one.phase} {one.detail}" for one in ours)))
    assert machine.contracts == reference.contracts
    assert seen["deactivate"]
    assert any("end replaced by" in one for one in seen)


def test_the_random_lives_are_not_hollow(contracts: list[Contract]) -> None:
    """Every phase of every kind of rule happens somewhere in them."""
    seen: Counter[str] = Counter()
    for seed in range(24):
        life, machine = Life(seed), Machine(contracts)
        for _ in range(220):
            kind, arguments = life.step()
            for one in getattr(machine, kind)(*arguments):
                seen[one.phase] += 1
                seen[one.rule] += 1
                seen["paused-" * one.paused + "x"] += 1
    assert set(PHASES) - {"finding"} <= set(seen)
    rules = {rule.name for one in contracts for rule in one.rules}
    labels = {rule.on_unknown for one in contracts for rule in one.rules} - {None}
    assert rules | labels <= set(seen)
    assert seen["paused-x"]
    assert seen["escalate"] > 20


@pytest.mark.parametrize("seed", range(6))
def test_no_batching_and_no_tick_changes_a_firing(
    contracts: list[Contract], seed: int
) -> None:
    """Asked at every deadline, or only by the next reading: the same firings."""
    lives = Life(seed), Life(seed)
    eager, lazy = Machine(contracts), Machine(contracts)
    all_eager: list[Firing] = []
    all_lazy: list[Firing] = []
    for _ in range(200):
        kind, arguments = lives[0].step()
        while (due := eager.next_deadline_ms()) is not None and due < lives[0].at_ms:
            all_eager += eager.advance(due)
        all_eager += getattr(eager, kind)(*arguments)
        kind, arguments = lives[1].step()
        all_lazy += getattr(lazy, kind)(*arguments)
    assert all_eager == all_lazy
