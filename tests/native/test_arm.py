"""The ARM backends under qemu-user: right answers, the right choice, the right code.

A Raspberry Pi 5 (Cortex-A76) has the SHA-256 instructions, a Pi 4 (Cortex-A72) has not,
and its kernel says so in HWCAP. QEMU 7.2 shows them on every model and cannot be told
otherwise, so native/tests/hidden_hwcap.c takes the bits away before cpu.c sees them.
That QEMU would run such an instruction all the same is why what it translated is read.

Nothing here says anything about speed; docs/native.md does.
"""

from __future__ import annotations

import os
import re
import runpy
import shutil
import subprocess
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[2]
LIBC = Path("/usr/aarch64-linux-gnu")
CPUS = ("max", "cortex-a76", "cortex-a72")
HIDDEN = "cortex-a72 without SHA-256 instructions"

# Of HWCAP: AES, PMULL, SHA1 and SHA2, which cores have together or not at all.
CRYPTO_BITS = "78"

SHA_INSTRUCTION = re.compile(r"\b(sha256(?:h2?|su[01]))\b")
COUNTS = re.compile(r"^(\d+) passed, (\d+) failed$", re.MULTILINE)

needed = ("make", "aarch64-linux-gnu-gcc", "aarch64-linux-gnu-objdump", "qemu-aarch64")
missing = [tool for tool in needed if not shutil.which(tool)]
if not (LIBC / "lib" / "libc.so.6").is_file():
    missing.append("libc6-dev-arm64-cross")
pytestmark = pytest.mark.skipif(bool(missing), reason=f"needs {', '.join(missing)}")


@dataclass(frozen=True)
class Run:
    status: int
    output: str
    translated: str  # the instructions that QEMU met, disassembled

    @property
    def usable(self) -> list[str]:
        """The backends that the program tested, best first."""
        return re.findall(r"^([a-z0-9-]+)$", self.output, re.MULTILINE)


