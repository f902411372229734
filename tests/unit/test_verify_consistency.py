"""`iomt verify` of the proof that one checkpoint continues another."""

from __future__ import annotations

from pathlib import Path

import ledger_files
import pytest

from edge.ledger import note, proof, tlog, verify
from edge.ledger.policy import Policy, parse_policy
from edge.ledger.verify import Verdict

VECTORS = Path(__file__).parents[1] / "vectors" / "ledger"
VKEY = ledger_files.VERIFIER.vkey
ENTRIES = [one.encode() for one in ledger_files.sample_entries(300)]
ALL_THREE = parse_policy(ledger_files.policy_text("all").encode())
CONSISTENCY = VECTORS / "grown.consistency"
ROOTS = {
    size: tlog.tree_root([tlog.leaf_hash(one) for one in ENTRIES[:size]])
    for size in (0, 100, 300)
}


def pair(
    older: bytes, newer: bytes, path: tuple[bytes, ...] | None = None
) -> proof.ConsistencyProof:
    genuine = proof.parse_consistency(CONSISTENCY.read_bytes())
    return proof.ConsistencyProof(genuine.path if path is None else path, older, newer)


def checkpoint(size: int, root: bytes | None = None) -> bytes:
    return ledger_files.signed_checkpoint(size, root or ROOTS[size])


def test_a_log_that_only_grew_is_verified() -> None:
    for check in (verify.verify_file, verify.verify_consistency):
        report = check(CONSISTENCY, VKEY)
        assert report.verdict is Verdict.OK
        assert (report.size, report.root) == (300, ROOTS[300])
        assert any(line.startswith("continues size 100") for line in report.lines())
        assert check(CONSISTENCY).verdict is Verdict.NOT_ENOUGH
    report = verify.verify_proof(CONSISTENCY, VKEY)
    assert (report.verdict, report.reason) == (
        Verdict.REFUSED,
        "line 1: not c2sp.org/tlog-proof@v1",
    )
    assert (
        verify.verify_consistency(VECTORS / "closed.tlog-proof", VKEY).verdict
        is Verdict.REFUSED
    )


@pytest.mark.parametrize("old", [1, 2, 64, 99, 255, 256, 299])
def test_every_earlier_size_can_be_proven(old: int, tmp_path: Path) -> None:
    path = tmp_path / "proof"
    path.write_bytes(ledger_files.sample_consistency(ENTRIES, old))
    assert verify.verify_file(path, VKEY).verdict is Verdict.OK


@pytest.mark.parametrize(
    ("made", "reason"),
    [
        (pair(checkpoint(0), checkpoint(300), ()), ""),
        (pair(checkpoint(300), checkpoint(300), ()), ""),
        (pair(checkpoint(0), checkpoint(300)), "the path should be empty"),
        (pair(checkpoint(300), checkpoint(300)), "the path should be empty"),
        (pair(checkpoint(300), checkpoint(100)), "are not in order"),
        (pair(checkpoint(300), checkpoint(300, bytes(32)), ()), "two roots for one"),
        (pair(checkpoint(100, bytes(32)), checkpoint(300)), "to the old root"),
        (pair(checkpoint(100), checkpoint(300, bytes(32))), "to the new root"),
        (pair(checkpoint(100), checkpoint(300), ()), "the path is empty"),
        (pair(checkpoint(99, bytes(32)), checkpoint(300)), "the path is too short"),
        (
            pair(
                ledger_files.signed_checkpoint(100, ROOTS[100], "other"),
                checkpoint(300),
            ),
            "earlier: checkpoint: not signed by a key that we know",
        ),
        (
            pair(checkpoint(100), checkpoint(300)[:-8] + b"AAAAAA=\n"),
            "later: checkpoint: ",
        ),
    ],
)
def test_a_history_that_does_not_continue_is_refused(
    made: proof.ConsistencyProof, reason: str, tmp_path: Path
) -> None:
    path = tmp_path / "proof"
    path.write_bytes(made.encode())
    report = verify.verify_file(path, VKEY)
    if reason:
        assert report.verdict is Verdict.REFUSED
        assert reason in report.reason
        assert report.place == "proof"
    else:
        assert report.verdict is Verdict.OK, report.lines()


def test_two_logs_do_not_continue_each_other(tmp_path: Path) -> None:
    """Both genuine, both known, and still not one history."""
    other = note.Verifier("other", ledger_files.VERIFIER.public_key)
    older = ledger_files.signed_checkpoint(100, ROOTS[100], "other")
    path = tmp_path / "proof"
    path.write_bytes(pair(older, checkpoint(300)).encode())
    policy = Policy((ledger_files.VERIFIER, other), {}, {}, None)
    report = verify.verify_file(path, None, policy)
    assert report.verdict is Verdict.REFUSED
    assert "earlier: checkpoint of another log, other" in report.reason


def test_both_checkpoints_need_the_quorum(tmp_path: Path) -> None:
    path = tmp_path / "proof"
    signed = {size: checkpoint(size) for size in (100, 300)}
    cosigned = {size: ledger_files.cosigned(one) for size, one in signed.items()}
    path.write_bytes(pair(cosigned[100], cosigned[300]).encode())
    assert verify.verify_file(path, None, ALL_THREE).verdict is Verdict.OK
    for older, newer, label in (
        (signed[100], cosigned[300], "earlier: "),
        (cosigned[100], signed[300], "later: "),
    ):
        path.write_bytes(pair(older, newer).encode())
        report = verify.verify_file(path, None, ALL_THREE)
        assert report.verdict is Verdict.NOT_ENOUGH
        assert report.reason.startswith(f"{label}the quorum three is not reached")
        assert "; " not in report.reason


def test_a_flipped_byte_anywhere_in_a_consistency_proof_is_refused(
    tmp_path: Path,
) -> None:
    content = CONSISTENCY.read_bytes()
    path = tmp_path / "proof"
    for at in range(len(content)):
        changed = bytearray(content)
        changed[at] ^= 1 << at % 8
        path.write_bytes(changed)
        report = verify.verify_file(path, VKEY)
        assert report.verdict is Verdict.REFUSED, (at, report.lines())
    for size in (0, 1, 19, 20, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:size])
        assert verify.verify_file(path, VKEY).verdict is Verdict.REFUSED
