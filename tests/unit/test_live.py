"""The state of the live views, and the table that shows it in a terminal."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Mapping
from contextlib import aclosing, contextmanager
from decimal import Decimal
from io import StringIO

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from rich.console import Console

from edge.contracts.expression import VALUE_MAX, fixed_point
from edge.devices.metrics import make_reading
from edge.errors import Reason
from edge.model import (
    NO_FLAGS,
    Attestation,
    CommitReport,
    Firing,
    Flag,
    LiveFiring,
    LiveReading,
)
from edge.web import live as live_module
from edge.web import table
from edge.web.live import Live, Shown, firing_title, value_text

T0 = 1_790_000_000_000


class Monotonic:
    """A clock that moves when the test says."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def reading(
    values: Mapping[str, str],
    device: str = "monitor-1",
    patient: str | None = "Bed 1",
    at_ms: int = T0,
    time_ms: int | None = None,
    flags: Flag = NO_FLAGS,
    unknown: frozenset[str] = frozenset(),
) -> LiveReading:
    numbers = {name: Decimal(value) for name, value in values.items()}
    made = make_reading(time_ms, numbers, unknown=unknown)
    return LiveReading(device, patient, "mqtt", Attestation.DEVICE, flags, at_ms, made)


def firing(
    phase: str,
    at_ms: int = T0,
    patient: str = "Bed 1",
    priority: str = "high",
    rule: str = "low",
) -> LiveFiring:
    made = Firing(
        "spo2-low", bytes(32), rule, priority, phase, f"patient:{patient}", at_ms, {}
    )
    return LiveFiring(made, None, patient, f"{patient}-{rule}-{phase}-{at_ms}")


def report(
    *readings: LiveReading,
    firings: tuple[LiveFiring, ...] = (),
    refusals: tuple[tuple[str, Reason, str], ...] = (),
    time_ms: int = T0,
) -> CommitReport:
    totals = {"received": 7, "committed": 5, "duplicates": 1, "refused": 1}
    return CommitReport(time_ms, 42, True, readings, firings, refusals, totals)


def shown(live: Live, name: str, tile: int = 0) -> Shown:
    return live.snapshot()["tiles"][tile]["values"][name]


def test_before_the_first_commit_there_is_nothing_and_the_clock_is_not_trusted() -> (
    None
):
    snapshot = Live().snapshot()
    assert not snapshot["tiles"]
    assert not snapshot["active"]
    assert snapshot["clock_synced"] is False
    assert snapshot["time_ms"] == 0


def test_a_reading_shows_its_value_unit_device_and_time() -> None:
    live = Live()
    live.update(report(reading({"body_temperature": "37", "spo2": "97.40"})))
    [tile] = live.snapshot()["tiles"]
    assert tile["patient"] == "Bed 1"
    assert tile["devices"] == [
        {
            "device": "monitor-1",
            "link": "mqtt",
            "attestation": "device",
            "received_ms": T0,
            "battery": "",
        }
    ]
    assert tile["values"]["body_temperature"] == {
        "device": "monitor-1",
        "value": "37",
        "text": "37.0",
        "unit": "°C",
        "state": "ok",
        "measured_ms": T0,
        "stale_after_ms": 300_000,
        "flags": [],
    }
    assert tile["values"]["spo2"]["text"] == "97"
    assert tile["values"]["spo2"]["value"] == "97.40"


@pytest.mark.parametrize(
    ("name", "number", "text"),
    [
        ("heart_rate", "87.0", "87"),
        ("heart_rate", "1E+2", "100"),
        ("spo2", "89.5", "90"),
        ("spo2", "89.4999", "89"),
        ("heart_rate", "130.5", "131"),
        ("body_temperature", "36.66", "36.7"),
        ("body_temperature", "37", "37.0"),
        ("body_temperature", "38.95", "39.0"),
        ("ambient_temperature", "-0.04", "0.0"),
        ("weight", "72.54", "72.5"),
        ("glucose", "18446744073709551615E+9", "18446744073709551615000000000"),
    ],
)
def test_numbers_are_shown_as_a_person_reads_them(
    name: str, number: str, text: str
) -> None:
    assert value_text(name, Decimal(number)) == text


