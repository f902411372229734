"""`iomt`, with nothing of the ledger: a switch for benchmarks, and never a setting.

    python benchmarks/without_ledger.py run --config FILE

The commit's own code with its hashing, tree and checkpoint left out: no leaf hash is
computed or stored, no entry and no signed checkpoint is written. Frames are sealed,
contracts asked and rows written as ever. What it keeps cannot be proven, so it is for
a directory that is thrown away (front_door.py). The process does not start twice on it.
"""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

from edge import cli
from edge.ledger import core
from edge.store.commit import Writer


def _no_append(*_: object) -> tuple[tuple[bytes, ...], bytes]:
    return (), b""


def _no_tree(*_: object) -> Any:
    return SimpleNamespace(root=bytes(32), leaf_hashes=b"")


if __name__ == "__main__":
    for place, name, nothing in (
        (Writer, "_append", _no_append),
        (core, "batch_tree", _no_tree),
    ):
        if not hasattr(place, name):
            raise AttributeError(f"{name}: the commit's code has changed")
        setattr(place, name, nothing)
    sys.exit(cli.main())
