"""What `iomt backup` does to the acknowledgements of the gateway that it copies.

    python benchmarks/backup.py [MEGABYTES [READINGS_PER_SECOND [DIR]]]

A store is filled to about that size, readings come one by one at that rate, and the
time from each to its durable answer is taken: before, while a backup runs (another
process, the same disk), and after it. DIR decides which disk; what is made goes again.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parent.parent / "tests" / "scenario"))

from workbench import Mailbox, SignedDevice, a_ward, make_gateway

from edge.store.commit import Writer

FRAME_SIZE = 16_000
FILL_COUNT = 2000
CALM_S = 12.0
HEADING = """\
| | readings | p50 ms | p99 ms | worst ms |
| --- | ---: | ---: | ---: | ---: |"""


def fill(writer: Writer) -> None:
    """Frames that open with no key, far above the ids of real ones."""
    [(most,)] = writer.connection.execute("SELECT ifnull(max(id), 0) FROM frames")
    first = max(int(most), 1 << 50) + 1
    frames = ((first + one, os.urandom(FRAME_SIZE)) for one in range(FILL_COUNT))
    insert = "INSERT INTO frames VALUES (?, 1, 0, ?)"
    writer.transact(lambda: writer.connection.executemany(insert, frames))


async def load(
    mail: Mailbox, rate: float, until: subprocess.Popen[bytes] | None
) -> list[float]:
    """Seconds to each answer: for CALM_S, or until the process has ended."""
    taken: list[float] = []
    tasks: set[asyncio.Task[None]] = set()

    async def one() -> None:
        began_s = time.perf_counter()
        await mail.send("monitor", DEVICE.envelope())
        taken.append(time.perf_counter() - began_s)

    end_s = time.monotonic() + CALM_S
    while time.monotonic() < end_s if until is None else until.poll() is None:
        task = asyncio.create_task(one())
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        await asyncio.sleep(1 / rate)
    await asyncio.gather(*tasks)
    return sorted(taken)


def show(name: str, taken: list[float]) -> None:
    """One row: how many, median, 99th percentile, worst."""
    at = (taken[len(taken) // 2], taken[int(len(taken) * 0.99)], taken[-1])
    print(
        f"| {name} | {len(taken)} | " + " | ".join(f"{one * 1e3:.0f}" for one in at),
        "|",
    )


def begin(command: list[str]) -> subprocess.Popen[bytes]:
    """A process beside this one."""
    return subprocess.Popen(command, stdout=subprocess.DEVNULL)


async def measure(top: Path, megabytes: int, rate: float) -> None:
    """Fill, and print the three rows."""
    settings = make_gateway(top / "gateway")
    async with a_ward(settings) as (core, mail):
        for _ in range(megabytes * 1_000_000 // (FRAME_SIZE * FILL_COUNT)):
            await core.intake.maintain(fill)
        print(HEADING)
        show("alone", await load(mail, rate, None))
        config = str(top / "gateway" / "iomt.toml")
        command = [sys.executable, "-m", "edge", "backup", str(top / "saved")]
        began_s = time.monotonic()
        running = begin([*command, "--config", config])
        show("during a backup", await load(mail, rate, running))
        assert running.returncode == 0
        took_s = time.monotonic() - began_s
        show("afterwards", await load(mail, rate, None))
        print(f"the backup took {took_s:.1f} s")


DEVICE = SignedDevice("monitor")

if __name__ == "__main__":
    words = [*sys.argv[1:], *("600", "40", ".")[len(sys.argv) - 1 :]]
    with tempfile.TemporaryDirectory(dir=words[2]) as name:
        asyncio.run(measure(Path(name), int(words[0]), float(words[1])))
