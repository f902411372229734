"""The native core beside Python's peers, on the same inputs in the same run.

    pytest benchmarks/ --benchmark-only       two minutes
    python benchmarks/native_report.py FILE   tables and a plot of --benchmark-json

Each group is one job; each row one way to do it: every backend of the core by name, and
hashlib, pymerkle and blake3 (another hash: what leaving SHA-256 would bring) where they
are installed. Every result of SHA-256 is compared with hashlib's before its time
counts. `extra_info` names CPU, compiler and backend, and the items of one call. Times
are CPU time of the thread, so that what else the machine does counts little.
"""

from __future__ import annotations

import hashlib
import platform
import random
import time
from array import array
from collections.abc import Callable, Iterator
from functools import cache
from itertools import accumulate
from pathlib import Path
from typing import Any

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from edge.ledger import batch, core

LEAF_JOBS = ((4096, 64), (4096, 256), (64, 64))  # records, bytes
MIXED_RECORDS = 4096
MIXED_SIZES = (20, 300)
TREE_SIZES = (100, 1 << 16, 1 << 20)
WHOLE_SIZE = 1 << 12  # records, where both leaves and tree are computed

# Long enough for a stable median beside other work, short enough to run often.
pytestmark = pytest.mark.benchmark(
    min_rounds=5, max_time=0.5, warmup=False, timer=time.thread_time
)


@cache
def cpu_name() -> str:
    """As the kernel calls it; ARM kernels give no name, so the machine must do."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    names = [line.partition(":")[2].strip() for line in lines if "model name" in line]
    return names[0] if names else platform.machine()


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
        cpu=cpu_name(), compiler=core.report().compiler, backend=way, items=items
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


def core_leaves(
    benchmark: BenchmarkFixture, backend: str, records: list[bytes], ends: array[int]
) -> None:
    """One contiguous buffer, and an `out` that is the caller's."""
    joined, out = b"".join(records), bytearray(32 * len(records))
    measure(
        benchmark, backend, len(records), lambda: core.leaf_hashes(joined, ends, out)
    )
    assert out == leaves_by_hashlib(records)


@pytest.mark.parametrize(("count", "size"), LEAF_JOBS)
class TestLeafHashes:
    """SHA-256(0x00 || record) of records of one size."""

    @pytest.fixture(autouse=True)
    def _group(self, benchmark: BenchmarkFixture, count: int, size: int) -> None:
        benchmark.group = f"leaf hashes, {count} records of {size} B"

    def test_core(
        self, benchmark: BenchmarkFixture, backend: str, count: int, size: int
    ) -> None:
        core_leaves(benchmark, backend, records_of(count, size), ends_of(count, size))

    def test_hashlib(self, benchmark: BenchmarkFixture, count: int, size: int) -> None:
        """The slices are ready, so only hashing and joining are timed."""
        records = records_of(count, size)
        measure(benchmark, "hashlib", count, lambda: leaves_by_hashlib(records))

    def test_pymerkle(self, benchmark: BenchmarkFixture, count: int, size: int) -> None:
        pymerkle = pytest.importorskip("pymerkle")
        records = records_of(count, size)
        leaf = pymerkle.InmemoryTree(algorithm="sha256").hash_buff
        hashes = measure(
            benchmark,
            f"pymerkle {pymerkle.__version__}",
            count,
            lambda: b"".join([leaf(record) for record in records]),
        )
        assert hashes == leaves_by_hashlib(records)

    def test_blake3(self, benchmark: BenchmarkFixture, count: int, size: int) -> None:
        blake3 = pytest.importorskip("blake3")
        records, hash_ = records_of(count, size), blake3.blake3
        measure(
            benchmark,
            f"blake3 {blake3.__version__}",
            count,
            lambda: b"".join([hash_(b"\0" + record).digest() for record in records]),
        )


class TestMixedLeafHashes:
    """Records of all sizes from 20 to 300 bytes, in no order."""

    GROUP = f"leaf hashes, {MIXED_RECORDS} records of 20 to 300 B"

    def records(self) -> list[bytes]:
        chance = random.Random(3)
        return [chance.randbytes(chance.randint(*MIXED_SIZES)) for _ in range(4096)]

    def test_core(self, benchmark: BenchmarkFixture, backend: str) -> None:
        benchmark.group = self.GROUP
        records = self.records()
        core_leaves(
            benchmark, backend, records, array("Q", accumulate(map(len, records)))
        )

    def test_hashlib(self, benchmark: BenchmarkFixture) -> None:
        benchmark.group = self.GROUP
        records = self.records()
        measure(benchmark, "hashlib", MIXED_RECORDS, lambda: leaves_by_hashlib(records))


# ---- A commit ----


class TestCommit:
    """Salts, leaf hashes and root of 256 records of 200 bytes in 100 frames."""

    GROUP = "commit of 256 records of 200 B"
    COUNT, SIZE, FRAMES = 256, 200, 100

    def expected(self, records: list[bytes], keys: list[bytes]) -> bytes:
        leaves = [
            batch.batch_leaf(batch.salt(keys[i % self.FRAMES], i), record)
            for i, record in enumerate(records)
        ]
        return batch.batch_root(leaves)

    def test_core(self, benchmark: BenchmarkFixture, backend: str) -> None:
        benchmark.group = self.GROUP
        records, keys = records_of(self.COUNT, self.SIZE), records_of(self.FRAMES, 32)
        size = core.SALT_SIZE + self.SIZE
        joined = bytearray().join(bytes(core.SALT_SIZE) + one for one in records)
        ends, joined_keys = ends_of(self.COUNT, size), b"".join(keys)
        key_of = array("I", [i % self.FRAMES for i in range(self.COUNT)])
        tree = measure(
            benchmark,
            backend,
            self.COUNT,
            lambda: core.batch_tree(joined, ends, joined_keys, key_of, b""),
        )
        assert tree.root == self.expected(records, keys)

    def test_hashlib(self, benchmark: BenchmarkFixture) -> None:
        benchmark.group = self.GROUP
        records, keys = records_of(self.COUNT, self.SIZE), records_of(self.FRAMES, 32)
        measure(benchmark, "hashlib", self.COUNT, lambda: self.expected(records, keys))


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
