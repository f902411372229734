"""The gateway on a disk that fills up: first it stops taking, then it stops.

Small file systems of our own, so root is needed.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from processes import (
    Burst,
    Gateway,
    answered,
    assert_nothing_is_lost,
    running,
    sending,
    signed,
    until,
    until_more,
)

from edge.model import Firing, Kind

DISK_SIZE_MB, RESERVE_MB = 40, 16


@contextlib.contextmanager
def small_disk(place: Path) -> Iterator[Path]:
    """A file system of its own; needs root."""
    place.mkdir()
    command = [
        "mount",
        "-t",
        "tmpfs",
        "-o",
        f"size={DISK_SIZE_MB}m",
        "tmpfs",
        str(place),
    ]
    if os.geteuid() != 0 or subprocess.run(command, check=False).returncode != 0:
        pytest.skip("only root can mount a small disk, and not in every container")
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", place], check=True)


def fill(disk: Path, *, leaving_mb: int) -> Path:
    """Take space until only this much is free; the file to delete."""
    ballast = disk / "ballast"
    block = bytes(1 << 20)
    with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize > leaving_mb << 20:
            file.write(block)
    return ballast


ON_SMALL_DISK = {"# free_reserve_mb = 256 ": f"free_reserve_mb = {RESERVE_MB} "}


async def test_below_the_reserve_it_takes_no_readings_until_there_is_room(
    tmp_path: Path,
) -> None:
    with small_disk(tmp_path / "disk") as disk:
        async with running(disk / "g", tmp_path / "logs", **ON_SMALL_DISK) as gateway:
            burst = Burst(signed("monitor-1", 1), window=8)
            await gateway.enrol(burst.device)
            async with sending(gateway, [burst]) as task:
                await until(lambda: len(burst.acknowledged) > 20, "readings are taken")
                ballast = fill(disk, leaving_mb=RESERVE_MB - 2)
                await until(lambda: "intake stops: only" in gateway.log, "it stops")
                await asyncio.sleep(0.3)  # what was in flight is answered
                stopped_at = len(burst.acknowledged)
                await asyncio.sleep(0.7)
                assert len(burst.acknowledged) == stopped_at
                assert gateway.process.returncode is None
                ballast.unlink()
                await until(lambda: "intake goes on" in gateway.log, "it goes on")
                await until_more([burst], 20)
                burst.ending = True
                async with asyncio.timeout(10):
                    await task
            assert await gateway.stop() == 0
            await assert_nothing_is_lost(gateway, [burst])
            assert not burst.refused
            told = [("disk-reserve", "start"), ("disk-reserve", "end")]
            assert alarms(gateway) == told
            await gateway.export(tmp_path / "exported")


async def test_a_disk_without_a_byte_left_stops_the_process_and_loses_nothing(
    tmp_path: Path,
) -> None:
    """SQLite meets ENOSPC before the reserve is looked at again, or in the alarm."""
    with small_disk(tmp_path / "disk") as disk:
        async with running(disk / "g", tmp_path / "logs", **ON_SMALL_DISK) as gateway:
            bursts = [Burst(signed(f"monitor-{number}", number)) for number in (1, 2)]
            for one in bursts:
                await gateway.enrol(one.device)
            async with sending(gateway, bursts) as task:
                await until(lambda: answered(bursts) > 200, "readings are taken")
                ballast = fill(disk, leaving_mb=0)
                assert await gateway.ended() == 4
                assert "full" in gateway.log.splitlines()[-1]
                assert gateway.log.splitlines()[-1].startswith("iomt: ")
                await gateway.start(waits=False)
                assert await gateway.ended() == 4  # still full
                ballast.unlink()
                await gateway.start()
                await until_more(bursts, 200)
                for one in bursts:
                    one.ending = True
                async with asyncio.timeout(20):
                    await task
            assert await gateway.stop() == 0
            await assert_nothing_is_lost(gateway, bursts)
            await gateway.export(tmp_path / "exported")


def alarms(gateway: Gateway) -> list[tuple[str, str]]:
    """(rule, phase) of the gateway's own alarms in the store."""
    reader = gateway.reader()
    try:
        firings = [
            Firing.decode(stored.record.original)
            for stored in reader.records()
            if stored.record.kind is Kind.FIRING
        ]
    finally:
        reader.close()
    return [(one.rule, one.phase) for one in firings if one.contract == "gateway"]
