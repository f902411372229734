"""bleak over HCI on TCP: the adapter is a Bumble controller somewhere behind a socket.

    BleSource ── bleak's public interface ── HciScanner, HciClient   (this file)
                                                  │
                            Bumble host ── H4 frames over TCP ── controller, radio link

For the demo and the tests, where the ward owns the virtual radio. On a Pi the same
BleSource runs on BlueZ and nothing here is imported. Bumble is the extra `demo`; it is
imported only when somebody attaches.

Two habits of Bumble are kept from the rest of the program: a lost transport cancels
futures that our tasks await (a CancelledError that nobody asked for), and a command to
a silent controller waits for ever. Every call goes through `_Radio.call`, which ends
with the answer, a BleakError, or ConnectionError when the radio is gone.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, ClassVar, TypeVar

from bleak.args import SizedBuffer
from bleak.assigned_numbers import CharacteristicPropertyName
from bleak.backends.characteristic import BleakGATTCharacteristic
from bleak.backends.client import BaseBleakClient, NotifyCallback
from bleak.backends.descriptor import BleakGATTDescriptor
from bleak.backends.device import BLEDevice
from bleak.backends.scanner import AdvertisementData, BaseBleakScanner
from bleak.backends.service import BleakGATTService, BleakGATTServiceCollection
from bleak.exc import BleakDeviceNotFoundError, BleakError, BleakGATTProtocolError
from bleak.uuids import normalize_uuid_str

from edge.errors import ConfigurationError

T = TypeVar("T")

PREFIX = "tcp-client:"
ATTACH_TIMEOUT_S = 10.0
CALL_TIMEOUT_S = 10.0
MTU = 517  # the largest that GATT uses
MTU_DEFAULT = 23
OWN_NAME = "iomt-gateway"

# Advertising data types, Bluetooth Assigned Numbers section 2.3
_NAMES = (0x08, 0x09)
_UUIDS_16 = (0x02, 0x03)
_UUIDS_128 = (0x06, 0x07)
_TX_POWER = 0x0A
_SERVICE_DATA_16 = 0x16
_MANUFACTURER = 0xFF

# Characteristic properties, Core Specification volume 3 part G section 3.3.1.1
_PROPERTIES: tuple[tuple[int, CharacteristicPropertyName], ...] = (
    (0x01, "broadcast"),
    (0x02, "read"),
    (0x04, "write-without-response"),
    (0x08, "write"),
    (0x10, "notify"),
    (0x20, "indicate"),
    (0x40, "authenticated-signed-writes"),
    (0x80, "extended-properties"),
)


@contextlib.asynccontextmanager
async def attach(
    address: str,
) -> AsyncIterator[tuple[type[BaseBleakScanner], type[BaseBleakClient]]]:
    """A host on the controller at "tcp-client:HOST:PORT", as bleak backend classes.

    ConnectionError when it cannot be reached or, at once and whatever the body is
    doing, when it is lost: the body is cancelled and may attach again. The body must
    end on that cancellation. ConfigurationError for another form of address, or without
    the extra `demo`.
    """
    radio, close = await _open(address)
    task = asyncio.current_task()
    assert task is not None  # noqa: S101 - a coroutine runs in one
    body = _Body(task)
    radio.lost.add_done_callback(body.cancel)
    try:
        yield (
            type("HciScanner", (_Scanner,), {"radio": radio}),
            type("HciClient", (_Client,), {"radio": radio}),
        )
    except BaseException as error:
        if not await body.ended_by_us(error):
            raise
        raise ConnectionError(f"the controller at {address} is lost") from error
    else:
        if await body.ended_by_us(None):
            raise ConnectionError(f"the controller at {address} is lost")
    finally:
        body.over = True
        radio.end()
        await close()


class _Body:
    """The task inside `attach`, to be cancelled from outside and to know it after.

    What asyncio.timeout does for a deadline, for an event.
    """

    def __init__(self, task: asyncio.Task[Any]) -> None:
        self._task = task
        self._cancelled = False
        self.over = False

    def cancel(self, _: asyncio.Future[None]) -> None:
        """Cancel it, unless it has ended by itself."""
        if not self.over:
            self._cancelled = True
            self._task.cancel()

    async def ended_by_us(self, error: BaseException | None) -> bool:
        """Whether our cancellation, and nobody else's, is why the body has ended."""
        self.over = True
        if not self._cancelled:
            return False
        if not isinstance(error, asyncio.CancelledError):
            # It ended before our cancellation was delivered: take the delivery here.
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(0)
        return self._task.uncancel() == 0


