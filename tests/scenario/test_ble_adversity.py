"""The BLE source under bad luck: hang-ups at any step, hangs, silence, full tables."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
from collections.abc import AsyncIterator, Iterator
from typing import Any, ClassVar

import pytest
from ble_fakes import FAST, STRAP, Intake, Radio, running, until, virtual_radio
from bleak.backends.characteristic import BleakGATTCharacteristic
from bleak.backends.client import BaseBleakClient
from bleak.backends.device import BLEDevice
from bleak.backends.scanner import AdvertisementData, BaseBleakScanner
from bleak.backends.service import BleakGATTService, BleakGATTServiceCollection
from bleak.exc import BleakError
from bleak.uuids import normalize_uuid_str

from edge.sources.ble import BleSource, Limits
from edge.sources.ble_link import Link
from edge.sources.ble_table import Table
from edge.sources.ble_words import ADAPTER_FULL, explain


@pytest.fixture
async def radio() -> AsyncIterator[Radio]:
    async with virtual_radio() as made:
        yield made


@pytest.mark.parametrize("step", [1, 2, 3, 5, 8, 11, 14, 17])
async def test_a_device_that_hangs_up_at_any_step_is_served_in_the_end(
    radio: Radio, step: int
) -> None:
    """At the n-th request: MTU, discovery of services, descriptors, subscriptions."""
    strap = await radio.strap()
    server: Any = strap.device.gatt_server
    handle, heard = server.on_gatt_pdu, 0

    def count(connection: Any, pdu: Any) -> Any:
        nonlocal heard
        heard += 1
        if heard == step:
            task = asyncio.get_running_loop().create_task(connection.disconnect())
            tasks.append(task)
            return None
        return handle(connection, pdu)

    tasks: list[asyncio.Task[Any]] = []
    server.on_gatt_pdu = count
    intake = Intake()
    async with running(radio, intake, {STRAP: "strap"}) as source:
        await until(lambda: heard > step, "it came back", 10)
        await until(lambda: source.connected == {STRAP}, "connected", 10)
        await until(lambda: strap.subscribed("2a37"), "subscribed")
        await strap.send("2a37", "0048")
        await until(lambda: intake.payloads() == ["0048"], "the value")


async def test_values_of_a_hang_up_in_the_middle_are_neither_lost_nor_doubled(
    radio: Radio,
) -> None:
    strap = await radio.strap()
    intake = Intake()
    sent = []
    async with running(radio, intake, {STRAP: "strap"}) as source:
        for turn in range(5):
            await until(lambda: source.connected == {STRAP}, "connected")
            for place in range(8):
                sent.append(f"00{turn * 8 + place:02x}")
                await strap.send("2a37", sent[-1])
            await until(lambda: len(intake.arrivals) == len(sent), "all of them")
            await strap.hang_up()
            await until(lambda: not source.connected, "the loss is noticed")
    assert intake.payloads() == sent


class Air(BaseBleakScanner):
    """Reports the devices in `near` all the time, or is silent, or fails."""

    near: ClassVar[list[str]] = []
    error: ClassVar[BaseException | None] = None
    starts = 0

    def __init__(self, callback: Any, uuids: Any, *_: Any, **__: Any) -> None:
        super().__init__(callback, uuids)

    async def start(self) -> None:
        type(self).starts += 1
        if self.error is not None:
            raise self.error
        self.task = asyncio.create_task(self.advertise())

    async def advertise(self) -> None:
        said = AdvertisementData("x", {}, {}, [], None, -50, ())
        while True:
            for address in self.near:
                self.call_detection_callbacks(BLEDevice(address, "x", {}), said)
            await asyncio.sleep(0.01)

    async def stop(self) -> None:
        if self.error is None:
            self.task.cancel()


class Peer(BaseBleakClient):
    """Connects at once, but hangs where the address is in `hanging`.

    `slots` is what the adapter holds, where that is less than we think, and `silent`
    whether it says so; `refusals` are the errors of the next attempts.
    """

    hanging: ClassVar[set[str]] = set()
    turns: ClassVar[list[str]] = []
    slots: ClassVar[int] = 99
    silent = False
    held: ClassVar[set[str]] = set()
    refusals: ClassVar[list[str]] = []
    up = False
    mtu_size = 23
    name = "x"

    def __init__(self, device: BLEDevice, **options: Any) -> None:
        gone = options["disconnected_callback"]
        super().__init__(device, disconnected_callback=gone, timeout=1)

    @property
    def is_connected(self) -> bool:
        return self.up

    async def connect(self, pair: bool, **_: Any) -> None:
        assert not pair
        if self.address in self.hanging:
            await asyncio.sleep(3600)
        if self.refusals:
            raise BleakError(self.refusals.pop())
        if len(self.held) >= self.slots:
            if self.silent:
                await asyncio.sleep(3600)
            words = "le-connection-concurrent-connection-limit"
            raise BleakError(f"[org.bluez.Error.Failed] {words}")
        self.turns.append(self.address)
        self.held.add(self.address)
        self.up = True
        self.services = BleakGATTServiceCollection()
        service = BleakGATTService(None, 1, normalize_uuid_str("180d"))
        self.services.add_service(service)
        uuid = normalize_uuid_str("2a37")
        self.services.add_characteristic(
            BleakGATTCharacteristic(None, 2, uuid, ["notify"], lambda: 20, service)
        )

    async def disconnect(self) -> None:
        self.up = False
        self.held.discard(self.address)

    async def start_notify(self, *_: Any, **__: Any) -> None:
        pass

    async def stop_notify(self, *_: Any) -> None:
        raise AssertionError("the source asks these peers for nothing else")

    pair = unpair = stop_notify
    read_gatt_char = read_gatt_descriptor = stop_notify  # type: ignore[assignment]
    write_gatt_char = write_gatt_descriptor = stop_notify  # type: ignore[assignment]


@contextlib.asynccontextmanager
async def source_of(
    addresses: list[str], limits: Limits, **more: Any
) -> AsyncIterator[BleSource]:
    Air.near, Air.error, Air.starts = addresses, None, 0
    Peer.hanging, Peer.turns, Peer.held, Peer.slots = set(), [], set(), 99
    source = BleSource(
        Intake(),
        lambda: {address: f"bed-{address[-1]}" for address in addresses},
        scanner_backend=Air,
        client_backend=Peer,
        limits=limits,
        **more,
    )
    task = asyncio.create_task(source.run())
    await asyncio.sleep(0)
    yield source
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


def addresses(count: int) -> list[str]:
    return [f"F3:00:00:00:00:{i:02X}" for i in range(count)]


async def test_a_device_that_hangs_in_discovery_holds_the_others_up_for_a_moment() -> (
    None
):
    """And its own try ends too."""
    limits = dataclasses.replace(FAST, exclusive_s=0.1, connect_timeout_s=0.5)
    devices = addresses(4)
    async with source_of(devices, limits) as source:
        Peer.hanging.add(devices[0])
        await until(lambda: len(source.connected) == 3, "the three others", 3)
        Peer.hanging.clear()
        await until(lambda: len(source.connected) == 4, "and it, in the end", 5)


async def test_twenty_devices_share_seven_connections_by_turns() -> None:
    """One that is idle makes room; each has had a turn, and never more than seven."""
    limits = dataclasses.replace(FAST, connections_max=7, idle_s=0.05)
    devices = addresses(20)
    async with source_of(devices, limits) as source:

        def all_had_a_turn() -> bool:
            assert len(source.connected) <= 7
            return set(Peer.turns) == set(devices)

        await until(all_had_a_turn, "twenty turns", 10)


@pytest.fixture
def silent() -> Iterator[None]:
    Peer.silent = True
    yield
    Peer.silent = False


@pytest.mark.usefixtures("silent")
async def test_an_adapter_that_holds_fewer_and_does_not_say_so_is_found_out(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """As Linux 6.12 on a virtual adapter: the third connection is awaited for ever."""
    limits = dataclasses.replace(
        FAST, connections_max=7, idle_s=0.05, connect_timeout_s=0.1, exclusive_s=0.05
    )
    devices = addresses(5)
    async with source_of(devices, limits):
        Peer.slots = 2
        await until(lambda: set(Peer.turns) == set(devices), "five turns", 20)
    assert "the adapter holds no more than 2 connections" in caplog.messages


def test_a_bound_is_believed_for_five_minutes_and_one_of_one_never() -> None:
    table = Table(Limits(connections_max=7, bound_s=300))
    refused = BleakError(f"[org.bluez.Error.Failed] {ADAPTER_FULL}")
    table.links["A"] = Link("A", "bed-1", reached=True)
    assert table.bound_by("C", refused, 100) is None
    table.links["B"] = Link("B", "bed-2", reached=True)
    assert table.bound_by("C", refused, 100) == 2
    assert table.bound_by("C", refused, 100) is None, "no news"
    assert not table.is_next("C", 399)
    assert table.is_next("C", 401)


def test_room_is_made_for_a_device_ever_more_rarely() -> None:
    """Never again would starve it where the first room went to somebody else."""
    table, silent, made = Table(Limits()), TimeoutError(), []
    for failures in range(1, 40):
        table.bound_by("A", silent, failures)
        if table.needs_room("A"):
            table.note_room("A")
            made.append(failures)
    assert made == [2, 4, 8, 16, 32]
    table.reached("A", 100)
    assert not table.needs_room("A")


async def test_a_device_that_cannot_be_reached_costs_another_its_place_rarely() -> None:
    limits = dataclasses.replace(
        FAST, idle_s=0.05, connect_timeout_s=0.02, exclusive_s=0.01
    )
    devices = addresses(3)
    async with source_of(devices, limits) as source:
        Peer.hanging.add(devices[2])
        await until(lambda: len(Peer.turns) >= 3, "one came twice", 10)
        await asyncio.sleep(0.5)  # many more tries
        assert len(Peer.turns) <= 6
        await until(lambda: len(source.connected) == 2, "it came back", 10)


async def test_an_adapter_that_holds_fewer_than_we_thought_is_shared_all_the_same(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It has three connections where we count on seven, and says so by refusing."""
    limits = dataclasses.replace(FAST, connections_max=7, idle_s=0.05)
    devices = addresses(8)
    async with source_of(devices, limits):
        Peer.slots = 3
        await until(lambda: set(Peer.turns) == set(devices), "eight turns", 10)
    assert "the adapter holds no more than 3 connections" in caplog.messages
    refused = [m for m in caplog.messages if "holds no more connections (" in m]
    assert 1 <= len(refused) <= 4  # those on their way: nobody is sent after them


