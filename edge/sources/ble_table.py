"""Which devices are connected, which wait for a connection, and which for a new try."""

from __future__ import annotations

import math
import random

from edge.sources.ble_link import Backoff, Limits, Link
from edge.sources.ble_words import says_full

BOUND_MIN = 2  # no adapter holds fewer: it was the device


def next_delay_s(backoff: Backoff, limits: Limits) -> float:
    """Full jitter under a doubling bound, so that devices do not come in step."""
    bound_s = limits.backoff_first_s * 2 ** min(backoff.failures, 16)
    backoff.failures += 1
    return random.uniform(0, min(bound_s, limits.backoff_max_s))  # noqa: S311 - jitter is no secret


class Table:
    """The connections by address in capitals; times are the loop's, in seconds."""

    def __init__(self, limits: Limits) -> None:
        self.links: dict[str, Link] = {}
        self._limits = limits
        self._waiting: dict[str, float] = {}  # heard last, in the order they came
        self._backoffs: dict[str, Backoff] = {}
        self._held_max = limits.connections_max
        self._bound_until_s = math.inf

    @property
    def full(self) -> bool:
        """Whether the adapter holds no more connections."""
        return len(self.links) >= self._held_max

    def bound_by(self, address: str, error: BaseException, now_s: float) -> int | None:
        """A connection did not come about; how many there can be, where that is news.

        BlueZ may say that there are too many; then as many as there are is the bound.
        """
        self.backoff(address).unreached += 1
        return self._bound(now_s) if says_full(error) else None

    def needs_room(self, address: str) -> bool:
        """Whether to try if the device is reached once another one is disconnected.

        An adapter may hold fewer connections than we think, and answer one too many
        with nothing but silence. Ever more rarely: it may as well be the device.
        """
        backoff = self.backoff(address)
        wanted = backoff.room_after or self._limits.unreached_max
        return backoff.unreached >= wanted

    def note_room(self, address: str) -> None:
        """Room is being made for it; again once it has failed as often once more."""
        backoff = self.backoff(address)
        backoff.room_made, backoff.room_after = True, 2 * backoff.unreached

    def reached(self, address: str, now_s: float) -> int | None:
        """The connection came about; the bound that this shows, where that is news."""
        backoff = self.backoff(address)
        made, backoff.unreached, backoff.room_made = backoff.room_made, 0, False
        backoff.room_after = 0
        if not made:
            return None
        return self._bound(now_s)

    def _bound(self, now_s: float) -> int | None:
        """As many as there are now; for a time, for it may have been something else."""
        links = self.links.values()
        held = sum(one.reached and not one.gone.is_set() for one in links)
        if not BOUND_MIN <= held < self._held_max:
            return None
        self._held_max, self._bound_until_s = held, now_s + self._limits.bound_s
        return held

    def forget_bound(self) -> None:
        """Another adapter, or the same with nobody else's connections on it."""
        self._held_max, self._bound_until_s = self._limits.connections_max, math.inf

    def backoff(self, address: str) -> Backoff:
        """The failures of a device."""
        return self._backoffs.setdefault(address, Backoff())

    def may_try(self, address: str, now_s: float) -> bool:
        """Whether the device is neither connected nor to be left alone for now."""
        return address not in self.links and now_s >= self.backoff(address).not_before_s

    def is_next(self, address: str, now_s: float) -> bool:
        """Whether a connection is free for it: those who wait come first, in order.

        One that is not next waits from now on, as long as it goes on advertising.
        """
        if now_s > self._bound_until_s:
            self.forget_bound()
        for one, heard_s in list(self._waiting.items()):
            if now_s - heard_s > self._limits.fresh_s:
                del self._waiting[one]  # it sleeps again
        free = self._held_max - len(self.links)
        queue = list(self._waiting)
        place = queue.index(address) if address in self._waiting else len(queue)
        if place < free:
            self._waiting.pop(address, None)
            return True
        self._waiting[address] = now_s
        return False

    def idlest(self, now_s: float) -> Link | None:
        """The connection to give up: idle for long enough, and longest; or None."""
        idle = [one for one in self.links.values() if one.connected and not one.busy]
        longest = min(idle, key=lambda one: one.heard_s, default=None)
        if longest is None or now_s - longest.heard_s < self._limits.idle_s:
            return None
        return longest

    def forget_waiting(self) -> None:
        """What was heard before means nothing any more."""
        self._waiting.clear()
