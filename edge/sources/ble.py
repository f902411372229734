"""The BLE source: what enrolled Bluetooth devices notify, through bleak.

    advertisement ─► enrolled? ─► connect ─► subscribe ─► value ─► door.submit
         ▲                                     │            ▲
         │                                     └─► clock, stored records
         └──────────── disconnect, jittered backoff ◄───────┘

One long-lived scanner; a connection begins in the scanner's callback, for some devices
are awake for two seconds only, and one at a time, for adapters fail at more. Every
characteristic with a profile (devices/profiles) that a device notifies or indicates is
subscribed to; then its clock is read and set and its memory is emptied (ble_device.py).
A device that is no longer enrolled is disconnected. With a full table of connections
the one that has been idle longest is given up for a device that waits.

A BLE value cannot be asked for again, so a full intake pushes back in steps: values
wait in a bounded line; after `grace_s` the device is unsubscribed (one that stores its
readings keeps them then); what the line cannot hold is counted, and is a technical
alarm on the ledger: a gap.

The Bluetooth confirmation of an indication is sent by the host stack before we see the
value (BlueZ and Bumble alike), so it does not promise durability; only what a device
deletes on our command waits for the commit.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Mapping

from bleak import BleakClient, BleakScanner
from bleak.backends.characteristic import BleakGATTCharacteristic
from bleak.backends.client import BaseBleakClient
from bleak.backends.device import BLEDevice
from bleak.backends.scanner import AdvertisementData, BaseBleakScanner
from bleak.exc import BleakError

from edge.devices import fragments
from edge.devices.profiles import READ_BY_US, continuous_glucose, ecg
from edge.model import Arrival, Outcome, Source, Verdict
from edge.sources import Door
from edge.sources.ble_device import (
    Now,
    accesses_of,
    drain,
    is_old,
    read_and_set_clock,
    read_session_start,
    wanted_streams,
)
from edge.sources.ble_ecg import EcgStream
from edge.sources.ble_envelope import envelope_of
from edge.sources.ble_link import Backoff, Limits, Link, Value
from edge.sources.ble_records import RecordAccess
from edge.sources.ble_table import Table, next_delay_s
from edge.sources.ble_words import RADIO_ERRORS, explain, short

__all__ = ["BleSource", "Limits"]

log = logging.getLogger("edge.ble")

ADAPTER_RULE = "ble-adapter"
GAP_RULE = "ble-gap"
ADAPTER_FAILURES_ALARM = 3  # in a row: a restarted daemon costs one or two
Alarm = Callable[[str, str, str], None]  # rule, "start" or "end", detail


def _machine_time_ms() -> int:
    return time.time_ns() // 1_000_000


class BleSource:
    """Long-lived: run() ends only by cancellation.

    `devices` gives the enrolled ones now, device name by Bluetooth address in any case.
    The backend classes are bleak's; None is the platform's own (BlueZ). `now` is our
    time in ms since 1970, None while it is not to be believed. `alarm` takes technical
    alarms; `is_bonded` says whether the stack keeps keys of an address; `power_cycle`
    switches an adapter that went silent off and on; `stack_lost` returns when the
    stack's daemon of now has ended.
    """

    def __init__(
        self,
        door: Door,
        devices: Callable[[], Mapping[str, str]],
        *,
        scanner_backend: type[BaseBleakScanner] | None = None,
        client_backend: type[BaseBleakClient] | None = None,
        limits: Limits | None = None,
        now: Now = _machine_time_ms,
        alarm: Alarm = lambda *_: None,
        is_bonded: Callable[[str], Awaitable[bool]] | None = None,
        power_cycle: Callable[[], Awaitable[None]] | None = None,
        stack_lost: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self._door = door
        self._devices = devices
        self._scanner_backend = scanner_backend
        self._client_backend = client_backend
        self._limits = limits or Limits()
        self._now = now
        self._alarm = alarm
        self._is_bonded = is_bonded
        self._power_cycle = power_cycle
        self._stack_lost = stack_lost
        self._rescan = asyncio.Event()
        self._table = Table(self._limits)
        self._links = self._table.links
        self._seen: dict[str, tuple[BLEDevice, float]] = {}
        self._fetched: dict[tuple[str, str], int] = {}  # newest durable record
        self._ecgs: dict[str, EcgStream] = {}
        self._connecting = asyncio.Lock()
        self._heard_s = 0.0
        self._silences = 0
        self._full_logged = False
        self._lost_count = 0
        self._adapter_alarmed = False

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
                if self._stack_lost is not None:
                    group.create_task(self._guard(self._stack_lost), name="ble-guard")
        finally:
            self._links.clear()

    # ---- The scanner ----

    async def _scan(self, group: asyncio.TaskGroup) -> None:
        backoff = Backoff()

        def on_advertisement(device: BLEDevice, _: AdvertisementData) -> None:
            backoff.failures = self._silences = 0
            self._on_advertisement(device, group)

        while True:
            try:
                scanner = BleakScanner(on_advertisement, backend=self._scanner_backend)
                await scanner.start()
                try:
                    log.info("scanning")
                    self._table.forget_bound()
                    self._adapter_works()
                    await self._watch()
                finally:
                    await self._ended(scanner.stop(), "the scanner")
                await self._wake_adapter()
            except RADIO_ERRORS as error:
                _stop_if_cancelled()
                delay_s = next_delay_s(backoff, self._limits)
                words = explain(error)
                log.warning("the adapter fails, next try in %.1f s: %s", delay_s, words)
                if backoff.failures >= ADAPTER_FAILURES_ALARM:
                    self._adapter_fails(words)
                await asyncio.sleep(delay_s)

    def _adapter_fails(self, words: str) -> None:
        if not self._adapter_alarmed:
            self._adapter_alarmed = True
            self._alarm(ADAPTER_RULE, "start", words)

    def _adapter_works(self) -> None:
        if self._adapter_alarmed:
            self._adapter_alarmed = False
            self._alarm(ADAPTER_RULE, "end", "the adapter scans again")

    async def _wake_adapter(self) -> None:
        """After some silences in a row: some adapters need a switch, not a new scan."""
        self._silences += 1
        if self._silences >= self._limits.silences_max and not self._links:
            self._silences = 0
            if self._power_cycle is not None:
                log.warning("the adapter stays silent: switched off and on")
                await self._power_cycle()

    async def _guard(self, lost: Callable[[], Awaitable[None]]) -> None:
        """When bluetoothd ends nobody tells us: bleak goes on believing its last words.

        Every connection is given up then, and what was seen before is forgotten: a
        device is connected to when the new daemon has reported it.
        """
        while True:
            try:
                await lost()
            except RADIO_ERRORS:  # none runs: the scanner says so
                _stop_if_cancelled()
                await asyncio.sleep(self._limits.check_s)
                continue
            log.warning("bluetoothd has ended: everything is begun anew")
            self._seen.clear()
            self._table.forget_waiting()
            for link in tuple(self._links.values()):
                link.gone.set()
            self._rescan.set()

    async def _watch(self) -> None:
        """Returns when the scanner has to be started anew."""
        self._rescan.clear()
        loop = asyncio.get_running_loop()
        self._heard_s = loop.time()
        while loop.time() - self._heard_s < self._limits.silence_s:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._limits.check_s):
                    await self._rescan.wait()
                return
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
        if not self._table.may_try(address, now_s):
            return
        if not self._table.is_next(address, now_s):
            if self._table.full:
                self._make_room(name, now_s)
            return
        if self._table.needs_room(address) and self._make_room(name, now_s):
            self._table.note_room(address)
            return
        self._full_logged = False
        link = Link(address, name, heard_s=now_s)
        self._links[address] = link
        group.create_task(self._serve(link), name=f"ble-{address}")

    def _make_room(self, name: str, now_s: float) -> bool:
        """Give up the connection that has been idle longest, if one is idle at all."""
        if any(link.gone.is_set() for link in self._links.values()):
            return False  # room is being made
        idle = self._table.idlest(now_s)
        if idle is not None:
            log.info("%s is idle, %s waits: disconnected", idle.device, name)
            # An attempt that is under way may have to end before the next has its turn.
            not_before_s = now_s + self._limits.idle_s + self._limits.connect_timeout_s
            self._table.backoff(idle.address).not_before_s = not_before_s
            idle.gone.set()
        elif self._table.full and not self._full_logged:
            self._full_logged = True
            log.warning(
                "%d connections, all in use: no room for %s", len(self._links), name
            )
        return idle is not None

    # ---- One connection ----

    async def _serve(self, link: Link) -> None:
        """One connection, from its start to the last value handed on."""
        try:
            try:
                await self._stay_connected(link)
            except RADIO_ERRORS as error:
                _stop_if_cancelled()
                if not link.reached:
                    now_s = asyncio.get_running_loop().time()
                    _tell_bound(self._table.bound_by(link.address, error, now_s))
                text = explain(error).replace(link.address, "its address")
                log.warning("%s: %s", link.device, text)
            finally:
                await self._close(link)
            await self._hand_on_all(link)
        finally:
            if link.waiting:  # the program is ending while the intake is full
                self._lose(link, len(link.waiting))
            self._links.pop(link.address, None)

    async def _stay_connected(self, link: Link) -> None:
        await self._connect(link)
        link.connected = True
        log.info("%s is connected", link.device)  # no address: it may be a person's
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(self._carry(link), name=f"carry-{link.address}"),
                group.create_task(self._ask(link), name=f"ask-{link.address}"),
            ]
            await link.gone.wait()
            for task in tasks:
                task.cancel()
        log.info("%s has disconnected", link.device)

    async def _connect(self, link: Link) -> None:
        limits = self._limits
        async with self._connecting:
            if link.address not in self._seen:
                raise BleakError("is to be found anew")
            device, seen_s = self._seen[link.address]
            if asyncio.get_running_loop().time() - seen_s > limits.fresh_s:
                raise BleakError("is no longer advertising")
            link.client = BleakClient(
                device,
                disconnected_callback=lambda _: link.gone.set(),
                timeout=limits.connect_timeout_s,
                backend=self._client_backend,
            )
            attempt = asyncio.create_task(self._attempt(link, link.client))
            try:
                await asyncio.wait({attempt}, timeout=limits.exclusive_s)
            except asyncio.CancelledError:
                attempt.cancel()
                await asyncio.gather(attempt, return_exceptions=True)
                raise
        # The next may begin: what takes longer is a device that hangs, not the radio.
        try:
            await attempt
        finally:
            attempt.cancel()

    async def _attempt(self, link: Link, client: BleakClient) -> None:
        async with asyncio.timeout(self._limits.connect_timeout_s):
            await client.connect()
        link.reached = True
        now_s = asyncio.get_running_loop().time()
        _tell_bound(self._table.reached(link.address, now_s))
        async with asyncio.timeout(self._limits.subscribe_timeout_s):
            await self._look_up_bond(link)
            await self._subscribe(link)
            if not link.bonded:  # a subscription may have made the device pair
                await self._look_up_bond(link)

    async def _look_up_bond(self, link: Link) -> None:
        """Whether it is bonded, for its records; not knowing is no reason to part."""
        if self._is_bonded is None:
            return
        try:
            link.bonded = await self._is_bonded(link.address)
        except RADIO_ERRORS as error:
            _stop_if_cancelled()
            log.info("%s: its bond is not known: %s", link.device, explain(error))

    async def _subscribe(self, link: Link) -> None:
        """Subscribe to all that has a profile; BleakError if nothing can be."""
        assert link.client is not None  # noqa: S101 - _connect has made it
        problems: list[str] = []
        found = accesses_of(link, self._limits)
        link.accesses = [access for access, _ in found]
        streams = wanted_streams(link)
        wanted = {point.handle: access.answered for access, point in found}
        for characteristic in list(link.client.services.characteristics.values()):
            stream = short(characteristic.uuid)
            offers = {"notify", "indicate"}.intersection(characteristic.properties)
            if characteristic.handle in wanted:
                receive = _passed_on(wanted[characteristic.handle])
            elif stream in streams:
                receive = _passed_on(self._receiver(link, stream))
            else:
                continue
            if not offers:
                continue
            try:
                await link.client.start_notify(characteristic, receive)
            except BleakError as error:  # one may need a bond and another not
                problems.append(f"{stream}: {explain(error)}")
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

    async def _unsubscribe(self, link: Link) -> None:
        assert link.client is not None  # noqa: S101 - it was subscribed
        while link.subscribed:
            await link.client.stop_notify(link.subscribed.pop())

    async def _ask(self, link: Link) -> None:
        """Its clock and its stored records; what fails is tried at the next connect."""
        link.busy = True
        try:
            await read_and_set_clock(link, self._take, self._now, self._limits)
            await read_session_start(link, self._take, self._limits)
            for access in link.accesses:
                key = link.address, access.measurement
                newest = await drain(link, access, self._fetched.get(key), self._limits)
                if newest is not None:
                    self._fetched[key] = newest
        except RADIO_ERRORS as error:
            _stop_if_cancelled()
            log.warning("%s: stored records: %s", link.device, explain(error))
        finally:
            link.busy = False
            link.heard_s = asyncio.get_running_loop().time()

    # ---- Values ----

    def _receiver(self, link: Link, stream: str) -> Callable[[bytes], None]:
        def receive(value: bytes) -> None:
            if stream == fragments.ENVELOPE_UUID:
                signed = envelope_of(link, value)
                if signed is not None:
                    self._hand_on(link, signed)
            elif stream == ecg.SAMPLES_UUID:
                for part in self._ecg(link.address).take(link, value):
                    self._hand_on(link, part)
            elif stream == continuous_glucose.MEASUREMENT_UUID:
                for record in continuous_glucose.records_of(value):
                    self._take(link, stream, record)
            else:
                self._take(link, stream, value)

        return receive

    def _ecg(self, address: str) -> EcgStream:
        """The ECG of a device, across its connections."""
        if address not in self._ecgs:
            self._ecgs[address] = EcgStream(self._tell_gap)
        return self._ecgs[address]

    def _tell_gap(self, words: str) -> None:
        log.error("%s", words)
        self._alarm(GAP_RULE, "start", words)
        self._alarm(GAP_RULE, "end", words)

    def _take(self, link: Link, stream: str, octets: bytes) -> None:
        """A value from the radio; on the event loop, so it must not wait."""
        value = Value(stream, octets)
        access = _fetching(link, stream)
        if access is not None:
            value.stored = True
            value.settle = access.took(stream, octets)
        if stream not in READ_BY_US:
            value.backlog = is_old(link, stream, octets, self._now, stored=value.stored)
        self._hand_on(link, value)

    def _hand_on(self, link: Link, value: Value) -> None:
        if link.received_count == 0:
            self._table.backoff(link.address).failures = 0  # it works: forget the past
        link.received_count += 1
        link.heard_s = asyncio.get_running_loop().time()
        if not link.waiting and not self._door.congested:
            self._submit(link, value)
        elif len(link.waiting) < self._limits.waiting_max(value):
            link.waiting.append(value)
            link.has_waiting.set()
        elif not value.stored:  # the device keeps a stored one, and sends it again
            self._lose(link, 1)

    def _lose(self, link: Link, count: int) -> None:
        if link.lost_count == 0:
            log.error("%s: the intake is full, values are being lost", link.device)
            self._alarm(GAP_RULE, "start", f"{link.device}: values are being lost")
        link.lost_count += count
        self._lost_count += count

    def _submit(self, link: Link, value: Value) -> None:
        def settle(outcome: Outcome) -> None:
            if outcome.verdict is Verdict.REFUSED:
                log.warning(
                    "%s/%s is refused: %s (%s)",
                    link.device,
                    value.stream,
                    outcome.reason,
                    outcome.detail,
                )
            if value.settle is not None:
                value.settle(outcome)

        self._door.submit(
            Arrival(
                source=Source.BLE,
                principal=f"ble:{link.address}",
                device=link.device,
                stream=value.stream,
                payload=value.octets,
                settle=settle,
                redelivered=value.stored,
                backlog=value.backlog,
                link="ble-bonded" if link.bonded else "ble",
                address=link.address_octets,
            )
        )

    async def _carry(self, link: Link) -> None:
        """Empties the line of waiting values, and unsubscribes if that takes long."""
        while True:
            await link.has_waiting.wait()
            try:
                async with asyncio.timeout(self._limits.grace_s):
                    await self._hand_on_all(link)
                continue
            except TimeoutError:
                if link.busy:  # what it sends we asked for: it waits for our answer
                    await self._hand_on_all(link)
                    continue
                log.warning("%s: unsubscribed, the intake is full", link.device)
            try:
                await self._unsubscribe(link)
                await self._hand_on_all(link)
                async with asyncio.timeout(self._limits.subscribe_timeout_s):
                    await self._subscribe(link)
            except RADIO_ERRORS as error:
                log.warning("%s: %s", link.device, explain(error))
                link.gone.set()
                return

    async def _hand_on_all(self, link: Link) -> None:
        """Submit what waits, in order, as fast as the intake takes it."""
        while link.waiting:
            if self._door.congested:
                await self._door.relieved()
                continue
            self._submit(link, link.waiting.popleft())
        link.has_waiting.clear()
        if link.lost_count:
            words = f"{link.device}: {link.lost_count} values were lost"
            log.error("%s", words)
            self._alarm(GAP_RULE, "end", words)
            link.lost_count = 0

    # ---- The end of a connection ----

    async def _close(self, link: Link) -> None:
        """Free the connection and say when the next one may begin."""
        link.connected = False
        link.subscribed.clear()
        for answer in link.answers:
            answer.cancel()
        backoff = self._table.backoff(link.address)
        delay_s = (
            next_delay_s(backoff, self._limits) if link.received_count == 0 else 0.0
        )
        now_s = asyncio.get_running_loop().time()
        backoff.not_before_s = max(backoff.not_before_s, now_s + delay_s)
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
            log.debug("%s: at the end: %s", what, explain(error))


def _tell_bound(count: int | None) -> None:
    if count is not None:
        log.warning("the adapter holds no more than %d connections", count)


def _fetching(link: Link, stream: str) -> RecordAccess | None:
    """The fetch that a value belongs to, if there is one."""
    for access in link.accesses:
        if access.fetching and stream in access.streams:
            return access
    return None


def _passed_on(
    receive: Callable[[bytes], None],
) -> Callable[[BleakGATTCharacteristic, bytearray], None]:
    return lambda _, value: receive(bytes(value))


def _stop_if_cancelled() -> None:
    """A library may answer our cancellation with an error of its own."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError
