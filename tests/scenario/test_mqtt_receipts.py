"""Receipts as a device gets them over MQTT, checked by `iomt verify` alone."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from fronts import Front, front, temperature
from mqtt_fakes import Peer, both
from processes import run
from workbench import SignedDevice, reader_of, trusted_clock, vkey

from edge.delivery.receipts import LogKey, ReceiptWriter
from edge.ledger import core, receipt
from edge.ledger.batch import Batch, decode_entry
from edge.ledger.note import Verifier
from edge.ledger.report import Verdict
from edge.ledger.verify import verify_file
from edge.model import Arrival, Outcome, Source
from edge.model import Verdict as Answer
from edge.open_batch import Answered
from edge.sources.mqtt_packets import (
    V5,
    Disconnect,
    Puback,
    Publish,
    Suback,
    Subscribe,
    Subscription,
)
from edge.sources.mqtt_properties import Property
from edge.store.commit import Committed

TOPIC = "iomt/v1/monitor/receipt"
VITALS = "iomt/v1/monitor/vitals"


class Monitor:
    """A device that publishes and keeps its receipts."""

    def __init__(self, at: Front, version: int) -> None:
        self.peer = Peer(at, version)
        self.receipts: list[bytes] = []
        self.acknowledged: dict[int, int] = {}

    async def start(self, **fields: object) -> None:
        await self.peer.__aenter__()
        await self.peer.connect(user="monitor", client_id="monitor", **fields)

    async def follow(self) -> None:
        self.peer.write(Subscribe(1, (Subscription(TOPIC, 1),)))
        assert await self.peer.receive() == Suback(1, (1,))

    async def until(self, acknowledged: int, receipts: int) -> None:
        """Take what comes until there are so many; acknowledge receipts."""
        while (len(self.acknowledged), len(self.receipts)) != (acknowledged, receipts):
            match await self.peer.receive():
                case Puback(packet_id, code):
                    self.acknowledged[packet_id] = code
                case Publish(topic, payload, 1, packet_id):
                    assert topic == TOPIC
                    self.receipts.append(payload)
                    self.peer.write(Puback(packet_id))
                case other:
                    raise AssertionError(other)


@both
async def test_a_receipt_says_what_became_of_each_message_and_where_it_stands(
    version: int, tmp_path: Path
) -> None:
    settings = trusted_clock(tmp_path)
    device = SignedDevice("monitor")
    async with front(settings) as gateway:
        await gateway.enrol(device)
        monitor = Monitor(gateway, version)
        await monitor.start()
        await monitor.follow()
        first = device.envelope(heart_rate=71)
        monitor.peer.write(Publish(VITALS, first, 1, 1))
        await monitor.until(1, 1)
        second = device.envelope(heart_rate=72)
        other = device.envelope(sequence=0, heart_rate=99)  # 0 was used by `first`
        for i, payload in enumerate((second, first, other, b"junk"), 2):
            monitor.peer.write(Publish(VITALS, payload, 1, i))
        await monitor.until(5, 2)
        monitor.peer.vanish()
    told = [receipt.parse(one).receipt for one in monitor.receipts]
    assert [one.device for one in told] == ["monitor", "monitor"]
    [accepted] = told[0].accepted
    assert (accepted.sequence, accepted.digest) == (0, receipt.digest_of(first))
    [accepted] = told[1].accepted
    assert (accepted.sequence, accepted.digest) == (1, receipt.digest_of(second))
    assert told[1].duplicates == (receipt.Duplicate(0, receipt.digest_of(first)),)
    assert told[1].refused == (
        receipt.Refused(0, receipt.digest_of(other), "equivocation"),
        receipt.Refused(None, receipt.digest_of(b"junk"), "malformed"),
    )
    # What stands at the place is what the device sent.
    reader = reader_of(settings)
    by_leaf = {(s.number, s.leaf): s.record for s in reader.records()}
    for one, payload in zip(told, (first, second), strict=True):
        entry = one.place.entry
        batch = decode_entry(entry)
        assert isinstance(batch, Batch)
        assert by_leaf[batch.number, one.accepted[0].leaf].original == payload
    # An auditor has the file, the key, and no more.
    for i, content in enumerate(monitor.receipts):
        assert len(content) < 2000
        path = tmp_path / f"{i}.receipt"
        path.write_bytes(content)
        command = (sys.executable, "-S", "-m", "edge.ledger.verify")
        result = await run(*command, str(path), "--vkey", vkey(settings))
        assert result.status == 0, result
    assert "refused   sequence 0" in result.out
    assert result.out.endswith("VERIFIED\n")


async def test_a_receipt_waits_for_a_device_that_lost_its_connection(
    tmp_path: Path,
) -> None:
    settings = trusted_clock(tmp_path)
    device = SignedDevice("monitor")
    async with front(settings) as gateway:
        await gateway.enrol(device)
        monitor = Monitor(gateway, V5)
        kept = {Property.SESSION_EXPIRY_S: 60}
        await monitor.start(properties=kept)
        await monitor.follow()
        monitor.peer.write(Publish(VITALS, device.envelope(), 1, 1))
        monitor.peer.write(Disconnect())  # before the receipt can have come
        await asyncio.sleep(0.2)
        monitor.peer.vanish()
        again = Monitor(gateway, V5)
        await again.start(properties=kept, clean_start=False)
        await again.until(0, 1)
        again.peer.vanish()
    [accepted] = receipt.parse(again.receipts[0]).receipt.accepted
    assert accepted.digest == receipt.digest_of(device.sent[0])


async def test_only_the_device_itself_gets_its_receipts_and_only_of_its_own(
    tmp_path: Path,
) -> None:
    settings = trusted_clock(tmp_path)
    device = SignedDevice("monitor")
    async with front(settings) as gateway:
        await gateway.enrol(device)
        monitor = Monitor(gateway, V5)
        await monitor.start()
        await monitor.follow()
        async with Peer(gateway, V5) as stranger:
            await stranger.connect(user="thermometer", client_id="thermometer")
            stranger.write(Subscribe(1, (Subscription(TOPIC, 1),)))
            refused = await stranger.receive()
            assert isinstance(refused, Suback)
            assert refused.codes == (0x87,)
            stranger.write(Publish(VITALS, b"junk", 1, 1))
            assert isinstance(await stranger.receive(), Puback)
            own = "iomt/v1/thermometer/vitals"
            stranger.write(Publish(own, temperature(b"36.6"), 1, 2))
            assert isinstance(await stranger.receive(), Puback)
        monitor.peer.write(Publish(VITALS, device.envelope(), 1, 1))
        await monitor.until(1, 1)
        assert await monitor.peer.silence()
        monitor.peer.vanish()
    told = receipt.parse(monitor.receipts[0]).receipt
    assert (len(told.accepted), told.refused) == (1, ())


async def test_more_than_one_receipt_can_say_becomes_several(tmp_path: Path) -> None:
    settings = trusted_clock(tmp_path)
    device = SignedDevice("monitor")
    async with front(settings) as gateway:
        await gateway.enrol(device)
        monitor = Monitor(gateway, V5)
        await monitor.start()
        await monitor.follow()
        for i in range(1, 301):
            monitor.peer.write(Publish(VITALS, device.envelope(), 1, i))
        sequences: list[int | None] = []
        while len(sequences) < 300:
            await monitor.until(len(monitor.acknowledged), len(monitor.receipts))
            packet = await monitor.peer.receive()
            if isinstance(packet, Publish):
                monitor.peer.write(Puback(packet.packet_id))
                assert len(packet.payload) <= 2000
                told = receipt.parse(packet.payload).receipt
                sequences += [one.sequence for one in told.accepted]
        monitor.peer.vanish()
    assert sorted(map(int, filter(None, sequences))) == list(range(1, 300))


async def test_receipts_that_cannot_be_signed_in_time_are_left_out_and_counted(
    tmp_path: Path,
) -> None:
    """Nothing piles up, and what is left out is the newest, as a whole commit."""
    seed = bytes(range(32))
    verifier = Verifier("test.example/ward", core.public_key(seed))
    sent: list[bytes] = []

    def publish(_topic: str, payload: bytes, _user: str) -> int:
        sent.append(payload)
        return 1

    writer = ReceiptWriter(
        LogKey(verifier, lambda message: core.sign(seed, message)),
        lambda *_: True,
        publish,
    )
    arrival = Arrival(
        Source.MQTT, "mqtt:monitor", "monitor", "vitals", b"x", print, user="monitor"
    )
    assert writer.wants(arrival)
    arrival.user = None
    assert not writer.wants(arrival)
    committed = Outcome(Answer.COMMITTED)
    some = [Answered("monitor", b"%d" % i, committed, i + 1) for i in range(10)]
    place = receipt.Place(b"entry", 0, (), b"note")
    for _ in range(40):
        writer.committed(some, Committed(1, 1, 0, 5, place))
    async with asyncio.timeout(10):
        while len(sent) + writer.left_out_count // 10 < 40:
            await asyncio.sleep(0.01)
    writer.close()
    assert len(sent) == 16
    assert writer.left_out_count == 240
    path = tmp_path / "no.receipt"
    path.write_bytes(sent[0])
    assert verify_file(path, verifier.vkey).verdict is Verdict.REFUSED
