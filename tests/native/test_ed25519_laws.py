"""The parts of the C Ed25519 against Python's integers, through native/tests.

Limbs go in and out as they are, so numbers stand exactly on the bounds that
ed25519_field51.h promises: a wrong bound shows as a wrong number here.
"""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from hashlib import sha512
from itertools import product
from pathlib import Path

import pytest
from ed25519_cases import (
    BASE,
    Affine,
    L,
    P,
    add,
    check_relation,
    decode,
    digit_differences,
    encode,
    hard_differences,
    multiply,
    odd_differences,
    odd_encodings,
    scalars_for_relations,
    small_order,
)

NATIVE = Path(__file__).resolve().parents[2] / "native"
TIGHT, SUM, LOOSE = 2**51 + 2**13 - 1, 2**52 + 2**14 - 1, 2**54 - 1
TIGHT_VALUE = 2**255 + 2**11 - 1  # of the field in whole words
FIELDS = {"field51": (5, 51), "field-adx": (4, 64)}
CURVES = ("curve51", "curve-adx")

pytestmark = pytest.mark.skipif(
    not (shutil.which("make") and shutil.which("cc")), reason="needs make and cc"
)
Ask = Callable[[list[str]], list[bytes]]


@pytest.fixture(scope="module")
def ask(native_build: Path) -> Ask:
    """Commands in, replies out, under sanitizers; skips what this CPU does not have."""
    target = native_build / "test_ed25519"
    subprocess.run(
        ["make", "-C", str(NATIVE), str(target), f"BUILD={native_build}"],
        check=True,
        capture_output=True,
    )

    def run(commands: list[str]) -> list[bytes]:
        done = subprocess.run(
            [str(target), "commands"],
            input="\n".join(commands) + "\n",
            capture_output=True,
            text=True,
            check=True,
        )
        replies = done.stdout.split("\n")[:-1]
        assert len(replies) == len(commands)
        if set(replies) == {"?"}:
            pytest.skip(f"this machine has no {commands[0].split()[0]}")
        assert "?" not in replies, commands[replies.index("?")]
        return [bytes.fromhex(one) for one in replies]

    return run


def words(limbs: list[int]) -> str:
    return b"".join(limb.to_bytes(8, "little") for limb in limbs).hex()


def limbs_of(reply: bytes) -> list[int]:
    return [
        int.from_bytes(reply[at : at + 8], "little") for at in range(0, len(reply), 8)
    ]


def value(limbs: list[int], bits: int) -> int:
    return sum(limb << bits * at for at, limb in enumerate(limbs))


def numbers(field: str, bound: int, chance: random.Random) -> list[list[int]]:
    """Limbs on the bound, all of them or one, zero, around p, and random ones."""
    count, bits = FIELDS[field]
    top = bound if bits == 51 else 2**64 - 1
    found = [[top] * count, [0] * count, [2**bits - 1] * count]
    for at in range(count):
        one = [0] * count
        one[at] = top
        found += [one, [top - limb for limb in one]]
    for number in (P - 1, P, P + 1, P + 18, 2**255 - 1, 19, 1, 2 * P - 1, 2 * P):
        if number >> bits * count == 0:
            found.append(
                [number >> bits * at & 2**bits - 1 for at in range(count)],
            )
    found += [[chance.randint(0, top) for _ in range(count)] for _ in range(40)]
    return found


def is_tight(limbs: list[int], bits: int) -> bool:
    return max(limbs) <= TIGHT if bits == 51 else value(limbs, bits) <= TIGHT_VALUE


