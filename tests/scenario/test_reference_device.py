"""The reference client's example program against the real gateway, killed at random."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import subprocess
from decimal import Decimal
from pathlib import Path

import pytest
from flash_log import FlashLog, Values, read_log
from processes import Gateway, counters, running, stored_originals

from edge.devices.envelope import parse
from edge.devices.metrics import BY_NAME
from edge.model import Reading

CLIENT = Path(__file__).resolve().parents[2] / "firmware_sim" / "client"
SEED = bytes(range(32))
DEVICE = "bench-board"
READINGS = 1500
KILLS = int(os.environ.get("IOMT_KILLS", "12"))  # make soak: 50
OPENSSL = Path("/usr/include/openssl/evp.h")

pytestmark = pytest.mark.skipif(
    not (shutil.which("make") and shutil.which("cc") and OPENSSL.exists()),
    reason="needs make, cc and OpenSSL's headers (apt install libssl-dev)",
)


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example, built with sanitizers: what they find goes to its stderr."""
    build = tmp_path_factory.mktemp("build")
    subprocess.run(
        [
            *("make", "-s", "-C", str(CLIENT), "example", f"BUILD={build}"),
            "CFLAGS=-O1 -g -fsanitize=address,undefined -fno-sanitize-recover=all",
        ],
        check=True,
        timeout=60,
        capture_output=True,
    )
    return build / "example"


class Board:
    """The device: its flash and its key outlive its power."""

    def __init__(self, program: Path, directory: Path) -> None:
        self.program = program
        self.flash = directory / "flash"
        self.key = directory / "seed.hex"
        self.key.write_text(SEED.hex())

    async def power_on(self, port: int) -> asyncio.subprocess.Process:
        """Start it; it ends when everything is measured and acknowledged."""
        return await asyncio.create_subprocess_exec(
            self.program,
            *("127.0.0.1", str(port), DEVICE, self.key, self.flash, "1", str(READINGS)),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )


async def live_with_kills(board: Board, gateway: Gateway, dice: random.Random) -> str:
    """Kill the board again and again, and the gateway once; what it says at its end.

    Once: a second kill in safe mode may refuse a good message (docs/limits.md).
    """
    for kill in range(KILLS):
        process = await board.power_on(gateway.port)
        await asyncio.sleep(dice.uniform(0.0, 0.15))
        if kill == KILLS // 2:
            await gateway.kill()
            await asyncio.sleep(dice.uniform(0.0, 0.1))
        if process.returncode is None:
            process.kill()
        await process.communicate()
        if kill == KILLS // 2:
            await gateway.start()
    process = await board.power_on(gateway.port)
    async with asyncio.timeout(60):
        out, err = await process.communicate()
    assert process.returncode == 0, err
    assert err == b""
    return out.decode()


def values_of(reading: Reading) -> Values:
    return {BY_NAME[name].key: value for name, value in reading.values.items()}


def assert_ledger_is_flash(gateway: Gateway, log: FlashLog) -> int:
    """Reading by reading, in order; how many readings the fullest envelope had."""
    originals = stored_originals(gateway)
    received: list[tuple[int, Values]] = []
    sequences = sorted(sequence for device, sequence in originals if device == DEVICE)
    assert sequences == sorted(log.bundles)
    assert sequences == list(range(sequences[0], sequences[0] + len(sequences)))
    fullest = 0
    for sequence in sequences:
        (original,) = originals[DEVICE, sequence]
        readings = [
            (one.time_ms or 0, values_of(one)) for one in parse(original).readings
        ]
        numbers = log.bundles[sequence]
        assert readings == [log.readings[number] for number in numbers], sequence
        fullest = max(fullest, len(readings))
        received += readings
    assert received == [log.readings[number] for number in sorted(log.readings)]
    assert len({time_ms for time_ms, _ in received}) == len(received)
    return fullest


async def test_a_board_killed_again_and_again_loses_and_doubles_nothing(
    program: Path, tmp_path: Path
) -> None:
    dice = random.Random(20_261_121)
    board = Board(program, tmp_path)
    public_key = subprocess.run(
        [program, "-", "0", DEVICE, board.key, "-", "0", "0"],
        check=True,
        capture_output=True,
        text=True,
        timeout=20,
    ).stdout
    (tmp_path / "public.hex").write_text(public_key)
    async with running(tmp_path / "gateway") as gateway:
        await gateway.do("device", "add", DEVICE, "--key", tmp_path / "public.hex")
        out = await live_with_kills(board, gateway, dice)
        assert f"{READINGS} readings, 0 given up" in out
        log = read_log(board.flash)
        assert sorted(log.readings) == list(range(READINGS))
        assert log.readings[17][1][3] == Decimal("37.2")  # {3, -1, 372} in example.c
        assert assert_ledger_is_flash(gateway, log) > 10
        assert counters(gateway)["refused"] == 0
        assert await gateway.stop() == 0
        assert "VERIFIED" in await gateway.export(tmp_path / "export")
