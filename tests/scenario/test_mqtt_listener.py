"""The MQTT listener against a client of our own codec: answers, refusals, violations.

Everything runs over real sockets; only the door is a fake, which settles when told.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable
from typing import Any

import pytest
from mqtt_fakes import (
    COMMITTED,
    VITALS,
    FakeDoor,
    Peer,
    both,
    code_of_disconnect,
    expected,
    listening,
    until,
)

from edge.errors import Reason
from edge.model import Arrival, Outcome, Source, Verdict
from edge.sources.mqtt_answers import REASON_CODES
from edge.sources.mqtt_encoder import encode, encode_puback
from edge.sources.mqtt_listener import (
    LOG_LINES_MAX,
    LOG_PERIOD_S,
    Limits,
    MqttListener,
    RateLimitedLog,
)
from edge.sources.mqtt_packets import (
    V5,
    V311,
    Connect,
    Disconnect,
    Packet,
    Pingreq,
    Pingresp,
    Puback,
    Publish,
    Subscribe,
    Subscription,
    Unsubscribe,
)
from edge.sources.mqtt_properties import Code, Properties, Property


def refuse(reason: Reason, detail: str = "no") -> Callable[[Arrival], Outcome]:
    return lambda _: Outcome(Verdict.REFUSED, reason, detail)


# Acknowledgement after the commit, and only then


@both
async def test_a_puback_comes_after_settle_and_not_before(version: int) -> None:
    door = FakeDoor()
    async with listening(door) as listener, Peer(listener, version) as peer:
        await peer.connect()
        peer.write(peer.publish(7))
        await door.has(1)
        assert await peer.silence()
        door.settle()
        assert await peer.receive() == Puback(7)


@both
async def test_an_arrival_says_who_sent_what_where_and_how(version: int) -> None:
    door = FakeDoor(at_once=True)
    async with listening(door) as listener:
        async with Peer(listener, version) as peer:
            await peer.connect(user="bed-1", password=b"secret")
            peer.write(Publish(VITALS, b"36.7", 1, 9, dup=True, retain=True))
            assert await peer.receive() == Puback(9)
        async with Peer(listener, version) as peer:
            await peer.connect()
            peer.write(Publish(VITALS, b""))
            await door.has(2)
    known, anonymous = door.arrivals
    assert (known.source, known.link, known.refusal) == (Source.MQTT, "mqtt", None)
    assert (known.principal, known.user) == ("mqtt:bed-1", "bed-1")
    assert (known.device, known.stream, known.payload) == ("bed-1", "vitals", b"36.7")
    assert known.redelivered
    assert (anonymous.principal, anonymous.user) == ("mqtt:127.0.0.1", None)
    assert (anonymous.device, anonymous.payload) == ("bed-1", b"")
    assert not anonymous.redelivered


@both
async def test_qos_0_is_submitted_and_never_answered(version: int) -> None:
    door = FakeDoor()
    async with listening(door) as listener, Peer(listener, version) as peer:
        await peer.connect()
        peer.write(peer.publish(0), peer.publish(0))
        await door.has(2)
        door.settle(refuse(Reason.MALFORMED))
        assert await peer.silence()
        peer.write(Pingreq())
        assert await peer.receive() == Pingresp()


class CountingTransport:
    """Counts writes and passes everything on."""

    def __init__(self, transport: Any) -> None:
        self.transport = transport
        self.writes: list[bytes] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.transport, name)

    def write(self, chunk: bytes) -> None:
        self.writes.append(chunk)
        self.transport.write(chunk)


def spied(listener: MqttListener) -> CountingTransport:
    """Put a CountingTransport under the only connection."""
    (connection,) = listener._connections
    spy = CountingTransport(connection._transport)
    connection._transport = spy  # type: ignore[assignment]
    return spy


@both
async def test_the_acknowledgements_of_one_commit_leave_in_one_write(
    version: int,
) -> None:
    door = FakeDoor()
    async with listening(door) as listener, Peer(listener, version) as peer:
        await peer.connect()
        spy = spied(listener)
        peer.write(*(peer.publish(i) for i in range(1, 61)))
        await door.has(60)
        door.settle()
        await until(lambda: bool(spy.writes))
        assert spy.writes == [b"".join(encode_puback(i) for i in range(1, 61))]
        assert await peer.raw() == spy.writes[0]


async def test_one_commit_writes_once_to_each_of_many_connections() -> None:
    door = FakeDoor()
    async with (
        listening(door) as listener,
        Peer(listener, V5) as one,
        Peer(listener, V311) as other,
    ):
        await one.connect(client_id="one")
        await other.connect(client_id="other")
        one.write(one.publish(1), one.publish(2))
        other.write(other.publish(3))
        await door.has(3)
        door.settle()
        assert await one.raw() == encode_puback(1) + encode_puback(2)
        assert await other.raw() == encode_puback(3)


@both
async def test_pubacks_keep_the_order_of_receipt_whatever_is_settled_first(
    version: int,
) -> None:
    """MQTT-4.6.0-2. QoS 0 among them does not hold anything up once it is settled."""
    door = FakeDoor()
    async with listening(door) as listener, Peer(listener, version) as peer:
        await peer.connect()
        peer.write(peer.publish(5), peer.publish(0), peer.publish(3), peer.publish(4))
        await door.has(4)
        first, nameless, second, third = door.arrivals
        third.settle(COMMITTED)
        second.settle(COMMITTED)
        assert await peer.silence()
        first.settle(COMMITTED)
        assert await peer.receive() == Puback(5)
        assert await peer.silence()
        nameless.settle(COMMITTED)
        assert await peer.receive() == Puback(3)
        assert await peer.receive() == Puback(4)


# Refusals


@pytest.mark.parametrize("reason", list(Reason))
async def test_a_refusal_carries_its_code_and_detail_in_version_5(
    reason: Reason,
) -> None:
    door = FakeDoor()
    async with listening(door) as listener, Peer(listener, V5) as peer:
        await peer.connect()
        peer.write(peer.publish(1))
        await door.has(1)
        door.settle(refuse(reason, "at byte 3"))
        code = REASON_CODES[reason]
        assert await peer.receive() == Puback(1, code, {Property.REASON: "at byte 3"})


def test_the_reason_codes_are_those_of_the_wire_format() -> None:
    """docs/wire-format.md section 3; poison is not a device's fault to mend."""
    assert {reason.value: int(code) for reason, code in REASON_CODES.items()} == {
        "too-large": 0x97,
        "wrong-topic": 0x90,
        "unknown-device": 0x87,
        "not-authorised": 0x87,
        "malformed": 0x99,
        "unknown-unit": 0x99,
        "bad-signature": 0x87,
        "equivocation": 0x99,
        "implausible-clock": 0x99,
        "poison": 0x83,
    }