@pytest.mark.parametrize(
    "error",
    [
        "[org.bluez.Error.InProgress] Operation already in progress",
        "[org.bluez.Error.Failed] le-connection-abort-by-local",
        "[org.freedesktop.DBus.Error.NoReply] Did not receive a reply",
        "[org.freedesktop.DBus.Error.UnknownObject] Method does not exist",
    ],
)
async def test_a_connection_that_bluez_refuses_is_tried_again_and_told_in_words(
    error: str, caplog: pytest.LogCaptureFixture
) -> None:
    devices = addresses(2)
    Peer.refusals = [error] * 5
    async with source_of(devices, FAST) as source:
        await until(lambda: len(source.connected) == 2, "both, in the end")
    told = [m for m in caplog.messages if error in m]
    assert len(told) == 5
    assert all(m != f"bed-{m[4]}: {error}" for m in told), "with what it means"


async def test_a_scanner_that_is_busy_is_tried_again_and_is_no_alarm_at_first() -> None:
    told: list[tuple[str, str, str]] = []
    async with source_of(
        addresses(1), FAST, alarm=lambda *event: told.append(event)
    ) as source:
        Air.error = BleakError("[org.bluez.Error.InProgress] Operation in progress")
        await until(lambda: Air.starts >= 2, "two starts")
        Air.error = None
        await until(lambda: len(source.connected) == 1, "served")
    assert told == []


