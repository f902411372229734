"""Viewers see readings over MQTT as they are committed; nobody else does."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from fronts import WARM, Front, front, temperature
from mqtt_fakes import FakeDoor, Peer, listening
from test_mqtt_kept_sessions import hello
from workbench import SignedDevice, make_gateway

from edge.mqtt_limits import Limits
from edge.sources.mqtt_packets import (
    V5,
    Disconnect,
    Puback,
    Publish,
    Suback,
    Subscribe,
    Subscription,
)

LIVE = "iomt/v1/live/#"


async def follow(peer: Peer, topic_filter: str = LIVE, qos: int = 1) -> None:
    peer.write(Subscribe(1, (Subscription(topic_filter, qos),)))
    assert await peer.receive() == Suback(1, (qos,))


async def told(peer: Peer) -> tuple[str, dict[str, Any]]:
    """The next reading that a viewer gets, acknowledged."""
    packet = await peer.receive()
    assert isinstance(packet, Publish)
    if packet.qos:
        peer.write(Puback(packet.packet_id))
    row = json.loads(packet.payload)
    assert isinstance(row, dict)
    return packet.topic, row


async def measure(at: Front, count: int, first: int = 1) -> None:
    async with Peer(at, V5) as device:
        await device.connect(client_id="thermometer")
        for number in range(first, first + count):
            payload = temperature(b"3%d.25" % (number % 10))
            device.write(Publish("iomt/v1/thermometer/skin", payload, 1, number))
            assert await device.receive() == Puback(number)


async def test_a_viewer_sees_a_committed_reading_with_its_patient(
    tmp_path: Path,
) -> None:
    async with front(make_gateway(tmp_path)) as gateway:
        monitor = SignedDevice("monitor")
        await gateway.enrol(monitor)
        do = gateway.running.core.administration
        await do.add_patient("P-1")
        await do.assign_device("monitor", "P-1")
        async with Peer(gateway, V5) as wall, Peer(gateway, V5) as device:
            await hello(wall, gateway.token)
            await follow(wall, "iomt/v1/live/monitor", qos=0)
            await measure(gateway, 1)  # another's: not asked for
            await device.connect(client_id="monitor", user="monitor")
            now_ms = time.time_ns() // 1_000_000
            payload = monitor.envelope(heart_rate=71, spo2=97.5, time_ms=now_ms)
            device.write(Publish("iomt/v1/monitor/vitals", payload, 1, 1))
            assert await device.receive() == Puback(1)
            topic, row = await told(wall)
    assert topic == "iomt/v1/live/monitor"
    assert row["committed_ms"] >= row["received_ms"]
    del row["committed_ms"], row["received_ms"]
    row["flags"] = [one for one in row["flags"] if one != "unsynced"]
    assert row == {
        "attestation": "device",
        "device": "monitor",
        "flags": [],
        "implausible": [],
        "link": "mqtt",
        "metrics": {"heart_rate": 71, "spo2": 97.5},
        "patient": "P-1",
        "time_ms": now_ms,
    }


async def test_a_viewer_who_was_away_is_told_what_it_missed(tmp_path: Path) -> None:
    async with front(make_gateway(tmp_path)) as gateway:
        await gateway.enrol()
        async with Peer(gateway, V5) as wall:
            await hello(wall, gateway.token)
            await follow(wall)
            wall.write(Disconnect())
        await measure(gateway, 3)
        async with Peer(gateway, V5) as wall:
            assert (await hello(wall, gateway.token)).session_present
            found = [(await told(wall))[1]["metrics"] for _ in range(3)]
            assert found == [{"body_temperature": 30 + n + 0.25} for n in (1, 2, 3)]
            wall.write(Disconnect())


async def test_an_erased_patients_readings_wait_for_nobody(tmp_path: Path) -> None:
    async with front(make_gateway(tmp_path)) as gateway:
        await gateway.enrol()
        do = gateway.running.core.administration
        await do.add_patient("P-1")
        await do.assign_device("thermometer", "P-1")
        async with Peer(gateway, V5) as wall:
            await hello(wall, gateway.token)
            await follow(wall)
            wall.write(Disconnect())
        await measure(gateway, 2)
        await do.operations["patient-erase"](name="P-1")
        await measure(gateway, 1, first=3)
        async with Peer(gateway, V5) as wall:
            assert (await hello(wall, gateway.token)).session_present
            _, row = await told(wall)
    assert (row["patient"], row["metrics"]) == (None, {"body_temperature": 33.25})


async def test_a_device_may_not_follow_readings(tmp_path: Path) -> None:
    async with front(make_gateway(tmp_path)) as gateway, Peer(gateway, V5) as device:
        await gateway.enrol()
        await device.connect(client_id="thermometer", user="thermometer")
        device.write(Subscribe(1, (Subscription("iomt/v1/live/thermometer", 1),)))
        answer = await device.receive()
        assert isinstance(answer, Suback)
        assert answer.codes == (0x87,)
        payload = temperature(WARM)
        device.write(Publish("iomt/v1/live/thermometer/x", payload, 1, 1))
        refused = await device.receive()
        assert isinstance(refused, Puback)
        assert refused.code == 0x90


async def test_of_what_an_absent_viewer_misses_the_newest_is_kept() -> None:
    """So that who never comes back costs no more than that."""
    door, limits = FakeDoor(), Limits(live_for_absent_max=3, kept_for_absent_max=1)
    async with listening(door, limits) as listener:
        async with Peer(listener, V5) as wall:
            await hello(wall, "secret", user="wall")
            await follow(wall)
            wall.write(Disconnect())
            await wall.bytes_until_closed()
        for number in range(9):
            listener.publish("iomt/v1/live/bed-1", b'{"n":%d}' % number, "wall")
        assert listener.dropped_count == 6
        assert listener.follows_live("wall")
        assert not listener.follows_live("bed-1")
        async with Peer(listener, V5) as wall:
            assert (await hello(wall, "secret", user="wall")).session_present
            assert [(await told(wall))[1]["n"] for _ in range(3)] == [6, 7, 8]
