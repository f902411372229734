"""MQTT 3.1.1 and 5.0 packets, from bytes and to bytes. Sans-I/O: no socket, no clock.

    fixed header     1 byte: type << 4 | flags; varint: length of what follows
    variable header  by type; in version 5 it ends with properties
    payload          by type

A Decoder is fed what the socket gave and is asked for packets one at a time, so that
the caller can stop in the middle of a chunk (backpressure). The result does not depend
on how the stream was cut. It raises MqttError with the reason code of MQTT 5, or
nothing; the first error ends it.

Refused on purpose: QoS 2 (0x9B; a reading carries its own sequence, so exactly-once
needs no second handshake) and extended authentication. The way back to bytes is
mqtt_encoder.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import ClassVar, TypeAlias

from edge.sources.mqtt_properties import (
    Body,
    Code,
    MqttError,
    PacketType,
    Properties,
    Property,
    text_of,
)

V311 = 4  # the protocol level of a CONNECT
V5 = 5
FIXED_HEADER_SIZE_MAX = 5
FILTERS_MAX = 128  # of one SUBSCRIBE or UNSUBSCRIBE
_NO_PROPERTIES: Properties = {}  # shared by all that have none; nobody writes to it


@dataclass(frozen=True, slots=True)
class Will:
    """What the server publishes when the client vanishes."""

    topic: str
    payload: bytes
    qos: int = 0
    retain: bool = False
    properties: Properties = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Connect:
    """Section 3.1. `keep_alive_s` 0 means none; `user` None means anonymous."""

    client_id: str
    version: int = V311
    clean_start: bool = True
    keep_alive_s: int = 0
    user: str | None = None
    password: bytes | None = None
    will: Will | None = None
    properties: Properties = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Connack:
    """Section 3.2. `code` is a 3.1.1 return code (0 to 5) or a reason code of 5."""

    code: int = 0
    session_present: bool = False
    properties: Properties = field(default_factory=dict)


# Not frozen: it is made for every reading, and a frozen dataclass of seven fields takes
# four times as long to make. Nobody changes one all the same.
@dataclass(slots=True)
class Publish:
    """Section 3.3. `packet_id` is 0 at QoS 0."""

    topic: str
    payload: bytes
    qos: int = 0
    packet_id: int = 0
    dup: bool = False
    retain: bool = False
    properties: Properties = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Puback:
    """Section 3.4. 3.1.1 knows only success."""

    packet_id: int
    code: int = 0
    properties: Properties = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Subscription:
    """One line of a SUBSCRIBE; the options after `qos` exist in version 5 only."""

    topic_filter: str
    qos: int = 0
    no_local: bool = False
    retain_as_published: bool = False
    retain_handling: int = 0


@dataclass(frozen=True, slots=True)
class Subscribe:
    """Section 3.8."""

    packet_id: int
    subscriptions: tuple[Subscription, ...]
    properties: Properties = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Suback:
    """Section 3.9: one code for each line, the granted QoS or 0x80 and above."""

    packet_id: int
    codes: tuple[int, ...]
    properties: Properties = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Unsubscribe:
    """Section 3.10."""

    packet_id: int
    topic_filters: tuple[str, ...]
    properties: Properties = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Unsuback:
    """Section 3.11; 3.1.1 carries no codes."""

    packet_id: int
    codes: tuple[int, ...] = ()
    properties: Properties = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Pingreq:
    """Section 3.12."""


@dataclass(frozen=True, slots=True)
class Pingresp:
    """Section 3.13."""


@dataclass(frozen=True, slots=True)
class Disconnect:
    """Section 3.14; 3.1.1 carries no code, and only clients send it."""

    code: int = 0
    properties: Properties = field(default_factory=dict)


Packet: TypeAlias = (
    Connect
    | Connack
    | Publish
    | Puback
    | Subscribe
    | Suback
    | Unsubscribe
    | Unsuback
    | Pingreq
    | Pingresp
    | Disconnect
)

_T = PacketType
_FROM_CLIENT = frozenset(
    {
        _T.CONNECT,
        _T.PUBLISH,
        _T.PUBACK,
        _T.SUBSCRIBE,
        _T.UNSUBSCRIBE,
        _T.PINGREQ,
        _T.DISCONNECT,
    }
)
_FROM_SERVER = frozenset(
    {
        _T.CONNACK,
        _T.PUBLISH,
        _T.PUBACK,
        _T.SUBACK,
        _T.UNSUBACK,
        _T.PINGRESP,
        _T.DISCONNECT,
    }
)
_FLAGS_TWO = frozenset({_T.PUBREL, _T.SUBSCRIBE, _T.UNSUBSCRIBE})  # section 2.1.3
_QOS_TWO = frozenset({_T.PUBREC, _T.PUBREL, _T.PUBCOMP})
_PUBACK_CODES = frozenset({0x00, 0x10, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99})
_DISCONNECT_CODES_CLIENT = frozenset(
    {0x00, 0x04, *range(0x80, 0x84), 0x90, *range(0x93, 0x9A)}
)


class Decoder:
    """Packets from a stream of bytes, each at most `packet_size_max` bytes in all.

    A decoder for the server's side takes what clients send, the first of it a CONNECT,
    which sets `version`; for a client's side give `version` and `from_server`.
    """

    __slots__ = (
        "_at",
        "_buffer",
        "_failure",
        "_kinds",
        "_partial",
        "_wanted",
        "packet_size_max",
        "version",
    )

    def __init__(
        self, packet_size_max: int, *, version: int = 0, from_server: bool = False
    ) -> None:
        self.packet_size_max = packet_size_max
        self.version = version
        self._kinds = _FROM_SERVER if from_server else _FROM_CLIENT
        self._buffer = b""  # whole packets, and the beginning of one
        self._at = 0
        self._partial = bytearray()  # the beginning of a packet whose end is missing
        self._wanted = 0  # bytes of `_partial` before it is worth another look
        self._failure: MqttError | None = None

    def feed(self, chunk: bytes) -> None:
        """Take what the socket gave; raises again the error that ended the stream.

        A packet that comes in many chunks is copied twice, whatever their size.
        """
        if self._failure is not None:
            raise self._failure
        if self._partial:
            self._partial += chunk
            if len(self._partial) < self._wanted:
                return
            self._buffer, self._at = bytes(self._partial), 0
            self._partial.clear()
        elif self._at >= len(self._buffer):
            self._buffer, self._at = chunk, 0
        else:
            self._buffer, self._at = self._buffer[self._at :] + chunk, 0

    def packets(self, chunk: bytes) -> Iterator[Packet]:
        """Feed, then all packets that are complete."""
        self.feed(chunk)
        while (packet := self.next_packet()) is not None:
            yield packet

    def next_packet(self) -> Packet | None:
        """The next complete packet, None when more bytes are needed."""
        try:
            return self._next()
        except MqttError as error:
            self._failure = error
            self._buffer, self._at = b"", 0
            raise

    def _next(self) -> Packet | None:
        buffer, at = self._buffer, self._at
        available = len(buffer)
        if available - at < 2:
            self._keep(available - at + 1)
            return None
        first, length, body = buffer[at], buffer[at + 1], at + 2
        if length > 0x7F:
            length &= 0x7F
            for shift in (7, 14, 21):
                if body >= available:
                    self._keep(available - at + 1)
                    return None
                byte = buffer[body]
                body += 1
                length |= (byte & 0x7F) << shift
                if byte < 0x80:
                    if not byte and self.version == V5:
                        raise _malformed("remaining length not in its shortest form")
                    break
            else:
                raise _malformed("remaining length of more than four bytes")
        end = body + length
        if end - at > self.packet_size_max:
            raise MqttError(
                Code.PACKET_TOO_LARGE,
                f"packet of {end - at} bytes, at most {self.packet_size_max}",
            )
        if first >> 4 == _T.PUBLISH and self.version:
            if end > available:
                self._keep(end - at)
                return None
            self._at = end
            return self._publish(first, body, end)
        kind = self._check_head(first)
        if end > available:
            self._keep(end - at)
            return None
        self._at = end
        return self._OTHERS[kind](self, Body(buffer[body:end], kind.name))

    def _keep(self, wanted: int) -> None:
        """Keep what is there until `wanted` bytes of the next packet are."""
        if self._at < len(self._buffer):
            self._partial += memoryview(self._buffer)[self._at :]
            self._wanted = wanted
        self._buffer, self._at = b"", 0

    def _check_head(self, first: int) -> PacketType:
        kind, flags = PacketType(first >> 4), first & 0x0F
        if not self.version and kind is not _T.CONNECT:
            raise MqttError(Code.PROTOCOL_ERROR, f"{kind.name} before CONNECT")
        if kind is _T.WILL or (kind is _T.AUTH and self.version == V311):
            raise _malformed(f"packet type {kind}")
        if flags != (2 if kind in _FLAGS_TWO else 0):
            raise _malformed(f"{kind.name}: reserved flags {flags:#x}")
        if kind in _QOS_TWO:
            raise MqttError(
                Code.QOS_NOT_SUPPORTED, f"{kind.name}: QoS 2 is not supported"
            )
        if kind not in self._kinds:
            raise MqttError(Code.PROTOCOL_ERROR, f"{kind.name} from the wrong side")
        if kind is _T.CONNECT and self.version:
            raise MqttError(Code.PROTOCOL_ERROR, "a second CONNECT")
        return kind

    def _publish(self, first: int, at: int, end: int) -> Publish:
        """The hot path: slices of the buffer, no cursor."""
        buffer = self._buffer
        topic_at = at + 2
        if topic_at > end:
            raise _malformed("PUBLISH: ends in the topic")
        at = topic_at + (buffer[topic_at - 2] << 8 | buffer[topic_at - 1])
        qos = first >> 1 & 3
        packet_id = 0
        if qos:
            topic_end = at
            at += 2
            if at > end:
                raise _malformed("PUBLISH: ends in topic or packet identifier")
            packet_id = buffer[topic_end] << 8 | buffer[topic_end + 1]
            topic = text_of(buffer[topic_at:topic_end], "PUBLISH")
            if qos > 1:
                raise _qos_error(qos, "PUBLISH")
            if not packet_id:
                raise MqttError(Code.PROTOCOL_ERROR, "PUBLISH: packet identifier 0")
        else:
            if at > end:
                raise _malformed("PUBLISH: ends in the topic")
            if first & 8:
                raise _malformed("PUBLISH: DUP at QoS 0")
            topic = text_of(buffer[topic_at:at], "PUBLISH")
        properties = _NO_PROPERTIES
        if self.version == V5:
            if at < end and not buffer[at]:
                at += 1
            else:
                body = Body(buffer[at:end], "PUBLISH")
                properties = body.properties(_T.PUBLISH)
                at = end - body.left
                self._check_publish_properties(properties)
        if not topic or "+" in topic or "#" in topic:
            _check_odd_topic(topic, properties)
        return Publish(
            topic,
            buffer[at:end],
            qos,
            packet_id,
            bool(first & 8),
            bool(first & 1),
            properties,
        )

    def _check_publish_properties(self, properties: Properties) -> None:
        _check_response_topic(properties, "PUBLISH")
        if self._kinds is _FROM_CLIENT and Property.SUBSCRIPTION_ID in properties:
            raise MqttError(
                Code.PROTOCOL_ERROR, "PUBLISH: subscription identifier from a client"
            )

    def _connect(self, body: Body) -> Connect:
        name, level = body.text(), body.integer(1)
        if name != "MQTT" or level not in (V311, V5):
            # The answer goes out in the nearest version that the peer may understand.
            self.version = V5 if level >= V5 and name == "MQTT" else V311
            raise MqttError(
                Code.UNSUPPORTED_VERSION, f"CONNECT: protocol {name[:16]!r} {level}"
            )
        self.version = level
        flags, keep_alive_s = body.integer(1), body.integer(2)
        if flags & 1:
            raise body.malformed("reserved connect flag")
        will_qos = flags >> 3 & 3
        if will_qos > 1:
            raise _qos_error(will_qos, "CONNECT: will")
        if not flags & 4 and flags & 0x38:
            raise body.malformed("will flags without a will")
        if level == V311 and flags & 0xC0 == 0x40:
            raise body.malformed("password without user name")
        properties = body.properties(_T.CONNECT) if level == V5 else {}
        client_id = body.text()
        will = None
        if flags & 4:
            will_properties = body.properties(_T.WILL) if level == V5 else {}
            _check_response_topic(will_properties, "CONNECT")
            will = Will(
                _topic_name(body.text(), "CONNECT: will"),
                body.binary(),
                will_qos,
                bool(flags & 0x20),
                will_properties,
            )
        user = body.text() if flags & 0x80 else None
        password = body.binary() if flags & 0x40 else None
        body.end()
        return Connect(
            client_id,
            level,
            bool(flags & 2),
            keep_alive_s,
            user,
            password,
            will,
            properties,
        )

    def _connack(self, body: Body) -> Connack:
        flags, code = body.integer(1), body.integer(1)
        if flags > 1:
            raise body.malformed("reserved flags")
        properties = self._properties(body, _T.CONNACK)
        body.end()
        return Connack(code, bool(flags), properties)

    def _puback(self, body: Body) -> Puback:
        packet_id = body.packet_id()
        code, properties = self._code_and_properties(body, _T.PUBACK)
        if code not in _PUBACK_CODES:
            raise body.malformed(f"reason code {code:#x}")
        return Puback(packet_id, code, properties)

    def _disconnect(self, body: Body) -> Disconnect:
        code, properties = self._code_and_properties(body, _T.DISCONNECT)
        if self._kinds is _FROM_CLIENT and code not in _DISCONNECT_CODES_CLIENT:
            raise body.malformed(f"reason code {code:#x}")
        return Disconnect(code, properties)

    def _code_and_properties(
        self, body: Body, kind: PacketType
    ) -> tuple[int, Properties]:
        """Version 5 may leave out the properties, and the code with them."""
        code, properties = 0, _NO_PROPERTIES
        if self.version == V5 and body.left:
            code = body.integer(1)
            if body.left:
                properties = body.properties(kind)
        body.end()
        return code, properties

    def _properties(self, body: Body, kind: PacketType) -> Properties:
        return body.properties(kind) if self.version == V5 else {}

    def _subscribe(self, body: Body) -> Subscribe:
        packet_id = body.packet_id()
        properties = self._properties(body, _T.SUBSCRIBE)
        subscriptions: list[Subscription] = []
        while body.left:
            _check_filters(len(subscriptions), "SUBSCRIBE")
            subscriptions.append(self._subscription(body))
        if not subscriptions:
            raise MqttError(Code.PROTOCOL_ERROR, "SUBSCRIBE: no topic filter")
        return Subscribe(packet_id, tuple(subscriptions), properties)

    def _subscription(self, body: Body) -> Subscription:
        topic_filter, options = body.text(), body.integer(1)
        if options & (0xC0 if self.version == V5 else 0xFC):
            raise body.malformed("reserved subscription options")
        if options & 3 == 3:
            raise body.malformed("QoS 3")
        subscription = Subscription(
            topic_filter,
            options & 3,
            bool(options & 4),
            bool(options & 8),
            options >> 4,
        )
        if subscription.retain_handling == 3:
            raise MqttError(Code.PROTOCOL_ERROR, "SUBSCRIBE: retain handling 3")
        if subscription.no_local and topic_filter.startswith("$share/"):
            raise MqttError(Code.PROTOCOL_ERROR, "SUBSCRIBE: no-local and shared")
        return subscription

    def _unsubscribe(self, body: Body) -> Unsubscribe:
        packet_id = body.packet_id()
        properties = self._properties(body, _T.UNSUBSCRIBE)
        filters: list[str] = []
        while body.left:
            _check_filters(len(filters), "UNSUBSCRIBE")
            filters.append(body.text())
        if not filters:
            raise MqttError(Code.PROTOCOL_ERROR, "UNSUBSCRIBE: no topic filter")
        return Unsubscribe(packet_id, tuple(filters), properties)

    def _suback(self, body: Body) -> Suback:
        packet_id = body.packet_id()
        properties = self._properties(body, _T.SUBACK)
        return Suback(packet_id, tuple(body.rest()), properties)

    def _unsuback(self, body: Body) -> Unsuback:
        packet_id = body.packet_id()
        properties = self._properties(body, _T.UNSUBACK)
        codes = tuple(body.rest()) if self.version == V5 else ()
        body.end()
        return Unsuback(packet_id, codes, properties)

    def _pingreq(self, body: Body) -> Pingreq:
        body.end()
        return Pingreq()

    def _pingresp(self, body: Body) -> Pingresp:
        body.end()
        return Pingresp()

    _OTHERS: ClassVar[dict[PacketType, Callable[[Decoder, Body], Packet]]] = {
        _T.CONNECT: _connect,
        _T.CONNACK: _connack,
        _T.PUBACK: _puback,
        _T.SUBSCRIBE: _subscribe,
        _T.SUBACK: _suback,
        _T.UNSUBSCRIBE: _unsubscribe,
        _T.UNSUBACK: _unsuback,
        _T.PINGREQ: _pingreq,
        _T.PINGRESP: _pingresp,
        _T.DISCONNECT: _disconnect,
    }


def _malformed(why: str) -> MqttError:
    return MqttError(Code.MALFORMED, why)


def _qos_error(qos: int, name: str) -> MqttError:
    if qos == 3:
        return _malformed(f"{name}: QoS 3")
    return MqttError(Code.QOS_NOT_SUPPORTED, f"{name}: QoS 2 is not supported")


def _check_odd_topic(topic: str, properties: Properties) -> None:
    if topic:
        raise MqttError(Code.TOPIC_NAME_INVALID, "PUBLISH: wildcard in the topic")
    if Property.TOPIC_ALIAS not in properties:
        raise MqttError(Code.PROTOCOL_ERROR, "PUBLISH: empty topic")


def _check_filters(count: int, name: str) -> None:
    if count >= FILTERS_MAX:
        raise MqttError(
            Code.QUOTA_EXCEEDED, f"{name}: more than {FILTERS_MAX} topic filters"
        )


def _topic_name(topic: str, name: str) -> str:
    if not topic or "+" in topic or "#" in topic:
        raise MqttError(Code.TOPIC_NAME_INVALID, f"{name}: not a topic name")
    return topic


def _check_response_topic(properties: Properties, name: str) -> None:
    topic = properties.get(Property.RESPONSE_TOPIC)
    if isinstance(topic, str):
        _topic_name(topic, f"{name}: response topic")
