"""Blood Pressure Measurement 0x2A35 and Intermediate Cuff Pressure 0x2A36.

Blood Pressure Service 1.1, sections 3.1 and 3.2; both characteristics have one form:

flags              1   bit 0     pressures are in kPa, else in mmHg
                       bit 1     time stamp is present
                       bit 2     pulse rate is present
                       bit 3     user ID is present
                       bit 4     measurement status is present
                       bit 5..7  reserved, ignored
systolic           2   SFLOAT; in 2A36 the pressure in the cuff
diastolic          2   SFLOAT; in 2A36 unused, NaN
mean               2   SFLOAT; in 2A36 unused, NaN
time stamp       0|7   date_time.py
pulse rate       0|2   SFLOAT, /min
user ID          0|1   0xff unknown
status           0|2   MeasurementStatus

Some Beurer cuffs (BM85; pull request 735 of derdilla/blood-pressure-monitor-fl) set the
reserved bit 6, send a user ID without its flag, and pulse rate and status highest byte
first. No other cuff sends that: a byte too many where bit 6 is set.

The pressure in a cuff that is being pumped up is no blood pressure: it is a metric of
its own. What the cuff says of the patient's movement or of its own fit stays in the
original and does not hide the values: a crisis under a loose cuff is still to be seen.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from enum import IntFlag

from edge.devices.metrics import make_reading
from edge.devices.profiles import sfloat
from edge.devices.profiles.date_time import Timestamp
from edge.devices.profiles.fields import Fields
from edge.model import Reading

MEASUREMENT_UUID = "2a35"
INTERMEDIATE_UUID = "2a36"

_KILOPASCAL = 1 << 0
_TIMESTAMP = 1 << 1
_PULSE_RATE = 1 << 2
_USER = 1 << 3
_STATUS = 1 << 4
_BEURER = 1 << 6
_BEURER_FLAGS = _BEURER | _TIMESTAMP | _PULSE_RATE | _STATUS
_BEURER_SIZE = 19  # of all that but the user ID it would be 18

# The conventional millimetre of mercury. A device tells 0.1 kPa, which is 0.75 mm[Hg],
# so the nearest 0.1 mm[Hg] loses nothing.
_PASCAL_PER_MMHG = Decimal("133.322387415")
_MMHG_STEP = Decimal("0.1")


class MeasurementStatus(IntFlag):
    """Bits 6 to 15 are reserved; bits 3 and 4 together say where the pulse rate is."""

    BODY_MOVEMENT = 1 << 0
    CUFF_TOO_LOOSE = 1 << 1
    IRREGULAR_PULSE = 1 << 2
    PULSE_RATE_ABOVE_RANGE = 1 << 3
    PULSE_RATE_BELOW_RANGE = 1 << 4
    IMPROPER_POSITION = 1 << 5


@dataclass(frozen=True, slots=True)
class BloodPressure:
    """One indication or notification.

    Pressures are in mm[Hg] or, where `kilopascal`, in kPa; None for an SFLOAT that is
    no number. `pulse_rate` is Decimal("NaN") where it is present and no number.
    """

    systolic: Decimal | None
    diastolic: Decimal | None
    mean: Decimal | None
    kilopascal: bool = False
    timestamp: Timestamp | None = None
    pulse_rate: Decimal | None = None
    user: int | None = None
    status: MeasurementStatus | None = None

    @classmethod
    def from_bytes(cls, value: bytes) -> BloodPressure:
        """RefusedError MALFORMED names the field where `value` goes wrong."""
        if len(value) == _BEURER_SIZE and value[0] & ~_KILOPASCAL == _BEURER_FLAGS:
            value = _by_the_profile(value)
        fields = Fields("blood pressure measurement", value)
        flags = fields.unsigned("flags", 1)
        systolic = fields.sfloat("systolic")
        diastolic = fields.sfloat("diastolic")
        mean = fields.sfloat("mean arterial pressure")
        stamp = Timestamp.read(fields) if flags & _TIMESTAMP else None
        rate = fields.present_sfloat("pulse rate") if flags & _PULSE_RATE else None
        user = fields.unsigned("user ID", 1) if flags & _USER else None
        status = None
        if flags & _STATUS:
            status = MeasurementStatus(fields.unsigned("measurement status", 2))
        fields.end()
        kilopascal = bool(flags & _KILOPASCAL)
        return cls(systolic, diastolic, mean, kilopascal, stamp, rate, user, status)

    def __bytes__(self) -> bytes:
        """The value; ValueError for a number that an SFLOAT cannot hold."""
        flags = _KILOPASCAL if self.kilopascal else 0
        pressures = (self.systolic, self.diastolic, self.mean)
        out = b"".join(map(sfloat.encode, pressures))
        if self.timestamp is not None:
            flags |= _TIMESTAMP
            out += bytes(self.timestamp)
        if self.pulse_rate is not None:
            flags |= _PULSE_RATE
            rate = self.pulse_rate
            out += sfloat.encode(None if rate.is_nan() else rate)
        if self.user is not None:
            flags |= _USER
            out += bytes((self.user,))
        if self.status is not None:
            flags |= _STATUS
            out += int(self.status).to_bytes(2, "little")
        return bytes((flags,)) + out

    def mmhg(self, pressure: Decimal) -> Decimal:
        """One of its pressures in mm[Hg]: as sent, or converted to the nearest 0.1."""
        if not self.kilopascal or pressure.adjusted() > 9:
            return pressure
        return (pressure * 1000 / _PASCAL_PER_MMHG).quantize(_MMHG_STEP)


def _by_the_profile(value: bytes) -> bytes:
    """A value of the Beurer kind as the profile wants it."""
    head, pulse, user, status = value[1:14], value[14:16], value[16:17], value[17:]
    flags = value[0] & ~_BEURER | _USER
    return bytes((flags,)) + head + pulse[::-1] + user + status[::-1]


def decode_measurement(value: bytes) -> Reading:
    """The three pressures and, where sent, pulse_rate; at the device's own time."""
    measured = BloodPressure.from_bytes(value)
    return _reading(
        measured,
        systolic_pressure=measured.systolic,
        diastolic_pressure=measured.diastolic,
        mean_pressure=measured.mean,
    )


def decode_intermediate(value: bytes) -> Reading:
    """cuff_pressure and, where sent, pulse_rate."""
    measured = BloodPressure.from_bytes(value)
    return _reading(measured, cuff_pressure=measured.systolic)


def _reading(measured: BloodPressure, **pressures: Decimal | None) -> Reading:
    values = {n: measured.mmhg(v) for n, v in pressures.items() if v is not None}
    unknown = {name for name, value in pressures.items() if value is None}
    rate = measured.pulse_rate
    if rate is not None and rate.is_nan():
        unknown.add("pulse_rate")
    elif rate is not None:
        values["pulse_rate"] = rate
    stamp = measured.timestamp
    time_ms = stamp.time_ms() if stamp is not None else None
    return make_reading(time_ms, values, unknown=frozenset(unknown))
