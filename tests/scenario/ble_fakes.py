"""A virtual Bluetooth radio, its devices, and a door, for the BLE scenarios.

The test owns the radio link; its spare controller is served over loopback TCP, as the
ward serves it to the gateway.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from bumble import hci
from bumble.controller import Controller
from bumble.core import UUID, AdvertisingData
from bumble.device import Device, DeviceConfiguration
from bumble.gatt import Characteristic, Service
from bumble.link import LocalLink
from bumble.transport.common import PacketParser, Transport

from edge.model import Arrival, Outcome, Verdict
from edge.sources import Door
from edge.sources.ble import BleSource, Limits
from edge.sources.ble_hci import attach

if TYPE_CHECKING:  # the machine with the real stack has not all that it needs
    from edge.gateway import Core

FAST = Limits(
    connect_timeout_s=3,
    backoff_first_s=0.02,
    backoff_max_s=0.1,
    check_s=0.05,
    grace_s=0.15,
    waiting_count_max=8,
)
NOTIFY = Characteristic.Properties.NOTIFY
INDICATE = Characteristic.Properties.INDICATE
READ = Characteristic.Properties.READ
STRAP = "F1:00:00:00:00:01"
OXIMETER = "F1:00:00:00:00:02"
STRANGER = "F1:00:00:00:00:03"


class Intake:
    """A door that commits at once, unless it is told that it is full."""

    def __init__(self) -> None:
        self.arrivals: list[Arrival] = []
        self.outcome = Outcome(Verdict.COMMITTED)
        self._room = asyncio.Event()
        self._room.set()

    @property
    def congested(self) -> bool:
        return not self._room.is_set()

    def fill(self) -> None:
        self._room.clear()

    def empty(self) -> None:
        self._room.set()

    def submit(self, arrival: Arrival) -> None:
        assert not self.congested, "submitted while the door was congested"
        self.arrivals.append(arrival)
        asyncio.get_running_loop().call_soon(arrival.settle, self.outcome)

    async def relieved(self) -> None:
        await self._room.wait()

    def has(self, payload: str) -> bool:
        return payload in self.payloads()

    def payloads(self) -> list[str]:
        return [arrival.payload.hex() for arrival in self.arrivals]


@dataclass
class Peripheral:
    """A virtual device and the characteristics it notifies, by short UUID."""

    device: Device
    values: dict[str, Characteristic[bytes]]

    async def send(self, uuid: str, value: str) -> None:
        characteristic = self.values[uuid]
        octets = bytes.fromhex(value)
        if characteristic.properties & NOTIFY:
            await self.device.notify_subscribers(characteristic, octets)
        else:
            await self.device.indicate_subscribers(characteristic, octets)

    def subscribed(self, uuid: str) -> bool:
        server = self.device.gatt_server
        return any(
            server.read_cccd(connection, self.values[uuid]) != bytes(2)
            for connection in self.device.connections.values()
        )

    async def hang_up(self) -> None:
        for connection in list(self.device.connections.values()):
            await connection.disconnect()


@dataclass
class Radio:
    """The link, the port where its spare controller is served, and that connection."""

    link: LocalLink
    port: int = 0
    hosts: list[asyncio.StreamWriter] = field(default_factory=list)
    interval_ms: int = 20  # of the advertisements of devices made from now on

    @property
    def address(self) -> str:
        return f"tcp-client:127.0.0.1:{self.port}"

    def has_hosts(self, count: int) -> bool:
        return len(self.hosts) >= count

    def unplug(self) -> None:
        self.hosts[-1].transport.abort()

    async def peripheral(
        self, address: str, services: dict[int, list[Characteristic[bytes]]]
    ) -> Peripheral:
        controller = Controller(address, link=self.link)
        wire = Transport(controller, controller)
        device = Device.from_config_with_hci(
            DeviceConfiguration(
                name=address,
                address=hci.Address(address, hci.Address.RANDOM_DEVICE_ADDRESS),
                advertising_interval_min=self.interval_ms,
                advertising_interval_max=self.interval_ms,
            ),
            wire.source,
            wire.sink,
        )
        device.advertising_data = bytes(
            AdvertisingData(
                [
                    (AdvertisingData.COMPLETE_LOCAL_NAME, b"virtual"),
                    (
                        AdvertisingData.COMPLETE_LIST_OF_16_BIT_SERVICE_CLASS_UUIDS,
                        b"".join(uuid.to_bytes(2, "little") for uuid in services),
                    ),
                    (AdvertisingData.MANUFACTURER_SPECIFIC_DATA, b"\xff\xff\x2a"),
                    (AdvertisingData.TX_POWER_LEVEL, b"\xfc"),
                ]
            )
        )
        device.add_services(
            [
                Service(UUID.from_16_bits(uuid), characteristics)
                for uuid, characteristics in services.items()
            ]
        )
        await device.power_on()
        await device.start_advertising(auto_restart=True)
        values = {
            characteristic.uuid.to_hex_str().lower(): characteristic
            for characteristics in services.values()
            for characteristic in characteristics
        }
        return Peripheral(device, values)

    async def strap(self, address: str = STRAP) -> Peripheral:
        return await self.peripheral(
            address, {0x180D: [pushing(0x2A37, NOTIFY)], 0x180F: [pushing(0x2A19)]}
        )


def pushing(
    uuid: int, how: Characteristic.Properties = NOTIFY
) -> Characteristic[bytes]:
    return Characteristic(UUID.from_16_bits(uuid), how, Characteristic.READABLE, b"")


@contextlib.asynccontextmanager
async def virtual_radio() -> AsyncIterator[Radio]:
    """A link whose spare controller is served over TCP, a new one for each host."""
    radio = Radio(LocalLink())

    class Sink:
        def __init__(self, writer: asyncio.StreamWriter) -> None:
            self.writer = writer

        def on_packet(self, packet: bytes) -> None:
            if not self.writer.is_closing():
                self.writer.write(packet)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        radio.hosts.append(writer)
        controller = Controller(f"spare-{len(radio.hosts)}", link=radio.link)
        controller.set_packet_sink(Sink(writer))
        parser = PacketParser(controller)
        with contextlib.suppress(ConnectionError):
            while frames := await reader.read(65536):
                parser.feed_data(frames)
        for connection in list(controller.le_connections.values()):
            controller.on_hci_disconnect_command(
                hci.HCI_Disconnect_Command(
                    connection_handle=connection.handle, reason=0x13
                )
            )
        controller.set_packet_sink(None)
        radio.link.remove_controller(controller)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    radio.port = server.sockets[0].getsockname()[1]
    yield radio
    server.close()
    for writer in radio.hosts:
        writer.transport.abort()
    await asyncio.sleep(0.01)


async def until(condition: Callable[[], bool], what: str, limit_s: float = 5) -> None:
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {limit_s} s: {what}"
        await asyncio.sleep(0.005)


def running(
    radio: Radio, intake: Intake, enrolled: dict[str, str], limits: Limits = FAST
) -> AbstractAsyncContextManager[BleSource]:
    return _source(radio, intake, lambda: enrolled, limits)


def feeding(radio: Radio, core: Core) -> AbstractAsyncContextManager[BleSource]:
    """What the devices enrolled in a gateway's core send goes into it."""
    return _source(radio, core.intake, core.registry.radio_addresses, FAST)


@contextlib.asynccontextmanager
async def _source(
    radio: Radio,
    door: Door,
    enrolled: Callable[[], Mapping[str, str]],
    limits: Limits,
) -> AsyncIterator[BleSource]:
    async with attach(radio.address) as (scanner, client):
        source = BleSource(
            door,
            enrolled,
            scanner_backend=scanner,
            client_backend=client,
            limits=limits,
        )
        task = asyncio.create_task(source.run(), name="ble")
        try:
            yield source
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
    left = [t.get_name() for t in asyncio.all_tasks() if t.get_name()[:3] == "ble"]
    assert left == []
