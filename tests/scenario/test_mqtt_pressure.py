"""MQTT under pressure, in and out: a congested door, and subscribers that do not read.

Everything runs over real sockets; only the door is a fake, which settles when told.
"""

from __future__ import annotations

import asyncio
import time

import pytest
from mqtt_fakes import (
    FakeDoor,
    Peer,
    both,
    code_of_disconnect,
    listening,
    until,
)

from edge.errors import Reason
from edge.model import Outcome, Verdict
from edge.sources.mqtt_listener import (
    Limits,
    RefusalQuota,
)
from edge.sources.mqtt_packets import (
    V5,
    V311,
    Connack,
    Connect,
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
from edge.sources.mqtt_properties import Properties, Property

# Backpressure


@both
async def test_a_congested_door_is_given_nothing_more_until_it_is_relieved(
    version: int,
) -> None:
    """Even what has been read already waits, and nothing of it is lost."""
    door = FakeDoor(congested_at=10)
    async with listening(door) as listener, Peer(listener, version) as peer:
        await peer.connect()
        peer.write(*(peer.publish(i) for i in range(1, 41)))
        for round_end in (10, 20, 30, 40):
            await door.has(round_end)
            await asyncio.sleep(0.02)
            assert len(door.arrivals) == round_end
            door.settle()
        for i in range(1, 41):
            assert await peer.receive() == Puback(i)
    assert 1 <= door.relieved_count <= 4  # asked once for each time, not in a circle


async def test_relief_reaches_every_connection_in_turn() -> None:
    """One that sends without end must not keep the others out."""
    door = FakeDoor(congested_at=5)
    async with (
        listening(door) as listener,
        Peer(listener, V311) as loud,
        Peer(listener, V311) as quiet,
    ):
        await loud.connect(client_id="loud")
        await quiet.connect(client_id="quiet")
        loud.write(*(loud.publish(i, b"loud") for i in range(1, 101)))
        await door.has(5)
        quiet.write(quiet.publish(1, b"quiet"))
        await asyncio.sleep(0.02)
        for end in (10, 15):
            door.settle()
            await door.has(end)
        assert b"quiet" in {a.payload for a in door.arrivals[:15]}
        door.at_once = True
        door.settle()
        await door.has(101)
        assert await quiet.receive() == Puback(1)


async def test_who_has_sent_nothing_good_yet_may_send_little_ahead() -> None:
    door = FakeDoor()
    limits = Limits(untried_max=4, pending_max=8, linger_s=0.1, close_timeout_s=0.1)
    async with listening(door, limits) as listener, Peer(listener, V5) as peer:
        await peer.connect()
        peer.write(*(peer.publish(i) for i in range(1, 41)))
        for arrived in (4, 8):  # what was refused tells nothing
            await door.has(arrived)
            await asyncio.sleep(0.02)
            assert len(door.arrivals) == arrived
            door.settle(lambda _: Outcome(Verdict.REFUSED, Reason.BAD_SIGNATURE))
        await door.has(12)
        door.settle()
        await door.has(20)
        await asyncio.sleep(0.02)
        assert len(door.arrivals) == 20


async def test_who_is_refused_too_often_is_read_slowly_and_loses_nothing() -> None:
    door = FakeDoor(at_once=True)
    limits = Limits(refusals_per_s=20, refusals_burst=5, linger_s=0.1)
    door.outcome = Outcome(Verdict.REFUSED, Reason.BAD_SIGNATURE)
    async with listening(door, limits) as listener, Peer(listener, V5) as peer:
        await peer.connect()
        peer.write(*(peer.publish(i) for i in range(1, 16)))
        await door.has(6)
        assert len(door.arrivals) < 15  # it is not read any further for a while
        async with Peer(listener, V5) as other:  # another user is not slowed
            await other.connect(user="bed-2", password=b"secret", client_id="other")
            other.write(other.publish(1))
            assert isinstance(await other.receive(), Puback)
        await door.has(16)


def test_a_quota_of_refusals_fills_again_with_time() -> None:
    now = 0.0
    quota = RefusalQuota(10, 3, lambda: now)
    waits = [quota.spend("mqtt:a") for _ in range(5)]
    assert waits == pytest.approx([0, 0, 0, 0.1, 0.2])
    assert quota.spend("mqtt:b") == 0
    assert quota.wait_s("mqtt:a") == pytest.approx(0.2)
    now = 0.5
    assert quota.wait_s("mqtt:a") == 0
    assert [quota.spend("mqtt:a") for _ in range(4)] == pytest.approx([0, 0, 0, 0.1])


async def test_an_address_that_breaks_the_protocol_again_and_again_waits() -> None:
    """Its next connection is not read at once; it is served all the same."""
    limits = Limits(violations_per_s=1, violations_burst=3, violations_wait_s=0.3)
    async with listening(FakeDoor(at_once=True), limits) as listener:
        for _ in range(5):
            async with Peer(listener, V5) as bad:
                bad.write(b"\x30\x00")  # no CONNECT
                await bad.bytes_until_closed()
        async with Peer(listener, V5) as next_:
            next_.write(Connect("next", V5))
            assert await next_.silence()
            assert isinstance(await next_.receive(), Connack)


@both
async def test_a_client_far_ahead_of_the_commits_is_not_read_any_further(
    version: int,
) -> None:
    door = FakeDoor()
    limits = Limits(pending_max=8, linger_s=0.1, close_timeout_s=0.1)
    async with listening(door, limits) as listener, Peer(listener, version) as peer:
        await peer.connect()
        peer.write(*(peer.publish(i) for i in range(1, 21)))
        await door.has(8)
        await asyncio.sleep(0.02)
        assert len(door.arrivals) == 8
        door.settle(count=3)
        await door.has(11)
        while len(door.arrivals) < 20:
            door.settle()
            await asyncio.sleep(0)
        door.settle()
        for i in range(1, 21):
            assert await peer.receive() == Puback(i)


async def test_time_that_we_do_not_listen_does_not_count_as_silence() -> None:
    door = FakeDoor(congested_at=1)
    async with listening(door) as listener, Peer(listener, V5) as peer:
        await peer.connect(keep_alive_s=1)
        peer.write(peer.publish(1))
        await door.has(1)
        peer.write(Pingreq())
        await asyncio.sleep(1.7)
        assert listener.connection_count == 1
        door.settle()
        assert await peer.receive() == Puback(1)
        assert await peer.receive() == Pingresp()


async def test_after_a_pause_of_ours_the_keep_alive_begins_anew() -> None:
    """Its ping may be due only after we listen again."""
    door = FakeDoor(congested_at=1)
    async with listening(door) as listener, Peer(listener, V311) as peer:
        await peer.connect(keep_alive_s=1)
        peer.write(peer.publish(1))
        await asyncio.sleep(1.2)
        door.settle()
        assert await peer.receive() == Puback(1)
        await asyncio.sleep(0.6)
        peer.write(Pingreq())
        assert await peer.receive() == Pingresp()


async def test_a_client_that_does_not_read_its_answers_is_not_read_either() -> None:
    """Otherwise its answers would fill our memory."""
    door = FakeDoor(at_once=True)
    async with listening(door) as listener, Peer(listener, V311) as peer:
        await peer.connect()
        (connection,) = listener._connections
        connection.pause_writing()
        peer.write(peer.publish(1))
        assert await peer.silence()
        assert not door.arrivals
        connection.resume_writing()
        assert await peer.receive() == Puback(1)


# Subscriptions


@both
async def test_an_alert_reaches_the_viewers_that_asked_for_it(version: int) -> None:
    door = FakeDoor()
    async with listening(door) as listener, Peer(listener, version) as wall:
        await wall.connect(user="wall", password=b"secret")
        wall.write(
            Subscribe(
                1,
                (
                    Subscription("iomt/v1/alerts/#", 2),
                    Subscription("iomt/v1/alerts/+/high", 0),
                    Subscription("iomt/v1/+/vitals", 1),
                    Subscription("iomt/v1/alerts/#/x", 1),
                    Subscription("$share/g/iomt/v1/alerts/#", 1),
                ),
            )
        )
        bad = (0x87, 0x8F, 0x9E) if version == V5 else (0x80, 0x80, 0x80)
        why = (
            "'iomt/v1/+/vitals': this user may subscribe to iomt/v1/alerts/# "
            "and iomt/v1/live/#"
        )
        told: Properties = {Property.REASON: why} if version == V5 else {}
        assert await wall.receive() == Suback(1, (1, 0, *bad), told)
        assert listener.publish("iomt/v1/alerts/bed-1/high", b"!") == 1
        assert await wall.receive() == Publish("iomt/v1/alerts/bed-1/high", b"!", 1, 1)
        wall.write(Puback(1))
        assert listener.publish("iomt/v1/other", b"!") == 0
        wall.write(Unsubscribe(2, ("iomt/v1/alerts/#", "never")))
        codes = (0, 0x11) if version == V5 else ()
        assert await wall.receive() == Unsuback(2, codes)
        assert listener.publish("iomt/v1/alerts/bed-1/low", b"?") == 0
        assert listener.publish("iomt/v1/alerts/bed-1/high", b"?") == 1
        assert await wall.receive() == Publish("iomt/v1/alerts/bed-1/high", b"?")


async def test_a_subscriber_gets_no_more_at_once_than_its_receive_maximum() -> None:
    async with listening(FakeDoor()) as listener, Peer(listener, V5) as wall:
        await wall.connect(
            user="wall",
            password=b"secret",
            properties={Property.RECEIVE_MAXIMUM: 2, Property.MAXIMUM_PACKET_SIZE: 99},
        )
        wall.write(Subscribe(1, (Subscription("iomt/v1/alerts/#", 1),)))
        await wall.receive()
        topic = "iomt/v1/alerts/a"
        assert listener.publish(topic, b"x" * 99) == 0  # over its packet size
        for i in range(4):
            assert listener.publish(topic, b"%d" % i) == 1
        assert await wall.receive() == Publish(topic, b"0", 1, 1)
        assert await wall.receive() == Publish(topic, b"1", 1, 2)
        assert await wall.silence()
        wall.write(Puback(1))
        assert await wall.receive() == Publish(topic, b"2", 1, 3)
        wall.write(Puback(77), Puback(2))
        assert await wall.receive() == Publish(topic, b"3", 1, 4)


@pytest.mark.parametrize("qos", [0, 1])
async def test_a_subscriber_that_does_not_read_is_dropped_and_blocks_nobody(
    qos: int, caplog: pytest.LogCaptureFixture
) -> None:
    limits = Limits(write_buffer_size_max=50_000, unsent_max=10, linger_s=0.1)
    async with (
        listening(FakeDoor(), limits) as listener,
        Peer(listener, V5) as slow,
        Peer(listener, V5) as good,
    ):
        for name, wall in (("slow", slow), ("good", good)):
            await wall.connect(client_id=name, user="wall", password=b"secret")
            wall.write(Subscribe(1, (Subscription("iomt/v1/alerts/#", qos),)))
            await wall.receive()
        slow._writer.transport.pause_reading()  # type: ignore[attr-defined]
        count = 2
        start = time.monotonic()
        while count == 2 and time.monotonic() - start < 5:
            count = listener.publish("iomt/v1/alerts/a", b"x" * 20_000)
            alert = await good.receive()
            assert isinstance(alert, Publish)
            good.write(Puback(alert.packet_id) if qos else Pingreq())
            if not qos:
                assert await good.receive() == Pingresp()
        assert count == 1
        assert "does not read" in caplog.text
        await until(lambda: listener.connection_count == 1)


async def test_subscriptions_per_connection_are_bounded() -> None:
    limits = Limits(subscriptions_max=2, linger_s=0.1)
    async with listening(FakeDoor(), limits) as listener, Peer(listener, V5) as wall:
        await wall.connect(user="wall", password=b"secret")
        wall.write(
            Subscribe(
                1,
                tuple(Subscription(f"iomt/v1/alerts/{i}") for i in (1, 2, 3, 1)),
            )
        )
        why: Properties = {
            Property.REASON: "'iomt/v1/alerts/3': too many subscriptions"
        }
        assert await wall.receive() == Suback(1, (0, 0, 0x97, 0), why)


async def test_subscription_identifiers_were_not_offered() -> None:
    async with listening(FakeDoor()) as listener, Peer(listener, V5) as wall:
        await wall.connect(user="wall", password=b"secret")
        wall.write(
            Subscribe(1, (Subscription("a"),), {Property.SUBSCRIPTION_ID: 1}),
        )
        assert await code_of_disconnect(wall) == 0xA1