async def test_a_refusal_in_3_1_1_is_a_plain_puback() -> None:
    door = FakeDoor()
    async with listening(door) as listener, Peer(listener, V311) as peer:
        await peer.connect()
        peer.write(peer.publish(1))
        await door.has(1)
        door.settle(refuse(Reason.BAD_SIGNATURE))
        assert await peer.raw() == encode_puback(1)


@pytest.mark.parametrize(
    "properties",
    [{Property.REQUEST_PROBLEM: 0}, {Property.MAXIMUM_PACKET_SIZE: 20}],
)
async def test_a_reason_string_stays_out_where_the_client_does_not_want_it(
    properties: Properties,
) -> None:
    """A packet over the client's maximum would make it disconnect (3.1.2.11.4)."""
    door = FakeDoor()
    async with listening(door) as listener, Peer(listener, V5) as peer:
        await peer.connect(properties=properties)
        peer.write(peer.publish(1))
        await door.has(1)
        door.settle(refuse(Reason.MALFORMED, "a detail of some length"))
        assert await peer.receive() == Puback(1, 0x99)


@pytest.mark.parametrize(
    ("topic", "user", "device", "refusal"),
    [
        ("iomt/v1/bed-1", None, "", Reason.WRONG_TOPIC),
        ("iomt/v1/bed-1/cmd", None, "", Reason.WRONG_TOPIC),
        ("other", None, "", Reason.WRONG_TOPIC),
        ("iomt/v1/bed-2/vitals", "bed-1", "bed-2", Reason.NOT_AUTHORISED),
        ("iomt/v1/bed-2/vitals", "wall", "bed-2", Reason.NOT_AUTHORISED),
    ],
)
async def test_a_message_that_may_not_go_there_is_submitted_with_its_refusal(
    topic: str, user: str | None, device: str, refusal: Reason
) -> None:
    """The door counts and keeps it; the listener decides nothing alone."""
    door = FakeDoor(at_once=True)
    async with listening(door) as listener, Peer(listener, V5) as peer:
        await peer.connect(user=user, password=b"secret" if user else None)
        peer.write(peer.publish(1, topic=topic))
        await peer.receive()
    (arrival,) = door.arrivals
    assert arrival.refusal is not None
    assert arrival.refusal[0] is refusal
    assert arrival.device == device


