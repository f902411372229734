"""The command `iomt`.

Exit status: 0 done, 1 the answer is no (a ledger that does not verify, a demo that does
not add up), 2 the command or the configuration is wrong, 3 not enough to decide, 4 the
gateway failed and should be started again, 5 another gateway holds the data.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import sys
from collections.abc import Callable, Sequence

from edge.commands import GROUPS
from edge.errors import (
    BusyError,
    ConfigurationError,
    DurabilityError,
    GatewayError,
    IntegrityError,
    NotFoundError,
)

EXIT_NO, EXIT_WRONG, EXIT_FAILED, EXIT_BUSY = 1, 2, 4, 5


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; its exit status, which holds even where nobody can read it."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    verify = words[:1] == ["verify"]
    try:
        status = _verify(words[1:]) if verify else _run(words)
    except BrokenPipeError:  # `iomt readings | head`: but a verdict has to be heard
        status = EXIT_WRONG if verify else 0
    for stream, descriptor in ((sys.stdout, 1), (sys.stderr, 2)):
        try:
            stream.flush()
        except OSError:  # a closed pipe, a full disk: Python would exit with its own
            os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)
    return status


def _verify(words: Sequence[str]) -> int:
    # An auditor's command: the standard library and the ledger room, nothing else.
    from edge.ledger import verify  # noqa: PLC0415

    return verify.main(words)


def _run(words: Sequence[str]) -> int:
    options = _parser().parse_args(words)
    logging.basicConfig(
        level=logging.DEBUG if options.verbose else logging.INFO,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        stream=sys.stderr,
    )
    if options.passphrase_fd is not None:
        from edge.store import keysource  # noqa: PLC0415 - most commands need no key

        keysource.use_descriptor(options.passphrase_fd)
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
    parser.add_argument(
        "--passphrase-fd",
        metavar="N",
        type=int,
        help="read the master key's passphrase from this open file descriptor",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for group in GROUPS:
        group.add_to(commands)
    return parser


if __name__ == "__main__":
    sys.exit(main())