@given(
    st.decimals(-(10**9), 10**9, places=9),
    st.sampled_from(["heart_rate", "spo2", "body_temperature"]),
)
def test_a_number_is_shown_as_the_contracts_round_it(
    number: Decimal, name: str
) -> None:
    """A page that says 90 beside an alarm "below 90" would be believed by nobody."""
    scale = 10 if name == "body_temperature" else 1
    assume(abs(number) * scale < VALUE_MAX)
    assert Decimal(value_text(name, number)) * scale == fixed_point(number, scale)


def test_what_no_one_may_rely_on_is_never_shown_as_a_number() -> None:
    """A recorded 0.0 means that the sensor was off; 52 °C is no patient."""
    live = Live()
    values = {"heart_rate": "0.0", "body_temperature": "52", "respiratory_rate": "14"}
    live.update(report(reading(values, unknown=frozenset({"spo2"}))))
    states = {
        name: (value["state"], value["text"])
        for name, value in live.snapshot()["tiles"][0]["values"].items()
    }
    assert states == {
        "heart_rate": ("off", "—"),
        "spo2": ("missing", "—"),
        "body_temperature": ("implausible", "—"),
        "respiratory_rate": ("ok", "14"),
    }


def test_without_contact_even_a_plausible_value_is_not_shown() -> None:
    live = Live()
    live.update(report(reading({"heart_rate": "72", "sensor_contact": "0"})))
    assert shown(live, "heart_rate")["state"] == "off"
    assert shown(live, "heart_rate")["text"] == "—"
    assert "sensor_contact" not in live.snapshot()["tiles"][0]["values"]


def test_a_value_that_comes_late_replaces_no_newer_one() -> None:
    """Store and forward brings yesterday's values after today's."""
    live = Live()
    live.update(report(reading({"spo2": "97"}, time_ms=T0)))
    old = reading(
        {"spo2": "71", "heart_rate": "60"}, time_ms=T0 - 9000, flags=Flag.LATE
    )
    live.update(report(old))
    assert shown(live, "spo2")["text"] == "97"
    assert shown(live, "heart_rate")["measured_ms"] == T0 - 9000
    assert shown(live, "heart_rate")["flags"] == ["late"]


def test_of_one_envelope_the_newest_reading_wins_in_any_order() -> None:
    first = reading({"spo2": "90"}, time_ms=T0 - 2000)
    second = reading({"spo2": "95"}, time_ms=T0 - 1000)
    for order in ((first, second), (second, first)):
        live = Live()
        live.update(report(*order))
        assert shown(live, "spo2")["text"] == "95"


def test_each_metric_keeps_its_own_newest_value() -> None:
    """A reading may be old beside one metric and news of another."""
    live = Live()
    for name, text, before_ms in (
        ("spo2", "97", 0),
        ("heart_rate", "60", 9000),
        ("heart_rate", "61", 5000),  # newer than that, older than the saturation
        ("heart_rate", "59", 7000),
        ("spo2", "71", 8000),
        ("spo2", "98", 0),  # of two at one time the later
    ):
        old = reading({name: text}, time_ms=T0 - before_ms, flags=Flag.LATE)
        live.update(report(old))
    assert shown(live, "heart_rate")["text"] == "61"
    assert shown(live, "spo2")["text"] == "98"


def test_a_device_that_moves_leaves_no_value_of_the_patient_before() -> None:
    """Bed 1's oxygen under bed 2's name could kill."""
    live = Live()
    live.update(report(reading({"spo2": "71", "heart_rate": "140"})))
    live.update(report(reading({"heart_rate": "72"}, patient="Bed 2")))
    [tile] = live.snapshot()["tiles"]
    assert tile["patient"] == "Bed 2"
    assert set(tile["values"]) == {"heart_rate"}


def test_of_two_devices_the_one_with_a_good_fresh_value_is_shown() -> None:
    clock = Monotonic()
    live = Live(clock)
    live.update(report(reading({"spo2": "97"}, device="a", at_ms=T0 - 1000)))
    live.update(report(reading({"spo2": "0"}, device="b")))
    assert shown(live, "spo2")["device"] == "a"
    clock.now_s += 16
    assert shown(live, "spo2")["device"] == "b"  # a's is stale now; b's is newer