async def test_devices_in_use_are_not_given_up_and_the_log_says_who_waits(
    caplog: pytest.LogCaptureFixture,
) -> None:
    limits = dataclasses.replace(FAST, connections_max=2, idle_s=30)
    async with source_of(addresses(3), limits) as source:
        await until(lambda: len(source.connected) == 2, "two")
        await asyncio.sleep(0.1)
        assert len(Peer.turns) == 2
    assert "2 connections, all in use: no room for bed-2" in caplog.messages


async def test_a_dead_adapter_is_an_alarm_until_it_works_again() -> None:
    told: list[tuple[str, str, str]] = []
    async with source_of([], FAST, alarm=lambda *event: told.append(event)):
        Air.error = BleakError("[org.bluez.Error.NotReady] Resource Not Ready")
        await until(lambda: Air.starts >= 5, "five starts")
        words = "[org.bluez.Error.NotReady] Resource Not Ready"
        off = f"the adapter is switched off ({words})"
        assert told == [("ble-adapter", "start", off)]
        Air.error = None
        await until(lambda: len(told) == 2, "the end")
    assert told[1] == ("ble-adapter", "end", "the adapter scans again")


async def test_an_adapter_that_stays_silent_is_switched_off_and_on() -> None:
    cycles = []

    async def power_cycle() -> None:
        cycles.append(Air.starts)

    limits = dataclasses.replace(FAST, silence_s=0.02, check_s=0.005, silences_max=3)
    async with source_of([], limits, power_cycle=power_cycle):
        await until(lambda: len(cycles) == 2, "twice")
    assert cycles == [3, 6]


