"""One signature in four lanes (native/ed25519_ifma_one.c) against Python's integers.

Numbers stand on the bounds that the headers promise; [s]B - [k]A is asked for with the
scalars for which a short relation is hardest or does not exist, and with points that
differ by one of small order, which is all that this way of asking could overlook.
"""

from __future__ import annotations

import random
from itertools import product
from pathlib import Path

import pytest
from ed25519_cases import (
    BASE,
    Affine,
    D,
    Difference,
    L,
    P,
    add,
    digit_differences,
    hard_differences,
    multiply,
    odd_differences,
    small_order,
)
from test_ed25519_lanes import (
    BITS,
    FACTOR,
    LARGEST_SUM,
    LIMBS,
    PRODUCT,
    REDUCED,
    UNIT,
    Ask,
    Number,
    batched,
    lanes_program,
    numbers,
    packed,
    pairs,
    split,
    unpacked,
    value,
)

LANES = 4
Extended = tuple[int, int, int, int]  # Z, X, Y, T


@pytest.fixture(scope="module")
def ask(native_build: Path) -> Ask:
    """Commands in, replies out, under sanitizers."""
    return lanes_program(native_build)


def fours(reply: bytes) -> list[Number]:
    return unpacked(reply, LANES)


# ---- Numbers ----


def test_products_are_right_for_all_limbs_up_to_52_bits(ask: Ask) -> None:
    cases = pairs(FACTOR, 1, LANES)
    replies = ask([f"four-product {packed(a)} {packed(b)}" for a, b in cases])
    for (a, b), reply in zip(cases, replies, strict=True):
        for left, right, out in zip(a, b, fours(reply), strict=True):
            assert value(out) % P == value(left) * value(right) % P
            assert max(out) < PRODUCT * UNIT
    some = batched(numbers(FACTOR, 2), LANES)
    replies = ask([f"four-square {packed(a)}" for a in some])
    for lanes, reply in zip(some, replies, strict=True):
        for left, out in zip(lanes, fours(reply), strict=True):
            assert value(out) % P == value(left) ** 2 % P
            assert max(out) < PRODUCT * UNIT


def test_one_carry_makes_a_factor_of_the_largest_sum(ask: Ask) -> None:
    some = batched(numbers(LARGEST_SUM, 3), LANES)
    replies = ask([f"four-carry {packed(a)}" for a in some])
    for lanes, reply in zip(some, replies, strict=True):
        for left, out in zip(lanes, fours(reply), strict=True):
            assert value(out) % P == value(left) % P
            assert max(out) < REDUCED


def test_sums_and_differences_of_reduced_numbers_are_reduced(ask: Ask) -> None:
    cases = pairs(REDUCED - 1, 4, LANES)
    for name, sign in (("four-plus", 1), ("four-minus", -1)):
        replies = ask([f"{name} {packed(a)} {packed(b)}" for a, b in cases])
        for (a, b), reply in zip(cases, replies, strict=True):
            for left, right, out in zip(a, b, fours(reply), strict=True):
                assert value(out) % P == (value(left) + sign * value(right)) % P
                assert max(out) < REDUCED


def test_small_factors_and_signs(ask: Ask) -> None:
    some = batched(numbers(FACTOR, 5), LANES)
    replies = ask([f"four-scaled {packed(a)}" for a in some])
    for lanes, reply in zip(some, replies, strict=True):
        for left, out in zip(lanes, fours(reply), strict=True):
            assert value(out) % P == value(left) * (2**18 - 1) % P
            assert max(out) < REDUCED
    some = batched(numbers(REDUCED - 1, 6), LANES)
    replies = ask([f"four-negate {packed(a)}" for a in some])
    for lanes, reply in zip(some, replies, strict=True):
        for lane, (left, out) in enumerate(zip(lanes, fours(reply), strict=True)):
            assert value(out) % P == value(left) * (-1) ** lane % P
            assert max(out) <= FACTOR


def test_numbers_are_packed_taken_apart_and_found_to_be_zero(ask: Ask) -> None:
    groups = batched(numbers(REDUCED - 1, 7) + numbers(2**BITS - 1, 8), LANES)
    replies = ask([f"four-pack {packed(group)}" for group in groups])
    for group, reply in zip(groups, replies, strict=True):
        for left, out in zip(group, fours(reply), strict=True):
            assert value(out, 64) == value(left) % P
    replies = ask([f"four-is-zero {packed(group)}" for group in groups])
    for group, reply in zip(groups, replies, strict=True):
        assert reply[0] == sum(
            1 << lane for lane, left in enumerate(group) if value(left) % P == 0
        )
    chance = random.Random(9)
    some = [chance.randrange(2**256) for _ in range(14)] + [2**256 - 1, P + 5]
    groups = [[split(one, 64, 4) for one in group] for group in batched(some, LANES)]
    replies = ask([f"four-unpack {packed(group)}" for group in groups])
    for group, reply in zip(groups, replies, strict=True):
        for left, out in zip(group, fours(reply), strict=True):
            assert value(out) == value(left, 64) % 2**255
            assert max(out) < 2**BITS


