"""What the benchmarks print: the machine, tables of medians, and a server's memory."""

from __future__ import annotations

import math
import os
import platform
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

import apsw
import cryptography

from edge.ledger import core

FLUSHES = 200
FLUSH_SIZE = 4096


def percentile(values: Sequence[float], percent: float) -> float:
    """The value that `percent` of them do not exceed; nan where there are none."""
    if not values:
        return float("nan")
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]


def shown(value: float) -> str:
    """A number with three significant digits, as people write it."""
    if math.isnan(value):
        return "–"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    if abs(value) >= 100:
        return f"{value:.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def median_of(runs: Sequence[Sequence[float]]) -> list[str]:
    """Column by column the median of several runs."""
    return [shown(statistics.median(column)) for column in zip(*runs, strict=True)]


def table(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table with aligned columns: the first to the left, others right."""
    columns = list(zip(head, *rows, strict=True))
    widths = [max(map(len, column)) for column in columns]

    def line(cells: Sequence[str]) -> str:
        padded = [cells[0].ljust(widths[0])]
        padded += [
            one.rjust(width) for one, width in zip(cells[1:], widths[1:], strict=True)
        ]
        return "| " + " | ".join(padded) + " |"

    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    return "\n".join([f"### {title}", "", *map(line, (head, rule, *rows)), ""])


def machine(directory: Path) -> list[str]:
    """What the numbers depend on, one line each."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    names = [line.partition(":")[2].strip() for line in lines if "model name" in line]
    cpu = names[0] if names else platform.machine()
    load = ", ".join(f"{one:.1f}" for one in os.getloadavg())
    libraries = (
        f"SQLite {apsw.sqlite_lib_version()}, core backend {core.active()}, "
        f"cryptography {cryptography.__version__}"
    )
    return [
        f"CPU: {cpu}, {os.cpu_count()} cores; load average {load} (1, 5, 15 min)",
        f"kernel {platform.release()}, Python {platform.python_version()}, {libraries}",
        f"disk: {flush_line(directory)}",
    ]


def flush_line(directory: Path) -> str:
    """How long one write of 4 KiB and its fdatasync take in this directory."""
    path = directory / "flush"
    times_ms = []
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        for _ in range(FLUSHES):
            begin_s = time.perf_counter()
            os.write(descriptor, bytes(FLUSH_SIZE))
            os.fdatasync(descriptor)
            times_ms.append((time.perf_counter() - begin_s) * 1000)
    finally:
        os.close(descriptor)
        path.unlink()
    middle, high = percentile(times_ms, 50), percentile(times_ms, 99)
    return f"4 KiB write + fdatasync p50 {middle:.2f} ms, p99 {high:.2f} ms"


def memory_mb(pid: int) -> tuple[float, float]:
    """(resident, proportional) set size of a process in MiB."""
    sizes = {}
    text = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii")
    for line in text.splitlines():
        name, _, rest = line.partition(":")
        if name in {"Rss", "Pss"}:
            sizes[name] = int(rest.split()[0]) / 1024
    return sizes["Rss"], sizes["Pss"]


def written_size(pid: int) -> int:
    """Bytes that a process caused to be written to the disk so far."""
    for line in Path(f"/proc/{pid}/io").read_text(encoding="ascii").splitlines():
        name, _, value = line.partition(":")
        if name == "write_bytes":
            return int(value)
    raise OSError(f"/proc/{pid}/io has no write_bytes")
