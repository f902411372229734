"""The alerts as a feed: numbered in the order of their commits, read at any pace.

The newest are in memory; what is older is read from the store again, where a firing
lies once, whoever has still to be told of it.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping

from edge.delivery.alerts import alert_payload, alert_topic
from edge.model import CommitReport, FeedItem, FeedPage, Firing, LiveFiring
from edge.store import firings
from edge.store.reader import Reader, StoredRecord

RECENT_COUNT = 512  # kept in memory
STORE_PAGE_COUNT = 16  # read at once: some ms


class AlertFeed:
    """What subscribers of alerts read; `grew` are called when there is more."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self.grew: list[Callable[[], None]] = []
        self._recent: list[FeedItem] = []
        self._last = firings.released(reader.connection)
        self.published = 0

    @property
    def last(self) -> int:
        """The newest number that may be told: its commit was shown."""
        return self._last

    @property
    def first(self) -> int:
        """The oldest number that can still be read."""
        return firings.bounds(self._reader.connection)[0]

    def update(self, report: CommitReport) -> None:
        """Take what a commit made durable; a listener of Intake.on_commit."""
        numbered = [one for one in report.firings if one.number > self._last]
        for live in numbered:
            self._recent.append(_item(live, report.time_ms))
            self._last = live.number
        if len(self._recent) >= 2 * RECENT_COUNT:
            del self._recent[:-RECENT_COUNT]
        if numbered:
            self.published += len(numbered)
            for tell in self.grew:
                tell()

    def after(self, number: int, count: int) -> FeedPage:
        """At most `count` alerts after this number."""
        if number >= self._last:
            return FeedPage((), number)
        if not self._recent or number < self._recent[0].number - 1:
            return self._stored(number, min(count, STORE_PAGE_COUNT))
        start = bisect_right(self._recent, number, key=lambda one: one.number)
        items = tuple(self._recent[start : start + count])
        return FeedPage(items, items[-1].number if items else self._last)

    def forget(self, _patient: str) -> None:
        """Somebody was erased: hold nothing that the store has no more."""
        self._recent.clear()
        self._reader.forget_keys()

    def _stored(self, number: int, count: int) -> FeedPage:
        page = firings.page(self._reader, number, self._last, count)
        patients = self._reader.patients()
        items = [_from_store(one, stored, patients) for one, stored in page.firings]
        return FeedPage(tuple(items), page.through)


def _item(live: LiveFiring, committed_ms: int) -> FeedItem:
    payload = alert_payload(live, committed_ms)
    return FeedItem(live.number, alert_topic(live.firing), payload)


def _from_store(
    number: int, stored: StoredRecord, patients: Mapping[str, tuple[int, str]]
) -> FeedItem:
    live = live_firing(stored, patients, number)
    return _item(live, stored.record.received_ms)


def live_firing(
    stored: StoredRecord, patients: Mapping[str, tuple[int, str]], number: int = 0
) -> LiveFiring:
    """A stored firing as it is told; of an erased patient there is no name."""
    firing = Firing.decode(stored.record.original)
    kind, _, key = firing.subject.partition(":")
    patient = patients.get(key) if kind == "patient" else None
    device = key if kind == "device" else None
    name = patient[1] if patient else None
    return LiveFiring(firing, device, name, stored.reading_id(0), number)