async def test_lost_values_are_an_alarm_that_ends_with_their_number(
    radio: Radio,
) -> None:
    told: list[tuple[str, str, str]] = []
    strap = await radio.strap()
    intake = Intake()
    async with running(radio, intake, {STRAP: "strap"}) as source:
        source._alarm = lambda *event: told.append(event)
        await until(lambda: strap.subscribed("2a37"), "subscribed")
        intake.fill()
        for i in range(11):  # three more than may wait
            await strap.send("2a37", f"00{i:02x}")
        await until(lambda: source.lost_count == 3, "three are counted")
        intake.empty()
        await until(lambda: len(told) == 2, "told")
    assert told == [
        ("ble-gap", "start", "strap: values are being lost"),
        ("ble-gap", "end", "strap: 3 values were lost"),
    ]


@pytest.mark.parametrize(
    ("text", "meaning"),
    [
        ("[org.bluez.Error.InProgress] Operation already in progress", "BlueZ is busy"),
        ("[org.bluez.Error.NotReady] Resource Not Ready", "switched off"),
        (
            "[org.freedesktop.DBus.Error.ServiceUnknown] ...",
            "bluetoothd is not running",
        ),
        ("[org.bluez.Error.Failed] br-connection-canceled", "revoke it and add it"),
        ("No powered Bluetooth adapters found.", "no adapter is plugged in"),
        ("[org.bluez.Error.Failed] le-connection-abort-by-local", "BlueZ gave up"),
        ("GATT Protocol Error: Insufficient Authentication", "wants to be paired"),
    ],
)
def test_an_error_is_told_with_what_it_means(text: str, meaning: str) -> None:
    words = explain(BleakError(text))
    assert words.startswith(meaning) or meaning in words
    assert text in words


def test_a_machine_without_d_bus_says_so() -> None:
    """What dbus-fast raises there names no file."""
    assert explain(FileNotFoundError(2, "No such file or directory")).startswith(
        "D-Bus is not running"
    )


def test_an_error_without_words_has_its_name_and_an_unknown_one_its_own() -> None:
    assert explain(TimeoutError()) == "TimeoutError"
    assert explain(BleakError("something else")) == "something else"


async def test_a_device_with_a_new_address_is_a_stranger(
    radio: Radio, caplog: pytest.LogCaptureFixture
) -> None:
    """An address that changes (a private one, without a bond) is nobody's."""
    strap = await radio.strap()
    connections: list[object] = []
    intake = Intake()
    with caplog.at_level(logging.INFO, "edge.ble"):
        async with running(radio, intake, {STRAP: "strap"}) as source:
            await until(lambda: source.connected == {STRAP}, "connected")
            await strap.device.stop_advertising()
            await strap.hang_up()
            await until(lambda: not source.connected, "it has left")
            other = await radio.strap("F1:00:00:00:00:0A")
            other.device.on("connection", connections.append)
            await asyncio.sleep(0.3)
    assert connections == []


async def test_a_daemon_that_ends_without_a_word_ends_every_connection() -> None:
    """bleak does not say so: it goes on believing that the device is connected."""
    ends = asyncio.Event()

    async def lost() -> None:
        ends.clear()
        await ends.wait()

    devices = addresses(3)
    async with source_of(devices, FAST, stack_lost=lost) as source:
        await until(lambda: len(source.connected) == 3, "connected")
        starts, before = Air.starts, len(Peer.turns)
        ends.set()
        await until(lambda: len(Peer.turns) == before + 3, "connected anew")
        await until(lambda: len(source.connected) == 3, "all of them")
        assert Air.starts == starts + 1


async def test_where_no_daemon_runs_the_source_waits_for_one() -> None:
    tries: list[int] = []

    async def lost() -> None:
        tries.append(len(tries))
        raise BleakError("[org.freedesktop.DBus.Error.NameHasNoOwner] ...")

    async with source_of(addresses(1), FAST, stack_lost=lost) as source:
        await until(lambda: len(tries) > 3, "asked again")
        await until(lambda: len(source.connected) == 1, "and served what there is")


async def test_a_bond_that_nobody_can_tell_is_no_reason_to_part() -> None:
    asked = []

    async def is_bonded(address: str) -> bool:
        asked.append(address)
        raise BleakError("[org.freedesktop.DBus.Error.NoReply] ...")

    async with source_of(addresses(1), FAST, is_bonded=is_bonded) as source:
        await until(lambda: len(source.connected) == 1, "connected all the same")
    assert asked == addresses(1) * 2
