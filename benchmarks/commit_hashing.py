"""Hashing of a commit: one call for the whole batch, and one for each record.

    python benchmarks/commit_hashing.py [RECORDS [FRAMES]]

Salts, leaf hashes, tree and the log's compact range of one commit: as
`store/commit.py` has them made, by the core's batch calls; and as it would be without,
by `hmac` and `hashlib` through `edge.ledger.batch` and `tlog`, which the offline
verifier uses. Both come to the same root, which is compared. Medians of CPU time, in
turns.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from array import array
from typing import NamedTuple

from edge.ledger import batch, core, tlog

RECORD_SIZE = 260  # an envelope of five vital signs, in its canonical record
ENTRY = bytes(71)  # a batch entry
LOG_SIZE = 1_000_003  # entries before this commit
ROUNDS = 51


class Hashing(NamedTuple):
    """CPU milliseconds for 1,000 readings."""

    batch_calls_ms: float
    loops_ms: float


class Commit:
    """One batch of records in so many frames, ready to hash."""

    def __init__(self, records: int, frames: int) -> None:
        self._records = [os.urandom(RECORD_SIZE) for _ in range(records)]
        self._keys = [os.urandom(batch.SALT_KEY_SIZE) for _ in range(frames)]
        width = 1 << (records - 1).bit_length()
        self._padding = os.urandom((width - records) * tlog.HASH_SIZE)
        held = LOG_SIZE.bit_count()
        self._range = os.urandom(held * tlog.HASH_SIZE)

    def by_batch_calls(self) -> bytes:
        """The log's root after the commit; records are joined here as in a commit."""
        salted, ends, key_of = bytearray(), array("Q"), array("I")
        room = bytes(core.SALT_SIZE)
        for index, record in enumerate(self._records):
            key_of.append(index % len(self._keys))
            salted += room
            salted += record
            ends.append(len(salted))
        keys = b"".join(self._keys)
        tree = core.batch_tree(salted, ends, keys, key_of, self._padding)
        entry = ENTRY + tree.root
        hashes = core.leaf_hashes(entry, array("Q", [len(entry)])) or b""
        return core.range_root(core.extend_range(LOG_SIZE, self._range, hashes))

    def by_loops(self) -> bytes:
        """The same, a record at a time."""
        keys = self._keys
        leaves = [
            batch.batch_leaf(batch.salt(keys[index % len(keys)], index), record)
            for index, record in enumerate(self._records)
        ]
        leaves += _split(self._padding)
        entry = ENTRY + batch.batch_root(leaves)
        log = tlog.CompactRange.load(LOG_SIZE, _split(self._range))
        log.append(tlog.leaf_hash(entry))
        return log.root()


def _split(hashes: bytes) -> list[bytes]:
    size = tlog.HASH_SIZE
    return [hashes[at : at + size] for at in range(0, len(hashes), size)]


def measure(records: int, frames: int, rounds: int = ROUNDS) -> Hashing:
    """Both ways on one commit of so many records."""
    commit = Commit(records, frames)
    if commit.by_batch_calls() != commit.by_loops():
        raise RuntimeError("the two ways do not come to the same root")
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(rounds):
        for way, spent in zip(
            (commit.by_batch_calls, commit.by_loops), times, strict=True
        ):
            start = time.thread_time()
            way()
            spent.append(time.thread_time() - start)
    return Hashing(*(statistics.median(one) / records * 1e6 for one in times))


def main() -> None:
    numbers = [int(word) for word in sys.argv[1:]] or [256]
    records, frames = numbers[0], (numbers[1:] or [100])[0]
    found = measure(records, frames)
    print(f"{records} records in {frames} frames, backend {core.active()}:")
    print(f"batch calls {found.batch_calls_ms:.2f} CPU ms for 1,000 readings")
    print(f"loops       {found.loops_ms:.2f} CPU ms for 1,000 readings")


if __name__ == "__main__":
    main()
