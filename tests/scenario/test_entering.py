"""Values that people type in: flagged so, and to contracts as good as a sensor's."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest
from workbench import SignedDevice, a_ward, make_gateway, reader_of, readings_of

import edge.contracts
from edge.cli import main
from edge.config import Settings
from edge.errors import ConfigurationError, Reason
from edge.gateway import Core
from edge.model import Attestation, Firing, Flag, Kind, Verdict
from edge.store.reading_rows import reading_rows
from edge.store.replaying import replay

LIBRARY = Path(edge.contracts.__file__).parent / "library"


async def chart(core: Core) -> None:
    """A place at P-1's bed where people write things down."""
    await core.administration.add_device("chart-1", "typed")
    await core.administration.assign_device("chart-1", "P-1")


async def enter(core: Core, metric: str, value: str, **more: str) -> None:
    about = {"device": "chart-1", "actor": "nurse.b"} | more
    await core.administration.operations["enter"](metric=metric, value=value, **about)


async def test_what_is_typed_completes_a_score_that_sensors_alone_cannot(
    tmp_path: Path,
) -> None:
    """NEWS2 needs oxygen and consciousness; 3 + 0 + 2 + 0 + 1 + 3 + 0 is 9."""
    settings = replace(make_gateway(tmp_path), contracts=LIBRARY)
    monitor = SignedDevice("monitor")
    async with a_ward(settings) as (core, mail):
        await chart(core)
        set_param = core.administration.operations["param-set"]
        for param, value in (("age", "70"),):
            await set_param(
                *("news2", param, value, "dr.a", "clinician"), patient="P-1"
            )
        await mail.send(
            "monitor",
            monitor.envelope(
                respiratory_rate=26,
                spo2=97,
                systolic_pressure=120,
                heart_rate=95,
                body_temperature=36.5,
            ),
        )
        assert not [one for one in fired(settings) if one.contract == "news2"]
        await enter(core, "supplemental_oxygen", "1")
        await enter(core, "acvpu", "V")
    scores = [
        one.values["score"]
        for one in fired(settings)
        if one.contract == "news2" and one.rule == "emergency" and one.phase == "start"
    ]
    assert scores == [9]
    assert replay(reader_of(settings), 2**45).findings == []


def fired(settings: Settings) -> list[Firing]:
    return [
        Firing.decode(one.record.original)
        for one in reader_of(settings).records()
        if one.record.kind is Kind.FIRING
    ]


async def test_a_typed_value_says_that_it_was_and_by_whom(tmp_path: Path) -> None:
    settings = make_gateway(tmp_path)
    async with a_ward(settings) as (core, _):
        await chart(core)
        await enter(core, "body_temperature", "36.9")
        await enter(core, "body_temperature", "36.9")  # again: no repetition
    found = readings_of(settings)
    assert len(found) == 2
    record = found[0].record
    assert record.flags & Flag.TYPED
    assert (record.stream, record.link) == ("nurse.b", None)
    assert record.attestation is Attestation.GATEWAY
    [row] = reading_rows(found[0])
    assert row["metrics"] == {"body_temperature": "36.9"} or row["metrics"] == {
        "body_temperature": 36.9
    }
    assert "typed" in str(row["flags"]).lower()


@pytest.mark.parametrize(
    ("about", "reason"),
    [
        ({"metric": "mood", "value": "1"}, "no metric 'mood'"),
        ({"metric": "acvpu", "value": "X"}, "one of A C P U V"),
        ({"metric": "heart_rate", "value": "fast"}, "no number"),
        ({"metric": "heart_rate", "value": "NaN"}, "no number"),
        ({"metric": "heart_rate", "value": "70", "unit": "mm"}, "unknown-unit"),
        ({"metric": "heart_rate", "value": "70", "actor": "a b"}, "--as 'a b'"),
        ({"metric": "heart_rate", "value": "70", "device": "nobody"}, "unknown-device"),
        ({"metric": "heart_rate", "value": "70", "device": "monitor"}, "enrolled as"),
    ],
)
async def test_what_cannot_be_is_refused_with_its_reason(
    tmp_path: Path, about: dict[str, str], reason: str
) -> None:
    async with a_ward(make_gateway(tmp_path)) as (core, _):
        await chart(core)
        with pytest.raises(ConfigurationError, match=reason):
            await enter(core, **about)


async def test_nobody_types_for_a_place_over_mqtt(tmp_path: Path) -> None:
    async with a_ward(make_gateway(tmp_path)) as (core, mail):
        await chart(core)
        message = b'[{"n":"heart_rate","u":"/min","v":70}]'
        outcome = await mail.send("chart-1", message, "nurse.b")
        assert (outcome.verdict, outcome.reason) == (
            Verdict.REFUSED,
            Reason.NOT_AUTHORISED,
        )


async def test_the_command_enters_and_says_what_is_wrong(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = make_gateway(tmp_path)
    async with a_ward(settings) as (core, _):
        await chart(core)
    words = ["enter", "chart-1", "glucose", "104", "--as", "nurse.b"]
    place = ["--config", str(tmp_path / "iomt.toml")]
    assert await asyncio.to_thread(main, [*words, *place]) == 0
    assert "chart-1: glucose 104 by nurse.b" in capsys.readouterr().out
    words[3] = "4000"
    assert await asyncio.to_thread(main, [*words, *place]) == 0  # kept, flagged
    words[2] = "mood"
    assert await asyncio.to_thread(main, [*words, *place]) == 2
    assert "no metric 'mood'" in capsys.readouterr().err
    flags = [bool(one.record.flags & Flag.IMPLAUSIBLE) for one in readings_of(settings)]
    assert flags == [False, True]
