"""BleSource on virtual Bluetooth devices, through HCI on loopback TCP as in the demo.

Everything above bleak's public interface is what runs on a Pi; below it, our Bumble
backend talks to a Bumble controller whose radio link the test owns.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from typing import Any, ClassVar

import pytest
from ble_fakes import (
    FAST,
    INDICATE,
    OXIMETER,
    READ,
    STRANGER,
    STRAP,
    Intake,
    Radio,
    pushing,
    running,
    until,
    virtual_radio,
)
from bleak.backends.characteristic import BleakGATTCharacteristic
from bleak.backends.client import BaseBleakClient
from bleak.backends.device import BLEDevice
from bleak.backends.scanner import AdvertisementData, BaseBleakScanner
from bleak.backends.service import BleakGATTService, BleakGATTServiceCollection
from bleak.exc import BleakError
from bleak.uuids import normalize_uuid_str

from edge.errors import Reason
from edge.model import Outcome, Source, Verdict
from edge.sources.ble import BleSource, Limits


@pytest.fixture
async def radio() -> AsyncIterator[Radio]:
    async with virtual_radio() as made:
        yield made


async def test_values_arrive_as_they_were_sent_from_every_known_characteristic(
    radio: Radio,
) -> None:
    """Notified and indicated, two devices at once, with addresses in either case."""
    strap = await radio.strap()
    oximeter = await radio.peripheral(
        OXIMETER,
        {0x1822: [pushing(0x2A5F), pushing(0x2A5E, INDICATE), pushing(0x2A60, READ)]},
    )
    intake = Intake()
    enrolled = {STRAP.lower(): "bed-7-heart", OXIMETER: "bed-8-finger"}
    async with running(radio, intake, enrolled) as source:
        await until(
            lambda: source.connected == frozenset({STRAP, OXIMETER}), "both connected"
        )
        await strap.send("2a37", "164800040004")
        await strap.send("2a19", "5e")
        await oximeter.send("2a5f", "0061004800")
        await oximeter.send("2a5e", "0062004900")
        await until(lambda: len(intake.arrivals) == 4, "four values")
    said = {(a.device, a.stream, a.payload.hex(), a.principal) for a in intake.arrivals}
    assert said == {
        ("bed-7-heart", "2a37", "164800040004", f"ble:{STRAP}"),
        ("bed-7-heart", "2a19", "5e", f"ble:{STRAP}"),
        ("bed-8-finger", "2a5f", "0061004800", f"ble:{OXIMETER}"),
        ("bed-8-finger", "2a5e", "0062004900", f"ble:{OXIMETER}"),
    }
    assert {(a.source, a.link, a.user, a.refusal) for a in intake.arrivals} == {
        (Source.BLE, "ble", None, None)
    }
    await until(lambda: not strap.device.connections, "the strap is free again")


async def test_a_device_that_disconnects_and_advertises_again_goes_on(
    radio: Radio,
) -> None:
    strap = await radio.strap()
    intake = Intake()
    async with running(radio, intake, {STRAP: "strap"}) as source:
        for value in ("0041", "0042", "0043"):
            await until(lambda: source.connected == {STRAP}, "connected")
            await strap.send("2a37", value)
            await until(partial(intake.has, value), f"{value} arrived")
            await strap.hang_up()
            await until(lambda: not source.connected, "the loss is noticed")
    assert intake.payloads() == ["0041", "0042", "0043"]


async def test_nobody_connects_to_a_device_that_is_not_enrolled(radio: Radio) -> None:
    """It may be a stranger's; and one that is revoked is let go at once."""
    strap = await radio.strap()
    stranger = await radio.strap(STRANGER)
    connections: list[object] = []
    stranger.device.on("connection", connections.append)
    enrolled = {STRAP: "strap"}
    async with running(radio, Intake(), enrolled) as source:
        await until(lambda: source.connected == {STRAP}, "connected")
        await asyncio.sleep(0.2)  # ten of the stranger's advertisements
        assert connections == []
        del enrolled[STRAP]
        await until(lambda: not strap.device.connections, "the revoked one is let go")
        await asyncio.sleep(0.1)
        assert source.connected == frozenset()
        enrolled[STRANGER] = "known-now"
        await until(lambda: source.connected == {STRANGER}, "the new one is served")


