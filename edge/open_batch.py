"""The batch that collects: what the next commit holds, and what follows from it.

    take      an admitted message  -> a record, its live readings
    repeat    a repetition         -> a count (and, unverified, quarantine)
    refuse    a refusal            -> a count, quarantine
    fire      firings              -> records of their subject, rows of the outbox
    change    an administrator's   -> rows, public entries, records

Each message leaves its answer here; the intake gives it after the commit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from edge.admission import Admitted, Repeated
from edge.devices.registry import Device, Registry, SequenceWindow
from edge.errors import Reason, RefusedError
from edge.ledger.batch import reading_id
from edge.model import (
    Arrival,
    CommitReport,
    Event,
    EventKind,
    Firing,
    Flag,
    Kind,
    LiveFiring,
    LiveReading,
    Outcome,
    Record,
    Source,
    Verdict,
)
from edge.store.commit import Batch, Class, Committed, Refusal, Slot, SqlValue, Writer

DETAIL_LENGTH_MAX = 300
_COUNTERS = {
    (source, verdict): ("received", f"{source}.received", name, f"{source}.{name}")
    for source in Source
    for verdict, name in (
        (Verdict.COMMITTED, "committed"),
        (Verdict.DUPLICATE, "duplicates"),
        (Verdict.REFUSED, "refused"),
    )
}
_COMMITTED = Outcome(Verdict.COMMITTED)


@dataclass(slots=True)
class Change:
    """What an administrator changes: rows, public entries and records of one commit.

    `steps` run last in the transaction, on the writer's thread; `snapshot` has the
    contracts' state stored with it, so that no replay needs the records before.
    `applied` is called on the event loop after the commit. `batch` and `leaves` say
    where the records stand, once they do.
    """

    statements: list[tuple[str, tuple[SqlValue, ...]]] = field(default_factory=list)
    entries: list[bytes] = field(default_factory=list)
    records: list[tuple[Record, Slot]] = field(default_factory=list)
    steps: list[Callable[[Writer], None]] = field(default_factory=list)
    snapshot: bool = False
    applied: Callable[[], None] | None = None
    batch: Batch | None = None
    leaves: list[int] = field(default_factory=list)


class Answered(NamedTuple):
    """A message whose sender gets a receipt; `leaf` is its record's, or 0."""

    device: str
    payload: bytes
    outcome: Outcome
    leaf: int


class Names(Protocol):
    """Who is behind a patient's random reference (hexadecimal)."""

    def id_of(self, ref: str) -> int | None:
        """The store's id."""

    def name_of(self, ref: str) -> str | None:
        """The clinic's name."""


