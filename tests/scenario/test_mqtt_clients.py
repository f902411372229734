"""The MQTT listener against clients that we did not write.

paho-mqtt and aiomqtt in both versions, and Debian's mosquitto_pub and mosquitto_sub
(apt package mosquitto-clients; skipped where it is not installed).
"""

from __future__ import annotations

import asyncio
import shutil
import ssl
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import aiomqtt
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from mqtt_fakes import COMMITTED, TIMEOUT_S, VITALS, FakeDoor, listening, until
from paho.mqtt import client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from edge.errors import Reason
from edge.model import Arrival, Outcome, Verdict
from edge.mqtt_limits import Limits
from edge.sources.mqtt_listener import MqttListener

V3, V5 = MQTTProtocolVersion.MQTTv311, MQTTProtocolVersion.MQTTv5
both = pytest.mark.parametrize("version", [V3, V5], ids=["3.1.1", "5"])
qos_0_and_1 = pytest.mark.parametrize("qos", [0, 1])

needs_mosquitto = pytest.mark.skipif(
    shutil.which("mosquitto_pub") is None or shutil.which("mosquitto_sub") is None,
    reason="mosquitto_pub and mosquitto_sub (mosquitto-clients) are not installed",
)


class PahoClient:
    """paho with its own network thread; what it reports, as lists."""

    def __init__(self, version: MQTTProtocolVersion, client_id: str = "paho") -> None:
        self.client = paho.Client(
            CallbackAPIVersion.VERSION2,
            client_id,
            protocol=version,
            reconnect_on_failure=False,
        )
        self.connected = threading.Event()
        self.acknowledged: list[tuple[int, int, str]] = []  # mid, code, reason string
        self.messages: list[tuple[str, bytes, int]] = []
        self.granted: list[list[int]] = []
        self.ended: list[int] = []
        self.refused: list[int] = []
        self.client.on_connect = self._on_connect
        self.client.on_publish = lambda *event: self.acknowledged.append(
            (event[2], event[3].value, str(getattr(event[4], "ReasonString", "")))
        )
        self.client.on_message = lambda *event: self.messages.append(
            (event[2].topic, bytes(event[2].payload), event[2].qos)
        )
        self.client.on_subscribe = lambda *event: self.granted.append(
            [code.value for code in event[3]]
        )
        self.client.on_disconnect = lambda *event: self.ended.append(event[3].value)

    def _on_connect(
        self,
        _client: paho.Client,
        _userdata: object,
        flags: paho.ConnectFlags,
        code: ReasonCode,
        _properties: Properties | None,
    ) -> None:
        if code.is_failure:
            self.refused.append(code.value)
        else:
            assert not flags.session_present
            self.connected.set()

    async def start(self, listener: MqttListener, keep_alive_s: int = 60) -> None:
        """Connect; returns once the CONNACK is there, whatever it says."""
        await asyncio.to_thread(
            self.client.connect, "127.0.0.1", listener.port, keep_alive_s
        )
        self.client.loop_start()
        await until(lambda: self.connected.is_set() or bool(self.refused))

    def stop(self) -> None:
        """Disconnect and join the thread, so that no socket is left open."""
        self.client.disconnect()
        self.client.loop_stop()


@asynccontextmanager
async def paho_client(
    listener: MqttListener,
    version: MQTTProtocolVersion,
    user: str = "",
    client_id: str = "paho",
) -> AsyncIterator[PahoClient]:
    """A connected paho client."""
    client = PahoClient(version, client_id)
    if user:
        client.client.username_pw_set(user, "secret")
    await client.start(listener)
    try:
        yield client
    finally:
        await asyncio.to_thread(client.stop)


# paho-mqtt


