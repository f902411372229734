"""Broker mode against a real Mosquitto: killed under load, restarted, and we too.

The broker is Debian's (apt package mosquitto; skipped where it is not installed). It
keeps its state in a directory of the test's, written out after each change, so that a
kill of its process loses little of what it acknowledged (docs/mqtt.md has numbers).
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import socket
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from mqtt_fakes import TIMEOUT_S, FakeDoor, Peer, until
from processes import installed
from workbench import SignedDevice, a_ward, reader_of, trusted_clock

from edge.config import Settings
from edge.devices.envelope import sequence_of
from edge.errors import Reason
from edge.gateway import Core
from edge.model import Kind
from edge.sources.mqtt_broker import BrokerLogin, BrokerSource, Limits
from edge.sources.mqtt_packets import V5, Puback, Publish

MOSQUITTO = shutil.which("mosquitto") or shutil.which(
    "mosquitto", path="/usr/sbin:/usr/local/sbin"
)
pytestmark = pytest.mark.skipif(
    MOSQUITTO is None, reason="mosquitto (Debian package mosquitto) is not installed"
)
PERIOD_S = 0.01  # between two messages of the device
VITALS = "iomt/v1/monitor/vitals"
both_versions = pytest.mark.parametrize("v5", [True, False], ids=["5", "3.1.1"])


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert isinstance(port, int)
        return port


@dataclass
class Mosquitto:
    """A broker of the test's own."""

    directory: Path
    port: int = field(default_factory=free_port)
    process: asyncio.subprocess.Process | None = None

    @property
    def place(self) -> str:
        return f"127.0.0.1:{self.port}"

    async def start(self) -> None:
        self.directory.mkdir(exist_ok=True)
        path = self.directory / "mosquitto.conf"
        path.write_text(
            f"listener {self.port} 127.0.0.1\nallow_anonymous true\n"
            f"persistence true\npersistence_location {self.directory}/\n"
            "autosave_on_changes true\nautosave_interval 1\nuser root\n"
            "max_queued_messages 0\nmax_inflight_messages 200\nlog_dest none\n"
        )
        assert MOSQUITTO is not None
        self.process = await asyncio.create_subprocess_exec(MOSQUITTO, "-c", str(path))
        async with asyncio.timeout(TIMEOUT_S):
            while True:
                with contextlib.suppress(OSError):
                    _, writer = await asyncio.open_connection("127.0.0.1", self.port)
                    writer.close()
                    return
                await asyncio.sleep(0.02)

    async def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        await self.process.wait()

    async def close(self) -> None:
        if self.process is not None and self.process.returncode is None:
            await self.kill()


@contextlib.asynccontextmanager
async def a_broker(directory: Path) -> AsyncIterator[Mosquitto]:
    broker = Mosquitto(directory / "mosquitto")
    await broker.start()
    try:
        yield broker
    finally:
        await broker.close()


@contextlib.asynccontextmanager
async def served(
    door: object, broker: Mosquitto, limits: Limits | None = None, **login: object
) -> AsyncIterator[BrokerSource]:
    """A source that runs, with its first connection made."""
    settings = BrokerLogin("127.0.0.1", broker.port, **login)  # type: ignore[arg-type]
    # Short waits: what is tested is that it comes back, not how patiently.
    limits = limits or Limits(backoff_first_s=0.05, backoff_max_s=0.2)
    source = BrokerSource(door, settings, limits)  # type: ignore[arg-type]
    task = asyncio.create_task(source.run())
    try:
        await until(lambda: source.connected)
        await asyncio.sleep(0.1)  # its subscription
        yield source
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def publish(broker: Mosquitto, *payloads: bytes, topic: str = VITALS) -> None:
    """As a device does: QoS 1, with the broker's PUBACK for each."""
    async with Peer(broker, V5) as device:
        await device.connect(client_id="device")
        for i, payload in enumerate(payloads, 1):
            device.write(Publish(topic, payload, 1, i))
            while not isinstance(await device.receive(), Puback):
                pass


