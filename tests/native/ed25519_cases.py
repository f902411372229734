"""Keys and signatures for tests of Ed25519: good, spoilt, and of odd points.

The arithmetic is the naive one on affine points (RFC 8032 5.1.4), and shares nothing
with what it tests but the constants. `Cases` makes endless cases from a seed; beneath
the hash, where k can be chosen, a `Difference` is what a verification asks.
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


def scalars_for_relations(chance: random.Random) -> list[int]:
    """Scalars below L of which some have no short relation, some one that Euclid's
    algorithm meets early, or next to powers of two."""
    some = [0, 1, 2, 4, 8, L - 1, L // 2, L // 2 + 1, *range(L - 5, L)]
    for at in range(1, 253):
        some += [2**at - 1, 2**at, 8 * L // 2**at % L, (8 * L // 2**at + 1) % L]
    for _ in range(300):
        u = chance.randrange(2 ** chance.randrange(1, 254))
        v = chance.randrange(2 ** chance.randrange(1, 250)) | 1
        inverse = pow(v, -1, 8 * L)
        some += [u * inverse % (8 * L) % L, -u * inverse % (8 * L) % L, u % L]
        some.append(
            8 * L // (2 * chance.randrange(1, 2 ** chance.randrange(1, 200))) % L
        )
    return some


def check_relation(k: int, u: int, v: int, *, negative: bool) -> None:
    """v k = u modulo 8 L, or -u; v odd and below L: so [v] loses nothing, not even
    parts of small order."""
    assert v % 2 == 1
    assert v < L
    assert u < 2**253
    assert (v * k - (-u if negative else u)) % (8 * L) == 0


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


# ---- [s]B - [k]A = R for chosen k ----


@dataclass(frozen=True)
class Difference:
    """Whether r is the encoding of [s]B - [k]A, byte for byte."""

    r: bytes
    key: bytes  # that of A
    s: int
    k: int
    right: bool

    def arguments(self) -> str:
        """R, key, s and k in hexadecimal, as the C programs take them."""
        scalars = (one.to_bytes(32, "little") for one in (self.s, self.k))
        return " ".join(part.hex() for part in (self.r, self.key, *scalars))


@cache
def _doublings() -> list[Affine]:
    found = [BASE]
    for _ in range(252):
        found.append(add(found[-1], found[-1]))
    return found


def _of_base(scalar: int) -> Affine:
    """[scalar] B"""
    total = (0, 1)
    for at, point in enumerate(_doublings()):
        if scalar >> at & 1:
            total = add(total, point)
    return total


def special_scalars(chance: random.Random) -> list[int]:
    """Where Euclid's algorithm on 8 L and k ends at once, meets a large quotient, has
    only even factors of half the length; and the bounds of digits."""
    some = [0, 1, 2, 3, 8, L - 1, L - 2, L // 2, L // 2 + 1, L // 3]
    some += [2**at - one for at in (64, 127, 128, 129, 160, 252) for one in (0, 1)]
    some += [8 * L // 2**at % L for at in (5, 64, 127, 200)]
    some += [8 * L // (2 * chance.randrange(2**at)) % L for at in (40, 80, 120, 125)]
    for bits in (20, 60, 100, 127):
        u, v = chance.randrange(2**bits), chance.randrange(2 ** (254 - bits)) | 1
        some += [sign * u * pow(v, -1, 8 * L) % (8 * L) % L for sign in (1, -1)]
    digits = [15, 16, 17, 31, 127, 128, 129, 255]
    some += [sum(one << 8 * at for at in range(31)) for one in digits]
    return some + [chance.randrange(L) for _ in range(40)]


def hard_differences(seed: int) -> list[Difference]:
    """Every kind of scalar, also where the key has a part of small order, with the
    right R and with Rs that differ: by each point of small order, by a sign, by B."""
    chance, small = random.Random(seed), small_order()
    found: list[Difference] = []
    scalars = special_scalars(chance)
    for at, k in enumerate(scalars):
        secret, s = chance.randrange(L), chance.choice(scalars)
        part = small[at % 8] if at % 3 else small[0]
        key = encode(add(_of_base(secret), part))
        minus_part = multiply(k % 8, (-part[0] % P, part[1]))
        r = add(_of_base((s - k * secret) % L), minus_part)
        rs = [*(add(r, one) for one in small), (-r[0] % P, r[1]), add(r, BASE)]
        found += [Difference(encode(one), key, s, k, one == r) for one in rs]
    return found


def _nearly_p() -> list[Affine]:
    """Points whose y has all words of 64 bits but one as a number above p has them."""
    found = []
    for word in range(4):
        ys = ((2**255 - 1) ^ (1 << 64 * word + bit) for bit in range(8, 62))
        points = (decode(y.to_bytes(32, "little")) for y in ys)
        found.append(next(point for point in points if point is not None))
    return found


def odd_differences(seed: int, share: int = 1) -> list[Difference]:
    """Small-order keys and Rs in all encodings: y + p, a sign of x = 0, no point. The
    key may be encoded oddly, R may not; a key that is no point is not even times 0.
    Only each `share`-th of most."""
    chance = random.Random(seed)
    rs = [*map(encode, small_order()), *odd_encodings()[::3], b"\xff" * 32]
    found: list[Difference] = []
    for key in odd_encodings():
        point = decode(key)
        for k in (0, 1, chance.randrange(L), chance.randrange(L)):
            right = point and encode(multiply(k, (-point[0] % P, point[1])))
            found += [Difference(r, key, 0, k, r == right) for r in rs]
    found = found[::share]
    for x, y in _nearly_p():
        found.append(Difference(encode((-x % P, y)), encode((x, y)), 0, 1, right=True))
    return found


def digit_differences() -> list[Difference]:
    """Digits of s in radix 256 and of k in radix 16, in every place that is looked up,
    with the largest carry into the next; each with its own R and with that of another.
    Such a k is its own short relation, and k = 0 leaves s as it is."""
    key, found = multiply(3, BASE), []
    for place in range(32):
        for s, k in zip((1, 127, 128, 129, 255), (0, 1, 7, 8, 15), strict=True):
            if s << 8 * place < L:
                found.append((s << 8 * place, k << 4 * place))
    rs = [encode(_of_base((s - 3 * k) % L)) for s, k in found]
    return [
        Difference(r, encode(key), s, k, r == right)
        for at, ((s, k), right) in enumerate(zip(found, rs, strict=True))
        for r in (right, rs[at - 1])
    ]


def in_company(
    cases: list[Difference], lanes: int, seed: int
) -> list[tuple[list[Difference], int]]:
    """Each case in some lane beside any others, right or wrong; the lanes that are
    right. The last group is filled up with the first cases."""
    mixed = random.Random(seed).sample(cases, len(cases))
    mixed += mixed[: -len(mixed) % lanes]
    groups = [mixed[at : at + lanes] for at in range(0, len(mixed), lanes)]
    return [
        (group, sum(one.right << lane for lane, one in enumerate(group)))
        for group in groups
    ]
