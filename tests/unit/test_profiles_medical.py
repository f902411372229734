"""The medical GATT profiles: vectors, every flag combination, truncation, garbage.

The values of tests/vectors/gatt.json are the specifications', published captures with a
value that the device itself showed, or put together by hand; none is our encoder's.
"""

from __future__ import annotations

import itertools
import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.devices.profiles import (
    PROFILES,
    body_composition,
    continuous_glucose,
    device_information,
    float32,
    sfloat,
)
from edge.devices.profiles.blood_pressure import BloodPressure, MeasurementStatus
from edge.devices.profiles.body_composition import BodyComposition
from edge.devices.profiles.continuous_glucose import (
    Annunciation,
    Feature,
    GlucosePoint,
    SessionStart,
    Status,
)
from edge.devices.profiles.current_time import CurrentTime
from edge.devices.profiles.date_time import Timestamp
from edge.devices.profiles.glucose import (
    GlucoseContext,
    GlucoseMeasurement,
    SensorStatus,
)
from edge.devices.profiles.health_thermometer import Site, Temperature
from edge.devices.profiles.racp import Answer, OpCode, Operator, Request
from edge.devices.profiles.weight_scale import Weight
from edge.errors import Reason, RefusedError

VECTORS: list[dict[str, Any]] = json.loads(
    (Path(__file__).parents[1] / "vectors" / "gatt.json").read_text()
)
NOON = Timestamp(2026, 11, 21, 12, 34, 56)
NAN = Decimal("NaN")


@pytest.mark.parametrize("vector", VECTORS, ids=lambda v: f"{v['uuid']}-{v['value']}")
def test_a_published_value_says_what_its_source_says(vector: dict[str, Any]) -> None:
    reading = PROFILES[vector["uuid"]](bytes.fromhex(vector["value"]))
    said = {name: str(value) for name, value in reading.values.items()}
    assert said == vector["values"]  # with the precision that the device told
    assert reading.implausible == frozenset(vector.get("implausible", ()))
    assert reading.time_ms == vector.get("time_ms")


def test_every_profile_has_a_vector() -> None:
    assert {vector["uuid"] for vector in VECTORS} >= set(PROFILES) - {"2a5e"}


# ---- FLOAT --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("octets", "value"),
    [
        ("00000000", "0"),
        ("6e0100ff", "36.6"),
        ("6c0100ff", "36.4"),
        ("ffffffff", "-0.1"),
        ("fdff7f00", "8388605"),  # the largest of exponent 0
        ("03008000", "-8388605"),
        ("feff7fff", "838860.6"),  # +INFINITY's mantissa with an exponent is a number
        ("010000 80".replace(" ", ""), "1E-128"),
        ("0100007f", "1E+127"),
        ("720e00fe", "36.98"),
    ],
)
def test_a_float_is_a_decimal_with_its_own_exponent(octets: str, value: str) -> None:
    found = float32.decode(bytes.fromhex(octets))
    assert str(found) == value
    assert float32.encode(found).hex() == octets


def test_the_five_special_words_of_a_float_are_no_numbers() -> None:
    """NaN, NRes, +INFINITY, -INFINITY and the reserved one."""
    for octets in ("ffff7f00", "00008000", "feff7f00", "02008000", "01008000"):
        assert float32.decode(bytes.fromhex(octets)) is None
        reading = PROFILES["2a1c"](bytes.fromhex("00" + octets))
        assert reading.values == {}
        assert reading.implausible == {"body_temperature"}
    assert float32.encode(None).hex() == "ffff7f00"


@given(st.integers(0, 2**32 - 1))
def test_every_float_is_special_or_encodes_to_itself(word: int) -> None:
    octets = word.to_bytes(4, "little")
    value = float32.decode(octets)
    if value is None:
        assert word & 0x00FFFFFF in range(0x7FFFFE, 0x800003)
    elif value:  # a zero keeps its exponent, but -0 and 0E-128 are one number
        assert float32.encode(value) == octets
    else:
        assert float32.decode(float32.encode(value)) == 0


