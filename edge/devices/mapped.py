"""JSON of sensors that we did not make, read by a rule that the configuration gives.

    topic   zigbee2mqtt/{device}            which messages, and whose they are
    fields  body_temperature: value.temp, [degF]     a metric, its path and its unit

A path is the labels down to a value, with dots between; a number is a place in an
array. A value is a number, text that is one, or a boolean (of a metric that is 0 or 1).
A field that is not there is left out; a message with none of them is refused.

The record's original holds the message as it came *and* the rule, so that it can be
read again when the configuration is another:

    82                       CBOR array of 2
       bytes                    the message, as it was published
       bytes                    the rule, deterministic CBOR:
          {1: {metric: [path, unit]}, 2: path of the time, 3: "s" or "ms"}
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal
from functools import lru_cache
from typing import NamedTuple

from edge import cbor
from edge.devices import json_text, units
from edge.devices.json_text import malformed
from edge.devices.metrics import BY_NAME, make_reading
from edge.devices.senml import SenmlMessage
from edge.errors import Reason, RefusedError, RejectError
from edge.model import is_name

ORIGINAL_FIRST_BYTE = 0x82  # no JSON text in UTF-8 begins with it
MESSAGE_SIZE_MAX = 60_000  # so that with its rule it is no larger than any original
DEVICE_LEVEL = "{device}"
PATH_LENGTH_MAX = 200
FIELDS_MAX = 16
TIME_UNITS = {"s": Decimal(1000), "ms": Decimal(1)}
TIME_MS_MAX = 2**53
_NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?")


class Field(NamedTuple):
    """Where a metric's value stands, and its unit."""

    metric: str
    path: str
    unit: str


@dataclass(frozen=True, slots=True)
class Rule:
    """How to read a message; `time_path` is empty where it tells no time."""

    fields: tuple[Field, ...]
    time_path: str = ""
    time_unit: str = "s"

    def encode(self) -> bytes:
        """The canonical bytes; see the top of the file."""
        parts: dict[int, object] = {
            1: {f.metric: [f.path, f.unit] for f in self.fields}
        }
        if self.time_path:
            parts |= {2: self.time_path, 3: self.time_unit}
        return cbor.encode(parts)


@dataclass(frozen=True, slots=True)
class Mapping:
    """One section of the configuration: which topics, whose, and the rule.

    Exactly one of `topic`'s levels is {device}, unless `device` names it; the others
    are as they are, or + for any.
    """

    topic: str
    stream: str
    rule: bytes
    device: str = ""

    def device_of(self, topic: str) -> str | None:
        """Whose message this is; None where the topic is another."""
        wanted, levels = self.topic.split("/"), topic.split("/")
        if len(wanted) != len(levels):
            return None
        device = self.device
        for want, level in zip(wanted, levels, strict=True):
            if want == DEVICE_LEVEL:
                device = level
            elif want not in ("+", level):
                return None
        return device if is_name(device) else None


def check_rule(rule: Rule) -> None:
    """RejectError names what is wrong with a rule."""
    if not 1 <= len(rule.fields) <= FIELDS_MAX:
        raise RejectError(f"needs 1 to {FIELDS_MAX} metrics")
    for field in rule.fields:
        metric = BY_NAME.get(field.metric)
        if metric is None:
            raise RejectError(f"{field.metric!r} is no metric")
        if metric.letters:
            raise RejectError(f"{field.metric} is a letter and cannot be mapped")
        if not units.is_known(metric, field.unit):
            known = ", ".join(units.known(metric))
            raise RejectError(
                f"{field.metric} is not in {field.unit!r}; known: {known}"
            )
    for path in (*(one.path for one in rule.fields), rule.time_path or "x"):
        if not path or len(path) > PATH_LENGTH_MAX or "" in path.split("."):
            raise RejectError(f"{path!r} is no path of labels with dots between")
    if rule.time_unit not in TIME_UNITS:
        raise RejectError(f"a time is in {' or '.join(TIME_UNITS)}")