def test_the_pulse_counts_only_while_there_is_no_heart_rate() -> None:
    clock = Monotonic()
    live = Live(clock)
    live.update(report(reading({"heart_rate": "70", "pulse_rate": "68"})))
    assert live.snapshot()["tiles"][0]["rate"] == "heart_rate"
    later = T0 + 20_000
    clock.now_s += 20
    live.update(report(reading({"pulse_rate": "69"}, at_ms=later), time_ms=later))
    assert live.snapshot()["tiles"][0]["rate"] == "pulse_rate"


def test_patients_come_in_natural_order_and_unassigned_devices_last() -> None:
    live = Live()
    for bed in (10, 2, 1):
        name = f"Bed {bed}"
        live.update(report(reading({"spo2": "97"}, device=name, patient=name)))
    live.update(report(reading({"spo2": "97"}, device="a-spare", patient=None)))
    tiles = live.snapshot()["tiles"]
    assert [t["patient"] for t in tiles] == ["Bed 1", "Bed 2", "Bed 10", None]


@given(st.lists(st.text(max_size=6), min_size=1, max_size=8, unique=True))
def test_any_patient_names_can_be_sorted(names: list[str]) -> None:
    """Digits that int() does not know and empty names included."""
    live = Live()
    for name in names:
        live.update(report(reading({"spo2": "97"}, device=name, patient=name)))
    assert {tile["patient"] for tile in live.snapshot()["tiles"]} == set(names)


def test_time_goes_on_between_commits_and_never_back() -> None:
    clock = Monotonic()
    live = Live(clock)
    live.update(report())
    clock.now_s += 3
    assert live.snapshot()["now_ms"] == T0 + 3000
    live.update(report(time_ms=T0 + 1000))
    assert live.snapshot()["now_ms"] == T0 + 3000


def test_an_alarm_is_active_from_its_start_to_its_end() -> None:
    live = Live()
    live.update(report(firings=(firing("start"),)))
    [active] = live.snapshot()["active"]
    assert (active["title"], active["patient"]) == ("SpO2 low", "Bed 1")
    assert (active["started_ms"], active["ended_ms"]) == (T0, None)
    live.update(report(firings=(firing("end", T0 + 500),)))
    snapshot = live.snapshot()
    assert snapshot["active"] == []
    [ended] = snapshot["ended"]
    assert (ended["started_ms"], ended["ended_ms"]) == (T0, T0 + 500)


def test_an_end_ends_its_own_contract_rule_and_subject_only() -> None:
    live = Live()
    live.update(report(firings=(firing("start"), firing("start", patient="Bed 2"))))
    live.update(report(firings=(firing("end", patient="Bed 2"),)))
    assert [alarm["patient"] for alarm in live.snapshot()["active"]] == ["Bed 1"]


def test_the_most_urgent_alarm_comes_first_and_of_equals_the_newest() -> None:
    live = Live()
    for at, priority in enumerate(("technical", "high", "low", "medium", "high")):
        one = firing("start", T0 + at, priority=priority, rule=f"rule{at}")
        live.update(report(firings=(one,)))
    rules = [alarm["rule"] for alarm in live.snapshot()["active"]]
    assert rules == ["rule4", "rule1", "rule3", "rule2", "rule0"]


def test_everything_that_grows_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_module, "LIVE_DEVICES_MAX", 3)
    live = Live()
    for at in range(5):
        device = f"device-{at}"
        live.update(report(reading({"spo2": "97"}, device=device, patient=None)))
        live.update(report(reading({"spo2": "97"}, device="device-0", patient=None)))
    kept = {t["devices"][0]["device"] for t in live.snapshot()["tiles"]}
    assert kept == {"device-0", "device-3", "device-4"}  # those heard last
    for at in range(live_module.FIRINGS_MAX + 5):
        live.update(report(firings=(firing("start"), firing("end", T0 + at))))
    refused = ("x", Reason.MALFORMED, "no")
    live.update(report(refusals=(refused,) * (live_module.REFUSALS_MAX + 5)))
    snapshot = live.snapshot()
    assert len(snapshot["ended"]) == live_module.FIRINGS_MAX
    assert snapshot["ended"][0]["ended_ms"] == T0 + live_module.FIRINGS_MAX + 4
    assert len(snapshot["refusals"]) == live_module.REFUSALS_MAX


