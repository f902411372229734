"""R peaks of an ECG as it comes: the algorithm of Pan and Tompkins.

J. Pan, W. J. Tompkins, "A Real-Time QRS Detection Algorithm", IEEE Transactions on
Biomedical Engineering BME-32 (1985), 230-236, with the correction of 1985 to its
filters. All in integers, at the paper's 200 Hz; other rates are brought to that by
straight lines between the samples.

    samples ─► 200 Hz ─► low pass ─► high pass ─► slope ─► square ─► mean of 150 ms
                          11 Hz       5 Hz  │                          │
                                            ▼                          ▼
                                     where the peak is          whether there is one

A peak counts when its mean stands above a threshold between the running levels of
signal and of noise, 200 ms after the last at the earliest; one within 360 ms with less
than half of the last one's slope is a T wave. Where none came for 1.66 mean intervals
the largest of those left out is taken after all, if it stands above half the threshold.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

RATE_HZ = 200
RATE_HZ_MIN, RATE_HZ_MAX = 100, 2000

_LEARNING = 2 * RATE_HZ
_WINDOW = 30  # samples: 150 ms
_REFRACTORY = RATE_HZ // 5
_T_WAVE = RATE_HZ * 36 // 100
_PEAK_OVER = _WINDOW  # a maximum stands when nothing above it comes for 150 ms
_FILTER_DELAY = 5 + 16  # samples that the two filters hold a peak back
_SEARCH = 45  # samples of the filtered signal in which the peak of a mean lies
_INTERVALS = 8
_MISSED_PER_CENT = 166
_USUAL_PER_CENT = (92, 116)  # of the mean: what counts as a regular interval
_KEPT = 4 * RATE_HZ


@dataclass(frozen=True, slots=True)
class _Peak:
    at: int  # of the mean, in samples of 200 Hz
    height: int
    slope: int
    peak_at: int  # of the filtered signal


class RPeaks:
    """One lead; `rate_hz` is 100 to 2,000. Samples are in any unit, as integers."""

    def __init__(self, rate_hz: int) -> None:
        if not RATE_HZ_MIN <= rate_hz <= RATE_HZ_MAX:
            raise ValueError(f"{rate_hz} Hz: {RATE_HZ_MIN} to {RATE_HZ_MAX}")
        self._rate_hz = rate_hz
        self._in_count = 0
        self._last_in = 0
        self._count = 0  # of samples at 200 Hz
        self._x: deque[int] = deque([0] * 13, 13)
        self._low: deque[int] = deque([0] * 33, 33)
        self._low_1 = self._low_2 = 0
        self._high_sum = 0
        self._high: deque[int] = deque([0] * _KEPT, _KEPT)
        self._squares: deque[int] = deque([0] * _WINDOW, _WINDOW)
        self._square_sum = 0
        self._slopes: deque[int] = deque([0] * _SEARCH, _SEARCH)
        self._candidate: _Peak | None = None
        self._learned: list[_Peak] | None = []
        self._means_max = self._means_sum = 0
        self._signal = self._noise = 0
        self._last: _Peak | None = None
        self._left_out: list[_Peak] = []
        self._intervals: deque[int] = deque(maxlen=_INTERVALS)
        self._usual: deque[int] = deque(maxlen=_INTERVALS)

    def feed(self, samples: Sequence[int]) -> list[int]:
        """The peaks that are certain now, as numbers of samples since the first.

        They come some 0.2 s after the peak; one that was missed at first, up to 1.66
        intervals after it.
        """
        found: list[int] = []
        rate_hz = self._rate_hz
        for sample in samples:
            # The samples at 200 Hz that lie in (last, this], by straight lines.
            here = self._in_count * RATE_HZ
            while self._count * rate_hz <= here:
                back = here - self._count * rate_hz
                value = sample - (sample - self._last_in) * back // RATE_HZ
                self._step(value, found)
            self._last_in = sample
            self._in_count += 1
        return [at * rate_hz // RATE_HZ for at in found]

    def _step(self, value: int, found: list[int]) -> None:
        """One sample at 200 Hz."""
        x, low, high = self._x, self._low, self._high
        if self._count == 0:  # begin as if the first value had always been there
            x.extend([value] * 13)
            self._low_1 = self._low_2 = 36 * value
            low.extend([36 * value] * 33)
            self._high_sum = 32 * 36 * value
        x.append(value)
        low_0 = 2 * self._low_1 - self._low_2 + x[12] - 2 * x[6] + x[0]
        self._low_2, self._low_1 = self._low_1, low_0
        low.append(low_0)
        # An all-pass less a moving mean of 32 samples.
        self._high_sum += low_0 - low[0]
        high.append(low[16] - self._high_sum // 32)
        slope = (2 * high[-1] + high[-2] - high[-4] - 2 * high[-5]) // 8
        square = slope * slope
        self._square_sum += square - self._squares[0]
        self._squares.append(square)
        self._slopes.append(abs(slope))
        self._consider(self._square_sum // _WINDOW, found)
        self._count += 1

    def _consider(self, mean: int, found: list[int]) -> None:
        """Whether a maximum of the mean has just been passed."""
        candidate = self._candidate
        if candidate is None or mean > candidate.height:
            if candidate is not None or mean > 0:
                self._candidate = _Peak(self._count, mean, 0, 0)
        elif mean < candidate.height // 2 or self._count - candidate.at >= _PEAK_OVER:
            self._candidate = None
            self._judge(self._located(candidate), found)
        if self._learned is not None:
            self._means_max = max(self._means_max, mean)
            self._means_sum += mean
            if self._count + 1 >= _LEARNING:
                self._learn(found)
        self._look_back(found)

    def _located(self, peak: _Peak) -> _Peak:
        """The candidate with its slope, and where in the filtered signal it lies."""
        ago = self._count - peak.at
        first = max(len(self._high) - ago - _SEARCH, 0)
        window = [abs(self._high[i]) for i in range(first, len(self._high) - ago)]
        best = max(range(len(window)), key=window.__getitem__)
        peak_at = self._count - (len(self._high) - 1 - first - best)
        return _Peak(peak.at, peak.height, max(self._slopes), peak_at)

    def _learn(self, found: list[int]) -> None:
        """After two seconds: the first levels, and what came by then."""
        learned, self._learned = self._learned or [], None
        self._signal = self._means_max // 3
        self._noise = self._means_sum // _LEARNING // 2
        for peak in learned:
            self._judge(peak, found)

    def _judge(self, peak: _Peak, found: list[int]) -> None:
        if self._learned is not None:
            self._learned.append(peak)
            return
        last = self._last
        if last is not None and peak.peak_at - last.peak_at < _REFRACTORY:
            return
        t_wave = (
            last is not None
            and peak.peak_at - last.peak_at < _T_WAVE
            and peak.slope < last.slope // 2
        )
        if peak.height > self._threshold and not t_wave:
            self._signal = (peak.height + 7 * self._signal) // 8
            self._accept(peak, found)
        else:
            self._noise = (peak.height + 7 * self._noise) // 8
            if not t_wave:
                self._left_out.append(peak)

    @property
    def _threshold(self) -> int:
        return self._noise + (self._signal - self._noise) // 4

    def _accept(self, peak: _Peak, found: list[int]) -> None:
        if self._last is not None:
            interval = peak.peak_at - self._last.peak_at
            mean = self._mean_interval()
            self._intervals.append(interval)
            low, high = _USUAL_PER_CENT
            if mean is None or low * mean <= 100 * interval <= high * mean:
                self._usual.append(interval)
        self._last = peak
        self._left_out.clear()
        found.append(max(peak.peak_at - _FILTER_DELAY, 0))

    def _mean_interval(self) -> int | None:
        """Of the last regular intervals; of all where none is regular."""
        usual = self._usual or self._intervals
        return sum(usual) // len(usual) if usual else None

    def _look_back(self, found: list[int]) -> None:
        mean, last = self._mean_interval(), self._last
        if mean is None or last is None or not self._left_out:
            return
        if 100 * (self._count - last.at) <= _MISSED_PER_CENT * mean:
            return
        best = max(self._left_out, key=lambda peak: peak.height)
        if best.height > self._threshold // 2:
            self._signal = (best.height + 3 * self._signal) // 4
            self._accept(best, found)
        self._left_out.clear()