@both_versions
async def test_the_broker_is_acknowledged_after_the_commit_and_not_before(
    v5: bool, tmp_path: Path
) -> None:
    """What is not settled comes again, marked, on the next connection."""
    async with a_broker(tmp_path) as broker:
        door = FakeDoor()
        async with served(door, broker, v5=v5):
            await publish(broker, b"one", b"two")
            await door.has(2)
            door.settle(count=1)
            await asyncio.sleep(0.2)
        again = FakeDoor(at_once=True)
        async with served(again, broker, v5=v5):
            await again.has(1)
            await asyncio.sleep(0.2)
        last = FakeDoor(at_once=True)
        async with served(last, broker, v5=v5):
            await asyncio.sleep(0.2)
    assert [one.payload for one in door.arrivals] == [b"one", b"two"]
    told = [(one.payload, one.redelivered) for one in again.arrivals]
    assert told == [(b"two", True)]
    assert last.arrivals == []


async def test_what_cannot_be_read_is_refused_and_acknowledged(tmp_path: Path) -> None:
    async with a_broker(tmp_path) as broker:
        door = FakeDoor(at_once=True)
        async with served(door, broker, topics=("#",)):
            await publish(broker, b"x", topic="hospital/monitor")
            await publish(broker, b"x" * 70_000)
            await door.has(2)
    reasons = [one.refusal[0] for one in door.arrivals if one.refusal]
    assert reasons == [Reason.WRONG_TOPIC, Reason.TOO_LARGE]
    assert [len(one.payload) for one in door.arrivals] == [1, 1024]


@both_versions
async def test_what_the_broker_retained_is_no_new_reading(
    v5: bool, tmp_path: Path
) -> None:
    async with a_broker(tmp_path) as broker:
        async with Peer(broker, V5) as device:
            await device.connect(client_id="device")
            device.write(Publish(VITALS, b"old", 1, 1, retain=True))
            while not isinstance(await device.receive(), Puback):
                pass
        door = FakeDoor(at_once=True)
        async with served(door, broker, v5=v5):
            await publish(broker, b"new")
            await door.has(1)
    assert [one.payload for one in door.arrivals] == [b"new"]


async def test_a_congested_gateway_leaves_the_messages_with_the_broker(
    tmp_path: Path,
) -> None:
    async with a_broker(tmp_path) as broker:
        door = FakeDoor(congested_at=5)
        limits = Limits(pending_max=8, backoff_first_s=0.05)
        async with served(door, broker, limits):
            await publish(broker, *(b"%d" % i for i in range(100)))
            await door.has(5)
            await asyncio.sleep(0.2)
            assert len(door.arrivals) == 5
            async with asyncio.timeout(10):
                while len(door.arrivals) < 100:
                    door.settle()
                    await asyncio.sleep(0.01)
            door.settle()
    assert [int(one.payload) for one in door.arrivals] == list(range(100))


class Device:
    """Signs and publishes through the broker; sends again what was not acknowledged."""

    def __init__(self, broker: Mosquitto) -> None:
        self.signed = SignedDevice("monitor")
        self.acknowledged: set[int] = set()
        self._broker = broker
        self._open: dict[int, bytes] = {}
        self.ending = False

    async def run(self) -> None:
        while not (self.ending and not self._open):
            with contextlib.suppress(OSError, EOFError, AssertionError, TimeoutError):
                await self._converse()
            await asyncio.sleep(0.02)

    async def _converse(self) -> None:
        async with Peer(self._broker, V5) as peer:
            await peer.connect(client_id="monitor")
            for sequence, payload in self._open.items():
                peer.write(Publish(VITALS, payload, 1, sequence + 1, dup=True))
            while not (self.ending and not self._open):
                while len(self._open) < 10 and not self.ending:
                    await asyncio.sleep(PERIOD_S)
                    payload = self.signed.envelope()
                    sequence = self.signed.sequence - 1
                    self._open[sequence] = payload
                    peer.write(Publish(VITALS, payload, 1, sequence + 1))
                packet = await peer.receive()
                if packet is None:
                    raise EOFError
                if isinstance(packet, Puback):
                    self.acknowledged.add(packet.packet_id - 1)
                    self._open.pop(packet.packet_id - 1, None)


