"""The two NEON lanes of the C Ed25519 under qemu-user: numbers, points, signatures.

Numbers and points are compared with Python's integers, each lane with its own, on the
bounds that ed25519_neon_field.h promises: a sum that overflows and a lane that reads
its neighbour both show as a wrong number. Signatures get the answers that OpenSSL gives
on this machine; for more of them, IOMT_NEON_CASES=<count>, or

    python tests/native/test_ed25519_neon.py COUNT BUILD

with what `make -C native BUILD=BUILD BUILD/aarch64/test_ed25519` built.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from itertools import islice, product
from pathlib import Path

import pytest
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
    digit_differences,
    encode,
    hard_differences,
    in_company,
    multiply,
    odd_differences,
    small_order,
)
from test_ed25519_fuzz import openssl, seed_of_this_run

NATIVE = Path(__file__).resolve().parents[2] / "native"
LIBC = Path("/usr/aarch64-linux-gnu")
CASES = 600
PER_FILE = 1024  # what the C program takes of one
COUNT_VARIABLE = "IOMT_NEON_CASES"

needed = ("make", "aarch64-linux-gnu-gcc", "qemu-aarch64")
missing = [tool for tool in needed if not shutil.which(tool)]
if not (LIBC / "lib" / "libc.so.6").is_file():
    missing.append("libc6-dev-arm64-cross")
pytestmark = pytest.mark.skipif(bool(missing), reason=f"needs {', '.join(missing)}")

LANES, LIMBS = 2, 10
WEIGHTS = [(51 * at + 1) // 2 for at in range(LIMBS)]
WIDTHS = [26, 25] * (LIMBS // 2)
UNIT = [2**26 + 2**17, 2**25 + 2**16] * (LIMBS // 2)  # limbs of one unit are below
LEFT, RIGHT, SQUARED, ADDED, PACKED = 8, 3, 3, 4, 7  # units that functions take

Number = list[int]  # ten limbs
Ask = Callable[[list[str]], list[bytes]]


def qemu(program: Path, *arguments: str, given: str = "") -> str:
    command = ["qemu-aarch64", "-cpu", "cortex-a72", "-L", str(LIBC), str(program)]
    done = subprocess.run(
        [*command, *arguments], input=given, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


@pytest.fixture(scope="module")
def built(native_build: Path) -> Path:
    """The directory of the programs for 64-bit ARM."""
    directory = native_build / "aarch64"
    programs = [directory / "test_ed25519", directory / "test_ed25519_neon"]
    subprocess.run(
        ["make", "-s", "-j2", "-C", NATIVE, f"BUILD={native_build}", *programs],
        check=True,
        capture_output=True,
    )
    return directory


@pytest.fixture(scope="module")
def ask(built: Path) -> Ask:
    """Commands in, replies out."""

    def run(commands: list[str]) -> list[bytes]:
        given = "\n".join(commands) + "\n"
        replies = qemu(built / "test_ed25519_neon", given=given).split()
        assert len(replies) == len(commands)
        return [bytes.fromhex(one) for one in replies]

    return run


# ---- Two numbers as they lie in memory: limb by limb, in it lane by lane ----


def packed(lanes: list[Number]) -> str:
    return b"".join(
        lane[at].to_bytes(4, "little") for at in range(LIMBS) for lane in lanes
    ).hex()


def unpacked(reply: bytes) -> list[Number]:
    words = [
        int.from_bytes(reply[at : at + 4], "little") for at in range(0, len(reply), 4)
    ]
    return [words[lane::LANES] for lane in range(LANES)]


def whole(reply: bytes) -> list[int]:
    """The 32 bytes of each lane."""
    return [
        int.from_bytes(reply[at : at + 32], "little") for at in range(0, len(reply), 32)
    ]


def value(limbs: Number) -> int:
    return sum(limb << weight for limb, weight in zip(limbs, WEIGHTS, strict=True))


def split(number: int) -> Number:
    return [
        number >> weight & 2**width - 1
        for weight, width in zip(WEIGHTS, WIDTHS, strict=True)
    ]


def units(limbs: Number) -> float:
    """How many of them the number has at least one limb of."""
    return max(limb / unit for limb, unit in zip(limbs, UNIT, strict=True))


def numbers(most: int, seed: int) -> list[Number]:
    """Limbs all or one at the top of so many units, around p, and random; even many."""
    chance = random.Random(seed)
    top = [most * unit - 1 for unit in UNIT]
    found = [top, [0] * LIMBS, [2**width - 1 for width in WIDTHS]]
    found += [[2**width for width in WIDTHS], [(1 << 25) - 1] * LIMBS]
    for at in range(LIMBS):
        one = [0] * LIMBS
        one[at] = top[at]
        found += [one, [high - limb for high, limb in zip(top, one, strict=True)]]
    found += [split(number) for number in (1, 19, P - 1, P, P + 1, P + 18, 2**255 - 1)]
    found += [[chance.randint(0, high) for high in top] for _ in range(18)]
    chance.shuffle(found)
    assert len(found) % LANES == 0
    return found


def in_lanes(some: list[Number]) -> list[list[Number]]:
    return [some[at : at + LANES] for at in range(0, len(some), LANES)]


def pairs(
    left: int, right: int, seed: int
) -> tuple[list[list[Number]], list[list[Number]]]:
    """Any number of so many units meets any of the others in some lane."""
    both = list(product(numbers(left, seed), numbers(right, seed + 1)))
    return in_lanes([a for a, _ in both]), in_lanes([b for _, b in both])


def check_two(
    ask: Ask,
    name: str,
    given: tuple[list[list[Number]], list[list[Number]]],
    right: Callable[[int, int], int],
    most: float,
) -> None:
    """The value modulo p in each lane, and that no limb passes so many units."""
    lefts, rights = given
    replies = ask(
        [f"{name} {packed(a)} {packed(b)}" for a, b in zip(lefts, rights, strict=True)]
    )
    for a, b, reply in zip(lefts, rights, replies, strict=True):
        for one, other, out in zip(a, b, unpacked(reply), strict=True):
            assert value(out) % P == right(value(one), value(other)) % P
            assert units(out) <= most


# ---- Numbers ----


def test_products_are_right_for_all_units_that_they_promise_to_take(ask: Ask) -> None:
    """Neither a column may overflow nor a limb pass the unit that sums count with."""
    check_two(ask, "product", pairs(LEFT, RIGHT, 1), lambda a, b: a * b, 1)


def test_squares_are_right_and_so_are_squares_with_an_addend(ask: Ask) -> None:
    given = pairs(SQUARED, ADDED, 3)
    check_two(ask, "square-plus", given, lambda a, b: a * a + b, 1)
    some = in_lanes(numbers(SQUARED, 5))
    replies = ask([f"square {packed(a)}" for a in some])
    for lanes, reply in zip(some, replies, strict=True):
        for one, out in zip(lanes, unpacked(reply), strict=True):
            assert value(out) % P == value(one) ** 2 % P
            assert units(out) <= 1


@pytest.mark.parametrize("subtracted", [1, 2, 3])
def test_a_difference_falls_below_zero_in_no_limb(ask: Ask, subtracted: int) -> None:
    given = pairs(2, subtracted, 6)
    most = 2 + subtracted + 1
    check_two(ask, f"minus-{subtracted}", given, lambda a, b: a - b, most)
    check_two(ask, "plus", given, lambda a, b: a + b, 2 + subtracted)


@pytest.mark.parametrize("negated", range(LANES))
def test_only_the_lane_that_is_asked_for_is_negated(ask: Ask, negated: int) -> None:
    some = in_lanes(numbers(1, 7))
    replies = ask([f"negate-lane-{negated} {packed(a)}" for a in some])
    for lanes, reply in zip(some, replies, strict=True):
        for lane, (one, out) in enumerate(zip(lanes, unpacked(reply), strict=True)):
            if lane == negated:
                assert value(out) % P == -value(one) % P
                assert units(out) <= 2
            else:
                assert out == one


def test_a_lane_is_chosen_whole(ask: Ask) -> None:
    some = in_lanes(numbers(1, 8))
    commands = [
        f"choose {packed(a)} {packed(b)}"
        for a, b in zip(some, some[1:] + some[:1], strict=True)
    ]
    for a, b, reply in zip(some, some[1:] + some[:1], ask(commands), strict=True):
        assert unpacked(reply) == [a[0], b[1]]


def test_every_number_packs_to_the_one_below_p(ask: Ask) -> None:
    """Encodings are compared as bytes, and zero is found by them."""
    some = in_lanes(numbers(PACKED, 9) + numbers(1, 10))
    for lanes, reply in zip(
        some, ask([f"pack {packed(a)}" for a in some]), strict=True
    ):
        assert whole(reply) == [value(one) % P for one in lanes]
    replies = ask([f"is-zero {packed(a)}" for a in some])
    for lanes, reply in zip(some, replies, strict=True):
        zeros = [value(one) % P == 0 for one in lanes]
        assert reply[0] == sum(zero << lane for lane, zero in enumerate(zeros))


def test_words_are_taken_apart_without_the_sign_bit(ask: Ask) -> None:
    chance = random.Random(11)
    some = [chance.randrange(2**256) for _ in range(30)] + [2**256 - 1, P + 5]
    words = [one.to_bytes(32, "little").hex() for one in some]
    commands = [f"unpack {a}{b}" for a, b in zip(words[::2], words[1::2], strict=True)]
    found = [out for reply in ask(commands) for out in unpacked(reply)]
    assert found == [split(one % 2**255) for one in some]


@pytest.mark.parametrize(
    ("name", "power"), [("inverse", P - 2), ("root-power", (P - 5) // 8)]
)
def test_powers_are_right_in_both_lanes(ask: Ask, name: str, power: int) -> None:
    some = in_lanes(numbers(1, 12))
    replies = ask([f"{name} {packed(a)}" for a in some])
    for lanes, reply in zip(some, replies, strict=True):
        assert whole(reply) == [pow(value(one), power, P) for one in lanes]


# ---- Points ----


def test_sums_of_points_have_no_exception(ask: Ask) -> None:
    """Equal, opposite, neutral and small-order points: Z would be 0 if one were."""
    chance = random.Random(13)
    some: list[Affine] = [*small_order(), BASE, (-BASE[0] % P, BASE[1])]
    some += [multiply(chance.randrange(L), BASE) for _ in range(2)]
    both = list(product(some, repeat=2))
    groups = [both[at : at + LANES] for at in range(0, len(both), LANES)]
    commands = []
    for group in groups:
        p, q = [one for one, _ in group], [other for _, other in group]
        arguments = [
            packed([split(one[at]) for one in each]) for each in (p, q) for at in (0, 1)
        ]
        commands.append("points " + " ".join(arguments))
    for group, reply in zip(groups, ask(commands), strict=True):
        found = whole(reply)
        for lane, (p1, q1) in enumerate(group):
            once = add(p1, q1)
            expected = (once, add(once, q1), add(once, once))
            assert found[lane::LANES] == [at for point in expected for at in point]


# ---- [s]B - [k]A, two side by side and one in both lanes ----


def check_differences(ask: Ask, cases: list[Difference], seed: int) -> None:
    """Two side by side, where each answers for itself, and each in both lanes."""
    groups = in_company(cases, LANES, seed)
    replies = ask(
        [
            "differences " + " ".join(one.arguments() for one in group)
            for group, _ in groups
        ]
    )
    assert replies == [bytes([right, right]) for _, right in groups]


def test_every_kind_of_scalar_gives_exactly_its_point(ask: Ask) -> None:
    """With the longest and with no short relation; R but for a point of small order is
    a no."""
    check_differences(ask, hard_differences(15), 16)


def test_every_digit_is_looked_up_in_every_place(ask: Ask) -> None:
    check_differences(ask, digit_differences(), 17)


def test_no_encoding_but_the_right_one_is_that_of_a_point(ask: Ask) -> None:
    """A third of what the other machines are asked, for QEMU's sake."""
    check_differences(ask, odd_differences(18, 3), 19)


