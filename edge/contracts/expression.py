"""Expressions: from the text of a `when` to a loop-free integer program.

    or         = and { "or" and }
    and        = not { "and" not }
    not        = "not" not | comparison
    comparison = sum [ ( "<" | "<=" | ">" | ">=" | "==" | "!=" ) sum ]
    sum        = sign term { ( "+" | "-" ) term }        sign = [ "-" ]
    term       = INTEGER | 'DECIMAL' | INPUT | "missing" "(" INPUT ")" | "(" or ")"

    INTEGER    = digits                   in the unit of what it is compared with
    'DECIMAL'  = digits [ "." digits ]    likewise; there are no floats
    INPUT      = lower case letter, then lower case letters, digits, "_"

Logic is Kleene's, of three values: a comparison with an unknown input is UNKNOWN (None
in Python), `false and UNKNOWN` is false, `true or UNKNOWN` is true, everything else
with UNKNOWN in it is UNKNOWN. `missing(x)` is always true or false.

A program is a tree of tuples, so that it can be hashed, compared and walked by another
evaluator. Every number in it is in the fixed point of its comparison:

    ("const", 900)  ("input", 0)  ("sum", ((1, NODE), (-1, NODE)))
    ("<", NODE, NODE) and the other five      ("missing", 0)
    ("and", (NODE, ...))  ("or", (NODE, ...))  ("not", NODE)
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Context, Decimal
from typing import Any, NamedTuple, TypeAlias

LENGTH_MAX = 1_000  # characters of one expression
DEPTH_MAX = 24  # nested parentheses and `not`
NODES_MAX = 200  # of one program; bounds its cost
DIGITS_MAX = 15  # of one literal
VALUE_MAX = 2**40  # of an input or literal in fixed point: 200 of them stay far from
INTEGER_MAX = 2**63 - 1  # the 64 bits that a sum must fit in

Tree: TypeAlias = tuple[Any, ...]
Values: TypeAlias = Sequence[int | None]
Evaluate: TypeAlias = Callable[[Values], bool | None]

# 20 digits of a metric, its exponent of at most 9 either way, and the scale
_DECIMALS = Context(prec=60, rounding=ROUND_HALF_UP)
_COMPARE: dict[str, Callable[[int, int], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "==": operator.eq,
    "!=": operator.ne,
}
_WORDS = frozenset({"and", "or", "not", "missing"})
_TOKEN = re.compile(
    r"[ \t\r\n]*(?:(?P<number>[0-9]+)(?![0-9.A-Za-z_])|'(?P<decimal>[^']*)'"
    r"|(?P<name>[a-z][a-z0-9_]*)(?![A-Za-z])|(?P<sign><=|>=|==|!=|[-<>+()])|(?P<end>\Z))"
)
_DECIMAL = re.compile(r"[0-9]+(\.[0-9]+)?")


class ExpressionError(Exception):
    """An expression that is not one; `at` is the place, counted from 1."""

    def __init__(self, at: int, reason: str) -> None:
        super().__init__(f"{reason} (at character {at + 1})")
        self.at = at + 1


@dataclass(frozen=True, slots=True)
class Operand:
    """What an expression may name: input number `index`, in fixed point.

    `low` and `high` are the plausible range in that fixed point: a value outside is
    UNKNOWN before an expression sees it.
    """

    index: int
    unit: str
    scale: int
    low: int
    high: int


@dataclass(frozen=True, slots=True)
class Program:
    """A checked expression: its tree, the inputs it reads and the most it can cost."""

    source: str
    tree: Tree
    inputs: frozenset[int]
    cost: int


class _Token(NamedTuple):
    kind: str  # number, decimal, name, sign (also for the words), end
    text: str
    at: int


class _Node(NamedTuple):
    """A node of the parsed text; `kind` as in the program, and "literal"."""

    kind: str
    text: str
    parts: tuple[_Node, ...]
    at: int

    @property
    def is_truth(self) -> bool:
        return self.kind not in ("sum", "-", "literal", "input")


def fixed_point(value: Decimal, scale: int) -> int:
    """`value` × `scale`, rounded to the nearest; a half goes away from zero.

    Raises ArithmeticError where that is no number within ±VALUE_MAX.
    """
    scaled = _DECIMALS.multiply(value, Decimal(scale))
    if not -VALUE_MAX <= scaled <= VALUE_MAX:
        raise OverflowError(f"{value} × {scale} is over {VALUE_MAX}")
    return int(scaled.to_integral_value(ROUND_HALF_UP, _DECIMALS))


def compile_expression(source: str, operands: Mapping[str, Operand]) -> Program:
    """The program of `source`; ExpressionError names the first mistake in it.

    Refuses what cannot be meant: unknown inputs, a comparison of different units or
    scales, a decimal finer than the scale, a comparison that no plausible value makes
    true, and anything beyond the limits above.
    """
    if len(source) > LENGTH_MAX:
        raise ExpressionError(0, f"longer than {LENGTH_MAX} characters")
    node = _Parser(_tokens(source)).whole()
    if not node.is_truth:
        raise ExpressionError(node.at, "a number, where a comparison is needed")
    checker = _Checker(operands)
    tree = checker.truth(node)
    return Program(source, tree, frozenset(checker.used), checker.nodes)


def evaluator(tree: Tree) -> Evaluate:
    """A function of the inputs' values that runs the program `tree`."""
    kind = tree[0]
    if kind == "missing":
        index: int = tree[1]
        return lambda values: values[index] is None
    if kind == "not":
        return _negation(evaluator(tree[1]))
    if kind == "and":
        return _junction([evaluator(part) for part in tree[1]], deciding=False)
    if kind == "or":
        return _junction([evaluator(part) for part in tree[1]], deciding=True)
    return _comparison(_COMPARE[kind], tree[1], tree[2])


