"""Store and forward: what a device keeps, sends again, and counts.

The broker here is a few lines of MQTT of the test's own, so that it can fall silent at
an exact place.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

pytest.importorskip("aiomqtt", reason="the demo extra is not installed")

from aiomqtt import ProtocolVersion

from firmware_sim import mqtt_device
from firmware_sim.mqtt_device import RING_COUNT, WINDOW, Message, MqttDevice, Tally

NOBODY = ("127.0.0.1", 1)


def message(n: int) -> Message:
    """A message that can be told from the others."""
    return Message("iomt/v1/d/s", f"payload {n}".encode(), sequence=n)


@dataclass
class MiniBroker:
    """Takes publishes; `answers` gives the PUBACK of the nth one, or None to be silent.

    A connection is cut when `cut` messages have come on it.
    """

    answers: Callable[[int], bytes | None]
    cut: int | None = None
    connections: list[list[bytes]] = field(default_factory=list)

    async def serve(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """One connection."""
        payloads: list[bytes] = []
        self.connections.append(payloads)
        try:
            while True:
                head, body = await self._packet(reader)
                if head >> 4 == 1:
                    version_5 = body[6] == 5
                    writer.write(b"\x20\x03\0\0\0" if version_5 else b"\x20\x02\0\0")
                elif head >> 4 == 3:
                    topic_end = 2 + int.from_bytes(body[:2], "big")
                    packet_id = body[topic_end : topic_end + 2]
                    properties_size = 1 if version_5 else 0
                    payloads.append(body[topic_end + 2 + properties_size :])
                    count = sum(map(len, self.connections))
                    if (answer := self.answers(count)) is not None:
                        writer.write(
                            bytes((0x40, 2 + len(answer))) + packet_id + answer
                        )
                    if self.cut is not None and len(payloads) == self.cut:
                        self.cut = None
                        return
        except asyncio.IncompleteReadError:
            return
        finally:
            writer.close()

    @staticmethod
    async def _packet(reader: asyncio.StreamReader) -> tuple[int, bytes]:
        (head,) = await reader.readexactly(1)
        size, shift = 0, 0
        while True:
            (octet,) = await reader.readexactly(1)
            size |= (octet & 0x7F) << shift
            shift += 7
            if octet < 0x80:
                return head, await reader.readexactly(size)


async def run_device(
    broker: MiniBroker, count: int, version: ProtocolVersion = ProtocolVersion.V311
) -> Tally:
    """A device with `count` messages to send, until all are acknowledged."""
    server = await asyncio.start_server(broker.serve, "127.0.0.1", 0)
    tally = Tally()
    address = server.sockets[0].getsockname()[:2]
    acknowledged = asyncio.Event()

    def on_acknowledged(_: Message) -> None:
        if tally.acknowledged == count:
            acknowledged.set()

    device = MqttDevice(
        "d", address, tally, version=version, on_acknowledged=on_acknowledged
    )
    for n in range(count):
        device.put(message(n))
    running = asyncio.create_task(device.run())
    async with asyncio.timeout(20):
        await acknowledged.wait()
        assert device.drain() is None
        await running
    server.close()
    return tally


def numbers(payloads: list[bytes]) -> list[int]:
    """Which messages these are."""
    return [int(payload.removeprefix(b"payload ")) for payload in payloads]


async def test_unacknowledged_messages_come_again_first_and_in_order(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Five acknowledged of nine, then the line is cut: the other four lead."""
    monkeypatch.setattr(mqtt_device, "BACKOFF_BASE_S", 0.01)
    broker = MiniBroker(lambda n: None if 5 < n <= 9 else b"", cut=9)
    tally = await run_device(broker, 30)
    first, second = map(numbers, broker.connections)
    assert first == list(range(9))
    assert second == list(range(5, 30))
    assert (tally.sent, tally.acknowledged, tally.in_flight) == (30, 30, 0)
    assert 4 <= tally.resent <= WINDOW


async def test_no_more_than_a_window_is_unacknowledged() -> None:
    """A broker that answers nothing gets WINDOW messages and no more."""
    broker = MiniBroker(lambda _: None)
    server = await asyncio.start_server(broker.serve, "127.0.0.1", 0)
    tally = Tally()
    device = MqttDevice("d", server.sockets[0].getsockname()[:2], tally)
    for n in range(100):
        device.put(message(n))
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(device.run(), 0.5)
    assert numbers(broker.connections[0]) == list(range(WINDOW))
    assert tally.in_flight == tally.sent == WINDOW
    server.close()


@pytest.mark.parametrize("reason", [b"", b"\x00\x00", b"\x87\x00", b"\x99\x00"])
async def test_every_puback_acknowledges_whatever_its_reason(reason: bytes) -> None:
    """A refused message must not be sent for ever (docs/wire-format.md section 3)."""
    tally = await run_device(MiniBroker(lambda _: reason), 3, ProtocolVersion.V5)
    assert (tally.sent, tally.acknowledged, tally.resent) == (3, 3, 0)


def test_a_full_ring_loses_its_oldest_and_counts_it() -> None:
    """Nobody listens; five more than the ring holds."""
    tally = Tally()
    device = MqttDevice("d", NOBODY, tally)
    for n in range(RING_COUNT + 5):
        device.put(message(n))
    assert tally.unsent == 5
    first = device.drain()
    assert first is not None
    assert first.sequence == 5
    assert tally.unsent == RING_COUNT + 5
    assert tally.sent == tally.dropped == 0


def test_a_sent_message_that_the_ring_lost_is_dropped_and_no_longer_in_flight() -> None:
    """sent = acknowledged + in flight + dropped, always."""
    tally = Tally(sent=1)
    device = MqttDevice("d", NOBODY, tally)
    oldest = message(0)
    oldest.sent = True
    device.put(oldest)
    for n in range(RING_COUNT):
        device.put(message(n + 1))
    assert (tally.dropped, tally.in_flight) == (1, 0)


async def test_nobody_at_the_address_is_tried_again_until_told_to_stop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A gateway that is not up yet; the tries are counted by the growing limit."""
    monkeypatch.setattr(mqtt_device, "BACKOFF_BASE_S", 0.001)
    device = MqttDevice("d", NOBODY, Tally())
    device.put(message(0))
    running = asyncio.create_task(device.run())
    await asyncio.sleep(0.3)
    assert not running.done()
    assert device.drain() is not None
    await asyncio.wait_for(running, 5)
