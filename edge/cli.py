"""The command `iomt`.

Exit status: 0 done, 1 the answer is no (a ledger that does not verify, a demo that does
not add up), 2 the command or the configuration is wrong, 3 not enough to decide, 4 the
gateway failed and should be started again, 5 another gateway holds the data.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import datetime
import json
import logging
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edge.errors import (
    BusyError,
    ConfigurationError,
    DurabilityError,
    GatewayError,
    IntegrityError,
    NotFoundError,
)

if TYPE_CHECKING:
    from edge.config import Settings
    from edge.store.reader import Reader, StoredRecord

PUBLIC_KEY_FILE_MAX = 4096
EXIT_NO, EXIT_WRONG, EXIT_FAILED, EXIT_BUSY = 1, 2, 4, 5


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; its exit status."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words[:1] == ["verify"]:
        # An auditor's command: the standard library and the ledger room, nothing else.
        from edge.ledger import verify  # noqa: PLC0415

        return verify.main(words[1:])
    options = _parser().parse_args(words)
    logging.basicConfig(
        level=logging.DEBUG if options.verbose else logging.INFO,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        stream=sys.stderr,
    )
    run: Callable[[argparse.Namespace], int] = options.run
    try:
        return run(options)
    except ConfigurationError as error:
        return _fail(EXIT_WRONG, *error.problems)
    except NotFoundError as error:
        return _fail(EXIT_WRONG, error)
    except BusyError as error:
        return _fail(EXIT_BUSY, error)
    except (DurabilityError, IntegrityError) as error:
        return _fail(EXIT_FAILED, error)
    except GatewayError as error:
        return _fail(EXIT_WRONG, error)
    except BrokenPipeError:  # `iomt readings | head`
        sys.stderr.close()
        return 0


def _fail(status: int, *problems: object) -> int:
    """Say what went wrong; the status holds even where the log's disk is full."""
    with contextlib.suppress(OSError):
        for problem in problems:
            print(f"iomt: {problem}", file=sys.stderr)
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="iomt",
        description="Medical device gateway with a tamper-evident ledger.",
        epilog="iomt COMMAND --help explains a command.",
    )
    parser.add_argument("--verbose", action="store_true", help="log every detail")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    one = commands.add_parser("init", help="write a configuration and the keys")
    one.add_argument("directory", metavar="DIR", type=Path)
    one.add_argument("--origin", default="clinic.example/ward", help="the log's name")
    one.set_defaults(run=_init)

    one = commands.add_parser("run", help="run the gateway")
    one.add_argument("--config", metavar="FILE", type=Path, required=True)
    one.set_defaults(run=_run)

    one = commands.add_parser("demo", help="run a simulated ward against a gateway")
    one.add_argument("--data", metavar="DIR", type=Path, help="keep everything here")
    one.add_argument("--seconds", type=float, help="stop after this time")
    one.add_argument("--speed", type=float, default=1.0, help="samples per second")
    one.add_argument("--beds", type=int, default=8)
    one.add_argument("--headless", action="store_true", help="no live table")
    one.set_defaults(run=_demo)

    # Only for --help: main() hands `verify` over before it comes here.
    commands.add_parser("verify", help="check a ledger or a proof, offline")

    one = _with_data(commands.add_parser("prove", help="the proof of one reading"))
    one.add_argument("reading", metavar="READING-ID")
    one.add_argument("-o", "--output", metavar="FILE", type=Path, required=True)
    one.add_argument("--disclose", action="store_true", help="add salt and record")
    one.set_defaults(run=_prove)

    ledger = commands.add_parser("ledger", help="the log itself").add_subparsers(
        required=True, metavar="WHAT"
    )
    one = _with_data(ledger.add_parser("export", help="write it as a directory"))
    one.add_argument("directory", metavar="DIR", type=Path)
    one.set_defaults(run=_export)
    one = _with_data(ledger.add_parser("vkey", help="print its verifier key"))
    one.set_defaults(run=_vkey)

    patient = commands.add_parser("patient", help="patients").add_subparsers(
        required=True, metavar="WHAT"
    )
    one = _with_data(patient.add_parser("add", help="add a patient"))
    one.add_argument("patient", metavar="P")
    one.set_defaults(run=_patient_add)

    _device_commands(commands)

    one = _with_data(commands.add_parser("readings", help="print readings"))
    one.add_argument("--device", metavar="D")
    one.add_argument("--patient", metavar="P")
    one.add_argument("--from", dest="begin", metavar="T", type=_time_ms)
    one.add_argument("--to", dest="end", metavar="T", type=_time_ms)
    one.add_argument("--json", action="store_true", help="one JSON object a line")
    one.set_defaults(run=_readings)

    one = _with_data(commands.add_parser("quarantine", help="print refused messages"))
    one.set_defaults(run=_quarantine)

    contract = commands.add_parser("contract", help="rule files").add_subparsers(
        required=True, metavar="WHAT"
    )
    one = contract.add_parser("check", help="check rule files")
    one.add_argument("files", metavar="FILE", type=Path, nargs="+")
    one.set_defaults(run=_contract_check)
    one = contract.add_parser("list", help="the contracts of a configuration")
    one.add_argument("--config", metavar="FILE", type=Path, required=True)
    one.set_defaults(run=_contract_list)
    return parser