@both
async def test_paho_is_acknowledged_only_after_the_commit(
    version: MQTTProtocolVersion,
) -> None:
    door = FakeDoor()
    async with listening(door) as listener, paho_client(listener, version) as client:
        mid = client.client.publish(VITALS, b"36.7", 1).mid
        await door.has(1)
        await asyncio.sleep(0.1)
        assert not client.acknowledged
        door.settle()
        await until(lambda: bool(client.acknowledged))
        assert client.acknowledged == [(mid, 0, "")]
    (arrival,) = door.arrivals
    assert (arrival.device, arrival.stream) == ("bed-1", "vitals")
    assert arrival.payload == b"36.7"


@both
async def test_paho_qos_0_arrives(version: MQTTProtocolVersion) -> None:
    door = FakeDoor()
    async with listening(door) as listener, paho_client(listener, version) as client:
        client.client.publish(VITALS, b"36.7", 0, retain=True)
        await door.has(1)
        door.settle()
    assert door.arrivals[0].payload == b"36.7"


@both
async def test_paho_sees_why_it_is_refused_where_the_version_can_say_it(
    version: MQTTProtocolVersion,
) -> None:
    door = FakeDoor()
    async with listening(door) as listener, paho_client(listener, version) as client:
        mid = client.client.publish(VITALS, b"36.7", 1).mid
        await door.has(1)
        door.settle(lambda _: Outcome(Verdict.REFUSED, Reason.MALFORMED, "at byte 3"))
        await until(lambda: bool(client.acknowledged))
        told = (0x99, "at byte 3") if version == V5 else (0, "")
        assert client.acknowledged == [(mid, *told)]


@both
async def test_paho_gets_the_acknowledgements_of_a_burst_in_its_order(
    version: MQTTProtocolVersion,
) -> None:
    """Batches of one commit, more messages than its window of 20 in flight."""
    door = FakeDoor()
    async with listening(door) as listener, paho_client(listener, version) as client:
        mids = [client.client.publish(VITALS, b"%d" % i, 1).mid for i in range(200)]
        async with asyncio.timeout(TIMEOUT_S):
            while len(client.acknowledged) < 200:
                await asyncio.sleep(0.005)
                door.settle()
        assert [mid for mid, _, _ in client.acknowledged] == mids
    assert [a.payload for a in door.arrivals] == [b"%d" % i for i in range(200)]


@both
async def test_paho_with_a_wrong_password_is_refused(
    version: MQTTProtocolVersion,
) -> None:
    async with listening(FakeDoor()) as listener:
        client = PahoClient(version)
        client.client.username_pw_set("bed-1", "wrong")
        await client.start(listener)
        await asyncio.to_thread(client.stop)
        assert client.refused == [0x86]  # paho maps 3.1.1's return code 4 to this


@both
async def test_paho_is_told_that_another_took_its_session(
    version: MQTTProtocolVersion,
) -> None:
    async with (
        listening(FakeDoor()) as listener,
        paho_client(listener, version) as old,
        paho_client(listener, version),
    ):
        await until(lambda: bool(old.ended))
        if version == V5:
            assert old.ended == [0x8E]


async def test_paho_qos_2_is_refused_by_the_announced_maximum() -> None:
    """A client that ignores the announcement is disconnected with the reason."""
    async with listening(FakeDoor()) as listener, paho_client(listener, V5) as client:
        client.client.publish(VITALS, b"36.7", 2)
        await until(lambda: bool(client.ended))
        assert client.ended == [0x9B]


@both
async def test_paho_viewer_gets_alerts_and_only_alerts(
    version: MQTTProtocolVersion,
) -> None:
    async with (
        listening(FakeDoor()) as listener,
        paho_client(listener, version, user="wall") as wall,
    ):
        wall.client.subscribe([("iomt/v1/alerts/#", 1), ("iomt/v1/bed-1/vitals", 1)])
        await until(lambda: bool(wall.granted))
        assert wall.granted == [[1, 0x87 if version == V5 else 0x80]]
        assert listener.publish("iomt/v1/alerts/bed-1", b"low") == 1
        await until(lambda: bool(wall.messages))
        assert wall.messages == [("iomt/v1/alerts/bed-1", b"low", 1)]


