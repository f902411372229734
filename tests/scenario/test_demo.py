"""`iomt demo` as a newcomer runs it: a process, a terminal, Ctrl-C, a line of JSON."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import pty
import re
import signal
import socket
import struct
import termios
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from processes import CHECKOUT, COMMAND, Result, done, run, until

from edge.ledger import verify

pytest.importorskip("bumble", reason="pip install 'iomt-edge-gateway[demo]'")

RUN_S = 5  # long enough for every kind of device and sender of the ward
SCREEN_ROWS, SCREEN_COLUMNS = 40, 120
CTRL_C = b"\x03"
KEYS = {"sent", "acknowledged", "committed", "duplicates", "refused", "alerts"}
KEYS |= {"tree_size", "verified"}  # design section 10
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def result_of(output: str) -> dict[str, Any]:
    """The JSON of the last line."""
    found: dict[str, Any] = json.loads(output.splitlines()[-1])
    return found


def assert_adds_up(result: dict[str, Any]) -> None:
    assert result.keys() >= KEYS
    assert result["sent"] == result["acknowledged"]
    assert result["received"] == (
        result["committed"] + result["duplicates"] + result["refused"]
    )
    # Sent again on a connection that broke: there is none here.
    assert result["received"] == result["sent"] + result["resent"]
    assert result["resent"] == 0
    assert result["committed"] > 10
    assert result["verified"] is True
    ble = result["ble"]
    assert ble["received"] > 0
    assert ble["received"] == ble["committed"] + ble["duplicates"] + ble["refused"]
    assert ble["refused"] == 0


@contextlib.asynccontextmanager
async def taken(*ports: int) -> AsyncIterator[None]:
    """Hold these ports on loopback; one that stays somebody else's is taken too."""
    with contextlib.ExitStack() as stack:
        for port in ports:
            holder = stack.enter_context(socket.socket())
            holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            for _ in range(100):  # another test's demo may just be ending
                try:
                    holder.bind(("127.0.0.1", port))
                    holder.listen()
                    break
                except OSError:
                    await asyncio.sleep(0.05)
        yield


async def demo(*words: str | Path) -> Result:
    return await run(*COMMAND, "demo", *map(str, words), timeout_s=60)


async def test_it_adds_up_twice_on_one_directory(tmp_path: Path) -> None:
    """First for some seconds and on other ports, for the usual ones are taken; then
    until an interrupt. The second run goes on with the devices of the first, and
    counts its own messages alone."""
    data = tmp_path / "demo"
    async with taken(1883, 8080):
        first = await demo("--seconds", str(RUN_S), "--headless", "--data", data)
        assert first.status == 0, first
        assert "port 1883 is taken: MQTT is on " in first.out
        assert "port 8080 is taken: the page is on " in first.out
        assert not re.search(r"127\.0\.0\.1:(1883|8080)\b", first.out)
    one = result_of(first.out)
    assert_adds_up(one)
    assert one["refused"] > 0  # the ward's intruder
    assert "everything adds up" in first.out
    exported = verify.verify_directory(data / "ledger-export")
    assert exported.size == one["tree_size"]

    two = await interrupted(data)
    assert_adds_up(two)
    assert two["tree_size"] > one["tree_size"]
    again = verify.verify_directory(data / "ledger-export")
    assert again.size == two["tree_size"]
    assert again.counts["gateway start"] == 2
    assert again.counts["device enrolment"] == exported.counts["device enrolment"]
    rows = (await done("readings", "--json", "--data", data)).splitlines()
    messages = {json.loads(row)["id"].rpartition(".")[0] for row in rows}
    runs = (one, one["ble"], two, two["ble"])
    assert len(messages) == sum(counts["committed"] for counts in runs)


