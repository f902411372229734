"""What a commit needs of the core, and backends compared with each other."""

from __future__ import annotations

import hashlib
import hmac
import random
from array import array
from itertools import accumulate, pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.ledger import batch, core, tlog

KNOWN_ROOT = "d7b1a6fdd76f3877644f68eaaa32026f8c2b44cba6c4538dbd89fefa20751dbe"


def split(joined: bytes) -> list[bytes]:
    return [joined[at : at + 32] for at in range(0, len(joined), 32)]


def test_known_answer_of_the_self_test_is_that_of_hashlib() -> None:
    """The constant in choice.c, made again from its description by other code."""
    sizes = [i * 37 % 200 for i in range(100)] + [64] * 28
    number, data = 1, bytearray()
    for _ in range(sum(sizes)):
        number = (number * 1664525 + 1013904223) % 2**32
        data.append(number >> 24)
    ends = [0, *accumulate(sizes)]
    leaves = [
        hashlib.sha256(b"\x00" + data[start:end]).digest()
        for start, end in pairwise(ends)
    ]
    assert tlog.tree_root(leaves).hex() == KNOWN_ROOT


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.one_of(st.just(64), st.integers(0, 700)), max_size=90),
    shift=st.integers(0, 31),
    seed=st.integers(0, 2**32),
)
def test_all_backends_give_the_same_bytes(
    sizes: list[int], shift: int, seed: int
) -> None:
    """The invariant: no result depends on the backend."""
    data = random.Random(seed).randbytes(shift + sum(sizes))
    records, ends = memoryview(data)[shift:], array("Q", accumulate(sizes))
    before, answers = core.active(), []
    for name in core.backends():
        core.use(name)
        hashes = core.leaf_hashes(records, ends)
        assert hashes is not None
        answers.append((hashes, core.tree_root(hashes)))
    core.use(before)
    assert len(set(answers)) == 1


def salted(records: list[bytes]) -> tuple[bytearray, array[int]]:
    room = bytes(core.SALT_SIZE)
    return bytearray().join(room + one for one in records), array(
        "Q", accumulate(core.SALT_SIZE + len(one) for one in records)
    )


@pytest.mark.parametrize("name", core.backends())
@pytest.mark.parametrize("count", [1, 2, 3, 5, 16, 17, 33, 64])
def test_batch_tree_is_that_of_the_ledger_format(name: str, count: int) -> None:
    """Salts, leaf hashes, root and paths, as edge.ledger.batch writes them down."""
    before = core.active()
    core.use(name)
    chance = random.Random(count)
    records = [chance.randbytes(chance.randrange(250)) for _ in range(count)]
    keys = [chance.randbytes(32) for _ in range(3)]
    key_of = array("I", [chance.randrange(3) for _ in range(count)])
    padding = chance.randbytes(32 * ((1 << (count - 1).bit_length()) - count))
    joined, ends = salted(records)
    tree = core.batch_tree(joined, ends, b"".join(keys), key_of, padding)
    core.use(before)
    leaves = [
        batch.batch_leaf(batch.salt(keys[key_of[i]], i), record)
        for i, record in enumerate(records)
    ]
    leaves += split(padding)
    assert split(tree.leaf_hashes) == leaves
    assert tree.root == batch.batch_root(leaves)
    first = hmac.digest(keys[key_of[0]], bytes(8), "sha256")[:16]
    assert joined[:16] == first
    for index in range(len(leaves)):
        assert tree.path(index) == batch.batch_path(leaves, index)
        assert core.tree_path(tree.leaf_hashes, index) == tree.path(index)


@pytest.mark.parametrize(
    ("ends", "key_of", "padding", "fault"),
    [
        ([20, 40], [0, 0], b"", None),
        ([20, 41], [0, 0], b"", "record 1"),
        ([15, 40], [0, 0], b"", "record 0"),
        ([20, 40], [0, 1], b"", "record 1"),
        ([20, 40], [0, 0], bytes(32), "no power of two"),
        ([20, 40], [0], b"", "as long"),
    ],
)
def test_batch_that_is_wrong_is_refused(
    ends: list[int], key_of: list[int], padding: bytes, fault: str | None
) -> None:
    """A salt written over the wrong record would be found at the audit, years on."""
    arguments = (array("Q", ends), bytes(32), array("I", key_of), padding)
    if fault is None:
        assert core.batch_tree(bytearray(40), *arguments).width == 2
        return
    records = bytearray(40)
    with pytest.raises((ValueError, TypeError), match=fault):
        core.batch_tree(records, *arguments)
    assert records == bytearray(40)


@settings(max_examples=80, deadline=None)
@given(size=st.integers(0, 600), more=st.integers(0, 600))
def test_extended_range_is_that_of_appending_one_by_one(size: int, more: int) -> None:
    """The log's head must not depend on how many entries a commit brings."""
    hashes = random.Random(size).randbytes(32 * (size + more))
    wanted = tlog.CompactRange()
    for leaf in split(hashes):
        wanted.append(leaf)
    range_ = core.extend_range(0, b"", hashes[: 32 * size])
    range_ = core.extend_range(size, range_, hashes[32 * size :])
    assert split(range_) == wanted.dump()
    assert core.range_root(range_) == wanted.root()


def test_range_that_does_not_fit_its_size_is_refused() -> None:
    """C reads as many hashes as the size has bits."""
    with pytest.raises(ValueError, match="size 3"):
        core.extend_range(3, bytes(32), b"")
    with pytest.raises(ValueError, match="takes no 1 more"):
        core.extend_range(2**63 - 1, bytes(32 * 63), bytes(32))
    assert core.range_root(b"") == hashlib.sha256().digest()
