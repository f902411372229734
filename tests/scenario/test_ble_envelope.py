"""Signed envelopes over Bluetooth: from the simulated device to the ledger and back."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from ble_fakes import (
    FAST,
    NOTIFY,
    Intake,
    Radio,
    feeding,
    pushing,
    running,
    until,
    virtual_radio,
)
from workbench import readings_of, trusted_clock

from edge.devices.originals import readings_of as decoded
from edge.errors import ConfigurationError, Reason
from edge.gateway import open_core
from edge.model import Arrival, Attestation, Outcome, Verdict
from firmware_sim.ble import Peripheral
from firmware_sim.ble_envelope import SigningSensor

SENSOR = "F1:00:00:00:00:21"
SEED = bytes(range(32))


def now_ms() -> int:
    return time.time_ns() // 1_000_000


@pytest.fixture
async def radio() -> AsyncIterator[Radio]:
    async with virtual_radio() as made:
        yield made


@contextlib.asynccontextmanager
async def sensor_on(
    radio: Radio, device: str = "patch"
) -> AsyncIterator[SigningSensor]:
    peripheral = Peripheral("patch", SENSOR, radio.link)
    sensor = SigningSensor(peripheral, device, "vitals", SEED, now_ms)
    await peripheral.start()
    sending = asyncio.create_task(sensor.run(resend_s=0.2))
    yield sensor
    sending.cancel()
    await asyncio.wait([sending])
    await peripheral.stop()


class HoldingIntake(Intake):
    """Commits when it is told to."""

    def submit(self, arrival: Arrival) -> None:
        self.arrivals.append(arrival)

    def commit(self) -> None:
        for arrival in self.arrivals:
            arrival.settle(self.outcome)


async def test_an_envelope_is_answered_after_the_commit_and_not_before(
    radio: Radio,
) -> None:
    intake = HoldingIntake()
    served = running(radio, intake, {SENSOR: "patch"}, FAST)
    async with sensor_on(radio) as sensor, served:
        sensor.measure({"heart_rate": 72})
        await until(lambda: len(intake.arrivals) >= 2, "it is sent until answered")
        assert len(sensor.unanswered) == 1
        intake.commit()
        await until(lambda: not sensor.unanswered, "answered")
    assert len({one.payload for one in intake.arrivals}) == 1
    assert {one.address for one in intake.arrivals} == {bytes.fromhex("f10000000021")}


async def test_a_refused_envelope_is_not_sent_again(radio: Radio) -> None:
    intake = Intake()
    intake.outcome = Outcome(Verdict.REFUSED, Reason.BAD_SIGNATURE, "another key")
    served = running(radio, intake, {SENSOR: "patch"}, FAST)
    async with sensor_on(radio) as sensor, served:
        sequence = sensor.measure({"heart_rate": 72})
        await until(lambda: sensor.refused == {sequence}, "told so")
        count = len(intake.arrivals)
        await asyncio.sleep(0.5)
        assert len(intake.arrivals) == count


async def test_envelopes_survive_a_device_that_leaves_all_the_time(
    radio: Radio,
) -> None:
    """Fifty readings, a hang-up after each tenth: every sequence, in the end."""
    intake = Intake()
    served = running(radio, intake, {SENSOR: "patch"}, FAST)
    async with sensor_on(radio) as sensor, served:
        for count in range(50):
            sensor.measure({"heart_rate": 60 + count})
            await asyncio.sleep(0.005)
            device = sensor.peripheral._device
            if count % 10 == 5 and device is not None:
                for connection in list(device.connections.values()):
                    await connection.disconnect()
        await until(lambda: not sensor.unanswered, "all answered", 20)
    assert len({one.payload for one in intake.arrivals}) == 50


async def test_a_signed_reading_over_bluetooth_is_the_devices_word_on_the_ledger(
    radio: Radio, tmp_path: Path
) -> None:
    settings = trusted_clock(tmp_path)
    async with open_core(settings) as core, sensor_on(radio) as sensor:
        core.intake.open_views()
        key = sensor.signer.public_key.hex()
        await core.administration.add_device("patch", "signed", key, SENSOR.lower())
        async with feeding(radio, core):
            for rate in (70, 71, 72):
                sensor.measure({"heart_rate": rate, "spo2": 97})
            await until(lambda: not sensor.unanswered, "all answered", 20)
    records = [one.record for one in readings_of(settings)]
    assert [record.stream for record in records] == ["vitals"] * 3
    assert {record.attestation for record in records} == {Attestation.DEVICE}
    assert {record.link for record in records} == {"ble"}
    assert {record.address for record in records} == {bytes.fromhex("f10000000021")}
    rates = [decoded(r).readings[0].values["heart_rate"] for r in records]
    assert rates == [70, 71, 72]
    assert {record.original[:1] for record in records} == {b"\xd2"}


async def test_a_plain_device_cannot_pass_for_one_that_signs(
    radio: Radio, tmp_path: Path
) -> None:
    """Enrolled with a key, it says a heart rate that nobody signed."""
    settings = trusted_clock(tmp_path)
    async with open_core(settings) as core:
        core.intake.open_views()
        key = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"
        await core.administration.add_device("patch", "signed", key, SENSOR)
        strap = await radio.peripheral(SENSOR, {0x180D: [pushing(0x2A37, NOTIFY)]})
        async with feeding(radio, core):
            await until(lambda: strap.subscribed("2a37"), "subscribed")
            await strap.send("2a37", "0048")
            await until(lambda: core.intake.totals["refused"] == 1, "refused")
    assert readings_of(settings) == []


async def test_a_bluetooth_device_needs_an_address_and_an_unsigned_one_none(
    tmp_path: Path,
) -> None:
    async with open_core(trusted_clock(tmp_path)) as core:
        with pytest.raises(ConfigurationError, match="has an address"):
            await core.administration.add_device("strap", "ble")
        with pytest.raises(ConfigurationError, match="sends over Bluetooth"):
            await core.administration.add_device("node", "unsigned", None, SENSOR)
