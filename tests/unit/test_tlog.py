"""The tree and its proofs, against known roots and the RFC's recursive definitions."""

from __future__ import annotations

from hashlib import sha256

import pytest
from ct_tree import CT_LEAVES, CT_ROOTS
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.errors import RejectError
from edge.ledger import tlog

# Parts of that tree's proofs, as published with it, by the leaves they cover.
CT_1_2 = "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7"
CT_2_4 = "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e"
CT_4_5 = "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b"
CT_4_6 = "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a"
CT_4_8 = "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4"
CT_6_8 = "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0"
SIZES = st.integers(1, 150)


def leaves(size: int) -> list[bytes]:
    return [tlog.leaf_hash(b"leaf %d" % at) for at in range(size)]


def mth(hashes: list[bytes]) -> bytes:
    """RFC 6962 section 2.1, as it is written there."""
    if not hashes:
        return sha256().digest()
    if len(hashes) == 1:
        return hashes[0]
    k = 1
    while k * 2 < len(hashes):
        k *= 2
    return sha256(b"\x01" + mth(hashes[:k]) + mth(hashes[k:])).digest()


def path(m: int, hashes: list[bytes]) -> list[bytes]:
    """RFC 6962 section 2.1.1."""
    if len(hashes) == 1:
        return []
    k = 1
    while k * 2 < len(hashes):
        k *= 2
    if m < k:
        return [*path(m, hashes[:k]), mth(hashes[k:])]
    return [*path(m - k, hashes[k:]), mth(hashes[:k])]


def subproof(m: int, hashes: list[bytes], known: bool) -> list[bytes]:
    """RFC 6962 section 2.1.2."""
    if m == len(hashes):
        return [] if known else [mth(hashes)]
    k = 1
    while k * 2 < len(hashes):
        k *= 2
    if m <= k:
        return [*subproof(m, hashes[:k], known), mth(hashes[k:])]
    return [*subproof(m - k, hashes[k:], False), mth(hashes[:k])]


def fetch(plan: list[tlog.Subtree], hashes: list[bytes]) -> list[bytes]:
    return [
        mth(hashes[one.index << one.level : (one.index + 1) << one.level])
        for one in plan
    ]


def consistency(old: int, hashes: list[bytes]) -> list[bytes]:
    plan = tlog.plan_consistency(old, len(hashes))
    return tlog.consistency(old, len(hashes), fetch(plan, hashes))


@pytest.mark.parametrize("size", range(9))
def test_known_leaves_have_the_known_root(size: int) -> None:
    hashes = [tlog.leaf_hash(leaf) for leaf in CT_LEAVES[:size]]
    growing = tlog.CompactRange()
    for one in hashes:
        growing.append(one)
    assert tlog.tree_root(hashes).hex() == CT_ROOTS[size]
    assert growing.root().hex() == CT_ROOTS[size]


@pytest.mark.parametrize(
    ("index", "expected"),
    [
        (0, [CT_1_2, CT_2_4, CT_4_8]),
        (5, [CT_4_5, CT_6_8, CT_ROOTS[4]]),
    ],
)
def test_known_leaves_have_the_known_inclusion_path(
    index: int, expected: list[str]
) -> None:
    hashes = [tlog.leaf_hash(leaf) for leaf in CT_LEAVES]
    known = fetch(tlog.plan_inclusion(index, 8), hashes)
    assert [one.hex() for one in tlog.inclusion(index, 8, known)] == expected


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (1, 8, [CT_1_2, CT_2_4, CT_4_8]),
        (6, 8, [CT_4_6, CT_6_8, CT_ROOTS[4]]),
        (2, 5, [CT_2_4, CT_4_5]),
        (8, 8, []),
    ],
)
def test_known_leaves_have_the_known_consistency_proof(
    old: int, new: int, expected: list[str]
) -> None:
    hashes = [tlog.leaf_hash(leaf) for leaf in CT_LEAVES[:new]]
    assert [one.hex() for one in consistency(old, hashes)] == expected


@given(st.integers(0, 300))
def test_the_root_is_the_one_of_the_definition(size: int) -> None:
    hashes = leaves(size)
    growing = tlog.CompactRange()
    for one in hashes:
        growing.append(one)
    again = tlog.CompactRange.load(growing.size, growing.dump())
    planned = tlog.root(size, fetch(tlog.plan_root(size), hashes))
    roots = {tlog.tree_root(hashes), growing.root(), again.root(), planned}
    assert roots == {mth(hashes)}


@given(SIZES, st.data())
def test_every_inclusion_path_is_the_definitions_and_leads_to_the_root(
    size: int, data: st.DataObject
) -> None:
    index = data.draw(st.integers(0, size - 1))
    hashes = leaves(size)
    found = tlog.inclusion(index, size, fetch(tlog.plan_inclusion(index, size), hashes))
    assert found == path(index, hashes)
    assert tlog.root_from_inclusion(index, size, hashes[index], found) == mth(hashes)