def _negation(inner: Evaluate) -> Evaluate:
    def negation(values: Values) -> bool | None:
        value = inner(values)
        return None if value is None else not value

    return negation


def _junction(parts: list[Evaluate], deciding: bool) -> Evaluate:
    """`or` where one true decides, `and` where one false does."""

    def junction(values: Values) -> bool | None:
        result: bool | None = not deciding
        for part in parts:
            value = part(values)
            if value is deciding:
                return deciding
            if value is None:
                result = None
        return result

    return junction


def _comparison(
    compare: Callable[[int, int], bool], left: Tree, right: Tree
) -> Evaluate:
    if left[0] == "input" and right[0] == "const":  # nearly all of them
        index: int = left[1]
        limit: int = right[1]

        def compare_input(values: Values) -> bool | None:
            value = values[index]
            return None if value is None else compare(value, limit)

        return compare_input
    left_of, right_of = _number(left), _number(right)

    def compare_sums(values: Values) -> bool | None:
        a, b = left_of(values), right_of(values)
        return None if a is None or b is None else compare(a, b)

    return compare_sums


def _number(tree: Tree) -> Callable[[Values], int | None]:
    if tree[0] == "const":
        constant: int = tree[1]
        return lambda _values: constant
    if tree[0] == "input":
        index: int = tree[1]
        return lambda values: values[index]
    terms = [(sign, _number(part)) for sign, part in tree[1]]

    def total(values: Values) -> int | None:
        result = 0
        for sign, term in terms:
            value = term(values)
            if value is None:
                return None
            result += sign * value
        return result

    return total


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
        if kind == "name" and text in _WORDS:
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
        node = self._or()
        token = self._tokens[self._next]
        if token.text in _COMPARE:
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

    def _need(self, text: str) -> None:
        if self._take(text) is None:
            token = self._tokens[self._next]
            found = repr(token.text) if token.text else "the end"
            raise ExpressionError(token.at, f"{text!r} expected, found {found}")

    def _deeper(self, at: int) -> None:
        self._depth += 1
        if self._depth > DEPTH_MAX:
            raise ExpressionError(at, f"nested more than {DEPTH_MAX} deep")

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
        token = self._take(*_COMPARE)
        if token is None:
            return left
        return _Node(token.text, token.text, (left, self._sum()), token.at)

    def _sum(self) -> _Node:
        sign = self._take("-")
        first = self._term()
        terms = [first if sign is None else _Node("-", "-", (first,), sign.at)]
        while token := self._take("+", "-"):
            term = self._term()
            if token.text == "-":
                term = _Node("-", "-", (term,), token.at)
            terms.append(term)
        if len(terms) == 1 and sign is None:
            return first
        return _Node("sum", "+", tuple(terms), first.at)

    def _term(self) -> _Node:
        token = self._tokens[self._next]
        if token.kind in ("number", "decimal", "name"):
            self._next += 1
            kind = "input" if token.kind == "name" else "literal"
            return _Node(kind, token.text, (), token.at)
        if self._take("missing"):
            return self._missing(token.at)
        if self._take("("):
            self._deeper(token.at)
            inner = self._or()
            self._depth -= 1
            self._need(")")
            return inner
        found = repr(token.text) if token.text else "the end"
        raise ExpressionError(token.at, f"a value or '(' expected, found {found}")

    def _missing(self, at: int) -> _Node:
        self._need("(")
        token = self._tokens[self._next]
        if token.kind != "name":
            raise ExpressionError(token.at, "missing() takes the name of an input")
        self._next += 1
        self._need(")")
        return _Node("missing", token.text, (), at)