def sequences_of(settings: Settings) -> Counter[int]:
    found: Counter[int] = Counter()
    for stored in reader_of(settings).records():
        if stored.record.kind is Kind.READING:
            sequence = sequence_of(stored.record.original)
            assert sequence is not None
            found[sequence] += 1
    return found


async def committed(core: Core, count: int) -> None:
    await until(lambda: core.intake.totals["committed"] >= count)


async def connected(source: BrokerSource, count: int) -> None:
    await until(lambda: source.connection_count >= count)


async def test_a_broker_killed_and_restarted_under_load_loses_us_nothing_it_kept(
    tmp_path: Path,
) -> None:
    settings = trusted_clock(tmp_path / "gateway")
    async with a_broker(tmp_path) as broker, a_ward(settings) as (core, _):
        device = Device(broker)
        sending = asyncio.create_task(device.run())
        async with served(core.intake, broker) as source:
            for kills in (1, 2, 3):
                await committed(core, core.intake.totals["committed"] + 30)
                await asyncio.sleep(1.2)  # its state is on the disk
                await broker.kill()
                await until(lambda: not source.connected)
                await broker.start()
                await connected(source, kills + 1)
            device.ending = True
            async with asyncio.timeout(20):
                await sending
            with contextlib.suppress(TimeoutError):
                await committed(core, len(device.acknowledged))
    found = sequences_of(settings)
    # Mosquitto writes its state out after each change, and acknowledges before that:
    # of what is under way at a kill (a window of 10, three times) it may lose some.
    assert set(found) <= device.acknowledged
    assert len(device.acknowledged - set(found)) <= 30
    assert set(found.values()) == {1}


async def test_a_gateway_killed_under_load_gets_from_the_broker_what_it_had_not_kept(
    tmp_path: Path,
) -> None:
    """kill -9 of our own process, with messages delivered and not acknowledged."""
    async with a_broker(tmp_path) as broker:
        changes = {
            '# url = "mqtts://broker.example:8883"': f'url = "mqtt://{broker.place}"',
            '# clock = "auto"  ': 'clock = "trusted"  ',
        }
        async with installed(tmp_path / "gateway", tmp_path / "logs", **changes) as us:
            device = Device(broker)
            await us.enrol(device.signed)
            await us.start()
            await until(lambda: "has no session of ours" in us.log)
            await asyncio.sleep(0.2)  # its subscription
            sending = asyncio.create_task(device.run())
            for _ in range(3):
                await asyncio.sleep(1.0)
                await us.kill()
                await us.start()
            device.ending = True
            await sending
            deadline = time.monotonic() + 20
            while time.monotonic() < deadline:
                found = sequences_of(us.settings)
                if len(found) >= len(device.acknowledged):
                    break
                await asyncio.sleep(0.2)
            assert await us.stop() == 0
            found = sequences_of(us.settings)
    assert len(found) > 50
    assert set(found) == device.acknowledged
    assert set(found.values()) == {1}


async def test_the_delays_between_tries_grow_and_are_random() -> None:
    """Nobody listens at all; full jitter over a delay that doubles up to its bound."""
    asked: list[float] = []

    def jitter(low: float, high: float) -> float:
        assert low == 0
        asked.append(high)
        return 0.0

    login = BrokerLogin("127.0.0.1", free_port())
    limits = Limits(backoff_first_s=0.5, backoff_max_s=5.0)
    source = BrokerSource(FakeDoor(), login, limits, jitter=jitter)
    task = asyncio.create_task(source.run())
    await until(lambda: len(asked) >= 6)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert asked[:6] == [0.5, 1.0, 2.0, 4.0, 5.0, 5.0]