def _device_commands(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
) -> None:
    device = commands.add_parser("device", help="devices").add_subparsers(
        required=True, metavar="WHAT"
    )
    one = _with_data(device.add_parser("add", help="enrol a device"))
    one.add_argument("device", metavar="D")
    how = one.add_mutually_exclusive_group(required=True)
    how.add_argument(
        "--key", metavar="FILE", type=Path, help="its Ed25519 public key, PEM or hex"
    )
    how.add_argument("--unsigned", action="store_true", help="it sends SenML JSON")
    how.add_argument("--ble", metavar="ADDRESS", help="a Bluetooth device")
    one.set_defaults(run=_device_add)
    one = _with_data(device.add_parser("assign", help="put a device at a patient"))
    one.add_argument("device", metavar="D")
    whom = one.add_mutually_exclusive_group(required=True)
    whom.add_argument("--patient", metavar="P")
    whom.add_argument("--nobody", action="store_true", help="release it")
    one.set_defaults(run=_device_assign)
    one = _with_data(device.add_parser("list", help="print the devices"))
    one.set_defaults(run=_device_list)
    one = _with_data(device.add_parser("revoke", help="refuse a device from now on"))
    one.add_argument("device", metavar="D")
    one.set_defaults(run=_device_revoke)


def _with_data(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--config", metavar="FILE", type=Path)
    where.add_argument("--data", metavar="DIR", type=Path)
    return parser


def _time_ms(text: str) -> int:
    """Milliseconds since 1970 of a number of them, or of an ISO 8601 time."""
    if text.isascii() and text.isdecimal():
        return int(text)
    try:
        moment = datetime.datetime.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no time (ISO 8601)") from None
    return int(moment.astimezone().timestamp() * 1000)


# ---- Where the data are ----


@dataclass(frozen=True, slots=True)
class _Place:
    """A data directory, its keys, and the settings where a configuration was found."""

    directory: Path
    keys: Path
    settings: Settings | None


def _place(options: argparse.Namespace) -> _Place:
    """The data directory that --config or --data names.

    --data takes the directory itself or the one that `iomt init` made around it.
    """
    from edge import config  # noqa: PLC0415 - keeps `iomt verify` free of it
    from edge.init import CONFIG_NAME  # noqa: PLC0415

    if options.config is not None:
        settings = config.load(options.config)
        return _Place(settings.directory, settings.keys, settings)
    directory: Path = options.data
    for file in (directory / CONFIG_NAME, directory.parent / CONFIG_NAME):
        if file.is_file():
            settings = config.load(file)
            around = file.parent == directory
            if around or settings.directory == directory.resolve():
                return _Place(settings.directory, settings.keys, settings)
    if not directory.is_dir():
        raise ConfigurationError([f"--data: {directory} is no directory"])
    return _Place(directory, directory / "keys", None)


def _reader(options: argparse.Namespace) -> Reader:
    from edge.store.reader import Reader  # noqa: PLC0415
    from edge.store.vault import load_keys  # noqa: PLC0415

    place = _place(options)
    return Reader(place.directory, load_keys(place.keys).master)


def _change(
    options: argparse.Namespace, name: str, arguments: Mapping[str, object]
) -> object:
    """Have an administrator's change made by the gateway that runs, or make it here."""
    from edge import control  # noqa: PLC0415

    place = _place(options)
    try:
        return control.call(place.directory, name, arguments)
    except ConnectionError:
        pass
    from edge import gateway  # noqa: PLC0415 - takes longer than the answer above

    if place.settings is None:
        raise ConfigurationError(
            [f"{place.directory}: no gateway runs here; say --config FILE"]
        )

    async def change(settings: Settings) -> object:
        async with gateway.open_core(settings) as core:
            operation = core.administration.operations[name]
            result: object = await operation(**arguments)
            return result

    logging.getLogger("edge").setLevel(logging.WARNING)
    return asyncio.run(change(place.settings))


# ---- Commands ----


def _init(options: argparse.Namespace) -> int:
    from edge.init import initialise  # noqa: PLC0415

    directory: Path = options.directory
    file = initialise(directory, options.origin)
    print(f"""wrote {file}, the keys in {directory}/data/keys (keep a copy of log.key
and master.key apart) and example contracts in {directory}/contracts.

Next:
  1. read {file} and the thresholds in {directory}/contracts
  2. iomt run --config {file}
  3. in another terminal:
     iomt device add thermometer-1 --unsigned --config {file}
     iomt patient add P-1 --config {file}
     iomt device assign thermometer-1 --patient P-1 --config {file}""")
    return 0


def _run(options: argparse.Namespace) -> int:
    from edge import config, gateway  # noqa: PLC0415

    settings = config.load(options.config)

    def ready(running: gateway.Running) -> None:
        doors = [
            f"{name} {config.Address(place.host, port)}"  # port 0 took a free one
            for name, place, port in (
                ("MQTT", settings.mqtt, running.mqtt_port),
                ("web", settings.web, running.web_port),
            )
            if place is not None and port is not None
        ]
        if settings.ble_adapter is not None:
            doors.append(f"BLE {settings.ble_adapter}")
        logging.getLogger("edge").info(
            "%s is ready: %s; %d entries",
            settings.origin,
            ", ".join(doors) or "no door",
            running.core.intake.tree_size,
        )

    async def serve() -> None:
        stop = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        await gateway.run(settings, stop, ready)

    asyncio.run(serve())
    return 0


def _demo(options: argparse.Namespace) -> int:
    from edge import demo  # noqa: PLC0415

    return demo.main(
        options.data,
        seconds=options.seconds,
        speed=options.speed,
        beds=options.beds,
        headless=options.headless,
    )


def _prove(options: argparse.Namespace) -> int:
    proof = _reader(options).prove(options.reading, disclose=options.disclose)
    options.output.write_bytes(proof)
    print(f"{options.output}: {len(proof)} bytes")
    return 0


def _export(options: argparse.Namespace) -> int:
    size = _reader(options).export(options.directory)
    print(f"{options.directory}: {size} entries")
    return 0


def _vkey(options: argparse.Namespace) -> int:
    from edge.ledger import core, note  # noqa: PLC0415
    from edge.store.vault import load_keys  # noqa: PLC0415

    seed = load_keys(_place(options).keys).log_seed
    print(note.Verifier(_reader(options).origin, core.public_key(seed)).vkey)
    return 0


def _patient_add(options: argparse.Namespace) -> int:
    ref = _change(options, "patient-add", {"name": options.patient})
    print(f"patient {options.patient}: {ref}")
    return 0


def _device_add(options: argparse.Namespace) -> int:
    arguments: dict[str, object] = {"name": options.device}
    if options.key is not None:
        arguments |= {"kind": "signed", "public_key": _public_key(options.key)}
    elif options.ble is not None:
        arguments |= {"kind": "ble", "address": options.ble}
    else:
        arguments |= {"kind": "unsigned"}
    _change(options, "device-add", arguments)
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
    _change(options, "device-assign", arguments)
    print(f"device {options.device}: at {options.patient or 'nobody'}")
    return 0


def _device_list(options: argparse.Namespace) -> int:
    reader = _reader(options)
    patients = reader.patients()
    for device in reader.registry().all():
        where = device.assignment
        patient = patients[where.patient_ref.hex()][1] if where else "nobody"
        state = " (revoked)" if device.revoked else ""
        print(f"{device.name:<32} {device.kind:<9} at {patient}{state}")
    return 0


def _device_revoke(options: argparse.Namespace) -> int:
    _change(options, "device-revoke", {"name": options.device})
    print(f"device {options.device}: revoked")
    return 0


def _readings(options: argparse.Namespace) -> int:
    reader = _reader(options)
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
        for row in _reading_rows(stored):
            print(json.dumps(row) if options.json else _reading_line(row))
    return 0


def _reading_rows(stored: StoredRecord) -> list[dict[str, object]]:
    """One row for each reading of a record."""
    from edge.devices.originals import readings_of  # noqa: PLC0415
    from edge.model import Flag, Kind  # noqa: PLC0415

    record = stored.record
    if record.kind is not Kind.READING:
        return []
    decoded = readings_of(record)
    flags = [one.name.lower() for one in Flag if one in record.flags and one.name]
    return [
        {
            "id": stored.reading_id(place),
            "device": record.device,
            "stream": record.stream,
            "sequence": decoded.sequence,
            "device_time_ms": reading.time_ms,
            "received_ms": record.received_ms,
            "attestation": record.attestation.name.lower(),
            "flags": flags,
            "metrics": {
                **{
                    name: int(value) if value == int(value) else float(value)
                    for name, value in reading.values.items()
                },
                **reading.texts,
            },
        }
        for place, reading in enumerate(decoded.readings)
    ]


def _reading_line(row: Mapping[str, object]) -> str:
    received_ms, metrics = row["received_ms"], row["metrics"]
    if not isinstance(received_ms, int) or not isinstance(metrics, dict):
        raise TypeError("a row of _reading_rows")
    moment = datetime.datetime.fromtimestamp(received_ms / 1000, datetime.UTC)
    values = " ".join(f"{name}={value}" for name, value in metrics.items())
    return f"{moment:%Y-%m-%d %H:%M:%S} {row['id']} {row['device']}: {values}"


def _quarantine(options: argparse.Namespace) -> int:
    for id_, time_ms, refusal in _reader(options).quarantine():
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


def _contract_check(options: argparse.Namespace) -> int:
    from edge.contracts.language import load  # noqa: PLC0415

    problems: list[str] = []
    for file in options.files:
        try:
            contract = load(file.read_bytes().decode(), str(file))
        except ConfigurationError as error:
            problems += error.problems
        except (OSError, UnicodeDecodeError) as error:
            problems.append(f"{file}: {error}")
        else:
            print(f"{file}: {contract.name} {contract.hash.hex()[:16]}")
    if problems:
        raise ConfigurationError(problems)
    return 0


def _contract_list(options: argparse.Namespace) -> int:
    from edge import config, gateway  # noqa: PLC0415

    for contract in gateway.load_contracts(config.load(options.config).contracts):
        rules = ", ".join(one.name for one in contract.rules)
        print(f"{contract.name:<24} {contract.hash.hex()[:16]} {rules}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
