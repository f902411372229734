"""What people do to alarms: recorded, named, in effect, and there after a restart."""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from workbench import SignedDevice, a_ward, make_gateway, reader_of

import edge.contracts
from edge.config import Settings
from edge.contracts.actions import Action
from edge.errors import ConfigurationError, NotFoundError
from edge.gateway import Core
from edge.model import CommitReport, Firing, Kind
from edge.web.live import Live

LIBRARY = Path(edge.contracts.__file__).parent / "library"
COLD = """\
contract = "frost"
version  = 1
engine   = "rules/1"
subject  = "device"
[inputs]
temp = { metric = "body_temperature", unit = "Cel", scale = 10, fresh = "1h" }
[rules.freeze]
priority = "high"
when     = "temp <= '35.0'"
latch    = true
escalate = [{ after = "300ms", to = "role:pharmacist" }]
"""


def cold(temperature: str) -> bytes:
    return b'[{"n":"body_temperature","u":"Cel","v":%s}]' % temperature.encode()


def with_contracts(directory: Path) -> Settings:
    settings = make_gateway(directory)
    place = directory / "rules"
    place.mkdir()
    (place / "frost.toml").write_text(COLD)
    for name in ("blood-pressure.toml", "news2.toml"):
        shutil.copy(LIBRARY / name, place / name)
    return replace(settings, contracts=place)


class Seen:
    """The firings that views got."""

    def __init__(self, core: Core) -> None:
        self.firings: list[Firing] = []
        core.intake.on_commit.append(self._take)

    def _take(self, report: CommitReport) -> None:
        self.firings += [one.firing for one in report.firings]

    async def until(self, phase: str) -> Firing:
        async with asyncio.timeout(5):
            while True:
                for one in self.firings:
                    if one.phase == phase:
                        return one
                await asyncio.sleep(0.01)

    def phases(self) -> list[str]:
        return [one.phase for one in self.firings]


async def states(core: Core) -> list[tuple[object, ...]]:
    listed = await core.administration.operations["alarm-list"]()
    assert isinstance(listed, list)
    return [(row["rule"], str(row["state"]), row["acked_by"]) for row in listed]


async def test_a_latched_alarm_escalates_is_acknowledged_and_released(
    tmp_path: Path,
) -> None:
    """Every step a record; what a person did is known after a restart."""
    settings = with_contracts(tmp_path)
    about = {"contract": "frost", "rule": "freeze", "device": "thermometer"}
    async with a_ward(settings) as (core, mail):
        seen, do = Seen(core), core.administration.operations["alarm-act"]
        with pytest.raises(NotFoundError, match="no alarm"):
            await do(kind="acknowledge", actor="n.b", **about)
        await mail.send("thermometer", cold("34.0"))
        assert (await seen.until("escalate")).to == "role:pharmacist"
        await do(kind="acknowledge", actor="n.b", role="nurse", **about)
        await mail.send("thermometer", cold("36.5"))
        assert await states(core) == [("freeze", "acknowledged", "n.b")]
        assert seen.phases() == ["start", "escalate", "acknowledged", "latched"]
    async with a_ward(settings) as (core, _):
        assert await states(core) == [("freeze", "acknowledged", "n.b")]
        live = Live()
        firings = core.intake.evaluator.machine.active()
        assert [one.phase for one in firings] == ["start", "latched", "acknowledged"]
        seen, do = Seen(core), core.administration.operations["alarm-act"]
        await do(kind="release", actor="ph.c", **about)
        assert [(one.phase, one.actor) for one in seen.firings] == [("end", "ph.c")]
        assert await states(core) == []
        assert live.snapshot()["active"] == []
    actions = [
        Action.decode(one.record.original)
        for one in reader_of(settings).records()
        if one.record.kind is Kind.ACTION
    ]
    assert [(one.kind, one.actor, one.role) for one in actions] == [
        ("acknowledge", "n.b", "nurse"),
        ("release", "ph.c", ""),
    ]


async def test_a_paused_alarm_is_recorded_and_comes_back(tmp_path: Path) -> None:
    settings = with_contracts(tmp_path)
    monitor = SignedDevice("monitor")
    about = {"contract": "blood-pressure", "rule": "high", "patient": "P-1"}
    async with a_ward(settings) as (core, mail):
        seen, do = Seen(core), core.administration.operations["alarm-act"]
        live = Live()
        core.intake.on_commit.append(live.update)
        await mail.send("monitor", monitor.envelope(systolic_pressure=120))
        await do(kind="pause", actor="n.b", for_ms=400, **about)
        await mail.send("monitor", monitor.envelope(systolic_pressure=199))
        start = await seen.until("start")
        assert start.paused
        await seen.until("resumed")
        assert live.snapshot()["active"][0]["state"] == "active"
        with pytest.raises(ConfigurationError, match="60 minutes"):
            await do(kind="pause", actor="n.b", for_ms=61 * 60_000, **about)
        assert seen.phases() == ["paused", "start", "resumed"]


async def test_a_param_is_set_by_its_role_and_no_other(tmp_path: Path) -> None:
    """NEWS2 scores nobody whose age no clinician has told; a child it refuses."""
    settings = with_contracts(tmp_path)
    async with a_ward(settings) as (core, _):
        seen, put = Seen(core), core.administration.operations["param-set"]
        news2 = {"contract": "news2", "param": "age", "patient": "P-1", "actor": "dr"}
        with pytest.raises(ConfigurationError, match="role:clinician"):
            await put(value="15", role="nurse", **news2)
        with pytest.raises(ConfigurationError, match="not a value"):
            await put(value="fifteen", role="clinician", **news2)
        await put(value="15", role="clinician", **news2)
        assert seen.firings[0].rule == "not-for-children"
        await put(value="16", role="clinician", **news2)
        assert seen.phases() == ["start", "end"]


async def test_the_commands_do_the_same(tmp_path: Path) -> None:
    """Without a gateway that runs, they open the store themselves."""
    settings = with_contracts(tmp_path)
    place = tmp_path / "rules"
    text = (tmp_path / "iomt.toml").read_text()
    (tmp_path / "iomt.toml").write_text(
        text.replace('directory = "contracts"', f'directory = "{place}"')
    )
    async with a_ward(settings) as (_, mail):
        await mail.send("thermometer", cold("34.0"))

    async def iomt(*words: str) -> tuple[int, str]:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "edge", *words),
            *("--config", str(tmp_path / "iomt.toml")),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, said = await process.communicate()
        return process.returncode or 0, (out or said).decode()

    status, out = await iomt("alarm", "list", "--json")
    assert (status, json.loads(out)["rule"]) == (0, "freeze")
    who = ("--device", "thermometer", "--as", "n.b")
    status, out = await iomt("alarm", "acknowledge", "frost", "freeze", *who)
    assert status == 0, out
    status, out = await iomt("alarm", "list")
    assert "acknowledged" in out
    assert "by n.b" in out
    status, out = await iomt("alarm", "release", "frost", "nothing", *who)
    assert status != 0
    assert "no rule 'nothing'" in out