# aiomqtt


@both
@qos_0_and_1
async def test_aiomqtt_publishes(version: MQTTProtocolVersion, qos: int) -> None:
    door = FakeDoor()
    async with (
        listening(door) as listener,
        aiomqtt.Client(
            "127.0.0.1",
            listener.port,
            username="bed-1",
            password="secret",
            protocol=aiomqtt.ProtocolVersion(version),
        ) as client,
    ):
        publishing = asyncio.create_task(client.publish(VITALS, b"36.7", qos))
        await door.has(1)
        if qos:
            await asyncio.sleep(0.05)
            assert not publishing.done()
        door.settle()
        await publishing
    assert door.arrivals[0].principal == "mqtt:bed-1"


@both
async def test_aiomqtt_subscribes_to_alerts(version: MQTTProtocolVersion) -> None:
    async with (
        listening(FakeDoor()) as listener,
        aiomqtt.Client(
            "127.0.0.1",
            listener.port,
            username="wall",
            password="secret",
            protocol=aiomqtt.ProtocolVersion(version),
        ) as client,
    ):
        await client.subscribe("iomt/v1/alerts/#", qos=1)
        assert listener.publish("iomt/v1/alerts/bed-1", b"low") == 1
        message = await anext(aiter(client.messages))
        assert (str(message.topic), message.payload) == ("iomt/v1/alerts/bed-1", b"low")


# Debian's mosquitto clients


