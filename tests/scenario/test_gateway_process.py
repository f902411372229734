"""The gateway as a process: killed, doubled, stopped, flooded, and out of disk.

Everything here is real: `python -m edge run`, sockets, SQLite, and at the end the
commands that a clinic or an auditor would use.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import shutil
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import aiomqtt
import pytest
from processes import (
    Burst,
    Gateway,
    Result,
    installed,
    iomt,
    is_root,
    run,
    running,
    signed,
    until,
)
from workbench import SignedDevice

from edge.devices.envelope import parse
from edge.ledger import verify
from edge.ledger.batch import GatewayStart, decode_entry
from edge.ledger.tiles import TILE_WIDTH, Tile, decode_bundle
from edge.model import Kind
from edge.store.database import meta, open_reader

KILLS = 5
UNSPECIFIED = 0x80  # the MQTT 5 reason code of a refusal without one of its own


@contextlib.asynccontextmanager
async def sending(
    gateway: Gateway, bursts: Sequence[Burst]
) -> AsyncIterator[asyncio.Task[None]]:
    """Bursts that run until they are told to end; then all must be answered."""

    async def all_of_them() -> None:
        async with asyncio.TaskGroup() as group:
            for one in bursts:
                group.create_task(one.run(lambda: gateway.port))

    task = asyncio.create_task(all_of_them())
    try:
        yield task
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def answered(bursts: Sequence[Burst]) -> int:
    return sum(len(one.acknowledged) for one in bursts)


def stored_originals(gateway: Gateway) -> dict[tuple[str, int], list[bytes]]:
    """What the store holds of each (device, sequence), as the device sent it."""
    reader = gateway.reader()
    found: dict[tuple[str, int], list[bytes]] = {}
    try:
        for stored in reader.records():
            if stored.record.kind is Kind.READING:
                original = stored.record.original
                key = (stored.record.device or "", parse(original).sequence)
                found.setdefault(key, []).append(original)
    finally:
        reader.close()
    return found


def counters(gateway: Gateway) -> Counter[str]:
    reader = gateway.reader()
    try:
        return reader.counters()
    finally:
        reader.close()


def mark(gateway: Gateway, key: str) -> object:
    connection = open_reader(gateway.settings.directory)
    try:
        return meta(connection, key)
    finally:
        connection.close()


async def assert_nothing_is_lost(gateway: Gateway, bursts: Sequence[Burst]) -> None:
    """Acknowledged is stored, once, with the bytes that were sent; counts add up."""
    originals = stored_originals(gateway)
    for one in bursts:
        name = one.device.name
        for sequence, payload in one.acknowledged.items():
            assert originals.get((name, sequence)) == [payload], (name, sequence)
    assert all(len(payloads) == 1 for payloads in originals.values())
    rows = await gateway.rows()
    listed = Counter((row["device"], row["sequence"]) for row in rows)
    assert listed == Counter(dict.fromkeys(originals, 1))
    assert len({row["id"] for row in rows}) == len(rows)
    for row in rows:
        assert row["metrics"] == {"heart_rate": 60 + row["sequence"] % 40}
    counted = counters(gateway)
    parts = [counted[one] for one in ("committed", "duplicates", "refused")]
    assert counted["received"] == sum(parts)
    assert counted["committed"] == len(rows)


def log_entries(directory: Path, size: int) -> list[object]:
    """Every entry of an exported ledger."""
    found: list[object] = []
    for index in range(-(-size // TILE_WIDTH)):
        width = min(TILE_WIDTH, size - index * TILE_WIDTH)
        content = (directory / Tile(None, index, width).path).read_bytes()
        found += [decode_entry(one) for one in decode_bundle(content, width)]
    return found


async def test_nothing_acknowledged_is_lost_when_the_gateway_is_killed_again_and_again(
    tmp_path: Path,
) -> None:
    """kill -9 in the middle of a burst, five times; from the third start on in safe
    mode. A message that was being handled at a kill in safe mode may be refused as the
    suspect; then it is in quarantine, and its sender was told."""
    seed = random.randrange(1 << 32)
    chance = random.Random(seed)
    print(f"seed {seed}")
    async with running(tmp_path / "g") as gateway:
        bursts = [Burst(signed(f"monitor-{number}", number)) for number in (1, 2, 3)]
        for number, one in enumerate(bursts):
            await gateway.enrol(one.device, "P-1" if number == 0 else None)
        async with sending(gateway, bursts) as task:
            for kill in range(KILLS):
                if kill == 0:  # certainly in the middle of it
                    await until(lambda: answered(bursts) > 1000, "a burst")
                await asyncio.sleep(chance.uniform(0, 0.5))
                await gateway.kill()
                await gateway.start()
            for one in bursts:
                one.ending = True
            async with asyncio.timeout(30):
                await task
        assert await gateway.stop() == 0
        assert min(one.breaks_in_flight for one in bursts) >= 1
        await assert_nothing_is_lost(gateway, bursts)
        await assert_only_suspects_are_refused(gateway, bursts)
        rows = await gateway.rows()
        for one in bursts:
            taken = [r["sequence"] for r in rows if r["device"] == one.device.name]
            assert taken == sorted(taken)  # a device's readings keep their order

        exported = tmp_path / "exported"
        assert f"{gateway.starts} gateway start" in await gateway.export(exported)
        starts = [
            entry.boot_id.hex()[:12]
            for entry in log_entries(
                exported, verify.verify_directory(exported).size or 0
            )
            if isinstance(entry, GatewayStart)
        ]
        # Each start wrote its entry, and its readings stand under it, in order.
        assert len(set(starts)) == KILLS + 1
        boots = list(dict.fromkeys(row["id"].partition("-")[0] for row in rows))
        assert boots == [one for one in starts if one in boots]


async def assert_only_suspects_are_refused(
    gateway: Gateway, bursts: Sequence[Burst]
) -> None:
    quarantined = [
        json.loads(line) for line in (await gateway.do("quarantine")).splitlines()
    ]
    poison = {row["payload"] for row in quarantined if row["reason"] == "poison"}
    assert len(poison) <= KILLS - 1  # the first start was not in safe mode
    for one in bursts:
        for payload, code, reason in one.refused.values():
            assert payload.hex() in poison
            assert code >= UNSPECIFIED
            assert "stopped the gateway before" in reason
        assert not one.unanswered
        everything = set(one.acknowledged) | set(one.refused)
        assert everything == set(range(one.device.sequence))


async def test_after_two_kills_it_starts_in_safe_mode_and_leaves_it_when_all_goes_well(
    tmp_path: Path,
) -> None:
    async with running(tmp_path / "g") as gateway:
        device = signed("monitor-1", 1)
        await gateway.enrol(device)
        for _ in range(2):
            assert "safe mode" not in gateway.log
            await gateway.kill()
            await gateway.start()
        assert "2 abnormal exits in a row: starting in safe mode" in gateway.log
        burst = Burst(device)
        async with sending(gateway, [burst]):
            await until(lambda: len(burst.acknowledged) > 200, "safe mode is over")
            assert "safe mode ends" in gateway.log
        assert not burst.refused
        await gateway.kill()  # the first of a new row
        await gateway.start()
        assert "abnormal exits" not in gateway.log
        assert await gateway.stop() == 0


async def test_sigterm_under_load_ends_in_order(tmp_path: Path) -> None:
    """What was taken is committed and answered; the next start knows of no fall."""
    async with running(tmp_path / "g") as gateway:
        bursts = [Burst(signed(f"monitor-{number}", number)) for number in (1, 2)]
        for one in bursts:
            await gateway.enrol(one.device)
        async with sending(gateway, bursts):
            await until(lambda: answered(bursts) > 500, "a burst")
            assert mark(gateway, "running") == 1
            assert await gateway.stop() == 0
        assert mark(gateway, "running") is None
        assert mark(gateway, "abnormal_exits") == 0
        assert "Traceback" not in gateway.log
        assert not gateway.settings.directory.joinpath("control.sock").exists()
        await assert_nothing_is_lost(gateway, bursts)
        # Whatever was taken was answered too, or the connection ended before.
        assert counters(gateway)["refused"] == 0
        await gateway.start()
        assert "abnormal" not in gateway.log
        await gateway.export(tmp_path / "exported")


async def test_the_second_gateway_on_a_directory_refuses_to_start(
    tmp_path: Path,
) -> None:
    """Two writers would sign two histories; the first is not disturbed."""
    async with running(tmp_path / "g") as gateway:
        burst = Burst(signed("monitor-1", 1))
        await gateway.enrol(burst.device)
        async with sending(gateway, [burst]):
            await until(
                lambda: len(burst.acknowledged) > 10, "the first takes readings"
            )
            second = await iomt("run", "--config", gateway.config)
            assert second.status == 5
            directory = gateway.settings.directory
            assert second.err.splitlines()[-1] == (
                f"iomt: {directory} is in use by another gateway "
                f"(process {gateway.process.pid})"
            )
            before = len(burst.acknowledged)
            await until(lambda: len(burst.acknowledged) > before + 10, "it goes on")
        assert await gateway.stop() == 0
        assert "1 gateway start" in await gateway.export(tmp_path / "exported")


async def test_a_flipped_byte_anywhere_in_a_real_exported_ledger_is_refused(
    tmp_path: Path,
) -> None:
    """Each file: its first, its last and some bytes between; the file is named."""
    async with running(tmp_path / "g") as gateway:
        burst = Burst(signed("monitor-1", 1), window=1)
        await gateway.enrol(burst.device)
        async with sending(gateway, [burst]):
            await until(lambda: len(burst.acknowledged) > 25, "some batches")
        assert await gateway.stop() == 0
        ledger = tmp_path / "exported"
        await gateway.export(ledger)
        vkey = (await gateway.do("ledger", "vkey")).strip()
    seed = random.randrange(1 << 32)
    chance = random.Random(seed)
    files = sorted(one for one in ledger.rglob("*") if one.is_file())
    assert len(files) >= 3
    for file in files:
        content = file.read_bytes()
        places = {
            0,
            len(content) - 1,
            *(chance.randrange(len(content)) for _ in range(11)),
        }
        name = file.relative_to(ledger).as_posix()
        for place in places:
            damaged = bytearray(content)
            damaged[place] ^= 1 << chance.randrange(8)
            file.write_bytes(damaged)
            report = verify.verify_directory(ledger, vkey)
            told = (seed, name, place, report)
            assert report.verdict is verify.Verdict.REFUSED, told
            assert report.place.startswith(name), told
        await assert_refused(ledger, vkey, name)  # the last of them, by the command
        file.unlink()
        await assert_refused(ledger, vkey, name)
        file.write_bytes(content)
    extra = ledger / "tile" / "notes.txt"
    extra.write_text("no part of the log")
    await assert_refused(ledger, vkey, "tile/notes.txt")
    extra.unlink()
    assert (await iomt("verify", ledger, "--vkey", vkey)).status == 0


async def assert_refused(ledger: Path, vkey: str, name: str) -> None:
    result = await iomt("verify", ledger, "--vkey", vkey)
    assert result.status == 1
    last = result.out.splitlines()[-1]
    assert last.startswith("REFUSED: ")
    assert f"[{name}" in last
