"""The front door's numbers: what a device maker can count on, and what they cost.

    python benchmarks/front_door.py PART [--rounds N] [--seconds S] [--directory DIR]

    rate      signed and unsigned readings a second and a core, to the PUBACK, at 1, 100
              and 1,000 connections, each as fast as its window lets it
    ledger    CPU and bytes of a reading with the ledger and without (without_ledger.py)
    receipts  receipts a second, and the size of the largest

`kill -9` under load stands in tests/scenario/test_gateway_process.py.
One part at a time: none takes longer than a few minutes. Each gateway is `iomt run` in
a process of its own on a fresh directory, and each load another (mqtt_load.py). By
turns where two are compared; medians over rounds. No number is asserted, except that
what was acknowledged was committed.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import report
from mqtt_load import HOST, Fleet, Measured, Phase
from served import PREFIX, Gateway, Load, check_counts, running

from edge import config
from edge.ledger import core, receipt
from edge.ledger.note import Verifier
from edge.sources.mqtt_encoder import encode
from edge.sources.mqtt_packets import (
    V311,
    Connect,
    Decoder,
    Puback,
    Publish,
    Subscribe,
    Subscription,
)
from edge.store.vault import load_keys

IN_FLIGHT = 2_000  # over all connections: the machine is the limit, not the pace
WARMUP_S = 1.5
CONNECTIONS = (1, 100, 1000)
WITHOUT = Path(__file__).with_name("without_ledger.py")
LIMITS = "[mqtt.limits]\nconnections_max = 2048\nuntried_max = 2048\n"


def phase(
    gateway: Gateway, connections: int, seconds: float, *, unsigned: bool
) -> Phase:
    """As many messages in flight over all connections as fill the machine."""
    window = max(1, min(1_000, IN_FLIGHT // connections))
    return Phase(
        *(gateway.port, gateway.pid, PREFIX, connections, seconds, WARMUP_S),
        window=window,
        count_max=int(10_000 * (seconds + WARMUP_S)),
        unsigned=unsigned,
    )


def rate(options: argparse.Namespace) -> None:
    """Readings a second and a core of the gateway's CPU time."""
    print("connections          readings/s   per core   CPU ms/1,000")
    with closing(Load()) as load:
        for connections in options.connections:
            for unsigned in (False, True):
                found = [
                    _loaded(load, options, connections, unsigned)[0]
                    for _ in range(options.rounds)
                ]
                kind = "unsigned" if unsigned else "signed"
                cells = _medians(found, _rate, _per_core, _cpu)
                print(
                    f"{connections:>5} {kind:10} {cells[0]:13,.0f} {cells[1]:10,.0f} "
                    f"{cells[2]:14.1f}",
                    flush=True,
                )


def _loaded(
    load: Load,
    options: argparse.Namespace,
    connections: int,
    unsigned: bool,
    program: tuple[str, ...] = ("-m", "edge"),
) -> tuple[Measured, float]:
    """(what the load saw, database bytes of a reading)."""
    place = options.directory
    with running(place, more=LIMITS, program=program) as gateway:
        gateway.enrol(connections, unsigned=unsigned)
        before = sum(gateway.stored_size())
        asked = phase(gateway, connections, options.seconds, unsigned=unsigned)
        measured = load.run(asked)
        check_counts(gateway, measured.acknowledged_total)
        grown = sum(gateway.stored_size()) - before
        return measured, grown / measured.acknowledged_total


def _rate(one: Measured) -> float:
    return one.acknowledged / one.elapsed_s


def _per_core(one: Measured) -> float:
    return one.acknowledged / one.server_cpu_s


def _cpu(one: Measured) -> float:
    return one.server_cpu_s / one.acknowledged * 1e6


def _medians(found: list[Measured], *what: Callable[[Measured], float]) -> list[float]:
    return [statistics.median(of(one) for one in found) for of in what]


