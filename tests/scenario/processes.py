"""What the scenarios with real processes share: the gateway, commands, senders.

A Gateway is `python -m edge run` in a process of its own, on ports that were free; its
log is a file for each start. A Burst is a device on a plain socket that sends as fast
as it may and remembers every answer, across any number of the gateway's deaths.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

from edge import config
from edge.sources.mqtt_encoder import encode
from edge.sources.mqtt_packets import V5, Connack, Connect, Decoder, Puback, Publish
from edge.sources.mqtt_properties import Property
from edge.store.reader import Reader
from edge.store.vault import load_keys
from workbench import SignedDevice, make_gateway

CHECKOUT = Path(__file__).parents[2]
COMMAND = (sys.executable, "-m", "edge")
START_TIMEOUT_S = 20.0
COMMAND_TIMEOUT_S = 20.0
SUCCESS_MAX = 0x7F  # MQTT 5 reason codes from 0x80 on are refusals


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

    def __init__(self, directory: Path) -> None:
        self.config = directory / "iomt.toml"
        self._logs = directory / "logs"
        self._logs.mkdir()
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
                *COMMAND,
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

    async def kill(self) -> None:
        """kill -9: no handler runs, nothing is flushed by the process."""
        self.process.kill()
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
async def installed(directory: Path, **changes: str) -> AsyncIterator[Gateway]:
    """A gateway that is set up and not started; none of its processes survives."""
    make_gateway(directory, **changes)
    gateway = Gateway(directory)
    try:
        yield gateway
    finally:
        await gateway.close()


@asynccontextmanager
async def running(directory: Path, **changes: str) -> AsyncIterator[Gateway]:
    """A gateway that is ready."""
    async with installed(directory, **changes) as gateway:
        await gateway.start()
        yield gateway


def signed(name: str, number: int) -> SignedDevice:
    """A device with a key of its own."""
    return SignedDevice(name, seed=number.to_bytes(32, "big"))


class Burst:
    """A signing device, MQTT 5 on a plain socket, `window` messages in flight.

    What was not answered when the connection broke is sent again, first and in order.
    """

    def __init__(self, device: SignedDevice, window: int = 64) -> None:
        self.device = device
        self.acknowledged: dict[int, bytes] = {}
        self.refused: dict[int, tuple[bytes, int, str]] = {}
        self.unanswered: dict[int, bytes] = {}
        self.breaks_in_flight = 0  # connections that ended with messages unanswered
        self.ending = False
        self._window = window

    def make(self) -> bytes:
        """The next message: its heart rate tells its sequence modulo 40."""
        sequence = self.device.sequence
        return self.device.envelope(heart_rate=60 + sequence % 40)

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
                while not self.ending and len(self.unanswered) < self._window:
                    sequence = self.device.sequence
                    payload = self.unanswered[sequence] = self.make()
                    self._publish(writer, sequence, payload)
                chunk = await reader.read(1 << 16)
                if not chunk:
                    raise EOFError
                for packet in decoder.packets(chunk):
                    self._answered(packet)
        finally:
            writer.transport.abort()

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


def is_root() -> bool:
    """Whether this process may mount."""
    return os.geteuid() == 0
