"""What the live views show: the newest values, the alarms, the counters. In memory.

`Live.update` takes each CommitReport, so nothing is shown before it is durable. A view
takes a Snapshot, which is JSON:

    now_ms        the records' clock, as of the snapshot; ages are now_ms - measured_ms
    time_ms       the newest commit; 0 before the first
    tree_size, clock_synced, totals
    blocked       why no readings are taken, empty when they are
    tiles         one for each patient, then one for each device without a patient
    active        alarms that have started and not ended, the most urgent first
    active_hidden how many more there are
    ended         alarms that ended, the newest first
    refusals      the newest first

Everything is bounded. When a device moves to another patient, the values it measured
on the first are dropped: they must never be seen under the second's name.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass, field
from decimal import ROUND_HALF_UP, Context, Decimal
from functools import cache
from typing import NamedTuple, TypedDict

from edge.devices.metrics import BY_NAME
from edge.model import (
    Attestation,
    CommitReport,
    Flag,
    LiveFiring,
    LiveReading,
    Reading,
)

LIVE_DEVICES_MAX = 1000
FIRINGS_MAX = 200
ACTIVE_MAX = 1000
REFUSALS_MAX = 100
SNAPSHOT_INTERVAL_S = 0.5  # of one subscriber: at most two snapshots a second
HEARTBEAT_S = 2.0  # a snapshot comes at least so often, so that silence means a fault

STALE_AFTER_MS = 15_000
# Measured now and then, so an old value is no sign of a fault: their age is always
# shown. The contracts of the library believe them for as long.
STALE_AFTER_OF_MS: Mapping[str, int] = {
    "body_temperature": 5 * 60_000,
    "ambient_temperature": 5 * 60_000,
    "systolic_pressure": 30 * 60_000,
    "diastolic_pressure": 30 * 60_000,
    "mean_pressure": 30 * 60_000,
    "glucose": 4 * 3_600_000,
    "acvpu": 4 * 3_600_000,
    "weight": 24 * 3_600_000,
    "battery": 30 * 60_000,
}
NOT_ON_A_TILE = frozenset({"sensor_contact", "battery", "ecg"})
SHOWN_IN_TENTHS = frozenset({"body_temperature", "ambient_temperature", "weight"})
NO_NUMBER = "—"  # is shown for a value that nobody may rely on
PRIORITIES = ("high", "medium", "low", "technical")
_ONES, _TENTHS = Decimal(1), Decimal("0.1")
_WIDE = Context(prec=60)  # more digits than any value has (expression.py)
_UNITS = {"mm[Hg]": "mmHg", "Cel": "°C", "1": ""}
_WORDS = {"spo2": "SpO2"}
_RATES = ("heart_rate", "pulse_rate")
_OLD_FLAGS = Flag.LATE | Flag.BACKLOG


class Shown(TypedDict):
    """A value. `state`: ok, off (no contact, or a 0 that cannot be), implausible,
    missing (the sensor sent no number); only of ok values is `text` the number."""

    device: str
    value: str | None  # exactly as measured
    text: str
    unit: str
    state: str
    measured_ms: int
    stale_after_ms: int
    flags: list[str]


class DeviceLine(TypedDict):
    """A device of a tile; `attestation` is device (signed) or gateway."""

    device: str
    link: str
    attestation: str
    received_ms: int
    battery: str


class Tile(TypedDict):
    """A patient, or a device without one. Of several devices' values the best.

    `rate` names the value to show as the heart's: the pulse of an oximeter counts only
    while there is no heart rate.
    """

    patient: str | None
    devices: list[DeviceLine]
    rate: str
    values: dict[str, Shown]


# Of an alarm that has not ended, by the phase of its newest firing.
_STATES = {
    "start": "active",
    "resumed": "active",
    "latched": "latched",
    "inhibited": "inhibited",
    "acknowledged": "acknowledged",
    "paused": "paused",
    "escalate": "escalated",
}


class Alarm(TypedDict):
    """An alarm; `ended_ms` is None until it has ended."""

    title: str
    contract: str
    rule: str
    priority: str
    subject: str
    patient: str | None
    device: str | None
    started_ms: int | None
    ended_ms: int | None
    detail: str
    reading_id: str
    state: str  # active, latched, acknowledged, paused, escalated or inhibited
    note: str  # who acknowledged or paused it, whom it went to


class RefusalLine(TypedDict):
    """A message that was refused."""

    time_ms: int
    device: str
    reason: str
    detail: str


class Snapshot(TypedDict):
    """What the views show, see the top of this file. Shared: do not change it."""

    now_ms: int
    time_ms: int
    tree_size: int
    clock_synced: bool
    blocked: str
    totals: dict[str, int]
    tiles: list[Tile]
    active: list[Alarm]
    active_hidden: int
    ended: list[Alarm]
    refusals: list[RefusalLine]


class _Measured(NamedTuple):
    """A reading and when it was measured: by our clock, and by the device's own."""

    measured_ms: int
    time_ms: int
    live: LiveReading