async def interrupted(data: Path) -> dict[str, Any]:
    """The result of a run that a SIGINT to the demo alone, not to the ward, ends.

    Meanwhile a second demo on the directory is refused and disturbs nothing.
    """
    process = await asyncio.create_subprocess_exec(
        *COMMAND,
        *("demo", "--headless", "--data", str(data)),
        cwd=CHECKOUT,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    try:
        assert process.stdout is not None
        async with asyncio.timeout(40):
            said = b""
            while b"sent " not in said:  # it reports every few seconds
                line = await process.stdout.readline()
                assert line, said
                said += line
            second = await demo("--data", data, "--seconds", "3", "--headless")
            assert second.status == 5, second
            assert f"is in use by another gateway (process {process.pid})" in second.err
            process.send_signal(signal.SIGINT)
            out, err = await process.communicate()
        assert process.returncode == 0, (said, out, err)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
    assert b"Traceback" not in err
    assert not wards_of(data)
    return result_of(out.decode())


def wards_of(directory: Path) -> list[str]:
    """Command lines of processes that were given a place under this directory."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            line = file.read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if str(directory) in line:
                found.append(line)
    return found


class Screen:
    """What a program writes to a terminal of its own, as text."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._raw = b""
        size = struct.pack("HHHH", SCREEN_ROWS, SCREEN_COLUMNS, 0, 0)
        fcntl.ioctl(descriptor, termios.TIOCSWINSZ, size)
        asyncio.get_running_loop().add_reader(descriptor, self._read)

    def _read(self) -> None:
        try:
            chunk = os.read(self._descriptor, 1 << 16)
        except OSError:  # EIO: the program closed its side
            chunk = b""
        if not chunk:
            self.close()
        self._raw += chunk

    def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self._descriptor)

    @property
    def text(self) -> str:
        """Everything so far, without colours and cursor movements."""
        return ESCAPES.sub("", self._raw.decode(errors="replace"))

    async def shows(self, text: str) -> None:
        """Wait until the text has been on the screen; fails if that never comes."""
        await until(lambda: text in self.text, f"{text!r} on the screen")

    def type(self, keys: bytes) -> None:
        os.write(self._descriptor, keys)


@contextlib.asynccontextmanager
async def on_a_terminal(
    *words: str,
) -> AsyncIterator[tuple[asyncio.subprocess.Process, Screen]]:
    """A program whose controlling terminal we are, so that Ctrl-C is Ctrl-C."""
    ours, theirs = pty.openpty()

    def take_terminal() -> None:
        os.setsid()
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    screen = Screen(ours)
    process = await asyncio.create_subprocess_exec(
        *words,
        cwd=CHECKOUT,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={**os.environ, "TERM": "xterm-256color"},
        preexec_fn=take_terminal,
    )
    os.close(theirs)
    try:
        yield process, screen
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        screen.close()
        os.close(ours)


async def test_the_live_table_shows_the_ward_until_ctrl_c(tmp_path: Path) -> None:
    words = (*COMMAND, "demo", "--data", str(tmp_path / "demo"))
    async with on_a_terminal(*words) as (process, screen):
        await screen.shows("Ctrl-C ends and checks")
        for number in range(1, 9):
            await screen.shows(f"bed-{number} ")
        for text in ("Patient", "HR", "SpO2", "BP", "Age", "received", "committed"):
            await screen.shows(text)
        screen.type(CTRL_C)
        async with asyncio.timeout(30):
            assert await process.wait() == 0, screen.text
        await screen.shows('"verified"')
    assert "VERIFIED" in screen.text
    assert "Traceback" not in screen.text
    assert "everything adds up" in screen.text
    result = result_of(screen.text.rstrip())
    assert result["verified"] is True
    assert result["sent"] == result["acknowledged"]
    assert not wards_of(tmp_path)


async def test_impossible_wishes_are_refused_all_at_once() -> None:
    result = await demo("--seconds", "0", "--speed", "0", "--beds", "0")
    assert result.status == 2
    assert result.err.splitlines() == [
        "iomt: --seconds: must be above 0",
        "iomt: --speed: must be above 0 and at most 1000",
        "iomt: --beds: must be 1 to 100",
    ]


async def test_a_directory_of_a_real_gateway_is_not_touched(tmp_path: Path) -> None:
    made = await run(*COMMAND, "init", str(tmp_path / "g"))
    assert made.status == 0
    before = (tmp_path / "g" / "iomt.toml").read_bytes()
    result = await demo("--data", tmp_path / "g", "--seconds", "3")
    assert result.status == 2
    assert "not made by `iomt demo`" in result.err
    assert (tmp_path / "g" / "iomt.toml").read_bytes() == before
