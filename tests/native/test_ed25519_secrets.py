"""Signing in constant time, as far as valgrind and the machine code can show it.

Under valgrind the seed counts as undefined memory, so a branch or an address that
depends on it is an error (native/tests/secrets.c). Division is not seen that way: the
machine code of what handles secrets must have none. Copies of the source with one
leak each show that both checks can fail.

What this cannot show: that an instruction takes the same time for all operands (the
multiplication of all CPUs that we know does), and what a compiler other than this one
makes of the source.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from edge.ledger import core

NATIVE = Path(__file__).resolve().parents[2] / "native"
FLAGS = ["-O3", "-g", "-std=c11", "-DIOMT_TRACK_SECRETS"]  # -O3 as the module itself
WITH_SECRETS = (
    "sha512.c",
    "ed25519_scalar.c",
    "ed25519_inverse.c",
    "ed25519_curve51.c",
    "ed25519_curve_adx.c",
)
DIVISION = re.compile(r"^\s+[0-9a-f]+:\s+(?:v?div|idiv|udiv|sdiv)\w*", re.MULTILINE)

# (file, what stands there, the leak that takes its place, what is to be compiled again)
CURVE, SCALAR = "ed25519_curve_code.h", "ed25519_scalar.c"
INVERSE = "ed25519_inverse.c"
LEAKS = {
    "a branch on a digit of the nonce": (
        CURVE,
        "        add_chosen(&sum, &chosen, 1);\n",
        "        if (digits[i - 1] != 0)\n            add_chosen(&sum, &chosen, 1);\n",
        "ed25519_curve51.c",
    ),
    "a table row read at a secret place": (
        CURVE,
        "    for (int j = 0; j < IOMT_COMB_MULTIPLES; j++) {\n",
        "    for (int j = (int)size - (size > 0), e = j + 1; j < e; j++) {\n",
        "ed25519_curve51.c",
    ),
    "a table row read only up to a secret place": (
        CURVE,
        "    for (int j = 0; j < IOMT_COMB_MULTIPLES; j++) {\n",
        "    for (int j = 0; j < (int)size; j++) {\n",
        "ed25519_curve_adx.c",
    ),
    "division steps that stop early": (
        INVERSE,
        "    for (int i = 0; i < ROUNDS; i++) {\n",
        "    for (int i = 0; i < ROUNDS && (g.limb[0] | g.limb[1]) != 0; i++) {\n",
        INVERSE,
    ),
    "a branch on what a division step divides": (
        INVERSE,
        "        gqr += addend & odd;\n",
        """\
        if (gqr & 1) {
            __asm__ volatile("");
            gqr += addend;
        }
""",
        INVERSE,
    ),
    "a reduction that stops early": (
        SCALAR,
        "    subtract_order_once(rest);\n    subtract_order_once(rest);\n",
        "    while (rest[3] >> 60 != 0)\n        subtract_order_once(rest);\n",
        SCALAR,
    ),
}

pytestmark = pytest.mark.skipif(
    not (shutil.which("cc") and shutil.which("valgrind"))
    or not Path("/usr/include/valgrind/memcheck.h").exists(),
    reason="needs cc and valgrind with its headers",
)


def build(
    source: Path, target: Path, changed: str = "", ready: Path | None = None
) -> Path:
    """The program of secrets.c from the sources in a directory; all but `changed` is
    taken from an earlier build, if there is one."""
    objects = []
    for file in sorted(NATIVE.glob("*.c")):
        out = target / f"{file.stem}.o"
        if ready is not None and file.name != changed:
            out = ready / out.name
        else:
            flags = ["-O1"] if "ifma" in file.name else FLAGS  # no secret goes there
            command = ["cc", *flags, "-I", str(source), "-c", str(source / file.name)]
            subprocess.run([*command, "-o", str(out)], check=True, capture_output=True)
        objects.append(str(out))
    program = target / "secrets"
    command = ["cc", *FLAGS, "-I", str(source), str(NATIVE / "tests" / "secrets.c")]
    subprocess.run([*command, *objects, "-o", str(program)], check=True)
    return program


def under_valgrind(program: Path, *backends: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["valgrind", "-q", "--error-exitcode=9", str(program), *backends],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("honest")
    build(NATIVE, target)
    return target


@pytest.mark.timeout(300)
def test_no_branch_and_no_address_depends_on_the_seed(honest: Path) -> None:
    """Who can time a branch or a cache line over many signatures finds the key."""
    scalar = [one for one in core.signature_backends() if one in {"adx", "portable"}]
    done = under_valgrind(honest / "secrets", *scalar)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines() == [f"{name}: signed" for name in scalar]


def test_nothing_that_handles_secrets_divides(honest: Path) -> None:
    """Division takes longer for some operands on many CPUs."""
    if not shutil.which("objdump"):
        pytest.skip("needs objdump")
    for name in WITH_SECRETS:
        listing = subprocess.run(
            [
                "objdump",
                "-d",
                "--no-show-raw-insn",
                str(honest / f"{Path(name).stem}.o"),
            ],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        assert listing.count("\n") > 100
        assert not DIVISION.search(listing), name
    assert DIVISION.search("  1a:\tdiv    %rcx\n")


@pytest.mark.timeout(300)
@pytest.mark.parametrize("leak", LEAKS)
def test_a_leak_is_seen(leak: str, tmp_path: Path, honest: Path) -> None:
    """The check above can fail: each of these is a mistake that was made somewhere."""
    name, whole, leaking, changed = LEAKS[leak]
    source = tmp_path / "native"
    source.mkdir()
    for file in NATIVE.glob("*.[ch]"):
        shutil.copy(file, source)
    text = (source / name).read_text()
    assert text.count(whole) == 1
    (source / name).write_text(text.replace(whole, leaking))
    target = tmp_path / "build"
    target.mkdir()
    program = build(source, target, changed, honest)
    scalar = "adx" if "adx" in changed else "portable"
    if scalar not in core.signature_backends():
        pytest.skip("this CPU has no ADX")
    done = under_valgrind(program, scalar)
    assert done.returncode == 9, done.stdout + done.stderr
    assert re.search("Conditional jump|uninitialised value", done.stderr)
