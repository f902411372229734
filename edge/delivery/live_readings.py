"""Readings over MQTT as they are committed, for viewers.

Topic    iomt/v1/live/<device>
Payload  one line of JSON, UTF-8, keys sorted, for each reading:

    attestation    device (its signature was checked) or gateway
    committed_ms   when the commit that holds it was made; received_ms when it came
    device         the device's name
    flags          of late, unsynced, backlog, implausible, no_contact, typed
    implausible    names of the metrics whose value is outside its plausible range
    link           mqtt, ble or ble-bonded
    metrics        name to number, in the metric's unit (docs/wire-format.md section 1)
    patient        the clinic's name for the patient, or null
    time_ms        when the device measured it, by its clock, or null

A viewer subscribes to iomt/v1/live/# or iomt/v1/live/bed-7. At QoS 1 what a viewer who
is away misses is kept, but only the newest, and only in memory: these are for looking
at now. What has to be complete asks the store (`iomt readings`). Nothing is retained.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from decimal import Decimal

from edge.model import CommitReport, Flag, LiveReading

TOPIC = "iomt/v1/live/{}"


class LiveReadings:
    """Tells viewers; `publish(topic, payload, user)` must not wait.

    `wanted(user)` says whether that user follows any live topic: most of the time
    nobody does, and nothing is built.
    """

    def __init__(
        self,
        user: str,
        wanted: Callable[[str], bool],
        publish: Callable[[str, bytes, str], int],
    ) -> None:
        self._user = user
        self._wanted = wanted
        self._publish = publish

    def update(self, report: CommitReport) -> None:
        """Tell of what a commit made durable; a listener of Intake.on_commit."""
        if not report.readings or not self._wanted(self._user):
            return
        for live in report.readings:
            payload = live_payload(live, report.time_ms)
            self._publish(TOPIC.format(live.device), payload, self._user)


def live_payload(live: LiveReading, committed_ms: int) -> bytes:
    """The payload of a reading, see the top of this file."""
    reading = live.reading
    values = {name: _number(value) for name, value in reading.values.items()}
    fields = {
        "attestation": live.attestation.name.lower(),
        "committed_ms": committed_ms,
        "device": live.device,
        "flags": [one.name.lower() for one in Flag if one in live.flags and one.name],
        "implausible": sorted(reading.implausible),
        "link": live.link,
        "metrics": {**values, **reading.texts},
        "patient": live.patient,
        "received_ms": live.received_ms,
        "time_ms": reading.time_ms,
    }
    return json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()


def _number(value: Decimal) -> int | float:
    return int(value) if value == int(value) else float(value)
