"""`iomt contract key|propose|approve|activate|suspend|resume|revoke|message|list`.

An approver's key never leaves the approver: `approve --key` signs here and sends the
signature; `message` and `--signature` let any other program sign, on any machine.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import stat
from collections.abc import Mapping
from pathlib import Path

from edge.commands.place import Commands, change, find_place, group, with_data
from edge.errors import ConfigurationError
from edge.ledger.lifecycle import APPROVE

_SIGNED = {
    APPROVE: "sign a proposal: it may be activated once a quorum has",
    "suspend": "stop a contract for a while: what it has started ends",
    "resume": "let a suspended contract go on, with no state",
    "revoke": "end a proposal or contract for ever",
}


def add_to(commands: Commands) -> None:
    """Add this file's commands to the parser."""
    contract = group(commands, "contract", "rule files")
    one = contract.add_parser("key", help="make an approver's key pair (PEM, 0600)")
    one.add_argument("file", metavar="FILE", type=Path)
    one.set_defaults(run=_key)
    one = with_data(contract.add_parser("propose", help="propose a rule file"))
    one.add_argument("file", metavar="FILE", type=Path)
    one.set_defaults(run=_propose)
    for word, about in _SIGNED.items():
        one = with_data(contract.add_parser(word, help=about))
        one.add_argument("sequence", metavar="SEQUENCE", type=int)
        if word == APPROVE:
            one.add_argument(
                "file", metavar="FILE", type=Path, help="what you have read"
            )
        one.add_argument("--as", dest="approver", metavar="NAME", required=True)
        how = one.add_mutually_exclusive_group(required=True)
        how.add_argument("--key", metavar="FILE", type=Path, help="the approver's key")
        how.add_argument("--signature", metavar="HEX", help="made elsewhere")
        one.set_defaults(run=_signed, word=word)
    one = with_data(
        contract.add_parser("activate", help="have an approved contract at work")
    )
    one.add_argument("sequence", metavar="SEQUENCE", type=int)
    one.set_defaults(run=_activate)
    one = with_data(
        contract.add_parser("message", help="what is signed: for another program")
    )
    one.add_argument("word", choices=list(_SIGNED), metavar="WORD")
    one.add_argument("sequence", metavar="SEQUENCE", type=int)
    one.add_argument("-o", "--output", metavar="FILE", type=Path)
    one.set_defaults(run=_message)
    one = with_data(
        contract.add_parser("list", help="the contracts, or what was proposed")
    )
    one.add_argument("--json", action="store_true", help="one JSON object a line")
    one.set_defaults(run=_list)


def _key(options: argparse.Namespace) -> int:
    from cryptography.hazmat.primitives import serialization  # noqa: PLC0415
    from cryptography.hazmat.primitives.asymmetric.ed25519 import (  # noqa: PLC0415
        Ed25519PrivateKey,
    )

    from edge.store.vault import write_secret  # noqa: PLC0415

    key = Ed25519PrivateKey.generate()
    pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    if options.file.exists():
        raise ConfigurationError([f"{options.file} is there already"])
    write_secret(options.file, pem.decode().rstrip())
    print("Keep the file with the approver. In the gateway's configuration:")
    print("[[contracts.approver]]")
    print('name = "..."')
    print(f'key  = "{key.public_key().public_bytes_raw().hex()}"')
    return 0


def _propose(options: argparse.Namespace) -> int:
    try:
        text = _read(options.file).decode()
    except UnicodeDecodeError as error:
        raise ConfigurationError([f"{options.file}: {error}"]) from error
    about = {"text": text, "name": str(options.file)}
    row = _row(change(options, "contract-propose", about))
    print(_line(row) + ("" if row["new"] else "  (was there already)"))
    return 0


def _signed(options: argparse.Namespace) -> int:
    about = {"word": options.word, "sequence": options.sequence}
    row = _row(change(options, "contract-message", about))
    message, signature = str(row["message"]), options.signature
    if options.word == APPROVE:
        _check_message(message, options.file)
    if options.key is not None:
        print(_line(row))
        signature = _sign(options.key, message.encode())
    arguments: dict[str, object] = {
        "sequence": options.sequence,
        "approver": options.approver,
        "signature": signature,
    }
    if options.word == APPROVE:
        arguments["contract"] = row["contract"]
        row = _row(change(options, "contract-approve", arguments))
        print(_line(row) + ("" if row["new"] else "  (had approved before)"))
    else:
        arguments["word"] = options.word
        print(_line(_row(change(options, "contract-step", arguments))))
    return 0


def _check_message(message: str, file: Path) -> None:
    """What is signed is about the file at hand, whatever the gateway says."""
    digest = hashlib.sha256(_read(file)).hexdigest()
    _, word, _, _, contract, *_ = message.split("\n")
    if (word, contract) != (APPROVE, digest):
        raise ConfigurationError(
            [f"{file}: has the hash {digest[:16]}, the proposal is of {contract[:16]}"]
        )


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise ConfigurationError([f"{file}: {error}"]) from error


def _sign(file: Path, message: bytes) -> str:
    from cryptography.hazmat.primitives import serialization  # noqa: PLC0415
    from cryptography.hazmat.primitives.asymmetric.ed25519 import (  # noqa: PLC0415
        Ed25519PrivateKey,
    )

    try:
        if stat.S_IMODE(file.stat().st_mode) & 0o077:
            raise ConfigurationError([f"{file}: others may read it; chmod 600 first"])
        key = serialization.load_pem_private_key(file.read_bytes(), None)
    except (OSError, ValueError, TypeError) as error:
        raise ConfigurationError([f"{file}: no private key: {error}"]) from error
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigurationError([f"{file}: no Ed25519 key"])
    return key.sign(message).hex()


def _activate(options: argparse.Namespace) -> int:
    about = {"word": "activate", "sequence": options.sequence}
    print(_line(_row(change(options, "contract-step", about))))
    return 0


def _message(options: argparse.Namespace) -> int:
    about = {"word": options.word, "sequence": options.sequence}
    text = str(_row(change(options, "contract-message", about))["message"])
    if options.output is None:
        print(text, end="")
    else:
        options.output.write_text(text)
    return 0


def _list(options: argparse.Namespace) -> int:
    settings = find_place(options).settings
    if settings is not None and not settings.quorum:
        return _list_files(options, settings.contracts)
    rows = change(options, "contract-proposals", {})
    for row in map(_row, rows if isinstance(rows, list) else []):
        print(json.dumps(row) if options.json else _line(row))
    return 0


def _list_files(options: argparse.Namespace, directory: Path | None) -> int:
    from edge.start import load_contracts  # noqa: PLC0415

    for contract in load_contracts(directory):
        rules = [one.name for one in contract.rules]
        row = {"name": contract.name, "contract": contract.hash.hex(), "rules": rules}
        line = f"{contract.name:<24} {contract.hash.hex()[:16]} {', '.join(rules)}"
        print(json.dumps(row) if options.json else line)
    return 0


def _row(answer: object) -> Mapping[str, object]:
    if not isinstance(answer, dict):
        raise TypeError(f"an answer of the wrong kind: {answer!r}")
    return answer


def _line(row: Mapping[str, object]) -> str:
    approvals = row["approvals"]
    names = ", ".join(map(str, approvals if isinstance(approvals, list) else []))
    by = f" by {names}" if names else ""
    count = len(approvals) if isinstance(approvals, list) else 0
    return (
        f"{row['sequence']:>3}  {row['name']} version {row['version']}  "
        f"{str(row['contract'])[:16]}  {row['status']}  "
        f"{count} of {row['quorum']} approvals{by}"
    )