async def _open(address: str) -> tuple[_Radio, Callable[[], Awaitable[None]]]:
    if not address.startswith(PREFIX):
        raise ConfigurationError([f"ble adapter {address!r}: not {PREFIX}HOST:PORT"])
    try:
        from bumble import core, hci  # noqa: PLC0415 - an extra, not always there
        from bumble.device import Device  # noqa: PLC0415
        from bumble.transport import open_transport  # noqa: PLC0415
    except ImportError as error:
        raise ConfigurationError(
            [f"ble adapter {address!r} needs Bumble, the extra 'demo': {error}"]
        ) from error
    try:
        async with asyncio.timeout(ATTACH_TIMEOUT_S):
            transport = await open_transport(address)
    except (OSError, ValueError, core.BaseBumbleError) as error:
        raise ConnectionError(f"no controller at {address}: {error}") from error
    device = Device.with_hci(
        OWN_NAME,
        hci.Address.generate_static_address(),
        transport.source,
        transport.sink,
    )
    radio = _Radio(device, core.BaseBumbleError, transport.source.terminated)
    try:
        await radio.call(device.power_on(), ATTACH_TIMEOUT_S)
    except BleakError as error:
        await transport.close()
        raise ConnectionError(f"no answer from {address}: {error}") from error
    except BaseException:
        radio.end()
        await transport.close()
        raise
    return radio, transport.close


class _Radio:
    """One powered-on Bumble device and whether its controller is still there.

    `lost` is done once the transport is gone. Connecting is one at a time: a controller
    has one pending connection.
    """

    def __init__(
        self,
        device: Any,
        bumble_error: type[Exception],
        terminated: asyncio.Future[Any],
    ) -> None:
        self.device = device
        self.connecting = asyncio.Lock()
        self.lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._bumble_error = bumble_error
        self._scanners: set[_Scanner] = set()
        terminated.add_done_callback(lambda _: self.end())

    def end(self) -> None:
        """No more calls: whoever waits for one gets ConnectionError."""
        if not self.lost.done():
            self.lost.set_result(None)

    async def call(
        self, awaitable: Awaitable[T], timeout_s: float = CALL_TIMEOUT_S
    ) -> T:
        """What `awaitable` gives; BleakError, or ConnectionError without a radio."""
        work = asyncio.ensure_future(awaitable)
        try:
            await asyncio.wait(
                (work, self.lost),
                timeout=timeout_s,
                return_when=asyncio.FIRST_COMPLETED,
            )
        finally:
            unanswered = not work.done()
            if unanswered:
                work.cancel()
                await asyncio.wait((work,), timeout=1)
            if work.done() and not work.cancelled():
                work.exception()  # taken, so that asyncio does not complain of it
        if self.lost.done():
            raise ConnectionError("the Bluetooth controller is lost")
        if unanswered:
            raise BleakError("the Bluetooth controller did not answer in time")
        if work.cancelled():  # by Bumble, for nobody here cancelled it
            raise BleakError("interrupted: the device has disconnected")
        error = work.exception()
        if error is None:
            return work.result()
        raise self._translated(error) from error

    def _translated(self, error: BaseException) -> BaseException:
        """Bumble's error in bleak's terms; anything else is a mistake, and stays."""
        code = getattr(error, "error_code", None)
        if getattr(error, "error_namespace", "") == "att" and isinstance(code, int):
            return BleakGATTProtocolError(code)
        if isinstance(error, self._bumble_error | TimeoutError):
            return BleakError(str(error) or type(error).__name__)
        return error

    async def listen(self, scanner: _Scanner) -> None:
        """Give `scanner` every advertisement from now on."""
        if not self._scanners:
            await self.call(self.device.start_scanning(filter_duplicates=False))
            self.device.on("advertisement", self._heard)
        self._scanners.add(scanner)

    async def unlisten(self, scanner: _Scanner) -> None:
        """The opposite; the controller stops scanning with the last one."""
        if scanner not in self._scanners:
            return
        self._scanners.discard(scanner)
        if not self._scanners:
            self.device.remove_listener("advertisement", self._heard)
            await self.call(self.device.stop_scanning())

    def _heard(self, advertisement: Any) -> None:
        for scanner in tuple(self._scanners):
            scanner.heard(advertisement)


