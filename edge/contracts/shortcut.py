"""What nearly every reading needs and no more: short functions for one contract.

Nearly always a reading finds every rule idle and leaves it so. The functions that are
written here (how: compiled.py) ask just that. They ask of a rule whether it is TRUE,
not which of three it is, and leave out what cannot change the answer.

    take(subject, x, at_ms, device) -> int

takes a reading's numbers `x` (the machine knows which is at which place). It knows
which inputs these are, so nothing asks whether they are UNKNOWN. What is to be done
then: EVALUATE, unless all rules were quiet and stay so; WAKE, if a window begins.

    look(subject, at_ms) -> bool

whether all rules are quiet, at another time. False does not say that they are not.

    due(subject, after_ms) -> int

when the subject next changes with no reading; NEVER if it does not. What fell due at or
before `after_ms` has been looked at and is not due.

A rule stays quiet while it is not TRUE; one with `on_unknown` while it is FALSE.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from edge.contracts.compiled import COMPARE, Writer, compile_function
from edge.contracts.program import Contract, Tree, parts_of
from edge.contracts.state import NEVER, Subject, rules_due_ms

Known = tuple[int, int]  # an input, and its number's place in x
Take = Callable[[Subject, Sequence[int], int, str], int]
WAKE, EVALUATE = 1, 2  # bits of what is to be done
Look = Callable[[Subject, int], bool]
Due = Callable[[Subject, int], int]
_OPPOSITE = {"<": ">=", "<=": ">", ">": "<=", ">=": "<", "==": "!=", "!=": "=="}
# Numbers that are written where they are used, if that is only once
_INLINE = ("window", "table", "sum", "max", "min", "if")


def compile_take(contract: Contract, places: Sequence[Known]) -> Take:
    """The `take` for readings that make these inputs known."""
    return _Shortcut(contract, places).take()


def compile_look(contract: Contract) -> Look:
    """The `look` of a contract."""
    return _Shortcut(contract, ()).look()


def compile_due(contract: Contract) -> Due:
    """The `due` of a contract; its rules are asked only where not all is quiet."""
    lines = [f"due_ms = {NEVER}", "a, b = subject.at_ms, subject.heard_ms"]
    for index, item in enumerate(contract.inputs):
        lines.append(f"t = a[{index}] + {item.fresh_ms + 1}")
        lines.append(f"if t < due_ms and a[{index}] >= 0: due_ms = t")
    for index in sorted(contract.silents):
        lines.append(f"t = b[{index}] + {contract.inputs[index].fresh_ms + 1}")
        lines.append(f"if after_ms < t < due_ms and b[{index}] >= 0: due_ms = t")
    for index, param in enumerate(contract.params):
        if param.expires_ms:
            lines.append(f"t = subject.set_ms[{index}]")
            lines.append(f"if 0 <= t < due_ms - {param.expires_ms}:")
            lines.append(f"    due_ms = t + {param.expires_ms}")
    for index, window in enumerate(contract.windows):
        lines.append(f"w = subject.samples[{index}].buckets")
        lines.append("if w:")
        lines.append(f"    t = (w[0].number + {window.count}) * {window.bucket_ms}")
        lines.append("    if t < due_ms: due_ms = t")
    lines.append("if subject.quiet: return due_ms")
    lines.append("return min(due_ms, rules_due_ms(subject, contract, after_ms))")
    bound = {"contract": contract, "rules_due_ms": rules_due_ms}
    due: Due = compile_function("subject, after_ms", lines, bound)
    return due


class _Shortcut:
    def __init__(self, contract: Contract, places: Sequence[Known]) -> None:
        self._contract = contract
        self._places = places
        self._writer = Writer(contract, [index for index, _ in places])
        self._uses = _uses(contract)

    def take(self) -> Take:
        lines = self._writer.lines
        lines += ["v, h, a = subject.values, subject.held, subject.at_ms"]
        lines += ["b, d, w = subject.heard_ms, subject.devices, subject.samples"]
        for index, place in self._places:
            lines.append(f"v[{index}] = h[{index}] = x{index} = x[{place}]")
            lines.append(f"a[{index}] = b[{index}] = at_ms")
            lines.append(f"d[{index}] = device")
        begins = self._windows()
        self._rules(f"{EVALUATE} + ({begins})")
        lines.append(f"return {begins}")
        take: Take = self._writer.function("subject, x, at_ms, device")
        return take

    def look(self) -> Look:
        lines = self._writer.lines
        lines += ["v, b, w = subject.values, subject.heard_ms, subject.samples"]
        self._rules("False")
        lines.append("return True")
        look: Look = self._writer.function("subject, at_ms")
        return look

    def _rules(self, otherwise: str) -> None:
        """Returns that, unless all are quiet."""
        lines = self._writer.lines
        lines.append(f"if not subject.quiet: return {otherwise}")
        if self._contract.params:
            lines.append("p = subject.params")
        for rule in self._contract.rules:
            tree = rule.when.tree
            if rule.on_unknown is None:
                loud = self._is(tree, truth=True)
            else:
                loud = f"not {self._is(tree, truth=False)}"
            lines.append(f"if {loud}: return {otherwise}")

    def _windows(self) -> str:
        """Adds the samples to the windows; the text of WAKE if one begins with it."""
        known = dict(self._places)
        begins = []
        for number, window in enumerate(self._contract.windows):
            if window.input in known:
                bound = self._writer.bind(window)
                call = f"w[{number}].add({bound}, x{window.input}, at_ms)"
                self._writer.lines.append(f"n{number} = {call}")
                begins.append(f"n{number}")
        return " or ".join(begins) or "0"

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
    if tree[0] == "let":
        return [contract.lets[tree[1]].program.tree]
    if tree[0] == "table":
        return [contract.tables[tree[1]].of]
    return parts_of(tree)
