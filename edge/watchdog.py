"""`iomt watchdog`: a process of its own that says when the gateway is silent.

The gateway sends a datagram every 2 s to a Unix socket, from the event loop that takes
the readings, and only while its newest commit went well: a gateway that is killed, that
hangs, or whose disk does, falls silent. The watchdog writes nothing, reads nothing of
the gateway's, and shares no disk with it but the name of the socket, made at its start.

    datagram   JSON {"pid": …, "tree_size": …}, at most 512 bytes
    stderr     one line when the heartbeat is lost, each --repeat while it is, and when
               it is back
    --command  is run with `lost` or `back` and how long it was silent, in seconds; not
               twice at once, and for no longer than COMMAND_TIMEOUT_S

Only the standard library: what watches should not depend on what is watched.
"""

from __future__ import annotations

import json
import os
import shlex
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

SIZE_MAX = 512
LOST_AFTER_S = 10.0
REPEAT_S = 60.0
COMMAND_TIMEOUT_S = 30.0
LOOK_INTERVAL_S = 0.2


@dataclass(slots=True)
class Options:
    """What the command was told."""

    path: Path
    after_s: float = LOST_AFTER_S
    repeat_s: float = REPEAT_S
    command: str = ""


def bind(path: Path) -> socket.socket:
    """The socket that heartbeats come to; only this user may send there.

    OSError where another watchdog is at it, or the place cannot be written.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if path.exists() and stat.S_ISSOCK(path.stat().st_mode):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as probe:
            try:
                probe.connect(str(path))
            except ConnectionRefusedError:
                path.unlink()  # of a watchdog that was killed
    bound = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    before = os.umask(0o177)
    try:
        bound.bind(str(path))
    except OSError:
        bound.close()
        raise
    finally:
        os.umask(before)
    bound.settimeout(LOOK_INTERVAL_S)
    return bound


class Watchdog:
    """Watches; `tell` gets each line. Times are of a clock that only rises."""

    def __init__(
        self,
        options: Options,
        tell: Callable[[str], None],
        monotonic_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._options = options
        self._tell = tell
        self._now_s = monotonic_s
        self._heard_s = monotonic_s()
        self._told_s: float | None = None  # lost, and said so then
        self._command: subprocess.Popen[bytes] | None = None
        self._command_s = 0.0
        self.strange = 0  # datagrams that are none of ours

    def run(self, bound: socket.socket, stop: Callable[[], bool]) -> None:
        """Watch until told to stop."""
        while not stop():
            try:
                content = bound.recv(SIZE_MAX + 1)
            except TimeoutError:
                content = b""
            except OSError as error:
                self._tell(f"the socket: {error}")
                time.sleep(LOOK_INTERVAL_S)
                continue
            if content:
                self.take(content)
            self.look()

    def take(self, content: bytes) -> None:
        """A datagram; whatever is no heartbeat is counted and nothing else."""
        try:
            beat = json.loads(content) if len(content) <= SIZE_MAX else None
        except (ValueError, RecursionError):
            beat = None
        if not isinstance(beat, dict) or not isinstance(beat.get("pid"), int):
            self.strange += 1
            return
        silent_s = self._now_s() - self._heard_s
        self._heard_s = self._now_s()
        if self._told_s is not None:
            self._told_s = None
            self._say("back", silent_s, f"process {beat['pid']}")

    def look(self) -> None:
        """Say that the heartbeat is lost, once it is, and now and then again."""
        now_s = self._now_s()
        silent_s = now_s - self._heard_s
        self._end_command(now_s)
        if silent_s < self._options.after_s:
            return
        if self._told_s is None or now_s - self._told_s >= self._options.repeat_s:
            self._told_s = now_s
            self._say("lost", silent_s, "readings are perhaps not taken")

    def _say(self, what: str, silent_s: float, more: str) -> None:
        word = "LOST" if what == "lost" else "back"
        self._tell(
            f"gateway heartbeat {word} after {silent_s:.0f} s of silence: {more}"
        )
        if not self._options.command or self._command is not None:
            return
        words = [*shlex.split(self._options.command), what, f"{silent_s:.0f}"]
        try:
            self._command = subprocess.Popen(words, stdin=subprocess.DEVNULL)  # noqa: S603 - the administrator's own
        except OSError as error:
            self._tell(f"the command: {error}")
        self._command_s = self._now_s()

    def _end_command(self, now_s: float) -> None:
        if self._command is None:
            return
        if self._command.poll() is None and now_s - self._command_s > COMMAND_TIMEOUT_S:
            self._command.kill()
            self._tell(f"the command took over {COMMAND_TIMEOUT_S:.0f} s and was ended")
        if self._command.poll() is not None:
            self._command = None


def watch(options: Options, stop: Callable[[], bool]) -> None:
    """Bind the socket, watch until told to stop, and take the socket away."""

    def tell(line: str) -> None:
        moment = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime())
        print(f"{moment} UTC {line}", file=sys.stderr, flush=True)

    with bind(options.path) as bound:
        tell(f"watching {options.path}")
        try:
            Watchdog(options, tell).run(bound, stop)
        finally:
            options.path.unlink(missing_ok=True)
