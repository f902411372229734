"""BleSource through bleak on BlueZ, a real kernel and a virtual radio (lab.py)."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import time
from functools import partial
from pathlib import Path

import pytest
from ble_fakes import INDICATE, OXIMETER, STRAP, Intake, pushing, until
from ble_meter import METER, Meter, record
from lab import QUICK, Lab, let_go, serving
from workbench import readings_of, trusted_clock

from edge.gateway import open_core

LIMIT_S = 40


async def test_notified_and_indicated_values_arrive_as_they_were_sent(
    lab: Lab,
) -> None:
    strap = await lab.strap()
    cuff = await lab.peripheral(
        OXIMETER,
        {0x1810: [pushing(0x2A35, INDICATE)], 0x1809: [pushing(0x2A1C, INDICATE)]},
    )
    intake = Intake()
    enrolled = {STRAP: "strap", OXIMETER: "cuff"}
    async with serving(intake, enrolled) as source:
        await until(lambda: len(source.connected) == 2, "both connected", LIMIT_S)
        sent = [f"00{i:02x}" for i in range(50)]
        for value in sent:
            await strap.send("2a37", value)
        await strap.send("2a19", "5e")
        await cuff.send("2a35", "00780050005d00")
        await cuff.send("2a1c", "006e0100ff")
        await until(lambda: len(intake.arrivals) == 53, "all values", LIMIT_S)
    rates = [a.payload.hex() for a in intake.arrivals if a.stream == "2a37"]
    assert rates == sent
    rest = {(a.device, a.stream, a.payload.hex()) for a in intake.arrivals}
    assert rest >= {
        ("strap", "2a19", "5e"),
        ("cuff", "2a35", "00780050005d00"),
        ("cuff", "2a1c", "006e0100ff"),
    }


async def test_a_device_that_leaves_is_found_again_and_nothing_is_doubled(
    lab: Lab,
) -> None:
    strap = await lab.strap()
    intake = Intake()
    async with serving(intake, {STRAP: "strap"}) as source:
        for value in ("0041", "0042", "0043"):
            await until(lambda: source.connected == {STRAP}, "connected", LIMIT_S)
            await strap.send("2a37", value)
            await until(partial(intake.has, value), f"{value} arrived", LIMIT_S)
            await strap.hang_up()
            await until(lambda: not source.connected, "the loss is noticed", LIMIT_S)
    assert intake.payloads() == ["0041", "0042", "0043"]


async def test_a_device_that_advertises_for_two_seconds_is_served(lab: Lab) -> None:
    strap = await lab.strap()
    await strap.device.stop_advertising()
    intake = Intake()

    async def fall_asleep() -> None:
        if strap.device.is_advertising:
            await strap.device.stop_advertising()

    async with serving(intake, {STRAP: "strap"}) as source:
        await asyncio.sleep(1)
        loop = asyncio.get_running_loop()
        await strap.device.start_advertising(auto_restart=False)
        loop.call_later(2, lambda: asyncio.ensure_future(fall_asleep()))
        woke_s = loop.time()
        await until(lambda: source.connected == {STRAP}, "connected", LIMIT_S)
        print(f"from the advertisement to subscribed: {loop.time() - woke_s:.2f} s")
        await strap.send("2a37", "0041")
        await until(lambda: intake.payloads() == ["0041"], "the value", LIMIT_S)


async def test_a_reading_is_on_the_ledger_soon_after_the_advertisement(
    lab: Lab, tmp_path: Path
) -> None:
    """The whole way: radio, kernel, BlueZ, D-Bus, source, admission, commit."""
    strap = await lab.strap()
    await strap.device.stop_advertising()
    settings = trusted_clock(tmp_path)
    async with open_core(settings) as core:
        core.intake.open_views()
        await core.administration.add_device("strap", "ble", None, STRAP)
        async with serving(core.intake, {STRAP: "strap"}) as source:
            await asyncio.sleep(1)
            loop = asyncio.get_running_loop()
            await strap.device.start_advertising(auto_restart=True)
            woke_s = loop.time()
            await until(lambda: source.connected == {STRAP}, "connected", LIMIT_S)
            await strap.send("2a37", "0048")
            totals = core.intake.totals
            await until(lambda: totals["committed"] == 1, "committed", LIMIT_S)
            spent_s = loop.time() - woke_s
            print(f"from the advertisement to the committed reading: {spent_s:.2f} s")
    (stored,) = readings_of(settings)
    assert (stored.record.link, stored.record.original) == ("ble", b"\x00\x48")
    assert stored.record.address == bytes.fromhex(STRAP.replace(":", ""))


async def test_bluetoothd_that_is_killed_costs_no_more_than_a_pause(
    lab: Lab, caplog: pytest.LogCaptureFixture
) -> None:
    strap = await lab.strap()
    intake = Intake()
    caplog.set_level(logging.INFO, "edge.ble")
    async with serving(intake, {STRAP: "strap"}) as source:
        await until(lambda: source.connected == {STRAP}, "connected", LIMIT_S)
        await lab.kill_daemon()
        left = "strap has disconnected"
        await until(lambda: left in caplog.messages, "the loss is noticed", LIMIT_S)
        await let_go(strap)
        await lab.powered()
        await until(lambda: source.connected == {STRAP}, "connected again", LIMIT_S)
        await strap.send("2a37", "0042")
        await until(lambda: intake.payloads() == ["0042"], "the value", LIMIT_S)


async def test_an_adapter_that_is_switched_off_and_on_is_taken_up_again(
    lab: Lab,
) -> None:
    strap = await lab.strap()
    intake = Intake()
    async with serving(intake, {STRAP: "strap"}) as source:
        await until(lambda: source.connected == {STRAP}, "connected", LIMIT_S)
        await lab.power(on=False)
        await until(lambda: not source.connected, "the loss is noticed", LIMIT_S)
        await lab.power(on=True)
        await until(lambda: source.connected == {STRAP}, "connected again", LIMIT_S)
        await strap.send("2a37", "0042")
        await until(lambda: intake.payloads() == ["0042"], "the value", LIMIT_S)


async def test_an_adapter_that_is_pulled_out_and_put_in_is_taken_up_again(
    lab: Lab,
) -> None:
    strap = await lab.strap()
    intake = Intake()
    async with serving(intake, {STRAP: "strap"}) as source:
        await until(lambda: source.connected == {STRAP}, "connected", LIMIT_S)
        await lab.unplug_adapter()
        await until(lambda: not source.connected, "the loss is noticed", LIMIT_S)
        await let_go(strap)
        await lab.plug()
        await strap.device.start_advertising(auto_restart=True)
        await until(lambda: source.connected == {STRAP}, "connected again", LIMIT_S)
        await strap.send("2a37", "0042")
        await until(lambda: intake.payloads() == ["0042"], "the value", LIMIT_S)


async def test_a_meter_is_emptied_and_its_clock_set(lab: Lab) -> None:
    now_ms = time.time_ns() // 1_000_000
    meter = Meter({n: record(n, now_ms - n * 60_000) for n in range(1, 31)}, 0)
    sent = list(meter.records.values())
    await meter.start(lab)
    intake = Intake()
    async with serving(intake, {METER: "meter"}):
        await until(lambda: not meter.records, "everything is deleted", LIMIT_S)
    assert [a.payload for a in intake.arrivals if a.stream == "2a18"] == sent
    assert meter.requests == ["0101", "0202011e00"]
    assert len(meter.clock_writes) == 1


async def test_twenty_devices_at_once_are_all_served(lab: Lab) -> None:
    """The radio here has no limit; a Pi's adapter has seven, see the next test."""
    addresses = [f"F1:00:00:00:01:{i:02X}" for i in range(20)]
    lab.interval_ms = 500  # all of it goes through one emulated processor
    straps = [await lab.strap(address) for address in addresses]
    intake = Intake()
    limits = dataclasses.replace(QUICK, connections_max=20)
    began_s = time.monotonic()
    async with serving(intake, {a: a for a in addresses}, limits) as source:
        await until(lambda: len(source.connected) == 20, "all connected", 60)
        print(f"twenty connected after {time.monotonic() - began_s:.1f} s")
        cpu_s, began_s = time.process_time(), time.monotonic()
        for i in range(8):
            for strap in straps:
                await strap.send("2a37", f"00{40 + i:02x}")
            await asyncio.sleep(0.05)
        await until(lambda: len(intake.arrivals) == 160, "all values", LIMIT_S)
        print(
            f"160 values in {time.monotonic() - began_s:.1f} s, "
            f"{time.process_time() - cpu_s:.1f} s CPU with the simulated radio"
        )
    for address in addresses:
        rates = [a.payload.hex() for a in intake.arrivals if a.device == address]
        assert rates == [f"00{40 + i:02x}" for i in range(8)]


async def test_more_devices_than_connections_take_turns(lab: Lab) -> None:
    addresses = [f"F1:00:00:00:02:{i:02X}" for i in range(5)]
    straps = [await lab.strap(address) for address in addresses]
    intake = Intake()
    limits = dataclasses.replace(QUICK, connections_max=3, idle_s=0.5)
    served: set[str] = set()
    async with serving(intake, {a: a for a in addresses}, limits) as source:

        def all_served() -> bool:
            served.update(source.connected)
            assert len(source.connected) <= 3
            return len(served) == 5

        await until(all_served, "each has had its turn", 40)
    assert len(straps) == 5
