"""The gateway as a process: killed, doubled, stopped, flooded, and listened to.

Everything here is real: `python -m edge run`, sockets, SQLite, and at the end the
commands that a clinic or an auditor would use.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import shutil
import signal
from collections.abc import Sequence
from pathlib import Path

import aiomqtt
import pytest
from processes import (
    COMMAND,
    Burst,
    Gateway,
    answered,
    assert_nothing_is_lost,
    counters,
    installed,
    iomt,
    on_slow_disk,
    rate_of,
    run,
    running,
    sending,
    signed,
    until,
    until_more,
)

from edge.ledger import verify
from edge.ledger.batch import GatewayStart, decode_entry
from edge.ledger.tiles import TILE_WIDTH, Tile, decode_bundle
from edge.sources.mqtt_encoder import encode
from edge.sources.mqtt_packets import V311, Connect
from edge.store.database import meta, open_reader
from edge.store.vault import load_keys

KILLS = int(os.environ.get("IOMT_KILLS", "5"))  # make soak: 50
UNSPECIFIED = 0x80  # the MQTT 5 reason code of a refusal without one of its own

needs_mosquitto = pytest.mark.skipif(
    shutil.which("mosquitto_sub") is None, reason="apt install mosquitto-clients"
)


def mark(gateway: Gateway, key: str) -> object:
    connection = open_reader(gateway.settings.directory)
    try:
        return meta(connection, key)
    finally:
        connection.close()


def log_entries(directory: Path) -> list[object]:
    """Every entry of an exported ledger."""
    found: list[object] = []
    size = verify.verify_directory(directory).size or 0
    for index in range(-(-size // TILE_WIDTH)):
        width = min(TILE_WIDTH, size - index * TILE_WIDTH)
        content = (directory / Tile(None, index, width).path).read_bytes()
        found += [decode_entry(one) for one in decode_bundle(content, width)]
    return found


async def test_nothing_acknowledged_is_lost_when_the_gateway_is_killed_again_and_again(
    tmp_path: Path,
) -> None:
    """kill -9 in the middle of a burst, again and again, sometimes in safe mode. What
    was being handled then may be refused as the suspect: it is in quarantine, and its
    sender was told."""
    seed = random.randrange(1 << 32)
    chance = random.Random(seed)
    print(f"seed {seed}")
    async with installed(tmp_path / "g") as gateway:
        gateway.command = on_slow_disk(before_s=0.01, after_s=0.005)
        await gateway.start()
        bursts = [Burst(signed(f"monitor-{number}", number)) for number in (1, 2, 3)]
        for number, one in enumerate(bursts):
            await gateway.enrol(one.device, "P-1" if number == 0 else None)
        async with sending(gateway, bursts) as task:
            for kill in range(KILLS):
                if kill != 2:  # out of safe mode, in the middle of full batches
                    await until_more(bursts, 500)
                await asyncio.sleep(chance.uniform(0, 0.2))
                if kill in (0, 1, 3):  # at the very moment that it answers
                    for one in bursts:
                        one.on_answer = gateway.strike
                    assert await gateway.ended() == -signal.SIGKILL
                    for one in bursts:
                        one.on_answer = None
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
        print(f"{KILLS} kills, {answered(bursts)} acknowledged, none lost")
        rows = await gateway.rows()
        for one in bursts:
            taken = [r["sequence"] for r in rows if r["device"] == one.device.name]
            assert taken == sorted(taken)  # a device's readings keep their order

        exported = tmp_path / "exported"
        assert f"{gateway.starts} gateway start" in await gateway.export(exported)
        starts = [
            entry.boot_id.hex()[:12]
            for entry in log_entries(exported)
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


async def test_after_a_kill_it_starts_in_safe_mode_and_leaves_it_when_all_goes_well(
    tmp_path: Path,
) -> None:
    async with running(tmp_path / "g") as gateway:
        device = signed("monitor-1", 1)
        await gateway.enrol(device)
        assert "safe mode" not in gateway.log
        await gateway.kill()
        await gateway.start()
        assert "abnormal exits in a row: 1; starting in safe mode" in gateway.log
        burst = Burst(device)
        async with sending(gateway, [burst]):
            await until(lambda: len(burst.acknowledged) > 200, "safe mode is over")
            assert "safe mode ends" in gateway.log
        assert not burst.refused
        await gateway.kill()  # the first of a new row
        await gateway.start()
        assert "abnormal exits in a row: 1;" in gateway.log
        assert await gateway.stop() == 0


async def test_a_message_that_was_committed_is_no_suspect_after_a_kill(
    tmp_path: Path,
) -> None:
    """Killed between the commit and the answer: sent again it is a duplicate, for it
    stands in the ledger. To refuse it would tell the device the opposite."""
    async with installed(tmp_path / "g") as gateway:
        burst = Burst(signed("monitor-1", 1), window=1)
        await gateway.enrol(burst.device)
        await gateway.start()
        await gateway.kill()  # so that the next start is in safe mode
        gateway.command = on_slow_disk(before_s=0, after_s=5)
        await gateway.start()
        assert "starting in safe mode" in gateway.log
        async with sending(gateway, [burst]):
            await until(lambda: counters(gateway)["committed"] == 1, "the commit")
            assert not burst.acknowledged
            await gateway.kill()
            gateway.command = COMMAND
            await gateway.start()
            await until(lambda: bool(burst.acknowledged or burst.refused), "an answer")
        assert await gateway.stop() == 0
        assert not burst.refused
        await assert_nothing_is_lost(gateway, [burst])


async def test_commands_work_on_what_a_killed_gateway_left_behind(
    tmp_path: Path,
) -> None:
    """Its write-ahead log, its socket, its lock file: nobody has to tidy up first."""
    async with running(tmp_path / "g") as gateway:
        burst = Burst(signed("monitor-1", 1))
        await gateway.enrol(burst.device)
        async with sending(gateway, [burst]):
            await until_more([burst], 300)
            await gateway.kill()
        assert gateway.settings.directory.joinpath("control.sock").exists()
        await assert_nothing_is_lost(gateway, [burst])
        assert "1 gateway start" in await gateway.export(tmp_path / "before")
        await gateway.do("device", "add", "thermometer-1", "--unsigned")
        devices = await gateway.do("device", "list")
        assert [line.split()[0] for line in devices.splitlines()] == [
            "monitor-1",
            "thermometer-1",
        ]
        assert "2 gateway start" in await gateway.export(tmp_path / "after")


async def test_sigterm_under_load_ends_in_order(tmp_path: Path) -> None:
    """What was taken is committed and answered; the next start knows of no fall."""
    async with running(tmp_path / "g") as gateway:
        bursts = [Burst(signed(f"monitor-{number}", number)) for number in (1, 2)]
        for one in bursts:
            await gateway.enrol(one.device)
        async with sending(gateway, bursts):
            await until(lambda: answered(bursts) > 500, "a burst")
            assert mark(gateway, "running")
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


async def test_a_well_behaved_client_is_answered_while_garbage_floods_in(
    tmp_path: Path,
) -> None:
    """Random bytes, packets cut in half, and 200 connections that say nothing."""
    chance = random.Random(7)
    half = encode(Connect(client_id="half"), V311)[:-3]
    loud = (
        encode(Connect(client_id="loud"), V311) + b"\x32\xff\xff\xff\x7f" + bytes(500)
    )
    async with running(tmp_path / "g") as gateway:
        device = signed("monitor-1", 1)
        await gateway.enrol(device)
        left = [
            await asyncio.open_connection("127.0.0.1", gateway.port) for _ in range(200)
        ]
        floods = 0
        topic = f"iomt/v1/{device.name}/vitals"

        async def flood() -> None:
            nonlocal floods
            while True:
                attack = chance.choice([chance.randbytes(2000), half, loud])
                _, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
                try:
                    writer.write(attack)
                    await asyncio.sleep(0.002)
                finally:
                    writer.transport.abort()
                floods += 1

        flooding = [asyncio.create_task(flood()) for _ in range(4)]
        async with aiomqtt.Client(
            "127.0.0.1",
            gateway.port,
            identifier=device.name,
            username=device.name,
            protocol=aiomqtt.ProtocolVersion.V5,
            timeout=5,
        ) as client:
            while floods < 150:
                payloads = [
                    device.envelope(heart_rate=rate_of(device.sequence))
                    for _ in range(10)
                ]
                await asyncio.gather(  # each ends at its PUBACK, or raises after 5 s
                    *(client.publish(topic, one, qos=1) for one in payloads)
                )
        for task in flooding:
            task.cancel()
        ends = await asyncio.gather(*flooding, return_exceptions=True)
        assert all(isinstance(one, asyncio.CancelledError) for one in ends), ends
        for _, writer in left:
            writer.transport.abort()
        assert await gateway.stop() == 0
        assert "Traceback" not in gateway.log
        assert len(gateway.log.splitlines()) < 100  # nor does it fill the disk
        assert device.sequence >= 10
        assert counters(gateway)["committed"] == device.sequence
        assert len(await gateway.rows()) == device.sequence


# ---- Alerts ----

SUBSCRIBE = ("mosquitto_sub", "-h", "127.0.0.1", "-q", "1", "-W", "10")


@needs_mosquitto
async def test_a_viewer_with_the_token_hears_of_a_hypertensive_reading(
    tmp_path: Path,
) -> None:
    """And not before it is committed: its proof can be had at once."""
    async with running(tmp_path / "g") as gateway:
        cuff = signed("cuff-1", 1)
        await gateway.enrol(cuff, "P-1")
        token = load_keys(gateway.settings.keys).access_token
        words = ("-p", str(gateway.port), "-u", "viewer", "-t", "iomt/v1/alerts/#")
        viewer = asyncio.create_task(run(*SUBSCRIBE, *words, "-P", token, "-C", "2"))
        # The rule holds and ends again and again: the viewer sees one of each.
        burst = Burst(cuff, (190, 120), window=1)
        async with sending(gateway, [burst]):
            heard = await viewer
        assert heard.status == 0, heard
        alerts = {one["phase"]: one for one in map(json.loads, heard.out.splitlines())}
        assert set(alerts) == {"start", "end"}
        alert = alerts["start"]
        proof = tmp_path / "alert.tlog-proof"
        await gateway.do("prove", alert["reading_id"], "--disclose", "-o", proof)
        assert (alert["contract"], alert["rule"]) == ("blood-pressure", "high")
        assert alert["priority"] == "medium"
        assert (alert["patient"], alert["device"]) == ("P-1", "cuff-1")
        assert alert["values"] == {"systolic": 190}
        vkey = (await gateway.do("ledger", "vkey")).strip()
        report = verify.verify_proof(proof, vkey)
        assert report.verdict is verify.Verdict.OK


@needs_mosquitto
async def test_alerts_are_for_the_viewer_alone(tmp_path: Path) -> None:
    """A wrong token, no token, and a device are each refused."""
    async with running(tmp_path / "g") as gateway:
        await gateway.enrol(signed("monitor-1", 1))
        address = ("-p", str(gateway.port), "-t", "iomt/v1/alerts/#", "-V", "5")
        wrong, none, device, stranger = await asyncio.gather(
            run(*SUBSCRIBE, *address, "-u", "viewer", "-P", "guess"),
            run(*SUBSCRIBE, *address, "-u", "viewer"),
            run(*SUBSCRIBE, *address, "-u", "monitor-1"),
            run(*SUBSCRIBE, *address),
        )
        for refused in (wrong, none):
            assert refused.status != 0
            assert "bad user name or password" in refused.err.lower()
        for refused in (device, stranger):
            assert "All subscription requests were denied." in refused.err, refused
