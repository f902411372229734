"""The whole gateway under load, and its peers in the same run; prints tables.

    python benchmarks/gateway.py [--quick] [--runs N] [--directory DIR]

Each row runs `iomt run` in a process of its own on a fresh directory, with signed
devices at a patient each and the contracts of `iomt init`, loaded from a second process
over loopback (mqtt_load.py). After its load a row is believed only if the store's
counters say that everything acknowledged was committed, nothing refused, and `iomt
verify` accepts the exported ledger. No number is asserted. docs/benchmarks.md says
what each row means.
"""

from __future__ import annotations

import argparse
import signal
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import commit_hashing
import peers
import report
from mqtt_load import Measured, Phase
from served import PREFIX, Gateway, Load, check_counts, running

from edge.config import PACES

RATE_PER_S = 500.0
BURST_TOKENS = PACES["ssd"].burst
REFILL_PER_S = PACES["ssd"].refill_per_s
IDLE_READINGS_PER_S = 2.0

SIGNED_PER_S = 24_000  # of a load without end: a faster gateway ends it earlier
SIGNED_MARGIN = 1.3


@dataclass(frozen=True, slots=True)
class Plan:
    """What is measured: seconds, (connections, window) pairs, device counts.

    The last pair is the one that fills a core; the last device count is the one whose
    memory is shown.
    """

    warmup: float
    window: float
    offered: float
    offered_broker: float
    idle: float
    peer: float
    windows: tuple[tuple[int, int], ...]
    windows_broker: tuple[tuple[int, int], ...]
    devices: tuple[int, ...]


USUAL = Plan(
    warmup=2.0,
    window=5.0,
    offered=20.0,
    offered_broker=10.0,
    idle=10.0,
    peer=3.0,
    windows=((1, 20), (10, 20), (1, 100), (100, 20)),
    windows_broker=((10, 20), (100, 20)),
    devices=(50, 500),
)
QUICK = Plan(
    warmup=1.0,
    window=1.5,
    offered=3.0,
    offered_broker=2.0,
    idle=3.0,
    peer=0.5,
    windows=((1, 20), (100, 20)),
    windows_broker=((100, 20),),
    devices=(50,),
)


# ---- One run ----

Cells = dict[str, list[float]]  # row label -> one number for each column


class Results(NamedTuple):
    """The tables of one run; peers are rows of the tables they belong into."""

    rates: Cells
    latencies: Cells
    idle: Cells
    memory: Cells
    disk: Cells
    hashing: Cells


RATE_HEAD = ("readings/s", "CPU ms per 1,000", "commits/s", "client CPU ms per 1,000")
LATENCY_HEAD = ("p50 ms", "p99 ms", "max ms", "CPU ms per 1,000", "client lag p99 ms")
IDLE_HEAD = ("value",)
MEMORY_HEAD = ("RSS MiB", "PSS MiB")
DISK_HEAD = ("commits/s", "database B/reading", "tiles B/reading", "written B/reading")
HASHING_HEAD = ("CPU ms per 1,000", "of it hashing", "%")
CPU_COLUMN = RATE_HEAD.index("CPU ms per 1,000")
CEILING = "cryptography: Ed25519 verify alone"
FLOOR = f"floor: verify + SQLite WAL FULL, {peers.BATCH} a commit"
BROKER = "Mosquitto (its PUBACK promises nothing)"


