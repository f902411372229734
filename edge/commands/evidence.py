"""`iomt custody`, `iomt ledger checkpoints|consistency`, `iomt patient export`."""

from __future__ import annotations

import argparse
import datetime
import time
from pathlib import Path

from edge.commands.place import Commands, find_place, open_reader, with_data

EXIT_BROKEN, EXIT_NOT_ENOUGH = 1, 3


def add_to(commands: Commands) -> None:
    """Add this file's commands to the parser."""
    one = with_data(
        commands.add_parser("custody", help="the chain from the device to the log")
    )
    one.add_argument("reading", metavar="READING-ID")
    one.set_defaults(run=_custody)


def add_to_ledger(commands: Commands) -> None:
    """Add `iomt ledger …`."""
    one = with_data(
        commands.add_parser("checkpoints", help="list the checkpoints that are kept")
    )
    one.set_defaults(run=_checkpoints)
    one = with_data(
        commands.add_parser("consistency", help="prove that the log only grew")
    )
    one.add_argument("old", metavar="OLD", type=int, help="the size of a kept one")
    one.add_argument("new", metavar="NEW", type=int, help="of a later one")
    one.add_argument("-o", "--output", metavar="FILE", type=Path, required=True)
    one.set_defaults(run=_consistency)


def add_to_patient(commands: Commands) -> None:
    """Add `iomt patient …`."""
    one = with_data(
        commands.add_parser("export", help="write everything of a patient, with proofs")
    )
    one.add_argument("patient", metavar="P")
    one.add_argument("-o", "--output", metavar="DIR", type=Path, required=True)
    one.set_defaults(run=_patient_export)


def _custody(options: argparse.Namespace) -> int:
    from edge.store.custody import Result, custody  # noqa: PLC0415

    place = find_place(options)
    medium = place.settings.checkpoint_copy if place.settings else None
    links = custody(open_reader(options), place.keys, options.reading, medium)
    for link in links:
        print(f"{link.name:<14} {link.result:<10} {link.text}")
    if any(one.result is Result.BROKEN for one in links):
        return EXIT_BROKEN
    if any(one.result is Result.ABSENT and one.needed for one in links):
        return EXIT_NOT_ENOUGH
    return 0


def _checkpoints(options: argparse.Namespace) -> int:
    for size, time_ms, _ in open_reader(options).comparable_checkpoints():
        moment = datetime.datetime.fromtimestamp(time_ms / 1000, datetime.UTC)
        print(f"{size:>12} {moment:%Y-%m-%d %H:%M:%S} UTC")
    return 0


def _consistency(options: argparse.Namespace) -> int:
    from edge.store.proving import prove_consistency  # noqa: PLC0415

    content = prove_consistency(open_reader(options), options.old, options.new)
    options.output.write_bytes(content)
    print(f"{options.output}: {len(content)} bytes")
    return 0


def _patient_export(options: argparse.Namespace) -> int:
    from edge.store.patient_export import export_patient  # noqa: PLC0415

    now_ms = time.time_ns() // 1_000_000
    reader, keys = open_reader(options), find_place(options).keys
    done = export_patient(reader, keys, options.patient, options.output, now_ms)
    print(
        f"{options.output}: {done.readings} readings, {done.events} events, "
        f"{done.proofs} proofs"
    )
    if done.unproven:
        print(f"{done.unproven} records of an ended epoch without a proof")
    return 0
