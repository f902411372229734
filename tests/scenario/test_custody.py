"""The chain from a device to the log, link by link; and the log over HTTP."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import aiohttp
import apsw
import pytest
from test_rollback import LINE, SENML, set_back, with_stick
from workbench import SignedDevice, a_ward, make_gateway, reader_of, readings_of, vkey

from edge.config import Settings
from edge.errors import NotFoundError
from edge.ledger import tiles
from edge.ledger.device_key import kid_of
from edge.ledger.verify import (
    Verdict,
    verify_consistency,
    verify_directory,
    verify_proof,
)
from edge.store import head
from edge.store.custody import Link, Result, custody
from edge.store.proving import enrolment, prove_consistency
from edge.store.reader import Reader
from edge.web.app import make_app, serve
from edge.web.live import Live

NAMES = [
    *("device", "gateway", "batch", "entry", "checkpoint"),
    *("second medium", "witnesses"),
]


async def a_reading_each(settings: Settings) -> tuple[str, str]:
    """The names of a signed reading and of one that nobody signed."""
    async with a_ward(settings) as (_, mail):
        await mail.send("monitor", SignedDevice("monitor").envelope(spo2=97))
        await mail.send("thermometer", SENML)
    signed, unsigned = (one.reading_id(0) for one in readings_of(settings))
    return signed, unsigned


def chain(settings: Settings, reading: str) -> dict[str, Link]:
    links = custody(
        reader_of(settings), settings.keys, reading, settings.checkpoint_copy
    )
    return {one.name: one for one in links}


def iomt(settings: Settings, *words: str) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-m", "edge", *words, "--data", str(settings.directory)],
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


async def test_every_link_of_a_signed_reading_is_recomputed(tmp_path: Path) -> None:
    settings, _ = with_stick(tmp_path)
    signed, unsigned = await a_reading_each(settings)
    links = chain(settings, signed)
    assert list(links) == NAMES
    results = [one.result for one in links.values()]
    assert results == [Result.OK] * 6 + [Result.ABSENT]  # no witness yet
    assert not links["witnesses"].needed
    device = chain(settings, unsigned)["device"]
    assert (device.result, device.needed) == (Result.ABSENT, False)
    assert "vouches" in device.text
    status, said = iomt(settings, "custody", signed)
    assert status == 0
    assert [line.split("  ")[0] for line in said.splitlines()] == NAMES


TAMPERING = {
    "batch": "UPDATE batches SET leaves = zeroblob(length(leaves)) WHERE entry > 3",
    "entry": "UPDATE batches SET entry = entry - 1 WHERE entry > 3",
    "checkpoint": "UPDATE checkpoint SET note = CAST(replace(CAST(note AS TEXT), "
    "'ward' || char(10), 'word' || char(10)) AS BLOB)",
    "gateway": "DELETE FROM entries WHERE idx = 1",
}


@pytest.mark.parametrize("place", TAMPERING)
async def test_a_link_that_was_tampered_with_is_broken_and_named(
    tmp_path: Path, place: str
) -> None:
    settings = make_gateway(tmp_path)
    signed, _ = await a_reading_each(settings)
    connection = apsw.Connection(str(settings.directory / "gateway.db"))
    connection.execute(TAMPERING[place])
    connection.close()
    link = chain(settings, signed)[place]
    assert link.result is Result.BROKEN, link
    assert iomt(settings, "custody", signed)[0] == 1


async def test_a_reading_whose_frame_is_gone_is_not_enough(tmp_path: Path) -> None:
    settings = make_gateway(tmp_path)
    async with a_ward(settings) as (opened, mail):
        await mail.send("monitor", SignedDevice("monitor").envelope())
        signed = readings_of(settings)[0].reading_id(0)
        await opened.administration.operations["patient-erase"]("P-1")
    status, said = iomt(settings, "custody", signed)
    assert (status, said.split()[0]) == (3, "record")


async def test_a_reading_of_an_ended_epoch_is_still_anchored(tmp_path: Path) -> None:
    """Its branch's root stands in entry 0 of the next log, and is not signed again."""
    settings, _, _, old = await set_back(tmp_path)
    async with a_ward(settings):
        pass
    links = chain(settings, old)
    for name in ("device", "gateway", "batch", "entry", "checkpoint"):
        assert links[name].result is Result.OK, links[name]
    assert "next log" in links["checkpoint"].text


async def test_a_medium_that_knows_more_breaks_the_chain(tmp_path: Path) -> None:
    settings, _, _, old = await set_back(tmp_path)
    assert chain(settings, old)["second medium"].result is Result.BROKEN


