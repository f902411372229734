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
    Difference,
    L,
    P,
    add,
    challenge,
    check_relation,
    digit_differences,
    encode,
    hard_differences,
    in_company,
    multiply,
    odd_differences,
    scalars_for_relations,
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


def test_words_are_taken_apart_into_factors(ask: Ask) -> None:
    chance = random.Random(8)
    some = [chance.randrange(2**256) for _ in range(14)] + [2**256 - 1, P + 5]
    groups = [[split(one, 64, 4) for one in group] for group in batched(some, LANES)]
    replies = ask([f"unpack {packed(group)}" for group in groups])
    for group, reply in zip(groups, replies, strict=True):
        for left, out in zip(group, unpacked(reply), strict=True):
            assert value(out) == value(left, 64)
            assert max(out[:-1]) < 2**BITS
            assert out[-1] <= FACTOR


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


def scalars_of(reply: bytes) -> list[int]:
    return [
        int.from_bytes(reply[at : at + 32], "little") for at in range(0, len(reply), 32)
    ]


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
        assert scalars_of(reply) == [challenge(*signature) for signature in group]


# ---- Numbers modulo L, and short relations ----


def hexes(numbers: list[int], size: int = 32) -> str:
    return " ".join(one.to_bytes(size, "little").hex() for one in numbers)


