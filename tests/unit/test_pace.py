"""The pace of commits: quick when idle, a few a second when busy."""

from __future__ import annotations

from edge.config import Pace
from edge.pace import TokenBucket


def test_a_burst_is_free_and_then_the_refill_decides() -> None:
    now = [100.0]
    bucket = TokenBucket(Pace(refill_per_s=4.0, burst=20), lambda: now[0])
    assert [bucket.wait_s() for _ in range(20)] == [0.0] * 20
    assert bucket.wait_s() == 0.25
    now[0] += 0.25
    assert bucket.wait_s() == 0.0
    assert bucket.wait_s() == 0.25


def test_tokens_never_pile_up_above_the_burst() -> None:
    now = [0.0]
    bucket = TokenBucket(Pace(refill_per_s=1.0, burst=5), lambda: now[0])
    now[0] += 1e6
    assert [bucket.wait_s() for _ in range(6)] == [0.0] * 5 + [1.0]


def test_what_is_spare_takes_only_of_the_upper_half_of_a_burst() -> None:
    now = [0.0]
    bucket = TokenBucket(Pace(refill_per_s=4.0, burst=20), lambda: now[0])
    assert [bucket.wait_s(spare=True) for _ in range(10)] == [0.0] * 10
    assert bucket.wait_s(spare=True) == 0.25
    assert bucket.wait_s() == 0.0
