"""The eight lanes of the C Ed25519 against Python's integers, through native/tests.

Every lane has its own number, some on the bounds that ed25519_ifma_field.h promises, so
a sum that overflows and a lane that reads its neighbour both show as a wrong number.
"""

from __future__ import annotations

import random
import shutil
import subprocess
from array import array
from collections.abc import Callable
from functools import cache
from itertools import accumulate, cycle, islice, product
from pathlib import Path
from typing import Any, TypeVar

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from ed25519_cases import (
    BASE,
    Affine,
    Case,
    Cases,
    L,
    P,
    add,
    challenge,
    encode,
    multiply,
    small_order,
)

from edge.ledger import _core

NATIVE = Path(__file__).resolve().parents[2] / "native"
LANES, LIMBS, BITS = 8, 5, 51
FACTOR = 2**52 - 1  # the largest limb that a product takes
UNIT, PRODUCT = 2**52, 267  # a product's limbs are below PRODUCT units
LARGEST_SUM = 1100 * UNIT  # no formula passes it
REDUCED = 2**51 + 2**18  # limbs of carry() are below

Number = list[int]  # five limbs
T = TypeVar("T")
Ask = Callable[[list[str]], list[bytes]]
Verify = Callable[[list[Case], list[bool]], list[bool]]

lib: Any = _core.lib
ffi: Any = _core.ffi


def lanes_program(native_build: Path) -> Ask:
    """Commands in, replies out, all under sanitizers."""
    if not (shutil.which("make") and shutil.which("cc")):
        pytest.skip("needs make and cc")
    program = native_build / "test_ed25519_lanes"
    subprocess.run(
        ["make", "-s", "-C", NATIVE, f"BUILD={native_build}", program],
        check=True,
        capture_output=True,
    )

    def run(commands: list[str]) -> list[bytes]:
        done = subprocess.run(
            [program],
            input="\n".join(commands) + "\n",
            capture_output=True,
            text=True,
            check=True,
        )
        replies = done.stdout.split()
        if set(replies) == {"?"}:
            pytest.skip("this machine has no AVX-512 IFMA")
        assert len(replies) == len(commands)
        return [bytes.fromhex(one) for one in replies]

    return run


@pytest.fixture(scope="module")
def ask(native_build: Path) -> Ask:
    """The eight lanes."""
    return lanes_program(native_build)


# ---- Eight numbers as they lie in memory: limb by limb, in it lane by lane ----


def packed(lanes: list[Number]) -> str:
    return b"".join(
        lane[at].to_bytes(8, "little") for at in range(len(lanes[0])) for lane in lanes
    ).hex()


def unpacked(reply: bytes, lanes: int = LANES) -> list[Number]:
    words = [
        int.from_bytes(reply[at : at + 8], "little") for at in range(0, len(reply), 8)
    ]
    return [words[lane::lanes] for lane in range(lanes)]


def value(limbs: Number, bits: int = BITS) -> int:
    return sum(limb << bits * at for at, limb in enumerate(limbs))


def split(number: int, bits: int = BITS, count: int = LIMBS) -> Number:
    return [number >> bits * at & 2**bits - 1 for at in range(count)]


