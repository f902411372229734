"""Broker mode: what a clinic's own broker has queued for us, with paho-mqtt.

    broker ─► paho's thread ─► on the loop: door.submit ... commit ... settle
       ▲                                                            │
       └──────────────── PUBACK, after the commit ◄─────────────────┘

A persistent session (clean start false) and manual acknowledgement: the broker keeps
what we have not committed, and sends it again, marked, when we come back. Whatever
comes twice the intake knows by its sequence. The connection is tried again for ever,
after a random part of a delay that doubles (full jitter), so that a clinic's gateways
do not come back all at once.

Pressure: paho's thread waits in its callback while the door is congested or too much
waits for its commit. Then it reads no more from its socket, and the broker queues.

What this mode cannot promise stands in docs/mqtt.md: the device's own PUBACK is the
broker's, given before anything of it is in our store.
"""

from __future__ import annotations

import asyncio
import logging
import random
import ssl
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paho.mqtt import client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions

from edge.devices.mapped import Mapping
from edge.errors import Reason
from edge.model import Arrival, Outcome, Source
from edge.sources import Door, mqtt_topics

PAYLOAD_SIZE_MAX = 65_536
PAYLOAD_KEPT_SIZE = 1_024
KEEP_ALIVE_S = 60
SESSION_EXPIRY_S = 7 * 24 * 3600
CONNECT_TIMEOUT_S = 10.0

log = logging.getLogger("edge.broker")


