"""The contract language: from TOML text to a checked Contract. Reference:
docs/contracts.md.

    contract = "spo2-low"              # name of letters, digits, "." "_" "-"
    version  = 1                       # 1 and up
    engine   = "rules/1"               # pins the meaning of every word here
    subject  = "patient"               # or "device": whose readings belong together
    [inputs]
    spo2 = { unit = "%", scale = 1, fresh = "10s" }     # metric = its name, if another
    [rules.low]
    priority   = "high"                # high, medium, low or technical
    when       = "spo2 < 90"           # expression.py
    for        = "15s"                 # holds without a break; 0s if absent
    rearm      = "spo2 >= 92"          # what ends it; "not (when)" if absent
    on_unknown = "technical:spo2-lost" # fires when the expression stays UNKNOWN

A contract is identified by the SHA-256 of its file. All mistakes in a file are reported
at once, each as FILE:LINE: FIELD: REASON. Pure: reading files is the caller's.
"""

from __future__ import annotations

import hashlib
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass

from edge.contracts.expression import (
    ExpressionError,
    Operand,
    Program,
    compile_expression,
    fixed_point,
)
from edge.devices.metrics import BY_NAME
from edge.errors import ConfigurationError

ENGINE = "rules/1"
FILE_SIZE_MAX = 65_536
CONTRACTS_MAX = 64
INPUTS_MAX = 16
RULES_MAX = 32
COST_MAX = 2_000  # steps that one reading may take in one contract
DURATION_MAX_MS = 30 * 86_400_000
VERSION_MAX = 2**31 - 1
NAME_LENGTH_MAX = 64
SCALES = (1, 10, 100, 1000)
SUBJECTS = ("patient", "device")
PRIORITIES = ("high", "medium", "low", "technical")
RESERVED_RULES = frozenset({"fault", "subjects"})  # the machine's own firings

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_INPUT_NAME = re.compile(r"[a-z][a-z0-9_]*")
_INPUT_WORDS = frozenset({"and", "or", "not", "missing"})
_DURATION = re.compile(r"([0-9]{1,9})(ms|s|m|h|d)")
_MS = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_TOML_PLACE = re.compile(r" \(at (?:line (\d+), column \d+|end of document)\)$")


@dataclass(frozen=True, slots=True)
class Input:
    """A metric that a contract reads, in fixed point: value × `scale`, rounded.

    After `fresh_ms` without a new sample it is UNKNOWN.
    """

    name: str
    metric: str
    unit: str
    scale: int
    fresh_ms: int


@dataclass(frozen=True, slots=True)
class Rule:
    """`when` it holds for `for_ms` it fires; `rearm` ends it (None: not `when`).

    `inputs` are the indexes of the inputs that either names, `fresh_ms` the longest
    freshness among those of `when`; `on_unknown` is the label of its technical firing.
    """

    name: str
    priority: str
    when: Program
    for_ms: int
    rearm: Program | None
    on_unknown: str | None
    inputs: tuple[int, ...]
    fresh_ms: int


@dataclass(frozen=True, slots=True)
class Contract:
    """A checked contract; `hash` is the SHA-256 of its file, `cost` in steps."""

    name: str
    version: int
    hash: bytes
    subject: str
    inputs: tuple[Input, ...]
    rules: tuple[Rule, ...]
    cost: int


def load(text: str, name: str) -> Contract:
    """The contract in `text`; `name` is the file's, for messages.

    Raises ConfigurationError with every mistake found.
    """
    return _Loader(text, name).contract()


def load_directory(texts: Mapping[str, str]) -> list[Contract]:
    """The contracts of these files (name → text), in the order of the file names.

    Raises ConfigurationError with the mistakes of all files, two contracts of one name
    among them.
    """
    problems: list[str] = []
    if len(texts) > CONTRACTS_MAX:
        problems.append(f"{len(texts)} contracts; at most {CONTRACTS_MAX}")
    contracts: dict[str, Contract] = {}
    for name in sorted(texts):
        try:
            contract = load(texts[name], name)
        except ConfigurationError as error:
            problems += error.problems
            continue
        if contract.name in contracts:
            problems.append(
                f"{name}:1: contract: another file has {contract.name!r} too"
            )
        contracts[contract.name] = contract
    if problems:
        raise ConfigurationError(problems)
    return list(contracts.values())


class _Float(str):
    """A TOML float as it was written, kept so that it can be refused by name."""

    __slots__ = ()


