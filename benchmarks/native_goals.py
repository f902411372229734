"""The numbers that the native core was built to reach, beside its peers in one run.

    python benchmarks/native_goals.py [--backend NAME]... [--peers peers.so]

Every row goes through edge.ledger.core with one contiguous buffer and the caller's
`out`. All ways to do a job take turns, round by round, and the medians of CPU time are
compared; every SHA-256 result is compared with hashlib's first. `peers.so` is
native_peers.c, compiled with the libraries that one has. No number is asserted:
docs/native.md holds the goals and what was measured.
"""

from __future__ import annotations

import argparse
import ctypes
import random
import statistics
import time
from array import array
from collections.abc import Callable
from functools import partial
from itertools import accumulate
from pathlib import Path

import report
from test_native_core import MIXED_SIZES, cpu_name, leaves_by_hashlib, root_by_hashlib

from edge.ledger import core

ROUNDS = 31
TREE_ROUNDS = 7
RECORDS = 4096
FEW = 64
MEAN_BLOCKS_SIZE = 150  # bytes of a record of three blocks: the mean of the mixed ones
MEAN_BLOCKS = 3
SMALL_TREE, LARGE_TREE = 100, 1 << 20
SHORT_CALL_S = 0.003  # shorter work is repeated within a round, so caches are warm
PEERS = {
    "openssl_evp": "OpenSSL EVP",
    "openssl_low": "OpenSSL SHA256_*",
    "isal": "isa-l_crypto",
    "hashtree": "hashtree (another tree: no prefix)",
}

Work = Callable[[], object]
Times = dict[str, float]  # way -> seconds a call


def medians(ways: dict[str, Work], rounds: int) -> Times:
    """Median CPU time of a call of each, in turns."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    repeats = {}
    for name, work in ways.items():
        start = time.thread_time()
        work()
        once_s = max(time.thread_time() - start, 1e-7)
        repeats[name] = max(1, round(SHORT_CALL_S / once_s))
    for _ in range(rounds):
        for name, work in ways.items():
            start = time.thread_time()
            for _ in range(repeats[name]):
                work()
            times[name].append((time.thread_time() - start) / repeats[name])
    return {name: statistics.median(values) for name, values in times.items()}


def forced(backend: str, work: Work) -> Work:
    """The same work with this backend; forcing it costs nothing worth counting."""

    def run() -> None:
        core.use(backend)
        work()

    return run


class Jobs:
    """Inputs, and what each way does with them."""

    def __init__(self, backends: list[str], peers: ctypes.CDLL | None) -> None:
        self._backends, self._peers = backends, peers
        self._chance = random.Random(1)

    def _records(self, count: int, size: int) -> list[bytes]:
        return [self._chance.randbytes(size) for _ in range(count)]

    def _core_leaves(self, records: list[bytes]) -> dict[str, Work]:
        joined, ends = b"".join(records), array("Q", accumulate(map(len, records)))
        out, wanted = bytearray(32 * len(records)), leaves_by_hashlib(records)
        ways = {
            name: forced(name, lambda: core.leaf_hashes(joined, ends, out))
            for name in self._backends
        }
        for name, work in ways.items():
            out[:] = bytes(len(out))
            work()
            assert out == wanted, name
        return ways

    def _peer_ways(
        self, job: str, data: bytes, *sizes: int, wanted: bytes
    ) -> dict[str, Work]:
        ways: dict[str, Work] = {}
        for key, name in PEERS.items():
            call = getattr(self._peers, f"{key}_{job}", None)
            if call is None:
                continue
            out = ctypes.create_string_buffer(len(wanted))
            ways[name] = partial(call, data, *map(ctypes.c_size_t, sizes), out)
            ways[name]()
            assert key == "hashtree" or out.raw == wanted, name
        return ways

    def leaves(self, count: int, size: int, *, peers: bool = True) -> Times:
        """Seconds for the leaf hashes of `count` records of `size` bytes."""
        records = self._records(count, size)
        ways = self._core_leaves(records)
        ways["hashlib"] = lambda: leaves_by_hashlib(records)
        if peers and self._peers:
            ways |= self._peer_ways(
                "leaves",
                b"".join(records),
                size,
                count,
                wanted=leaves_by_hashlib(records),
            )
        return medians(ways, ROUNDS)

    def mixed(self) -> tuple[Times, Times]:
        """Seconds a block: of mixed lengths, and of equal ones; in turns."""
        low, high = MIXED_SIZES
        mixed = [
            self._chance.randbytes(self._chance.randint(low, high))
            for _ in range(RECORDS)
        ]
        blocks = sum((len(record) + 9) // 64 + 1 for record in mixed)
        equal = self._records(blocks // MEAN_BLOCKS, MEAN_BLOCKS_SIZE)
        ways = {f"m {k}": work for k, work in self._core_leaves(mixed).items()}
        ways |= {f"e {k}": work for k, work in self._core_leaves(equal).items()}
        times = medians(ways, ROUNDS)
        return (
            {k: times[f"m {k}"] / blocks for k in self._backends},
            {k: times[f"e {k}"] / len(equal) / MEAN_BLOCKS for k in self._backends},
        )

    def root(self, count: int) -> Times:
        """Seconds for the root over `count` leaf hashes."""
        hashes = self._chance.randbytes(32 * count)
        wanted = root_by_hashlib(hashes)
        ways = {
            name: forced(name, lambda: core.tree_root(hashes))
            for name in self._backends
        }
        for name in self._backends:
            core.use(name)
            assert core.tree_root(hashes) == wanted, name
        ways["hashlib"] = lambda: root_by_hashlib(hashes)
        if self._peers and count.bit_count() == 1:
            ways |= self._peer_ways("root", hashes, count, wanted=wanted)
        return medians(ways, ROUNDS if count < LARGE_TREE else TREE_ROUNDS)


def print_rates(title: str, times: Times, items: int) -> None:
    """One job: time, rate, and how many times hashlib's rate."""
    rows = [
        [
            way,
            report.shown(time_s * 1e6),
            report.shown(items / time_s / 1e6),
            report.shown(times["hashlib"] / time_s),
        ]
        for way, time_s in sorted(times.items(), key=lambda one: one[1])
    ]
    print(report.table(title, ("", "µs a call", "M/s", "× hashlib"), rows))