@pytest.mark.parametrize("value", ["8388609", "1E+200", "0.12345678", "Infinity"])
def test_what_a_float_cannot_hold_is_not_rounded(value: str) -> None:
    with pytest.raises(ValueError, match=r"fit into|no number"):
        float32.encode(Decimal(value))


# ---- Every flag combination, by hand ------------------------------------------------


def put_together(
    flags: int, head: str, parts: list[tuple[int, str]], size: int = 1
) -> bytes:
    """The value of `flags`: head, then each part whose flag bit is set."""
    body = "".join(octets for bit, octets in parts if flags & 1 << bit)
    return flags.to_bytes(size, "little") + bytes.fromhex(head + body)


STAMP = "ea070b150c2238"


@pytest.mark.parametrize("flags", range(8))
def test_a_temperature_has_the_fields_that_its_flags_say(flags: int) -> None:
    value = put_together(flags, "da0300ff", [(1, STAMP), (2, "03")])
    found = Temperature.from_bytes(value)
    assert found == Temperature(
        Decimal("98.6"),
        fahrenheit=bool(flags & 1),
        timestamp=NOON if flags & 2 else None,
        site=Site.EAR if flags & 4 else None,
    )
    assert bytes(found) == value
    assert found.celsius == (Decimal(37) if flags & 1 else Decimal("98.6"))


@pytest.mark.parametrize("flags", range(32))
def test_a_blood_pressure_has_the_fields_that_its_flags_say(flags: int) -> None:
    parts = [(1, STAMP), (2, "4800"), (3, "07"), (4, "2100")]
    value = put_together(flags, "780050005d00", parts)
    found = BloodPressure.from_bytes(value)
    assert found == BloodPressure(
        Decimal(120),
        Decimal(80),
        Decimal(93),
        kilopascal=bool(flags & 1),
        timestamp=NOON if flags & 2 else None,
        pulse_rate=Decimal(72) if flags & 4 else None,
        user=7 if flags & 8 else None,
        status=(
            MeasurementStatus.BODY_MOVEMENT | MeasurementStatus.IMPROPER_POSITION
            if flags & 16
            else None
        ),
    )
    assert bytes(found) == value
    assert ("pulse_rate" in PROFILES["2a35"](value).values) is bool(flags & 4)


@pytest.mark.parametrize("flags", range(32))
def test_a_glucose_measurement_has_the_fields_that_its_flags_say(flags: int) -> None:
    parts = [(0, "c4ff"), (1, "78b011"), (3, "0100")]
    value = put_together(flags, "0600" + STAMP, parts)
    found = GlucoseMeasurement.from_bytes(value)
    assert found == GlucoseMeasurement(
        6,
        NOON,
        offset_min=-60 if flags & 1 else None,
        concentration=Decimal("0.00120") if flags & 2 else None,
        sample=1 if flags & 2 else None,
        location=1 if flags & 2 else None,
        status=SensorStatus.BATTERY_LOW if flags & 8 else None,
        molar=bool(flags & 4),
        context_follows=bool(flags & 16),
    )
    assert bytes(found) == value
    noon_ms = NOON.time_ms()
    assert noon_ms is not None
    assert found.time_ms() == noon_ms - (3_600_000 if flags & 1 else 0)


@pytest.mark.parametrize("flags", range(256))
def test_a_glucose_context_has_the_fields_that_its_flags_say(flags: int) -> None:
    head = "0600" + ("aa" if flags & 128 else "")
    parts = [
        *[(0, "0132c0"), (1, "02"), (2, "53"), (3, "080732")],
        *[(4, "010ac0"), (6, "37f0")],
    ]
    value = put_together(flags, head, parts)
    found = GlucoseContext.from_bytes(value)
    assert found == GlucoseContext(
        6,
        extended=0xAA if flags & 128 else None,
        carbohydrate=(1, Decimal("0.0050")) if flags & 1 else None,
        meal=2 if flags & 2 else None,
        tester_health=(3, 5) if flags & 4 else None,
        exercise=(1800, 50) if flags & 8 else None,
        medication=(1, Decimal("0.0010")) if flags & 16 else None,
        hba1c=Decimal("5.5") if flags & 64 else None,
        medication_litres=bool(flags & 32),
    )
    assert bytes(found) == value