@dataclass(frozen=True, slots=True)
class BrokerLogin:
    """Where the broker is, and who we are to it.

    `client_id` names the session that the broker keeps: another one is another session.
    """

    host: str
    port: int
    topics: tuple[str, ...] = ("iomt/v1/+/+",)
    client_id: str = "iomt-gateway"
    user: str | None = None
    password: str | None = None
    tls: bool = False
    ca: Path | None = None
    v5: bool = True  # else 3.1.1


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of the source."""

    pending_max: int = 1_024  # messages before their commit
    receive_max: int = 512  # told to a broker of version 5
    backoff_first_s: float = 0.5
    backoff_max_s: float = 60.0
    steady_s: float = 30.0  # a connection that lasted so long begins at the first delay


@dataclass(frozen=True, slots=True)
class _Message:
    """A PUBLISH of one connection of ours (`turn` counts them)."""

    turn: int
    mid: int
    qos: int
    topic: str
    payload: bytes
    dup: bool


class BrokerSource:
    """Takes what the broker has for us; `run` is a task of the gateway's."""

    def __init__(
        self,
        door: Door,
        settings: BrokerLogin,
        limits: Limits | None = None,
        mappings: tuple[Mapping, ...] = (),
        jitter: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self._door = door
        self._settings = settings
        self._limits = limits or Limits()
        self._mappings = mappings
        self._jitter = jitter
        self._loop = asyncio.get_running_loop()
        self._turn = 0
        self._client: paho.Client | None = None
        self._came: deque[_Message] = deque()  # from paho's thread
        self._due = False  # a `_take` is scheduled
        self._room = threading.Condition()
        self._pending = 0  # messages between their receipt and their settlement
        self._ended = asyncio.Event()
        self._relief: asyncio.Task[None] | None = None
        self.connected = False
        self.connection_count = 0

    async def run(self) -> None:
        """Keep a connection, for ever."""
        tries = 0
        while True:
            began = self._loop.time()
            try:
                await self._serve()
            except (OSError, ValueError) as error:  # paho: ValueError for a bad answer
                log.warning("broker %s: %s", self._name, error)
            if self._loop.time() - began > self._limits.steady_s:
                tries = 0
            longest_s = self._limits.backoff_first_s * 2 ** min(tries, 16)
            tries += 1
            await asyncio.sleep(
                self._jitter(0, min(longest_s, self._limits.backoff_max_s))
            )

    @property
    def _name(self) -> str:
        return f"{self._settings.host}:{self._settings.port}"

    async def _serve(self) -> None:
        """One connection, from its first byte to its end."""
        self._turn += 1
        self._ended.clear()
        client = self._make_client(self._turn)
        more: dict[str, Any] = {}
        if self._settings.v5:
            more = {"clean_start": False, "properties": self._connect_properties()}
        try:
            await asyncio.to_thread(
                client.connect,
                self._settings.host,
                self._settings.port,
                KEEP_ALIVE_S,
                **more,
            )
            self._client = client
            client.loop_start()
            await self._ended.wait()
        finally:
            self.connected = False
            self._client = None
            self._turn += 1  # what is settled from here on belongs to no connection
            client.disconnect()
            with self._room:
                self._room.notify_all()  # the callback gives up: its turn is over
            await asyncio.shield(asyncio.to_thread(client.loop_stop))

    def _make_client(self, turn: int) -> paho.Client:
        settings = self._settings
        client = paho.Client(
            CallbackAPIVersion.VERSION2,
            settings.client_id,
            clean_session=None if settings.v5 else False,
            protocol=(
                MQTTProtocolVersion.MQTTv5
                if settings.v5
                else MQTTProtocolVersion.MQTTv311
            ),
            reconnect_on_failure=False,
            manual_ack=True,
        )
        client.connect_timeout = CONNECT_TIMEOUT_S
        if settings.user is not None:
            client.username_pw_set(settings.user, settings.password)
        if settings.tls:
            cafile = str(settings.ca) if settings.ca else None
            context = ssl.create_default_context(cafile=cafile)
            context.minimum_version = ssl.TLSVersion.TLSv1_2
            client.tls_set_context(context)

        def connected(_c: paho.Client, _u: Any, flags: Any, code: Any, _p: Any) -> None:
            self._on_connect(client, turn, flags.session_present, code)

        def ended(_c: paho.Client, _u: Any, _f: Any, code: Any, _p: Any) -> None:
            self._tell(self._on_end, turn, str(code))

        def came(_c: paho.Client, _u: Any, message: paho.MQTTMessage) -> None:
            self._on_message(turn, message)

        client.on_connect = connected
        client.on_disconnect = ended
        client.on_message = came
        return client

    def _connect_properties(self) -> Properties:
        properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        properties.SessionExpiryInterval = SESSION_EXPIRY_S
        properties.ReceiveMaximum = self._limits.receive_max
        return properties

    # On paho's thread

    def _on_connect(
        self, client: paho.Client, turn: int, present: bool, code: Any
    ) -> None:
        if code.is_failure:
            self._tell(self._on_end, turn, f"refused: {code}")
            return
        if self._settings.v5:
            options = SubscribeOptions(qos=1, retainHandling=2)  # no retained ones
            client.subscribe([(topic, options) for topic in self._settings.topics])
        else:
            client.subscribe([(topic, 1) for topic in self._settings.topics])
        self._tell(self._on_begin, turn, present)

    def _on_message(self, turn: int, message: paho.MQTTMessage) -> None:
        """Hand it to the loop; waits here while there is no room for it."""
        try:
            topic = message.topic
        except UnicodeDecodeError:
            topic = ""  # refused as a wrong topic
        one = _Message(
            turn, message.mid, message.qos, topic, bytes(message.payload), message.dup
        )
        if message.retain:
            # What a broker kept from before is no new reading (3.1.1 cannot ask it not
            # to send them); acknowledged, so that it does not come for ever.
            self._tell(self._acknowledge, one)
            return
        with self._room:
            self._room.wait_for(
                lambda: self._turn != turn or self._pending < self._limits.pending_max
            )
            self._pending += 1
        self._came.append(one)
        if not self._due:
            self._due = True
            self._tell(self._take)

    def _tell(self, function: Callable[..., None], *arguments: object) -> None:
        try:
            self._loop.call_soon_threadsafe(function, *arguments)
        except RuntimeError:
            log.debug("the loop has ended")

    # On the loop

    def _on_begin(self, turn: int, present: bool) -> None:
        if turn == self._turn:
            self.connected = True
            self.connection_count += 1
            kept = "has our session" if present else "has no session of ours"
            log.info("broker %s: connected, it %s", self._name, kept)

    def _on_end(self, turn: int, why: str) -> None:
        if turn == self._turn:
            log.warning("broker %s: connection ended: %s", self._name, why)
            self._ended.set()

    def _take(self) -> None:
        """Submit what came; wait for the door where it is congested."""
        self._due = False
        while self._came:
            if self._door.congested:
                if self._relief is None or self._relief.done():
                    self._relief = asyncio.create_task(
                        self._take_later(), name="broker relief"
                    )
                return
            self._submit(self._came.popleft())

    async def _take_later(self) -> None:
        await self._door.relieved()
        self._take()

    def _submit(self, message: _Message) -> None:
        device, stream, refusal, mapping = mqtt_topics.route(
            message.topic, mqtt_topics.DEVICE, None, self._mappings
        )
        payload = message.payload
        if len(payload) > PAYLOAD_SIZE_MAX:
            detail = f"payload of {len(payload)} bytes, at most {PAYLOAD_SIZE_MAX}"
            refusal, payload = (
                (Reason.TOO_LARGE, detail),
                payload[:PAYLOAD_KEPT_SIZE],
            )

        def settle(_outcome: Outcome) -> None:
            with self._room:
                self._pending -= 1
                self._room.notify()
            self._acknowledge(message)

        self._door.submit(
            Arrival(
                Source.MQTT,
                f"broker:{self._settings.host}",
                device,
                stream,
                payload,
                settle,
                redelivered=message.dup,
                packet_id=message.mid,
                mapping=mapping,
                refusal=refusal,
            )
        )

    def _acknowledge(self, message: _Message) -> None:
        """The PUBACK, on the connection that it came over and on no other.

        A packet identifier means something else on the next one.
        """
        if message.qos and message.turn == self._turn and self._client is not None:
            self._client.ack(message.mid, message.qos)
