"""How many Bluetooth devices are served at once before the answer takes longer.

    python benchmarks/bluetooth.py [SECONDS]

For 1 to 80 simulated heart rate straps with a value each second: from the first
advertisement until all are subscribed to; from the moment a device sends a value until
the source hands it on, and until the commit that holds it; and the processor time of
the gateway's process for each device. The radio (Bumble, in a process of its own)
answers over loopback TCP; BlueZ, a kernel and air are not in it. The gateway is the
real one, with its store on this disk, and commits are paced as in a clinic. Straps
advertise the less often the more there are: each is heard by all in that process.

A value's two RR intervals hold the time at which it was sent, in units of 100 us on the
clock that all processes share.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from edge import config  # noqa: E402  its place was only now known
from edge.devices.profiles.heart_rate import HeartRateMeasurement  # noqa: E402
from edge.gateway import open_core  # noqa: E402
from edge.init import initialise  # noqa: E402
from edge.model import Arrival, Outcome  # noqa: E402
from edge.sources import Door  # noqa: E402
from edge.sources.ble import BleSource  # noqa: E402
from edge.sources.ble_hci import attach  # noqa: E402
from edge.sources.ble_link import Limits  # noqa: E402

COUNTS = (1, 5, 10, 20, 40, 80)
SECONDS = 10.0
CONNECT_LIMIT_S = 120.0
ADVERTISEMENTS_PER_S = 200  # of all together
TICKS_PER_S = 10_000
TICKS = 1 << 32


def address(number: int) -> str:
    """The address of a strap."""
    return f"F4:00:00:00:00:{number:02X}"


def ticks() -> int:
    """The time that all processes share, in 100 us, modulo 2**32."""
    return time.monotonic_ns() // (1_000_000_000 // TICKS_PER_S) % TICKS


async def radio(count: int) -> None:
    """The other process: straps that send each second to whoever subscribes."""
    from bumble.link import LocalLink  # noqa: PLC0415 - the gateway's process has none

    from firmware_sim import ble  # noqa: PLC0415
    from firmware_sim.ble import HeartRateStrap, Peripheral  # noqa: PLC0415
    from firmware_sim.hci_server import HciServer  # noqa: PLC0415
    from firmware_sim.patients import Patient  # noqa: PLC0415

    ble.ADVERTISING_INTERVAL_MS = max(100.0, 1000 * count / ADVERTISEMENTS_PER_S)
    link = LocalLink()
    straps = []
    for number in range(count):
        peripheral = Peripheral(f"strap-{number}", address(number), link)
        strap = HeartRateStrap(peripheral, Patient(1, 7), battery=False, slips=False)
        await peripheral.start()
        straps.append(strap)
    server = HciServer(link)
    print(await server.start("127.0.0.1", 0), flush=True)
    while True:
        for strap in straps:
            now = ticks()
            value = HeartRateMeasurement(72, rr_intervals=(now >> 16, now & 0xFFFF))
            await strap.peripheral.send(strap._rate, bytes(value))
            await asyncio.sleep(1 / count)


class Stopwatch:
    """A door that notes how long each value took from the device to the commit."""

    def __init__(self, door: Door) -> None:
        self._door = door
        self.heard_s: list[float] = []  # until the source handed it on
        self.taken_s: list[float] = []  # until its commit

    @property
    def congested(self) -> bool:
        """The door's own."""
        return self._door.congested

    async def relieved(self) -> None:
        """The door's own."""
        await self._door.relieved()

    def submit(self, arrival: Arrival) -> None:
        """Hand on, with a stop of the watch at the answer."""
        high, low = HeartRateMeasurement.from_bytes(arrival.payload).rr_intervals
        settle = arrival.settle

        def since_s() -> float:
            return (ticks() - (high << 16 | low)) % TICKS / TICKS_PER_S

        def stop(outcome: Outcome) -> None:
            self.taken_s.append(since_s())
            settle(outcome)

        self.heard_s.append(since_s())

        self._door.submit(replace(arrival, settle=stop))


async def measure(count: int, port: int, directory: Path, seconds: float) -> str:
    """One row of the table."""
    text = config.TEMPLATE.format(path=directory / "iomt.toml", origin="bench/ble")
    settings = config.load(initialise(directory, "bench/ble", text))
    async with open_core(settings) as core:
        core.intake.open_views()
        for number in range(count):
            await core.administration.add_device(
                f"strap-{number}", "ble", None, address(number)
            )
        door = Stopwatch(core.intake)
        began_s = time.monotonic()
        async with attach(f"tcp-client:127.0.0.1:{port}") as (scanner, client):
            source = BleSource(
                door,
                core.registry.radio_addresses,
                scanner_backend=scanner,
                client_backend=client,
                limits=Limits(connections_max=count),
            )
            task = asyncio.create_task(source.run())
            async with asyncio.timeout(CONNECT_LIMIT_S):
                while True:
                    await asyncio.sleep(0.02)
                    if len(source.connected) == count:
                        break
            connected_s = time.monotonic() - began_s
            door.taken_s.clear()
            door.heard_s.clear()
            cpu_s = time.process_time()
            await asyncio.sleep(seconds)
            cpu_s = time.process_time() - cpu_s
            heard, taken = list(door.heard_s), list(door.taken_s)
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
    share = 100 * cpu_s / seconds / count
    return (
        f"| {count:>7} | {connected_s:>12.1f} | {len(taken) / seconds:>8.1f} "
        f"| {shown_ms(heard)} | {shown_ms(taken)} | {share:>16.2f} |"
    )


def shown_ms(times_s: list[float]) -> str:
    """Median and 99 %, for the table."""
    in_order = sorted(times_s)
    late = in_order[int(len(in_order) * 0.99)]
    both = f"{statistics.median(in_order) * 1000:.1f}, {late * 1000:.1f}"
    return f"{both:>14}"


def main() -> None:
    """Print the table."""
    logging.disable(logging.INFO)
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else SECONDS
    print(
        "| devices | all after, s | values/s | heard, p50, p99 ms "
        "| committed, p50, p99 ms | CPU % a device |"
    )
    print("| ---: | ---: | ---: | ---: | ---: | ---: |")
    for count in COUNTS:
        with (
            tempfile.TemporaryDirectory() as directory,
            subprocess.Popen(
                [sys.executable, __file__, "--radio", str(count)],
                stdout=subprocess.PIPE,
                text=True,
            ) as other,
        ):
            assert other.stdout is not None
            port = int(other.stdout.readline())
            try:
                print(
                    asyncio.run(measure(count, port, Path(directory), seconds)),
                    flush=True,
                )
            finally:
                other.terminate()


if __name__ == "__main__":
    if sys.argv[1:2] == ["--radio"]:
        asyncio.run(radio(int(sys.argv[2])))
    else:
        main()
