"""The load: MQTT 3.1.1 clients at QoS 1 over loopback, in a process of their own.

    stdin   one JSON line a phase, the fields of Phase
    stdout  one JSON line for each, the fields of Measured; "ready" before the first

Every envelope is built and signed before the clock of its phase starts. Two kinds of
load, for two questions:

- *window* (closed loop): each connection keeps `window` messages unacknowledged. It
  finds the rate that the other side can take.
- *offered* (open loop): each message has its moment, and goes out then whether or not
  earlier ones were answered. Latency counts from that moment, not from when the client
  got round to sending, so a stalled server cannot hide the messages behind the stall.

What the clock shows is taken between the end of the warm-up and the end of the phase.
The server's CPU time comes from /proc, so that a noisy machine still gives numbers
that can be compared. Bare sockets and no MQTT library: the client must cost less than
what it measures. Nothing is asserted here about any number.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import struct
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from decimal import Decimal
from pathlib import Path

from edge.devices.envelope import build
from edge.devices.metrics import BY_NAME, make_reading
from edge.ledger import core
from edge.ledger.device_key import kid_of

STREAM = "vitals"
HOST = "127.0.0.1"
KEEP_ALIVE_S = 600
CONNECT_TIMEOUT_S = 20.0
DRAIN_TIMEOUT_S = 20.0
CLOCK_TICKS = os.sysconf("SC_CLK_TCK")
PACKET_IDS_MAX = 65_535
ACK_SIZE = 4
CONNACK = bytes((0x20, 2, 0, 0))


@dataclass(frozen=True, slots=True)
class Phase:
    """One load. `pid` is the server's process, `prefix` starts the devices' names.

    window > 0: closed loop, at most `count_max` messages over all connections, or
    without end where `repeat` sends the same messages again (only a broker may take
    them). rate_per_s > 0: open loop, messages a second over all connections.
    """

    port: int
    pid: int
    prefix: str
    connections: int
    seconds: float
    warmup_s: float
    window: int = 0
    count_max: int = 0
    repeat: bool = False
    rate_per_s: float = 0.0
    unsigned: bool = False  # SenML JSON in place of envelopes


@dataclass(slots=True)
class Measured:
    """What was seen; times in seconds, latencies in milliseconds.

    `acknowledged` counts the measured span, `sent_total` and `acknowledged_total` the
    whole phase. `lag_p99_ms` is how late the client itself sent (open loop).
    """

    begin_ms: int = 0
    end_ms: int = 0
    elapsed_s: float = 0.0
    acknowledged: int = 0
    server_cpu_s: float = 0.0
    client_cpu_s: float = 0.0
    latencies_ms: list[float] = field(default_factory=list)
    lag_p99_ms: float = 0.0
    ack_times_s: list[float] = field(default_factory=list)
    sent_total: int = 0
    acknowledged_total: int = 0


def seed_of(device: str) -> bytes:
    """A device's private key: made from its name, so that both sides know it."""
    return random.Random(device).randbytes(32)


def device_names(prefix: str, count: int) -> list[str]:
    """The devices of a phase, one for each connection."""
    return [f"{prefix}{number:03}" for number in range(count)]


# ---- Messages ----


class Fleet:
    """Devices that count their envelopes over all phases."""

    def __init__(self) -> None:
        self._sequences: dict[str, int] = {}

    def packets(
        self, device: str, count: int, interval_ms: float, *, unsigned: bool = False
    ) -> list[bytes]:
        """The next PUBLISH packets of a device; packet i has identifier i + 1."""
        if count > PACKET_IDS_MAX:
            raise ValueError(f"{count} packets; at most {PACKET_IDS_MAX}")
        topic = f"iomt/v1/{device}/{STREAM}".encode()
        made = self.senml if unsigned else self.envelopes
        payloads = made(device, count, interval_ms)
        return [publish(topic, at, one) for at, one in enumerate(payloads, start=1)]

    def senml(self, device: str, count: int, interval_ms: float) -> list[bytes]:
        """The next `count` messages of a device that does not sign; the same values."""
        first = self._sequences.get(device, 0)
        self._sequences[device] = first + count
        start_ms = time.time_ns() // 1_000_000
        draw = random.Random(f"{device} {first}")
        payloads = []
        for place in range(count):
            now_s = (start_ms + int(place * interval_ms)) / 1000
            records: list[dict[str, object]] = [
                {"n": name, "u": BY_NAME[name].unit, "v": float(value)}
                for name, value in _vital_signs(draw).items()
            ]
            records[0]["bt"] = now_s + place / 1e6  # no two are the same message
            payloads.append(json.dumps(records, separators=(",", ":")).encode())
        return payloads

    def envelopes(self, device: str, count: int, interval_ms: float) -> list[bytes]:
        """The next `count` envelopes of a device.

        Five vital signs that are in order, as a bedside monitor sends them.
        """
        seed = seed_of(device)
        kid = kid_of(core.public_key(seed))
        first = self._sequences.get(device, 0)
        self._sequences[device] = first + count
        start_ms = time.time_ns() // 1_000_000
        draw = random.Random(f"{device} {first}")
        envelopes = []
        for place in range(count):
            now_ms = start_ms + int(place * interval_ms)
            envelope = build(
                device,
                STREAM,
                first + place,
                now_ms,
                [make_reading(now_ms, _vital_signs(draw), {})],
                kid=kid,
                sign=lambda message: core.sign(seed, message),
            )
            envelopes.append(envelope)
        return envelopes


