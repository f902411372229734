"""Leaf hashes and tree roots of every backend, against hashlib and published values.

The invariant: every usable backend gives the bytes that hashlib and RFC 6962's own
recursive definition give, whatever the sizes, the number and the place of the records.
"""

from __future__ import annotations

import hashlib
import random
from array import array
from collections.abc import Iterator
from itertools import accumulate
from typing import Any

import pytest
from ct_tree import CT_LEAVES, CT_ROOTS
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.ledger import _core, core

MOST_LANES = 16  # IOMT_MAX_LANES, so wider backends to come are covered too
AWKWARD_SIZES = [0, 1, 54, 55, 56, 62, 63, 64, 65, 118, 119, 120, 126, 127, 128, 191]
AWKWARD_COUNTS = sorted(
    {0, 1}
    | {n for lanes in (2, 4, 8, 16) for n in (lanes - 1, lanes, lanes + 1)}
    | {2 * lanes + 1 for lanes in (1, 2, 4, 8, 16)}
)


@pytest.fixture(params=core.backends(), autouse=True, scope="module")
def backend(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each test runs once for every backend of this machine."""
    before = core.active()
    core.use(request.param)
    yield request.param
    core.use(before)


def ends_of(records: list[bytes]) -> array[int]:
    return array("Q", accumulate(map(len, records)))


def leaves_by_hashlib(records: list[bytes]) -> list[bytes]:
    return [hashlib.sha256(b"\x00" + record).digest() for record in records]


def root_by_definition(leaves: list[bytes]) -> bytes:
    """RFC 6962 section 2.1, split where it says: the largest power of two below n."""
    if not leaves:
        return hashlib.sha256().digest()
    if len(leaves) == 1:
        return leaves[0]
    k = 1 << ((len(leaves) - 1).bit_length() - 1)
    left, right = root_by_definition(leaves[:k]), root_by_definition(leaves[k:])
    return hashlib.sha256(b"\x01" + left + right).digest()


def sha256(message: bytes) -> bytes:
    """Plain SHA-256 of the backend in use; the Python face needs none, C does."""
    ffi: Any = _core.ffi
    digest = ffi.new("uint8_t[32]")
    _core.lib.iomt_sha256(core._backend, message, len(message), digest)
    return bytes(ffi.buffer(digest))


# NIST, csrc.nist.gov "Cryptographic Standards and Guidelines: Example Values", SHA-256;
# the last is FIPS 180-2 appendix B.3.
FIPS_180 = [
    (b"", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"),
    (b"abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"),
    (
        b"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq",
        "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1",
    ),
    (
        b"a" * 1_000_000,
        "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0",
    ),
]


@pytest.mark.parametrize(("message", "digest"), FIPS_180, ids=lambda v: str(v)[:12])
def test_sha256_gives_the_published_digests(message: bytes, digest: str) -> None:
    """A comparison with hashlib alone could share a mistake of the test."""
    assert sha256(message).hex() == digest


@pytest.mark.parametrize("count", range(9))
def test_tree_roots_are_those_of_certificate_transparency(count: int) -> None:
    """Other logs' software must come to the same root, or no proof can be checked."""
    records = CT_LEAVES[:count]
    hashes = core.leaf_hashes(b"".join(records), ends_of(records))
    assert hashes is not None
    assert core.tree_root(hashes).hex() == CT_ROOTS[count]


@pytest.mark.parametrize("size", AWKWARD_SIZES)
def test_leaves_of_one_size_are_those_of_hashlib(size: int) -> None:
    """Sizes around the ends of blocks and of padding; counts around those of lanes."""
    pool = random.Random(size).randbytes(size * 40)
    for count in AWKWARD_COUNTS:
        records = [pool[i * size : (i + 1) * size] for i in range(count)]
        hashes = core.leaf_hashes(b"".join(records), ends_of(records))
        assert hashes == b"".join(leaves_by_hashlib(records)), count


record = st.one_of(
    st.sampled_from(AWKWARD_SIZES).flatmap(lambda n: st.binary(min_size=n, max_size=n)),
    st.binary(max_size=400),
)


@settings(max_examples=80, deadline=None)
@given(records=st.lists(record, max_size=2 * MOST_LANES + 2), shift=st.integers(0, 7))
def test_leaves_of_mixed_sizes_are_those_of_hashlib(
    records: list[bytes], shift: int
) -> None:
    """Lanes fill up at different times; no buffer need be aligned, `ends` included."""
    pad = b"\xee" * shift
    joined = memoryview(pad + b"".join(records))[shift:]
    ends = memoryview(pad + ends_of(records).tobytes())[shift:]
    out = bytearray(pad + bytes(32 * len(records)) + b"\xdd" * 5)
    view = memoryview(out)[shift : shift + 32 * len(records)]
    expected = b"".join(leaves_by_hashlib(records))
    assert core.leaf_hashes(joined, ends) == expected
    assert core.leaf_hashes(joined, ends, view) is None
    assert bytes(out) == pad + expected + b"\xdd" * 5


def test_leaf_of_a_long_record_is_that_of_hashlib() -> None:
    """One record of many blocks beside short ones: lanes run dry at unlike times."""
    records = [b"short", bytes(range(256)) * 5000, b"", b"x" * 64, b"y" * 100_000]
    hashes = core.leaf_hashes(b"".join(records), ends_of(records))
    assert hashes == b"".join(leaves_by_hashlib(records))


@settings(max_examples=60, deadline=None)
@given(count=st.integers(0, 130), seed=st.integers(0, 2**32), shift=st.integers(0, 7))
def test_tree_root_is_that_of_the_definition(count: int, seed: int, shift: int) -> None:
    """RFC 6962 defines the tree by recursion; the core goes level by level."""
    hashes = random.Random(seed).randbytes(32 * count + shift)[shift:]
    view = memoryview(b"\xee" * shift + hashes)[shift:]
    leaves = [hashes[i : i + 32] for i in range(0, len(hashes), 32)]
    assert core.tree_root(view) == root_by_definition(leaves)


@pytest.mark.parametrize(
    "count", [1023, 1024, 1025, 1536, 2047, 2048, 2049, 3 * 1024 + 5, 7 * 1024]
)
def test_tree_root_is_right_around_the_pieces_it_is_made_of(count: int) -> None:
    """The core takes 1024 leaves at a time and joins their roots afterwards."""
    hashes = random.Random(count).randbytes(32 * count)
    leaves = [hashes[i : i + 32] for i in range(0, len(hashes), 32)]
    assert core.tree_root(hashes) == root_by_definition(leaves)


def test_input_is_left_as_it_was() -> None:
    """The tree is reduced in place, but not in the caller's place."""
    hashes = bytearray(random.Random(1).randbytes(32 * 3000))
    before = bytes(hashes)
    core.tree_root(hashes)
    assert hashes == before
