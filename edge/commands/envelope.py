"""`iomt envelope check`, `iomt envelope make`: for who writes a device's firmware."""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING

from edge.commands.place import Commands, group
from edge.errors import ConfigurationError, RefusedError, RejectError

if TYPE_CHECKING:
    from edge.devices.envelope import Envelope
    from edge.model import Reading

FILE_SIZE_MAX = 1 << 20
KEY_FILE_SIZE_MAX = 4096


def add_to(commands: Commands) -> None:
    """Add this file's commands to the parser."""
    these = group(commands, "envelope", "look at a signed envelope, or make one")
    one = these.add_parser("check", help="say what an envelope says, or what is wrong")
    one.add_argument("file", metavar="FILE", help="the envelope; - reads the input")
    one.add_argument("--hex", action="store_true", help="it is in hexadecimal digits")
    one.add_argument("--key", metavar="K", help="the public or shared key, or a file")
    one.add_argument("--topic", metavar="T", help="the topic it is published to")
    one.set_defaults(run=_check)

    one = these.add_parser("make", help="build and sign an envelope")
    one.add_argument("values", metavar="METRIC=VALUE", nargs="*", help="one reading")
    one.add_argument(
        "--readings",
        metavar="FILE",
        type=Path,
        help="a JSON array of readings: metrics and, where it differs, time_ms",
    )
    one.add_argument("--device", metavar="D", required=True)
    one.add_argument("--stream", metavar="S", default="vitals")
    one.add_argument("--sequence", metavar="N", type=int, required=True)
    one.add_argument("--time", metavar="MS", type=int, help="since 1970; now without")
    one.add_argument("--backlog", action="store_true", help="stored, sent late")
    by = one.add_mutually_exclusive_group(required=True)
    by.add_argument(
        "--key",
        metavar="FILE",
        type=Path,
        help="the private key: a seed of 64 hex digits, or PEM",
    )
    by.add_argument(
        "--shared-key", metavar="FILE", type=Path, help="64 hex digits: a MAC instead"
    )
    one.add_argument("-o", dest="out", metavar="F", required=True, help="- prints hex")
    one.set_defaults(run=_make)


def _check(options: argparse.Namespace) -> int:
    from edge.devices import envelope, mac_envelope  # noqa: PLC0415 - most need none

    content = _content(options.file, in_hex=options.hex)
    maced = content[:1] == bytes((mac_envelope.FIRST_BYTE,))
    try:
        found = (mac_envelope if maced else envelope).parse(content)
    except RefusedError as error:
        print(f"byte {_first_wrong(content, error.detail)}: {error.detail}")
        print(f"WRONG: {error.reason.value}")
        return 1
    for line in _lines(found):
        print(line)
    topic = f"iomt/v1/{found.device}/{found.stream}"
    if options.topic not in (None, topic):
        at = _first_wrong(content, "payload: device (key 1)")
        print(f"byte {at}: it belongs to the topic {topic}")
        print("WRONG: wrong-topic")
        return 1
    if options.key is None:
        what = "MAC" if maced else "signature"
        print(f"GOOD, but for the {what}: no --key was given")
        return 0
    from edge.ledger import device_key  # noqa: PLC0415

    if maced:
        key, done = _shared_key(options.key), "its MAC made"
        good = mac_envelope.verify(key, found.signed_bytes, found.signature)
    else:
        key, done = _public_key(options.key), "signed"
        good = device_key.verify(key, found.signed_bytes, found.signature)
    if found.kid != device_key.kid_of(key):
        print(f"byte {envelope.KID_AT}: the kid is not that of this key")
    elif good:
        print(f"GOOD, {done} by this key")
        return 0
    else:
        at = len(content) - len(found.signature)
        print(f"byte {at}: not {done} by this key (or another byte was changed)")
    print("WRONG: bad-signature")
    return 1


def _lines(found: Envelope) -> list[str]:
    moment = found.device_time_ms
    lines = [
        f"device {found.device}, stream {found.stream}, sequence {found.sequence}",
        f"device time {moment} ms" + (", backlog" if found.backlog else ""),
    ]
    for reading in found.readings:
        values = {**reading.values, **reading.texts}
        offset = (reading.time_ms or moment) - moment
        said = " ".join(f"{name}={value}" for name, value in values.items())
        flagged = " implausible: " + " ".join(sorted(reading.implausible))
        lines.append(f"{offset:>8} ms  {said}{flagged if reading.implausible else ''}")
    return lines


def _first_wrong(content: bytes, detail: str) -> int:
    """The byte of the envelope that a refusal is about: where it begins to be wrong."""
    from edge.devices import envelope  # noqa: PLC0415

    told = re.search(r"at byte (\d+)", detail)
    in_payload = detail.startswith(("payload:", "reading "))
    if told is not None and not in_payload:
        return int(told[1])
    try:
        start, _ = envelope.payload_span(content)
        if told is not None:
            return start + int(told[1])
        return start + envelope.place_of(content, detail)
    except RejectError:
        return 0


