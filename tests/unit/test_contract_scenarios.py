"""Every construct of the contract language, by timelines worked out by hand.

A timeline is a table of rows `seconds  what arrives`; what is expected is a table of
`seconds  rule  phase`. Seconds are exact: a firing has the time of its deadline.
"""

from __future__ import annotations

from decimal import Decimal

import pytest

from edge.contracts.language import load
from edge.contracts.machine import Machine
from edge.model import Firing

SPO2 = """
contract = "spo2"
version  = 1
engine   = "rules/1"
subject  = "patient"
[inputs]
spo2 = { unit = "%", scale = 1, fresh = "10s" }
[rules.low]
priority = "high"
when     = "spo2 < 90"
"""
RATES = """
contract = "rates"
version  = 1
engine   = "rules/1"
subject  = "patient"
[inputs]
heart = { metric = "heart_rate", unit = "/min", scale = 1, fresh = "10s" }
pulse = { metric = "pulse_rate", unit = "/min", scale = 1, fresh = "20s" }
[rules.odd]
priority = "medium"
"""
TEMPERATURE = """
contract = "temperature"
version  = 1
engine   = "rules/1"
subject  = "patient"
[inputs]
temp = { metric = "body_temperature", unit = "Cel", scale = 10, fresh = "10s" }
[rules.high]
priority = "medium"
"""


def ms(seconds: str) -> int:
    return int(Decimal(seconds) * 1000)


def play(contract: str, rules: str, timeline: str) -> list[Firing]:
    """The firings of a timeline, one row an arrival.

    `12 spo2=85 heart_rate=?` is a reading at 12 s whose heart rate is sent but unknown;
    `@tape` names another device than the usual one; a row with nothing else is a tick.
    """
    machine = Machine([load(contract + rules, "test.toml")])
    firings: list[Firing] = []
    for row in timeline.strip().splitlines():
        seconds, *words = row.split()
        device, values, unknown = "probe", {}, []
        for word in words:
            name, _, value = word.partition("=")
            if word.startswith("@"):
                device = word[1:]
            elif value == "?":
                unknown.append(name)
            else:
                values[name] = Decimal(value)
        if words:
            firings += machine.observe(ms(seconds), device, "ada", values, unknown)
        else:
            firings += machine.advance(ms(seconds))
    return firings


def table(firings: list[Firing]) -> str:
    rows = [f"{Decimal(f.at_ms) / 1000:f} {f.rule} {f.phase}" for f in firings]
    return "\n".join(rows)


def expect(firings: list[Firing], expected: str) -> None:
    assert table(firings) == "\n".join(r.strip() for r in expected.strip().splitlines())


def test_a_rule_without_for_fires_at_the_sample_and_ends_when_it_is_false() -> None:
    """Without `for` and `rearm` a rule is its expression, and equal is not below."""
    expect(
        play(SPO2, "", "0 spo2=90\n1 spo2=89\n2 spo2=88\n3 spo2=90\n4 spo2=80"),
        """
        1 low start
        3 low end
        4 low start
        """,
    )


def test_for_fires_at_its_deadline_between_two_samples() -> None:
    """The deadline is 15 s after the first low sample, not the next sample's time."""
    firings = play(
        SPO2, 'for = "15s"', "2 spo2=85\n8 spo2=85\n14 spo2=84\n20 spo2=83\n21"
    )
    expect(firings, "17 low start")
    assert firings[0].values == {"spo2": 84}, "the sample that was known at 17 s"


def test_for_fires_without_any_further_reading_while_the_input_is_fresh() -> None:
    """low at 0 and 8 s, then silence: at 15 s the last sample is 7 s old."""
    expect(
        play(SPO2, 'for = "15s"', "0 spo2=85\n8 spo2=85\n60"),
        "15 low start",
    )


def test_one_low_sample_and_silence_does_not_fire() -> None:
    """At 30 s nothing has been known for 20 s: a trap that a timer alone falls into."""
    expect(play(SPO2, 'for = "30s"', "0 spo2=85\n30\n60"), "")


