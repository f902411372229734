"""Erasing, claiming, correcting, merging, and retention, on real stores.

The attacker of these tests holds the whole disk, master key and all, and every backup
of the store. What they are up against is that keys are gone, not that they are hidden.
"""

from __future__ import annotations

import asyncio
import shutil
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import AbstractContextManager, asynccontextmanager, suppress
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import apsw
import pytest
from processes import run
from workbench import Mailbox, SignedDevice, reader_of, trusted_clock, vkey

from edge import cbor, forgetting
from edge.cli import main
from edge.config import Settings
from edge.errors import ConfigurationError, ErasedError, IntegrityError, NotFoundError
from edge.gateway import Core, open_core
from edge.ledger import batch as ledger_batch
from edge.ledger.verify import Verdict as LedgerVerdict
from edge.ledger.verify import verify_directory, verify_proof
from edge.model import Flag, Kind, Record, Verdict
from edge.store import forget, vault
from edge.store.backup import backup, backup_keys
from edge.store.check import check
from edge.store.commit import Class, Writer
from edge.store.database import DATABASE_NAME, FRAME_BITS, open_reader, rows
from edge.store.keys import (
    episode_associated,
    frame_associated,
    patient_associated,
)
from edge.store.reader import Reader, StoredRecord
from edge.store.vault import load_keys
from edge.web.live import Live

DAY_MS = 24 * 3600 * 1000
TENTHS = range(350, 420)  # of a degree: all plausible body temperatures
WITHIN_MS = 10
_FRAMES_OF = """SELECT f.sealed FROM frames f JOIN episodes e ON e.id = f.episode
WHERE e.patient = ?"""


def senml(tenths: int) -> bytes:
    """A reading that anyone could guess: no signature, no random number in it."""
    whole, tenth = divmod(tenths, 10)
    return f'[{{"n":"body_temperature","u":"Cel","v":{whole}.{tenth}}}]'.encode()


@asynccontextmanager
async def two_patients(settings: Settings) -> AsyncIterator[tuple[Core, Mailbox]]:
    """Anna wears a signed monitor and a guessable thermometer, Berta a monitor."""
    async with open_core(settings) as core:
        if core.registry.find("anna-monitor") is None:
            change = core.administration
            for name, patient in (("anna-monitor", "Anna"), ("berta-monitor", "Berta")):
                await change.add_patient(patient)
                await change.add_device(name, "signed", SignedDevice(name).public_key)
                await change.assign_device(name, patient)
            await change.add_device("thermometer", "unsigned")
            await change.assign_device("thermometer", "Anna")
        core.intake.open_views()
        yield core, Mailbox(core)


async def readings(mail: Mailbox, rounds: int = 3) -> None:
    """Readings of both patients, mixed in the same batches."""
    anna, berta = SignedDevice("anna-monitor"), SignedDevice("berta-monitor")
    for one in range(rounds):
        await asyncio.gather(
            *(
                mail.submit("anna-monitor", anna.envelope(heart_rate=60 + one + n))
                for n in range(3)
            ),
            *(
                mail.submit("berta-monitor", berta.envelope(heart_rate=80 + one + n))
                for n in range(3)
            ),
            mail.submit("thermometer", senml(367 + one)),
        )


def of_device(settings: Settings, *names: str) -> list[StoredRecord]:
    return [
        one
        for one in reader_of(settings).records()
        if one.record.kind is Kind.READING and one.record.device in names
    ]


def leaves(settings: Settings) -> dict[int, bytes]:
    """The leaf hashes of every batch."""
    connection = open_reader(settings.directory)
    return dict(rows(connection, "SELECT id, leaves FROM batches"))


def proves(settings: Settings, stored: Iterable[StoredRecord], scratch: Path) -> None:
    """Each of these can be proven, disclosed, and the proof verifies offline."""
    reader = reader_of(settings)
    for one in stored:
        proof = scratch / "one.tlog-proof"
        proof.write_bytes(reader.prove(one.reading_id(0), disclose=True))
        report = verify_proof(proof, vkey(settings))
        assert report.verdict is LedgerVerdict.OK, report.lines()


def log_verifies(settings: Settings, target: Path) -> None:
    reader_of(settings).export(target)
    report = verify_directory(target, vkey(settings))
    assert report.verdict is LedgerVerdict.OK, report.lines()


