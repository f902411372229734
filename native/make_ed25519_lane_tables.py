"""Writes native/ed25519_lane_tables.c: the base point's multiples for lanes.

    python native/make_ed25519_lane_tables.py            writes the file
    python native/make_ed25519_lane_tables.py --check    status 1 if the file differs

Lanes take digits of fixed width, so they want every multiple, where the scalar code
wants the odd ones. The arithmetic is that of make_ed25519_tables.py.
"""

from __future__ import annotations

import sys
from pathlib import Path

from make_ed25519_tables import base_point, doubled, multiples, table

PARTS = 4  # [(j + 1) 2^(64 i)] B for j below 128: signed digits of 8 bits
MULTIPLES = 128

TARGET = Path(__file__).resolve().parent / "ed25519_lane_tables.c"
HEAD = """\
/* Multiples of the Ed25519 base point for lanes. Written by
 * make_ed25519_lane_tables.py; do not edit: a test compares. */
#include "ed25519.h"

#if defined(__x86_64__) || defined(IOMT_ARM64)
"""


def text() -> str:
    """The whole file."""
    parts = [doubled(base_point(), 64 * part) for part in range(PARTS)]
    rows = [multiples(point, point, MULTIPLES) for point in parts]
    name, sizes = "iomt_base_rows", "[IOMT_BASE_PARTS][IOMT_BASE_ROW]"
    return "\n".join([HEAD, table(name, sizes, rows), "#endif\n"])


def main() -> int:
    if sys.argv[1:] == ["--check"]:
        return int(not TARGET.exists() or TARGET.read_text() != text())
    TARGET.write_text(text())
    return 0


if __name__ == "__main__":
    sys.exit(main())
