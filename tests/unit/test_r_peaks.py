"""R peaks against the cardiologists' annotations of a recorded ECG, clean and noisy.

A peak counts as found within 150 ms of the annotation (ANSI/AAMI EC57). The recording
lies outside the repository; where it is not, the tests on it are skipped.
"""

from __future__ import annotations

import bisect
import itertools
import math
import random
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.devices.r_peaks import RPeaks

DATA = Path(__file__).parents[3] / "shared" / "data"
SIGNAL, BEATS = DATA / "ecg-mitdb-100.npy", DATA / "ecg-mitdb-100-beats.csv"
RECORDED_HZ = 360
TOLERANCE_S = 0.150
recorded = pytest.mark.skipif(
    not SIGNAL.exists(), reason="the recorded ECG (../shared/data) is not here"
)


def load_signal() -> list[int]:
    """The int16 samples of a .npy file of version 1.0, without numpy."""
    octets = SIGNAL.read_bytes()
    (head_size,) = struct.unpack_from("<H", octets, 8)
    assert b"'<i2'" in octets[: 10 + head_size]
    count = (len(octets) - 10 - head_size) // 2
    return list(struct.unpack_from(f"<{count}h", octets, 10 + head_size))


def load_beats() -> list[int]:
    """The samples of every annotated beat; "+" marks a rhythm, not a beat."""
    rows = [line.split(",") for line in BEATS.read_text().splitlines()[1:]]
    return [int(sample) for sample, symbol in rows if symbol != "+"]