def test_a_gap_over_fresh_starts_for_anew() -> None:
    """low at 1 s, 24 s of silence, low again: 55 s is right, 31 s is not."""
    timeline = "1 spo2=85\n25 spo2=85\n33 spo2=85\n42 spo2=85\n51 spo2=85\n60"
    expect(play(SPO2, 'for = "30s"', timeline), "55 low start")


def test_a_gap_of_exactly_fresh_is_no_gap_and_a_millisecond_more_is() -> None:
    """`fresh` is inclusive."""
    expect(
        play(SPO2, 'for = "15s"', "0 spo2=85\n10 spo2=85\n20 spo2=85\n21"),
        "15 low start",
    )
    timeline = "0 spo2=85\n10.001 spo2=85\n20.001 spo2=85\n30"
    expect(play(SPO2, 'for = "15s"', timeline), "25.001 low start")


def test_one_good_sample_starts_for_anew() -> None:
    """`for` means without a break: 91 at 9 s restarts it at 10 s."""
    timeline = "0 spo2=85\n5 spo2=85\n9 spo2=91\n10 spo2=85\n18 spo2=85\n26 spo2=85"
    expect(play(SPO2, 'for = "15s"', timeline), "25 low start")


def test_a_good_sample_at_the_very_deadline_comes_after_it() -> None:
    """What is due comes before a record of that time, so ticks change nothing."""
    expect(
        play(SPO2, 'for = "10s"', "0 spo2=85\n5 spo2=85\n10 spo2=95"),
        """
        10 low start
        10 low end
        """,
    )


def test_rearm_keeps_a_rule_active_through_the_gap_between_two_thresholds() -> None:
    """91 is not below 90, and not 92 either: neither an end nor a second start."""
    timeline = "0 spo2=88\n1 spo2=91\n2 spo2=88\n3 spo2=91\n4 spo2=92\n5 spo2=91"
    expect(
        play(SPO2, 'rearm = "spo2 >= 92"', timeline),
        """
        0 low start
        4 low end
        """,
    )


def test_after_its_end_a_rule_waits_for_its_whole_for_again() -> None:
    """The second start is 5 s after the first low sample after the end."""
    timeline = "0 spo2=85\n4 spo2=85\n6 spo2=95\n7 spo2=85\n9 spo2=85\n20"
    expect(
        play(SPO2, 'for = "5s"', timeline),
        """
        5 low start
        6 low end
        12 low start
        """,
    )


def test_a_rearm_that_overlaps_when_does_not_flap() -> None:
    """A clinic may err: below 95 ends what below 90 starts. 85 must stay active."""
    expect(
        play(SPO2, 'rearm = "spo2 < 95"', "0 spo2=85\n1 spo2=85\n2 spo2=94"),
        """
        0 low start
        2 low end
        """,
    )


def test_unknown_neither_starts_nor_ends() -> None:
    """Silence and a lost contact leave an active alarm active."""
    expect(
        play(SPO2, "", "0 spo2=?\n1 spo2=85\n2 spo2=?\n60\n61 spo2=?\n62 spo2=95"),
        """
        1 low start
        62 low end
        """,
    )


def test_a_lost_contact_within_fresh_does_not_break_for() -> None:
    """low, no contact, low, all within 10 s: every usable sample is low."""
    timeline = "0 spo2=85\n5 spo2=?\n9 spo2=85\n14 spo2=85\n20 spo2=85"
    expect(play(SPO2, 'for = "15s"', timeline), "15 low start")


def test_a_deadline_while_unknown_fires_at_the_next_low_sample() -> None:
    """At 15 s the probe is off: the value of 12 s does not linger. At 18 s it is on."""
    timeline = "0 spo2=85\n6 spo2=85\n12 spo2=85\n14 spo2=?\n16\n18 spo2=84\n19"
    expect(play(SPO2, 'for = "15s"', timeline), "18 low start")


