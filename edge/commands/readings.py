"""`iomt readings`, `iomt enter`, `iomt quality`, `iomt quarantine`."""

from __future__ import annotations

import argparse
import datetime
import json
from collections.abc import Mapping

from edge.commands.place import Commands, change, open_reader, with_data
from edge.errors import NotFoundError


def add_to(commands: Commands) -> None:
    """Add this file's commands to the parser."""
    one = with_data(commands.add_parser("readings", help="print readings"))
    one.add_argument("--device", metavar="D")
    one.add_argument("--patient", metavar="P")
    one.add_argument("--from", dest="begin", metavar="T", type=time_ms)
    one.add_argument("--to", dest="end", metavar="T", type=time_ms)
    one.add_argument("--json", action="store_true", help="one JSON object a line")
    one.set_defaults(run=_readings)

    one = with_data(commands.add_parser("enter", help="type a value in"))
    one.add_argument("device", metavar="D", help="a device of kind typed")
    one.add_argument("metric", metavar="METRIC")
    one.add_argument("value", metavar="VALUE")
    one.add_argument("--unit", metavar="U", help="UCUM; the metric's own if absent")
    one.add_argument("--as", dest="actor", metavar="NAME", required=True, help="who")
    one.set_defaults(run=_enter)

    one = with_data(
        commands.add_parser("quality", help="how good the data are, by device and day")
    )
    one.add_argument("--device", metavar="D")
    one.add_argument("--from", dest="begin", metavar="T", type=time_ms, default=0)
    one.add_argument("--to", dest="end", metavar="T", type=time_ms, default=2**63)
    one.add_argument("--json", action="store_true", help="one JSON object a line")
    one.set_defaults(run=_quality)

    one = with_data(commands.add_parser("quarantine", help="print refused messages"))
    one.set_defaults(run=_quarantine)


def time_ms(text: str) -> int:
    """Milliseconds since 1970 of a number of them, or of an ISO 8601 time."""
    if text.isascii() and text.isdecimal():
        return int(text)
    try:
        moment = datetime.datetime.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no time (ISO 8601)") from None
    return int(moment.astimezone().timestamp() * 1000)


def _enter(options: argparse.Namespace) -> int:
    names = ("device", "metric", "value", "actor", "unit")
    change(options, "enter", {name: getattr(options, name) for name in names})
    print(f"{options.device}: {options.metric} {options.value} by {options.actor}")
    return 0


def _readings(options: argparse.Namespace) -> int:
    from edge.store.reading_rows import reading_rows  # noqa: PLC0415

    reader = open_reader(options)
    device = patient = None
    if options.device is not None:
        found = reader.registry().find(options.device)
        if found is None:
            raise NotFoundError(f"no device {options.device!r}")
        device = found.id
    if options.patient is not None:
        ids = {name: id_ for id_, name in reader.patients().values()}
        if options.patient not in ids:
            raise NotFoundError(f"no patient {options.patient!r}")
        patient = ids[options.patient]
    for stored in reader.records(device=device, patient=patient):
        received_ms = stored.record.received_ms
        if options.begin is not None and received_ms < options.begin:
            continue
        if options.end is not None and received_ms > options.end:
            continue
        for row in reading_rows(stored):
            print(json.dumps(row) if options.json else _reading_line(row))
    return 0


def _reading_line(row: Mapping[str, object]) -> str:
    received_ms, metrics = row["received_ms"], row["metrics"]
    if not isinstance(received_ms, int) or not isinstance(metrics, dict):
        raise TypeError("a row of reading_rows")
    moment = datetime.datetime.fromtimestamp(received_ms / 1000, datetime.UTC)
    values = " ".join(f"{name}={value}" for name, value in metrics.items())
    return f"{moment:%Y-%m-%d %H:%M:%S} {row['id']} {row['device']}: {values}"


def _quality(options: argparse.Namespace) -> int:
    from edge.store.quality import COLUMNS, measure  # noqa: PLC0415

    found = measure(
        open_reader(options),
        device=options.device,
        begin_ms=options.begin,
        end_ms=options.end,
    )
    if not options.json:
        print(" ".join(("day       ", f"{'device':20}", *COLUMNS, "reasons")))
    for one in found:
        if options.json:
            print(json.dumps(one.row()))
            continue
        counts = " ".join(f"{one.counts[name]:>{len(name)}}" for name in COLUMNS)
        reasons = " ".join(f"{name}:{count}" for name, count in one.reasons.items())
        print(f"{one.day} {ascii(one.device)[1:-1]:20} {counts} {reasons}")
    return 0


def _quarantine(options: argparse.Namespace) -> int:
    for id_, time_ms, refusal in open_reader(options).quarantine():
        principal, device, stream, reason, detail, payload = refusal
        row = {
            "id": id_,
            "received_ms": time_ms,
            "principal": principal,
            "device": device,
            "stream": stream,
            "reason": reason,
            "detail": detail,
            "payload": payload.hex() if isinstance(payload, bytes) else "",
        }
        print(json.dumps(row))
    return 0