class _Scanner(BaseBleakScanner):
    """bleak's scanner on `radio`; `attach` makes the subclass that has one."""

    radio: ClassVar[_Radio]

    def __init__(
        self,
        detection_callback: Callable[[BLEDevice, AdvertisementData], Any] | None,
        service_uuids: list[str] | None,
        scanning_mode: str = "active",  # noqa: ARG002 - always active here
        **_: Any,
    ) -> None:
        super().__init__(detection_callback, service_uuids)

    async def start(self) -> None:
        self.seen_devices = {}
        await self.radio.listen(self)

    async def stop(self) -> None:
        await self.radio.unlisten(self)

    def heard(self, advertisement: Any) -> None:
        """Pass one of Bumble's advertisements on, in bleak's terms."""
        said = _advertisement(advertisement)
        if not self.is_allowed_uuid(said.service_uuids):
            return
        address = advertisement.address.to_string(False).upper()
        seen = self.seen_devices.get(address)
        name = said.local_name or (seen[0].name if seen else None)
        details = {"address": advertisement.address}
        device = self.create_or_update_device(address, address, name, details, said)
        self.call_detection_callbacks(device, said)


def _advertisement(advertisement: Any) -> AdvertisementData:
    name: str | None = None
    tx_power: int | None = None
    uuids: list[str] = []
    manufacturer: dict[int, bytes] = {}
    service_data: dict[str, bytes] = {}
    for kind, octets in advertisement.data.ad_structures:
        if kind in _NAMES:
            name = octets.decode(errors="replace")
        elif kind in _UUIDS_16:
            uuids += [_uuid(octets[i : i + 2]) for i in range(0, len(octets) - 1, 2)]
        elif kind in _UUIDS_128:
            uuids += [_uuid(octets[i : i + 16]) for i in range(0, len(octets) - 15, 16)]
        elif kind == _TX_POWER and len(octets) == 1:
            tx_power = int.from_bytes(octets, "little", signed=True)
        elif kind == _SERVICE_DATA_16 and len(octets) >= 2:
            service_data[_uuid(octets[:2])] = bytes(octets[2:])
        elif kind == _MANUFACTURER and len(octets) >= 2:
            manufacturer[int.from_bytes(octets[:2], "little")] = bytes(octets[2:])
    return AdvertisementData(
        name,
        manufacturer,
        service_data,
        list(dict.fromkeys(uuids)),  # a scan response may say them again
        tx_power,
        advertisement.rssi,
        (),
    )


def _uuid(little_endian: bytes) -> str:
    """bleak's spelling of a UUID of 2 or 16 bytes."""
    text = bytes(reversed(little_endian)).hex()
    if len(text) == 32:
        text = "-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:]))
    return normalize_uuid_str(text)


