"""The SHA-256 tree of RFC 6962 section 2.1: hashes, roots and proofs.

    leaf hash = SHA-256(0x00 || entry)
    node hash = SHA-256(0x01 || left || right)
    the root of n leaves splits them at the largest power of two below n;
    the root of no leaves is SHA-256 of nothing

A proof is made in two steps, so that nothing here reads anything: `plan_...` names the
hashes it needs as complete subtrees, the caller fetches them (tiles.py knows where they
are), and the function of the same name turns them into the proof. Proofs are checked
with the algorithms of RFC 9162 sections 2.1.3.2 and 2.1.4.2.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256

from edge.errors import RejectError

HASH_SIZE = 32
EMPTY_ROOT = sha256(b"").digest()
SIZE_MAX = 2**63 - 1  # a tree size; C2SP clients read it into a signed 64-bit integer


@dataclass(frozen=True, slots=True)
class Subtree:
    """The complete subtree over leaves index * 2**level up to (index+1) * 2**level."""

    level: int
    index: int


def leaf_hash(entry: bytes) -> bytes:
    """The hash under which `entry` stands in the tree."""
    return sha256(b"\x00" + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """The hash of an inner node."""
    return sha256(b"\x01" + left + right).digest()


def _fold(hashes: Sequence[bytes]) -> bytes:
    """The root over complete subtrees whose sizes fall from left to right."""
    if not hashes:
        return EMPTY_ROOT
    root = hashes[-1]
    for left in reversed(hashes[:-1]):
        root = node_hash(left, root)
    return root


def tree_root(hashes: Sequence[bytes]) -> bytes:
    """The root over these leaf hashes (or over nodes of one level: the same rule)."""
    row = list(hashes)
    if not row:
        return EMPTY_ROOT
    while len(row) > 1:
        # A last node without a sibling rises unchanged: that is the RFC's split.
        alone = row[-1:] if len(row) % 2 else []
        row = [node_hash(*pair) for pair in zip(row[::2], row[1::2], strict=False)]
        row += alone
    return row[0]


class CompactRange:
    """What must be known of a growing tree to append to it and to tell its root.

    One hash for each 1 bit of the size, the largest subtree first.
    """

    __slots__ = ("_hashes", "size")

    def __init__(self) -> None:
        self.size = 0
        self._hashes: list[bytes] = []

    @classmethod
    def load(cls, size: int, hashes: Sequence[bytes]) -> CompactRange:
        """The range that `dump` took apart; RejectError where the counts disagree."""
        if size < 0 or size.bit_count() != len(hashes):
            raise RejectError(f"{len(hashes)} hashes for a tree of size {size}")
        if any(len(one) != HASH_SIZE for one in hashes):
            raise RejectError(f"a hash that is not {HASH_SIZE} bytes")
        loaded = cls()
        loaded.size = size
        loaded._hashes = list(hashes)
        return loaded

    def append(self, hash_: bytes) -> None:
        """Add the next leaf hash on the right."""
        size = self.size
        while size & 1:
            hash_ = node_hash(self._hashes.pop(), hash_)
            size >>= 1
        self._hashes.append(hash_)
        self.size += 1

    def dump(self) -> list[bytes]:
        """The hashes, to be kept together with `size`."""
        return list(self._hashes)

    def root(self) -> bytes:
        """The root of the tree so far."""
        return _fold(self._hashes)


def _split(count: int) -> int:
    """The largest power of two below `count` (which is at least 2)."""
    return 1 << (count - 1).bit_length() - 1


def subtrees(start: int, end: int) -> list[Subtree]:
    """The complete subtrees that make up the leaves start..end, from left to right.

    `start` is a multiple of a power of two not below end - start, as it is for every
    range that a proof speaks of.
    """
    found = []
    while start < end:
        level = (end - start).bit_length() - 1
        found.append(Subtree(level, start >> level))
        start += 1 << level
    return found


def plan_root(size: int) -> list[Subtree]:
    """The subtrees whose hashes `root` wants."""
    return subtrees(0, size)


def root(size: int, hashes: Sequence[bytes]) -> bytes:
    """The root of a tree of `size`, from the hashes of `plan_root`."""
    if len(hashes) != size.bit_count():
        raise ValueError(f"{len(hashes)} hashes for a tree of size {size}")
    return _fold(hashes)


def _inclusion_ranges(index: int, size: int) -> list[tuple[int, int]]:
    """The leaves under each hash of the path, the leaf's sibling first."""
    if not 0 <= index < size:
        raise ValueError(f"no leaf {index} in a tree of size {size}")
    ranges = []
    start, end = 0, size
    while end - start > 1:
        middle = start + _split(end - start)
        if index < middle:
            ranges.append((middle, end))
            end = middle
        else:
            ranges.append((start, middle))
            start = middle
    return ranges[::-1]


