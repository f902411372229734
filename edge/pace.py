"""How often a commit may flush the disk: a token bucket on the monotonic clock."""

from __future__ import annotations

import time
from collections.abc import Callable

from edge.config import Pace


class TokenBucket:
    """Begins full; `monotonic_s` is the clock, replaced in tests."""

    def __init__(
        self, pace: Pace, monotonic_s: Callable[[], float] = time.monotonic
    ) -> None:
        self._pace = pace
        self._monotonic_s = monotonic_s
        self._tokens = float(pace.burst)
        self._at = monotonic_s()

    def has_token(self) -> bool:
        """Whether `wait_s` would return 0 now."""
        self._refill()
        return self._tokens >= 1

    def wait_s(self, *, spare: bool = False) -> float:
        """Take a token and return 0, or the seconds until there will be one.

        `spare` takes only of the upper half of a burst, for what is not worth a flush
        that somebody else may need.
        """
        needed = 1 + (self._pace.burst // 2 if spare else 0)
        self._refill()
        if self._tokens >= needed:
            self._tokens -= 1
            return 0.0
        return (needed - self._tokens) / self._pace.refill_per_s

    def _refill(self) -> None:
        now = self._monotonic_s()
        grown = self._tokens + (now - self._at) * self._pace.refill_per_s
        self._tokens = min(self._pace.burst, grown)
        self._at = now
