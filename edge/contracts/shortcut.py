"""What nearly every reading needs and no more: one function a contract and its metrics.

Nearly always a reading finds every rule idle and leaves it so. The function that is
written here (how: compiled.py) takes the reading's values and asks just that. It knows
which inputs it has just been given, so nothing asks whether those are UNKNOWN; it asks
of a rule whether it is TRUE, not which of three it is; and it leaves out what cannot
change the answer.

    take(subject, x, at_ms, device) -> bool

    x  the reading's numbers; the machine knows which is at which place

True: all rules were quiet and stay so, and no window begins: there is nothing to do.
False: evaluate, and look at the timers.

A rule stays quiet while it is not TRUE; one with `on_unknown` while it is FALSE.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from edge.contracts.compiled import COMPARE, Writer
from edge.contracts.program import Contract, Tree
from edge.contracts.state import Subject

Known = tuple[int, int]  # an input, and its number's place in x
Take = Callable[[Subject, Sequence[int], int, str], bool]
_OPPOSITE = {"<": ">=", "<=": ">", ">": "<=", ">=": "<", "==": "!=", "!=": "=="}
# Numbers that are written where they are used, if that is only once
_INLINE = ("window", "table", "sum", "max", "min", "if")


def compile_take(contract: Contract, places: Sequence[Known]) -> Take:
    """The function for readings that make these inputs known."""
    return _Shortcut(contract, places).function()


class _Shortcut:
    def __init__(self, contract: Contract, places: Sequence[Known]) -> None:
        self._contract = contract
        self._places = places
        self._writer = Writer(contract, [index for index, _ in places])
        self._uses = _uses(contract)

    def function(self) -> Take:
        lines = self._writer.lines
        lines += ["v = subject.values", "h = subject.held", "a = subject.at_ms"]
        lines += ["b = subject.heard_ms", "d = subject.devices", "w = subject.samples"]
        for index, place in self._places:
            lines.append(f"v[{index}] = h[{index}] = x{index} = x[{place}]")
            lines.append(f"a[{index}] = b[{index}] = at_ms")
            lines.append(f"d[{index}] = device")
        begins = self._windows()
        lines += ["if not subject.quiet:", "    return False"]
        if self._contract.params:
            lines.append("p = subject.params")
        for rule in self._contract.rules:
            tree = rule.when.tree
            quiet = self._is(tree, truth=False) if rule.on_unknown is not None else ""
            louder = f"not ({quiet})" if quiet else self._is(tree, truth=True)
            if louder != "False":
                lines += [f"if {louder}:", "    return False"]
        lines.append(f"return {begins}")
        take: Take = self._writer.function("subject, x, at_ms, device")
        return take

    def _windows(self) -> str:
        """Adds the samples to the windows; the text of whether none begins with it."""
        known = dict(self._places)
        begins = []
        for number, window in enumerate(self._contract.windows):
            if window.input in known:
                bound = self._writer.bind(window)
                call = f"w[{number}].add({bound}, x{window.input}, at_ms)"
                self._writer.lines.append(f"n{number} = {call}")
                begins.append(f"n{number}")
        return f"not ({' or '.join(begins)})" if begins else "True"

    def _is(self, tree: Tree, *, truth: bool) -> str:
        """Whether a truth is TRUE, or FALSE: a text that is True or False itself."""
        writer = self._writer
        match tree:
            case ("truth", value):
                return repr(value is truth)
            case ("not", part):
                return self._is(part, truth=not truth)
            case ("and" | "or" as junction, parts):
                word = "and" if (junction == "and") is truth else "or"
                return f"({f' {word} '.join(self._is(p, truth=truth) for p in parts)})"
            case ("at_least", wanted, parts):
                least = wanted if truth else len(parts) - wanted + 1
                counted = " + ".join(self._is(p, truth=truth) for p in parts)
                return f"({counted} >= {least!r})"
            case ("if", condition, yes, no):
                name = writer.name(condition)
                yes, no = self._is(yes, truth=truth), self._is(no, truth=truth)
                if writer.nullable(condition):
                    return f"({name} is True and {yes} or {name} is False and {no})"
                return f"({yes} if {name} else {no})"
            case ("missing" | "silent" as kind, of):
                text = writer.missing(of) if kind == "missing" else writer.silent(of)
                return f"({text})" if truth else f"(not ({text}))"
            case ("let", _):
                name = writer.name(tree)
                if writer.nullable(tree):
                    return f"({name} is {truth!r})"
                return name if truth else f"(not {name})"
        sign, *sides = tree
        compared = COMPARE[sign if truth else _OPPOSITE[sign]]
        known = [
            f"{writer.name(one)} is not None and "
            for one in sides
            if writer.nullable(one)
        ]
        left, right = map(self._number, sides)
        return f"({''.join(known)}{left} {compared} {right})"

    def _number(self, tree: Tree) -> str:
        once = tree[0] in _INLINE and self._uses[tree] == 1
        if once and not self._writer.nullable(tree):
            return f"({self._writer.text(tree)})"
        return self._writer.name(tree)


def _uses(contract: Contract) -> Counter[Tree]:
    """How often each node is named by the others, and by the rules' `when`."""
    uses: Counter[Tree] = Counter()
    waiting = [rule.when.tree for rule in contract.rules]
    while waiting:
        tree = waiting.pop()
        uses[tree] += 1
        if uses[tree] == 1:
            waiting += _parts(contract, tree)
    return uses


def _parts(contract: Contract, tree: Tree) -> list[Tree]:
    match tree:
        case ("const" | "truth" | "input" | "param" | "silent", _):
            return []
        case ("window", _, _):
            return []
        case ("let", index):
            return [contract.lets[index].program.tree]
        case ("table", index):
            return [contract.tables[index].of]
        case ("sum", terms):
            return [part for _, part in terms]
        case ("missing" | "and" | "or" | "max" | "min", parts):
            return list(parts)
        case ("at_least", _, parts):
            return list(parts)
    return list(tree[1:])
