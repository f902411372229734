"""A store that was set back: found by what lies elsewhere, answered by a new epoch."""

from __future__ import annotations

import asyncio
import shutil
import time
from pathlib import Path

import pytest
from workbench import SignedDevice, a_failing_ward, a_ward, make_gateway, reader_of

from edge.config import Settings
from edge.errors import IntegrityError, NotFoundError
from edge.gateway import Core, open_core
from edge.ledger import core, note, tiles
from edge.ledger.batch import DeviceEnrolment, EpochStart
from edge.ledger.verify import Verdict, verify_directory, verify_proof
from edge.model import Firing, Kind
from edge.model import Verdict as Answer
from edge.store import epochs, evidence, head
from edge.store.vault import load_keys, write_secret

SENML = b'[{"n":"body_temperature","u":"Cel","v":36.7}]'
LINE = '# checkpoint_copy = "/media/stick" '


def with_stick(directory: Path) -> tuple[Settings, Path]:
    """A gateway with a second medium, which is there."""
    stick = directory / "stick"
    stick.mkdir(parents=True)
    line = f'checkpoint_copy = "{stick}" '
    return make_gateway(directory / "gateway", **{LINE: line}), stick


def save(settings: Settings) -> Path:
    """A copy of the data as they are, but for the keys."""
    saved = settings.directory.with_name("saved")
    shutil.rmtree(saved, ignore_errors=True)
    shutil.copytree(settings.directory, saved, ignore=shutil.ignore_patterns("keys"))
    return saved


def restore(settings: Settings, saved: Path) -> None:
    """What somebody does with yesterday's copy of the data."""
    keys = settings.directory.with_name("keys-aside")
    shutil.move(settings.directory / "keys", keys)
    shutil.rmtree(settings.directory)
    shutil.copytree(saved, settings.directory)
    shutil.move(keys, settings.directory / "keys")


async def read(settings: Settings, device: SignedDevice, count: int) -> list[str]:
    """Let the gateway take some readings; their names."""
    async with a_ward(settings) as (_, mail):
        for _ in range(count):
            outcome = await mail.send("monitor", device.envelope())
            assert outcome.verdict is Answer.COMMITTED
    return names(settings)[-count:]


def names(settings: Settings) -> list[str]:
    return [
        one.reading_id(0)
        for one in reader_of(settings).records()
        if one.record.kind is Kind.READING
    ]


def alarms(settings: Settings) -> list[tuple[str, str]]:
    found = [
        Firing.decode(one.record.original)
        for one in reader_of(settings).records()
        if one.record.kind is Kind.FIRING
    ]
    return [(one.rule, one.phase) for one in found if one.contract == "gateway"]


def copy_of(stick: Path, settings: Settings, epoch: int = 1) -> Path:
    return stick / evidence.copy_name(settings.origin, epoch)


def vkey_of(settings: Settings, epoch: int) -> str:
    return epochs.verifier(settings.keys, settings.origin, epoch).vkey


async def set_back(directory: Path) -> tuple[Settings, Path, bytes, str]:
    """A gateway whose store lacks its last readings; the copy, and an old reading."""
    settings, stick = with_stick(directory)
    monitor = SignedDevice("monitor")
    [old] = await read(settings, monitor, 1)
    saved = save(settings)
    await read(settings, monitor, 3)
    signed = copy_of(stick, settings).read_bytes()
    restore(settings, saved)
    return settings, stick, signed, old


