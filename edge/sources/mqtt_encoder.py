"""MQTT 3.1.1 and 5.0 packets to bytes: the other direction of mqtt_packets. Sans-I/O.

Serves both sides: the gateway's answers, and the requests of tests and benchmarks.
"""

from __future__ import annotations

import struct

from edge.sources.mqtt_packets import (
    V5,
    Connack,
    Connect,
    Disconnect,
    Packet,
    Pingreq,
    Pingresp,
    Puback,
    Publish,
    Suback,
    Subscribe,
    Subscription,
    Unsuback,
    Unsubscribe,
)
from edge.sources.mqtt_properties import (
    Properties,
    binary,
    encode_properties,
    text,
    varint,
)

_PUBACK = struct.Struct(">HH")


def encode_puback(packet_id: int) -> bytes:
    """A PUBACK that says success: the same four bytes in both versions."""
    return _PUBACK.pack(0x4002, packet_id)


def encode(packet: Packet, version: int) -> bytes:
    """The bytes of a packet in `version` (V311 or V5).

    What 3.1.1 has no place for (properties, codes) is left out there. ValueError for a
    string of more than 65,535 bytes.
    """
    part = _Encoder(version)
    match packet:
        case Publish():
            return part.publish(packet)
        case Connect():
            return _framed(0x10, part.connect(packet))
        case Connack(code, session_present):
            head = bytes((session_present, code))
            return _framed(0x20, head + part.properties(packet.properties))
        case Puback(packet_id, code):
            head = packet_id.to_bytes(2, "big")
            return _framed(0x40, head + part.code(code, packet.properties))
        case Subscribe(packet_id, subscriptions):
            return _framed(
                0x82,
                part.identified(packet_id, packet.properties)
                + b"".join(map(_encode_subscription, subscriptions)),
            )
        case Suback(packet_id, codes):
            head = part.identified(packet_id, packet.properties)
            return _framed(0x90, head + bytes(codes))
        case Unsubscribe(packet_id, filters):
            head = part.identified(packet_id, packet.properties)
            return _framed(0xA2, head + b"".join(map(text, filters)))
        case Unsuback(packet_id, codes):
            head = part.identified(packet_id, packet.properties)
            return _framed(0xB0, head + (bytes(codes) if version == V5 else b""))
        case Pingreq():
            return b"\xc0\x00"
        case Pingresp():
            return b"\xd0\x00"
        case Disconnect(code):
            return _framed(0xE0, part.code(code, packet.properties))


def _framed(first: int, body: bytes) -> bytes:
    return bytes((first,)) + varint(len(body)) + body


def _encode_subscription(subscription: Subscription) -> bytes:
    options = (
        subscription.qos
        | subscription.no_local << 2
        | subscription.retain_as_published << 3
        | subscription.retain_handling << 4
    )
    return text(subscription.topic_filter) + bytes((options,))


class _Encoder:
    """The parts of packets that depend on the version."""

    __slots__ = ("version",)

    def __init__(self, version: int) -> None:
        self.version = version

    def properties(self, properties: Properties) -> bytes:
        return encode_properties(properties) if self.version == V5 else b""

    def identified(self, packet_id: int, properties: Properties) -> bytes:
        return packet_id.to_bytes(2, "big") + self.properties(properties)

    def code(self, code: int, properties: Properties) -> bytes:
        """A trailing reason code, left out with its properties when it says nothing."""
        if self.version != V5 or not (code or properties):
            return b""
        return bytes((code,)) + (encode_properties(properties) if properties else b"")

    def publish(self, packet: Publish) -> bytes:
        first = 0x30 | packet.dup << 3 | packet.qos << 1 | packet.retain
        head = text(packet.topic)
        if packet.qos:
            head += packet.packet_id.to_bytes(2, "big")
        return _framed(
            first, head + self.properties(packet.properties) + packet.payload
        )

    def connect(self, packet: Connect) -> bytes:
        will = packet.will
        flags = (
            packet.clean_start << 1
            | (packet.user is not None) << 7
            | (packet.password is not None) << 6
        )
        parts = [text("MQTT")]
        tail = [self.properties(packet.properties), text(packet.client_id)]
        if will is not None:
            flags |= 4 | will.qos << 3 | will.retain << 5
            tail += [self.properties(will.properties), text(will.topic)]
            tail.append(binary(will.payload))
        if packet.user is not None:
            tail.append(text(packet.user))
        if packet.password is not None:
            tail.append(binary(packet.password))
        parts.append(bytes((self.version, flags)))
        parts.append(packet.keep_alive_s.to_bytes(2, "big"))
        return b"".join(parts + tail)
