"""`iomt watchdog`: says when the gateway's heartbeat stops."""

from __future__ import annotations

import argparse
import signal
from pathlib import Path

from edge.commands.place import Commands
from edge.errors import ConfigurationError


def add_to(commands: Commands) -> None:
    """Add this file's commands to the parser."""
    one = commands.add_parser("watchdog", help="says when the gateway falls silent")
    where = one.add_mutually_exclusive_group(required=True)
    where.add_argument("--config", metavar="FILE", type=Path)
    where.add_argument("--socket", metavar="PATH", type=Path)
    one.add_argument("--after", metavar="SECONDS", type=float, default=10.0)
    one.add_argument("--repeat", metavar="SECONDS", type=float, default=60.0)
    one.add_argument("--command", metavar="CMD", default="", help="run it, too")
    one.set_defaults(run=_watch)


def _watch(options: argparse.Namespace) -> int:
    from edge.watchdog import Options, watch  # noqa: PLC0415

    path: Path | None = options.socket
    if options.config is not None:
        from edge import config  # noqa: PLC0415

        path = config.load(options.config).watchdog
    if path is None:
        raise ConfigurationError(
            [f"{options.config}: [watchdog] socket: is not configured"]
        )
    ended = False

    def end(*_: object) -> None:
        nonlocal ended
        ended = True

    for one in (signal.SIGINT, signal.SIGTERM):
        signal.signal(one, end)
    try:
        watch(
            Options(path, options.after, options.repeat, options.command),
            lambda: ended,
        )
    except OSError as error:
        raise ConfigurationError([f"{path}: {error.strerror or error}"]) from error
    return 0
