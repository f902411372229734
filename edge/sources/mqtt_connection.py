"""One MQTT connection: packets in, Arrivals to the door, acknowledgements out.

    CONNECT ─► authenticate ─► PUBLISH ─► Arrival ─► door ... commit ... settle
                                  │                                        │
                               _Pending ◄───── in order of receipt ────────┘
                                  └─► at the end of the loop turn, one write

A PUBACK is written only after `settle`, that is after the commit. Every PUBLISH leaves
a _Pending in a queue in the order of receipt; a flush writes the settled beginning of
the queue, so PUBACKs go out in that order (MQTT-4.6.0-2), however they are settled.

Backpressure: reading (and decoding, in the middle of a chunk) stops while the door is
congested, while too many messages wait for their commit, or while the peer does not
read its answers. Nothing is dropped.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections import deque
from typing import TYPE_CHECKING, cast

from edge.errors import Reason
from edge.model import Arrival, Outcome, Source, Verdict
from edge.sources import mqtt_answers, mqtt_topics
from edge.sources.mqtt_encoder import encode, encode_puback
from edge.sources.mqtt_packets import (
    V5,
    V311,
    Connack,
    Connect,
    Decoder,
    Disconnect,
    Packet,
    Pingreq,
    Pingresp,
    Puback,
    Publish,
    Subscribe,
    Unsubscribe,
    Will,
)
from edge.sources.mqtt_properties import (
    Code,
    MqttError,
    Properties,
    Property,
    number,
)
from edge.sources.mqtt_session import Session
from edge.sources.mqtt_subscriber import Client, Subscriber

if TYPE_CHECKING:
    from edge.sources.mqtt_listener import MqttListener

PAYLOAD_SIZE_MAX = 65_536  # docs/wire-format.md section 3, check 1
PAYLOAD_KEPT_SIZE = 1_024  # of a payload that is refused for its size
CLIENT_ID_LENGTH_MAX = 256  # MQTT 3.1.3.1 asks for 23 at least
USER_LENGTH_MAX = 64  # as a device's name; it becomes the principal that quotas go by
ROUTES_KEPT_MAX = 64  # topics a connection need not parse again
NO_VIOLATIONS = frozenset(
    {
        Code.SHUTTING_DOWN,
        Code.SESSION_TAKEN_OVER,
        Code.KEEP_ALIVE_TIMEOUT,
        Code.SERVER_BUSY,
    }
)
KEEP_ALIVE_FACTOR = 1.5  # MQTT-3.1.2-22


class _Pending:
    """A message between its receipt and its acknowledgement."""

    __slots__ = ("answer", "connection", "packet_id")

    def __init__(self, connection: Connection, packet_id: int) -> None:
        self.connection = connection
        self.packet_id = packet_id  # 0 at QoS 0
        self.answer: bytes | None = None  # None until it is settled

    def settle(self, outcome: Outcome) -> None:
        """The message is durable; the answer goes out with this loop turn's others."""
        assert self.answer is None  # noqa: S101 - the door settles once
        connection = self.connection
        connection.judge(outcome)
        if not self.packet_id:
            self.answer = b""
        elif outcome.verdict is Verdict.REFUSED and connection.version == V5:
            self.answer = connection.refusal(self.packet_id, outcome)
        else:
            self.answer = encode_puback(self.packet_id)
        connection.touch()


