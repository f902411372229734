"""`iomt alarm list|acknowledge|pause|release`, `iomt contract set`."""

from __future__ import annotations

import argparse
import datetime
import json
from collections.abc import Mapping

from edge.commands.place import Commands, change, group, with_data

_DOES = {
    "acknowledge": "I have seen it: no escalation any more",
    "pause": "recorded, but not sounded, for a time",
    "release": "end a latched alarm that is over",
}


def add_to(commands: Commands) -> None:
    """Add this file's commands to the parser."""
    alarm = group(commands, "alarm", "alarms")
    one = with_data(alarm.add_parser("list", help="every alarm that has not ended"))
    one.add_argument("--json", action="store_true", help="one JSON object a line")
    one.set_defaults(run=_list)
    for kind, about in _DOES.items():
        one = with_data(alarm.add_parser(kind, help=about))
        one.add_argument("contract", metavar="CONTRACT")
        one.add_argument("rule", metavar="RULE")
        _about(one)
        one.add_argument("--role", metavar="R", default="", help="the actor's role")
        if kind == "pause":
            one.add_argument("--for", dest="lasting", metavar="T", default="2m")
        one.set_defaults(run=_act, kind=kind)
    contract = group(commands, "contract", "rule files")
    one = with_data(
        contract.add_parser("set", help="set a param of a contract for a patient")
    )
    one.add_argument("contract", metavar="CONTRACT")
    one.add_argument("param", metavar="PARAM")
    one.add_argument("value", metavar="VALUE")
    _about(one)
    one.add_argument("--role", metavar="R", required=True, help="the actor's role")
    one.set_defaults(run=_set)


def _about(one: argparse.ArgumentParser) -> None:
    whose = one.add_mutually_exclusive_group(required=True)
    whose.add_argument("--patient", metavar="P")
    whose.add_argument("--device", metavar="D")
    one.add_argument("--as", dest="actor", metavar="NAME", required=True, help="who")


def _list(options: argparse.Namespace) -> int:
    listed = change(options, "alarm-list", {})
    for row in listed if isinstance(listed, list) else []:
        print(json.dumps(row) if options.json else _line(row))
    return 0


def _line(row: Mapping[str, object]) -> str:
    since = int(str(row["since_ms"])) / 1000
    moment = datetime.datetime.fromtimestamp(since, datetime.UTC)
    by = f" by {row['acked_by']}" if row["acked_by"] else ""
    who = row["patient"] or row["device"] or row["subject"]
    return (
        f"{row['priority']:<9} {row['state']:<12} {who}  {row['contract']} "
        f"{row['rule']}  since {moment:%Y-%m-%d %H:%M:%S} UTC{by}"
    )


def _act(options: argparse.Namespace) -> int:
    from edge.contracts.toml_text import duration_of  # noqa: PLC0415

    arguments: dict[str, object] = {
        "kind": options.kind,
        "contract": options.contract,
        "rule": options.rule,
        "actor": options.actor,
        "role": options.role,
        "patient": options.patient,
        "device": options.device,
    }
    if options.kind == "pause":
        arguments["for_ms"] = duration_of(options.lasting) or 0
    change(options, "alarm-act", arguments)
    print(f"{options.contract} {options.rule}: {options.kind}d by {options.actor}")
    return 0


def _set(options: argparse.Namespace) -> int:
    names = ("contract", "param", "value", "actor", "role", "patient", "device")
    change(options, "param-set", {name: getattr(options, name) for name in names})
    print(f"{options.contract} {options.param} = {options.value}")
    return 0