@dataclass(slots=True)
class _Device:
    """What one device told last."""

    name: str
    patient: str | None
    link: str = ""
    attestation: Attestation = Attestation.GATEWAY
    received_ms: int = 0
    newest: tuple[int, int] = (0, 0)  # of its values: measured_ms, time_ms
    values: dict[str, _Measured] = field(default_factory=dict)


def firing_title(contract: str, rule: str) -> str:
    """A firing in words: ("heart-rate", "high") is "Heart rate high"."""
    about, what = (re.split(r"[-_.\s]+", text) for text in (contract, rule))
    if what[0] == about[0]:
        about = []
    elif what[0] == about[-1]:
        what = what[1:]
    words = " ".join(_WORDS.get(word, word) for word in [*about, *what])
    return words[:1].upper() + words[1:]


def value_text(name: str, number: Decimal) -> str:
    """A number as a person reads it, rounded as a contract's fixed point is: 89.6 %
    looks like 90 where the rule `spo2 < 90` takes it for 90 (expression.fixed_point).
    """
    step = _TENTHS if name in SHOWN_IN_TENTHS else _ONES
    return f"{_WIDE.plus(number.quantize(step, ROUND_HALF_UP, _WIDE)):f}"  # no -0


class Live:
    """The newest state; `monotonic_s` is replaced in tests. Not for several threads."""

    def __init__(self, monotonic_s: Callable[[], float] = time.monotonic) -> None:
        self._monotonic_s = monotonic_s
        self._anchor = (0, monotonic_s())  # the records' clock, and when it was so
        self._devices: dict[str, _Device] = {}  # the one heard last stands last
        self._active: dict[tuple[str, str, str], Alarm] = {}
        self._active_hidden = 0
        self._ended: deque[Alarm] = deque(maxlen=FIRINGS_MAX)
        self._refusals: deque[RefusalLine] = deque(maxlen=REFUSALS_MAX)
        self._newest: CommitReport | None = None
        self._blocked = ""
        self._version = 0
        self._cached: tuple[tuple[int, int], Snapshot] | None = None
        self._subscribers: set[asyncio.Event] = set()

    @property
    def blocked(self) -> str:
        """Why no readings are taken, empty when they are; the gateway sets it."""
        return self._blocked

    @blocked.setter
    def blocked(self, reason: str) -> None:
        if reason != self._blocked:
            self._blocked = reason
            self._changed()

    def update(self, report: CommitReport) -> None:
        """Take what a commit made durable."""
        now_ms = max(self._now_ms(), report.time_ms)
        self._anchor = (now_ms, self._monotonic_s())
        self._newest = report
        for reading in report.readings:
            self._take_reading(reading)
        for firing in report.firings:
            self._take_firing(firing)
        for device, reason, detail in report.refusals:
            self._refusals.appendleft(
                RefusalLine(
                    time_ms=report.time_ms,
                    device=device,
                    reason=reason.value,
                    detail=detail,
                )
            )
        self._changed()

    def forget(self, patient: str) -> None:
        """Show nothing of a patient any more."""
        for name, device in list(self._devices.items()):
            if device.patient == patient:
                del self._devices[name]
        for key, alarm in list(self._active.items()):
            if alarm["patient"] == patient:
                del self._active[key]
        ended = [one for one in self._ended if one["patient"] != patient]
        self._ended = deque(ended, maxlen=FIRINGS_MAX)
        self._changed()

    def snapshot(self) -> Snapshot:
        """What to show now; the same object while neither time nor state has moved."""
        slot = int(self._monotonic_s() / SNAPSHOT_INTERVAL_S)
        key = (self._version, slot)
        if self._cached is None or self._cached[0] != key:
            self._cached = (key, self._build())
        return self._cached[1]

    async def subscribe(self) -> AsyncGenerator[Snapshot, None]:
        """Snapshots: at once, then the newest after each change, two a second at most.

        Nothing is queued: a slow subscriber misses what was between. Without a change
        one comes every HEARTBEAT_S. All subscribers wake at the same moments, so that
        they share one snapshot.
        """
        changed = asyncio.Event()
        self._subscribers.add(changed)
        try:
            while True:
                changed.clear()
                yield self.snapshot()
                slots = self._monotonic_s() / SNAPSHOT_INTERVAL_S
                await asyncio.sleep((int(slots) + 1 - slots) * SNAPSHOT_INTERVAL_S)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(HEARTBEAT_S - SNAPSHOT_INTERVAL_S):
                        await changed.wait()
        finally:
            self._subscribers.discard(changed)

    # ---- Taking ----

    def _changed(self) -> None:
        self._version += 1
        for changed in self._subscribers:
            changed.set()

    def _now_ms(self) -> int:
        """The records' clock: the newest commit's time and what went by since."""
        then_ms, at_s = self._anchor
        if self._newest is None:
            return then_ms
        return then_ms + int((self._monotonic_s() - at_s) * 1000)

    def _take_reading(self, live: LiveReading) -> None:
        device = self._devices.pop(live.device, None)
        if device is None or device.patient != live.patient:
            device = _Device(live.device, live.patient)
        self._devices[live.device] = device
        if len(self._devices) > LIVE_DEVICES_MAX:
            del self._devices[next(iter(self._devices))]
        device.link, device.attestation = live.link, live.attestation
        device.received_ms = measured_ms = live.received_ms
        reading = live.reading
        time_ms = measured_ms if reading.time_ms is None else reading.time_ms
        if live.flags & _OLD_FLAGS:
            measured_ms = min(measured_ms, time_ms)
        values, moment = device.values, (measured_ms, time_ms)
        names = [*reading.values, *reading.texts, *reading.implausible]
        if moment >= device.newest:
            device.newest = moment
        else:  # what was stored and is sent late must not replace a newer value
            names = [n for n in names if n not in values or values[n][:2] <= moment]
        values.update(dict.fromkeys(names, _Measured(*moment, live)))

    def _take_firing(self, live: LiveFiring) -> None:
        firing = live.firing
        key = (firing.contract, firing.rule, firing.subject)
        started = self._active.pop(key, None)
        alarm = Alarm(
            title=firing_title(firing.contract, firing.rule),
            contract=firing.contract,
            rule=firing.rule,
            priority=firing.priority,
            subject=firing.subject,
            patient=live.patient,
            device=live.device,
            started_ms=started["started_ms"] if started else None,
            ended_ms=None,
            detail=firing.detail,
            reading_id=live.reading_id,
            state=_STATES.get(firing.phase, "active"),
            note=firing.actor or firing.to.removeprefix("role:"),
        )
        if firing.phase == "finding":
            alarm["started_ms"] = alarm["ended_ms"] = firing.at_ms
            self._ended.appendleft(alarm)
            return
        if started is None and firing.phase == "paused":
            return  # of a rule that is quiet
        if firing.phase in _STATES:
            if firing.phase == "start" or started is None:
                alarm["started_ms"] = firing.at_ms
            self._active[key] = alarm
            if len(self._active) > ACTIVE_MAX:
                del self._active[max(self._active, key=self._least_urgent)]
                self._active_hidden += 1
            return
        if started is None and self._active_hidden:
            self._active_hidden -= 1
        alarm["ended_ms"] = firing.at_ms
        self._ended.appendleft(alarm)

    def _least_urgent(self, key: tuple[str, str, str]) -> tuple[int, int]:
        return _urgency(self._active[key])

    # ---- Showing ----

    def _build(self) -> Snapshot:
        report, now_ms = self._newest, self._now_ms()
        return Snapshot(
            now_ms=now_ms,
            time_ms=report.time_ms if report else 0,
            tree_size=report.tree_size if report else 0,
            clock_synced=report.clock_synced if report else False,
            blocked=self._blocked,
            totals=dict(report.totals) if report else {},
            tiles=self._tiles(now_ms),
            active=sorted(self._active.values(), key=_urgency),
            active_hidden=self._active_hidden,
            ended=list(self._ended),
            refusals=list(self._refusals),
        )

    def _tiles(self, now_ms: int) -> list[Tile]:
        groups: dict[tuple[bool, str], list[_Device]] = {}
        for device in self._devices.values():
            alone = device.patient is None
            name = device.name if device.patient is None else device.patient
            groups.setdefault((alone, name), []).append(device)
        return [
            _tile(sorted(groups[key], key=lambda device: device.name), now_ms)
            for key in sorted(groups, key=lambda key: (key[0], _natural(key[1])))
        ]


