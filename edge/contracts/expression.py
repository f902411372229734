"""Expressions: from the text of a `when` or `let` to a loop-free integer program.

    ternary    = or [ "if" or "else" ternary ]
    or         = and { "or" and }
    and        = not { "and" not }
    not        = "not" not | comparison
    comparison = sum [ ( "<" | "<=" | ">" | ">=" | "==" | "!=" ) sum ]
    sum        = [ "-" ] product { ( "+" | "-" ) product }
    product    = term [ "*" term ]                       one of the two an INTEGER
    term       = INTEGER | 'DECIMAL' | 'LETTER' | NAME [ "." FIELD ] | "true" | "false"
               | ( "max" | "min" ) "(" ternary { "," ternary } ")"
               | "missing" "(" name { "," name } ")" | "silent" "(" NAME ")"
               | "at_least" "(" INTEGER { "," ternary } ")" | "(" ternary ")"

    INTEGER    = digits                   in the unit of what it is compared with
    'DECIMAL'  = digits [ "." digits ]    likewise; there are no floats
    NAME       = lower case letter, then lower case letters, digits, "_"
    FIELD      = of a window (`day.mean`), or `pts` of a table

Logic is Kleene's, of three values: a comparison with an unknown input is UNKNOWN (None
in Python), `false and UNKNOWN` is false, `true or UNKNOWN` is true, everything else
with UNKNOWN in it is UNKNOWN. `missing` and `silent` are always true or false.

The tree of a program is described in program.py. Every number in it is in the fixed
point of its unit, and no value that its parts can take leaves the 64 bits.
"""

from __future__ import annotations

import functools
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Context, Decimal
from typing import NamedTuple

from edge.contracts.program import Program, Tree

LENGTH_MAX = 1_000  # characters of one expression
DEPTH_MAX = 24  # nested parentheses, calls, `not` and `if`
NODES_MAX = 200  # of one program; bounds its cost
DIGITS_MAX = 15  # of one literal
VALUE_MAX = 2**40  # of an input or literal in fixed point: 200 of them stay far from
INTEGER_MAX = 2**63 - 1  # the 64 bits that a sum must fit in
PLAIN = ("1", 1)  # unit and scale of points and counts

