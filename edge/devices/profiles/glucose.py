"""Glucose Measurement 0x2A18 and its Context 0x2A34 (Glucose Service 1.0.1).

    measurement                                 context
    flags         1  bit 0  time offset         flags         1  bit 0  carbohydrate
                     bit 1  concentration                        bit 1  meal
                     bit 2  in mol/L, else kg/L                  bit 2  tester, health
                     bit 3  sensor status                        bit 3  exercise
                     bit 4  a context follows                    bit 4  medication
    sequence      2                                              bit 5  litres, else kg
    base time     7  date_time.py                                bit 6  HbA1c
    time offset 0|2  signed, minutes                             bit 7  extended flags
    glucose     0|2  SFLOAT                     sequence      2  of its measurement
    type, site  0|1  low and high 4 bits        extended    0|1  reserved
    status      0|2  SensorStatus               carbohydrate  0|3  id 1, SFLOAT kg
                                                meal        0|1
                                                tester, health  0|1  low, high 4 bits
                                                exercise    0|3  seconds 2, per cent 1
                                                medication  0|3  id 1, SFLOAT kg or L
                                                HbA1c       0|2  SFLOAT, %

Reserved bits are ignored. The measurement's own time is base time plus offset: what the
meter's screen shows. A meter sends its records when it is asked (racp.py).

A control solution is no blood, and a strip that the meter calls wrong has no result:
those values are kept and nobody may rely on them.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from enum import IntEnum, IntFlag

from edge.devices.metrics import make_reading
from edge.devices.profiles import sfloat
from edge.devices.profiles.date_time import Timestamp
from edge.devices.profiles.fields import Fields
from edge.model import Reading

MEASUREMENT_UUID = "2a18"
CONTEXT_UUID = "2a34"

_TIME_OFFSET = 1 << 0
_CONCENTRATION = 1 << 1
_MOLAR = 1 << 2
_STATUS = 1 << 3
_CONTEXT_FOLLOWS = 1 << 4

_CARBOHYDRATE = 1 << 0
_MEAL = 1 << 1
_TESTER_HEALTH = 1 << 2
_EXERCISE = 1 << 3
_MEDICATION = 1 << 4
_MEDICATION_LITRES = 1 << 5
_HBA1C = 1 << 6
_EXTENDED = 1 << 7

_MS_PER_MINUTE = 60_000
_MG_PER_DL_EXPONENT = 5  # 1 kg/L is 10**5 mg/dL
# C6H12O6 is 180.156 g/mol: 1 mol/L is 180.156 g/L.
_MG_PER_DL_OF_MOL_PER_L = Decimal("18015.6")
_MOLAR_STEP = Decimal("0.1")  # a meter tells 0.1 mmol/L, which is 1.8 mg/dL


class Sample(IntEnum):
    """What was measured (Type); others are reserved."""

    CAPILLARY_WHOLE_BLOOD = 1
    CAPILLARY_PLASMA = 2
    VENOUS_WHOLE_BLOOD = 3
    VENOUS_PLASMA = 4
    ARTERIAL_WHOLE_BLOOD = 5
    ARTERIAL_PLASMA = 6
    UNDETERMINED_WHOLE_BLOOD = 7
    UNDETERMINED_PLASMA = 8
    INTERSTITIAL_FLUID = 9
    CONTROL_SOLUTION = 10


class Location(IntEnum):
    """Where the sample is from; others are reserved."""

    FINGER = 1
    ALTERNATE_SITE = 2
    EARLOBE = 3
    CONTROL_SOLUTION = 4
    NOT_AVAILABLE = 15


class SensorStatus(IntFlag):
    """Sensor Status Annunciation; bits 12 to 15 are reserved."""

    BATTERY_LOW = 1 << 0
    SENSOR_MALFUNCTION = 1 << 1
    SAMPLE_TOO_SMALL = 1 << 2
    STRIP_INSERTION_ERROR = 1 << 3
    STRIP_TYPE_INCORRECT = 1 << 4
    RESULT_TOO_HIGH = 1 << 5
    RESULT_TOO_LOW = 1 << 6
    TEMPERATURE_TOO_HIGH = 1 << 7
    TEMPERATURE_TOO_LOW = 1 << 8
    READ_INTERRUPTED = 1 << 9
    DEVICE_FAULT = 1 << 10
    TIME_FAULT = 1 << 11


# Not "too high" and "too low": such a value is a bound, and the patient is in danger.
UNUSABLE = (
    SensorStatus.SENSOR_MALFUNCTION
    | SensorStatus.SAMPLE_TOO_SMALL
    | SensorStatus.STRIP_INSERTION_ERROR
    | SensorStatus.STRIP_TYPE_INCORRECT
    | SensorStatus.TEMPERATURE_TOO_HIGH
    | SensorStatus.TEMPERATURE_TOO_LOW
    | SensorStatus.READ_INTERRUPTED
    | SensorStatus.DEVICE_FAULT
)


@dataclass(frozen=True, slots=True)
class GlucoseMeasurement:
    """One record of a meter.

    `concentration` is in kg/L or, where `molar`, in mol/L; Decimal("NaN") where the
    field is present and no number; None where it is absent, and then `sample` and
    `location` are too. `offset_min` is minutes, added to `base_time`.
    """

    sequence: int
    base_time: Timestamp
    offset_min: int | None = None
    concentration: Decimal | None = None
    sample: int | None = None
    location: int | None = None
    status: SensorStatus | None = None
    molar: bool = False
    context_follows: bool = False

    @classmethod
    def from_bytes(cls, value: bytes) -> GlucoseMeasurement:
        """RefusedError MALFORMED names the field where `value` goes wrong."""
        fields = Fields("glucose measurement", value)
        flags = fields.unsigned("flags", 1)
        sequence = fields.unsigned("sequence number", 2)
        base_time = Timestamp.read(fields, "base time")
        offset = fields.signed("time offset", 2) if flags & _TIME_OFFSET else None
        concentration = sample = location = status = None
        if flags & _CONCENTRATION:
            concentration = fields.present_sfloat("concentration")
            both = fields.unsigned("type and sample location", 1)
            sample, location = both & 0x0F, both >> 4
        if flags & _STATUS:
            status = SensorStatus(fields.unsigned("Sensor Status Annunciation", 2))
        fields.end()
        return cls(
            sequence,
            base_time,
            offset,
            concentration,
            sample,
            location,
            status,
            molar=bool(flags & _MOLAR),
            context_follows=bool(flags & _CONTEXT_FOLLOWS),
        )

    def __bytes__(self) -> bytes:
        """The value; ValueError for a number that an SFLOAT cannot hold."""
        flags = _MOLAR if self.molar else 0
        if self.context_follows:
            flags |= _CONTEXT_FOLLOWS
        out = self.sequence.to_bytes(2, "little") + bytes(self.base_time)
        if self.offset_min is not None:
            flags |= _TIME_OFFSET
            out += self.offset_min.to_bytes(2, "little", signed=True)
        if self.concentration is not None:
            flags |= _CONCENTRATION
            value = self.concentration
            out += sfloat.encode(None if value.is_nan() else value)
            out += bytes(((self.location or 0) << 4 | (self.sample or 0),))
        if self.status is not None:
            flags |= _STATUS
            out += int(self.status).to_bytes(2, "little")
        return bytes((flags,)) + out

    def time_ms(self) -> int | None:
        """Base time and offset as milliseconds since 1970; None for no true date."""
        base_ms = self.base_time.time_ms()
        if base_ms is None:
            return None
        return base_ms + (self.offset_min or 0) * _MS_PER_MINUTE

    @property
    def mg_per_dl(self) -> Decimal | None:
        """The concentration in mg/dL, from mol/L to the nearest 0.1; None for none."""
        value = self.concentration
        if value is None or value.is_nan():
            return None
        if not self.molar:
            return value.scaleb(_MG_PER_DL_EXPONENT)
        if value.adjusted() > 9:  # nothing that lives, and too long to round
            return value * _MG_PER_DL_OF_MOL_PER_L
        return (value * _MG_PER_DL_OF_MOL_PER_L).quantize(_MOLAR_STEP)


@dataclass(frozen=True, slots=True)
class GlucoseContext:
    """What the patient told the meter about one measurement.

    `carbohydrate` is (id, kg), `exercise` (seconds, per cent), `medication` (id, kg or
    litres), `tester_health` (tester, health); a number that is none is Decimal("NaN").
    """

    sequence: int
    extended: int | None = None
    carbohydrate: tuple[int, Decimal] | None = None
    meal: int | None = None
    tester_health: tuple[int, int] | None = None
    exercise: tuple[int, int] | None = None
    medication: tuple[int, Decimal] | None = None
    hba1c: Decimal | None = None
    medication_litres: bool = False

    @classmethod
    def from_bytes(cls, value: bytes) -> GlucoseContext:
        """RefusedError MALFORMED names the field where `value` goes wrong."""
        fields = Fields("glucose measurement context", value)
        flags = fields.unsigned("flags", 1)
        sequence = fields.unsigned("sequence number", 2)
        extended = fields.unsigned("extended flags", 1) if flags & _EXTENDED else None
        carbohydrate = tester_health = exercise = medication = None
        if flags & _CARBOHYDRATE:
            which = fields.unsigned("carbohydrate ID", 1)
            carbohydrate = which, fields.present_sfloat("carbohydrate")
        meal = fields.unsigned("meal", 1) if flags & _MEAL else None
        if flags & _TESTER_HEALTH:
            both = fields.unsigned("tester and health", 1)
            tester_health = both & 0x0F, both >> 4
        if flags & _EXERCISE:
            seconds = fields.unsigned("exercise duration", 2)
            exercise = seconds, fields.unsigned("exercise intensity", 1)
        if flags & _MEDICATION:
            which = fields.unsigned("medication ID", 1)
            medication = which, fields.present_sfloat("medication")
        hba1c = fields.present_sfloat("HbA1c") if flags & _HBA1C else None
        fields.end()
        return cls(
            sequence,
            extended,
            carbohydrate,
            meal,
            tester_health,
            exercise,
            medication,
            hba1c,
            medication_litres=bool(flags & _MEDICATION_LITRES),
        )

    def __bytes__(self) -> bytes:
        """The value; ValueError for a number that an SFLOAT cannot hold."""
        flags = _MEDICATION_LITRES if self.medication_litres else 0
        out = self.sequence.to_bytes(2, "little")
        if self.extended is not None:
            flags |= _EXTENDED
            out += bytes((self.extended,))
        if self.carbohydrate is not None:
            flags |= _CARBOHYDRATE
            out += _dose(self.carbohydrate)
        if self.meal is not None:
            flags |= _MEAL
            out += bytes((self.meal,))
        if self.tester_health is not None:
            flags |= _TESTER_HEALTH
            tester, health = self.tester_health
            out += bytes((health << 4 | tester,))
        if self.exercise is not None:
            flags |= _EXERCISE
            seconds, per_cent = self.exercise
            out += seconds.to_bytes(2, "little") + bytes((per_cent,))
        if self.medication is not None:
            flags |= _MEDICATION
            out += _dose(self.medication)
        if self.hba1c is not None:
            flags |= _HBA1C
            out += sfloat.encode(None if self.hba1c.is_nan() else self.hba1c)
        return bytes((flags,)) + out


def _dose(dose: tuple[int, Decimal]) -> bytes:
    which, amount = dose
    return bytes((which,)) + sfloat.encode(None if amount.is_nan() else amount)


def decode_measurement(value: bytes) -> Reading:
    """glucose, at the time that the meter shows for it."""
    measured = GlucoseMeasurement.from_bytes(value)
    concentration = measured.mg_per_dl
    values: dict[str, Decimal] = {}
    if concentration is not None:
        values["glucose"] = concentration
    disowned = (measured.status or 0) & UNUSABLE
    control = (
        measured.sample == Sample.CONTROL_SOLUTION
        or measured.location == Location.CONTROL_SOLUTION
    )
    unknown = concentration is None or disowned or control
    return make_reading(
        measured.time_ms(),
        values,
        unknown=frozenset({"glucose"}) if unknown else frozenset(),
    )


def decode_context(value: bytes) -> Reading:
    """hba1c where it is told; the rest stays in the original. It has no time."""
    hba1c = GlucoseContext.from_bytes(value).hba1c
    if hba1c is None:
        return make_reading(None, {})
    if hba1c.is_nan():
        return make_reading(None, {}, unknown=frozenset({"hba1c"}))
    return make_reading(None, {"hba1c": hba1c})
