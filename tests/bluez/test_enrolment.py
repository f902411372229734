"""`iomt device add NAME --ble` as a person types it: BlueZ, pairing, registry."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from pathlib import Path

from ble_fakes import STRANGER, until
from bumble.core import UUID
from bumble.gatt import Characteristic, Service
from lab import QUICK, Displayed, Lab, let_go, wants_pairing
from test_bonding import CUFF, private
from workbench import readings_of, trusted_clock

from edge.gateway import open_core
from edge.sources.ble_adapter import run_ble

LIMIT_S = 60


async def heard(process: asyncio.subprocess.Process, words: str) -> str:
    """What it has printed up to these words."""
    assert process.stdout is not None
    printed = b""
    async with asyncio.timeout(LIMIT_S):
        while words.encode() not in printed:
            piece = await process.stdout.read(1)
            assert piece, printed.decode()
            printed += piece
    return printed.decode()


async def iomt(*words: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "edge",
        *words,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )


async def test_a_person_enrols_a_cuff_and_its_readings_are_bonded_on_the_ledger(
    lab: Lab, tmp_path: Path
) -> None:
    settings = trusted_clock(tmp_path)
    cuff = await lab.peripheral(CUFF, {0x1810: [private(0x2A35)]})
    model = Characteristic(
        UUID.from_16_bits(0x2A24),
        Characteristic.Properties.READ,
        Characteristic.READABLE,
        b"BP-1",
    )
    cuff.device.add_service(Service(UUID.from_16_bits(0x180A), [model]))
    await lab.peripheral(STRANGER, {})
    screen = Displayed()
    wants_pairing(cuff, passkey=screen)
    file = str(tmp_path / "iomt.toml")
    process = await iomt("device", "add", "cuff-1", "--ble", "--config", file)
    assert process.stdin is not None
    shown = await heard(process, "nothing for none)? ")
    lines = [line for line in shown.splitlines() if " dBm " in line]
    assert [CUFF in lines[0], STRANGER in lines[1]] == [True, True]
    assert "blood pressure" in lines[0]
    process.stdin.write(b"1\n")
    await heard(process, "the number that the device shows: ")
    process.stdin.write(f"{await screen.number:06}\n".encode())
    said, _ = await process.communicate()
    assert process.returncode == 0, said.decode()
    assert b"paired\n  model: BP-1\n" in said
    await let_go(cuff)

    async with open_core(settings) as core:
        core.intake.open_views()
        assert core.registry.radio_addresses() == {CUFF: "cuff-1"}
        source = asyncio.create_task(
            run_ble(
                "bluez",
                core.intake,
                core.registry.radio_addresses,
                lambda: None,
                lambda *_: None,
                limits=QUICK,
            )
        )
        await until(lambda: cuff.subscribed("2a35"), "subscribed", LIMIT_S)
        await asyncio.sleep(0.5)  # the bond is looked up after the subscription
        await cuff.send("2a35", "00780050005d00")
        totals = core.intake.totals
        await until(lambda: totals["committed"] == 1, "committed", LIMIT_S)
        source.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await source
    (stored,) = readings_of(settings)
    assert (stored.record.device, stored.record.link) == ("cuff-1", "ble-bonded")
    assert stored.record.original == bytes.fromhex("00780050005d00")
