"""What a contract file may say, and how its mistakes are reported."""

from __future__ import annotations

import hashlib
import re
import tomllib
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge import config
from edge.contracts import expression, language
from edge.contracts.examples import read_examples, run
from edge.contracts.language import load, load_directory
from edge.contracts.program import Contract
from edge.contracts.toml_text import key_lines
from edge.devices.metrics import METRICS
from edge.errors import ConfigurationError

ROOT = Path(__file__).resolve().parents[2]
LIBRARY = sorted((ROOT / "edge" / "contracts" / "library").glob("*.toml"))
REFERENCE = ROOT / "docs" / "contracts.md"

GOOD = """\
# a comment = "that looks like a key"
contract = "spo2-low"
version  = 1
engine   = "rules/1"
subject  = "patient"
[inputs]
spo2 = { unit = "%", scale = 10, fresh = "10s" }
heart = { metric = "heart_rate", unit = "/min", fresh = "5m" }

[rules.low]
priority   = "high"
when       = "spo2 < '89.5' and not missing(heart)"
for        = "15s"
rearm      = "spo2 >= 92"
on_unknown = "technical:spo2-lost"
"""


def problems(text: str) -> list[str]:
    with pytest.raises(ConfigurationError) as caught:
        load(text, "spo2.toml")
    return caught.value.problems


def changed(old: str, new: str) -> str:
    assert old in GOOD
    return GOOD.replace(old, new)


def when(text: str) -> str:
    return changed("spo2 < '89.5' and not missing(heart)", text)


def test_a_contract_is_what_its_file_says() -> None:
    """Every field, defaults among them."""
    contract = load(GOOD, "spo2.toml")
    assert contract.name == "spo2-low"
    assert contract.version == 1
    assert contract.subject == "patient"
    assert contract.hash == hashlib.sha256(GOOD.encode()).digest()
    spo2, heart = contract.inputs
    assert (spo2.name, spo2.metric, spo2.unit) == ("spo2", "spo2", "%")
    assert (spo2.scale, spo2.fresh_ms) == (10, 10_000)
    assert (heart.metric, heart.scale, heart.fresh_ms) == ("heart_rate", 1, 300_000)
    (low,) = contract.rules
    assert (low.name, low.priority, low.for_ms) == ("low", "high", 15_000)
    assert low.on_unknown == "spo2-lost"
    assert low.inputs == (0, 1)
    assert low.fresh_ms == 300_000, "the longest of the inputs that `when` names"
    assert low.when.tree == (
        "and",
        (("<", ("input", 0), ("const", 895)), ("not", ("missing", (("input", 1),)))),
    )
    assert low.rearm is not None
    assert low.rearm.tree == (">=", ("input", 0), ("const", 920))


def test_the_cost_is_known_before_a_contract_runs() -> None:
    """1 + 2 inputs + twice `when` (and < 2 operands, not missing: 6) + `rearm` (3)."""
    assert load(GOOD, "spo2.toml").cost == 1 + 2 + 2 * 6 + 3


def test_a_contract_does_not_change_after_it_is_loaded() -> None:
    """It is identified by a hash; so nothing of it may be edited."""
    contract = load(GOOD, "spo2.toml")
    with pytest.raises(AttributeError):
        contract.version = 2  # type: ignore[misc]
    assert hash(contract) == hash(load(GOOD, "spo2.toml"))