def _vital_signs(draw: random.Random) -> dict[str, Decimal]:
    return {
        "heart_rate": Decimal(draw.randint(62, 88)),
        "spo2": Decimal(draw.randint(95, 99)),
        "body_temperature": Decimal(draw.randint(364, 373)).scaleb(-1),
        "respiratory_rate": Decimal(draw.randint(12, 18)),
        "mean_pressure": Decimal(draw.randint(80, 95)),
    }


def _framed(first: int, body: bytes) -> bytes:
    """A control packet: first byte, remaining length (MQTT 3.1.1 section 2.2), body."""
    length, head = len(body), bytearray((first,))
    while length > 127:
        head.append(length & 127 | 128)
        length >>= 7
    head.append(length)
    return bytes(head) + body


def publish(topic: bytes, packet_id: int, payload: bytes) -> bytes:
    """PUBLISH at QoS 1."""
    size = struct.pack("!H", len(topic))
    return _framed(0x32, size + topic + struct.pack("!H", packet_id) + payload)


def connect(device: str) -> bytes:
    """CONNECT with a clean session, the device as client id and as user name."""
    name = struct.pack("!H", len(device)) + device.encode()
    return _framed(0x10, b"\0\4MQTT\4\x82" + struct.pack("!H", KEEP_ALIVE_S) + name * 2)


# ---- The server's process ----


def cpu_s(pid: int) -> float:
    """User and system time of a process and all its threads, in seconds."""
    text = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    fields = text.rpartition(")")[2].split()  # the command's name may hold spaces
    return (int(fields[11]) + int(fields[12])) / CLOCK_TICKS


# ---- Clients ----


class Client(asyncio.Protocol):
    """One connection. `acknowledged(client, identifiers)` hears of every PUBACK.

    `failed(error)` hears of what must end the phase.
    """

    def __init__(
        self,
        device: str,
        packets: list[bytes],
        acknowledged: Callable[[Client, list[int]], None],
        failed: Callable[[Exception], None],
    ) -> None:
        self.device, self.packets = device, packets
        self.next = 0
        self.in_flight: set[int] = set()
        self.due_s: list[float] = []  # open loop: when each packet should leave
        self._acknowledged, self._failed = acknowledged, failed
        self._transport: asyncio.Transport | None = None
        self._received = b""
        self._closing = False
        self._connected = asyncio.Event()

    async def open(self, port: int) -> None:
        """Return once the server has accepted the connection."""
        loop = asyncio.get_running_loop()
        await loop.create_connection(lambda: self, HOST, port)
        await self._connected.wait()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.write(connect(self.device))

    def data_received(self, data: bytes) -> None:
        """CONNACK and PUBACK are four bytes each, and nothing else comes.

        What is raised here closes the connection, and so reaches connection_lost.
        """
        data = self._received + data
        whole = len(data) - len(data) % ACK_SIZE
        self._received = data[whole:]
        identifiers = []
        for at in range(0, whole, ACK_SIZE):
            packet = data[at : at + ACK_SIZE]
            if packet[:2] == b"\x40\x02":
                identifier = packet[2] << 8 | packet[3]
                self.in_flight.remove(identifier)  # KeyError: acknowledged twice
                identifiers.append(identifier)
            elif packet == CONNACK and not self._connected.is_set():
                self._connected.set()
            else:
                raise ConnectionError(f"unexpected {packet.hex()}")
        if identifiers:
            self._acknowledged(self, identifiers)

    def connection_lost(self, error: Exception | None) -> None:
        if not self._closing:
            self._failed(ConnectionError(f"{self.device}: lost ({error!r})"))

    def send(self, count: int, *, repeat: bool = False) -> int:
        """Send the next packets in one write; how many there were."""
        if repeat and self.next + count > len(self.packets):
            self.next = 0
        chosen = self.packets[self.next : self.next + count]
        self.in_flight.update(range(self.next + 1, self.next + 1 + len(chosen)))
        self.next += len(chosen)
        if chosen and self._transport is not None:
            self._transport.write(b"".join(chosen))
        return len(chosen)

    def close(self) -> None:
        """DISCONNECT."""
        self._closing = True
        if self._transport is not None:
            self._transport.write(b"\xe0\0")
            self._transport.close()


