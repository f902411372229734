"""Who means harm, and a well-behaved client beside: it is served, the other is bounded.

What each attack costs the well-behaved client in time is measured by
benchmarks/hostile.py; here is what happens.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from fronts import Front, front
from mqtt_fakes import Peer, code_of_disconnect
from workbench import SignedDevice, trusted_clock

from edge.ledger import core
from edge.mqtt_limits import Limits
from edge.sources.mqtt_encoder import encode
from edge.sources.mqtt_packets import (
    V5,
    V311,
    Connect,
    Puback,
    Publish,
    Subscribe,
    Subscription,
    Unsubscribe,
)
from edge.sources.mqtt_properties import Properties, Property

VITALS = "iomt/v1/monitor/vitals"


async def slow_loris(at: Front) -> None:
    """Many connections that begin a CONNECT and never end it."""
    hello = encode(Connect("loris"), V311)
    async with contextlib.AsyncExitStack() as stack:
        peers = [await stack.enter_async_context(Peer(at, V311)) for _ in range(100)]
        for byte in hello[:-1]:
            for peer in peers:
                peer.write(bytes((byte,)))
            await asyncio.sleep(0.01)


async def flood(at: Front) -> None:
    """More connections than there is room for, that say nothing."""
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(Limits().connections_max + 100):
            await stack.enter_async_context(Peer(at, V311))
        await asyncio.sleep(0.2)


async def a_length_of_256_mb(at: Front) -> None:
    for _ in range(20):
        async with Peer(at, V5) as peer:
            await peer.connect(client_id="large")
            peer.write(b"\x30\xff\xff\xff\x7f" + b"x" * 1000)
            assert await code_of_disconnect(peer) == 0x95


async def malformed_text(at: Front) -> None:
    for text in (b"\xff\xfe", b"\xed\xa0\x80", b"a\x00b", b"\xc0\x80"):
        async with Peer(at, V5) as peer:
            await peer.connect(client_id="text")
            size = len(text) + 4
            body = len(text).to_bytes(2, "big") + text + b"\x00x"
            peer.write(bytes((0x30, size)) + body)
            assert await code_of_disconnect(peer) == 0x81


async def subscription_bombs(at: Front) -> None:
    many = tuple(Subscription("a") for _ in range(10_000))
    for packet in (
        Subscribe(1, many),
        Unsubscribe(1, tuple(one.topic_filter for one in many)),
    ):
        async with Peer(at, V5) as peer:
            await peer.connect(client_id="bomb")
            peer.write(packet)
            assert await code_of_disconnect(peer) == 0x97


async def property_bombs(at: Front) -> None:
    many: Properties = {Property.USER: (("", ""),) * 10_000}
    async with Peer(at, V5) as peer:
        await peer.connect(client_id="bomb")
        peer.write(Publish(VITALS, b"x", 1, 1, properties=many))
        assert await code_of_disconnect(peer) == 0x97


async def bad_signatures(at: Front) -> None:
    """As fast as they are read, from a stranger who knows a device's name."""
    device = SignedDevice("monitor", seed=bytes(range(50, 82)))
    good = device.envelope()
    known = SignedDevice("monitor")
    kid = known.envelope()[8:16]
    forged = good[:8] + kid + good[16:-64]
    forged += core.sign(device.seed, forged)
    async with Peer(at, V5) as peer:
        await peer.connect(client_id="forger")
        peer.write(*(Publish(VITALS, forged, 1, i) for i in range(1, 501)))
        await asyncio.sleep(0.5)


ATTACKS: list[Callable[[Front], Awaitable[None]]] = [
    slow_loris,
    flood,
    a_length_of_256_mb,
    malformed_text,
    subscription_bombs,
    property_bombs,
    bad_signatures,
]


@pytest.mark.parametrize("attack", ATTACKS, ids=[one.__name__ for one in ATTACKS])
async def test_a_well_behaved_client_is_served_beside(
    attack: Callable[[Front], Awaitable[None]], tmp_path: Path
) -> None:
    settings = trusted_clock(tmp_path)
    device = SignedDevice("monitor")
    async with front(settings) as gateway, Peer(gateway, V5) as peer:
        await gateway.enrol(device)
        await peer.connect(user="monitor", client_id="monitor")
        peer.write(Publish(VITALS, device.envelope(), 1, 1))
        assert await peer.receive() == Puback(1)
        attacking = asyncio.ensure_future(attack(gateway))
        served = 1
        while not attacking.done() or served < 3:
            served += 1
            peer.write(Publish(VITALS, device.envelope(), 1, served))
            assert await peer.receive() == Puback(served)
            await asyncio.sleep(0.02)
        await attacking
        # And who comes now is let in.
        async with Peer(gateway, V311) as late:
            assert (await late.connect(client_id="late")).code == 0
        assert gateway.running.core.intake.totals["committed"] == served


async def test_bytes_without_a_packet_keep_no_connection(tmp_path: Path) -> None:
    """One byte at a time, faster than the keep-alive, of a packet that never ends."""
    async with (
        front(trusted_clock(tmp_path)) as gateway,
        Peer(gateway, V5) as peer,
    ):
        await peer.connect(keep_alive_s=1)
        peer.write(b"\x30\xff\x7f")
        closed = asyncio.create_task(code_of_disconnect(peer))
        async with asyncio.timeout(10):
            while not closed.done():
                peer.write(b"x")
                await asyncio.sleep(0.1)
        assert await closed == 0x8D
