"""What happens to a device beside its readings: it vanishes, it skips sequences."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from fronts import Front, front
from mqtt_fakes import Peer, both
from workbench import SignedDevice, a_ward, reader_of, trusted_clock

from edge.config import Settings
from edge.model import Event, EventKind, Kind, Verdict
from edge.sources.mqtt_packets import V5, Disconnect, Puback, Publish, Will
from edge.sources.mqtt_properties import Properties, Property

WILL_TOPIC = "iomt/v1/monitor/status"
KEPT: Properties = {Property.SESSION_EXPIRY_S: 60}


def events_of(settings: Settings) -> list[tuple[str | None, Event]]:
    return [
        (one.record.device, Event.decode(one.record.original))
        for one in reader_of(settings).records()
        if one.record.kind is Kind.EVENT
    ]


async def totals(gateway: Front, received: int) -> dict[str, int]:
    """The counters once so many messages were committed."""
    intake = gateway.running.core.intake
    async with asyncio.timeout(5):
        while intake.totals["received"] < received:
            await asyncio.sleep(0.01)
    return dict(intake.totals)


@both
@pytest.mark.parametrize("payload", [b"", b"offline", b"x" * 3000])
async def test_a_device_that_vanishes_leaves_an_event_with_its_will(
    version: int, payload: bytes, tmp_path: Path
) -> None:
    settings = trusted_clock(tmp_path)
    async with front(settings) as gateway:
        await gateway.enrol(SignedDevice("monitor"))
        for last_words in (Disconnect(), None):
            async with Peer(gateway, version) as peer:
                await peer.connect(user="monitor", will=Will(WILL_TOPIC, payload))
                if last_words is not None:  # then it is not dead
                    peer.write(last_words)
                    await peer.bytes_until_closed()
        counts = await totals(gateway, 1)
    assert (counts["committed"], counts.get("refused", 0)) == (1, 0)
    lost = Event(EventKind.LOST, will=payload[:1024])
    assert events_of(settings) == [("monitor", lost)]


@both
async def test_nobody_can_declare_another_device_dead(
    version: int, tmp_path: Path
) -> None:
    settings = trusted_clock(tmp_path)
    async with front(settings) as gateway:
        await gateway.enrol(SignedDevice("monitor"))
        for user in (None, "thermometer", "nobody"):
            async with Peer(gateway, version) as peer:
                await peer.connect(user=user, will=Will(WILL_TOPIC, b"offline"))
        counts = await totals(gateway, 3)
    assert counts["refused.not-authorised"] == 3
    assert events_of(settings) == []


async def test_a_will_waits_for_its_delay_and_not_if_the_device_comes_back(
    tmp_path: Path,
) -> None:
    settings = trusted_clock(tmp_path)
    delay: Properties = {Property.WILL_DELAY_S: 1}
    will = Will(WILL_TOPIC, b"offline", properties=delay)
    async with front(settings) as gateway:
        await gateway.enrol(SignedDevice("monitor"))
        async with Peer(gateway, V5) as peer:
            await peer.connect(user="monitor", will=will, properties=KEPT)
        async with Peer(gateway, V5) as peer:  # back in time
            await peer.connect(
                user="monitor", will=will, properties=KEPT, clean_start=False
            )
            await asyncio.sleep(1.2)
            assert not gateway.running.core.intake.totals["received"]
        await totals(gateway, 1)  # not back any more
    assert len(events_of(settings)) == 1


async def test_a_gap_in_the_sequence_is_an_event_beside_its_reading(
    tmp_path: Path,
) -> None:
    settings = trusted_clock(tmp_path)
    device = SignedDevice("monitor")
    async with a_ward(settings) as (core, mail):
        for sequence in (10, 11, 14, 13, 15, 20):
            sent = await mail.send("monitor", device.envelope(sequence=sequence))
            assert sent.verdict is Verdict.COMMITTED
        assert (core.intake.totals["gaps"], core.intake.totals["gap-sequences"]) == (
            *(2, 6),
        )
        assert core.intake.totals["committed"] == 6
    gaps = [
        Event(EventKind.GAP, first=12, last=13),
        Event(EventKind.GAP, first=16, last=19),
    ]
    assert events_of(settings) == [("monitor", gap) for gap in gaps]


async def test_what_a_dead_device_left_is_repeated_by_no_restart(
    tmp_path: Path,
) -> None:
    """The replay of the contracts meets events and makes nothing of them."""
    settings = trusted_clock(tmp_path)
    device = SignedDevice("monitor")
    async with front(settings) as gateway:
        await gateway.enrol(device)
        async with Peer(gateway, V5) as peer:
            await peer.connect(user="monitor", will=Will(WILL_TOPIC, b"offline"))
        await totals(gateway, 1)
    async with front(settings) as gateway, Peer(gateway, V5) as peer:
        await peer.connect(user="monitor")
        peer.write(Publish("iomt/v1/monitor/vitals", device.envelope(), 1, 1))
        assert await peer.receive() == Puback(1)
    assert len(events_of(settings)) == 1