def ledger(options: argparse.Namespace) -> None:
    """With and without, by turns, on the same load."""
    kinds = {"with": ("-m", "edge"), "without": (str(WITHOUT),)}
    cpu: dict[str, list[float]] = {name: [] for name in kinds}
    size: dict[str, list[float]] = {name: [] for name in kinds}
    with closing(Load()) as load:
        for _ in range(options.rounds):
            for name, program in kinds.items():
                measured, grown = _loaded(load, options, 100, False, program)
                cpu[name].append(_cpu(measured))
                size[name].append(grown)
    for what, unit, cells in (("CPU", "ms/1,000", cpu), ("bytes", "B", size)):
        ratios = [
            one / other
            for one, other in zip(cells["with"], cells["without"], strict=True)
        ]
        print(
            f"{what:6} with {statistics.median(cells['with']):8.1f} {unit}, "
            f"without {statistics.median(cells['without']):8.1f}, "
            f"ratio {statistics.median(ratios):.3f} "
            f"({min(ratios):.3f} to {max(ratios):.3f})"
        )


# ---- Receipts ----


class _Device:
    """One device that publishes as fast as it is answered, and reads its receipts."""

    def __init__(self, name: str, packets: list[bytes]) -> None:
        self.name = name
        self._packets = packets
        self.receipts: list[tuple[float, bytes]] = []
        self.acknowledged = 0

    async def run(self, port: int, seconds: float, window: int) -> None:
        reader, writer = await asyncio.open_connection(HOST, port)
        topic = f"iomt/v1/{self.name}/receipt"
        hello = Connect(self.name, V311, user=self.name)
        writer.write(encode(hello, V311))
        writer.write(encode(Subscribe(1, (Subscription(topic, 0),)), V311))
        decoder = Decoder(1 << 20, version=V311, from_server=True)
        waiting = iter(self._packets)
        end_s, sent = time.monotonic() + seconds, 0
        while time.monotonic() < end_s:
            while sent - self.acknowledged < window and (one := next(waiting, b"")):
                writer.write(one)
                sent += 1
            try:
                async with asyncio.timeout(1):
                    chunk = await reader.read(1 << 16)
            except TimeoutError:
                continue
            for packet in decoder.packets(chunk):
                if isinstance(packet, Puback):
                    self.acknowledged += 1
                elif isinstance(packet, Publish):
                    self.receipts.append((time.monotonic(), packet.payload))
        writer.transport.abort()


def receipts(options: argparse.Namespace) -> None:
    """Many devices, each with its receipt in each commit; every one is checked."""
    connections, window = 300, 4
    with running(options.directory, more=LIMITS) as gateway:
        gateway.enrol(connections)
        fleet = Fleet()
        devices = [
            _Device(name, fleet.packets(name, 40 * int(options.seconds), 1.0))
            for name in (f"{PREFIX}{number:03}" for number in range(connections))
        ]

        async def together() -> None:
            await asyncio.gather(
                *(one.run(gateway.port, options.seconds, window) for one in devices)
            )

        asyncio.run(together())
        found = sorted(one for device in devices for one in device.receipts)
        key = _log_key(gateway)
        span_s = found[-1][0] - found[0][0]
        for _, payload in found[:: max(1, len(found) // 500)]:
            signed = receipt.parse(payload)
            if not core.verify(key.public_key, signed.signed_bytes, signed.signature):
                raise RuntimeError("a receipt that the log's key did not sign")
    print(
        f"{len(found)} receipts in {span_s:.1f} s: {len(found) / span_s:,.0f} a second "
        f"to {connections} devices; largest {max(len(one) for _, one in found)} bytes, "
        f"median {statistics.median(len(one) for _, one in found):.0f}; "
        f"{sum(one.acknowledged for one in devices)} readings acknowledged"
    )


def _log_key(gateway: Gateway) -> Verifier:
    settings = config.load(gateway.configuration)
    seed = load_keys(settings.keys).log_seed
    return Verifier(settings.origin, core.public_key(seed))


PARTS = {one.__name__: one for one in (rate, ledger, receipts)}


def main() -> None:
    """Measure one part and print."""
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").split("\n", maxsplit=1)[0]
    )
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--connections", type=int, nargs="+", default=CONNECTIONS)
    parser.add_argument("--directory", type=Path, default=Path(tempfile.gettempdir()))
    options = parser.parse_args()
    for line in report.machine(options.directory):
        print(line)
    PARTS[options.part](options)


if __name__ == "__main__":
    main()
