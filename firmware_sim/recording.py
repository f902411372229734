"""A recorded intensive-care patient: firmware_sim/recordings/icu-numerics.csv.

One line is one minute: `minute,HR,ABPSys,...`. An empty cell means that nothing was due
and is left out; 0.0 means that the sensor was off and is sent as it was recorded.
"""

from __future__ import annotations

import csv
from decimal import Decimal
from pathlib import Path
from typing import NamedTuple

ICU_NUMERICS = Path(__file__).parent / "recordings" / "icu-numerics.csv"
MONITOR_COLUMNS = {
    "HR": "heart_rate",
    "RESP": "respiratory_rate",
    "SpO2": "spo2",
    "PULSE": "pulse_rate",
    "ABPSys": "systolic_pressure",
    "ABPDias": "diastolic_pressure",
    "ABPMean": "mean_pressure",
}
CUFF_COLUMNS = {
    "NBPSys": "systolic_pressure",
    "NBPDias": "diastolic_pressure",
    "NBPMean": "mean_pressure",
}


class Minute(NamedTuple):
    """One recorded minute: metric name to value; `cuff` is empty when none was due.

    The two pressures are apart because both are systolic, diastolic and mean.
    """

    monitor: dict[str, Decimal]
    cuff: dict[str, Decimal]


def _present(row: dict[str, str], columns: dict[str, str]) -> dict[str, Decimal]:
    return {name: Decimal(row[c]) for c, name in columns.items() if row[c]}


def load(path: Path = ICU_NUMERICS) -> list[Minute]:
    """The recorded minutes in order; FileNotFoundError where the file is absent."""
    with path.open(newline="", encoding="ascii") as file:
        return [
            Minute(_present(row, MONITOR_COLUMNS), _present(row, CUFF_COLUMNS))
            for row in csv.DictReader(file)
        ]
