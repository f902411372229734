"""The proof file and the batch proof in its `extra`."""

from __future__ import annotations

from base64 import b64encode
from dataclasses import replace

import ledger_files
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge import cbor
from edge.errors import RejectError
from edge.ledger import batch, note, proof, tlog
from edge.ledger.proof import BatchProof, LogProof

COUNT, INDEX, LEAF = 40, 33, 2
ENTRIES = [one.encode() for one in ledger_files.sample_entries(COUNT)]
CLOSED = ledger_files.sample_proof(ENTRIES, INDEX, LEAF, disclose=False)
DISCLOSED = ledger_files.sample_proof(ENTRIES, INDEX, LEAF, disclose=True)
HASHES = st.binary(min_size=32, max_size=32)


def batch_proof(content: bytes) -> BatchProof:
    extra = proof.parse_proof(content).extra
    assert extra is not None
    return proof.decode_extra(extra)


def test_a_proof_is_the_lines_of_the_specification() -> None:
    """By hand for a tree of two entries: the path is the other one's leaf hash."""
    other = tlog.leaf_hash(b"other")
    checkpoint = ledger_files.signed_checkpoint(2, tlog.node_hash(other, bytes(32)))
    encoded = LogProof(1, (other,), checkpoint, b"more").encode()
    assert encoded == (
        b"c2sp.org/tlog-proof@v1\n"
        b"extra bW9yZQ==\n"
        b"index 1\n" + b64encode(other) + b"\n\n" + checkpoint
    )
    alone = LogProof(0, (), checkpoint).encode()
    assert alone == b"c2sp.org/tlog-proof@v1\nindex 0\n\n" + checkpoint


@given(
    st.integers(0, 2**62),
    st.lists(HASHES, max_size=63).map(tuple),
    st.binary(max_size=100),
    st.none() | st.binary(max_size=100),
)
def test_every_proof_is_read_back(
    index: int, path: tuple[bytes, ...], checkpoint: bytes, extra: bytes | None
) -> None:
    written = LogProof(index, path, checkpoint, extra)
    assert proof.parse_proof(written.encode()) == written


FIRST = "c2sp.org/tlog-proof@v1"
HASH_LINE = "A" * 43 + "="


@pytest.mark.parametrize(
    ("head", "reason"),
    [
        ("", "line 1"),
        ("c2sp.org/tlog-proof@v2\nindex 0", "line 1"),
        (FIRST, "line 2: no index"),
        (f"{FIRST}\nextra AA\nindex 0", "line 2: .*base64"),
        (f"{FIRST}\nextra AAE=", "line 3: no index"),
        (f"{FIRST}\nindex 0\nextra AAE=", "line 3: .*base64"),
        (f"{FIRST}\nindex 01", "line 2: 01 is not an index"),
        (f"{FIRST}\nindex -1", "line 2"),
        (f"{FIRST}\nindex {2**63 - 1}", "line 2"),
        (f"{FIRST}\nindex {'1' * 5000}", "line 2"),
        (f"{FIRST}\nindex ", "line 2"),
        (f"{FIRST}\nindex 0\nAAE=", "line 3: a hash of 2 bytes"),
        (f"{FIRST}\nindex 0\n{HASH_LINE} ", "line 3"),
        (f"{FIRST}\nindex 0\n" + "\n".join([HASH_LINE] * 64), "more than 63"),
        (f"{FIRST}\r\nindex 0", "line 1"),
        (f"{FIRST}\nindex ٣", "not ASCII at byte 29"),
    ],
)
def test_a_proof_with_a_mistake_is_refused_with_its_line(
    head: str, reason: str
) -> None:
    with pytest.raises(RejectError, match=reason):
        proof.parse_proof(f"{head}\n\ncheckpoint".encode())