def test_all_mistakes_are_reported_at_once_with_line_field_and_reason() -> None:
    """Nobody wants to start a gateway eight times to find eight mistakes."""
    text = """\
contract = "spo2 low"
version = 0
engine = "rules/2"
subject = "bed"
colour = "red"
[inputs]
spo2 = { unit = "mmHg", scale = 7, fresh = "soon" }
[rules.low]
priority = "urgent"
when = "spo2 < "
for = 15
"""
    found = [problem.split(": ", 2) for problem in problems(text)]
    assert [(place, field) for place, field, _ in found] == [
        ("spo2.toml:5", "colour"),
        ("spo2.toml:3", "engine"),
        ("spo2.toml:1", "contract"),
        ("spo2.toml:2", "version"),
        ("spo2.toml:4", "subject"),
        ("spo2.toml:7", "inputs.spo2.scale"),
        ("spo2.toml:7", "inputs.spo2.fresh"),
        ("spo2.toml:7", "inputs.spo2.unit"),
        ("spo2.toml:9", "rules.low.priority"),
        ("spo2.toml:11", "rules.low.for"),
        ("spo2.toml:10", "rules.low.when"),
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (changed("version  = 1", "version  = 1.0"), "3: version: .*1.0 is a float"),
        (changed("scale = 10", "scale = 10.0"), "7: inputs.spo2.scale: .*float"),
        (changed('"15s"', "15.5"), "13: rules.low.for: .*15.5 is a float"),
        (changed("version  = 1", "version  = true"), "3: version: .*whole number"),
        (changed("version  = 1\n", ""), "1: version: missing"),
        (changed('engine   = "rules/1"\n', ""), '1: engine: must be "rules/1"'),
        (changed(', unit = "/min"', ""), "8: inputs.heart.unit: missing"),
        (changed(', fresh = "5m"', ""), "8: inputs.heart.fresh: missing"),
        (changed('"5m"', '"0s"'), "8: inputs.heart.fresh: 0s is not between"),
        (changed('"5m"', '"31d"'), "8: inputs.heart.fresh: 31d is not between"),
        (changed('"5m"', '"5 m"'), "8: inputs.heart.fresh: .*is not a time"),
        (changed('"5m"', '"-5m"'), "8: inputs.heart.fresh: .*is not a time"),
        (changed('"5m"', '"٥m"'), "8: inputs.heart.fresh: .*is not a time"),
        (changed("heart_rate", "heartrate"), "8: inputs.heart.metric: .*'heartrate'"),
        (changed("heart_rate", "acvpu"), "8: inputs.heart.unit: acvpu is in 'letter'"),
        (changed('"/min"', '"bpm"'), "8: inputs.heart.unit: heart_rate is in '/min'"),
        (changed("scale = 10", "scale = 100000"), "7: inputs.spo2.scale: must be 1"),
        (changed("heart = {", "Heart = {"), "8: inputs.Heart: an input's name"),
        (changed("heart = {", "or = {"), "8: inputs.or: an input's name"),
        (changed("heart = {", 'heart = 5 #"'), "8: inputs.heart: must be a table"),
        (changed("[rules.low]", "[rules.fault]"), "10: rules.fault: .*gateway's own"),
        (changed("[rules.low]", '[rules."a b"]'), "10: rules.a b: a name has"),
        (changed("rearm ", "rearms"), "14: rules.low.rearms: unknown"),
        (changed('"high"', '"High"'), "11: rules.low.priority: must be high or"),
        (changed("technical:spo2-lost", "spo2-lost"), "15: .*on_unknown: must be"),
        (changed("technical:spo2-lost", "technical:low"), "15: .*'low' is already"),
        (changed("technical:spo2-lost", "technical:"), "15: .*on_unknown: a name"),
        (changed("[rules.low]", "[rules]"), "11: rules.priority: must be a table"),
        (changed("[inputs]", "[input]"), "6: input: unknown"),
        (GOOD + "when = 'twice'", r"16: TOML: Cannot overwrite a value"),
        (GOOD + "x = ", r"16: TOML: Invalid value"),
        (GOOD + "x = [", r"16: TOML: "),
        ("a = " + "[" * 5_000, "1: TOML: nested too deeply"),
        ("a = " + "9" * 5_000, "1: TOML: .*digits"),
        ("#" * 70_000, "1: file: 70000 bytes, over 65536"),
        ("\ud800", "1: TOML: "),
    ],
)
def test_a_mistake_in_the_file_is_named_with_its_place(
    text: str, expected: str
) -> None:
    """One mistake each, as a clinic would make it."""
    found = problems(text)
    pattern = rf"spo2\.toml:{expected}"
    assert any(re.match(pattern, problem) for problem in found), found


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("spo2 < 90 and", "found the end .at character 14"),
        ("spo2 < 90 90", "'90' is not expected here .at character 11"),
        ("spO2 < 90", "what is 's'"),
        ("spo2 < 89.5", "a decimal stands in single quotes"),
        ("spo2 < .5", "a decimal stands in single quotes"),
        ("spo2 < '89.55'", "89.55 is finer than 1/10"),
        ("spo2 < '89,5'", "is not a decimal"),
        ("spo2 < '--1'", "is not a decimal"),
        ("spo2 < '-1'", "never true"),
        ("spo2 < '1e1'", "is not a decimal"),
        ("spo2 < '89.5", "the quote is never closed"),
        ("spo2 = 90", "equality is =="),
        ("spo2 < 90x", "what is '9'"),
        ("spo2 < 90 & heart > 3", "what is '&'"),
        ("sp < 90", "nothing is named 'sp' .known here: heart, spo2"),
        ("missing(sp)", "nothing is named 'sp'"),
        ("missing()", "a name expected"),
        ("missing(spo2, 1)", "a name expected"),
        ("missing(spo2 heart)", r"'\)' expected, found 'heart'"),
        ("missing", r"'\(' expected, found the end"),
        ("80 < spo2 < 90", "cannot be chained"),
        ("spo2", "a number, where a comparison is needed"),
        ("spo2 and heart > 50", "'spo2' is a number, where a comparison"),
        ("not spo2", "'spo2' is a number"),
        ("(spo2 < 90) + 1 > heart", "true or false, where a number is needed"),
        ("spo2 < (heart < 5)", "true or false, where a number is needed"),
        ("missing(heart) == 1", "'missing' is true or false"),
        ("1 < 2", "needs an input on one side"),
        ("spo2 < heart", "different units or scales: % × 10 and /min × 1"),
        ("spo2 + heart < 90", "different units or scales"),
        ("spo2 < 29", "never true: no plausible value"),
        ("spo2 > 1000", "never true"),
        ("spo2 == '100.1'", "never true"),
        ("spo2 - spo2 > 71", "never true"),
        ("heart > 999999999999", "never true|too large"),
        ("heart > 99999999999999999", "more than 15 digits"),
        ("(" * 25 + "spo2 < 90" + ")" * 25, "nested more than 24 deep"),
        ("not " * 25 + "spo2 < 90", "nested more than 24 deep"),
        (" or ".join(["spo2 < 90"] * 67), "more than 200 parts"),
        ("spo2 < 90" + " " * 1_000, "longer than 1000 characters"),
        ("(spo2 < 90", r"'\)' expected, found the end"),
        ("spo2 < 90)", r"'\)' is not expected"),
        ("", "found the end"),
        ("__import__('os')", "what is '_'"),
        ("spo2.real < 90", "nothing is named 'spo2.real'"),
        ("spo2 < 90 if heart else 1", "'heart' is a number"),
        ("spo2 if heart < 90 else heart", "different units"),
        ("spo2 * spo2 < 90", "needs a whole number on one side"),
        ("'90' < 'spo2'", "needs an input"),
    ],
)
def test_a_mistake_in_an_expression_is_named(text: str, expected: str) -> None:
    """Line of the file, character of the expression, and what to do."""
    (problem,) = problems(when(text))
    assert problem.startswith("spo2.toml:12: rules.low.when: "), problem
    assert re.search(expected, problem), problem