async def test_a_short_jam_of_the_intake_costs_no_value_and_no_order(
    radio: Radio,
) -> None:
    strap = await radio.strap()
    intake = Intake()
    async with running(radio, intake, {STRAP: "strap"}) as source:
        await until(lambda: source.connected == {STRAP}, "connected")
        sent = [f"00{40 + i:02x}" for i in range(9)]
        await strap.send("2a37", sent[0])
        await until(lambda: len(intake.arrivals) == 1, "the first value")
        intake.fill()
        for value in sent[1:8]:
            await strap.send("2a37", value)
        await asyncio.sleep(0.05)
        assert intake.payloads() == sent[:1]
        intake.empty()
        await strap.send("2a37", sent[8])
        await until(lambda: len(intake.arrivals) == 9, "all of them")
        assert strap.subscribed("2a37")
        assert source.lost_count == 0
    assert intake.payloads() == sent


async def test_a_long_jam_unsubscribes_the_device_until_there_is_room(
    radio: Radio, caplog: pytest.LogCaptureFixture
) -> None:
    """A device that keeps its readings while nobody listens loses none this way."""
    strap = await radio.strap()
    intake = Intake()
    with caplog.at_level(logging.INFO, "edge.ble"):
        async with running(radio, intake, {STRAP: "strap"}) as source:
            await until(lambda: strap.subscribed("2a37"), "subscribed")
            intake.fill()
            await strap.send("2a37", "0041")
            await until(lambda: not strap.subscribed("2a37"), "pushed back")
            assert strap.device.connections, "still connected"
            assert intake.arrivals == []
            intake.empty()
            await until(lambda: strap.subscribed("2a37"), "subscribed again")
            await strap.send("2a37", "0042")
            await until(lambda: len(intake.arrivals) == 2, "both values")
            assert source.lost_count == 0
    assert intake.payloads() == ["0041", "0042"]
    assert "strap: unsubscribed, the intake is full" in caplog.messages


async def test_values_beyond_the_bound_are_counted_and_logged_not_silent(
    radio: Radio, caplog: pytest.LogCaptureFixture
) -> None:
    strap = await radio.strap()
    intake = Intake()
    async with running(radio, intake, {STRAP: "strap"}) as source:
        await until(lambda: strap.subscribed("2a37"), "subscribed")
        intake.fill()
        for i in range(11):  # three more than may wait
            await strap.send("2a37", f"00{i:02x}")
        await until(lambda: source.lost_count == 3, "three are counted")
        intake.empty()
        await until(lambda: len(intake.arrivals) == 8, "the others")
        await until(lambda: "strap: 3 values were lost" in caplog.messages, "logged")
    assert intake.payloads() == [f"00{i:02x}" for i in range(8)]


async def test_a_device_that_leaves_during_a_jam_leaves_its_values_behind(
    radio: Radio,
) -> None:
    strap = await radio.strap()
    intake = Intake()
    async with running(radio, intake, {STRAP: "strap"}) as source:
        await until(lambda: strap.subscribed("2a37"), "subscribed")
        intake.fill()
        await strap.send("2a37", "0041")
        await asyncio.sleep(0.02)
        await strap.hang_up()
        await until(lambda: not source.connected, "the loss is noticed")
        intake.empty()
        await until(lambda: intake.payloads() == ["0041"], "the value")
        await until(lambda: source.connected == {STRAP}, "and served again")


async def test_values_that_still_wait_at_the_end_are_counted_as_lost(
    radio: Radio, caplog: pytest.LogCaptureFixture
) -> None:
    strap = await radio.strap()
    intake = Intake()
    async with running(radio, intake, {STRAP: "strap"}) as source:
        await until(lambda: strap.subscribed("2a37"), "subscribed")
        intake.fill()
        await strap.send("2a37", "0041")
        await asyncio.sleep(0.02)
    assert source.lost_count == 1
    assert "strap: the intake is full, values are being lost" in caplog.messages


