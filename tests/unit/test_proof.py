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
from edge.ledger.proof import BatchProof, ConsistencyProof, EnrolmentProof, LogProof
from edge.model import Attestation

COUNT, INDEX, LEAF = 40, 33, 2
ENTRIES = [one.encode() for one in ledger_files.sample_entries(COUNT)]
CLOSED = ledger_files.sample_proof(ENTRIES, INDEX, LEAF, disclose=False)
DISCLOSED = ledger_files.sample_proof(ENTRIES, INDEX, LEAF, disclose=True)
ENROLLED = ledger_files.sample_proof(ENTRIES, INDEX, LEAF, True, enrolment=True)
ROOT = tlog.tree_root([tlog.leaf_hash(one) for one in ENTRIES])
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
        {8: [0, [], b"entry"]},  # without salt and record
        {6: bytes(16), 7: b"record", 8: []},
        {6: bytes(16), 7: b"record", 8: [0, []]},
        {6: bytes(16), 7: b"record", 8: [0, [], b"entry", 0]},
        {6: bytes(16), 7: b"record", 8: {0: 0, 1: [], 2: b"entry"}},
        {6: bytes(16), 7: b"record", 8: [-1, [], b"entry"]},
        {6: bytes(16), 7: b"record", 8: [True, [], b"entry"]},
        {6: bytes(16), 7: b"record", 8: [0, [bytes(31)], b"entry"]},
        {6: bytes(16), 7: b"record", 8: [0, [bytes(32)] * 64, b"entry"]},
        {6: bytes(16), 7: b"record", 8: [0, [], "entry"]},
        {6: bytes(16), 7: b"record", 9: 1},
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


@given(st.integers(0, 900), st.binary(max_size=6), st.integers(0, 6))
def test_a_mangled_extra_is_refused_or_read_and_nothing_else(
    at: int, more: bytes, fewer: int
) -> None:
    """What a stranger sends must never end in another exception."""
    good = batch_proof(ENROLLED).encode()
    mangled = good[:at] + more + good[at + fewer :]
    try:
        found = proof.decode_extra(mangled)
    except RejectError:
        return
    assert found.encode() == mangled


@given(
    st.binary(max_size=300)
    | st.builds(
        lambda at, more, fewer: ENROLLED[:at] + more + ENROLLED[at + fewer :],
        st.integers(0, len(ENROLLED)),
        st.binary(max_size=6),
        st.integers(0, 6),
    )
)
def test_parsing_a_proof_gives_a_proof_or_a_refusal(content: bytes) -> None:
    try:
        found = proof.parse_proof(content)
    except RejectError:
        return
    assert found.encode() == content


# --- the device's enrolment ---------------------------------------------------------


def test_field_8_is_index_path_and_entry_of_the_enrolment() -> None:
    fields = cbor.decode(batch_proof(ENROLLED).encode())
    assert isinstance(fields, dict)
    at = ledger_files.ENROLMENT_INDEX
    path = list(ledger_files.log_path(ENTRIES, at))
    assert fields[8] == [at, path, ENTRIES[at]]
    assert cbor.decode(batch_proof(DISCLOSED).encode()) == {
        key: value for key, value in fields.items() if key != 8
    }


def test_an_enrolment_leads_to_the_checkpoint_and_gives_the_key() -> None:
    good = ledger_files.sample_enrolment(ENTRIES)
    key = proof.check_enrolment(good, INDEX, COUNT, ROOT)
    assert key == ledger_files.DEVICE_PUBLIC_KEY


def enrolment_at(index: int, entry: bytes | None = None) -> EnrolmentProof:
    path = ledger_files.log_path(ENTRIES, index)
    return EnrolmentProof(index, path, entry or ENTRIES[index])


SMALL_ORDER = batch.DeviceEnrolment(
    bytes(16), ledger_files.STARTED_MS, Attestation.DEVICE, bytes(32)
).encode()


def test_an_enrolment_of_something_else_is_refused() -> None:
    """Genuine parts in the wrong place, as a gateway could try that forgot one."""
    good = ledger_files.sample_enrolment(ENTRIES)
    wrong = {
        "not the enrolment of a device that signs": [
            enrolment_at(3),  # of a device that does not
            enrolment_at(INDEX),
            enrolment_at(11),  # a revocation
        ],
        "does not lead to the checkpoint's root": [
            replace(good, index=3),
            replace(good, path=good.path[::-1]),
            replace(good, entry=good.entry[:-1] + b"\0"),
        ],
        "too short": [replace(good, path=good.path[1:])],
        "no entry begins with": [replace(good, entry=b"")],
    }
    for reason, proofs in wrong.items():
        for one in proofs:
            with pytest.raises(RejectError, match=reason):
                proof.check_enrolment(one, INDEX, COUNT, ROOT)
    for before in (0, good.index):
        with pytest.raises(RejectError, match=f"no enrolment before entry {before}"):
            proof.check_enrolment(good, before, COUNT, ROOT)
    with pytest.raises(ValueError, match="disclosed record"):
        replace(batch_proof(CLOSED), enrolment=good)


