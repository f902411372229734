"""What pads a batch's leaves comes back from its seed as it was hashed."""

from __future__ import annotations

from hashlib import sha256

from hypothesis import given
from hypothesis import strategies as st

from edge.store.leaf_hashes import SEED_SIZE, new_seed, padded, padding


@given(st.integers(1, 70), st.binary(min_size=SEED_SIZE, max_size=SEED_SIZE))
def test_what_is_stored_becomes_the_power_of_two_that_was_hashed(
    count: int, chance: bytes
) -> None:
    hashes = b"".join(sha256(b"%d" % i).digest() for i in range(count))
    seed = chance if count not in {1, 2, 4, 8, 16, 32, 64} else b""
    whole = padded(hashes + seed)
    assert whole == hashes + padding(seed, count)
    width = next(one for one in (1, 2, 4, 8, 16, 32, 64, 128) if one >= count)
    assert len(whole) == 32 * width
    for index in range(count, width):
        made = sha256(b"\2" + seed + bytes(7) + bytes([index])).digest()
        assert whole[32 * index : 32 * (index + 1)] == made
    assert padded(whole) == whole


def test_only_a_batch_that_has_to_be_padded_has_a_seed_and_each_its_own() -> None:
    assert [len(new_seed(count)) for count in range(1, 9)] == [
        0,
        0,
        16,
        0,
        16,
        16,
        16,
        0,
    ]
    assert new_seed(3) != new_seed(3)


@given(st.binary(max_size=200))
def test_damaged_hashes_are_passed_on_for_their_root_to_be_wrong(stored: bytes) -> None:
    whole = padded(stored)
    assert whole.startswith(stored[: len(stored) // 32 * 32])
    assert len(whole) <= 2 * len(stored) + 32
