"""Kept sessions with clients that we did not write: alerts missed, then told.

paho-mqtt, aiomqtt, gmqtt and mosquitto_sub (a process), in both versions where they
speak both. Each subscribes at QoS 1, goes away, and comes back.
"""

from __future__ import annotations

import asyncio
import json
import shutil
from pathlib import Path
from typing import Any

import aiomqtt
import pytest
from fronts import COLD, WARM, Front, front, temperature, with_frost
from mqtt_fakes import Peer, until
from paho.mqtt import client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from edge.sources.mqtt_packets import V5, Puback, Publish

VERSIONS = [MQTTProtocolVersion.MQTTv311, MQTTProtocolVersion.MQTTv5]
both_paho = pytest.mark.parametrize("version", VERSIONS, ids=["3.1.1", "5"])
ALERTS = "iomt/v1/alerts/#"


async def raise_alarms(at: Front, count: int) -> None:
    async with Peer(at, V5) as device:
        await device.connect(client_id="thermometer")
        for i in range(1, count + 1):
            payload = temperature(COLD if i % 2 else WARM)
            device.write(Publish("iomt/v1/thermometer/vitals", payload, 1, i))
            assert await device.receive() == Puback(i)


def kept_for_an_hour() -> Properties:
    properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
    properties.SessionExpiryInterval = 3600
    return properties


def phase(payload: Any) -> str:
    return str(json.loads(payload)["phase"])


class PahoTablet:
    """paho-mqtt with a session that is kept."""

    def __init__(self, at: Front, version: MQTTProtocolVersion) -> None:
        v5 = version == MQTTProtocolVersion.MQTTv5
        self.client = paho.Client(
            CallbackAPIVersion.VERSION2,
            "tablet",
            protocol=version,
            clean_session=None if v5 else False,
        )
        self.client.username_pw_set("viewer", at.token)
        self._at, self._v5 = at, v5
        self.present: list[bool] = []
        self.granted: list[int] = []
        self.phases: list[str] = []
        self.client.on_connect = lambda *event: self.present.append(
            event[2].session_present
        )
        self.client.on_subscribe = lambda *event: self.granted.append(event[2])
        self.client.on_message = lambda *event: self.phases.append(
            phase(event[2].payload)
        )

    async def start(self) -> None:
        more: dict[str, Any] = {}
        if self._v5:
            more = {"clean_start": False, "properties": kept_for_an_hour()}
        await asyncio.to_thread(
            lambda: self.client.connect("127.0.0.1", self._at.port, **more)
        )
        self.client.loop_start()
        await until(lambda: bool(self.present))

    async def stop(self) -> None:
        self.client.disconnect()
        await asyncio.to_thread(self.client.loop_stop)


@both_paho
async def test_paho_is_told_what_it_missed(
    version: MQTTProtocolVersion, tmp_path: Path
) -> None:
    async with front(with_frost(tmp_path)) as gateway:
        await gateway.enrol()
        first = PahoTablet(gateway, version)
        await first.start()
        first.client.subscribe(ALERTS, 1)
        await until(lambda: bool(first.granted))
        await first.stop()
        await raise_alarms(gateway, 3)
        second = PahoTablet(gateway, version)
        await second.start()
        await until(lambda: len(second.phases) == 3)
        await second.stop()
    assert (first.present, second.present) == ([False], [True])
    assert second.phases == ["start", "end", "start"]


@both_paho
async def test_aiomqtt_is_told_what_it_missed(
    version: MQTTProtocolVersion, tmp_path: Path
) -> None:
    v5 = version == MQTTProtocolVersion.MQTTv5
    async with front(with_frost(tmp_path)) as gateway:
        await gateway.enrol()

        def client() -> aiomqtt.Client:
            more: dict[str, Any] = {"clean_session": False}
            if v5:
                more = {"clean_start": False, "properties": kept_for_an_hour()}
            return aiomqtt.Client(
                "127.0.0.1",
                gateway.port,
                username="viewer",
                password=gateway.token,
                identifier="tablet",
                protocol=aiomqtt.ProtocolVersion(version.value),
                **more,
            )

        async with client() as first:
            await first.subscribe(ALERTS, 1)
        await raise_alarms(gateway, 2)
        phases: list[str] = []
        async with asyncio.timeout(10), client() as second:
            async for message in second.messages:
                phases.append(phase(message.payload))
                if len(phases) == 2:
                    break
    assert phases == ["start", "end"]


async def test_gmqtt_is_told_what_it_missed(tmp_path: Path) -> None:
    gmqtt = pytest.importorskip("gmqtt", reason="gmqtt is not installed")
    async with front(with_frost(tmp_path)) as gateway:
        await gateway.enrol()
        phases: list[str] = []
        granted: list[int] = []

        async def take(_client: Any, _topic: str, payload: bytes, *_: Any) -> int:
            phases.append(phase(payload))
            return 0

        async def start() -> Any:
            client = gmqtt.Client(
                "tablet", clean_session=False, session_expiry_interval=3600
            )
            client.set_auth_credentials("viewer", gateway.token)
            client.on_message = take
            client.on_subscribe = lambda *event: granted.append(event[1])
            await client.connect("127.0.0.1", gateway.port)
            return client

        first = await start()
        first.subscribe(ALERTS, 1)
        await until(lambda: bool(granted))
        await first.disconnect()
        await raise_alarms(gateway, 3)
        second = await start()
        await until(lambda: len(phases) == 3)
        await second.disconnect()
    assert phases == ["start", "end", "start"]


@pytest.mark.skipif(
    shutil.which("mosquitto_sub") is None,
    reason="mosquitto_sub (mosquitto-clients) is not installed",
)
@pytest.mark.parametrize("version", ["mqttv311", "mqttv5"])
async def test_mosquitto_sub_prints_what_it_missed(
    version: str, tmp_path: Path
) -> None:
    async with front(with_frost(tmp_path)) as gateway:
        await gateway.enrol()
        words = [
            *("mosquitto_sub", "-h", "127.0.0.1", "-p", str(gateway.port)),
            *("-V", version, "-i", "tablet", "-u", "viewer", "-P", gateway.token),
            *("-c", "-q", "1", "-t", ALERTS),
        ]
        if version == "mqttv5":
            words += ["-x", "3600"]
        first = await asyncio.create_subprocess_exec(*words, "-E")  # subscribe and go
        assert await first.wait() == 0
        await raise_alarms(gateway, 3)
        second = await asyncio.create_subprocess_exec(
            *words, "-C", "3", stdout=asyncio.subprocess.PIPE
        )
        async with asyncio.timeout(10):
            printed, _ = await second.communicate()
    phases = [phase(line) for line in printed.splitlines()]
    assert phases == ["start", "end", "start"]
