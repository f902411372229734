"""The metric table against docs/wire-format.md, and what counts as plausible."""

from __future__ import annotations

import re
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.devices.metrics import BY_KEY, BY_NAME, METRICS, Metric, make_reading

PAGE = Path(__file__).parents[2] / "docs" / "wire-format.md"
ROW = re.compile(r"\| (\d+) \| `(\w+)` \| (\S+) \| (.+?) \| (.+?) \|")


def test_the_table_is_the_one_on_the_format_page() -> None:
    """A device maker reads the page; the two may not drift apart."""
    rows = ROW.findall(PAGE.read_text())
    assert len(rows) == len(METRICS) == 29
    for (key, name, unit, plausible, kind), metric in zip(rows, METRICS, strict=True):
        assert (metric.key, metric.name, metric.unit) == (int(key), name, unit)
        if metric.letters:
            assert kind == "text of one character"
            assert metric.letters == set(plausible.split())
            continue
        assert kind == "number"
        assert metric.switch == (plausible == "0 or 1")
        low, high = re.split(" to | or ", plausible.replace("−", "-"))
        assert (metric.low, metric.high) == (Decimal(low), Decimal(high))


def test_metrics_are_found_by_key_and_by_name() -> None:
    assert BY_KEY[2] is BY_NAME["spo2"]
    assert [*BY_KEY] == list(range(1, 30))
    assert len(BY_NAME) == 29


def test_the_codes_are_those_of_the_nomenclature() -> None:
    """MDC codes are partition << 16 | term, both from IEEE 11073-10101."""
    terms = {
        "heart_rate": (2, 16770),
        "spo2": (2, 19384),
        "body_temperature": (2, 19292),
        "systolic_pressure": (2, 18949),
        "diastolic_pressure": (2, 18950),
        "mean_pressure": (2, 18951),
        "weight": (2, 57664),
        "pulse_rate": (2, 18458),
        "battery": (1, 2460),
        "height": (2, 57668),
        "bmi": (2, 57680),
        "body_fat": (2, 57676),
        "fat_free_mass": (2, 57684),
        "soft_lean_mass": (2, 57688),
        "body_water_mass": (2, 57692),
        "hba1c": (2, 29148),
    }
    for name, (partition, term) in terms.items():
        assert BY_NAME[name].mdc == partition << 16 | term
    assert BY_NAME["body_temperature"].mdc_unit == 4 << 16 | 6048
    assert BY_NAME["respiratory_rate"].mdc_unit == 4 << 16 | 2784
    assert BY_NAME["spo2"].loinc == ("2708-6", "59408-5")
    assert BY_NAME["glucose"].loinc == ()  # depends on the specimen


@pytest.mark.parametrize(
    "metric", [m for m in METRICS if not m.letters], ids=lambda metric: metric.name
)
def test_the_bounds_themselves_are_plausible_and_nothing_beyond(metric: Metric) -> None:
    name, low, high = metric.name, metric.low, metric.high
    step = Decimal("0.000000001")
    for value, plausible in (
        (low, True),
        (high, True),
        (low - step, False),
        (high + step, False),
    ):
        reading = make_reading(0, {name: value})
        assert reading.implausible == (frozenset() if plausible else {name})
        assert BY_NAME[name].is_plausible(value) is plausible


def test_a_switch_is_zero_or_one_and_nothing_between() -> None:
    for value, implausible in (("0.0", False), ("1E+0", False), ("0.5", True)):
        reading = make_reading(None, {"sensor_contact": Decimal(value)})
        assert bool(reading.implausible) is implausible
        assert BY_NAME["sensor_contact"].is_plausible(Decimal(value)) is not implausible


def test_a_letter_outside_the_scale_is_kept_and_named() -> None:
    assert make_reading(1, {}, {"acvpu": "U"}).implausible == frozenset()
    reading = make_reading(1, {}, {"acvpu": "X"})
    assert reading.texts == {"acvpu": "X"}
    assert reading.implausible == {"acvpu"}


def test_a_sensor_that_is_off_raises_no_low_alarm() -> None:
    """The recorded patient's monitor sends 0 when a probe fell off."""
    values = {"heart_rate": Decimal("0.0"), "spo2": Decimal(96)}
    reading = make_reading(1, values)
    assert reading.values == values
    assert reading.known() == {"spo2": Decimal(96)}


def test_what_a_device_calls_unusable_is_named_even_without_a_value() -> None:
    reading = make_reading(
        None, {"spo2": Decimal(96)}, unknown=frozenset({"spo2", "pulse_rate"})
    )
    assert reading.implausible == {"spo2", "pulse_rate"}
    assert reading.known() == {}


@pytest.mark.parametrize("value", ["NaN", "sNaN", "Infinity", "-Infinity"])
def test_no_reading_holds_what_is_no_number(value: str) -> None:
    with pytest.raises(ValueError, match="no number"):
        make_reading(1, {"heart_rate": Decimal(value)})


def test_a_name_that_is_no_metric_is_a_mistake_of_the_caller() -> None:
    for name in ("pulse", "acvpu"):
        with pytest.raises(KeyError):
            make_reading(1, {name: Decimal(1)})
    with pytest.raises(KeyError):
        make_reading(1, {}, {"pulse": "A"})


@given(
    st.dictionaries(
        st.sampled_from([m.name for m in METRICS if not m.letters]),
        st.decimals(allow_nan=False, allow_infinity=False),
    )
)
def test_every_finite_value_is_kept_and_judged_by_its_own_row(
    values: dict[str, Decimal],
) -> None:
    reading = make_reading(5, values)
    assert reading.values == values
    judged = {n for n, v in values.items() if not BY_NAME[n].is_plausible(v)}
    assert reading.implausible == judged
