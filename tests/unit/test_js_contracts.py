"""Both verifiers judge histories of contracts alike, however they were made up."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import ledger_files
from test_js_verifier import Files, Keys, files_of, needs_node, theirs

from edge.cbor import encode
from edge.ledger import batch, core
from edge.ledger.batch import Step
from edge.ledger.lifecycle import message
from edge.ledger.verify import Verdict, verify_directory

HISTORIES = 120
NAMES = ("ann", "bob", "cyd")
SEEDS = {name: bytes([at]) * 32 for at, name in enumerate(NAMES, 1)}
KEYS = {name: core.public_key(seed) for name, seed in SEEDS.items()}
HASHES = tuple(bytes([at]) * 32 for at in range(3))
T = ledger_files.STARTED_MS
SCOPE = ledger_files.ORIGIN


class History:
    """Makes entries up that mostly fit, and sometimes do not."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.entries: list[batch.Entry] = [batch.EpochStart(SCOPE, T)]
        self.steps: dict[int, int] = {}
        self.contract: dict[int, bytes] = {}
        self.active: dict[str, int] = {}
        self.names: dict[int, str] = {}

    def grow(self) -> None:
        # Every so often a whole life, so that histories come far; else one entry.
        self.entries.append(self._authority())
        for _ in range(self.chance.randrange(1, 5)):
            self._life()
        if self.chance.random() < 0.3:
            self._mishap()
        if self.chance.random() < 0.5:
            active = tuple(self.contract[one] for one in self.active.values())
            self.entries.append(self._start(active))

    def _authority(self) -> batch.Authority:
        count = self.chance.choice((1, 2, 3))
        pairs = tuple((name, KEYS[name]) for name in NAMES)
        return batch.Authority(SCOPE, T, count, pairs)

    def _start(self, contracts: tuple[bytes, ...]) -> batch.GatewayStart:
        boot, some = self.chance.randbytes(16), bytes(32)
        core_hash = self.chance.choice((None, some))
        return batch.GatewayStart(
            *(boot, T, True, "0.1.0", some, some, contracts, core_hash)
        )

    def _life(self) -> None:
        sequence = max(self.contract, default=0) + self.chance.choice((1, 1, 2))
        name = self.chance.choice(("spo2", "glucose"))
        contract = self.chance.choice(HASHES)
        self.contract[sequence], self.names[sequence] = contract, name
        self.steps[sequence] = 0
        self.entries.append(batch.ContractProposal(sequence, T, contract, name, 1))
        quorum = next(
            one.quorum
            for one in reversed(self.entries)
            if isinstance(one, batch.Authority)
        )
        count = self.chance.choice((quorum, quorum, quorum, 3, quorum - 1))
        for who in self.chance.sample(NAMES, count):
            signature = self._sign("approve", who, sequence, 0)
            self.entries.append(
                batch.ContractApproval(sequence, T, contract, who, signature)
            )
        for step in self.chance.choice(
            (
                (Step.ACTIVATE,),
                (Step.ACTIVATE, Step.SUSPEND, Step.RESUME),
                (Step.ACTIVATE, Step.SUSPEND),
                (Step.ACTIVATE, Step.REVOKE),
                (Step.REVOKE,),
                (),
            )
        ):
            self._step(step, sequence)

    def _step(self, step: Step, sequence: int) -> None:
        contract, name = self.contract[sequence], self.names[sequence]
        if step is Step.ACTIVATE:
            entry = batch.ContractStep(sequence, T, contract, step)
        else:
            who = self.chance.choice(NAMES)
            word = step.name.lower()
            signature = self._sign(word, who, sequence, self.steps[sequence])
            entry = batch.ContractStep(sequence, T, contract, step, who, signature)
        self.entries.append(entry)
        self.steps[sequence] += 1
        if step in (Step.ACTIVATE, Step.RESUME):
            self.active[name] = sequence
        else:
            self.active.pop(name, None)

    def _sign(self, word: str, who: str, sequence: int, number: int) -> bytes:
        contract = self.contract[sequence]
        return core.sign(SEEDS[who], message(word, SCOPE, sequence, contract, number))

    def _mishap(self) -> None:
        """One entry is lost, told twice, moved, or altered in one of its fields."""
        at = self.chance.randrange(1, len(self.entries))
        entry = self.entries[at]
        match self.chance.randrange(5):
            case 0:
                del self.entries[at]
            case 1:
                self.entries.insert(at, entry)
            case 2:
                del self.entries[at]
                place = self.chance.randrange(1, len(self.entries) + 1)
                self.entries.insert(place, entry)
            case 3 if isinstance(entry, batch.ContractApproval):
                self.entries[at] = replace(entry, approver=self.chance.choice(NAMES))
            case 3 if isinstance(entry, batch.ContractStep) and entry.signature:
                self.entries[at] = replace(entry, signature=bytes(64))
            case _ if isinstance(entry, batch.ContractProposal | batch.ContractStep):
                self.entries[at] = replace(entry, sequence=2)