class Bench:
    """Measures everything once."""

    def __init__(self, load: Load, plan: Plan, parent: Path) -> None:
        self._load, self._plan, self._parent = load, plan, parent
        self.results = Results({}, {}, {}, {}, {}, {})

    def run(self) -> Results:
        """All rows; the peers stand between ours, so that noise meets them alike."""
        for devices in self._plan.devices:
            self._offered(devices)
        self._idle()
        for connections, window in self._plan.windows:
            self._window(connections, window)
        self._peers()
        self._broker()
        return self.results

    def _window_phase(
        self, port: int, pid: int, connections: int, window: int, *, repeat: bool
    ) -> Phase:
        """A closed loop, with as many messages as the pace of commits lets through."""
        plan = self._plan
        span_s = plan.warmup + plan.window
        commits = (BURST_TOKENS + REFILL_PER_S * span_s) * SIGNED_MARGIN
        count = min(int(connections * window * commits), int(SIGNED_PER_S * span_s))
        return Phase(
            port,
            pid,
            PREFIX,
            connections,
            plan.window,
            plan.warmup,
            window=window,
            count_max=connections * window * 10 if repeat else count,
            repeat=repeat,
        )

    def _window(self, connections: int, window: int) -> None:
        with running(self._parent) as gateway:
            gateway.enrol(connections)
            phase = self._window_phase(
                gateway.port, gateway.pid, connections, window, repeat=False
            )
            disk, measured = self._loaded(gateway, phase)
            load = f"{connections} × window {window}"
            rate = _rate_cells(measured)
            rate[RATE_HEAD.index("commits/s")] = disk[0]
            self.results.rates[f"gateway, {load}"] = rate
            self.results.disk[f"gateway, {load}"] = disk
            if (connections, window) == self._plan.windows[-1]:
                sizes = report.memory_mb(gateway.pid)
                self.results.memory[f"after {load}, at full load"] = list(sizes)
                self._hashing(load, rate, connections)

    def _hashing(self, load: str, rate: list[float], devices: int) -> None:
        """What batch calls save of that load, against a call for each record."""
        commits_per_s = rate[RATE_HEAD.index("commits/s")]
        records = round(rate[0] / commits_per_s)
        found = commit_hashing.measure(records, devices)
        whole_ms = rate[CPU_COLUMN]
        slower_ms = whole_ms - found.batch_calls_ms + found.loops_ms
        for name, total_ms, hashing_ms in (
            ("batch calls of the core", whole_ms, found.batch_calls_ms),
            ("a Python call for each record, reckoned", slower_ms, found.loops_ms),
        ):
            share = hashing_ms / total_ms * 100
            label = f"{load}, {name}"
            self.results.hashing[label] = [total_ms, hashing_ms, share]

    def _loaded(self, gateway: Gateway, phase: Phase) -> tuple[list[float], Measured]:
        """Run a phase; (its cells of the disk table, what the load saw)."""
        database, tiles = gateway.stored_size()
        written = report.written_size(gateway.pid)
        measured = self._load.run(phase)
        check_counts(gateway, measured.acknowledged_total)
        after = gateway.stored_size()
        count = measured.acknowledged_total
        return [
            gateway.commits_per_s(measured),
            (after[0] - database) / count,
            (after[1] - tiles) / count,
            (report.written_size(gateway.pid) - written) / count,
        ], measured

    def _offered(self, devices: int) -> None:
        with running(self._parent) as gateway:
            memory = {"started": report.memory_mb(gateway.pid)}
            gateway.enrol(devices)
            memory[f"{devices} devices enrolled"] = report.memory_mb(gateway.pid)
            seconds = self._plan.offered
            phase = self._offered_phase(gateway.port, gateway.pid, devices, seconds)
            disk, measured = self._loaded(gateway, phase)
            load = f"{devices} × {RATE_PER_S / devices:g}/s"
            memory[f"after {load} for {seconds:g} s"] = report.memory_mb(gateway.pid)
            label = f"gateway, {load}"
            self.results.latencies[label] = _latency_cells(measured)
            self.results.disk[label] = disk
            if devices == self._plan.devices[-1]:
                for name, sizes in memory.items():
                    self.results.memory[name] = list(sizes)

    def _offered_phase(
        self, port: int, pid: int, devices: int, seconds: float
    ) -> Phase:
        return Phase(
            port,
            pid,
            PREFIX,
            devices,
            seconds,
            self._plan.warmup,
            rate_per_s=RATE_PER_S,
        )

    def _idle(self) -> None:
        """One device alone: now and then, then as fast as a window of one lets it.

        Enrolling takes no tokens, and two commits a second leave the bucket full.
        """
        plan, cells = self._plan, self.results.idle
        with running(self._parent) as gateway:
            gateway.enrol(1)
            alone = Phase(
                gateway.port,
                gateway.pid,
                PREFIX,
                1,
                plan.idle,
                0.0,
                rate_per_s=IDLE_READINGS_PER_S,
            )
            first = self._load.run(alone)
            for percent in (50, 99):
                name = f"one reading each {1 / IDLE_READINGS_PER_S:g} s: p{percent} ms"
                cells[name] = [report.percentile(first.latencies_ms, percent)]
            busy = Phase(
                gateway.port,
                gateway.pid,
                PREFIX,
                1,
                plan.idle,
                0.0,
                window=1,
                count_max=10_000,
            )
            second = self._load.run(busy)
            check_counts(gateway, first.acknowledged_total + second.acknowledged_total)
            times_s = second.ack_times_s
            burst_s, rest_s = times_s[BURST_TOKENS - 1], times_s[BURST_TOKENS:]
            cells[f"window of one: first {BURST_TOKENS}, acknowledgements/s"] = [
                BURST_TOKENS / burst_s
            ]
            cells["window of one: after them, acknowledgements/s"] = [
                len(rest_s) / (times_s[-1] - burst_s)
            ]

    def _peers(self) -> None:
        messages = peers.signed_messages()
        rate = peers.verify_rate(messages, self._plan.peer)
        self.results.rates[CEILING] = [rate, 1e6 / rate, float("nan"), float("nan")]
        with tempfile.TemporaryDirectory(dir=self._parent) as directory:
            rate, spent_s = peers.floor(messages, Path(directory), self._plan.peer)
        self.results.rates[FLOOR] = [
            rate,
            spent_s * 1000,
            rate / peers.BATCH,
            float("nan"),
        ]

    def _broker(self) -> None:
        """Mosquitto under the loads that say most."""
        program = peers.mosquitto_path()
        if program is None:
            print("mosquitto is not installed: its rows are left out", file=sys.stderr)
            return
        plan = self._plan
        with tempfile.TemporaryDirectory(dir=self._parent) as directory:
            for connections, window in plan.windows_broker:
                with peers.mosquitto(program, Path(directory)) as (port, pid):
                    measured = self._load.run(
                        self._window_phase(port, pid, connections, window, repeat=True)
                    )
                    label = f"{BROKER}, {connections} × window {window}"
                    self.results.rates[label] = _rate_cells(measured)
            for devices in plan.devices:
                with peers.mosquitto(program, Path(directory)) as (port, pid):
                    measured = self._load.run(
                        self._offered_phase(port, pid, devices, plan.offered_broker)
                    )
                    label = f"{BROKER}, {devices} × {RATE_PER_S / devices:g}/s"
                    self.results.latencies[label] = _latency_cells(measured)


