"""`iomt verify --policy`: whose checkpoint counts, and which witnesses it needs."""

from __future__ import annotations

import hashlib
import random
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import ledger_files
import pytest

from edge.ledger import batch, note, proof, tlog, verify
from edge.ledger.policy import Policy, parse_policy
from edge.ledger.verify import Report, Verdict

ENTRIES = [one.encode() for one in ledger_files.sample_entries(300)]
LOG = Path(__file__).parents[1] / "vectors" / "ledger" / "log"
VKEY = ledger_files.VERIFIER.vkey


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """A copy of the vector's ledger, to be cosigned or damaged."""
    return Path(shutil.copytree(LOG, tmp_path / "log"))


def given(text: str) -> Policy:
    return parse_policy(text.encode())


@pytest.mark.parametrize(
    ("quorum", "cosigners", "lacking"),
    [
        ("any", [], "lacks 1 of w1, w2, w3 (group three)"),
        ("2", ["witness-2.example"], "lacks 1 of w1, w3 (group three)"),
        ("2", ["witness-2.example", "witness-3.example"], ""),
        ("all", list(ledger_files.WITNESSES), ""),
    ],
)
def test_a_ledger_has_the_quorum_or_says_who_is_missing(
    log: Path, quorum: str, cosigners: list[str], lacking: str
) -> None:
    """The policy brings the log's key; --vkey beside it must be the same."""
    content = (log / "checkpoint").read_bytes()
    (log / "checkpoint").write_bytes(ledger_files.cosigned(content, cosigners))
    policy = given(ledger_files.policy_text(quorum))
    for vkey in (None, VKEY):
        report = verify.verify_directory(log, vkey, policy)
        assert report.verdict is (Verdict.NOT_ENOUGH if lacking else Verdict.OK)
        assert report.reason.endswith(lacking)
        assert report.counts["batch"] == 293


def test_a_policy_without_a_log_needs_the_key(log: Path) -> None:
    """And without either, both things that are lacking are named."""
    content = (log / "checkpoint").read_bytes()
    policy = given(ledger_files.policy_text("2", with_log=False))
    report = verify.verify_directory(log, None, policy)
    assert report.verdict is Verdict.NOT_ENOUGH
    assert "--vkey or --policy" in report.reason
    assert "lacks 2 of w1, w2, w3" in report.reason
    (log / "checkpoint").write_bytes(ledger_files.cosigned(content))
    report = verify.verify_directory(log, None, policy)
    assert (report.verdict, "lacks" in report.reason) == (Verdict.NOT_ENOUGH, False)
    assert verify.verify_directory(log, VKEY, policy).verdict is Verdict.OK


def test_a_wrong_cosignature_refuses_the_ledger_though_the_quorum_is_there(
    log: Path,
) -> None:
    content = (log / "checkpoint").read_bytes()
    cosigned = bytearray(ledger_files.cosigned(content))
    cosigned[-10] ^= 1
    (log / "checkpoint").write_bytes(bytes(cosigned))
    policy = given(ledger_files.policy_text("any"))
    report = verify.verify_directory(log, None, policy)
    assert report.verdict is Verdict.REFUSED
    assert "signature by witness-3.example is wrong" in report.reason
    assert verify.verify_directory(log, VKEY).verdict is Verdict.OK


def test_any_log_of_the_policy_may_have_signed_and_under_its_own_name(
    log: Path,
) -> None:
    other = note.Verifier("other.example", bytes(range(32)))
    ours = ledger_files.VERIFIER.vkey
    elsewhere = note.Verifier("elsewhere", ledger_files.VERIFIER.public_key)
    policy = Policy((other, ledger_files.VERIFIER), {}, {}, None)
    assert verify.verify_directory(log, None, policy).verdict is Verdict.OK
    assert verify.verify_directory(log, ours, policy).verdict is Verdict.OK
    for logs in ((other,), (elsewhere,)):
        report = verify.verify_directory(log, None, Policy(logs, {}, {}, None))
        assert report.verdict is Verdict.REFUSED
        assert "not signed by a key that we know" in report.reason
    report = verify.verify_directory(log, ours, Policy((other,), {}, {}, None))
    assert report.verdict is Verdict.CANNOT_RUN
    assert "the policy does not name that log" in report.reason
    report = verify.verify_directory(log, other.vkey, policy)
    assert report.verdict is Verdict.REFUSED  # of the two, only the one that was given


