"""The metrics: their names, numbers, units, plausible ranges and codes.

The table of docs/wire-format.md section 1. `key` is the metric's number in an
envelope, `name` its name in SenML, contracts and the store, `unit` the UCUM unit that
its values are in.

    mdc, mdc_unit   ISO/IEEE 11073-10101 codes as 32 bit, partition << 16 | term
    loinc           LOINC codes, the one of FHIR R4's vital-signs profile first

A code is missing where it depends on something that the metric does not say (the
specimen of a glucose reading) or where no primary source was at hand.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal

from edge.model import Reading

PER_MINUTE = frozenset({"1/min", "beat/min"})  # RFC 8428 section 12.1
PER_CENT_LEFT = frozenset({"%EL"})  # "remaining battery energy level in percents"
RATIO = frozenset({"/"})  # RFC 8428: the unit of what has none
ACVPU = frozenset("ACVPU")


@dataclass(frozen=True, slots=True)
class Metric:
    """One row. A value is plausible from `low` to `high`, both included.

    `senml_units` are the names that SenML has for `unit`. `switch` is for a metric that
    is 0 or 1 and nothing between; `letters` is for the one that is a letter and has no
    numbers.
    """

    key: int
    name: str
    unit: str
    low: Decimal = Decimal(0)
    high: Decimal = Decimal(0)
    senml_units: frozenset[str] = frozenset()
    mdc: int | None = None
    mdc_unit: int | None = None
    loinc: tuple[str, ...] = ()
    switch: bool = False
    letters: frozenset[str] = frozenset()

    def is_plausible(self, value: Decimal) -> bool:
        """Whether `value`, a finite number in `unit`, can be true of a patient."""
        if self.switch:
            return value in (0, 1)
        return self.low <= value <= self.high


def _number(  # a row of numbers reads better without Decimal() around each
    key: int,
    name: str,
    unit: str,
    low: str,
    high: str,
    senml_units: frozenset[str] = frozenset(),
    mdc: tuple[int | None, int | None] = (None, None),
    loinc: tuple[str, ...] = (),
) -> Metric:
    bounds = Decimal(low), Decimal(high)
    return Metric(key, name, unit, *bounds, senml_units, *mdc, loinc)


def _switch(key: int, name: str) -> Metric:
    return Metric(key, name, "1", high=Decimal(1), senml_units=RATIO, switch=True)


METRICS: tuple[Metric, ...] = (
    _number(
        1, "heart_rate", "/min", "20", "300", PER_MINUTE, (147842, 264864), ("8867-4",)
    ),
    _number(
        2, "spo2", "%", "30", "100", mdc=(150456, 262688), loinc=("2708-6", "59408-5")
    ),
    _number(
        3,
        "body_temperature",
        "Cel",
        "25",
        "45",
        mdc=(150364, 268192),
        loinc=("8310-5",),
    ),
    _number(
        4,
        "respiratory_rate",
        "/min",
        "2",
        "100",
        PER_MINUTE,
        (151562, 264928),
        ("9279-1",),
    ),
    _number(
        5,
        "systolic_pressure",
        "mm[Hg]",
        "30",
        "300",
        mdc=(150021, 266016),
        loinc=("8480-6",),
    ),
    _number(
        6,
        "diastolic_pressure",
        "mm[Hg]",
        "10",
        "200",
        mdc=(150022, 266016),
        loinc=("8462-4",),
    ),
    _number(7, "mean_pressure", "mm[Hg]", "15", "250", mdc=(150023, 266016)),
    _number(8, "glucose", "mg/dL", "10", "1000", mdc=(None, 264274)),
    _number(9, "weight", "kg", "0.2", "650", mdc=(188736, 263875), loinc=("29463-7",)),
    _number(10, "ecg", "mV", "-50", "50", mdc=(131328, None)),
    _number(
        11, "pulse_rate", "/min", "20", "300", PER_MINUTE, (149530, 264864), ("8867-4",)
    ),
    _switch(12, "supplemental_oxygen"),
    Metric(13, "acvpu", "1", senml_units=RATIO, letters=ACVPU),
    _number(14, "battery", "%", "0", "100", PER_CENT_LEFT, (67996, 262688)),
    _number(15, "ambient_temperature", "Cel", "-60", "80"),
    _switch(16, "sensor_contact"),
    # Of scales, body composition analysers and meters (devices/profiles).
    _number(17, "height", "cm", "20", "300", mdc=(188740, 263441), loinc=("8302-2",)),
    _number(18, "bmi", "kg/m2", "5", "250", mdc=(188752, 264096), loinc=("39156-5",)),
    _number(19, "body_fat", "%", "1", "80", mdc=(188748, 262688), loinc=("41982-0",)),
    _number(20, "fat_free_mass", "kg", "0.2", "400", mdc=(188756, 263875)),
    _number(21, "soft_lean_mass", "kg", "0.2", "400", mdc=(188760, 263875)),
    _number(22, "body_water_mass", "kg", "0.1", "400", mdc=(188764, 263875)),
    _number(23, "muscle_mass", "kg", "0.1", "400", mdc=(None, 263875)),
    _number(24, "muscle_percentage", "%", "1", "90", mdc=(None, 262688)),
    _number(25, "basal_metabolism", "kJ", "100", "60000"),
    _number(26, "impedance", "Ohm", "10", "6000"),
    _number(27, "hba1c", "%", "2", "25", mdc=(160220, 262688), loinc=("4548-4",)),
    # What a device shows on the way to its result; never the patient's own value.
    _number(28, "cuff_pressure", "mm[Hg]", "0", "350", mdc=(None, 266016)),
    _number(29, "intermediate_temperature", "Cel", "0", "50", mdc=(None, 268192)),
)
BY_KEY: Mapping[int, Metric] = {metric.key: metric for metric in METRICS}
BY_NAME: Mapping[str, Metric] = {metric.name: metric for metric in METRICS}

# The hot path's view of the same table: bounds by name, without an attribute look-up.
_BOUNDS = {m.name: (m.low, m.high, m.switch) for m in METRICS if not m.letters}
_NONE_IMPLAUSIBLE: frozenset[str] = frozenset()
_NO_TEXTS: Mapping[str, str] = {}


def make_reading(
    time_ms: int | None,
    values: Mapping[str, Decimal],
    texts: Mapping[str, str] = _NO_TEXTS,
    unknown: frozenset[str] = _NONE_IMPLAUSIBLE,
) -> Reading:
    """The Reading of these values, with those outside their plausible range named.

    `unknown` names further metrics that the device sent and that nobody may rely on,
    with a value or without one: a sensor that says "not a number" must not leave its
    last good value standing. They join `implausible`.

    Every number in a Reading is finite: a NaN or infinity is a ValueError, for a
    decoder has to leave it out (profiles/sfloat.py) or refuse it. KeyError for a name
    that is no metric of that kind.
    """
    implausible = unknown
    for name, value in values.items():
        low, high, switch = _BOUNDS[name]
        if not value.is_finite():
            raise ValueError(f"{name} is {value}, which is no number")
        if not low <= value <= high or (switch and value not in (0, 1)):
            implausible |= {name}
    for name, text in texts.items():
        if text not in BY_NAME[name].letters:
            implausible |= {name}
    return Reading(time_ms, values, texts, implausible)
