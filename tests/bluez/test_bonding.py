"""Pairing and bonds on BlueZ: with a number on the device's screen, and without.

Legacy pairing (not LE Secure Connections) is left out: a second connection with such a
bond ends bluetoothd 5.66 on this virtual radio, for a reason that nobody has found.
"""

from __future__ import annotations

import asyncio
import contextlib

from ble_fakes import Intake, until
from bleak import BleakClient, BleakScanner
from bleak.backends.device import BLEDevice
from bleak.exc import BleakError
from bumble.core import UUID
from bumble.gatt import Characteristic
from lab import QUICK, Displayed, Lab, let_go, wants_pairing

from edge.sources.ble_adapter import run_ble
from edge.sources.ble_bluez import Agent, system_bus
from edge.sources.ble_pairing import pair
from edge.sources.ble_words import explain

LIMIT_S = 40
CUFF = "F1:00:00:00:03:01"
SCALE = "F1:00:00:00:03:02"


def private(uuid: int) -> Characteristic[bytes]:
    """A characteristic that only a bonded gateway may read, and that notifies."""
    properties = Characteristic.Properties
    return Characteristic(
        UUID.from_16_bits(uuid),
        properties.READ | properties.NOTIFY,
        Characteristic.READABLE | Characteristic.READ_REQUIRES_AUTHENTICATION,
        bytes.fromhex("00780050005d00"),
    )


async def found(address: str) -> BLEDevice:
    device = await BleakScanner.find_device_by_address(address, timeout=15)
    assert device is not None
    return device


async def test_a_device_that_shows_a_number_is_paired_once_and_stays_bonded(
    lab: Lab,
) -> None:
    """At enrolment somebody reads the number; afterwards nobody is asked."""
    cuff = await lab.peripheral(CUFF, {0x1810: [private(0x2A35)]})
    screen = Displayed()
    wants_pairing(cuff, passkey=screen)
    asked: list[int] = []

    async def read_screen() -> int:
        asked.append(await screen.number)
        return asked[0]

    await pair(await found(CUFF), ask=read_screen)
    assert len(asked) == 1
    async with system_bus() as bluez:
        assert await bluez.is_bonded(CUFF)
    async with BleakClient(await found(CUFF)) as client:
        characteristic = "00002a35-0000-1000-8000-00805f9b34fb"
        value = await client.read_gatt_char(characteristic)
    assert value.hex() == "00780050005d00"
    assert len(asked) == 1
    await let_go(cuff)
    intake = Intake()
    task = asyncio.create_task(
        run_ble(
            "bluez",
            intake,
            lambda: {CUFF: "cuff"},
            lambda: None,
            lambda *_: None,
            limits=QUICK,
        )
    )
    await until(lambda: cuff.subscribed("2a35"), "subscribed", LIMIT_S)
    await asyncio.sleep(0.5)  # the bond is looked up after the subscription
    await cuff.send("2a35", "00780050005d00")
    await until(lambda: len(intake.arrivals) == 1, "the value", LIMIT_S)
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    assert intake.arrivals[0].link == "ble-bonded"


async def test_only_an_enrolled_device_may_pair_where_nothing_is_compared(
    lab: Lab,
) -> None:
    scale = await lab.peripheral(SCALE, {0x181D: [private(0x2A9D)]})
    wants_pairing(scale)
    enrolled: set[str] = set()

    async with system_bus() as bluez:

        async def may_pair(path: str) -> bool:
            return await bluez.address_of(path) in enrolled

        async with bluez.answering(Agent(may_pair), "NoInputNoOutput"):
            enrolled.add(SCALE)
            async with BleakClient(await found(SCALE)) as client:
                await client.pair()
            assert await bluez.is_bonded(SCALE)


async def test_a_device_that_was_reset_is_paired_anew_and_a_wrong_number_is_no_bond(
    lab: Lab,
) -> None:
    """BlueZ keeps keys that the device has forgotten: they are forgotten here too."""
    cuff = await lab.peripheral(CUFF, {0x1810: [private(0x2A35)]})
    outcomes = []
    for typed in ("right", "wrong", "right"):
        cuff.device.keystore = None  # it is reset: it knows nobody
        screen = Displayed()
        wants_pairing(cuff, passkey=screen)

        async def read_screen(typed: str = typed, screen: Displayed = screen) -> int:
            number = await screen.number
            return number if typed == "right" else (number + 1) % 1_000_000

        try:
            await pair(await found(CUFF), ask=read_screen)
        except BleakError as error:
            outcomes.append(explain(error).split(" (")[0])
        else:
            outcomes.append("paired")
        await let_go(cuff)
    refused = "pairing failed: wrong or missing code"
    assert outcomes == ["paired", refused, "paired"]
