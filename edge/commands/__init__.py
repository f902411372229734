"""The commands, one file for each group. To add one: write its file, then its line."""

from __future__ import annotations

from edge.commands import (
    activation,
    alarms,
    backup,
    contracts,
    devices,
    doctor,
    envelope,
    evidence,
    forgetting,
    identity,
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
    identity,
    envelope,
    readings,
    contracts,
    activation,
    backup,
    forgetting,
    evidence,
    alarms,
    replay,
    watchdog,
    doctor,
)