@pytest.mark.parametrize(
    "text",
    [
        "(" * 24 + "spo2 < 90" + ")" * 24,
        "not " * 24 + "spo2 < 90",
        " or ".join(["spo2 < 90"] * 66),
        "spo2 < 90" + " " * 991,
        "spo2 < 30.0".replace("30.0", "'30.1'"),
        "spo2 <= 30",
        "spo2 - spo2 > 69",
        "spo2 != 90",
        " spo2<90 or(heart>=100\t) ",
        "spo2 < '000000000089.5'",
    ],
)
def test_what_stands_at_a_limit_is_accepted(text: str) -> None:
    """Limits are inclusive, and white space means nothing."""
    assert load(when(text), "spo2.toml").rules


def test_a_contract_that_costs_too_much_is_refused_before_it_runs() -> None:
    """32 rules of 199 parts would be slow for everybody."""
    long = " or ".join(["spo2 < 90"] * 66)
    rules = "".join(
        f'[rules.r{n}]\npriority = "low"\nwhen = "{long}"\n' for n in range(5)
    )
    (problem,) = problems(GOOD + rules)
    assert problem.startswith("spo2.toml:10: rules: costs 2008 steps a reading")


@pytest.mark.parametrize(
    ("kind", "line", "limit"),
    [
        ("inputs", 'i{} = {{ metric = "spo2", unit = "%", fresh = "1s" }}', 16),
        ("rules", '[rules.r{}]\npriority = "low"\nwhen = "spo2 < 90"', 32),
    ],
)
def test_the_number_of_inputs_and_rules_is_bounded(
    kind: str, line: str, limit: int
) -> None:
    """And a contract with none of them is a mistake."""
    few = 2 if kind == "inputs" else 1

    def text(count: int) -> str:
        more = "\n".join(line.format(n) for n in range(count - few)) + "\n"
        anchor = "\n[rules.low]" if kind == "inputs" else "[rules.low]"
        return changed(anchor, more + anchor)

    assert load(text(limit), "spo2.toml")
    assert (
        f"{kind}: 1 to {limit} {kind}, not {limit + 1}" in problems(text(limit + 1))[0]
    )


