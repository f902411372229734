"""Heart Rate Measurement, characteristic 0x2A37 (Heart Rate Service 1.0, section 3.1).

flags           1   bit 0     heart rate is 2 bytes, else 1
                    bit 1     sensor contact detected, meaningful with bit 2
                    bit 2     sensor contact detection is supported
                    bit 3     Energy Expended is present
                    bit 4     RR-Intervals are present
                    bit 5..7  reserved, ignored
heart rate      1|2 beats per minute
energy          0|2 kilojoules since the last reset
RR-Interval   n*2   1/1024 s each, oldest first
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

from edge.devices.metrics import make_reading
from edge.devices.profiles.fields import Fields
from edge.model import Reading

UUID = "2a37"

_WIDE = 1 << 0
_CONTACT = 1 << 1
_CONTACT_SUPPORTED = 1 << 2
_ENERGY = 1 << 3
_RR = 1 << 4


@dataclass(frozen=True, slots=True)
class HeartRateMeasurement:
    """One notification.

    `heart_rate` is beats/min, `contact` None where the sensor cannot tell,
    `energy_kj` kilojoules, `rr_intervals` in 1/1024 s. `wide` is the 2-byte form of the
    heart rate, needed from 256 on.
    """

    heart_rate: int
    contact: bool | None = None
    energy_kj: int | None = None
    rr_intervals: tuple[int, ...] = ()
    wide: bool = False

    @classmethod
    def from_bytes(cls, value: bytes) -> HeartRateMeasurement:
        """RefusedError MALFORMED names the field where `value` goes wrong.

        The RR bit without an interval is taken: the heart rate is none the worse.
        """
        fields = Fields("heart rate measurement", value)
        flags = fields.unsigned("flags", 1)
        heart_rate = fields.unsigned("heart rate", 2 if flags & _WIDE else 1)
        energy = fields.unsigned("Energy Expended", 2) if flags & _ENERGY else None
        intervals: list[int] = []
        while flags & _RR and not fields.at_end:
            intervals.append(fields.unsigned(f"RR-Interval {len(intervals) + 1}", 2))
        fields.end()
        contact = bool(flags & _CONTACT) if flags & _CONTACT_SUPPORTED else None
        wide = bool(flags & _WIDE)
        return cls(heart_rate, contact, energy, tuple(intervals), wide)

    def __bytes__(self) -> bytes:
        """The value; OverflowError for a number that its field cannot hold."""
        wide = self.wide or self.heart_rate > 0xFF
        flags = _WIDE if wide else 0
        if self.contact is not None:
            flags |= _CONTACT_SUPPORTED | (_CONTACT if self.contact else 0)
        out = self.heart_rate.to_bytes(2 if wide else 1, "little")
        if self.energy_kj is not None:
            flags |= _ENERGY
            out += self.energy_kj.to_bytes(2, "little")
        if self.rr_intervals:
            flags |= _RR
            out += b"".join([rr.to_bytes(2, "little") for rr in self.rr_intervals])
        return bytes((flags,)) + out


def decode(value: bytes) -> Reading:
    """heart_rate, and sensor_contact where the sensor can tell."""
    measurement = HeartRateMeasurement.from_bytes(value)
    values = {"heart_rate": Decimal(measurement.heart_rate)}
    if measurement.contact is not None:
        values["sensor_contact"] = Decimal(int(measurement.contact))
    return make_reading(None, values)
