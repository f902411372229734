"""The ward's patients: deterministic, physiological, and ill on schedule."""

from __future__ import annotations

import subprocess
import sys
from itertools import pairwise
from statistics import fmean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firmware_sim import patients
from firmware_sim.patients import Patient, Vitals

SEEDS = st.integers(0, 2**32)
BEDS = st.integers(1, 100)
STEPS = st.integers(0, 10**7)
ELAPSED_S = st.floats(0, 100_000)


@given(SEEDS, BEDS, STEPS)
def test_a_vital_sign_depends_on_seed_bed_and_step_alone(
    seed: int, bed: int, step: int
) -> None:
    """Asked in another order, by another object, the answer is the same."""
    first = Patient(seed, bed)
    first.vitals(step + 1)
    assert first.vitals(step) == Patient(seed, bed).vitals(step)


def test_another_process_has_the_same_patient() -> None:
    """Python's own hash() differs between processes; ours must not."""
    command = "from firmware_sim.patients import *; print(Patient(1, 1).vitals(77))"
    printed = subprocess.run(
        [sys.executable, "-c", command], check=True, capture_output=True, text=True
    ).stdout
    assert printed.strip() == repr(Patient(1, 1).vitals(77))


def test_two_beds_and_two_seeds_differ() -> None:
    """A ward of one patient in eight beds would hide mixed-up devices."""
    seen = {Patient(seed, bed).vitals(5) for seed in (1, 2) for bed in range(1, 9)}
    assert len(seen) == 16


def _assert_alive(vitals: Vitals) -> None:
    """Bounds of living adults, written here anew and not read from the model."""
    assert 25 <= vitals.heart_rate <= 220
    assert 50 <= vitals.spo2 <= 100
    assert 4 <= vitals.respiratory_rate <= 60
    assert 33 <= vitals.body_temperature <= 42
    assert 60 <= vitals.systolic_pressure <= 240
    assert 30 <= vitals.diastolic_pressure <= 140
    assert vitals.diastolic_pressure + 10 <= vitals.systolic_pressure
    assert vitals.diastolic_pressure < vitals.mean_pressure < vitals.systolic_pressure


@given(SEEDS, BEDS, STEPS, ELAPSED_S)
def test_every_patient_stays_within_physiological_bounds(
    seed: int, bed: int, step: int, elapsed_s: float
) -> None:
    """With and without an episode, at any time."""
    vitals = Patient(seed, bed).vitals(step)
    for overlay in (patients.healthy, patients.desaturation, patients.tachycardia):
        _assert_alive(overlay(vitals, elapsed_s))
    _assert_alive(patients.hypertensive(vitals, first=True))


@pytest.mark.parametrize("bed", range(1, 9))
def test_a_healthy_patient_raises_no_alarm_in_an_hour(bed: int) -> None:
    """Only the episodes may alarm, or the demo's alerts would mean nothing."""
    patient = Patient(1, bed)
    hour = [patient.vitals(step) for step in range(0, 3600, 7)]
    assert min(v.spo2 for v in hour) > 92
    assert min(v.heart_rate for v in hour) > 50
    assert max(v.heart_rate for v in hour) < 110
    assert max(v.systolic_pressure for v in hour) < 150
    assert max(v.body_temperature for v in hour) < 38
    assert max(v.respiratory_rate for v in hour) < 24


def test_vital_signs_move_but_do_not_jump() -> None:
    """Real monitors show neither a constant nor white noise of this size."""
    minute = [Patient(1, 1).vitals(step) for step in range(300)]
    rates = [v.heart_rate for v in minute]
    assert max(rates) - min(rates) > 4
    assert max(abs(a - b) for a, b in pairwise(rates)) < 12
    temperatures = [v.body_temperature for v in minute]
    assert max(abs(a - b) for a, b in pairwise(temperatures)) < 0.05


def test_the_desaturation_follows_its_schedule() -> None:
    """Nothing before second 3, below 88 from 7 to 40, healthy again before 60."""
    patient = Patient(1, 1)
    for start in (0, 180, 360):
        for at in range(180):
            spo2 = patients.desaturation(patient.vitals(at), start + at).spo2
            if at <= 3 or at >= 55:
                assert spo2 == patient.vitals(at).spo2
            if 7 <= at <= 40:
                assert spo2 < 88


@given(SEEDS, BEDS, STEPS, st.floats(7, 40))
def test_every_desaturation_is_deep_enough(
    seed: int, bed: int, step: int, elapsed_s: float
) -> None:
    """Whatever the patient's own saturation is."""
    vitals = Patient(seed, bed).vitals(step)
    assert 83 <= patients.desaturation(vitals, elapsed_s).spo2 < 88


def test_the_tachycardia_lasts_from_second_6_to_30() -> None:
    """About 150 a minute in between, and the patient's own rate around it."""
    patient = Patient(1, 6)
    for at in range(60):
        own = patient.vitals(at)
        rate = patients.tachycardia(own, at).heart_rate
        if at <= 5 or at >= 31:
            assert rate == own.heart_rate
        if 6 <= at <= 30:
            assert 140 < rate < 160


def test_only_the_first_cuff_reading_is_hypertensive() -> None:
    """192 once, so that a rule with `for` and one without can be told apart."""
    vitals = Patient(1, 3).vitals(0)
    assert patients.hypertensive(vitals, first=True).systolic_pressure == 192
    assert patients.hypertensive(vitals, first=False) == vitals


def test_beats_come_at_the_resting_rate_and_at_the_present_interval() -> None:
    """RR intervals of one minute: as many as the rate says, each near 60 / rate."""
    patient = Patient(1, 7)
    intervals_s = []
    for step in range(60):
        vitals = patient.vitals(step)
        beats = patient.beat_intervals_s(step, vitals)
        intervals_s += beats
        assert all(abs(beat * vitals.heart_rate / 60 - 1) < 0.08 for beat in beats)
    assert abs(len(intervals_s) - patient.heart_rate) <= 1
    assert abs(60 / fmean(intervals_s) - patient.heart_rate) < 6


@given(st.integers(0, 10**6))
def test_noise_is_bounded(step: int) -> None:
    """A sum of four uniforms cannot exceed its own width."""
    assert abs(patients.noise(3, "any", step)) <= 3.5


def test_noise_has_mean_zero_and_deviation_one() -> None:
    """10,000 draws; five standard errors."""
    drawn = [patients.noise(5, "sample", step) for step in range(10_000)]
    assert abs(fmean(drawn)) < 0.05
    assert abs(fmean(x * x for x in drawn) - 1) < 0.06