def test_a_lost_contact_longer_than_fresh_starts_for_anew() -> None:
    """The last usable sample is of 2 s; at 13 s it is older than 10 s."""
    timeline = "0 spo2=85\n2 spo2=85\n6 spo2=?\n10 spo2=?\n13 spo2=85\n20 spo2=85\n29"
    expect(play(SPO2, 'for = "15s"', timeline), "28 low start")


def test_another_devices_lost_contact_does_not_hide_this_ones_value() -> None:
    """A second oximeter in its drawer reports no contact all day."""
    timeline = "0 spo2=85\n1 @drawer spo2=?\n6 spo2=85\n7 @drawer spo2=?\n12"
    expect(play(SPO2, 'for = "10s"', timeline), "10 low start")


@pytest.mark.parametrize(
    ("when", "timeline", "expected"),
    [
        # heart unknown: `and` is decided by a false pulse, `or` by a true one
        ("heart > 100 and pulse > 100", "0 pulse_rate=120", ""),
        ("not (heart > 100 and pulse > 100)", "0 pulse_rate=80", "0 odd start"),
        ("heart > 100 or pulse > 100", "0 pulse_rate=120", "0 odd start"),
        ("not (heart > 100 or pulse > 100)", "0 pulse_rate=80", ""),
        ("heart - pulse > 20", "0 heart_rate=101 pulse_rate=80", "0 odd start"),
        ("heart - pulse > 20", "0 heart_rate=100 pulse_rate=80", ""),
        ("heart - pulse > 20", "0 heart_rate=101", ""),
        ("-pulse + heart - 1 == 19", "0 heart_rate=100 pulse_rate=80", "0 odd start"),
        ("heart - (pulse - 5) >= 25", "0 heart_rate=100 pulse_rate=80", "0 odd start"),
        ("heart != pulse", "0 heart_rate=100 pulse_rate=100", ""),
        ("heart != pulse", "0 heart_rate=100 pulse_rate=99", "0 odd start"),
        ("120 <= heart", "0 heart_rate=119\n1 heart_rate=120", "1 odd start"),
        # `and` binds tighter than `or`, `not` tighter than both
        (
            "heart > 100 or pulse > 100 and pulse > 150",
            "0 heart_rate=120 pulse_rate=80",
            "0 odd start",
        ),
        (
            "not heart > 100 and pulse > 100",
            "0 heart_rate=80 pulse_rate=120",
            "0 odd start",
        ),
    ],
)
def test_logic_has_three_values_and_sums_are_exact(
    when: str, timeline: str, expected: str
) -> None:
    """Kleene's tables where one side is unknown; arithmetic at its boundaries."""
    expect(play(RATES, f'when = "{when}"', timeline), expected)


def test_two_inputs_are_each_known_for_their_own_freshness() -> None:
    """heart (10 s) is stale when pulse comes at 11 s, pulse (20 s) is not at 16 s."""
    rule = 'when = "heart > 100 and pulse > 100"'
    expect(play(RATES, rule, "0 heart_rate=120\n11 pulse_rate=120"), "")
    timeline = "0 pulse_rate=120\n16 heart_rate=120\n17 heart_rate=90"
    expect(
        play(RATES, rule, timeline),
        """
        16 odd start
        17 odd end
        """,
    )


def test_an_expression_that_stays_true_by_its_other_half_is_not_broken() -> None:
    """heart goes stale at 10.001 s, but pulse has been over 100 since 6 s."""
    rule = 'when = "heart > 100 or pulse > 100"\nfor = "20s"'
    timeline = "0 heart_rate=120\n6 pulse_rate=120\n30"
    expect(play(RATES, rule, timeline), "20 odd start")


def test_missing_is_true_from_the_moment_that_freshness_is_over() -> None:
    """10.001 s without a heart rate, for 5 s; a sample ends it."""
    rule = 'when = "missing(heart)"\nfor = "5s"'
    timeline = "0 heart_rate=80\n30\n31 heart_rate=80"
    expect(
        play(RATES, rule, timeline),
        """
        15.001 odd start
        31 odd end
        """,
    )