def original(payload: bytes, rule: bytes) -> bytes:
    """The record's original of a message that was read by this rule."""
    return cbor.encode([payload, rule])


def message_of(content: bytes) -> bytes:
    """The message in an original, or the original where it is no mapped one."""
    if content[:1] != bytes((ORIGINAL_FIRST_BYTE,)):
        return content
    match cbor.decode(content):
        case [bytes(payload), bytes(_)]:
            return payload
    return content


def parse(content: bytes, received_ms: int) -> SenmlMessage:
    """What an original says; RefusedError where it is none."""
    try:
        match cbor.decode(content):
            case [bytes(payload), bytes(rule)]:
                return read(payload, rule, received_ms)
    except RejectError as error:
        raise malformed(f"mapped message: {error}") from error
    raise malformed("mapped message: not [message, rule]")


@lru_cache(maxsize=256)
def decode_rule(encoded: bytes) -> Rule:
    """The rule of these bytes; RejectError where they are none."""
    parts = cbor.decode(encoded)
    if not isinstance(parts, dict) or not isinstance(parts.get(1), dict):
        raise RejectError("the rule has no fields")
    fields = []
    for metric, place in parts[1].items():
        match metric, place:
            case str(), [str(path), str(unit)]:
                fields.append(Field(metric, path, unit))
            case _:
                raise RejectError("the rule has a field that is none")
    time_path, time_unit = parts.get(2, ""), parts.get(3, "s")
    if not isinstance(time_path, str) or not isinstance(time_unit, str):
        raise RejectError("the rule's time is none")
    rule = Rule(tuple(fields), time_path, time_unit)
    check_rule(rule)
    return rule


def read(payload: bytes, encoded_rule: bytes, received_ms: int) -> SenmlMessage:
    """The one reading of a message; RefusedError says what is wrong with it."""
    rule = decode_rule(encoded_rule)
    found = json_text.load(payload, MESSAGE_SIZE_MAX)
    values: dict[str, Decimal] = {}
    for name, path, unit in rule.fields:
        item = _at(found, path)
        if item is None:
            continue
        metric = BY_NAME[name]
        if isinstance(item, bool):
            if not metric.switch:
                raise malformed(f"{path}: a boolean is no {name}")
            values[name] = Decimal(int(item))
            continue
        values[name] = units.converted(metric, _number(item, path), unit)
    if not values:
        raise malformed("none of the fields that its rule names is in it")
    time_ms = None
    if rule.time_path:
        time_ms = _time_ms(_at(found, rule.time_path), rule, received_ms)
    return SenmlMessage((make_reading(time_ms, values, {}),), time_ms is not None)


def _at(found: object, path: str) -> object:
    """What stands at a path, None where nothing does."""
    for label in path.split("."):
        if isinstance(found, dict):
            found = found.get(label)
        elif isinstance(found, list) and label.isascii() and label.isdecimal():
            place = int(label)
            found = found[place] if place < len(found) else None
        else:
            return None
    return found


def _number(item: object, path: str) -> Decimal:
    if isinstance(item, Decimal):
        return item
    if isinstance(item, str) and _NUMBER.fullmatch(item):
        return json_text.digits(item)
    raise malformed(f"{path}: not a number")


def _time_ms(item: object, rule: Rule, received_ms: int) -> int | None:
    if item is None:
        return None
    time = _number(item, rule.time_path) * TIME_UNITS[rule.time_unit]
    if not 0 <= time <= TIME_MS_MAX:
        raise RefusedError(
            Reason.IMPLAUSIBLE_CLOCK,
            f"{rule.time_path}: {time} ms since 1970 is no time (now: {received_ms})",
        )
    return int(time)


def find(mappings: tuple[Mapping, ...], topic: str) -> tuple[Mapping, str] | None:
    """The first mapping that a topic belongs to, and the device."""
    for one in mappings:
        device = one.device_of(topic)
        if device is not None:
            return one, device
    return None