class _Loader:
    """One file on its way to a Contract; gathers problems instead of stopping."""

    def __init__(self, text: str, name: str) -> None:
        self._text = text
        self._name = name
        self._problems: list[str] = []
        self._lines: dict[tuple[str, ...], int] = {}

    def contract(self) -> Contract:
        document = self._document()
        self._lines = key_lines(self._text)
        self._only(document, (), "contract version engine subject inputs rules")
        if document.get("engine") != ENGINE:
            self._problem(("engine",), f'must be "{ENGINE}"')
        name = self._name_of(document.get("contract"), ("contract",))
        version = self._integer(document.get("version"), ("version",), 1, VERSION_MAX)
        subject = self._choice(document.get("subject"), ("subject",), SUBJECTS)
        inputs = self._inputs(document.get("inputs"))
        rules = self._rules(document.get("rules"), inputs)
        cost = 1 + len(inputs) + sum(_cost(rule) for rule in rules)
        if cost > COST_MAX:
            self._problem(("rules",), f"costs {cost} steps a reading, over {COST_MAX}")
        if self._problems:
            raise ConfigurationError(self._problems)
        digest = hashlib.sha256(self._text.encode()).digest()
        return Contract(
            name, version, digest, subject, tuple(inputs.values()), tuple(rules), cost
        )

    def _document(self) -> dict[str, object]:
        # surrogates cannot be encoded: such a text came from no UTF-8 file
        size = len(self._text.encode(errors="replace"))
        if size > FILE_SIZE_MAX:
            raise ConfigurationError(
                [f"{self._name}:1: file: {size} bytes, over {FILE_SIZE_MAX}"]
            )
        try:
            self._text.encode()
            return tomllib.loads(self._text, parse_float=_Float)
        except RecursionError:
            reason, line = "nested too deeply", 1
        except ValueError as error:  # TOMLDecodeError, or an integer too long to read
            reason, line = self._toml_reason(str(error))
        raise ConfigurationError([f"{self._name}:{line}: TOML: {reason}"]) from None

    def _toml_reason(self, text: str) -> tuple[str, int]:
        match = _TOML_PLACE.search(text)
        if match is None:
            return text, 1
        end = self._text.count("\n") + 1
        return text[: match.start()], int(match[1]) if match[1] else end

    def _problem(self, field: tuple[str, ...], reason: str) -> None:
        line, place = 1, field
        while place:  # a key that is missing: where the nearest table above it is
            if place in self._lines:
                line = self._lines[place]
                break
            place = place[:-1]
        self._problems.append(f"{self._name}:{line}: {'.'.join(field)}: {reason}")

    def _only(
        self, table: Mapping[str, object], field: tuple[str, ...], names: str
    ) -> None:
        for key in table:
            if key not in names.split():
                known = names.replace(" ", ", ")
                self._problem((*field, key), f"unknown; the keys here are {known}")

    def _table(
        self, value: object, field: tuple[str, ...]
    ) -> Mapping[str, object] | None:
        if isinstance(value, dict):
            return value
        self._problem(field, "missing" if value is None else "must be a table")
        return None

    def _string(self, value: object, field: tuple[str, ...]) -> str | None:
        if isinstance(value, _Float) or not isinstance(value, str):
            self._problem(field, _not_a("string", value))
            return None
        return value

    def _integer(
        self, value: object, field: tuple[str, ...], low: int, high: int
    ) -> int:
        if not isinstance(value, int) or isinstance(value, bool):
            self._problem(field, _not_a("whole number", value))
        elif not low <= value <= high:
            self._problem(field, f"must be {low} to {high}")
        else:
            return value
        return low

    def _choice(
        self, value: object, field: tuple[str, ...], choices: tuple[str, ...]
    ) -> str:
        text = self._string(value, field)
        if text is not None and text not in choices:
            self._problem(field, f"must be {' or '.join(choices)}")
        return text or ""

    def _name_of(self, value: object, field: tuple[str, ...]) -> str:
        text = self._string(value, field)
        if text is not None:
            self._check_name(text, field)
        return text or ""

    def _check_name(self, text: str, field: tuple[str, ...]) -> None:
        if len(text) > NAME_LENGTH_MAX or not _NAME.fullmatch(text):
            self._problem(
                field,
                f"a name has 1 to {NAME_LENGTH_MAX} of the characters A-Z a-z 0-9 . _ -"
                " and begins with a letter or digit",
            )

    def _duration(
        self, value: object, field: tuple[str, ...], low_ms: int, default_ms: int = 0
    ) -> int:
        if value is None and low_ms == 0:
            return default_ms
        text = self._string(value, field)
        if text is None:
            return low_ms
        match = _DURATION.fullmatch(text)
        if match is None:
            self._problem(field, f'{text!r} is not a time like "15s", "10m" or "4h"')
            return low_ms
        duration_ms = int(match[1]) * _MS[match[2]]
        if not low_ms <= duration_ms <= DURATION_MAX_MS:
            self._problem(field, f"{text} is not between {low_ms} ms and 30 days")
        return duration_ms

    def _inputs(self, value: object) -> dict[str, Input]:
        table = self._table(value, ("inputs",))
        if table is None:
            return {}
        if not 1 <= len(table) <= INPUTS_MAX:
            self._problem(("inputs",), f"1 to {INPUTS_MAX} inputs, not {len(table)}")
        found = {name: self._input(name, item) for name, item in table.items()}
        return {name: item for name, item in found.items() if item is not None}

    def _input(self, name: str, value: object) -> Input | None:
        """The input, or None when it is too wrong to compile expressions with."""
        field = ("inputs", name)
        if (
            not _INPUT_NAME.fullmatch(name)
            or name in _INPUT_WORDS
            or len(name) > NAME_LENGTH_MAX
        ):
            self._problem(field, "an input's name has a-z 0-9 _ and begins with a-z")
        table = self._table(value, field)
        if table is None:
            return None
        self._only(table, field, "metric unit scale fresh")
        metric = self._string(table.get("metric", name), (*field, "metric"))
        scale = self._integer(table.get("scale", 1), (*field, "scale"), 1, SCALES[-1])
        if scale not in SCALES:
            self._problem((*field, "scale"), "must be 1, 10, 100 or 1000")
        fresh_ms = self._duration(table.get("fresh"), (*field, "fresh"), 1)
        unit = self._string(table.get("unit"), (*field, "unit"))
        if metric is None:
            return None
        if metric not in BY_NAME or BY_NAME[metric].letters:
            self._problem((*field, "metric"), f"no number is named {metric!r}")
            return None
        if unit is not None and unit != BY_NAME[metric].unit:
            self._problem(
                (*field, "unit"),
                f"{metric} is in {BY_NAME[metric].unit!r}, not {unit!r}",
            )
        return Input(name, metric, BY_NAME[metric].unit, scale, fresh_ms)

    def _rules(self, value: object, inputs: dict[str, Input]) -> list[Rule]:
        table = self._table(value, ("rules",))
        if table is None:
            return []
        if not 1 <= len(table) <= RULES_MAX:
            self._problem(("rules",), f"1 to {RULES_MAX} rules, not {len(table)}")
        operands = {
            item.name: _operand(index, item)
            for index, item in enumerate(inputs.values())
        }
        fresh = [item.fresh_ms for item in inputs.values()]
        rules: list[Rule] = []
        taken = set(table) | RESERVED_RULES
        for name, item in table.items():
            rule = self._rule(name, item, operands, fresh)
            if rule is None:
                continue
            if rule.on_unknown is not None:
                if rule.on_unknown in taken:
                    self._problem(
                        ("rules", name, "on_unknown"),
                        f"the name {rule.on_unknown!r} is already taken",
                    )
                taken.add(rule.on_unknown)
            rules.append(rule)
        return rules

    def _rule(
        self, name: str, value: object, operands: dict[str, Operand], fresh: list[int]
    ) -> Rule | None:
        field = ("rules", name)
        self._check_name(name, field)
        if name in RESERVED_RULES:
            self._problem(field, "this name is the gateway's own")
        table = self._table(value, field)
        if table is None:
            return None
        self._only(table, field, "priority when for rearm on_unknown")
        priority = self._choice(table.get("priority"), (*field, "priority"), PRIORITIES)
        for_ms = self._duration(table.get("for"), (*field, "for"), 0)
        label = self._label(table.get("on_unknown"), (*field, "on_unknown"))
        rearm: Program | None = None
        if "rearm" in table:
            rearm = self._program(table["rearm"], (*field, "rearm"), operands)
        when = self._program(table.get("when"), (*field, "when"), operands)
        if when is None:
            return None
        used = when.inputs | (rearm.inputs if rearm else frozenset())
        fresh_ms = max(fresh[index] for index in when.inputs)
        return Rule(
            name, priority, when, for_ms, rearm, label, tuple(sorted(used)), fresh_ms
        )

    def _label(self, value: object, field: tuple[str, ...]) -> str | None:
        if value is None:
            return None
        text = self._string(value, field)
        if text is None:
            return None
        kind, colon, label = text.partition(":")
        if kind != "technical" or not colon:
            self._problem(field, 'must be "technical:" and a name')
            return None
        self._check_name(label, field)
        return label

    def _program(
        self, value: object, field: tuple[str, ...], operands: dict[str, Operand]
    ) -> Program | None:
        source = self._string(value, field)
        if source is None:
            return None
        try:
            return compile_expression(source, operands)
        except ExpressionError as error:
            self._problem(field, str(error))
            return None


def _not_a(kind: str, value: object) -> str:
    if value is None:
        return "missing"
    if isinstance(value, _Float):
        return f"must be a {kind}; {value} is a float, and decimals are strings here"
    return f"must be a {kind}"


def _operand(index: int, item: Input) -> Operand:
    metric = BY_NAME[item.metric]
    return Operand(
        index,
        item.unit,
        item.scale,
        fixed_point(metric.low, item.scale),
        fixed_point(metric.high, item.scale),
    )


def _cost(rule: Rule) -> int:
    """Steps of one evaluation: `when` twice (also as of the last samples), `rearm`."""
    return 2 * rule.when.cost + (rule.rearm.cost if rule.rearm else 0)


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
