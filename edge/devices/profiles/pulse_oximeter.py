"""PLX Spot-check 0x2A5E and Continuous 0x2A5F Measurement (Pulse Oximeter Service 1.0).

    spot-check                                continuous
    flags        1  bit 0  timestamp          flags        1  bit 0  fast pair
                    bit 1  measurement status                 bit 1  slow pair
                    bit 2  sensor status                      bit 2  measurement status
                    bit 3  amplitude index                    bit 3  sensor status
                    bit 4  device clock unset                 bit 4  amplitude index
    SpO2, PR     4  two SFLOATs, %, /min      normal       4  SpO2 and PR, SFLOATs
    timestamp  0|7  date_time.py              fast       0|4  the same, averaged less
                                              slow       0|4  the same, averaged more
    measurement status   0|2                  measurement status   0|2
    sensor status        0|3                  sensor status        0|3
    amplitude index      0|2  SFLOAT, %       amplitude index      0|2

Reserved bits are ignored.

What contracts may not rely on is marked so: the value is kept and named implausible
when the sensor itself calls it invalid, unavailable, a demonstration or a test; a
sensor that is off the patient gives `sensor_contact` 0.
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

SPOT_CHECK_UUID = "2a5e"
CONTINUOUS_UUID = "2a5f"


class MeasurementStatus(IntFlag):
    """Service specification section 3.1.1.5; bits 0 to 4 are reserved."""

    ONGOING = 1 << 5
    EARLY_ESTIMATE = 1 << 6
    VALIDATED = 1 << 7
    FULLY_QUALIFIED = 1 << 8
    FROM_STORAGE = 1 << 9
    DEMONSTRATION = 1 << 10
    TESTING = 1 << 11
    CALIBRATION_ONGOING = 1 << 12
    UNAVAILABLE = 1 << 13
    QUESTIONABLE = 1 << 14
    INVALID = 1 << 15


class SensorStatus(IntFlag):
    """Device and Sensor Status; bits 16 to 23 are reserved."""

    DISPLAY_UPDATE_ONGOING = 1 << 0
    EQUIPMENT_MALFUNCTION = 1 << 1
    SIGNAL_PROCESSING_IRREGULARITY = 1 << 2
    INADEQUATE_SIGNAL = 1 << 3
    POOR_SIGNAL = 1 << 4
    LOW_PERFUSION = 1 << 5
    ERRATIC_SIGNAL = 1 << 6
    NONPULSATILE_SIGNAL = 1 << 7
    QUESTIONABLE_PULSE = 1 << 8
    SIGNAL_ANALYSIS_ONGOING = 1 << 9
    SENSOR_INTERFERENCE = 1 << 10
    UNCONNECTED_TO_USER = 1 << 11
    UNKNOWN_SENSOR = 1 << 12
    SENSOR_DISPLACED = 1 << 13
    SENSOR_MALFUNCTIONING = 1 << 14
    SENSOR_DISCONNECTED = 1 << 15


UNUSABLE_MEASUREMENT = (
    MeasurementStatus.DEMONSTRATION
    | MeasurementStatus.TESTING
    | MeasurementStatus.CALIBRATION_ONGOING
    | MeasurementStatus.UNAVAILABLE
    | MeasurementStatus.INVALID
)
UNUSABLE_SENSOR = (
    SensorStatus.EQUIPMENT_MALFUNCTION | SensorStatus.SENSOR_MALFUNCTIONING
)
OFF_THE_PATIENT = (
    SensorStatus.UNCONNECTED_TO_USER
    | SensorStatus.SENSOR_DISPLACED
    | SensorStatus.SENSOR_DISCONNECTED
)


@dataclass(frozen=True, slots=True)
class Pair:
    """SpO2 in % and pulse rate per minute; None for an SFLOAT that is no number."""

    spo2: Decimal | None
    pulse_rate: Decimal | None

    @classmethod
    def read(cls, fields: Fields, name: str) -> Pair:
        """The next two SFLOATs, called `name` in a refusal."""
        return cls(fields.sfloat(f"{name} SpO2"), fields.sfloat(f"{name} pulse rate"))

    def __bytes__(self) -> bytes:
        return sfloat.encode(self.spo2) + sfloat.encode(self.pulse_rate)


@dataclass(frozen=True, slots=True)
class SpotCheck:
    """One indication of 0x2A5E; `amplitude_index` is in % and may be Decimal("NaN")."""

    pair: Pair
    timestamp: Timestamp | None = None
    measurement_status: MeasurementStatus | None = None
    sensor_status: SensorStatus | None = None
    amplitude_index: Decimal | None = None
    clock_unset: bool = False

    @classmethod
    def from_bytes(cls, value: bytes) -> SpotCheck:
        """RefusedError MALFORMED names the field where `value` goes wrong."""
        fields = Fields("PLX spot-check measurement", value)
        flags = fields.unsigned("flags", 1)
        pair = Pair.read(fields, "spot-check")
        timestamp = Timestamp.read(fields) if flags & 1 << 0 else None
        status = _tail(fields, flags >> 1)
        return cls(pair, timestamp, *status, clock_unset=bool(flags & 1 << 4))

    def __bytes__(self) -> bytes:
        flags, tail = _tail_bytes(
            self.measurement_status, self.sensor_status, self.amplitude_index
        )
        flags = flags << 1 | self.clock_unset << 4
        middle = b""
        if self.timestamp is not None:
            flags |= 1 << 0
            middle = bytes(self.timestamp)
        return bytes((flags,)) + bytes(self.pair) + middle + tail


@dataclass(frozen=True, slots=True)
class Continuous:
    """One notification of 0x2A5F; `amplitude_index` as in SpotCheck."""

    normal: Pair
    fast: Pair | None = None
    slow: Pair | None = None
    measurement_status: MeasurementStatus | None = None
    sensor_status: SensorStatus | None = None
    amplitude_index: Decimal | None = None

    @classmethod
    def from_bytes(cls, value: bytes) -> Continuous:
        """RefusedError MALFORMED names the field where `value` goes wrong."""
        fields = Fields("PLX continuous measurement", value)
        flags = fields.unsigned("flags", 1)
        normal = Pair.read(fields, "normal")
        fast = Pair.read(fields, "fast") if flags & 1 << 0 else None
        slow = Pair.read(fields, "slow") if flags & 1 << 1 else None
        return cls(normal, fast, slow, *_tail(fields, flags >> 2))

    def __bytes__(self) -> bytes:
        flags, tail = _tail_bytes(
            self.measurement_status, self.sensor_status, self.amplitude_index
        )
        flags <<= 2
        middle = b""
        if self.fast is not None:
            flags |= 1 << 0
            middle += bytes(self.fast)
        if self.slow is not None:
            flags |= 1 << 1
            middle += bytes(self.slow)
        return bytes((flags,)) + bytes(self.normal) + middle + tail


def _tail(
    fields: Fields, flags: int
) -> tuple[MeasurementStatus | None, SensorStatus | None, Decimal | None]:
    """The three fields that end both values; their flags are bits 0 to 2 of `flags`."""
    measurement = sensor = amplitude = None
    if flags & 1 << 0:
        measurement = MeasurementStatus(fields.unsigned("Measurement Status", 2))
    if flags & 1 << 1:
        sensor = SensorStatus(fields.unsigned("Device and Sensor Status", 3))
    if flags & 1 << 2:
        amplitude = fields.present_sfloat("Pulse Amplitude Index")
    fields.end()
    return measurement, sensor, amplitude


def _tail_bytes(
    measurement: MeasurementStatus | None,
    sensor: SensorStatus | None,
    amplitude: Decimal | None,
) -> tuple[int, bytes]:
    flags, out = 0, b""
    if measurement is not None:
        flags |= 1 << 0
        out += int(measurement).to_bytes(2, "little")
    if sensor is not None:
        flags |= 1 << 1
        out += int(sensor).to_bytes(3, "little")
    if amplitude is not None:
        flags |= 1 << 2
        out += sfloat.encode(None if amplitude.is_nan() else amplitude)
    return flags, out


def decode_spot_check(value: bytes) -> Reading:
    """spo2 and pulse_rate, at the device's own time where it states a true one.

    A GATT time has no zone; it is taken as UTC, which is what we set a device's clock
    to. A device that says its clock was never set has no time.
    """
    check = SpotCheck.from_bytes(value)
    time_ms = None
    if check.timestamp is not None and not check.clock_unset:
        time_ms = check.timestamp.time_ms()
    return _reading(time_ms, check.pair, check.measurement_status, check.sensor_status)


def decode_continuous(value: bytes) -> Reading:
    """spo2 and pulse_rate of the normal pair; fast and slow stay in the original."""
    point = Continuous.from_bytes(value)
    return _reading(None, point.normal, point.measurement_status, point.sensor_status)


def _reading(
    time_ms: int | None,
    pair: Pair,
    measurement: MeasurementStatus | None,
    sensor: SensorStatus | None,
) -> Reading:
    values: dict[str, Decimal] = {}
    unknown: set[str] = set()
    unusable = (measurement or 0) & UNUSABLE_MEASUREMENT or (
        (sensor or 0) & UNUSABLE_SENSOR
    )
    for name, value in (("spo2", pair.spo2), ("pulse_rate", pair.pulse_rate)):
        if value is not None:
            values[name] = value
        if value is None or unusable:
            unknown.add(name)
    if sensor is not None and sensor & OFF_THE_PATIENT:
        # Only "off": without the features characteristic a clear bit may be one that
        # the sensor does not have, so it is no proof of contact.
        values["sensor_contact"] = Decimal(0)
    return make_reading(time_ms, values, unknown=frozenset(unknown))
