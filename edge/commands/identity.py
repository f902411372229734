"""`iomt device enrol|certificate|password|bundle`, `iomt ca show|roll|forget-old`."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from edge.commands.place import (
    Commands,
    change,
    find_place,
    group,
    with_data,
    with_grace,
)
from edge.errors import ConfigurationError

if TYPE_CHECKING:
    from edge.store.certificates import Authority

C_TEMPLATE = """\
/* Made by `iomt device bundle {device}`. */
#define IOMT_DEVICE "{device}"
#define IOMT_HOST "{host}"
#define IOMT_PORT {port}
#define IOMT_TOPIC_PREFIX "iomt/v1/{device}/"
"""


def add_to(commands: Commands) -> None:
    """Add this file's commands to the parser."""
    device = group(commands, "device", "devices")
    about = "a claim code, good for ten minutes, for a device's own key"
    one = with_data(device.add_parser("enrol", help=about))
    one.add_argument("device", metavar="D")
    one.add_argument(
        "--new-key", action="store_true", help="the key replaces the signing key too"
    )
    with_grace(one)
    one.set_defaults(run=_enrol)
    about = "make a password, for what cannot have a certificate"
    one = with_data(device.add_parser("password", help=about))
    one.add_argument("device", metavar="D")
    one.set_defaults(run=_password)
    one = with_data(device.add_parser("certificate", help="a certificate for a CSR"))
    one.add_argument("device", metavar="D")
    one.add_argument("--csr", metavar="FILE", type=Path, required=True)
    one.add_argument("-o", "--output", metavar="FILE", type=Path, required=True)
    one.set_defaults(run=_certificate)
    one = with_data(
        device.add_parser("bundle", help="all that a board on the bench needs")
    )
    one.add_argument("device", metavar="D")
    one.add_argument("-o", "--output", metavar="DIR", type=Path, required=True)
    one.set_defaults(run=_bundle)
    authority = group(commands, "ca", "the gateway's certificate authority")
    for name, about, run in (
        ("show", "its certificates, and the fingerprint of the one that issues", _show),
        ("roll", "begin a new one; certificates of the old one stay good", _roll),
        ("forget-old", "let only certificates of the newest one in", _forget_old),
    ):
        one = with_data(authority.add_parser(name, help=about))
        one.set_defaults(run=run)


def _enrol(options: argparse.Namespace) -> int:
    arguments: dict[str, object] = {"device": options.device}
    if options.new_key:
        arguments["grace_h"] = options.grace
    row = _row(change(options, "device-enrol", arguments))
    address = f"{row['enrol']}?claim={row['claim']}#sha256={row['ca_sha256']}"
    print(f"claim       {row['claim']}   for {options.device}, good for ten minutes")
    print(f"take it to  {row['enrol']}")
    print(f"CA SHA-256  {row['ca_sha256']}")
    print(f"as one      {address}")
    if sys.stdout.isatty():
        import segno  # noqa: PLC0415 - a QR code is for people's screens

        segno.make(address).terminal(compact=True)
    return 0


def _password(options: argparse.Namespace) -> int:
    row = _row(change(options, "device-password", {"device": options.device}))
    print(f"user      {options.device}")
    print(f"password  {row['password']}   (shown this once; the one before is void)")
    return 0


def _certificate(options: argparse.Namespace) -> int:
    try:
        request = options.csr.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError([f"--csr: {options.csr}: {error}"]) from error
    arguments = {"device": options.device, "request": request}
    row = _row(change(options, "device-certificate", arguments))
    options.output.write_text(f"{row['certificate']}{row['ca']}")
    print(f"{options.output}: the certificate of {options.device}, and the CA's")
    return 0


def _bundle(options: argparse.Namespace) -> int:
    from cryptography import x509  # noqa: PLC0415
    from cryptography.hazmat.primitives import hashes, serialization  # noqa: PLC0415
    from cryptography.hazmat.primitives.asymmetric import ec  # noqa: PLC0415

    from edge.store.vault import write_secret  # noqa: PLC0415

    target: Path = options.output
    if target.exists() and any(target.iterdir()):
        raise ConfigurationError([f"{target}: is there, and not empty"])
    key = ec.generate_private_key(ec.SECP256R1())
    request = (
        x509.CertificateSigningRequestBuilder(subject_name=x509.Name([]))
        .sign(key, hashes.SHA256())
        .public_bytes(serialization.Encoding.PEM)
    )
    arguments = {"device": options.device, "request": request.decode()}
    row = _row(change(options, "device-certificate", arguments))
    place = str(row.get("mqtt", ""))
    if not place:
        raise ConfigurationError(["[mqtt] tls: not set, or no gateway runs"])
    host, _, port = place.rpartition(":")
    target.mkdir(parents=True, exist_ok=True)
    pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    write_secret(target / "device.key", pem.decode().rstrip())
    (target / "device.pem").write_text(str(row["certificate"]))
    (target / "ca.pem").write_text(str(row["ca"]))
    about = {
        "device": options.device,
        "host": host,
        "port": int(port),
        "publish": f"iomt/v1/{options.device}/<stream>",
        "subscribe": [f"iomt/v1/{options.device}/{own}" for own in ("receipt", "cmd")],
    }
    (target / "settings.json").write_text(json.dumps(about, indent=2) + "\n")
    (target / "iomt_settings.h").write_text(
        C_TEMPLATE.format(device=options.device, host=host, port=port)
    )
    print(f"{target}: device.key, device.pem, ca.pem, settings.json, iomt_settings.h")
    return 0


def _show(options: argparse.Namespace) -> int:
    authority, _ = _authority(options)
    print(authority.pem, end="")
    print(f"SHA-256 {authority.fingerprint}")
    return 0


def _roll(options: argparse.Namespace) -> int:
    from edge.store.database import lock_directory  # noqa: PLC0415

    authority, directory = _authority(options)
    with lock_directory(directory):  # a gateway that runs has the old one in memory
        authority.roll()
    print(f"SHA-256 {authority.fingerprint}: issues from the next start on")
    return 0


def _forget_old(options: argparse.Namespace) -> int:
    from edge.store.database import lock_directory  # noqa: PLC0415

    authority, directory = _authority(options)
    with lock_directory(directory):
        count = authority.forget_old()
    print(f"{count} authorities are trusted no more, from the next start on")
    return 0


def _authority(options: argparse.Namespace) -> tuple[Authority, Path]:
    from edge.store.certificates import Authority  # noqa: PLC0415

    place = find_place(options)
    if place.settings is None:
        raise ConfigurationError([f"{place.directory}: say --config FILE"])
    return Authority(place.keys, place.settings.origin), place.directory


def _row(answer: object) -> Mapping[str, object]:
    if not isinstance(answer, dict):
        raise TypeError(f"an answer of the wrong kind: {answer!r}")
    return answer