def test_the_power_for_square_roots_is_right_in_every_lane(ask: Ask) -> None:
    groups = batched(numbers(FACTOR, 10), LANES)
    replies = ask([f"four-root-power {packed(group)}" for group in groups])
    for group, reply in zip(groups, replies, strict=True):
        for left, out in zip(group, fours(reply), strict=True):
            assert value(out, 64) == pow(value(left), (P - 5) // 8, P)


# ---- Points ----


def extended(point: Affine, z: int) -> Extended:
    x, y = point
    return z, x * z % P, y * z % P, x * y * z % P


def limbs(four: Extended, chance: random.Random) -> list[Number]:
    """As a product leaves them, with up to 2^60 in a limb."""
    found = []
    for number in four:
        one = split(number)
        for at in range(LIMBS - 1):
            more = min(one[at + 1], chance.randrange(2**9))
            one[at] += more << BITS
            one[at + 1] -= more
        found.append(one)
    return found


def affine(z: int, x: int, y: int) -> Affine:
    return x * pow(z, -1, P) % P, y * pow(z, -1, P) % P


def some_points(seed: int) -> list[Affine]:
    chance = random.Random(seed)
    some = [*small_order(), BASE, (-BASE[0] % P, BASE[1])]
    some += [multiply(chance.randrange(L), BASE) for _ in range(2)]
    return some + [add(some[-1], one) for one in small_order()[1:3]]


def test_sums_of_points_have_no_exception(ask: Ask) -> None:
    """Equal, opposite, neutral and small-order points, with any Z."""
    chance = random.Random(11)
    both = list(product(some_points(12), repeat=2))
    commands = []
    for p, q in both:
        first, second = (
            packed(limbs(extended(one, chance.randrange(1, P)), chance))
            for one in (p, q)
        )
        commands.append(f"four-points {first} {second}")
    for (p, q), reply in zip(both, ask(commands), strict=True):
        out = [fours(reply[at : at + 128]) for at in range(0, len(reply), 128)]
        found = [tuple(value(lane, 64) for lane in point) for point in out]
        opposite = (-q[0] % P, q[1])
        right = [add(p, p), add(p, p), add(p, q), add(p, opposite), add(p, q)]
        for at, ((z, x, y, last), expected) in enumerate(
            zip(found, right, strict=True)
        ):
            assert z != 0
            assert affine(z, x, y) == expected
            if at in (1, 4):
                assert last == x
            else:
                assert last * z % P == x * y % P


def product_of(e: int, f: int, g: int, h: int, *, with_t: bool = True) -> Number:
    return [one % P for one in (f * g, e * f, g * h, e * (h if with_t else f))]


def doubled(z: int, x: int, y: int) -> tuple[int, int, int, int]:
    """E, F, G, H"""
    difference, total = x * x - y * y, x * x + y * y
    return total - (x + y) ** 2, 2 * z * z + difference, difference, total


def summed(p: Number, q: Number, sign: int) -> tuple[int, int, int, int]:
    """The same; the second point's coordinates are 121666 times as large."""
    (z1, x1, y1, t1), (z2, x2, y2, t2) = p, q
    a = 121666 * (y1 - x1) * (y2 - sign * x2)
    b = 121666 * (y1 + x1) * (y2 + sign * x2)
    c, d = -2 * 121665 * t1 * t2 * sign, 2 * 121666 * z1 * z2
    return b - a, d - c, d + c, b + a


def test_no_limb_of_a_formula_overflows_or_falls_below_zero(ask: Ask) -> None:
    """Coordinates of no point, with limbs as large as a product has them, and such as
    make squares and their differences large."""
    chance = random.Random(16)
    tops = [0, 1, 2**50 - 1, 2**50, 2**51 - 1, 2**51, PRODUCT * UNIT - 1]

    def four() -> list[Number]:
        if chance.random() < 0.5:
            return [[chance.choice(tops)] * LIMBS for _ in range(LANES)]
        return [[chance.choice(tops) for _ in range(LIMBS)] for _ in range(LANES)]

    cases = [(four(), four()) for _ in range(500)]
    replies = ask([f"four-points {packed(p)} {packed(q)}" for p, q in cases])
    for (p, q), reply in zip(cases, replies, strict=True):
        out = [fours(reply[at : at + 128]) for at in range(0, len(reply), 128)]
        found = [[value(lane, 64) for lane in point] for point in out]
        one, other = [value(lane) for lane in p], [value(lane) for lane in q]
        assert found == [
            product_of(*doubled(*one[:3])),
            product_of(*doubled(*one[:3]), with_t=False),
            product_of(*summed(one, other, 1)),
            product_of(*summed(one, other, -1)),
            product_of(*summed(one, other, 1), with_t=False),
        ]


def test_only_the_neutral_point_is_neutral(ask: Ask) -> None:
    chance = random.Random(13)
    points, zs = some_points(14), (1, P - 1, chance.randrange(P))
    cases = list(product(points, zs))
    replies = ask(
        [
            f"four-is-neutral {packed(limbs(extended(one, z), chance))}"
            for one, z in cases
        ]
    )
    for (one, _), reply in zip(cases, replies, strict=True):
        assert reply[0] == (one == (0, 1))
    assert ask([f"four-is-neutral {packed([[0] * LIMBS] * LANES)}"]) == [b"\0"]


# ---- [s]B - [k]A, by a short relation and with a prepared key ----


def check_differences(ask: Ask, cases: list[Difference]) -> None:
    """Twice each: with a new key and with a prepared one."""
    replies = ask([f"difference {case.arguments()}" for case in cases])
    assert replies == [bytes([case.right] * 2) for case in cases]


def test_every_kind_of_scalar_gives_exactly_its_point(ask: Ask) -> None:
    check_differences(ask, hard_differences(15))


def test_every_digit_is_looked_up_in_every_place(ask: Ask) -> None:
    check_differences(ask, digit_differences())


def test_no_encoding_but_the_right_one_is_that_of_a_point(ask: Ask) -> None:
    check_differences(ask, odd_differences(16))


def test_the_constant_of_the_curve_is_the_quotient_of_small_numbers() -> None:
    assert D * 121666 % P == -121665 % P
