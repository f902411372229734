"""The tests on the real Bluetooth stack run in the machine of machine.py only."""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "scenario"))  # ble_fakes

from lab import Lab


@pytest.fixture
async def lab() -> AsyncIterator[Lab]:
    async with Lab() as made:
        yield made


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Anywhere else they are reported as skipped, with what runs them."""
    if os.environ.get("IOMT_BLUEZ"):
        return
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.skip(reason="not run: needs `make test-bluez`"))