def at_rate(signal: list[int], rate_hz: int) -> list[int]:
    """The signal at another rate, by straight lines."""
    out = []
    for i in range((len(signal) - 1) * rate_hz // RECORDED_HZ):
        place, rest = divmod(i * RECORDED_HZ, rate_hz)
        a, b = signal[place], signal[place + 1]
        out.append(a + (b - a) * rest // rate_hz)
    return out


def score(found: list[int], beats: list[float], rate_hz: int) -> tuple[float, float]:
    """Sensitivity and precision, each peak and each beat used once."""
    tolerance, free, hits = TOLERANCE_S * rate_hz, sorted(found), 0
    for beat in beats:
        place = bisect.bisect_left(free, beat - tolerance)
        if place < len(free) and free[place] <= beat + tolerance:
            del free[place]
            hits += 1
    return hits / len(beats), hits / len(found)


def noisy(signal: list[int], rate_hz: int, seed: int) -> list[int]:
    """With baseline wander of 0.8 mV and muscle noise at 10 dB below the signal.

    Muscle noise is random with its slow part (below some 20 Hz) taken out; the power
    of the signal is that around its mean. A millivolt is 200 steps.
    """
    chance = random.Random(seed)
    mean = sum(signal) / len(signal)
    power = sum((one - mean) ** 2 for one in signal) / len(signal)
    white = [chance.gauss(0, 1) for _ in signal]
    keep = math.exp(-2 * math.pi * 20 / rate_hz)
    slow, muscle = 0.0, []
    for one in white:
        slow = keep * slow + (1 - keep) * one
        muscle.append(one - slow)
    muscle_power = sum(one * one for one in muscle) / len(muscle)
    gain = math.sqrt(power / 10 / muscle_power)
    phase = chance.uniform(0, 2 * math.pi)
    out = []
    for i, (ecg, noise) in enumerate(zip(signal, muscle, strict=True)):
        t = i / rate_hz
        wander = 100 * math.sin(2 * math.pi * 0.3 * t + phase)
        wander += 60 * math.sin(2 * math.pi * 0.12 * t)
        out.append(round(ecg + gain * noise + wander))
    return out


@recorded
@pytest.mark.parametrize("rate_hz", [250, 360])
def test_the_peaks_are_those_that_the_cardiologists_saw(rate_hz: int) -> None:
    """The issue asks for 99 %."""
    signal = load_signal()
    signal = signal if rate_hz == RECORDED_HZ else at_rate(signal, rate_hz)
    beats = [beat * rate_hz / RECORDED_HZ for beat in load_beats()]
    beats = [beat for beat in beats if beat < len(signal) - TOLERANCE_S * rate_hz]
    assert len(beats) > 700
    sensitivity, precision = score(RPeaks(rate_hz).feed(signal), beats, rate_hz)
    print(f"{rate_hz} Hz: sensitivity {sensitivity:.4f}, precision {precision:.4f}")
    assert sensitivity >= 0.99
    assert precision >= 0.99


@recorded
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_wander_and_muscle_noise_hide_few_of_them(seed: int) -> None:
    """97 % with noise at 10 dB."""
    rate_hz = 250
    signal = noisy(at_rate(load_signal(), rate_hz), rate_hz, seed)
    beats = [beat * rate_hz / RECORDED_HZ for beat in load_beats()]
    sensitivity, precision = score(RPeaks(rate_hz).feed(signal), beats, rate_hz)
    print(f"seed {seed}: sensitivity {sensitivity:.4f}, precision {precision:.4f}")
    assert sensitivity >= 0.97
    assert precision >= 0.97


def beating(rate_hz: int, intervals_s: list[float], gain: int = 200) -> list[int]:
    """QRS complexes like triangles of 80 ms, with a T wave 300 ms behind each."""
    out = [0] * int(sum(intervals_s) * rate_hz + rate_hz)
    at_s = 0.5
    for interval_s in intervals_s:
        for begin_s, width_s, height in ((0, 0.08, gain), (0.3, 0.16, gain // 4)):
            first = int((at_s + begin_s) * rate_hz)
            size = int(width_s * rate_hz)
            for i in range(size):
                if first + i < len(out):
                    out[first + i] += height * min(i, size - i) * 2 // size
        at_s += interval_s
    return out


@pytest.mark.parametrize("rate_hz", [100, 125, 250, 500, 1000])
@pytest.mark.parametrize("beat_s", [0.35, 0.6, 1.0, 1.8])
def test_a_regular_heart_is_counted_right_at_any_rate(
    rate_hz: int, beat_s: float
) -> None:
    """33 to 171 a minute; the T waves are not counted."""
    count = 40
    found = RPeaks(rate_hz).feed(beating(rate_hz, [beat_s] * count))
    assert abs(len(found) - count) <= 1
    gaps = [(b - a) / rate_hz for a, b in itertools.pairwise(found)]
    assert all(abs(gap - beat_s) < 0.05 for gap in gaps[2:])


def test_a_small_beat_among_large_ones_is_looked_for_again() -> None:
    """A fifth of the others in the square: only the look back finds it."""
    signal = beating(250, [0.8] * 30)
    small = beating(250, [0.8] * 30, gain=90)
    begin, end = int((0.4 + 20 * 0.8) * 250), int((0.4 + 20.6 * 0.8) * 250)
    signal[begin:end] = small[begin:end]
    found = RPeaks(250).feed(signal)
    assert any(begin <= one <= end for one in found)


def test_a_flat_line_and_a_step_are_no_heart() -> None:
    assert RPeaks(250).feed([0] * 10_000) == []
    assert RPeaks(250).feed([500] * 10_000) == []


@given(st.lists(st.integers(1, 700), min_size=1, max_size=20))
def test_it_does_not_matter_how_the_samples_are_cut(sizes: list[int]) -> None:
    signal = beating(250, [0.7, 0.9, 0.8] * 5)
    whole = RPeaks(250).feed(signal)
    detector, found, at = RPeaks(250), [], 0
    for size in [*sizes, len(signal)]:
        found += detector.feed(signal[at : at + size])
        at += size
    assert found == whole


@given(st.lists(st.integers(-32768, 32767), max_size=3000), st.integers(100, 2000))
def test_any_samples_give_peaks_in_order_and_apart(
    samples: list[int], rate_hz: int
) -> None:
    found = RPeaks(rate_hz).feed(samples)
    assert all(0 <= one < len(samples) for one in found)
    assert all(a < b for a, b in itertools.pairwise(found))


@pytest.mark.parametrize("rate_hz", [0, 99, 2001])
def test_a_rate_that_no_ecg_has_is_a_mistake(rate_hz: int) -> None:
    with pytest.raises(ValueError, match="100 to 2000"):
        RPeaks(rate_hz)
