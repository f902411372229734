"""From a contract's trees to one Python function that evaluates all of them.

The function is written as source and compiled: a step of a program costs some twenty
nanoseconds that way, a tenth of walking the tree. It is safe, for nothing of the file
gets into the source: names are `t1`, `t2`, ..., operators come from a table in here,
whole numbers are written with repr(int), and all else is bound as an object. There are
no loops and no calls but of the helpers below, so its cost is that of its nodes.

    evaluate(v, p, s, w) -> tuple

    v  values of the inputs, None for UNKNOWN      p  values of the params, likewise
    s  whether each input is silent                w  the windows' Samples

A truth is True, False or None. Each node is computed once, whatever its value: logic
here has no order, so there is nothing to leave out.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from edge.contracts.program import Contract, Rule, Tree
from edge.contracts.windows import Samples

Values = Sequence[int | None]
Evaluate = Callable[
    [Values, Values, Sequence[bool], Sequence[Samples]], tuple[Any, ...]
]
_COMPARE = {"<": "<", "<=": "<=", ">": ">", ">=": ">=", "==": "==", "!=": "!="}


def compile_rules(contract: Contract) -> Evaluate:
    """A function that gives (when, rearm) of every rule, flat; rearm may be None."""
    trees: list[Tree | None] = []
    for rule in contract.rules:
        trees += (rule.when.tree, rule.rearm.tree if rule.rearm else None)
    return _Writer(contract).function(trees)


def compile_shown(contract: Contract, rule: Rule) -> Evaluate:
    """A function that gives the values that stand in the rule's firings."""
    return _Writer(contract).function([one.tree for one in rule.show])


def at_least(wanted: int, truths: Sequence[bool | None]) -> bool | None:
    """Kleene's N-of-M."""
    known = truths.count(True)
    if known >= wanted:
        return True
    return None if known + truths.count(None) >= wanted else False


class _Writer:
    """The lines of one function, and the objects that they name."""

    def __init__(self, contract: Contract) -> None:
        self._contract = contract
        self._lines: list[str] = []
        self._names: dict[Tree, str] = {}
        self._bound: dict[str, object] = {
            "at_least": at_least,
            "bisect_left": bisect_left,
        }

    def function(self, trees: Iterable[Tree | None]) -> Evaluate:
        results = ["None" if one is None else self._name(one) for one in trees]
        tail = "".join(f"{one}, " for one in results)
        body = "".join(f"    {one}\n" for one in self._lines)
        source = f"def evaluate(v, p, s, w):\n{body}    return ({tail})\n"
        exec(compile(source, "<contract>", "exec"), self._bound)  # noqa: S102 - see above
        function: Evaluate = self._bound["evaluate"]  # type: ignore[assignment]
        return function

    def _name(self, tree: Tree) -> str:
        """The variable that holds the node's value, computed where it is not yet."""
        found = self._names.get(tree)
        if found is None:
            text = self._expression(tree)
            found = f"t{len(self._names)}"
            self._lines.append(f"{found} = {text}")
            self._names[tree] = found
        return found

    def _bind(self, value: object) -> str:
        name = f"b{len(self._bound)}"
        self._bound[name] = value
        return name

    def _expression(self, tree: Tree) -> str:  # noqa: PLR0912 - one case a node
        match tree:
            case ("const", int(value)):
                return repr(value)
            case ("truth", bool(value)):
                return repr(value)
            case ("input", int(index)):
                return f"v[{index}]"
            case ("param", int(index)):
                return f"p[{index}]"
            case ("silent", int(index)):
                return f"s[{index}]"
            case ("let", int(index)):
                return self._name(self._contract.lets[index].program.tree)
            case ("window", int(index), field):
                window = self._bind(self._contract.windows[index])
                return f"w[{index}].value({window}, {self._bind(field)})"
            case ("table", int(index)):
                table = self._contract.tables[index]
                of = self._name(table.of)
                bounds, points = self._bind(table.bounds), self._bind(table.points)
                return self._known([of], f"{points}[bisect_left({bounds}, {of})]")
            case ("sum", terms):
                named = [(repr(factor), self._name(part)) for factor, part in terms]
                total = " + ".join(f"{factor} * {name}" for factor, name in named)
                return self._known([name for _, name in named], total)
            case ("max" | "min" as pick, parts):
                names = [self._name(part) for part in parts]
                single = names if len(names) > 1 else names * 2
                return self._known(names, f"{pick}({', '.join(single)})")
            case ("missing", parts):
                return " or ".join(f"{self._name(part)} is None" for part in parts)
            case ("not", part):
                name = self._name(part)
                return self._known([name], f"not {name}")
            case ("and", parts):
                return self._junction(parts, "False", "True")
            case ("or", parts):
                return self._junction(parts, "True", "False")
            case ("at_least", int(wanted), parts):
                listed = ", ".join(self._name(part) for part in parts)
                return f"at_least({wanted}, ({listed},))"
            case ("if", condition, yes, no):
                names = [self._name(part) for part in (condition, yes, no)]
                chosen = f"({names[1]} if {names[0]} else {names[2]})"
                return self._known(names[:1], chosen)
            case (sign, left, right) if sign in _COMPARE:
                names = [self._name(left), self._name(right)]
                return self._known(names, f"{names[0]} {_COMPARE[sign]} {names[1]}")
        raise ValueError(f"no node of a program: {tree[0]!r}")

    def _known(self, names: Sequence[str], text: str) -> str:
        """The text's value where all of these are known."""
        tests = " or ".join(f"{one} is None" for one in dict.fromkeys(names))
        return f"None if {tests} else {text}"

    def _junction(self, parts: Sequence[Tree], deciding: str, other: str) -> str:
        names = [self._name(part) for part in parts]
        decided = " or ".join(f"{one} is {deciding}" for one in names)
        unknown = " or ".join(f"{one} is None" for one in names)
        return f"{deciding} if {decided} else None if {unknown} else {other}"
