"""Ed25519 verification (RFC 8032) with nothing but the standard library.

For an auditor who has only Python; the gateway verifies through edge.ledger.core.
Validity is OpenSSL's answer, so that one rule holds everywhere:

- S is below the group order L;
- the public key A is a point on the curve; its y may be given as y + p, and the sign of
  x = 0 is ignored;
- the encoding of [S]B - [k]A equals the signature's first half, byte for byte, with
  k = SHA-512(R || A || message): no multiplication by the cofactor.

Nothing here is secret, so nothing takes constant time, and nothing here can sign.
Points are (X, Y, Z, T) with x = X/Z, y = Y/Z, xy = T/Z; points to be added are kept as
(y + x, y - x, 2d xy) with Z = 1 or (Y + X, Y - X, 2d T, 2Z).
"""

from __future__ import annotations

from functools import cache
from hashlib import sha512
from typing import TypeAlias

PUBLIC_KEY_SIZE = 32
SIGNATURE_SIZE = 64

P = 2**255 - 19
L = 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, -1, P) % P
_D2 = 2 * D % P
_ROOT_OF_MINUS_ONE = pow(2, (P - 1) // 4, P)
_KEY_BITS = 5  # window of the public key's table: 8 odd multiples, made for each call
_BASE_BITS = 8  # window of the base point's table: 64 odd multiples, made once

Point: TypeAlias = tuple[int, int, int, int]
Cached: TypeAlias = tuple[int, int, int, int]

_NEUTRAL: Point = (0, 1, 1, 0)


def _decompress(encoded: bytes) -> tuple[int, int] | None:
    """The affine point, or None when no point of the curve has this y."""
    number = int.from_bytes(encoded, "little")
    y = (number & (1 << 255) - 1) % P
    # x^2 = u/v; the candidate root is u v^3 (u v^7)^((p-5)/8), RFC 8032 section 5.1.3.
    u = (y * y - 1) % P
    v = (D * y * y + 1) % P
    v3 = v * v * v % P
    x = u * v3 * pow(u * v3 * v3 * v, (P - 5) // 8, P) % P
    check = v * x * x % P
    if check != u:
        if check != P - u:
            return None
        x = x * _ROOT_OF_MINUS_ONE % P
    if x & 1 != number >> 255:
        x = -x % P
    return x, y


def _double(point: Point) -> Point:
    x, y, z, _ = point
    a = x * x % P
    b = y * y % P
    h = a + b
    e = h - (x + y) * (x + y)
    g = a - b
    f = 2 * z * z + g
    return e * f % P, g * h % P, f * g % P, e * h % P


def _add(point: Point, other: Cached) -> Point:
    x, y, z, t = point
    plus, minus, t2d, z2 = other
    a = (y - x) * minus % P
    b = (y + x) * plus % P
    c = t * t2d % P
    d = z * z2 % P
    e = b - a
    f = d - c
    g = d + c
    h = b + a
    return e * f % P, g * h % P, f * g % P, e * h % P


def _subtract(point: Point, other: Cached) -> Point:
    plus, minus, t2d, z2 = other
    return _add(point, (minus, plus, -t2d, z2))


def _cached(point: Point) -> Cached:
    x, y, z, t = point
    return (y + x) % P, (y - x) % P, t * _D2 % P, 2 * z % P


def _odd_multiples(x: int, y: int, count: int) -> list[Cached]:
    """1, 3, 5, ... times the point."""
    point: Point = (x, y, 1, x * y % P)
    twice = _cached(_double(point))
    found = [_cached(point)]
    for _ in range(count - 1):
        point = _add(point, twice)
        found.append(_cached(point))
    return found


@cache
def _base_multiples() -> list[Cached]:
    base = _decompress((4 * pow(5, -1, P) % P).to_bytes(32, "little"))
    if base is None:
        raise AssertionError("the base point is on the curve")
    return _odd_multiples(*base, 1 << _BASE_BITS - 2)


def _digits(scalar: int, bits: int) -> list[int]:
    """The scalar's signed odd digits, one for each bit, at least bits-1 zeros apart."""
    digits = []
    while scalar:
        digit = 0
        if scalar & 1:
            digit = scalar & (1 << bits) - 1
            if digit >> bits - 1:
                digit -= 1 << bits
            scalar -= digit
        digits.append(digit)
        scalar >>= 1
    return digits


def _encode_difference(s: int, k: int, x: int, y: int) -> bytes:
    """The encoding of [s]B - [k](x, y)."""
    multiples = _odd_multiples(-x % P, y, 1 << _KEY_BITS - 2)
    base = _base_multiples()
    key_digits = _digits(k, _KEY_BITS)
    base_digits = _digits(s, _BASE_BITS)
    count = max(len(key_digits), len(base_digits))
    key_digits += [0] * (count - len(key_digits))
    base_digits += [0] * (count - len(base_digits))
    point = _NEUTRAL
    for at in range(count - 1, -1, -1):
        point = _double(point)
        if digit := key_digits[at]:
            step = _add if digit > 0 else _subtract
            point = step(point, multiples[abs(digit) >> 1])
        if digit := base_digits[at]:
            step = _add if digit > 0 else _subtract
            point = step(point, base[abs(digit) >> 1])
    inverse = pow(point[2], -1, P)
    x, y = point[0] * inverse % P, point[1] * inverse % P
    return (y | (x & 1) << 255).to_bytes(32, "little")


def verify(public_key: bytes, message: bytes, signature: bytes) -> bool:
    """Whether the signature is good; ValueError for a key or signature of odd size."""
    if len(public_key) != PUBLIC_KEY_SIZE:
        raise ValueError(f"an Ed25519 key of {len(public_key)} bytes")
    if len(signature) != SIGNATURE_SIZE:
        raise ValueError(f"an Ed25519 signature of {len(signature)} bytes")
    half, s = signature[:32], int.from_bytes(signature[32:], "little")
    if s >= L:
        return False
    key = _decompress(public_key)
    if key is None:
        return False
    digest = sha512(half + public_key + message).digest()
    k = int.from_bytes(digest, "little") % L
    return _encode_difference(s, k, *key) == half


def key_fault(public_key: bytes) -> str:
    """Why a public key must not be enrolled, or an empty text.

    Verification has to accept what OpenSSL accepts; at enrolment we are stricter: a key
    must be canonical, on the curve, and not of small order (with such a key one
    signature is valid for many messages).
    """
    if len(public_key) != PUBLIC_KEY_SIZE:
        return f"{len(public_key)} bytes, not {PUBLIC_KEY_SIZE}"
    number = int.from_bytes(public_key, "little")
    point = _decompress(public_key)
    if point is None:
        return "no point of the curve"
    x, y = point
    if number & (1 << 255) - 1 >= P or (x == 0 and number >> 255):
        return "not in its canonical form"
    times8 = _double(_double(_double((x, y, 1, x * y % P))))
    if times8[0] == 0 and times8[1] == times8[2]:
        return "a point of small order"
    return ""
