"""What an attack costs a well-behaved client: its p99 beside each, by turns.

    python benchmarks/hostile.py [--rounds N] [--seconds S] [--only NAME]

One gateway, `iomt run` in a process of its own; the well-behaved clients (signed,
QoS 1, open loop: latency counts from when a message was due) in a second, the attacker
in a third, which does not stop while its round lasts. Each attack has rounds of its
own, quiet and attacked by turns; a row shows medians over them, and their ratio. Three
processes on the machine's cores: an attack also costs what its own process burns.
What was acknowledged must have been committed; no time is asserted.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Awaitable, Callable
from contextlib import closing
from itertools import count
from pathlib import Path

from mqtt_load import HOST, Measured, Phase, seed_of
from served import PREFIX, Gateway, Load, running

from edge.devices.envelope import build
from edge.devices.metrics import make_reading
from edge.ledger import core
from edge.ledger.device_key import kid_of
from edge.sources.mqtt_encoder import encode
from edge.sources.mqtt_packets import (
    V5,
    V311,
    Connect,
    Publish,
    Subscribe,
    Subscription,
)
from edge.sources.mqtt_properties import Properties, Property

CONNECTIONS = 5
RATE_PER_S = 25.0
WARMUP_S = 0.5
TOPIC = f"iomt/v1/{PREFIX}000/vitals"


async def _send(port: int, *chunks: bytes, pause_s: float = 0.0) -> None:
    """One connection: send these, read until the other side ends it."""
    with contextlib.suppress(OSError):
        reader, writer = await asyncio.open_connection(HOST, port)
        try:
            for chunk in chunks:
                writer.write(chunk)
                await writer.drain()
                if pause_s:
                    await asyncio.sleep(pause_s)
            async with asyncio.timeout(5):
                while await reader.read(1 << 16):
                    pass
        except TimeoutError:
            pass
        finally:
            writer.transport.abort()


HELLO = encode(Connect("attacker", V5), V5)


async def _many(count: int, one: Callable[[], Awaitable[None]]) -> None:
    async def again() -> None:
        while True:
            await one()

    await asyncio.gather(*(again() for _ in range(count)))


async def slow_loris(port: int) -> None:
    """200 connections, each a CONNECT of one byte a second."""
    bytes_ = [bytes((byte,)) for byte in HELLO]
    await _many(200, lambda: _send(port, *bytes_, pause_s=1.0))


async def one_byte_a_second(port: int) -> None:
    """200 clients that were let in, each with a PUBLISH of one byte a second."""
    clients = (encode(Connect(f"drip-{number}", V5), V5) for number in count())
    drip = [bytes((byte,)) for byte in encode(Publish(TOPIC, bytes(99)), V5)]
    await _many(200, lambda: _send(port, next(clients), *drip, pause_s=1.0))


async def connection_flood(port: int) -> None:
    """As many connections a second as one process makes, each gone at once."""

    async def one() -> None:
        with contextlib.suppress(OSError):
            _, writer = await asyncio.open_connection(HOST, port)
            writer.transport.abort()

    await _many(20, one)


async def length_of_256_mb(port: int) -> None:
    """A packet that says it is 268,435,455 bytes long, and begins."""
    await _many(4, lambda: _send(port, HELLO, b"\x30\xff\xff\xff\x7f" + bytes(65_536)))


async def malformed_utf_8(port: int) -> None:
    """Topics that are no text."""
    await _many(4, lambda: _send(port, HELLO, b"\x30\x06\x00\x02\xff\xfe\x00x"))


async def subscription_bombs(port: int) -> None:
    """SUBSCRIBE with 60,000 filters."""
    bomb = encode(Subscribe(1, (Subscription("a"),) * 60_000), V5)
    await _many(4, lambda: _send(port, HELLO, bomb))


async def property_bombs(port: int) -> None:
    """PUBLISH with 50,000 user properties."""
    pairs: Properties = {Property.USER: (("", ""),) * 50_000}
    bomb = encode(Publish(TOPIC, b"x", 1, 1, properties=pairs), V5)
    await _many(4, lambda: _send(port, HELLO, bomb))


async def bad_signatures(port: int) -> None:
    """Envelopes with a known device's kid that somebody else signed, without end."""
    stranger = bytes(range(32))
    envelope = build(
        f"{PREFIX}000",
        "vitals",
        1 << 40,
        1_790_000_000_000,
        [make_reading(1_790_000_000_000, {}, {"acvpu": "A"})],
        kid=kid_of(core.public_key(seed_of(f"{PREFIX}000"))),
        sign=lambda message: core.sign(stranger, message),
    )
    packets = b"".join(
        encode(Publish(TOPIC, envelope, 1, i), V311) for i in range(1, 1001)
    )
    hello = encode(Connect("forger", V311), V311)
    await _many(1, lambda: _send(port, hello, *([packets] * 1000)))


ATTACKS: dict[str, Callable[[int], Awaitable[None]]] = {
    one.__name__: one
    for one in (
        slow_loris,
        one_byte_a_second,
        connection_flood,
        length_of_256_mb,
        malformed_utf_8,
        subscription_bombs,
        property_bombs,
        bad_signatures,
    )
}


def measure(load: Load, gateway: Gateway, seconds: float) -> Measured:
    """The well-behaved clients for so long."""
    return load.run(
        Phase(
            port=gateway.port,
            pid=gateway.pid,
            prefix=PREFIX,
            connections=CONNECTIONS,
            seconds=seconds,
            warmup_s=WARMUP_S,
            rate_per_s=RATE_PER_S,
        )
    )


def attacked(load: Load, gateway: Gateway, seconds: float, name: str) -> Measured:
    """The same beside an attacker."""
    process = subprocess.Popen(
        [sys.executable, __file__, "--attack", name, "--port", str(gateway.port)]
    )
    try:
        return measure(load, gateway, seconds)
    finally:
        process.kill()
        process.wait()


def percentile(measured: Measured, share: float) -> float:
    """A latency in ms that this share of them do not exceed."""
    found = sorted(measured.latencies_ms)
    return found[min(len(found) - 1, int(share * len(found)))]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").split("\n", maxsplit=1)[0]
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--only", choices=ATTACKS)
    parser.add_argument("--directory", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--attack", choices=ATTACKS, help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.attack:
        asyncio.run(ATTACKS[options.attack](options.port))  # type: ignore[arg-type]
        return
    names = [options.only] if options.only else list(ATTACKS)
    print(f"{'':20} quiet p50   p99 ms   attacked p50   p99 ms   p99 ratio")
    with running(options.directory) as gateway, closing(Load()) as load:
        gateway.enrol(CONNECTIONS)
        acknowledged = measure(load, gateway, 2.0).acknowledged_total
        for name in names:
            quiet, beside = [], []
            for _ in range(options.rounds):
                quiet.append(measure(load, gateway, options.seconds))
                beside.append(attacked(load, gateway, options.seconds, name))
            acknowledged += sum(one.acknowledged_total for one in quiet + beside)
            row = [
                statistics.median(percentile(one, share) for one in some)
                for some in (quiet, beside)
                for share in (0.5, 0.99)
            ]
            ratio = row[3] / row[1]
            print(
                f"{name:20} {row[0]:9.1f} {row[1]:8.1f} {row[2]:14.1f} "
                f"{row[3]:8.1f} {ratio:11.2f}",
                flush=True,
            )
        [(committed,)] = gateway.query(
            "SELECT value FROM counters WHERE name = 'committed'"
        )
    if committed != acknowledged:
        raise RuntimeError(f"{acknowledged} acknowledged, {committed} committed")


if __name__ == "__main__":
    main()
