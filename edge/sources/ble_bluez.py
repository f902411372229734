"""What bleak does not do with BlueZ: bonds, the pairing agent, the adapter's switch.

Over D-Bus, system bus, names of org.bluez (BlueZ's own API, doc/*-api). An *agent* is
the object that BlueZ asks when a device wants to be paired:

    RequestPasskey        the device shows a number: type it here
    DisplayPasskey        the number to type on the device
    RequestConfirmation   the same number on both sides
    RequestAuthorization  "just works": nothing to compare
"""

# No postponed annotations here: dbus-fast reads those of the agent's methods.
import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

from bleak.exc import BleakError
from dbus_fast import BusType, DBusError, Message, MessageType, Variant
from dbus_fast.aio import MessageBus
from dbus_fast.annotations import DBusObjectPath, DBusStr, DBusUInt16, DBusUInt32
from dbus_fast.errors import (
    AuthError,
    InvalidAddressError,
)
from dbus_fast.service import ServiceInterface, dbus_method

CALL_TIMEOUT_S = 10.0
POWER_PAUSE_S = 1.0
OWNER_CHECK_S = 1.0
_BLUEZ = "org.bluez"
_ROOM = "/org/bluez"
_AGENT_PATH = "/iomt/agent"
_ADAPTER, _DEVICE = "org.bluez.Adapter1", "org.bluez.Device1"
_AGENTS = "org.bluez.AgentManager1"
_OBJECTS = "org.freedesktop.DBus.ObjectManager"
_PROPERTIES = "org.freedesktop.DBus.Properties"
_REJECTED = "org.bluez.Error.Rejected"
_BUS_ERRORS = (AuthError, InvalidAddressError, DBusError)

Faces = Mapping[str, Mapping[str, Variant]]  # interface -> property -> value


class Bluez:
    """A connection to BlueZ; every call ends with an answer or a BleakError."""

    def __init__(self, bus: MessageBus) -> None:
        self._bus = bus

    async def call(
        self,
        path: str,
        interface: str,
        member: str,
        signature: str = "",
        *body: object,
        destination: str = _BLUEZ,
    ) -> list[Any]:
        """The answer's body."""
        message = Message(
            destination=destination,
            path=path,
            interface=interface,
            member=member,
            signature=signature,
            body=list(body),
        )
        try:
            async with asyncio.timeout(CALL_TIMEOUT_S):
                answer = await self._bus.call(message)
        except (*_BUS_ERRORS, OSError, EOFError, TimeoutError) as error:
            raise BleakError(f"D-Bus: {error or type(error).__name__}") from error
        if answer is None or answer.message_type is MessageType.ERROR:
            said = f"[{answer.error_name}] {answer.body}" if answer else "no answer"
            raise BleakError(said)
        return list(answer.body)

    async def objects(self) -> Mapping[str, Faces]:
        """Everything that BlueZ knows: adapters, devices, by their path."""
        (found,) = await self.call("/", _OBJECTS, "GetManagedObjects")
        return dict(found)

    async def is_bonded(self, address: str) -> bool:
        """Whether keys are kept for the device of this address (capitals)."""
        for faces in (await self.objects()).values():
            said = faces.get(_DEVICE)
            if said is not None and _value(said, "Address") == address:
                if "Bonded" in said:  # BlueZ 5.67; before it a pair was kept if trusted
                    return bool(_value(said, "Bonded"))
                return bool(_value(said, "Paired"))
        return False

    async def gone(self) -> None:
        """Return once the bluetoothd of now has ended; BleakError where none runs."""
        was = await self._owner()
        while True:
            await asyncio.sleep(OWNER_CHECK_S)
            try:
                if await self._owner() != was:
                    return
            except BleakError:
                return

    async def _owner(self) -> str:
        (name,) = await self.call(
            "/org/freedesktop/DBus",
            "org.freedesktop.DBus",
            "GetNameOwner",
            "s",
            _BLUEZ,
            destination="org.freedesktop.DBus",
        )
        return str(name)

    async def power_cycle(self) -> None:
        """Switch every adapter off and on: the cure for one that reports no more."""
        for path, faces in (await self.objects()).items():
            if _ADAPTER in faces:
                for on in (False, True):
                    value = Variant("b", on)
                    await self.call(
                        path, _PROPERTIES, "Set", "ssv", _ADAPTER, "Powered", value
                    )
                    await asyncio.sleep(POWER_PAUSE_S)

    async def trust(self, address: str) -> None:
        """Have a paired device connect again without asking anybody."""
        for path, faces in (await self.objects()).items():
            if _DEVICE in faces and _value(faces[_DEVICE], "Address") == address:
                value = Variant("b", True)
                await self.call(
                    path, _PROPERTIES, "Set", "ssv", _DEVICE, "Trusted", value
                )

    async def forget(self, address: str) -> None:
        """Have every adapter forget a device and its keys."""
        for path, faces in (await self.objects()).items():
            if _DEVICE in faces and _value(faces[_DEVICE], "Address") == address:
                adapter = str(_value(faces[_DEVICE], "Adapter"))
                await self.call(adapter, _ADAPTER, "RemoveDevice", "o", path)

    async def address_of(self, path: str) -> str:
        """The address of a device's object, empty for one that is gone."""
        faces = (await self.objects()).get(path, {})
        return str(_value(faces.get(_DEVICE, {}), "Address") or "")

    @contextlib.asynccontextmanager
    async def answering(
        self, agent: ServiceInterface, capability: str
    ) -> AsyncIterator[None]:
        """Be the one whom BlueZ asks about pairing."""
        self._bus.export(_AGENT_PATH, agent)
        try:
            await self.call(
                _ROOM, _AGENTS, "RegisterAgent", "os", _AGENT_PATH, capability
            )
            await self.call(_ROOM, _AGENTS, "RequestDefaultAgent", "o", _AGENT_PATH)
            yield
        finally:
            with contextlib.suppress(BleakError):  # bluetoothd may have gone first
                await self.call(_ROOM, _AGENTS, "UnregisterAgent", "o", _AGENT_PATH)
            self._bus.unexport(_AGENT_PATH, agent)


