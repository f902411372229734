"""`iomt contract plot`: readings, states and firings on one time axis, as a PNG."""

from __future__ import annotations

import itertools
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from edge.contracts.examples import START_MS
from edge.contracts.program import Contract
from edge.contracts.recording import Run
from edge.contracts.running import AlarmState

_COLOURS = {
    AlarmState.PENDING: "#f6d55c",
    AlarmState.ACTIVE: "#d7263d",
    AlarmState.ESCALATED: "#7a0c1e",
    AlarmState.LATCHED: "#e07a5f",
    AlarmState.ACKNOWLEDGED: "#3d8361",
    AlarmState.PAUSED: "#8d99ae",
    AlarmState.INHIBITED: "#cdb4db",
}
_MARKS = {"start": "v", "end": "^", "escalate": "D", "latched": "s"}
_HOUR_MS = 3_600_000


def draw(contract: Contract, run: Run, output: Path) -> None:
    """Write the picture."""
    inputs = [one for one in contract.inputs if one.name in run.values]
    heights = [2.0] * len(inputs) + [0.45 * len(contract.rules) + 0.8]
    figure = Figure(figsize=(14, sum(heights) + 1.2), layout="constrained")
    axes = figure.subplots(
        len(heights), 1, sharex=True, squeeze=False, height_ratios=heights
    )[:, 0]
    unit, size = ("hours", _HOUR_MS) if run.last_ms > _HOUR_MS else ("minutes", 60_000)
    for axis, item in zip(axes, inputs, strict=False):
        points = run.values[item.name]
        axis.plot([at / size for at, _ in points], [v for _, v in points], lw=0.8)
        axis.set_ylabel(f"{item.name}\n{item.unit}")
        axis.grid(alpha=0.3)
    _draw_rules(axes[-1], contract, run, size)
    axes[-1].set_xlabel(unit)
    figure.suptitle(f"{contract.name} version {contract.version}")
    figure.savefig(output, dpi=110)


def _draw_rules(axis: Axes, contract: Contract, run: Run, size: int) -> None:
    """A row for each rule: its states as bars, its firings as marks."""
    names: list[str] = []
    for rule in contract.rules:
        names += [rule.name, *([rule.on_unknown] if rule.on_unknown else [])]
    seen = set()
    for row, name in enumerate(names):
        history = [*run.states.get(name, []), (run.last_ms, "")]
        for (begin, state), (end, _) in itertools.pairwise(history):
            if state:
                label = None if state in seen else state
                seen.add(state)
                axis.barh(
                    row,
                    max(end - begin, run.last_ms // 1500) / size,
                    left=begin / size,
                    height=0.6,
                    color=_COLOURS[AlarmState(state)],
                    label=label,
                )
        for phase, mark in _MARKS.items():
            times = [
                (one.at_ms - START_MS) / size
                for one in run.firings
                if one.rule == name and one.phase == phase
            ]
            axis.plot(times, [row] * len(times), mark, color="black", ms=4, lw=0)
    axis.set_yticks(range(len(names)), names)
    axis.set_ylim(len(names) - 0.4, -0.6)
    axis.grid(alpha=0.3, axis="x")
    if seen:
        axis.legend(loc="upper right", fontsize="small", ncols=4)
