"""Contracts that approvers activate while the gateway runs, and what the log holds."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from copies import NOW_MS, save
from workbench import ORIGIN, SignedDevice, a_ward, make_gateway, reader_of, vkey

from edge import config
from edge.config import Settings
from edge.contracts.replay import Fault
from edge.errors import ConfigurationError
from edge.gateway import Core
from edge.ledger import core as native
from edge.ledger.batch import ContractStep, GatewayStart
from edge.ledger.note import Verifier
from edge.ledger.verify import Verdict, verify_directory
from edge.model import Firing, Kind
from edge.store.log_reader import LogReader
from edge.store.replaying import replay
from edge.store.restore import restore

LATER_MS = 2**45  # of a look at the store, long after
SEEDS = {name: bytes([at]) * 32 for at, name in enumerate(("ann", "bob", "cyd"), 1)}
RULE = """\
contract = "pressure"
version = {version}
engine = "rules/1"
subject = "patient"
state = "{state}"

[inputs]
systolic = {{ metric = "systolic_pressure", unit = "mm[Hg]", scale = 1, fresh = "1h" }}

[rules.high]
priority = "high"
when = "systolic >= {limit}"
"""


def text(version: int = 1, limit: int = 180, state: str = "reset") -> str:
    return RULE.format(version=version, limit=limit, state=state)


def governed(directory: Path, quorum: int = 2) -> Settings:
    """A gateway whose contracts two of three people have to approve."""
    lines = [f"quorum = {quorum}"]
    for name, seed in SEEDS.items():
        key = native.public_key(seed).hex()
        lines += ["[[contracts.approver]]", f'name = "{name}"', f'key = "{key}"']
    template = "\n".join(lines)
    return make_gateway(directory, **{"# quorum = 2     ": template + "\n#"})


async def do(core: Core, what: str, /, **arguments: object) -> dict[str, Any]:
    row = await core.administration.operations[what](**arguments)
    assert isinstance(row, dict)
    return row


def sign(who: str, message: object) -> str:
    return native.sign(SEEDS[who], str(message).encode()).hex()


async def approve(core: Core, row: Mapping[str, Any], who: str) -> dict[str, Any]:
    sequence = row["sequence"]
    asked = await do(core, "contract-message", word="approve", sequence=sequence)
    return await do(
        core,
        "contract-approve",
        sequence=sequence,
        contract=row["contract"],
        approver=who,
        signature=sign(who, asked["message"]),
    )


async def step(core: Core, word: str, sequence: int, who: str = "ann") -> None:
    asked = await do(core, "contract-message", word=word, sequence=sequence)
    await do(
        core,
        "contract-step",
        word=word,
        sequence=sequence,
        approver=who,
        signature=sign(who, asked["message"]),
    )


async def activated(core: Core, source: str) -> int:
    row = await do(core, "contract-propose", text=source, name="a file")
    for who in ("ann", "bob"):
        await approve(core, row, who)
    sequence = int(row["sequence"])
    await do(core, "contract-step", word="activate", sequence=sequence)
    return sequence


def firings(settings: Settings) -> list[tuple[str, str, str]]:
    found = [
        Firing.decode(one.record.original)
        for one in reader_of(settings).records()
        if one.record.kind is Kind.FIRING
    ]
    return [(one.rule, one.phase, one.detail) for one in found]


def entries(settings: Settings) -> list[object]:
    log: LogReader = reader_of(settings).log()
    size, _ = log.checkpoint()
    return [log.decoded(index, size) for index in range(size)]


def verified(settings: Settings, directory: Path) -> object:
    reader_of(settings).log().export(directory)
    return verify_directory(directory, vkey(settings)).verdict


async def test_a_contract_watches_from_its_activation_to_its_suspension(
    tmp_path: Path,
) -> None:
    settings, monitor = governed(tmp_path / "g"), SignedDevice("monitor")
    async with a_ward(settings) as (core, mail):
        await mail.send("monitor", monitor.envelope(systolic_pressure=199))
        sequence = await activated(core, text())
        await mail.send("monitor", monitor.envelope(systolic_pressure=199))
        await step(core, "suspend", sequence)
        await mail.send("monitor", monitor.envelope(systolic_pressure=199))
        await step(core, "resume", sequence, "cyd")
        await mail.send("monitor", monitor.envelope(systolic_pressure=199))
        await step(core, "revoke", sequence, "bob")
    over = ("high", "end", "the contract is not active any more")
    start = ("high", "start", "systolic >= 180")
    assert firings(settings) == [start, over, start, over]
    result = replay(reader_of(settings), LATER_MS)
    assert (result.findings, result.firings) == ([], 4)


async def test_a_restart_goes_on_with_what_was_activated(tmp_path: Path) -> None:
    settings, monitor = governed(tmp_path / "g"), SignedDevice("monitor")
    async with a_ward(settings) as (core, mail):
        await activated(core, text())
        await mail.send("monitor", monitor.envelope(systolic_pressure=199))
    async with a_ward(settings) as (core, mail):
        listed = await core.administration.operations["contract-proposals"]()
        assert isinstance(listed, list)
        assert [one["status"] for one in listed] == ["active"]
        assert [one.rule for one in core.intake.evaluator.machine.alarms()] == ["high"]
        await mail.send("monitor", monitor.envelope(systolic_pressure=120))
    assert [phase for _, phase, _ in firings(settings)] == ["start", "end"]
    assert replay(reader_of(settings), LATER_MS).findings == []
    starts = [one for one in entries(settings) if isinstance(one, GatewayStart)]
    assert [len(one.contracts) for one in starts] == [0, 1]


async def test_a_restored_gateway_goes_on_with_what_was_activated(
    tmp_path: Path,
) -> None:
    """A backup that left the activations out would come back with no alarm at all."""
    settings = governed(tmp_path / "g")
    async with a_ward(settings) as (core, _):
        await activated(core, text())
    save(settings, "saved")
    saved = settings.directory.parent / "saved"
    keys = saved.with_name("saved-keys")
    shutil.rmtree(settings.directory)
    restore(saved, settings.directory, keys, now_ms=NOW_MS)
    monitor = SignedDevice("monitor", sequence=50)
    async with a_ward(settings) as (core, mail):
        await mail.send("monitor", monitor.envelope(systolic_pressure=199))
    told = [one for one in firings(settings) if one[0] != "rollback"]
    assert told == [("high", "start", "systolic >= 180")]
    assert replay(reader_of(settings), LATER_MS).findings == []


@pytest.mark.parametrize(
    ("state", "phases"),
    [("reset", ["start", "end", "start"]), ("carry", ["start", "end"])],
)
async def test_an_upgrade_carries_or_resets_what_it_knows(
    tmp_path: Path, state: str, phases: list[str]
) -> None:
    """199 starts an alarm; version 2 allows 200. A reset forgets the 199, and the alarm
    ends because the rule is new; carried, it is held against the new limit at once."""
    settings, monitor = governed(tmp_path / "g"), SignedDevice("monitor")
    async with a_ward(settings) as (core, mail):
        await activated(core, text(1, state=state))
        await mail.send("monitor", monitor.envelope(systolic_pressure=199))
        limit = 200 if state == "carry" else 170
        await activated(core, text(2, limit, state))
        [running] = core.intake.evaluator.machine.contracts
        assert running.version == 2
        if state == "reset":
            await mail.send("monitor", monitor.envelope(systolic_pressure=175))
    assert [phase for _, phase, _ in firings(settings)] == phases
    assert replay(reader_of(settings), LATER_MS).findings == []


async def test_approvals_are_idempotent_and_entered_once(tmp_path: Path) -> None:
    settings = governed(tmp_path / "g")
    async with a_ward(settings) as (core, _):
        row = await do(core, "contract-propose", text=text(), name="a file")
        again = await do(core, "contract-propose", text=text(), name="a file")
        assert (row["new"], again["new"]) == (True, False)
        assert again["sequence"] == row["sequence"]
        assert (await approve(core, row, "ann"))["new"] is True
        repeated = await asyncio.gather(*(approve(core, row, "ann") for _ in range(3)))
        assert [one["new"] for one in repeated] == [False] * 3
        assert repeated[0]["approvals"] == ["ann"]
    found = [type(one).__name__ for one in entries(settings)]
    assert found.count("ContractProposal") == found.count("ContractApproval") == 1


async def test_refused_approvals_and_steps_enter_nothing(tmp_path: Path) -> None:
    settings = governed(tmp_path / "g")
    async with a_ward(settings) as (core, _):
        row = await do(core, "contract-propose", text=text(), name="a file")
        asked = await do(core, "contract-message", word="approve", sequence=1)
        about = {"sequence": 1, "contract": row["contract"], "approver": "ann"}
        good = sign("ann", asked["message"])
        for wrong, reason in (
            ({"signature": sign("bob", asked["message"])}, "is not ann's"),
            ({"signature": good, "approver": "eve"}, "no approver"),
            ({"signature": good, "contract": "00" * 32}, "another contract"),
            ({"signature": "zz"}, "128 hexadecimal digits"),
        ):
            with pytest.raises(ConfigurationError, match=reason):
                await do(core, "contract-approve", **(about | wrong))
        with pytest.raises(ConfigurationError, match="0 of the 2 approvals"):
            await do(core, "contract-step", word="activate", sequence=1)
        with pytest.raises(ConfigurationError, match="signature"):
            await do(core, "contract-step", word="suspend", sequence=1)
        with pytest.raises(ConfigurationError, match=r"bad\.toml:"):
            await do(core, "contract-propose", text='contract = "x"', name="bad.toml")
    assert not any(isinstance(one, ContractStep) for one in entries(settings))


async def test_the_exported_log_verifies_and_one_without_its_quorum_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A gateway that skips its own check, keys and all, is found by any auditor."""
    settings = governed(tmp_path / "honest")
    async with a_ward(settings) as (core, _):
        await activated(core, text())
    assert verified(settings, tmp_path / "a") is Verdict.OK
    lying = governed(tmp_path / "lying")
    monkeypatch.setattr("edge.ledger.lifecycle.Lifecycle.check", lambda *_: None)
    async with a_ward(lying) as (core, _):
        row = await do(core, "contract-propose", text=text(), name="a file")
        await approve(core, row, "ann")
        await do(core, "contract-step", word="activate", sequence=1)
    monkeypatch.undo()
    reader_of(lying).log().export(tmp_path / "b")
    report = verify_directory(tmp_path / "b", vkey(lying))
    assert report.verdict is Verdict.REFUSED
    assert "has 1 of the 2 approvals" in report.reason