def test_missing_is_true_of_an_input_that_was_never_sent() -> None:
    """A subject begins with its first reading; what it lacks is missing at once."""
    expect(play(RATES, 'when = "missing(heart)"', "3 pulse_rate=80"), "3 odd start")
    expect(play(RATES, 'when = "missing(heart)"', "3 heart_rate=?"), "3 odd start")


def test_a_missing_heart_rate_hands_over_to_the_pulse() -> None:
    """`missing` is a value of its own: it makes the rest of the expression count."""
    rule = 'when = "missing(heart) and pulse > 100"\nfor = "5s"'
    timeline = "0 heart_rate=80 pulse_rate=120\n8 heart_rate=? pulse_rate=120\n20"
    expect(play(RATES, rule, timeline), "13 odd start")


def test_on_unknown_fires_after_silence_and_ends_with_the_next_sample() -> None:
    """The value is known to 10 s; unknown from 10.001 s; for over 10 s at 20.002 s."""
    rule = 'on_unknown = "technical:spo2-lost"'
    firings = play(SPO2, rule, "0 spo2=95\n20.001\n40\n41 spo2=96")
    expect(
        firings,
        """
        20.002 spo2-lost start
        41 spo2-lost end
        """,
    )
    assert {f.priority for f in firings} == {"technical"}


def test_on_unknown_counts_a_lost_contact_from_the_moment_it_is_reported() -> None:
    """Reported at 1 s, over 10 s long at 11.001 s, however often it is repeated."""
    rule = 'on_unknown = "technical:spo2-lost"'
    timeline = "0 spo2=95\n1 spo2=?\n6 spo2=?\n11 spo2=?\n15"
    expect(play(SPO2, rule, timeline), "11.001 spo2-lost start")


def test_on_unknown_says_nothing_of_an_input_that_was_never_known() -> None:
    """A probe that was never put on is not lost."""
    rule = 'on_unknown = "technical:spo2-lost"'
    expect(play(SPO2, rule, "0 spo2=?\n5 spo2=?\n60"), "")


def test_a_short_unknown_is_not_lost() -> None:
    """5 s off and on again: the time begins anew."""
    rule = 'on_unknown = "technical:spo2-lost"'
    timeline = "0 spo2=95\n1 spo2=?\n6 spo2=95\n7 spo2=?\n12 spo2=?\n16 spo2=95"
    expect(play(SPO2, rule, timeline), "")


def test_an_alarm_and_its_lost_input_stand_side_by_side() -> None:
    """The low alarm stays active, and the nurse learns that nobody measures now."""
    rule = 'rearm = "spo2 >= 92"\non_unknown = "technical:spo2-lost"'
    expect(
        play(SPO2, rule, "0 spo2=85\n30\n31 spo2=93"),
        """
        0 low start
        20.002 spo2-lost start
        31 low end
        31 spo2-lost end
        """,
    )


@pytest.mark.parametrize(
    ("value", "fires"),
    [
        ("38.94", False),  # 389.4 -> 389
        ("38.949999999", False),
        ("38.95", True),  # 389.5 -> 390
        ("39", True),
        ("3.9E+1", True),
    ],
)
def test_a_value_is_rounded_half_up_to_the_inputs_scale(
    value: str, fires: bool
) -> None:
    """The threshold is one of the nurse's decimals, not of the sensor's."""
    firings = play(
        TEMPERATURE, "when = \"temp >= '39.0'\"", f"0 body_temperature={value}"
    )
    assert bool(firings) is fires


def test_a_whole_number_and_a_decimal_of_the_same_value_are_the_same() -> None:
    """39 means 39 degrees, whatever the scale."""
    for limit in ("39", "'39'", "'39.0'"):
        firings = play(
            TEMPERATURE, f'when = "temp > {limit}"', "0 body_temperature=39.1"
        )
        assert firings[0].values == {"temp": 391}
        assert not play(
            TEMPERATURE, f'when = "temp > {limit}"', "0 body_temperature=39.0"
        )
