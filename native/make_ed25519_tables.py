"""Writes native/ed25519_tables.c: multiples of the Ed25519 base point.

    python native/make_ed25519_tables.py            writes the file
    python native/make_ed25519_tables.py --check    status 1 if the file differs

The multiples come from the definitions of RFC 8032 section 5.1 in Python's integers:
affine points, the complete addition law, one inversion an addition. A test runs the
check, so nobody has to trust the file.
"""

from __future__ import annotations

import sys
from pathlib import Path

P = 2**255 - 19
D = -121665 * pow(121666, -1, P) % P
ROOT_OF_MINUS_ONE = pow(2, (P - 1) // 4, P)

COMB_PLACES = 51  # [(j + 1) 32^i] B for j below 16: signed digits in radix 32
COMB_MULTIPLES = 16
PARTS = 4  # [(2 j + 1) 2^(64 i)] B for j below 64: signed odd digits of 8 bits
ODD_MULTIPLES = 64

TARGET = Path(__file__).resolve().parent / "ed25519_tables.c"
HEAD = """\
/* Multiples of the Ed25519 base point. Written by make_ed25519_tables.py; do not edit:
 * a test compares. */
#include "ed25519.h"
"""

Point = tuple[int, int]


def add(one: Point, other: Point) -> Point:
    """The sum by the complete law of RFC 8032 5.1.4, in affine coordinates."""
    (x1, y1), (x2, y2) = one, other
    bend = D * x1 * x2 * y1 * y2
    x = (x1 * y2 + x2 * y1) * pow(1 + bend, -1, P)
    y = (y1 * y2 + x1 * x2) * pow(1 - bend, -1, P)
    return x % P, y % P


def base_point() -> Point:
    """B: y = 4/5, x even."""
    y = 4 * pow(5, -1, P) % P
    square = (y * y - 1) * pow(D * y * y + 1, -1, P) % P
    x = pow(square, (P + 3) // 8, P)
    if x * x % P != square:
        x = x * ROOT_OF_MINUS_ONE % P
    return (P - x if x & 1 else x), y


def doubled(point: Point, times: int) -> Point:
    for _ in range(times):
        point = add(point, point)
    return point


def multiples(point: Point, step: Point, count: int) -> list[Point]:
    """point, point + step, point + 2 step, ..."""
    found = [point]
    while len(found) < count:
        found.append(add(found[-1], step))
    return found


def packed(number: int) -> str:
    words = [number >> 64 * i & 2**64 - 1 for i in range(4)]
    return "{{" + ", ".join(f"0x{word:016x}" for word in words) + "}}"


def table(
    name: str,
    sizes: str,
    rows: list[list[Point]],
    kind: str = "iomt_packed_point",
    factor: int = 1,
) -> str:
    """The points as y + x, y - x and 2 d x y, each times the factor."""
    lines = [f"const struct {kind} {name}{sizes} = {{"]
    for row in rows:
        lines.append("    {")
        for x, y in row:
            numbers = (factor * n % P for n in (y + x, y - x, 2 * D * x * y))
            lines.append(
                "        {" + ",\n         ".join(packed(n) for n in numbers) + "},"
            )
        lines.append("    },")
    return "\n".join([*lines, "};"]) + "\n"


def constant(name: str, number: int) -> str:
    return f"const struct iomt_packed {name} = {{\n    {packed(number)[1:-1]}}};\n"


def text() -> str:
    """The whole file."""
    base = base_point()
    half = pow(2, -1, P)
    comb = [doubled(base, 5 * place) for place in range(COMB_PLACES)]
    parts = [doubled(base, 64 * part) for part in range(PARTS)]
    return "\n".join(
        [
            HEAD,
            constant("iomt_curve_d", D),
            constant("iomt_root_of_minus_one", ROOT_OF_MINUS_ONE),
            constant("iomt_half", half),
            table(
                "iomt_base_comb",
                "[IOMT_COMB_PLACES][IOMT_COMB_MULTIPLES]",
                [multiples(point, point, COMB_MULTIPLES) for point in comb],
                "iomt_comb_point",
                half,
            ),
            table(
                "iomt_base_odd",
                "[IOMT_BASE_PARTS][IOMT_BASE_MULTIPLES]",
                [multiples(p, add(p, p), ODD_MULTIPLES) for p in parts],
            ),
        ]
    )


def main() -> int:
    if sys.argv[1:] == ["--check"]:
        return int(not TARGET.exists() or TARGET.read_text() != text())
    TARGET.write_text(text())
    return 0


if __name__ == "__main__":
    sys.exit(main())
