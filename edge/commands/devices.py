"""`iomt patient …` and `iomt device …`."""

from __future__ import annotations

import argparse
from pathlib import Path

from edge.commands import bluetooth, evidence
from edge.commands.place import Commands, change, open_reader, with_data
from edge.errors import ConfigurationError

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

    device = commands.add_parser("device", help="devices").add_subparsers(
        required=True, metavar="WHAT"
    )
    one = with_data(device.add_parser("add", help="enrol a device"))
    one.add_argument("device", metavar="D")
    how = one.add_mutually_exclusive_group()
    how.add_argument(
        "--key", metavar="FILE", type=Path, help="its Ed25519 public key, PEM or hex"
    )
    how.add_argument("--unsigned", action="store_true", help="it sends SenML JSON")
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
    elif options.ble is not None:
        arguments |= {"kind": "ble"}
    elif options.unsigned:
        arguments |= {"kind": "unsigned"}
    else:
        raise ConfigurationError(["device add: one of --key, --unsigned and --ble"])
    if options.ble == "":
        arguments["address"] = bluetooth.choose(pairing=options.pair is not False)
    elif options.ble is not None:
        if options.pair:
            bluetooth.pair_known(options.ble)
        arguments["address"] = options.ble
    change(options, "device-add", arguments)
    print(f"device {options.device}: enrolled as {arguments['kind']}")
    return 0


def _public_key(file: Path) -> str:
    """The Ed25519 public key of a file, PEM or hexadecimal, as hexadecimal."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import (  # noqa: PLC0415
        Ed25519PublicKey,
    )
    from cryptography.hazmat.primitives.serialization import (  # noqa: PLC0415
        load_pem_public_key,
    )

    try:
        content = file.read_bytes()[:PUBLIC_KEY_FILE_MAX]
    except OSError as error:
        raise ConfigurationError([f"--key: {error}"]) from error
    if b"PRIVATE KEY" in content:
        raise ConfigurationError(
            [f"--key: {file} is a private key; it belongs on the device alone"]
        )
    if b"-----BEGIN" not in content:
        return content.decode(errors="replace").strip()
    try:
        key = load_pem_public_key(content)
    except ValueError as error:
        raise ConfigurationError([f"--key: {file}: {error}"]) from error
    if not isinstance(key, Ed25519PublicKey):
        raise ConfigurationError([f"--key: {file} is no Ed25519 key"])
    return key.public_bytes_raw().hex()


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


def _device_revoke(options: argparse.Namespace) -> int:
    change(options, "device-revoke", {"name": options.device})
    print(f"device {options.device}: revoked")
    return 0
