"""The GATT profiles: every flag combination by hand and by round trip, and garbage."""

from __future__ import annotations

import contextlib
import itertools
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.devices.metrics import make_reading
from edge.devices.profiles import PROFILES, battery, sfloat
from edge.devices.profiles.date_time import Timestamp
from edge.devices.profiles.heart_rate import HeartRateMeasurement
from edge.devices.profiles.pulse_oximeter import (
    Continuous,
    MeasurementStatus,
    Pair,
    SensorStatus,
    SpotCheck,
)
from edge.errors import Reason, RefusedError
from edge.model import Reading


def decode(uuid: str, value: str) -> Reading:
    return PROFILES[uuid](bytes.fromhex(value))


def said(reading: Reading) -> dict[str, str]:
    return {name: str(value) for name, value in reading.values.items()}


# ---- SFLOAT -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("octets", "value"),
    [
        ("0000", "0"),
        ("6100", "97"),
        ("6ef1", "36.6"),  # 0xf16e: exponent -1, mantissa 366
        ("d4f3", "98.0"),  # 0xf3d4: a trailing zero is kept
        ("ffff", "-0.1"),  # mantissa -1, exponent -1
        ("fd07", "2045"),  # the largest of exponent 0
        ("0308", "-2045"),  # the smallest
        ("0178", "-2.047E+10"),  # 0x7801: mantissa -2047, exponent 7
        ("0180", "1E-8"),
        ("0110", "1E+1"),
        ("fef7", "204.6"),  # 0x7fe with an exponent is a number, not +INFINITY
        ("00f8", "-204.8"),
    ],
)
def test_an_sfloat_is_a_decimal_with_its_own_exponent(octets: str, value: str) -> None:
    found = sfloat.decode(bytes.fromhex(octets))
    assert str(found) == value
    assert sfloat.encode(found).hex() == octets


def test_the_five_special_words_are_no_numbers() -> None:
    """NaN, NRes, +INFINITY, -INFINITY and the reserved one."""
    for octets in ("ff07", "0008", "fe07", "0208", "0108"):
        assert sfloat.decode(bytes.fromhex(octets)) is None
    assert sfloat.encode(None).hex() == "ff07"


def test_every_word_is_a_number_that_encodes_to_itself_or_special() -> None:
    specials = 0
    for word in range(65536):
        octets = word.to_bytes(2, "little")
        value = sfloat.decode(octets)
        if value is None:
            specials += 1
        else:
            assert sfloat.encode(value) == octets
    assert specials == 5


@pytest.mark.parametrize("value", ["2049", "0.000000001", "36.6123", "1E+12", "NaN"])
def test_what_an_sfloat_cannot_hold_is_not_rounded(value: str) -> None:
    with pytest.raises(ValueError, match=r"fit into|no number"):
        sfloat.encode(Decimal(value))


def test_a_number_that_fits_with_another_exponent_is_held_by_it() -> None:
    for text in ("36.600", "20460", "2047", "-2048", "1E+9"):
        value = Decimal(text)
        if text in ("2047", "-2048"):  # their only words are NaN's and NRes's
            with pytest.raises(ValueError, match="fit into"):
                sfloat.encode(value)
        else:
            assert sfloat.decode(sfloat.encode(value)) == value


# ---- Heart rate ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "measured", "values"),
    [
        # flags, rate
        ("0048", HeartRateMeasurement(72), {"heart_rate": "72"}),
        ("012c01", HeartRateMeasurement(300, wide=True), {"heart_rate": "300"}),
        ("014800", HeartRateMeasurement(72, wide=True), {"heart_rate": "72"}),
        # contact bits: 10 is "not detected", 11 "detected", 01 says nothing
        (
            "0448",
            HeartRateMeasurement(72, contact=False),
            {"heart_rate": "72", "sensor_contact": "0"},
        ),
        (
            "0648",
            HeartRateMeasurement(72, contact=True),
            {"heart_rate": "72", "sensor_contact": "1"},
        ),
        # 0x0190 = 400 kJ
        ("08489001", HeartRateMeasurement(72, energy_kj=400), {"heart_rate": "72"}),
        # 0x0352 = 850/1024 s, 0x0400 = 1 s
        (
            "104852030004",
            HeartRateMeasurement(72, rr_intervals=(850, 1024)),
            {"heart_rate": "72"},
        ),
        (
            "1f4800900152030004",
            HeartRateMeasurement(72, True, 400, (850, 1024), wide=True),
            {"heart_rate": "72", "sensor_contact": "1"},
        ),
    ],
)
def test_a_heart_rate_measurement_says_what_its_flags_say(
    value: str, measured: HeartRateMeasurement, values: dict[str, str]
) -> None:
    found = HeartRateMeasurement.from_bytes(bytes.fromhex(value))
    assert found == measured
    assert bytes(found).hex() == value
    assert said(decode("2a37", value)) == values
    assert decode("2a37", value).time_ms is None


