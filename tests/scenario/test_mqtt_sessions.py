"""MQTT connections from CONNECT to their end: sessions, wills, keep-alive, closing.

Everything runs over real sockets; only the door is a fake, which settles when told.
"""

from __future__ import annotations

import asyncio
import time

import pytest
from mqtt_fakes import (
    VITALS,
    FakeDoor,
    Peer,
    both,
    code_of_disconnect,
    expected,
    listening,
    until,
)

from edge.sources.mqtt_listener import (
    Limits,
)
from edge.sources.mqtt_packets import (
    V5,
    V311,
    Connect,
    Disconnect,
    Pingreq,
    Pingresp,
    Puback,
    Will,
)
from edge.sources.mqtt_properties import Code, Property

# CONNECT


async def test_a_version_5_client_is_told_what_there_is() -> None:
    async with listening(FakeDoor()) as listener, Peer(listener, V5) as peer:
        welcome = await peer.connect(
            client_id="", properties={Property.SESSION_EXPIRY_S: 0xFFFFFFFF}
        )
    assert (welcome.code, welcome.session_present) == (0, False)
    assert welcome.properties == {
        Property.RECEIVE_MAXIMUM: 1024,
        Property.MAXIMUM_QOS: 1,
        Property.RETAIN_AVAILABLE: 0,
        Property.MAXIMUM_PACKET_SIZE: 262_144,
        Property.TOPIC_ALIAS_MAXIMUM: 0,
        Property.SUBSCRIPTION_IDS_AVAILABLE: 0,
        Property.SHARED_AVAILABLE: 0,
        Property.SESSION_EXPIRY_S: 604_800,  # a week, however long it asks for
        Property.ASSIGNED_CLIENT_ID: welcome.properties[Property.ASSIGNED_CLIENT_ID],
    }
    assert str(welcome.properties[Property.ASSIGNED_CLIENT_ID]).startswith("iomt-")


@pytest.mark.parametrize(
    ("version", "fields", "code"),
    [
        (V311, {"user": "bed-1", "password": b"wrong"}, 4),
        (V5, {"user": "bed-1", "password": b"wrong"}, 0x86),
        (V5, {"user": "nobody"}, 0x86),
        (V5, {"user": "u" * 65}, 0x86),
        (V311, {"client_id": "", "clean_start": False}, 2),
        (V311, {"client_id": "c" * 257}, 2),
        (V5, {"client_id": "c" * 257}, 0x85),
        (V5, {"properties": {Property.AUTHENTICATION_METHOD: "SCRAM"}}, 0x8C),
        (V5, {"will": Will("a/#", b"")}, 0x90),
        (V5, {"will": Will("a", b"", 2)}, 0x9B),
    ],
)
async def test_a_connect_is_refused_with_a_connack_that_says_why(
    version: int, fields: dict[str, object], code: int
) -> None:
    async with listening(FakeDoor()) as listener, Peer(listener, version) as peer:
        assert (await peer.connect(**fields)).code == code
        assert await peer.receive() is None


@pytest.mark.parametrize(
    ("hello", "answer"),
    [
        ("10 0e 00 06 4d 51 49 73 64 70 03 02 00 0a 00 00", "20 02 00 01"),  # MQTT 3.1
        ("10 0c 00 04 4d 51 54 54 04 82 00 0a 00 00", ""),  # its user is missing
    ],
)
async def test_an_old_or_broken_hello_is_answered_as_3_1_1_knows(
    hello: str, answer: str
) -> None:
    limits = Limits(connect_timeout_s=0.1, linger_s=0.1)
    async with listening(FakeDoor(), limits) as listener, Peer(listener, V311) as peer:
        peer.write(bytes.fromhex(hello))
        assert (await peer.bytes_until_closed()).hex(" ") == answer


