"""Writes odd_points.txt: signatures whose key or R is an odd point.

    python tests/vectors/ed25519/make_odd_points.py

For every odd encoding of a key (of small order, y not below p, a sign for x = 0, no
point): R as it must be for S = 1, found with the first message that fits the small
order, the same with another message, and R spoilt. The answers are OpenSSL's.
"""

from __future__ import annotations

import sys
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1] / "native"))

from ed25519_cases import (  # noqa: E402
    BASE,
    Case,
    add,
    challenge,
    decode,
    encode,
    multiply,
    odd_encodings,
    small_order,
)

ONE = (1).to_bytes(32, "little")
HEAD = """\
# Odd points; written by make_odd_points.py. OpenSSL's answer (1 valid, 0 invalid), key,
# message, signature.
"""


def openssl(key: bytes, message: bytes, signature: bytes) -> bool:
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


def cases(key: bytes) -> list[Case]:
    """Of one key: with S = 1, R must be B - [k] A."""
    point = decode(key)
    if point is None or point not in small_order():
        return [(key, b"", r + bytes(32)) for r in (key, encode(BASE))]
    found = []
    for torsion in range(8):
        r = encode(add(BASE, multiply(torsion, small_order()[1])))
        for count in range(256):
            message = bytes([count])
            k = challenge(r, key, message)
            if encode(add(BASE, multiply(-k % 8, point))) == r:
                found += [(key, message, r + ONE), (key, message + b"!", r + ONE)]
                break
    neutral = encode((0, 1))
    found += [(key, b"", r + bytes(32)) for r in (neutral, key, neutral[:31] + b"\x80")]
    return found


def main() -> None:
    lines = [
        f"{int(openssl(*case))} {case[0].hex()} {case[1].hex() or '-'} {case[2].hex()}"
        for key in odd_encodings()
        for case in cases(key)
    ]
    (HERE / "odd_points.txt").write_text(HEAD + "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