class Connection(asyncio.Protocol):
    """The server's side of one connection, from accept to its end.

    `user` is None for an anonymous peer; `closing` says that nothing of the peer's is
    taken any more.
    """

    def __init__(self, listener: MqttListener) -> None:
        self._listener = listener
        self._limits = listener.limits
        self._door = listener.door
        self._loop = asyncio.get_running_loop()
        self._decoder = Decoder(self._limits.connect_size_max)
        self._transport: asyncio.Transport = None  # type: ignore[assignment] # connection_made
        self._timer: asyncio.TimerHandle | None = None
        self._timeout_s = self._limits.connect_timeout_s
        self._heard = 0.0
        self._pending: deque[_Pending] = deque()
        self._unacknowledged = 0  # QoS 1 messages among them
        self._touched = False  # queued for a flush
        self._stalled = False  # not reading, on purpose
        self._queued = False  # for the door's relief, then also stalled
        self._peer_reads = True
        self._trusted = False  # one of its messages was good
        self._slowed = False  # for a while: too many of its messages were refused
        self._routes: dict[str, mqtt_topics.Route] = {}
        self._role = ""
        self._will: Will | None = None
        self._reasons_wanted = True
        self._peer_packet_size_max = 0xFFFFFFFF
        self._subscriber: Subscriber | None = None  # None until CONNECT is accepted
        self.version = 0  # 0 until CONNECT is accepted
        self.client_id = ""
        self.user: str | None = None
        self.principal = ""
        self.peer = ""
        self.closing = False
        self._half_closed = False

    @property
    def is_tried(self) -> bool:
        """Whether it has earned its place: a good message, or a subscription."""
        session = self.session
        return self._trusted or (session is not None and bool(session.subscriptions))

    def make_way(self) -> None:
        """There are too many connections, and this one has done nothing so far."""
        self.disconnect(Code.SERVER_BUSY, "too many connections, and this one is idle")
        self._transport.abort()

    @property
    def pending_count(self) -> int:
        """Messages that wait for their commit or for the flush after it."""
        return len(self._pending)

    @property
    def session(self) -> Session | None:
        """Its session, None until CONNECT is accepted."""
        return self._subscriber.session if self._subscriber is not None else None

    @property
    def _serving(self) -> Subscriber:
        assert self._subscriber is not None  # noqa: S101 - CONNECT comes first
        return self._subscriber

    def __str__(self) -> str:
        # repr: names that a peer chose must not write lines of their own
        return f"{self.principal[:64]!r} ({self.client_id[:64]!r} from {self.peer})"

    # The transport's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Accepted: wait for CONNECT."""
        self._transport = cast(asyncio.Transport, transport)
        peername = transport.get_extra_info("peername")
        self.peer = str(peername[0]) if peername else "local"
        self.principal = f"mqtt:{self.peer}"
        connected = transport.get_extra_info("socket")
        if connected is not None:  # a peer without keep-alive can vanish unnoticed
            connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        self._heard = self._loop.time()
        self._timer = self._loop.call_later(self._timeout_s, self._watch)
        if not self._listener.admit(self):
            self._listener.log.warning("%s: refused, too many connections", self.peer)
            self.closing = True
            transport.abort()  # type: ignore[attr-defined] # a Transport, see above
            return
        wait_s = self._listener.violations.wait_s(self.peer)
        if wait_s > 0:
            self._slowed = True
            self._stall()
            wait_s = min(wait_s, self._limits.violations_wait_s)
            self._loop.call_later(wait_s, self._quicken)

    def connection_lost(self, exc: Exception | None) -> None:
        """Gone: answers that wait have nobody to go to; the will is published."""
        if self._timer is not None:
            self._timer.cancel()
        self.closing = True
        self._pending.clear()
        self._listener.forget(self)
        if self._will is not None and not self._listener.closing:
            self._listener.bury(self, self._will)
            self._will = None
        if isinstance(exc, OSError) and self.version:
            self._listener.log.info("%s: connection lost: %s", self, exc)

    def data_received(self, data: bytes) -> None:
        """Decode and handle as much as may be taken now."""
        if self.closing:
            return  # lingering, see disconnect
        try:
            self._decoder.feed(data)
            self._drain()
        except MqttError as error:
            self.disconnect(error.code, str(error))

    def eof_received(self) -> None:
        """The peer sends no more; asyncio closes the transport after this."""
        if not self.closing:
            self._linger()

    def pause_writing(self) -> None:
        """The peer does not read its answers: do not read its messages either."""
        self._peer_reads = False

    def resume_writing(self) -> None:
        """The peer has caught up."""
        self._peer_reads = True
        self._wake()
        self.pump()

    # Backpressure

    def _must_wait(self) -> bool:
        pending_max = self._limits.pending_max
        if not self._trusted:
            pending_max = min(pending_max, self._limits.untried_max)
        return (
            self._door.congested
            or len(self._pending) >= pending_max
            or not self._peer_reads
            or self._slowed
            or (self._subscriber is not None and self._subscriber.saving)
            or self._listener.closing
        )

    def _drain(self) -> None:
        """Handle packets until no complete one is left, or until it must wait."""
        decoder = self._decoder
        taken = 0
        while not self.closing:
            if self._must_wait():
                self._stall()
                return
            packet = decoder.next_packet()
            if packet is None:
                return
            taken += 1
            if taken == 1 and self.version:
                self._heard = self._loop.time()  # a packet: bytes alone are no life
            if type(packet) is Publish and self.version:
                self._take(packet)
            else:
                self._handle(packet)

    def _stall(self) -> None:
        if not self._stalled:
            self._stalled = True
            self._transport.pause_reading()
        if self._door.congested and not self._queued:
            self._queued = True
            self._listener.wait_for_relief(self)

    def stop_reading(self) -> None:
        """The listener is closing: only answers go out from here on."""
        if not self.closing:
            self._stall()

    def relieved(self) -> None:
        """The door takes messages again, and it is this connection's turn."""
        self._queued = False
        self._wake()

    def judge(self, outcome: Outcome) -> None:
        """What became of a message: who sends what is refused is read more slowly."""
        if outcome.verdict is not Verdict.REFUSED:
            self._trusted = True
            return
        wait_s = self._listener.refusals.spend(self.principal)
        if wait_s > 0 and not self._slowed and not self.closing:
            self._slowed = True
            self._loop.call_later(wait_s, self._quicken)

    def _quicken(self) -> None:
        self._slowed = False
        self._wake()

    def _wake(self) -> None:
        """Go on reading, where that is possible again.

        One that is queued for the door waits for its turn: being woken by its own
        acknowledgements would let a busy connection keep the others out.
        """
        if not self._stalled or self._queued or self.closing:
            return
        if self._must_wait():
            self._stall()
            return
        self._heard = self._loop.time()  # the silence was ours
        self._stalled = False
        try:
            self._drain()
        except MqttError as error:
            self.disconnect(error.code, str(error))
        if not self._stalled and not self.closing:
            self._transport.resume_reading()

    # Time

    def _watch(self) -> None:
        """CONNECT, then anything within 1.5 times the keep-alive, or it is over."""
        now = self._loop.time()
        left = self._heard + self._timeout_s - now
        if self._stalled:
            left = self._timeout_s  # we are the one who does not listen
        if left > 0:
            self._timer = self._loop.call_later(left, self._watch)
        elif self.version:
            self.disconnect(Code.KEEP_ALIVE_TIMEOUT, "nothing heard within keep-alive")
        else:
            self.disconnect(Code.UNSPECIFIED, "no CONNECT in time")

    # What the peer sends

    def _handle(self, packet: Packet) -> None:
        match packet:
            case Connect():
                self._connect(packet)
            case Puback(packet_id):
                self._serving.acknowledged(packet_id)
                self.pump()
            case Subscribe():
                self._serving.subscribe(packet)
            case Unsubscribe():
                self._serving.unsubscribe(packet)
            case Pingreq():
                self._write(encode(Pingresp(), self.version))
            case Disconnect(code):
                self._change_expiry(packet.properties)
                if code != Code.DISCONNECT_WITH_WILL:
                    self._will = None
                self._linger()
                self._transport.close()
            case _:
                raise AssertionError(f"the decoder lets no {type(packet).__name__} in")

    def _change_expiry(self, properties: Properties) -> None:
        """Section 3.14.2.2.2: 0 in CONNECT cannot become anything else."""
        session = self.session
        if session is None or Property.SESSION_EXPIRY_S not in properties:
            return
        wished_s = number(properties, Property.SESSION_EXPIRY_S, 0)
        if wished_s and not session.expiry_s:
            raise MqttError(Code.PROTOCOL_ERROR, "DISCONNECT: a session expiry after 0")
        session.expiry_s = min(wished_s, self._limits.session_expiry_max_s)

    def _take(self, packet: Publish) -> None:
        """A reading: to the door. The hot path."""
        if packet.qos:
            if self.version == V5:
                self._check_receive_maximum()
            self._unacknowledged += 1
        if packet.properties and Property.TOPIC_ALIAS in packet.properties:
            raise MqttError(
                Code.TOPIC_ALIAS_INVALID, "PUBLISH: no topic alias was offered"
            )
        pending = _Pending(self, packet.packet_id)
        self._pending.append(pending)
        self._submit(pending, packet.topic, packet.payload, packet.dup)

    def _check_receive_maximum(self) -> None:
        if self._unacknowledged >= self._limits.receive_max:
            raise MqttError(
                Code.RECEIVE_MAXIMUM_EXCEEDED,
                f"more than {self._limits.receive_max} messages in flight",
            )

    def submit_will(self, will: Will) -> None:
        """The client is gone without a goodbye: what it left for that is a message."""
        self._submit(_Pending(self, 0), will.topic, will.payload, False, will=True)

    def _submit(
        self,
        pending: _Pending,
        topic: str,
        payload: bytes,
        redelivered: bool,
        *,
        will: bool = False,
    ) -> None:
        route = self._routes.get(topic)
        if route is None:
            if len(self._routes) >= ROUTES_KEPT_MAX:
                self._routes.clear()
            route = mqtt_topics.route(
                topic, self._role, self.user, self._listener.mappings
            )
            self._routes[topic] = route
        device, stream, refusal, mapping = route
        if len(payload) > PAYLOAD_SIZE_MAX:
            size = len(payload)
            payload = payload[:PAYLOAD_KEPT_SIZE]
            detail = f"payload of {size} bytes, at most {PAYLOAD_SIZE_MAX}"
            refusal = Reason.TOO_LARGE, detail
        self._door.submit(
            Arrival(
                Source.MQTT,
                self.principal,
                device,
                stream,
                payload,
                pending.settle,
                user=self.user,
                redelivered=redelivered,
                packet_id=pending.packet_id,
                will=will,
                mapping=mapping,
                refusal=refusal,
            )
        )

    def _connect(self, packet: Connect) -> None:
        client_id, properties = packet.client_id, packet.properties
        if Property.AUTHENTICATION_METHOD in properties:
            raise MqttError(
                Code.BAD_AUTHENTICATION_METHOD, "CONNECT: no extended authentication"
            )
        if len(client_id) > CLIENT_ID_LENGTH_MAX:
            raise MqttError(
                Code.CLIENT_ID_NOT_VALID,
                f"CONNECT: client id of more than {CLIENT_ID_LENGTH_MAX} characters",
            )
        if not client_id and packet.version == V311 and not packet.clean_start:
            raise MqttError(
                Code.CLIENT_ID_NOT_VALID, "CONNECT: a session without a client id"
            )
        role, user = self._identified(packet)
        if role not in (mqtt_topics.DEVICE, mqtt_topics.VIEWER):
            raise MqttError(
                Code.BAD_USER_OR_PASSWORD,
                f"CONNECT: wrong user name or password for {user[:USER_LENGTH_MAX]!r}",
            )
        self._role = role
        if user:
            self.user = user
            self.principal = f"mqtt:{user}"
        self.client_id = client_id or self._listener.assign_client_id()
        self.version = packet.version
        self._decoder.packet_size_max = self._limits.packet_size_max
        self._will = packet.will
        self._heard = self._loop.time()
        self._set_timer(
            packet.keep_alive_s * KEEP_ALIVE_FACTOR or self._limits.idle_max_s
        )
        self._reasons_wanted = bool(number(properties, Property.REQUEST_PROBLEM, 1))
        self._peer_packet_size_max = number(
            properties, Property.MAXIMUM_PACKET_SIZE, self._peer_packet_size_max
        )
        wished_s = self._limits.session_expiry_max_s * (not packet.clean_start)
        if packet.version == V5:
            wished_s = number(properties, Property.SESSION_EXPIRY_S, 0)
        session, present = self._listener.register(
            self, clean=packet.clean_start, expiry_s=wished_s
        )
        client = Client(
            packet.version,
            role,
            self.user,
            self._peer_packet_size_max,
            number(properties, Property.RECEIVE_MAXIMUM, 0xFFFF),
            self._reasons_wanted,
        )
        self._subscriber = Subscriber(
            self._listener, client, session, self._write, self._answered
        )
        welcome = self._welcome(packet, session, wished_s)
        self._write(encode(Connack(0, present, welcome), self.version))
        self._subscriber.begin()
        self.pump()

    def _identified(self, packet: Connect) -> tuple[str | None, str]:
        """(role, user) of the peer; no role where it may not connect."""
        # The AWS clients put "?SDK=…" after it by default; no name has a question mark.
        user, password = (packet.user or "").split("?", 1)[0], packet.password or b""
        if len(user) > USER_LENGTH_MAX:
            return None, user
        secured = self._transport.get_extra_info("ssl_object")
        if secured is None or self._listener.identify is None:
            return self._listener.authenticate(user, password), user
        certificate = secured.getpeercert(binary_form=True)
        return self._listener.identify(user, password, certificate) or (None, user)

    def _answered(self) -> None:
        """A subscription is durable and answered: go on."""
        if not self.closing:
            self._wake()
            self.pump()

    def _welcome(self, packet: Connect, session: Session, wished_s: int) -> Properties:
        """What a client of version 5 is told about us; 3.1.1 has no place for it."""
        welcome: Properties = {
            Property.RECEIVE_MAXIMUM: self._limits.receive_max,
            Property.MAXIMUM_QOS: 1,
            # Told, not enforced: a reading that comes with the flag is taken as usual.
            Property.RETAIN_AVAILABLE: 0,
            Property.MAXIMUM_PACKET_SIZE: self._limits.packet_size_max,
            Property.TOPIC_ALIAS_MAXIMUM: 0,
            Property.SUBSCRIPTION_IDS_AVAILABLE: 0,
            Property.SHARED_AVAILABLE: 0,
        }
        if session.expiry_s != wished_s:
            welcome[Property.SESSION_EXPIRY_S] = session.expiry_s
        if not packet.client_id:
            welcome[Property.ASSIGNED_CLIENT_ID] = self.client_id
        return welcome

    def _set_timer(self, timeout_s: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timeout_s = timeout_s
        self._timer = (
            self._loop.call_later(timeout_s, self._watch) if timeout_s else None
        )

    # What goes to the peer

    def _write(self, packet: bytes) -> None:
        if not (self._half_closed or self._transport.is_closing()):
            self._transport.write(packet)

    def touch(self) -> None:
        """Have `flush` called at the end of this loop turn."""
        if not self._touched and not self.closing:
            self._touched = True
            self._listener.flush_soon(self)

    def flush(self) -> None:
        """Write the acknowledgements that are due, in one write."""
        self._touched = False
        pending = self._pending
        answers = []
        while pending and (answer := pending[0].answer) is not None:
            pending.popleft()
            if answer:
                answers.append(answer)
        if answers:
            self._unacknowledged -= len(answers)
            self._write(b"".join(answers))
        if self._stalled:
            self._wake()

    def refusal(self, packet_id: int, outcome: Outcome) -> bytes:
        """A PUBACK of version 5 that says why; the reason where the peer wants one."""
        return mqtt_answers.refusal(
            packet_id,
            outcome,
            self._peer_packet_size_max,
            reason=self._reasons_wanted,
        )

    def pump(self) -> None:
        """Send of the feed what the peer has room for, a page in each loop turn."""
        if self._subscriber is None or self.closing or not self._peer_reads:
            return
        if self._subscriber.pump():
            self._loop.call_soon(self.pump)

    def send(self, packet: Publish) -> bool:
        """Send a message to this subscriber; never waits.

        False when it is too large for the peer. A peer that does not read, or does not
        acknowledge, is disconnected once its bounded queue is full.
        """
        subscriber = self._subscriber
        if subscriber is None or not subscriber.send(packet):
            return False
        if (
            subscriber.too_far_behind
            or self._transport.get_write_buffer_size()
            > self._limits.write_buffer_size_max
        ):
            self._listener.log.warning("%s: disconnected, it does not read", self)
            self.closing = True
            self._transport.abort()
        return True

    # The end

    def disconnect(self, code: Code, why: str) -> None:
        """Say why, where the peer's version can, and close.

        The way out is a half-close: closing a socket that has unread input sends a
        reset, and that may overtake the reason. So reading goes on, into nothing, until
        the peer closes or `linger_s` is over.
        """
        if self.closing:
            return
        self._stalled, stalled = False, self._stalled
        self.flush()  # the last acknowledgements
        self._linger()
        if code not in NO_VIOLATIONS:
            self._listener.violations.spend(self.peer)
        if code is not Code.SHUTTING_DOWN:
            self._listener.log.warning("%s: disconnected (0x%02x): %s", self, code, why)
        farewell = mqtt_answers.farewell(
            code,
            why,
            self._decoder.version,
            known=bool(self.version),
            size_max=self._peer_packet_size_max,
        )
        if farewell:
            self._write(farewell)
        if stalled:
            self._transport.resume_reading()
        if self._transport.is_closing():
            return
        if self._transport.can_write_eof():
            # A SUBACK whose session is not durable yet has nobody to go to any more.
            self._half_closed = True
            with contextlib.suppress(OSError):  # the peer is gone already
                self._transport.write_eof()
        else:
            self._transport.close()

    def _linger(self) -> None:
        """Take nothing more; a peer that neither reads nor goes is cut off in time."""
        self.closing = True
        self._pending.clear()
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(
            self._limits.linger_s, self._transport.abort
        )
