"""An ECG at 250 Hz over Bluetooth: no sample lost or doubled while the radio drops."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import cast

import pytest
from ble_fakes import FAST, Intake, Radio, feeding, running, until, virtual_radio
from bleak import BleakClient
from workbench import readings_of, trusted_clock

from edge.devices.originals import readings_of as decoded
from edge.devices.profiles import ecg
from edge.devices.profiles.ecg import EcgChunk
from edge.devices.profiles.heart_rate import HeartRateMeasurement
from edge.gateway import open_core
from edge.model import Arrival, Outcome, Verdict
from edge.sources.ble import BleSource
from edge.sources.ble_ecg import EcgStream
from edge.sources.ble_hci import attach
from edge.sources.ble_link import Link
from firmware_sim.ble import Peripheral
from firmware_sim.ble_ecg import CHUNK_COUNT, RATE_HZ, EcgPatch

PATCH = "F1:00:00:00:00:31"
MINUTES = int(os.environ.get("IOMT_ECG_MINUTES", "6"))  # `make soak` takes an hour


@pytest.fixture
async def radio() -> AsyncIterator[Radio]:
    async with virtual_radio() as made:
        yield made


class LedgerIntake(Intake):
    """Takes equal bytes once, as the admission does, and commits a little later."""

    def __init__(self) -> None:
        super().__init__()
        self.taken: dict[bytes, EcgChunk] = {}
        self.rates: list[int] = []
        self.gaps: list[str] = []

    def submit(self, arrival: Arrival) -> None:
        verdict = Verdict.COMMITTED
        if arrival.stream == ecg.RATE_STREAM:
            said = HeartRateMeasurement.from_bytes(arrival.payload)
            self.rates.append(said.heart_rate)
        elif arrival.payload in self.taken:
            verdict = Verdict.DUPLICATE
        else:
            self.taken[arrival.payload] = EcgChunk.from_bytes(arrival.payload)
        loop = asyncio.get_running_loop()
        loop.call_later(0.005, arrival.settle, Outcome(verdict))


def heart(count: int, per_minute: int = 75) -> list[int]:
    """A QRS complex every 0.8 s, numbered by its height, on a slow wave."""
    period = RATE_HZ * 60 // per_minute
    out = []
    for i in range(count):
        phase = i % period
        qrs = 200 * min(phase, 20 - phase) // 10 if phase < 20 else 0
        out.append(qrs + i // period % 7 + i % 5)
    return out


@contextlib.asynccontextmanager
async def patch_on(radio: Radio, session: int = 7) -> AsyncIterator[EcgPatch]:
    peripheral = Peripheral("patch", PATCH, radio.link)
    patch = EcgPatch(peripheral, session, kept_chunks=100_000)
    await peripheral.start()
    sending = asyncio.create_task(patch.run())
    yield patch
    sending.cancel()
    await asyncio.wait([sending])
    await peripheral.stop()


async def hang_up(patch: EcgPatch) -> None:
    device = patch.peripheral._device
    assert device is not None
    for connection in list(device.connections.values()):
        await connection.disconnect()


async def test_no_sample_is_lost_or_doubled_while_the_connection_drops(
    radio: Radio,
) -> None:
    """Minutes of signal as fast as it goes; some thirty drops, at any moment."""
    chance = random.Random(20261121)
    signal = heart(MINUTES * 60 * RATE_HZ)
    intake = LedgerIntake()
    drops = 0
    served = running(radio, intake, {PATCH: "patch"}, FAST)
    async with patch_on(radio) as patch, served:
        patch.measure(signal)

        async def drop() -> None:
            nonlocal drops
            while patch.backlog_count:
                await asyncio.sleep(chance.uniform(0.05, 0.4))
                await hang_up(patch)
                drops += 1

        dropping = asyncio.create_task(drop())
        await until(lambda: not patch.backlog_count, "acknowledged", 600)
        await dropping
    chunks = sorted(intake.taken.values(), key=lambda chunk: chunk.first)
    firsts = [chunk.first for chunk in chunks]
    assert firsts == list(range(0, len(signal), CHUNK_COUNT))
    kept = [sample for chunk in chunks for sample in chunk.samples]
    assert kept == signal
    assert drops >= 3
    print(f"{MINUTES} minutes, {drops} drops, {len(chunks)} chunks")
    assert set(intake.rates[3:]) <= {74, 75, 76}
    assert len(intake.rates) > MINUTES * 60 * 0.7  # one a second, of beats at 0.8 s


async def test_a_chunk_is_acknowledged_after_the_commit_and_not_before(
    radio: Radio,
) -> None:
    class Holding(LedgerIntake):
        def submit(self, arrival: Arrival) -> None:
            self.arrivals.append(arrival)

    intake = Holding()
    served = running(radio, intake, {PATCH: "patch"}, FAST)
    async with patch_on(radio) as patch, served:
        patch.measure(heart(5 * CHUNK_COUNT))
        chunks = [ecg.SAMPLES_UUID] * 5
        await until(
            lambda: [a.stream for a in intake.arrivals][:5] == chunks, "five chunks"
        )
        await asyncio.sleep(0.1)
        assert patch.acknowledged == 0
        # Durable out of order: only what has no hole before it is acknowledged.
        for place in (0, 1, 3):
            intake.arrivals[place].settle(Outcome(Verdict.COMMITTED))
        await until(lambda: patch.acknowledged == 2 * CHUNK_COUNT, "two")
        intake.arrivals[2].settle(Outcome(Verdict.COMMITTED))
        await until(lambda: patch.acknowledged == 4 * CHUNK_COUNT, "four")
        assert patch.backlog_count == 1


async def test_samples_that_the_device_no_longer_has_are_a_gap(radio: Radio) -> None:
    told: list[tuple[str, str, str]] = []
    intake = LedgerIntake()
    peripheral = Peripheral("patch", PATCH, radio.link)
    patch = EcgPatch(peripheral, 7, kept_chunks=10)
    await peripheral.start()
    sending = asyncio.create_task(patch.run())
    async with attach(radio.address) as (scanner, client):
        source = BleSource(
            intake,
            lambda: {PATCH: "patch"},
            scanner_backend=scanner,
            client_backend=client,
            limits=FAST,
            alarm=lambda *event: told.append(event),
        )
        task = asyncio.create_task(source.run())
        patch.measure(heart(5 * CHUNK_COUNT))
        await until(lambda: patch.acknowledged == 5 * CHUNK_COUNT, "five")
        signal = heart(30 * CHUNK_COUNT)
        patch.measure(signal)  # twenty of which it must forget
        await until(lambda: not patch.backlog_count, "the rest")
        task.cancel()
        await asyncio.wait([task])
    sending.cancel()
    await asyncio.wait([sending])
    await peripheral.stop()
    words = f"patch: {patch.forgotten} samples of its ECG are missing"
    assert patch.forgotten == 20 * CHUNK_COUNT
    assert told == [("ble-gap", "start", words), ("ble-gap", "end", words)]


async def test_the_heart_rate_is_a_record_of_its_own_beside_the_waveform(
    radio: Radio, tmp_path: Path
) -> None:
    """What the contracts see is on the ledger, so that replay sees the same."""
    settings = trusted_clock(tmp_path)
    async with open_core(settings) as core, patch_on(radio) as patch:
        core.intake.open_views()
        await core.administration.add_device("patch", "ble", None, PATCH)
        async with feeding(radio, core):
            patch.measure(heart(30 * RATE_HZ, per_minute=120))
            await until(lambda: patch.backlog_count == 0, "acknowledged", 20)
            await hang_up(patch)
            patch.measure(heart(5 * RATE_HZ, per_minute=120))
            await until(lambda: patch.backlog_count == 0, "and what came after", 20)
    records = [one.record for one in readings_of(settings)]
    waves = [one for one in records if one.stream == ecg.SAMPLES_UUID]
    firsts = [EcgChunk.from_bytes(one.original).first for one in waves]
    assert firsts == list(range(0, 35 * RATE_HZ - CHUNK_COUNT + 1, CHUNK_COUNT))
    rates = [
        decoded(one).readings[0].values["heart_rate"]
        for one in records
        if one.stream == ecg.RATE_STREAM
    ]
    assert len(rates) > 20
    assert all(abs(rate - 120) <= 1 for rate in rates[2:25])


async def test_a_chunk_that_was_lost_on_the_way_is_had_from_the_device_again() -> None:
    """It keeps what is not acknowledged: an acknowledgement must not pass the hole."""

    class Client:
        acknowledged = 0

        async def write_gatt_char(
            self, _: str, value: bytes, *, response: bool
        ) -> None:
            assert response
            self.acknowledged = int.from_bytes(value[4:], "little")

    told: list[str] = []
    stream, client = EcgStream(told.append), Client()

    async def take(link: Link, *places: int) -> None:
        for place in places:
            samples = tuple(heart(CHUNK_COUNT))
            chunk = EcgChunk(7, place * CHUNK_COUNT, RATE_HZ, 1000, 1, samples)
            for value in stream.take(link, bytes(chunk)):
                if value.settle is not None:
                    value.settle(Outcome(Verdict.COMMITTED))
        await asyncio.sleep(0.01)

    def connection() -> Link:
        return Link(PATCH, "patch", client=cast(BleakClient, client))

    first, second, third = connection(), connection(), connection()
    await take(first, 0)
    await take(first, 2, 3)
    assert client.acknowledged == CHUNK_COUNT
    assert first.gone.is_set()
    await take(second, 1, 2, 3)
    assert client.acknowledged == 4 * CHUNK_COUNT
    assert not told
    await take(third, 6)  # the device begins with the first that it still has
    assert client.acknowledged == 7 * CHUNK_COUNT
    assert told == [f"patch: {2 * CHUNK_COUNT} samples of its ECG are missing"]
    assert not third.gone.is_set()
