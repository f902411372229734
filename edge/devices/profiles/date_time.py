"""Date Time 0x2A08: how a device writes a moment, and how its clock is set.

year      2   1582..9999, 0 unknown
month     1   1..12, 0 unknown
day       1   1..31, 0 unknown
hours     1   0..23
minutes   1   0..59
seconds   1   0..59

It has no zone. We take it as UTC, which is what we set a device's clock to; a device
whose clock somebody else sets is off by its zone, which is why its clock is recorded.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from edge.devices.metrics import make_reading
from edge.devices.profiles.fields import Fields
from edge.model import Reading

UUID = "2a08"
SIZE = 7


@dataclass(frozen=True, slots=True)
class Timestamp:
    """A GATT date and time as it is written, without a time zone."""

    year: int
    month: int
    day: int
    hours: int
    minutes: int
    seconds: int

    @classmethod
    def read(cls, fields: Fields, name: str = "timestamp") -> Timestamp:
        """The next 7 bytes, whatever date they say; `name` is for a refusal."""
        octets = fields.octets(name, SIZE)
        return cls(int.from_bytes(octets[:2], "little"), *octets[2:])

    @classmethod
    def at(cls, time_ms: int) -> Timestamp:
        """The whole second at or before `time_ms` since 1970, in UTC."""
        moment = datetime.fromtimestamp(time_ms // 1000, UTC)
        day, clock = moment.date(), moment.time()
        return cls(day.year, day.month, day.day, clock.hour, clock.minute, clock.second)

    def __bytes__(self) -> bytes:
        return self.year.to_bytes(2, "little") + bytes(
            (self.month, self.day, self.hours, self.minutes, self.seconds)
        )

    def time_ms(self) -> int | None:
        """Milliseconds since 1970, taken as UTC; None where it is no true date."""
        try:
            moment = datetime(
                self.year,
                self.month,
                self.day,
                self.hours,
                self.minutes,
                self.seconds,
                tzinfo=UTC,
            )
        except ValueError:  # an unknown (0) or impossible year, month, day or hour
            return None
        return int(moment.timestamp()) * 1000


def parse(value: bytes) -> Timestamp:
    """The moment that a value of 2A08 says; RefusedError MALFORMED by field."""
    fields = Fields("date time", value)
    stamp = Timestamp.read(fields, "date and time")
    fields.end()
    return stamp


def decode(value: bytes) -> Reading:
    """A reading without values: the device's clock when it was read."""
    return make_reading(parse(value).time_ms(), {})