async def test_a_refused_value_is_logged_with_its_reason(
    radio: Radio, caplog: pytest.LogCaptureFixture
) -> None:
    strap = await radio.strap()
    intake = Intake()
    intake.outcome = Outcome(Verdict.REFUSED, Reason.MALFORMED, "ends before flags")
    async with running(radio, intake, {STRAP: "strap"}):
        await until(lambda: strap.subscribed("2a37"), "subscribed")
        await strap.send("2a37", "")
        await until(
            lambda: (
                "strap/2a37 is refused: malformed (ends before flags)"
                in caplog.messages
            ),
            "the refusal is logged",
        )


async def test_a_device_that_offers_nothing_known_is_left_alone_for_longer_each_time(
    radio: Radio, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(random, "uniform", max)  # the bound itself, no jitter below it
    lamp = await radio.peripheral(STRAP, {0x1815: [pushing(0x2A56)]})
    times: list[float] = []
    lamp.device.on("connection", lambda _: times.append(time.monotonic()))
    limits = Limits(backoff_first_s=30, check_s=0.05)
    async with running(radio, Intake(), {STRAP: "lamp"}, limits) as source:
        await until(lambda: bool(times), "one try")
        await until(lambda: not lamp.device.connections, "disconnected")
        await asyncio.sleep(0.2)
        assert source.connected == frozenset()
    assert "lamp: offers no characteristic that we know" in caplog.messages
    assert len(times) == 1


class FlakyScanner(BaseBleakScanner):
    """An adapter that is missing at first, as after a reset of the dongle."""

    starts = 0

    def __init__(self, callback: object, uuids: object, *_: object, **__: object):
        super().__init__(callback, uuids)  # type: ignore[arg-type]

    async def start(self) -> None:
        type(self).starts += 1
        if self.starts < 3:
            raise BleakError("no powered Bluetooth adapters")

    async def stop(self) -> None:
        pass


@pytest.fixture
def flaky() -> Iterator[type[FlakyScanner]]:
    yield FlakyScanner
    FlakyScanner.starts = 0


async def test_an_adapter_error_is_logged_in_words_and_tried_again(
    flaky: type[FlakyScanner], caplog: pytest.LogCaptureFixture
) -> None:
    source = BleSource(Intake(), dict, scanner_backend=flaky, limits=FAST)
    task = asyncio.create_task(source.run())
    await until(lambda: flaky.starts == 3, "three starts")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    failures = [m for m in caplog.messages if "the adapter fails" in m]
    assert len(failures) == 2
    assert all("no powered Bluetooth adapters" in message for message in failures)


async def test_a_silent_adapter_is_started_anew(flaky: type[FlakyScanner]) -> None:
    """Adapters stop reporting after hours or days without any error."""
    limits = Limits(silence_s=0.05, check_s=0.01, backoff_first_s=0.01)
    source = BleSource(Intake(), dict, scanner_backend=flaky, limits=limits)
    task = asyncio.create_task(source.run())
    await until(lambda: flaky.starts >= 6, "several starts")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


class CrowdScanner(FlakyScanner):
    """Six devices that advertise all the time, as BlueZ would report them."""

    addresses = tuple(f"F2:00:00:00:00:0{i}" for i in range(6))

    async def start(self) -> None:
        self.task = asyncio.create_task(self.advertise())

    async def advertise(self) -> None:
        said = AdvertisementData("crowd", {}, {}, [], None, -50, ())
        while True:
            for address in self.addresses:
                device = BLEDevice(address, "crowd", {})
                self.call_detection_callbacks(device, said)
            await asyncio.sleep(0.01)

    async def stop(self) -> None:
        self.task.cancel()


class CrowdClient(BaseBleakClient):
    """Connects slowly, and fails when asked to, or at two attempts at once."""

    attempts: ClassVar[list[str]] = []
    notify: ClassVar[dict[str, Callable[[bytearray], None]]] = {}
    pending_count = 0
    broken: ClassVar[set[str]] = set()
    up = False
    mtu_size = 23
    name = "crowd"

    def __init__(self, device: BLEDevice, **options: Any) -> None:
        callback = options["disconnected_callback"]
        super().__init__(device, disconnected_callback=callback, timeout=1)

    @property
    def is_connected(self) -> bool:
        return self.up

    async def connect(self, pair: bool, **_: Any) -> None:
        assert not pair
        kind = type(self)
        kind.attempts.append(self.address)
        kind.pending_count += 1
        assert kind.pending_count == 1, "two attempts at once"
        try:
            await asyncio.sleep(0.01)
        finally:
            kind.pending_count -= 1
        if self.address in kind.broken:
            raise BleakError("org.bluez.Error.Failed: le-connection-abort-by-local")
        self.up = True
        self.services = BleakGATTServiceCollection()
        service = BleakGATTService(None, 1, normalize_uuid_str("180d"))
        self.services.add_service(service)
        for handle, uuid in ((2, "2a37"), (4, "2a38")):
            self.services.add_characteristic(
                BleakGATTCharacteristic(
                    None,
                    handle,
                    normalize_uuid_str(uuid),
                    ["notify"],
                    lambda: 20,
                    service,
                )
            )

    async def disconnect(self) -> None:
        self.up = False

    async def start_notify(
        self,
        characteristic: BleakGATTCharacteristic,
        callback: Callable[[bytearray], None],
        **_: Any,
    ) -> None:
        assert characteristic.uuid[4:8] == "2a37", "no profile for the other"
        callback(bytearray(b"\x00\x48"))
        self.notify[self.address] = callback

    async def stop_notify(self, characteristic: BleakGATTCharacteristic) -> None:
        raise NotImplementedError

    pair = unpair = stop_notify  # type: ignore[assignment]
    read_gatt_char = read_gatt_descriptor = stop_notify  # type: ignore[assignment]
    write_gatt_char = write_gatt_descriptor = stop_notify  # type: ignore[assignment]


@contextlib.asynccontextmanager
async def crowd(
    limits: Limits, broken: set[str], intake: Intake | None = None
) -> AsyncIterator[BleSource]:
    CrowdClient.attempts = []
    CrowdClient.broken = broken
    source = BleSource(
        intake or Intake(),
        lambda: {address: f"bed-{address[-1]}" for address in CrowdScanner.addresses},
        scanner_backend=CrowdScanner,
        client_backend=CrowdClient,
        limits=limits,
    )
    task = asyncio.create_task(source.run())
    yield source
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


async def test_connecting_is_one_at_a_time_and_bounded_in_number(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Adapters answer InProgress at two, and have four to seven slots."""
    async with crowd(Limits(connections_max=4), set()) as source:
        await until(lambda: len(source.connected) == 4, "four connections")
        await asyncio.sleep(0.1)
        assert len(source.connected) == 4
        assert len(CrowdClient.attempts) == 4
    assert sum("4 connections, all in use" in m for m in caplog.messages) == 1


async def test_a_device_that_fails_is_tried_again_and_holds_up_nobody(
    caplog: pytest.LogCaptureFixture,
) -> None:
    bad = CrowdScanner.addresses[0]
    async with crowd(FAST, {bad}) as source:
        await until(lambda: len(source.connected) == 5, "the five others")
        await until(lambda: CrowdClient.attempts.count(bad) >= 3, "three tries")
        CrowdClient.broken.clear()
        await until(lambda: len(source.connected) == 6, "all six")
    words = (
        "BlueZ gave up: too far, busy or a full table "
        "(org.bluez.Error.Failed: le-connection-abort-by-local)"
    )
    assert f"bed-0: {words}" in caplog.messages


async def test_a_value_does_not_overtake_those_that_still_wait() -> None:
    """There is room again, and the next value comes before the line has moved."""
    intake = Intake()
    address = CrowdScanner.addresses[0]
    async with crowd(Limits(connections_max=1), set(), intake) as source:
        await until(lambda: source.connected == {address}, "connected")
        intake.fill()
        for value in (b"\x00\x50", b"\x00\x51"):
            CrowdClient.notify[address](bytearray(value))
        intake.empty()
        CrowdClient.notify[address](bytearray(b"\x00\x52"))
        await until(lambda: len(intake.arrivals) == 4, "all of them")
    assert intake.payloads() == ["0048", "0050", "0051", "0052"]
