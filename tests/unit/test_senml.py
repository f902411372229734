"""SenML JSON: RFC 8428's own terms, exact numbers, and what is refused."""

from __future__ import annotations

import json
import time
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.devices import senml
from edge.devices.metrics import METRICS, Metric, make_reading
from edge.errors import Reason, RefusedError
from edge.model import Reading

NOW_MS = 1_790_000_000_000


def parse(text: str) -> senml.SenmlMessage:
    return senml.parse(text.encode(), NOW_MS)


def only(text: str) -> Reading:
    message = parse(text)
    assert len(message.readings) == 1
    return message.readings[0]


def reading(time_ms: int | None, **values: str) -> Reading:
    return make_reading(time_ms, {n: Decimal(v) for n, v in values.items()})


def test_the_smallest_message_is_one_value_now() -> None:
    message = parse('[{"n":"heart_rate","u":"/min","v":72}]')
    assert message == senml.SenmlMessage((reading(None, heart_rate="72"),), timed=False)


def test_base_fields_hold_until_they_are_replaced() -> None:
    message = parse(
        """[
        {"bn":"urn:dev:mac:0024befffe804ff1/","bt":1790000000,"bu":"/min",
         "n":"heart_rate","v":72},
        {"n":"respiratory_rate","v":15},
        {"n":"spo2","u":"%","v":97,"t":-1},
        {"bn":"urn:dev:ow:10e2073a01080063:","bu":"Cel","bt":1790000010,
         "n":"body_temperature","v":36.7}]"""
    )
    assert message.readings == (
        reading(NOW_MS, heart_rate="72", respiratory_rate="15"),
        reading(NOW_MS - 1000, spo2="97"),
        reading(NOW_MS + 10_000, body_temperature="36.7"),
    )
    assert message.timed


def test_a_base_name_alone_may_name_the_metric() -> None:
    assert only('[{"bn":"spo2","bu":"%","v":97}]') == reading(None, spo2="97")


@pytest.mark.parametrize(
    ("digits", "kept"),
    [
        ("36.70", "36.70"),
        ("367e-1", "36.7"),
        ("3.67E+1", "36.7"),
        ("36.699999999999999999999", "36.699999999999999999999"),
        ("0.1", "0.1"),
    ],
)
def test_a_number_keeps_the_digits_that_were_sent(digits: str, kept: str) -> None:
    """36.7 as a float is 36.7000000000000028; it must not become that."""
    found = only(f'[{{"n":"body_temperature","u":"Cel","v":{digits}}}]')
    assert str(found.values["body_temperature"]) == kept


@pytest.mark.parametrize(
    ("time", "time_ms", "timed"),
    [
        ('"t":1790000000', NOW_MS, True),
        ('"t":1790000000.0005', NOW_MS, True),  # half a millisecond goes to the even
        ('"t":1790000000.0015', NOW_MS + 2, True),
        ('"t":1.79e9', NOW_MS, True),
        ('"bt":1789999999,"t":1', NOW_MS, True),
        ('"t":268435456', 268_435_456_000, True),  # 2**28 and
        ('"t":268435455', NOW_MS + 268_435_455_000, False),  # one less
        ('"t":-5', NOW_MS - 5000, False),
        ('"t":-0.25', NOW_MS - 250, False),
        ('"bt":-5,"t":2', NOW_MS - 3000, False),
        ('"t":0', None, False),
        ('"bt":5,"t":-5', None, False),
    ],
)
def test_times_are_since_1970_or_relative_to_now(
    time: str, time_ms: int | None, timed: bool
) -> None:
    """RFC 8428 section 4.5.3: below 2**28 s is relative."""
    message = parse(f'[{{"n":"spo2","u":"%","v":97,{time}}}]')
    assert message.readings == (reading(time_ms, spo2="97"),)
    assert message.timed is timed


def test_a_message_is_timed_only_if_every_record_is() -> None:
    """Otherwise the same bytes may be a new measurement, which must not be dropped."""
    first = '{"n":"spo2","u":"%","v":97,"t":1790000000}'
    second = '{"n":"heart_rate","u":"/min","v":72'
    assert not parse(f"[{first},{second}}}]").timed
    assert not parse(f'[{first},{second},"t":-1}}]').timed
    assert parse(f'[{first},{second},"t":1790000000}}]').timed


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_every_metric_is_accepted_in_its_own_unit_and_refused_in_another(
    metric: Metric,
) -> None:
    name, unit = metric.name, metric.unit
    value = '"vs":"A"' if name == "acvpu" else '"v":1'
    for good in (unit, *metric.senml_units):
        assert parse(f'[{{"n":"{name}","u":"{good}",{value}}}]').readings
    for bad in ("%RH", "mol", "[in_i]", ""):
        refused(f'[{{"n":"{name}","u":"{bad}",{value}}}]', Reason.UNKNOWN_UNIT, name)
    if unit == "1":
        assert parse(f'[{{"n":"{name}",{value}}}]').readings
    else:
        refused(f'[{{"n":"{name}",{value}}}]', Reason.UNKNOWN_UNIT, "not in no unit")


