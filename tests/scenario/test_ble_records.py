"""Stored records and clocks of BLE devices: fetched, durable, and only then deleted."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import time
from collections.abc import AsyncIterator

import pytest
from ble_fakes import FAST, Intake, Radio, pushing, running, until, virtual_radio
from ble_meter import METER, Meter, record

from edge.devices.profiles.current_time import CurrentTime
from edge.devices.profiles.racp import OpCode, Response
from edge.errors import Reason
from edge.model import Arrival, Outcome, Verdict
from edge.sources.ble_records import RecordAccess

LIMITS = dataclasses.replace(FAST, record_quiet_s=0.4, waiting_count_max=64)


@pytest.fixture
async def radio() -> AsyncIterator[Radio]:
    async with virtual_radio() as made:
        yield made


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def meter_with(count: int, *, first: int = 1, age_s: int = 3600) -> Meter:
    now = now_ms()
    numbers = range(first, first + count)
    return Meter({n: record(n, now - age_s * 1000 + n) for n in numbers}, now)


class SlowIntake(Intake):
    """Settles nothing before it is told to: the commit takes long."""

    def __init__(self) -> None:
        super().__init__()
        self.held: list[Arrival] = []

    def submit(self, arrival: Arrival) -> None:
        self.arrivals.append(arrival)
        self.held.append(arrival)

    def settle_all(self) -> None:
        held, self.held = self.held, []
        for arrival in held:
            arrival.settle(self.outcome)


def readings(intake: Intake) -> list[Arrival]:
    return [one for one in intake.arrivals if one.stream == "2a18"]


async def test_records_are_deleted_only_after_the_commit_that_holds_them(
    radio: Radio,
) -> None:
    meter = meter_with(5)
    sent = list(meter.records.values())
    await meter.start(radio)
    intake = SlowIntake()
    async with running(radio, intake, {METER: "meter"}, LIMITS):
        await until(lambda: len(readings(intake)) == 5, "the records")
        await asyncio.sleep(0.2)
        assert len(meter.records) == 5, "nothing is durable yet"
        assert meter.requests == ["0101"]
        intake.settle_all()
        await until(lambda: not meter.records, "deleted")
    assert meter.requests == ["0101", "0202010500"]  # up to number 5, not "all"
    assert [one.payload for one in readings(intake)] == sent
    assert {(one.redelivered, one.backlog) for one in readings(intake)} == {
        (True, True)
    }


async def test_a_record_made_while_the_others_are_committed_is_not_deleted(
    radio: Radio,
) -> None:
    meter = meter_with(3)
    await meter.start(radio)
    intake = SlowIntake()
    async with running(radio, intake, {METER: "meter"}, LIMITS):
        await until(lambda: len(readings(intake)) == 3, "the records")
        meter.records[4] = record(4, now_ms())
        intake.settle_all()
        await until(lambda: len(meter.records) == 1, "the others are deleted")
    assert list(meter.records) == [4]


async def test_nothing_is_deleted_where_a_record_was_refused(radio: Radio) -> None:
    meter = meter_with(3)
    await meter.start(radio)
    intake = Intake()
    intake.outcome = Outcome(Verdict.REFUSED, Reason.UNKNOWN_DEVICE, "not enrolled")
    async with running(radio, intake, {METER: "meter"}, LIMITS):
        await until(lambda: len(readings(intake)) == 3, "the records")
        await asyncio.sleep(0.2)
    assert meter.requests == ["0101"]


async def test_nothing_is_deleted_where_the_clinic_wants_it_kept(radio: Radio) -> None:
    """The next connection asks for what is new, and nothing comes twice."""
    meter = meter_with(3)
    peripheral = await meter.start(radio)
    intake = Intake()
    limits = dataclasses.replace(LIMITS, delete_stored=False)
    async with running(radio, intake, {METER: "meter"}, limits) as source:
        await until(lambda: len(readings(intake)) == 3, "the records")
        await asyncio.sleep(0.1)
        meter.records[4] = record(4, now_ms())
        await peripheral.hang_up()
        await until(lambda: not source.connected, "it has left")
        await until(lambda: len(readings(intake)) == 4, "the new one")
        await asyncio.sleep(0.1)
    assert meter.requests == ["0101", "0103010400"]  # all; from number 4
    assert len(meter.records) == 4
    assert len(readings(intake)) == 4


async def test_a_meter_that_counts_anew_is_asked_for_everything(radio: Radio) -> None:
    """After a change of its battery some begin with 1 again."""
    meter = meter_with(3, first=500)
    peripheral = await meter.start(radio)
    intake = Intake()
    limits = dataclasses.replace(LIMITS, delete_stored=False)
    async with running(radio, intake, {METER: "meter"}, limits) as source:
        await until(lambda: len(readings(intake)) == 3, "the records")
        await asyncio.sleep(0.1)
        meter.records = {n: record(n, now_ms(), 90 + n) for n in (1, 2)}
        await peripheral.hang_up()
        await until(lambda: not source.connected, "it has left")
        wanted = set(meter.records.values())
        await until(
            lambda: wanted <= {one.payload for one in readings(intake)}, "the new ones"
        )
    assert meter.requests[1:4] == ["010301f701", "0106", "0101"]


async def test_a_meter_that_leaves_half_way_is_asked_again(radio: Radio) -> None:
    meter = meter_with(6)
    meter.leaves_after = 3
    await meter.start(radio)
    intake = Intake()
    async with running(radio, intake, {METER: "meter"}, LIMITS):
        await until(lambda: not meter.records, "everything is fetched and deleted")
    assert meter.requests[:2] == ["0101", "0101"]
    assert len({one.payload for one in readings(intake)}) == 6


async def test_a_meter_that_ends_with_a_failure_keeps_its_records(
    radio: Radio, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever came by then: the upload is not complete."""
    meter = meter_with(4)
    meter.ends_with = Response.NOT_COMPLETED
    await meter.start(radio)
    intake = Intake()
    with caplog.at_level(logging.INFO, "edge.ble"):
        async with running(radio, intake, {METER: "meter"}, LIMITS):
            await until(lambda: len(readings(intake)) == 4, "the records")
            await asyncio.sleep(0.2)
    assert len(meter.records) == 4
    assert "0202010400" not in meter.requests
    assert any("not completed" in message for message in caplog.messages)


