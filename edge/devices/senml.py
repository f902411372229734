"""Unsigned SenML JSON (RFC 8428), the part of docs/wire-format.md section 2.

    [{"bn": "urn:dev:mac:0024befffe804ff1/", "bt": 1.7e9, "bu": "Cel",
      "n": "body_temperature", "v": 36.7},
     {"n": "heart_rate", "u": "beat/min", "v": 72}]

An array of 1 to 1,024 records. Each has a name (bn before n), a unit (u, else bu) and
exactly one value: v (number), vb (boolean) or vs (string). Its time is bt + t seconds
since 1970; a sum below 2**28 is relative to now. Records of one time make one reading.

Numbers stay what their digits say (Decimal, never float). Refused beside what is no
JSON at all: bytes that are not UTF-8, NaN and Infinity, a label twice in one record,
numbers of more than 32 characters or beyond 10**±18, nesting beyond MAX_DEPTH.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import ROUND_HALF_EVEN, Context, Decimal

from edge.devices.metrics import BY_NAME, Metric, make_reading
from edge.errors import Reason, RefusedError
from edge.model import Reading

MESSAGE_SIZE_MAX = 65_536
RECORDS_MAX = 1_024
MAX_DEPTH = 8  # the array and its records are 2; the rest is for labels we ignore
NUMBER_LENGTH_MAX = 32
EXPONENT_MAX = 18
RELATIVE_TIME_BELOW_S = 2**28  # RFC 8428 section 4.5.3
TIME_S_MAX = 2**43  # in ms that is still within 53 bits

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9:./_-]*")  # RFC 8428 section 4.5.1
# The closing quote may be missing, so that no quote is ever tried as a beginning twice.
_STRING = re.compile(r'"(?:[^"\\]|\\.)*"?', re.DOTALL)
_BRACKET = re.compile(r"[\[\]{}]")
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
        metric = _metric(base, record, place)
        time_s = _EXACT.add(base.time_s, _number(record, "t", place))
        since_1970 = time_s >= RELATIVE_TIME_BELOW_S
        timed = timed and since_1970
        time_ms = _time_ms(time_s, received_ms, place)
        seen = values.setdefault(time_ms, {})
        letters = texts.setdefault(time_ms, {})
        if metric.name in seen or metric.name in letters:
            raise _malformed(f"record {place}: {metric.name} twice at one time")
        if metric.letters:
            letters[metric.name] = _letter(record, metric, place)
        else:
            seen[metric.name] = _value(record, metric, place)
    return SenmlMessage(
        tuple([make_reading(time, values[time], texts[time]) for time in values]), timed
    )


def _malformed(detail: str) -> RefusedError:
    return RefusedError(Reason.MALFORMED, detail)


def _records(data: bytes) -> list[dict[str, object]]:
    if len(data) > MESSAGE_SIZE_MAX:
        raise RefusedError(
            Reason.TOO_LARGE, f"{len(data)} bytes, at most {MESSAGE_SIZE_MAX}"
        )
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise _malformed(f"not UTF-8 at byte {error.start}") from error
    _check_depth(text)
    try:
        items = json.loads(
            text,
            parse_float=_digits,
            parse_int=_digits,
            parse_constant=_no_constant,
            object_pairs_hook=_object,
        )
    except json.JSONDecodeError as error:
        raise _malformed(f"not JSON: {error.msg}, at character {error.pos}") from error
    if type(items) is not list or not 1 <= len(items) <= RECORDS_MAX:
        raise _malformed(f"not an array of 1 to {RECORDS_MAX} records")
    for place, item in enumerate(items):
        if type(item) is not dict:
            raise _malformed(f"record {place}: not an object")
    return items


def _check_depth(text: str) -> None:
    """Refuses deep nesting before the JSON decoder recurses into it."""
    depth = 0
    for bracket in _BRACKET.findall(_STRING.sub("", text)):
        depth += 1 if bracket in "[{" else -1
        if depth > MAX_DEPTH:
            raise _malformed(f"nested more than {MAX_DEPTH} deep")


def _digits(text: str) -> Decimal:
    """A JSON number as it is written."""
    if len(text) > NUMBER_LENGTH_MAX:
        raise _malformed(f"number of {len(text)} characters: {text[:16]}...")
    number = Decimal(text)
    if number and not -EXPONENT_MAX <= number.adjusted() <= EXPONENT_MAX:
        raise _malformed(f"number {text} is beyond 10**±{EXPONENT_MAX}")
    if not number:  # 0e999999 is a zero whose exponent would blow up later
        return Decimal(0)
    return number


def _no_constant(name: str) -> Decimal:
    raise _malformed(f"{name} is no number")


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    items = dict(pairs)
    if len(items) != len(pairs):
        labels = [label for label, _ in pairs]
        twice = next(label for label in labels if labels.count(label) > 1)
        raise _malformed(f"label {_shown(twice)} twice in one object")
    return items


def _check_labels(record: Mapping[str, object], place: int) -> None:
    for label in record:
        if label.endswith("_"):  # RFC 8428 section 4.4: must be understood
            raise _malformed(f"record {place}: {_shown(label)} is not understood")
        if label in _NOT_UNDERSTOOD:
            raise _malformed(f"record {place}: {label} is not understood here")
    version = _number(record, "bver", place)
    if version > _VERSION_MAX:
        raise _malformed(f"record {place}: bver {version} is beyond {_VERSION_MAX}")


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
        raise _malformed(f"record {place}: {label} is not a string")
    return text


def _number(record: Mapping[str, object], label: str, place: int) -> Decimal:
    """The number under `label`, 0 where there is none (RFC 8428's default for t)."""
    number = record.get(label, Decimal(0))
    if type(number) is not Decimal:
        raise _malformed(f"record {place}: {label} is not a number")
    return number


def _metric(base: _Base, record: Mapping[str, object], place: int) -> Metric:
    """The metric that a record names, in the unit that it must have."""
    name = base.name + (_text(record, "n", place) if "n" in record else "")
    if _NAME.fullmatch(name) is None:
        raise _malformed(f"record {place}: {_shown(name)} is no SenML name")
    metric = BY_NAME.get(re.split("[/:]", name)[-1])
    if metric is None:
        raise _malformed(f"record {place}: {_shown(name)} names no metric")
    unit = _text(record, "u", place) if "u" in record else base.unit
    known = unit == metric.unit or unit in metric.senml_units
    if not known and not (unit is None and metric.unit == "1"):
        said = "no unit" if unit is None else _shown(unit)
        raise RefusedError(
            Reason.UNKNOWN_UNIT,
            f"record {place}: {metric.name} is in {metric.unit}, not in {said}",
        )
    return metric


def _time_ms(time_s: Decimal, received_ms: int, place: int) -> int | None:
    """A record's time in ms since 1970, None for "now"; RFC 8428 section 4.5.3."""
    if time_s == 0:
        return None
    if abs(time_s) > TIME_S_MAX:
        raise _malformed(f"record {place}: time {time_s} s is beyond ±2**43")
    ms = int(_EXACT.to_integral_value(_EXACT.multiply(time_s, Decimal(1000))))
    return ms if time_s >= RELATIVE_TIME_BELOW_S else received_ms + ms


def _the_value(
    record: Mapping[str, object], metric: Metric, place: int
) -> tuple[str, object]:
    """Label and content of the one value that a record must have."""
    labels = [label for label in _VALUES if label in record]
    if len(labels) != 1:
        raise _malformed(f"record {place}: {metric.name} has {len(labels)} values")
    return labels[0], record[labels[0]]


def _value(record: Mapping[str, object], metric: Metric, place: int) -> Decimal:
    label, value = _the_value(record, metric, place)
    if label == "v" and type(value) is Decimal:
        return value
    if label == "vb" and type(value) is bool and metric.switch:
        return Decimal(int(value))
    raise _malformed(f"record {place}: {label} is no value for {metric.name}")


def _letter(record: Mapping[str, object], metric: Metric, place: int) -> str:
    label, value = _the_value(record, metric, place)
    if label != "vs" or type(value) is not str or len(value) != 1:
        raise _malformed(f"record {place}: {metric.name} is not one character in vs")
    if "\ud800" <= value <= "\udfff":  # \u can write half of a UTF-16 pair
        raise _malformed(f"record {place}: {metric.name} is half a character")
    return value


def _shown(text: str) -> str:
    """A sender's own text, short and printable enough for a log line."""
    return ascii(text)[:40]
