"""The commands, one file for each group. To add one: write its file, then its line."""

from __future__ import annotations

from edge.commands import (
    alarms,
    backup,
    contracts,
    devices,
    doctor,
    evidence,
    forgetting,
    ledger,
    readings,
    replay,
    running,
    watchdog,
)

GROUPS = (
    running,
    ledger,
    devices,
    readings,
    contracts,
    backup,
    forgetting,
    evidence,
    alarms,
    replay,
    watchdog,
    doctor,
)
