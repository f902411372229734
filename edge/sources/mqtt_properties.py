"""The words of MQTT packets: reason codes, strings, numbers and version 5 properties.

OASIS MQTT 3.1.1 and 5.0 section 1.5 and 2.2.2. Sans-I/O: bytes in, values out.

    string      2 bytes length, UTF-8 without U+0000 and surrogates
    varint      1 to 4 bytes, 7 bits each, low bits first, the shortest form
    properties  varint length, then: varint identifier, value

Properties are a dict from identifier to value: an int, a str, bytes, and for the two
that may come several times (user property, subscription identifier) a tuple of them.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum
from typing import TypeAlias

from edge.errors import RejectError

PropertyValue: TypeAlias = (
    int | str | bytes | tuple[int, ...] | tuple[tuple[str, str], ...]
)
Properties: TypeAlias = dict[int, PropertyValue]

TEXT_SIZE_MAX = 65_535
PROPERTIES_MAX = 64  # of one packet; MQTT knows 28, user properties may repeat
VARINT_MAX = 268_435_455


class Code(IntEnum):
    """Reason codes of MQTT 5 (section 2.4) that this gateway sends or explains."""

    SUCCESS = 0x00
    DISCONNECT_WITH_WILL = 0x04
    NO_MATCHING_SUBSCRIBERS = 0x10
    NO_SUBSCRIPTION_EXISTED = 0x11
    UNSPECIFIED = 0x80
    MALFORMED = 0x81
    PROTOCOL_ERROR = 0x82
    IMPLEMENTATION_SPECIFIC = 0x83
    UNSUPPORTED_VERSION = 0x84
    CLIENT_ID_NOT_VALID = 0x85
    BAD_USER_OR_PASSWORD = 0x86
    NOT_AUTHORISED = 0x87
    SERVER_UNAVAILABLE = 0x88
    SERVER_BUSY = 0x89
    SHUTTING_DOWN = 0x8B
    BAD_AUTHENTICATION_METHOD = 0x8C
    KEEP_ALIVE_TIMEOUT = 0x8D
    SESSION_TAKEN_OVER = 0x8E
    TOPIC_FILTER_INVALID = 0x8F
    TOPIC_NAME_INVALID = 0x90
    PACKET_ID_IN_USE = 0x91
    RECEIVE_MAXIMUM_EXCEEDED = 0x93
    TOPIC_ALIAS_INVALID = 0x94
    PACKET_TOO_LARGE = 0x95
    MESSAGE_RATE_TOO_HIGH = 0x96
    QUOTA_EXCEEDED = 0x97
    ADMINISTRATIVE_ACTION = 0x98
    PAYLOAD_FORMAT_INVALID = 0x99
    QOS_NOT_SUPPORTED = 0x9B
    SHARED_SUBSCRIPTIONS_NOT_SUPPORTED = 0x9E
    SUBSCRIPTION_IDS_NOT_SUPPORTED = 0xA1


class MqttError(RejectError):
    """A peer broke the protocol: tell it `code` where its version can, and close."""

    def __init__(self, code: Code, text: str) -> None:
        super().__init__(text)
        self.code = code


class PacketType(IntEnum):
    """The control packets (section 2.1.2); WILL stands for the will in a CONNECT."""

    WILL = 0
    CONNECT = 1
    CONNACK = 2
    PUBLISH = 3
    PUBACK = 4
    PUBREC = 5
    PUBREL = 6
    PUBCOMP = 7
    SUBSCRIBE = 8
    SUBACK = 9
    UNSUBSCRIBE = 10
    UNSUBACK = 11
    PINGREQ = 12
    PINGRESP = 13
    DISCONNECT = 14
    AUTH = 15


class Property(IntEnum):
    """The properties of MQTT 5 (section 2.2.2.2)."""

    PAYLOAD_FORMAT = 0x01
    MESSAGE_EXPIRY_S = 0x02
    CONTENT_TYPE = 0x03
    RESPONSE_TOPIC = 0x08
    CORRELATION = 0x09
    SUBSCRIPTION_ID = 0x0B
    SESSION_EXPIRY_S = 0x11
    ASSIGNED_CLIENT_ID = 0x12
    SERVER_KEEP_ALIVE_S = 0x13
    AUTHENTICATION_METHOD = 0x15
    AUTHENTICATION_DATA = 0x16
    REQUEST_PROBLEM = 0x17
    WILL_DELAY_S = 0x18
    REQUEST_RESPONSE = 0x19
    RESPONSE_INFORMATION = 0x1A
    SERVER_REFERENCE = 0x1C
    REASON = 0x1F
    RECEIVE_MAXIMUM = 0x21
    TOPIC_ALIAS_MAXIMUM = 0x22
    TOPIC_ALIAS = 0x23
    MAXIMUM_QOS = 0x24
    RETAIN_AVAILABLE = 0x25
    USER = 0x26
    MAXIMUM_PACKET_SIZE = 0x27
    WILDCARD_AVAILABLE = 0x28
    SUBSCRIPTION_IDS_AVAILABLE = 0x29
    SHARED_AVAILABLE = 0x2A


_BYTE, _TWO, _FOUR, _VARINT, _TEXT, _BINARY, _PAIR = range(7)
_WIDTHS = {_BYTE: 1, _TWO: 2, _FOUR: 4}
_T, _P = PacketType, Property
_MESSAGE = frozenset({_T.PUBLISH, _T.WILL})
_HELLO = frozenset({_T.CONNECT, _T.CONNACK})
_WELCOME = frozenset({_T.CONNACK})
_AUTH = frozenset({_T.CONNECT, _T.CONNACK, _T.AUTH})
_BARE = frozenset({_T.PINGREQ, _T.PINGRESP})
_ASKS = frozenset({_T.WILL, _T.CONNECT, _T.PUBLISH, _T.SUBSCRIBE, _T.UNSUBSCRIBE})

# identifier → (type, packets that may carry it, least value, greatest value)
_TABLE: dict[int, tuple[int, frozenset[PacketType], int, int]] = {
    _P.PAYLOAD_FORMAT: (_BYTE, _MESSAGE, 0, 1),
    _P.MESSAGE_EXPIRY_S: (_FOUR, _MESSAGE, 0, 0xFFFFFFFF),
    _P.CONTENT_TYPE: (_TEXT, _MESSAGE, 0, 0),
    _P.RESPONSE_TOPIC: (_TEXT, _MESSAGE, 0, 0),
    _P.CORRELATION: (_BINARY, _MESSAGE, 0, 0),
    _P.SUBSCRIPTION_ID: (
        _VARINT,
        frozenset({_T.PUBLISH, _T.SUBSCRIBE}),
        1,
        VARINT_MAX,
    ),
    _P.SESSION_EXPIRY_S: (_FOUR, _HELLO | {_T.DISCONNECT}, 0, 0xFFFFFFFF),
    _P.ASSIGNED_CLIENT_ID: (_TEXT, _WELCOME, 0, 0),
    _P.SERVER_KEEP_ALIVE_S: (_TWO, _WELCOME, 0, 0xFFFF),
    _P.AUTHENTICATION_METHOD: (_TEXT, _AUTH, 0, 0),
    _P.AUTHENTICATION_DATA: (_BINARY, _AUTH, 0, 0),
    _P.REQUEST_PROBLEM: (_BYTE, frozenset({_T.CONNECT}), 0, 1),
    _P.WILL_DELAY_S: (_FOUR, frozenset({_T.WILL}), 0, 0xFFFFFFFF),
    _P.REQUEST_RESPONSE: (_BYTE, frozenset({_T.CONNECT}), 0, 1),
    _P.RESPONSE_INFORMATION: (_TEXT, _WELCOME, 0, 0),
    _P.SERVER_REFERENCE: (_TEXT, _WELCOME | {_T.DISCONNECT}, 0, 0),
    _P.REASON: (_TEXT, frozenset(_T) - _ASKS - _BARE, 0, 0),
    _P.RECEIVE_MAXIMUM: (_TWO, _HELLO, 1, 0xFFFF),
    _P.TOPIC_ALIAS_MAXIMUM: (_TWO, _HELLO, 0, 0xFFFF),
    _P.TOPIC_ALIAS: (_TWO, frozenset({_T.PUBLISH}), 1, 0xFFFF),
    _P.MAXIMUM_QOS: (_BYTE, _WELCOME, 0, 1),
    _P.RETAIN_AVAILABLE: (_BYTE, _WELCOME, 0, 1),
    _P.USER: (_PAIR, frozenset(_T) - _BARE, 0, 0),
    _P.MAXIMUM_PACKET_SIZE: (_FOUR, _HELLO, 1, 0xFFFFFFFF),
    _P.WILDCARD_AVAILABLE: (_BYTE, _WELCOME, 0, 1),
    _P.SUBSCRIPTION_IDS_AVAILABLE: (_BYTE, _WELCOME, 0, 1),
    _P.SHARED_AVAILABLE: (_BYTE, _WELCOME, 0, 1),
}


def number(properties: Properties, key: Property, default: int) -> int:
    """The value of a property that is a number, or `default` where it is absent."""
    value = properties.get(key, default)
    assert isinstance(value, int)  # noqa: S101 - the table says so
    return value


class Body:
    """A cursor over one packet's body; every read checks what is left."""

    __slots__ = ("_at", "_bytes", "_name")

    def __init__(self, body: bytes, name: str) -> None:
        self._bytes = body
        self._at = 0
        self._name = name

    @property
    def left(self) -> int:
        """Bytes not yet read."""
        return len(self._bytes) - self._at

    def malformed(self, text: str) -> MqttError:
        """The error for this place in the packet."""
        return MqttError(Code.MALFORMED, f"{self._name}: {text} at byte {self._at}")

    def take(self, size: int) -> bytes:
        """The next `size` bytes."""
        end = self._at + size
        if end > len(self._bytes):
            raise self.malformed(f"{size} bytes end early")
        taken = self._bytes[self._at : end]
        self._at = end
        return taken

    def rest(self) -> bytes:
        """All that is left."""
        return self.take(self.left)

    def integer(self, width: int) -> int:
        """An unsigned integer of `width` bytes."""
        return int.from_bytes(self.take(width), "big")

    def varint(self) -> int:
        """A variable byte integer in its shortest form."""
        value = 0
        for shift in (0, 7, 14, 21):
            byte = self.integer(1)
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                if not byte and shift:
                    raise self.malformed("number not in its shortest form")
                return value
        raise self.malformed("number of more than four bytes")

    def binary(self) -> bytes:
        """Bytes behind a two-byte length."""
        return self.take(self.integer(2))

    def text(self) -> str:
        """A UTF-8 string behind a two-byte length."""
        return text_of(self.binary(), self._name)

    def packet_id(self) -> int:
        """A packet identifier, which is never 0."""
        packet_id = self.integer(2)
        if not packet_id:
            raise MqttError(Code.PROTOCOL_ERROR, f"{self._name}: packet identifier 0")
        return packet_id

    def end(self) -> None:
        """Refuse bytes behind the end."""
        if self.left:
            raise self.malformed(f"{self.left} bytes too many")

    def properties(self, packet: PacketType) -> Properties:
        """The properties at this place, checked for `packet`."""
        part = Body(self.take(self.varint()), f"{self._name} properties")
        found: Properties = {}
        pairs: list[tuple[str, str]] = []
        subscription_ids: list[int] = []
        while part.left:
            if len(found) + len(pairs) + len(subscription_ids) >= PROPERTIES_MAX:
                raise MqttError(
                    Code.QUOTA_EXCEEDED,
                    f"{part._name}: more than {PROPERTIES_MAX}",
                )
            key = part.varint()
            if key not in _TABLE or packet not in _TABLE[key][1]:
                raise part.malformed(f"property 0x{key:02x} does not belong here")
            if key == _P.USER:
                pairs.append((part.text(), part.text()))
            elif key in found:
                raise MqttError(
                    Code.PROTOCOL_ERROR, f"{part._name}: {_P(key).name} comes twice"
                )
            elif key == _P.SUBSCRIPTION_ID and packet is PacketType.PUBLISH:
                subscription_ids.append(part._number(key))
            elif _TABLE[key][0] == _TEXT:
                found[key] = part.text()
            elif _TABLE[key][0] == _BINARY:
                found[key] = part.binary()
            else:
                found[key] = part._number(key)
        if pairs:
            found[_P.USER] = tuple(pairs)
        if subscription_ids:
            found[_P.SUBSCRIPTION_ID] = tuple(subscription_ids)
        if _P.AUTHENTICATION_DATA in found and _P.AUTHENTICATION_METHOD not in found:
            raise MqttError(
                Code.PROTOCOL_ERROR, f"{self._name}: authentication without its method"
            )
        return found

    def _number(self, key: int) -> int:
        kind, _, least, greatest = _TABLE[key]
        value = self.varint() if kind == _VARINT else self.integer(_WIDTHS[kind])
        if not least <= value <= greatest:
            alias = key == _P.TOPIC_ALIAS
            raise MqttError(
                Code.TOPIC_ALIAS_INVALID if alias else Code.PROTOCOL_ERROR,
                f"{self._name}: {_P(key).name} must not be {value}",
            )
        return value


