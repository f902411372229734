"""`iomt replay`: were the contracts followed?"""

from __future__ import annotations

import argparse
import datetime
import json
import time

from edge.commands.place import Commands, open_reader, with_data
from edge.errors import NotFoundError

EXIT_FAULTS, EXIT_NOT_ENOUGH = 1, 3


def add_to(commands: Commands) -> None:
    """Add this file's commands to the parser."""
    one = with_data(
        commands.add_parser("replay", help="recompute every firing and compare")
    )
    one.add_argument("--from", dest="begin", metavar="N", type=int, default=0)
    one.add_argument("--patient", metavar="P")
    one.add_argument("--json", action="store_true", help="one JSON object a line")
    one.set_defaults(run=_replay)


def _replay(options: argparse.Namespace) -> int:
    from edge.store.replaying import replay  # noqa: PLC0415

    reader = open_reader(options)
    subject = None
    if options.patient is not None:
        refs = {name: ref for ref, (_, name) in reader.patients().items()}
        if options.patient not in refs:
            raise NotFoundError(f"no patient {options.patient!r}")
        subject = f"patient:{refs[options.patient]}"
    now_ms = time.time_ns() // 1_000_000
    result = replay(reader, now_ms, options.begin, subject)
    for one in result.findings:
        if options.json:
            row = {"fault": one.fault, "batch": one.batch, "at_ms": one.at_ms}
            print(json.dumps(row | {"text": one.text}))
        else:
            moment = datetime.datetime.fromtimestamp(one.at_ms / 1000, datetime.UTC)
            print(f"{one.fault:<8} batch {one.batch}  {moment:%F %T} UTC  {one.text}")
    if options.json:
        print(json.dumps({"records": result.records, "firings": result.firings}))
    else:
        print(f"{result.records} records, {result.firings} firings")
    for lacking in result.lacking:
        print(f"NOT ENOUGH: {lacking}")
    if result.findings:
        return EXIT_FAULTS
    return EXIT_NOT_ENOUGH if result.lacking else 0
