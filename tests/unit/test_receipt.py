"""Receipts: the vectors, the bound on their size, and what a changed byte does."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ledger_files import KEY, VERIFIER

from edge.errors import RejectError
from edge.ledger import ed25519, receipt
from edge.ledger.device_key import kid_of
from edge.ledger.receipt import Accepted, Duplicate, Place, Refused
from edge.ledger.report import Verdict
from edge.ledger.verify import verify_file

VECTORS = Path(__file__).parents[1] / "vectors"
INDEX = json.loads((VECTORS / "receipts.json").read_text())
CASES: list[dict[str, Any]] = INDEX["cases"]
GOOD = [one for one in CASES if one["verdict"] == "OK"]


@pytest.mark.parametrize("case", CASES, ids=[one["name"] for one in CASES])
def test_the_verdict_is_that_of_the_vector(
    case: dict[str, Any], tmp_path: Path
) -> None:
    path = tmp_path / "receipt"
    path.write_bytes(bytes.fromhex(case["receipt"]))
    report = verify_file(path, INDEX["vkey"])
    assert report.verdict.name == case["verdict"], report.reason
    assert case.get("reason", "") in report.reason


@pytest.mark.parametrize("case", GOOD, ids=[one["name"] for one in GOOD])
def test_it_says_what_the_vector_says(case: dict[str, Any]) -> None:
    told = receipt.parse(bytes.fromhex(case["receipt"])).receipt
    says = case["says"]
    assert (told.device, told.time_ms) == (says["device"], says["time_ms"])
    assert told.place.entry_index == says["entry"]
    for name in ("accepted", "duplicates", "refused"):
        plain = [
            [part.hex() if isinstance(part, bytes) else part for part in one]
            for one in getattr(told, name)
        ]
        assert plain == says[name]


def test_the_vectors_are_what_their_program_makes(tmp_path: Path) -> None:
    program = VECTORS / "make_receipts.py"
    subprocess.run([sys.executable, program, tmp_path / "again"], check=True)
    assert json.loads((tmp_path / "again").read_text()) == INDEX


def test_without_the_logs_key_it_is_not_enough(tmp_path: Path) -> None:
    path = tmp_path / "receipt"
    path.write_bytes(bytes.fromhex(GOOD[0]["receipt"]))
    assert verify_file(path).verdict is Verdict.NOT_ENOUGH
    assert verify_file(path, INDEX["vkey"], None, bytes(32)).verdict in (
        Verdict.CANNOT_RUN,
        Verdict.REFUSED,
    )


@settings(max_examples=60)
@given(st.data())
def test_no_byte_of_it_can_be_another(data: st.DataObject) -> None:
    content = bytearray(bytes.fromhex(GOOD[0]["receipt"]))
    at = data.draw(st.integers(0, len(content) - 1))
    content[at] ^= data.draw(st.integers(1, 255))
    try:
        signed = receipt.parse(bytes(content))
    except RejectError:
        return
    sound = signed.kid == kid_of(VERIFIER.public_key) and ed25519.verify(
        VERIFIER.public_key, signed.signed_bytes, signed.signature
    )
    assert not sound, at


digests = st.binary(min_size=16, max_size=16)
sequences = st.one_of(st.none(), st.integers(0, 2**64 - 1))
answers = st.lists(
    st.one_of(
        st.builds(Accepted, sequences, st.integers(0, 2**20), digests),
        st.builds(Duplicate, sequences, digests),
        st.builds(
            Refused, sequences, digests, st.sampled_from(["malformed", "poison"])
        ),
    ),
    min_size=1,
    max_size=200,
)


@settings(max_examples=50)
@given(
    answers=answers,
    device=st.text(min_size=1, max_size=64, alphabet="aZ09._-"),
    path_length=st.integers(0, 24),
    note_size=st.integers(100, 420),
)
def test_whatever_a_commit_holds_each_message_is_in_one_receipt_under_2000_bytes(
    answers: list[Accepted | Duplicate | Refused],
    device: str,
    path_length: int,
    note_size: int,
) -> None:
    place = Place(bytes(80), 2**40, (bytes(32),) * path_length, bytes(note_size))
    made = receipt.build(device, 2**41, answers, place, kid=bytes(8), sign=KEY.sign)
    assert max(map(len, made)) <= receipt.RECEIPT_SIZE_MAX
    told = [receipt.parse(one).receipt for one in made]
    for kind, name in (
        (Accepted, "accepted"),
        (Duplicate, "duplicates"),
        (Refused, "refused"),
    ):
        given_ = [one for one in answers if isinstance(one, kind)]
        assert [one for part in told for one in getattr(part, name)] == given_
