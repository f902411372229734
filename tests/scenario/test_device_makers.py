"""The devices of docs/device-makers.md, taken from the page, against a gateway."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from processes import Gateway, counters, running

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "device-makers.md").read_text()
NODE = os.environ.get("IOMT_NODE") or shutil.which("node")
LINES_MAX = 40  # "each under 40 lines"
READINGS = 6  # of one run; the gateway answers twenty at once, then four a second


def snippet(language: str) -> str:
    """The one block of this language on the page."""
    (found,) = re.findall(
        rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL
    )
    assert isinstance(found, str)
    return found


class Bench:
    """A device of the page with its key and its storage."""

    def __init__(
        self, directory: Path, name: str, command: Sequence[str | Path]
    ) -> None:
        self.name = name
        self.directory = directory / name
        self.storage = self.directory / "outbox"
        self._command = command
        self.directory.mkdir()
        key, public = self.directory / "board.pem", self.directory / "board.pub.pem"
        for words in (
            ("genpkey", "-algorithm", "ed25519", "-out", key),
            ("pkey", "-in", key, "-pubout", "-out", public),
        ):
            subprocess.run(
                ["openssl", *words], check=True, capture_output=True, timeout=20
            )

    async def start(self, port: int, readings: int) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            *self._command,
            *("127.0.0.1", str(port), self.name),
            *(self.directory / "board.pem", self.storage, str(readings)),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )

    async def run(self, port: int, readings: int) -> None:
        """One run to its end."""
        process = await self.start(port, readings)
        async with asyncio.timeout(40):
            out, _ = await process.communicate()
        assert process.returncode == 0, out.decode()


async def sequences(gateway: Gateway, device: str) -> list[int]:
    """What the gateway has of this device; every one with the values of the page."""
    rows = [row for row in await gateway.rows() if row["device"] == device]
    for row in rows:
        n = row["metrics"]["heart_rate"] - 60
        assert row["metrics"]["body_temperature"] == pytest.approx(36.5 + n % 10 / 10)
        assert row["attestation"] == "device"
    return sorted(row["sequence"] for row in rows)


async def live(bench: Bench, gateway: Gateway) -> None:
    """A run to its end, two that are killed, and one that sends what they left."""
    device = bench.name
    public = bench.directory / "board.pub.pem"
    await gateway.do("device", "add", device, "--key", public)
    await bench.run(gateway.port, READINGS)
    assert await sequences(gateway, device) == list(range(1, READINGS + 1))
    for wait_s in (0.5, 0.9):  # enough to begin, not always enough to end
        process = await bench.start(gateway.port, READINGS)
        await asyncio.sleep(wait_s)
        if process.returncode is None:
            process.kill()
        await process.communicate()
    await bench.run(gateway.port, 1)
    found = await sequences(gateway, device)
    assert found == list(range(1, len(found) + 1))  # nothing lost, nothing doubled
    assert READINGS + 1 <= len(found) <= 3 * READINGS + 1


async def assert_takes_part(
    tmp_path: Path, name: str, words: Sequence[str | Path]
) -> None:
    bench = Bench(tmp_path, name, words)
    if name == "in-javascript":
        bench.storage.mkdir()
    async with running(tmp_path / "gateway") as gateway:
        await live(bench, gateway)
        assert counters(gateway)["refused"] == 0
        assert counters(gateway)["gaps"] == 0
        assert await gateway.stop() == 0


needs_openssl = pytest.mark.skipif(
    shutil.which("openssl") is None, reason="apt install openssl"
)


@needs_openssl
async def test_the_python_device_of_the_page_takes_part(tmp_path: Path) -> None:
    program = tmp_path / "device.py"
    program.write_text(snippet("python"))
    assert len(program.read_text().splitlines()) < LINES_MAX
    await assert_takes_part(tmp_path, "in-python", [sys.executable, program])


@needs_openssl
@pytest.mark.skipif(NODE is None, reason="no node on this machine (apt install nodejs)")
async def test_the_javascript_device_of_the_page_takes_part(tmp_path: Path) -> None:
    assert NODE is not None
    program = tmp_path / "device.mjs"
    program.write_text(snippet("js"))
    assert len(program.read_text().splitlines()) < LINES_MAX
    modules = re.findall(r'from "([^"]+)"', program.read_text())
    assert modules
    assert all(name.startswith("node:") for name in modules)
    await assert_takes_part(tmp_path, "in-javascript", [NODE, program])


@pytest.mark.skipif(shutil.which("cc") is None, reason="needs cc")
def test_the_c_of_the_page_compiles(tmp_path: Path) -> None:
    source = tmp_path / "device.c"
    source.write_text(snippet("c"))
    done = subprocess.run(
        [
            *("cc", "-std=c99", "-Wall", "-Wextra", "-Wpedantic", "-Werror"),
            *("-fsyntax-only", f"-I{ROOT / 'firmware_sim' / 'client'}", str(source)),
        ],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 0, done.stderr
