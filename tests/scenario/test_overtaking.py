"""Changes among readings that wait, and damage on the disk: what a review found."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import apsw
from test_forgetting import of_device, originals, senml, two_patients
from test_rollback import set_back
from workbench import SignedDevice, a_ward, reader_of, trusted_clock

from edge.gateway import open_core
from edge.model import Firing, Verdict
from edge.store.custody import custody
from edge.store.database import DATABASE_NAME, open_reader, rows


def hold(core: Any, seconds: float = 0.3) -> asyncio.Task[Any]:
    """Keep the writer's thread busy, as a slow disk does."""
    return asyncio.ensure_future(core.intake.maintain(lambda _: time.sleep(seconds)))


async def test_what_was_submitted_before_an_assignment_is_of_the_patient_of_then(
    tmp_path: Path,
) -> None:
    """All were submitted while the monitor was at Anna."""
    settings = trusted_clock(tmp_path)
    device = SignedDevice("anna-monitor")
    async with two_patients(settings) as (core, mail):
        answers = [
            mail.submit("anna-monitor", device.envelope(heart_rate=60))
            for _ in range(600)
        ]
        await core.administration.assign_device("anna-monitor", "Berta")
        outcomes = await asyncio.gather(*answers)
        assert {one.verdict for one in outcomes} == {Verdict.COMMITTED}
    assert (len(originals(settings, "Anna")), len(originals(settings, "Berta"))) == (
        600,
        0,
    )


async def test_what_was_submitted_before_an_erasure_is_erased(tmp_path: Path) -> None:
    settings = trusted_clock(tmp_path)
    device = SignedDevice("anna-monitor")
    async with two_patients(settings) as (core, mail):
        answers = [
            mail.submit("anna-monitor", device.envelope(heart_rate=60))
            for _ in range(600)
        ]
        await core.forgetting.erase_patient("Anna")
        await asyncio.gather(*answers)
    assert len(of_device(settings, "anna-monitor")) == 0


async def test_an_erasure_overtakes_nothing_in_safe_mode(tmp_path: Path) -> None:
    settings = trusted_clock(tmp_path)
    device = SignedDevice("anna-monitor")
    async with two_patients(settings) as (core, mail):
        pass
    connection = apsw.Connection(str(settings.directory / DATABASE_NAME))
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    connection.execute("INSERT INTO meta VALUES ('running', ?)", (boot,))
    connection.close()
    async with two_patients(settings) as (core, mail):
        assert core.intake._safe_left
        answers = [
            mail.submit("anna-monitor", device.envelope(heart_rate=60))
            for _ in range(5)
        ]
        await core.forgetting.erase_patient("Anna")
        await asyncio.gather(*answers)
    assert len(of_device(settings, "anna-monitor")) == 0


async def test_a_refused_message_of_a_slow_commit_is_erased(tmp_path: Path) -> None:
    settings = trusted_clock(tmp_path)
    async with two_patients(settings) as (core, mail):
        busy = hold(core)
        first = mail.submit("thermometer", senml(367))
        await asyncio.sleep(0.1)  # its commit waits for the disk
        refused = mail.submit("thermometer", b"[{ 38.9")
        receipt: Any = await core.forgetting.erase_patient("Anna")
        await asyncio.gather(busy, first, refused)
        assert receipt["state"] == "completed"
    left = [row[5] for _, _, row in reader_of(settings).quarantine()]
    assert left == []


async def test_a_message_that_was_refused_before_a_release_is_erased(
    tmp_path: Path,
) -> None:
    settings = trusted_clock(tmp_path)
    async with two_patients(settings) as (core, mail):
        busy = hold(core)
        first = mail.submit("thermometer", senml(367))
        await asyncio.sleep(0.1)
        refused = mail.submit("thermometer", b"[{ 38.9")
        await core.administration.assign_device("thermometer", None)
        await asyncio.gather(busy, first, refused)
        await core.forgetting.erase_patient("Anna")
    assert [row[5] for _, _, row in reader_of(settings).quarantine()] == []


