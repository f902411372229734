"""Writes tests/vectors/ledger: a ledger of 300 entries, two proofs, and what they say.

    python tests/vectors/make_ledger.py [DIR]

The same bytes come out each time: keys, times and "random" padding are fixed. The log
is in `log/`, proofs beside it, and `expected.json` has the key, size, root and some
leaf hashes, for somebody who writes another verifier.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

_HERE = Path(__file__).resolve().parent
sys.path.append(str(_HERE.parent / "unit"))

import ledger_files  # noqa: E402  its directory was only now known

from edge.ledger import tlog  # noqa: E402  stays with the import above

ENTRY_COUNT = 300
PROVEN_ENTRY = 270
NARROWER_SIZES = (100, 280)


def main(directory: Path) -> None:
    """Write everything into `directory`, instead of what was there."""
    shutil.rmtree(directory, ignore_errors=True)
    entries = [one.encode() for one in ledger_files.sample_entries(ENTRY_COUNT)]
    root = ledger_files.write_ledger(directory / "log", entries, NARROWER_SIZES)
    for name, disclose in (("closed", False), ("disclosed", True)):
        proof = ledger_files.sample_proof(entries, PROVEN_ENTRY, 1, disclose)
        ledger_files.put(directory, f"{name}.tlog-proof", proof)
    expected = {
        "vkey": ledger_files.VERIFIER.vkey,
        "origin": ledger_files.ORIGIN,
        "size": ENTRY_COUNT,
        "root": root.hex(),
        "entries": {at: entries[at].hex() for at in (0, 1, 2, PROVEN_ENTRY)},
        "leaf_hashes": {
            at: tlog.leaf_hash(entries[at]).hex() for at in (0, 1, 2, PROVEN_ENTRY)
        },
    }
    text = json.dumps(expected, indent=2) + "\n"
    ledger_files.put(directory, "expected.json", text.encode())


if __name__ == "__main__":
    main(Path(sys.argv[1]) if sys.argv[1:] else _HERE / "ledger")
