"""The GATT profiles: what a characteristic's value says, by the characteristic.

To add one: write its file, then its line in PROFILES.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from edge.devices.profiles import (
    battery,
    blood_pressure,
    body_composition,
    continuous_glucose,
    current_time,
    date_time,
    ecg,
    glucose,
    health_thermometer,
    heart_rate,
    pulse_oximeter,
    weight_scale,
)
from edge.model import Reading

# The UUID in lower-case hex, the 16-bit form where there is one (it is the record's
# stream) -> its decoder, which
# raises RefusedError MALFORMED for a value that is not what the profile says.
PROFILES: Mapping[str, Callable[[bytes], Reading]] = {
    battery.UUID: battery.decode,
    blood_pressure.MEASUREMENT_UUID: blood_pressure.decode_measurement,
    blood_pressure.INTERMEDIATE_UUID: blood_pressure.decode_intermediate,
    body_composition.UUID: body_composition.decode,
    continuous_glucose.MEASUREMENT_UUID: continuous_glucose.decode_measurement,
    continuous_glucose.SESSION_START_UUID: continuous_glucose.decode_session_start,
    current_time.UUID: current_time.decode,
    date_time.UUID: date_time.decode,
    ecg.SAMPLES_UUID: ecg.decode,
    ecg.RATE_STREAM: heart_rate.decode,  # of the gateway's own making
    glucose.MEASUREMENT_UUID: glucose.decode_measurement,
    glucose.CONTEXT_UUID: glucose.decode_context,
    health_thermometer.MEASUREMENT_UUID: health_thermometer.decode_measurement,
    health_thermometer.INTERMEDIATE_UUID: health_thermometer.decode_intermediate,
    heart_rate.UUID: heart_rate.decode,
    pulse_oximeter.SPOT_CHECK_UUID: pulse_oximeter.decode_spot_check,
    pulse_oximeter.CONTINUOUS_UUID: pulse_oximeter.decode_continuous,
    weight_scale.UUID: weight_scale.decode,
}

# A device's clock: read and set by us, and recorded.
CLOCKS = frozenset({current_time.UUID, date_time.UUID})
# What is read by us at each connection: nothing to subscribe to.
READ_BY_US = CLOCKS | {continuous_glucose.SESSION_START_UUID}
