"""A contract in plain English, for whoever has to answer for it."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal

from edge.contracts.examples import shown_time
from edge.contracts.program import Contract, Rule, Tree

_COMPARE = {
    "<": "is below",
    "<=": "is at most",
    ">": "is above",
    ">=": "is at least",
    "==": "is",
    "!=": "is not",
}
_FIELDS = {
    "sum": "the sum of {} over {}",
    "min": "the lowest {} of {}",
    "max": "the highest {} of {}",
    "mean": "the mean {} of {}",
    "change": "the change of {} over {}",
    "rate": "the change of {} an hour, over {}",
    "mkt": "the mean kinetic temperature of {} over {}",
    "count": "the number of samples of {} in {}",
    "filled": "the parts of the time with a sample of {}, in {}",
}
_PRIORITY = {
    "high": "a high-priority alarm",
    "medium": "a medium-priority alarm",
    "low": "a low-priority alarm",
    "technical": "a technical alarm",
}


def explain(contract: Contract) -> list[str]:
    """The contract as lines of text."""
    return list(_Teller(contract).lines())


class _Teller:
    def __init__(self, contract: Contract) -> None:
        self._contract = contract

    def lines(self) -> Iterator[str]:
        contract = self._contract
        whom = "each patient" if contract.subject == "patient" else "each device"
        title = f": {contract.title}" if contract.title else ""
        yield f"{contract.name}, version {contract.version}{title}"
        yield f"Watches {whom} by itself."
        for one in contract.inputs:
            unit = "" if one.unit in ("1", "letter") else f" in {one.unit}"
            yield (
                f"- {one.name}{unit} ({one.metric}): after {shown_time(one.fresh_ms)} "
                "without a new sample it is unknown."
            )
        for param in contract.params:
            yield f"- {param.name}: set by the role {param.set_by[5:]}" + (
                ", unknown until then."
                if param.default is None
                else f"; {self._plain(param.default, param.scale)} until then."
            )
        for rule in contract.rules:
            yield ""
            yield from self._rule(rule)

    def _rule(self, rule: Rule) -> Iterator[str]:
        yield f"{rule.name}: {_PRIORITY[rule.priority]}."
        held = ""
        if rule.for_ms:
            held = f", for {shown_time(rule.for_ms)} without a break"
        yield f"  Starts when {self.truth(rule.when.tree)}{held}."
        if rule.delay_ms:
            waits = shown_time(rule.delay_ms)
            yield f"  Then waits {waits}, in case it is over by then."
        over = "when that is no longer so"
        if rule.rearm is not None:
            over = f"when {self.truth(rule.rearm.tree)}"
        if rule.latch:
            yield f"  Is over {over}, and stays until a person releases it."
        else:
            yield f"  Ends {over}."
        if rule.max_rate is not None:
            count, span_ms = rule.max_rate
            yield f"  Starts at most {count} times in {shown_time(span_ms)}."
        for step in rule.escalate:
            yield (
                f"  If nobody acknowledges it for {shown_time(step.after_ms)}, it goes "
                f"to the role {step.to[5:]}."
            )
        if rule.inhibited_by:
            names = [self._contract.rules[one].name for one in rule.inhibited_by]
            yield f"  Is kept back while {' or '.join(names)} is active."
        if rule.on_unknown is not None:
            yield (
                f"  If that cannot be decided for more than "
                f"{shown_time(rule.fresh_ms)}, the technical alarm {rule.on_unknown} "
                "says so."
            )
        if rule.retrospective:
            yield "  A reading that comes late is recorded as a finding."

    # ---- Expressions ----

    def truth(self, tree: Tree) -> str:
        """A condition in words."""
        contract = self._contract
        match tree:
            case ("truth", value):
                return "always" if value else "never"
            case ("let", index):
                one = contract.lets[index]
                return f"{one.name} ({self.truth(one.program.tree)})"
            case ("missing", parts):
                names = " or ".join(self.number(one) for one in parts)
                return f"{names} is unknown"
            case ("silent", index):
                name = contract.inputs[index].name
                return f"nothing comes of {name} any more"
            case ("not", part):
                return f"it is not so that {self.truth(part)}"
            case ("and" | "or" as word, parts):
                told = f" {word} ".join(self.truth(one) for one in parts)
                return f"({told})" if word == "or" else told
            case ("at_least", wanted, parts):
                told = "; ".join(self.truth(one) for one in parts)
                return f"at least {wanted} of these hold: {told}"
            case ("if", condition, yes, no):
                return (
                    f"{self.truth(yes)}, or where not ({self.truth(condition)}): "
                    f"{self.truth(no)}"
                )
        sign, left, right = tree
        scale, unit, letters = (
            self._measure(left) or self._measure(right) or (1, "", "")
        )
        if letters and right[0] == "const":
            return f"{self.number(left)} {_COMPARE[sign]} {letters[right[1]]}"
        if sign == "!=" and right == ("const", 0) and not unit:
            return f"{self.number(left)} is on"
        a, b = self.number(left, scale), self.number(right, scale)
        return f"{a} {_COMPARE[sign]} {b}{unit}"

    def number(self, tree: Tree, scale: int = 1) -> str:
        """A number in words; constants are of this scale."""
        contract = self._contract
        match tree:
            case ("const", value):
                return self._plain(value, scale)
            case ("input", index):
                return contract.inputs[index].name
            case ("param", index):
                return contract.params[index].name
            case ("let", index):
                return contract.lets[index].name
            case ("table", index):
                return f"the points of {contract.tables[index].name}"
            case ("window", index, field):
                window = contract.windows[index]
                span = shown_time(window.count * window.bucket_ms)
                name = contract.inputs[window.input].name
                return _FIELDS[field].format(name, span)
            case ("max" | "min" as word, parts):
                told = ", ".join(self.number(one, scale) for one in parts)
                return f"the {'highest' if word == 'max' else 'lowest'} of {told}"
            case ("if", condition, yes, no):
                return (
                    f"({self.number(yes, scale)} where {self.truth(condition)}, else "
                    f"{self.number(no, scale)})"
                )
        text = ""
        for factor, part in tree[1]:
            times = "" if abs(factor) == 1 else f"{abs(factor)} × "
            sign = " + " if factor > 0 else " - "
            text += f"{sign}{times}{self.number(part, scale)}"
        return text.removeprefix(" + ").strip()

    def _measure(self, tree: Tree) -> tuple[int, str, str] | None:
        """(scale, unit to show, letters) of a number, None where only constants are."""
        contract = self._contract
        match tree:
            case ("input", index):
                one = contract.inputs[index]
                unit = "" if one.unit in ("1", "letter") else f" {one.unit}"
                return one.scale, unit, one.letters
            case ("param", index):
                param = contract.params[index]
                unit = "" if param.unit == "1" else f" {param.unit}"
                return param.scale, unit, ""
            case ("window", index, field):
                if field in ("count", "filled"):
                    return 1, "", ""
                one = contract.inputs[contract.windows[index].input]
                return one.scale, f" {one.unit}", ""
            case ("let", index):
                return self._measure(contract.lets[index].program.tree)
            case ("table", _):
                return 1, "", ""
            case ("sum", terms):
                parts = [one for _, one in terms]
            case ("max" | "min", parts):
                pass
            case ("if", _, *parts):
                pass
            case _:
                return None
        return next(filter(None, map(self._measure, parts)), None)

    @staticmethod
    def _plain(value: int, scale: int) -> str:
        return f"{Decimal(value) / scale:f}"