def _content(name: str, *, in_hex: bool) -> bytes:
    try:
        if name == "-":
            content = sys.stdin.buffer.read(FILE_SIZE_MAX)
        else:
            with Path(name).open("rb") as file:
                content = file.read(FILE_SIZE_MAX)
    except OSError as error:
        raise ConfigurationError([f"{name}: {error.strerror or error}"]) from error
    if not in_hex:
        return content
    try:
        return bytes.fromhex(content.decode("ascii"))
    except ValueError:
        raise ConfigurationError([f"{name}: not hexadecimal digits"]) from None


def _public_key(given: str) -> bytes:
    from edge.ledger import device_key  # noqa: PLC0415

    place = Path(given)
    text = place.read_text() if len(given) < 64 and place.is_file() else given
    try:
        return device_key.parse(text)
    except RejectError as error:
        raise ConfigurationError([f"--key: {error}"]) from error


def _shared_key(given: str) -> bytes:
    """The shared key, in hexadecimal digits or in a file of them."""
    from edge.devices.mac_envelope import KEY_SIZE  # noqa: PLC0415

    try:
        place = Path(given)
        text = place.read_text() if place.is_file() else given
        key = bytes.fromhex(text.strip())
    except (OSError, ValueError) as error:
        raise ConfigurationError([f"--key: no shared key: {error}"]) from None
    if len(key) != KEY_SIZE:
        raise ConfigurationError([f"--key: a shared key has {KEY_SIZE} bytes"])
    return key


def _make(options: argparse.Namespace) -> int:
    from edge.devices import envelope, mac_envelope  # noqa: PLC0415
    from edge.ledger import core, device_key  # noqa: PLC0415

    now_ms = options.time if options.time is not None else time.time_ns() // 1_000_000
    readings = _readings(options, now_ms)
    what = options.device, options.stream, options.sequence, now_ms, readings
    try:
        if options.shared_key is not None:
            key = _shared_key(str(options.shared_key))
            made = mac_envelope.build(*what, key=key, backlog=options.backlog)
        else:
            seed = _seed(options.key)
            made = envelope.build(
                *what,
                kid=device_key.kid_of(core.public_key(seed)),
                sign=lambda message: core.sign(seed, message),
                backlog=options.backlog,
            )
    except (ValueError, TypeError, KeyError) as error:
        raise ConfigurationError([str(error)]) from error
    if options.out == "-":
        print(made.hex())
    else:
        Path(options.out).write_bytes(made)
    return 0


def _readings(options: argparse.Namespace, now_ms: int) -> list[Reading]:
    from edge.devices.metrics import BY_NAME, make_reading  # noqa: PLC0415

    found: list[dict[str, object]] = []
    if options.readings is not None:
        try:
            given = json.loads(options.readings.read_bytes(), parse_float=Decimal)
        except (OSError, ValueError) as error:
            raise ConfigurationError([f"{options.readings}: {error}"]) from error
        if not isinstance(given, list) or not all(
            isinstance(one, dict) for one in given
        ):
            raise ConfigurationError([f"{options.readings}: no array of readings"])
        found += given
    if options.values:
        pairs = [one.partition("=") for one in options.values]
        found.append({name: value for name, _, value in pairs})
    readings = []
    for one in found:
        time_ms = one.pop("time_ms", now_ms)
        values: dict[str, Decimal] = {}
        texts: dict[str, str] = {}
        for name, value in one.items():
            metric = BY_NAME.get(name)
            if metric is None:
                raise ConfigurationError([f"{name!r} is no metric"])
            if metric.letters:
                texts[name] = str(value)
                continue
            try:
                values[name] = Decimal(str(value))
            except ArithmeticError:
                problem = f"{name}: {value!r} is no number"
                raise ConfigurationError([problem]) from None
        if not isinstance(time_ms, int):
            raise ConfigurationError([f"time_ms: {time_ms!r} is no whole number"])
        readings.append(make_reading(time_ms, values, texts))
    return readings


def _seed(path: Path) -> bytes:
    """The private key's 32 bytes, of hexadecimal digits or PEM."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import (  # noqa: PLC0415
        Ed25519PrivateKey,
    )
    from cryptography.hazmat.primitives.serialization import (  # noqa: PLC0415
        load_pem_private_key,
    )

    try:
        content = path.read_bytes()[:KEY_FILE_SIZE_MAX]
        if re.fullmatch(rb"\s*[0-9a-fA-F]{64}\s*", content):
            return bytes.fromhex(content.decode())
        key = load_pem_private_key(content, None)
    except (OSError, ValueError, TypeError) as error:
        raise ConfigurationError([f"{path}: {error}"]) from error
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigurationError([f"{path}: not an Ed25519 key"])
    return key.private_bytes_raw()
