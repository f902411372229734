"""JSON from strangers, strictly: numbers keep their digits, and nothing is ambiguous.

Refused beside what is no JSON at all: bytes that are not UTF-8, NaN and Infinity, a
label twice in one object, numbers of more than 32 characters or beyond 10**±18,
nesting beyond MAX_DEPTH.
"""

from __future__ import annotations

import json
import re
from decimal import Decimal

from edge.errors import Reason, RefusedError

MAX_DEPTH = 8
NUMBER_LENGTH_MAX = 32
EXPONENT_MAX = 18

# The closing quote may be missing, so that no quote is ever tried as a beginning twice.
_STRING = re.compile(r'"(?:[^"\\]|\\.)*"?', re.DOTALL)
_BRACKET = re.compile(r"[\[\]{}]")


def malformed(detail: str) -> RefusedError:
    """A refusal for what a message says."""
    return RefusedError(Reason.MALFORMED, detail)


def shown(text: str) -> str:
    """A sender's own text, short and printable enough for a log line."""
    return ascii(text)[:40]


def load(data: bytes, size_max: int) -> object:
    """What the text says; RefusedError names what is wrong, and where."""
    if len(data) > size_max:
        raise RefusedError(Reason.TOO_LARGE, f"{len(data)} bytes, at most {size_max}")
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise malformed(f"not UTF-8 at byte {error.start}") from error
    _check_depth(text)
    try:
        found: object = json.loads(
            text,
            parse_float=digits,
            parse_int=digits,
            parse_constant=_no_constant,
            object_pairs_hook=_object,
        )
    except json.JSONDecodeError as error:
        raise malformed(f"not JSON: {error.msg}, at character {error.pos}") from error
    return found


def _check_depth(text: str) -> None:
    """Refuses deep nesting before the JSON decoder recurses into it."""
    depth = 0
    for bracket in _BRACKET.findall(_STRING.sub("", text)):
        depth += 1 if bracket in "[{" else -1
        if depth > MAX_DEPTH:
            raise malformed(f"nested more than {MAX_DEPTH} deep")


def digits(text: str) -> Decimal:
    """A JSON number as it is written."""
    if len(text) > NUMBER_LENGTH_MAX:
        raise malformed(f"number of {len(text)} characters: {text[:16]}...")
    number = Decimal(text)
    if number and not -EXPONENT_MAX <= number.adjusted() <= EXPONENT_MAX:
        raise malformed(f"number {text} is beyond 10**±{EXPONENT_MAX}")
    if not number:  # 0e999999 is a zero whose exponent would blow up later
        return Decimal(0)
    return number


def _no_constant(name: str) -> Decimal:
    raise malformed(f"{name} is no number")


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    items = dict(pairs)
    if len(items) != len(pairs):
        labels = [label for label, _ in pairs]
        twice = next(label for label in labels if labels.count(label) > 1)
        raise malformed(f"label {shown(twice)} twice in one object")
    return items
