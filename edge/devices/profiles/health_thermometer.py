"""Temperature Measurement 0x2A1C and Intermediate Temperature 0x2A1E.

Health Thermometer Service 1.0, sections 3.1 and 3.3; both have one form:

flags          1   bit 0     the temperature is in degrees Fahrenheit, else Celsius
                   bit 1     time stamp is present
                   bit 2     temperature type is present
                   bit 3..7  reserved, ignored
temperature    4   FLOAT
time stamp   0|7   date_time.py
type         0|1   where on the body, 1..9; others are reserved

An intermediate temperature is what the probe says on its way to the body's: it is a
metric of its own, so that nobody takes a thermometer that warms up for a cold patient.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from enum import IntEnum

from edge.devices.metrics import make_reading
from edge.devices.profiles import float32
from edge.devices.profiles.date_time import Timestamp
from edge.devices.profiles.fields import Fields
from edge.model import Reading

MEASUREMENT_UUID = "2a1c"
INTERMEDIATE_UUID = "2a1e"

_FAHRENHEIT = 1 << 0
_TIMESTAMP = 1 << 1
_TYPE = 1 << 2

# A probe tells tenths; the quotient of a Fahrenheit value need not end.
_CELSIUS_STEP = Decimal("0.01")


class Site(IntEnum):
    """Temperature Type, characteristic 0x2A1D."""

    ARMPIT = 1
    BODY = 2
    EAR = 3
    FINGER = 4
    GASTRO_INTESTINAL = 5
    MOUTH = 6
    RECTUM = 7
    TOE = 8
    TYMPANUM = 9


@dataclass(frozen=True, slots=True)
class Temperature:
    """One indication or notification.

    `value` is in °C or, where `fahrenheit`, in °F; None for a FLOAT that is no number.
    `site` is a Site or a reserved number.
    """

    value: Decimal | None
    fahrenheit: bool = False
    timestamp: Timestamp | None = None
    site: int | None = None

    @classmethod
    def from_bytes(cls, value: bytes) -> Temperature:
        """RefusedError MALFORMED names the field where `value` goes wrong."""
        fields = Fields("temperature measurement", value)
        flags = fields.unsigned("flags", 1)
        temperature = fields.float32("temperature")
        timestamp = Timestamp.read(fields) if flags & _TIMESTAMP else None
        site = fields.unsigned("temperature type", 1) if flags & _TYPE else None
        fields.end()
        return cls(temperature, bool(flags & _FAHRENHEIT), timestamp, site)

    def __bytes__(self) -> bytes:
        """The value; ValueError for a number that a FLOAT cannot hold."""
        flags = _FAHRENHEIT if self.fahrenheit else 0
        out = float32.encode(self.value)
        if self.timestamp is not None:
            flags |= _TIMESTAMP
            out += bytes(self.timestamp)
        if self.site is not None:
            flags |= _TYPE
            out += bytes((self.site,))
        return bytes((flags,)) + out

    @property
    def celsius(self) -> Decimal | None:
        """The temperature in °C: as sent, or converted to the nearest 0.01."""
        if self.value is None or not self.fahrenheit:
            return self.value
        if self.value.adjusted() > 9:  # no temperature, and too long to round
            return self.value
        return ((self.value - 32) * 5 / 9).quantize(_CELSIUS_STEP)


def decode_measurement(value: bytes) -> Reading:
    """body_temperature, at the device's own time where it states a true one."""
    return _reading(value, "body_temperature")


def decode_intermediate(value: bytes) -> Reading:
    """intermediate_temperature, which is not the patient's yet."""
    return _reading(value, "intermediate_temperature")


def _reading(value: bytes, name: str) -> Reading:
    temperature = Temperature.from_bytes(value)
    stamp = temperature.timestamp
    time_ms = stamp.time_ms() if stamp is not None else None
    celsius = temperature.celsius
    if celsius is None:
        return make_reading(time_ms, {}, unknown=frozenset({name}))
    return make_reading(time_ms, {name: celsius})