class Run:
    """One phase while it runs."""

    def __init__(self, phase: Phase) -> None:
        self.phase = phase
        self.measured = Measured()
        self.clients: list[Client] = []
        self._lags_s: list[float] = []
        self._start_s = self._begin_s = 0.0
        self._measuring = False
        self._stopping = False
        self._failure: Exception | None = None
        self._ended = asyncio.Event()

    async def perform(self, fleet: Fleet) -> Measured:
        """Build, connect, run, wait for the last answers."""
        phase, loop = self.phase, asyncio.get_running_loop()
        span_s = phase.warmup_s + phase.seconds
        if phase.window:
            count, interval_ms = -(-phase.count_max // phase.connections), 1.0
        else:
            count = int(span_s * phase.rate_per_s / phase.connections)
            interval_ms = 1000 * phase.connections / phase.rate_per_s
        for device in device_names(phase.prefix, phase.connections):
            packets = fleet.packets(device, count, interval_ms, unsigned=phase.unsigned)
            self.clients.append(
                Client(device, packets, self._acknowledged, self._failed)
            )
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            for client in self.clients:
                await client.open(phase.port)
        self._start_s = time.perf_counter()
        loop.call_later(phase.warmup_s, self._begin)
        loop.call_later(span_s, self._end)
        if phase.window:
            for client in self.clients:
                self.measured.sent_total += client.send(
                    phase.window, repeat=phase.repeat
                )
        else:
            await self._offer()
        await self._ended.wait()
        if self._failure is not None:
            raise self._failure
        await self._drain()
        for client in self.clients:
            client.close()
        return self.measured

    async def _offer(self) -> None:
        """Send each message at its moment; the devices are spread over an interval."""
        phase, clients = self.phase, self.clients
        interval_s = phase.connections / phase.rate_per_s
        plan = []
        for number, client in enumerate(clients):
            first_s = self._start_s + number * interval_s / len(clients)
            client.due_s = [
                first_s + place * interval_s for place in range(len(client.packets))
            ]
            plan += [(due_s, number) for due_s in client.due_s]
        plan.sort()
        at = 0
        while at < len(plan):
            now_s = time.perf_counter()
            while at < len(plan) and plan[at][0] <= now_s:
                due_s, number = plan[at]
                self.measured.sent_total += clients[number].send(1)
                self._lags_s.append(time.perf_counter() - due_s)
                at += 1
            if at < len(plan):
                await asyncio.sleep(max(0.0, plan[at][0] - time.perf_counter()))

    def _acknowledged(self, client: Client, identifiers: list[int]) -> None:
        now_s, phase = time.perf_counter(), self.phase
        self.measured.acknowledged_total += len(identifiers)
        if self._measuring:
            self.measured.acknowledged += len(identifiers)
        if phase.window == 1:
            self.measured.ack_times_s.append(now_s - self._start_s)
        if client.due_s:
            measured_from_s = self._start_s + phase.warmup_s
            for identifier in identifiers:
                due_s = client.due_s[identifier - 1]
                if due_s >= measured_from_s:
                    self.measured.latencies_ms.append((now_s - due_s) * 1000)
        elif not self._stopping:
            sent = client.send(len(identifiers), repeat=phase.repeat)
            self.measured.sent_total += sent
            if sent < len(identifiers):
                self._end()  # the first to run dry ends it: the load is no longer full

    def _begin(self) -> None:
        if self._stopping:
            return
        self._begin_s, self._measuring = time.perf_counter(), True
        self.measured.begin_ms = time.time_ns() // 1_000_000
        self.measured.server_cpu_s = -cpu_s(self.phase.pid)
        self.measured.client_cpu_s = -time.process_time()

    def _failed(self, error: Exception) -> None:
        self._failure = self._failure or error
        self._stopping = True
        self._ended.set()

    def _end(self) -> None:
        if self._stopping:
            return
        if not self._measuring:
            self._failed(RuntimeError("the warm-up took all messages: more count_max"))
            return
        self._stopping, self._measuring = True, False
        self.measured.elapsed_s = time.perf_counter() - self._begin_s
        self.measured.end_ms = time.time_ns() // 1_000_000
        self.measured.server_cpu_s += cpu_s(self.phase.pid)
        self.measured.client_cpu_s += time.process_time()
        lags = sorted(self._lags_s)
        if lags:
            self.measured.lag_p99_ms = lags[len(lags) * 99 // 100] * 1000
        self._ended.set()

    async def _drain(self) -> None:
        """Wait for the answers that are still due."""
        deadline_s = time.perf_counter() + DRAIN_TIMEOUT_S
        while any(client.in_flight for client in self.clients):
            if time.perf_counter() > deadline_s:
                raise TimeoutError("messages without acknowledgement at the end")
            await asyncio.sleep(0.01)


def main() -> None:
    fleet = Fleet()
    print("ready", flush=True)
    for line in sys.stdin:
        measured = asyncio.run(Run(Phase(**json.loads(line))).perform(fleet))
        print(json.dumps(asdict(measured)), flush=True)


if __name__ == "__main__":
    main()