@pytest.mark.parametrize("flags", range(256))
@pytest.mark.parametrize("with_crc", [False, True])
def test_a_continuous_record_has_the_fields_that_its_flags_say(
    flags: int, with_crc: bool
) -> None:
    """Bits 2 to 4 are reserved: they are ignored, and not written back."""
    body = "73002c01"
    for bit, octets in ((7, "02"), (6, "03"), (5, "80"), (0, "2400"), (1, "1a00")):
        body += octets if flags & 1 << bit else ""
    size = 2 + len(body) // 2 + (2 if with_crc else 0)
    value = bytes((size, flags)) + bytes.fromhex(body)
    if with_crc:
        value += continuous_glucose.crc(value).to_bytes(2, "little")
    found = GlucosePoint.from_bytes(value)
    expected = 0
    for bit, said in ((7, 0x02), (6, 0x0300), (5, 0x800000)):
        expected |= said if flags & 1 << bit else 0
    assert found.annunciation == expected
    assert (found.concentration, found.offset_min) == (Decimal(115), 300)
    assert found.trend == (Decimal(36) if flags & 1 else None)
    assert found.quality == (Decimal(26) if flags & 2 else None)
    assert found.has_crc is with_crc
    if not flags & 0x1C:
        assert bytes(found) == value


@pytest.mark.parametrize("flags", range(16))
def test_a_weight_has_the_fields_that_its_flags_say(flags: int) -> None:
    value = put_together(flags, "983a", [(1, STAMP), (2, "ff"), (3, "f500d606")])
    found = Weight.from_bytes(value)
    assert found == Weight(
        15000,
        imperial=bool(flags & 1),
        timestamp=NOON if flags & 2 else None,
        user=255 if flags & 4 else None,
        bmi_height=(245, 1750) if flags & 8 else None,
    )
    assert bytes(found) == value


def test_a_body_composition_has_the_fields_that_its_flags_say() -> None:
    """Each of the 8,192 combinations."""
    names = body_composition.OPTIONS
    parts = [(1, STAMP), (2, "07"), *[(3 + i, f"{i + 1:02x}01") for i in range(9)]]
    for flags in range(1 << 13):
        value = put_together(flags, "fa00", parts, size=2)
        found = BodyComposition.from_bytes(value)
        assert (found.body_fat, found.imperial) == (250, bool(flags & 1))
        assert found.timestamp == (NOON if flags & 2 else None)
        assert found.user == (7 if flags & 4 else None)
        assert found.options == {
            name: 0x0101 + i for i, name in enumerate(names) if flags & 1 << 3 + i
        }
        assert found.more_follows is bool(flags & 1 << 12)
        assert bytes(found) == value


# ---- What nobody may rely on --------------------------------------------------------


def test_a_control_solution_is_no_blood() -> None:
    sent = GlucoseMeasurement(1, NOON, None, Decimal("0.00110"), 10, 4)
    reading = PROFILES["2a18"](bytes(sent))
    assert (reading.values, reading.known()) == ({"glucose": Decimal(110)}, {})


@pytest.mark.parametrize("status", [*SensorStatus], ids=lambda s: s.name)
def test_a_strip_that_the_meter_disowns_has_no_result_but_a_bound_has(
    status: SensorStatus,
) -> None:
    """Bits 0, 5, 6 and 11 (battery, too high, too low, time) leave the value usable."""
    sent = GlucoseMeasurement(1, NOON, None, Decimal("0.00040"), 1, 1, status)
    relied_on = bool(PROFILES["2a18"](bytes(sent)).known())
    assert relied_on is (status in {1 << 0, 1 << 5, 1 << 6, 1 << 11})


