"""The ward's BLE peripherals: chest straps and finger oximeters on a virtual link.

    heart rate strap   180D: 2A37 notify, 2A38 read; one also 180F: 2A19 read, notify
    pulse oximeter     1822: 2A5F notify (1 s), 2A5E indicate (20 s), 2A60 read

Heart Rate Measurement 2A37 (Heart Rate Service 1.0)
    flags u8 | heart rate u8 | RR intervals u16 each, 1/1024 s
    flags: 0x02 contact detected, 0x04 contact supported, 0x10 RR intervals present
PLX Continuous Measurement 2A5F (Pulse Oximeter Service 1.0)
    flags u8 | SpO2 SFLOAT | pulse rate SFLOAT | measurement status u16 if flags & 0x04
PLX Spot-Check Measurement 2A5E
    flags u8 | SpO2 SFLOAT | pulse rate SFLOAT | time (7 bytes, UTC) if flags & 0x01
SFLOAT (IEEE 11073-20601): exponent in the upper 4 bits, mantissa in the lower 12, both
two's complement. All little-endian.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import struct
from collections import Counter
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from decimal import Decimal

from bumble import hci
from bumble.controller import Controller
from bumble.core import UUID, AdvertisingData
from bumble.device import Connection, Device, DeviceConfiguration
from bumble.gatt import Characteristic, Service
from bumble.gatt_server import Server
from bumble.link import LocalLink
from bumble.transport.common import Transport

from firmware_sim.beds import now_ms, steps
from firmware_sim.patients import Patient, contact_lost, rounded

HEART_RATE_SERVICE = 0x180D
HEART_RATE_MEASUREMENT = 0x2A37
BODY_SENSOR_LOCATION = 0x2A38
BATTERY_SERVICE = 0x180F
BATTERY_LEVEL = 0x2A19
PULSE_OXIMETER_SERVICE = 0x1822
PLX_SPOT_CHECK = 0x2A5E
PLX_CONTINUOUS = 0x2A5F
PLX_FEATURES = 0x2A60

CONTACT_DETECTED, CONTACT_SUPPORTED, RR_PRESENT = 0x02, 0x04, 0x10
PLX_TIMESTAMP, PLX_STATUS = 0x01, 0x04
STATUS_ONGOING_VALIDATED = 0x00A0  # measurement ongoing, validated
FEATURES_STATUS_TIMESTAMP = 0x0009  # measurement status, spot-check timestamp
CHEST = 1
RR_PER_SECOND = 1024
SPOT_CHECK_PERIOD_S = 20.0
SPOT_CHECK_FIRST_S = 6.0  # a central needs some seconds to find and subscribe
BATTERY_PERIOD_S = 60.0
BATTERY_FIRST_S = 5.0
BATTERY_FULL_PERCENT = 94
BATTERY_FLOOR_PERCENT = 5
BATTERY_MINUTES_PER_PERCENT = 10
ADVERTISING_INTERVAL_MS = 100.0
LAST_ANSWER_S = 1.0
STATIC_RANDOM = 0xC0  # the two top bits of a static random address
log = logging.getLogger("ward.ble")


def static_address(seed: int, name: str) -> str:
    """A peripheral's static random address, the same for each run of one seed."""
    digest = hashlib.blake2b(f"{seed}/{name}".encode(), digest_size=6).digest()
    octets = bytes((digest[0] | STATIC_RANDOM,)) + digest[1:]
    return octets.hex(":").upper()


def sfloat(value: Decimal) -> bytes:
    """The SFLOAT of a number that 12 bits of mantissa can hold."""
    _, _, exponent = value.as_tuple()
    if not isinstance(exponent, int) or not -8 <= exponent <= 7:
        raise ValueError(f"{value} has no SFLOAT")
    mantissa = int(value.scaleb(-exponent))
    if not -2045 <= mantissa <= 2045:  # the five values beyond mean NaN, NRes, ±INF
        raise ValueError(f"{value} has no SFLOAT")
    return struct.pack("<H", (exponent & 0xF) << 12 | mantissa & 0xFFF)


def heart_rate_measurement(rate: Decimal, intervals_s: list[float]) -> bytes:
    """2A37 while the strap touches the skin."""
    flags = CONTACT_SUPPORTED | CONTACT_DETECTED
    if intervals_s:
        flags |= RR_PRESENT
    units = [round(interval * RR_PER_SECOND) for interval in intervals_s]
    return struct.pack(f"<BB{len(units)}H", flags, int(rate), *units)


def heart_rate_without_contact() -> bytes:
    """2A37 of a strap that slipped: no contact, rate 0."""
    return bytes((CONTACT_SUPPORTED, 0))


def plx_continuous(spo2: Decimal, pulse: Decimal, *, status: bool) -> bytes:
    """2A5F, with the measurement status where the device has one."""
    if not status:
        return bytes((0,)) + sfloat(spo2) + sfloat(pulse)
    tail = struct.pack("<H", STATUS_ONGOING_VALIDATED)
    return bytes((PLX_STATUS,)) + sfloat(spo2) + sfloat(pulse) + tail