def main() -> None:
    parser = argparse.ArgumentParser(description="Goals of the native core.")
    parser.add_argument("--backend", action="append", metavar="NAME")
    parser.add_argument("--peers", type=Path, metavar="SO", help="native_peers.c")
    options = parser.parse_args()
    peers = ctypes.CDLL(str(options.peers.resolve())) if options.peers else None
    backends = options.backend or core.backends()
    print(f"CPU {cpu_name()}; {core.report().compiler}; fastest {core.backends()[0]}\n")
    jobs = Jobs(backends, peers)
    many = jobs.leaves(RECORDS, 64)
    print_rates("Leaf hashes, 4,096 records of 64 B", many, RECORDS)
    long = jobs.leaves(RECORDS, 256)
    print_rates("Leaf hashes, 4,096 records of 256 B", long, RECORDS)
    few = jobs.leaves(FEW, 64)
    print_rates("Leaf hashes, 64 records of 64 B a call", few, FEW)
    small = jobs.root(SMALL_TREE)
    print_rates("Root over 100 leaf hashes", small, SMALL_TREE)
    mixed, equal = jobs.mixed()
    large = jobs.root(LARGE_TREE)
    print_rates("Root over 2²⁰ leaf hashes", large, LARGE_TREE)
    rows = [
        [
            name,
            report.shown(many[name] / RECORDS / (few[name] / FEW)),
            report.shown(equal[name] / mixed[name]),
        ]
        for name in backends
    ]
    head = ("", "64 a call / 4,096 a call", "mixed / equal lengths")
    print(report.table("Rates divided", head, rows))


if __name__ == "__main__":
    main()
