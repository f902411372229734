"""The ward as others meet it: its process, its MQTT devices, its radio.

A real mosquitto takes its messages, and a Bumble central, attached over HCI on TCP as
the gateway is, its notifications.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

import cbor2
import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

pytest.importorskip("bumble", reason="the demo extra is not installed")
pytest.importorskip("aiomqtt", reason="the demo extra is not installed")

import aiomqtt
from bumble import hci
from bumble.device import Device, DeviceConfiguration, Peer
from bumble.link import LocalLink
from bumble.transport import open_transport

from firmware_sim.ble import Peripheral, PulseOximeter
from firmware_sim.hci_server import HciServer
from firmware_sim.patients import Patient
from firmware_sim.ward import Ward, main

ROOT = Path(__file__).parents[2]
MOSQUITTO = shutil.which("mosquitto", path=os.environ["PATH"] + ":/usr/sbin")
needs_broker = pytest.mark.skipif(
    MOSQUITTO is None, reason="Debian's mosquitto is not installed"
)


def free_port() -> int:
    """A loopback port that nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


class Broker:
    """A mosquitto of the test's own."""

    def __init__(self, directory: Path) -> None:
        self.port = free_port()
        self._config = directory / "mosquitto.conf"
        self._config.write_text(
            f"listener {self.port} 127.0.0.1\n"
            "allow_anonymous true\npersistence false\nmax_queued_messages 0\n"
        )
        self.process = self._spawn()

    def _spawn(self) -> subprocess.Popen[bytes]:
        assert MOSQUITTO is not None
        process = subprocess.Popen(
            [MOSQUITTO, "-c", str(self._config)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            with contextlib.suppress(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", self.port)).close()
                return process
            time.sleep(0.02)
        raise AssertionError("mosquitto does not listen")

    def kill(self) -> None:
        """As a power failure: nothing is said to anybody."""
        self.process.kill()
        self.process.wait()

    def restart(self) -> None:
        """Come back on the same port."""
        self.process = self._spawn()


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """A broker that the tests of this module share."""
    running = Broker(tmp_path_factory.mktemp("broker"))
    yield running
    running.kill()


class WardProcess:
    """`python -m firmware_sim.ward`, spoken to over its pipes."""

    def __init__(self, state: Path, mqtt_port: int, *options: str) -> None:
        self.process = subprocess.Popen(
            [
                *(sys.executable, "-m", "firmware_sim.ward", "--state", str(state)),
                *("--mqtt", f"127.0.0.1:{mqtt_port}", *options),
            ],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.stdin, self.stdout = self.process.stdin, self.process.stdout
        ready = json.loads(self.stdout.readline())
        assert ready["event"] == "ready"
        self.manifest = json.loads(Path(ready["manifest"]).read_text())

    def say(self, command: str) -> None:
        """A line on its stdin."""
        self.stdin.write(command + "\n")
        self.stdin.flush()

    def finish(self) -> dict[str, Any]:
        """Its last line, once it ended well and said nothing on stderr."""
        printed, errors = self.process.communicate(timeout=40)
        assert (self.process.returncode, errors) == (0, "")
        last: dict[str, Any] = json.loads(printed.splitlines()[-1])
        assert last["event"] == "final"
        return last

    def kill(self) -> None:
        """kill -9."""
        self.process.kill()
        self.process.communicate()


Heard = list[tuple[str, bytes]]


@contextlib.asynccontextmanager
async def listening(port: int) -> AsyncIterator[Heard]:
    """Everything that is published meanwhile: (topic, payload)."""
    heard: Heard = []

    async def collect() -> None:
        async for message in client.messages:
            heard.append((str(message.topic), bytes(message.payload)))

    async with aiomqtt.Client("127.0.0.1", port) as client:
        await client.subscribe("iomt/#", qos=1)
        collecting = asyncio.create_task(collect())
        try:
            yield heard
            await asyncio.sleep(0.3)
        finally:
            collecting.cancel()
            await asyncio.gather(collecting, return_exceptions=True)


@dataclass
class Central:
    """A Bumble host attached to the ward's adapter, as the gateway attaches."""

    device: Device
    transport: Any
    values: list[tuple[str, str, bytes]] = field(default_factory=list)

    @classmethod
    async def attach(cls, port: int) -> Central:
        """Power on over HCI on TCP."""
        transport = await open_transport(f"tcp-client:127.0.0.1:{port}")
        own = DeviceConfiguration(address=hci.Address("C0:00:00:00:00:01"))
        device = Device.from_config_with_hci(own, transport.source, transport.sink)
        await device.power_on()
        return cls(device, transport)

    async def scan(self, count: int) -> dict[str, Any]:
        """The first `count` peripherals that advertise, by address."""
        found: dict[str, Any] = {}
        enough = asyncio.Event()

        def see(advertisement: Any) -> None:
            found[advertisement.address.to_string(False)] = advertisement
            if len(found) >= count:
                enough.set()

        self.device.on("advertisement", see)
        await self.device.start_scanning()
        await asyncio.wait_for(enough.wait(), 10)
        await self.device.stop_scanning()
        self.device.remove_listener("advertisement", see)
        return found

    async def subscribe(self, address: str) -> Peer:
        """Connect and subscribe to all that notifies or indicates."""
        connection = await self.device.connect(hci.Address(address), timeout=10)
        peer = Peer(connection)
        await peer.discover_services()
        for service in peer.services:
            for characteristic in await service.discover_characteristics():
                if int(characteristic.properties) & 0x30:
                    uuid = characteristic.uuid.to_hex_str().lower()
                    await peer.subscribe(characteristic, self._heard(address, uuid))
        return peer

    def _heard(self, address: str, uuid: str) -> Any:
        return lambda value: self.values.append((address, uuid, bytes(value)))

    async def heard(self, count: int) -> None:
        """Wait until `count` values have come."""
        async with asyncio.timeout(10):
            while len(self.values) < count:
                await asyncio.sleep(0.01)

    async def detach(self) -> None:
        """Vanish: no disconnection, only the socket closes."""
        await self.transport.close()


@dataclass
class Run:
    """What a whole run of the ward said and what was heard of it."""

    manifest: dict[str, Any]
    final: dict[str, Any]
    heard: Heard
    names: dict[str, str]
    centrals: list[Central]


@pytest.fixture(scope="module")
def run(broker: Broker, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Eight beds for seven seconds; the BLE host goes away once and comes back."""
    hci_port = free_port()
    ward = WardProcess(
        tmp_path_factory.mktemp("ward"),
        *(broker.port, "--hci", f"127.0.0.1:{hci_port}", "--seed", "7"),
    )

    async def attached() -> tuple[Central, dict[str, str]]:
        central = await Central.attach(hci_port)
        found = await central.scan(4)
        for address in found:
            await central.subscribe(address)
        names = {address: seen.data.get(0x09) for address, seen in found.items()}
        return central, names

    async def live() -> tuple[Heard, dict[str, str], list[Central]]:
        async with listening(broker.port) as heard:
            first, _ = await attached()
            started = time.monotonic()
            ward.say("start")
            await asyncio.sleep(2.5)
            await first.detach()
            await asyncio.sleep(0.1)
            second, names = await attached()
            await asyncio.sleep(started + 6.7 - time.monotonic())
            ward.say("stop")
            await asyncio.sleep(0.3)
            await second.detach()
        return heard, names, [first, second]

    heard, names, centrals = asyncio.run(live())
    return Run(ward.manifest, ward.finish(), heard, names, centrals)


def envelopes(run: Run, device: str, stream: str = "vitals") -> list[dict[int, Any]]:
    """What the device itself signed on this stream, in the order of its sequence."""
    keys = {one["device"]: one.get("public_key") for one in run.manifest["devices"]}
    key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(keys[device]))
    bodies: dict[tuple[int, bytes], dict[int, Any]] = {}
    for topic, message in run.heard:
        if topic != f"iomt/v1/{device}/{stream}" or message[:1] != b"\xd2":
            continue
        with contextlib.suppress(InvalidSignature, cbor2.CBORDecodeError):
            protected, _, signed, signature = cbor2.loads(message).value
            aad = b"iomt/reading/v1"
            key.verify(signature, cbor2.dumps(["Signature1", protected, aad, signed]))
            body = cbor2.loads(signed)
            bodies.setdefault((body[3], signed), body)
    return [bodies[place] for place in sorted(bodies, key=lambda place: place[0])]


@needs_broker
def test_every_message_sent_is_heard_and_acknowledged(run: Run) -> None:
    """The ward's own counts against what another client received."""
    assert run.final["sent"] == run.final["acknowledged"] == len(run.heard)
    assert run.final["sent"] > 40
    assert run.final["in_flight"] == run.final["dropped"] == run.final["resent"] == 0


@needs_broker
def test_the_manifest_names_every_device_with_what_enrols_it(run: Run) -> None:
    """Six signed monitors, a thermometer, four BLE devices; each has a patient."""
    kinds = Counter(device["kind"] for device in run.manifest["devices"])
    assert kinds == {"signed": 6, "unsigned": 1, "ble": 4}
    assert run.manifest["expected_refused"] is True
    assert run.manifest["recording"] is True
    told = {
        one["address"]: one["device"]
        for one in run.manifest["devices"]
        if one["kind"] == "ble"
    }
    assert told == run.names
    assert {one["patient"] for one in run.manifest["devices"]} == {
        f"bed-{bed}" for bed in range(1, 9)
    }


@needs_broker
def test_sequences_grow_by_one_over_all_streams_of_a_device(run: Run) -> None:
    """Bed 3 sends two streams with one counter."""
    vitals = [body[3] for body in envelopes(run, "bed-3-monitor")]
    cuff = [body[3] for body in envelopes(run, "bed-3-monitor", "nibp")]
    both = sorted(vitals + cuff)
    assert both == list(range(1, len(both) + 1))
    assert len(cuff) == 1


@needs_broker
def test_the_episodes_can_be_seen_on_the_wire(run: Run) -> None:
    """Desaturation, hypertension and tachycardia within the first seven seconds."""
    assert min(body[5][0][2] for body in envelopes(run, "bed-1-monitor")) < 88
    (cuff,) = envelopes(run, "bed-3-monitor", "nibp")
    assert cuff[5] == [{5: 192, 6: 112, 7: 139}]
    assert max(body[5][0][1] for body in envelopes(run, "bed-6-monitor")) > 140
    assert max(body[5][0][1] for body in envelopes(run, "bed-5-monitor")) < 110


@needs_broker
def test_the_recorded_bed_sends_what_the_file_says(run: Run) -> None:
    """One minute a second: HR of the first minutes, and 0 where the sensor was off."""
    bodies = envelopes(run, "bed-2-monitor")
    rates = [body[5][0][1] for body in bodies]
    expected = ["0.0", "62.8", "57.8", "61.1", "67.8", "70.3", "63.0"]
    assert rates[:7] == [Decimal(rate) for rate in expected]
    assert all(body[5][0][2] == 0 for body in bodies)


@needs_broker
def test_bed_four_sends_pairs_with_times_of_their_own(run: Run) -> None:
    """Two readings an envelope, one second apart."""
    for body in envelopes(run, "bed-4-monitor"):
        assert [reading[0] for reading in body[5]] == [-1000, 0]
        assert abs(body[4] / 1000 - time.time()) < 120


@needs_broker
def test_the_thermometer_sends_senml(run: Run) -> None:
    """Its first temperature comes at once, the second after five seconds."""
    sent = [
        json.loads(p) for t, p in run.heard if t.endswith("-thermometer/temperature")
    ]
    assert [record[0]["u"] for record in sent] == ["Cel", "Cel"]
    assert 35 < sent[0][0]["v"] < 39


@needs_broker
def test_each_kind_of_bad_message_comes_in_the_first_five_seconds(run: Run) -> None:
    """One each; the replay is byte for byte, the equivocation well signed."""
    assert run.final["bad"] == {
        "wrong-key": 1,
        "garbage": 1,
        "replayed": 1,
        "equivocation": 1,
        "unknown-device": 1,
    }
    copies = Counter(run.heard)
    assert sorted(copies.values())[-2:] == [1, 2]
    sequences = Counter(body[3] for body in envelopes(run, "bed-1-monitor"))
    assert sorted(sequences.values())[-2:] == [1, 2]
    assert any("nobody-knows-me" in topic for topic, _ in run.heard)


@needs_broker
def test_a_ble_host_that_came_back_hears_every_device_again(run: Run) -> None:
    """Each value that was counted as sent was received, before and after."""
    received = sum(len(central.values) for central in run.centrals)
    assert run.final["ble_sent"] == received
    for central in run.centrals:
        pairs = {(run.names[a], uuid) for a, uuid, _ in central.values}
        assert {
            ("bed-7-heart", "2a37"),
            ("bed-7-oximeter", "2a5f"),
            ("bed-8-heart", "2a37"),
            ("bed-8-oximeter", "2a5f"),
        } <= pairs
    later = {(run.names[a], uuid) for a, uuid, _ in run.centrals[1].values}
    assert {("bed-7-oximeter", "2a5e"), ("bed-8-heart", "2a19")} <= later


@needs_broker
def test_a_broker_that_dies_loses_no_message_of_the_ward(
    broker: Broker, tmp_path: Path
) -> None:
    """Frozen with messages in flight, killed, restarted: all are sent again."""
    ward = WardProcess(tmp_path, broker.port, "--speed", "20")
    ward.say("start")
    time.sleep(0.8)
    broker.process.send_signal(signal.SIGSTOP)
    time.sleep(0.4)
    broker.kill()
    broker.restart()
    time.sleep(1.0)
    ward.say("stop")
    final = ward.finish()
    assert final["resent"] > 0
    assert final["sent"] == final["acknowledged"] > 100
    assert final["dropped"] == 0


async def test_a_gateway_that_never_answers_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes messages and acknowledges none: the counts say so, the ward ends."""
    monkeypatch.setattr("firmware_sim.ward.ACKNOWLEDGE_WAIT_S", 0.3)

    async def swallow(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        connect = await reader.read(1024)
        version_5 = connect[8] == 5
        writer.write(b"\x20\x03\x00\x00\x00" if version_5 else b"\x20\x02\x00\x00")
        while await reader.read(65536):
            pass
        writer.close()

    server = await asyncio.start_server(swallow, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    ward = Ward(tmp_path, 1, 1, 4.0, ("127.0.0.1", port), None)
    await ward.prepare()
    stop = asyncio.Event()
    asyncio.get_running_loop().call_later(0.9, stop.set)
    await asyncio.wait_for(ward.run(stop), 10)
    final = ward.final()
    await ward.close()
    server.close()
    assert ward.tally.sent > 2
    assert final["in_flight"] == final["sent"] == ward.tally.sent
    assert final["acknowledged"] == 0


@needs_broker
def test_a_ward_that_was_killed_goes_on_with_new_sequences(
    broker: Broker, tmp_path: Path
) -> None:
    """The same keys; no sequence twice in two runs."""

    async def live() -> tuple[Heard, list[dict[str, Any]]]:
        manifests = []
        async with listening(broker.port) as heard:
            for _ in range(2):
                ward = WardProcess(tmp_path, broker.port, "--beds", "1")
                manifests.append(ward.manifest)
                ward.say("start")
                await asyncio.sleep(0.5)
                ward.kill()
        return heard, manifests

    heard, manifests = asyncio.run(live())
    assert manifests[0] == manifests[1]
    bodies = [cbor2.loads(cbor2.loads(payload).value[2]) for _, payload in heard]
    sequences = [body[3] for body in bodies]
    assert sequences == sorted(set(sequences))
    assert sequences[-1] > 1000 >= sequences[0]


@pytest.mark.parametrize("how", ["stop", "end of input", "SIGTERM", "SIGINT"])
def test_a_ward_without_a_gateway_stops_when_told(tmp_path: Path, how: str) -> None:
    """Nobody listens: nothing was sent, and the exit is clean."""
    ward = WardProcess(tmp_path, free_port(), "--beds", "2")
    ward.say("start")
    time.sleep(0.3)
    if how == "stop":
        ward.say("stop")
    elif how == "SIGTERM":
        ward.process.send_signal(signal.SIGTERM)
    elif how == "SIGINT":
        ward.process.send_signal(signal.SIGINT)
    final = ward.finish()  # which closes its stdin
    assert final["sent"] == final["acknowledged"] == 0
    assert final["unsent"] > 0


def test_a_ward_that_never_started_says_so(tmp_path: Path) -> None:
    """End of input before `start`."""
    assert WardProcess(tmp_path, free_port()).finish()["sent"] == 0


@pytest.mark.parametrize(
    "options",
    [["--mqtt", "nowhere"], ["--beds", "0"], ["--beds", "101"], ["--speed", "0"]],
)
def test_a_mistake_in_the_options_is_told(
    tmp_path: Path, options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit status 2 and the place."""
    with pytest.raises(SystemExit) as ended:
        main(["--state", str(tmp_path), "--mqtt", "127.0.0.1:1", *options])
    assert ended.value.code == 2
    assert options[0] in capsys.readouterr().err


def test_a_ward_whose_directory_is_in_use_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit status 2, and no traceback."""
    ward = WardProcess(tmp_path, free_port())
    assert main(["--state", str(tmp_path), "--mqtt", "127.0.0.1:1"]) == 2
    assert "another ward" in capsys.readouterr().err
    ward.finish()


@dataclass
class Radio:
    """One oximeter and an adapter, in this process."""

    peripheral: Peripheral
    server: HciServer
    port: int


@pytest.fixture
async def radio() -> AsyncIterator[Radio]:
    """A ward of one BLE device at 50 times the speed."""
    link = LocalLink()
    peripheral = Peripheral("oximeter", "F0:00:00:00:00:09", link)
    oximeter = PulseOximeter(peripheral, Patient(1, 7), status=False)
    await peripheral.start()
    server = HciServer(link)
    port = await server.start("127.0.0.1", 0)
    running = asyncio.create_task(oximeter.run(50.0))
    yield Radio(peripheral, server, port)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await server.close()
    await peripheral.stop()


async def test_a_central_hears_what_it_subscribed_to_and_no_more(radio: Radio) -> None:
    """Nothing is counted as sent while nobody listens."""
    central = await Central.attach(radio.port)
    (address,) = await central.scan(1)
    assert radio.peripheral.sent.total() == 0
    peer = await central.subscribe(address)
    await central.heard(20)
    await peer.connection.disconnect()
    counted = radio.peripheral.sent.total()
    await asyncio.sleep(0.2)
    assert radio.peripheral.sent.total() == counted == len(central.values)
    await central.detach()


async def test_hosts_may_come_and_go(radio: Radio) -> None:
    """A gateway that is killed and restarted finds the device each time."""
    for _ in range(3):
        central = await Central.attach(radio.port)
        (address,) = await central.scan(1)
        assert address == radio.peripheral.address
        await central.subscribe(address)
        await central.heard(3)
        await central.detach()
        await asyncio.sleep(0.05)


async def test_a_second_host_is_turned_away_and_the_first_stays(radio: Radio) -> None:
    """An adapter belongs to one host."""
    central = await Central.attach(radio.port)
    reader, writer = await asyncio.open_connection("127.0.0.1", radio.port)
    assert await asyncio.wait_for(reader.read(), 5) == b""
    writer.close()
    assert len(await central.scan(1)) == 1
    await central.detach()


async def test_bytes_that_are_no_hci_detach_their_sender_only(radio: Radio) -> None:
    """A port scanner must not end the demo."""
    reader, writer = await asyncio.open_connection("127.0.0.1", radio.port)
    writer.write(b"GET / HTTP/1.1\r\n\r\n")
    assert await asyncio.wait_for(reader.read(), 5) == b""
    writer.close()
    central = await Central.attach(radio.port)
    assert len(await central.scan(1)) == 1
    await central.detach()


async def test_a_host_that_does_not_read_is_detached(
    radio: Radio, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The adapter keeps a bounded number of bytes for it."""
    monkeypatch.setattr("firmware_sim.hci_server.UNREAD_SIZE_MAX", -1)
    reader, writer = await asyncio.open_connection("127.0.0.1", radio.port)
    writer.write(b"\x01\x03\x0c\x00")  # HCI Reset: its answer is one too many
    with contextlib.suppress(ConnectionResetError):
        assert await asyncio.wait_for(reader.read(), 5) == b""
    writer.close()
