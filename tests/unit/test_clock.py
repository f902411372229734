"""received_ms on a Pi without a clock chip."""

from __future__ import annotations

from edge.clock import Clock

YEAR_MS = 365 * 24 * 3600 * 1000
NOW_MS = 1_800_000_000_000


class _Machine:
    """Clocks that a test moves by hand."""

    def __init__(self, wall_ms: int, *, disciplined: bool) -> None:
        self.wall_ms = wall_ms
        self.monotonic_ms = 1000
        self.disciplined = disciplined

    def clock(self, last_ms: int = 0) -> Clock:
        return Clock(
            last_ms,
            wall_ms=lambda: self.wall_ms,
            monotonic_ms=lambda: self.monotonic_ms,
            disciplined=lambda: self.disciplined,
        )

    def wait(self, time_ms: int) -> None:
        self.wall_ms += time_ms
        self.monotonic_ms += time_ms


def test_a_clock_that_boots_in_1970_goes_on_from_the_newest_record() -> None:
    machine = _Machine(wall_ms=5_000, disciplined=False)
    clock = machine.clock(last_ms=NOW_MS)
    assert clock.now_ms() == NOW_MS
    machine.wait(1_500)
    assert clock.now_ms() == NOW_MS + 1_500
    assert not clock.synced


def test_when_the_time_arrives_received_ms_follows_it_and_is_trusted() -> None:
    machine = _Machine(wall_ms=5_000, disciplined=False)
    clock = machine.clock(last_ms=NOW_MS)
    clock.now_ms()
    machine.wait(10_000)
    machine.wall_ms, machine.disciplined = NOW_MS + YEAR_MS, True
    assert clock.now_ms() == NOW_MS + YEAR_MS
    assert clock.synced


def test_a_wall_clock_set_back_never_takes_received_ms_back() -> None:
    machine = _Machine(wall_ms=NOW_MS, disciplined=True)
    clock = machine.clock()
    assert clock.now_ms() == NOW_MS
    machine.wall_ms -= 3_600_000
    machine.monotonic_ms += 10
    assert clock.now_ms() == NOW_MS + 10


def test_a_start_with_a_clock_far_ahead_is_not_trusted_afterwards() -> None:
    """Else every good device would be "30 days behind" until the time catches up."""
    machine = _Machine(wall_ms=NOW_MS + 10 * YEAR_MS, disciplined=False)
    clock = machine.clock(last_ms=NOW_MS)
    clock.now_ms()
    machine.wait(5_000)
    machine.wall_ms, machine.disciplined = NOW_MS, True
    assert clock.now_ms() > NOW_MS + 9 * YEAR_MS
    assert not clock.synced


def test_discipline_is_asked_again_after_a_second() -> None:
    machine = _Machine(wall_ms=NOW_MS, disciplined=False)
    clock = machine.clock()
    assert not clock.synced
    machine.disciplined = True
    machine.wait(1_001)
    assert clock.synced