async def test_a_damaged_refusal_does_not_stop_an_erasure(tmp_path: Path) -> None:
    settings = trusted_clock(tmp_path)
    async with two_patients(settings) as (core, mail):
        await mail.send("thermometer", b"[{ 38.9")
    connection = apsw.Connection(str(settings.directory / DATABASE_NAME))
    [(sealed,)] = rows(
        connection,
        "SELECT sealed FROM quarantine",
    )
    damaged = sealed[:-1] + bytes([sealed[-1] ^ 1])
    connection.execute("UPDATE quarantine SET sealed = ?", (damaged,))
    connection.close()
    async with two_patients(settings) as (core, mail):
        await core.forgetting.erase_patient("Anna")
    async with open_core(settings) as core:  # it must start, and complete
        pass
    pending = "SELECT count(*) FROM erasures WHERE completed_ms IS NULL"
    assert rows(open_reader(settings.directory), pending) == [(0,)]


async def test_a_damaged_frame_does_not_stop_a_claim(tmp_path: Path) -> None:
    settings = trusted_clock(tmp_path)
    async with two_patients(settings) as (core, mail):
        await core.administration.assign_device("thermometer", None)
        await mail.send("thermometer", senml(361))
        await asyncio.sleep(0.02)
        await mail.send("thermometer", senml(362))
        await core.administration.add_patient("Cora")
        await core.forgetting.erase_patient("Cora")  # has the contracts' state stored
    connection = apsw.Connection(str(settings.directory / DATABASE_NAME))
    [(id_, sealed, _), (_, _, second)] = rows(
        connection,
        "SELECT f.id, f.sealed, b.time_ms FROM frames f "
        "JOIN episodes e ON e.id = f.episode "
        "JOIN batches b ON b.id = f.id >> 20 "
        "WHERE e.patient = 0 AND f.class = 1 ORDER BY f.id",
    )
    damaged = sealed[:-1] + bytes([sealed[-1] ^ 1])
    connection.execute("UPDATE frames SET sealed = ? WHERE id = ?", (damaged, id_))
    connection.close()
    async with two_patients(settings) as (core, mail):
        await core.forgetting.claim_readings("thermometer", "Berta", second, second)
        assert not core.intake._stopped
        outcome = await mail.send("thermometer", senml(363))
        assert outcome.verdict is Verdict.COMMITTED


async def test_a_correction_is_about_the_newest_assignment(tmp_path: Path) -> None:
    """The newest assignment to Anna is meant, also while its commit is under way."""
    settings = trusted_clock(tmp_path)
    async with two_patients(settings) as (core, mail):
        await mail.send("thermometer", senml(361))  # rightly Anna's
        await core.administration.assign_device("thermometer", None)
        busy = hold(core)
        again = asyncio.ensure_future(
            core.administration.assign_device("thermometer", "Anna")
        )
        await asyncio.sleep(0.05)
        wrong = mail.submit("thermometer", senml(362))
        await asyncio.sleep(0.05)
        off = asyncio.ensure_future(
            core.administration.assign_device("thermometer", None)
        )
        await asyncio.sleep(0.01)
        await core.forgetting.correct_patient("thermometer", "Anna", "Berta")
        await asyncio.gather(busy, again, wrong, off)
    assert originals(settings, "Berta") == [senml(362)]


async def test_the_chain_of_an_ended_epoch_lacks_nothing_that_is_needed(
    tmp_path: Path,
) -> None:
    settings, _, _, old = await set_back(tmp_path)
    async with a_ward(settings):
        pass
    links = custody(reader_of(settings), settings.keys, old, None)
    assert [one for one in links if one.result != "ok" and one.needed] == []


async def test_a_damaged_frame_does_not_keep_a_ward_without_its_gateway(
    tmp_path: Path,
) -> None:
    """One flipped bit in a frame after the snapshot: does the gateway ever start?"""
    settings = trusted_clock(tmp_path)
    async with two_patients(settings) as (core, mail):
        await mail.send("thermometer", senml(361))
    connection = apsw.Connection(str(settings.directory / DATABASE_NAME))
    [(id_, sealed)] = rows(
        connection,
        "SELECT id, sealed FROM frames WHERE class = 1",
    )
    damaged = sealed[:-1] + bytes([sealed[-1] ^ 1])
    connection.execute("UPDATE frames SET sealed = ? WHERE id = ?", (damaged, id_))
    connection.close()
    told: list[Firing] = []
    async with open_core(settings) as core:
        core.intake.on_commit.append(
            lambda report: told.extend(one.firing for one in report.firings)
        )
        core.intake.open_views()
        await core.intake.committed()
    assert [(one.contract, one.rule) for one in told] == [("gateway", "store")]
