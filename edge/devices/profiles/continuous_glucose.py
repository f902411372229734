"""CGM Measurement 0x2AA7, Feature 0x2AA8, Status 0x2AA9, Session Start Time 0x2AAA.

Continuous Glucose Monitoring Service 1.0.2; all little-endian.

    measurement: one or more records of
    size          1   of the record, this byte and the checksum included
    flags         1   bit 0 trend, 1 quality, 5 warning, 6 calibration, 7 status
    glucose       2   SFLOAT, mg/dL
    time offset   2   minutes since the session began
    status      0|1   Annunciation, bits 0..7
    calibration 0|1   bits 8..15
    warning     0|1   bits 16..23
    trend       0|2   SFLOAT, mg/dL/min
    quality     0|2   SFLOAT, %
    checksum    0|2   E2E-CRC over what is before it

    feature       features 3, type and sample location 1, checksum 2 (ffff: none)
    status        time offset 2, annunciation 3, checksum 0|2
    start time    date_time.py 7, zone 1 (signed, quarter hours, -128 unknown),
                  daylight saving 1 (quarter hours, 255 unknown), checksum 0|2

E2E-CRC: polynomial 1021 hex, both directions reflected, begins with ffff, no final
xor (CRC-16/MCRF4XX). A device sends it in every value or in none; the size says which.
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

MEASUREMENT_UUID = "2aa7"
FEATURE_UUID = "2aa8"
STATUS_UUID = "2aa9"
SESSION_START_UUID = "2aaa"

_TREND = 1 << 0
_QUALITY = 1 << 1
_WARNING_OCTET = 1 << 5
_CALIBRATION_OCTET = 1 << 6
_STATUS_OCTET = 1 << 7
_SIZE_MIN = 6
_CRC_SIZE = 2
_NO_CRC = 0xFFFF
_FEATURE_E2E_CRC = 1 << 12

ZONE_UNKNOWN = -128
DAYLIGHT_SAVING_UNKNOWN = 255
_MS_PER_MINUTE = 60_000
_MS_PER_QUARTER_HOUR = 15 * _MS_PER_MINUTE


class Annunciation(IntFlag):
    """Sensor Status Annunciation: status, calibration and temperature, warnings."""

    SESSION_STOPPED = 1 << 0
    BATTERY_LOW = 1 << 1
    SENSOR_TYPE_INCORRECT = 1 << 2
    SENSOR_MALFUNCTION = 1 << 3
    DEVICE_ALERT = 1 << 4
    DEVICE_FAULT = 1 << 5
    TIME_SYNCHRONISATION_REQUIRED = 1 << 8
    CALIBRATION_NOT_ALLOWED = 1 << 9
    CALIBRATION_RECOMMENDED = 1 << 10
    CALIBRATION_REQUIRED = 1 << 11
    TEMPERATURE_TOO_HIGH = 1 << 12
    TEMPERATURE_TOO_LOW = 1 << 13
    BELOW_PATIENT_LOW = 1 << 16
    ABOVE_PATIENT_HIGH = 1 << 17
    BELOW_HYPO = 1 << 18
    ABOVE_HYPER = 1 << 19
    FALLING_TOO_FAST = 1 << 20
    RISING_TOO_FAST = 1 << 21
    RESULT_TOO_LOW = 1 << 22
    RESULT_TOO_HIGH = 1 << 23


NOTHING = Annunciation(0)
# Not the result bits: such a value is a bound, and the patient is in danger.
UNUSABLE = (
    Annunciation.SENSOR_TYPE_INCORRECT
    | Annunciation.SENSOR_MALFUNCTION
    | Annunciation.DEVICE_FAULT
    | Annunciation.TEMPERATURE_TOO_HIGH
    | Annunciation.TEMPERATURE_TOO_LOW
)


def crc(octets: bytes) -> int:
    """The E2E-CRC of these bytes."""
    register = 0xFFFF
    for octet in octets:
        register ^= octet
        for _ in range(8):
            register = register >> 1 ^ (0x8408 if register & 1 else 0)
    return register


def _checked(fields: Fields, value: bytes, at: int) -> None:
    """The next two bytes are the checksum of the `at` bytes of `value` before them."""
    said, is_ = fields.unsigned("E2E-CRC", _CRC_SIZE), crc(value[:at])
    if said != is_:
        raise fields.refusal(f"E2E-CRC is {said:04x}, that of its bytes {is_:04x}")


def _checksum(value: bytes) -> bytes:
    return crc(value).to_bytes(_CRC_SIZE, "little")


@dataclass(frozen=True, slots=True)
class GlucosePoint:
    """One record of 0x2AA7.

    `concentration` is mg/dL and None for an SFLOAT that is no number; `trend` mg/dL/min
    and `quality` % are Decimal("NaN") there. `octets` says which of the annunciation's
    three bytes (status 1, calibration 2, warning 4) are sent.
    """

    concentration: Decimal | None
    offset_min: int
    annunciation: Annunciation = NOTHING
    octets: int = 0
    trend: Decimal | None = None
    quality: Decimal | None = None
    has_crc: bool = False

    @classmethod
    def from_bytes(cls, value: bytes) -> GlucosePoint:
        """RefusedError MALFORMED names the field where `value` goes wrong."""
        fields = Fields("CGM measurement", value)
        size = fields.unsigned("size", 1)
        if size < _SIZE_MIN:
            raise fields.refusal(f"size is {size}; at least {_SIZE_MIN}")
        flags = fields.unsigned("flags", 1)
        concentration = fields.sfloat("glucose concentration")
        offset = fields.unsigned("time offset", 2)
        annunciation, octets = 0, 0
        for place, (bit, name) in enumerate(_OCTETS):
            if flags & bit:
                annunciation |= fields.unsigned(name, 1) << 8 * place
                octets |= 1 << place
        trend = fields.present_sfloat("trend") if flags & _TREND else None
        quality = fields.present_sfloat("quality") if flags & _QUALITY else None
        at = len(value) - fields.left_size
        if size not in (at, at + _CRC_SIZE):
            raise fields.refusal(f"size is {size}, its fields need {at}")
        if size > at:
            _checked(fields, value, at)
        fields.end()
        return cls(
            concentration,
            offset,
            Annunciation(annunciation),
            octets,
            trend,
            quality,
            has_crc=size > at,
        )

    def __bytes__(self) -> bytes:
        """The record; ValueError for a number that an SFLOAT cannot hold."""
        flags, out = 0, sfloat.encode(self.concentration)
        out += self.offset_min.to_bytes(2, "little")
        for place, (bit, _) in enumerate(_OCTETS):
            if self.octets & 1 << place:
                flags |= bit
                out += bytes((int(self.annunciation) >> 8 * place & 0xFF,))
        for bit, number in ((_TREND, self.trend), (_QUALITY, self.quality)):
            if number is not None:
                flags |= bit
                out += sfloat.encode(None if number.is_nan() else number)
        size = 2 + len(out) + (_CRC_SIZE if self.has_crc else 0)
        value = bytes((size, flags)) + out
        return value + (_checksum(value) if self.has_crc else b"")


_OCTETS = (
    (_STATUS_OCTET, "status octet"),
    (_CALIBRATION_OCTET, "calibration octet"),
    (_WARNING_OCTET, "warning octet"),
)


def records_of(value: bytes) -> list[bytes]:
    """The records of one notification; what cannot be told apart stays together."""
    records = []
    while value:
        size = value[0]
        if not _SIZE_MIN <= size < len(value):
            break
        records.append(value[:size])
        value = value[size:]
    return [*records, value] if value or not records else records


def decode_measurement(value: bytes) -> Reading:
    """glucose of one record. Its time counts from SessionStart, a record of its own."""
    point = GlucosePoint.from_bytes(value)
    glucose = point.concentration
    unknown = glucose is None or point.annunciation & UNUSABLE
    return make_reading(
        None,
        {} if glucose is None else {"glucose": glucose},
        unknown=frozenset({"glucose"}) if unknown else frozenset(),
    )


@dataclass(frozen=True, slots=True)
class Feature:
    """0x2AA8: 24 feature bits, and the type and sample location of glucose.py."""

    bits: int
    sample: int
    location: int

    @classmethod
    def from_bytes(cls, value: bytes) -> Feature:
        """RefusedError MALFORMED names the field where `value` goes wrong."""
        fields = Fields("CGM feature", value)
        bits = fields.unsigned("features", 3)
        both = fields.unsigned("type and sample location", 1)
        if bits & _FEATURE_E2E_CRC:
            _checked(fields, value, len(value) - fields.left_size)
        else:
            fields.unsigned("E2E-CRC", _CRC_SIZE)
        fields.end()
        return cls(bits, both & 0x0F, both >> 4)

    def __bytes__(self) -> bytes:
        value = self.bits.to_bytes(3, "little")
        value += bytes((self.location << 4 | self.sample,))
        if self.has_crc:
            return value + _checksum(value)
        return value + _NO_CRC.to_bytes(_CRC_SIZE, "little")

    @property
    def has_crc(self) -> bool:
        """Whether every value of the device has an E2E-CRC."""
        return bool(self.bits & _FEATURE_E2E_CRC)


@dataclass(frozen=True, slots=True)
class Status:
    """0x2AA9: minutes since the session began, and all 24 annunciation bits."""

    offset_min: int
    annunciation: Annunciation
    has_crc: bool = False

    @classmethod
    def from_bytes(cls, value: bytes) -> Status:
        """RefusedError MALFORMED names the field where `value` goes wrong."""
        fields = Fields("CGM status", value)
        offset = fields.unsigned("time offset", 2)
        annunciation = Annunciation(fields.unsigned("status", 3))
        has_crc = not fields.at_end
        if has_crc:
            _checked(fields, value, len(value) - fields.left_size)
        fields.end()
        return cls(offset, annunciation, has_crc)

    def __bytes__(self) -> bytes:
        value = self.offset_min.to_bytes(2, "little")
        value += int(self.annunciation).to_bytes(3, "little")
        return value + (_checksum(value) if self.has_crc else b"")


@dataclass(frozen=True, slots=True)
class SessionStart:
    """0x2AAA: when the session began, by the sensor's clock in its zone."""

    stamp: Timestamp
    zone_quarters: int = ZONE_UNKNOWN
    daylight_quarters: int = DAYLIGHT_SAVING_UNKNOWN
    has_crc: bool = False

    @classmethod
    def from_bytes(cls, value: bytes) -> SessionStart:
        """RefusedError MALFORMED names the field where `value` goes wrong."""
        fields = Fields("CGM session start time", value)
        stamp = Timestamp.read(fields, "date and time")
        zone = fields.signed("time zone", 1)
        daylight = fields.unsigned("daylight saving", 1)
        has_crc = not fields.at_end
        if has_crc:
            _checked(fields, value, len(value) - fields.left_size)
        fields.end()
        return cls(stamp, zone, daylight, has_crc)

    def __bytes__(self) -> bytes:
        value = bytes(self.stamp)
        value += self.zone_quarters.to_bytes(1, "little", signed=True)
        value += bytes((self.daylight_quarters,))
        return value + (_checksum(value) if self.has_crc else b"")

    def time_ms(self) -> int | None:
        """Milliseconds since 1970 in UTC; an unknown zone counts as UTC."""
        local_ms = self.stamp.time_ms()
        if local_ms is None:
            return None
        quarters = 0 if self.zone_quarters == ZONE_UNKNOWN else self.zone_quarters
        if self.daylight_quarters != DAYLIGHT_SAVING_UNKNOWN:
            quarters += self.daylight_quarters
        return local_ms - quarters * _MS_PER_QUARTER_HOUR


def decode_session_start(value: bytes) -> Reading:
    """A reading without values: when the session began, in UTC."""
    return make_reading(SessionStart.from_bytes(value).time_ms(), {})
