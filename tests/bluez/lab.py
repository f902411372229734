"""An adapter that BlueZ takes for a real one, and devices on the air around it.

    BleSource ── bleak ── D-Bus ── bluetoothd ── kernel ── /dev/vhci ── Controller ─┐
                                             peripherals' Controllers ── Air (a link) ┘

Only the radio is not real: nothing is lost on it, it has no range and no limit of
connections, and no vendor's firmware is behind it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from ble_fakes import Peripheral, Radio
from bumble import hci
from bumble.controller import Controller
from bumble.core import PhysicalTransport
from bumble.link import LocalLink
from bumble.pairing import PairingConfig, PairingDelegate
from bumble.transport import open_transport
from dbus_fast import BusType, Message, MessageType, Variant
from dbus_fast.aio import MessageBus

from edge.sources import Door
from edge.sources.ble import BleSource, Limits
from edge.sources.ble_adapter import bluez_source

ADAPTER_ADDRESS = "F0:F1:F2:00:00:01"
PLUG_LIMIT_S = 20.0
ADAPTER = "org.bluez.Adapter1"
DEVICE = "org.bluez.Device1"
PROPERTIES = "org.freedesktop.DBus.Properties"
OBJECTS = "org.freedesktop.DBus.ObjectManager"

# The adapter has its first failures behind it sooner than in a clinic.
QUICK = Limits(
    backoff_first_s=0.1,
    backoff_max_s=1.0,
    check_s=0.1,
    silence_s=5.0,
)


class Air(LocalLink):  # type: ignore[misc] # Bumble is not typed
    """A link that names the sender by the address of the connection in question.

    Bumble's own names it by its random address, but Linux scans with one address and
    connects with another (its public one), so that the data would find no connection.
    """

    def send_acl_data(
        self,
        sender_controller: Controller,
        destination_address: hci.Address,
        transport: PhysicalTransport,
        data: bytes,
    ) -> None:
        """Deliver `data` in a later turn of the loop, as Bumble does."""
        sender = sender_controller.le_connections.get(destination_address)
        receiver = self.find_le_controller(destination_address)
        if transport != PhysicalTransport.LE or sender is None:
            super().send_acl_data(
                sender_controller, destination_address, transport, data
            )
        elif receiver is not None:
            asyncio.get_running_loop().call_soon(
                receiver.on_link_acl_data, sender.self_address, transport, data
            )


class Lab(Radio):
    """The radio of ble_fakes with an adapter in the kernel; use as a context."""

    def __init__(self) -> None:
        super().__init__(Air())
        self._bus: MessageBus | None = None
        self._wire: Any = None
        self._controller: Any = None
        self.path = ""

    async def __aenter__(self) -> Lab:
        self._bus = await MessageBus(bus_type=BusType.SYSTEM).connect()
        await self.plug()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.forget_devices()
        await self.unplug_adapter()
        assert self._bus is not None
        self._bus.disconnect()

    async def call(
        self, path: str, interface: str, member: str, signature: str, *body: object
    ) -> list[Any]:
        """Call BlueZ; RuntimeError with its words where it refuses."""
        assert self._bus is not None
        message = Message(
            destination="org.bluez",
            path=path,
            interface=interface,
            member=member,
            signature=signature,
            body=list(body),
        )
        answer = await self._bus.call(message)
        if answer is None or answer.message_type is MessageType.ERROR:
            raise RuntimeError(str(answer and (answer.error_name, answer.body)))
        return list(answer.body)

    async def objects(self) -> Mapping[str, Mapping[str, Mapping[str, Variant]]]:
        """Everything that BlueZ knows, by its path and its interface."""
        return dict((await self.call("/", OBJECTS, "GetManagedObjects", ""))[0])

    async def forget_devices(self) -> None:
        """No bond and no connection outlives a test.

        Linux 6.1 may crash (hci_chan_del) where an adapter is pulled out under one.
        """
        with contextlib.suppress(RuntimeError):
            for path, faces in (await self.objects()).items():
                if DEVICE in faces and path.startswith(self.path + "/"):
                    with contextlib.suppress(RuntimeError):
                        await self.call(self.path, ADAPTER, "RemoveDevice", "o", path)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(5):
                while self._controller.le_connections:
                    await asyncio.sleep(0.05)

    async def adapters(self) -> Mapping[str, Mapping[str, Variant]]:
        """The adapters that BlueZ knows, by their object's path."""
        objects = await self.objects()
        return {p: faces[ADAPTER] for p, faces in objects.items() if ADAPTER in faces}

    async def plug(self) -> None:
        """Put the dongle in, and wait until BlueZ has it powered."""
        self._wire = await open_transport("vhci")
        self._controller = Controller(
            "adapter",
            host_source=self._wire.source,
            host_sink=self._wire.sink,
            link=self.link,
            public_address=ADAPTER_ADDRESS,
        )
        # With these Linux awaits events that Bumble's controller does not send.
        self._controller.le_features &= ~(
            hci.LeFeatureMask.LL_PRIVACY | hci.LeFeatureMask.LE_EXTENDED_ADVERTISING
        )
        await self.powered()

    def bound_connections(self, count: int) -> None:
        """Let the adapter hold no more than `count`; real ones have 5 to 20."""
        controller = self._controller
        create = controller.on_hci_le_create_connection_command

        def bounded(command: Any) -> None:
            if len(controller.le_connections) < count:
                create(command)
                return
            controller._send_hci_command_status(
                hci.HCI_ErrorCode.CONNECTION_LIMIT_EXCEEDED_ERROR, command.op_code
            )

        controller.on_hci_le_create_connection_command = bounded

    async def powered(self) -> None:
        """Return once BlueZ has our adapter and it is on, switching it on if needed."""
        async with asyncio.timeout(PLUG_LIMIT_S):
            while True:
                with contextlib.suppress(RuntimeError):
                    for path, said in (await self.adapters()).items():
                        if said["Address"].value == ADAPTER_ADDRESS:
                            self.path = path
                            if said["Powered"].value:
                                return
                            await self.power(on=True)
                await asyncio.sleep(0.1)

    async def power(self, *, on: bool) -> None:
        """What a person does with `bluetoothctl power`."""
        value = Variant("b", on)
        await self.call(self.path, PROPERTIES, "Set", "ssv", ADAPTER, "Powered", value)

    async def unplug_adapter(self) -> None:
        """Pull the dongle out."""
        await self._wire.close()
        with contextlib.suppress(Exception):  # Bumble may have taken it off already
            self.link.remove_controller(self._controller)
        async with asyncio.timeout(PLUG_LIMIT_S):
            while True:
                with contextlib.suppress(RuntimeError):
                    if self.path not in await self.adapters():
                        return
                await asyncio.sleep(0.1)

    async def kill_daemon(self) -> None:
        """bluetoothd dies as by a fault of its own; the guest starts it again."""
        process = int(subprocess.check_output(["pidof", "bluetoothd"]))
        os.kill(process, signal.SIGKILL)
        await asyncio.sleep(0.5)


