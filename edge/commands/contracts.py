"""`iomt contract check`, `iomt contract list`."""

from __future__ import annotations

import argparse
from pathlib import Path

from edge.commands.place import Commands
from edge.errors import ConfigurationError


def add_to(commands: Commands) -> None:
    """Add this file's commands to the parser."""
    contract = commands.add_parser("contract", help="rule files").add_subparsers(
        required=True, metavar="WHAT"
    )
    one = contract.add_parser("check", help="check rule files")
    one.add_argument("files", metavar="FILE", type=Path, nargs="+")
    one.set_defaults(run=_contract_check)
    one = contract.add_parser("list", help="the contracts of a configuration")
    one.add_argument("--config", metavar="FILE", type=Path, required=True)
    one.set_defaults(run=_contract_list)


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
