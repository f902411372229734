"""What comes again over Bluetooth is one reading: across reconnects, and restarts."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal
from pathlib import Path

import pytest
from workbench import readings_of, trusted_clock

from edge import config
from edge.devices.originals import live
from edge.devices.profiles.blood_pressure import BloodPressure
from edge.devices.profiles.date_time import Timestamp
from edge.devices.profiles.glucose import GlucoseContext, GlucoseMeasurement
from edge.gateway import Core, open_core
from edge.model import Arrival, Flag, Outcome, Source, Verdict

ADDRESS = "F1:00:00:00:00:41"
DAY_MS = 86_400_000


def now_ms() -> int:
    return time.time_ns() // 1_000_000


@asynccontextmanager
async def ward(settings: config.Settings) -> AsyncIterator[Core]:
    async with open_core(settings) as core:
        core.intake.open_views()
        if core.registry.find("meter") is None:
            await core.administration.add_device("meter", "ble", None, ADDRESS)
        yield core


async def send(
    core: Core,
    stream: str,
    value: bytes,
    *,
    stored: bool = False,
    backlog: bool = False,
) -> Verdict:
    answer: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
    core.intake.submit(
        Arrival(
            Source.BLE,
            f"ble:{ADDRESS}",
            "meter",
            stream,
            value,
            answer.set_result,
            redelivered=stored,
            backlog=backlog,
            link="ble-bonded",
            address=bytes.fromhex(ADDRESS.replace(":", "")),
        )
    )
    async with asyncio.timeout(10):
        return (await answer).verdict


def glucose(sequence: int, time_ms: int) -> bytes:
    stamp = Timestamp.at(time_ms)
    return bytes(GlucoseMeasurement(sequence, stamp, None, Decimal("0.00120"), 1, 1))


def pressure(time_ms: int | None) -> bytes:
    stamp = Timestamp.at(time_ms) if time_ms is not None else None
    return bytes(BloodPressure(Decimal(120), Decimal(80), Decimal(93), timestamp=stamp))


async def test_a_stored_record_is_committed_once_whatever_fetches_it_again(
    tmp_path: Path,
) -> None:
    settings, record = trusted_clock(tmp_path), glucose(7, now_ms() - 3 * DAY_MS)
    async with ward(settings) as core:
        assert await send(core, "2a18", record, stored=True) is Verdict.COMMITTED
        assert await send(core, "2a18", record, stored=True) is Verdict.DUPLICATE
    async with ward(settings) as core:
        assert await send(core, "2a18", record, stored=True) is Verdict.DUPLICATE
        another = glucose(8, now_ms() - 3 * DAY_MS)
        assert await send(core, "2a18", another, stored=True) is Verdict.COMMITTED
    assert len(readings_of(settings)) == 2


async def test_a_cuff_that_sends_its_last_reading_at_each_connection(
    tmp_path: Path,
) -> None:
    """Unasked; its own time tells the readings apart."""
    settings = trusted_clock(tmp_path)
    async with ward(settings) as core:
        first = pressure(now_ms() - 60_000)
        assert await send(core, "2a35", first) is Verdict.COMMITTED
        assert await send(core, "2a35", first) is Verdict.DUPLICATE
        assert await send(core, "2a35", pressure(now_ms())) is Verdict.COMMITTED


async def test_equal_values_without_a_time_are_two_measurements(tmp_path: Path) -> None:
    settings = trusted_clock(tmp_path)
    async with ward(settings) as core:
        for _ in range(2):
            assert await send(core, "2a35", pressure(None)) is Verdict.COMMITTED
        for _ in range(2):
            assert await send(core, "2a37", b"\x00\x48") is Verdict.COMMITTED


async def test_what_was_asked_for_twice_and_has_no_time_is_one(tmp_path: Path) -> None:
    settings = trusted_clock(tmp_path)
    context = bytes(GlucoseContext(7, meal=1))
    async with ward(settings) as core:
        assert await send(core, "2a34", context, stored=True) is Verdict.COMMITTED
        assert await send(core, "2a34", context, stored=True) is Verdict.DUPLICATE


async def test_a_clock_that_stands_still_hides_no_reading_for_longer_than_a_day(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """2010-01-01 on every reading: equal ones are one for 24 hours, not for ever."""
    still = pressure(1_262_304_000_000)
    settings = trusted_clock(tmp_path)
    async with ward(settings) as core:
        assert await send(core, "2a35", still) is Verdict.COMMITTED
        assert await send(core, "2a35", still) is Verdict.DUPLICATE
        ahead_ms = DAY_MS + 1000
        monkeypatch.setattr(
            core.clock, "_wall_ms", lambda: time.time_ns() // 1_000_000 + ahead_ms
        )
        assert await send(core, "2a35", still) is Verdict.COMMITTED
    assert len(readings_of(settings)) == 2


async def test_a_clock_that_is_read_is_recorded_each_time(tmp_path: Path) -> None:
    """Its value may be the same after a reset: it is an observation, not a message."""
    settings = trusted_clock(tmp_path)
    value = bytes.fromhex("da070c120f170600c000")
    async with ward(settings) as core:
        for _ in range(2):
            assert await send(core, "2a2b", value) is Verdict.COMMITTED


async def test_backlog_is_flagged_and_raises_no_live_alarm(tmp_path: Path) -> None:
    settings = trusted_clock(tmp_path)
    async with ward(settings) as core:
        old, new = glucose(1, now_ms() - DAY_MS), glucose(2, now_ms())
        await send(core, "2a18", old, stored=True, backlog=True)
        await send(core, "2a18", new, stored=True)
    records = [one.record for one in readings_of(settings)]
    assert [bool(record.flags & Flag.BACKLOG) for record in records] == [True, False]
    from edge.devices.originals import readings_of as decoded

    shown = [live(record, decoded(record).readings[0]) for record in records]
    assert shown == [False, True]
    assert {(record.link, record.address) for record in records} == {
        ("ble-bonded", bytes.fromhex("f10000000041"))
    }