def plx_spot_check(spo2: Decimal, pulse: Decimal, at: datetime) -> bytes:
    """2A5E with its time."""
    stamp = struct.pack(
        "<HBBBBB", at.year, at.month, at.day, at.hour, at.minute, at.second
    )
    return bytes((PLX_TIMESTAMP,)) + sfloat(spo2) + sfloat(pulse) + stamp


class Peripheral:
    """One virtual BLE device; `sent` counts values sent to subscribers, by UUID."""

    def __init__(self, name: str, address: str, link: LocalLink) -> None:
        self.name = name
        self.address = address
        self.sent: Counter[str] = Counter()
        self._link = link
        self._services: list[Service] = []
        self._device: Device | None = None

    def add(self, service: int, characteristics: list[Characteristic[bytes]]) -> None:
        """Offer a primary service; before start()."""
        self._services.append(Service(UUID.from_16_bits(service), characteristics))

    def add_service(
        self, service: str, characteristics: list[Characteristic[bytes]]
    ) -> None:
        """Offer a service with a full UUID; before start()."""
        self._services.append(Service(UUID(service), characteristics))

    async def start(self) -> None:
        """Power the device on and advertise whenever nobody is connected."""
        controller = Controller(self.name, link=self._link)
        wire = Transport(controller, controller)
        device = Device.from_config_with_hci(
            DeviceConfiguration(
                name=self.name,
                address=hci.Address(self.address, hci.Address.RANDOM_DEVICE_ADDRESS),
                advertising_interval_min=ADVERTISING_INTERVAL_MS,
                advertising_interval_max=ADVERTISING_INTERVAL_MS,
            ),
            wire.source,
            wire.sink,
        )
        short = [bytes(one.uuid) for one in self._services if len(bytes(one.uuid)) == 2]
        uuids = b"".join(short)
        device.advertising_data = bytes(
            AdvertisingData(
                [
                    (AdvertisingData.FLAGS, b"\x06"),
                    (AdvertisingData.COMPLETE_LOCAL_NAME, self.name.encode()),
                    (
                        AdvertisingData.COMPLETE_LIST_OF_16_BIT_SERVICE_CLASS_UUIDS,
                        uuids,
                    ),
                ]
            )
        )
        device.add_services(self._services)
        await device.power_on()
        await device.start_advertising(auto_restart=True)
        self._device = device

    async def stop(self) -> None:
        """Power the device off."""
        if self._device is not None:
            await self._device.power_off()
            self._device = None

    async def send(self, characteristic: Characteristic[bytes], value: bytes) -> None:
        """Notify or indicate `value` to each central that asked for it."""
        if self._device is None:
            return
        server = self._device.gatt_server
        indicates = bool(characteristic.properties & Characteristic.Properties.INDICATE)
        wanted = 0x02 if indicates else 0x01
        for connection in list(self._device.connections.values()):
            if not server.read_cccd(connection, characteristic)[0] & wanted:
                continue
            self.sent[characteristic.uuid.to_hex_str().lower()] += 1
            if indicates:
                await _indicate(server, connection, characteristic, value)
            else:
                await server.notify_subscriber(connection, characteristic, value)

    def listener(self, characteristic: Characteristic[bytes]) -> Connection | None:
        """The connection that asked for its notifications, if there is one."""
        if self._device is None:
            return None
        server = self._device.gatt_server
        for connection in self._device.connections.values():
            if server.read_cccd(connection, characteristic)[0] & 0x01:
                return connection
        return None

    async def send_whole(
        self,
        characteristic: Characteristic[bytes],
        octets: bytes,
        cut: Callable[[bytes, int], Iterable[bytes]],
    ) -> None:
        """Notify `octets`, cut into values that fit, to each central that asked."""
        if self._device is None:
            return
        server = self._device.gatt_server
        for connection in list(self._device.connections.values()):
            if not server.read_cccd(connection, characteristic)[0] & 0x01:
                continue
            self.sent[characteristic.uuid.to_hex_str("-").lower()] += 1
            for value in cut(octets, connection.att_mtu - 3):
                await server.notify_subscriber(connection, characteristic, value)


async def _indicate(
    server: Server,
    connection: Connection,
    characteristic: Characteristic[bytes],
    value: bytes,
) -> None:
    """Indicate, and wait until it is confirmed or the central is gone."""
    gone = asyncio.Event()

    def leave(_reason: int) -> None:
        gone.set()

    connection.on(Connection.EVENT_DISCONNECTION, leave)
    sending = asyncio.create_task(
        server.indicate_subscriber(connection, characteristic, value)
    )
    leaving = asyncio.create_task(gone.wait())
    either = [sending, leaving]
    try:
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
    except asyncio.CancelledError:  # the ward stops: the answer is on its way
        await asyncio.wait(
            either, timeout=LAST_ANSWER_S, return_when=asyncio.FIRST_COMPLETED
        )
        raise
    finally:
        connection.remove_listener(Connection.EVENT_DISCONNECTION, leave)
        for task in either:
            task.cancel()
        results = await asyncio.gather(*either, return_exceptions=True)
    if isinstance(results[0], TimeoutError):
        log.warning("%s: an indication was not confirmed", connection.peer_address)


