"""What a durable append costs: `python benchmarks/ledger.py [--seconds 4]`.

In one run on one disk: our commit (frames sealed, leaves hashed, batch entry, signed
checkpoint, one SQLite transaction) beside a plain SQLite table in the same mode (WAL,
synchronous FULL, one row a reading), with one and with 64 writers waiting at a time. A
commit answers all who wait for it, so 64 writers make batches of 64.

Bytes and flushes are counted in SQLite's VFS (what it writes and syncs), with the tile
files added; the bytes a day are those of 50 devices × 1 Hz in the SD-card profile, one
commit a second.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import apsw
from report import machine, shown, table

from edge import config, gateway
from edge.init import initialise
from edge.model import Attestation, Kind, Record
from edge.store import commit as store

PAYLOAD = bytes(200)  # an envelope of five vital signs
DEVICES = 50
SD_COMMITS = 300
DAY_S = 86_400


class CountingVFS(apsw.VFS):
    """The system's VFS, which counts what is written and how often it is flushed."""

    def __init__(self) -> None:
        self.written = self.syncs = 0
        super().__init__("counting", "unix", makedefault=True)

    def xOpen(  # noqa: N802 - SQLite's name
        self, name: str | apsw.URIFilename | None, flags: list[int]
    ) -> apsw.VFSFile:
        """A file that counts."""
        return CountingFile(self, name, flags)


class CountingFile(apsw.VFSFile):
    """A file of the CountingVFS; the shared memory of the WAL is not on the disk."""

    def __init__(
        self, vfs: CountingVFS, name: str | apsw.URIFilename | None, flags: list[int]
    ) -> None:
        self._vfs = vfs
        super().__init__("unix", name, flags)

    def xWrite(self, data: bytes, offset: int) -> None:  # noqa: N802
        """Count and write."""
        self._vfs.written += len(data)
        super().xWrite(data, offset)

    def xSync(self, flags: int) -> None:  # noqa: N802
        """Count and flush."""
        self._vfs.syncs += 1
        super().xSync(flags)


@dataclass(frozen=True, slots=True)
class Cost:
    """What a series of commits of one size cost."""

    readings_per_s: float
    commit_ms: float
    written: float
    syncs: float


def main() -> int:
    """Run, print two tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--seconds", type=float, default=4.0, help="for each row")
    options = parser.parse_args()
    vfs = CountingVFS()
    with tempfile.TemporaryDirectory(prefix="iomt-ledger-") as directory:
        print(*machine(Path(directory)), sep="\n")
        rows = []
        for writers in (1, 64):
            ours = asyncio.run(
                ledger(Path(directory) / f"l{writers}", vfs, writers, options.seconds)
            )
            plain = sqlite(Path(directory) / f"{writers}.db", vfs, writers, options)
            for name, one in (("ledger", ours), ("plain SQLite", plain)):
                rows.append(row(f"{name}, {writers} waiting", one))
            ratio = plain.readings_per_s / ours.readings_per_s
            rows.append([f"plain / ledger, {writers}", shown(ratio), "", "", ""])
        head = ["commit of", "readings/s", "ms", "KiB/commit", "flushes/commit"]
        print(table("Durable appends", head, rows))
        day = asyncio.run(
            ledger(Path(directory) / "sd", vfs, DEVICES, None, count=SD_COMMITS)
        )
    total = day.written * DAY_S
    print(
        f"SD-card profile, {DEVICES} devices × 1 Hz, one commit a second: "
        f"{day.written / 1024:.1f} KiB and {day.syncs:.2f} flushes a commit, "
        f"{total / 2**30:.2f} GiB a day, {total / DAY_S / DEVICES:.0f} B a reading"
    )
    return 0


def row(name: str, cost: Cost) -> list[str]:
    """One line of the table."""
    return [
        name,
        shown(cost.readings_per_s),
        shown(cost.commit_ms),
        shown(cost.written / 1024),
        shown(cost.syncs),
    ]


async def ledger(
    directory: Path,
    vfs: CountingVFS,
    writers: int,
    seconds: float | None,
    count: int = 0,
) -> Cost:
    """Commits of `writers` records each through our writer."""
    settings = config.load(initialise(directory, "bench.example/log"))
    async with gateway.open_core(settings) as opened:
        await asyncio.sleep(0.1)  # the start's own commit
        writer = opened.intake._stores.writer
        now_ms, number = opened.reader.newest_ms(), 0

        def commit() -> None:
            nonlocal now_ms, number
            now_ms += 1
            batch = store.Batch(number=number, time_ms=now_ms)
            number += 1
            for device in range(writers):
                record = Record(
                    Kind.READING,
                    now_ms,
                    PAYLOAD,
                    device=f"device-{device}",
                    stream="vitals",
                    attestation=Attestation.DEVICE,
                    link="mqtt",
                )
                slot = store.Slot(device + 1, 0, 0, store.Class.READINGS)
                batch.add(record, slot)
            batch.counts["received"] = batch.counts["committed"] = writers
            writer.commit(batch)

        tiles = settings.directory / "ledger"
        return measure(commit, vfs, writers, seconds, count, tiles)


def sqlite(
    path: Path, vfs: CountingVFS, writers: int, options: argparse.Namespace
) -> Cost:
    """The same number of rows a transaction in a plain table."""
    connection = apsw.Connection(str(path))
    connection.pragma("journal_mode", "WAL")
    connection.pragma("synchronous", "FULL")
    connection.execute("CREATE TABLE readings (id INTEGER PRIMARY KEY, body BLOB)")

    def commit() -> None:
        with connection:
            connection.executemany(
                "INSERT INTO readings (body) VALUES (?)", [(PAYLOAD,)] * writers
            )

    cost = measure(commit, vfs, writers, options.seconds, 0, None)
    connection.close()
    return cost


def measure(
    commit: Callable[[], None],
    vfs: CountingVFS,
    writers: int,
    seconds: float | None,
    count: int,
    tiles: Path | None,
) -> Cost:
    """Repeat for a time or a count; warm first, so that the WAL has its size."""
    for _ in range(20):
        commit()
    vfs.written = vfs.syncs = 0
    files_before = _size(tiles)
    times: list[float] = []
    started = time.perf_counter()
    while len(times) < count if seconds is None else _left(started, seconds):
        at = time.perf_counter()
        commit()
        times.append(time.perf_counter() - at)
    elapsed = time.perf_counter() - started
    written = vfs.written + _size(tiles) - files_before
    return Cost(
        readings_per_s=writers * len(times) / elapsed,
        commit_ms=statistics.median(times) * 1000,
        written=written / len(times),
        syncs=vfs.syncs / len(times),
    )


def _left(started: float, seconds: float) -> bool:
    return time.perf_counter() - started < seconds


def _size(directory: Path | None) -> int:
    if directory is None:
        return 0
    return sum(one.stat().st_size for one in directory.rglob("*") if one.is_file())


if __name__ == "__main__":
    sys.exit(main())
