"""What the scenarios with real processes share: the gateway, commands, senders.

A Gateway is `python -m edge run` in a process of its own, on ports that were free; its
log is a file for each start. A Burst is a device on a plain socket that sends as fast
as it may and remembers every answer, across any number of the gateway's deaths.
"""

from __future__ import annotations

import asyncio
import json
import re
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from workbench import SignedDevice, make_gateway

from edge import config
from edge.devices.envelope import parse
from edge.model import Kind
from edge.sources.mqtt_encoder import encode
from edge.sources.mqtt_packets import V5, Connack, Connect, Decoder, Puback, Publish
from edge.sources.mqtt_properties import Property
from edge.store.reader import Reader
from edge.store.vault import load_keys

CHECKOUT = Path(__file__).parents[2]
COMMAND = (sys.executable, "-m", "edge")
START_TIMEOUT_S = 20.0
COMMAND_TIMEOUT_S = 20.0
# Two such bursts keep more in flight than it takes to commit without waiting for a
# token, so that there is always a commit under way: the moment to be killed.
WINDOW_COUNT = 200
SUCCESS_MAX = 0x7F  # MQTT 5 reason codes from 0x80 on are refusals


def on_slow_disk(before_s: float, after_s: float) -> Sequence[str]:
    """The same command where each commit waits before and after it becomes durable.

    A kill that comes with an answer then finds what was answered too early; one that
    comes at random finds commits that nobody was told of.
    """
    program = f"""
import sys, time
from edge.cli import main
from edge.store.commit import Writer
commit = Writer.commit
def commit_slowly(writer, batch):
    time.sleep({before_s} if batch.counts else 0)
    committed = commit(writer, batch)
    time.sleep({after_s} if batch.counts else 0)
    return committed
Writer.commit = commit_slowly
sys.exit(main())
"""
    return sys.executable, "-c", program


class Result(NamedTuple):
    """How a command ended."""

    status: int
    out: str
    err: str