@pytest.mark.parametrize("status", [*Annunciation], ids=lambda s: s.name)
def test_a_sensor_that_disowns_its_value_is_not_relied_on(status: Annunciation) -> None:
    """Bits 2, 3, 5 (type, malfunction, fault), 12 and 13 (temperature)."""
    sent = GlucosePoint(Decimal(52), 5, status, octets=7)
    relied_on = bool(PROFILES["2aa7"](bytes(sent)).known())
    assert relied_on is (status not in {1 << 2, 1 << 3, 1 << 5, 1 << 12, 1 << 13})


def test_a_thermometer_that_warms_up_is_no_cold_patient() -> None:
    assert (
        "body_temperature" not in PROFILES["2a1e"](bytes.fromhex("00220100ff")).values
    )
    assert "systolic_pressure" not in PROFILES["2a36"](bytes(7)).values


def test_beurers_byte_order_is_read_only_where_the_profile_would_refuse() -> None:
    """One byte less, or a flag more, and the value is what the profile says."""
    beurer = "566a0047000000ea07080b121f00003f000000"
    said = PROFILES["2a35"](bytes.fromhex(beurer)).values
    assert said["systolic_pressure"] == 106
    assert said["pulse_rate"] == 63
    by_the_profile = bytes.fromhex("566a0047000000ea07080b121f003f000000")
    assert PROFILES["2a35"](by_the_profile).values["pulse_rate"] == 63
    with_user = bytes.fromhex("5e6a0047000000ea07080b121f003f00000000")
    assert BloodPressure.from_bytes(with_user).user == 0
    assert PROFILES["2a35"](with_user).values["pulse_rate"] == 63
    with pytest.raises(RefusedError, match="1 bytes after the end"):
        PROFILES["2a35"](bytes.fromhex("16" + beurer[2:]))


# ---- E2E-CRC ------------------------------------------------------------------------


def test_the_checksum_is_crc_16_mcrf4xx() -> None:
    """6f91 is that algorithm's published check value."""
    assert continuous_glucose.crc(b"123456789") == 0x6F91


