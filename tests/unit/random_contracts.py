"""Random contracts of every construct, and random lives of a few patients for them.

A contract grows piece by piece; a piece that the language refuses (a comparison that
cannot be true, say) is left out. So what comes out is valid and in no other way tame.
"""

from __future__ import annotations

import random
from decimal import Decimal

from edge.contracts.actions import Action
from edge.contracts.language import load
from edge.contracts.program import Contract
from edge.devices.metrics import BY_NAME
from edge.errors import ConfigurationError

START_MS = 1_767_225_600_000  # 2026-01-01T00:00:00Z
ROLES = ("doctor", "nurse")
PATIENTS, SENSORS = "ab", "12"
Call = tuple[str, tuple[object, ...]]  # a method of an evaluator, and its arguments

# name: (metric, kind, unit, scale). Equal kinds can be compared.
_INPUTS = {
    "sat": ("spo2", "%", "%", 1),
    "fine": ("spo2", "fine", "%", 10),
    "heart": ("heart_rate", "rate", "/min", 1),
    "pulse": ("pulse_rate", "rate", "/min", 1),
    "temp": ("body_temperature", "Cel", "Cel", 10),
    "room": ("ambient_temperature", "Cel", "Cel", 10),
    "o2": ("supplemental_oxygen", "1", "1", 1),
    "mind": ("acvpu", "letter", "letter", 1),
}
# What a metric sends, in its unit: (lowest, highest, exponent), near the literals
# below; another one sends anything plausible.
_VALUES = {
    "spo2": (84, 99, 0),
    "heart_rate": (35, 150, 0),
    "pulse_rate": (35, 150, 0),
    "body_temperature": (355, 402, -1),
    "ambient_temperature": (-40, 420, -1),
    "supplemental_oxygen": (0, 1, 0),
}
_LITERALS = {
    "%": ("86", "90", "92", "95"),
    "fine": ("'89.5'", "'92.4'", "95"),
    "rate": ("50", "90", "110", "130"),
    "Cel": ("'36.5'", "'38.0'", "39", "'0.5'"),
    "1": ("0", "1", "2", "3", "5"),
}
_TIMES = ("2s", "5s", "9s", "10s", "12500ms", "20s", "31s", "45s")
_SIGNS = ("<", "<=", ">", ">=", "==", "!=")


