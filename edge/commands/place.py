"""Where a command's data are, and how it changes them.

A command that needs a gateway's data takes --config FILE or --data DIR. One that reads
works beside a running gateway; one that changes something asks the gateway that runs,
through its local socket, or opens the store itself where none runs.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edge.errors import ConfigurationError

GRACE_DEFAULT_H = 24

if TYPE_CHECKING:
    from edge.config import Settings
    from edge.store.reader import Reader

    Commands = argparse._SubParsersAction[argparse.ArgumentParser]
else:
    Commands = object


def with_data(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Give a command the options --config and --data."""
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--config", metavar="FILE", type=Path)
    where.add_argument("--data", metavar="DIR", type=Path)
    return parser


def with_grace(parser: argparse.ArgumentParser) -> None:
    """Give a command that replaces a device's signing key the option --grace."""
    parser.add_argument(
        "--grace",
        metavar="HOURS",
        type=int,
        default=GRACE_DEFAULT_H,
        help="how long the old key is taken too (default %(default)s); 0: no more",
    )


def group(commands: Commands, name: str, about: str) -> Commands:
    """The commands `iomt NAME …`, made where no other file has made them before."""
    parser = commands.choices.get(name)
    if parser is None:
        parser = commands.add_parser(name, help=about)
    for action in parser._actions:  # argparse shows no other way
        if isinstance(action, argparse._SubParsersAction):
            return action
    return parser.add_subparsers(required=True, metavar="WHAT")


@dataclass(frozen=True, slots=True)
class Place:
    """A data directory, its keys, and the settings where a configuration was found."""

    directory: Path
    keys: Path
    settings: Settings | None


def find_place(options: argparse.Namespace) -> Place:
    """The data directory that --config or --data names.

    --data takes the directory itself or the one that `iomt init` made around it.
    """
    from edge import config  # noqa: PLC0415 - keeps `iomt verify` free of it
    from edge.init import CONFIG_NAME  # noqa: PLC0415

    if options.config is not None:
        settings = config.load(options.config)
        return Place(settings.directory, settings.keys, settings)
    directory: Path = options.data
    for file in (directory / CONFIG_NAME, directory.parent / CONFIG_NAME):
        if file.is_file():
            settings = config.load(file)
            around = file.parent == directory
            if around or settings.directory == directory.resolve():
                return Place(settings.directory, settings.keys, settings)
    if not directory.is_dir():
        raise ConfigurationError([f"--data: {directory} is no directory"])
    return Place(directory, directory / "keys", None)


def open_reader(options: argparse.Namespace) -> Reader:
    """The reading side of the store; ConfigurationError where there is none."""
    from edge.store.reader import Reader  # noqa: PLC0415
    from edge.store.vault import load_keys  # noqa: PLC0415

    place = find_place(options)
    source = place.settings.master if place.settings else None
    keyring = load_keys(place.keys, source, place.directory)
    return Reader(place.directory, keyring.master)


def change(
    options: argparse.Namespace, name: str, arguments: Mapping[str, object]
) -> object:
    """Have an administrator's change made by the gateway that runs, or make it here."""
    from edge import control  # noqa: PLC0415

    place = find_place(options)
    try:
        return control.call(place.directory, name, arguments)
    except ConnectionError:
        pass
    from edge import gateway  # noqa: PLC0415 - takes longer than the answer above

    if place.settings is None:
        raise ConfigurationError(
            [f"{place.directory}: no gateway runs here; say --config FILE"]
        )

    async def perform(settings: Settings) -> object:
        async with gateway.open_core(settings) as core:
            operation = core.administration.operations[name]
            result: object = await operation(**arguments)
            return result

    logging.getLogger("edge").setLevel(logging.WARNING)
    return asyncio.run(perform(place.settings))
