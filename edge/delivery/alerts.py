"""Alerts over MQTT: each firing, after the commit that holds it.

Topic    iomt/v1/alerts/<priority>/<contract>     priority: high, medium, low, technical
Payload  one line of JSON, UTF-8, keys sorted:

    at_ms          when the rule started or stopped to hold, by the records' clock
    committed_ms   when the commit that holds it was made, same clock
    contract       the contract's name; contract_hash its SHA-256 in hex
    detail         the rule's expression, or what went wrong
    device         the device whose reading decided, or null
    patient        the clinic's name for the patient, or null
    phase          start, end; latched (over, until released), inhibited (a graver rule
                   covers it), escalate, acknowledged, paused, resumed, finding (late)
    to, actor, until_ms, paused    only where they belong: the role of an escalation,
                   who acted, the end of a pause, and true while the alarm is paused
    priority       as in the topic
    reading_id     its name in the ledger, for `iomt prove`
    rule           the rule's name
    subject        patient:<reference> or device:<name>: what the rule was about
    values         the inputs that the rule saw, each × its scale in the contract, or
                   null for unknown: 391 is 39.1 where the contract says scale = 10

A viewer subscribes to iomt/v1/alerts/# or, say, iomt/v1/alerts/high/+; at QoS 1 with a
session that is kept, it is told on coming back what it missed (feed.py). Nothing is
retained: `start` without `end` means active only for one who heard all of them.
Secondary notification only: not a primary alarm.
"""

from __future__ import annotations

import json

from edge.model import (
    NAME_CHARACTERS,
    NAME_LENGTH_MAX,
    Firing,
    LiveFiring,
)

ALERTS_TOPIC = "iomt/v1/alerts"
_STAND_IN = "_"  # for a character that a topic level may not hold


def _level(text: str) -> str:
    """`text` as one topic level: never empty, no separator, no wildcard."""
    kept = [c if c in NAME_CHARACTERS else _STAND_IN for c in text[:NAME_LENGTH_MAX]]
    return "".join(kept) or _STAND_IN


def alert_topic(firing: Firing) -> str:
    """The topic of a firing's alert."""
    return f"{ALERTS_TOPIC}/{_level(firing.priority)}/{_level(firing.contract)}"


def alert_payload(live: LiveFiring, committed_ms: int) -> bytes:
    """The payload of a firing's alert, see the top of this file."""
    firing = live.firing
    fields: dict[str, object] = {
        "at_ms": firing.at_ms,
        "committed_ms": committed_ms,
        "contract": firing.contract,
        "contract_hash": firing.contract_hash.hex(),
        "detail": firing.detail,
        "device": live.device,
        "patient": live.patient,
        "phase": firing.phase,
        "priority": firing.priority,
        "reading_id": live.reading_id,
        "rule": firing.rule,
        "subject": firing.subject,
        "values": dict(firing.values),
    }
    more = {
        "to": firing.to,
        "actor": firing.actor,
        "until_ms": firing.until_ms,
        "paused": firing.paused,
    }
    fields.update({name: value for name, value in more.items() if value})
    text = json.dumps(fields, sort_keys=True, separators=(",", ":"))
    return text.encode()
