"""The GATT profiles: what a characteristic's value says, by the characteristic.

To add one: write its file, then its line in PROFILES.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from edge.devices.profiles import battery, heart_rate, pulse_oximeter
from edge.model import Reading

# The 16-bit UUID in lower-case hex (it is the record's stream) -> its decoder, which
# raises RefusedError MALFORMED for a value that is not what the profile says.
PROFILES: Mapping[str, Callable[[bytes], Reading]] = {
    battery.UUID: battery.decode,
    heart_rate.UUID: heart_rate.decode,
    pulse_oximeter.SPOT_CHECK_UUID: pulse_oximeter.decode_spot_check,
    pulse_oximeter.CONTINUOUS_UUID: pulse_oximeter.decode_continuous,
}