def test_switches_may_be_booleans_and_the_letter_is_a_string() -> None:
    found = only(
        '[{"n":"sensor_contact","vb":false},{"n":"supplemental_oxygen","vb":true},'
        '{"n":"acvpu","vs":"V"}]'
    )
    assert found.values == {"sensor_contact": 0, "supplemental_oxygen": 1}
    assert found.texts == {"acvpu": "V"}


def test_labels_that_change_nothing_are_ignored() -> None:
    found = only('[{"bver":10,"n":"spo2","u":"%","v":97,"ut":10,"x":[{"y":{}}]}]')
    assert found == reading(None, spo2="97")


def refused(text: str | bytes, reason: Reason, detail: str) -> None:
    data = text if isinstance(text, bytes) else text.encode()
    with pytest.raises(RefusedError) as error:
        senml.parse(data, NOW_MS)
    assert error.value.reason is reason
    assert detail in error.value.detail
    assert error.value.detail.isprintable()


SPO2 = '"n":"spo2","u":"%"'
MALFORMED = {
    "": "not JSON",
    "[": "not JSON",
    "{}": "not an array of 1 to 1024 records",
    "[]": "not an array of 1 to 1024 records",
    "[" + ",".join(["{}"] * 1025) + "]": "not an array of 1 to 1024 records",
    "[1]": "record 0: not an object",
    '[{"n":"spo2","u":"%","v":97},null]': "record 1: not an object",
    f"[{{{SPO2}}}]": "record 0: spo2 has 0 values",
    f'[{{{SPO2},"v":97,"vb":true}}]': "record 0: spo2 has 2 values",
    f'[{{{SPO2},"v":true}}]': "record 0: v is no value for spo2",
    f'[{{{SPO2},"v":"97"}}]': "record 0: v is no value for spo2",
    f'[{{{SPO2},"v":null}}]': "record 0: v is no value for spo2",
    f'[{{{SPO2},"vb":true}}]': "record 0: vb is no value for spo2",
    f'[{{{SPO2},"vs":"97"}}]': "record 0: vs is no value for spo2",
    f'[{{{SPO2},"vd":"OTc"}}]': "record 0: vd is not understood here",
    f'[{{{SPO2},"v":97,"bv":1}}]': "record 0: bv is not understood here",
    f'[{{{SPO2},"v":97,"s":1}}]': "record 0: s is not understood here",
    f'[{{{SPO2},"v":97,"x_":1}}]': "record 0: 'x_' is not understood",
    f'[{{{SPO2},"v":97,"bver":11}}]': "record 0: bver 11 is beyond 10",
    f'[{{{SPO2},"v":97,"t":"0"}}]': "record 0: t is not a number",
    f'[{{{SPO2},"v":97,"t":null}}]': "record 0: t is not a number",
    f'[{{{SPO2},"v":97,"bt":true}}]': "record 0: bt is not a number",
    f'[{{{SPO2},"v":97,"t":1e13}}]': "is beyond ±2**43",
    f'[{{{SPO2},"v":97,"t":-1e13}}]': "is beyond ±2**43",
    f'[{{{SPO2},"v":97}},{{{SPO2},"v":96}}]': "record 1: spo2 twice at one time",
    '[{"n":"acvpu","vs":"A"},{"n":"acvpu","vs":"V"}]': "record 1: acvpu twice",
    '[{"n":"acvpu","v":1}]': "record 0: acvpu is not one character in vs",
    '[{"n":"acvpu","vs":"AV"}]': "record 0: acvpu is not one character in vs",
    '[{"n":"acvpu","vs":"\\ud800"}]': "record 0: acvpu is half a character",
    '[{"v":97}]': "record 0: '' is no SenML name",
    '[{"n":"-spo2","u":"%","v":97}]': "record 0: '-spo2' is no SenML name",
    '[{"n":"a b/spo2","u":"%","v":97}]': "record 0: 'a b/spo2' is no SenML name",
    '[{"n":"a\\u0000","v":97}]': "record 0: 'a\\x00' is no SenML name",
    '[{"n":"\\ud800","v":97}]': "record 0: '\\ud800' is no SenML name",
    '[{"n":"myspo2","u":"%","v":97}]': "record 0: 'myspo2' names no metric",
    '[{"n":"spo2/x","u":"%","v":97}]': "record 0: 'spo2/x' names no metric",
    '[{"n":7,"v":97}]': "record 0: n is not a string",
    '[{"n":"spo2","u":7,"v":97}]': "record 0: u is not a string",
    '[{"bn":7,"n":"spo2","v":97}]': "record 0: bn is not a string",
    '[{"bu":7,"n":"spo2","v":97}]': "record 0: bu is not a string",
    f'[{{{SPO2},"v":NaN}}]': "NaN is no number",
    f'[{{{SPO2},"v":-Infinity}}]': "-Infinity is no number",
    f'[{{{SPO2},"v":1e19}}]': "number 1e19 is beyond 10**±18",
    f'[{{{SPO2},"v":1e-19}}]': "number 1e-19 is beyond 10**±18",
    f'[{{{SPO2},"v":1e999999999999}}]': "is beyond 10**±18",
    f'[{{{SPO2},"v":{"9" * 33}}}]': "number of 33 characters: 9999999999999999...",
    f'[{{{SPO2},"v":{"9" * 5000}}}]': "number of 5000 characters",
    f'[{{{SPO2},"v":97,"v":97}}]': "label 'v' twice in one object",
    f'[{{{SPO2},"v":97,"x":{{"y":1,"y":2}}}}]': "label 'y' twice in one object",
    f'[{{{SPO2},"v":97,"x":' + "[" * 7 + "]" * 7 + "}]": "nested more than 8 deep",
    "[" * 60_000: "nested more than 8 deep",
    '[{"x":' * 10_000: "nested more than 8 deep",
    "\ufeff[]": "not JSON",
}