def test_too_many_active_alarms_hide_the_least_urgent_and_are_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(live_module, "ACTIVE_MAX", 2)
    live = Live()
    rules = {"a": "high", "b": "low", "c": "medium"}
    for rule, priority in rules.items():
        live.update(report(firings=(firing("start", priority=priority, rule=rule),)))
    snapshot = live.snapshot()
    assert [alarm["rule"] for alarm in snapshot["active"]] == ["a", "c"]
    assert snapshot["active_hidden"] == 1
    live.update(report(firings=(firing("end", priority="low", rule="b"),)))
    assert live.snapshot()["active_hidden"] == 0


def test_a_snapshot_is_json_and_tells_counters_and_refusals() -> None:
    live = Live()
    live.blocked = "disk full"
    live.update(report(refusals=(("x", Reason.BAD_SIGNATURE, "not its key"),)))
    snapshot = json.loads(json.dumps(live.snapshot()))
    assert snapshot["totals"]["received"] == 7
    assert (snapshot["tree_size"], snapshot["clock_synced"]) == (42, True)
    assert snapshot["blocked"] == "disk full"
    assert snapshot["refusals"] == [
        {
            "time_ms": T0,
            "device": "x",
            "reason": "bad-signature",
            "detail": "not its key",
        }
    ]


@pytest.mark.parametrize(
    ("contract", "rule", "title"),
    [
        ("spo2-low", "low", "SpO2 low"),
        ("spo2-low", "spo2-lost", "SpO2 lost"),
        ("heart-rate", "high", "Heart rate high"),
        ("heart-rate", "rate-lost", "Heart rate lost"),
        ("gateway", "clock_unsynced", "Gateway clock unsynced"),
        ("", "", ""),
    ],
)
def test_a_firing_is_named_in_words(contract: str, rule: str, title: str) -> None:
    assert firing_title(contract, rule) == title


# ---- Subscribers ----


@contextmanager
def shorter(monkeypatch: pytest.MonkeyPatch, heartbeat_s: float) -> Iterator[None]:
    with monkeypatch.context() as patch:
        patch.setattr(live_module, "SNAPSHOT_INTERVAL_S", 0.05)
        patch.setattr(live_module, "HEARTBEAT_S", heartbeat_s)
        yield


async def test_a_burst_of_commits_is_one_snapshot_the_newest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    live = Live()
    with shorter(monkeypatch, heartbeat_s=60):
        async with aclosing(live.subscribe()) as snapshots:
            assert (await anext(snapshots))["tiles"] == []
            for value in range(80, 98):
                live.update(report(reading({"spo2": str(value)})))
            newest = await anext(snapshots)
            assert newest["tiles"][0]["values"]["spo2"]["text"] == "97"
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(anext(snapshots), 0.2)


async def test_a_steady_stream_of_commits_gives_a_subscriber_two_a_second() -> None:
    """Measured at the real interval: over 1.2 s at most four, the first at once."""
    live = Live()
    count = 0

    async def follow() -> None:
        nonlocal count
        async with aclosing(live.subscribe()) as snapshots:
            async for _ in snapshots:
                count += 1

    follower = asyncio.create_task(follow())
    for _ in range(120):
        live.update(report())
        await asyncio.sleep(0.01)
    follower.cancel()
    await asyncio.wait({follower})
    assert 2 <= count <= 4


