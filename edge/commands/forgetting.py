"""`iomt patient erase|merge`, `iomt device claim|correct`, `iomt store check`."""

from __future__ import annotations

import argparse
import datetime

from edge.commands.place import Commands, change, group, open_reader, with_data
from edge.commands.readings import time_ms
from edge.errors import GatewayError

EXIT_DAMAGED = 1


def add_to(commands: Commands) -> None:
    """Add this file's commands to the parser."""
    patient = group(commands, "patient", "patients")
    one = with_data(patient.add_parser("erase", help="destroy a patient's data"))
    one.add_argument("patient", metavar="P")
    one.set_defaults(run=_patient_erase)
    one = with_data(patient.add_parser("merge", help="two records become one"))
    one.add_argument("patient", metavar="P")
    one.add_argument("--into", metavar="P", required=True, help="the one that stays")
    one.set_defaults(run=_patient_merge)

    device = group(commands, "device", "devices")
    one = with_data(
        device.add_parser("claim", help="what it sent at nobody was a patient's")
    )
    one.add_argument("device", metavar="D")
    one.add_argument("--patient", metavar="P", required=True)
    one.add_argument("--from", dest="begin", metavar="T", type=time_ms, required=True)
    one.add_argument("--to", dest="end", metavar="T", type=time_ms, required=True)
    one.set_defaults(run=_device_claim)
    one = with_data(
        device.add_parser("correct", help="its last assignment was another patient's")
    )
    one.add_argument("device", metavar="D")
    one.add_argument("--was", metavar="P", required=True, help="the wrong patient")
    one.add_argument("--patient", metavar="P", required=True, help="the right one")
    one.set_defaults(run=_device_correct)

    store = group(commands, "store", "what is stored")
    one = with_data(store.add_parser("check", help="hash every stored record again"))
    one.set_defaults(run=_store_check)


def _patient_erase(options: argparse.Namespace) -> int:
    receipt = _answer(change(options, "patient-erase", {"name": options.patient}))
    print(f"patient {options.patient}: erasure {receipt['state']}")
    print(f"  reference   {receipt['patient']}")
    print(f"  intent      {receipt['intent']}")
    print(
        f"  destroyed   the patient's key and name, {receipt['episodes']} episode "
        f"keys, {receipt['frames']} frames, {receipt['refusals']} refused messages"
    )
    if receipt["completion"]:
        print(f"  completion  {receipt['completion']}")
    else:
        print("  completion  to come: the gateway, or its next start, goes on with it")
    print(f"  how physical: {receipt['physical']}")
    return 0


def _patient_merge(options: argparse.Namespace) -> int:
    arguments = {"name": options.patient, "into": options.into}
    done = _answer(change(options, "patient-merge", arguments))
    print(
        f"patient {options.patient}: now {options.into} "
        f"({done['episodes']} episodes; record {done['record']})"
    )
    return 0


def _device_claim(options: argparse.Namespace) -> int:
    arguments = {
        "name": options.device,
        "patient": options.patient,
        "begin_ms": options.begin,
        "end_ms": options.end,
    }
    done = _answer(change(options, "device-claim", arguments))
    print(
        f"device {options.device}: {done['frames']} frames are now of "
        f"{options.patient} (record {done['record']})"
    )
    return 0


def _device_correct(options: argparse.Namespace) -> int:
    arguments = {
        "name": options.device,
        "was": options.was,
        "patient": options.patient,
    }
    done = _answer(change(options, "device-correct", arguments))
    print(
        f"device {options.device}: {done['episodes']} episodes of {options.was} are "
        f"now of {options.patient} (record {done['record']})"
    )
    return 0


def _answer(done: object) -> dict[str, object]:
    if not isinstance(done, dict):
        raise GatewayError(f"the gateway answered {done!r}")
    return done


def _store_check(options: argparse.Namespace) -> int:
    from edge.store.check import check  # noqa: PLC0415

    report = check(open_reader(options), _now_ms())
    print(
        f"{'age':<16}{'good':>10}{'erased':>10}{'retained':>10}{'lost':>10}{'bad':>10}"
    )
    for age, line in report.ages.items():
        print(
            f"{age:<16}{line.good:>10}{line.erased:>10}{line.expired:>10}"
            f"{line.lost:>10}{line.altered:>10}"
        )
    for problem in report.problems:
        print(problem)
    return EXIT_DAMAGED if report.damaged else 0


def _now_ms() -> int:
    return int(datetime.datetime.now(datetime.UTC).timestamp() * 1000)