async def test_a_meter_that_is_silent_on_all_records_gives_its_last(
    radio: Radio,
) -> None:
    meter = meter_with(4)
    meter.ignores = {"0101"}
    await meter.start(radio)
    intake = Intake()
    async with running(radio, intake, {METER: "meter"}, LIMITS):
        await until(lambda: len(readings(intake)) == 1, "the last record")
        await asyncio.sleep(0.2)
    assert meter.requests[:3] == ["0101", "0300", "0106"]
    assert len(meter.records) == 4, "what was not fetched is not deleted"


async def test_a_meter_that_cannot_delete_is_left_as_it_is(radio: Radio) -> None:
    meter = meter_with(2)
    meter.refuses = {OpCode.DELETE}
    await meter.start(radio)
    intake = Intake()
    async with running(radio, intake, {METER: "meter"}, LIMITS):
        await until(lambda: len(meter.requests) == 2, "asked to delete")
        await asyncio.sleep(0.1)
    assert meter.requests == ["0101", "0202010200"]
    assert len(meter.records) == 2


async def test_records_wait_for_a_full_intake_and_none_is_lost(radio: Radio) -> None:
    """More than may wait of a device that sends unasked: these were asked for."""
    meter = meter_with(100)
    await meter.start(radio)
    intake = Intake()
    intake.fill()
    limits = dataclasses.replace(LIMITS, waiting_count_max=8)
    async with running(radio, intake, {METER: "meter"}, limits) as source:
        await until(lambda: len(meter.requests) == 1, "asked")
        await asyncio.sleep(0.5)
        assert len(meter.records) == 100
        intake.empty()
        await until(lambda: not meter.records, "deleted")
        assert source.lost_count == 0
    assert len(readings(intake)) == 100


