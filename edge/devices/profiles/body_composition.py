"""Body Composition Measurement 0x2A9C (Body Composition Service 1.0.1).

flags               2   bit 0      pounds and inches, else kilograms and metres
                        bit 1      time stamp is present
                        bit 2      user ID is present
                        bit 3..11  the fields from basal metabolism on, in their order
                        bit 12     more packets of this measurement follow
                        bit 13..15 reserved, ignored
body fat            2   0.1 %; 0xffff the measurement failed
time stamp        0|7   date_time.py
user ID           0|1   0xff unknown
basal metabolism  0|2   kJ
muscle            0|2   0.1 %
muscle mass       0|2   0.005 kg or 0.01 lb, as the masses that follow
fat free mass     0|2
soft lean mass    0|2
body water mass   0|2
impedance         0|2   0.1 Ohm
weight            0|2   as a mass
height            0|2   0.001 m or 0.1 in
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal

from edge.devices.metrics import make_reading
from edge.devices.profiles.date_time import Timestamp
from edge.devices.profiles.fields import Fields
from edge.devices.profiles.weight_scale import length_cm, mass_kg
from edge.model import Reading

UUID = "2a9c"
FAILED = 0xFFFF

_IMPERIAL = 1 << 0
_TIMESTAMP = 1 << 1
_USER = 1 << 2
_MULTIPLE = 1 << 12
_FIRST_OPTION = 3
_TENTH = Decimal("0.1")

# The optional fields in their order, by the metric that each is.
OPTIONS = (
    *("basal_metabolism", "muscle_percentage", "muscle_mass", "fat_free_mass"),
    *("soft_lean_mass", "body_water_mass", "impedance", "weight", "height"),
)
_TENTHS = frozenset({"muscle_percentage", "impedance"})


@dataclass(frozen=True, slots=True)
class BodyComposition:
    """One indication; the numbers are in the steps of the table above.

    `options` holds the optional fields that are present, by their name in OPTIONS.
    `more_follows` says that another packet belongs to the same measurement.
    """

    body_fat: int
    imperial: bool = False
    timestamp: Timestamp | None = None
    user: int | None = None
    options: Mapping[str, int] = field(default_factory=dict)
    more_follows: bool = False

    @classmethod
    def from_bytes(cls, value: bytes) -> BodyComposition:
        """RefusedError MALFORMED names the field where `value` goes wrong."""
        fields = Fields("body composition measurement", value)
        flags = fields.unsigned("flags", 2)
        body_fat = fields.unsigned("body fat", 2)
        stamp = Timestamp.read(fields) if flags & _TIMESTAMP else None
        user = fields.unsigned("user ID", 1) if flags & _USER else None
        options = {
            name: fields.unsigned(name.replace("_", " "), 2)
            for place, name in enumerate(OPTIONS, _FIRST_OPTION)
            if flags & 1 << place
        }
        fields.end()
        return cls(
            body_fat,
            bool(flags & _IMPERIAL),
            stamp,
            user,
            options,
            more_follows=bool(flags & _MULTIPLE),
        )

    def __bytes__(self) -> bytes:
        flags = _IMPERIAL if self.imperial else 0
        flags |= _MULTIPLE if self.more_follows else 0
        out = self.body_fat.to_bytes(2, "little")
        if self.timestamp is not None:
            flags |= _TIMESTAMP
            out += bytes(self.timestamp)
        if self.user is not None:
            flags |= _USER
            out += bytes((self.user,))
        for place, name in enumerate(OPTIONS, _FIRST_OPTION):
            if name in self.options:
                flags |= 1 << place
                out += self.options[name].to_bytes(2, "little")
        return flags.to_bytes(2, "little") + out


def decode(value: bytes) -> Reading:
    """body_fat and, where sent, the metrics of OPTIONS; at the device's own time."""
    measured = BodyComposition.from_bytes(value)
    stamp = measured.timestamp
    time_ms = stamp.time_ms() if stamp is not None else None
    values: dict[str, Decimal] = {}
    if measured.body_fat != FAILED:
        values["body_fat"] = measured.body_fat * _TENTH
    for name, steps in measured.options.items():
        values[name] = _in_its_unit(name, steps, imperial=measured.imperial)
    unknown = frozenset(() if "body_fat" in values else ("body_fat",))
    return make_reading(time_ms, values, unknown=unknown)


def _in_its_unit(name: str, steps: int, *, imperial: bool) -> Decimal:
    if name == "basal_metabolism":
        return Decimal(steps)
    if name in _TENTHS:
        return steps * _TENTH
    if name == "height":
        return length_cm(steps, imperial=imperial)
    return mass_kg(steps, imperial=imperial)
