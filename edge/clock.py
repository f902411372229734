"""The gateway's clock: received_ms, which never goes back, and whether to believe it.

received_ms = max(last + elapsed monotonic time, wall clock), where `last` is the
newest received_ms in the store at the start. Most Pis have no clock chip: until the
kernel says that something (NTP, PTP) disciplines the wall clock, `synced` is False,
records say so, and no device is refused for its time. The same holds while received_ms
runs ahead of a disciplined wall clock, as it does after a start with a clock that was
far ahead.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import time
from collections.abc import Callable

AHEAD_TOLERANCE_MS = 1_000
SYNC_CHECK_INTERVAL_S = 1.0
_STA_UNSYNC = 0x40  # linux/timex.h
_STATUS_OFFSET = 40 if ctypes.sizeof(ctypes.c_long) == 8 else 20
_TIMEX_SIZE = 512  # larger than any ABI's struct timex


def kernel_says_synced() -> bool:
    """Whether the kernel's clock is disciplined: adjtimex(2), STA_UNSYNC not set."""
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        timex = ctypes.create_string_buffer(_TIMEX_SIZE)  # modes = 0: only read
        if libc.adjtimex(timex) < 0:
            return False
    except (OSError, AttributeError):
        return False
    status = ctypes.c_int.from_buffer(timex, _STATUS_OFFSET).value
    return not status & _STA_UNSYNC


class Clock:
    """One per process; `last_ms` is the newest received_ms that the store knows.

    `wall_ms`, `monotonic_ms` and `disciplined` are the machine's clocks, replaced in
    tests.
    """

    def __init__(
        self,
        last_ms: int = 0,
        *,
        wall_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
        monotonic_ms: Callable[[], int] = lambda: time.monotonic_ns() // 1_000_000,
        disciplined: Callable[[], bool] = kernel_says_synced,
    ) -> None:
        self._wall_ms = wall_ms
        self._monotonic_ms = monotonic_ms
        self._disciplined = disciplined
        self._last_ms = last_ms
        self._last_monotonic_ms = monotonic_ms()
        self._checked_at_ms: int | None = None
        self._is_disciplined = False

    def now_ms(self) -> int:
        """received_ms: milliseconds since 1970, never going back."""
        monotonic = self._monotonic_ms()
        elapsed = monotonic - self._last_monotonic_ms
        self._last_ms = max(self._last_ms + elapsed, self._wall_ms())
        self._last_monotonic_ms = monotonic
        return self._last_ms

    @property
    def synced(self) -> bool:
        """Whether received_ms may be compared with the clocks of devices."""
        now = self.now_ms()
        monotonic = self._last_monotonic_ms
        if (
            self._checked_at_ms is None
            or monotonic - self._checked_at_ms >= SYNC_CHECK_INTERVAL_S * 1000
        ):
            self._checked_at_ms = monotonic
            self._is_disciplined = self._disciplined()
        return self._is_disciplined and now - self._wall_ms() <= AHEAD_TOLERANCE_MS