def _state(reading: Reading, name: str) -> str:
    number = reading.values.get(name)
    if reading.no_contact:
        return "off"
    if name not in reading.implausible:
        return "ok"
    if number is None:
        return "missing" if name not in reading.texts else "implausible"
    return "off" if number == 0 else "implausible"


def _natural(name: str) -> list[tuple[int, int, str]]:
    """A key that puts bed-2 before bed-10."""
    words = re.split(r"([0-9]+)", name.casefold())
    numbers = [word.lstrip("0") for word in words[1::2]]
    key = [(0, 0, word) for word in words]
    key[1::2] = [(1, len(number), number) for number in numbers]
    return key


def _urgency(alarm: Alarm) -> tuple[int, int]:
    """Sorts the most urgent first and of equals the newest."""
    known = alarm["priority"] in PRIORITIES
    rank = PRIORITIES.index(alarm["priority"]) if known else len(PRIORITIES)
    return rank, -(alarm["started_ms"] or 0)


def _stale_after_ms(name: str) -> int:
    return STALE_AFTER_OF_MS.get(name, STALE_AFTER_MS)


def _tile(devices: list[_Device], now_ms: int) -> Tile:
    """Of one metric from several devices: a good fresh value, else the newest."""
    best: dict[str, tuple[tuple[bool, int], str, _Measured]] = {}
    for device in devices:
        for name, measured in device.values.items():
            if name in NOT_ON_A_TILE:
                continue
            fresh = now_ms - measured.measured_ms <= _stale_after_ms(name)
            good = fresh and _state(measured.live.reading, name) == "ok"
            rank = (good, measured.measured_ms)
            if name not in best or best[name][0] < rank:
                best[name] = (rank, device.name, measured)
    rates = [name for name in _RATES if name in best]
    good_rates = [name for name in rates if best[name][0][0]]
    return Tile(
        patient=devices[0].patient,
        devices=[_line(device) for device in devices],
        rate=next(iter(good_rates or rates), ""),
        values={
            name: _shown(name, *best[name][1:]) for name in BY_NAME if name in best
        },
    )


def _shown(name: str, device: str, measured: _Measured) -> Shown:
    live = measured.live
    state, number = _state(live.reading, name), live.reading.values.get(name)
    letter = live.reading.texts.get(name)
    text: str | None = NO_NUMBER
    if state == "ok":
        text = letter if number is None else value_text(name, number)
    unit = BY_NAME[name].unit
    return Shown(
        device=device,
        value=letter if number is None else str(number),
        text=text or NO_NUMBER,
        unit=_UNITS.get(unit, unit),
        state=state,
        measured_ms=measured.measured_ms,
        stale_after_ms=_stale_after_ms(name),
        flags=_flag_names(live.flags),
    )


@cache
def _flag_names(flags: Flag) -> list[str]:
    return [flag.name.lower() for flag in flags if flag.name]


def _line(device: _Device) -> DeviceLine:
    charge = device.values.get("battery")
    battery = _shown("battery", device.name, charge) if charge else None
    return DeviceLine(
        device=device.name,
        link=device.link,
        attestation=device.attestation.name.lower(),
        received_ms=device.received_ms,
        battery=battery["text"] if battery and battery["state"] == "ok" else "",
    )
