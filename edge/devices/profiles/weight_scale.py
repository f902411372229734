"""Weight Measurement 0x2A9D (Weight Scale Service 1.0.1).

flags          1   bit 0     pounds and inches, else kilograms and metres
                   bit 1     time stamp is present
                   bit 2     user ID is present
                   bit 3     BMI and height are present
                   bit 4..7  reserved, ignored
weight         2   0.005 kg or 0.01 lb; 0xffff the measurement failed
time stamp   0|7   date_time.py
user ID      0|1   0xff unknown
BMI          0|2   0.1 kg/m2
height       0|2   0.001 m or 0.1 in
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

from edge.devices.metrics import make_reading
from edge.devices.profiles.date_time import Timestamp
from edge.devices.profiles.fields import Fields
from edge.model import Reading

UUID = "2a9d"
FAILED = 0xFFFF

_IMPERIAL = 1 << 0
_TIMESTAMP = 1 << 1
_USER = 1 << 2
_BMI_HEIGHT = 1 << 3

_KG_STEP = Decimal("0.005")
_KG_PER_STEP_LB = Decimal("0.0045359237")  # a hundredth of the international pound
_KG_ROUNDED = Decimal("0.001")  # finer than 0.01 lb, which is 4.5 g
_CM_STEP = Decimal("0.1")
_CM_PER_STEP_INCH = Decimal("0.254")
_BMI_STEP = Decimal("0.1")


def mass_kg(steps: int, *, imperial: bool) -> Decimal:
    """A mass of this service and of Body Composition in kg."""
    if imperial:
        return (steps * _KG_PER_STEP_LB).quantize(_KG_ROUNDED)
    return steps * _KG_STEP


def length_cm(steps: int, *, imperial: bool) -> Decimal:
    """A height of this service and of Body Composition in cm."""
    return steps * (_CM_PER_STEP_INCH if imperial else _CM_STEP)


@dataclass(frozen=True, slots=True)
class Weight:
    """One indication; the numbers are in the steps of the table above.

    `bmi_height` is both or none.
    """

    weight: int
    imperial: bool = False
    timestamp: Timestamp | None = None
    user: int | None = None
    bmi_height: tuple[int, int] | None = None

    @classmethod
    def from_bytes(cls, value: bytes) -> Weight:
        """RefusedError MALFORMED names the field where `value` goes wrong."""
        fields = Fields("weight measurement", value)
        flags = fields.unsigned("flags", 1)
        weight = fields.unsigned("weight", 2)
        stamp = Timestamp.read(fields) if flags & _TIMESTAMP else None
        user = fields.unsigned("user ID", 1) if flags & _USER else None
        bmi_height = None
        if flags & _BMI_HEIGHT:
            bmi_height = fields.unsigned("BMI", 2), fields.unsigned("height", 2)
        fields.end()
        return cls(weight, bool(flags & _IMPERIAL), stamp, user, bmi_height)

    def __bytes__(self) -> bytes:
        flags = _IMPERIAL if self.imperial else 0
        out = self.weight.to_bytes(2, "little")
        if self.timestamp is not None:
            flags |= _TIMESTAMP
            out += bytes(self.timestamp)
        if self.user is not None:
            flags |= _USER
            out += bytes((self.user,))
        if self.bmi_height is not None:
            flags |= _BMI_HEIGHT
            out += b"".join(one.to_bytes(2, "little") for one in self.bmi_height)
        return bytes((flags,)) + out


def decode(value: bytes) -> Reading:
    """weight and, where sent, bmi and height; at the device's own time."""
    measured = Weight.from_bytes(value)
    stamp = measured.timestamp
    time_ms = stamp.time_ms() if stamp is not None else None
    values: dict[str, Decimal] = {}
    if measured.weight != FAILED:
        values["weight"] = mass_kg(measured.weight, imperial=measured.imperial)
    if measured.bmi_height is not None:
        bmi, height = measured.bmi_height
        values["bmi"] = bmi * _BMI_STEP
        values["height"] = length_cm(height, imperial=measured.imperial)
    unknown = frozenset(() if "weight" in values else ("weight",))
    return make_reading(time_ms, values, unknown=unknown)