async def test_a_stranger_may_not_send_as_much_as_a_known_client(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Its version is not known so early, so there is no answer either."""
    async with listening(FakeDoor()) as listener, Peer(listener, V5) as peer:
        peer.write(Connect("c", V5, will=Will("a", b"x" * 20_000)))
        assert await peer.bytes_until_closed() == b""
    assert "packet of 20024 bytes, at most 16384" in caplog.text


@both
async def test_an_empty_client_id_gets_a_session_of_its_own(version: int) -> None:
    async with (
        listening(FakeDoor()) as listener,
        Peer(listener, version) as one,
        Peer(listener, version) as two,
    ):
        assert (await one.connect(client_id="")).code == 0
        assert (await two.connect(client_id="")).code == 0
        one.write(Pingreq())
        assert await one.receive() == Pingresp()


async def test_who_sends_no_connect_is_closed_in_time() -> None:
    """A byte now and then does not help."""
    limits = Limits(connect_timeout_s=0.15, linger_s=0.1)
    async with listening(FakeDoor(), limits) as listener, Peer(listener, V311) as peer:
        start = time.monotonic()
        closed = asyncio.create_task(peer.bytes_until_closed())
        peer.write(b"\x10\x64")
        while not closed.done() and time.monotonic() - start < 2:
            peer.write(b"\0")
            await asyncio.sleep(0.05)
        assert await closed == b""
        assert 0.1 < time.monotonic() - start < 1


async def test_an_idle_connection_makes_way_for_a_new_one() -> None:
    limits = Limits(connections_max=2, linger_s=0.1)
    async with (
        listening(FakeDoor(at_once=True), limits) as listener,
        Peer(listener, V5) as idle,
        Peer(listener, V5) as good,
        Peer(listener, V5) as new,
    ):
        await good.connect(client_id="good")
        good.write(good.publish(1))
        assert await good.receive() == Puback(1)
        await new.connect(client_id="new")
        assert await idle.is_cut_off()
        good.write(good.publish(2))
        assert await good.receive() == Puback(2)


async def test_connections_over_the_limit_are_closed_and_the_others_stay() -> None:
    limits = Limits(connections_max=2, linger_s=0.1)
    async with (
        listening(FakeDoor(at_once=True), limits) as listener,
        Peer(listener, V5) as one,
        Peer(listener, V5) as two,
    ):
        await one.connect(client_id="one")
        await two.connect(client_id="two")
        for peer in (one, two):
            peer.write(peer.publish(1))
            assert await peer.receive() == Puback(1)
        async with Peer(listener, V5) as three:
            assert await three.is_cut_off()
        two.write(two.publish(1))
        assert await two.receive() == Puback(1)
        one.vanish()
        await until(lambda: listener.connection_count == 1)
        async with Peer(listener, V5) as three:
            assert (await three.connect(client_id="three")).code == 0


# Sessions, wills, keep-alive


@both
async def test_the_same_client_again_ends_its_earlier_connection(version: int) -> None:
    door = FakeDoor(at_once=True)
    async with (
        listening(door) as listener,
        Peer(listener, version) as old,
        Peer(listener, version) as new,
    ):
        await old.connect(user="bed-1", password=b"secret")
        assert not (await new.connect(user="bed-1", password=b"secret")).code
        assert await code_of_disconnect(old) == expected(version, Code(0x8E))
        old.vanish()
        await until(lambda: listener.connection_count == 1)
        new.write(new.publish(1))
        assert await new.receive() == Puback(1)
        # The end of the old connection has not ended the session of the new one.
        async with Peer(listener, version) as third:
            await third.connect(user="bed-1", password=b"secret")
            assert await code_of_disconnect(new) == expected(version, Code(0x8E))


async def test_another_users_client_id_takes_nothing_over() -> None:
    """Otherwise any device could throw any other out."""
    async with (
        listening(FakeDoor()) as listener,
        Peer(listener, V5) as one,
        Peer(listener, V5) as two,
    ):
        await one.connect(user="bed-1", password=b"secret")
        await two.connect(user="bed-2", password=b"secret")
        one.write(Pingreq())
        assert await one.receive() == Pingresp()


@both
async def test_settling_after_the_connection_is_gone_does_nothing(version: int) -> None:
    """The reading is committed all the same; the device will send it again."""
    door = FakeDoor()
    async with listening(door) as listener:
        async with Peer(listener, version) as peer:
            await peer.connect()
            peer.write(peer.publish(1))
            await door.has(1)
        await until(lambda: listener.connection_count == 0)
        door.settle()
        async with Peer(listener, version) as peer:
            await peer.connect()
            peer.write(peer.publish(1))
            await door.has(2)
            door.settle()
            assert await peer.receive() == Puback(1)


WILL = Will(VITALS, b"gone", 1)


@pytest.mark.parametrize(
    ("version", "end", "published"),
    [
        (V311, None, True),
        (V5, None, True),
        (V311, Disconnect(), False),
        (V5, Disconnect(), False),
        (V5, Disconnect(Code.DISCONNECT_WITH_WILL), True),
        (V5, b"\xc0\x01\x00", True),
    ],
)
async def test_a_will_is_submitted_unless_the_client_says_goodbye(
    version: int, end: Disconnect | bytes | None, published: bool
) -> None:
    door = FakeDoor(at_once=True)
    async with listening(door) as listener:
        async with Peer(listener, version) as peer:
            await peer.connect(will=WILL, user="bed-1", password=b"secret")
            if end is not None:
                peer.write(end)
                await peer.bytes_until_closed()
        await until(lambda: listener.connection_count == 0)
    assert [a.payload for a in door.arrivals] == [b"gone"] * published
    assert all(a.device == "bed-1" and a.user == "bed-1" for a in door.arrivals)


async def test_a_will_is_not_submitted_because_we_shut_down() -> None:
    door = FakeDoor(at_once=True)
    async with listening(door) as listener, Peer(listener, V5) as peer:
        await peer.connect(will=WILL)
        closing = asyncio.create_task(listener.close())
        assert await code_of_disconnect(peer) == 0x8B
        peer.vanish()
        await closing
    assert not door.arrivals


@both
async def test_silence_beyond_one_and_a_half_keep_alives_ends_it(version: int) -> None:
    async with listening(FakeDoor()) as listener, Peer(listener, version) as peer:
        await peer.connect(keep_alive_s=1)
        start = time.monotonic()
        await asyncio.sleep(0.8)
        peer.write(Pingreq())
        assert await peer.receive() == Pingresp()
        assert await code_of_disconnect(peer) == expected(version, Code(0x8D))
        assert 2.2 < time.monotonic() - start < 4


# Closing


@both
async def test_closing_waits_for_the_commit_in_flight_and_answers_it(
    version: int,
) -> None:
    """What comes after the beginning of the end is not taken any more."""
    door = FakeDoor()
    limits = Limits(close_timeout_s=5, linger_s=5)
    async with listening(door, limits) as listener, Peer(listener, version) as peer:
        await peer.connect()
        peer.write(peer.publish(1), peer.publish(2))
        await door.has(2)
        closing = asyncio.create_task(listener.close())
        await asyncio.sleep(0)
        peer.write(peer.publish(3))
        door.settle(count=1)
        assert await peer.receive() == Puback(1)
        assert await peer.silence()
        assert not closing.done()
        door.settle()
        assert await peer.receive() == Puback(2)
        assert await code_of_disconnect(peer) == expected(version, Code.SHUTTING_DOWN)
        peer.vanish()
        async with asyncio.timeout(2):  # not the five seconds of `linger_s`
            await closing
        assert len(door.arrivals) == 2
        with pytest.raises(OSError, match=r"."):
            await asyncio.open_connection("127.0.0.1", peer._port)


async def test_closing_does_not_wait_for_ever() -> None:
    """Neither for a door that never settles nor for a peer that never goes."""
    door = FakeDoor()
    limits = Limits(close_timeout_s=0.1, linger_s=0.1)
    async with listening(door, limits) as listener, Peer(listener, V311) as peer:
        await peer.connect()
        peer.write(peer.publish(1))
        await door.has(1)
        start = time.monotonic()
        await listener.close()
        assert time.monotonic() - start < 2
        assert listener.connection_count == 0