def test_a_proof_that_is_too_large_or_has_no_checkpoint_is_refused() -> None:
    with pytest.raises(RejectError, match="no empty line"):
        proof.parse_proof(f"{FIRST}\nindex 0\n".encode())
    with pytest.raises(RejectError, match="a proof of more than"):
        proof.parse_proof(bytes(proof.PROOF_SIZE_MAX + 1))
    with pytest.raises(RejectError, match="a checkpoint of more than"):
        proof.parse_proof(f"{FIRST}\n\n".encode() + bytes(note.NOTE_SIZE_MAX + 1))


def test_extra_is_the_map_of_the_document() -> None:
    closed, disclosed = batch_proof(CLOSED), batch_proof(DISCLOSED)
    assert cbor.decode(closed.encode()) == {
        1: 1,
        2: ENTRIES[INDEX],
        3: LEAF,
        4: batch.batch_path(ledger_files.sample_leaves(INDEX), LEAF),
        5: ledger_files.sample_leaves(INDEX)[LEAF],
    }
    assert cbor.decode(disclosed.encode()) == cbor.decode(closed.encode()) | {  # type: ignore[operator]
        6: ledger_files.sample_salt(INDEX, LEAF),
        7: ledger_files.sample_record(INDEX, LEAF),
    }


def test_a_proof_leads_from_the_record_to_the_checkpoint() -> None:
    for content in (CLOSED, DISCLOSED):
        inner = batch_proof(content)
        assert proof.check_batch(inner) == batch.decode_entry(ENTRIES[INDEX])
        root = proof.root_of_log(proof.parse_proof(content), inner.entry, COUNT)
        assert root == tlog.tree_root([tlog.leaf_hash(one) for one in ENTRIES])


@pytest.mark.parametrize(
    "changes",
    [
        {1: 2},
        {1: True},
        {2: "text"},
        {3: -1},
        {3: True},
        {3: b"1"},
        {4: b""},
        {4: [bytes(31)]},
        {4: [bytes(32)] * 64},
        {5: bytes(31)},
        {6: bytes(16)},
        {7: b"record"},
        {6: bytes(15), 7: b"record"},
        {6: bytes(16), 7: "record"},
        {8: 1},
    ],
)
def test_an_extra_with_a_mistake_is_refused(changes: dict[int, object]) -> None:
    fields = cbor.decode(batch_proof(CLOSED).encode())
    assert isinstance(fields, dict)
    with pytest.raises(RejectError, match="extra: "):
        proof.decode_extra(cbor.encode(fields | changes))
    with pytest.raises(RejectError, match="extra: "):
        proof.decode_extra(cbor.encode([fields]))


def test_a_batch_proof_of_something_else_is_refused() -> None:
    """Each field is replaced by a good one of another leaf, entry or batch."""
    good = batch_proof(DISCLOSED)
    leaves = ledger_files.sample_leaves(INDEX)
    wrong = {
        "salt and record do not give": [
            replace(good, leaf_hash=leaves[1]),
            replace(good, record=ledger_files.sample_record(INDEX, 1)),
            replace(good, salt=ledger_files.sample_salt(INDEX, 1)),
        ],
        "does not lead to the batch entry's root": [
            replace(good, leaf_index=LEAF ^ 1),
            replace(good, entry=ENTRIES[INDEX + 1]),
            replace(good, path=good.path[::-1]),
            replace(good, path=(*good.path, bytes(32))),
        ],
        "no leaf 4 in a tree of size 4": [replace(good, leaf_index=4)],
        "the entry is not a batch": [replace(good, entry=ENTRIES[0])],
    }
    for reason, proofs in wrong.items():
        for one in proofs:
            with pytest.raises(RejectError, match=reason):
                proof.check_batch(one)
    with pytest.raises(ValueError, match="together"):
        replace(good, salt=None)


@given(st.integers(0, 400), st.binary(max_size=6), st.integers(0, 6))
def test_a_mangled_extra_is_refused_or_read_and_nothing_else(
    at: int, more: bytes, fewer: int
) -> None:
    """What a stranger sends must never end in another exception."""
    good = batch_proof(DISCLOSED).encode()
    mangled = good[:at] + more + good[at + fewer :]
    try:
        found = proof.decode_extra(mangled)
    except RejectError:
        return
    assert found.encode() == mangled
