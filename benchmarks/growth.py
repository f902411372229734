"""How the ledger behaves as it grows: `benchmarks/growth.py [--entries 10000000]`.

Fills a real store with one batch entry a reading, a decade of entries at a time, and at
each size measures what a gateway would feel: the time of a durable commit of one
reading, the time to prove a reading, the memory of the process, and the bytes on disk.

The fill is unsynced (synchronous=OFF, no fsync of tiles) and writes the log only; what
is measured is the ordinary path with every flush. So the database holds few readings
and a long log, which is what is to be looked at here. A table is printed, and a plot
written where matplotlib is installed.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from decimal import Decimal
from pathlib import Path
from unittest import mock

from report import machine, memory_mb, shown, table

from edge import config, gateway
from edge.devices.envelope import build
from edge.devices.metrics import make_reading
from edge.init import initialise
from edge.ledger import core
from edge.ledger.batch import ClockTick
from edge.ledger.device_key import kid_of
from edge.model import Arrival, Outcome, Source
from edge.store import commit as store
from edge.store.reader import Reader
from edge.store.vault import load_keys

FILL_COUNT = 256 * 64  # entries in a transaction of the fill
COMMITS, PROOFS = 200, 200
SEED = bytes(range(32))
DEVICE = "monitor"


@dataclass(frozen=True, slots=True)
class Row:
    """What was measured at one size."""

    entries: int
    append_ms: float
    append_max_ms: float
    proof_ms: float
    memory_mb: float
    ledger_bytes: float  # tiles and entries on disk, for each entry


def main() -> int:
    """Measure at each decade, print, plot."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--entries", type=int, default=1_000_000)
    parser.add_argument("--plot", type=Path, default=Path("growth.png"))
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        top, size = options.measure
        settings = config.load(Path(top) / "log" / "iomt.toml")
        print(json.dumps(asdict(asyncio.run(at_size(settings, int(size))))))
        return 0
    sizes = [10**power for power in range(3, 10) if 10**power <= options.entries]
    with tempfile.TemporaryDirectory(prefix="iomt-growth-") as directory:
        print(*machine(Path(directory)), sep="\n")
        rows = measure(Path(directory), sizes)
    head = ["entries", "commit ms", "max", "proof ms", "RSS MB", "ledger B/entry"]
    cells = [
        [
            f"{one.entries:,}",
            shown(one.append_ms),
            shown(one.append_max_ms),
            shown(one.proof_ms),
            shown(one.memory_mb),
            shown(one.ledger_bytes),
        ]
        for one in rows
    ]
    print(table("Growth of the log, one entry a reading", head, cells))
    first, last = rows[0], rows[-1]
    print(
        f"from {first.entries:,} to {last.entries:,}: commit "
        f"{last.append_ms / first.append_ms:.2f} ×, proof "
        f"{last.proof_ms / first.proof_ms:.2f} ×, memory "
        f"{last.memory_mb / first.memory_mb:.2f} ×"
    )
    if importlib.util.find_spec("matplotlib") is not None:
        plot(rows, options.plot)
        print(f"plot: {options.plot}")
    return 0


def measure(directory: Path, sizes: list[int]) -> list[Row]:
    """Fill to each size and measure there, in one store."""
    settings = config.load(initialise(directory / "log", "growth.example/log"))
    rows = []
    for size in sizes:
        with mock.patch.object(store, "write_once", write_unsynced):
            asyncio.run(fill(settings, size))
        rows.append(in_own_process(directory, size))
        print(f"  {size:,} entries measured", file=sys.stderr)
    return rows


def in_own_process(directory: Path, size: int) -> Row:
    """Measure in a fresh process: the fill's memory is not the gateway's."""
    words = [sys.executable, __file__, "--measure", str(directory), str(size)]
    output = subprocess.run(words, check=True, capture_output=True, text=True).stdout
    return Row(**json.loads(output))


def write_unsynced(root: Path, name: str, content: bytes) -> None:
    """What the fill uses in place of tile_files.write_once."""
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