def test_contact_detected_without_contact_supported_says_nothing() -> None:
    assert said(decode("2a37", "0248")) == {"heart_rate": "72"}


def test_reserved_heart_rate_flags_and_an_empty_list_of_intervals_are_taken() -> None:
    assert said(decode("2a37", "e048")) == {"heart_rate": "72"}
    assert said(decode("2a37", "1048")) == {"heart_rate": "72"}


def test_a_strap_without_contact_raises_no_low_alarm() -> None:
    reading = decode("2a37", "0400")
    assert reading.no_contact
    assert reading.known() == {}


@given(
    st.builds(
        HeartRateMeasurement,
        st.integers(0, 0xFFFF),
        st.sampled_from([None, False, True]),
        st.none() | st.integers(0, 0xFFFF),
        st.lists(st.integers(0, 0xFFFF), max_size=9).map(tuple),
        wide=st.booleans(),
    )
)
def test_every_heart_rate_measurement_survives_the_round_trip(
    sent: HeartRateMeasurement,
) -> None:
    found = HeartRateMeasurement.from_bytes(bytes(sent))
    assert found.wide == (sent.wide or sent.heart_rate > 255)
    assert bytes(found) == bytes(sent)
    assert (found.heart_rate, found.contact, found.energy_kj, found.rr_intervals) == (
        sent.heart_rate,
        sent.contact,
        sent.energy_kj,
        sent.rr_intervals,
    )
    values = {"heart_rate": Decimal(sent.heart_rate)}
    if sent.contact is not None:
        values["sensor_contact"] = Decimal(sent.contact)
    assert PROFILES["2a37"](bytes(sent)) == make_reading(None, values)


# ---- Pulse oximeter -----------------------------------------------------------------

PAIRS = {"normal": "61004800", "fast": "6000d2f2", "slow": "ff076400"}


@pytest.mark.parametrize("flags", range(32))
def test_a_continuous_measurement_has_the_fields_that_its_flags_say(flags: int) -> None:
    """Each of the 32 combinations, put together by hand."""
    value = bytes((flags,)).hex() + PAIRS["normal"]
    expected = Continuous(Pair(Decimal(97), Decimal(72)))
    fields: dict[str, object] = {}
    if flags & 1:
        value += PAIRS["fast"]
        fields["fast"] = Pair(Decimal(96), Decimal("72.2"))
    if flags & 2:
        value += PAIRS["slow"]
        fields["slow"] = Pair(None, Decimal(100))
    if flags & 4:
        value += "a001"
        fields["measurement_status"] = (
            MeasurementStatus.ONGOING
            | MeasurementStatus.VALIDATED
            | MeasurementStatus.FULLY_QUALIFIED
        )
    if flags & 8:
        value += "300000"
        fields["sensor_status"] = SensorStatus.POOR_SIGNAL | SensorStatus.LOW_PERFUSION
    if flags & 16:
        value += "0cf0"
        fields["amplitude_index"] = Decimal("1.2")
    found = Continuous.from_bytes(bytes.fromhex(value))
    assert {name: getattr(found, name) for name in fields} == fields
    absent = {"fast", "slow", "measurement_status", "sensor_status", "amplitude_index"}
    assert {getattr(found, name) for name in absent - set(fields)} <= {None}
    assert found.normal == expected.normal
    assert bytes(found).hex() == value
    assert decode("2a5f", value) == make_reading(
        None, {"spo2": Decimal(97), "pulse_rate": Decimal(72)}
    )