def every_byte(*directories: Path) -> Iterator[tuple[Path, bytes]]:
    for directory in directories:
        for file in directory.rglob("*"):
            if file.is_file() and not file.name.endswith("-shm"):
                yield file, file.read_bytes()


# ---- The attacker ----


class Attacker:
    """Opens whatever the master key opens in all databases in hand."""

    def __init__(self, master: bytes, *databases: Path) -> None:
        self.frames: dict[tuple[bytes, int, bytes, int], set[bytes]] = {}
        self.leaves: dict[tuple[bytes, int], tuple[int, bytes]] = {}
        self.refs: set[bytes] = set()
        wraps: list[tuple[bytes, int, bytes]] = []
        holders: dict[int, set[bytes]] = {}
        for file in databases:
            read = apsw.Connection(str(file), flags=apsw.SQLITE_OPEN_READONLY).execute
            for (key,) in read("SELECT value FROM meta WHERE key = 'gateway_key'"):
                holders.setdefault(0, set()).add(vault.unseal(master, key, b"gateway"))
            for id_, ref, wrapped in read("SELECT id, ref, wrapped FROM patients"):
                associated = patient_associated(ref, "key")
                with _hopeless():
                    key = vault.unseal(master, wrapped or b"", associated)
                    holders.setdefault(id_, set()).add(key)
            wraps += read(
                "SELECT ref, patient, wrapped FROM episodes WHERE wrapped <> ''"
            )
            tables = {name for (name,) in read("SELECT name FROM sqlite_schema")}
            if "frames" not in tables:
                continue
            self.refs.update(ref for (ref,) in read("SELECT ref FROM assignments"))
            for boot, number, episode, class_, sealed in read(
                "SELECT b.boot, b.number, e.ref, f.class, f.sealed FROM frames f "
                "JOIN batches b ON b.id = f.id >> 20 "
                "JOIN episodes e ON e.id = f.episode"
            ):
                where = (boot, number, episode, class_)
                self.frames.setdefault(where, set()).add(sealed)
            for boot, number, time_ms, hashes in read(
                "SELECT boot, number, time_ms, leaves FROM batches"
            ):
                self.leaves[boot, number] = time_ms, hashes
        self.episodes: dict[bytes, bytes] = {}
        for ref, patient, wrapped in wraps:
            for key in holders.get(patient, ()):
                with _hopeless():
                    associated = episode_associated(ref, patient)
                    self.episodes[ref] = vault.unseal(key, wrapped, associated)

    def opened(self) -> Iterator[tuple[bytes, int, bytes]]:
        """(boot, number, salt key) of every frame that opens."""
        for (boot, number, ref, class_), copies in self.frames.items():
            for sealed in copies:
                associated = frame_associated(boot, number, ref, class_)
                with _hopeless():
                    plain: Any = cbor.decode(
                        vault.unseal(
                            self.episodes.get(ref, bytes(32)), sealed, associated
                        )
                    )
                    yield boot, number, plain[0]

    def guess(self, about_ms: Iterable[int]) -> set[int]:
        """Temperatures (tenths) that the dictionary finds behind leaf hashes."""
        records = list(self.dictionary(about_ms))
        found: set[int] = set()
        for boot, number, salt_key in self.opened():
            _, hashes = self.leaves[boot, number]
            wanted = {hashes[at : at + 32] for at in range(0, len(hashes), 32)}
            prefixes = [
                sha256(b"\0" + ledger_batch.salt(salt_key, leaf))
                for leaf in range(len(hashes) // 32)
            ]
            for tenths, record in records:
                for prefix in prefixes:
                    hashed = prefix.copy()
                    hashed.update(record)
                    if hashed.digest() in wanted:
                        found.add(tenths)
        return found

    def dictionary(self, about_ms: Iterable[int]) -> Iterator[tuple[int, bytes]]:
        """Every plausible temperature, at every millisecond about these times."""
        for ref in self.refs:
            for time_ms in about_ms:
                for received_ms in range(time_ms - WITHIN_MS, time_ms + WITHIN_MS):
                    for tenths in TENTHS:
                        yield tenths, temperature(tenths, received_ms, ref)


def temperature(tenths: int, received_ms: int, assignment: bytes) -> bytes:
    return Record(
        kind=Kind.READING,
        received_ms=received_ms,
        original=senml(tenths),
        device="thermometer",
        stream="vitals",
        link="mqtt",
        flags=Flag(0),
        assignment=assignment,
    ).encode()


def _hopeless() -> AbstractContextManager[None]:
    return suppress(IntegrityError)


# ---- Erasure ----


async def test_after_an_erasure_nothing_of_the_patient_opens_and_the_rest_verifies(
    tmp_path: Path,
) -> None:
    """Reads fail cleanly; the log and the other patient's proofs stand."""
    settings = trusted_clock(tmp_path / "gateway")
    async with two_patients(settings) as (core, mail):
        await readings(mail)
        annas = of_device(settings, "anna-monitor", "thermometer")
        bertas = of_device(settings, "berta-monitor")
        assert {one.batch_id for one in annas} & {one.batch_id for one in bertas}
        before = leaves(settings)
        receipt: Any = await core.forgetting.erase_patient("Anna")
        assert receipt["state"] == "completed"
        assert (receipt["episodes"], receipt["frames"] > 3) == (2, True)
        assert "logical only" in receipt["physical"]
        device = core.registry.find("thermometer")
        assert device is not None
        assert device.assignment is None
        with pytest.raises(NotFoundError):
            await core.forgetting.erase_patient("Anna")
        with pytest.raises(NotFoundError):
            await core.administration.assign_device("thermometer", "Anna")
    assert not of_device(settings, "anna-monitor", "thermometer")
    assert [one.reading_id(0) for one in of_device(settings, "berta-monitor")] == [
        one.reading_id(0) for one in bertas
    ]
    reader = reader_of(settings)
    for one in annas:
        with pytest.raises(NotFoundError):
            reader.prove(one.reading_id(0))
    after = leaves(settings)
    assert {id_: after[id_] for id_ in before} == before
    proves(settings, bertas, tmp_path)
    log_verifies(settings, tmp_path / "log")
    for phase in ("intent", "completion"):
        proof = tmp_path / "erasure.tlog-proof"
        proof.write_bytes(reader.prove(receipt[phase], disclose=True))
        assert verify_proof(proof, vkey(settings)).verdict is LedgerVerdict.OK
    async with two_patients(settings) as (core, mail):  # and it starts again
        assert core.intake.evaluator.machine.active() == []
    report = check(reader_of(settings), time.time_ns() // 1_000_000)
    total = report.ages["last hour"]
    assert (total.erased > 0, total.lost, total.altered) == (True, 0, 0)


async def test_what_the_intents_own_commit_held_is_erased_and_not_lost(
    tmp_path: Path,
) -> None:
    """The commit may come some ms after the moment that the erasure says it began."""
    settings = trusted_clock(tmp_path)
    async with two_patients(settings) as (core, mail):
        await readings(mail)
        await core.forgetting.erase_patient("Anna")
    connection = apsw.Connection(str(settings.directory / DATABASE_NAME))
    connection.execute("UPDATE erasures SET started_ms = started_ms - 1")
    connection.close()
    report = check(reader_of(settings), time.time_ns() // 1_000_000)
    assert not report.damaged, report.problems


async def test_no_byte_of_what_was_destroyed_stays_on_the_disk(tmp_path: Path) -> None:
    """Sealed frames, wrapped keys and the sealed name: overwritten, in file and WAL."""
    settings = trusted_clock(tmp_path)
    async with two_patients(settings) as (core, mail):
        await readings(mail, 4)
        connection = open_reader(settings.directory)
        [(anna,)] = rows(connection, "SELECT id FROM patients ORDER BY id LIMIT 1")
        sealed = [
            one
            for query in (
                "SELECT wrapped FROM patients WHERE id = ?",
                "SELECT sealed_name FROM patients WHERE id = ?",
                "SELECT tag FROM patients WHERE id = ?",
                "SELECT wrapped FROM episodes WHERE patient = ?",
                "SELECT ref FROM assignments WHERE patient = ?",
                _FRAMES_OF,
            )
            for (one,) in rows(connection, query, (anna,))
        ]
        connection.close()
        pieces = {
            one[at : at + 12] for one in sealed for at in range(0, len(one) - 11, 12)
        }

        def found() -> int:
            return sum(
                piece in content
                for _, content in every_byte(settings.directory)
                for piece in pieces
            )

        assert found() >= len(pieces)
        await core.forgetting.erase_patient("Anna")
        assert found() == 0


async def test_a_dictionary_of_all_readings_and_times_finds_nothing_after_an_erasure(
    tmp_path: Path,
) -> None:
    """The whole disk and every backup of the store; then the same with the key kept."""
    settings = trusted_clock(tmp_path / "gateway")
    database, ring = tmp_path / "backup" / DATABASE_NAME, tmp_path / "ring"
    async with two_patients(settings) as (core, mail):
        await mail.send("thermometer", senml(391))
        await mail.send("thermometer", senml(404))
        stored = of_device(settings, "thermometer")
        [first, second] = stored
        about_ms = [first.record.received_ms, second.record.received_ms]
        leaf_hash = leaves(settings)[first.batch_id][32 * first.leaf :][:32]
        now_ms = time.time_ns() // 1_000_000
        backup(settings.directory, settings.keys, database.parent, now_ms=now_ms)
        backup_keys(
            settings.directory, settings.keys, ring, source="file", now_ms=now_ms
        )
        master = load_keys(settings.keys).master
        live = settings.directory / DATABASE_NAME
        assert Attacker(master, live).guess(about_ms) == {391, 404}  # the attack works
        await core.forgetting.erase_patient("Anna")
        assert Attacker(master, live, database).guess(about_ms) == set()
        # With the key ring's backup from before, the named exception, it works again:
        kept = Attacker(master, live, database, *ring.glob("*.db"))
        assert kept.guess(about_ms) == {391, 404}
        # And nobody need guess the key: is it anywhere on the disk, as it stands?
        record, leaf = first.record.encode(), first.leaf
        for _, content in every_byte(settings.directory, database.parent):
            for at in range(len(content) - 31):
                salt = ledger_batch.salt(content[at : at + 32], leaf)
                assert sha256(b"\0" + salt + record).digest() != leaf_hash


async def test_an_erasure_ends_alarms_and_leaves_no_value_in_the_contracts_state(
    tmp_path: Path,
) -> None:
    """The snapshot is sealed for the gateway: the patient must not stay in it."""
    settings = trusted_clock(tmp_path)
    monitor = SignedDevice("anna-monitor")
    async with two_patients(settings) as (core, mail):
        live = Live()
        core.intake.on_commit.append(live.update)
        core.forgetting.on_forget.append(live.forget)
        await mail.send("anna-monitor", monitor.envelope(systolic_pressure=199))
        [active] = core.intake.evaluator.machine.active()
        subject = active.subject
        assert live.snapshot()["active"][0]["patient"] == "Anna"
        await core.administration.assign_device("thermometer", None)
        await core.forgetting.erase_patient("Anna")
        assert core.intake.evaluator.machine.active() == []
        assert "Anna" not in repr(live.snapshot())
    state = reader_of(settings).contract_state()
    assert state is not None
    assert subject.encode() not in state[1]
    async with two_patients(settings) as (core, _):
        assert core.intake.evaluator.machine.active() == []


async def test_refused_messages_of_a_patients_device_go_with_the_patient(
    tmp_path: Path,
) -> None:
    """They hold what a sensor said; those of other devices and times stay."""
    settings = trusted_clock(tmp_path)
    async with two_patients(settings) as (core, mail):
        for device in ("thermometer", "berta-monitor", "nobody"):
            await mail.send(device, b"[{")
        await core.administration.assign_device("thermometer", None)
        await asyncio.sleep(0.01)
        await mail.send("thermometer", b"[{{")
        receipt: Any = await core.forgetting.erase_patient("Anna")
        assert receipt["refusals"] == 1
    kept = [(row[1], row[5]) for _, _, row in reader_of(settings).quarantine()]
    assert kept == [
        ("berta-monitor", b"[{"),
        ("nobody", b"[{"),
        ("thermometer", b"[{{"),
    ]


async def test_the_name_is_free_again_and_the_number_is_not(tmp_path: Path) -> None:
    """A patient added under an erased one's name is somebody else, with a new key."""
    settings = trusted_clock(tmp_path)
    async with two_patients(settings) as (core, mail):
        await core.administration.add_patient("Cora")
        await core.administration.assign_device("thermometer", "Cora")
        await mail.send("thermometer", senml(370))
        await core.forgetting.erase_patient("Cora")
    async with two_patients(settings) as (core, mail):
        await core.administration.add_patient("Cora")
        await core.administration.assign_device("thermometer", "Cora")
        await mail.send("thermometer", senml(371))
    [(_, (id_, _))] = [
        one for one in reader_of(settings).patients().items() if one[1][1] == "Cora"
    ]
    assert id_ == 4
    stored = reader_of(settings).records(patient=id_)
    originals = [
        one.record.original for one in stored if one.record.kind is Kind.READING
    ]
    assert originals == [senml(371)]


async def test_killed_at_any_step_of_an_erasure_the_next_start_completes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After every transaction the disk is copied, as a kill would leave it."""
    monkeypatch.setattr(forget, "FRAMES_STEP_COUNT", 4)
    settings = trusted_clock(tmp_path / "gateway")
    copies: list[Path] = []

    def copying(function: Callable[..., object]) -> Callable[..., object]:
        def call(*arguments: object) -> object:
            result = function(*arguments)
            target = tmp_path / f"copy-{len(copies)}"
            shutil.copytree(settings.directory, target, ignore=_no_socket)
            copies.append(target)
            return result

        return call

    async with two_patients(settings) as (core, mail):
        await readings(mail)
        bertas = of_device(settings, "berta-monitor")
        with monkeypatch.context() as patched:
            for where, name in (
                (Writer, "commit"),
                (Writer, "transact"),
                (forget, "truncate_wal"),
            ):
                patched.setattr(where, name, copying(getattr(where, name)))
            await core.forgetting.erase_patient("Anna")
    assert len(copies) >= 7
    for copy in copies:
        killed = replace(settings, directory=copy, keys=copy / "keys")
        async with open_core(killed) as core:
            with pytest.raises(NotFoundError):
                await core.administration.assign_device("thermometer", "Anna")
            await core.administration.add_patient("Anna")
            await core.administration.assign_device("thermometer", "Anna")
        connection = open_reader(copy)
        assert forget.pending(connection) == []
        assert rows(connection, "SELECT COUNT(*) FROM erasures") == [(1,)]
        phases = [
            cbor.decode(one.record.original)[1]  # type: ignore[index]
            for one in reader_of(killed).records()
            if one.record.kind is Kind.ERASURE
        ]
        assert phases == [forget.Phase.INTENT, forget.Phase.COMPLETED]
        assert not of_device(killed, "anna-monitor", "thermometer")
        proves(killed, bertas[:2], tmp_path)
        log_verifies(killed, tmp_path / f"log-{copy.name}")


def _no_socket(_: str, names: list[str]) -> list[str]:
    return [name for name in names if name.endswith((".sock", "-shm"))]


@pytest.mark.parametrize("step", [1, 3])
async def test_kill_minus_nine_within_an_erasure(tmp_path: Path, step: int) -> None:
    """The same with a real process that dies inside a transaction."""
    settings = trusted_clock(tmp_path)
    async with two_patients(settings) as (_, mail):
        await readings(mail)
    program = f"""
import os, signal, sys
from edge.cli import main
from edge.store.commit import Writer
transact, calls = Writer.transact, []
def dying(writer, step):
    def last():
        result = step()
        calls.append(0)
        if len(calls) == {step}:
            os.kill(os.getpid(), signal.SIGKILL)
        return result
    return transact(writer, last)
Writer.transact = dying
sys.exit(main())
"""
    words = ("patient", "erase", "Anna", "--config", str(tmp_path / "iomt.toml"))
    ended = await run(sys.executable, "-c", program, *words)
    assert ended.status == -signal.SIGKILL
    assert forget.pending(open_reader(settings.directory))
    ended = await run(sys.executable, "-m", "edge", "patient", "add", *words[2:])
    assert ended.status == 0, ended.err
    assert forget.pending(open_reader(settings.directory)) == []
    assert not of_device(settings, "anna-monitor", "thermometer")
    assert len(of_device(settings, "berta-monitor")) == 9


async def test_a_long_read_delays_the_completion_and_not_the_erasure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Old pages stay in the WAL while someone reads them: it is not done before."""
    monkeypatch.setattr(forgetting, "ANSWER_WITHIN_S", 0.5)
    settings = trusted_clock(tmp_path)
    async with two_patients(settings) as (core, mail):
        await readings(mail)
        slow = open_reader(settings.directory)
        slow.execute("BEGIN; SELECT COUNT(*) FROM frames")
        receipt: Any = await core.forgetting.erase_patient("Anna")
        assert (receipt["state"], receipt["completion"]) == ("under way", None)
        assert not of_device(settings, "anna-monitor", "thermometer")
        mine = SignedDevice("berta-monitor", sequence=100)
        assert (
            await mail.send(mine.name, mine.envelope())
        ).verdict is Verdict.COMMITTED
        slow.execute("COMMIT")
        slow.close()
        async with asyncio.timeout(5):
            while forget.pending(open_reader(settings.directory)):
                await asyncio.sleep(0.05)


def test_the_command_prints_a_receipt_and_the_check_agrees(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without a gateway running, as an administrator types it."""
    settings = trusted_clock(tmp_path)
    where = ["--config", str(tmp_path / "iomt.toml")]

    async def fill() -> None:
        async with two_patients(settings) as (_, mail):
            await readings(mail, 1)

    asyncio.run(fill())
    assert main(["patient", "erase", "Anna", *where]) == 0
    printed = capsys.readouterr().out
    assert "erasure completed" in printed
    assert "logical only" in printed
    assert main(["readings", *where]) == 0
    assert "anna" not in capsys.readouterr().out
    assert main(["readings", "--patient", "Anna", *where]) == 2
    assert main(["store", "check", *where]) == 0
    assert main(["patient", "merge", "Berta", "--into", "Berta", *where]) == 2


# ---- Claims, corrections, merges ----


def patients_of(settings: Settings) -> dict[str, int]:
    return {name: id_ for id_, name in reader_of(settings).patients().values()}


def originals(settings: Settings, patient: str) -> list[bytes]:
    id_ = patients_of(settings)[patient]
    return [
        one.record.original
        for one in reader_of(settings).records(patient=id_)
        if one.record.kind is Kind.READING
    ]


async def test_a_claim_takes_what_lies_in_its_time_and_changes_no_leaf(
    tmp_path: Path,
) -> None:
    """The three readings share one hourly key; only the middle one is claimed."""
    settings = trusted_clock(tmp_path)
    async with two_patients(settings) as (core, mail):
        await core.administration.assign_device("thermometer", None)
        times = []
        for tenths in (361, 362, 363):
            await mail.send("thermometer", senml(tenths))
            times.append(
                rows(
                    open_reader(settings.directory), "SELECT MAX(time_ms) FROM batches"
                )[0][0]
            )
            await asyncio.sleep(0.02)
        before, stored = leaves(settings), of_device(settings, "thermometer")
        await core.intake.maintain(forget.truncate_wal)
        done: Any = await core.forgetting.claim_readings(
            "thermometer", "Berta", times[1], times[1] + 5
        )
        assert done["frames"] == 1
        await mail.send("thermometer", senml(364))  # still at nobody
    assert originals(settings, "Berta") == [senml(362)]
    assert {id_: leaves(settings)[id_] for id_ in before} == before
    assert [one.record.original for one in of_device(settings, "thermometer")] == [
        senml(tenths) for tenths in (361, 362, 363, 364)
    ]
    proves(settings, stored, tmp_path)
    async with two_patients(settings) as (core, _):
        await core.forgetting.erase_patient("Berta")
    assert [one.record.original for one in of_device(settings, "thermometer")] == [
        senml(tenths) for tenths in (361, 363, 364)
    ]


async def test_a_correction_moves_an_assignments_readings_to_the_right_patient(
    tmp_path: Path,
) -> None:
    """Its device goes on at the right patient; the rest of the wrong one's stays."""
    settings = trusted_clock(tmp_path)
    async with two_patients(settings) as (core, mail):
        await readings(mail, 2)
        before, stored = leaves(settings), of_device(settings, "thermometer")
        await core.forgetting.correct_patient("thermometer", "Anna", "Berta")
        await mail.send("thermometer", senml(399))
        with pytest.raises(NotFoundError):
            await core.forgetting.correct_patient("thermometer", "Anna", "Berta")
        with pytest.raises(ConfigurationError):
            await core.forgetting.correct_patient("thermometer", "Anna", "Anna")
    moved = [senml(367), senml(368), senml(399)]
    assert [one for one in originals(settings, "Berta") if one in moved] == moved
    assert not [one for one in originals(settings, "Anna") if one in moved]
    assert len(originals(settings, "Anna")) == 6
    assert {id_: leaves(settings)[id_] for id_ in before} == before
    proves(settings, stored, tmp_path)
    async with two_patients(settings) as (core, _):
        await core.forgetting.erase_patient("Anna")
    assert len(of_device(settings, "thermometer")) == 3
    assert not of_device(settings, "anna-monitor")


async def test_merging_makes_everything_the_other_patients_and_destroys_the_key(
    tmp_path: Path,
) -> None:
    """No alarm is raised for it, and what is active for the one that goes ends."""
    settings = trusted_clock(tmp_path)
    async with two_patients(settings) as (core, mail):
        await readings(mail, 2)
        anna = SignedDevice("anna-monitor", sequence=50)
        await mail.send(anna.name, anna.envelope(systolic_pressure=199))
        before = leaves(settings)
        connection = open_reader(settings.directory)
        [(wrapped,)] = rows(connection, "SELECT wrapped FROM patients WHERE id = 1")
        wraps = rows(connection, "SELECT wrapped FROM episodes WHERE patient = 1")
        connection.close()
        fired = len(
            [
                1
                for one in reader_of(settings).records()
                if one.record.kind is Kind.FIRING
            ]
        )
        await core.forgetting.merge_patients("Anna", "Berta")
        assert core.intake.evaluator.machine.active() == []
        after = [
            one.record.original
            for one in reader_of(settings).records()
            if one.record.kind is Kind.FIRING
        ]
        assert len(after) == fired + 1
        await mail.send("thermometer", senml(399))
        device = core.registry.find("anna-monitor")
        assert device is not None
        assert device.assignment is not None
        assert device.assignment.patient == 2
        for _, content in every_byte(settings.directory):
            for old in (wrapped, *(one for (one,) in wraps)):
                assert old not in content
    assert patients_of(settings) == {"Berta": 2}
    assert len(originals(settings, "Berta")) == 2 * 7 + 2
    assert {id_: leaves(settings)[id_] for id_ in before} == before
    proves(settings, of_device(settings, "anna-monitor"), tmp_path)
    async with two_patients(settings) as (core, _):
        await core.administration.add_patient("Anna")  # somebody else
        await core.forgetting.erase_patient("Berta")
    assert not of_device(settings, "anna-monitor", "thermometer", "berta-monitor")


# ---- Retention and the reference check ----


class _Later:
    """A clock so many days on."""

    synced = True

    def __init__(self, days: int) -> None:
        self._ms = time.time_ns() // 1_000_000 + days * DAY_MS

    def now_ms(self) -> int:
        return self._ms


def _retaining(settings: Settings, **days: int) -> Settings:
    return replace(settings, retention=replace(settings.retention, **days))


async def test_retention_removes_a_class_by_age_and_keeps_the_others_proofs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Readings of 30 days; the alarm beside them stays, provable; so does the log."""
    monkeypatch.setattr(forget, "BATCHES_STEP_COUNT", 2)
    settings = _retaining(trusted_clock(tmp_path / "gateway"), readings_days=30)
    anna = SignedDevice("anna-monitor", sequence=50)
    async with two_patients(settings) as (core, mail):
        await mail.send(anna.name, anna.envelope(systolic_pressure=199))
        await readings(mail)
        events = [
            one
            for one in reader_of(settings).records()
            if one.record.kind in {Kind.FIRING, Kind.ASSIGNMENT}
        ]
        monkeypatch.setattr(core.forgetting, "_clock", _Later(29))
        assert await core.forgetting.apply_retention() == 0
        monkeypatch.setattr(core.forgetting, "_clock", _Later(31))
        await core.administration.assign_device("thermometer", None)
        core.intake._state_due_ms = 0  # a snapshot after them: no replay needs them
        await mail.send(anna.name, anna.envelope(systolic_pressure=120))
        batches = len(leaves(settings))
        assert await core.forgetting.apply_retention() > 5
        assert await core.forgetting.apply_retention() == 0
    left = of_device(settings, "anna-monitor", "berta-monitor", "thermometer")
    assert [one.record.original for one in left] == [anna.sent[51]]
    assert len(events) == 4
    proves(settings, events, tmp_path)
    assert len(leaves(settings)) < batches  # no record left, no leaf hashes
    log_verifies(settings, tmp_path / "log")
    report = check(reader_of(settings), time.time_ns() // 1_000_000)
    assert not report.damaged, report.problems
    assert report.ages["last hour"].expired > 0
    async with two_patients(settings) as (_, mail):
        again = await mail.send(anna.name, anna.envelope())
        assert again.verdict is Verdict.COMMITTED


async def test_retention_waits_while_the_clock_is_not_synchronised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A clock that is years ahead must not empty the store."""
    settings = _retaining(trusted_clock(tmp_path), readings_days=1, events_days=1)
    async with two_patients(settings) as (core, mail):
        await readings(mail, 1)
        core.intake._state_due_ms = 0
        await mail.send("thermometer", senml(370))
        later = _Later(1000)
        later.synced = False
        monkeypatch.setattr(core.forgetting, "_clock", later)
        assert await core.forgetting.apply_retention() == 0
        later.synced = True
        assert await core.forgetting.apply_retention() > 0


async def test_the_check_tells_an_altered_and_a_lost_record_from_an_erased_one(
    tmp_path: Path,
) -> None:
    settings = trusted_clock(tmp_path)
    async with two_patients(settings) as (core, mail):
        await readings(mail)
        await core.forgetting.erase_patient("Anna")
        late = SignedDevice("berta-monitor", sequence=70)
        await mail.send(late.name, late.envelope())
        await mail.send(late.name, late.envelope())
    [one, other] = of_device(settings, "berta-monitor")[-2:]
    now_ms = time.time_ns() // 1_000_000
    assert not check(reader_of(settings), now_ms).damaged
    connection = apsw.Connection(str(settings.directory / DATABASE_NAME))
    query = "FROM frames WHERE id >> ? = ? AND class = ?"
    values = (FRAME_BITS, one.batch_id, Class.READINGS.value)
    [(id_, sealed)] = rows(connection, f"SELECT id, sealed {query}", values)
    bent = sealed[:-1] + bytes([sealed[-1] ^ 1])
    connection.execute("UPDATE frames SET sealed = ? WHERE id = ?", (bent, id_))
    values = (FRAME_BITS, other.batch_id, Class.READINGS.value)
    connection.execute(f"DELETE {query}", values)
    report = check(reader_of(settings), now_ms)
    line = report.ages["last hour"]
    assert (line.altered, line.lost) == (1, 2)
    assert report.damaged
    assert any("do not open" in problem for problem in report.problems)
    later = check(reader_of(settings), now_ms + 40 * DAY_MS)
    assert (later.ages["older"].lost, later.ages["last hour"].lost) == (2, 0)


def test_retention_days_are_checked(tmp_path: Path) -> None:
    from workbench import make_gateway

    settings = make_gateway(
        tmp_path, **{"# readings_days = 30  ": "readings_days = 30  "}
    )
    assert (settings.retention.readings_days, settings.retention.events_days) == (
        30,
        None,
    )
    with pytest.raises(ConfigurationError, match="retention"):
        make_gateway(tmp_path / "x", **{"# events_days = 3650  ": "events_days = 0  "})


async def test_a_reader_beside_the_erasure_says_that_it_is_gone(tmp_path: Path) -> None:
    """It listed the frame before, and opens it after: no damage, an erasure."""
    settings = trusted_clock(tmp_path)
    async with two_patients(settings) as (core, mail):
        await readings(mail, 1)
        reader: Reader = reader_of(settings)
        anna = patients_of(settings)["Anna"]
        stored = reader.records(patient=anna)
        first = next(stored)
        frames = reader.frames_of(first.batch_id)
        await core.forgetting.erase_patient("Anna")
        list(stored)  # ends early, without an error
        gone = 0
        for frame in frames:
            try:
                reader.open_frame(frame)
            except ErasedError:
                gone += 1
        assert gone
