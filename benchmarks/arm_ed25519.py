"""What Ed25519 costs on ARM: instructions counted under QEMU, cycles modelled.

    python benchmarks/arm_ed25519.py [--root DIR] [--counts]

The same way as arm_model.py, whose tools it uses: one signature over 128 bytes is made
or verified under qemu-user one instruction at a time, between two marks. The number of
instructions is a count; `mul` and `umulh` multiply 64 by 64 bits, `long` those that
multiply 32 by 32. The cycles are llvm-mca's, over pieces of the trace of PIECE
instructions, with calls as one-cycle instructions; no row is a measurement. DIR is what
tools/arm-root made: then OpenSSL stands beside ours. With --counts nothing is modelled.
"""

from __future__ import annotations

import argparse
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path

import arm_model
from arm_model import Implementation

WORKS = {
    "sign": "one signature; ours verifies it before it goes out, OpenSSL does not",
    "verify": "a key that never came before",
    "verify-known": "a key that did: ours is prepared, OpenSSL's an object",
}
OURS = (Implementation("ours, portable", "portable"),)
OPENSSL = (Implementation("OpenSSL", "openssl"),)
PIECE = 20_000
LONG = ("smull", "smaddl", "umull", "umaddl", "smsubl", "umsubl")
MULTIPLIES = {"mul": ("mul", "madd", "msub"), "umulh": ("umulh",), "long": LONG}
# Calls, which llvm-mca takes for a hundred cycles each, and what it does not know for
# the core: a few atomic counters of OpenSSL's.
NO_MODEL = re.compile(
    r"(bl|blr|br|ret|hint|paciasp|autiasp|ld(add|set|clr)\w*|cas\w*)\b"
)


def is_wide(line: str) -> bool:
    """Whether an instruction is one on 64-bit registers."""
    return line.split()[1:2] != [] and line.split()[1].startswith("x")


def row(
    program: Path, code: arm_model.Code, one: Implementation, work: str, tool: str
) -> list[str]:
    """Title, instructions, multiplications, and cycles on each core."""
    _, ran = arm_model.executed(program, code, one, work)
    words = [line.split()[0] for line in ran if is_wide(line)]
    ran = ["nop" if NO_MODEL.match(line) else line for line in ran]
    counts = [sum(word in names for word in words) for names in MULTIPLIES.values()]
    cycles = []
    for core in arm_model.known_cores(tool) if tool else ():
        if core.shifts_on_one_pipe:
            continue  # of vectors, and nothing here is one
        cycles.append(
            sum(
                arm_model.modelled_cycles(tool, ran[at : at + PIECE], core)
                for at in range(0, len(ran), PIECE)
            )
        )
    return [one.title, *(f"{count:,}" for count in (len(ran), *counts, *cycles))]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="What Ed25519 costs on ARM.")
    parser.add_argument("--root", type=Path, help="a directory of tools/arm-root")
    parser.add_argument("--counts", action="store_true", help="model nothing")
    chosen = parser.parse_args(arguments)
    tool = "" if chosen.counts else arm_model.newest_mca()
    cores = [
        core.title
        for core in (arm_model.known_cores(tool) if tool else ())
        if not core.shifts_on_one_pipe
    ]
    ones = OURS if chosen.root is None else OURS + OPENSSL
    compiler = "aarch64-linux-gnu-gcc"
    linked = [] if chosen.root is None else arm_model.openssl_of(chosen.root)
    with tempfile.TemporaryDirectory() as directory:
        program = arm_model.build(
            Path(directory), compiler, ["-static", *linked], "arm_ed25519"
        )
        code = arm_model.disassemble(program)
        print(arm_model.run([compiler, "--version"]).splitlines()[0])
        for work, title in WORKS.items():
            arm_model.print_table(
                f"{work}: {title}; counted, and modelled",
                ["", "instructions", *MULTIPLIES, *cores],
                (row(program, code, one, work, tool) for one in ones),
            )


if __name__ == "__main__":
    main()
