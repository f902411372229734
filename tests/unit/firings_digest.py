"""Prints one SHA-256 of all that fires: the library, the vectors, random contracts.

Over random lives, every firing and the state at the end. It needs no package but the
gateway's own contracts, so that any interpreter can run it:

    PYTHONPATH=. python tests/unit/firings_digest.py
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import random_contracts

import edge.contracts
from edge.contracts.language import load
from edge.contracts.machine import Machine

CONTRACTS = Path(edge.contracts.__file__).parent
VECTORS = Path(__file__).parents[1] / "vectors" / "contracts"
CASES_COUNT, STEPS_COUNT = 12, 60


def firings_digest() -> str:
    """SHA-256 of everything that fires, and of the state at the end."""
    digest = hashlib.sha256()
    files = [*(CONTRACTS / "library").glob("*.toml"), *VECTORS.glob("*.toml")]
    shipped = [load(one.read_text("utf-8"), one.name) for one in sorted(files)]
    sets = [random_contracts.contracts_of(case) for case in range(CASES_COUNT)]
    for case, contracts in enumerate([shipped, *sets]):
        life = random_contracts.Life(case, contracts)
        machine = Machine(contracts)
        for _ in range(STEPS_COUNT):
            kind, arguments = life.step()
            for one in getattr(machine, kind)(*arguments):
                digest.update(one.encode())
        digest.update(machine.snapshot())
    return digest.hexdigest()


if __name__ == "__main__":
    print(firings_digest())