def text_of(encoded: bytes, name: str) -> str:
    """The string of these bytes; MqttError for what section 1.5.4 forbids."""
    try:
        text = encoded.decode()
    except UnicodeDecodeError as error:
        raise MqttError(Code.MALFORMED, f"{name}: text is not UTF-8") from error
    if "\0" in text:
        raise MqttError(Code.MALFORMED, f"{name}: text holds U+0000")
    return text


def varint(value: int) -> bytes:
    """The shortest encoding; ValueError above 268,435,455."""
    if not 0 <= value <= VARINT_MAX:
        raise ValueError(f"{value} does not fit a variable byte integer")
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def binary(value: bytes) -> bytes:
    """`value` behind its two-byte length; ValueError when it is too long."""
    if len(value) > TEXT_SIZE_MAX:
        raise ValueError(f"{len(value)} bytes do not fit a two-byte length")
    return len(value).to_bytes(2, "big") + value


def text(value: str) -> bytes:
    """A string behind its two-byte length."""
    return binary(value.encode())


def printable(value: str, size_max: int) -> str:
    """`value` as a reason string: no U+0000, no surrogate, at most `size_max` bytes."""
    encoded = value.replace("\0", "?").encode(errors="replace")[:size_max]
    return encoded.decode(errors="ignore")


def encode_properties(properties: Properties) -> bytes:
    """Length and properties; for our own use, so types are trusted."""
    out = b"".join(_encode_property(*pair) for pair in properties.items())
    return varint(len(out)) + out


def _encode_property(key: int, value: PropertyValue) -> bytes:
    kind = _TABLE[key][0]
    if isinstance(value, tuple):
        return b"".join(_encode_many(key, value))
    if isinstance(value, str):
        return bytes((key,)) + text(value)
    if isinstance(value, bytes):
        return bytes((key,)) + binary(value)
    if kind == _VARINT:
        return bytes((key,)) + varint(value)
    return bytes((key,)) + value.to_bytes(_WIDTHS[kind], "big")


def _encode_many(key: int, values: Iterable[int | tuple[str, str]]) -> Iterable[bytes]:
    for value in values:
        if isinstance(value, int):
            yield bytes((key,)) + varint(value)
        else:
            yield bytes((key,)) + text(value[0]) + text(value[1])
