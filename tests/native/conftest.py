"""One place to build the C programs in, so that each file is compiled once a run."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def native_build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The BUILD of native/Makefile for this run."""
    return tmp_path_factory.mktemp("native")
