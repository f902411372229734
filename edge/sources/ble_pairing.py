"""Enrolling a Bluetooth device: who is near, and pairing with one of them.

Scanning is bleak's; pairing is BlueZ's, with us as the agent that it asks
(ble_bluez.py). The numbers are compared by the person at the terminal.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from bleak import BleakClient, BleakScanner
from bleak.backends.device import BLEDevice
from bleak.backends.scanner import BaseBleakScanner
from bleak.exc import BleakError

from edge.devices.profiles import device_information
from edge.errors import RefusedError
from edge.sources.ble_bluez import Agent, system_bus
from edge.sources.ble_words import RADIO_ERRORS, short

PAIR_TIMEOUT_S = 60.0  # a person has to read a number and type it
SCAN_S = 10.0
PERSON_THERE = "KeyboardDisplay"  # the agent's capability

# Bluetooth Assigned Numbers section 3.4, those that the gateway reads.
SERVICES = {
    "180d": "heart rate",
    "1809": "thermometer",
    "1810": "blood pressure",
    "1822": "pulse oximeter",
    "1808": "glucose meter",
    "181f": "glucose sensor",
    "181d": "scale",
    "181b": "body composition",
    "180f": "battery",
    "180a": "device information",
    "1805": "clock",
}


@dataclass(frozen=True, slots=True)
class Nearby:
    """A device that was heard: `signal_dbm` is how strongly, higher is nearer."""

    device: BLEDevice
    address: str
    name: str
    services: tuple[str, ...]
    signal_dbm: int

    @property
    def useful(self) -> bool:
        """Whether it says that it offers something the gateway reads."""
        return any(one in SERVICES for one in self.services)

    @property
    def words(self) -> str:
        """Its services for a person."""
        return ", ".join(SERVICES.get(one, one) for one in self.services)


async def nearby(
    seconds: float = SCAN_S, backend: type[BaseBleakScanner] | None = None
) -> list[Nearby]:
    """Who advertises, those that we can read first, the nearest of them first.

    BleakError or OSError where there is no adapter.
    """
    async with BleakScanner(backend=backend) as scanner:
        await asyncio.sleep(seconds)
        heard = scanner.discovered_devices_and_advertisement_data.values()
    found = [
        Nearby(
            device,
            device.address.upper(),
            device_information.text((said.local_name or device.name or "").encode()),
            tuple(short(uuid) for uuid in said.service_uuids),
            said.rssi,
        )
        for device, said in heard
    ]
    return sorted(found, key=lambda one: (not one.useful, -one.signal_dbm))


async def found(address: str) -> BLEDevice | None:
    """The device of this address (capitals), as soon as it is heard; or None."""
    return await BleakScanner.find_device_by_address(address, timeout=SCAN_S)


async def pair(
    device: BLEDevice,
    *,
    ask: Callable[[], Awaitable[int | None]] | None = None,
    confirm: Callable[[int], Awaitable[bool]] | None = None,
    show: Callable[[str], None] | None = None,
) -> dict[str, str]:
    """Bond with a device; what it says of itself, by the words of TEXTS.

    An earlier bond is forgotten first: a device that was reset no longer has its half,
    and would not be heard with ours. The callbacks are Agent's. BleakError, OSError or
    TimeoutError where it fails.
    """
    address = device.address.upper()
    async with system_bus() as bluez:
        if await bluez.is_bonded(address):
            await bluez.forget(address)
            anew = await found(address)
            if anew is None:
                raise BleakError("its bond is forgotten, and it advertises no more")
            device = anew

        async def may_pair(path: str) -> bool:
            return await bluez.address_of(path) == address

        agent = Agent(may_pair, ask, confirm, show)
        async with bluez.answering(agent, PERSON_THERE), BleakClient(device) as client:
            async with asyncio.timeout(PAIR_TIMEOUT_S):
                await client.pair()
            said = await describe(client)
        if not await bluez.is_bonded(address):
            raise BleakError("the device was paired and kept no bond")
        await bluez.trust(address)
    return said


async def describe(client: BleakClient) -> dict[str, str]:
    """The texts of its device information, and its System ID as an EUI-64."""
    said: dict[str, str] = {}
    for characteristic in client.services.characteristics.values():
        uuid = short(characteristic.uuid)
        wanted = uuid in device_information.TEXTS
        if not wanted and uuid != device_information.SYSTEM_ID_UUID:
            continue
        try:
            value = bytes(await client.read_gatt_char(characteristic))
            if wanted:
                text = device_information.text(value)
                said[device_information.TEXTS[uuid]] = text
            else:
                said["EUI-64"] = device_information.eui_64(value).hex("-").upper()
        except (*RADIO_ERRORS, RefusedError):  # it is said to a person, and no more
            continue
    return said