class Author:
    """Writes one contract."""

    def __init__(self, seed: int, name: str) -> None:
        self.chance = random.Random(f"contract {seed} {name}")
        self.subject = self.chance.choice(("patient", "patient", "device"))
        self.head = f'contract = "{name}"\nversion = 1\nengine = "rules/1"\n'
        self.head += f'subject = "{self.subject}"\n'
        self.pieces: dict[str, list[str]] = {
            one: [] for one in ("inputs", "params", "windows", "tables", "let")
        }
        self.rules: list[str] = []
        self.names: list[str] = []  # of the rules
        self.numbers: dict[str, list[str]] = {one: [] for one in _LITERALS}
        self.truths: list[str] = []
        self.inputs: list[str] = []

    def contract(self) -> Contract:
        """One with at least one rule."""
        chance = self.chance
        for name in chance.sample(sorted(_INPUTS), chance.randint(2, 6)):
            self.input(name)
        trial = '[rules.r]\npriority = "low"\nwhen = "false"\n'
        for _ in range(chance.randrange(3)):
            self.param(trial)
        for _ in range(chance.randrange(4)):
            self.window(trial)
        for _ in range(chance.randrange(7)):
            chance.choice((self.table, self.let))(trial)
        while len(self.rules) < chance.choice((1, 3, 6)):
            self.rule()
        return load(self.text(), "random.toml")

    def text(self, more: str = "", **pieces: str) -> str:
        """The file as it stands, with another piece or rule."""
        found = self.head
        for section, lines in self.pieces.items():
            every = [*lines, *([pieces[section]] if section in pieces else [])]
            if every:
                found += f"[{section}]\n" + "\n".join(every) + "\n"
        return found + "".join(self.rules) + more

    def fits(self, more: str = "", **pieces: str) -> bool:
        """Whether the language takes it with that."""
        try:
            load(self.text(more, **pieces), "random.toml")
        except ConfigurationError:
            return False
        return True

    # ---- What stands above the rules ----

    def input(self, name: str) -> None:
        metric, kind, unit, scale = _INPUTS[name]
        fresh = self.chance.choice(_TIMES)
        self.pieces["inputs"].append(
            f'{name} = {{ metric = "{metric}", unit = "{unit}", scale = {scale}, '
            f'fresh = "{fresh}" }}'
        )
        self.inputs.append(name)
        if kind != "letter":
            self.numbers[kind].append(name)

    def param(self, trial: str) -> None:
        chance, name = self.chance, f"p{len(self.pieces['params'])}"
        role = chance.choice(ROLES)
        if chance.random() < 0.5:
            body, kind = "choices = [1, 2]", "1"
            default = chance.choice(("", ', default = "1"'))
        else:
            body, kind = 'unit = "%", min = "80", max = "95"', "%"
            default = chance.choice(("", ', default = "90"'))
        expires = chance.choice(("", ', expires = "40s"', ', expires = "7s"'))
        line = f'{name} = {{ {body}{default}{expires}, set_by = "role:{role}" }}'
        if self.fits(trial, params=line):
            self.pieces["params"].append(line)
            self.numbers[kind].append(name)

    def window(self, trial: str) -> None:
        chance, name = self.chance, f"w{len(self.pieces['windows'])}"
        of = chance.choice(self.inputs)
        kind = _INPUTS[of][1]
        kept = ["sum", "min", "max", "mean", "change", "rate"]
        kept += ["count"] + ["mkt"] * (kind == "Cel")
        bucket_s, count = chance.choice((1, 5, 10)), chance.randint(1, 6)
        filled = chance.randrange(count + 1)
        more = f", filled = {filled}" if filled else ""
        line = (
            f'{name} = {{ of = "{of}", span = "{bucket_s * count}s", '
            f'bucket = "{bucket_s}s", keep = {kept!r}{more} }}'.replace("'", '"')
        )
        if self.fits(trial, windows=line):
            self.pieces["windows"].append(line)
            fields = ["sum", "min", "max", "mean", "change", *kept[7:]]
            self.numbers[kind] += [f"{name}.{one}" for one in fields]
            self.numbers["1"] += [f"{name}.count", f"{name}.filled"]
            self.numbers.setdefault(f"{kind}/h", []).append(f"{name}.rate")

    def table(self, trial: str) -> None:
        chance, name = self.chance, f"t{len(self.pieces['tables'])}"
        kind = chance.choice([one for one in _LITERALS if self.numbers[one]])
        of = chance.choice(self.numbers[kind])
        bounds = [one.replace("'", '"') for one in _LITERALS[kind]]
        bounds = sorted(bounds, key=lambda one: Decimal(one.strip('"')))
        rows = ", ".join(f"[{one}, {chance.randrange(-1, 4)}]" for one in bounds)
        line = f'{name} = {{ of = "{of}", rows = [{rows}, ["*", 3]] }}'
        if self.fits(trial, tables=line):
            self.pieces["tables"].append(line)
            self.numbers["1"].append(f"{name}.pts")

    def let(self, trial: str) -> None:
        chance, name = self.chance, f"l{len(self.pieces['let'])}"
        truth = chance.random() < 0.5
        kind = chance.choice([one for one in _LITERALS if self.numbers[one]])
        source = self.truth(3) if truth else self.number(kind, 3)
        line = f'{name} = "{source}"'
        if self.fits(trial, let=line):
            self.pieces["let"].append(line)
            (self.truths if truth else self.numbers[kind]).append(name)

    # ---- Rules ----

    def rule(self) -> None:
        chance, name = self.chance, f"r{len(self.rules)}"
        text = f'[rules.{name}]\npriority = "{chance.choice(("high", "low"))}"\n'
        text += f'when = "{self.truth(3)}"\n'
        if chance.random() < 0.4:
            text += f'rearm = "{self.truth(2)}"\n'
        for key, chances in (("for", 0.4), ("delay", 0.25)):
            if chance.random() < chances:
                text += f'{key} = "{chance.choice(_TIMES)}"\n'
        if chance.random() < 0.25:
            text += "latch = true\n"
        if chance.random() < 0.25:
            text += f'max_rate = "{chance.randint(1, 2)}/{chance.choice(_TIMES)}"\n'
        if chance.random() < 0.3:
            text += f'on_unknown = "technical:{name}-lost"\n'
        if chance.random() < 0.3:
            text += 'escalate = [{ after = "7s", to = "role:nurse" }, '
            text += '{ after = "20s", to = "role:doctor" }]\n'
        if self.names and chance.random() < 0.4:
            above = chance.sample(self.names, min(2, len(self.names)))
            text += f"inhibited_by = {above!r}\n".replace("'", '"')
        if chance.random() < 0.5:
            every = [
                *self.truths,
                *(one for each in self.numbers.values() for one in each),
            ]
            shown = chance.sample(every, min(3, len(every)))
            text += f"show = {shown!r}\n".replace("'", '"')
        if chance.random() < 0.3 and self.fits(text + "retrospective = true\n"):
            text += "retrospective = true\n"
        if self.fits(text):
            self.rules.append(text)
            self.names.append(name)

    def truth(self, depth: int) -> str:
        chance = self.chance
        kinds = ["compare"] * 5 + ["let"] * bool(self.truths)
        kinds += ["switch"] * ("o2" in self.inputs) + ["letter"] * (
            "mind" in self.inputs
        )
        kinds += ["missing", "silent"]
        if depth:
            kinds += ["and", "or", "and", "or", "not", "at_least", "if", "truth"]
        match chance.choice(kinds):
            case "let":
                return chance.choice(self.truths)
            case "switch":
                return "o2"
            case "letter":
                return f"mind {chance.choice(('==', '!='))} '{chance.choice('ACVPU')}'"
            case "missing":
                every = [*self.inputs, *self.truths]
                every += [one for each in self.numbers.values() for one in each]
                return f"missing({', '.join(chance.sample(every, min(2, len(every))))})"
            case "silent":
                return f"silent({chance.choice(self.inputs)})"
            case "and" | "or" as word:
                parts = [self.truth(depth - 1) for _ in range(chance.randint(2, 3))]
                return f"({f' {word} '.join(parts)})"
            case "not":
                return f"not ({self.truth(depth - 1)})"
            case "at_least":
                parts = [self.truth(depth - 1) for _ in range(chance.randint(2, 4))]
                wanted = chance.randint(1, len(parts))
                return f"at_least({wanted}, {', '.join(parts)})"
            case "if":
                return f"({self.either(depth, [self.truth(depth - 1) for _ in '12'])})"
            case "truth":
                return chance.choice(("true", "false"))
        kind = chance.choice([one for one in self.numbers if self.numbers[one]])
        right = self.number(kind, max(depth - 1, 0))
        if chance.random() < 0.8:
            right = chance.choice(_LITERALS.get(kind, ("-3600", "1800", "9000")))
        left = self.number(kind, max(depth - 1, 0))
        return f"{left} {chance.choice(_SIGNS)} {right}"

    def number(self, kind: str, depth: int) -> str:
        chance = self.chance
        match chance.randrange(8 if depth else 4):
            case 4:
                parts = [self.number(kind, depth - 1) for _ in range(2)]
                return f"({chance.choice(('', '-'))}{parts[0]} - {parts[1]})"
            case 5:
                return f"{chance.randint(0, 3)} * {self.number(kind, 0)}"
            case 6:
                parts = [
                    self.number(kind, depth - 1) for _ in range(chance.randint(1, 3))
                ]
                return f"{chance.choice(('max', 'min'))}({', '.join(parts)})"
            case 7:
                parts = [self.number(kind, depth - 1) for _ in "12"]
                return f"({self.either(depth, parts)})"
        return chance.choice(self.numbers[kind])

    def either(self, depth: int, parts: list[str]) -> str:
        return f"{parts[0]} if {self.truth(depth - 1)} else {parts[1]}"


