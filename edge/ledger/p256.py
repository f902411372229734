"""ECDSA over P-256 with SHA-256 (FIPS 186-5, SEC 1), with the standard library alone.

For an auditor who has only Python; the gateway verifies through `cryptography`. A
public key is the uncompressed point of SEC 1 section 2.3.3: 04 || x || y, 65 bytes. A
signature is r || s, 64 bytes, as COSE has it (RFC 9053 section 2.1); s may be high or
low, for secure elements give either.

Nothing here is secret, so nothing takes constant time, and nothing here can sign.
Points are Jacobian: (X, Y, Z) with x = X/Z^2, y = Y/Z^3; None is the point at infinity.
"""

from __future__ import annotations

from hashlib import sha256
from typing import TypeAlias

PUBLIC_KEY_SIZE = 65
SIGNATURE_SIZE = 64
COORDINATE_SIZE = 32
UNCOMPRESSED = 0x04

# SP 800-186 section 3.2.1.3; a = -3
P = 2**256 - 2**224 + 2**192 + 2**96 - 1
N = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
B = 0x5AC635D8AA3A93E7B3EBBD55769886BC651D06B0CC53B0F63BCE3C3E27D2604B
GENERATOR = (
    0x6B17D1F2E12C4247F8BCE6E563A440F277037D812DEB33A0F4A13945D898C296,
    0x4FE342E2FE1A7F9B8EE7EB4A7C0F9E162BCE33576B315ECECBB6406837BF51F5,
)

Affine: TypeAlias = tuple[int, int]
Point: TypeAlias = tuple[int, int, int] | None


def key_fault(public_key: bytes) -> str:
    """Why a public key must not be enrolled, or an empty text."""
    if len(public_key) != PUBLIC_KEY_SIZE or public_key[0] != UNCOMPRESSED:
        return f"not an uncompressed point of {PUBLIC_KEY_SIZE} bytes"
    return "" if _decode(public_key) is not None else "no point of the curve"


def verify(public_key: bytes, message: bytes, signature: bytes) -> bool:
    """Whether this is the key's signature; ValueError for wrong sizes."""
    if len(public_key) != PUBLIC_KEY_SIZE or len(signature) != SIGNATURE_SIZE:
        raise ValueError("a key of 65 bytes and a signature of 64")
    key = _decode(public_key)
    r = int.from_bytes(signature[:COORDINATE_SIZE])
    s = int.from_bytes(signature[COORDINATE_SIZE:])
    if key is None or not 0 < r < N or not 0 < s < N:
        return False
    digest = int.from_bytes(sha256(message).digest())
    inverse = pow(s, -1, N)
    found = _combine(digest * inverse % N, GENERATOR, r * inverse % N, key)
    if found is None:
        return False
    x, _, z = found
    return x * pow(z * z, -1, P) % P % N == r


def _decode(public_key: bytes) -> Affine | None:
    """The point, None where it is not on the curve."""
    if public_key[0] != UNCOMPRESSED:
        return None
    x = int.from_bytes(public_key[1 : 1 + COORDINATE_SIZE])
    y = int.from_bytes(public_key[1 + COORDINATE_SIZE :])
    on_curve = (y * y - (x * x * x - 3 * x + B)) % P == 0
    return (x, y) if x < P and y < P and on_curve else None


def _combine(a: int, one: Affine, b: int, other: Affine) -> Point:
    """a times one point plus b times another, bit by bit from the top."""
    both = _add((*one, 1), (*other, 1))
    result: Point = None
    for bit in reversed(range(256)):
        result = _double(result)
        if a >> bit & 1 and b >> bit & 1:
            result = _add(result, both)
        elif a >> bit & 1:
            result = _add(result, (*one, 1))
        elif b >> bit & 1:
            result = _add(result, (*other, 1))
    return result


def _double(point: Point) -> Point:
    if point is None or point[1] == 0:
        return None
    x, y, z = point
    square = y * y % P
    s = 4 * x * square % P
    z2 = z * z % P
    m = 3 * (x - z2) * (x + z2) % P  # 3 x^2 + a z^4 for a = -3
    x3 = (m * m - 2 * s) % P
    return x3, (m * (s - x3) - 8 * square * square) % P, 2 * y * z % P


def _add(one: Point, other: Point) -> Point:
    if one is None or other is None:
        return one or other
    (x1, y1, z1), (x2, y2, z2) = one, other
    z1z1, z2z2 = z1 * z1 % P, z2 * z2 % P
    u1, u2 = x1 * z2z2 % P, x2 * z1z1 % P
    s1, s2 = y1 * z2 * z2z2 % P, y2 * z1 * z1z1 % P
    if u1 == u2:
        return _double(one) if s1 == s2 else None
    h, r = (u2 - u1) % P, (s2 - s1) % P
    hh = h * h % P
    hhh = h * hh % P
    v = u1 * hh % P
    x3 = (r * r - hhh - 2 * v) % P
    return x3, (r * (v - x3) - s1 * hhh) % P, h * z1 * z2 % P