def _characteristic(uuid: int, value: bytes, *, push: int = 0) -> Characteristic[bytes]:
    """A characteristic that is read, or pushed by NOTIFY or INDICATE, or both."""
    properties = Characteristic.Properties(push)
    if value:
        properties |= Characteristic.Properties.READ
    return Characteristic(
        UUID.from_16_bits(uuid), properties, Characteristic.READABLE, value
    )


NOTIFY = int(Characteristic.Properties.NOTIFY)
INDICATE = int(Characteristic.Properties.INDICATE)


class HeartRateStrap:
    """A chest strap; `slips` says whether its contact is lost now and then."""

    def __init__(
        self, peripheral: Peripheral, patient: Patient, *, battery: bool, slips: bool
    ) -> None:
        self.peripheral = peripheral
        self._patient = patient
        self._slips = slips
        self._rate = _characteristic(HEART_RATE_MEASUREMENT, b"", push=NOTIFY)
        self._location = _characteristic(BODY_SENSOR_LOCATION, bytes((CHEST,)))
        peripheral.add(HEART_RATE_SERVICE, [self._rate, self._location])
        self._battery: Characteristic[bytes] | None = None
        if battery:
            full = bytes((BATTERY_FULL_PERCENT,))
            self._battery = _characteristic(BATTERY_LEVEL, full, push=NOTIFY)
            peripheral.add(BATTERY_SERVICE, [self._battery])

    async def run(self, speed: float) -> None:
        """A heart rate each model second and the battery level each minute."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._run_rate(speed))
            group.create_task(self._run_battery(speed))

    async def _run_rate(self, speed: float) -> None:
        async for step, elapsed_s in steps(1.0, speed):
            vitals = self._patient.vitals(step)
            if self._slips and contact_lost(elapsed_s):
                value = heart_rate_without_contact()
            else:
                intervals_s = self._patient.beat_intervals_s(step, vitals)
                value = heart_rate_measurement(rounded(vitals.heart_rate), intervals_s)
            await self.peripheral.send(self._rate, value)

    async def _run_battery(self, speed: float) -> None:
        if self._battery is None:
            return
        async for step, _ in steps(BATTERY_PERIOD_S, speed, first_s=BATTERY_FIRST_S):
            drained = step // BATTERY_MINUTES_PER_PERCENT
            level = max(BATTERY_FULL_PERCENT - drained, BATTERY_FLOOR_PERCENT)
            self._battery.value = bytes((level,))
            await self.peripheral.send(self._battery, self._battery.value)


class PulseOximeter:
    """A finger oximeter; `status` says whether it reports its measurement status."""

    def __init__(
        self, peripheral: Peripheral, patient: Patient, *, status: bool
    ) -> None:
        self.peripheral = peripheral
        self._patient = patient
        self._status = status
        self._continuous = _characteristic(PLX_CONTINUOUS, b"", push=NOTIFY)
        self._spot = _characteristic(PLX_SPOT_CHECK, b"", push=INDICATE)
        features = struct.pack(
            "<HH", FEATURES_STATUS_TIMESTAMP, STATUS_ONGOING_VALIDATED
        )
        peripheral.add(
            PULSE_OXIMETER_SERVICE,
            [self._continuous, self._spot, _characteristic(PLX_FEATURES, features)],
        )

    async def run(self, speed: float) -> None:
        """SpO2 and pulse rate each model second, a spot-check each twenty."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._run_continuous(speed))
            group.create_task(self._run_spot_checks(speed))

    async def _run_continuous(self, speed: float) -> None:
        async for step, _ in steps(1.0, speed):
            vitals = self._patient.vitals(step)
            value = plx_continuous(
                rounded(vitals.spo2), rounded(vitals.heart_rate), status=self._status
            )
            await self.peripheral.send(self._continuous, value)

    async def _run_spot_checks(self, speed: float) -> None:
        async for step, _ in steps(
            SPOT_CHECK_PERIOD_S, speed, first_s=SPOT_CHECK_FIRST_S
        ):
            vitals = self._patient.vitals(round(step * SPOT_CHECK_PERIOD_S))
            value = plx_spot_check(
                rounded(vitals.spo2, 1),
                rounded(vitals.heart_rate),
                datetime.fromtimestamp(now_ms() / 1000, UTC),
            )
            await self.peripheral.send(self._spot, value)


BleDevice = HeartRateStrap | PulseOximeter