def _value(properties: Mapping[str, Variant], name: str) -> Any:
    variant = properties.get(name)
    return None if variant is None else variant.value


@contextlib.asynccontextmanager
async def system_bus() -> AsyncIterator[Bluez]:
    """BlueZ on this machine; BleakError where there is no D-Bus."""
    try:
        bus = await MessageBus(bus_type=BusType.SYSTEM).connect()
    except (*_BUS_ERRORS, OSError, EOFError) as error:
        raise BleakError(f"D-Bus: {error}") from error
    try:
        yield Bluez(bus)
    finally:
        bus.disconnect()


class Agent(ServiceInterface):
    """Answers BlueZ's questions about pairing.

    `may_pair` says for a device's object whether it may be paired at all; `ask` gives
    the number that the device shows, or None to refuse; `confirm` says whether the
    device shows the number that is passed; `show` tells a person what to type.
    """

    def __init__(
        self,
        may_pair: Callable[[str], Awaitable[bool]],
        ask: Callable[[], Awaitable[int | None]] | None = None,
        confirm: Callable[[int], Awaitable[bool]] | None = None,
        show: Callable[[str], None] | None = None,
    ) -> None:
        super().__init__("org.bluez.Agent1")
        self._may_pair = may_pair
        self._ask = ask
        self._confirm = confirm
        self._show = show

    async def _check(self, device: str) -> None:
        if not await self._may_pair(device):
            raise DBusError(_REJECTED, "the device is not enrolled")

    @dbus_method(name="Release")
    def release(self) -> None:
        """BlueZ does not ask us any more."""

    @dbus_method(name="Cancel")
    def cancel(self) -> None:
        """The device broke the pairing off."""

    @dbus_method(name="RequestPasskey")
    async def request_passkey(self, device: DBusObjectPath) -> DBusUInt32:
        """The number that the device shows."""
        await self._check(device)
        number = await self._ask() if self._ask is not None else None
        if number is None:
            raise DBusError(_REJECTED, "nobody is there to read the number")
        return number

    @dbus_method(name="DisplayPasskey")
    async def display_passkey(
        self, device: DBusObjectPath, passkey: DBusUInt32, entered: DBusUInt16
    ) -> None:
        """The number that has to be typed on the device."""
        await self._check(device)
        if self._show is not None and not entered:
            self._show(f"{passkey:06}")

    @dbus_method(name="RequestConfirmation")
    async def request_confirmation(
        self, device: DBusObjectPath, passkey: DBusUInt32
    ) -> None:
        """Whether both sides show the same number."""
        await self._check(device)
        if self._confirm is None or not await self._confirm(passkey):
            raise DBusError(_REJECTED, "the numbers were not compared")

    @dbus_method(name="RequestAuthorization")
    async def request_authorization(self, device: DBusObjectPath) -> None:
        """Nothing to compare: "just works"."""
        await self._check(device)

    @dbus_method(name="AuthorizeService")
    async def authorize_service(self, device: DBusObjectPath, _: DBusStr) -> None:
        """A paired device wants to use a service of ours."""
        await self._check(device)