@pytest.mark.parametrize("flags", range(32))
def test_a_spot_check_has_the_fields_that_its_flags_say(flags: int) -> None:
    value = bytes((flags,)).hex() + PAIRS["normal"]
    fields: dict[str, object] = {"clock_unset": bool(flags & 16)}
    if flags & 1:
        value += "ea070b150c2238"  # 2026-11-21 12:34:56
        fields["timestamp"] = Timestamp(2026, 11, 21, 12, 34, 56)
    if flags & 2:
        value += "8000"
        fields["measurement_status"] = MeasurementStatus.VALIDATED
    if flags & 4:
        value += "000400"
        fields["sensor_status"] = SensorStatus.SENSOR_INTERFERENCE
    if flags & 8:
        value += "ff07"
    found = SpotCheck.from_bytes(bytes.fromhex(value))
    assert {name: getattr(found, name) for name in fields} == fields
    absent = {"timestamp", "measurement_status", "sensor_status"} - set(fields)
    assert {getattr(found, name) for name in absent} <= {None}
    if flags & 8:
        assert found.amplitude_index is not None
        assert found.amplitude_index.is_nan()
    else:
        assert found.amplitude_index is None
    assert bytes(found).hex() == value
    timed = flags & 1 and not flags & 16
    assert decode("2a5e", value) == make_reading(
        1_795_264_496_000 if timed else None,
        {"spo2": Decimal(97), "pulse_rate": Decimal(72)},
    )


@pytest.mark.parametrize(
    ("stamp", "time_ms"),
    [
        ("b2070101000000", 0),
        ("d0070200000000", None),  # the day is unknown
        ("d0070002000000", None),  # the month
        ("00000101000000", None),  # the year
        ("d0071e01000000", None),  # month 30
        ("d1070e1d000000", None),
        ("d107021d000000", None),  # 2001 had no 29 February
        ("d007021d000000", 951_782_400_000),  # 2000 had one
        ("d0070101180000", None),  # 24 o'clock
        ("d00701010000 3c".replace(" ", ""), None),  # second 60
    ],
)
def test_only_a_full_true_date_is_a_time(stamp: str, time_ms: int | None) -> None:
    reading = decode("2a5e", "01" + PAIRS["normal"] + stamp)
    assert reading.time_ms == time_ms
    assert said(reading) == {"spo2": "97", "pulse_rate": "72"}


def test_a_value_that_is_no_number_is_left_out_and_unknown() -> None:
    """Not only missing: the last good value must not go on standing for it."""
    reading = decode("2a5f", "00" + "ff07" + "4800")
    assert said(reading) == {"pulse_rate": "72"}
    assert reading.implausible == {"spo2"}
    both = decode("2a5e", "00" + "0008" + "fe07")
    assert both.values == {}
    assert both.implausible == {"spo2", "pulse_rate"}


@pytest.mark.parametrize("status", [*MeasurementStatus], ids=lambda s: s.name)
def test_a_measurement_that_the_sensor_disowns_is_kept_and_not_relied_on(
    status: MeasurementStatus,
) -> None:
    """Demonstration, test, calibration, unavailable, invalid: bits 10 to 13 and 15."""
    disowned = status in {1 << 10, 1 << 11, 1 << 12, 1 << 13, 1 << 15}
    value = "04" + PAIRS["normal"] + int(status).to_bytes(2, "little").hex()
    reading = decode("2a5f", value)
    assert said(reading) == {"spo2": "97", "pulse_rate": "72"}
    assert set(reading.known()) == (set() if disowned else {"spo2", "pulse_rate"})


@pytest.mark.parametrize("status", [*SensorStatus], ids=lambda s: s.name)
def test_a_sensor_off_the_patient_says_so_and_a_broken_one_is_not_relied_on(
    status: SensorStatus,
) -> None:
    """Off: bits 11, 13, 15. Malfunction of device or sensor: bits 1 and 14."""
    value = "08" + PAIRS["normal"] + int(status).to_bytes(3, "little").hex()
    reading = decode("2a5f", value)
    assert reading.no_contact is (status in {1 << 11, 1 << 13, 1 << 15})
    relied_on = status not in {1 << 1, 1 << 11, 1 << 13, 1 << 14, 1 << 15}
    assert bool(reading.known()) is relied_on
    assert {"spo2", "pulse_rate"} <= set(reading.values)


def test_sensor_status_without_a_fault_is_no_proof_of_contact() -> None:
    assert "sensor_contact" not in decode("2a5f", "08610048000000" + "00").values


