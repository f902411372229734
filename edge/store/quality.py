"""How good a device's data are: counts for each device and day (UTC).

Over what the store still holds: retention removes the oldest. What was refused is
counted from quarantine, which is bounded too; the counters since the store began are in
`counters` and know no device.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime

from edge.devices.originals import readings_of
from edge.errors import RefusedError
from edge.model import Event, EventKind, Flag, Kind, Record
from edge.store.reader import Reader

COLUMNS = (
    *("messages", "readings"),
    *(one.name.lower() for one in Flag if one.name),
    *("gaps", "missing", "lost", "refused"),
)


@dataclass(slots=True)
class Quality:
    """One device's day. `missing` counts the sequences of the gaps that opened in it.

    A gap that was filled later stays a gap of its day: the readings in it came late.
    """

    device: str
    day: str
    counts: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)

    def row(self) -> dict[str, object]:
        """As one JSON object."""
        counts = {name: self.counts[name] for name in COLUMNS}
        reasons = dict(sorted(self.reasons.items()))
        return {"device": self.device, "day": self.day, **counts, "reasons": reasons}


def measure(
    reader: Reader,
    *,
    device: str | None = None,
    begin_ms: int = 0,
    end_ms: int = 2**63,
) -> Iterator[Quality]:
    """The days that hold anything, by device and day."""
    found: dict[tuple[str, str], Quality] = {}

    def of(name: str, time_ms: int) -> Quality | None:
        if not begin_ms <= time_ms <= end_ms or (device is not None and name != device):
            return None
        day = datetime.fromtimestamp(time_ms / 1000, UTC).strftime("%Y-%m-%d")
        return found.setdefault((name, day), Quality(name, day))

    id_ = None
    if device is not None and (known := reader.registry().find(device)) is not None:
        id_ = known.id
    for stored in reader.records(device=id_):
        record = stored.record
        if record.device is not None and record.kind in (Kind.READING, Kind.EVENT):
            one = of(record.device, record.received_ms)
            if one is not None:
                _count(one, record)
    for _, time_ms, (_, name, _, reason, *_) in reader.quarantine():
        one = of(str(name), time_ms)
        if one is not None:
            one.counts["refused"] += 1
            one.reasons[str(reason)] += 1
    for place in sorted(found):
        yield found[place]


def _count(quality: Quality, record: Record) -> None:
    counts = quality.counts
    if record.kind is Kind.EVENT:
        event = Event.decode(record.original)
        if event.what is EventKind.LOST:
            counts["lost"] += 1
        elif event.first is not None and event.last is not None:
            counts["gaps"] += 1
            counts["missing"] += event.last - event.first + 1
        return
    counts["messages"] += 1
    try:
        counts["readings"] += len(readings_of(record).readings)
    except RefusedError:  # admitted by other code
        counts["readings"] += 1
    counts.update(one.name.lower() for one in Flag if one in record.flags and one.name)
