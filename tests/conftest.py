"""For all tests: hypothesis, one place to build C programs in, what folders share."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

sys.path.append(str(Path(__file__).parent / "native"))  # ed25519_cases, ct_tree

# A busy machine is not a finding.
settings.register_profile(
    "iomt", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("iomt")


@pytest.fixture(scope="session")
def native_build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The BUILD of native/Makefile for this run: each file is compiled once."""
    return tmp_path_factory.mktemp("native")
