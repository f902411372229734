"""The ECG of one device: chunks in, acknowledgements out, R peaks on the way.

    chunk ─► record (deduplicated by admission) ─► durable ─► acknowledged to the device
      └────► in order, once ─► R peaks ─► heart rate ─► record of the stream ecg-rate

It outlives connections: what was acknowledged, and the detector, which must not see a
sample twice. Samples that the device does not begin a connection with, although they
are next, it has no more: a gap, behind which the detector begins anew. Where some are
missing within a connection they were lost on the way, or the device has just given them
up: the connection ends, so that the device begins with the first that it still has.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable

from edge.devices.originals import LATE_MS
from edge.devices.profiles import ecg
from edge.devices.profiles.ecg import EcgChunk
from edge.devices.profiles.heart_rate import HeartRateMeasurement
from edge.devices.r_peaks import RPeaks
from edge.errors import RefusedError
from edge.model import Outcome, Verdict
from edge.sources.ble_link import Link, Value
from edge.sources.ble_words import RADIO_ERRORS, explain

log = logging.getLogger("edge.ble")

RATE_INTERVALS = 8  # of the mean that is the heart rate
RATE_PERIOD_S = 1  # of signal, between two heart rates
PAUSE_MAX_S = 3  # a longer interval is no interval: the lead was off, or worse
_RR_PER_SECOND = 1024
_RR_MAX = 0xFFFF
Gap = Callable[[str], None]


class EcgStream:
    """One device's; `gap` is told in words of samples that never came."""

    def __init__(self, gap: Gap) -> None:
        self._gap = gap
        self._session: int | None = None
        self._link: Link | None = None  # that the newest chunk came over
        self._rate_hz = 0
        self._next = 0  # the first sample that the detector has not seen
        self._durable = 0  # every sample before it is
        self._settled: dict[int, int] = {}  # first -> end, done, but not all before it
        self._acknowledging: asyncio.Task[None] | None = None
        self._acknowledged = -1
        self._start_s = float("inf")  # when sample 0 was, at the latest
        self._reset(0, 0)

    def _reset(self, rate_hz: int, first: int) -> None:
        """The detector begins at this sample."""
        self._rate_hz = rate_hz
        self._peaks = RPeaks(rate_hz) if rate_hz else None
        self._peaks_from = first
        self._last_peak: int | None = None
        self._intervals: deque[int] = deque(maxlen=RATE_INTERVALS)
        self._new_intervals: list[int] = []
        self._rate_due = first

    def take(self, link: Link, value: bytes) -> list[Value]:
        """What a chunk gives the intake: itself, and the heart rate where it is due."""
        try:
            chunk = EcgChunk.from_bytes(value)
        except RefusedError:
            return [Value(ecg.SAMPLES_UUID, value)]  # the intake refuses and keeps it
        if chunk.session != self._session:
            self._session = chunk.session
            self._next = self._durable = chunk.first
            self._settled.clear()
            self._acknowledged = -1
            self._start_s = float("inf")
            self._reset(chunk.rate_hz, chunk.first)
        begins, self._link = link is not self._link, link
        if chunk.first > self._next and not begins:
            if not link.gone.is_set():
                log.warning(
                    "%s: a part of its ECG did not come: asked anew", link.device
                )
                link.gone.set()
            return []
        old = self._is_old(chunk)
        settle = self._settler(link, chunk)
        values = [
            Value(ecg.SAMPLES_UUID, value, stored=True, backlog=old, settle=settle)
        ]
        if chunk.end > self._next:
            if chunk.first > self._next:
                missing = chunk.first - self._next
                self._gap(f"{link.device}: {missing} samples of its ECG are missing")
                self._settled[self._next] = chunk.first  # given up: not waited for
                self._next = chunk.first
                self._reset(chunk.rate_hz, chunk.first)
            elif chunk.rate_hz != self._rate_hz:
                self._reset(chunk.rate_hz, self._next)
            rate = self._heart_rate(chunk.samples[self._next - chunk.first :])
            self._next = chunk.end
            if rate is not None:
                values.append(Value(ecg.RATE_STREAM, rate, backlog=old))
        return values

    def _is_old(self, chunk: EcgChunk) -> bool:
        """Whether the chunk tells of a minute ago or more: it waited in the device."""
        now_s = asyncio.get_running_loop().time()
        self._start_s = min(self._start_s, now_s - chunk.end / chunk.rate_hz)
        age_s = now_s - self._start_s - chunk.end / chunk.rate_hz
        return age_s * 1000 > LATE_MS

    def _heart_rate(self, samples: tuple[int, ...]) -> bytes | None:
        """The Heart Rate Measurement that these samples complete, if any."""
        assert self._peaks is not None  # noqa: S101 - take() has begun it
        for place in self._peaks.feed(samples):
            at = self._peaks_from + place
            if self._last_peak is not None:
                interval = at - self._last_peak
                if 0 < interval <= PAUSE_MAX_S * self._rate_hz:
                    self._intervals.append(interval)
                    self._new_intervals.append(interval)
                else:
                    self._intervals.clear()
            self._last_peak = at
        end = self._next + len(samples)
        if not self._new_intervals or end < self._rate_due:
            return None
        self._rate_due = end + RATE_PERIOD_S * self._rate_hz
        new, self._new_intervals = self._new_intervals, []
        if not self._intervals:
            return None
        total = sum(self._intervals)
        count = len(self._intervals)
        per_minute = (2 * 60 * self._rate_hz * count + total) // (2 * total)
        rr = [
            min((one * _RR_PER_SECOND + self._rate_hz // 2) // self._rate_hz, _RR_MAX)
            for one in new
        ]
        return bytes(HeartRateMeasurement(per_minute, rr_intervals=tuple(rr)))

    def _settler(self, link: Link, chunk: EcgChunk) -> Callable[[Outcome], None]:
        def settle(outcome: Outcome) -> None:
            if chunk.session != self._session or outcome.verdict is Verdict.REFUSED:
                return  # a refused chunk is in quarantine; the device keeps its own
            self._settled[chunk.first] = max(
                chunk.end, self._settled.get(chunk.first, 0)
            )
            for first in sorted(self._settled):
                if first > self._durable:
                    break
                self._durable = max(self._durable, self._settled.pop(first))
            self._acknowledge(link)

        return settle

    def _acknowledge(self, link: Link) -> None:
        """One write at a time; what becomes durable meanwhile goes with the next."""
        task = self._acknowledging
        if task is not None and not task.done():
            return
        self._acknowledging = asyncio.get_running_loop().create_task(self._write(link))
        link.answers.add(self._acknowledging)
        self._acknowledging.add_done_callback(link.answers.discard)

    async def _write(self, link: Link) -> None:
        while self._acknowledged < self._durable and self._session is not None:
            if link.client is None or link.gone.is_set():
                return
            durable = self._durable
            octets = ecg.acknowledgement(self._session, durable)
            try:
                await link.client.write_gatt_char(
                    ecg.ACKNOWLEDGEMENT_UUID, octets, response=True
                )
            except RADIO_ERRORS as error:
                log.info("%s: is not acknowledged: %s", link.device, explain(error))
                return
            self._acknowledged = durable
