"""From a contract's trees to one Python function that evaluates all of them.

The function is written as source and compiled: a step of a program costs some twenty
nanoseconds that way, a tenth of walking the tree. It is safe, for nothing of the file
gets into the source: names are `t1`, `t2`, ..., operators come from a table in here,
whole numbers are written with repr(int), and all else is bound as an object. There are
no loops and no calls but of the functions below, so its cost is that of its nodes.

    evaluate(v, p, b, w, at_ms) -> tuple

    v  values of the inputs, None for UNKNOWN      p  values of the params, likewise
    b  when each input was last heard of, or -1    w  the windows' Samples

A truth is True, False or None. Each node is computed once, whatever its value: logic
here has no order, so there is nothing to leave out. Where a node cannot be UNKNOWN,
because all that it reads is known, nothing asks whether it is.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any

from edge.contracts.program import Contract, Rule, Tree
from edge.contracts.windows import Samples, nearest, reader

Values = Sequence[int | None]
Evaluate = Callable[
    [Values, Values, Sequence[int], Sequence[Samples], int], tuple[Any, ...]
]
COMPARE = {"<": "<", "<=": "<=", ">": ">", ">=": ">=", "==": "==", "!=": "!="}


def compile_rules(contract: Contract) -> Evaluate:
    """A function that gives (when, rearm) of every rule, flat; rearm may be None."""
    trees: list[Tree | None] = []
    for rule in contract.rules:
        trees += (rule.when.tree, rule.rearm.tree if rule.rearm else None)
    return _evaluate(contract, trees)


def compile_shown(contract: Contract, rule: Rule) -> Evaluate:
    """A function that gives the values that stand in the rule's firings."""
    return _evaluate(contract, [one.tree for one in rule.show])


def _evaluate(contract: Contract, trees: Iterable[Tree | None]) -> Evaluate:
    writer = Writer(contract)
    results = ["None" if one is None else writer.name(one) for one in trees]
    writer.lines.append(f"return ({''.join(f'{one}, ' for one in results)})")
    function: Evaluate = writer.function("v, p, b, w, at_ms")
    return function


def at_least(wanted: int, truths: Sequence[bool | None]) -> bool | None:
    """Kleene's N-of-M."""
    known = truths.count(True)
    if known >= wanted:
        return True
    return None if known + truths.count(None) >= wanted else False


def compile_function(
    arguments: str, lines: Iterable[str], bound: dict[str, object]
) -> Any:
    """The function of these arguments and lines, in which `bound` are names."""
    body = "".join(f"    {one}\n" for one in lines)
    source = f"def function({arguments}):\n{body}"
    exec(compile(source, "<contract>", "exec"), bound)  # noqa: S102 - see above
    return bound["function"]


