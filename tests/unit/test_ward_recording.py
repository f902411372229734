"""The recorded patient: sent as it was recorded."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pytest

from firmware_sim import recording
from firmware_sim.recording import Minute

MINUTES = recording.load()


def test_the_recording_has_all_its_minutes() -> None:
    """1,936 minutes, 152 of them with a cuff reading (counted with awk)."""
    assert len(MINUTES) == 1936
    assert sum(bool(minute.cuff) for minute in MINUTES) == 152


def test_a_sensor_that_was_off_is_zero_and_a_value_not_due_is_absent() -> None:
    """The first line of the file, copied by hand: 0.0 stays, empty cells go."""
    assert MINUTES[0] == Minute(
        monitor={
            "heart_rate": Decimal("0.0"),
            "respiratory_rate": Decimal("23.0"),
            "spo2": Decimal("0.0"),
            "pulse_rate": Decimal("0.0"),
            "systolic_pressure": Decimal("0.0"),
            "diastolic_pressure": Decimal("0.0"),
            "mean_pressure": Decimal("0.0"),
        },
        cuff={},
    )


def test_cuff_and_arterial_line_are_not_mixed_up() -> None:
    """Minute 14 has the first cuff reading, 120/72 (89), and no arterial line."""
    assert MINUTES[14].cuff == {
        "systolic_pressure": 120,
        "diastolic_pressure": 72,
        "mean_pressure": 89,
    }
    assert MINUTES[14].monitor["systolic_pressure"] == 0
    assert MINUTES[14].monitor["spo2"] == 96


def test_values_keep_the_digits_of_the_file() -> None:
    """ "62.8" is 62.8 and not the double next to it."""
    assert str(MINUTES[1].monitor["heart_rate"]) == "62.8"


def test_an_absent_recording_is_an_error_that_the_ward_can_catch(
    tmp_path: Path,
) -> None:
    """In an installed package a modelled patient stands in."""
    with pytest.raises(FileNotFoundError):
        recording.load(tmp_path / "icu-numerics.csv")