def test_an_enrolled_key_with_which_one_signature_fits_all_is_refused() -> None:
    """Our gateway enrols none; a ledger of another's making may hold one."""
    alone = EnrolmentProof(0, (), SMALL_ORDER)
    root = tlog.leaf_hash(SMALL_ORDER)
    with pytest.raises(RejectError, match="a point of small order"):
        proof.check_enrolment(alone, 1, 1, root)


# --- consistency --------------------------------------------------------------------

OLDER = ledger_files.signed_checkpoint(1, bytes(32))
NEWER = ledger_files.signed_checkpoint(2, bytes([1] * 32))
CONSISTENT = ledger_files.sample_consistency(ENTRIES, 21)


def test_a_consistency_proof_is_hashes_and_two_notes() -> None:
    one = bytes([7] * 32)
    encoded = ConsistencyProof((one,), OLDER, NEWER).encode()
    assert encoded == (
        b"iomt/consistency@v1\n" + b64encode(one) + b"\n\n" + OLDER + b"\n" + NEWER
    )
    alone = ConsistencyProof((), OLDER, NEWER).encode()
    assert alone == b"iomt/consistency@v1\n\n" + OLDER + b"\n" + NEWER
    assert proof.is_consistency(encoded)
    assert not proof.is_consistency(DISCLOSED)


@given(st.lists(HASHES, max_size=64).map(tuple))
def test_every_consistency_proof_is_read_back(path: tuple[bytes, ...]) -> None:
    written = ConsistencyProof(path, OLDER, NEWER)
    assert proof.parse_consistency(written.encode()) == written


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "line 1"),
        (b"iomt/consistency@v2\n\n" + OLDER + b"\n" + NEWER, "line 1"),
        (b"iomt/consistency@v1\n\n" + OLDER, "3 parts between empty lines"),
        (b"iomt/consistency@v1\n\n" + OLDER + NEWER, "4 parts between empty lines"),
        (CONSISTENT + b"\n" + NEWER, "7 parts between empty lines"),
        (CONSISTENT.replace(b"v1\n", b"v1\nAAE=\n"), "line 2: a hash of 2 bytes"),
        (CONSISTENT.replace(b"v1\n", b"v1\nindex 0\n"), "line 2: .*base64"),
        (CONSISTENT.replace(b"v1\n", b"v1\n\xff\n"), "not ASCII at byte 20"),
        (bytes(proof.PROOF_SIZE_MAX + 1), "a proof of more than"),
    ],
)
def test_a_consistency_proof_with_a_mistake_is_refused(
    content: bytes, reason: str
) -> None:
    with pytest.raises(RejectError, match=reason):
        proof.parse_consistency(content)


def test_a_consistency_proof_is_bounded_in_hashes_and_checkpoints() -> None:
    many = ConsistencyProof((bytes(32),) * 65, OLDER, NEWER).encode()
    with pytest.raises(RejectError, match="a path of more than 64 hashes"):
        proof.parse_consistency(many)
    large = OLDER[:-1] + b"A" * note.NOTE_SIZE_MAX + b"\n"
    for pair in ((large, NEWER), (OLDER, large)):
        with pytest.raises(RejectError, match="a checkpoint of more than"):
            proof.parse_consistency(ConsistencyProof((), *pair).encode())


@pytest.mark.parametrize("note_", [b"", OLDER[:-1], OLDER + b"\n" + OLDER])
def test_notes_that_would_not_be_found_again_are_not_written(note_: bytes) -> None:
    for pair in ((note_, NEWER), (OLDER, note_)):
        with pytest.raises(ValueError, match="one text and one block"):
            ConsistencyProof((), *pair).encode()


@given(
    st.binary(max_size=300)
    | st.builds(
        lambda at, more, fewer: CONSISTENT[:at] + more + CONSISTENT[at + fewer :],
        st.integers(0, len(CONSISTENT)),
        st.binary(max_size=6),
        st.integers(0, 6),
    )
)
def test_parsing_a_consistency_proof_gives_one_or_a_refusal(content: bytes) -> None:
    try:
        found = proof.parse_consistency(content)
    except RejectError:
        return
    rest = found.older + b"\n" + found.newer
    assert content.endswith(rest)
    assert proof.is_consistency(content)