class Life:
    """A random stream of readings, silences and actions, for these contracts."""

    def __init__(self, seed: int, contracts: list[Contract]) -> None:
        self.chance = random.Random(f"life {seed}")
        self.contracts = contracts
        self.at_ms = START_MS + self.chance.randrange(10_000)
        self.metrics = sorted({i.metric for one in contracts for i in one.inputs})
        self.last: dict[str, Decimal | str] = {}

    def step(self) -> Call:
        """The next call."""
        chance = self.chance
        pauses = (0, 1, 500, 1_000, 3_000, 9_000, 16_000, 47_000)
        [pause_ms] = chance.choices(pauses, (2, 1, 4, 9, 9, 5, 2, 1))
        self.at_ms += pause_ms + chance.choice((0, 0, 0, 0, 1, 500))
        kinds = ("observe", "act", "advance", "late")
        [kind] = chance.choices(kinds, (17, 4, 1, 1))
        if kind == "advance":
            return kind, (self.at_ms,)
        if kind == "act":
            return kind, (self.at_ms, self.action())
        who = chance.choice(PATIENTS)
        values, unknown = self.reading()
        device = f"dev-{who}{chance.choice(SENSORS)}"
        patient = who if chance.random() < 0.95 else None
        if kind == "late":
            return kind, (self.at_ms, device, patient, values, self.at_ms - 90_000)
        return kind, (self.at_ms, device, patient, values, unknown)

    def reading(self) -> tuple[dict[str, Decimal | str], list[str]]:
        """Values and unknown metrics; in any order, often the values of before."""
        chance = self.chance
        values: dict[str, Decimal | str] = {}
        for metric in chance.sample(self.metrics, len(self.metrics)):
            if chance.random() < 0.45:
                continue
            if metric not in self.last or chance.random() < 0.5:
                self.last[metric] = self.value(metric)
            values[metric] = self.last[metric]
        unknown = [one for one in values if chance.random() < 0.06]
        for one in unknown:
            del values[one]
        return values, unknown

    def value(self, metric: str) -> Decimal | str:
        if metric == "acvpu":
            return self.chance.choice("AAAACVPU")
        known = BY_NAME[metric]
        whole = int(known.low), int(known.high), 0
        low, high, exponent = _VALUES.get(metric, whole)
        value = Decimal(self.chance.randint(low, high)).scaleb(exponent)
        if metric == "spo2" and self.chance.random() < 0.3:
            value += Decimal(self.chance.randrange(1, 10)) / 10
        return value

    def action(self) -> Action:
        chance = self.chance
        contract = chance.choice(self.contracts)
        who = chance.choice(PATIENTS)
        subject = f"patient:{who}"
        if contract.subject == "device":
            subject = f"device:dev-{who}{chance.choice(SENSORS)}"
        if contract.params and chance.random() < 0.5:
            param = chance.choice(contract.params)
            value = chance.choice(("1", "2", "85", "88", "95", "99", "1.5"))
            name, role = param.name, chance.choice((param.set_by[5:], *ROLES))
            return Action("set", contract.name, name, subject, "dr", role, 0, value)
        rule = chance.choice(contract.rules)
        name = chance.choice((rule.name, rule.on_unknown or rule.name))
        kind = chance.choice(("acknowledge", "pause", "release"))
        until_ms = self.at_ms + chance.choice((0, 1, 5_000, 30_000))
        until_ms *= kind == "pause"
        return Action(kind, contract.name, name, subject, "n.n.", "nurse", until_ms)


def contracts_of(seed: int) -> list[Contract]:
    """One to three."""
    names = ("m", "a", "z")[: 1 + seed % 3]
    return [Author(seed, name).contract() for name in names]