async def fill(settings: config.Settings, size: int) -> None:
    """Append clock ticks until the log has this many entries, without flushing."""
    async with gateway.open_core(settings) as opened:
        writer, boot_id = opened.intake._stores.writer, opened.intake._stores.boot_id
        await asyncio.sleep(0.1)  # the start's own commit
        writer._connection.pragma("synchronous", "OFF")
        now_ms = opened.reader.newest_ms()
        entry = ClockTick(boot_id, now_ms, synchronised=False).encode()
        while (missing := size - writer.tree_size) > 0:
            batch = store.Batch(number=0, time_ms=now_ms)
            batch.entries = [entry] * min(missing, FILL_COUNT)
            writer.commit(batch)


async def at_size(settings: config.Settings, size: int) -> Row:
    """One durable commit a reading, then proofs of these readings."""
    async with gateway.open_core(settings) as opened:
        if opened.registry.find(DEVICE) is None:
            key = core.public_key(SEED).hex()
            await opened.administration.add_device(DEVICE, "signed", key)
        opened.intake.open_views()
        times = []
        for number in range(COMMITS):
            payload = envelope(size * 1000 + number)
            started = time.perf_counter()
            await send(opened, payload)
            times.append((time.perf_counter() - started) * 1000)
        reader = Reader(settings.directory, load_keys(settings.keys).master)
        names = [one.reading_id(0) for one in reader.records(device=1)][-PROOFS:]
        proofs = []
        for name in names:
            started = time.perf_counter()
            reader.prove(name, disclose=True)
            proofs.append((time.perf_counter() - started) * 1000)
        reader.close()
    memory = memory_mb(os.getpid())[0]  # before the walk over all the files
    ledger = settings.directory / "ledger"
    on_disk = sum(one.stat().st_size for one in ledger.rglob("*") if one.is_file())
    return Row(
        entries=size,
        append_ms=statistics.median(times),
        append_max_ms=max(times),
        proof_ms=statistics.median(proofs),
        memory_mb=memory,
        ledger_bytes=on_disk / size,
    )


async def send(opened: gateway.Core, payload: bytes) -> None:
    """One message, answered; an administrator's nudge spares the wait for a token."""
    done: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
    arrival = Arrival(Source.MQTT, "bench", DEVICE, "vitals", payload, done.set_result)
    opened.intake.submit(arrival)
    await opened.administration.assign_device(DEVICE, None)
    await done


def envelope(sequence: int) -> bytes:
    """A signed reading."""
    now_ms = time.time_ns() // 1_000_000
    reading = make_reading(now_ms, {"heart_rate": Decimal(70)}, {})
    return build(
        DEVICE,
        "vitals",
        sequence,
        now_ms,
        [reading],
        kid=kid_of(core.public_key(SEED)),
        sign=lambda message: core.sign(SEED, message),
    )


def plot(rows: list[Row], file: Path) -> None:
    """The four curves over the size, logarithmic in the size."""
    import matplotlib  # noqa: PLC0415

    matplotlib.use("Agg")
    from matplotlib import pyplot  # noqa: PLC0415

    figure, axes = pyplot.subplots(2, 2, figsize=(10, 7), sharex=True)
    sizes = [one.entries for one in rows]
    for axis, title, values in (
        (axes[0][0], "durable commit, ms", [one.append_ms for one in rows]),
        (axes[0][1], "proof, ms", [one.proof_ms for one in rows]),
        (axes[1][0], "resident memory, MB", [one.memory_mb for one in rows]),
        (axes[1][1], "ledger, bytes an entry", [one.ledger_bytes for one in rows]),
    ):
        axis.plot(sizes, values, marker="o")
        axis.set_title(title)
        axis.set_xscale("log")
        axis.set_ylim(bottom=0)
        axis.grid(visible=True, alpha=0.3)
    figure.suptitle("The log from a thousand entries up")
    figure.tight_layout()
    figure.savefig(file, dpi=100)


if __name__ == "__main__":
    sys.exit(main())