async def test_a_payload_over_64_kib_is_refused_and_its_beginning_kept() -> None:
    door = FakeDoor(at_once=True)
    async with listening(door) as listener, Peer(listener, V5) as peer:
        await peer.connect()
        peer.write(peer.publish(1, b"x" * 65_536), peer.publish(2, b"y" * 65_537))
        assert await peer.receive() == Puback(1)
        assert await peer.receive() == Puback(2)
    fits, larger = door.arrivals
    assert (len(fits.payload), fits.refusal) == (65_536, None)
    assert larger.payload == b"y" * 1_024
    assert larger.refusal == (
        Reason.TOO_LARGE,
        "payload of 65537 bytes, at most 65536",
    )


# What ends a connection


@both
@pytest.mark.parametrize(
    ("code", "sent"),
    [
        (Code.PACKET_TOO_LARGE, encode(Publish(VITALS, b"x" * 300_000, 1, 1), V311)),
        (Code.QOS_NOT_SUPPORTED, encode(Publish(VITALS, b"", 2, 1), V311)),
        (Code.MALFORMED, b"\xc0\x01\x00"),
        (Code.PROTOCOL_ERROR, encode(Connect("again"), V311)),
        (Code.PROTOCOL_ERROR, b"\xd0\x00"),
    ],
    ids=["too large", "QoS 2", "malformed", "second CONNECT", "server's packet"],
)
async def test_breaking_the_protocol_ends_the_connection_with_its_code_and_one_line(
    version: int, code: Code, sent: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """Even with input still coming: the goodbye must not be lost to a reset."""
    door = FakeDoor()
    async with listening(door) as listener, Peer(listener, version) as peer:
        await peer.connect(user="bed-1", password=b"secret")
        peer.write(sent)
        assert await code_of_disconnect(peer) == expected(version, code)
    assert [r.name for r in caplog.records] == ["edge.mqtt"]
    assert f"0x{code:02x}" in caplog.text
    assert "mqtt:bed-1" in caplog.text
    assert not door.arrivals


@both
async def test_what_came_before_the_violation_is_still_taken_and_answered(
    version: int,
) -> None:
    door = FakeDoor(at_once=True)
    async with listening(door) as listener, Peer(listener, version) as peer:
        await peer.connect()
        peer.write(peer.publish(1), b"\xc0\x01\x00", peer.publish(2))
        assert await peer.receive() == Puback(1)
        assert await code_of_disconnect(peer) == expected(version, Code.MALFORMED)
    assert len(door.arrivals) == 1


async def test_a_bad_peer_does_not_touch_another() -> None:
    door = FakeDoor(at_once=True)
    async with listening(door) as listener, Peer(listener, V5) as good:
        await good.connect(client_id="good")
        for rubbish in (b"\x00" * 50, b"\xff" * 50, b"GET / HTTP/1.1\r\n\r\n"):
            async with Peer(listener, V311) as bad:
                bad.write(rubbish)
                assert await bad.bytes_until_closed() == b""
        good.write(good.publish(1))
        assert await good.receive() == Puback(1)


@both
async def test_no_damage_to_a_stream_gets_beyond_its_connection(version: int) -> None:
    """`listening` fails when anything but the protocol's own error was raised."""
    chance = random.Random(version)
    stream: list[Packet] = [
        Connect("c", version, user="wall", password=b"secret"),
        Publish(VITALS, b"36.7", 1, 1),
        Subscribe(2, (Subscription("iomt/v1/alerts/#", 1),)),
        Puback(3),
        Unsubscribe(4, ("iomt/v1/alerts/#",)),
        Pingreq(),
        Publish(VITALS, b"36.7"),
        Disconnect(),
    ]
    whole = b"".join(encode(packet, version) for packet in stream)
    door = FakeDoor(at_once=True)
    limits = Limits(linger_s=0.05, close_timeout_s=0.1)
    async with listening(door, limits) as listener:
        for _ in range(150):
            damaged = bytearray(whole)
            for _ in range(chance.randrange(1, 4)):
                damaged[chance.randrange(len(whole))] = chance.randrange(256)
            async with Peer(listener, version) as peer:
                peer.write(bytes(damaged[: chance.randrange(len(whole) + 1)]))
                await asyncio.sleep(0)
        await until(lambda: listener.connection_count == 0)
        async with Peer(listener, version) as peer:
            assert not (await peer.connect()).code


async def test_more_in_flight_than_announced_ends_a_version_5_connection() -> None:
    door = FakeDoor()
    limits = Limits(receive_max=3, linger_s=0.3, close_timeout_s=0.3)
    async with listening(door, limits) as listener, Peer(listener, V5) as peer:
        welcome = await peer.connect()
        assert welcome.properties[Property.RECEIVE_MAXIMUM] == 3
        peer.write(*(peer.publish(i) for i in (1, 2, 3)), peer.publish(0))
        await door.has(4)
        door.settle()
        for i in (1, 2, 3):
            assert await peer.receive() == Puback(i)
        peer.write(*(peer.publish(i) for i in (1, 2, 3, 4)))
        assert await code_of_disconnect(peer) == 0x93
    assert len(door.arrivals) == 7


async def test_a_topic_alias_was_not_offered_and_ends_the_connection() -> None:
    door = FakeDoor()
    async with listening(door) as listener, Peer(listener, V5) as peer:
        assert (await peer.connect()).properties[Property.TOPIC_ALIAS_MAXIMUM] == 0
        peer.write(Publish("", b"", properties={Property.TOPIC_ALIAS: 1}))
        assert await code_of_disconnect(peer) == 0x94
    assert not door.arrivals


async def test_a_session_expiry_only_at_the_end_is_a_protocol_error() -> None:
    async with listening(FakeDoor()) as listener, Peer(listener, V5) as peer:
        await peer.connect()
        peer.write(Disconnect(0, {Property.SESSION_EXPIRY_S: 9}))
        assert await code_of_disconnect(peer) == 0x82


# The log


def test_a_flood_of_lines_is_cut_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    """A bad peer that reconnects a thousand times a second must not fill the disk."""
    now = 0.0
    log = RateLimitedLog(logging.getLogger("edge.mqtt"), lambda: now)
    for i in range(LOG_LINES_MAX + 30):
        log.warning("line %d", i)
    assert len(caplog.records) == LOG_LINES_MAX
    now = LOG_PERIOD_S
    log.warning("next")
    assert [r.getMessage() for r in caplog.records[LOG_LINES_MAX:]] == [
        "30 more lines like these left out",
        "next",
    ]