def test_a_record_that_the_radio_spoilt_is_refused_by_its_checksum() -> None:
    """Every single bit but those that say how long the record is."""
    good = bytes.fromhex("0d4373002c010324001a003e04")
    for bit in range(16, 8 * len(good)):
        bad = bytearray(good)
        bad[bit // 8] ^= 1 << bit % 8
        with pytest.raises(RefusedError, match="E2E-CRC is"):
            GlucosePoint.from_bytes(bytes(bad))


def test_a_notification_of_several_records_is_taken_apart() -> None:
    records = [
        bytes(GlucosePoint(Decimal(100 + i), i, has_crc=i > 1)) for i in range(4)
    ]
    assert continuous_glucose.records_of(b"".join(records)) == records
    assert continuous_glucose.records_of(b"") == [b""]
    torn = b"".join(records)[:-3]
    assert continuous_glucose.records_of(torn) == [*records[:3], records[3][:-3]]
    assert continuous_glucose.records_of(b"\x00\x00") == [b"\x00\x00"]


def test_a_session_start_is_brought_to_utc_by_its_zone() -> None:
    """+2 h (8 quarters) with an hour of daylight saving (4): three hours earlier."""
    noon_ms = NOON.time_ms()
    assert noon_ms is not None
    assert SessionStart(NOON, 8, 4).time_ms() == noon_ms - 3 * 3_600_000
    assert SessionStart(NOON, -20, 0).time_ms() == noon_ms + 5 * 3_600_000
    assert SessionStart(NOON).time_ms() == noon_ms


# ---- Clocks, identity, record access ------------------------------------------------


def test_a_clock_is_set_to_the_moment_in_utc() -> None:
    """2010-12-18 was a Saturday; 0.75 s is 192 / 256."""
    now = CurrentTime.at(1_292_685_786_750)
    assert bytes(now).hex() == "da070c120f1706" + "06" + "c0" + "02"
    assert now.time_ms() == 1_292_685_786_750
    assert bytes(Timestamp.at(1_292_685_786_999)).hex() == "da070c120f1706"


def test_a_system_id_turned_round_is_the_eui_64() -> None:
    """00:1B:DC:07:32:EF with ff fe in the middle, as the specification makes one."""
    eui = bytes.fromhex("001bdcfffe0732ef")
    said = bytes.fromhex("ef3207feff" + "dc1b00")
    assert device_information.eui_64(said) == eui
    assert device_information.system_id(eui) == said
    with pytest.raises(ValueError, match="has 8 bytes"):
        device_information.system_id(eui[:6])


def test_a_text_of_a_device_cannot_write_on_a_terminal() -> None:
    assert device_information.text(b"BM 85\0\0") == "BM 85"
    assert device_information.text(b"\xffA\x1b[2J") == "�A�[2J"


@pytest.mark.parametrize(
    ("request_", "octets"),
    [
        (Request(OpCode.REPORT, Operator.ALL), "0101"),
        (Request(OpCode.REPORT, Operator.UP_TO, (300,)), "0102012c01"),
        (Request(OpCode.REPORT, Operator.FROM, (300,)), "0103012c01"),
        (Request(OpCode.REPORT, Operator.FROM, (NOON,)), "010302" + STAMP),
        (Request(OpCode.REPORT, Operator.WITHIN, (1, 2)), "01040101000200"),
        (Request(OpCode.REPORT, Operator.WITHIN, (NOON, NOON)), "010402" + 2 * STAMP),
        (Request(OpCode.REPORT, Operator.FIRST), "0105"),
        (Request(OpCode.REPORT, Operator.LAST), "0106"),
        (Request(OpCode.DELETE, Operator.UP_TO, (7,)), "0202010700"),
        (Request(OpCode.DELETE, Operator.ALL), "0201"),
        (Request(OpCode.ABORT, Operator.NONE), "0300"),
        (Request(OpCode.REPORT_NUMBER, Operator.ALL), "0401"),
        (Request(OpCode.REPORT_NUMBER, Operator.FROM, (7,)), "0403010700"),
    ],
)
def test_a_request_for_records_is_what_the_specification_says(
    request_: Request, octets: str
) -> None:
    assert bytes(request_).hex() == octets
    assert Request.from_bytes(bytes.fromhex(octets)) == request_


def test_a_request_that_no_device_understands_is_not_built() -> None:
    for op_code, operator, bounds in (
        (OpCode.REPORT, Operator.ALL, (1,)),
        (OpCode.REPORT, Operator.WITHIN, (1,)),
        (OpCode.REPORT, Operator.NONE, ()),
        (OpCode.ABORT, Operator.ALL, ()),
        (OpCode.RESPONSE, Operator.ALL, ()),
        (OpCode.REPORT, Operator.WITHIN, (1, NOON)),
    ):
        with pytest.raises(ValueError, match=r"with|answer|one request"):
            Request(op_code, operator, bounds)


def test_an_answer_is_a_count_or_how_it_ended() -> None:
    assert Answer.from_bytes(bytes.fromhex("05001e00")) == Answer(count=30)
    done = Answer.from_bytes(bytes.fromhex("06000101"))
    assert (done, done.words) == (Answer(None, 1, 1), "success")
    assert Answer.from_bytes(bytes.fromhex("06000106")).words == "no records"
    assert Answer(None, 1, 77).words == "response 77"
    for answer in (Answer(count=30), done):
        assert Answer.from_bytes(bytes(answer)) == answer


# ---- Truncation and garbage ---------------------------------------------------------

WHOLE: dict[str, bytes] = {
    "2a1c": put_together(6, "da0300ff", [(1, STAMP), (2, "03")]),
    "2a35": bytes.fromhex("1e78005000ff07" + STAMP + "4800010400"),
    "2a18": bytes.fromhex("0b0600" + STAMP + "c4ff78b0110100"),
    "2a34": bytes.fromhex("df0600aa0132c002530807 32010ac037f0".replace(" ", "")),
    "2aa7": bytes.fromhex("0d4373002c010324001a003e04"),
    "2a9d": bytes.fromhex("0e983a" + STAMP + "fff500d606"),
    "2a9c": bytes.fromhex("fe0ffa00" + STAMP + "07" + "1234" * 9),
    "2a2b": bytes.fromhex("da070c120f170600c000"),
    "2aaa": bytes.fromhex("da070c120f17060400"),
    "2a08": bytes.fromhex("da070c120f1706"),
}


@pytest.mark.parametrize("uuid", sorted(WHOLE))
def test_a_value_cut_short_anywhere_is_refused_by_the_name_of_its_field(
    uuid: str,
) -> None:
    whole = WHOLE[uuid]
    PROFILES[uuid](whole)
    for size in range(len(whole)):
        with pytest.raises(RefusedError) as refused:
            PROFILES[uuid](whole[:size])
        assert refused.value.reason is Reason.MALFORMED
        # A CGM record without its checksum is of the wrong size instead.
        assert any(
            word in refused.value.detail
            for word in ("ends before", "ends inside", "is")
        )
    with pytest.raises(RefusedError, match=r"after the end|CRC|size"):
        PROFILES[uuid](whole + b"\x00")


def test_the_field_that_is_cut_is_named() -> None:
    for uuid, size, detail in (
        ("2a1c", 3, "temperature measurement: ends inside temperature"),
        ("2a35", 3, "blood pressure measurement: ends before diastolic"),
        ("2a35", 15, "blood pressure measurement: ends inside pulse rate"),
        ("2a18", 4, "glucose measurement: ends inside base time"),
        ("2a18", 13, "glucose measurement: ends inside concentration"),
        ("2a34", 5, "glucose measurement context: ends before carbohydrate"),
        ("2aa7", 8, "CGM measurement: ends inside trend"),
        ("2a9d", 12, "weight measurement: ends inside BMI"),
        ("2a9c", 12, "body composition measurement: ends before basal metabolism"),
        ("2a2b", 7, "current time: ends before day of week"),
    ):
        with pytest.raises(RefusedError) as refused:
            PROFILES[uuid](WHOLE[uuid][:size])
        assert detail in refused.value.detail


@given(st.sampled_from(sorted(PROFILES)), st.binary(max_size=48))
def test_any_bytes_are_a_reading_or_refused_as_malformed(
    uuid: str, value: bytes
) -> None:
    try:
        reading = PROFILES[uuid](value)
    except RefusedError as error:
        assert error.reason is Reason.MALFORMED  # noqa: PT017 - either way is right
    else:
        assert all(number.is_finite() for number in reading.values.values())


@given(st.binary(max_size=24))
def test_any_bytes_are_an_answer_a_request_or_refused(value: bytes) -> None:
    kinds = (Answer, Request, Feature, Status, SessionStart, device_information.PnpId)
    for kind in kinds:
        try:
            kind.from_bytes(value)
        except RefusedError as error:
            assert error.reason is Reason.MALFORMED  # noqa: PT017


# ---- Round trips --------------------------------------------------------------------

SFLOATS = st.integers(0, 0xFFFF).map(lambda w: sfloat.decode(w.to_bytes(2, "little")))
PRESENT = SFLOATS.map(lambda v: NAN if v is None else v)
STAMPS = st.builds(Timestamp, st.integers(0, 0xFFFF), *[st.integers(0, 255)] * 5)
BYTE, WORD = st.integers(0, 255), st.integers(0, 0xFFFF)
FLOATS = st.builds(
    lambda mantissa, exponent: Decimal(mantissa).scaleb(exponent),
    st.integers(-8_388_605, 8_388_605).filter(bool),
    st.integers(-20, 20),
)


@st.composite
def glucose_measurements(draw: st.DrawFn) -> GlucoseMeasurement:
    present = draw(st.booleans())
    nibble = st.integers(0, 15)
    return GlucoseMeasurement(
        draw(WORD),
        draw(STAMPS),
        draw(st.none() | st.integers(-32768, 32767)),
        draw(PRESENT) if present else None,
        draw(nibble) if present else None,
        draw(nibble) if present else None,
        draw(st.none() | WORD.map(SensorStatus)),
        molar=draw(st.booleans()),
        context_follows=draw(st.booleans()),
    )


ANY_VALUE = (
    st.builds(
        Temperature,
        st.none() | FLOATS,
        st.booleans(),
        st.none() | STAMPS,
        st.none() | BYTE,
    )
    | st.builds(
        BloodPressure,
        SFLOATS,
        SFLOATS,
        SFLOATS,
        st.booleans(),
        st.none() | STAMPS,
        st.none() | PRESENT,
        st.none() | BYTE,
        st.none() | WORD.map(MeasurementStatus),
    )
    | glucose_measurements()
    | st.builds(
        GlucoseContext,
        WORD,
        st.none() | BYTE,
        st.none() | st.tuples(BYTE, PRESENT),
        st.none() | BYTE,
        st.none() | st.tuples(st.integers(0, 15), st.integers(0, 15)),
        st.none() | st.tuples(WORD, BYTE),
        st.none() | st.tuples(BYTE, PRESENT),
        st.none() | PRESENT,
        medication_litres=st.booleans(),
    )
    | st.builds(
        lambda glucose, offset, bits, trend, quality, crc: GlucosePoint(
            glucose, offset, Annunciation(bits), 7, trend, quality, crc
        ),
        SFLOATS,
        WORD,
        st.integers(0, 0xFFFFFF),
        st.none() | PRESENT,
        st.none() | PRESENT,
        st.booleans(),
    )
    | st.builds(
        Weight,
        WORD,
        st.booleans(),
        st.none() | STAMPS,
        st.none() | BYTE,
        st.none() | st.tuples(WORD, WORD),
    )
    | st.builds(
        BodyComposition,
        WORD,
        st.booleans(),
        st.none() | STAMPS,
        st.none() | BYTE,
        st.dictionaries(st.sampled_from(body_composition.OPTIONS), WORD),
        st.booleans(),
    )
    | st.builds(CurrentTime, STAMPS, st.integers(0, 7), BYTE, BYTE)
    | st.builds(Feature, st.integers(0, 0xFFFFFF), *[st.integers(0, 15)] * 2)
    | st.builds(Status, WORD, st.integers(0, 0xFFFFFF).map(Annunciation), st.booleans())
    | st.builds(SessionStart, STAMPS, st.integers(-128, 127), BYTE, st.booleans())
    | st.builds(device_information.PnpId, BYTE, WORD, WORD, WORD)
)


@given(ANY_VALUE)
def test_every_value_survives_the_round_trip(sent: Any) -> None:
    found = type(sent).from_bytes(bytes(sent))
    for name in sent.__dataclass_fields__:
        assert str(getattr(found, name)) == str(getattr(sent, name)) or (
            getattr(found, name) == getattr(sent, name)
        )


def test_every_flag_byte_at_every_length_decodes_or_refuses() -> None:
    """Exhaustive where the flags decide: 256 flags, up to 30 bytes behind them."""
    taken = 0
    for uuid, flags, size in itertools.product(PROFILES, range(256), range(31)):
        try:
            PROFILES[uuid](bytes((flags,)) + bytes(range(1, size + 1)))
        except RefusedError:
            continue
        taken += 1
    assert taken > 1000