def test_every_metric_that_is_a_number_can_be_an_input() -> None:
    """In the unit of docs/wire-format.md, at every scale."""
    for metric in METRICS:
        for scale in language.SCALES:
            line = f'heart = {{ metric = "{metric.name}", unit = "{metric.unit}"'
            text = changed(
                'heart = { metric = "heart_rate", unit = "/min"',
                f"{line}, scale = {scale}",
            )
            if metric.letters:
                assert "is in 'letter'" in problems(text)[0]
            else:
                assert load(text, "spo2.toml").inputs[1].metric == metric.name


@given(
    st.decimals(
        allow_nan=False, allow_infinity=False, places=4, min_value=-9999, max_value=9999
    ),
    st.sampled_from(language.SCALES),
)
def test_fixed_point_is_the_nearest_integer_and_a_half_goes_away_from_zero(
    value: Decimal, scale: int
) -> None:
    """Against integer arithmetic on the digits."""
    ten_thousandths = int(value * 10_000) * scale
    whole, rest = divmod(abs(ten_thousandths), 10_000)
    expected = whole + (rest >= 5_000)
    assert expression.fixed_point(value, scale) == (
        expected if ten_thousandths >= 0 else -expected
    )


def test_the_files_of_a_directory_are_loaded_in_the_order_of_their_names() -> None:
    """The order of contracts is part of the order of firings."""
    texts = {
        "b.toml": GOOD,
        "a.toml": GOOD.replace("spo2-low", "other"),
    }
    assert [c.name for c in load_directory(texts)] == ["other", "spo2-low"]
    assert load_directory({}) == []


def test_the_mistakes_of_all_files_are_reported_and_a_name_is_taken_once() -> None:
    """One restart for all of them."""
    texts = {
        "a.toml": GOOD,
        "b.toml": GOOD.replace("version  = 1", "version = 0"),
        "c.toml": GOOD,
    }
    with pytest.raises(ConfigurationError) as caught:
        load_directory(texts)
    assert [p.split(": ")[:2] for p in caught.value.problems] == [
        ["b.toml:3", "version"],
        ["c.toml:1", "contract"],
    ]
    with pytest.raises(ConfigurationError, match="65 contracts; at most 64"):
        load_directory(
            {f"{n}.toml": GOOD.replace("spo2-low", f"c{n}") for n in range(65)}
        )


@pytest.mark.parametrize("path", LIBRARY, ids=lambda path: path.stem)
def test_a_contract_of_the_library_loads_and_says_what_it_is(path: Path) -> None:
    """Named as its file; labelled as an example, and as a secondary notification."""
    text = path.read_text()
    contract = load(text, path.name)
    assert contract.name == path.stem
    comment = " ".join(text.split("contract =", 1)[0].replace("#", " ").split())
    assert "examples for a clinic to set" in comment
    assert "Secondary notification only" in comment


