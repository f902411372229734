"""The gateway's local socket: how commands reach a gateway that runs.

    DATA/control.sock     Unix stream socket, 0600: only the gateway's user may connect

One request a connection: a line of JSON {"do": name, "with": {…}}, answered by a line
{"ok": result} or {"error": [text, …], "kind": "configuration" | "not-found"}.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import logging
import os
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from edge.errors import ConfigurationError, GatewayError, NotFoundError

SOCKET_NAME = "control.sock"
REQUEST_SIZE_MAX = 64 * 1024
REQUEST_TIMEOUT_S = 10.0
ANSWER_TIMEOUT_S = 60.0
SOCKET_PATH_MAX = 100  # sun_path has 108 bytes

log = logging.getLogger("edge.control")


def socket_path(directory: Path) -> Path:
    """Where the socket of a data directory is."""
    return directory / SOCKET_NAME


async def serve(
    directory: Path, operations: Mapping[str, Callable[..., Any]]
) -> asyncio.Server:
    """Answer requests until the server is closed."""

    async def answer(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        try:
            async with asyncio.timeout(REQUEST_TIMEOUT_S):
                line = await reader.readuntil(b"\n")
            writer.write(json.dumps(await _perform(line, operations)).encode() + b"\n")
            await writer.drain()
        except (OSError, TimeoutError, EOFError, asyncio.LimitOverrunError) as error:
            log.warning("a request to the local socket failed: %s", error)
        finally:
            writer.close()

    path = socket_path(directory)
    if len(os.fsencode(path)) > SOCKET_PATH_MAX:
        raise ConfigurationError(
            [f"{directory}: too long a path for a socket; choose a shorter one"]
        )
    path.unlink(missing_ok=True)  # of a gateway that was killed: we hold the lock
    listening = socket.socket(socket.AF_UNIX)
    os.fchmod(listening.fileno(), 0o600)  # before it has a name, so never open wider
    listening.bind(str(path))
    return await asyncio.start_unix_server(
        answer, sock=listening, limit=REQUEST_SIZE_MAX
    )


async def _perform(
    line: bytes, operations: Mapping[str, Callable[..., Any]]
) -> dict[str, Any]:
    try:
        request = json.loads(line)
        operation = operations[request["do"]]
        arguments = inspect.signature(operation).bind(**request["with"])
    except (ValueError, KeyError, TypeError) as error:
        return {"error": [f"not a request: {error}"], "kind": "configuration"}
    try:
        return {"ok": await operation(*arguments.args, **arguments.kwargs)}
    except ConfigurationError as error:
        return {"error": error.problems, "kind": "configuration"}
    except NotFoundError as error:
        return {"error": [str(error)], "kind": "not-found"}


def call(directory: Path, name: str, arguments: Mapping[str, object]) -> object:
    """Ask the gateway that runs on this directory.

    ConnectionError where none does; otherwise its answer, or its error raised here.
    """
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(ANSWER_TIMEOUT_S)
        try:
            connection.connect(str(socket_path(directory)))
        except (FileNotFoundError, ConnectionRefusedError) as error:
            raise ConnectionError(f"no gateway runs on {directory}") from error
        request = json.dumps({"do": name, "with": dict(arguments)})
        connection.sendall(request.encode() + b"\n")
        with connection.makefile() as stream:
            answer = json.loads(stream.readline() or "{}")
    if "ok" in answer:
        return answer["ok"]
    problems = answer.get("error", ["the gateway ended before it answered"])
    if answer.get("kind") == "configuration":
        raise ConfigurationError(problems)
    if answer.get("kind") == "not-found":
        raise NotFoundError(problems[0])
    raise GatewayError(problems[0])
