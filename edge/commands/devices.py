"""`iomt patient …` and `iomt device …`."""

from __future__ import annotations

import argparse
from datetime import UTC, datetime
from pathlib import Path

from edge.commands import bluetooth, evidence
from edge.commands.place import (
    Commands,
    change,
    group,
    open_reader,
    with_data,
    with_grace,
)
from edge.errors import ConfigurationError, RejectError

PUBLIC_KEY_FILE_MAX = 4096


def add_to(commands: Commands) -> None:
    """Add this file's commands to the parser."""
    patient = commands.add_parser("patient", help="patients").add_subparsers(
        required=True, metavar="WHAT"
    )
    one = with_data(patient.add_parser("add", help="add a patient"))
    one.add_argument("patient", metavar="P")
    one.set_defaults(run=_patient_add)
    evidence.add_to_patient(patient)

    device = group(commands, "device", "devices")
    one = with_data(device.add_parser("add", help="enrol a device"))
    one.add_argument("device", metavar="D")
    how = one.add_mutually_exclusive_group()
    how.add_argument(
        "--key",
        metavar="FILE",
        type=Path,
        help="its public key (Ed25519, P-256)",
    )
    how.add_argument(
        "--shared-key",
        metavar="FILE",
        type=Path,
        help="it cannot sign and makes a MAC: its key, 64 hex digits; made if missing",
    )
    how.add_argument("--unsigned", action="store_true", help="it sends SenML JSON")
    how.add_argument("--typed", action="store_true", help="people type values in")
    one.add_argument(
        "--ble",
        metavar="ADDRESS",
        nargs="?",
        const="",
        help="a Bluetooth device; without an address: look who is near, and pair",
    )
    one.add_argument(
        "--pair",
        action=argparse.BooleanOptionalAction,
        help="bond with the device (the default without an address)",
    )
    one.set_defaults(run=_device_add)
    one = with_data(device.add_parser("assign", help="put a device at a patient"))
    one.add_argument("device", metavar="D")
    whom = one.add_mutually_exclusive_group(required=True)
    whom.add_argument("--patient", metavar="P")
    whom.add_argument("--nobody", action="store_true", help="release it")
    one.set_defaults(run=_device_assign)
    one = with_data(device.add_parser("list", help="print the devices"))
    one.set_defaults(run=_device_list)
    one = with_data(device.add_parser("key", help="a device signs with a new key"))
    one.add_argument("device", metavar="D")
    one.add_argument("--key", metavar="NEW", type=Path, required=True)
    with_grace(one)
    one.set_defaults(run=_device_key)
    one = with_data(device.add_parser("revoke", help="refuse a device from now on"))
    one.add_argument("device", metavar="D")
    one.set_defaults(run=_device_revoke)


def _patient_add(options: argparse.Namespace) -> int:
    ref = change(options, "patient-add", {"name": options.patient})
    print(f"patient {options.patient}: {ref}")
    return 0


def _device_add(options: argparse.Namespace) -> int:
    arguments: dict[str, object] = {"name": options.device}
    if options.key is not None:
        arguments |= {"kind": "signed", "public_key": _public_key(options.key)}
    elif options.shared_key is not None:
        key = _shared_key(options.shared_key)
        arguments |= {"kind": "shared", "shared_key": key}
    elif options.ble is not None:
        arguments |= {"kind": "ble"}
    elif options.unsigned or options.typed:
        arguments |= {"kind": "typed" if options.typed else "unsigned"}
    else:
        kinds = "--key, --shared-key, --unsigned, --typed and --ble"
        raise ConfigurationError([f"device add: one of {kinds}"])
    if options.ble == "":
        arguments["address"] = bluetooth.choose(pairing=options.pair is not False)
    elif options.ble is not None:
        if options.pair:
            bluetooth.pair_known(options.ble)
        arguments["address"] = options.ble
    change(options, "device-add", arguments)
    print(f"device {options.device}: enrolled as {arguments['kind']}")
    return 0


def _shared_key(file: Path) -> str:
    """The secret in this 0600 file, in hexadecimal; a new one where there is none."""
    from edge.store.vault import new_key, read_secret, write_secret  # noqa: PLC0415

    if not file.exists():
        try:
            write_secret(file, new_key().hex())
        except OSError as error:
            raise ConfigurationError([f"--shared-key: {error}"]) from error
    problems: list[str] = []
    key = read_secret(file, problems)
    if problems:
        raise ConfigurationError(problems)
    return key


def _public_key(file: Path) -> str:
    """The public key of a file, PEM or hexadecimal, as hexadecimal."""
    from edge.ledger import device_key  # noqa: PLC0415

    try:
        content = file.read_bytes()[:PUBLIC_KEY_FILE_MAX]
    except OSError as error:
        raise ConfigurationError([f"--key: {error}"]) from error
    try:
        return device_key.parse(content.decode("ascii", "replace")).hex()
    except RejectError as error:
        raise ConfigurationError([f"--key: {file}: {error}"]) from error


def _device_assign(options: argparse.Namespace) -> int:
    arguments = {"name": options.device, "patient": options.patient}
    change(options, "device-assign", arguments)
    print(f"device {options.device}: at {options.patient or 'nobody'}")
    return 0


def _device_list(options: argparse.Namespace) -> int:
    reader = open_reader(options)
    patients = reader.patients()
    for device in reader.registry().all():
        where = device.assignment
        patient = patients[where.patient_ref.hex()][1] if where else "nobody"
        state = " (revoked)" if device.revoked else ""
        print(f"{device.name:<32} {device.kind:<9} at {patient}{state}")
    return 0


def _device_key(options: argparse.Namespace) -> int:
    arguments = {
        "name": options.device,
        "public_key": _public_key(options.key),
        "grace_h": options.grace,
    }
    until_ms = change(options, "device-key", arguments)
    if not isinstance(until_ms, int):
        raise TypeError(f"an answer of the wrong kind: {until_ms!r}")
    shown = datetime.fromtimestamp(until_ms // 1000, UTC).isoformat(" ")
    print(f"device {options.device}: has a new key; the old one is taken until {shown}")
    return 0


def _device_revoke(options: argparse.Namespace) -> int:
    change(options, "device-revoke", {"name": options.device})
    print(f"device {options.device}: revoked")
    return 0