def filled(some: list[T]) -> list[list[T]]:
    """Eight at a time; the last ones begin again."""
    whole = list(islice(cycle(some), -(-len(some) // LANES) * LANES))
    return batched(whole, LANES)


def test_numbers_are_reduced_to_the_one_below_l(ask: Ask) -> None:
    """Around every multiple of L that the estimated quotient could miss by one."""
    chance = random.Random(17)
    some = [0, 1, 2**512 - 1, 2**512 - L, 2**260 - 1, 2**260, 2**208, 2**507]
    for _ in range(300):
        multiple = chance.randrange(2 ** chance.randrange(1, 260)) * L
        some += [multiple + chance.choice([0, 1, L - 1]), max(multiple - 1, 0)]
    some += [chance.randrange(2**512) for _ in range(300)]
    some += [2**at - one for at in range(1, 512) for one in (0, 1)]
    groups = filled([one % 2**512 for one in some])
    replies = ask([f"reduce {hexes(group, 64)}" for group in groups])
    for group, reply in zip(groups, replies, strict=True):
        assert scalars_of(reply) == [one % L for one in group]


def test_products_of_scalars_are_reduced(ask: Ask) -> None:
    chance = random.Random(18)
    some = [0, 1, 2, L - 1, L, 2**256 - 1, 2**128, 2**128 - 1, 2**252]
    some += [chance.randrange(2 ** chance.randrange(1, 257)) for _ in range(15)]
    pairs_of = list(product(some, repeat=2))
    groups = filled(pairs_of)
    replies = ask(
        [
            f"scalar-product {hexes([a for a, _ in group])} "
            f"{hexes([b for _, b in group])}"
            for group in groups
        ]
    )
    for group, reply in zip(groups, replies, strict=True):
        assert scalars_of(reply) == [a * b % L for a, b in group]


def test_every_scalar_has_a_short_relation_or_itself_in_its_lane(ask: Ask) -> None:
    """As of one scalar, in any company: some lanes are ready long before others, and
    some have nothing short."""
    some = scalars_for_relations(random.Random(19))
    known = len(some) // LANES * LANES
    random.Random(20).shuffle(some)
    some = some[:known] + [random.Random(21).randrange(L) for _ in range(4000)]
    groups, lengths = batched(some, LANES), []
    replies = ask([f"relations {hexes(group)}" for group in groups])
    for group, reply in zip(groups, replies, strict=True):
        numbers_of, negative = scalars_of(reply[:-1]), reply[-1]
        for lane, k in enumerate(group):
            u, v = numbers_of[lane], numbers_of[LANES + lane]
            check_relation(k, u, v, negative=bool(negative >> lane & 1))
            lengths.append(max(u, v).bit_length())
    assert sum(lengths[known:]) / len(lengths[known:]) < 129
    assert max(lengths[known:]) < 150


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


# ---- Scalars that no hash will give, beside others ----


def check_differences(ask: Ask, cases: list[Difference], seed: int) -> None:
    """Eight side by side, where each answers for itself."""
    groups = in_company(cases, LANES, seed)
    replies = ask(
        [
            "differences " + " ".join(one.arguments() for one in group)
            for group, _ in groups
        ]
    )
    assert replies == [bytes([right]) for _, right in groups]


def test_every_kind_of_scalar_gives_exactly_its_point(ask: Ask) -> None:
    """With the longest and with no short relation; R but for a point of small order is
    a no."""
    check_differences(ask, hard_differences(26), 27)


def test_every_digit_is_looked_up_in_every_place(ask: Ask) -> None:
    check_differences(ask, digit_differences(), 28)


def test_no_encoding_but_the_right_one_is_that_of_a_point(ask: Ask) -> None:
    check_differences(ask, odd_differences(29), 30)


def scalars_with_long_relations() -> list[int]:
    """Just below every power of two, k whose u is k but for little: 8 L = q k + r with
    an even q, so the next row has an even v, and with a small r, so taking that row
    away often leaves all the bits. The longest, and three more, are not for lanes."""
    chance, found = random.Random(22), [L - 1, L - 2, L // 2]
    for bits in range(129, 189):
        lowest = 8 * L >> bits
        some = (lowest + chance.randrange(lowest >> 8) & ~1 for _ in range(500))
        found.append(8 * L // min(some, key=lambda q: 8 * L % q / q))
    return found


def u_lengths(ask: Ask, scalars: list[int]) -> set[int]:
    groups = filled(scalars)
    replies = ask([f"relations {hexes(group)}" for group in groups])
    for group, reply in zip(groups, replies, strict=True):
        for lane, k in enumerate(group):
            u, v = (scalars_of(reply[:-1])[at] for at in (lane, LANES + lane))
            check_relation(k, u, v, negative=bool(reply[-1] >> lane & 1))
    return {u.bit_length() for reply in replies for u in scalars_of(reply[:-1])[:LANES]}


def test_no_digit_of_the_longest_relation_is_lost_whatever_stands_beside(
    ask: Ask,
) -> None:
    """A group has the digits of its longest u, nearly full ones, where a carry needs
    one digit more, up to 253 bits. R but for a point of small order is a no."""
    chance, small = random.Random(23), small_order()
    long = scalars_with_long_relations()
    assert u_lengths(ask, long) >= {*range(129, 142), 252}
    pool = [(one, multiply(one, BASE)) for one in (chance.randrange(L) for _ in "abcd")]
    commands, right = [], []
    for at, k in enumerate(long * 2):
        lanes, good = [], 0
        for lane in range(LANES):
            scalar = k if lane == at % LANES else chance.randrange(L)
            (secret, key), (nonce, r) = chance.choices(pool, k=2)
            part, other = chance.randrange(8), chance.randrange(8) * (at + lane & 1)
            key = add(key, small[part])
            r = add(r, small[(other - scalar * part) % 8])
            s = (nonce + scalar * secret) % L
            lanes += [encode(r).hex(), encode(key).hex(), hexes([s]), hexes([scalar])]
            good |= (other == 0) << lane
        commands.append("differences " + " ".join(lanes))
        right.append(bytes([good]))
    assert ask(commands) == right


def test_a_carry_goes_through_words_that_are_full(ask: Ask) -> None:
    """Digits with signs come from adding 8 or 128 in every place: over these words a
    carry goes on to the next. Short k are their own u."""
    sevens, halves = 0x7777777777777777, 0x7F7F7F7F7F7F7F7F
    ks = [sevens << 64 | low for low in (sevens, sevens + 1, 1 << 63)]
    middle = halves << 128 | halves << 64
    ss = [middle | low for low in (halves, halves + 1, 1 << 63, 2**64 - 1)]
    secret = random.Random(24).randrange(L)
    key = encode(multiply(secret, BASE)).hex()
    some = [
        (encode(multiply((s - k * secret) % L, BASE)).hex(), s, k)
        for s, k in product(ss, [*ks, 0])
    ]
    commands = [
        "differences "
        + " ".join(f"{r} {key} {hexes([s])} {hexes([k])}" for r, s, k in group)
        for group in filled(some)
    ]
    assert ask(commands) == [b"\xff"] * len(commands)


def test_what_lanes_cannot_shorten_is_shortened_one_by_one(ask: Ask) -> None:
    """Steps on upper parts do not begin where 8 L is 30 bits longer than k. A long
    relation is as right as a short one, but its neighbours would wait for it."""
    chance = random.Random(25)
    some = [chance.randrange(2 ** (n - 1), 2**n) for n in range(129, 252) for _ in "ab"]
    assert max(u_lengths(ask, some)) < 150
