"""Other makers' JSON, read by a rule; units, converted by a table."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge import cbor, config
from edge.devices import mapped, units
from edge.devices.mapped import Field, Mapping, Rule
from edge.devices.metrics import BY_NAME, METRICS, Metric
from edge.devices.originals import readings_of
from edge.errors import ConfigurationError, Reason, RefusedError, RejectError
from edge.model import Kind, Record

RULE = Rule(
    (
        Field("body_temperature", "values.temp", "[degF]"),
        Field("battery", "state.0.battery", "%"),
        Field("sensor_contact", "worn", "1"),
    ),
    "at",
    "ms",
)
NOW_MS = 1_790_000_000_000


@pytest.mark.parametrize(
    ("metric", "value", "unit", "expected"),
    [
        ("body_temperature", "98.6", "[degF]", "37"),
        ("body_temperature", "100", "[degF]", "37.7778"),
        ("body_temperature", "310.15", "K", "37"),
        ("systolic_pressure", "16", "kPa", "120.0099"),  # 16000 / 133.322387415
        ("mean_pressure", "133.322387415", "Pa", "1"),
        ("glucose", "5.5", "mmol/L", "99.0858"),
        ("weight", "154.324", "[lb_av]", "70.0002"),
        ("weight", "3450", "g", "3.45"),
        ("spo2", "0.97", "1", "97"),
        ("heart_rate", "1.2", "Hz", "72"),
        ("respiratory_rate", "960", "/h", "16"),
        ("ecg", "250", "uV", "0.25"),
        ("heart_rate", "72", "beat/min", "72"),
        ("heart_rate", "72", "/min", "72"),
    ],
)
def test_a_unit_is_converted_exactly_or_to_four_places(
    metric: str, value: str, unit: str, expected: str
) -> None:
    found = units.converted(BY_NAME[metric], Decimal(value), unit)
    assert found == Decimal(expected)


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_an_unknown_unit_is_never_guessed(metric: Metric) -> None:
    for unit in ("", "furlong", "degF", "cel", "MMHG", "mmol"):
        assert not units.is_known(metric, unit)


def test_a_message_is_read_by_its_rule() -> None:
    payload = (
        b'{"values": {"temp": "98.6", "x": 1}, "state": [{"battery": 81}],'
        b'"worn": true, "at": %d}' % NOW_MS
    )
    message = mapped.read(payload, RULE.encode(), NOW_MS)
    [reading] = message.readings
    assert reading.values == {
        "body_temperature": Decimal(37),
        "battery": Decimal(81),
        "sensor_contact": Decimal(1),
    }
    assert (reading.time_ms, message.timed) == (NOW_MS, True)


def test_the_record_says_the_same_without_any_configuration() -> None:
    payload = b'{"values": {"temp": 98.6}}'
    original = mapped.original(payload, RULE.encode())
    record = Record(Kind.READING, NOW_MS, original, "t", "json", link="mqtt")
    decoded = readings_of(record)
    assert decoded.readings == mapped.read(payload, RULE.encode(), NOW_MS).readings
    assert mapped.message_of(original) == payload
    assert mapped.message_of(payload) == payload


@pytest.mark.parametrize(
    ("payload", "reason", "told"),
    [
        (b"{}", Reason.MALFORMED, "none of the fields"),
        (b"[]", Reason.MALFORMED, "none of the fields"),
        (b"98.6", Reason.MALFORMED, "none of the fields"),
        (
            b'{"values": {"temp": "warm"}}',
            Reason.MALFORMED,
            "values.temp: not a number",
        ),
        (b'{"values": {"temp": [1]}}', Reason.MALFORMED, "values.temp: not a number"),
        (b'{"values": {"temp": true}}', Reason.MALFORMED, "a boolean is no"),
        (b'{"values": {"temp": NaN}}', Reason.MALFORMED, "NaN is no number"),
        (b'{"values": {"temp": 1, "temp": 2}}', Reason.MALFORMED, "twice"),
        (b"\xff", Reason.MALFORMED, "not UTF-8 at byte 0"),
        (b"[" * 100, Reason.MALFORMED, "nested"),
        (b"x" * 60_001, Reason.TOO_LARGE, "at most 60000"),
        (b'{"worn": false, "at": -5}', Reason.IMPLAUSIBLE_CLOCK, "is no time"),
    ],
)
def test_what_a_rule_cannot_read_is_refused(
    payload: bytes, reason: Reason, told: str
) -> None:
    with pytest.raises(RefusedError, match=told) as error:
        mapped.read(payload, RULE.encode(), NOW_MS)
    assert error.value.reason is reason


@given(st.binary(max_size=300))
def test_no_message_breaks_the_reader(payload: bytes) -> None:
    try:
        mapped.read(payload, RULE.encode(), NOW_MS)
    except RefusedError:
        return


@given(st.binary(max_size=200))
def test_no_original_breaks_the_reader(content: bytes) -> None:
    with pytest.raises(RefusedError):
        mapped.parse(b"\x82" + content, NOW_MS)


def test_a_rule_comes_back_from_its_bytes() -> None:
    again = mapped.decode_rule(RULE.encode())
    assert set(again.fields) == set(RULE.fields)
    assert (again.time_path, again.time_unit) == ("at", "ms")
    for bad in (b"", b"\x80", cbor.encode({1: {"mood": ["a", "1"]}})):
        with pytest.raises(RejectError):
            mapped.decode_rule(bad)


@pytest.mark.parametrize(
    ("pattern", "device", "topic", "found"),
    [
        ("zigbee2mqtt/{device}", "", "zigbee2mqtt/bed-7", "bed-7"),
        ("zigbee2mqtt/{device}", "", "zigbee2mqtt/bed 7", None),
        ("zigbee2mqtt/{device}", "", "zigbee2mqtt/bed-7/set", None),
        ("tele/+/{device}/S", "", "tele/x/bed-7/S", "bed-7"),
        ("tele/+/{device}/S", "", "tele/x/bed-7/T", None),
        ("scales/1", "scale", "scales/1", "scale"),
        ("scales/1", "scale", "scales/2", None),
    ],
)
def test_a_topic_names_its_device(
    pattern: str, device: str, topic: str, found: str | None
) -> None:
    mapping = Mapping(pattern, "json", RULE.encode(), device)
    assert mapping.device_of(topic) == found


GOOD = """
[gateway]
origin = "a.example/b"
data = "data"
[[mqtt.mapping]]
topic = "zigbee2mqtt/{device}"
time = "last_seen"
metrics.ambient_temperature = { path = "temperature", unit = "Cel" }
"""


def test_the_configuration_says_it_all(tmp_path: Path) -> None:
    [mapping] = config.parse(GOOD, "x", tmp_path).mappings
    assert mapping.device_of("zigbee2mqtt/room-1") == "room-1"
    rule = mapped.decode_rule(mapping.rule)
    assert rule == Rule(
        (Field("ambient_temperature", "temperature", "Cel"),), "last_seen", "s"
    )


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ('unit = "Cel"', 'unit = "celsius"', "known: Cel, K"),
        ("ambient_temperature", "mood", "is no metric"),
        ("{device}", "x", "one level is {device}"),
        ("zigbee2mqtt/{device}", "iomt/v1/{device}", "not of iomt/v1"),
        ('path = "temperature"', 'path = "a..b"', "no path"),
        ('time = "last_seen"', 'time = "t"\ntime_unit = "h"', "a time is in s or ms"),
        ('time = "last_seen"', "tine = 1", "needs topic and metrics"),
    ],
)
def test_a_mistake_in_it_is_named(
    old: str, new: str, told: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigurationError) as error:
        config.parse(GOOD.replace(old, new), "x", tmp_path)
    [problem] = error.value.problems
    assert told in problem