def test_the_library_has_no_two_contracts_of_one_name() -> None:
    """All of it can be active together."""
    assert len(load_directory({p.name: p.read_text() for p in LIBRARY})) >= 5


def snippets() -> list[tuple[str, str]]:
    return re.findall(r"```toml (\w+)\n(.*?)```", REFERENCE.read_text(), re.DOTALL)


def test_the_reference_has_only_snippets_that_are_marked() -> None:
    """So that none escapes the next test."""
    assert REFERENCE.read_text().count("```toml") == len(snippets()) > 0


@pytest.mark.parametrize(("kind", "text"), snippets(), ids=lambda part: part[:12])
def test_a_snippet_of_the_reference_is_what_it_says(kind: str, text: str) -> None:
    """`contract` loads; `rule` does with GOOD's inputs, and its examples come out;
    `mistake` is refused; `configuration` is a part of one."""
    if kind == "contract":
        assert load(text, "docs")
    elif kind == "configuration":
        whole = f'[gateway]\norigin = "a"\ndata = "d"\n{text}'
        assert len(config.parse(whole, "docs", ROOT).approvers) == 2
    elif kind == "rule":
        text = GOOD.partition("[rules.low]")[0] + text
        contract = load(text, "docs")
        for example in read_examples(text, "docs", contract):
            assert all(one.good for one in run(contract, example)), example.name
    else:
        assert kind == "mistake"
        assert problems(GOOD + text)


def test_the_expressions_of_the_reference_compile() -> None:
    """Its table of operators, a line each, over the metrics by their own names."""
    operands = {
        metric.name: expression.Symbol(
            ("input", index),
            frozenset({index}),
            metric.unit,
            10,
            int(metric.low * 10),
            int(metric.high * 10),
            input=index,
        )
        for index, metric in enumerate(METRICS)
    }
    (block,) = re.findall(
        r"```text expressions\n(.*?)```", REFERENCE.read_text(), re.DOTALL
    )
    assert len(block.splitlines()) == 10
    for line in block.splitlines():
        source, meaning = re.split(r" {2,}", line, maxsplit=1)
        assert expression.compile_expression(source, operands).program.cost
        assert meaning


# --- lines and fuzz ---


def test_a_key_is_found_on_its_line_in_every_notation() -> None:
    """Quoted and dotted keys, and text in a string that only looks like one."""
    text = '"a b" = 1\nc.d = 2\ntext = """\nc.e = 3\n[f]\n"""\n[g . h]\ni = 4\n[[j]]\n'
    tomllib.loads(text)
    assert key_lines(text) == {
        ("a b",): 1,
        ("c",): 2,
        ("c", "d"): 2,
        ("text",): 3,
        ("g",): 7,
        ("g", "h"): 7,
        ("g", "h", "i"): 8,
        ("j",): 9,
    }


pieces = st.sampled_from(
    [*GOOD.splitlines(), "[rules.low]", "[inputs]", "spo2 = 1", "x = {", "a = 1.5", ""]
)
WORDS = "spo2 heart 90 '89.5' ' < <= == and or not missing ( ) + - , . x 9.9"
words = st.sampled_from(WORDS.split())


@given(
    st.text(max_size=80)
    | st.lists(pieces, max_size=16).map("\n".join)
    | st.lists(words, max_size=14).map(" ".join).map(when)
    | st.builds(
        lambda place, text: GOOD[:place] + text + GOOD[place:],
        st.integers(0, len(GOOD)),
        st.text(max_size=4),
    )
)
@settings(max_examples=500)
def test_any_text_is_a_contract_or_has_named_problems(text: str) -> None:
    """ConfigurationError or a Contract; never anything else."""
    found: list[str] | None = None
    try:
        contract = load(text, "fuzz.toml")
    except ConfigurationError as error:
        found = error.problems
    if found is None:
        assert isinstance(contract, Contract)
        assert contract.cost <= language.COST_MAX
    else:
        assert found
        for problem in found:
            assert re.match(r"fuzz\.toml:\d+: ", problem), problem