@contextlib.asynccontextmanager
async def serving(
    intake: Door, enrolled: Mapping[str, str], limits: Limits = QUICK
) -> AsyncIterator[BleSource]:
    """The gateway's own source on the platform's own stack."""

    def now_ms() -> int:
        return time.time_ns() // 1_000_000

    def tell(*event: str) -> None:
        print("alarm:", *event)

    source = bluez_source(intake, lambda: enrolled, now_ms, tell, limits)
    task = asyncio.create_task(source.run(), name="ble")
    try:
        yield source
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def let_go(peripheral: Any) -> None:
    """The radio link times out on the device's side, as it does when a host dies."""
    for connection in list(peripheral.device.connections.values()):
        with contextlib.suppress(Exception):  # it may be gone by now
            await asyncio.wait_for(connection.disconnect(), 2)


@dataclass
class Displayed:
    """The number on a device's screen, as the person who pairs reads it."""

    number: asyncio.Future[int] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )


def wants_pairing(peripheral: Peripheral, *, passkey: Displayed | None = None) -> None:
    """The device pairs: with a number that it shows, or where nothing is compared."""

    class Screen(PairingDelegate):  # type: ignore[misc] # Bumble is not typed
        async def display_number(self, number: int, digits: int = 6) -> None:
            assert digits == 6
            if passkey is not None and not passkey.number.done():
                passkey.number.set_result(number)

    can = PairingDelegate.IoCapability
    screen = can.DISPLAY_OUTPUT_ONLY if passkey else can.NO_OUTPUT_NO_INPUT
    config = PairingConfig(
        sc=True, mitm=passkey is not None, bonding=True, delegate=Screen(screen)
    )
    peripheral.device.pairing_config_factory = lambda _: config
