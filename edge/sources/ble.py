"""The BLE source: what enrolled Bluetooth devices notify, through bleak.

    advertisement ─► enrolled? ─► connect ─► subscribe ─► value ─► door.submit
         ▲                                                  │
         └──────────── disconnect, jittered backoff ◄───────┘

One long-lived scanner; a connection begins in the scanner's callback, for some devices
are awake for two seconds only, and one at a time, for adapters fail at more. Every
characteristic with a profile (devices/profiles) that a device notifies or indicates is
subscribed to. A device that is no longer enrolled is disconnected.

A BLE value cannot be asked for again, so a full intake pushes back in steps: values
wait in a bounded line; after `grace_s` the device is unsubscribed (one that stores its
readings keeps them then); what the line cannot hold is counted and logged.

The Bluetooth confirmation of an indication is sent by the host stack before we see the
value (BlueZ and Bumble alike), so it does not promise durability; only what a device
deletes on our command waits for the commit.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from bleak import BleakClient, BleakScanner
from bleak.backends.characteristic import BleakGATTCharacteristic
from bleak.backends.client import BaseBleakClient
from bleak.backends.device import BLEDevice
from bleak.backends.scanner import AdvertisementData, BaseBleakScanner
from bleak.exc import BleakError

from edge.devices.profiles import PROFILES
from edge.model import Arrival, Outcome, Source, Verdict
from edge.sources import Door

log = logging.getLogger("edge.ble")

# How an adapter, a device or the daemon between fails; all of it is retried.
RADIO_ERRORS = (BleakError, OSError, EOFError, TimeoutError)

_UUID_16_PREFIX = "0000"
_UUID_16_SUFFIX = "-0000-1000-8000-00805f9b34fb"  # the Bluetooth Base UUID


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of the source; times in seconds."""

    connections_max: int = 7  # what a Pi's own adapter holds
    connect_timeout_s: float = 20.0  # discovery included
    subscribe_timeout_s: float = 10.0
    disconnect_timeout_s: float = 2.0
    backoff_first_s: float = 0.5
    backoff_max_s: float = 60.0
    fresh_s: float = 10.0  # older advertisements are nothing to connect to
    silence_s: float = 120.0  # of all advertisers: then the scanner is started anew
    check_s: float = 1.0
    waiting_count_max: int = 256  # values of one device that wait for the intake
    grace_s: float = 1.0  # of a full intake before a device is unsubscribed


@dataclass(slots=True, eq=False)
class _Link:
    """One device, from the advertisement we answer to the last value handed on."""

    address: str
    device: str
    client: BleakClient | None = None
    connected: bool = False
    subscribed: list[BleakGATTCharacteristic] = field(default_factory=list)
    waiting: deque[tuple[str, bytes]] = field(default_factory=deque)
    has_waiting: asyncio.Event = field(default_factory=asyncio.Event)
    gone: asyncio.Event = field(default_factory=asyncio.Event)
    received_count: int = 0
    lost_count: int = 0


@dataclass(slots=True)
class _Backoff:
    """Failures in a row, and the loop time before which there is no new try."""

    failures: int = 0
    not_before_s: float = 0.0


