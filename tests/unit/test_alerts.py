"""Alerts over MQTT: the topic and payload that viewers rely on."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.delivery.alerts import alert_payload, alert_topic
from edge.model import CommitReport, Firing, LiveFiring
from edge.sources.mqtt_topics import VIEWER, may_subscribe

FIRING = Firing(
    contract="temperature",
    contract_hash=bytes(range(32)),
    rule="high",
    priority="medium",
    phase="start",
    subject="patient:00ff",
    at_ms=1_790_000_000_000,
    values={"temperature": 391, "pulse": None},
    detail="temperature >= '39.0'",
)
LIVE = LiveFiring(FIRING, "monitor-1", "Zoë", "a1b2c3d4e5f6-7-3.0")


def report(*firings: LiveFiring) -> CommitReport:
    return CommitReport(1_790_000_000_250, 9, True, (), firings, (), {})


def test_the_topic_names_priority_and_contract() -> None:
    assert alert_topic(FIRING) == "iomt/v1/alerts/medium/temperature"


def test_the_payload_is_one_line_of_json_with_sorted_keys() -> None:
    payload = alert_payload(LIVE, 1_790_000_000_250)
    assert payload == (
        b'{"at_ms":1790000000000,"committed_ms":1790000000250,'
        b'"contract":"temperature","contract_hash":"000102030405060708090a0b0c0d0e0f'
        b'101112131415161718191a1b1c1d1e1f","detail":"temperature >= \'39.0\'",'
        b'"device":"monitor-1","patient":"Zo\\u00eb","phase":"start",'
        b'"priority":"medium","reading_id":"a1b2c3d4e5f6-7-3.0","rule":"high",'
        b'"subject":"patient:00ff","values":{"pulse":null,"temperature":391}}'
    )


@pytest.mark.parametrize(
    ("contract", "level"),
    [
        ("a/b", "a_b"),
        ("+", "_"),
        ("#", "_"),
        ("$SYS", "_SYS"),
        ("", "_"),
        ("é\x00", "__"),
        ("x" * 300, "x" * 64),
    ],
)
def test_a_contract_name_is_always_exactly_one_topic_level(
    contract: str, level: str
) -> None:
    topic = alert_topic(replace(FIRING, contract=contract))
    assert topic == f"iomt/v1/alerts/medium/{level}"


@given(st.text(), st.text())
def test_no_name_can_leave_the_alerts_topic(priority: str, contract: str) -> None:
    """A wildcard or separator in a name would reach another subscriber."""
    topic = alert_topic(replace(FIRING, priority=priority, contract=contract))
    levels = topic.split("/")
    assert levels[:3] == ["iomt", "v1", "alerts"]
    assert len(levels) == 5
    assert all(levels)
    assert not set("+#\x00") & set(topic)


@given(st.text(), st.text(), st.dictionaries(st.text(), st.none() | st.integers()))
def test_any_firing_makes_a_payload_that_reads_back(
    detail: str, patient: str, values: dict[str, int | None]
) -> None:
    firing = replace(FIRING, detail=detail, values=values)
    payload = alert_payload(replace(LIVE, firing=firing, patient=patient), 1)
    assert b"\n" not in payload
    read = json.loads(payload)
    assert (read["detail"], read["patient"]) == (detail, patient)
    assert read["values"] == values


def test_a_viewer_may_subscribe_to_what_is_published() -> None:
    assert may_subscribe("iomt/v1/alerts/#", VIEWER, None)
    assert may_subscribe(alert_topic(FIRING), VIEWER, None)
