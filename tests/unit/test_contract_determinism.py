"""The same firings whatever the machine, the hash seed, the locale and the time zone.

Each run of firings_digest.py is a process of its own. The digest in here was computed
on x86-64 by Python 3.11; whoever computes another one evaluates contracts otherwise.
IOMT_AARCH64_PYTHON may name an interpreter for 64-bit ARM (tools/aarch64-python).
"""

from __future__ import annotations

import ast
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import edge.contracts

CONTRACTS = Path(edge.contracts.__file__).parent
ROOT = Path(__file__).parents[2]
# Modules that what fires depends on; the others draw, explain or read files for people
EVALUATING = (
    *("program", "expression", "language", "compiled", "shortcut", "state", "windows"),
    *("mkt", "rules", "running", "machine", "evaluation", "actions"),
)
DIGEST = "357a1ea57bb1e48ac7da77febf4ae9190dd2f8112bac682623291bdf514c0f16"


def digest_of(interpreter: list[str], **variables: str) -> str:
    run = subprocess.run(
        [*interpreter, Path(__file__).with_name("firings_digest.py")],
        env={**os.environ, "PYTHONPATH": str(ROOT), **variables},
        capture_output=True,
        text=True,
        check=True,
    )
    return run.stdout.strip()


@pytest.mark.parametrize(
    "variables",
    [
        {"PYTHONHASHSEED": "0"},
        {"PYTHONHASHSEED": "1"},
        {"PYTHONHASHSEED": "4294967295", "TZ": "Pacific/Chatham", "LC_ALL": "C"},
        {"PYTHONHASHSEED": "random", "LC_ALL": "tr_TR.UTF-8", "PYTHONOPTIMIZE": "2"},
    ],
    ids=lambda one: str(one["PYTHONHASHSEED"]),
)
def test_every_process_computes_the_same_firings(variables: dict[str, str]) -> None:
    assert digest_of([sys.executable], **variables) == DIGEST


def test_64_bit_arm_computes_the_same_firings() -> None:
    """Under qemu it takes half a minute."""
    interpreter = os.environ.get("IOMT_AARCH64_PYTHON")
    if not interpreter:
        pytest.skip("IOMT_AARCH64_PYTHON names no interpreter (tools/aarch64-python)")
    assert digest_of(shlex.split(interpreter)) == DIGEST


@pytest.mark.parametrize("module", EVALUATING)
def test_no_module_that_evaluates_has_a_float_a_clock_or_chance_in_it(
    module: str,
) -> None:
    """No float literal, no true division, no import that could make one of these."""
    banned = {"math", "cmath", "random", "time", "datetime", "locale", "numpy", "os"}
    tree = ast.parse((CONTRACTS / f"{module}.py").read_text("utf-8"))
    for node in ast.walk(tree):
        place = f"{module}.py:{getattr(node, 'lineno', 0)}"
        if isinstance(node, ast.Constant):
            assert not isinstance(node.value, float), place
        elif isinstance(node, (ast.BinOp, ast.AugAssign)):
            assert not isinstance(node.op, ast.Div), place
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in ("float", "hash", "id"), place
        elif isinstance(node, ast.Import):
            assert banned.isdisjoint(one.name for one in node.names), place
        elif isinstance(node, ast.ImportFrom):
            assert node.module not in banned, place