@given(SIZES, st.data())
def test_every_consistency_proof_is_the_definitions_and_is_believed(
    new: int, data: st.DataObject
) -> None:
    old = data.draw(st.integers(1, new))
    hashes = leaves(new)
    found = consistency(old, hashes)
    assert found == subproof(old, hashes, True)
    tlog.check_consistency(old, new, mth(hashes[:old]), mth(hashes), found)


@settings(max_examples=60)
@given(SIZES, st.data())
def test_a_changed_inclusion_path_does_not_lead_to_the_root(
    size: int, data: st.DataObject
) -> None:
    """Another index, a flipped bit, a hash too many or too few: none may pass."""
    index = data.draw(st.integers(0, size - 1))
    hashes = leaves(size)
    good = path(index, hashes)

    def leads(at: int, leaf: bytes, proof: list[bytes]) -> bool:
        try:
            return tlog.root_from_inclusion(at, size, leaf, proof) == mth(hashes)
        except RejectError:
            return False

    assert leads(index, hashes[index], good)
    assert not leads(index, tlog.leaf_hash(b"other"), good)
    assert not leads(index, hashes[index], [*good, good[0] if good else hashes[0]])
    assert not any(
        leads(at, hashes[index], good) for at in range(-1, size + 2) if at != index
    )
    if good:
        assert not leads(index, hashes[index], good[:-1])
        at = data.draw(st.integers(0, len(good) - 1))
        flipped = bytes([good[at][0] ^ 1]) + good[at][1:]
        assert not leads(index, hashes[index], [*good[:at], flipped, *good[at + 1 :]])


@settings(max_examples=60)
@given(SIZES, st.data())
def test_a_changed_consistency_proof_is_refused(new: int, data: st.DataObject) -> None:
    """The old and the new root each have to follow from the proof."""
    old = data.draw(st.integers(1, new))
    hashes = leaves(new)
    good = consistency(old, hashes)
    old_root, new_root = mth(hashes[:old]), mth(hashes)
    other = tlog.leaf_hash(b"other")
    bad = [
        (old, new, other, new_root, good),
        (old, new, old_root, other, good),
        (old, new, old_root, new_root, [*good, other]),
    ]
    if good:
        bad.append((old, new, old_root, new_root, good[:-1]))
        at = data.draw(st.integers(0, len(good) - 1))
        bad.append((old, new, old_root, new_root, [*good[:at], other, *good[at + 1 :]]))
        bad.append((new, old, new_root, old_root, good))
    for case in bad:
        with pytest.raises(RejectError):
            tlog.check_consistency(*case)


def test_a_path_of_the_wrong_length_is_told_from_a_wrong_path() -> None:
    hashes = leaves(11)
    good = path(4, hashes)
    with pytest.raises(RejectError, match="path of 3 hashes is too short"):
        tlog.root_from_inclusion(4, 11, hashes[4], good[:-1])
    with pytest.raises(RejectError, match="path of 5 hashes is too long"):
        tlog.root_from_inclusion(4, 11, hashes[4], [*good, hashes[0]])
    grown = consistency(5, hashes)
    sizes_and_roots = (5, 11, mth(hashes[:5]), mth(hashes))
    with pytest.raises(RejectError, match="too short"):
        tlog.check_consistency(*sizes_and_roots, grown[:-1])
    with pytest.raises(RejectError, match="too long"):
        tlog.check_consistency(*sizes_and_roots, [*grown, hashes[0]])
    with pytest.raises(RejectError, match="empty"):
        tlog.check_consistency(*sizes_and_roots, [])


def test_a_fork_has_no_consistency_proof() -> None:
    """What the whole thing is for: history was rewritten below the old size."""
    hashes = leaves(20)
    forged = [tlog.leaf_hash(b"forged"), *hashes[1:]]
    with pytest.raises(RejectError, match="old root"):
        tlog.check_consistency(
            11, 20, mth(hashes[:11]), mth(forged), consistency(11, forged)
        )


def test_every_tree_continues_the_empty_one() -> None:
    root = mth(leaves(5))
    tlog.check_consistency(0, 5, tlog.EMPTY_ROOT, root, [])
    tlog.check_consistency(0, 0, tlog.EMPTY_ROOT, tlog.EMPTY_ROOT, [])
    with pytest.raises(RejectError):
        tlog.check_consistency(0, 5, root, root, [])
    with pytest.raises(RejectError):
        tlog.check_consistency(0, 5, tlog.EMPTY_ROOT, root, [root])


def test_a_compact_range_is_loaded_only_with_as_many_hashes_as_its_size_has_bits() -> (
    None
):
    with pytest.raises(RejectError, match="2 hashes for a tree of size 7"):
        tlog.CompactRange.load(7, leaves(2))
    with pytest.raises(RejectError, match="32 bytes"):
        tlog.CompactRange.load(1, [b"short"])


def test_plans_refuse_leaves_and_sizes_that_are_not_there() -> None:
    """Those are our own mistakes, so ValueError and not a refusal."""
    with pytest.raises(ValueError, match="no leaf 5"):
        tlog.plan_inclusion(5, 5)
    with pytest.raises(ValueError, match="from size 0"):
        tlog.plan_consistency(0, 5)
    with pytest.raises(ValueError, match="1 hashes where 3 are needed"):
        tlog.inclusion(0, 8, leaves(1))
