"""Writes tests/vectors/ledger: a ledger of 300 entries, proofs, and what they say.

    python tests/vectors/make_ledger.py [DIR]

The same bytes come out each time: keys, times and "random" padding are fixed. The log
is in `log/`, proofs and policies beside it, and `expected.json` has the keys, size,
root, some leaf hashes, and the verdict on each file under what an auditor may bring
along, for somebody who writes another verifier.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_HERE = Path(__file__).resolve().parent
sys.path.append(str(_HERE.parent / "unit"))

import ledger_files  # noqa: E402  its directory was only now known

from edge.ledger import tlog  # noqa: E402  stays with the import above

ENTRY_COUNT = 300
PROVEN_ENTRY = 270
NARROWER_SIZES = (100, 280)
OLDER_SIZE = 100

# Each path with what an auditor may bring along, and the exit status of `iomt verify`.
LOG_KEY, DEVICE_KEY, TWO, ALL, NONE = (
    "vkey",
    "device_key",
    "two-of-three.policy",
    "all-and-pq.policy",
    "none.policy",
)
CASES: list[tuple[str, list[tuple[list[str], int]]]] = [
    (
        "log",
        [([], 3), ([LOG_KEY], 0), ([TWO], 3), ([NONE], 0), ([LOG_KEY, NONE], 0)],
    ),
    (
        "closed.tlog-proof",
        [([], 3), ([LOG_KEY], 0), ([NONE], 0), ([TWO], 3), ([LOG_KEY, DEVICE_KEY], 3)],
    ),
    (
        "disclosed.tlog-proof",
        [([], 3), ([LOG_KEY], 0), ([LOG_KEY, DEVICE_KEY], 0)],
    ),
    ("unenrolled.tlog-proof", [([LOG_KEY], 3), ([LOG_KEY, DEVICE_KEY], 0)]),
    (
        "cosigned.tlog-proof",
        [([LOG_KEY], 0), ([TWO], 0), ([ALL], 3), ([NONE], 0)],
    ),
    (
        "grown.consistency",
        [([], 3), ([LOG_KEY], 0), ([TWO], 3), ([DEVICE_KEY], 2)],
    ),
]


def proofs(entries: list[bytes]) -> Iterator[tuple[str, bytes]]:
    """Each proof file and its name."""

    def proof(disclose: bool, **more: Any) -> bytes:
        return ledger_files.sample_proof(entries, PROVEN_ENTRY, 1, disclose, **more)

    yield "closed.tlog-proof", proof(False)
    yield "disclosed.tlog-proof", proof(True, enrolment=True)
    yield "unenrolled.tlog-proof", proof(True)
    cosigned = proof(False, witnesses=["witness-3.example", "witness-1.example"])
    yield "cosigned.tlog-proof", cosigned + ledger_files.ml_dsa_line()
    yield "grown.consistency", ledger_files.sample_consistency(entries, OLDER_SIZE)


def policies() -> Iterator[tuple[str, bytes]]:
    """Each policy file and its name."""
    yield TWO, ledger_files.policy_text("2").encode()
    stricter = "group everyone all three w4\nquorum everyone\n"
    text = ledger_files.policy_text("any").replace("quorum three\n", stricter)
    yield ALL, text.encode()
    text = ledger_files.policy_text("all").replace("quorum three", "quorum none")
    yield NONE, text.encode()


def main(directory: Path) -> None:
    """Write everything into `directory`, instead of what was there."""
    shutil.rmtree(directory, ignore_errors=True)
    entries = [one.encode() for one in ledger_files.sample_entries(ENTRY_COUNT)]
    root = ledger_files.write_ledger(directory / "log", entries, NARROWER_SIZES)
    for name, content in (*proofs(entries), *policies()):
        ledger_files.put(directory, name, content)
    expected = {
        "vkey": ledger_files.VERIFIER.vkey,
        "origin": ledger_files.ORIGIN,
        "size": ENTRY_COUNT,
        "root": root.hex(),
        "entries": {at: entries[at].hex() for at in (0, 1, 2, PROVEN_ENTRY)},
        "device_key": ledger_files.DEVICE_PUBLIC_KEY.hex(),
        "leaf_hashes": {
            at: tlog.leaf_hash(entries[at]).hex() for at in (0, 1, 2, PROVEN_ENTRY)
        },
        "cases": [
            {"path": path, "given": given, "exit": status}
            for path, outcomes in CASES
            for given, status in outcomes
        ],
    }
    text = json.dumps(expected, indent=2) + "\n"
    ledger_files.put(directory, "expected.json", text.encode())


if __name__ == "__main__":
    main(Path(sys.argv[1]) if sys.argv[1:] else _HERE / "ledger")
