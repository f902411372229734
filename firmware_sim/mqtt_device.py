"""A store-and-forward MQTT device: a ring of QoS 1 messages, resent until acknowledged.

    put() ─► waiting ─► in flight (at most WINDOW) ─► PUBACK ─► forgotten
                ▲                    │
                └── connection lost ─┘  the same bytes, oldest first

A message counts as sent when it is first handed to the MQTT client, and as acknowledged
when its PUBACK came, whatever reason code that carries. aiomqtt does not reconnect and
does not tell a waiting publish() that the connection is gone: both are done here.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
import socket
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field

import aiomqtt

RING_COUNT = 10_000  # messages that a device keeps; then the oldest is overwritten
WINDOW = 16  # unacknowledged messages; below every broker's usual receive maximum (20)
BACKOFF_BASE_S = 0.2
BACKOFF_MAX_S = 5.0
KEEP_ALIVE_S = 30
GOOD = "good"
NO_DELAY = (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
log = logging.getLogger("ward.mqtt")
# paho logs each lost connection as an error; we get it as an exception and log it once.
_paho_log = logging.getLogger("ward.paho")
_paho_log.setLevel(logging.CRITICAL)


@dataclass(slots=True)
class Message:
    """One PUBLISH: `kind` is GOOD or the name of what is wrong with it on purpose."""

    topic: str
    payload: bytes
    kind: str = GOOD
    sequence: int | None = None
    sent: bool = False


@dataclass(slots=True)
class Tally:
    """What happened to the messages of all devices of a ward."""

    sent: int = 0
    acknowledged: int = 0
    resent: int = 0
    dropped: int = 0  # overwritten in a full ring after they were sent
    unsent: int = 0  # made and never sent: overwritten, or left when the ward stopped
    bad: Counter[str] = field(default_factory=Counter)

    @property
    def in_flight(self) -> int:
        """Messages sent whose acknowledgement is still awaited."""
        return self.sent - self.acknowledged - self.dropped


class MqttDevice:
    """One device with a connection of its own; run() is its life."""

    def __init__(
        self,
        name: str,
        address: tuple[str, int],
        tally: Tally,
        *,
        version: aiomqtt.ProtocolVersion = aiomqtt.ProtocolVersion.V311,
        on_acknowledged: Callable[[Message], None] | None = None,
    ) -> None:
        self.name = name
        self._address = address
        self._tally = tally
        self._version = version
        self._on_acknowledged = on_acknowledged
        self._waiting: deque[Message] = deque()
        self._in_flight: dict[int, Message] = {}  # by id(), in the order of sending
        self._wake = asyncio.Event()
        self._draining = False
        self._abandoned = False
        self._attempts = 0

    def put(self, message: Message) -> None:
        """Keep `message` until it is acknowledged; a full ring loses its oldest."""
        if len(self._waiting) + len(self._in_flight) >= RING_COUNT:
            lost = self._waiting.popleft()
            if lost.sent:
                self._tally.dropped += 1
            else:
                self._tally.unsent += 1
        self._waiting.append(message)
        self._wake.set()

    def drain(self) -> Message | None:
        """Send nothing new from now on; run() ends when all is acknowledged.

        Returns the first message that was never sent, or None.
        """
        self._draining = True
        unsent = [message for message in self._waiting if not message.sent]
        self._tally.unsent += len(unsent)
        self._waiting = deque(message for message in self._waiting if message.sent)
        self._wake.set()
        return unsent[0] if unsent else None

    def abandon(self) -> None:
        """Let run() end although acknowledgements are outstanding."""
        self._abandoned = True
        self._wake.set()

    @property
    def _done(self) -> bool:
        drained = self._draining and not self._waiting and not self._in_flight
        return self._abandoned or drained

    async def run(self) -> None:
        """Connect, send and reconnect until drain() was called and nothing is left."""
        while not self._done:
            try:
                async with self._client() as client:
                    await self._pump(client)
            except* (aiomqtt.MqttError, OSError) as lost:
                self._attempts += 1
                log.info("%s: no connection: %s", self.name, lost.exceptions[0])
            if not self._done:
                await self._back_off()

    def _client(self) -> aiomqtt.Client:
        host, port = self._address
        client = aiomqtt.Client(
            host,
            port,
            identifier=self.name,
            protocol=self._version,
            keepalive=KEEP_ALIVE_S,
            logger=_paho_log,
            socket_options=[NO_DELAY],
        )
        client.pending_calls_threshold = WINDOW
        return client

    async def _back_off(self) -> None:
        """Full jitter: anywhere up to a limit that doubles, so nobody stampedes."""
        limit_s = min(BACKOFF_MAX_S, BACKOFF_BASE_S * 2 ** min(self._attempts, 10))
        await asyncio.sleep(random.uniform(0, limit_s))  # noqa: S311 - no secret

    async def _pump(self, client: aiomqtt.Client) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                watch = group.create_task(_until_lost(client))
                while not self._done:
                    while self._waiting and len(self._in_flight) < WINDOW:
                        message = self._waiting.popleft()
                        self._in_flight[id(message)] = message
                        group.create_task(self._publish(client, message))
                    self._wake.clear()
                    await self._wake.wait()
                watch.cancel()
        finally:  # whatever has no PUBACK goes first on the next connection
            self._waiting.extendleft(reversed(self._in_flight.values()))
            self._in_flight.clear()

    async def _publish(self, client: aiomqtt.Client, message: Message) -> None:
        if message.sent:
            self._tally.resent += 1
        else:
            message.sent = True
            self._tally.sent += 1
            if message.kind != GOOD:
                self._tally.bad[message.kind] += 1
        await client.publish(message.topic, message.payload, qos=1, timeout=math.inf)
        del self._in_flight[id(message)]
        self._attempts = 0
        self._tally.acknowledged += 1
        if self._on_acknowledged is not None:
            self._on_acknowledged(message)
        self._wake.set()


async def _until_lost(client: aiomqtt.Client) -> None:
    """Raise MqttError as soon as the connection is gone."""
    async for _ in client.messages:
        pass