def test_a_signature_alone_gets_the_answer_of_openssl(ask: Ask) -> None:
    """All kinds of cases; those that are refused before k is asked for are left out."""
    asked = []
    for case in some_cases():
        key, message, signature = case
        r, s = signature[:32], int.from_bytes(signature[32:], "little")
        if s < L:
            k = challenge(r, key, message)
            asked.append(Difference(r, key, s, k, openssl(case)))
    check_differences(ask, asked, 20)


# ---- Whole signatures ----


def some_cases() -> list[Case]:
    count, seed = int(os.environ.get(COUNT_VARIABLE) or CASES), seed_of_this_run()
    print(f"seed {seed}")
    source = Cases(seed)
    return [source.next() for _ in range(count)]


def line(case: Case, *, good: bool) -> str:
    parts = " ".join(part.hex() or "-" for part in case)
    return f"{int(good)} {parts}\n"


def answered(program: Path, directory: Path, cases: Iterable[Case]) -> int:
    """The ARM program's answers are OpenSSL's, in every backend; how many were good."""
    found = [(case, openssl(case)) for case in cases]
    paths = []
    for at in range(0, len(found), PER_FILE):
        path = directory / f"{at}.txt"
        some = found[at : at + PER_FILE]
        path.write_text("".join(line(case, good=good) for case, good in some))
        paths.append(str(path))
    told = qemu(program, "once", *paths)
    passed, failed = told.splitlines()[-1].replace(",", "").split()[::2]
    assert failed == "0", told
    for backend in ("neon", "portable"):
        assert told.count(f"{backend}: ") == len(paths)
    assert int(passed) >= 2 * len(found)
    return sum(good for _, good in found)