def _rate_cells(measured: Measured) -> list[float]:
    count = measured.acknowledged
    return [
        count / measured.elapsed_s,
        measured.server_cpu_s / count * 1e6,
        float("nan"),
        measured.client_cpu_s / count * 1e6,
    ]


def _latency_cells(measured: Measured) -> list[float]:
    latencies = measured.latencies_ms
    return [
        report.percentile(latencies, 50),
        report.percentile(latencies, 99),
        max(latencies),
        measured.server_cpu_s / measured.acknowledged * 1e6,
        measured.lag_p99_ms,
    ]


# ---- The report ----


def print_tables(runs: Sequence[Results]) -> None:
    """Medians over the runs, and what the peers say about them."""

    def merged(title: str, head: Sequence[str], of: Callable[[Results], Cells]) -> None:
        lines = [
            [label, *report.median_of([of(run)[label] for run in runs])]
            for label in of(runs[0])
        ]
        print(report.table(title, ("", *head), lines))

    merged("Rate, closed loop, sustained", RATE_HEAD, lambda run: run.rates)
    print(ratios(runs))
    title = f"Publish to PUBACK at {RATE_PER_S:g} readings/s offered"
    merged(title, LATENCY_HEAD, lambda run: run.latencies)
    merged("One device alone on an idle gateway", IDLE_HEAD, lambda run: run.idle)
    merged("Memory of the gateway", MEMORY_HEAD, lambda run: run.memory)
    merged("Disk", DISK_HEAD, lambda run: run.disk)
    merged("Hashing of commits", HASHING_HEAD, lambda run: run.hashing)


def ratios(runs: Sequence[Results]) -> str:
    """CPU time of a reading under full load, in units of the peers'."""
    connections, window = USUAL.windows[-1]
    ours = f"gateway, {connections} × window {window}"
    lines = []
    for peer in (CEILING, FLOOR, f"{BROKER}, {connections} × window {window}"):
        if peer not in runs[0].rates:
            continue
        quotients = [
            run.rates[ours][CPU_COLUMN] / run.rates[peer][CPU_COLUMN] for run in runs
        ]
        lines.append([peer, report.shown(statistics.median(quotients))])
    title = f"CPU time of a reading: {ours}, divided by the peer's"
    return report.table(title, ("peer", "ratio"), lines)


def main() -> None:
    parser = argparse.ArgumentParser(description="The whole gateway under load.")
    parser.add_argument("--quick", action="store_true", help="short spans, rough")
    parser.add_argument("--runs", type=int, default=1, help="medians of so many runs")
    parser.add_argument(
        "--directory",
        type=Path,
        default=Path(tempfile.gettempdir()),
        help="where the data go while it runs: on the disk to measure",
    )
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))  # and clean up
    for line in report.machine(options.directory):
        print(line)
    runs = []
    load = Load()
    try:
        for number in range(1, options.runs + 1):
            print(f"run {number} of {options.runs} …", file=sys.stderr)
            plan = QUICK if options.quick else USUAL
            runs.append(Bench(load, plan, options.directory).run())
    finally:
        load.close()
    print(f"medians of {options.runs} runs\n")
    print_tables(runs)


if __name__ == "__main__":
    main()
