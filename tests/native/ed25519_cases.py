"""Keys and signatures for tests of Ed25519: good, spoilt, and of odd points.

The arithmetic is the naive one on affine points (RFC 8032 5.1.4), and shares nothing
with what it tests but the constants. `Cases` makes endless cases from a seed.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from hashlib import sha512
from itertools import product

P = 2**255 - 19
L = 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, -1, P) % P

Affine = tuple[int, int]
Case = tuple[bytes, bytes, bytes]  # public key, message, signature

BASE: Affine = (
    15112221349535400772501151409588531511454012693041857206046113283949847762202,
    46316835694926478169428394003475163141307993866256225615783033603165251855960,
)


def add(one: Affine, other: Affine) -> Affine:
    """The sum of two points."""
    bend = D * one[0] * other[0] * one[1] * other[1]
    x = (one[0] * other[1] + one[1] * other[0]) * pow(1 + bend, -1, P)
    y = (one[1] * other[1] + one[0] * other[0]) * pow(1 - bend, -1, P)
    return x % P, y % P


def multiply(scalar: int, point: Affine) -> Affine:
    """[scalar] point."""
    result = (0, 1)
    while scalar:
        if scalar & 1:
            result = add(result, point)
        point = add(point, point)
        scalar >>= 1
    return result


def encode(point: Affine) -> bytes:
    """RFC 8032 5.1.2."""
    return (point[1] | (point[0] & 1) << 255).to_bytes(32, "little")


def decode(encoded: bytes) -> Affine | None:
    """The point of a key by OpenSSL's rule (native/ed25519.h), or None."""
    number = int.from_bytes(encoded, "little")
    y = number % 2**255 % P
    square = (y * y - 1) * pow(D * y * y + 1, -1, P) % P
    x = pow(square, (P + 3) // 8, P)
    if x * x % P != square:
        x = x * pow(2, (P - 1) // 4, P) % P
    if x * x % P != square:
        return None
    return (-x % P if x & 1 != number >> 255 else x), y


@cache
def small_order() -> list[Affine]:
    """The eight points whose order divides 8."""
    for y in range(2, 100):
        point = decode(y.to_bytes(32, "little"))
        if point is not None:
            found = multiply(L, point)
            if multiply(4, found) != (0, 1):
                return [multiply(at, found) for at in range(8)]
    raise AssertionError("half of all points have a component of order 8")


@cache
def odd_encodings() -> list[bytes]:
    """Small-order points, y at or above p, x = 0 with a sign, y of no point."""
    numbers = [int.from_bytes(encode(one), "little") for one in small_order()]
    numbers += [*range(6), *range(P - 2, 2**255)]
    values = {number & ~(1 << 255) for number in numbers}
    return [
        (value | sign << 255).to_bytes(32, "little")
        for value, sign in product(sorted(values), (0, 1))
    ]


def challenge(r: bytes, key: bytes, message: bytes) -> int:
    """k of RFC 8032 5.1.7, reduced."""
    return int.from_bytes(sha512(r + key + message).digest(), "little") % L


@dataclass(frozen=True)
class _Secret:
    scalar: int
    point: Affine
    key: bytes


@dataclass(frozen=True)
class _Nonce:
    scalar: int
    encoded: bytes


class Cases:
    """Endless cases of every kind that we know to be decided differently somewhere.

    Keys and nonces come from pools, with and without a part of small order, so that a
    signature costs one hash; what is new in each case is the message.
    """

    KEYS, NONCES = 48, 48

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self._secrets = [self._secret() for _ in range(self.KEYS)]
        self._nonces = [self._nonce() for _ in range(self.NONCES)]
        self._small = [_Secret(0, one, encode(one)) for one in small_order()]
        for one in odd_encodings():
            point = decode(one)
            if point in small_order() and point is not None:
                self._small.append(_Secret(0, point, one))
        self._kinds: list[Callable[[], Case]] = [
            self._good,
            self._good,
            self._good,
            self._flipped,
            self._flipped,
            self._large_scalar,
            self._small_key,
            self._odd,
            self._noise,
            self._near,
        ]

    def next(self) -> Case:
        """One case of a random kind."""
        return self.random.choice(self._kinds)()

    def _secret(self) -> _Secret:
        scalar = self.random.randrange(1, L)
        point = multiply(scalar, BASE)
        if self.random.random() < 0.3:
            point = add(point, self.random.choice(small_order()))
        return _Secret(scalar, point, encode(point))

    def _nonce(self) -> _Nonce:
        scalar = self.random.randrange(1, L)
        point = multiply(scalar, BASE)
        if self.random.random() < 0.3:
            point = add(point, self.random.choice(small_order()))
        return _Nonce(scalar, encode(point))

    def _message(self) -> bytes:
        return self.random.randbytes(self.random.choice((0, 1, 32, 63, 64, 200, 300)))

    def _signed(self, secret: _Secret) -> Case:
        """Valid without parts of small order; with them, sometimes."""
        nonce, message = self.random.choice(self._nonces), self._message()
        k = challenge(nonce.encoded, secret.key, message)
        s = (nonce.scalar + k * secret.scalar) % L
        return secret.key, message, nonce.encoded + s.to_bytes(32, "little")

    def _good(self) -> Case:
        return self._signed(self.random.choice(self._secrets))

    def _flipped(self) -> Case:
        parts = [bytearray(part) for part in self._good()]
        part = self.random.choice([one for one in parts if one])
        part[self.random.randrange(len(part))] ^= 1 << self.random.randrange(8)
        key, message, signature = map(bytes, parts)
        return key, message, signature

    def _large_scalar(self) -> Case:
        key, message, signature = self._good()
        s = int.from_bytes(signature[32:], "little")
        other = self.random.choice(
            [s + L * self.random.randrange(1, 15), L, L - 1, L + 1, 2**252, 2**256 - 1]
        )
        return key, message, signature[:32] + (other % 2**256).to_bytes(32, "little")

    def _small_key(self) -> Case:
        return self._signed(self.random.choice(self._small))

    def _odd(self) -> Case:
        r = self.random.choice(odd_encodings())
        key = self.random.choice([*odd_encodings(), self._secrets[0].key])
        s = self.random.choice((0, 0, 1, 8, L - 1))
        return key, self._message(), r + s.to_bytes(32, "little")

    def _noise(self) -> Case:
        part = self.random.randbytes
        s = self.random.randrange(L).to_bytes(32, "little")
        return part(32), self._message(), part(32) + s

    def _near(self) -> Case:
        """A good signature beside another key or nonce of the pools."""
        key, message, signature = self._good()
        if self.random.random() < 0.5:
            return self.random.choice(self._secrets).key, message, signature
        nonce = self.random.choice(self._nonces)
        return key, message, nonce.encoded + signature[32:]