@dataclass(slots=True)
class OpenBatch:
    """Collects until the commit begins; `urgent` says not to wait for a token."""

    registry: Registry
    patients: Names
    batch: Batch = field(default_factory=lambda: Batch(number=0))
    settles: list[tuple[Callable[[Outcome], None], Outcome]] = field(
        default_factory=list
    )
    applied: list[Callable[[], None]] = field(default_factory=list)
    refusals: list[tuple[str, Reason, str]] = field(default_factory=list)
    urgent: bool = False
    snapshot: bool = False
    deliver: bool = False  # firings go to the webhook, too
    wants_receipt: Callable[[Arrival], bool] | None = None
    answered: list[Answered] = field(default_factory=list)
    _windows: dict[int, SequenceWindow] = field(default_factory=dict)
    _last_leaf: int = 0  # of the message that was taken last
    _readings: list[LiveReading] = field(default_factory=list)
    _firings: list[tuple[Firing, str | None, int]] = field(default_factory=list)

    def answer(self, arrival: Arrival, outcome: Outcome) -> None:
        """Count a message and keep its answer for after the commit."""
        counts = self.batch.counts
        for name in _COUNTERS[arrival.source, outcome.verdict]:
            counts[name] += 1
        self.settles.append((arrival.settle, outcome))
        if self.wants_receipt is not None and self.wants_receipt(arrival):
            committed = outcome.verdict is Verdict.COMMITTED
            leaf = self._last_leaf if committed else 0
            self.answered.append(
                Answered(arrival.device, arrival.payload, outcome, leaf)
            )

    def take(self, admitted: Admitted, window: SequenceWindow | None) -> Outcome:
        """A message becomes a record; `window` has noted its sequence, if it has one.

        What the window then holds is stored as it stands when the commit begins: by
        then it has noted the sequences of this batch and no others.
        """
        record, device = admitted.record, admitted.device
        assignment = device.assignment
        slot = Slot(
            device.id,
            assignment.id if assignment else 0,
            assignment.patient if assignment else 0,
            Class.EVENTS if record.kind is Kind.EVENT else Class.READINGS,
        )
        self._last_leaf = self.batch.add(record, slot)
        if admitted.gap is not None:
            self._note_gap(record, slot._replace(retention=Class.EVENTS), admitted.gap)
        if window is not None:
            self._windows[device.id] = window
        ref = assignment.patient_ref.hex() if assignment else ""
        patient = self.patients.name_of(ref)
        self._readings += [
            LiveReading(
                device.name,
                patient,
                record.link or "",
                record.attestation,
                record.flags,
                record.received_ms,
                reading,
            )
            for reading in admitted.readings
        ]
        return _COMMITTED

    def _note_gap(self, after: Record, slot: Slot, gap: tuple[int, int]) -> None:
        first, last = gap
        event = Record(
            kind=Kind.EVENT,
            received_ms=after.received_ms,
            original=Event(EventKind.GAP, first, last).encode(),
            device=after.device,
            flags=after.flags & Flag.UNSYNCED,
            assignment=after.assignment,
        )
        self.batch.add(event, slot)
        self.batch.counts["gaps"] += 1
        self.batch.counts["gap-sequences"] += last - first + 1

    def repeat(self, arrival: Arrival, repeated: Repeated, now_ms: int) -> Outcome:
        """A repetition; where we can no longer compare it, keep what came."""
        if not repeated.verified:
            reason = "unverified-duplicate"
            self._quarantine(arrival, reason, "an old sequence", now_ms)
        return Outcome(Verdict.DUPLICATE)

    def refuse(self, arrival: Arrival, refusal: RefusedError, now_ms: int) -> Outcome:
        """A refusal, kept with its reason."""
        detail = refusal.detail[:DETAIL_LENGTH_MAX]
        self._quarantine(arrival, refusal.reason.value, detail, now_ms)
        self.batch.counts[f"refused.{refusal.reason.value}"] += 1
        self.refusals.append((arrival.device, refusal.reason, detail))
        return Outcome(Verdict.REFUSED, refusal.reason, detail)

    def _quarantine(
        self, arrival: Arrival, reason: str, detail: str, now_ms: int
    ) -> None:
        self.batch.refusals.append(
            Refusal(
                arrival.principal,
                arrival.device,
                arrival.stream,
                reason,
                detail,
                arrival.payload,
                now_ms,
            )
        )
        self.batch.size += len(arrival.payload)

    def fire(self, firings: Sequence[Firing], cause: Record) -> None:
        """Firings go into frames of their subject, and out at once."""
        for firing in firings:
            device, slot = self.event_slot(firing.subject)
            record = Record(
                kind=Kind.FIRING,
                received_ms=cause.received_ms,
                original=firing.encode(),
                device=device.name if device else None,
                flags=cause.flags & Flag.UNSYNCED,
            )
            leaf = self.batch.add(record, slot)
            self.batch.outbox.append(("alert", leaf))
            if self.deliver:
                self.batch.deliveries.append(leaf)
            self._firings.append((firing, cause.device, leaf))
            self.urgent = True

    def event_slot(self, subject: str) -> tuple[Device | None, Slot]:
        """The device that a contract's subject is, or None, and its frame's place."""
        kind, _, key = subject.partition(":")
        device = self.registry.find(key) if kind == "device" else None
        if device is not None and device.assignment is not None:
            one = device.assignment
            return device, Slot(device.id, one.id, one.patient, Class.EVENTS)
        if device is not None:
            return device, Slot(device.id, 0, 0, Class.EVENTS)
        return None, Slot(0, 0, self.patients.id_of(key) or 0, Class.EVENTS)

    def change(self, change: Change) -> None:
        """An administrator's change, but for the firings of its records."""
        self.batch.statements += change.statements
        self.batch.entries += change.entries
        self.batch.steps += change.steps
        self.snapshot |= change.snapshot
        change.batch = self.batch
        change.leaves = [self.batch.add(*one) for one in change.records]
        if change.applied is not None:
            self.applied.append(change.applied)
        self.urgent = True

    def end(self) -> None:
        """The commit begins: note how its devices' sequences stand now."""
        for device, window in self._windows.items():
            self.batch.sequences[device] = window.encode()

    def report(
        self, boot_id: bytes, committed: Committed, totals: Mapping[str, int]
    ) -> CommitReport:
        """What the commit of this batch made durable."""
        firings = []
        first = committed.outbox_last - len(self._firings) + 1
        for number, (firing, device, leaf) in enumerate(self._firings, first):
            subject, _, key = firing.subject.partition(":")
            patient = self.patients.name_of(key) if subject == "patient" else None
            name = reading_id(boot_id, self.batch.number, leaf, 0)
            firings.append(LiveFiring(firing, device, patient, name, number))
        return CommitReport(
            time_ms=self.batch.time_ms,
            tree_size=committed.tree_size,
            clock_synced=self.batch.clock_synced,
            readings=tuple(self._readings),
            firings=tuple(firings),
            refusals=tuple(self.refusals),
            totals=dict(totals),
        )