class _Client(BaseBleakClient):
    """bleak's client on `radio`; `attach` makes the subclass that has one."""

    radio: ClassVar[_Radio]

    def __init__(
        self,
        address_or_ble_device: BLEDevice | str,
        *,
        disconnected_callback: Callable[[], None] | None = None,
        timeout: float = 30.0,
        services: set[str] | None = None,
        **_: Any,
    ) -> None:
        super().__init__(
            address_or_ble_device,
            disconnected_callback=disconnected_callback,
            timeout=timeout,
        )
        known = isinstance(address_or_ble_device, BLEDevice)
        self._device = address_or_ble_device if known else None
        self._wanted_services = services
        self._connection: Any = None
        self._peer: Any = None
        self._subscribers: dict[int, Callable[[bytes], None]] = {}

    @property
    def name(self) -> str:
        named = self._device.name if isinstance(self._device, BLEDevice) else None
        return named or self.address.replace(":", "-")

    @property
    def mtu_size(self) -> int:
        return MTU_DEFAULT if self._connection is None else self._connection.att_mtu

    @property
    def is_connected(self) -> bool:
        return self._connection is not None

    async def connect(self, pair: bool, **_: Any) -> None:
        if self._connection is not None:
            raise BleakError("already connected")
        address: Any = self.address
        if isinstance(self._device, BLEDevice):
            address = self._device.details["address"]
        async with self.radio.connecting:
            # Bumble cancels the attempt in the controller at its own timeout; ours
            # is for a controller that does not even answer that.
            attempt = self.radio.device.connect(address, timeout=self._timeout)
            try:
                connection = await self.radio.call(attempt, self._timeout + 2)
            except BleakError as error:
                raise BleakDeviceNotFoundError(self.address, str(error)) from error
        self._connection = connection
        connection.on("disconnection", self._gone)
        try:
            if pair:
                await self.pair()
            self.services = await self._discovered(connection)
        except BaseException:
            with contextlib.suppress(BleakError, ConnectionError):
                await self.disconnect()
            raise

    async def _discovered(self, connection: Any) -> BleakGATTServiceCollection:
        from bumble.device import Peer  # noqa: PLC0415 - attach() has imported it

        call = self.radio.call
        peer = self._peer = Peer(connection)
        await call(peer.request_mtu(MTU))
        await call(peer.discover_services())
        collection = BleakGATTServiceCollection()
        for service in peer.services:
            uuid = _uuid(service.uuid.to_bytes())
            if self._wanted_services and uuid not in self._wanted_services:
                continue
            ours = BleakGATTService(service, service.handle, uuid)
            collection.add_service(ours)
            await call(service.discover_characteristics())
            for characteristic in service.characteristics:
                await self._add_characteristic(collection, ours, characteristic)
        self._linked()  # Bumble may have answered from what it knew of a device gone
        return collection

    async def _add_characteristic(
        self,
        collection: BleakGATTServiceCollection,
        service: BleakGATTService,
        characteristic: Any,
    ) -> None:
        bits = int(characteristic.properties)
        ours = BleakGATTCharacteristic(
            characteristic,
            characteristic.handle,
            _uuid(characteristic.uuid.to_bytes()),
            [name for bit, name in _PROPERTIES if bits & bit],
            lambda: self.mtu_size - 3,  # less the opcode and the handle
            service,
        )
        collection.add_characteristic(ours)
        for descriptor in await self.radio.call(characteristic.discover_descriptors()):
            uuid = _uuid(descriptor.type.to_bytes())
            collection.add_descriptor(
                BleakGATTDescriptor(descriptor, descriptor.handle, uuid, ours)
            )

    def _gone(self, _reason: int) -> None:
        self._connection = self._peer = None
        self._subscribers.clear()
        if self._disconnected_callback is not None:
            self._disconnected_callback()

    async def disconnect(self) -> None:
        if self._connection is not None:
            await self.radio.call(self._connection.disconnect())

    async def pair(self, *_: Any, **__: Any) -> None:
        await self.radio.call(self._linked().pair())

    async def unpair(self) -> None:
        keystore = self.radio.device.keystore
        await self.radio.call(keystore.delete(str(self._linked().peer_address)))

    def _linked(self) -> Any:
        if self._connection is None:
            raise BleakError("not connected")
        return self._connection

    def _gatt(self) -> Any:
        self._linked()
        return self._peer.gatt_client

    async def read_gatt_char(
        self,
        characteristic: BleakGATTCharacteristic,
        *,
        use_cached: bool = False,  # noqa: ARG002 - always from the device
        **_: Any,
    ) -> bytearray:
        gatt = self._gatt()
        return bytearray(await self.radio.call(gatt.read_value(characteristic.obj)))

    async def read_gatt_descriptor(
        self,
        descriptor: BleakGATTDescriptor,
        *,
        use_cached: bool = False,  # noqa: ARG002 - always from the device
        **_: Any,
    ) -> bytearray:
        gatt = self._gatt()
        return bytearray(await self.radio.call(gatt.read_value(descriptor.obj)))

    async def write_gatt_char(
        self, characteristic: BleakGATTCharacteristic, data: SizedBuffer, response: bool
    ) -> None:
        gatt, value = self._gatt(), bytes(data)
        await self.radio.call(
            gatt.write_value(characteristic.obj, value, with_response=response)
        )

    async def write_gatt_descriptor(
        self, descriptor: BleakGATTDescriptor, data: SizedBuffer
    ) -> None:
        gatt, value = self._gatt(), bytes(data)
        await self.radio.call(
            gatt.write_value(descriptor.obj, value, with_response=True)
        )

    async def start_notify(
        self,
        characteristic: BleakGATTCharacteristic,
        callback: NotifyCallback,
        **_: Any,
    ) -> None:
        def pass_on(value: bytes) -> None:
            callback(bytearray(value))

        gatt = self._gatt()
        self._subscribers[characteristic.handle] = pass_on
        await self.radio.call(gatt.subscribe(characteristic.obj, pass_on))

    async def stop_notify(self, characteristic: BleakGATTCharacteristic) -> None:
        gatt = self._gatt()
        subscriber = self._subscribers.pop(characteristic.handle, None)
        await self.radio.call(gatt.unsubscribe(characteristic.obj, subscriber))
