"""The contract language: from TOML text to a checked Contract. Reference:
docs/contracts.md.

    contract = "spo2-low"              # name of letters, digits, "." "_" "-"
    version  = 1                       # 1 and up
    engine   = "rules/1"               # pins the meaning of every word here
    subject  = "patient"               # or "device": whose readings belong together
    [inputs]                           # metrics; UNKNOWN when older than `fresh`
    spo2 = { unit = "%", scale = 1, fresh = "10s" }     # metric = its name, if another
    [params]                           # what a role may set for one patient
    [windows]                          # sums over buckets of time
    [tables]                           # points by bounds
    [let]                              # named expressions
    [rules.low]
    priority   = "high"                # high, medium, low or technical
    when       = "spo2 < 90"           # expression.py
    [[examples]]                       # examples.py

A contract is identified by the SHA-256 of its file. All mistakes in a file are reported
at once, each as FILE:LINE: FIELD: REASON. Pure: reading files is the caller's.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping

from edge import cbor
from edge.contracts.expression import (
    VALUE_MAX,
    WORDS,
    Compiled,
    ExpressionError,
    Symbol,
    compile_expression,
    fixed_point,
    literal,
)
from edge.contracts.program import (
    Contract,
    Input,
    Let,
    Param,
    Program,
    Rule,
    Shown,
    Step,
    Table,
    Window,
    parts_of,
)
from edge.contracts.toml_text import NAME_LENGTH_MAX, Field, Sheet, duration_of
from edge.contracts.windows import BUCKETS_MAX, FIELDS, field_symbol
from edge.devices.metrics import BY_NAME
from edge.errors import ConfigurationError

ENGINE = "rules/1"
CONTRACTS_MAX = 64
INPUTS_MAX = 16
PARAMS_MAX = 16
WINDOWS_MAX = 8
TABLES_MAX = 16
ROWS_MAX = 64
LETS_MAX = 32
RULES_MAX = 32
EXAMPLES_MAX = 64
SHOWN_MAX = 16
STEPS_MAX = 4
STARTS_MAX = 8
CHOICES_MAX = 8
POINTS_MAX = 10**6
COST_MAX = 2_000  # steps that one reading may take in one contract
STATE_BYTES_MAX = 65_536  # of one subject in a snapshot
VERSION_MAX = 2**31 - 1
SCALES = (1, 10, 100, 1000)
SUBJECTS = ("patient", "device")
PRIORITIES = ("high", "medium", "low", "technical")
RESERVED_RULES = frozenset({"fault", "subjects"})  # the machine's own firings
LETTERS = "ACVPU"  # of the metric acvpu, from well to worst
LETTER_UNIT = "letter"
# Bytes of a snapshot, at the most: integers have 9, names 66
_INPUT_BYTES, _PARAM_BYTES, _BUCKET_BYTES, _RULE_BYTES = 110, 100, 82, 320
_SUBJECT_BYTES = 100

_INPUT_NAME = re.compile(r"[a-z][a-z0-9_]*")
_ROLE = re.compile(r"role:[a-z][a-z0-9-]{0,58}")
_RATE = re.compile(r"([1-9][0-9]?)/(.*)")
_TOP = (
    "contract version engine subject title state inputs params windows tables let "
    "rules limits examples"
)
_RULE = (
    "priority when for rearm on_unknown delay latch max_rate escalate inhibited_by "
    "show retrospective"
)


def load(text: str, name: str) -> Contract:
    """The contract in `text`; `name` is the file's, for messages.

    Raises ConfigurationError with every mistake found.
    """
    return _Loader(Sheet(text, name)).contract()


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


class _Loader:
    """One file on its way to a Contract: its sections, in the order they build up."""

    def __init__(self, sheet: Sheet) -> None:
        self._sheet = sheet
        self._symbols: dict[str, Symbol] = {}
        self._inputs: list[Input] = []
        self._params: list[Param] = []
        self._windows: list[Window] = []
        self._tables: list[Table] = []
        self._lets: list[Let] = []

    def contract(self) -> Contract:
        sheet, document = self._sheet, self._sheet.document
        sheet.only(document, (), _TOP)
        if document.get("engine") != ENGINE:
            sheet.problem(("engine",), f'must be "{ENGINE}"')
        name = sheet.name_of(document.get("contract"), ("contract",))
        version = sheet.integer(document.get("version"), ("version",), 1, VERSION_MAX)
        subject = sheet.choice(document.get("subject"), ("subject",), SUBJECTS)
        title = sheet.string(document.get("title", ""), ("title",)) or ""
        state = document.get("state", "reset")
        carry = sheet.choice(state, ("state",), ("carry", "reset")) == "carry"
        self._read_inputs()
        for number, (key, value) in enumerate(self._section("params", PARAMS_MAX)):
            self._read_param(key, value, number)
        for key, value in self._section("windows", WINDOWS_MAX):
            self._read_window(key, value)
        waiting = dict(self._section("tables", TABLES_MAX))
        self._read_tables(waiting)
        for key, value in self._section("let", LETS_MAX):
            self._read_let(key, value)
            self._read_tables(waiting)
        for key in waiting:
            sheet.problem(("tables", key), "no number of this name or `of` is here")
        rules = self._read_rules()
        self._check_examples(document.get("examples", []))
        cost, state_bytes = self._cost(rules), self._state_bytes(rules)
        self._check_limits(cost, state_bytes)
        sheet.check()
        return Contract(
            name=name,
            version=version,
            hash=hashlib.sha256(sheet.text.encode()).digest(),
            subject=subject,
            inputs=tuple(self._inputs),
            rules=tuple(rules),
            cost=cost,
            title=title,
            params=tuple(self._params),
            windows=tuple(self._windows),
            tables=tuple(self._tables),
            lets=tuple(self._lets),
            silents=self._silents(rules),
            state_bytes=state_bytes,
            carry=carry,
            schema=self._schema(rules),
            source=sheet.text,
        )

    def _section(self, name: str, most: int) -> list[tuple[str, object]]:
        """The items of an optional table of at most so many."""
        value = self._sheet.document.get(name)
        if value is None:
            return []
        table = self._sheet.table(value, (name,)) or {}
        if len(table) > most:
            self._sheet.problem((name,), f"at most {most}, not {len(table)}")
            return []
        return list(table.items())

    def _define(self, name: str, symbol: Symbol, field: Field) -> None:
        if name in self._symbols:
            self._sheet.problem(field, f"the name {name!r} is already taken")
        self._symbols[name] = symbol

    def _plain_name(self, name: str, field: Field) -> bool:
        good = _INPUT_NAME.fullmatch(name) and len(name) <= NAME_LENGTH_MAX
        if not good or name in WORDS:
            self._sheet.problem(field, "a name here has a-z 0-9 _ and begins with a-z")
        return bool(good)

    def _decimal(self, value: object, field: Field, scale: int) -> int | None:
        """A whole number or a decimal in quotes, in fixed point."""
        if isinstance(value, int) and not isinstance(value, bool):
            value = str(value)
        text = self._sheet.string(value, field)
        if text is None:
            return None
        try:
            return literal(text, scale)
        except ValueError as error:
            self._sheet.problem(field, str(error))
            return None

    def _scale(self, value: object, field: Field) -> int:
        scale = self._sheet.integer(value, field, 1, SCALES[-1])
        if scale not in SCALES:
            self._sheet.problem(field, "must be 1, 10, 100 or 1000")
        return scale

    # ---- Inputs ----

    def _read_inputs(self) -> None:
        table = self._sheet.table(self._sheet.document.get("inputs"), ("inputs",))
        if table is None:
            return
        if not 1 <= len(table) <= INPUTS_MAX:
            self._sheet.problem(
                ("inputs",), f"1 to {INPUTS_MAX} inputs, not {len(table)}"
            )
        for name, value in table.items():
            item = self._input(name, value)
            if item is not None:
                symbol = _input_symbol(len(self._inputs), item)
                self._define(name, symbol, ("inputs", name))
                self._inputs.append(item)

    def _input(self, name: str, value: object) -> Input | None:
        """The input, or None when it is too wrong to compile expressions with."""
        sheet, field = self._sheet, ("inputs", name)
        if (
            not _INPUT_NAME.fullmatch(name)
            or name in WORDS
            or len(name) > NAME_LENGTH_MAX
        ):
            sheet.problem(field, "an input's name has a-z 0-9 _ and begins with a-z")
        table = sheet.table(value, field)
        if table is None:
            return None
        sheet.only(table, field, "metric unit scale fresh code")
        metric = sheet.string(table.get("metric", name), (*field, "metric"))
        scale = self._scale(table.get("scale", 1), (*field, "scale"))
        fresh_ms = sheet.duration(table.get("fresh"), (*field, "fresh"), 1)
        unit = sheet.string(table.get("unit"), (*field, "unit"))
        if metric is None:
            return None
        known = BY_NAME.get(metric)
        if known is None:
            sheet.problem((*field, "metric"), f"no metric is named {metric!r}")
            return None
        wanted = LETTER_UNIT if known.letters else known.unit
        if unit is not None and unit != wanted:
            sheet.problem((*field, "unit"), f"{metric} is in {wanted!r}, not {unit!r}")
        if known.letters and scale != 1:
            sheet.problem((*field, "scale"), "a letter has scale 1")
        if "code" in table:
            code = sheet.string(table["code"], (*field, "code"))
            right = "none" if known.mdc is None else str(known.mdc)
            if code is not None and code != right:
                sheet.problem((*field, "code"), f"the MDC code of {metric} is {right}")
        letters = LETTERS if known.letters else ""
        return Input(name, metric, wanted, scale, fresh_ms, letters)

    # ---- Params ----

    def _read_param(self, name: str, value: object, number: int) -> None:
        sheet, field = self._sheet, ("params", name)
        self._plain_name(name, field)
        table = sheet.table(value, field)
        if table is None:
            return
        sheet.only(table, field, "unit scale min max choices default set_by expires")
        scale = self._scale(table.get("scale", 1), (*field, "scale"))
        unit = sheet.string(table.get("unit", "1"), (*field, "unit")) or "1"
        choices: tuple[int, ...] = ()
        if "choices" in table:
            choices = self._choices(table, field)
            low, high = min(choices, default=0), max(choices, default=0)
        else:
            low = self._decimal(table.get("min"), (*field, "min"), scale) or 0
            high = self._decimal(table.get("max"), (*field, "max"), scale) or 0
            if low > high:
                sheet.problem((*field, "max"), "is below min")
        default = None
        if "default" in table:
            default = self._decimal(table["default"], (*field, "default"), scale)
            allowed = default in choices if choices else low <= (default or 0) <= high
            if default is not None and not allowed:
                sheet.problem((*field, "default"), "is not a value that may be set")
        set_by = self._role(table.get("set_by"), (*field, "set_by"))
        expires_ms = sheet.duration(table.get("expires"), (*field, "expires"), 0)
        param = Param(
            name, unit, scale, low, high, choices, default, set_by, expires_ms
        )
        tree = ("param", number)
        symbol = Symbol(tree, frozenset(), unit, scale, low, high)
        self._define(name, symbol, field)
        self._params.append(param)

    def _choices(self, table: Mapping[str, object], field: Field) -> tuple[int, ...]:
        sheet = self._sheet
        for key in ("min", "max", "scale", "unit"):
            if key in table:
                sheet.problem((*field, key), "does not go with choices")
        place = (*field, "choices")
        listed = sheet.array(table["choices"], place, 2, CHOICES_MAX)
        return tuple(sheet.integer(one, place, 0, VALUE_MAX) for one in listed)

    def _role(self, value: object, field: Field) -> str:
        text = self._sheet.string(value, field)
        if text is not None and not _ROLE.fullmatch(text):
            self._sheet.problem(field, 'must be "role:" and a name of a-z 0-9 -')
        return text or ""

    # ---- Windows, tables, lets ----

    def _read_window(self, name: str, value: object) -> None:
        sheet, field = self._sheet, ("windows", name)
        self._plain_name(name, field)
        table = sheet.table(value, field)
        if table is None:
            return
        sheet.only(table, field, "of span bucket keep filled")
        bucket_ms = sheet.duration(table.get("bucket"), (*field, "bucket"), 1)
        span_ms = sheet.duration(table.get("span"), (*field, "span"), 1)
        count, rest = divmod(span_ms, bucket_ms)
        if rest or not 1 <= count <= BUCKETS_MAX:
            sheet.problem((*field, "span"), f"must be 1 to {BUCKETS_MAX} buckets")
            count = 1
        place = (*field, "keep")
        listed = sheet.array(table.get("keep"), place, 1, len(FIELDS))
        kept = {sheet.choice(one, place, FIELDS) for one in listed}
        filled = 0
        if "filled" in table:
            filled = sheet.integer(table["filled"], (*field, "filled"), 1, count)
        of = sheet.string(table.get("of"), (*field, "of"))
        index = self._index_of(of)
        if index is None or self._inputs[index].letters:
            if of is not None:
                sheet.problem((*field, "of"), f"no number among the inputs is {of!r}")
            return
        item = self._inputs[index]
        if "mkt" in kept and (item.unit, item.scale) != ("Cel", 10):
            sheet.problem(place, "mkt is of a temperature in Cel with scale 10")
        window = Window(name, index, bucket_ms, count, frozenset(kept), filled)
        source = self._symbols[item.name]
        for one in sorted({*kept, "count", "filled"} & {*FIELDS, "filled"}):
            tree = ("window", len(self._windows), one)
            symbol = field_symbol(window, one, source, tree)
            self._define(f"{name}.{one}", symbol, field)
        self._windows.append(window)

    def _index_of(self, name: str | None) -> int | None:
        return next((i for i, one in enumerate(self._inputs) if one.name == name), None)

    def _read_tables(self, waiting: dict[str, object]) -> None:
        """Those of the tables whose number is defined by now."""
        for name in list(waiting):
            value = waiting[name]
            of, rows = name, value
            if isinstance(value, dict):
                self._sheet.only(value, ("tables", name), "of rows")
                given = self._sheet.string(value.get("of"), ("tables", name, "of"))
                of, rows = given or "", value.get("rows")
            symbol = self._symbols.get(of)
            if symbol is None or symbol.truth or symbol.letters:
                continue
            del waiting[name]
            self._read_table(name, rows, symbol)

    def _read_table(self, name: str, value: object, symbol: Symbol) -> None:
        sheet, field = self._sheet, ("tables", name)
        self._plain_name(name, field)
        bounds: list[int] = []
        points: list[int] = []
        listed = sheet.array(value, field, 2, ROWS_MAX)
        for number, row in enumerate(listed, start=1):
            if not isinstance(row, list) or len(row) != 2:
                sheet.problem(field, f"row {number} is not [bound, points]")
                return
            points.append(sheet.integer(row[1], field, -POINTS_MAX, POINTS_MAX))
            if number == len(listed):
                if row[0] != "*":
                    sheet.problem(field, 'the last row begins with "*"')
                continue
            bound = self._decimal(row[0], field, symbol.scale)
            if bound is None:
                return
            if bounds and bound <= bounds[-1]:
                sheet.problem(field, f"row {number} is not above the one before")
            bounds.append(bound)
        if not points:
            return
        tree = ("table", len(self._tables))
        low, high = min(points), max(points)
        made = Symbol(tree, symbol.inputs, low=low, high=high)
        self._define(f"{name}.pts", made, field)
        self._tables.append(Table(name, symbol.tree, tuple(bounds), tuple(points)))

    def _read_let(self, name: str, value: object) -> None:
        field = ("let", name)
        self._plain_name(name, field)
        compiled = self._compiled(value, field)
        if compiled is None:
            return
        tree = ("let", len(self._lets))
        symbol = Symbol(
            tree,
            compiled.program.inputs,
            compiled.unit,
            compiled.scale,
            compiled.low,
            compiled.high,
            truth=compiled.truth,
        )
        self._define(name, symbol, field)
        self._lets.append(Let(name, compiled.program, compiled.truth))

    def _compiled(self, value: object, field: Field) -> Compiled | None:
        source = self._sheet.string(value, field)
        if source is None:
            return None
        try:
            return compile_expression(source, self._symbols)
        except ExpressionError as error:
            self._sheet.problem(field, str(error))
            return None

    def _condition(self, value: object, field: Field) -> Program | None:
        compiled = self._compiled(value, field)
        if compiled is not None and not compiled.truth:
            self._sheet.problem(field, "a number, where a comparison is needed")
            return None
        return compiled.program if compiled else None

    # ---- Rules ----

    def _read_rules(self) -> list[Rule]:
        table = self._sheet.table(self._sheet.document.get("rules"), ("rules",))
        if table is None:
            return []
        if not 1 <= len(table) <= RULES_MAX:
            self._sheet.problem(("rules",), f"1 to {RULES_MAX} rules, not {len(table)}")
        rules: list[Rule] = []
        taken = set(table) | RESERVED_RULES
        for name, item in table.items():
            rule = self._rule(name, item, [one.name for one in rules])
            if rule is None:
                continue
            if rule.on_unknown is not None:
                if rule.on_unknown in taken:
                    self._sheet.problem(
                        ("rules", name, "on_unknown"),
                        f"the name {rule.on_unknown!r} is already taken",
                    )
                taken.add(rule.on_unknown)
            rules.append(rule)
        return rules

    def _rule(self, name: str, value: object, above: list[str]) -> Rule | None:
        sheet, field = self._sheet, ("rules", name)
        sheet.check_name(name, field)
        if name in RESERVED_RULES:
            sheet.problem(field, "this name is the gateway's own")
        table = sheet.table(value, field)
        if table is None:
            return None
        sheet.only(table, field, _RULE)
        priority = sheet.choice(table.get("priority"), (*field, "priority"), PRIORITIES)
        for_ms = sheet.duration(table.get("for"), (*field, "for"), 0)
        delay_ms = sheet.duration(table.get("delay"), (*field, "delay"), 0)
        label = self._label(table.get("on_unknown"), (*field, "on_unknown"))
        rearm = None
        if "rearm" in table:
            rearm = self._condition(table["rearm"], (*field, "rearm"))
        when = self._condition(table.get("when"), (*field, "when"))
        if when is None:
            return None
        used = when.inputs | (rearm.inputs if rearm else frozenset())
        fresh = [self._inputs[index].fresh_ms for index in when.inputs]
        retrospective = sheet.switch(
            table.get("retrospective"), (*field, "retrospective")
        )
        if retrospective and not self._looks_at_one_reading(when):
            sheet.problem((*field, "retrospective"), "`when` uses a window or silent()")
        return Rule(
            name=name,
            priority=priority,
            when=when,
            for_ms=for_ms,
            rearm=rearm,
            on_unknown=label,
            inputs=tuple(sorted(used)),
            fresh_ms=max(fresh, default=0),
            delay_ms=delay_ms,
            latch=sheet.switch(table.get("latch"), (*field, "latch")),
            max_rate=self._max_rate(table.get("max_rate"), (*field, "max_rate")),
            escalate=self._escalation(table.get("escalate"), (*field, "escalate")),
            inhibited_by=self._inhibitors(table, field, above),
            show=self._shown(table.get("show", []), (*field, "show")),
            retrospective=retrospective,
        )

    def _looks_at_one_reading(self, program: Program) -> bool:
        waiting, seen = [program.tree], set()
        while waiting:
            tree = waiting.pop()
            if tree[0] in ("window", "silent"):
                return False
            if tree[0] in ("let", "table") and tree not in seen:
                seen.add(tree)
                index = tree[1]
                waiting.append(
                    self._lets[index].program.tree
                    if tree[0] == "let"
                    else self._tables[index].of
                )
                continue
            waiting += parts_of(tree)
        return True

    def _label(self, value: object, field: Field) -> str | None:
        if value is None:
            return None
        text = self._sheet.string(value, field)
        if text is None:
            return None
        kind, colon, label = text.partition(":")
        if kind != "technical" or not colon:
            self._sheet.problem(field, 'must be "technical:" and a name')
            return None
        self._sheet.check_name(label, field)
        return label

    def _max_rate(self, value: object, field: Field) -> tuple[int, int] | None:
        if value is None:
            return None
        text = self._sheet.string(value, field)
        match = _RATE.fullmatch(text) if text is not None else None
        span_ms = duration_of(match[2]) if match else None
        if match is None or not span_ms or int(match[1]) > STARTS_MAX:
            if text is not None:
                self._sheet.problem(
                    field, f'must be 1 to {STARTS_MAX} starts in a time, like "1/60s"'
                )
            return None
        return int(match[1]), span_ms

    def _escalation(self, value: object, field: Field) -> tuple[Step, ...]:
        if value is None:
            return ()
        sheet, steps = self._sheet, list[Step]()
        for item in sheet.array(value, field, 1, STEPS_MAX):
            table = sheet.table(item, field)
            if table is None:
                return ()
            sheet.only(table, field, "after to unless")
            if table.get("unless", "ack") != "ack":
                sheet.problem(field, 'unless must be "ack"')
            after_ms = sheet.duration(table.get("after"), field, 1)
            if steps and after_ms <= steps[-1].after_ms:
                sheet.problem(field, "the steps do not come one after another")
            steps.append(Step(after_ms, self._role(table.get("to"), field)))
        return tuple(steps)

    def _inhibitors(
        self, table: Mapping[str, object], field: Field, above: list[str]
    ) -> tuple[int, ...]:
        if "inhibited_by" not in table:
            return ()
        place = (*field, "inhibited_by")
        found = []
        for one in self._sheet.array(table["inhibited_by"], place, 1, RULES_MAX):
            name = self._sheet.string(one, place)
            if name is not None and name not in above:
                self._sheet.problem(place, f"no rule {name!r} stands above")
            elif name is not None:
                found.append(above.index(name))
        return tuple(sorted(set(found)))

    def _shown(self, value: object, field: Field) -> tuple[Shown, ...]:
        found = []
        for one in self._sheet.array(value, field, 0, SHOWN_MAX):
            name = self._sheet.string(one, field)
            symbol = self._symbols.get(name or "")
            if name is not None and symbol is None:
                self._sheet.problem(field, f"nothing is named {name!r}")
            elif symbol is not None and name is not None:
                found.append(Shown(name, symbol.tree, symbol.truth))
        return tuple(found)

    # ---- The whole ----

    def _check_examples(self, value: object) -> None:
        """Only that there are some; what they say is read by examples.py."""
        self._sheet.array(value, ("examples",), 0, EXAMPLES_MAX)

    def _cost(self, rules: list[Rule]) -> int:
        """Steps of one evaluation: `when` twice (also as of the last samples)."""
        lets = sum(one.program.cost for one in self._lets)
        windows = sum(one.count for one in self._windows)
        tables = sum(len(one.points) for one in self._tables)
        fixed = 1 + len(self._inputs) + windows + 2 * (lets + tables)
        return fixed + sum(
            2 * one.when.cost + (one.rearm.cost if one.rearm else 0) for one in rules
        )

    def _state_bytes(self, rules: list[Rule]) -> int:
        return (
            _SUBJECT_BYTES
            + _INPUT_BYTES * len(self._inputs)
            + _PARAM_BYTES * len(self._params)
            + sum(_BUCKET_BYTES * (one.count + 1) for one in self._windows)
            + _RULE_BYTES * len(rules)
        )

    def _check_limits(self, cost: int, state_bytes: int) -> None:
        sheet = self._sheet
        table = sheet.document.get("limits", {})
        limits = sheet.table(table, ("limits",)) or {}
        sheet.only(limits, ("limits",), "gas_per_record state_bytes")
        for key, computed, most, where, what in (
            ("gas_per_record", cost, COST_MAX, "rules", "steps a reading"),
            ("state_bytes", state_bytes, STATE_BYTES_MAX, "windows", "bytes a subject"),
        ):
            if computed > most:
                sheet.problem((where,), f"costs {computed} {what}, over {most}")
            if key in limits:
                own = sheet.integer(limits[key], ("limits", key), 1, most)
                if computed > own:
                    sheet.problem(("limits", key), f"{computed} {what}, over {own}")

    def _silents(self, rules: list[Rule]) -> frozenset[int]:
        waiting = [one.program.tree for one in self._lets]
        for rule in rules:
            waiting.append(rule.when.tree)
            if rule.rearm is not None:
                waiting.append(rule.rearm.tree)
        found = set()
        while waiting:
            tree = waiting.pop()
            if tree[0] == "silent":
                found.add(tree[1])
            waiting += parts_of(tree)
        return frozenset(found)

    def _schema(self, rules: list[Rule]) -> bytes:
        """What has to be equal for a later version to take the state over."""
        inputs = [[i.name, i.metric, i.scale, i.fresh_ms] for i in self._inputs]
        params = [[p.name, p.scale, p.low, p.high] for p in self._params]
        windows = [
            [w.name, w.input, w.bucket_ms, w.count, sorted(w.keep)]
            for w in self._windows
        ]
        names = [[one.name, one.latch, one.on_unknown or ""] for one in rules]
        return hashlib.sha256(cbor.encode([inputs, params, windows, names])).digest()


def _input_symbol(index: int, item: Input) -> Symbol:
    metric = BY_NAME[item.metric]
    low, high = 0, len(item.letters) - 1
    if not item.letters:
        low, high = (fixed_point(one, item.scale) for one in (metric.low, metric.high))
    return Symbol(
        ("input", index),
        frozenset({index}),
        item.unit,
        item.scale,
        low,
        high,
        switch=metric.switch,
        letters=item.letters,
        input=index,
    )
