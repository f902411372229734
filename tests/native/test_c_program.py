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
def test_c_tests_pass_under_sanitizers_and_with_guard_pages(tmp_path: Path) -> None:
    """What Python cannot see: reads outside a buffer and undefined behaviour."""
    done = subprocess.run(
        ["make", "-C", str(NATIVE), "test", f"BUILD={tmp_path}"],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    counts = re.search(r"^(\d+) passed, (\d+) failed$", done.stdout, re.MULTILINE)
    assert counts is not None, done.stdout
    assert int(counts[1]) > 1000
    assert int(counts[2]) == 0
