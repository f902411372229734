"""`iomt verify`, `iomt prove`, `iomt ledger export`, `iomt ledger vkey`."""

from __future__ import annotations

import argparse
from pathlib import Path

from edge.commands import evidence
from edge.commands.place import Commands, find_place, open_reader, with_data


def add_to(commands: Commands) -> None:
    """Add this file's commands to the parser."""
    # Only for --help: the main function hands `verify` over before it comes here.
    commands.add_parser("verify", help="check a ledger or a proof, offline")

    one = with_data(commands.add_parser("prove", help="the proof of one reading"))
    one.add_argument("reading", metavar="READING-ID")
    one.add_argument("-o", "--output", metavar="FILE", type=Path, required=True)
    one.add_argument("--disclose", action="store_true", help="add salt and record")
    one.set_defaults(run=_prove)

    ledger = commands.add_parser("ledger", help="the log itself").add_subparsers(
        required=True, metavar="WHAT"
    )
    one = with_data(ledger.add_parser("export", help="write it as a directory"))
    one.add_argument("directory", metavar="DIR", type=Path)
    one.set_defaults(run=_export)
    one = with_data(ledger.add_parser("vkey", help="print its verifier key"))
    one.add_argument("--epoch", metavar="N", type=int, help="of an epoch before")
    one.set_defaults(run=_vkey)
    evidence.add_to_ledger(ledger)


def _prove(options: argparse.Namespace) -> int:
    proof = open_reader(options).prove(options.reading, disclose=options.disclose)
    options.output.write_bytes(proof)
    print(f"{options.output}: {len(proof)} bytes")
    return 0


def _export(options: argparse.Namespace) -> int:
    size = open_reader(options).export(options.directory)
    print(f"{options.directory}: {size} entries")
    return 0


def _vkey(options: argparse.Namespace) -> int:
    from edge.store import epochs  # noqa: PLC0415

    log, origin = (reader := open_reader(options)).log(), reader.base_origin
    number = options.epoch or log.epoch
    print(epochs.verifier(find_place(options).keys, origin, number).vkey)
    return 0