async def test_yesterdays_store_is_found_out_and_a_new_epoch_begins(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Invariant 7: it goes on collecting, and signs nothing as the log it was."""
    settings, stick, signed, old = await set_back(tmp_path)
    branch_size, branch_note = reader_of(settings).checkpoint()
    opened = note.parse_checkpoint(note.parse_note(branch_note).text)
    [new] = await read(settings, SignedDevice("monitor", sequence=40), 1)
    assert "ROLLBACK" in caplog.text

    reader = reader_of(settings)
    assert reader.origin == f"{settings.origin}/epoch-2"
    size, _ = reader.checkpoint()
    first = reader.log().decoded(0, size)
    assert isinstance(first, EpochStart)
    assert first.previous_origin == settings.origin
    assert first.previous_checkpoint == signed
    assert (first.branch_size, first.branch_root) == (branch_size, opened.root)
    assert ("rollback", "start") in alarms(settings)
    assert names(settings) == [old, new]  # what the store held can still be read

    reader.export(tmp_path / "log")
    assert (
        verify_directory(tmp_path / "log", vkey_of(settings, 2)).verdict is Verdict.OK
    )
    refused = verify_directory(tmp_path / "log", vkey_of(settings, 1))
    assert refused.verdict is Verdict.REFUSED
    file = tmp_path / "new.tlog-proof"
    file.write_bytes(reader.prove(new, disclose=True))
    assert verify_proof(file, vkey_of(settings, 2)).verdict is Verdict.OK
    with pytest.raises(NotFoundError, match="ended with a rollback"):
        reader.prove(old)
    assert copy_of(stick, settings).read_bytes() == signed  # the evidence stays
    assert copy_of(stick, settings, 2).exists()


async def test_the_new_epoch_goes_on_over_restarts_and_says_so_once(
    tmp_path: Path,
) -> None:
    settings, _, _, _ = await set_back(tmp_path)
    monitor = SignedDevice("monitor", sequence=40)
    await read(settings, monitor, 2)
    await read(settings, monitor, 2)
    reader = reader_of(settings)
    assert reader.log().epoch == 2
    assert alarms(settings).count(("rollback", "start")) == 1
    size, _ = reader.checkpoint()
    kinds = [type(reader.log().decoded(at, size)) for at in range(size)]
    assert kinds.count(EpochStart) == 1
    assert kinds.count(DeviceEnrolment) == 2  # both again, in the new log
    assert kinds.index(DeviceEnrolment) == 1


async def test_the_times_of_a_new_epoch_do_not_go_back(tmp_path: Path) -> None:
    """The checkpoint's time is gone with the old log; the batches' times remain."""
    settings, _, _, _ = await set_back(tmp_path)
    newest_ms = reader_of(settings).newest_ms()
    async with a_ward(settings):
        pass
    reader = reader_of(settings)
    size, _ = reader.checkpoint()
    assert reader.log().decoded(0, size).time_ms >= newest_ms


async def test_a_number_and_a_key_are_never_used_twice(tmp_path: Path) -> None:
    """Set back once more, behind the new epoch: epoch 2 has signed, so 3 begins."""
    settings, _, _, _ = await set_back(tmp_path)
    saved = save(settings)  # of epoch 1, before anything was noticed
    await read(settings, SignedDevice("monitor", sequence=40), 1)
    second = (settings.keys / "log-2.key").read_text()
    restore(settings, saved)
    await read(settings, SignedDevice("monitor", sequence=60), 1)
    assert reader_of(settings).log().epoch == 3
    third = (settings.keys / "log-3.key").read_text()
    assert len({second, third, (settings.keys / "log.key").read_text()}) == 3
    assert (settings.keys / "log-3.key").stat().st_mode & 0o777 == 0o600


async def test_a_crash_between_the_key_and_the_epoch_leaves_a_store_that_begins_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, _, _, _ = await set_back(tmp_path)

    def power_cut(path: Path, text: str) -> None:
        write_secret(path, text)
        raise RuntimeError("power cut")

    monkeypatch.setattr(epochs, "write_secret", power_cut)
    with pytest.raises(RuntimeError):
        await read(settings, SignedDevice("monitor", sequence=40), 1)
    assert reader_of(settings).log().epoch == 1
    monkeypatch.undo()
    await read(settings, SignedDevice("monitor", sequence=40), 1)
    assert reader_of(settings).log().epoch == 3
    assert alarms(settings).count(("rollback", "start")) == 1


async def test_another_root_at_an_equal_or_smaller_size_is_a_rollback_too(
    tmp_path: Path,
) -> None:
    """The store was set back while the medium was away, and has grown past it."""
    for extra in (0, 4):
        settings, stick, signed, _ = await set_back(tmp_path / str(extra))
        shown = note.parse_checkpoint(note.parse_note(signed).text)
        away = stick.with_name("away")
        stick.rename(away)
        async with a_ward(settings) as (opened, _):
            while opened.intake.tree_size < shown.size + extra:
                opened.intake.alarm("test", "start", "one more entry")
                await asyncio.sleep(0.01)
        assert reader_of(settings).log().epoch == 1  # nobody could know
        away.rename(stick)
        await read(settings, SignedDevice("monitor", sequence=40), 1)
        assert reader_of(settings).log().epoch == 2


async def test_a_medium_that_comes_back_while_the_gateway_runs_stops_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing more is answered or signed; the restart begins the new epoch."""
    monkeypatch.setattr(evidence, "COPY_INTERVAL_S", 0.01)
    settings, stick, _, _ = await set_back(tmp_path)
    away = stick.with_name("away")
    stick.rename(away)
    async with a_failing_ward(settings, IntegrityError) as (opened, mail):
        await mail.send("monitor", SignedDevice("monitor", sequence=40).envelope())
        away.rename(stick)
        async with asyncio.timeout(5):
            while not opened.failure.done():
                opened.intake.alarm("test", "start", "a commit")
                await asyncio.sleep(0.02)
        with pytest.raises(IntegrityError, match="rollback"):
            opened.failure.result()
        while opened.intake._in_flight is not None:  # one had begun already
            await asyncio.sleep(0.01)
        size = reader_of(settings).checkpoint()[0]
    assert reader_of(settings).checkpoint()[0] == size
    await read(settings, SignedDevice("monitor", sequence=50), 1)
    assert reader_of(settings).log().epoch == 2


async def test_a_store_that_was_deleted_begins_a_new_epoch(tmp_path: Path) -> None:
    """An empty directory under the old key would be a second history as well."""
    settings, _, signed, _ = await set_back(tmp_path)
    for one in settings.directory.iterdir():
        if one.name != "keys":
            shutil.rmtree(one) if one.is_dir() else one.unlink()
    await read(settings, SignedDevice("monitor", sequence=40), 1)
    reader = reader_of(settings)
    first = reader.log().decoded(0, reader.checkpoint()[0])
    assert isinstance(first, EpochStart)
    assert (first.previous_checkpoint, first.branch_size) == (signed, 0)


async def test_equal_evidence_and_an_older_prefix_change_nothing(
    tmp_path: Path,
) -> None:
    settings, stick = with_stick(tmp_path)
    monitor = SignedDevice("monitor")
    await read(settings, monitor, 1)
    older = copy_of(stick, settings).read_bytes()
    assert older == reader_of(settings).checkpoint()[1]  # written at the clean stop
    await read(settings, monitor, 2)
    copy_of(stick, settings).write_bytes(older)  # a copy that missed the last minute
    await read(settings, monitor, 1)
    assert reader_of(settings).log().epoch == 1
    assert alarms(settings) == []
    assert copy_of(stick, settings).read_bytes() == reader_of(settings).checkpoint()[1]


async def until(
    settings: Settings, opened: Core, wanted: list[tuple[str, str]]
) -> None:
    async with asyncio.timeout(5):
        while alarms(settings) != wanted:
            await asyncio.sleep(0.02)
            await opened.administration.add_patient(f"P-{time.monotonic_ns()}")
            opened.intake._tick()


@pytest.mark.parametrize("fault", ["stranger", "garbage"])
async def test_what_another_key_signed_proves_nothing_and_is_put_aside(
    tmp_path: Path, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bare size would let anybody who has the stick stop the ledger."""
    monkeypatch.setattr(evidence, "COPY_INTERVAL_S", 0.01)
    settings, stick = with_stick(tmp_path)
    await read(settings, SignedDevice("monitor"), 1)
    stranger = note.Verifier(settings.origin, core.public_key(bytes(32)))
    checkpoint = note.Checkpoint(settings.origin, 10**6, bytes(32))
    forged = note.sign_note(
        checkpoint.text, stranger, lambda message: core.sign(bytes(32), message)
    )
    path = copy_of(stick, settings)
    path.write_bytes(forged if fault == "stranger" else b"\xff\x00" * 300_000)
    async with a_ward(settings) as (opened, _):
        wanted = [("checkpoint-copy", "start"), ("checkpoint-copy", "end")]
        await until(settings, opened, wanted)
    assert reader_of(settings).log().epoch == 1
    assert path.with_name(path.name + evidence.ASIDE).exists()
    assert path.read_bytes() == reader_of(settings).checkpoint()[1]


async def test_a_medium_that_is_away_stops_nothing_and_is_told_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evidence, "COPY_INTERVAL_S", 0.01)
    settings, stick = with_stick(tmp_path)
    stick.rmdir()
    monitor = SignedDevice("monitor")
    async with a_ward(settings) as (opened, mail):
        wanted = [("checkpoint-copy", "start")]
        await until(settings, opened, wanted)
        for _ in range(5):
            answer = await mail.send("monitor", monitor.envelope())
            assert answer.verdict is Answer.COMMITTED
        await until(settings, opened, wanted)
        stick.mkdir()
        await until(settings, opened, [*wanted, ("checkpoint-copy", "end")])


async def test_a_medium_that_hangs_keeps_nobody_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A network share that is gone answers no read for minutes."""
    settings, _ = with_stick(tmp_path)
    await read(settings, SignedDevice("monitor"), 1)
    monkeypatch.setattr(evidence, "READ_TIMEOUT_S", 0.05)
    monkeypatch.setattr(evidence, "STOP_TIMEOUT_S", 0.05)
    monkeypatch.setattr(evidence, "_read_copies", lambda *_: time.sleep(2))
    monkeypatch.setattr(evidence, "_replace", lambda *_: time.sleep(2))
    began = time.monotonic()
    await read(settings, SignedDevice("monitor", sequence=9), 1)
    assert time.monotonic() - began < 1.5


# ---- The head against the tiles ----


async def filled(settings: Settings, count: int, each: int = 5) -> None:
    """A log of at least `count` entries."""
    async with open_core(settings) as opened:
        while opened.intake.tree_size < count:
            before = opened.intake.tree_size
            for _ in range(each):
                opened.intake._tick()
            while opened.intake.tree_size == before:
                await asyncio.sleep(0)


@pytest.mark.parametrize("name", ["tile/0/000", "tile/entries/000"])
async def test_a_damaged_or_missing_tile_of_the_right_edge_refuses_the_start(
    tmp_path: Path, name: str
) -> None:
    settings = make_gateway(tmp_path)
    await filled(settings, 270)
    path = settings.directory / "ledger" / name
    good = path.read_bytes()
    path.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    with pytest.raises(IntegrityError, match=name):
        async with open_core(settings):
            pass
    path.unlink()
    with pytest.raises(IntegrityError, match="cannot be read"):
        async with open_core(settings):
            pass
    path.write_bytes(good)
    async with open_core(settings):
        pass


async def test_a_tile_ahead_of_the_database_is_a_rollback(tmp_path: Path) -> None:
    """Only the database was set back: tiles are written after their commit."""
    settings = make_gateway(tmp_path)
    await filled(settings, 100)
    saved = save(settings)
    await filled(settings, 300)
    for one in settings.directory.glob("gateway.db*"):
        one.unlink()
    shutil.copy(saved / "gateway.db", settings.directory)
    await filled(settings, 300)
    reader = reader_of(settings)
    assert reader.log().epoch == 2
    assert (settings.directory / "ledger-2" / tiles.tile_path(0, 0)).exists()
    first = reader.log().decoded(0, reader.checkpoint()[0])
    assert isinstance(first, EpochStart)
    assert first.previous_checkpoint is None
    assert (first.branch_size or 0) >= 100


# ---- Kept checkpoints ----


async def test_one_checkpoint_an_hour_is_kept_and_the_log_only_grew_between_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = make_gateway(tmp_path)
    await filled(settings, 20)
    [(size, time_ms, _)] = reader_of(settings).kept_checkpoints()
    assert size == 2  # epoch start and gateway start: the first commit
    monkeypatch.setattr(head, "KEEP_INTERVAL_MS", 0)
    await filled(settings, 300)
    kept = reader_of(settings).kept_checkpoints()
    assert len(kept) > 50
    assert kept[0][:2] == (size, time_ms)
    seed = load_keys(settings.keys).log_seed
    verifier = note.Verifier(settings.origin, core.public_key(seed))
    for size, _, signed in kept:
        opened = note.open_note(signed, [verifier], core.verify)
        assert note.parse_checkpoint(opened.text).size == size