@pytest.mark.parametrize("field", FIELDS)
def test_products_are_right_for_all_limbs_up_to_the_bound(ask: Ask, field: str) -> None:
    """Loose times loose must neither overflow a column nor leave more than tight."""
    bits = FIELDS[field][1]
    found = numbers(field, LOOSE, random.Random(field))
    pairs = list(product(found, repeat=2))
    replies = ask([f"{field} mul {words(a)} {words(b)}" for a, b in pairs])
    for (a, b), reply in zip(pairs, replies, strict=True):
        out = limbs_of(reply)
        assert value(out, bits) % P == value(a, bits) * value(b, bits) % P
        assert is_tight(out, bits)
    replies = ask([f"{field} square {words(a)}" for a in found])
    for a, reply in zip(found, replies, strict=True):
        out = limbs_of(reply)
        assert value(out, bits) % P == value(a, bits) ** 2 % P
        assert is_tight(out, bits)


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize(
    ("name", "taken", "left", "sign"), [("add", TIGHT, SUM, 1), ("sub", SUM, LOOSE, -1)]
)
def test_sums_keep_the_bounds_that_the_next_step_needs(
    ask: Ask, field: str, name: str, taken: int, left: int, sign: int
) -> None:
    """A difference that went below zero in one limb would be a huge number."""
    bits = FIELDS[field][1]
    pairs = list(product(numbers(field, taken, random.Random(name)), repeat=2))
    replies = ask([f"{field} {name} {words(a)} {words(b)}" for a, b in pairs])
    for (a, b), reply in zip(pairs, replies, strict=True):
        out = limbs_of(reply)
        assert value(out, bits) % P == (value(a, bits) + sign * value(b, bits)) % P
        assert bits == 64 or max(out) <= left


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize(("name", "sign"), [("add-tight", 1), ("sub-tight", -1)])
def test_sums_of_tight_numbers_need_one_carry_less(
    ask: Ask, field: str, name: str, sign: int
) -> None:
    """Right up to the bound, where a sum passes 2^256, and for all differences."""
    count, bits = FIELDS[field]
    chance = random.Random(name)
    found = [limbs for limbs in numbers(field, TIGHT, chance) if is_tight(limbs, bits)]
    edges = [TIGHT_VALUE - less for less in (0, 1, 37, 38, 39, 2**11, 2**12)]
    edges += [
        2**255 - 2**64,
        2**64 - 1,
        37,
        38,
        *(chance.getrandbits(255) for _ in range(30)),
    ]
    if bits == 64:
        found += [
            [edge >> 64 * at & 2**64 - 1 for at in range(count)] for edge in edges
        ]
    pairs = list(product(found, repeat=2))
    replies = ask([f"{field} {name} {words(a)} {words(b)}" for a, b in pairs])
    for (a, b), reply in zip(pairs, replies, strict=True):
        out = limbs_of(reply)
        assert value(out, bits) % P == (value(a, bits) + sign * value(b, bits)) % P
        assert bits == 64 or max(out) <= LOOSE


