"""What Ed25519 costs on ARM: instructions counted under QEMU, cycles modelled.

    python benchmarks/arm_ed25519.py [--root DIR] [--counts]

The same way as arm_model.py, whose tools it uses: one signature over 128 bytes is made
or verified under qemu-user one instruction at a time, between two marks. The number of
instructions is a count; `mul` and `umulh` multiply 64 by 64 bits, `long` those that
multiply 32 by 32, `lanes` the vector instructions that multiply. DIR is what
tools/arm-root made: then OpenSSL stands beside ours. With --counts nothing is modelled.

Of 64 signatures, verified with one call and different keys, a row has one's share: what
eight cost more than four, a quarter of it, and a 64th of what all share.

Cycles, none of them measured:
  * llvm-mca's, over pieces of the trace of PIECE instructions, with calls as one-cycle
    instructions.
  * "by Arm's rates": how long the busiest of three pipes is busy, by Arm's optimisation
    guides for the Cortex-A72 (UAN 0016A) and, by way of LLVM's table, the Neoverse N1,
    the A76's server form: a lower bound that no order of instructions passes. One pipe
    multiplies whole registers, one vectors; vector shifts have another, and the other
    vector instructions go to either of those two.
"""

from __future__ import annotations

import argparse
import re
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import arm_model
from arm_model import Implementation

WORKS = {
    "sign": "one signature; ours verifies it before it goes out, OpenSSL does not",
    "verify": "a key that never came before",
    "verify-known": "a key that did: ours is prepared, OpenSSL's an object",
}
MANY = {
    "verify-{}": "64 at once, keys that never came before; one's share",
    "verify-{}-known": "64 at once, prepared keys; one's share",
}
OURS = (
    Implementation("ours, neon", "neon"),
    Implementation("ours, portable", "portable"),
)
OPENSSL = (Implementation("OpenSSL", "openssl"),)
PIECE = 20_000
LONG = ("smull", "smaddl", "umull", "umaddl", "smsubl", "umsubl")
MULTIPLIES = {"mul": ("mul", "madd", "msub"), "umulh": ("umulh",), "long": LONG}
# Calls, which llvm-mca takes for a hundred cycles each, and what it does not know for
# the core: a few atomic counters of OpenSSL's.
NO_MODEL = re.compile(
    r"(bl|blr|br|ret|hint|paciasp|autiasp|ld(add|set|clr)\w*|cas\w*)\b"
)


# Of vectors: what multiplies (four numbers take twice as long as two), and what shifts.
LANES = re.compile(r"[us]?ml[as]l?2?|[us]?mull?2?")
SHIFTS = re.compile(r"[us]?shll?2?|[us]?shrn?2?|[us]sra|s[lr]i|[us]xtl2?")
# Cycles from the beginning of one to that of the next, of each of MULTIPLIES.
RATES = {"A72": (3, 4, 1), "A76": (3, 3, 1)}


@dataclass(frozen=True)
class Counts:
    """Instructions of a kind, or what they cost, of one piece of work or of a share."""

    values: tuple[float, ...]

    def __sub__(self, other: Counts) -> Counts:
        return Counts(
            tuple(a - b for a, b in zip(self.values, other.values, strict=True))
        )

    def over(self, count: int) -> Counts:
        return Counts(tuple(value / count for value in self.values))


def is_vector(line: str) -> bool:
    return re.search(r"\bv\d+\.", line) is not None


def busiest_pipe(ran: Counter[str], rates: Sequence[int]) -> int:
    """Cycles of the pipe that has the most to do."""
    integer = multiplies = shifts = vectors = 0
    for line, times in ran.items():
        word = line.split()[0]
        if is_wide(line):
            for rate, names in zip(rates, MULTIPLIES.values(), strict=True):
                integer += rate * times * (word in names)
        elif is_vector(line):
            vectors += times
            if LANES.fullmatch(word):
                multiplies += times * (2 if word == "mul" and ".4s" in line else 1)
            elif SHIFTS.fullmatch(word):
                shifts += times
    return max(integer, multiplies, shifts, vectors // 2)


def is_wide(line: str) -> bool:
    """Whether an instruction is one on 64-bit registers."""
    return line.split()[1:2] != [] and line.split()[1].startswith("x")


def costs(
    program: Path, code: arm_model.Code, one: Implementation, work: str, tool: str
) -> Counts:
    """Instructions, multiplications, cycles on each core, and by the rates of two."""
    _, lines = arm_model.executed(program, code, one, work)
    lines = ["nop" if NO_MODEL.match(line) else line for line in lines]
    ran = Counter(lines)
    counts = [
        sum(
            times
            for line, times in ran.items()
            if is_wide(line) and line.split()[0] in names
        )
        for names in MULTIPLIES.values()
    ]
    lanes = sum(
        times
        for line, times in ran.items()
        if is_vector(line) and LANES.fullmatch(line.split()[0])
    )
    cycles = [
        sum(
            arm_model.modelled_cycles(tool, lines[at : at + PIECE], core)
            for at in range(0, len(lines), PIECE)
        )
        for core in cores_of(tool)
    ]
    rates = [busiest_pipe(ran, rate) for rate in RATES.values()]
    return Counts((len(lines), *counts, lanes, *cycles, *rates))


def share_of_64(
    program: Path, code: arm_model.Code, one: Implementation, work: str, tool: str
) -> Counts:
    """Four cost a + 4 b, eight a + 8 b; the share is a / 64 + b."""
    four = costs(program, code, one, work.format(4), tool)
    eight = costs(program, code, one, work.format(8), tool)
    each, shared = (eight - four).over(4), four - (eight - four)
    return each - (Counts((0.0,) * len(each.values)) - shared.over(64))


def cores_of(tool: str) -> list[arm_model.Core]:
    """Without the one that differs in shifts: here they are few."""
    known = arm_model.known_cores(tool) if tool else []
    return [core for core in known if not core.shifts_on_one_pipe]


def row(title: str, found: Counts) -> list[str]:
    return [title, *(f"{value:,.0f}" for value in found.values)]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="What Ed25519 costs on ARM.")
    parser.add_argument("--root", type=Path, help="a directory of tools/arm-root")
    parser.add_argument("--counts", action="store_true", help="model nothing")
    chosen = parser.parse_args(arguments)
    tool = "" if chosen.counts else arm_model.newest_mca()
    ones = OURS if chosen.root is None else OURS + OPENSSL
    compiler = "aarch64-linux-gnu-gcc"
    linked = [] if chosen.root is None else arm_model.openssl_of(chosen.root)
    with tempfile.TemporaryDirectory() as directory:
        program = arm_model.build(
            Path(directory), compiler, ["-static", *linked], "arm_ed25519"
        )
        code = arm_model.disassemble(program)
        print(arm_model.run([compiler, "--version"]).splitlines()[0])
        head = ["", "instructions", *MULTIPLIES, "lanes"]
        head += [core.title for core in cores_of(tool)]
        head += [f"{core}, by Arm's rates" for core in RATES]
        for work, title in WORKS.items():
            rows = (
                row(one.title, costs(program, code, one, work, tool)) for one in ones
            )
            arm_model.print_table(f"{work}: {title}", head, rows)
        for work, title in MANY.items():
            rows = (
                row(one.title, share_of_64(program, code, one, work, tool))
                for one in OURS
            )
            arm_model.print_table(title, head, rows)


if __name__ == "__main__":
    main()