# 20 digits of a metric, its exponent of at most 9 either way, and the scale
_DECIMALS = Context(prec=60, rounding=ROUND_HALF_UP)
_LOWEST, _HIGHEST = Decimal(-VALUE_MAX), Decimal(VALUE_MAX)
_scale = functools.cache(Decimal)  # there are few of them
COMPARE: dict[str, Callable[[int, int], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "==": operator.eq,
    "!=": operator.ne,
}
WORDS = frozenset(
    {"and", "or", "not", "if", "else", "true", "false"}
    | {"max", "min", "missing", "silent", "at_least"}
)
_CALLS = ("max", "min", "missing", "silent", "at_least")
_TOKEN = re.compile(
    r"[ \t\r\n]*(?:(?P<number>[0-9]+)(?![0-9.A-Za-z_])|'(?P<decimal>[^']*)'"
    r"|(?P<name>[a-z][a-z0-9_]*(?:\.[a-z]+)?)(?![A-Za-z.])"
    r"|(?P<sign><=|>=|==|!=|[-<>+*(),])|(?P<end>\Z))"
)
_DECIMAL = re.compile(r"[0-9]+(\.[0-9]+)?")


class ExpressionError(Exception):
    """An expression that is not one; `at` is the place, counted from 1."""

    def __init__(self, at: int, reason: str) -> None:
        super().__init__(f"{reason} (at character {at + 1})")
        self.at = at + 1


@dataclass(frozen=True, slots=True)
class Symbol:
    """What an expression may name: its tree and, of a number, unit, scale and range.

    `low` and `high` bound the value in that fixed point: of an input they are its
    plausible range, for a value outside is UNKNOWN before an expression sees it.
    `inputs` are those that it depends on. `input` is its index where it is one.
    """

    tree: Tree
    inputs: frozenset[int]
    unit: str = "1"
    scale: int = 1
    low: int = 0
    high: int = 0
    truth: bool = False
    switch: bool = False  # a number that is 0 or 1, and may stand for a truth
    letters: str = ""
    input: int | None = None

    @property
    def measure(self) -> tuple[str, int]:
        """Unit and scale: what must agree."""
        return self.unit, self.scale


@dataclass(frozen=True, slots=True)
class Compiled:
    """A checked expression; unit, scale and range where it is a number."""

    program: Program
    truth: bool
    unit: str = "1"
    scale: int = 1
    low: int = 0
    high: int = 0


class _Token(NamedTuple):
    kind: str  # number, decimal, name, sign (also for the words), end
    text: str
    at: int


class _Node(NamedTuple):
    """A node of the parsed text; `kind` as in the program, and "literal", "name"."""

    kind: str
    text: str
    parts: tuple[_Node, ...]
    at: int


def fixed_point(value: Decimal, scale: int) -> int:
    """`value` × `scale`, rounded to the nearest; a half goes away from zero.

    Raises ArithmeticError where that is no number within ±VALUE_MAX.
    """
    scaled = _DECIMALS.multiply(value, _scale(scale))
    if not _LOWEST <= scaled <= _HIGHEST:
        raise OverflowError(f"{value} × {scale} is over {VALUE_MAX}")
    return int(scaled.to_integral_value(ROUND_HALF_UP, _DECIMALS))


def literal(text: str, scale: int) -> int:
    """A decimal of a contract in fixed point; ValueError says what is wrong with it."""
    if not _DECIMAL.fullmatch(text.removeprefix("-")):
        raise ValueError(f"{text!r} is not a decimal like '38.5'")
    if len(text) > DIGITS_MAX:
        raise ValueError(f"more than {DIGITS_MAX} digits")
    scaled = Decimal(text) * scale
    if scaled != int(scaled):
        raise ValueError(f"{text} is finer than 1/{scale}, the scale of the input")
    if abs(scaled) > VALUE_MAX:
        raise ValueError(f"{text} is too large")
    return int(scaled)


def compile_expression(source: str, symbols: Mapping[str, Symbol]) -> Compiled:
    """What `source` means; ExpressionError names the first mistake in it.

    Refuses what cannot be meant: unknown names, numbers of different units or scales, a
    decimal finer than the scale, a comparison that no plausible value makes true, and
    anything beyond the limits above.
    """
    if len(source) > LENGTH_MAX:
        raise ExpressionError(0, f"longer than {LENGTH_MAX} characters")
    node = _Parser(_tokens(source)).whole()
    checker = _Checker(symbols)
    if checker.is_truth(node):
        tree = checker.truth(node)
        program = Program(source, tree, frozenset(checker.used), checker.nodes)
        return Compiled(program, truth=True)
    unit, scale = checker.measure(node) or PLAIN
    number = checker.number(node, scale)
    program = Program(source, number.tree, frozenset(checker.used), checker.nodes)
    return Compiled(program, False, unit, scale, number.low, number.high)


def _tokens(source: str) -> list[_Token]:
    tokens: list[_Token] = []
    at = 0
    while True:
        match = _TOKEN.match(source, at)
        if match is None:
            raise ExpressionError(*_bad_token(source, at))
        kind = str(match.lastgroup)
        text = match.group(kind)
        start = match.start(kind)
        if kind == "name" and text in WORDS:
            kind = "sign"
        tokens.append(_Token(kind, text, start))
        if kind == "end":
            return tokens
        at = match.end()


def _bad_token(source: str, at: int) -> tuple[int, str]:
    while source[at] in " \t\r\n":
        at += 1
    if re.compile(r"[0-9]*\.").match(source, at):
        return at, "a decimal stands in single quotes, like '38.5'"
    if source[at] == "'":
        return at, "the quote is never closed"
    if source[at] == "=":
        return at, "equality is ==, and inequality !="
    return at, f"what is {source[at]!r}? names are lower case letters, digits and _"


class _Parser:
    """Recursive descent, one method for each line of the grammar."""

    def __init__(self, tokens: list[_Token]) -> None:
        self._tokens = tokens
        self._next = 0
        self._depth = 0

    def whole(self) -> _Node:
        node = self._ternary()
        token = self._tokens[self._next]
        if token.text in COMPARE:
            raise ExpressionError(
                token.at, "comparisons cannot be chained: join two with `and`"
            )
        if token.kind != "end":
            raise ExpressionError(token.at, f"{token.text!r} is not expected here")
        return node

    def _take(self, *texts: str) -> _Token | None:
        token = self._tokens[self._next]
        if token.kind != "sign" or token.text not in texts:
            return None
        self._next += 1
        return token

    def _unexpected(self, wanted: str) -> ExpressionError:
        token = self._tokens[self._next]
        found = repr(token.text) if token.text else "the end"
        return ExpressionError(token.at, f"{wanted} expected, found {found}")

    def _need(self, text: str) -> None:
        if self._take(text) is None:
            raise self._unexpected(repr(text))

    def _deeper(self, at: int) -> None:
        self._depth += 1
        if self._depth > DEPTH_MAX:
            raise ExpressionError(at, f"nested more than {DEPTH_MAX} deep")

    def _ternary(self) -> _Node:
        first = self._or()
        token = self._take("if")
        if token is None:
            return first
        self._deeper(token.at)
        condition = self._or()
        self._need("else")
        other = self._ternary()
        self._depth -= 1
        return _Node("if", "if", (condition, first, other), first.at)

    def _or(self) -> _Node:
        return self._chain("or", self._and)

    def _and(self) -> _Node:
        return self._chain("and", self._not)

    def _chain(self, word: str, part: Callable[[], _Node]) -> _Node:
        first = part()
        parts = [first]
        while self._take(word):
            parts.append(part())
        if len(parts) == 1:
            return first
        return _Node(word, word, tuple(parts), first.at)

    def _not(self) -> _Node:
        token = self._take("not")
        if token is None:
            return self._comparison()
        self._deeper(token.at)
        inner = self._not()
        self._depth -= 1
        return _Node("not", "not", (inner,), token.at)

    def _comparison(self) -> _Node:
        left = self._sum()
        token = self._take(*COMPARE)
        if token is None:
            return left
        return _Node(token.text, token.text, (left, self._sum()), token.at)

    def _sum(self) -> _Node:
        sign = self._take("-")
        first = self._product()
        terms = [first if sign is None else _Node("-", "-", (first,), sign.at)]
        while token := self._take("+", "-"):
            term = self._product()
            if token.text == "-":
                term = _Node("-", "-", (term,), token.at)
            terms.append(term)
        if len(terms) == 1 and sign is None:
            return first
        return _Node("sum", "+", tuple(terms), first.at)

    def _product(self) -> _Node:
        first = self._term()
        token = self._take("*")
        if token is None:
            return first
        second = self._term()
        for factor, other in ((first, second), (second, first)):
            if factor.kind == "literal" and factor.text.isdecimal():
                return _Node("times", factor.text, (other,), token.at)
        raise ExpressionError(token.at, "* needs a whole number on one side")

    def _term(self) -> _Node:
        token = self._tokens[self._next]
        if token.kind in ("number", "decimal", "name"):
            self._next += 1
            kind = "name" if token.kind == "name" else "literal"
            return _Node(kind, token.text, (), token.at)
        if self._take("true", "false"):
            return _Node("truth", token.text, (), token.at)
        if self._take(*_CALLS):
            return self._call(token)
        if self._take("("):
            self._deeper(token.at)
            inner = self._ternary()
            self._depth -= 1
            self._need(")")
            return inner
        raise self._unexpected("a value or '('")

    def _call(self, token: _Token) -> _Node:
        self._need("(")
        self._deeper(token.at)
        named = token.text in ("missing", "silent")
        parts = [self._name() if named else self._ternary()]
        while self._take(","):
            parts.append(self._name() if named else self._ternary())
        self._depth -= 1
        self._need(")")
        return _Node(token.text, token.text, tuple(parts), token.at)

    def _name(self) -> _Node:
        token = self._tokens[self._next]
        if token.kind != "name":
            raise self._unexpected("a name")
        self._next += 1
        return _Node("name", token.text, (), token.at)


class _Number(NamedTuple):
    tree: Tree
    low: int
    high: int


class _Checker:
    """From parsed text to the program: names, units, scales, ranges, size."""

    def __init__(self, symbols: Mapping[str, Symbol]) -> None:
        self._symbols = symbols
        self.used: set[int] = set()
        self.nodes = 0

    def is_truth(self, node: _Node) -> bool:
        """Whether the node can only be a truth."""
        if node.kind == "name":
            return self._symbol(node).truth
        if node.kind == "if":
            return self.is_truth(node.parts[1]) or self.is_truth(node.parts[2])
        numbers = ("literal", "sum", "-", "times", "max", "min")
        return node.kind not in numbers

    # ---- Truths ----

    def truth(self, node: _Node) -> Tree:
        """The program of a truth."""
        self._count(node)
        match node.kind:
            case "truth":
                return ("truth", node.text == "true")
            case "name":
                return self._named_truth(node)
            case "not":
                return ("not", self.truth(node.parts[0]))
            case "and" | "or":
                return (node.kind, tuple(self.truth(part) for part in node.parts))
            case "if":
                return ("if", *(self.truth(part) for part in node.parts))
            case "missing":
                return ("missing", tuple(self._use(one).tree for one in node.parts))
            case "silent":
                return self._silent(node)
            case "at_least":
                return self._at_least(node)
            case kind if kind in COMPARE:
                return self._comparison(node)
        raise ExpressionError(
            node.at, f"{node.text!r} is a number, where a comparison is needed"
        )

    def _named_truth(self, node: _Node) -> Tree:
        symbol = self._use(node)
        if symbol.truth:
            return symbol.tree
        if symbol.switch:
            return ("!=", symbol.tree, ("const", 0))
        raise ExpressionError(
            node.at, f"{node.text!r} is a number, where a comparison is needed"
        )

    def _silent(self, node: _Node) -> Tree:
        first, *more = node.parts
        symbol = self._use(first)
        if more or symbol.input is None:
            raise ExpressionError(node.at, "silent() takes the name of one input")
        return ("silent", symbol.input)

    def _at_least(self, node: _Node) -> Tree:
        wanted, *parts = node.parts
        if wanted.kind != "literal" or not wanted.text.isdecimal():
            raise ExpressionError(wanted.at, "at_least() begins with a whole number")
        if not 1 <= len(wanted.text) <= 3 or not 1 <= int(wanted.text) <= len(parts):
            raise ExpressionError(wanted.at, f"of {len(parts)} conditions, 1 to all")
        truths = tuple(self.truth(part) for part in parts)
        return ("at_least", int(wanted.text), truths)

    def _comparison(self, node: _Node) -> Tree:
        for part in node.parts:
            if self.is_truth(part):
                raise ExpressionError(
                    part.at,
                    f"{part.text!r} is true or false, where a number is needed",
                )
        letters = [one for one in node.parts if self._letters_of(one)]
        if letters:
            return self._letter(node, letters[0])
        measure = self._agreed(node, node.parts)
        if measure is None:
            raise ExpressionError(node.at, "a comparison needs an input on one side")
        left, right = (self.number(part, measure[1]) for part in node.parts)
        if not _can_hold(node.kind, left, right):
            raise ExpressionError(
                node.at, "never true: no plausible value is there (check the unit)"
            )
        return (node.kind, left.tree, right.tree)

    def _letters_of(self, node: _Node) -> str:
        return self._symbol(node).letters if node.kind == "name" else ""

    def _letter(self, node: _Node, named: _Node) -> Tree:
        """A letter compared with one of its kind."""
        letters = self._letters_of(named)
        [other] = [one for one in node.parts if one is not named] or [named]
        if node.kind not in ("==", "!=") or other.kind != "literal":
            raise ExpressionError(
                node.at, f"{named.text!r} is a letter: == or != and one, like 'A'"
            )
        if len(other.text) != 1 or other.text not in letters:
            raise ExpressionError(other.at, f"not one of the letters {letters}")
        tree = self._use(named).tree
        return (node.kind, tree, ("const", letters.index(other.text)))

    # ---- Numbers ----

    def measure(self, node: _Node) -> tuple[str, int] | None:
        """Unit and scale of a number, None where it has only literals in it."""
        if node.kind == "literal":
            return None
        if node.kind == "name":
            symbol = self._symbol(node)
            if symbol.letters:
                raise ExpressionError(node.at, f"{node.text!r} is a letter, no number")
            return symbol.measure
        parts = node.parts[1:] if node.kind == "if" else node.parts
        return self._agreed(node, parts)

    def _agreed(self, node: _Node, parts: Sequence[_Node]) -> tuple[str, int] | None:
        found: tuple[str, int] | None = None
        for part in parts:
            if self.is_truth(part):
                raise ExpressionError(
                    part.at,
                    f"{part.text!r} is true or false, where a number is needed",
                )
            other = self.measure(part)
            if found is not None and other is not None and found != other:
                raise ExpressionError(
                    node.at,
                    f"different units or scales: {found[0]} × {found[1]} and "
                    f"{other[0]} × {other[1]}",
                )
            found = found or other
        return found

    def number(self, node: _Node, scale: int) -> _Number:
        """The program of a number whose literals are of this scale, and its range."""
        self._count(node)
        match node.kind:
            case "literal":
                try:
                    value = literal(node.text, scale)
                except ValueError as error:
                    raise ExpressionError(node.at, str(error)) from None
                return _Number(("const", value), value, value)
            case "name":
                symbol = self._use(node)
                return _Number(symbol.tree, symbol.low, symbol.high)
            case "sum" | "-" | "times":
                return self._total(node, scale)
            case "if":
                condition = self.truth(node.parts[0])
                yes, no = (self.number(part, scale) for part in node.parts[1:])
                tree = ("if", condition, yes.tree, no.tree)
                return _Number(tree, min(yes.low, no.low), max(yes.high, no.high))
        pick = max if node.kind == "max" else min
        parts = [self.number(part, scale) for part in node.parts]
        low, high = pick(one.low for one in parts), pick(one.high for one in parts)
        return _Number((node.kind, tuple(one.tree for one in parts)), low, high)

    def _total(self, node: _Node, scale: int) -> _Number:
        """A sum; the terms of sums in it become its own."""
        terms: list[tuple[int, Tree]] = []
        low = high = 0
        for factor, part in _terms(node):
            number = self.number(part, scale)
            ends = (factor * number.low, factor * number.high)
            low, high = low + min(ends), high + max(ends)
            terms.append((factor, number.tree))
            if max(map(abs, (low, high, *ends))) > INTEGER_MAX:
                raise ExpressionError(node.at, "may not fit into 64 bits")
        return _Number(("sum", tuple(terms)), low, high)

    # ---- Small parts ----

    def _count(self, node: _Node) -> None:
        self.nodes += 1
        if self.nodes > NODES_MAX:
            raise ExpressionError(node.at, f"more than {NODES_MAX} parts")

    def _symbol(self, node: _Node) -> Symbol:
        symbol = self._symbols.get(node.text)
        if symbol is None:
            known = ", ".join(sorted(self._symbols)) or "none"
            raise ExpressionError(
                node.at, f"nothing is named {node.text!r} (known here: {known})"
            )
        return symbol

    def _use(self, node: _Node) -> Symbol:
        symbol = self._symbol(node)
        self.used |= symbol.inputs
        return symbol


def _terms(node: _Node) -> list[tuple[int, _Node]]:
    """(factor, part) of a sum, a negation or a product with a whole number."""
    if node.kind == "sum":
        return [pair for part in node.parts for pair in _signed(part)]
    return _signed(node)


def _signed(node: _Node) -> list[tuple[int, _Node]]:
    if node.kind == "-":
        return [(-factor, part) for factor, part in _signed(node.parts[0])]
    if node.kind == "times":
        if len(node.text) > DIGITS_MAX:
            raise ExpressionError(node.at, f"more than {DIGITS_MAX} digits")
        return [(int(node.text), node.parts[0])]
    return [(1, node)]


def _can_hold(kind: str, left: _Number, right: _Number) -> bool:
    """Whether two numbers of these ranges can compare so."""
    if kind == "==":
        return left.low <= right.high and right.low <= left.high
    if kind == "!=":
        return not left.low == left.high == right.low == right.high
    if kind in ("<", "<="):
        return COMPARE[kind](left.low, right.high)
    return COMPARE[kind](left.high, right.low)