async def test_records_beyond_the_bound_are_asked_for_again(radio: Radio) -> None:
    """They are the device's until we have them: not lost, and not deleted."""
    meter = meter_with(20)
    await meter.start(radio)
    intake = Intake()
    intake.fill()
    limits = dataclasses.replace(LIMITS, stored_count_max=8, commit_wait_s=0.4)
    async with running(radio, intake, {METER: "meter"}, limits) as source:
        await until(lambda: len(meter.requests) == 1, "asked")
        await asyncio.sleep(0.2)
        intake.empty()
        await asyncio.sleep(0.5)
        assert len(meter.records) == 20
        assert meter.peripheral is not None
        await meter.peripheral.hang_up()
        await until(lambda: not meter.records, "all of them, the second time", 10)
        assert source.lost_count == 0
    assert len({one.payload for one in readings(intake)}) == 20


async def test_a_wrong_clock_is_recorded_and_then_set(radio: Radio) -> None:
    """Two hours behind: the record says so, and the reading of just now is live."""
    behind_ms = 2 * 3_600_000
    meter = Meter({}, now_ms() - behind_ms)
    meter.records[1] = record(1, meter.clock_ms - 5_000)
    meter.records[2] = record(2, meter.clock_ms - 600_000)
    await meter.start(radio)
    intake = Intake()
    async with running(radio, intake, {METER: "meter"}, LIMITS):
        await until(lambda: len(readings(intake)) == 2, "the records")
    clock = intake.arrivals[0]
    assert (clock.stream, clock.payload) == (
        "2a2b",
        bytes(CurrentTime.at(meter.clock_ms)),
    )
    (written,) = meter.clock_writes
    set_to_ms = CurrentTime.from_bytes(written).time_ms()
    assert set_to_ms is not None
    assert abs(set_to_ms - now_ms()) < 30_000
    assert [one.backlog for one in readings(intake)] == [False, True]


async def test_a_right_clock_is_left_alone(radio: Radio) -> None:
    meter = Meter({1: record(1, now_ms())}, now_ms())
    await meter.start(radio)
    intake = Intake()
    async with running(radio, intake, {METER: "meter"}, LIMITS):
        await until(lambda: len(readings(intake)) == 1, "the record")
    assert meter.clock_writes == []
    assert not readings(intake)[0].backlog


async def test_what_comes_unasked_is_live_where_nobody_knows_the_clock(
    radio: Radio,
) -> None:
    point = await radio.peripheral(METER, {0x1808: [pushing(0x2A18)]})
    intake = Intake()
    async with running(radio, intake, {METER: "meter"}, LIMITS) as source:
        await until(lambda: source.connected == {METER}, "connected")
        await point.send("2a18", record(1, now_ms() - 86_400_000).hex())
        await until(lambda: len(readings(intake)) == 1, "the record")
    # Sent unasked, so it may be new and the clock wrong: in doubt it is live.
    assert not readings(intake)[0].backlog


@pytest.mark.parametrize(
    ("numbers", "may"),
    [([1, 2, 5], True), ([3, 1], False), ([2, 2], False), ([], False)],
)
async def test_nothing_is_deleted_where_the_numbers_do_not_rise(
    numbers: list[int], may: bool
) -> None:
    """ "Up to the last" would take records along that never came."""

    async def write(_: bytes) -> None:
        raise AssertionError("nothing is asked")

    access = RecordAccess("2a18", write, quiet_s=1)
    for number in numbers:
        access.took("2a18", record(number, now_ms()))
    assert access.may_delete() is may