async def test_a_slow_subscriber_gets_the_newest_and_nothing_is_queued(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    live = Live()
    with shorter(monkeypatch, heartbeat_s=60):
        async with aclosing(live.subscribe()) as snapshots:
            await anext(snapshots)
            for value in ("70", "80", "90"):
                live.update(report(reading({"spo2": value})))
                await asyncio.sleep(0.06)
            assert shown(live, "spo2")["text"] == "90"
            first = await anext(snapshots)
            assert first["tiles"][0]["values"]["spo2"]["text"] == "90"


async def test_without_a_change_a_snapshot_comes_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A page that hears nothing must be able to say that the connection is lost."""
    with shorter(monkeypatch, heartbeat_s=0.1):
        async with aclosing(Live().subscribe()) as snapshots:
            async with asyncio.timeout(5):
                for _ in range(3):
                    await anext(snapshots)


async def test_a_change_of_blocked_reaches_subscribers_without_a_commit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    live = Live()
    with shorter(monkeypatch, heartbeat_s=60):
        async with aclosing(live.subscribe()) as snapshots:
            await anext(snapshots)
            live.blocked = "disk full"
            assert (await anext(snapshots))["blocked"] == "disk full"


async def test_a_subscriber_that_leaves_is_forgotten() -> None:
    live = Live()
    async with aclosing(live.subscribe()) as snapshots:
        await anext(snapshots)
        assert len(live._subscribers) == 1
    assert not live._subscribers


# ---- The table ----


def lines(live: Live) -> list[str]:
    console = Console(file=StringIO(), width=100, height=24)
    with console.capture() as captured:
        console.print(table.WardTable(live.snapshot))
    return captured.get().splitlines()


def ward(live: Live, beds: int) -> None:
    for bed in range(1, beds + 1):
        values = {
            "heart_rate": f"{60 + bed}",
            "spo2": "97",
            "respiratory_rate": "14",
            "body_temperature": "36.6",
            "systolic_pressure": "121",
            "diastolic_pressure": "79",
        }
        name = f"Bed {bed}"
        live.update(report(reading(values, device=f"monitor-{bed}", patient=name)))


def test_eight_beds_fit_a_terminal_of_100_by_24() -> None:
    live = Live()
    ward(live, 8)
    for bed in range(1, 7):
        live.update(report(firings=(firing("start", T0, patient=f"Bed {bed}"),)))
    live.blocked = "disk full"
    text = lines(live)
    assert len(text) <= 23
    assert max(map(len, text)) <= 100
    row = next(line for line in text if "Bed 3" in line)
    cells = ["Bed", "3", "63", "97", "14", "36.6", "121/79", "0", "s"]
    assert row.split() == [*cells, "!!!", "SpO2", "low"]
    assert any("and 2 more active alarms" in line for line in text)
    assert any("NO READINGS ARE TAKEN: disk full" in line for line in text)
    assert any("received 7 · committed 5 · duplicates 1 · refused 1" in t for t in text)


def test_more_rows_than_fit_are_counted_not_lost() -> None:
    live = Live()
    ward(live, table.ROWS_MAX + 3)
    assert any("and 3 more" in line for line in lines(live))


def test_the_table_tells_stale_off_and_impossible_values_apart() -> None:
    clock = Monotonic()
    live = Live(clock)
    live.update(report(reading({"heart_rate": "71", "spo2": "0"})))
    live.update(report(reading({"body_temperature": "52", "systolic_pressure": "120"})))
    clock.now_s += 20
    row = next(line for line in lines(live) if "Bed 1" in line)
    assert row.split()[2:] == ["(71)", "off", "-", "?", "120", "20", "s"]


def test_a_name_cannot_write_escape_codes_or_markup_to_the_terminal() -> None:
    live = Live()
    name = "\x1b[31m[red]Bed\x07"
    live.update(report(reading({"spo2": "97"}, patient=name)))
    text = "\n".join(lines(live))
    assert "\x1b" not in text
    assert "\x07" not in text
    assert "[red]Bed" in text


@pytest.mark.parametrize(
    ("age_ms", "text"),
    [
        (-5, "0 s"),
        (119_999, "119 s"),
        (120_000, "2 min"),
        (7_200_000, "2 h"),
        (172_800_000, "2 d"),
    ],
)
def test_ages_are_told_in_the_unit_that_says_enough(age_ms: int, text: str) -> None:
    assert table.age_text(age_ms) == text