class Writer:
    """The lines of one function, and the objects that they name.

    The inputs `known` are in the variables `x0`, `x1`, ... and never UNKNOWN.
    """

    def __init__(self, contract: Contract, known: Collection[int] = ()) -> None:
        self.lines: list[str] = []
        self._contract = contract
        self._known = frozenset(known)
        self._names: dict[Tree, str] = {("input", one): f"x{one}" for one in known}
        self._nullable: dict[Tree, bool] = {}
        self._bound: dict[str, object] = {
            "at_least": at_least,
            "bisect_left": bisect_left,
            "nearest": nearest,
        }

    def function(self, arguments: str) -> Any:
        """The function of these arguments that the lines make."""
        return compile_function(arguments, self.lines, self._bound)

    def bind(self, value: object) -> str:
        """A name for an object."""
        name = f"b{len(self._bound)}"
        self._bound[name] = value
        return name

    def name(self, tree: Tree) -> str:
        """The variable that holds the node's value, computed where it is not yet."""
        if tree[0] == "const":
            return self.text(tree)
        found = self._names.get(tree)
        if found is None:
            text = self.text(tree)
            found = f"t{len(self._names)}"
            self.lines.append(f"{found} = {text}")
            self._names[tree] = found
        return found

    def nullable(self, tree: Tree) -> bool:
        """Whether the node can be UNKNOWN."""
        found = self._nullable.get(tree)
        if found is None:
            found = self._nullable[tree] = self._may_be_unknown(tree)
        return found

    def _may_be_unknown(self, tree: Tree) -> bool:
        contract = self._contract
        match tree:
            case ("const" | "truth" | "silent" | "missing", _):
                return False
            case ("input", int(index)):
                return index not in self._known
            case ("param", int(index)):
                return contract.params[index].default is None
            case ("let", int(index)):
                return self.nullable(contract.lets[index].program.tree)
            case ("table", int(index)):
                return self.nullable(contract.tables[index].of)
            case ("window", int(index), field):
                window = contract.windows[index]
                surely = window.filled <= 1 and window.input in self._known
                return field == "rate" or not (surely or field in ("count", "filled"))
            case ("sum", terms):
                return any(self.nullable(part) for _, part in terms)
            case ("not", part):
                return self.nullable(part)
            case ("max" | "min" | "and" | "or", parts) | ("at_least", _, parts):
                return any(self.nullable(part) for part in parts)
        return any(self.nullable(part) for part in tree[1:])  # if, a comparison

    def text(self, tree: Tree) -> str:  # noqa: PLR0912 - one case a node
        """What the node's value is, as an expression over variables."""
        match tree:
            case ("const", int(value)):
                return repr(value) if value >= 0 else f"({value!r})"
            case ("truth", bool(value)):
                return repr(value)
            case ("input", int(index)):
                return f"v[{index}]"
            case ("param", int(index)):
                return f"p[{index}]"
            case ("silent", int(index)):
                return self.silent(index)
            case ("let", int(index)):
                return self.name(self._contract.lets[index].program.tree)
            case ("window", int(index), field):
                return self._field(index, field)
            case ("table", int(index)):
                table = self._contract.tables[index]
                bounds, points = self.bind(table.bounds), self.bind(table.points)
                of = self.name(table.of)
                return self._of([table.of], f"{points}[bisect_left({bounds}, {of})]")
            case ("sum", terms):
                total = " + ".join(
                    _term(factor, self.name(one)) for factor, one in terms
                )
                return self._of([part for _, part in terms], total)
            case ("max" | "min" as pick, parts):
                names = [self.name(part) for part in parts]
                single = names if len(names) > 1 else names * 2
                return self._of(parts, f"{pick}({', '.join(single)})")
            case ("missing", parts):
                return self.missing(parts)
            case ("not", part):
                return self._of([part], f"not {self.name(part)}")
            case ("and" | "or" as junction, parts):
                return self._junction(junction, parts)
            case ("at_least", int(wanted), parts):
                listed = ", ".join(self.name(part) for part in parts)
                return f"at_least({wanted}, ({listed},))"
            case ("if", condition, yes, no):
                names = [self.name(part) for part in (condition, yes, no)]
                chosen = f"({names[1]} if {names[0]} else {names[2]})"
                return self._of([condition], chosen)
            case (sign, left, right) if sign in COMPARE:
                compared = f"{self.name(left)} {COMPARE[sign]} {self.name(right)}"
                return self._of([left, right], compared)
        raise ValueError(f"no node of a program: {tree[0]!r}")

    def _field(self, index: int, field: str) -> str:
        known = not self.nullable(("window", index, field))
        if field == "filled":
            return f"len(w[{index}].buckets)"
        if field == "count" or (field == "sum" and known):
            return f"w[{index}].{'total' if field == 'sum' else 'count'}"
        if field == "mean" and known:
            return f"nearest(w[{index}].total, w[{index}].count)"
        read, window = self.bind(reader(field)), self._contract.windows[index]
        return f"{read}(w[{index}], {self.bind(window)})"

    def silent(self, index: int) -> str:
        """Whether an input was heard of and not within its freshness."""
        if index in self._known:
            return "False"
        return f"0 <= b[{index}] < at_ms - {self._contract.inputs[index].fresh_ms!r}"

    def missing(self, parts: Sequence[Tree]) -> str:
        """Whether one of these is UNKNOWN."""
        names = [self.name(part) for part in parts if self.nullable(part)]
        return " or ".join(f"{one} is None" for one in names) or "False"

    def _of(self, parts: Sequence[Tree], text: str) -> str:
        """The text's value where all of these are known."""
        return (
            f"None if {self.missing(parts)} else {text}"
            if any(map(self.nullable, parts))
            else text
        )

    def _junction(self, junction: str, parts: Sequence[Tree]) -> str:
        names = [self.name(part) for part in parts]
        if not any(map(self.nullable, parts)):
            return f" {junction} ".join(names)
        deciding, other = ("False", "True") if junction == "and" else ("True", "False")
        decided = " or ".join(f"{one} is {deciding}" for one in names)
        return (
            f"{deciding} if {decided} else None if {self.missing(parts)} else {other}"
        )


def _term(factor: int, name: str) -> str:
    return name if factor == 1 else f"{factor!r} * {name}"