def test_a_logs_signature_of_ml_dsa_alone_is_not_enough(log: Path) -> None:
    """Not refused: it may well be good. Not verified: nobody here can tell."""
    pq = note.Verifier(ledger_files.ORIGIN, bytes(1312), note.ML_DSA_44)
    content = (log / "checkpoint").read_bytes()
    line = note.Signature(pq.name, pq.key_id, bytes(2428)).line.encode()
    policy = Policy((pq,), {}, {}, None)
    (log / "checkpoint").write_bytes(content + line)
    report = verify.verify_directory(log, None, policy)
    assert report.verdict is Verdict.NOT_ENOUGH
    assert "type 0x06, not understood" in report.reason
    both = Policy((pq, ledger_files.VERIFIER), {}, {}, None)
    assert verify.verify_directory(log, None, both).verdict is Verdict.OK
    (log / "checkpoint").write_bytes(content)
    assert verify.verify_directory(log, None, policy).verdict is Verdict.REFUSED
    other = note.Verifier("other", bytes(1312), note.ML_DSA_44)
    line = note.Signature(other.name, other.key_id, bytes(2428)).line.encode()
    (log / "checkpoint").write_bytes(content + line)
    report = verify.verify_directory(log, None, Policy((other,), {}, {}, None))
    assert report.verdict is Verdict.REFUSED
    assert "the key is for the origin other" in report.reason


@pytest.mark.parametrize("kind", [note.COSIGNATURE, note.ML_DSA_44])
def test_a_key_that_no_log_signs_with_cannot_be_given_for_one(kind: int) -> None:
    key = bytes(1312 if kind == note.ML_DSA_44 else 32)
    vkey = note.Verifier(ledger_files.ORIGIN, key, kind).vkey
    report = verify.verify_directory(LOG, vkey)
    assert report.verdict is Verdict.CANNOT_RUN
    assert f"a log signs with type 0x01, this is of type 0x{kind:02x}" in report.reason