@pytest.fixture(scope="module")
def built(native_build: Path) -> Path:
    """A directory with the C tests, their objects and the library that hides bits."""
    done = subprocess.run(
        [
            "make",
            "-j2",
            "-C",
            str(PROJECT / "native"),
            "aarch64",
            f"BUILD={native_build}",
        ],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return native_build / "aarch64"


def run_tests(built: Path, cpu: str, hidden: bool) -> Run:
    log = built / f"{cpu}-{hidden}.log"
    qemu = [
        "qemu-aarch64",
        "-cpu",
        cpu,
        "-L",
        str(LIBC),
        "-d",
        "in_asm",
        "-D",
        str(log),
    ]
    if hidden:
        qemu += ["-E", f"LD_PRELOAD={built / 'hidden_hwcap.so'}"]
        qemu += ["-E", f"IOMT_TEST_HIDDEN_HWCAP={CRYPTO_BITS}"]
    done = subprocess.run(
        [*qemu, str(built / "test_core")],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    translated = log.read_text(encoding="utf-8", errors="replace")
    return Run(done.returncode, done.stdout + done.stderr, translated)


@pytest.fixture(scope="module")
def runs(built: Path) -> dict[str, Future[Run]]:
    """All runs at once, on as many cores as there are."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        started = {cpu: pool.submit(run_tests, built, cpu, False) for cpu in CPUS}
        started[HIDDEN] = pool.submit(run_tests, built, "cortex-a72", True)
    return started


@pytest.mark.parametrize("cpu", [*CPUS, HIDDEN])
def test_c_tests_pass_on_arm(runs: dict[str, Future[Run]], cpu: str) -> None:
    """The same program as on x86: vectors, guard pages, every backend it can run."""
    run = runs[cpu].result()
    assert run.status == 0, run.output
    counts = COUNTS.search(run.output)
    assert counts is not None, run.output
    assert int(counts[1]) > 1000
    assert int(counts[2]) == 0


@pytest.mark.parametrize("cpu", CPUS)
def test_a_cpu_with_sha_instructions_gets_them(
    runs: dict[str, Future[Run]], cpu: str
) -> None:
    run = runs[cpu].result()
    assert run.usable == ["armv8", "neon-5", "neon", "portable"]
    assert set(SHA_INSTRUCTION.findall(run.translated)) == {
        "sha256h",
        "sha256h2",
        "sha256su0",
        "sha256su1",
    }


def test_a_cpu_without_sha_instructions_gets_neon_and_meets_none(
    runs: dict[str, Future[Run]],
) -> None:
    """The Pi 4: one such instruction anywhere on the way would end the gateway."""
    run = runs[HIDDEN].result()
    assert "armv8: not usable on this CPU" in run.output
    assert run.usable == ["neon-5", "neon", "portable"]
    assert "neon" in run.usable[0]
    assert len(run.translated) > 100_000
    assert SHA_INSTRUCTION.findall(run.translated) == []


def test_sha_instructions_stand_in_one_object_alone(built: Path) -> None:
    """What a run did not come by is there too: a compiler may put code anywhere."""
    with_them = {
        path.name
        for path in built.glob("*.o")
        if SHA_INSTRUCTION.search(
            subprocess.run(
                ["aarch64-linux-gnu-objdump", "-d", str(path)],
                capture_output=True,
                text=True,
                check=True,
            ).stdout
        )
    }
    assert with_them == {"sha256_armv8.o"}
    assert {"sha256_neon.o", "sha256_portable.o"} <= {p.name for p in built.glob("*.o")}


# ---- The Python module, where tools/arm-root has fetched an ARM Python ----

ROOT = Path(os.environ.get("IOMT_ARM_ROOT") or "/nonexistent")
needs_root = pytest.mark.skipif(
    not (ROOT / "usr" / "bin" / "python3").exists(),
    reason="needs IOMT_ARM_ROOT, a directory made by tools/arm-root",
)
ACTIVE = "from edge.ledger import core; print(core.active(), *core.backends())"


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a copy of `edge`, its C module compiled for the ARM Python."""
    directory = tmp_path_factory.mktemp("package")
    without = shutil.ignore_patterns("*.so", "__pycache__")
    shutil.copytree(PROJECT / "edge", directory / "edge", ignore=without)
    native, include = PROJECT / "native", ROOT / "usr" / "include"
    ffi = runpy.run_path(str(native / "build_core.py"))["ffi"]
    ffi.emit_c_code(str(directory / "_core.c"))
    flags = ["-O3", "-std=c11", "-fvisibility=hidden", "-shared", "-fPIC"]
    includes = [f"-I{native}", f"-I{include}/python3.11", f"-I{include}"]
    module = directory / "edge" / "ledger" / "_core.abi3.so"
    subprocess.run(
        [
            *("aarch64-linux-gnu-gcc", *flags, *includes, str(directory / "_core.c")),
            *(*map(str, sorted(native.glob("*.c"))), "-o", str(module)),
        ],
        check=True,
    )
    return directory


def arm_python(package: Path, *arguments: str, preload: Path | None = None) -> str:
    qemu = ["qemu-aarch64", "-cpu", "cortex-a72", "-L", str(ROOT)]
    qemu += ["-E", f"PYTHONPATH={package}"]
    if preload:
        qemu += ["-E", f"LD_PRELOAD={preload}"]
        qemu += ["-E", f"IOMT_TEST_HIDDEN_HWCAP={CRYPTO_BITS}"]
    done = subprocess.run(
        [*qemu, str(ROOT / "usr" / "bin" / "python3"), *arguments],
        capture_output=True,
        text=True,
        cwd=package,
        timeout=400,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@needs_root
def test_python_takes_neon_where_the_kernel_names_no_sha_instructions(
    built: Path, package: Path
) -> None:
    """The choice itself, as `import edge` makes it on a Pi 4."""
    hidden = built / "hidden_hwcap.so"
    active, *usable = arm_python(package, "-c", ACTIVE, preload=hidden).split()
    assert active in {"neon", "neon-5"}
    assert set(usable) == {"neon", "neon-5", "portable"}


@needs_root
def test_python_knows_every_backend_of_a_pi_5(package: Path) -> None:
    _, *usable = arm_python(package, "-c", ACTIVE).split()
    assert set(usable) == {"armv8", "neon", "neon-5", "portable"}


SIGNATURES = """
import os, sys
os.environ.update(word.split("=") for word in sys.argv[1:])
from edge.ledger import core
print(core.active_signatures(), *core.signature_backends())
"""


@needs_root
@pytest.mark.parametrize("asked", ["neon", "portable"])
def test_python_verifies_in_neon_lanes_unless_it_is_told_not_to(
    package: Path, asked: str
) -> None:
    words = [] if asked == "neon" else [f"IOMT_CORE_ED25519={asked}"]
    active, *usable = arm_python(package, "-c", SIGNATURES, *words).split()
    assert active == asked
    assert usable == ["neon", "portable"]


@needs_root
@pytest.mark.timeout(500)
def test_hashes_are_those_of_hashlib_on_an_arm_python(package: Path) -> None:
    """All of test_hashes.py, for each backend: two minutes, so only on request."""
    tests = PROJECT / "tests" / "native" / "test_hashes.py"
    options = ["-q", "-p", "no:cacheprovider", "-c", os.devnull, f"--rootdir={package}"]
    passed = arm_python(package, "-m", "pytest", *options, str(tests))
    assert re.search(r"^\d\d\d passed", passed, re.MULTILINE), passed
