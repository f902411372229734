"""Every write, flush and rename of the store fails once with EIO and with ENOSPC.

`make soak` tries all of them; here are a seeded sample, and all flushes.
"""

from __future__ import annotations

import errno
import random

import pytest
from faults import attempts, check_faults, every_fault
from recorder import Fault

from edge.store import database

SEED = 3
SAMPLE_COUNT = 50
FLUSHES_COUNT = 12
WAL_FLUSH = f"flush {database.DATABASE_NAME}-wal"


async def test_after_a_failed_call_nothing_is_answered_and_a_restart_has_all() -> None:
    calls = await attempts()
    for kind in ("create", "write", "truncate", "flush", "rename", "mkdir", "unlink"):
        assert any(one.startswith(kind) for one in calls), kind
    sample = random.Random(SEED).sample(every_fault(calls), SAMPLE_COUNT)
    count, broken = await check_faults(sample)
    assert count == SAMPLE_COUNT
    assert not broken, [(calls[fault.at], fault, error) for fault, error in broken]


def failed_wal_flushes(calls: list[str]) -> list[Fault]:
    found = [at for at, call in enumerate(calls) if call == WAL_FLUSH]
    some = random.Random(SEED).sample(found, min(FLUSHES_COUNT, len(found)))
    return [Fault(at, errno.EIO) for at in some]


async def test_what_a_failed_flush_left_in_the_cache_is_not_built_upon() -> None:
    """After a flush that failed Linux believes the pages clean. A restart without a
    reboot reads them, appends behind them, and a power cut later finds the hole."""
    calls = await attempts()
    _, broken = await check_faults(failed_wal_flushes(calls))
    assert not broken, [(calls[fault.at], fault, error) for fault, error in broken]


async def test_a_start_that_trusts_the_cached_wal_is_caught(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The seeded bug that shows that the test above can fail."""
    monkeypatch.setattr(database, "_write_wal_again", lambda *_: None)
    for fault in failed_wal_flushes(await attempts()):
        _, broken = await check_faults([fault])
        if broken:
            return
    pytest.fail("not caught")