async def test_a_start_with_a_contract_that_nobody_activated_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = governed(tmp_path / "g")
    async with a_ward(settings) as (core, _):
        await activated(core, text())
    honest = GatewayStart.encode
    monkeypatch.setattr(
        GatewayStart, "encode", lambda self: honest(replace(self, contracts=()))
    )
    async with a_ward(settings):
        pass
    reader_of(settings).log().export(tmp_path / "b")
    report = verify_directory(tmp_path / "b", vkey(settings))
    assert report.verdict is Verdict.REFUSED
    assert "other contracts than were activated" in report.reason


async def test_replay_finds_a_step_that_the_log_does_not_have(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The gateway silences a contract in its records, and says nothing in public."""
    settings, monitor = governed(tmp_path / "g"), SignedDevice("monitor")
    async with a_ward(settings) as (core, mail):
        sequence = await activated(core, text())
        honest = ContractStep.encode
        tick = bytes.fromhex("04a301500000000000000000000000000000000002000300")
        monkeypatch.setattr(
            ContractStep,
            "encode",
            lambda self: tick if self.step > 1 else honest(self),
        )
        monkeypatch.setattr("edge.activation.contract_log.append", lambda *_: None)
        await step(core, "suspend", sequence)
        await mail.send("monitor", monitor.envelope(systolic_pressure=199))
    found = {one.fault for one in replay(reader_of(settings), LATER_MS).findings}
    assert Fault.CONTRACT in found


async def test_a_new_epoch_begins_with_the_contracts_entries_again(
    tmp_path: Path,
) -> None:
    stick = tmp_path / "stick"
    stick.mkdir()
    settings = replace(governed(tmp_path / "g"), checkpoint_copy=stick)
    monitor = SignedDevice("monitor")
    async with a_ward(settings) as (core, mail):
        await activated(core, text())
    saved = tmp_path / "saved"
    shutil.copytree(
        settings.directory, saved, ignore=shutil.ignore_patterns("keys", "*.sock")
    )
    async with a_ward(settings) as (core, mail):
        for _ in range(3):
            await mail.send("monitor", monitor.envelope())
    keys = tmp_path / "keys"
    shutil.move(settings.directory / "keys", keys)
    shutil.rmtree(settings.directory)
    shutil.copytree(saved, settings.directory)
    shutil.move(keys, settings.directory / "keys")
    async with a_ward(settings) as (core, mail):
        await mail.send("monitor", monitor.envelope(systolic_pressure=199))
        sequence = await activated(core, text(2))
        assert sequence == 2
    found = [type(one).__name__ for one in entries(settings)]
    assert found[:2] == ["EpochStart", "DeviceEnrolment"]
    assert found.count("ContractStep") == 2
    assert ("high", "start", "systolic >= 180") in firings(settings)
    assert replay(reader_of(settings), LATER_MS).findings == []
    reader_of(settings).log().export(tmp_path / "b")
    name = f"{ORIGIN}/epoch-2"
    seed = bytes.fromhex((settings.keys / "log-2.key").read_text().strip())
    key = Verifier(name, native.public_key(seed)).vkey
    assert verify_directory(tmp_path / "b", key).verdict is Verdict.OK


async def test_a_start_tells_what_has_changed_since_the_last(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    library = tmp_path / "rules"
    library.mkdir()
    (library / "pressure.toml").write_text(text())
    settings = replace(make_gateway(tmp_path / "g"), contracts=library)
    for _ in range(2):
        async with a_ward(settings):
            pass
    assert not [one for one in firings(settings) if one[0] == "changed"]
    (library / "pressure.toml").write_text(text(2, 170))
    async with a_ward(settings):
        pass
    [(_, phase, detail)] = [one for one in firings(settings) if one[0] == "changed"]
    assert phase == "finding"
    assert detail.startswith("contracts ")
    assert "configuration" not in detail
    assert any("changed since the last start" in one.message for one in caplog.records)


async def test_a_gateway_without_a_quorum_says_that_its_files_are_active(
    tmp_path: Path,
) -> None:
    async with a_ward(make_gateway(tmp_path / "g")) as (core, _):
        with pytest.raises(ConfigurationError, match="directory's files are active"):
            await do(core, "contract-propose", text=text(), name="a file")


async def test_taking_the_quorum_away_is_a_public_entry(tmp_path: Path) -> None:
    settings = governed(tmp_path / "g")
    async with a_ward(settings) as (core, _):
        await activated(core, text())
    library = tmp_path / "rules"
    library.mkdir()
    files = replace(settings, quorum=0, approvers=(), contracts=library)
    async with a_ward(files) as (core, _):
        assert core.intake.evaluator.machine.contracts == []
    async with a_ward(settings) as (core, _):
        assert len(core.intake.evaluator.machine.contracts) == 1
    found = [type(one).__name__ for one in entries(settings)]
    assert found.count("Authority") == 3
    assert verified(settings, tmp_path / "b") is Verdict.OK


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        ("quorum = 1", "quorum: 1 of 0 approvers"),
        ('approver = [{ name = "a" }]', "approver: each has name and key"),
        ('approver = [{ name = "a", key = "zz" }]', "key of a: not hexadecimal"),
        (
            f'approver = [{{ name = "a b", key = "{"00" * 32}" }}]',
            "name 'a b': 1 to 64",
        ),
        ("quorum = -1", "quorum: -1 is not within 0 and 16"),
    ],
)
def test_mistakes_about_approvers_are_named(
    tmp_path: Path, lines: str, reason: str
) -> None:
    text = f'[gateway]\norigin = "a"\ndata = "d"\n[contracts]\n{lines}\n'
    with pytest.raises(ConfigurationError, match=reason):
        config.parse(text, "iomt.toml", tmp_path)


async def test_what_was_entered_before_is_answered_once_it_is_durable(
    tmp_path: Path,
) -> None:
    """Asked again while the commit is under way: a crash must not make it untrue."""
    async with a_ward(governed(tmp_path / "g")) as (core, _):
        core.intake.before_commit.append(lambda: lambda _: time.sleep(0.2))
        propose = ("contract-propose",)
        first = asyncio.create_task(do(core, *propose, text=text(), name="a file"))
        await asyncio.sleep(0)
        again = asyncio.create_task(do(core, *propose, text=text(), name="a file"))
        row = await again
        assert first.done()
        assert (row["new"], (await first)["new"]) == (False, True)
        first = asyncio.create_task(approve(core, row, "ann"))
        await asyncio.sleep(0)
        assert not (await approve(core, row, "ann"))["new"]
        assert first.done()
        assert (await first)["new"]