class BleSource:
    """Long-lived: run() ends only by cancellation.

    `devices` gives the enrolled ones now, device name by Bluetooth address in any case.
    The backend classes are bleak's; None is the platform's own (BlueZ).
    """

    def __init__(
        self,
        door: Door,
        devices: Callable[[], Mapping[str, str]],
        *,
        scanner_backend: type[BaseBleakScanner] | None = None,
        client_backend: type[BaseBleakClient] | None = None,
        limits: Limits | None = None,
    ) -> None:
        self._door = door
        self._devices = devices
        self._scanner_backend = scanner_backend
        self._client_backend = client_backend
        self._limits = limits or Limits()
        self._links: dict[str, _Link] = {}
        self._backoffs: dict[str, _Backoff] = {}
        self._seen: dict[str, tuple[BLEDevice, float]] = {}
        self._connecting = asyncio.Lock()
        self._heard_s = 0.0
        self._full_logged = False
        self._lost_count = 0

    @property
    def connected(self) -> frozenset[str]:
        """The addresses, in capitals, that are connected and fully subscribed to."""
        return frozenset(a for a, link in self._links.items() if link.connected)

    @property
    def lost_count(self) -> int:
        """Values that were received and could not be kept, since the start."""
        return self._lost_count

    async def run(self) -> None:
        """Scan, connect and hand on, until cancelled."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._scan(group), name="ble-scan")
        finally:
            self._links.clear()

    async def _scan(self, group: asyncio.TaskGroup) -> None:
        backoff = _Backoff()

        def on_advertisement(device: BLEDevice, _: AdvertisementData) -> None:
            backoff.failures = 0
            self._on_advertisement(device, group)

        while True:
            try:
                scanner = BleakScanner(on_advertisement, backend=self._scanner_backend)
                await scanner.start()
                try:
                    log.info("scanning")
                    await self._watch()
                finally:
                    await self._ended(scanner.stop(), "the scanner")
            except RADIO_ERRORS as error:
                _stop_if_cancelled()
                delay_s = self._next_delay_s(backoff)
                log.warning(
                    "the adapter fails, next try in %.1f s: %s", delay_s, _words(error)
                )
                await asyncio.sleep(delay_s)

    async def _watch(self) -> None:
        """Returns when the scanner has to be started anew."""
        loop = asyncio.get_running_loop()
        self._heard_s = loop.time()
        while loop.time() - self._heard_s < self._limits.silence_s:
            await asyncio.sleep(self._limits.check_s)
            for link in tuple(self._links.values()):
                if self._name_of(link.address) != link.device:
                    log.info("%s is enrolled no longer", link.device)
                    link.gone.set()
        # An adapter may stop reporting without a word (research: after hours or days).
        log.info("no advertisement for %.0f s: scanning anew", self._limits.silence_s)

    def _name_of(self, address: str) -> str | None:
        for known, name in self._devices().items():
            if known.upper() == address:
                return name
        return None

    def _on_advertisement(self, device: BLEDevice, group: asyncio.TaskGroup) -> None:
        now_s = asyncio.get_running_loop().time()
        self._heard_s = now_s
        address = device.address.upper()
        name = self._name_of(address)
        if name is None:
            return
        self._seen[address] = device, now_s
        if address in self._links or now_s < self._backoff(address).not_before_s:
            return
        if len(self._links) >= self._limits.connections_max:
            if not self._full_logged:
                log.warning("%d connections: no more", self._limits.connections_max)
            self._full_logged = True
            return
        self._full_logged = False
        link = _Link(address, name)
        self._links[address] = link
        group.create_task(self._serve(link), name=f"ble-{address}")

    def _backoff(self, address: str) -> _Backoff:
        return self._backoffs.setdefault(address, _Backoff())

    def _next_delay_s(self, backoff: _Backoff) -> float:
        """Full jitter under a doubling bound, so that devices do not come in step."""
        bound_s = self._limits.backoff_first_s * 2 ** min(backoff.failures, 16)
        backoff.failures += 1
        return random.uniform(0, min(bound_s, self._limits.backoff_max_s))  # noqa: S311 - jitter is no secret

    async def _serve(self, link: _Link) -> None:
        """One connection, from its start to the last value handed on."""
        try:
            try:
                await self._stay_connected(link)
            except RADIO_ERRORS as error:
                _stop_if_cancelled()
                text = _words(error).replace(link.address, "its address")
                log.warning("%s: %s", link.device, text)
            finally:
                await self._close(link)
            await self._hand_on_all(link)
        finally:
            if link.waiting:  # the program is ending while the intake is full
                self._lose(link, len(link.waiting))
            self._links.pop(link.address, None)

    async def _stay_connected(self, link: _Link) -> None:
        await self._connect(link)
        link.connected = True
        log.info("%s is connected", link.device)  # no address: it may be a person's
        async with asyncio.TaskGroup() as group:
            carry = group.create_task(self._carry(link), name=f"carry-{link.address}")
            await link.gone.wait()
            carry.cancel()
        log.info("%s has disconnected", link.device)

    async def _connect(self, link: _Link) -> None:
        limits = self._limits
        async with self._connecting:
            device, seen_s = self._seen[link.address]
            if asyncio.get_running_loop().time() - seen_s > limits.fresh_s:
                raise BleakError("is no longer advertising")
            link.client = BleakClient(
                device,
                disconnected_callback=lambda _: link.gone.set(),
                timeout=limits.connect_timeout_s,
                backend=self._client_backend,
            )
            async with asyncio.timeout(limits.connect_timeout_s):
                await link.client.connect()
            async with asyncio.timeout(limits.subscribe_timeout_s):
                await self._subscribe(link)

    async def _subscribe(self, link: _Link) -> None:
        """Subscribe to all that has a profile; BleakError if nothing can be."""
        assert link.client is not None  # noqa: S101 - _connect has made it
        problems: list[str] = []
        for characteristic in list(link.client.services.characteristics.values()):
            stream = _short(characteristic.uuid)
            offers = {"notify", "indicate"}.intersection(characteristic.properties)
            if stream not in PROFILES or not offers:
                continue
            try:
                await link.client.start_notify(
                    characteristic, self._receiver(link, stream)
                )
            except BleakError as error:  # one may need a bond and another not
                problems.append(f"{stream}: {_words(error)}")
                if link.gone.is_set():
                    break
            else:
                link.subscribed.append(characteristic)
        if problems and link.subscribed:
            log.warning("%s: not subscribed to %s", link.device, "; ".join(problems))
        if not link.subscribed:
            raise BleakError(
                "; ".join(problems) or "offers no characteristic that we know"
            )

    async def _unsubscribe(self, link: _Link) -> None:
        assert link.client is not None  # noqa: S101 - it was subscribed
        while link.subscribed:
            await link.client.stop_notify(link.subscribed.pop())

    def _receiver(
        self, link: _Link, stream: str
    ) -> Callable[[BleakGATTCharacteristic, bytearray], None]:
        def receive(_: BleakGATTCharacteristic, value: bytearray) -> None:
            self._take(link, stream, bytes(value))

        return receive

    def _take(self, link: _Link, stream: str, value: bytes) -> None:
        """A value from the radio; on the event loop, so it must not wait."""
        if link.received_count == 0:
            self._backoff(link.address).failures = 0  # it works: forget the past
        link.received_count += 1
        if not link.waiting and not self._door.congested:
            self._submit(link, stream, value)
        elif len(link.waiting) < self._limits.waiting_count_max:
            link.waiting.append((stream, value))
            link.has_waiting.set()
        else:
            self._lose(link, 1)

    def _lose(self, link: _Link, count: int) -> None:
        if link.lost_count == 0:
            log.error("%s: the intake is full, values are being lost", link.device)
        link.lost_count += count
        self._lost_count += count

    def _submit(self, link: _Link, stream: str, value: bytes) -> None:
        def settle(outcome: Outcome) -> None:
            if outcome.verdict is Verdict.REFUSED:
                log.warning(
                    "%s/%s is refused: %s (%s)",
                    link.device,
                    stream,
                    outcome.reason,
                    outcome.detail,
                )

        self._door.submit(
            Arrival(
                source=Source.BLE,
                principal=f"ble:{link.address}",
                device=link.device,
                stream=stream,
                payload=value,
                settle=settle,
                link="ble",
            )
        )

    async def _carry(self, link: _Link) -> None:
        """Empties the line of waiting values, and unsubscribes if that takes long."""
        while True:
            await link.has_waiting.wait()
            try:
                async with asyncio.timeout(self._limits.grace_s):
                    await self._hand_on_all(link)
                continue
            except TimeoutError:
                log.warning("%s: unsubscribed, the intake is full", link.device)
            try:
                await self._unsubscribe(link)
                await self._hand_on_all(link)
                async with asyncio.timeout(self._limits.subscribe_timeout_s):
                    await self._subscribe(link)
            except RADIO_ERRORS as error:
                log.warning("%s: %s", link.device, _words(error))
                link.gone.set()
                return

    async def _hand_on_all(self, link: _Link) -> None:
        """Submit what waits, in order, as fast as the intake takes it."""
        while link.waiting:
            if self._door.congested:
                await self._door.relieved()
                continue
            self._submit(link, *link.waiting.popleft())
        link.has_waiting.clear()
        if link.lost_count:
            log.error("%s: %d values were lost", link.device, link.lost_count)
            link.lost_count = 0

    async def _close(self, link: _Link) -> None:
        """Free the connection and say when the next one may begin."""
        link.connected = False
        link.subscribed.clear()
        backoff = self._backoff(link.address)
        delay_s = self._next_delay_s(backoff) if link.received_count == 0 else 0.0
        backoff.not_before_s = asyncio.get_running_loop().time() + delay_s
        if link.client is not None:
            await self._ended(link.client.disconnect(), link.device)

    async def _ended(self, ending: Awaitable[object], what: str) -> None:
        """Waits for an end, but not for long; its errors are only told.

        For `finally`: an adapter that fails here must not replace the error, or the
        cancellation, that is on its way.
        """
        try:
            async with asyncio.timeout(self._limits.disconnect_timeout_s):
                await ending
        except RADIO_ERRORS as error:
            log.debug("%s: at the end: %s", what, _words(error))


def _stop_if_cancelled() -> None:
    """A library may answer our cancellation with an error of its own."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


def _short(uuid: str) -> str:
    """The 16-bit form of a full UUID in bleak's spelling, or the UUID itself."""
    if uuid.startswith(_UUID_16_PREFIX) and uuid.endswith(_UUID_16_SUFFIX):
        return uuid[4:8]
    return uuid


def _words(error: BaseException) -> str:
    """Some of these errors have no text of their own."""
    return str(error) or type(error).__name__
