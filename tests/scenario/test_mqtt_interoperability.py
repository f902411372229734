"""One scenario with clients that we did not write: a large message at QoS 1, a network
that goes away, and the same client once more.

paho-mqtt, aiomqtt, gmqtt and awscrt, in the versions that each speaks; mosquitto_pub
and _sub, which end with their connection, for the large message alone. What else each
is tried with stands in test_mqtt_clients.py and test_mqtt_kept_clients.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import aiomqtt
import pytest
from mqtt_fakes import VITALS, FakeDoor, Peer, listening, until
from paho.mqtt import client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from processes import run

from edge.sources.mqtt_packets import V5, Publish, Suback, Subscribe, Subscription

HOST = "127.0.0.1"
LARGE = random.Random(7).randbytes(65_000)
USER, PASSWORD = "bed-1", "secret"
AGAIN_S = 0.2  # between two attempts to connect
V3_1_1, V5_0 = MQTTProtocolVersion.MQTTv311, MQTTProtocolVersion.MQTTv5

Send = Callable[[bytes], Awaitable[object]]  # returns when it is acknowledged


class Wire:
    """A network between clients and a port, that can be cut."""

    def __init__(self, port: int) -> None:
        self._to = port
        self._open: set[asyncio.StreamWriter] = set()
        self.port = 0

    async def serve(self, client: asyncio.StreamReader, back: Any) -> None:
        reader, writer = await asyncio.open_connection(HOST, self._to)
        ends = {back, writer}
        self._open |= ends
        with contextlib.suppress(OSError):
            await asyncio.gather(self._carry(client, writer), self._carry(reader, back))
        self._open -= ends
        for one in ends:
            one.close()

    async def _carry(
        self, source: asyncio.StreamReader, target: asyncio.StreamWriter
    ) -> None:
        while chunk := await source.read(1 << 14):
            target.write(chunk)
            await target.drain()
        target.close()

    def cut(self) -> None:
        """Both sides see a connection that is gone."""
        for one in self._open:
            one.transport.abort()


@asynccontextmanager
async def wire_to(port: int) -> AsyncIterator[Wire]:
    wire = Wire(port)
    server = await asyncio.start_server(wire.serve, HOST, 0)
    wire.port = server.sockets[0].getsockname()[1]
    try:
        yield wire
    finally:
        wire.cut()
        server.close()
        await server.wait_closed()


@asynccontextmanager
async def with_paho(port: int, version: MQTTProtocolVersion) -> AsyncIterator[Send]:
    client = paho.Client(CallbackAPIVersion.VERSION2, "dev", protocol=version)
    client.username_pw_set(USER, PASSWORD)
    client.reconnect_delay_set(1, 1)
    await asyncio.to_thread(client.connect, HOST, port)
    client.loop_start()

    async def send(payload: bytes) -> None:
        sent = client.publish(VITALS, payload, 1)
        await until(sent.is_published)

    try:
        yield send
    finally:
        client.disconnect()
        await asyncio.to_thread(client.loop_stop)


async def lost(client: aiomqtt.Client) -> None:
    """Hear from aiomqtt that a client's connection is gone, or asyncio complains."""
    with contextlib.suppress(aiomqtt.MqttError, asyncio.CancelledError):
        if client._disconnected.done():
            await client._disconnected


@asynccontextmanager
async def with_aiomqtt(port: int, version: MQTTProtocolVersion) -> AsyncIterator[Send]:
    """It does not reconnect by itself: an application does, as its manual shows."""
    stack = AsyncExitStack()

    async def connected() -> aiomqtt.Client:
        protocol = aiomqtt.ProtocolVersion(version.value)
        client = aiomqtt.Client(
            HOST,
            port,
            username=USER,
            password=PASSWORD,
            identifier="dev",
            protocol=protocol,
        )
        return await stack.enter_async_context(client)

    client = await connected()

    async def send(payload: bytes) -> None:
        nonlocal client
        try:
            await client.publish(VITALS, payload, 1, timeout=1)
        except aiomqtt.MqttError:
            with contextlib.suppress(aiomqtt.MqttError):
                await stack.aclose()
            await lost(client)
            await asyncio.sleep(AGAIN_S)
            client = await connected()
            await client.publish(VITALS, payload, 1)

    try:
        yield send
    finally:
        with contextlib.suppress(aiomqtt.MqttError):  # the wire was cut just now
            await stack.aclose()
        await lost(client)


@asynccontextmanager
async def with_gmqtt(port: int, version: MQTTProtocolVersion) -> AsyncIterator[Send]:
    """It publishes at QoS 1 and keeps what is not acknowledged, and tells nobody."""
    gmqtt = pytest.importorskip("gmqtt", reason="gmqtt is not installed")
    client = gmqtt.Client("dev", clean_session=False, session_expiry_interval=60)
    client.set_auth_credentials(USER, PASSWORD)
    client.set_config({"reconnect_delay": AGAIN_S, "reconnect_retries": 20})
    await client.connect(HOST, port, version=version.value)

    async def send(payload: bytes) -> None:
        client.publish(VITALS, payload, qos=1)

    try:
        yield send
    finally:
        await client.disconnect()


