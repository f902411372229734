"""Unsigned SenML JSON (RFC 8428), the part of docs/wire-format.md section 2.

    [{"bn": "urn:dev:mac:0024befffe804ff1/", "bt": 1.7e9, "bu": "Cel",
      "n": "body_temperature", "v": 36.7},
     {"n": "heart_rate", "u": "beat/min", "v": 72}]

An array of 1 to 1,024 records. Each has a name (bn before n), a unit (u, else bu) and
exactly one value: v (number), vb (boolean) or vs (string). Its time is bt + t seconds
since 1970; a sum below 2**28 is relative to now. Records of one time make one reading.

Numbers stay what their digits say (Decimal, never float); json_text.py says what is
refused. A unit that units.py knows is converted.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import ROUND_HALF_EVEN, Context, Decimal

from edge.devices import json_text, units
from edge.devices.json_text import malformed, shown
from edge.devices.metrics import BY_NAME, Metric, make_reading
from edge.errors import Reason, RefusedError
from edge.model import Reading

MESSAGE_SIZE_MAX = 65_536
RECORDS_MAX = 1_024
RELATIVE_TIME_BELOW_S = 2**28  # RFC 8428 section 4.5.3
TIME_S_MAX = 2**43  # in ms that is still within 53 bits

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9:./_-]*")  # RFC 8428 section 4.5.1
_VALUES = ("v", "vb", "vs", "vd")
# They would change what a value means, so to ignore them would be to misread it.
_NOT_UNDERSTOOD = frozenset({"bv", "bs", "s", "vd"})
_VERSION_MAX = 10  # of SenML, RFC 8428 section 4.4
_EXACT = Context(prec=64, rounding=ROUND_HALF_EVEN)


@dataclass(frozen=True, slots=True)
class SenmlMessage:
    """The readings of a message, in the order in which their times first appear.

    A reading's time is None where its records say no more than "now". `timed` says that
    every record states a time since 1970, so that the same bytes again are the same
    measurement again (docs/wire-format.md section 2).
    """

    readings: tuple[Reading, ...]
    timed: bool


@dataclass(slots=True)
class _Base:
    """The base fields in force, RFC 8428 section 4.1."""

    name: str = ""
    unit: str | None = None
    time_s: Decimal = Decimal(0)


def parse(data: bytes, received_ms: int) -> SenmlMessage:
    """The readings in `data`; `received_ms` is the "now" of its relative times.

    RefusedError: TOO_LARGE, MALFORMED or UNKNOWN_UNIT, with the record and label.
    """
    base = _Base()
    values: dict[int | None, dict[str, Decimal]] = {}
    texts: dict[int | None, dict[str, str]] = {}
    timed = True
    for place, record in enumerate(_records(data)):
        _check_labels(record, place)
        _update(base, record, place)
        metric, unit = _metric(base, record, place)
        time_s = _EXACT.add(base.time_s, _number(record, "t", place))
        since_1970 = time_s >= RELATIVE_TIME_BELOW_S
        timed = timed and since_1970
        time_ms = _time_ms(time_s, received_ms, place)
        seen = values.setdefault(time_ms, {})
        letters = texts.setdefault(time_ms, {})
        if metric.name in seen or metric.name in letters:
            raise malformed(f"record {place}: {metric.name} twice at one time")
        if metric.letters:
            letters[metric.name] = _letter(record, metric, place)
        else:
            value = _value(record, metric, place)
            seen[metric.name] = units.converted(metric, value, unit)
    return SenmlMessage(
        tuple([make_reading(time, values[time], texts[time]) for time in values]), timed
    )


def _records(data: bytes) -> list[dict[str, object]]:
    items = json_text.load(data, MESSAGE_SIZE_MAX)
    if type(items) is not list or not 1 <= len(items) <= RECORDS_MAX:
        raise malformed(f"not an array of 1 to {RECORDS_MAX} records")
    for place, item in enumerate(items):
        if type(item) is not dict:
            raise malformed(f"record {place}: not an object")
    return items


def _check_labels(record: Mapping[str, object], place: int) -> None:
    for label in record:
        if label.endswith("_"):  # RFC 8428 section 4.4: must be understood
            raise malformed(f"record {place}: {shown(label)} is not understood")
        if label in _NOT_UNDERSTOOD:
            raise malformed(f"record {place}: {label} is not understood here")
    version = _number(record, "bver", place)
    if version > _VERSION_MAX:
        raise malformed(f"record {place}: bver {version} is beyond {_VERSION_MAX}")


def _update(base: _Base, record: Mapping[str, object], place: int) -> None:
    if "bn" in record:
        base.name = _text(record, "bn", place)
    if "bu" in record:
        base.unit = _text(record, "bu", place)
    if "bt" in record:
        base.time_s = _number(record, "bt", place)


def _text(record: Mapping[str, object], label: str, place: int) -> str:
    text = record[label]
    if type(text) is not str:
        raise malformed(f"record {place}: {label} is not a string")
    return text


def _number(record: Mapping[str, object], label: str, place: int) -> Decimal:
    """The number under `label`, 0 where there is none (RFC 8428's default for t)."""
    number = record.get(label, Decimal(0))
    if type(number) is not Decimal:
        raise malformed(f"record {place}: {label} is not a number")
    return number


def _metric(
    base: _Base, record: Mapping[str, object], place: int
) -> tuple[Metric, str]:
    """The metric that a record names, and the unit that its value is in."""
    name = base.name + (_text(record, "n", place) if "n" in record else "")
    if _NAME.fullmatch(name) is None:
        raise malformed(f"record {place}: {shown(name)} is no SenML name")
    metric = BY_NAME.get(re.split("[/:]", name)[-1])
    if metric is None:
        raise malformed(f"record {place}: {shown(name)} names no metric")
    unit = _text(record, "u", place) if "u" in record else base.unit
    if unit is None and metric.unit == "1":
        unit = metric.unit
    if unit is None or not units.is_known(metric, unit):
        said = "no unit" if unit is None else shown(unit)
        raise RefusedError(
            Reason.UNKNOWN_UNIT,
            f"record {place}: {metric.name} is in {metric.unit}, not in {said}",
        )
    return metric, unit


def _time_ms(time_s: Decimal, received_ms: int, place: int) -> int | None:
    """A record's time in ms since 1970, None for "now"; RFC 8428 section 4.5.3."""
    if time_s == 0:
        return None
    if abs(time_s) > TIME_S_MAX:
        raise malformed(f"record {place}: time {time_s} s is beyond ±2**43")
    ms = int(_EXACT.to_integral_value(_EXACT.multiply(time_s, Decimal(1000))))
    return ms if time_s >= RELATIVE_TIME_BELOW_S else received_ms + ms


def _the_value(
    record: Mapping[str, object], metric: Metric, place: int
) -> tuple[str, object]:
    """Label and content of the one value that a record must have."""
    labels = [label for label in _VALUES if label in record]
    if len(labels) != 1:
        raise malformed(f"record {place}: {metric.name} has {len(labels)} values")
    return labels[0], record[labels[0]]


def _value(record: Mapping[str, object], metric: Metric, place: int) -> Decimal:
    label, value = _the_value(record, metric, place)
    if label == "v" and type(value) is Decimal:
        return value
    if label == "vb" and type(value) is bool and metric.switch:
        return Decimal(int(value))
    raise malformed(f"record {place}: {label} is no value for {metric.name}")


def _letter(record: Mapping[str, object], metric: Metric, place: int) -> str:
    label, value = _the_value(record, metric, place)
    if label != "vs" or type(value) is not str or len(value) != 1:
        raise malformed(f"record {place}: {metric.name} is not one character in vs")
    if "\ud800" <= value <= "\udfff":  # \u can write half of a UTF-16 pair
        raise malformed(f"record {place}: {metric.name} is half a character")
    return value