async def test_a_disclosed_proof_carries_the_enrolment_and_needs_no_pinned_key(
    tmp_path: Path,
) -> None:
    settings = make_gateway(tmp_path / "gateway")
    signed, unsigned = await a_reading_each(settings)
    for number, name in enumerate((signed, unsigned)):
        file = tmp_path / f"{number}.tlog-proof"
        file.write_bytes(reader_of(settings).prove(name, disclose=True))
        report = verify_proof(file, vkey(settings))
        assert report.verdict is Verdict.OK, report.lines()


async def test_the_enrolment_is_found_among_many_entries_of_one_moment(
    tmp_path: Path,
) -> None:
    """By time and not by an index: devices added at once, and long logs."""
    settings = make_gateway(tmp_path)
    async with a_ward(settings) as (opened, _):
        for _ in range(4):
            for _ in range(100):
                opened.intake._tick()
            names = [f"d-{opened.intake.tree_size}-{number}" for number in range(5)]
            await asyncio.gather(
                *(
                    opened.administration.add_device(
                        name, "signed", SignedDevice(name).public_key
                    )
                    for name in names
                )
            )
    reader = reader_of(settings)
    size, _ = reader.checkpoint()
    devices = [one for one in reader.registry().all() if one.public_key]
    assert len(devices) == 21
    for device in devices:
        kid = kid_of(device.public_key or b"")
        proven = enrolment(reader, device.name, kid, size, reader.log(), size)
        assert proven is not None
        assert device.ref in proven.entry


async def test_consistency_between_any_two_kept_checkpoints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(head, "KEEP_INTERVAL_MS", 0)
    settings = make_gateway(tmp_path / "gateway")
    await a_reading_each(settings)
    reader = reader_of(settings)
    sizes = [size for size, _, _ in reader.comparable_checkpoints()]
    assert len(sizes) > 5
    file = tmp_path / "grown"
    for old in sizes:
        for new in (one for one in sizes if one >= old):
            file.write_bytes(prove_consistency(reader, old, new))
            report = verify_consistency(file, vkey(settings))
            assert report.verdict is Verdict.OK, (old, new, report.lines())
    with pytest.raises(NotFoundError, match="is kept"):
        prove_consistency(reader, sizes[0], 10**6)
    with pytest.raises(NotFoundError, match="older one first"):
        prove_consistency(reader, sizes[1], sizes[0])
    status, said = iomt(settings, "ledger", "checkpoints")
    assert status == 0
    assert [int(line.split()[0]) for line in said.splitlines()] == sizes
    words = (str(sizes[0]), str(sizes[-1]), "-o", str(file))
    assert iomt(settings, "ledger", "consistency", *words)[0] == 0
    assert verify_consistency(file, vkey(settings)).verdict is Verdict.OK


async def test_a_client_walks_the_log_over_http_while_it_grows(tmp_path: Path) -> None:
    """Checkpoint, then every tile and bundle that it covers: each walk verifies."""
    settings = make_gateway(tmp_path / "gateway")
    async with a_ward(settings) as (opened, _):
        reader = Reader(settings.directory, opened.keyring.master)
        app = make_app(Live(), reader.resource, "token")
        runner, port = await serve(app, "127.0.0.1", 0)
        growing = asyncio.create_task(grow(opened.intake._tick))
        sizes = []
        headers = {"Authorization": "Bearer token"}
        async with aiohttp.ClientSession(headers=headers) as client:
            for number in range(6):
                async with asyncio.timeout(20):
                    while opened.intake.tree_size < 120 * (number + 1):
                        await asyncio.sleep(0.01)
                target = tmp_path / f"walk-{number}"
                base = f"http://127.0.0.1:{port}/ledger/"
                sizes.append(await walk(client, base, target))
                report = verify_directory(target, vkey(settings))
                assert report.verdict is Verdict.OK, report.lines()
        growing.cancel()
        await runner.cleanup()
        reader.close()
    assert sizes[-1] > 512  # with full tiles among them
    assert len(set(sizes)) == 6


async def grow(tick: Callable[[], None]) -> None:
    while True:
        for _ in range(20):
            tick()
        await asyncio.sleep(0.005)


async def walk(client: aiohttp.ClientSession, base: str, target: Path) -> int:
    """Fetch the log at its checkpoint of now; the size."""

    async def fetch(path: str) -> bytes:
        async with client.get(base + path) as answer:
            assert answer.status == 200, path
            content = await answer.read()
        (target / path).parent.mkdir(parents=True, exist_ok=True)
        (target / path).write_bytes(content)
        return content

    size = int((await fetch("checkpoint")).split(b"\n")[1])
    for level in (None, *range(tiles.levels(size))):
        for one in tiles.level_tiles(level, size):
            await fetch(one.path)
    return size


def test_the_line_of_the_template_is_there(tmp_path: Path) -> None:
    """`LINE` is what these tests replace in the configuration."""
    settings = make_gateway(tmp_path, **{LINE: 'checkpoint_copy = "stick" '})
    assert settings.checkpoint_copy == tmp_path / "stick"