def test_answers_are_those_of_openssl_on_arm(built: Path, tmp_path: Path) -> None:
    """Good and bad signatures of all kinds, full groups and not, prepared or not."""
    cases = some_cases()
    good = answered(built / "test_ed25519", tmp_path, cases)
    assert 0.1 < good / len(cases) < 0.9


def test_every_digit_of_s_is_looked_up_beside_a_prepared_key(
    built: Path, tmp_path: Path
) -> None:
    """With the neutral point for a key, R is [s]B, whatever k is: each digit of s alone
    reads one entry of the table, and the largest carry into the next."""
    neutral, step, cases = encode((0, 1)), BASE, []
    for place in range(32):
        for digit in (1, 127, 128, 129, 255):
            if digit << 8 * place < L:
                r = encode(multiply(digit, step))
                s = (digit << 8 * place).to_bytes(32, "little")
                cases.append((neutral, b"", r + s))
        step = multiply(256, step)
    for edge in (0, L - 1, L - 2, (L - 1) // 2, 2**252):
        r = encode(multiply(edge, BASE))
        cases.append((neutral, b"", r + edge.to_bytes(32, "little")))
    good = len(cases)
    cases.append((neutral, b"", cases[0][2][:32] + cases[1][2][32:]))
    assert answered(built / "test_ed25519", tmp_path, cases) == good


def test_a_wrong_answer_is_seen(
    built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The comparison can fail: one answer turned among a hundred."""
    source = Cases(14)
    cases = list(islice(iter(source.next, None), 100))
    honest, turned = openssl, cases[50]
    monkeypatch.setitem(
        globals(), "openssl", lambda case: honest(case) ^ (case == turned)
    )
    with pytest.raises(AssertionError, match="FAILED neon"):
        answered(built / "test_ed25519", tmp_path, cases)


def main() -> None:
    count, build, seed = int(sys.argv[1]), Path(sys.argv[2]), seed_of_this_run()
    source, started, done = Cases(seed), time.monotonic(), 0
    while done < count:
        with tempfile.TemporaryDirectory() as directory:
            some = [source.next() for _ in range(8 * PER_FILE)]
            answered(build / "aarch64" / "test_ed25519", Path(directory), some)
        done += len(some)
    print(
        f"seed {seed}: {done} cases in {time.monotonic() - started:.0f} s, "
        "neon and portable under qemu: no difference"
    )


if __name__ == "__main__":
    main()
