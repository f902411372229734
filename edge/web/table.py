"""The ward in a terminal: the table of `iomt demo`, from the snapshots of live.py.

One row for each patient and unassigned device, the active alarms, one line of totals:
at most 23 lines, for 100 columns. `-` is for what is not measured, `off` for a sensor
that touches nobody, `?` for a value that cannot be; one in parentheses is stale.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from edge.web.live import Alarm, Shown, Snapshot, Tile

ROWS_MAX = 12
ALARMS_SHOWN = 4
COLUMNS = ("HR", "SpO2", "RR", "Temp", "BP", "Age")
MARKS = {"high": "!!!", "medium": "!!", "low": "!", "technical": "*"}
STYLES = {
    "high": "bold white on red",
    "medium": "black on yellow",
    "low": "black on cyan",
    "technical": "white on grey37",
}
NOTICE = "Secondary notification only: not a primary alarm."
_WORDS = {"off": "off", "implausible": "?", "missing": "?"}
_CONTROLS = dict.fromkeys((*range(32), *range(127, 160)), "�")


class WardTable:
    """Renders the newest snapshot each time that rich asks for it."""

    def __init__(self, snapshot: Callable[[], Snapshot]) -> None:
        self._snapshot = snapshot

    def __rich__(self) -> RenderableType:
        return render(self._snapshot())


def render(snapshot: Snapshot) -> RenderableType:
    """The table, the active alarms and the totals of a snapshot."""
    table = Table(box=box.SIMPLE_HEAD, expand=True, padding=(0, 1), show_edge=False)
    table.add_column("Patient", ratio=4, no_wrap=True, overflow="ellipsis")
    for name in COLUMNS:
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("Alarms", ratio=6, no_wrap=True, overflow="ellipsis")
    for tile in snapshot["tiles"][:ROWS_MAX]:
        alarms = [a for a in snapshot["active"] if _is_about(a, tile)]
        table.add_row(*_row(tile, alarms, snapshot["now_ms"]))
    more = len(snapshot["tiles"]) - ROWS_MAX
    lines: list[RenderableType] = [table]
    if more > 0:
        lines.append(_line(f"and {more} more", "dim"))
    lines += _alarm_lines(snapshot)
    lines.append(_totals(snapshot))
    if snapshot["blocked"]:
        blocked = f"NO READINGS ARE TAKEN: {snapshot['blocked']}"
        lines.append(_line(blocked, STYLES["high"]))
    lines.append(_line(NOTICE, "bold"))
    return Group(*lines)


def age_text(age_ms: int) -> str:
    """An age in the largest unit that says enough, up to days."""
    seconds = max(0, age_ms) // 1000
    for limit, size, unit in ((120, 1, "s"), (7200, 60, "min"), (172_800, 3600, "h")):
        if seconds < limit:
            return f"{seconds // size} {unit}"
    return f"{seconds // 86_400} d"


def _line(text: str, style: str = "") -> Text:
    """One line, without the control characters that could rewrite a terminal."""
    shown = text.translate(_CONTROLS)
    return Text(shown, style=style, no_wrap=True, overflow="ellipsis")


def _row(tile: Tile, alarms: Sequence[Alarm], now_ms: int) -> list[Text]:
    values = tile["values"]
    names = (tile["rate"], "spo2", "respiratory_rate", "body_temperature")
    cells = [_cell(values.get(name), now_ms) for name in names]
    cells.append(_pressure(values, now_ms))
    heard_ms = max(line["received_ms"] for line in tile["devices"])
    cells.append(_line(age_text(now_ms - heard_ms)))
    unassigned = f"{tile['devices'][0]['device']} (unassigned)"
    name = tile["patient"] if tile["patient"] is not None else unassigned
    told = Text(no_wrap=True, overflow="ellipsis")
    for alarm in alarms:
        text = f"{MARKS.get(alarm['priority'], '?')} {alarm['title']}"
        told.append_text(_line(text, STYLES.get(alarm["priority"], "")))
        told.append(" ")
    return [_line(name), *cells, told]


def _cell(shown: Shown | None, now_ms: int) -> Text:
    if shown is None:
        return _line("-", "dim")
    if shown["state"] != "ok":
        return _line(_WORDS.get(shown["state"], "?"), "bold")
    if now_ms - shown["measured_ms"] > shown["stale_after_ms"]:
        return _line(f"({shown['text']})", "dim")
    return _line(shown["text"], "bold")


def _pressure(values: dict[str, Shown], now_ms: int) -> Text:
    high, low = values.get("systolic_pressure"), values.get("diastolic_pressure")
    if high is None or low is None:
        return _cell(high or low, now_ms)
    for one in (high, low):
        if one["state"] != "ok":
            return _cell(one, now_ms)
    older = min(high, low, key=lambda one: one["measured_ms"])
    both: Shown = {**older, "text": f"{high['text']}/{low['text']}"}
    return _cell(both, now_ms)


def _is_about(alarm: Alarm, tile: Tile) -> bool:
    if alarm["patient"] is not None:
        return alarm["patient"] == tile["patient"]
    return any(alarm["device"] == line["device"] for line in tile["devices"])


def _alarm_lines(snapshot: Snapshot) -> list[Text]:
    """The most urgent alarms in full, with how long they have been active."""
    lines = []
    for alarm in snapshot["active"][:ALARMS_SHOWN]:
        mark = f"{MARKS.get(alarm['priority'], '?')} {alarm['priority'].upper()}"
        about = alarm["patient"] or alarm["device"] or alarm["subject"].rstrip(":")
        age = age_text(snapshot["now_ms"] - (alarm["started_ms"] or 0))
        text = f" {mark}  {about}: {alarm['title']}, active for {age} "
        lines.append(_line(text, STYLES.get(alarm["priority"], "")))
    more = max(0, len(snapshot["active"]) - ALARMS_SHOWN) + snapshot["active_hidden"]
    if more:
        lines.append(_line(f" and {more} more active alarms", "bold"))
    return lines


def _totals(snapshot: Snapshot) -> Text:
    totals = snapshot["totals"]
    counts = [
        f"{name} {totals.get(name, 0)}"
        for name in ("received", "committed", "duplicates", "refused")
    ]
    counts.append(f"ledger {snapshot['tree_size']}")
    clock = "ok" if snapshot["clock_synced"] else "NOT SYNCHRONISED"
    counts.append(f"clock {clock}")
    return _line(" · ".join(counts))