def test_a_key_that_looks_like_a_witness_cannot_be_given(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(note.Verifier, "key_id", bytes(4))
    key = ledger_files.VERIFIER.public_key
    one = note.Verifier(ledger_files.ORIGIN, key, note.COSIGNATURE)
    report = verify.verify_directory(
        LOG, ledger_files.VERIFIER.vkey, Policy((), {"w": one}, {}, None)
    )
    assert report.verdict is Verdict.CANNOT_RUN
    assert "those of a witness" in report.reason


# --- witnesses ----------------------------------------------------------------------

ALL_THREE = parse_policy(ledger_files.policy_text("all").encode())
ANY = parse_policy(ledger_files.policy_text("any").encode())
MEANING = ("entry ", "leaf ", "record ", "device ", "origin ", "size ", "root ")


def cosigned_proof(witnesses: Sequence[str] = tuple(ledger_files.WITNESSES)) -> bytes:
    return ledger_files.sample_proof(ENTRIES, 270, 1, False, witnesses=witnesses)


def test_a_proof_with_the_quorum_is_verified_and_names_its_witnesses(
    tmp_path: Path,
) -> None:
    path = tmp_path / "proof"
    path.write_bytes(cosigned_proof())
    report = verify.verify_proof(path, None, ALL_THREE)
    assert report.verdict is Verdict.OK
    for at in (1, 2, 3):
        assert f"witness w{at}: cosigned 2026-09-21T14:18:21.000Z" in report.lines()
    assert "witness w4: no cosignature" in report.lines()
    path.write_bytes(cosigned_proof(["witness-2.example"]) + ledger_files.ml_dsa_line())
    report = verify.verify_proof(path, None, ALL_THREE)
    assert report.verdict is Verdict.NOT_ENOUGH
    assert report.reason == (
        "the quorum three is not reached, it lacks 2 of w1, w3 (group three)"
    )
    assert (
        "witness w4: a cosignature of type 0x06 (ML-DSA-44), not understood"
        in report.lines()
    )


def test_the_last_timestamp_is_shown_though_it_is_no_date(tmp_path: Path) -> None:
    one = proof.parse_proof(cosigned_proof([]))
    name, verifier = next(iter(ledger_files.WITNESSES.items()))
    text = note.parse_note(one.checkpoint).text
    sign = ledger_files.WITNESS_KEYS[name].sign
    line = note.cosign(text, verifier, 2**63 - 1, sign).line.encode()
    path = tmp_path / "proof"
    path.write_bytes(replace(one, checkpoint=one.checkpoint + line).encode())
    report = verify.verify_proof(path, None, ANY)
    assert report.verdict is Verdict.OK
    assert f"witness w1: cosigned {(2**63 - 1) * 1000} ms" in report.lines()


def test_witnesses_do_not_stand_in_for_the_log(tmp_path: Path) -> None:
    """Whoever has three witnesses' keys and not the log's proves nothing."""
    one = proof.parse_proof(cosigned_proof())
    text, _, lines = one.checkpoint.partition(b"\n\n")
    unsigned = text + b"\n\n" + b"\n".join(lines.split(b"\n")[1:])
    path = tmp_path / "proof"
    path.write_bytes(replace(one, checkpoint=unsigned).encode())
    report = verify.verify_proof(path, None, ALL_THREE)
    assert report.verdict is Verdict.REFUSED
    assert "not signed by a key that we know" in report.reason


def test_a_cosignature_of_another_checkpoint_refuses_the_proof(tmp_path: Path) -> None:
    one = proof.parse_proof(cosigned_proof(["witness-1.example"]))
    name, verifier = next(iter(ledger_files.WITNESSES.items()))
    other = note.parse_note(ledger_files.signed_checkpoint(299, bytes(32))).text
    key = ledger_files.WITNESS_KEYS[name]
    line = note.cosign(other, verifier, 1, key.sign).line.encode()
    path = tmp_path / "proof"
    path.write_bytes(replace(one, checkpoint=one.checkpoint + line).encode())
    report = verify.verify_proof(path, None, ANY)
    assert report.verdict is Verdict.REFUSED
    assert "the signature by witness-1.example is wrong" in report.reason


def flipped(content: bytes, at: int) -> bytes:
    changed = bytearray(content)
    changed[at] ^= 1 << at % 8
    return bytes(changed)


def meaning(report: Report) -> list[str]:
    return [line for line in report.lines() if line.startswith(MEANING)]


def test_no_flipped_byte_keeps_a_proof_that_needs_all_its_witnesses(
    tmp_path: Path,
) -> None:
    """Or else the flip is in the name or id of a key, and that witness is missing."""
    content = cosigned_proof()
    path = tmp_path / "proof"
    for at in range(len(content)):
        path.write_bytes(flipped(content, at))
        report = verify.verify_proof(path, None, ALL_THREE)
        if report.verdict is Verdict.NOT_ENOUGH:
            assert "lacks 1 of w" in report.reason
        else:
            assert report.verdict is Verdict.REFUSED, (at, report.lines())


def test_a_flipped_byte_may_cost_a_witness_and_changes_no_meaning(
    tmp_path: Path,
) -> None:
    """A note's unknown signatures are ignored, as the specification asks.

    The bytes before them are flipped in the test above.
    """
    content = cosigned_proof()
    path = tmp_path / "proof"
    path.write_bytes(content)
    said = meaning(verify.verify_proof(path, None, ANY))
    signatures = content.index("— witness-1".encode())
    kept = 0
    for at in range(signatures, len(content)):
        path.write_bytes(flipped(content, at))
        report = verify.verify_proof(path, None, ANY)
        if report.verdict is Verdict.OK:
            kept += 1
            assert meaning(report) == said
            assert sum("cosigned" in line for line in report.lines()) == 2
        else:
            assert report.verdict is Verdict.REFUSED
    assert kept > 0


# --- sizes --------------------------------------------------------------------------

YEAR_SIZE = 31_536_000  # one batch entry a second
LARGEST_PROOF_SIZE = 2600


def test_a_proof_after_a_year_is_small_with_three_cosignatures(tmp_path: Path) -> None:
    """The first entry has the longest path: 25 hashes, and six in its batch."""
    chosen = random.Random(3)
    path = tuple(chosen.randbytes(32) for _ in range(25))
    leaves = [hashlib.sha256(bytes([at])).digest() for at in range(64)]
    entry = batch.Batch(
        bytes(range(16)),
        YEAR_SIZE,
        ledger_files.STARTED_MS,
        synchronised=True,
        root=batch.batch_root(leaves),
    ).encode()
    extra = proof.BatchProof(
        entry, 63, tuple(batch.batch_path(leaves, 63)), leaves[63]
    ).encode()
    leaf = tlog.leaf_hash(entry)
    root = tlog.root_from_inclusion(YEAR_SIZE // 3, YEAR_SIZE, leaf, path)
    signed = ledger_files.cosigned(ledger_files.signed_checkpoint(YEAR_SIZE, root))
    content = proof.LogProof(YEAR_SIZE // 3, path, signed, extra).encode()
    assert len(content) <= LARGEST_PROOF_SIZE
    file = tmp_path / "one.tlog-proof"
    file.write_bytes(content)
    assert verify.verify_proof(file, None, ALL_THREE).verdict is Verdict.OK