@pytest.mark.parametrize("text", MALFORMED, ids=range(len(MALFORMED)))
def test_a_malformed_message_is_refused_with_its_record_and_label(text: str) -> None:
    refused(text, Reason.MALFORMED, MALFORMED[text])


def test_bytes_that_are_no_text_are_refused_where_they_stop_being_it() -> None:
    refused(b'[{"n":"spo\xff"}]', Reason.MALFORMED, "not UTF-8 at byte 10")
    refused(b"\xff\xfe[\x00", Reason.MALFORMED, "not UTF-8 at byte 0")


def test_the_size_is_bounded() -> None:
    text = f'[{{{SPO2},"v":97}}]'
    assert parse(text + " " * (senml.MESSAGE_SIZE_MAX - len(text))).readings
    too_large = text + " " * (senml.MESSAGE_SIZE_MAX + 1 - len(text))
    refused(too_large, Reason.TOO_LARGE, "65537 bytes, at most 65536")


def test_zero_is_zero_whatever_its_exponent() -> None:
    """0e9999999 would otherwise be an integer of ten million digits somewhere."""
    assert only(f'[{{{SPO2},"v":0e9999999,"t":0e-99999}}]') == reading(None, spo2="0")


def test_brackets_inside_strings_are_not_nesting() -> None:
    text = f'[{{{SPO2},"v":97,"note":"{"[{" * 50}\\"[[[[[[[[["}}]'
    assert only(text) == reading(None, spo2="97")


def test_an_endless_string_of_quotes_takes_no_longer_than_its_length() -> None:
    """Tried from each quote anew, 30,000 of them would take minutes."""
    for end in ("", "\\", '"'):
        text = '[{"' + '\\"' * 30_000 + end
        started = time.perf_counter()
        refused(text, Reason.MALFORMED, "not JSON")
        assert time.perf_counter() - started < 1


def parses_or_refuses(data: bytes) -> None:
    try:
        message = senml.parse(data, NOW_MS)
    except RefusedError as error:
        known = {Reason.MALFORMED, Reason.TOO_LARGE, Reason.UNKNOWN_UNIT}
        reason, detail = error.reason, error.detail
    else:
        for found in message.readings:
            assert all(value.is_finite() for value in found.values.values())
            assert found.time_ms is None or abs(found.time_ms) < 2**54
            "".join(found.texts.values()).encode()
        return
    assert reason in known
    assert detail.isprintable()


@given(st.binary(max_size=80))
def test_any_bytes_are_a_message_or_refused(data: bytes) -> None:
    parses_or_refuses(data)
    parses_or_refuses(b'[{"n":"spo2","u":"%","v":' + data + b"}]")


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text()),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(), inner, max_size=3)
    ),
    max_leaves=5,
)
LABELS = ["n", "u", "v", "vb", "vs", "t", "bn", "bu", "bt", "bver", "x"]
PLAUSIBLE = st.one_of(
    st.sampled_from(["spo2", "acvpu", "%", "A", "dev:", 97, 0, -3, 1.79e9, True]), JSON
)


@given(
    st.lists(
        st.dictionaries(st.sampled_from(LABELS), PLAUSIBLE, max_size=7), max_size=4
    )
)
def test_any_json_is_a_message_or_refused(records: list[dict[str, object]]) -> None:
    parses_or_refuses(json.dumps(records).encode())


@given(
    st.dictionaries(
        st.sampled_from([m for m in METRICS if not m.letters]),
        st.decimals(-(10**6), 10**6, places=3),
        min_size=1,
    ),
    st.integers(2**28, 2**40),
)
def test_what_was_meant_is_what_is_read(
    values: dict[Metric, Decimal], time_s: int
) -> None:
    names = {metric.name: value for metric, value in values.items()}
    records = [
        f'{{"n":"{m.name}","u":"{m.unit}","v":{v},"t":{time_s}}}'
        for m, v in values.items()
    ]
    message = parse(f"[{','.join(records)}]")
    assert message.readings == (make_reading(time_s * 1000, names),)
    assert message.timed