async def run(*command: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


def mosquitto_pub(listener: MqttListener, version: str, *more: str) -> tuple[str, ...]:
    target = ("-h", "127.0.0.1", "-p", str(listener.port), "-V", version)
    return ("mosquitto_pub", *target, "-t", VITALS, *more)


mosquitto_versions = pytest.mark.parametrize("version", ["311", "5"])


@needs_mosquitto
@mosquitto_versions
@qos_0_and_1
async def test_mosquitto_pub_publishes(version: str, qos: int) -> None:
    """At QoS 1 it exits only once it is acknowledged, so not before the commit."""
    door = FakeDoor()
    async with listening(door) as listener:
        command = mosquitto_pub(listener, version, "-q", str(qos), "-m", "36.7")
        process = await run(*command)
        await door.has(1)
        if qos:
            await asyncio.sleep(0.1)
            assert process.returncode is None
        door.settle()
        _, errors = await process.communicate()
    assert (process.returncode, errors) == (0, b"")
    assert [a.payload for a in door.arrivals] == [b"36.7"]


@needs_mosquitto
@mosquitto_versions
async def test_mosquitto_pub_sends_a_thousand_lines(version: str) -> None:
    door = FakeDoor(at_once=True)
    async with listening(door) as listener:
        user = ("-u", "bed-1", "-P", "secret", "-i", "bed-1")
        process = await run(*mosquitto_pub(listener, version, "-q", "1", "-l", *user))
        lines = [b"%d" % i for i in range(1000)]
        await process.communicate(b"".join(line + b"\n" for line in lines))
    assert process.returncode == 0
    assert [a.payload for a in door.arrivals] == lines
    assert {a.user for a in door.arrivals} == {"bed-1"}


@needs_mosquitto
@mosquitto_versions
async def test_mosquitto_pub_is_told_of_a_wrong_password(version: str) -> None:
    async with listening(FakeDoor()) as listener:
        user = ("-u", "bed-1", "-P", "wrong")
        process = await run(*mosquitto_pub(listener, version, "-m", "x", *user))
        _, errors = await process.communicate()
    assert process.returncode == (134 if version == "5" else 4)  # the CONNACK's code
    assert b"bad user name or password" in errors.lower()


@needs_mosquitto
async def test_mosquitto_pub_5_prints_the_reason_of_a_refusal() -> None:
    door = FakeDoor()
    async with listening(door) as listener:
        command = mosquitto_pub(listener, "5", "-q", "1", "-m", "x", "-d")
        process = await run(*command)
        await door.has(1)
        door.settle(lambda _: Outcome(Verdict.REFUSED, Reason.UNKNOWN_DEVICE, "bed-1"))
        output, errors = await process.communicate()
    assert b"RC:135" in output + errors  # 0x87


@needs_mosquitto
@mosquitto_versions
async def test_mosquitto_sub_prints_an_alert(version: str) -> None:
    async with listening(FakeDoor()) as listener:
        process = await run(
            *("mosquitto_sub", "-h", "127.0.0.1", "-p", str(listener.port)),
            *("-V", version, "-u", "wall", "-P", "secret", "-q", "1"),
            *("-t", "iomt/v1/alerts/#", "-C", "1", "-v"),
        )
        await until(lambda: listener.publish("iomt/v1/alerts/bed-1", b"low") == 1)
        output, _ = await process.communicate()
    assert output == b"iomt/v1/alerts/bed-1 low\n"


# Over TLS


@contextmanager
def certificate(directory: Path) -> Iterator[tuple[ssl.SSLContext, Path]]:
    """A server context and the file of the certificate that it shows."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    shown = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False
        )
        .sign(key, hashes.SHA256())
    )
    public, private = directory / "cert.pem", directory / "key.pem"
    public.write_bytes(shown.public_bytes(serialization.Encoding.PEM))
    private.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(public, private)
    yield context, public


@both
async def test_paho_over_tls_publishes_and_is_pushed_back(
    version: MQTTProtocolVersion, tmp_path: Path
) -> None:
    """A TLS transport pauses in another way than a socket does."""
    door = FakeDoor(congested_at=10)
    with certificate(tmp_path) as (context, public):
        listener = MqttListener(
            door, authenticate=lambda *_: "device", limits=Limits(linger_s=0.3)
        )
        await listener.start("127.0.0.1", 0, context)
        client = PahoClient(version)
        trust = ssl.create_default_context(cafile=str(public))
        trust.check_hostname = False  # the socket goes to an address, not a name
        client.client.tls_set_context(trust)
        client.client.max_inflight_messages_set(50)
        await client.start(listener)
        try:
            for i in range(50):
                client.client.publish(VITALS, b"%d" % i, 1)
            await door.has(10)
            await asyncio.sleep(0.1)
            assert len(door.arrivals) == 10
            async with asyncio.timeout(TIMEOUT_S):
                while len(client.acknowledged) < 50:
                    door.settle()
                    await asyncio.sleep(0.005)
        finally:
            await asyncio.to_thread(client.stop)
            await listener.close()
    assert [a.payload for a in door.arrivals] == [b"%d" % i for i in range(50)]


# Beside each other


async def test_many_clients_at_once_are_each_answered() -> None:
    """Refusals and acknowledgements of one commit do not mix between connections."""
    door = FakeDoor()

    def answer(arrival: Arrival) -> Outcome:
        if arrival.payload.endswith(b"bad"):
            return Outcome(Verdict.REFUSED, Reason.MALFORMED, "bad")
        return COMMITTED

    async with listening(door) as listener:
        clients = [PahoClient(V5, f"client-{i}") for i in range(6)]
        try:
            for client in clients:
                await client.start(listener)
            for i, client in enumerate(clients):
                for n in range(4):
                    bad = "bad" if i == n else "good"
                    client.client.publish(VITALS, f"{i}-{n}-{bad}", 1)
            await door.has(24)
            door.settle(answer)
            for i, client in enumerate(clients):
                await until(all_acknowledged(client, 4))
                codes = [code for _, code, _ in client.acknowledged]
                assert codes == [0x99 if i == n else 0 for n in range(4)]
        finally:
            for client in clients:
                await asyncio.to_thread(client.stop)


def all_acknowledged(client: PahoClient, count: int) -> Callable[[], bool]:
    return lambda: len(client.acknowledged) == count