@asynccontextmanager
async def with_awscrt(port: int, version: MQTTProtocolVersion) -> AsyncIterator[Send]:
    """The client of the AWS SDKs, in C: its 3.1.1 and its 5 are two programs."""
    pytest.importorskip("awscrt", reason="awscrt is not installed")
    from awscrt import mqtt, mqtt5

    if version == V5_0:
        client = mqtt5.Client(
            mqtt5.ClientOptions(
                host_name=HOST,
                port=port,
                connect_options=mqtt5.ConnectPacket(
                    client_id="dev", username=USER, password=PASSWORD
                ),
                min_reconnect_delay_ms=200,
                max_reconnect_delay_ms=200,
            )
        )
        client.start()

        async def send(payload: bytes) -> None:
            packet = mqtt5.PublishPacket(
                topic=VITALS, payload=payload, qos=mqtt5.QoS.AT_LEAST_ONCE
            )
            done = await asyncio.wrap_future(client.publish(packet))
            assert done.puback.reason_code == mqtt5.PubackReasonCode.SUCCESS

        try:
            yield send
        finally:
            client.stop()
            await asyncio.sleep(AGAIN_S)
        return
    connection = mqtt.Connection(
        mqtt.Client(),
        HOST,
        port,
        "dev",
        username=USER,
        password=PASSWORD,
        clean_session=False,
        reconnect_min_timeout_secs=1,
        reconnect_max_timeout_secs=1,
    )
    await asyncio.wrap_future(connection.connect())

    async def send_3_1_1(payload: bytes) -> None:
        sent, _ = connection.publish(VITALS, payload, mqtt.QoS.AT_LEAST_ONCE)
        await asyncio.wrap_future(sent)

    try:
        yield send_3_1_1
    finally:
        await asyncio.wrap_future(connection.disconnect())


CLIENTS = [
    pytest.param(client, version, id=f"{client.__name__[5:]}-{name}")
    for client in (with_paho, with_aiomqtt, with_gmqtt, with_awscrt)
    for version, name in ((V3_1_1, "3.1.1"), (V5_0, "5"))
]


@pytest.mark.parametrize(("client", "version"), CLIENTS)
async def test_a_large_message_is_acknowledged_also_after_the_network_went_away(
    client: Any, version: MQTTProtocolVersion
) -> None:
    door = FakeDoor(at_once=True)
    async with (
        listening(door) as listener,
        wire_to(listener.port) as wire,
        client(wire.port, version) as send,
    ):
        for number in range(3):
            payload = bytes((number,)) + LARGE
            async with asyncio.timeout(10):
                await send(payload)
            await until(lambda: payload in {a.payload for a in door.arrivals})  # noqa: B023
            wire.cut()
    whole = {a.payload for a in door.arrivals}
    assert whole == {bytes((number,)) + LARGE for number in range(3)}
    assert {a.user for a in door.arrivals} == {USER}


@pytest.mark.skipif(
    shutil.which("mosquitto_pub") is None or shutil.which("mosquitto_sub") is None,
    reason="mosquitto_pub and mosquitto_sub (mosquitto-clients) are not installed",
)
@pytest.mark.parametrize("version", ["311", "5"])
async def test_mosquittos_programs_carry_a_large_message_both_ways(
    version: str, tmp_path: Path
) -> None:
    file = tmp_path / "large"
    file.write_bytes(LARGE)
    door = FakeDoor(at_once=True)
    async with listening(door) as listener:
        target = ("-h", HOST, "-p", str(listener.port), "-V", version, "-q", "1")
        who = ("-u", USER, "-P", PASSWORD)
        told = await run("mosquitto_pub", *target, *who, "-t", VITALS, "-f", str(file))
        assert (told.status, told.err) == (0, "")
        wall = ("-u", "wall", "-P", "secret", "-t", "iomt/v1/live/#", "-C", "1", "-N")
        process = await asyncio.create_subprocess_exec(
            *("mosquitto_sub", *target, *wall), stdout=asyncio.subprocess.PIPE
        )
        await until(lambda: listener.follows_live("wall"))
        listener.publish("iomt/v1/live/bed-1", LARGE, "wall")
        printed, _ = await process.communicate()
    assert [a.payload for a in door.arrivals] == [LARGE]
    assert printed == LARGE


async def test_what_follows_a_question_mark_is_no_part_of_a_user_name() -> None:
    """awscrt adds `?SDK=…` where it is not told otherwise."""
    async with listening(FakeDoor()) as listener, Peer(listener, V5) as peer:
        told = {"user": "bed-1?SDK=IoTDeviceSDK", "password": b"secret"}
        await peer.connect(client_id="dev", **told)
        peer.write(Subscribe(1, (Subscription("iomt/v1/bed-1/cmd", 1),)))
        assert await peer.receive() == Suback(1, (1,))


async def test_the_largest_message_is_taken_and_one_byte_more_is_not() -> None:
    """65,536 bytes of payload; the refusal is the intake's, with the reason."""
    door = FakeDoor(at_once=True)
    async with listening(door) as listener, Peer(listener, V5) as peer:
        await peer.connect(client_id="dev")
        for number, size in ((1, 65_536), (2, 65_537)):
            peer.write(Publish(VITALS, bytes(size), 1, number))
            await peer.receive()
    assert [a.refusal is None for a in door.arrivals] == [True, False]
