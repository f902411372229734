"""TOML as a contract uses it: the document without floats, and each key's line.

Everything that reads a contract gathers its problems here, as FILE:LINE: FIELD: REASON,
so that all mistakes of a file are told at once.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping

from edge.errors import ConfigurationError

FILE_SIZE_MAX = 65_536
NAME_LENGTH_MAX = 64
DURATION_MAX_MS = 30 * 86_400_000
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_DURATION = re.compile(r"([0-9]{1,9})(ms|s|m|h|d)")
_MS = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_TOML_PLACE = re.compile(r" \(at (?:line (\d+), column \d+|end of document)\)$")

Field = tuple[str, ...]


class Float(str):
    """A TOML float as it was written, kept so that it can be refused by name."""

    __slots__ = ()


class Sheet:
    """One file on its way to a contract; gathers problems instead of stopping.

    Raises ConfigurationError where the text is no TOML at all.
    """

    def __init__(self, text: str, name: str) -> None:
        self.text = text
        self.name = name
        self.problems: list[str] = []
        self.document = self._document()
        self._lines = key_lines(text)

    def _document(self) -> dict[str, object]:
        # surrogates cannot be encoded: such a text came from no UTF-8 file
        size = len(self.text.encode(errors="replace"))
        if size > FILE_SIZE_MAX:
            raise ConfigurationError(
                [f"{self.name}:1: file: {size} bytes, over {FILE_SIZE_MAX}"]
            )
        try:
            self.text.encode()
            return tomllib.loads(self.text, parse_float=Float)
        except RecursionError:
            reason, line = "nested too deeply", 1
        except ValueError as error:  # TOMLDecodeError, or an integer too long to read
            reason, line = self._toml_reason(str(error))
        raise ConfigurationError([f"{self.name}:{line}: TOML: {reason}"]) from None

    def _toml_reason(self, text: str) -> tuple[str, int]:
        match = _TOML_PLACE.search(text)
        if match is None:
            return text, 1
        end = self.text.count("\n") + 1
        return text[: match.start()], int(match[1]) if match[1] else end

    def problem(self, field: Field, reason: str) -> None:
        """Note a mistake at the line of this field, or of the table it belongs in."""
        line, place = 1, field
        while place:  # a key that is missing: where the nearest table above it is
            if place in self._lines:
                line = self._lines[place]
                break
            place = place[:-1]
        self.problems.append(f"{self.name}:{line}: {'.'.join(field)}: {reason}")

    def check(self) -> None:
        """ConfigurationError where anything was wrong."""
        if self.problems:
            raise ConfigurationError(self.problems)

    # ---- Values ----

    def only(self, table: Mapping[str, object], field: Field, names: str) -> None:
        """Refuse keys that are not among these."""
        for key in table:
            if key not in names.split():
                known = names.replace(" ", ", ")
                self.problem((*field, key), f"unknown; the keys here are {known}")

    def table(self, value: object, field: Field) -> Mapping[str, object] | None:
        """The table, None where it is none."""
        if isinstance(value, dict):
            return value
        self.problem(field, "missing" if value is None else "must be a table")
        return None

    def array(self, value: object, field: Field, low: int, high: int) -> list[object]:
        """The array of `low` to `high` items; empty where it is none."""
        if not isinstance(value, list):
            self.problem(field, _not_an("array", value))
        elif not low <= len(value) <= high:
            self.problem(field, f"must have {low} to {high} items, not {len(value)}")
        else:
            return value
        return []

    def string(self, value: object, field: Field) -> str | None:
        """The text, None where it is none."""
        if isinstance(value, Float) or not isinstance(value, str):
            self.problem(field, _not_a("string", value))
            return None
        return value

    def integer(self, value: object, field: Field, low: int, high: int) -> int:
        """The whole number from `low` to `high`; `low` where it is none."""
        if not isinstance(value, int) or isinstance(value, bool):
            self.problem(field, _not_a("whole number", value))
        elif not low <= value <= high:
            self.problem(field, f"must be {low} to {high}")
        else:
            return value
        return low

    def switch(self, value: object, field: Field) -> bool:
        """true or false; false where it is missing."""
        if value is not None and not isinstance(value, bool):
            self.problem(field, "must be true or false")
        return value is True

    def choice(self, value: object, field: Field, choices: tuple[str, ...]) -> str:
        """One of the texts; "" where it is no text."""
        text = self.string(value, field)
        if text is not None and text not in choices:
            self.problem(field, f"must be {' or '.join(choices)}")
        return text or ""

    def name_of(self, value: object, field: Field) -> str:
        """A name of letters, digits, ".", "_", "-"; "" where it is no text."""
        text = self.string(value, field)
        if text is not None:
            self.check_name(text, field)
        return text or ""

    def check_name(self, text: str, field: Field) -> None:
        """Refuse what is no name."""
        if len(text) > NAME_LENGTH_MAX or not NAME.fullmatch(text):
            self.problem(
                field,
                f"a name has 1 to {NAME_LENGTH_MAX} of the characters A-Z a-z 0-9 . _ -"
                " and begins with a letter or digit",
            )

    def duration(
        self, value: object, field: Field, low_ms: int, default_ms: int = 0
    ) -> int:
        """Milliseconds of a time like "15s"; the default where it may be missing."""
        if value is None and low_ms == 0:
            return default_ms
        text = self.string(value, field)
        if text is None:
            return low_ms
        duration_ms = duration_of(text)
        if duration_ms is None:
            self.problem(field, f'{text!r} is not a time like "15s", "10m" or "4h"')
            return low_ms
        if not low_ms <= duration_ms <= DURATION_MAX_MS:
            self.problem(field, f"{text} is not between {low_ms} ms and 30 days")
        return duration_ms


def duration_of(text: str) -> int | None:
    """Milliseconds of a time like "15s", None where it is none."""
    match = _DURATION.fullmatch(text)
    return int(match[1]) * _MS[match[2]] if match else None


def _not_a(kind: str, value: object) -> str:
    if value is None:
        return "missing"
    if isinstance(value, Float):
        return f"must be a {kind}; {value} is a float, and decimals are strings here"
    return f"must be a {kind}"


def _not_an(kind: str, value: object) -> str:
    return "missing" if value is None else f"must be an {kind}"


_KEY = r"""(?:[A-Za-z0-9_-]+|"[^"\\]*"|'[^']*')"""
_KEYS = rf"{_KEY}(?:[ \t]*\.[ \t]*{_KEY})*"
_HEADER_LINE = re.compile(rf"[ \t]*\[\[?[ \t]*({_KEYS})[ \t]*\]")
_KEY_LINE = re.compile(rf"[ \t]*({_KEYS})[ \t]*=(.*)")
_TRIPLE_QUOTES = ('"""', "'''")


def key_lines(text: str) -> dict[tuple[str, ...], int]:
    """The line, from 1, of every key and table of a TOML text that tomllib accepts.

    For messages only: it knows tables, dotted keys and multi-line strings; a key that
    it does not find is reported at the table it stands in.
    """
    lines: dict[tuple[str, ...], int] = {}
    table: tuple[str, ...] = ()
    inside: str | None = None  # the quotes of the multi-line string that we are in
    for number, line in enumerate(text.split("\n"), start=1):
        if inside is not None:
            inside = None if inside in line else inside
            continue
        header = _HEADER_LINE.match(line)
        if header is not None:
            table = _parts(header[1])
            _note(lines, table, number)
            continue
        pair = _KEY_LINE.match(line)
        if pair is None:
            continue
        _note(lines, table + _parts(pair[1]), number)
        inside = next((q for q in _TRIPLE_QUOTES if pair[2].count(q) == 1), None)
    return lines


def _note(lines: dict[tuple[str, ...], int], path: tuple[str, ...], line: int) -> None:
    for length in range(1, len(path) + 1):
        lines.setdefault(path[:length], line)


def _parts(dotted: str) -> tuple[str, ...]:
    return tuple(part.strip("\"'") for part in re.findall(_KEY, dotted))
