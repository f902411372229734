"""One call of the store fails; what must hold then, and after a restart."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterable

import apsw
from recorder import Fault, Promise, Recorder, recording
from recovery import BrokenError, check, check_image, scratch
from states import EXTREMES, Disk, Fate
from workload import StoppedError, Story, next_day, recorded, short_day

from edge.errors import DurabilityError, GatewayError

CODES = errno.EIO, errno.ENOSPC
_PHASES = "starting", "stopped"


async def attempts() -> list[str]:
    """The calls of the short day that can fail, in order."""
    with scratch() as place:
        return (await recorded(place, short_day)).recorder.attempts


async def check_fault(fault: Fault) -> None:
    """BrokenError where the gateway goes on, or a restart misses something.

    The restart finds what the last process wrote, or what a power cut left of that.
    """
    with scratch() as place:
        story = await recorded(place, short_day, fault)
        recorder = story.recorder
        if recorder.failed_at is None:  # the threads' order of calls may differ by one
            return
        _check_stopped(story, recorder.failed_at)
        given = _promises(recorder)
        shutil.copytree(story.settings.directory, place / "again")
        await check(place / "again", story, given, place / "exported")
        disk = Disk(recorder.base)
        for operation in recorder.operations:
            disk.apply(operation)
        for variant in EXTREMES[1:]:
            await check_image(disk.image(Fate(variant, "")), story, given)
        if recorder.failed_flush is not None:
            await _check_forgotten(story, given)


def _promises(recorder: Recorder) -> list[Promise]:
    return [one for one in recorder.operations if isinstance(one, Promise)]


def _check_stopped(story: Story, failed_at: int) -> None:
    """The failure is told, and nothing else after it."""
    operations = story.recorder.operations
    after = [one for one in operations[failed_at:] if isinstance(one, Promise)]
    late = [one.what for one in after if one.what not in _PHASES]
    if late:
        raise BrokenError(f"told after the failure: {', '.join(late)}")
    before = [one for one in operations[:failed_at] if isinstance(one, Promise)]
    if [one.what for one in before if one.what in _PHASES][-1] == "stopped":
        return  # all was durable, and SQLite only tidied up while it was closed
    failure: BaseException | None = story.failure
    if isinstance(failure, StoppedError):
        failure = failure.reason
    if not isinstance(failure, DurabilityError):
        raise BrokenError(f"no DurabilityError but {failure!r}")


async def _check_forgotten(story: Story, given: list[Promise]) -> None:
    """The flush failed, and the kernel holds the bytes to be clean from then on.

    The next process reads them from the cache, works, and then the power is cut.
    """
    first = story.recorder
    disk = Disk(first.base)
    assert first.failed_at is not None
    assert first.failed_flush is not None
    for place, operation in enumerate(first.operations):
        if place == first.failed_at:
            disk.forget_failed(first.failed_flush)
        disk.apply(operation)
    if first.failed_at == len(first.operations):
        disk.forget_failed(first.failed_flush)
    on_disk = disk.image(Fate("kept", "")).files
    with recording(story.settings.directory) as recorder:
        recorder.distrust(on_disk)
        story.recorder = recorder
        try:
            await next_day(story)
        except (GatewayError, StoppedError, apsw.Error, OSError) as error:
            raise BrokenError(f"the next start: {error!r}") from error
    again = Disk(recorder.base)
    for operation in recorder.operations:
        again.apply(operation)
        if isinstance(operation, Promise):
            given = [*given, operation]
            await check_image(again.image(Fate("lost", "")), story, given)


async def check_faults(
    faults: Iterable[Fault],
) -> tuple[int, list[tuple[Fault, BrokenError]]]:
    """(how many were tried, those after which something was wrong)."""
    count, broken = 0, []
    for fault in faults:
        count += 1
        try:
            await check_fault(fault)
        except BrokenError as error:
            broken.append((fault, error))
    return count, broken


def every_fault(calls: list[str]) -> list[Fault]:
    """Each of the calls, once with each error."""
    return [Fault(at, code) for at in range(len(calls)) for code in CODES]