def _consistency_ranges(old: int, new: int) -> list[tuple[int, int]]:
    if not 0 < old <= new:
        raise ValueError(f"no consistency proof from size {old} to {new}")
    ranges = []
    start, end = 0, new
    while old < end:
        middle = start + _split(end - start)
        if old <= middle:
            ranges.append((middle, end))
            end = middle
        else:
            ranges.append((start, middle))
            start = middle
    if start > 0:  # else the verifier knows this hash: it is the old root
        ranges.append((start, end))
    return ranges[::-1]


def _plan(ranges: list[tuple[int, int]]) -> list[Subtree]:
    return [one for start, end in ranges for one in subtrees(start, end)]


def _fold_ranges(ranges: list[tuple[int, int]], hashes: Sequence[bytes]) -> list[bytes]:
    counts = [(end - start).bit_count() for start, end in ranges]
    if sum(counts) != len(hashes):
        raise ValueError(f"{len(hashes)} hashes where {sum(counts)} are needed")
    rest: Iterator[bytes] = iter(hashes)
    return [_fold([next(rest) for _ in range(count)]) for count in counts]


def plan_inclusion(index: int, size: int) -> list[Subtree]:
    """The subtrees whose hashes `inclusion` wants."""
    return _plan(_inclusion_ranges(index, size))


def inclusion(index: int, size: int, hashes: Sequence[bytes]) -> list[bytes]:
    """The inclusion path of a leaf, from the hashes of `plan_inclusion`."""
    return _fold_ranges(_inclusion_ranges(index, size), hashes)


def plan_consistency(old: int, new: int) -> list[Subtree]:
    """The subtrees whose hashes `consistency` wants; 0 < old <= new."""
    return _plan(_consistency_ranges(old, new))


def consistency(old: int, new: int, hashes: Sequence[bytes]) -> list[bytes]:
    """The consistency proof from `old` to `new`, from hashes of `plan_consistency`."""
    return _fold_ranges(_consistency_ranges(old, new), hashes)


def root_from_inclusion(
    index: int, size: int, leaf: bytes, path: Sequence[bytes]
) -> bytes:
    """The root that this inclusion path leads to (RFC 9162 section 2.1.3.2).

    RejectError when the path's length does not fit the index and the size.
    """
    if not 0 <= index < size:
        raise RejectError(f"no leaf {index} in a tree of size {size}")
    at, last = index, size - 1
    result = leaf
    for hash_ in path:
        if last == 0:
            raise RejectError(f"the path of {len(path)} hashes is too long")
        if at & 1 or at == last:
            result = node_hash(hash_, result)
            while not at & 1 and at:
                at >>= 1
                last >>= 1
        else:
            result = node_hash(result, hash_)
        at >>= 1
        last >>= 1
    if last:
        raise RejectError(f"the path of {len(path)} hashes is too short")
    return result


def check_consistency(
    old: int, new: int, old_root: bytes, new_root: bytes, path: Sequence[bytes]
) -> None:
    """Nothing if the tree of `new` continues that of `old`, else RejectError.

    RFC 9162 section 2.1.4.2. From size 0 every tree continues; the path is then empty.
    """
    if not 0 <= old <= new:
        raise RejectError(f"sizes {old} and {new} are not in order")
    if old in (0, new):
        if path:
            raise RejectError("the path should be empty")
        if old == 0 and old_root != EMPTY_ROOT:
            raise RejectError("the old root is not that of an empty tree")
        if old == new and old_root != new_root:
            raise RejectError("two roots for one size")
        return
    hashes = list(path)
    if old.bit_count() == 1:
        hashes.insert(0, old_root)
    if not hashes:
        raise RejectError("the path is empty")
    old_result, new_result = _roots_from_consistency(old, new, hashes)
    if old_result != old_root:
        raise RejectError("the path does not lead to the old root")
    if new_result != new_root:
        raise RejectError("the path does not lead to the new root")


def _roots_from_consistency(
    old: int, new: int, hashes: Sequence[bytes]
) -> tuple[bytes, bytes]:
    at, last = old - 1, new - 1
    while at & 1:
        at >>= 1
        last >>= 1
    old_result = new_result = hashes[0]
    for hash_ in hashes[1:]:
        if last == 0:
            raise RejectError("the path is too long")
        if at & 1 or at == last:
            old_result = node_hash(hash_, old_result)
            new_result = node_hash(hash_, new_result)
            while not at & 1 and at:
                at >>= 1
                last >>= 1
        else:
            new_result = node_hash(new_result, hash_)
        at >>= 1
        last >>= 1
    if last:
        raise RejectError("the path is too short")
    return old_result, new_result
