"""The C tests (native/tests), run from here so that one command runs everything."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

NATIVE = Path(__file__).resolve().parents[2] / "native"


@pytest.mark.skipif(
    not (shutil.which("make") and shutil.which("cc")), reason="needs make and cc"
)
@pytest.mark.timeout(400)
def test_c_tests_pass_under_sanitizers_and_with_guard_pages(
    native_build: Path,
) -> None:
    """What Python cannot see: reads outside a buffer and undefined behaviour."""
    passes("test", native_build)


@pytest.mark.skipif(
    not (shutil.which("aarch64-linux-gnu-gcc") and shutil.which("qemu-aarch64")),
    reason="needs gcc-aarch64-linux-gnu and qemu-user",
)
@pytest.mark.timeout(400)
def test_ed25519_is_the_same_on_64_bit_arm(native_build: Path) -> None:
    """A clinic's gateway is a Raspberry Pi, and must give the answers given here."""
    passes("test-ed25519-aarch64", native_build)


def passes(target: str, build: Path) -> None:
    done = subprocess.run(
        ["make", "-C", str(NATIVE), target, f"BUILD={build}"],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    counts = re.findall(r"^(\d+) passed, (\d+) failed$", done.stdout, re.MULTILINE)
    assert counts, done.stdout
    for passed, failed in counts:
        assert int(passed) > 1000
        assert int(failed) == 0
