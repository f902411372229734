"""Seeded models of patients: vital signs as pure functions of model time.

Every value is baseline + slow drift + a part that moves with the breath + noise,
clamped to what a living adult shows. A value depends on (seed, bed, step) alone, so a
ward can be run again, at any speed, and samples may be skipped; nothing is accumulated.
Randomness is a hash (BLAKE2b), the same on every machine and Python.

Episodes lie over the model and run in real seconds since the ward started.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from decimal import Decimal
from functools import lru_cache

UNIT_RANGE = 1 << 16
DESATURATION_PERIOD_S = 180.0
TACHYCARDIA_PERIOD_S = 300.0
CONTACT_LOSS_PERIOD_S = 120.0
DRIFT_PERIODS_S = (47.0, 311.0)
MAYER_WAVE_HZ = 0.1  # the ten-second rhythm of arterial pressure

# Clamps: lowest and highest value that a model may show.
HEART_RATE_RANGE = (25.0, 220.0)
SPO2_RANGE = (50.0, 100.0)
RESPIRATION_RANGE = (4.0, 60.0)
TEMPERATURE_RANGE = (33.0, 42.0)
SYSTOLIC_RANGE = (60.0, 240.0)
DIASTOLIC_RANGE = (30.0, 140.0)


@dataclass(frozen=True, slots=True)
class Vitals:
    """The state of a patient at one model second."""

    heart_rate: float  # /min
    spo2: float  # %
    respiratory_rate: float  # /min
    body_temperature: float  # Cel
    systolic_pressure: float  # mm[Hg]
    diastolic_pressure: float  # mm[Hg]

    @property
    def mean_pressure(self) -> float:
        """The usual estimate: a third of the pulse pressure above the diastolic."""
        return (self.systolic_pressure + 2 * self.diastolic_pressure) / 3


Overlay = Callable[[Vitals, float], Vitals]


def clamp(value: float, limits: tuple[float, float]) -> float:
    """`value`, moved to the nearer of `limits` when it lies outside."""
    return min(max(value, limits[0]), limits[1])


def rounded(value: float, places: int = 0) -> Decimal:
    """What a monitor shows: `value` with `places` decimals."""
    return Decimal(f"{value:.{places}f}")


@lru_cache(maxsize=8192)
def noise(seed: int, key: str, step: int) -> float:
    """Near-normal noise, mean 0, deviation 1, at most 3.5: a sum of four uniforms."""
    digest = hashlib.blake2b(f"{seed}/{key}/{step}".encode(), digest_size=8).digest()
    total = sum(int.from_bytes(digest[i : i + 2], "big") for i in range(0, 8, 2))
    return (total / UNIT_RANGE - 2.0) * math.sqrt(3.0)


def drift(seed: int, key: str, time_s: float) -> float:
    """Slow wander, about -1.5 to 1.5: noise at lattice times, joined by cosines."""
    total = 0.0
    for period_s in DRIFT_PERIODS_S:
        at, part = divmod(time_s / period_s, 1.0)
        blend = (1 - math.cos(math.pi * part)) / 2
        name = f"{key}/{period_s}"
        before, after = noise(seed, name, int(at)), noise(seed, name, int(at) + 1)
        total += before + (after - before) * blend
    return total / len(DRIFT_PERIODS_S)


class Patient:
    """One modelled patient."""

    def __init__(self, seed: int, bed: int) -> None:
        self._seed = seed
        self._key = f"bed-{bed}"
        self.heart_rate = 74 + 5 * self._noise("hr0", 0)
        self.spo2 = clamp(96.8 + 0.6 * self._noise("spo2-0", 0), (95.0, 98.5))
        self.respiratory_rate = 15 + 1.2 * self._noise("rr0", 0)
        self.temperature = 36.8 + 0.2 * self._noise("temp0", 0)
        self.systolic = 122 + 6 * self._noise("sys0", 0)
        self.diastolic = 74 + 4 * self._noise("dia0", 0)

    def _noise(self, name: str, step: int) -> float:
        return noise(self._seed, f"{self._key}/{name}", step)

    def _drift(self, name: str, time_s: float) -> float:
        return drift(self._seed, f"{self._key}/{name}", time_s)

    def vitals(self, step: int) -> Vitals:
        """The vital signs in model second `step`, without episodes."""
        breath = math.sin(2 * math.pi * self.respiratory_rate / 60 * step)
        mayer = math.sin(2 * math.pi * MAYER_WAVE_HZ * step)
        pressure = 3 * self._drift("bp", step) + 2 * mayer
        heart_rate = (
            self.heart_rate
            + 3 * self._drift("hr", step)
            + 2.5 * breath  # the heart is faster while breathing in
            + 0.8 * self._noise("hr", step)
        )
        spo2 = (
            self.spo2 + 0.6 * self._drift("spo2", step) + 0.25 * self._noise("o", step)
        )
        respiration = (
            self.respiratory_rate
            + 1.2 * self._drift("rr", step)
            + 0.4 * self._noise("rr", step)
        )
        temperature = self.temperature + 0.15 * self._drift("temp", step)
        systolic = (
            self.systolic + pressure - 2 * breath + 1.5 * self._noise("sys", step)
        )
        diastolic = self.diastolic + 0.6 * pressure - breath + self._noise("dia", step)
        return Vitals(
            heart_rate=clamp(heart_rate, HEART_RATE_RANGE),
            spo2=clamp(spo2, SPO2_RANGE),
            respiratory_rate=clamp(respiration, RESPIRATION_RANGE),
            body_temperature=clamp(temperature, TEMPERATURE_RANGE),
            systolic_pressure=clamp(systolic, SYSTOLIC_RANGE),
            diastolic_pressure=clamp(diastolic, DIASTOLIC_RANGE),
        )

    def beat_intervals_s(self, step: int, vitals: Vitals) -> list[float]:
        """The RR intervals (seconds) of the beats that fall into model second `step`.

        Beats are placed by the patient's resting rate, so that they can be counted
        without a history; each interval follows the present rate.
        """
        per_second = self.heart_rate / 60
        first, last = math.floor(per_second * step), math.floor(per_second * (step + 1))
        present = 60 / vitals.heart_rate
        return [
            present * (1 + 0.02 * self._noise("beat", beat))
            for beat in range(first, last)
        ]


def healthy(vitals: Vitals, _elapsed_s: float) -> Vitals:
    """No episode."""
    return vitals


def _share(
    elapsed_s: float, rise: tuple[float, float], fall: tuple[float, float]
) -> float:
    """0 before `rise`, 1 between, 0 after `fall`; straight in between, in seconds."""
    if elapsed_s < fall[0]:
        return clamp((elapsed_s - rise[0]) / (rise[1] - rise[0]), (0.0, 1.0))
    return clamp((fall[1] - elapsed_s) / (fall[1] - fall[0]), (0.0, 1.0))


def desaturation(vitals: Vitals, elapsed_s: float) -> Vitals:
    """SpO2 falls to 84 % from second 3 to 6, stays until 40, recovers by 55.

    The body answers: the heart and the breath become faster. Again each 180 s.
    """
    share = _share(elapsed_s % DESATURATION_PERIOD_S, (3.0, 6.0), (40.0, 55.0))
    return replace(
        vitals,
        spo2=vitals.spo2 + (84.0 + (vitals.spo2 % 1.0) - vitals.spo2) * share,
        heart_rate=clamp(vitals.heart_rate + 16 * share, HEART_RATE_RANGE),
        respiratory_rate=clamp(vitals.respiratory_rate + 7 * share, RESPIRATION_RANGE),
    )


def tachycardia(vitals: Vitals, elapsed_s: float) -> Vitals:
    """The heart runs at about 150 /min from second 6 to 30; again each five minutes."""
    share = _share(elapsed_s % TACHYCARDIA_PERIOD_S, (5.5, 6.0), (30.0, 31.0))
    wobble = 0.2 * (vitals.heart_rate - 74)
    return replace(
        vitals,
        heart_rate=vitals.heart_rate + (150 + wobble - vitals.heart_rate) * share,
    )


def hypertensive(vitals: Vitals, first: bool) -> Vitals:
    """The first cuff reading shows 192 mm[Hg]; later ones what the patient has."""
    if not first:
        return vitals
    return replace(vitals, systolic_pressure=192.0, diastolic_pressure=112.0)


def contact_lost(elapsed_s: float) -> bool:
    """Whether the chest strap has slipped: seconds 20 to 25 of every two minutes."""
    return 20.0 <= elapsed_s % CONTACT_LOSS_PERIOD_S < 25.0
