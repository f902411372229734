"""What hashing costs on ARM: counted and modelled here, measured on a real Pi.

    python benchmarks/arm_model.py [--root DIR]     the model; needs an x86 or ARM Linux
    python benchmarks/arm_model.py --here           measures the machine it runs on

The model cross-compiles the core and benchmarks/arm_work.c, runs each piece of work
under qemu-user one instruction at a time, and so gets the very instructions that ran.
Their number is a count, no model. llvm-mca then says how many cycles they take on a
core: caches always hit, branches are always foreseen, a load never waits for a store,
and what LLVM believes of the core is true. No row of the model is a measurement.

DIR is what tools/arm-root made: with it, OpenSSL's libcrypto for arm64 is linked in and
stands beside ours. `--here` does so where the machine's own libcrypto has headers, and
prints the rows that docs/native.md lacks.

Debian packages: gcc-aarch64-linux-gnu, libc6-dev-arm64-cross, qemu-user, llvm (or
llvm-19, whose table for the Neoverse N1, the server form of the Cortex-A76, LLVM 14
does not have).
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
FLAGS = ("-O3", "-std=c11", "-fvisibility=hidden")  # those of native/build_core.py
WORKS = {
    "block": "one block of 64 bytes, many at a call",
    "leaf64": "one leaf hash of a 64-byte record, 60 at a call",
    "leaf256": "one leaf hash of a 256-byte record, 60 at a call",
    "node": "one interior node (65 bytes, two blocks), 60 at a call",
}


@dataclass(frozen=True)
class Core:
    title: str
    llvm_name: str
    since: int = 0  # the version of LLVM
    shifts_on_one_pipe: bool = False


# LLVM has no table of its own for the Cortex-A72 nor the A76: both get the A57's, with
# the same numbers. Its one for the Neoverse N1, the server form of the A76, came later.
CORES = (
    Core("A57 for A72", "cortex-a72"),
    Core("A72, shifts on F1", "cortex-a72", shifts_on_one_pipe=True),
    Core("N1 for A76", "neoverse-n1", since=16),
    Core("A53", "cortex-a53"),
)

# LLVM's A57 lets both vector pipes shift. Arm's "Cortex-A72 Software Optimization
# Guide" (UAN 0016A) gives shifts to pipe F1 alone, one a cycle; so do GCC's table of
# the A57 and LLVM's own for 32 bits. So each is modelled a second time with a neighbour
# that LLVM does put there: the same registers and pipe, a cycle more of latency.
ON_F1 = (
    (re.compile(r"^sri\s+v"), "usra v"),
    (re.compile(r"^(shl|ushr)\s+v"), "urshr v"),
)

# Bits of OpenSSL's processor capabilities on ARM: NEON, and the SHA-256 instructions.
OPENSSL_NEON, OPENSSL_SHA256 = 1 << 0, 1 << 4

TRACE_LINE = re.compile(rb"\[[0-9a-f]+/([0-9a-f]+)/")
OBJDUMP_LINE = re.compile(r"^\s*([0-9a-f]+):\s+(?:[0-9a-f]{8}\s+)?(\S.*)$")
SYMBOL_LINE = re.compile(r"^([0-9a-f]+) <(\w+)>:$")
CODE_ADDRESS = re.compile(r"\b(?:0x)?[0-9a-f]+ <.*>$")
TOTAL_CYCLES = re.compile(r"^Total Cycles:\s+(\d+)$", re.MULTILINE)


@dataclass(frozen=True)
class Implementation:
    title: str
    name: str
    environment: dict[str, str] = field(default_factory=dict)


OURS = (
    Implementation("ours, armv8", "armv8"),
    Implementation("ours, neon-5", "neon-5"),
    Implementation("ours, neon", "neon"),
    Implementation("ours, portable", "portable"),
)
OPENSSL = (
    Implementation(
        "OpenSSL, SHA-256 instructions",
        "openssl",
        {"OPENSSL_armcap": str(OPENSSL_NEON | OPENSSL_SHA256)},
    ),
    Implementation("OpenSSL, NEON", "openssl", {"OPENSSL_armcap": str(OPENSSL_NEON)}),
    Implementation("OpenSSL, scalar", "openssl", {"OPENSSL_armcap": "0"}),
)


def run(command: Sequence[str], environment: dict[str, str] | None = None) -> str:
    """The standard output; what went wrong is shown and ends the program."""
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        env={**os.environ, **(environment or {})},
        check=False,
    )
    if done.returncode:
        sys.exit(f"{' '.join(command)}\n{done.stderr[-2000:]}")
    return done.stdout


# ---- The program ----


def build(
    directory: Path, compiler: str, openssl: Sequence[str], name: str = "arm_work"
) -> Path:
    """Compiles core and work; `openssl` is what the compiler needs for libcrypto."""
    program = directory / name
    sources = sorted(str(path) for path in (PROJECT / "native").glob("*.c"))
    work = str(PROJECT / "benchmarks" / f"{name}.c")
    include = f"-I{PROJECT / 'native'}"
    command = [compiler, *FLAGS, include, *sources, work, *openssl]
    run([*command, "-o", str(program)])
    return program


def openssl_of(root: Path) -> list[str]:
    """Flags that link the static libcrypto in a directory that tools/arm-root made."""
    include = root / "usr" / "include"
    library = root / "usr" / "lib" / "aarch64-linux-gnu" / "libcrypto.a"
    if not library.is_file():
        sys.exit(f"there is no {library}; tools/arm-root makes it")
    more = ["-isystem", str(include), "-isystem", str(include / "aarch64-linux-gnu")]
    # libcrypto looks hosts up, which a static program can only do half; nobody asks.
    return ["-DWITH_OPENSSL", *more, str(library), "-lpthread", "-ldl"]


# ---- What ran ----


@dataclass(frozen=True)
class Code:
    """The instructions of a program by address, as an assembler reads them."""

    instructions: dict[int, str]
    begin: int
    end: int


def disassemble(program: Path) -> Code:
    text = run(["aarch64-linux-gnu-objdump", "-d", "--no-show-raw-insn", str(program)])
    instructions: dict[int, str] = {}
    symbols: dict[str, int] = {}
    for line in text.splitlines():
        if symbol := SYMBOL_LINE.match(line):
            symbols[symbol[2]] = int(symbol[1], 16)
        elif found := OBJDUMP_LINE.match(line):
            instruction = found[2].partition("//")[0].strip()
            # Where a jump goes does not matter to the model, only that it is one.
            instructions[int(found[1], 16)] = CODE_ADDRESS.sub("target", instruction)
    return Code(instructions, symbols["mark_begin"], symbols["mark_end"])


def executed(
    program: Path, code: Code, one: Implementation, work: str
) -> tuple[int, list[str]]:
    """How many items, and the instructions that hashed them, in the order they ran.

    QEMU writes a line for each block of code that it runs; `-singlestep` makes these
    one instruction long. A Cortex-A76 has no SVE, which libc would use if it could.
    """
    command = ["qemu-aarch64", "-cpu", "cortex-a76", "-singlestep"]
    done = subprocess.run(
        [*command, "-d", "nochain,exec", str(program), "once", one.name, work],
        capture_output=True,
        env={**os.environ, **one.environment},
        check=True,
    )
    addresses = [int(found, 16) for found in TRACE_LINE.findall(done.stderr)]
    begin, end = addresses.index(code.begin), addresses.index(code.end)
    items = int(done.stdout.split()[0])
    return items, [code.instructions[address] for address in addresses[begin:end]]


# ---- What it would cost ----


def newest_mca() -> str:
    versions = [f"llvm-mca-{number}" for number in range(30, 13, -1)]
    for name in [os.environ.get("LLVM_MCA", ""), *versions, "llvm-mca"]:
        if name and (path := shutil.which(name)):
            return path
    sys.exit("llvm-mca is missing: apt-get install llvm")


def known_cores(tool: str) -> list[Core]:
    """What this llvm-mca has a table for, and not just a name."""
    return [core for core in CORES if core.since <= llvm_version(tool)]


def llvm_version(tool: str) -> int:
    version = re.search(r"LLVM version (\d+)", run([tool, "--version"]))
    return int(version[1]) if version else 0


def modelled_cycles(tool: str, instructions: Iterable[str], core: Core) -> int:
    lines = list(instructions)
    if core.shifts_on_one_pipe:
        for pattern, replacement in ON_F1:
            lines = [pattern.sub(replacement, line) for line in lines]
    options = ["-mtriple=aarch64-linux-gnu", f"-mcpu={core.llvm_name}", "-mattr=+sha2"]
    views = ["-iterations=1", "-instruction-info=0", "-resource-pressure=0"]
    with tempfile.NamedTemporaryFile("w", suffix=".s") as source:
        source.write("\n".join(lines) + "\n")
        source.flush()
        text = run([tool, *options, *views, source.name])
    found = TOTAL_CYCLES.search(text)
    if found is None:
        sys.exit(f"llvm-mca said nothing of cycles:\n{text[-2000:]}")
    return int(found[1])


# ---- Tables ----


def print_table(title: str, head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    print(f"\n### {title}\n\n| {' | '.join(head)} |")
    print(f"| --- |{' ---: |' * (len(head) - 1)}")
    for row in rows:
        print(f"| {' | '.join(row)} |", flush=True)


def model(works: Sequence[str], root: Path | None) -> None:
    tool = newest_mca()
    cores = known_cores(tool)
    ones = OURS if root is None else OURS + OPENSSL
    with tempfile.TemporaryDirectory() as directory:
        compiler = "aarch64-linux-gnu-gcc"
        openssl = [] if root is None else openssl_of(root)
        program = build(Path(directory), compiler, ["-static", *openssl])
        code = disassemble(program)
        print(f"{run([compiler, '--version']).splitlines()[0]}, {' '.join(FLAGS)};")
        print(f"LLVM {llvm_version(tool)}, {run(['qemu-aarch64', '--version'])[:26]}")
        head = ["", "instructions", *(core.title for core in cores)]
        for work in works:
            print_table(
                f"{work}: {WORKS[work]}; instructions counted, cycles modelled",
                head,
                (modelled_row(tool, program, code, one, work, cores) for one in ones),
            )


def modelled_row(
    tool: str,
    program: Path,
    code: Code,
    one: Implementation,
    work: str,
    cores: Iterable[Core],
) -> list[str]:
    items, ran = executed(program, code, one, work)
    cycles = (modelled_cycles(tool, ran, core) for core in cores)
    return [one.title, *(f"{count / items:.0f}" for count in (len(ran), *cycles))]


def clock_ghz() -> float | None:
    """What the kernel lets this core reach; the Pi's reaches it under load."""
    path = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_max_freq")
    return int(path.read_text(encoding="ascii")) / 1e6 if path.is_file() else None


