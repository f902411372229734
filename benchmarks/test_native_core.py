"""The native core beside hashlib and pymerkle, on the same inputs in the same run.

    pytest benchmarks/ --benchmark-only

Each group is one job; each row one way to do it. Every result is compared with that of
hashlib before its time counts. `extra_info` names CPU, compiler and backend, and how
many items one call handles.
"""

from __future__ import annotations

import hashlib
import platform
import random
from array import array
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from edge.ledger import _core, core

RECORDS = 4096
RECORD_SIZES = (64, 256)
TREE_SIZES = (100, 1 << 16, 1 << 20)
WHOLE_SIZE = 1 << 12  # records, where both leaves and tree are computed

# Long enough for a stable median beside other work, short enough to run often.
pytestmark = pytest.mark.benchmark(min_rounds=5, max_time=0.5, warmup=False)


@cache
def cpu_name() -> str:
    """As the kernel calls it; ARM kernels give no name, so the machine must do."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    names = [line.partition(":")[2].strip() for line in lines if "model name" in line]
    return names[0] if names else platform.machine()


@cache
def compiler() -> str:
    return bytes(_core.ffi.string(_core.lib.iomt_compiler())).decode()


@pytest.fixture(params=core.backends())
def backend(request: pytest.FixtureRequest) -> Iterator[str]:
    before = core.active()
    core.use(request.param)
    yield request.param
    core.use(before)


def measure(
    benchmark: BenchmarkFixture, way: str, items: int, work: Callable[[], Any]
) -> Any:
    benchmark.extra_info.update(
        cpu=cpu_name(), compiler=compiler(), backend=way, items=items
    )
    return benchmark(work)


# ---- The jobs, by hashlib: what is compared with, in time and in bytes ----


@cache
def records_of(count: int, size: int) -> list[bytes]:
    data = random.Random(count * size).randbytes(count * size)
    return [data[i : i + size] for i in range(0, len(data), size)]


def ends_of(count: int, size: int) -> array[int]:
    return array("Q", range(size, count * size + 1, size))


def leaves_by_hashlib(records: list[bytes]) -> bytes:
    sha256 = hashlib.sha256
    return b"".join([sha256(b"\0" + record).digest() for record in records])


def root_by_hashlib(hashes: bytes) -> bytes:
    """Level by level, as fast as plain Python gets; a lone last hash moves up."""
    sha256 = hashlib.sha256
    while len(hashes) > 32:
        whole = len(hashes) // 64 * 64
        pairs = [
            sha256(b"\1" + hashes[i : i + 64]).digest() for i in range(0, whole, 64)
        ]
        hashes = b"".join(pairs) + hashes[whole:]
    return hashes


# ---- Leaf hashes ----


@pytest.mark.parametrize("size", RECORD_SIZES)
class TestLeafHashes:
    """SHA-256(0x00 || record) of 4,096 records."""

    def test_core(self, benchmark: BenchmarkFixture, backend: str, size: int) -> None:
        benchmark.group = f"leaf hashes, {RECORDS} records of {size} B"
        records = records_of(RECORDS, size)
        joined, ends = b"".join(records), ends_of(RECORDS, size)
        hashes = measure(
            benchmark, backend, RECORDS, lambda: core.leaf_hashes(joined, ends)
        )
        assert hashes == leaves_by_hashlib(records)

    def test_hashlib(self, benchmark: BenchmarkFixture, size: int) -> None:
        """The slices are ready, so only hashing and joining are timed."""
        benchmark.group = f"leaf hashes, {RECORDS} records of {size} B"
        records = records_of(RECORDS, size)
        measure(benchmark, "hashlib", RECORDS, lambda: leaves_by_hashlib(records))

    def test_pymerkle(self, benchmark: BenchmarkFixture, size: int) -> None:
        pymerkle = pytest.importorskip("pymerkle")
        benchmark.group = f"leaf hashes, {RECORDS} records of {size} B"
        records = records_of(RECORDS, size)
        leaf = pymerkle.InmemoryTree(algorithm="sha256").hash_buff
        hashes = measure(
            benchmark,
            f"pymerkle {pymerkle.__version__}",
            RECORDS,
            lambda: b"".join([leaf(record) for record in records]),
        )
        assert hashes == leaves_by_hashlib(records)


# ---- Tree root ----


@pytest.mark.parametrize("count", TREE_SIZES)
class TestTreeRoot:
    """The RFC 6962 root over leaf hashes that are ready."""

    def test_core(self, benchmark: BenchmarkFixture, backend: str, count: int) -> None:
        benchmark.group = f"tree root of {count} leaf hashes"
        hashes = b"".join(records_of(count, 32))
        root = measure(benchmark, backend, count, lambda: core.tree_root(hashes))
        assert root == root_by_hashlib(hashes)

    def test_hashlib(self, benchmark: BenchmarkFixture, count: int) -> None:
        benchmark.group = f"tree root of {count} leaf hashes"
        hashes = b"".join(records_of(count, 32))
        measure(benchmark, "hashlib", count, lambda: root_by_hashlib(hashes))


# ---- Leaves and tree together ----


class TestRootOfRecords:
    """From 64-byte records to the root: pymerkle offers the two only together."""

    GROUP = f"root of {WHOLE_SIZE} records of 64 B"

    def expected(self) -> bytes:
        return root_by_hashlib(leaves_by_hashlib(records_of(WHOLE_SIZE, 64)))

    def test_core(self, benchmark: BenchmarkFixture, backend: str) -> None:
        benchmark.group = self.GROUP
        joined = b"".join(records_of(WHOLE_SIZE, 64))
        ends = ends_of(WHOLE_SIZE, 64)
        out = bytearray(32 * WHOLE_SIZE)

        def work() -> bytes:
            core.leaf_hashes(joined, ends, out)
            return core.tree_root(out)

        assert measure(benchmark, backend, WHOLE_SIZE, work) == self.expected()

    def test_hashlib(self, benchmark: BenchmarkFixture) -> None:
        benchmark.group = self.GROUP
        measure(benchmark, "hashlib", WHOLE_SIZE, self.expected)

    def test_pymerkle(self, benchmark: BenchmarkFixture) -> None:
        """It keeps every node for proofs, which the core leaves to tlog."""
        pymerkle = pytest.importorskip("pymerkle")
        benchmark.group = self.GROUP
        records = records_of(WHOLE_SIZE, 64)

        def work() -> bytes:
            tree = pymerkle.InmemoryTree(algorithm="sha256")
            for record in records:
                tree.append_entry(record)
            return bytes(tree.get_root())

        way = f"pymerkle {pymerkle.__version__}"
        assert measure(benchmark, way, WHOLE_SIZE, work) == self.expected()
