"""What a check of a ledger or a proof found: the facts, the verdict, the place."""

from __future__ import annotations

from base64 import b64encode
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import IntEnum

from edge.errors import RejectError

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Verdict(IntEnum):
    """The answer; the value is the exit status."""

    OK = 0
    REFUSED = 1
    CANNOT_RUN = 2
    NOT_ENOUGH = 3


_WORDS = {
    Verdict.OK: "VERIFIED",
    Verdict.REFUSED: "REFUSED",
    Verdict.CANNOT_RUN: "CANNOT RUN",
    Verdict.NOT_ENOUGH: "NOT ENOUGH",
}


@dataclass(slots=True)
class Report:
    """What was found. `place` names the file and, where known, the spot in it."""

    verdict: Verdict
    reason: str = ""
    place: str = ""
    origin: str | None = None
    size: int | None = None
    root: bytes | None = None
    counts: Counter[str] = field(default_factory=Counter)  # entries by kind
    facts: list[str] = field(default_factory=list)
    log_lacks: list[str] = field(default_factory=list)
    device_lacks: str = ""

    def describe(self, origin: str, size: int, root: bytes) -> None:
        """Say which tree this is about."""
        self.origin, self.size, self.root = origin, size, root

    def conclude(self) -> None:
        """NOT ENOUGH, with the reason, where something is lacking and all else good."""
        if not self.log_lacks and not self.device_lacks:
            return
        self.verdict = Verdict.NOT_ENOUGH
        self.reason = "; ".join(self.log_lacks)
        if self.device_lacks:
            log = f"not enough ({self.reason})" if self.log_lacks else "verified"
            self.reason = f"log: {log}; device: not enough ({self.device_lacks})"

    def lines(self) -> list[str]:
        """The report for a terminal, the verdict last."""
        lines = []
        if self.origin is not None and self.size is not None and self.root is not None:
            lines.append(f"origin  {self.origin}")
            lines.append(f"size    {self.size}")
            lines.append(f"root    {b64encode(self.root).decode()}")
        if self.counts:
            kinds = ", ".join(
                f"{self.counts[one]} {one}" for one in sorted(self.counts)
            )
            lines.append(f"entries {kinds}")
        lines += self.facts
        last = _WORDS[self.verdict]
        if self.reason:
            last += f": {self.reason}"
        if self.place:
            last += f" [{self.place}]"
        return [_shown(line) for line in (*lines, last)]


def _shown(text: str) -> str:
    """The text without what could steer a terminal: names in here are a stranger's."""
    return "".join(one if one.isprintable() else ascii(one)[1:-1] for one in text)


class DamageError(RejectError):
    """What was read is not what it must be."""

    def __init__(self, place: str, reason: str) -> None:
        super().__init__(f"{reason} [{place}]")
        self.place = place
        self.reason = reason


def shown_time(time_ms: int) -> str:
    """Milliseconds since 1970 as a date, or as they are beyond the year 9999."""
    try:
        moment = _EPOCH + timedelta(milliseconds=time_ms)
    except OverflowError:
        return f"{time_ms} ms"
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{time_ms % 1000:03d}Z"
