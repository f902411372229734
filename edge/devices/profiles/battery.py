"""Battery Level, characteristic 0x2A19 (Battery Service 1.0, section 3.1).

level   1   per cent, 0..100; above that reserved, so flagged as implausible
"""

from __future__ import annotations

from decimal import Decimal

from edge.devices.metrics import make_reading
from edge.devices.profiles.fields import Fields
from edge.model import Reading

UUID = "2a19"


def decode(value: bytes) -> Reading:
    """battery, of the sensor itself; RefusedError MALFORMED unless it is one byte."""
    fields = Fields("battery level", value)
    level = fields.unsigned("level", 1)
    fields.end()
    return make_reading(None, {"battery": Decimal(level)})


def encode(level: int) -> bytes:
    """The value of a level in per cent, 0 to 255."""
    return level.to_bytes(1, "little")
