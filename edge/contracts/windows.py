"""Windows: what the samples of an input were over the last so many buckets of time.

A bucket is `received_ms // bucket_ms`; at time t a window holds the buckets up to that
of t, as many as it has. Samples of a bucket are summed up as they come, so a window
costs as much memory for one sample in a bucket as for a thousand.

    count    samples              sum, min, max   of them
    filled   buckets with one     mean            sum / count, a half away from zero
    change   newest sample less the first one of the oldest bucket
    rate     change an hour, toward zero; UNKNOWN where less than a bucket lies between
    mkt      mean kinetic temperature of the buckets' means (mkt.py)

All but count and filled are UNKNOWN while fewer buckets are filled than `filled` says,
or none.
"""

from __future__ import annotations

from edge.contracts import mkt
from edge.contracts.expression import Symbol
from edge.contracts.program import Tree, Window

BUCKETS_MAX = 288
BUCKET_SAMPLES_MAX = 10**6  # further ones of a bucket are not looked at
HOUR_MS = 3_600_000
FIELDS = ("sum", "min", "max", "mean", "count", "change", "rate", "mkt")


def field_symbol(window: Window, field: str, source: Symbol, tree: Tree) -> Symbol:
    """What an expression may name as WINDOW.FIELD, with its unit and range."""
    low, high = source.low, source.high
    unit, scale = source.unit, source.scale
    samples = window.count * BUCKET_SAMPLES_MAX
    spread = high - low
    if field == "sum":
        low, high = min(0, low * samples), max(0, high * samples)
    elif field == "change":
        low, high = -spread, spread
    elif field == "rate":
        unit += "/h"
        steepest = spread * HOUR_MS // window.bucket_ms
        low, high = -steepest, steepest
    elif field in ("count", "filled"):
        unit, scale = "1", 1
        low, high = 0, samples if field == "count" else window.count
    return Symbol(tree, source.inputs, unit, scale, low, high)


def nearest(total: int, count: int) -> int:
    """total / count, a half away from zero."""
    whole, rest = divmod(abs(total), count)
    whole += 2 * rest >= count
    return whole if total >= 0 else -whole


class Bucket:
    """The samples of one bucket."""

    __slots__ = (
        "count",
        "first",
        "first_ms",
        "high",
        "last",
        "last_ms",
        "low",
        "number",
        "total",
    )

    def __init__(self, number: int, value: int, at_ms: int) -> None:
        self.number, self.count, self.total = number, 1, value
        self.low = self.high = self.first = self.last = value
        self.first_ms = self.last_ms = at_ms

    def add(self, value: int, at_ms: int) -> None:
        """One more sample."""
        if self.count >= BUCKET_SAMPLES_MAX:
            return
        self.count += 1
        self.total += value
        if value < self.low:  # quicker than min() and max(), once a sample
            self.low = value
        elif value > self.high:
            self.high = value
        self.last, self.last_ms = value, at_ms


class Samples:
    """A window's buckets for one subject, oldest first, and the sums over them."""

    __slots__ = ("_weighed", "_weights", "buckets", "count", "total")

    def __init__(self) -> None:
        self.buckets: list[Bucket] = []
        self.count = 0
        self.total = 0
        self._weights = 0  # of all buckets but the newest, whose number is:
        self._weighed: int | None = None

    def add(self, window: Window, value: int, at_ms: int) -> bool:
        """Take a usable sample; whether the window was empty before."""
        number = at_ms // window.bucket_ms
        if self.buckets and self.buckets[0].number <= number - window.count:
            self.expire(window, at_ms)
        empty = not self.buckets
        newest = None if empty else self.buckets[-1]
        if newest is not None and newest.number == number:
            if newest.count >= BUCKET_SAMPLES_MAX:
                return False
            newest.add(value, at_ms)
        else:
            self.buckets.append(Bucket(number, value, at_ms))
            self._weighed = None
        self.count += 1
        self.total += value
        return empty

    def expire(self, window: Window, at_ms: int) -> bool:
        """Forget the buckets that the window has left; whether there were any."""
        oldest = at_ms // window.bucket_ms - window.count
        gone = 0
        while gone < len(self.buckets) and self.buckets[gone].number <= oldest:
            self.count -= self.buckets[gone].count
            self.total -= self.buckets[gone].total
            gone += 1
        if gone:
            del self.buckets[:gone]
            self._weighed = None
        return bool(gone)

    def due_ms(self, window: Window) -> int | None:
        """When the oldest bucket leaves the window."""
        if not self.buckets:
            return None
        return (self.buckets[0].number + window.count) * window.bucket_ms

    def value(self, window: Window, field: str) -> int | None:
        """A field of the window, None for UNKNOWN."""
        buckets = self.buckets
        if field == "count":
            return self.count
        if field == "filled":
            return len(buckets)
        if not buckets or len(buckets) < window.filled:
            return None
        match field:
            case "sum":
                return self.total
            case "min":
                return min(one.low for one in buckets)
            case "max":
                return max(one.high for one in buckets)
            case "mean":
                return nearest(self.total, self.count)
            case "mkt":
                return self._mkt()
        oldest, newest = buckets[0], buckets[-1]
        change = newest.last - oldest.first
        if field == "change":
            return change
        passed_ms = newest.last_ms - oldest.first_ms
        if passed_ms < window.bucket_ms:
            return None
        rate = abs(change) * HOUR_MS // passed_ms
        return rate if change >= 0 else -rate

    def _mkt(self) -> int:
        newest = self.buckets[-1]
        if self._weighed != newest.number:  # once a bucket: the others do not change
            self._weights = sum(_weight(one) for one in self.buckets[:-1])
            self._weighed = newest.number
        return mkt.temperature(self._weights + _weight(newest), len(self.buckets))


def _weight(bucket: Bucket) -> int:
    return mkt.weight(nearest(bucket.total, bucket.count))
