"""Current Time 0x2A2B (Current Time Service 1.1): a device's clock, read and set.

date and time   7   date_time.py
day of week     1   1 Monday .. 7 Sunday, 0 unknown
fractions       1   1/256 s
adjust reason   1   bit 0 manual, 1 external reference, 2 time zone, 3 daylight saving
                    bit 4..7 reserved, ignored
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from edge.devices.metrics import make_reading
from edge.devices.profiles.date_time import Timestamp
from edge.devices.profiles.fields import Fields
from edge.model import Reading

UUID = "2a2b"
MANUAL = 1 << 0
EXTERNAL_REFERENCE = 1 << 1
TIME_ZONE = 1 << 2
DAYLIGHT_SAVING = 1 << 3
FRACTIONS_PER_SECOND = 256


@dataclass(frozen=True, slots=True)
class CurrentTime:
    """One value; `fractions` in 1/256 s, `adjust_reason` the bits above."""

    stamp: Timestamp
    day_of_week: int = 0
    fractions: int = 0
    adjust_reason: int = 0

    @classmethod
    def from_bytes(cls, value: bytes) -> CurrentTime:
        """RefusedError MALFORMED names the field where `value` goes wrong."""
        fields = Fields("current time", value)
        stamp = Timestamp.read(fields, "date and time")
        day = fields.unsigned("day of week", 1)
        if day > 7:
            raise fields.refusal(f"day of week is {day}; at most 7")
        fractions = fields.unsigned("fractions", 1)
        reason = fields.unsigned("adjust reason", 1)
        fields.end()
        return cls(stamp, day, fractions, reason)

    @classmethod
    def at(cls, time_ms: int) -> CurrentTime:
        """What a device is set to at `time_ms` since 1970: UTC, from a reference."""
        day = datetime.fromtimestamp(time_ms // 1000, UTC).isoweekday()
        fractions = time_ms % 1000 * FRACTIONS_PER_SECOND // 1000
        return cls(Timestamp.at(time_ms), day, fractions, EXTERNAL_REFERENCE)

    def __bytes__(self) -> bytes:
        return bytes(self.stamp) + bytes(
            (self.day_of_week, self.fractions, self.adjust_reason)
        )

    def time_ms(self) -> int | None:
        """Milliseconds since 1970, taken as UTC; None where it is no true date."""
        whole_ms = self.stamp.time_ms()
        if whole_ms is None:
            return None
        return whole_ms + self.fractions * 1000 // FRACTIONS_PER_SECOND


def decode(value: bytes) -> Reading:
    """A reading without values: the device's clock when it was read."""
    return make_reading(CurrentTime.from_bytes(value).time_ms(), {})
