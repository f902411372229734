"""Every profile over the air: sent by a virtual device, read back from the ledger.

The values are those of tests/vectors/gatt.json. Between them: garbage, duplicates, slow
answers and hang-ups.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import random
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from ble_fakes import (
    FAST,
    INDICATE,
    NOTIFY,
    READ,
    Intake,
    Peripheral,
    Radio,
    feeding,
    pushing,
    running,
    until,
    virtual_radio,
)
from bumble.core import UUID
from bumble.gatt import Characteristic, CharacteristicValue
from workbench import readings_of, trusted_clock

from edge.devices.originals import readings_of as decoded
from edge.devices.profiles import PROFILES, READ_BY_US
from edge.devices.profiles.continuous_glucose import GlucosePoint, SessionStart
from edge.devices.profiles.date_time import Timestamp, parse
from edge.gateway import open_core

SENSOR = "F1:00:00:00:00:51"
VECTORS: list[dict[str, Any]] = [
    vector
    for vector in json.loads(
        (Path(__file__).parents[1] / "vectors" / "gatt.json").read_text()
    )
    if len(vector["uuid"]) == 4 and vector["uuid"] not in READ_BY_US
]
SERVICES = {
    0x180D: {"2a37": NOTIFY},
    0x1809: {"2a1c": INDICATE, "2a1e": NOTIFY},
    0x1810: {"2a35": INDICATE, "2a36": NOTIFY},
    0x1822: {"2a5e": INDICATE, "2a5f": NOTIFY},
    0x1808: {"2a18": NOTIFY, "2a34": NOTIFY},
    0x181F: {"2aa7": NOTIFY},
    0x181D: {"2a9d": INDICATE},
    0x181B: {"2a9c": INDICATE},
    0x180F: {"2a19": NOTIFY},
}
SLOW = dataclasses.replace(FAST, connect_timeout_s=20, exclusive_s=20)


def value_of(vector: dict[str, Any]) -> str:
    return bytes.fromhex(vector["value"]).hex()


async def everything(radio: Radio) -> Peripheral:
    """One device with every profile that is notified or indicated."""
    made = {
        service: [pushing(int(uuid, 16), how) for uuid, how in kinds.items()]
        for service, kinds in SERVICES.items()
    }
    return await radio.peripheral(SENSOR, made)


@pytest.fixture
async def radio() -> AsyncIterator[Radio]:
    async with virtual_radio() as made:
        yield made


def test_every_profile_is_in_this_file() -> None:
    here = {uuid for kinds in SERVICES.values() for uuid in kinds}
    pushed = {uuid for uuid in PROFILES if len(uuid) == 4} - READ_BY_US
    assert here == pushed
    assert {vector["uuid"] for vector in VECTORS} >= here - {"2a5e"}


async def test_what_a_device_sends_is_on_the_ledger_as_its_profile_says(
    radio: Radio, tmp_path: Path
) -> None:
    """From the radio to the decoded record; each value a second time, too."""
    settings = trusted_clock(tmp_path)
    async with open_core(settings) as core:
        core.intake.open_views()
        await core.administration.add_device("sensor", "ble", None, SENSOR)
        sensor = await everything(radio)
        async with feeding(radio, core) as source:
            await until(lambda: source.connected == {SENSOR}, "connected")
            for vector in VECTORS:
                for _ in range(2):
                    await sensor.send(vector["uuid"], value_of(vector))
            totals = core.intake.totals
            await until(lambda: totals["received"] == 2 * len(VECTORS), "all", 10)
            await until(
                lambda: (
                    totals["received"] == totals["committed"] + totals["duplicates"]
                ),
                "settled",
                10,
            )
    records = [one.record for one in readings_of(settings)]
    expected = []
    for vector in VECTORS:
        # With a time of the device's own the second is the same reading.
        expected += [vector] * (1 if vector.get("time_ms") is not None else 2)
    assert [(one.stream, one.original.hex()) for one in records] == [
        (vector["uuid"], value_of(vector)) for vector in expected
    ]
    for record, vector in zip(records, expected, strict=True):
        (reading,) = decoded(record).readings
        said = {name: str(value) for name, value in reading.values.items()}
        assert (said, reading.time_ms) == (vector["values"], vector.get("time_ms"))


async def test_garbage_is_refused_and_what_comes_between_is_kept(
    radio: Radio, tmp_path: Path
) -> None:
    """300 values of chance bytes on every characteristic, and good ones among them."""
    chance = random.Random(8)
    settings = trusted_clock(tmp_path)
    good = 0
    async with open_core(settings) as core:
        core.intake.open_views()
        await core.administration.add_device("sensor", "ble", None, SENSOR)
        sensor = await everything(radio)
        async with feeding(radio, core) as source:
            await until(lambda: source.connected == {SENSOR}, "connected")
            for turn in range(300):
                uuid = chance.choice([u for k in SERVICES.values() for u in k])
                octets = chance.randbytes(chance.randrange(21))
                await sensor.send(uuid, octets.hex())
                if turn % 10 == 0:
                    await sensor.send("2a37", f"00{40 + turn // 10:02x}")
                    good += 1
            await sensor.send("2a37", "00ff")
            totals = core.intake.totals
            await until(
                lambda: (
                    totals["received"]
                    == totals["committed"] + totals["duplicates"] + totals["refused"]
                ),
                "settled",
                10,
            )
            assert source.connected == {SENSOR}, "it was one connection all along"
    assert totals["refused"] > 100
    rates = [
        one.record.original
        for one in readings_of(settings)
        if one.record.stream == "2a37" and len(one.record.original) == 2
    ]
    sent = [bytes((0, 40 + i)) for i in range(good)]
    assert [one for one in rates if one in sent] == sent


async def test_a_device_that_answers_slowly_is_served_all_the_same(
    radio: Radio,
) -> None:
    sensor = await radio.strap(SENSOR)
    server: Any = sensor.device.gatt_server
    answer = server.on_gatt_pdu

    def later(connection: Any, pdu: Any) -> None:
        asyncio.get_running_loop().call_later(0.05, answer, connection, pdu)

    server.on_gatt_pdu = later
    intake = Intake()
    async with running(radio, intake, {SENSOR: "sensor"}, SLOW) as source:
        await until(lambda: source.connected == {SENSOR}, "connected", 20)
        await sensor.send("2a37", "0048")
        await until(lambda: intake.payloads() == ["0048"], "the value")


async def test_a_clock_of_the_other_kind_is_set_too(radio: Radio) -> None:
    """Date Time, 2A08: what cuffs have that were built before Current Time."""
    written: list[bytes] = []
    clock = Characteristic(
        UUID.from_16_bits(0x2A08),
        READ | Characteristic.Properties.WRITE,
        Characteristic.READABLE | Characteristic.WRITEABLE,
        CharacteristicValue(
            read=lambda _: bytes(Timestamp(2015, 1, 1, 0, 0, 0)),
            write=lambda _, value: written.append(bytes(value)),
        ),
    )
    await radio.peripheral(SENSOR, {0x1810: [pushing(0x2A35, INDICATE), clock]})
    intake = Intake()
    async with running(radio, intake, {SENSOR: "cuff"}):
        await until(lambda: bool(written), "set")
    (value,) = written
    set_to_ms = parse(value).time_ms()
    assert set_to_ms is not None
    assert abs(set_to_ms - time.time() * 1000) < 30_000
    assert [(one.stream, one.payload.hex()) for one in intake.arrivals] == [
        ("2a08", "df070101000000")
    ]


async def test_a_glucose_sensor_tells_when_its_session_began_and_so_how_old_it_is(
    radio: Radio,
) -> None:
    """Started two hours ago: minute 119 is of now, minute 60 is not."""
    began = Timestamp.at(time.time_ns() // 1_000_000 - 2 * 3_600_000)
    start = bytes(SessionStart(began, 0, 0, has_crc=True))
    session = Characteristic(
        UUID.from_16_bits(0x2AAA), READ, Characteristic.READABLE, start
    )
    measurement = pushing(0x2AA7)
    await radio.peripheral(SENSOR, {0x181F: [measurement, session]})
    intake = Intake()
    async with running(radio, intake, {SENSOR: "sensor"}) as source:
        await until(lambda: source.connected == {SENSOR}, "connected")
        await until(lambda: intake.has(start.hex()), "the session's start")
        link = source._links[SENSOR]
        for stored in (False, True):
            for minute in (60, 120):
                octets = bytes(GlucosePoint(None, minute, has_crc=True))
                old = is_old(link, octets, stored=stored)
                assert old is (stored and minute == 60)
    assert intake.arrivals[0].stream == "2aaa"


def is_old(link: Any, octets: bytes, *, stored: bool) -> bool:
    from edge.sources import ble_device

    return ble_device.is_old(
        link, "2aa7", octets, lambda: time.time_ns() // 1_000_000, stored=stored
    )
