"""Tables and a plot of what the benchmarks of the native core measured.

    pytest benchmarks --benchmark-only --benchmark-json=FILE
    python benchmarks/native_report.py FILE [--plot PNG]

Times are medians of CPU time. The last column is how many times faster than hashlib,
measured in the same run on the same inputs.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from pathlib import Path
from typing import Any, NamedTuple

import report

PEERS = ("hashlib", "pymerkle", "blake3")


class Row(NamedTuple):
    """One way to do a job: seconds for a call of so many items."""

    way: str
    median_s: float
    items: int


def read(path: Path) -> tuple[dict[str, list[Row]], dict[str, Any]]:
    """The rows of each group, fastest first, and the extra_info of one of them."""
    groups: dict[str, list[Row]] = defaultdict(list)
    info: dict[str, Any] = {}
    for one in json.loads(path.read_text(encoding="utf-8"))["benchmarks"]:
        info = one.get("extra_info", {})
        if "items" in info:
            row = Row(info["backend"], one["stats"]["median"], info["items"])
            groups[one["group"]].append(row)
    for rows in groups.values():
        rows.sort(key=lambda row: row.median_s)
    return groups, info


def ratio_to_hashlib(rows: list[Row], row: Row) -> float:
    """How many times faster than hashlib; nan where the group has none."""
    times = [one.median_s for one in rows if one.way == "hashlib"]
    return times[0] / row.median_s if times else float("nan")


def plot(groups: dict[str, list[Row]], path: Path) -> None:
    """One panel for each job: bars of items a second, peers in another colour."""
    import matplotlib as mpl  # noqa: PLC0415 - only for this

    mpl.use("Agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415

    columns = 2
    lines = -(-len(groups) // columns)
    figure, axes = plt.subplots(
        lines, columns, figsize=(12, 2.6 * lines), squeeze=False
    )
    for axis in axes.flat[len(groups) :]:
        axis.set_visible(False)
    for axis, (group, rows) in zip(axes.flat, groups.items(), strict=False):
        rates = [row.items / row.median_s / 1e6 for row in rows]
        colours = [
            "tab:gray" if row.way.startswith(PEERS) else "tab:blue" for row in rows
        ]
        axis.barh([row.way for row in rows], rates, color=colours)
        axis.invert_yaxis()
        axis.set_title(group, fontsize=9)
        axis.set_xlabel("million items a second", fontsize=8)
        axis.tick_params(labelsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description="Tables of the native core.")
    parser.add_argument("file", type=Path)
    parser.add_argument("--plot", type=Path, metavar="PNG")
    options = parser.parse_args()
    groups, info = read(options.file)
    print(f"CPU: {info.get('cpu')}; core compiled by {info.get('compiler')}\n")
    for group, rows in groups.items():
        lines = [
            [
                row.way,
                report.shown(row.median_s * 1e6),
                report.shown(row.items / row.median_s / 1e6),
                report.shown(ratio_to_hashlib(rows, row)),
            ]
            for row in rows
        ]
        head = ("way", "µs a call", "M items/s", "× hashlib")
        print(report.table(group, head, lines))
    if options.plot:
        plot(groups, options.plot)
        print(f"plot: {options.plot}")


if __name__ == "__main__":
    main()