async def run(*words: str, timeout_s: float = COMMAND_TIMEOUT_S) -> Result:
    """Run a program to its end; it is killed, and the test fails, after `timeout_s`."""
    process = await asyncio.create_subprocess_exec(
        *words,
        cwd=CHECKOUT,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(timeout_s):
            out, err = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()
    assert process.returncode is not None
    return Result(process.returncode, out.decode(), err.decode())


async def iomt(*words: str | Path) -> Result:
    """Run `iomt` with these words."""
    return await run(*COMMAND, *map(str, words))


async def done(*words: str | Path) -> str:
    """Run `iomt`, which has to succeed; what it prints."""
    result = await iomt(*words)
    assert result.status == 0, (words, result)
    return result.out


async def until(
    condition: Callable[[], bool], what: str, limit_s: float = START_TIMEOUT_S
) -> None:
    """Wait for what another process does; the test fails after `limit_s`."""
    try:
        async with asyncio.timeout(limit_s):
            while not condition():  # no event tells of a foreign process
                await asyncio.sleep(0.01)
    except TimeoutError:
        raise AssertionError(f"not within {limit_s} s: {what}") from None


class Gateway:
    """The gateway of one directory, started and ended as often as a test likes."""

    def __init__(self, directory: Path, logs: Path) -> None:
        self.config = directory / "iomt.toml"
        self._logs = logs
        logs.mkdir()
        self.command: Sequence[str] = COMMAND
        self.starts = 0
        self.port = 0
        self._process: asyncio.subprocess.Process | None = None

    @property
    def settings(self) -> config.Settings:
        """The configuration as it is now."""
        return config.load(self.config)

    @property
    def process(self) -> asyncio.subprocess.Process:
        """The process of the last start."""
        assert self._process is not None
        return self._process

    @property
    def log(self) -> str:
        """What the last start wrote to its standard error."""
        return (self._logs / f"{self.starts}.log").read_text()

    async def start(self, *, waits: bool = True) -> None:
        """Start it, and return when it says that its doors are open."""
        self.starts += 1
        with (self._logs / f"{self.starts}.log").open("wb") as log:
            self._process = await asyncio.create_subprocess_exec(
                *self.command,
                "run",
                "--config",
                str(self.config),
                cwd=CHECKOUT,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        if waits:
            await until(self._said_ready, "the gateway is ready")
            match = re.search(r"is ready: MQTT 127\.0\.0\.1:(\d+)", self.log)
            assert match, self.log
            self.port = int(match[1])

    def _said_ready(self) -> bool:
        assert self.process.returncode is None, self.log
        return " is ready: " in self.log

    async def ended(self, timeout_s: float = 20.0) -> int:
        """Wait for its end; the exit status."""
        async with asyncio.timeout(timeout_s):
            return await self.process.wait()

    def strike(self) -> None:
        """kill -9, now, if it is not done yet."""
        with suppress(ProcessLookupError):
            self.process.kill()

    async def kill(self) -> None:
        """kill -9: no handler runs, nothing is flushed by the process."""
        self.strike()
        assert await self.ended() == -signal.SIGKILL

    async def stop(self) -> int:
        """SIGTERM; the exit status."""
        self.process.terminate()
        return await self.ended()

    async def close(self) -> None:
        """Leave no process behind, whatever happened."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()

    def reader(self) -> Reader:
        """The store, beside the process or after it."""
        settings = self.settings
        return Reader(settings.directory, load_keys(settings.keys).master)

    async def rows(self) -> list[dict[str, Any]]:
        """What `iomt readings --json` prints."""
        out = await done("readings", "--json", "--config", self.config)
        return [json.loads(line) for line in out.splitlines()]

    async def do(self, *words: str | Path) -> str:
        """A command on this gateway's data that has to succeed."""
        return await done(*words, "--config", self.config)

    async def export(self, target: Path) -> str:
        """`iomt ledger export`, then `iomt verify` on it, which has to accept."""
        await self.do("ledger", "export", target)
        vkey = (await self.do("ledger", "vkey")).strip()
        return await done("verify", target, "--vkey", vkey)

    async def enrol(self, device: SignedDevice, patient: str | None = None) -> None:
        """Enrol a signing device, at a new patient if one is named."""
        key = self._logs / f"{device.name}.hex"
        key.write_text(device.public_key + "\n")
        await self.do("device", "add", device.name, "--key", key)
        if patient is not None:
            await self.do("patient", "add", patient)
            await self.do("device", "assign", device.name, "--patient", patient)


@asynccontextmanager
async def installed(
    directory: Path, logs: Path | None = None, **changes: str
) -> AsyncIterator[Gateway]:
    """A gateway that is set up and not started; none of its processes survives."""
    make_gateway(directory, **changes)
    gateway = Gateway(directory, logs or directory / "logs")
    try:
        yield gateway
    finally:
        await gateway.close()


@asynccontextmanager
async def running(
    directory: Path, logs: Path | None = None, **changes: str
) -> AsyncIterator[Gateway]:
    """A gateway that is ready."""
    async with installed(directory, logs, **changes) as gateway:
        await gateway.start()
        yield gateway


def signed(name: str, number: int) -> SignedDevice:
    """A device with a key of its own."""
    return SignedDevice(name, seed=number.to_bytes(32, "big"))


def rate_of(sequence: int) -> int:
    """A heart rate that tells messages apart and raises no alarm."""
    return 60 + sequence % 40


class Burst:
    """A signing device, MQTT 5 on a plain socket, `window` messages in flight.

    What was not answered when the connection broke is sent again, first and in order.
    """

    def __init__(
        self,
        device: SignedDevice,
        pressures: tuple[int, ...] = (),
        *,
        window: int = WINDOW_COUNT,
    ) -> None:
        self.device = device
        self.acknowledged: dict[int, bytes] = {}
        self.refused: dict[int, tuple[bytes, int, str]] = {}
        self.unanswered: dict[int, bytes] = {}
        self.breaks_in_flight = 0  # connections that ended with messages unanswered
        self.ending = False
        # Called when an answer comes, before it is decoded. While it is set nothing new
        # is made: signing would keep us from noticing at once.
        self.on_answer: Callable[[], None] | None = None
        self._pressures = pressures
        self._window = window

    def make(self) -> bytes:
        """The next message: a heart rate by `rate_of`, or the next of the pressures."""
        sequence = self.device.sequence
        if self._pressures:
            systolic = self._pressures[sequence % len(self._pressures)]
            return self.device.envelope(systolic_pressure=systolic)
        return self.device.envelope(heart_rate=rate_of(sequence))

    async def run(self, port: Callable[[], int]) -> None:
        """Send until `ending` is set and everything is answered."""
        while not (self.ending and not self.unanswered):
            try:
                await self._converse(port())
            except (OSError, EOFError):
                if self.unanswered:
                    self.breaks_in_flight += 1
                await asyncio.sleep(0.02)

    async def _converse(self, port: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        decoder = Decoder(1 << 20, version=V5, from_server=True)
        try:
            name = self.device.name
            writer.write(encode(Connect(client_id=name, version=V5), V5))
            for sequence, payload in self.unanswered.items():
                self._publish(writer, sequence, payload, again=True)
            while not (self.ending and not self.unanswered):
                self._fill(writer)
                chunk = await reader.read(1 << 16)
                if not chunk:
                    raise EOFError
                if self.on_answer is not None:
                    self.on_answer()
                for packet in decoder.packets(chunk):
                    self._answered(packet)
        finally:
            writer.transport.abort()

    def _fill(self, writer: asyncio.StreamWriter) -> None:
        """Have a window of messages in flight."""
        while len(self.unanswered) < self._window:
            if self.ending or self.on_answer is not None:
                return
            sequence = self.device.sequence
            payload = self.unanswered[sequence] = self.make()
            self._publish(writer, sequence, payload)

    def _publish(
        self,
        writer: asyncio.StreamWriter,
        sequence: int,
        payload: bytes,
        *,
        again: bool = False,
    ) -> None:
        topic = f"iomt/v1/{self.device.name}/vitals"
        packet = Publish(topic, payload, 1, sequence % 65_535 + 1, dup=again)
        writer.write(encode(packet, V5))

    def _answered(self, packet: object) -> None:
        if isinstance(packet, Connack):
            assert packet.code == 0
        if not isinstance(packet, Puback):
            return
        sequence = packet.packet_id - 1  # these tests send fewer than 65,535
        payload = self.unanswered.pop(sequence)
        if packet.code <= SUCCESS_MAX:
            self.acknowledged[sequence] = payload
        else:
            reason = str(packet.properties.get(Property.REASON, ""))
            self.refused[sequence] = payload, packet.code, reason


@asynccontextmanager
async def sending(
    gateway: Gateway, bursts: Sequence[Burst]
) -> AsyncIterator[asyncio.Task[None]]:
    """Bursts that run until they are told to end; then all must be answered."""

    async def all_of_them() -> None:
        async with asyncio.TaskGroup() as group:
            for one in bursts:
                group.create_task(one.run(lambda: gateway.port))

    task = asyncio.create_task(all_of_them())
    try:
        yield task
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def answered(bursts: Sequence[Burst]) -> int:
    return sum(len(one.acknowledged) for one in bursts)


async def until_more(bursts: Sequence[Burst], count: int) -> None:
    """Wait until this many more messages are acknowledged."""
    goal = answered(bursts) + count
    await until(lambda: answered(bursts) >= goal, f"{count} more acknowledgements")


def stored_originals(gateway: Gateway) -> dict[tuple[str, int], list[bytes]]:
    """What the store holds of each (device, sequence), as the device sent it."""
    reader = gateway.reader()
    found: dict[tuple[str, int], list[bytes]] = {}
    try:
        for stored in reader.records():
            if stored.record.kind is Kind.READING:
                original = stored.record.original
                key = (stored.record.device or "", parse(original).sequence)
                found.setdefault(key, []).append(original)
    finally:
        reader.close()
    return found


def counters(gateway: Gateway) -> Counter[str]:
    reader = gateway.reader()
    try:
        return reader.counters()
    finally:
        reader.close()


async def assert_nothing_is_lost(gateway: Gateway, bursts: Sequence[Burst]) -> None:
    """Acknowledged is stored, once, with the bytes that were sent; counts add up."""
    originals = stored_originals(gateway)
    for one in bursts:
        name = one.device.name
        for sequence, payload in one.acknowledged.items():
            assert originals.get((name, sequence)) == [payload], (name, sequence)
    assert all(len(payloads) == 1 for payloads in originals.values())
    rows = await gateway.rows()
    listed = Counter((row["device"], row["sequence"]) for row in rows)
    assert listed == Counter(dict.fromkeys(originals, 1))
    assert len({row["id"] for row in rows}) == len(rows)
    for row in rows:
        assert row["metrics"] == {"heart_rate": rate_of(row["sequence"])}
    counted = counters(gateway)
    parts = [counted[one] for one in ("committed", "duplicates", "refused")]
    assert counted["received"] == sum(parts)
    assert counted["committed"] == len(rows)