SFLOATS = st.integers(0, 0xFFFF).map(lambda word: word.to_bytes(2, "little"))
PAIR = st.builds(Pair, *[st.none() | SFLOATS.map(sfloat.decode)] * 2)
TAIL = {
    "measurement_status": st.none() | st.integers(0, 0xFFFF).map(MeasurementStatus),
    "sensor_status": st.none() | st.integers(0, 0xFFFFFF).map(SensorStatus),
    "amplitude_index": st.none() | SFLOATS.map(sfloat.decode),
}
STAMP = st.builds(Timestamp, st.integers(0, 0xFFFF), *[st.integers(0, 255)] * 5)


@given(
    st.builds(Continuous, PAIR, st.none() | PAIR, st.none() | PAIR, **TAIL)
    | st.builds(SpotCheck, PAIR, st.none() | STAMP, clock_unset=st.booleans(), **TAIL)
)
def test_every_oximeter_measurement_survives_the_round_trip(
    sent: Continuous | SpotCheck,
) -> None:
    assert type(sent).from_bytes(bytes(sent)) == sent
    uuid = "2a5f" if isinstance(sent, Continuous) else "2a5e"
    reading = PROFILES[uuid](bytes(sent))
    pair = sent.normal if isinstance(sent, Continuous) else sent.pair
    assert reading.values.get("spo2") == pair.spo2
    assert reading.values.get("pulse_rate") == pair.pulse_rate


# ---- Battery ------------------------------------------------------------------------


def test_a_battery_level_is_one_byte_of_per_cent() -> None:
    assert decode("2a19", "64") == make_reading(None, {"battery": Decimal(100)})
    assert decode("2a19", "65").implausible == {"battery"}
    assert battery.encode(94).hex() == "5e"


# ---- All of them --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("uuid", "value", "detail"),
    [
        ("2a37", "", "heart rate measurement: ends before flags"),
        ("2a37", "00", "heart rate measurement: ends before heart rate"),
        ("2a37", "0148", "heart rate measurement: ends inside heart rate"),
        ("2a37", "084890", "heart rate measurement: ends inside Energy Expended"),
        ("2a37", "104852", "heart rate measurement: ends inside RR-Interval 1"),
        ("2a37", "1048520300", "heart rate measurement: ends inside RR-Interval 2"),
        ("2a37", "004800", "heart rate measurement: 1 bytes after the end"),
        ("2a5f", "006100", "PLX continuous measurement: ends before normal pulse rate"),
        ("2a5f", "0061", "PLX continuous measurement: ends inside normal SpO2"),
        ("2a5f", "016100480061", "PLX continuous measurement: ends inside fast SpO2"),
        ("2a5f", "0261004800", "PLX continuous measurement: ends before slow SpO2"),
        ("2a5f", "0461004800a0", "ends inside Measurement Status"),
        ("2a5f", "0861004800a001", "ends inside Device and Sensor Status"),
        ("2a5f", "1061004800a0", "ends inside Pulse Amplitude Index"),
        ("2a5f", "006100480000", "PLX continuous measurement: 1 bytes after the end"),
        ("2a5e", "0161004800ea070b15", "spot-check measurement: ends inside timestamp"),
        ("2a5e", "0061", "spot-check measurement: ends inside spot-check SpO2"),
        ("2a19", "", "battery level: ends before level"),
        ("2a19", "6464", "battery level: 1 bytes after the end"),
    ],
)
def test_a_value_of_the_wrong_length_is_refused_by_the_name_of_its_field(
    uuid: str, value: str, detail: str
) -> None:
    with pytest.raises(RefusedError) as refused:
        decode(uuid, value)
    assert refused.value.reason is Reason.MALFORMED
    assert detail in refused.value.detail


@given(st.sampled_from(sorted(PROFILES)), st.binary(max_size=24))
def test_any_value_is_a_reading_or_refused(uuid: str, value: bytes) -> None:
    try:
        reading = PROFILES[uuid](value)
    except RefusedError as error:
        reason = error.reason
    else:
        assert all(number.is_finite() for number in reading.values.values())
        return
    assert reason is Reason.MALFORMED


def test_every_flag_byte_at_every_length_is_a_reading_or_refused() -> None:
    """Exhaustive where the flags decide: 256 flags, up to 22 bytes behind them."""
    for uuid, flags, length in itertools.product(PROFILES, range(256), range(23)):
        value = bytes((flags,)) + bytes(range(1, length + 1))
        with contextlib.suppress(RefusedError):
            known = PROFILES[uuid](value).known()
            assert all(number.is_finite() for number in known.values())
