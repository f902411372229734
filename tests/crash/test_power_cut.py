"""A power cut at any moment: the next start holds everything that was acknowledged.

states.py says what a power cut can leave. `make soak` recovers all states of the
recorded day; here is a seeded sample, and the seeded bugs that it must catch.
"""

from __future__ import annotations

import os
import random
import stat
from collections.abc import Callable
from pathlib import Path

import apsw
import pytest
from recorder import recording
from recovery import check_cut_recoveries, check_states, scratch
from states import Disk, Fate, states_of
from workload import Story, full_day, recorded

from edge import gateway
from edge.init import initialise
from edge.model import Arrival, Outcome
from edge.open_batch import OpenBatch
from edge.store import database, tile_files

SEED = 1
STATES_COUNT = 240
MIXED_COUNT = 2
RECOVERIES_COUNT, CUTS_COUNT = 15, 6
ROUND_COUNT, ROUNDS_MAX = 60, 12


async def a_story() -> Story:
    with scratch() as place:
        return await recorded(place, full_day)


async def test_a_power_cut_at_any_moment_loses_nothing_acknowledged() -> None:
    story = await a_story()
    every = states_of(story.recorder, MIXED_COUNT)
    assert len(every) > 1_000
    sample = random.Random(SEED).sample(every, STATES_COUNT)
    count, broken = await check_states(story, sample, SEED)
    assert count > STATES_COUNT // 2  # the rest look the same as another
    assert not broken


async def test_a_power_cut_during_the_recovery_loses_nothing_either() -> None:
    story = await a_story()
    every = states_of(story.recorder, MIXED_COUNT)
    sample = random.Random(SEED).sample(every, RECOVERIES_COUNT)
    count, broken = await check_cut_recoveries(story, sample, SEED, CUTS_COUNT)
    assert count > RECOVERIES_COUNT
    assert not broken


def test_new_keys_are_durable_before_anything_is_sealed_with_them(
    tmp_path: Path,
) -> None:
    """A name is durable after a flush of its directory, and each level has one."""
    with recording(tmp_path) as recorder:
        initialise(tmp_path / "gateway", "test.example/ward")
    disk = Disk(recorder.base)
    for operation in recorder.operations:
        disk.apply(operation)
    left = disk.image(Fate("lost", "")).files
    for name in ("log.key", "master.key", "access.token"):
        path = f"gateway/data/keys/{name}"
        assert left.get(path) == (tmp_path / path).read_bytes()


# ---- Seeded bugs: the tests above can fail ----


def no_directory_flush(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tile_files, "sync_directory", lambda _: None)


def no_tile_flush(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rename comes before the bytes are durable."""

    class Unflushed:
        """`os` as the room of the tiles sees it, with an fsync that does nothing."""

        def __getattr__(self, name: str) -> object:
            return getattr(os, name)

        def fsync(self, descriptor: int) -> None:
            assert stat.S_ISREG(os.fstat(descriptor).st_mode)

    monkeypatch.setattr(tile_files, "os", Unflushed())


def synchronous_normal(monkeypatch: pytest.MonkeyPatch) -> None:
    open_writer = database.open_writer

    def opened(directory: Path) -> apsw.Connection:
        connection = open_writer(directory)
        connection.pragma("synchronous", "NORMAL")
        return connection

    monkeypatch.setattr(gateway, "open_writer", opened)


def acknowledged_early(monkeypatch: pytest.MonkeyPatch) -> None:
    """A message is answered when it is taken."""

    def answer(batch: OpenBatch, arrival: Arrival, outcome: Outcome) -> None:
        real(batch, arrival, outcome)
        batch.settles.pop()
        arrival.settle(outcome)

    real = OpenBatch.answer
    monkeypatch.setattr(OpenBatch, "answer", answer)


@pytest.mark.parametrize(
    ("bug", "sentence"),
    [
        (no_directory_flush, "000: cannot be read"),
        (no_tile_flush, "000: there already with other bytes"),
        (synchronous_normal, "acknowledged readings are lost"),
        (acknowledged_early, "acknowledged readings are lost"),
    ],
)
async def test_a_seeded_bug_is_caught(
    bug: Callable[[pytest.MonkeyPatch], None],
    sentence: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with monkeypatch.context() as patched:
        bug(patched)
        story = await a_story()
    every = states_of(story.recorder, MIXED_COUNT)
    random.Random(SEED).shuffle(every)
    seen = []
    for number in range(ROUNDS_MAX):
        some = every[number * ROUND_COUNT : (number + 1) * ROUND_COUNT]
        _, broken = await check_states(story, some, SEED)
        seen += [str(error) for _, error in broken]
        if any(sentence in one for one in seen):
            return
    pytest.fail(f"not caught; found instead: {seen}")