class _Checker:
    """From parsed text to the program: names, units, scales, ranges, size."""

    def __init__(self, operands: Mapping[str, Operand]) -> None:
        self._operands = operands
        self.used: set[int] = set()
        self.nodes = 0

    def truth(self, node: _Node) -> Tree:
        self._count(node)
        if not node.is_truth:
            raise ExpressionError(
                node.at, f"{node.text!r} is a number, where a comparison is needed"
            )
        if node.kind == "missing":
            return ("missing", self._operand(node).index)
        if node.kind == "not":
            return ("not", self.truth(node.parts[0]))
        if node.kind in ("and", "or"):
            return (node.kind, tuple(self.truth(part) for part in node.parts))
        return self._comparison(node)

    def _count(self, node: _Node) -> None:
        self.nodes += 1
        if self.nodes > NODES_MAX:
            raise ExpressionError(node.at, f"more than {NODES_MAX} parts")

    def _operand(self, node: _Node) -> Operand:
        operand = self._operands.get(node.text)
        if operand is None:
            known = ", ".join(sorted(self._operands)) or "none"
            raise ExpressionError(
                node.at, f"no input is named {node.text!r} (inputs: {known})"
            )
        self.used.add(operand.index)
        return operand

    def _comparison(self, node: _Node) -> Tree:
        inputs = [self._operand(leaf) for side in node.parts for leaf in _inputs(side)]
        if not inputs:
            raise ExpressionError(node.at, "a comparison needs an input on one side")
        first = inputs[0]
        for other in inputs[1:]:
            if (other.unit, other.scale) != (first.unit, first.scale):
                raise ExpressionError(
                    node.at,
                    f"different units or scales: {first.unit} × {first.scale} and "
                    f"{other.unit} × {other.scale}",
                )
        left, left_range = self._number(node.parts[0], first.scale)
        right, right_range = self._number(node.parts[1], first.scale)
        if not _can_hold(node.kind, left_range, right_range):
            raise ExpressionError(
                node.at, "never true: no plausible value is there (check the unit)"
            )
        return (node.kind, left, right)

    def _number(self, node: _Node, scale: int) -> tuple[Tree, tuple[int, int]]:
        self._count(node)
        if node.kind == "literal":
            value = _literal(node, scale)
            return ("const", value), (value, value)
        if node.kind == "input":
            operand = self._operand(node)
            return ("input", operand.index), (operand.low, operand.high)
        terms: list[tuple[int, Tree]] = []
        low = high = 0
        for part in node.parts:
            negative = part.kind == "-"
            tree, (a, b) = self._number(part.parts[0] if negative else part, scale)
            terms.append((-1 if negative else 1, tree))
            low, high = (low - b, high - a) if negative else (low + a, high + b)
        if low < -INTEGER_MAX - 1 or high > INTEGER_MAX:
            raise ExpressionError(node.at, "may not fit into 64 bits")
        return ("sum", tuple(terms)), (low, high)


def _inputs(node: _Node) -> list[_Node]:
    """The inputs in one side of a comparison, which has to be a number."""
    if node.kind == "input":
        return [node]
    if node.is_truth:
        raise ExpressionError(
            node.at, f"{node.text!r} is true or false, where a number is needed"
        )
    return [leaf for part in node.parts for leaf in _inputs(part)]


def _literal(node: _Node, scale: int) -> int:
    if not _DECIMAL.fullmatch(node.text):
        raise ExpressionError(node.at, f"{node.text!r} is not a decimal like '38.5'")
    if len(node.text) > DIGITS_MAX:
        raise ExpressionError(node.at, f"more than {DIGITS_MAX} digits")
    scaled = Decimal(node.text) * scale
    if scaled != int(scaled):
        raise ExpressionError(
            node.at, f"{node.text} is finer than 1/{scale}, the scale of the input"
        )
    if scaled > VALUE_MAX:
        raise ExpressionError(node.at, f"{node.text} is too large")
    return int(scaled)


def _can_hold(kind: str, left: tuple[int, int], right: tuple[int, int]) -> bool:
    """Whether two numbers of these ranges can compare so."""
    if kind == "==":
        return left[0] <= right[1] and right[0] <= left[1]
    if kind == "!=":
        return not left[0] == left[1] == right[0] == right[1]
    if kind in ("<", "<="):
        return _COMPARE[kind](left[0], right[1])
    return _COMPARE[kind](left[1], right[0])