def numbers(top: int, seed: int) -> list[Number]:
    """Limbs all or one at `top`, around p, and random; a multiple of eight of them."""
    chance = random.Random(seed)
    found = [[top] * LIMBS, [0] * LIMBS, [2**BITS - 1] * LIMBS, [2**BITS] * LIMBS]
    for at in range(LIMBS):
        one = [0] * LIMBS
        one[at] = top
        found += [one, [top - limb for limb in one]]
    found += [split(number) for number in (1, 19, P - 1, P, P + 1, P + 18, 2**255 - 1)]
    found += [[chance.randint(0, top) for _ in range(LIMBS)] for _ in range(20)]
    chance.shuffle(found)
    return list(islice(cycle(found), (len(found) + LANES - 1) // LANES * LANES))


def batched(some: list[T], size: int) -> list[list[T]]:
    return [some[at : at + size] for at in range(0, len(some), size)]


def pairs(
    top: int, seed: int, lanes: int = LANES
) -> list[tuple[list[Number], list[Number]]]:
    """Any two of them meet in some lane."""
    both = list(product(numbers(top, seed), repeat=2))
    return [
        ([a for a, _ in some], [b for _, b in some]) for some in batched(both, lanes)
    ]


# ---- Numbers ----


def test_products_are_right_for_all_limbs_up_to_52_bits(ask: Ask) -> None:
    """Neither a column may overflow nor a limb pass the bound that sums count with."""
    cases = pairs(FACTOR, 1)
    replies = ask([f"product {packed(a)} {packed(b)}" for a, b in cases])
    for (a, b), reply in zip(cases, replies, strict=True):
        for left, right, out in zip(a, b, unpacked(reply), strict=True):
            assert value(out) % P == value(left) * value(right) % P
            assert max(out) < PRODUCT * UNIT
    some = batched(numbers(FACTOR, 2), LANES)
    replies = ask([f"square {packed(a)}" for a in some])
    for lanes, reply in zip(some, replies, strict=True):
        for left, out in zip(lanes, unpacked(reply), strict=True):
            assert value(out) % P == value(left) ** 2 % P
            assert max(out) < PRODUCT * UNIT


def test_a_difference_of_products_falls_below_zero_in_no_limb(ask: Ask) -> None:
    cases = pairs(PRODUCT * UNIT - 1, 3)
    replies = ask([f"minus {packed(a)} {packed(b)}" for a, b in cases])
    for (a, b), reply in zip(cases, replies, strict=True):
        for left, right, out in zip(a, b, unpacked(reply), strict=True):
            assert value(out) % P == (value(left) - value(right)) % P
            assert max(out) < (2 * PRODUCT + 1) * UNIT


def test_one_carry_makes_a_factor_of_the_largest_sum(ask: Ask) -> None:
    some = batched(numbers(LARGEST_SUM, 4), LANES)
    replies = ask([f"carry {packed(a)}" for a in some])
    for lanes, reply in zip(some, replies, strict=True):
        for left, out in zip(lanes, unpacked(reply), strict=True):
            assert value(out) % P == value(left) % P
            assert max(out) < REDUCED


def test_only_the_lanes_that_are_asked_for_are_negated(ask: Ask) -> None:
    some = batched(numbers(REDUCED - 1, 5), LANES)
    replies = ask([f"negate {packed(a)}" for a in some])
    for lanes, reply in zip(some, replies, strict=True):
        for lane, (left, out) in enumerate(zip(lanes, unpacked(reply), strict=True)):
            if lane % 2 == 0:
                assert out == left
            assert value(out) % P == value(left) * (-1) ** lane % P
            assert max(out) <= FACTOR


def test_every_number_packs_to_the_one_below_p(ask: Ask) -> None:
    """Encodings are compared as bytes, and zero is found by them."""
    some = numbers(REDUCED - 1, 6) + numbers(2**BITS - 1, 7)
    groups = batched(some, LANES)
    replies = ask([f"pack {packed(group)}" for group in groups])
    for group, reply in zip(groups, replies, strict=True):
        for left, out in zip(group, unpacked(reply), strict=True):
            assert value(out, 64) == value(left) % P
    for group, reply in zip(
        groups, ask([f"is-zero {packed(group)}" for group in groups]), strict=True
    ):
        assert reply[0] == sum(
            1 << lane for lane, left in enumerate(group) if value(left) % P == 0
        )


def test_words_are_taken_apart_without_the_sign_bit(ask: Ask) -> None:
    chance = random.Random(8)
    some = [chance.randrange(2**256) for _ in range(14)] + [2**256 - 1, P + 5]
    groups = [[split(one, 64, 4) for one in group] for group in batched(some, LANES)]
    replies = ask([f"unpack {packed(group)}" for group in groups])
    for group, reply in zip(groups, replies, strict=True):
        for left, out in zip(group, unpacked(reply), strict=True):
            assert value(out) == value(left, 64) % 2**255
            assert max(out) < 2**BITS


@pytest.mark.parametrize(
    ("name", "power"), [("inverse", P - 2), ("root-power", (P - 5) // 8)]
)
def test_powers_are_right_in_every_lane(ask: Ask, name: str, power: int) -> None:
    groups = batched(numbers(FACTOR, 9), LANES)
    replies = ask([f"{name} {packed(group)}" for group in groups])
    for group, reply in zip(groups, replies, strict=True):
        for left, out in zip(group, unpacked(reply), strict=True):
            assert value(out, 64) == pow(value(left), power, P)


# ---- Points ----


def coordinates(points: list[Affine], which: int) -> str:
    return packed([split(point[which]) for point in points])


def test_sums_of_points_have_no_exception(ask: Ask) -> None:
    """Equal, opposite, neutral and small-order points: Z would be 0 if one were."""
    chance = random.Random(10)
    some = [*small_order(), BASE, (-BASE[0] % P, BASE[1])]
    some += [multiply(chance.randrange(L), BASE) for _ in range(2)]
    some += [add(some[-1], one) for one in small_order()[1:3]]
    both = list(product(some, repeat=2))
    groups = [list(islice(cycle(group), LANES)) for group in batched(both, LANES)]
    commands = []
    for group in groups:
        p, q = [one for one, _ in group], [other for _, other in group]
        arguments = [coordinates(points, at) for points in (p, q) for at in (0, 1)]
        commands.append("points " + " ".join(arguments))
    for group, reply in zip(groups, ask(commands), strict=True):
        out = [unpacked(reply[at : at + 256]) for at in range(0, len(reply), 256)]
        for lane, (p1, q1) in enumerate(group):
            found = [value(numbers[lane], 64) for numbers in out]
            once = add(p1, q1)
            expected = (once, add(once, q1), add(once, once))
            assert found == [coordinate for point in expected for coordinate in point]


# ---- Challenges ----


def test_challenges_of_any_mixture_of_sizes_are_those_of_sha512(ask: Ask) -> None:
    """A message ends, and its length stands, in the same block or in the next one;
    lanes with fewer blocks wait; one long message among short ones goes its own way."""
    chance = random.Random(11)
    sizes = [0, 1, 46, 47, 48, 62, 63, 64, 65, 174, 175, 176, 191, 192, 193, 500]
    groups = [[size] * 8 for size in sizes] + [[size] for size in sizes]
    groups += [chance.choices(sizes, k=chance.randint(1, 8)) for _ in range(60)]
    groups += [[5000, 0, 1], [0] * 7 + [5000], [300, 5000, 5000, 4900, 4800, 2000]]
    cases = [
        [(chance.randbytes(32), chance.randbytes(32), chance.randbytes(n)) for n in one]
        for one in groups
    ]
    replies = ask(
        [
            "challenge "
            + " ".join(part.hex() or "-" for signature in group for part in signature)
            for group in cases
        ]
    )
    for group, reply in zip(cases, replies, strict=True):
        found = [reply[at : at + 32] for at in range(0, len(reply), 32)]
        assert [int.from_bytes(one, "little") for one in found] == [
            challenge(*signature) for signature in group
        ]


# ---- Whole signatures, in the module as it is installed ----


@pytest.fixture(scope="module")
def verify() -> Verify:
    """The lanes' answers to some cases; which of the keys are prepared is given too."""
    backend = next(iter(found()), None)
    if backend is None:
        pytest.skip("this machine has no AVX-512 IFMA")
    kept: dict[bytes, Any] = {}

    def prepared(key: bytes) -> Any:
        if key not in kept:
            words = -(-lib.iomt_ed25519_prepared_size() // 8)
            kept[key] = ffi.new("uint64_t[]", words)
            place = ffi.cast("iomt_ed25519_prepared *", kept[key])
            lib.iomt_ed25519_prepare(backend, place, key)
        return ffi.cast("iomt_ed25519_prepared *", kept[key])

    def run(cases: list[Case], known: list[bool]) -> list[bool]:
        keys, messages, signatures = (list(part) for part in zip(*cases, strict=True))
        ends = array("Q", accumulate(map(len, messages)))
        answers = bytearray(b"?" * len(cases))
        pointers = [
            prepared(key) if one else ffi.NULL
            for key, one in zip(keys, known, strict=True)
        ]
        done = lib.iomt_ed25519_verify_many(
            backend,
            b"".join(keys),
            ffi.new("iomt_ed25519_prepared *[]", pointers),
            b"".join(messages),
            ends[-1],
            ends.tobytes(),
            len(cases),
            b"".join(signatures),
            ffi.from_buffer("uint8_t[]", answers),
        )
        assert done == len(cases)
        assert set(answers) <= {0, 1}
        return [answer == 1 for answer in answers]

    return run


def found() -> list[Any]:
    """The backends with lanes that this CPU can run."""
    backends, at = [], 0
    while (backend := lib.iomt_ed25519_backend_at(at)) != ffi.NULL:
        name = ffi.string(lib.iomt_ed25519_backend_name(backend))
        if name == b"avx512-ifma" and lib.iomt_ed25519_backend_usable(backend):
            backends.append(backend)
        at += 1
    return backends


def openssl(case: Case) -> bool:
    key, message, signature = case
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(signature, message)
    except InvalidSignature:
        return False
    return True


@cache
def mixed_cases() -> dict[Case, bool]:
    source = Cases(12)
    return {case: openssl(case) for case in (source.next() for _ in range(1000))}


@pytest.mark.parametrize("size", [1, 2, 7, 8, 9, 15, 16, 17, 23, 63, 64, 65, 1000])
@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_no_answer_depends_on_neighbours_order_or_the_size_of_the_batch(
    verify: Verify, size: int, share: float
) -> None:
    """Good and bad signatures of all kinds, in groups that are full, nearly or hardly,
    of prepared keys, of others, and of both."""
    right, chance = mixed_cases(), random.Random(size + share)
    assert 0.1 < sum(right.values()) / len(right) < 0.9
    cases = list(right)
    chance.shuffle(cases)
    for batch in batched(cases, size):
        known = [chance.random() < share for _ in batch]
        assert verify(batch, known) == [right[case] for case in batch]


def test_every_digit_of_s_is_looked_up_in_every_place(verify: Verify) -> None:
    """With the neutral point for a key, R is [s]B, whatever k is: each digit of s alone
    reads one entry of the table, and the largest carry into the next."""
    neutral, step, cases = encode((0, 1)), BASE, []
    for place in range(32):
        for digit in (1, 64, 127, 128, 129, 255):
            if digit << 8 * place < L:
                r = encode(multiply(digit, step))
                s = (digit << 8 * place).to_bytes(32, "little")
                cases.append((neutral, b"", r + s))
        step = multiply(256, step)
    for edge in (0, L - 1, L - 2, (L - 1) // 2, 2**252):
        r = encode(multiply(edge, BASE))
        cases.append((neutral, b"", r + edge.to_bytes(32, "little")))
    cases.append((neutral, b"", cases[0][2][:32] + cases[1][2][32:]))
    right = [True] * (len(cases) - 1) + [False]
    assert [openssl(case) for case in cases] == right
    for known in (False, True):
        assert verify(cases, [known] * len(cases)) == right
