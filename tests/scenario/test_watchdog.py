"""The watchdog and a real gateway: killed, hanging, back; and what is no heartbeat."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from processes import installed

from edge import heartbeat
from edge.watchdog import COMMAND_TIMEOUT_S, REPEAT_S, Options, Watchdog, bind, watch

AFTER_S = 3.0  # more than one heartbeat


class Watching:
    """`iomt watchdog` as a process."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.lines: list[str] = []

    async def until(self, words: str) -> None:
        assert self.process.stderr is not None
        async with asyncio.timeout(20):
            while not any(words in one for one in self.lines):
                line = (await self.process.stderr.readline()).decode()
                assert line, self.lines
                self.lines.append(line)


@asynccontextmanager
async def watching(path: Path, *more: str) -> AsyncIterator[Watching]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "edge", "watchdog", "--socket", str(path)),
        *("--after", str(AFTER_S), "--repeat", "1"),
        *more,
        stderr=asyncio.subprocess.PIPE,
    )
    one = Watching(process)
    try:
        await one.until("watching")
        yield one
    finally:
        process.terminate()
        assert await process.wait() == 0
    assert not path.exists()


async def test_a_gateway_that_is_killed_or_hangs_is_told(tmp_path: Path) -> None:
    path, told = tmp_path / "run" / "dog.sock", tmp_path / "told"
    script = tmp_path / "tell.sh"
    script.write_text(f'#!/bin/sh\necho "$@" >> {told}\n')
    script.chmod(0o755)
    async with installed(tmp_path / "g") as gateway:
        file = tmp_path / "g" / "iomt.toml"
        line = '# socket = "/run/iomt/watchdog.sock"'
        assert line in file.read_text()
        file.write_text(file.read_text().replace(line, f'socket = "{path}"'))
        async with watching(path, "--command", str(script)) as dog:
            await dog.until("LOST")  # there is none yet
            await gateway.start()
            await dog.until("back")
            dog.lines.clear()
            await gateway.kill()
            await dog.until("LOST")
            await gateway.start()
            await dog.until("back")
            dog.lines.clear()
            assert gateway.process is not None
            os.kill(gateway.process.pid, signal.SIGSTOP)
            await dog.until("LOST")
            os.kill(gateway.process.pid, signal.SIGCONT)
            await dog.until("back")
        assert await gateway.stop() == 0  # nobody listens any more: nothing waits
    words = [line.split()[0] for line in told.read_text().splitlines()]
    assert words[0] == "lost"  # and again, for as long as a start takes here
    assert set(words) == {"lost", "back"}


def test_what_is_no_heartbeat_does_not_keep_it_quiet() -> None:
    now, lines = [100.0], list[str]()
    dog = Watchdog(Options(Path("/none")), lines.append, lambda: now[0])
    for content in (b"{", b"[]", b'{"pid": "1"}', b"\xff" * 513, b"[" * 400):
        now[0] += 4
        dog.take(content)
        dog.look()
    assert dog.strange == 5
    assert len(lines) == 1
    assert "LOST after 12 s" in lines[0]
    now[0] += REPEAT_S - 8 - 1  # it was first said 8 s ago
    dog.look()
    assert len(lines) == 1
    now[0] += 1  # said again while it lasts, and no oftener
    dog.look()
    dog.look()
    assert len(lines) == 2
    dog.take(b'{"pid": 7, "tree_size": 1}')
    assert "back after 72 s of silence: process 7" in lines[2]


def test_a_command_that_hangs_is_ended_and_never_runs_twice(tmp_path: Path) -> None:
    now, lines = [0.0], list[str]()
    options = Options(tmp_path / "s", command="sh -c 'sleep 600'")
    dog = Watchdog(options, lines.append, lambda: now[0])
    now[0] = 11
    dog.look()
    first = dog._command
    assert first is not None
    now[0] = 11 + COMMAND_TIMEOUT_S + 1
    dog.look()
    assert first.wait(5) != 0
    assert "was ended" in lines[1]
    dog.look()
    assert dog._command is None


def test_a_second_watchdog_is_refused_and_a_dead_ones_socket_is_not_in_the_way(
    tmp_path: Path,
) -> None:
    path = tmp_path / "dog.sock"
    with bind(path):
        assert path.stat().st_mode & 0o777 == 0o600
        with pytest.raises(OSError, match="in use"):
            bind(path)
    assert path.exists()  # as after kill -9
    watch(Options(path), lambda: True)
    assert not path.exists()


async def test_a_commit_that_hangs_stops_the_heartbeat(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A dead disk leaves the event loop alive: that is no good health."""
    monkeypatch.setattr(heartbeat, "INTERVAL_S", 0.02)

    class Intake:
        committing_s = 0.0
        tree_size = 7

    intake = Intake()
    with bind(tmp_path / "s") as bound:
        task = asyncio.create_task(heartbeat.beat(tmp_path / "s", intake))  # type: ignore[arg-type]
        bound.setblocking(False)

        def beats() -> int:
            count = 0
            while True:
                try:
                    bound.recv(600)
                except (TimeoutError, BlockingIOError):
                    return count
                count += 1

        await asyncio.sleep(0.2)
        assert beats() > 2
        intake.committing_s = heartbeat.COMMIT_MAX_S
        await asyncio.sleep(0.1)
        beats()
        await asyncio.sleep(0.2)
        assert beats() == 0
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