def measure(works: Sequence[str]) -> None:
    """Rows for the machine this runs on, each the median of 21 rounds of CPU time."""
    ghz = clock_ghz()
    model_file = Path("/proc/device-tree/model")
    name = (
        model_file.read_text(encoding="ascii").rstrip("\0")
        if model_file.is_file()
        else ""
    )
    print(f"{name or platform.node()}, {platform.machine()}, {ghz or 'unknown'} GHz")
    with tempfile.TemporaryDirectory() as directory:
        linked = ["-DWITH_OPENSSL", "-lcrypto"]
        probe = ["cc", "-E", "-include", "openssl/sha.h", "-xc", "/dev/null"]
        has_openssl = not subprocess.run(
            probe, capture_output=True, check=False
        ).returncode
        if not has_openssl:
            print("no openssl/sha.h here (libssl-dev): ours alone")
        program = build(Path(directory), "cc", linked if has_openssl else [])
        for work in works:
            print_table(
                f"{work}: {WORKS[work]}; measured",
                ["", "ns", "cycles at that clock"],
                (
                    measured_row(program, one, work, ghz)
                    for one in (OURS + OPENSSL if has_openssl else OURS)
                ),
            )


def measured_row(
    program: Path, one: Implementation, work: str, ghz: float | None
) -> list[str]:
    done = subprocess.run(
        [str(program), "time", one.name, work],
        capture_output=True,
        text=True,
        env={**os.environ, **one.environment},
        check=False,
    )
    if done.returncode:
        return [one.title, "not usable here", "–"]
    ns = float(done.stdout)
    return [one.title, f"{ns:.1f}", f"{ns * ghz:.0f}" if ghz else "–"]


def main() -> None:
    parser = argparse.ArgumentParser(description="What hashing costs on ARM.")
    parser.add_argument("--root", type=Path, help="a directory of tools/arm-root")
    parser.add_argument("--here", action="store_true", help="measure this ARM machine")
    parser.add_argument("--work", choices=WORKS, action="append", help="only this")
    chosen = parser.parse_args()
    works = chosen.work or list(WORKS)
    if chosen.here:
        measure(works)
    else:
        model(works, chosen.root)


if __name__ == "__main__":
    main()