def history(seed: int) -> list[bytes]:
    made = History(seed)
    made.grow()
    return [one.encode() for one in made.entries]


def judged(found: list[list[bytes]], directory: Path) -> list[tuple[Verdict, str]]:
    """Our answers; and that those of the second verifier are the same."""
    key = ledger_files.VERIFIER.vkey
    asked: list[tuple[Files, Keys]] = []
    answers = []
    for number, entries in enumerate(found):
        place = directory / str(number)
        ledger_files.write_ledger(place, entries)
        report = verify_directory(place, key)
        answers.append((report.verdict, report.place))
        asked.append((files_of(place), Keys(key)))
    words = {Verdict.OK: "OK", Verdict.REFUSED: "REFUSED"}
    for (verdict, where), answer in zip(answers, theirs(asked), strict=True):
        assert (answer["verdict"], answer["place"] or "") == (words[verdict], where)
    return answers


@needs_node
def test_both_verifiers_agree_about_made_up_histories(tmp_path: Path) -> None:
    answers = judged([history(seed) for seed in range(HISTORIES)], tmp_path)
    good = sum(verdict is Verdict.OK for verdict, _ in answers)
    assert HISTORIES // 5 < good < HISTORIES - HISTORIES // 5


@needs_node
def test_both_verifiers_refuse_fields_that_are_wrong(tmp_path: Path) -> None:
    start = batch.EpochStart(SCOPE, T).encode()
    one = [["ann", KEYS["ann"]]]
    bodies: list[tuple[int, dict[int, object]]] = [
        (7, {1: "", 2: T, 3: 1, 4: one}),
        (7, {1: "a\nb", 2: T, 3: 1, 4: one}),
        (7, {1: "a", 2: T, 3: 2, 4: one}),
        (7, {1: "a", 2: T, 3: 0, 4: one}),
        (7, {1: "a", 2: T, 3: 1, 4: one * 2}),
        (7, {1: "a", 2: T, 3: 1, 4: [["ann", bytes(32)]]}),
        (7, {1: "a", 2: T, 3: 1, 4: [["ann"]]}),
        (7, {1: "a", 2: T, 3: 1, 4: [[b"ann", KEYS["ann"]]]}),
        (7, {1: "a", 2: T, 3: 1, 4: [["", KEYS["ann"]]]}),
        (7, {1: "a", 2: T, 3: 17, 4: [["ann", KEYS["ann"]]] * 17}),
        (8, {1: 1, 2: T, 3: bytes(31), 4: "a", 5: 1}),
        (8, {1: 1, 2: T, 3: bytes(32), 4: "", 5: 1}),
        (8, {1: 0, 2: T, 3: bytes(32), 4: "a", 5: 1}),
        (9, {1: 1, 2: T, 3: bytes(32), 4: "ann", 5: bytes(63)}),
        (9, {1: 1, 2: T, 3: bytes(32), 4: "ann", 5: bytes(64)}),
        (10, {1: 1, 2: T, 3: bytes(32), 4: 0}),
        (10, {1: 1, 2: T, 3: bytes(32), 4: 5}),
        (10, {1: 1, 2: T, 3: bytes(32), 4: 1, 5: "ann", 6: bytes(64)}),
        (10, {1: 1, 2: T, 3: bytes(32), 4: 2}),
        (10, {1: 1, 2: T, 3: bytes(32), 4: 1}),
        (11, {1: 1, 2: T}),
    ]
    found = [[start, bytes([kind]) + encode(body)] for kind, body in bodies]
    assert {verdict for verdict, _ in judged(found, tmp_path)} == {Verdict.REFUSED}
    good = bytes([7]) + encode({1: "a", 2: T, 3: 1, 4: one})
    assert judged([[start, good]], tmp_path / "good") == [(Verdict.OK, "")]
