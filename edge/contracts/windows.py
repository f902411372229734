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

from collections.abc import Callable

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
    if total >= 0:
        return (2 * total + count) // (2 * count)
    return -((count - 2 * total) // (2 * count))


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


class Samples:
    """A window's buckets for one subject, oldest first, and the sums over them.

    A bucket that another follows does not change any more. So `weights` are those of
    all buckets but the newest, and `low` and `high` those of all, the newest as it was
    then; each is None until a field asks for it.
    """

    __slots__ = ("buckets", "count", "high", "low", "total", "weights")

    def __init__(self) -> None:
        self.buckets: list[Bucket] = []
        self.count = 0
        self.total = 0
        self.low: int | None = None
        self.high: int | None = None
        self.weights: int | None = None

    def add(self, window: Window, value: int, at_ms: int) -> bool:
        """Take a usable sample; whether the window was empty before."""
        number = at_ms // window.bucket_ms
        buckets = self.buckets
        if buckets and buckets[-1].number == number:
            newest = buckets[-1]
            if newest.count < BUCKET_SAMPLES_MAX:
                newest.count += 1
                newest.total += value
                if value < newest.low:  # quicker than min() and max(), once a sample
                    newest.low = value
                elif value > newest.high:
                    newest.high = value
                newest.last, newest.last_ms = value, at_ms
                self.count += 1
                self.total += value
            return False
        if buckets and buckets[0].number <= number - window.count:
            self.expire(window, at_ms)
        empty = not buckets
        buckets.append(Bucket(number, value, at_ms))
        self.low = self.high = self.weights = None
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
            self.low = self.high = self.weights = None
        return bool(gone)


# ---- The fields: (samples, window) -> the value, None for UNKNOWN ----

Reader = Callable[[Samples, Window], int | None]


def reader(field: str) -> Reader:
    """What reads a field of a window."""
    return _READERS[field]


def _count(samples: Samples, _: Window) -> int:
    return samples.count


def _filled(samples: Samples, _: Window) -> int:
    return len(samples.buckets)


def _sum(samples: Samples, window: Window) -> int | None:
    if len(samples.buckets) < (window.filled or 1):
        return None
    return samples.total


def _mean(samples: Samples, window: Window) -> int | None:
    if len(samples.buckets) < (window.filled or 1):
        return None
    return nearest(samples.total, samples.count)


def _min(samples: Samples, window: Window) -> int | None:
    buckets = samples.buckets
    if len(buckets) < (window.filled or 1):
        return None
    if samples.low is None:
        samples.low = min(one.low for one in buckets)  # with the newest: it only falls
    return min(samples.low, buckets[-1].low)


def _max(samples: Samples, window: Window) -> int | None:
    buckets = samples.buckets
    if len(buckets) < (window.filled or 1):
        return None
    if samples.high is None:
        samples.high = max(one.high for one in buckets)
    return max(samples.high, buckets[-1].high)


def _change(samples: Samples, window: Window) -> int | None:
    buckets = samples.buckets
    if len(buckets) < (window.filled or 1):
        return None
    return buckets[-1].last - buckets[0].first


def _rate(samples: Samples, window: Window) -> int | None:
    change = _change(samples, window)
    if change is None:
        return None
    passed_ms = samples.buckets[-1].last_ms - samples.buckets[0].first_ms
    if passed_ms < window.bucket_ms:
        return None
    rate = abs(change) * HOUR_MS // passed_ms
    return rate if change >= 0 else -rate


def _mkt(samples: Samples, window: Window) -> int | None:
    buckets = samples.buckets
    if len(buckets) < (window.filled or 1):
        return None
    if samples.weights is None:
        samples.weights = sum(_weight(one) for one in buckets[:-1])
    return mkt.temperature(samples.weights + _weight(buckets[-1]), len(buckets))


def _weight(bucket: Bucket) -> int:
    return mkt.weight(nearest(bucket.total, bucket.count))


_READERS: dict[str, Reader] = {
    "sum": _sum,
    "min": _min,
    "max": _max,
    "mean": _mean,
    "count": _count,
    "change": _change,
    "rate": _rate,
    "mkt": _mkt,
    "filled": _filled,
}
