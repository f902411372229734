"""The model of the disk, by hand: what a power cut may leave of a few calls."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from recorder import Recorder, recording
from states import Disk, Fate, Image

from edge.store.vault import sync_directory

OLD, NEW = b"o" * 1024, b"n" * 1024


def left(recorder: Recorder, variant: str, seed: str = "") -> dict[str, bytes]:
    return image(recorder, variant, seed).files


def image(recorder: Recorder, variant: str, seed: str = "") -> Image:
    disk = Disk(recorder.base)
    for operation in recorder.operations:
        disk.apply(operation)
    return disk.image(Fate(variant, seed))


def put(path: Path, content: bytes, *, flushed: bool) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT)
    os.write(descriptor, content)
    if flushed:
        os.fsync(descriptor)
    os.close(descriptor)


def record(tmp_path: Path, work: Callable[[], None]) -> Recorder:
    with recording(tmp_path) as recorder:
        work()
    return recorder


def test_bytes_that_were_not_flushed_are_new_or_old_by_sector(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(OLD)
    recorder = record(tmp_path, lambda: put(tmp_path / "a", NEW, flushed=False))
    assert left(recorder, "kept") == {"a": NEW}
    assert left(recorder, "lost") == {"a": OLD}
    seen = {left(recorder, "mixed-0", str(seed))["a"] for seed in range(300)}
    half = slice(0, 512)
    torn = {OLD[half] + NEW[half], NEW[half] + OLD[half]}
    assert seen == {OLD, NEW} | torn


def test_flushed_bytes_stay(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(OLD)
    recorder = record(tmp_path, lambda: put(tmp_path / "a", NEW, flushed=True))
    assert left(recorder, "lost") == {"a": NEW}


def test_a_flushed_file_has_no_name_until_its_directory_is_flushed(
    tmp_path: Path,
) -> None:
    recorder = record(tmp_path, lambda: put(tmp_path / "a", NEW, flushed=True))
    assert left(recorder, "lost") == {}
    assert left(recorder, "names") == {"a": NEW}

    def flushed() -> None:
        put(tmp_path / "b", NEW, flushed=False)
        sync_directory(tmp_path)

    recorder = record(tmp_path, flushed)
    assert left(recorder, "lost") == {"a": NEW, "b": b""}


def test_a_rename_happens_or_not(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(OLD)
    (tmp_path / "b").write_bytes(NEW)
    recorder = record(tmp_path, lambda: os.rename(tmp_path / "b", tmp_path / "a"))
    assert left(recorder, "lost") == {"a": OLD, "b": NEW}
    assert left(recorder, "kept") == {"a": NEW}
    seen = [left(recorder, "mixed-0", str(seed)) for seed in range(50)]
    assert {len(one) for one in seen} == {1, 2}


def test_a_directory_without_a_durable_name_takes_all_below_it_along(
    tmp_path: Path,
) -> None:
    def work() -> None:
        (tmp_path / "x").mkdir()
        put(tmp_path / "x" / "a", NEW, flushed=True)
        sync_directory(tmp_path / "x")

    recorder = record(tmp_path, work)
    assert image(recorder, "lost").directories == []
    assert left(recorder, "lost") == {}
    sync_directory(tmp_path)
    assert left(recorder, "kept") == {"x/a": NEW}


def test_an_unlinked_file_may_come_back(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(OLD)
    recorder = record(tmp_path, (tmp_path / "a").unlink)
    assert left(recorder, "kept") == {}
    assert left(recorder, "lost") == {"a": OLD}


def test_a_recorded_file_object_is_seen_when_it_is_flushed(tmp_path: Path) -> None:
    def work() -> None:
        descriptor = os.open(tmp_path / "a", os.O_WRONLY | os.O_CREAT)
        with os.fdopen(descriptor, "wb") as file:
            file.write(NEW)
            file.flush()
            os.fsync(file.fileno())

    recorder = record(tmp_path, work)
    assert left(recorder, "names") == {"a": NEW}


def test_a_forgotten_write_is_lost_for_good(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(OLD)
    recorder = record(tmp_path, lambda: put(tmp_path / "a", NEW, flushed=True))
    disk = Disk(recorder.base)
    write, flush = recorder.operations
    disk.apply(write)
    disk.forget_failed(1)
    disk.apply(flush)
    assert disk.image(Fate("kept", "")).files == {"a": OLD}
