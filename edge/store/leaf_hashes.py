"""The leaf hashes of a batch as the store keeps them: what pads them is a seed.

    hashes   count × 32 bytes, in the order of the leaves
    seed     16 random bytes; absent where count is a power of two

From `count` up to the next power of two hash i is

    SHA-256( 0x02 || seed || i as 8 bytes, big-endian )

so that nobody without the seed can tell it from a record's hash, and none can be one:
those are hashed after 0x00, nodes after 0x01. Stores before version 3 kept every hash;
they go on as they are.
"""

from __future__ import annotations

import os
from hashlib import sha256

from edge.ledger.tlog import HASH_SIZE

SEED_SIZE = 16
_DOMAIN = b"\x02"


def new_seed(count: int) -> bytes:
    """A seed for a batch of so many leaves; empty where nothing has to be padded."""
    return os.urandom(SEED_SIZE) if count.bit_count() > 1 else b""


def padding(seed: bytes, count: int) -> bytes:
    """The hashes that follow `count` others, up to a power of two."""
    if not seed:
        return b""
    head = sha256(_DOMAIN + seed)
    hashes = []
    for index in range(count, 1 << count.bit_length()):
        one = head.copy()
        one.update(index.to_bytes(8, "big"))
        hashes.append(one.digest())
    return b"".join(hashes)


def padded(stored: bytes) -> bytes:
    """All hashes of a batch: a power of two of them, 32 bytes each.

    What no writer left, damaged as it is, stays so: its root will not be the entry's.
    """
    count, rest = divmod(len(stored), HASH_SIZE)
    if rest != SEED_SIZE:
        return stored
    hashes, seed = stored[:-SEED_SIZE], stored[-SEED_SIZE:]
    return hashes + padding(seed, count)