def test_inverses_are_those_of_fermat(ask: Ask) -> None:
    """From every power of two, around p and zero, and random numbers of every size: an
    error in one division step is an error in nearly all of them."""
    chance = random.Random(255)
    some = [0, 1, 2, 3, 19, 38, P - 1, P - 2, P - 19, (P + 1) // 2, (P - 1) // 2]
    some += [2**at % P for at in range(256)] + [P - 2**at for at in range(255)]
    some += [2**at - 1 for at in range(1, 255)] + [P >> at for at in range(1, 255)]
    some += [
        value([2**60 - 1] * at, 60) << 60 * by & 2**255 - 1
        for at in (1, 2, 3)
        for by in (0, 1, 2, 3)
    ]
    some += [chance.randrange(P) for _ in range(4000)]
    some += [chance.getrandbits(chance.randrange(1, 255)) for _ in range(2000)]
    some = [number % P for number in some]
    replies = ask([f"inverse packed {hex32(number)}" for number in some])
    for number, reply in zip(some, replies, strict=True):
        assert int.from_bytes(reply, "little") == pow(number, P - 2, P)


@pytest.mark.parametrize("field", FIELDS)
def test_every_number_packs_to_the_one_below_p(ask: Ask, field: str) -> None:
    """Encodings are compared byte for byte: two forms of one number would be two."""
    bits = FIELDS[field][1]
    found = numbers(field, LOOSE, random.Random(1))
    for a, reply in zip(
        found, ask([f"{field} pack {words(a)}" for a in found]), strict=True
    ):
        assert int.from_bytes(reply, "little") == value(a, bits) % P
    small = [*range(20), P - 1, P, P + 18, 2**255 - 1, 2**254, (2**255 - 1) // 3]
    replies = ask(
        [f"{field} unpack {number.to_bytes(32, 'little').hex()}" for number in small]
    )
    for number, reply in zip(small, replies, strict=True):
        assert value(limbs_of(reply), bits) == number


def scalars(chance: random.Random, count: int) -> list[int]:
    edges = [0, 1, 2, 8, L - 1, L - 2, L >> 1, 2**252, 2**252 - 1, 2**128, 2**64 - 1]
    edges += [16**at * 8 % L for at in range(0, 63, 7)]
    return edges + [chance.randrange(L) for _ in range(count)]


def hex32(number: int) -> str:
    return number.to_bytes(32, "little").hex()


def test_scalars_are_reduced_modulo_the_group_order(ask: Ask) -> None:
    """Around multiples of L the estimated quotient is one or two too small."""
    chance = random.Random(2)
    wide = [0, 1, L - 1, L, L + 1, 2**512 - 1, 2**511, 2**256 - 1, 2**252, 2**253 - 1]
    wide += [
        multiple * L + off
        for multiple in (2, 15, 16, 2**128, 2**259, 2**512 // L)
        for off in (-1, 0, 1)
        if 0 <= multiple * L + off < 2**512
    ]
    wide += [chance.randrange(2**512) for _ in range(2000)]
    wide += [chance.randrange(2**260) * L + chance.choice((-1, 0)) for _ in range(500)]
    wide = [number for number in wide if 0 <= number < 2**512]
    replies = ask(
        [f"scalar reduce {number.to_bytes(64, 'little').hex()}" for number in wide]
    )
    for number, reply in zip(wide, replies, strict=True):
        assert int.from_bytes(reply, "little") == number % L
    some = scalars(chance, 300)
    triples = [tuple(chance.choice(some) for _ in range(3)) for _ in range(2000)]
    triples += list(product([0, 1, L - 1], repeat=3))
    replies = ask(
        [f"scalar muladd {hex32(a)} {hex32(b)} {hex32(c)}" for a, b, c in triples]
    )
    for (a, b, c), reply in zip(triples, replies, strict=True):
        assert int.from_bytes(reply, "little") == (a * b + c) % L


def test_a_scalar_is_taken_only_below_the_group_order(ask: Ask) -> None:
    """S and S + L would be two signatures of one message."""
    some = [0, 1, L - 1, L, L + 1, 2**252, 2**253 - 1, 2**255, 2**256 - 1, L + 2**64]
    some += [L - 2**64, L - 2**128, L + 2**128, 2 * L]
    for number, reply in zip(
        some, ask([f"scalar decode {hex32(number)}" for number in some]), strict=True
    ):
        assert reply[0] == (number < L)


def test_digits_in_radix_16_are_small_and_sum_up(ask: Ask) -> None:
    """A table has eight multiples: a digit beyond them would read past it."""
    some = scalars(random.Random(3), 500)
    replies = ask([f"scalar radix16 {hex32(number)}" for number in some])
    for number, reply in zip(some, replies, strict=True):
        digits = [byte - 256 * (byte >> 7) for byte in reply]
        assert all(-8 <= digit <= 7 for digit in digits[:-1])
        assert 0 <= digits[-1] <= 2
        assert sum(digit * 16**at for at, digit in enumerate(digits)) == number


def test_digits_in_radix_32_are_small_and_sum_up(ask: Ask) -> None:
    """A row of the table for signing has sixteen multiples."""
    some = scalars(random.Random(7), 500) + [32**at * 16 % L for at in range(51)]
    replies = ask([f"scalar radix32 {hex32(number)}" for number in some])
    for number, reply in zip(some, replies, strict=True):
        digits = [byte - 256 * (byte >> 7) for byte in reply]
        assert len(digits) == 51
        assert all(-16 <= digit <= 15 for digit in digits[:-1])
        assert 0 <= digits[-1] <= 8
        assert sum(digit * 32**at for at, digit in enumerate(digits)) == number


def test_sha512_is_that_of_hashlib_for_every_size_and_division(ask: Ask) -> None:
    """At 111 and 112 bytes the length moves to a block of its own."""
    chance = random.Random(4)
    messages = [chance.randbytes(size) for size in range(1, 400)]
    parts = [chance.randint(0, len(message)) for message in messages]
    replies = ask(
        [
            f"sha512 {part} {message.hex()}"
            for part, message in zip(parts, messages, strict=True)
        ]
    )
    for message, reply in zip(messages, replies, strict=True):
        assert reply == sha512(message).digest()
    assert ask(["sha512 0 -"]) == [sha512().digest()]


@cache
def base_multiple(scalar: int) -> bytes:
    return encode(multiply(scalar, BASE))


@cache
def difference(s: int, k: int, point: Affine) -> bytes:
    """The encoding of [s] B - [k] point."""
    opposite = (-point[0] % P, point[1])
    return encode(add(multiply(s, BASE), multiply(k, opposite)))


@pytest.mark.parametrize("curve", CURVES)
def test_multiples_of_the_base_point_are_right(ask: Ask, curve: str) -> None:
    """One scalar for every digit of every row of the table, and random ones."""
    some = scalars(random.Random(5), 20)
    some += [digit * 32**place % L for place in range(51) for digit in range(1, 17)]
    replies = ask([f"{curve} base {hex32(number)}" for number in some])
    for number, reply in zip(some, replies, strict=True):
        assert reply == base_multiple(number)


@pytest.mark.parametrize("curve", CURVES)
def test_differences_are_right_for_keys_with_parts_of_small_order(
    ask: Ask, curve: str
) -> None:
    """[S] B - [k] A, of prepared keys too: the sums must be complete, and k must not
    be changed by a multiple of L, which would lose a part of small order."""
    chance = random.Random(6)
    points: list[Affine] = [*small_order(), BASE, multiply(L - 1, BASE)]
    points += [
        add(multiply(chance.randrange(L), BASE), chance.choice(small_order()))
        for _ in range(6)
    ]
    some = scalars(chance, 4)
    cases = [
        (s, k, point)
        for point in points
        for s, k in [(chance.choice(some), chance.choice(some)) for _ in range(5)]
    ]
    cases += [(k, k, BASE) for k in some] + [(0, k, points[1]) for k in some]
    replies = ask(
        [
            f"{curve} difference {hex32(s)} {hex32(k)} {encode(point).hex()}"
            for s, k, point in cases
        ]
    )
    for case, reply in zip(cases, replies, strict=True):
        assert reply == difference(*case)


@pytest.mark.parametrize("curve", CURVES)
def test_only_the_right_encoding_is_that_of_the_difference(
    ask: Ask, curve: str
) -> None:
    """By short relations, the longest and none; R but for a point of small order, or in
    another encoding, is a no."""
    cases = hard_differences(12) + digit_differences() + odd_differences(13)
    replies = ask([f"{curve} difference {one.arguments()}" for one in cases])
    assert replies == [bytes([one.right]) for one in cases]


@pytest.mark.parametrize("curve", CURVES)
def test_odd_encodings_of_keys_give_the_points_that_openssl_sees(
    ask: Ask, curve: str
) -> None:
    """y + p is y, the sign of x = 0 is ignored, and no point is no point."""
    neutral = (0, 1)
    replies = ask(
        [
            f"{curve} difference {hex32(0)} {hex32(1)} {key.hex()}"
            for key in odd_encodings()
        ]
    )
    for key, reply in zip(odd_encodings(), replies, strict=True):
        point = decode(key)
        if point is None:
            assert reply == bytes(32)
        else:
            assert reply == encode(add(neutral, (-point[0] % P, point[1])))


def test_every_scalar_has_a_short_relation_or_itself(ask: Ask) -> None:
    """Random scalars, which hashes are, have short ones."""
    some = scalars_for_relations(random.Random(9))
    known, chance = len(some), random.Random(10)
    some += [chance.randrange(L) for _ in range(2000)]
    lengths = []
    for k, reply in zip(
        some, ask([f"scalar relation {hex32(k)}" for k in some]), strict=True
    ):
        u, v = (int.from_bytes(reply[at : at + 32], "little") for at in (0, 32))
        check_relation(k, u, v, negative=bool(reply[64]))
        lengths.append(max(u, v).bit_length())
    assert sum(lengths[known:]) / len(lengths[known:]) < 129
    assert max(lengths[known:]) < 150


@pytest.mark.parametrize(
    "script", ["make_ed25519_tables.py", "make_ed25519_lane_tables.py"]
)
def test_tables_are_what_their_script_computes(script: str) -> None:
    """One wrong bit in a table is one wrong signature in thousands."""
    done = subprocess.run(
        [sys.executable, str(NATIVE / script), "--check"], check=False
    )
    assert done.returncode == 0
