"""For the MQTT scenarios: a door that settles when the test says, and a raw client."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, Protocol, Self

import pytest

from edge.model import Arrival, Outcome, Verdict
from edge.mqtt_limits import Limits
from edge.sources.mqtt_encoder import encode
from edge.sources.mqtt_listener import MqttListener
from edge.sources.mqtt_packets import (
    V5,
    V311,
    Connack,
    Connect,
    Decoder,
    Disconnect,
    Packet,
    Publish,
)
from edge.sources.mqtt_properties import Code

COMMITTED = Outcome(Verdict.COMMITTED)
VITALS = "iomt/v1/bed-1/vitals"
TIMEOUT_S = 5.0

both = pytest.mark.parametrize("version", [V311, V5])


class FakeDoor:
    """Keeps arrivals; `settle` plays the commit. `congested_at` fills it."""

    def __init__(self, *, at_once: bool = False, congested_at: int = 1 << 30) -> None:
        self.arrivals: list[Arrival] = []
        self.at_once = at_once
        self.congested_at = congested_at
        self.relieved_count = 0
        self.outcome = COMMITTED  # of what is settled at once
        self._settled_count = 0
        self._relieved = asyncio.Event()

    @property
    def waiting(self) -> list[Arrival]:
        """What is not settled yet."""
        return self.arrivals[self._settled_count :]

    @property
    def congested(self) -> bool:
        return len(self.arrivals) - self._settled_count >= self.congested_at

    async def relieved(self) -> None:
        self.relieved_count += 1
        while self.congested:
            self._relieved.clear()
            await self._relieved.wait()

    def submit(self, arrival: Arrival) -> None:
        self.arrivals.append(arrival)
        if self.at_once:
            self.settle(lambda _: self.outcome)

    def settle(
        self,
        answer: Callable[[Arrival], Outcome] = lambda _: COMMITTED,
        *,
        count: int | None = None,
    ) -> None:
        """One commit: settle all that wait (or the first `count`) in one loop turn."""
        for arrival in self.waiting[:count]:
            self._settled_count += 1
            arrival.settle(answer(arrival))
        self._relieved.set()

    async def has(self, count: int) -> None:
        """Wait until `count` messages have arrived in all."""
        await until(lambda: len(self.arrivals) >= count)


async def until(condition: Callable[[], bool]) -> None:
    """Wait for what another task or process does; fails after TIMEOUT_S."""
    async with asyncio.timeout(TIMEOUT_S):
        while not condition():  # no event tells of a foreign client
            await asyncio.sleep(0.005)


USERS = {
    ("", b""): "device",
    ("bed-1", b"secret"): "device",
    ("bed-2", b"secret"): "device",
    ("wall", b"secret"): "viewer",
}


@asynccontextmanager
async def listening(
    door: FakeDoor, limits: Limits | None = None
) -> AsyncIterator[MqttListener]:
    """A listener on a free port that knows USERS.

    Fails at the end when a callback raised: the event loop alone would only log it.
    """
    raised: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(
        lambda _, context: raised.append(context)
    )
    listener = MqttListener(
        door,
        authenticate=lambda user, password: USERS.get((user, password)),
        limits=limits or Limits(linger_s=0.3, close_timeout_s=0.3),
    )
    await listener.start("127.0.0.1", 0)
    try:
        yield listener
    finally:
        await listener.close()
    assert not raised, raised


class HasPort(Protocol):
    """What a Peer needs of a listener."""

    @property
    def port(self) -> int:
        """On 127.0.0.1."""


class Peer:
    """A client made of our own codec and a plain socket: it may misbehave."""

    def __init__(self, listener: HasPort, version: int) -> None:
        self._port = listener.port
        self.version = version
        self._decoder = Decoder(1 << 20, version=version, from_server=True)

    async def __aenter__(self) -> Self:
        self._reader, self._writer = await asyncio.open_connection(
            "127.0.0.1", self._port
        )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.vanish()

    def vanish(self) -> None:
        """Close without a word."""
        self._writer.transport.abort()

    def write(self, *packets: Packet | bytes) -> None:
        """Send packets, or any bytes, in one write."""
        self._writer.write(
            b"".join(
                p if isinstance(p, bytes) else encode(p, self.version) for p in packets
            )
        )

    async def bytes_until_closed(self) -> bytes:
        """All that comes until the server closes."""
        async with asyncio.timeout(TIMEOUT_S):
            return await self._reader.read(-1)

    async def is_cut_off(self) -> bool:
        """Whether the server closes, with a reset or without, and says nothing."""
        try:
            return await self.bytes_until_closed() == b""
        except ConnectionResetError:
            return True

    async def raw(self) -> bytes:
        """What the next read gives."""
        async with asyncio.timeout(TIMEOUT_S):
            return await self._reader.read(1 << 20)

    async def receive(self) -> Packet | None:
        """The next packet, None when the server closed."""
        async with asyncio.timeout(TIMEOUT_S):
            while (packet := self._decoder.next_packet()) is None:
                chunk = await self._reader.read(1 << 16)
                if not chunk:
                    return None
                self._decoder.feed(chunk)
            return packet

    async def silence(self, for_s: float = 0.05) -> bool:
        """Whether nothing comes for a while."""
        try:
            async with asyncio.timeout(for_s):
                self._decoder.feed(await self._reader.read(1 << 16))
        except TimeoutError:
            return True
        return False

    async def connect(self, **fields: object) -> Connack:
        """CONNECT with these fields; the CONNACK."""
        fields.setdefault("client_id", "peer")
        self.write(Connect(version=self.version, **fields))  # type: ignore[arg-type]
        answer = await self.receive()
        assert isinstance(answer, Connack)
        return answer

    def publish(
        self, packet_id: int, payload: bytes = b"36.7", topic: str = VITALS
    ) -> Publish:
        """A PUBLISH, at QoS 0 where the identifier is 0; not sent yet."""
        return Publish(topic, payload, int(packet_id > 0), packet_id)


async def code_of_disconnect(peer: Peer) -> int | None:
    """The reason of a version 5 DISCONNECT, None when it just closed (3.1.1)."""
    packet = await peer.receive()
    if packet is None:
        return None
    assert isinstance(packet, Disconnect)
    assert await peer.receive() is None
    return packet.code


def expected(version: int, code: Code) -> int | None:
    return int(code) if version == V5 else None
