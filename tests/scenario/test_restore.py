"""Restore: from a backup and a key ring, whole or not at all."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import apsw
import pytest
from copies import (
    NOW_MS,
    assert_proven,
    holders,
    moved,
    names,
    old_names,
    old_store,
    reader_at,
    save,
    save_keys,
    saved_ward,
)
from cuts import all_cuts
from workbench import (
    ORIGIN,
    Mailbox,
    SignedDevice,
    a_ward,
    make_gateway,
    reader_of,
    readings_of,
    vkey,
)

from edge.cli import main
from edge.errors import ConfigurationError, GatewayError, IntegrityError
from edge.gateway import open_core
from edge.model import Kind, Verdict
from edge.store import backup as backups
from edge.store import database, epochs
from edge.store.backup import BACKUP_NAME, KEYS_NAME
from edge.store.database import (
    DATABASE_NAME,
    STORE_VERSION,
)
from edge.store.restore import restore

HEADS = (BACKUP_NAME, KEYS_NAME)


async def test_what_was_forgotten_after_the_backup_does_not_come_back(
    tmp_path: Path,
) -> None:
    """With a key ring from after the erasure; one from before can, as documented."""
    settings = make_gateway(tmp_path / "g")
    one, two = SignedDevice("monitor"), SignedDevice("second", seed=bytes(32))
    async with a_ward(settings) as (core, mail):
        await core.administration.add_patient("P-2")
        await core.administration.add_device("second", "signed", two.public_key)
        await core.administration.assign_device("second", "P-2")
        await mail.send("monitor", one.envelope())
        await mail.send("second", two.envelope())
    top = settings.directory.parent
    save(settings, "saved")
    async with open_core(settings) as core:
        assert await core.forgetting.erase_patient("P-1")
    after = save_keys(settings, "keys-after")
    restored = restore(top / "saved", top / "late", after, now_ms=NOW_MS)
    assert (restored.patients_without_key, restored.episodes_without_key) == (1, 1)
    reader = reader_at(top / "late")
    assert [name for _, name in reader.patients().values()] == ["P-2"]
    assert [
        r.record.device for r in reader.records() if r.record.kind is Kind.READING
    ] == ["second"]
    assert_proven(settings, reader, tmp_path / "proofs")
    before = restore(top / "saved", top / "early", top / "saved-keys", now_ms=NOW_MS)
    assert (before.patients_without_key, before.episodes_without_key) == (0, 0)
    assert len(names(reader_at(top / "early"))) == 2
    async with open_core(moved(settings, top / "late")) as core:
        assert core.registry.find("monitor")
        assert core.registry.find("monitor").assignment is None  # type: ignore[union-attr]


async def test_whose_readings_they_are_is_right_after_a_restore(
    tmp_path: Path,
) -> None:
    """Corrections and merges hold; a claimed hour, part of which moved, is nobody's."""
    settings = make_gateway(tmp_path / "g")
    loose = SignedDevice("loose", seed=bytes(32))
    worn = [SignedDevice(f"worn-{one}", seed=bytes([one]) * 32) for one in (1, 2)]
    async with open_core(settings) as core:
        core.intake.open_views()
        mail, change = Mailbox(core), core.administration
        for name in ("Wrong", "Right", "Twice", "Once"):
            await change.add_patient(name)
        await change.add_device("loose", "signed", loose.public_key)
        for device, patient in zip(worn, ("Wrong", "Twice"), strict=True):
            await change.add_device(device.name, "signed", device.public_key)
            await change.assign_device(device.name, patient)
            await mail.send(device.name, device.envelope())
        await mail.send("loose", loose.envelope())
        await asyncio.sleep(0.05)  # another commit, another time
        await mail.send("loose", loose.envelope())
    times = [one.record.received_ms for one in readings_of(settings)]
    save(settings, "saved")
    async with open_core(settings) as core:
        made = core.forgetting
        await made.correct_patient("worn-1", "Wrong", "Right")
        await made.merge_patients("Twice", "Once")
        await made.claim_readings("loose", "Right", times[-1], times[-1] + 10)
    assert holders(settings.directory) == [
        *(("Right", "loose"), ("Right", "worn-1"), ("Once", "worn-2"), ("", "loose"))
    ]
    top = settings.directory.parent
    late = save_keys(settings, "late-keys")
    restored = restore(top / "saved", top / "one", late, now_ms=NOW_MS)
    assert (restored.episodes_given_back, restored.episodes_without_key) == (1, 0)
    assert holders(top / "one") == [
        *(("Right", "worn-1"), ("Once", "worn-2"), ("", "loose"), ("", "loose"))
    ]
    reader = reader_at(top / "one")
    known = {ref: name for ref, (_, name) in reader.patients().items()}
    assert [
        known[one.assignment.patient_ref.hex()]
        for one in reader.registry().all()
        if one.assignment
    ] == ["Right", "Once"]
    before = restore(top / "saved", top / "two", top / "saved-keys", now_ms=NOW_MS)
    assert before.episodes_given_back == 0
    assert holders(top / "two") == [
        *(("Wrong", "worn-1"), ("Twice", "worn-2"), ("", "loose"), ("", "loose"))
    ]


async def test_a_store_newer_than_its_keys_says_whose_they_are(tmp_path: Path) -> None:
    """An older key ring opens the reading, and does not bring back the mistake."""
    settings = make_gateway(tmp_path / "g")
    async with a_ward(settings) as (core, mail):
        await core.administration.add_patient("Right")
        await mail.send("monitor", SignedDevice("monitor").envelope())
    ring = save_keys(settings, "old-keys")
    async with open_core(settings) as core:
        await core.forgetting.correct_patient("monitor", "P-1", "Right")
    save(settings, "later")
    target = tmp_path / "data"
    restore(ring.with_name("later"), target, ring, now_ms=NOW_MS, accept_loss=True)
    assert holders(target) == [("Right", "monitor")]


async def test_an_older_key_ring_is_refused_until_the_loss_is_accepted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What came after it cannot be read; the log and the proofs of the rest verify."""
    settings = make_gateway(tmp_path / "g")
    monitor = SignedDevice("monitor")
    async with a_ward(settings) as (_, mail):
        await mail.send("monitor", monitor.envelope())
    ring = save_keys(settings, "old-keys")
    async with a_ward(settings) as (_, mail):
        await mail.send("monitor", monitor.envelope())
    save(settings, "saved")
    saved, target = ring.with_name("saved"), tmp_path / "data"
    with pytest.raises(ConfigurationError, match="older than the store's: 2 episodes"):
        restore(saved, target, ring, now_ms=NOW_MS)
    assert not target.exists()
    lost = restore(saved, target, ring, now_ms=NOW_MS, accept_loss=True)
    assert lost.episodes_without_key == 2  # the patient's, and the gateway's counts
    assert lost.keys_are_older
    assert len(names(reader_at(target))) == 1
    assert_proven(settings, reader_at(target), tmp_path / "proofs")
    where = ("--to", str(tmp_path / "other"), "--keys", str(ring))
    assert main(["restore", str(saved), *where]) == 2
    assert "2 episodes and 0 patients" in capsys.readouterr().err
    assert not main(["restore", str(saved), *where, "--accept-loss"])
    told = capsys.readouterr().out
    assert "2 episodes" in told
    assert "older than the store's" in told


def again(directory: Path, keys: Path, **changes: object) -> None:
    """Write a backup's head anew, as whoever holds the log key can: hashes and all."""
    [path] = [directory / one for one in HEADS if (directory / one).exists()]
    members = json.loads(path.read_text())
    listed = {name: backups.digest_of(directory / name) for name in members["files"]}
    members |= {"files": listed | dict(changes.pop("more", {})), **changes}  # type: ignore[call-overload]
    seed = epochs.load_log_seed(keys, 1)
    members["mac"] = backups.head_mac(members, seed)
    path.write_bytes(backups.encode_head(members))


@contextlib.contextmanager
def changed(directory: Path, keys: Path, **changes: object) -> Iterator[None]:
    """The same for a while."""
    [path] = [directory / one for one in HEADS if (directory / one).exists()]
    before = path.read_bytes()
    again(directory, keys, **changes)
    yield
    path.write_bytes(before)


async def test_every_altered_or_missing_file_of_a_backup_is_named(
    tmp_path: Path,
) -> None:
    """Wherever the byte is, in the heads as well."""
    _, saved, ring = await saved_ward(tmp_path)
    files = [one for top in (saved, ring) for one in top.rglob("*") if one.is_file()]
    assert len(files) >= 9
    target = tmp_path / "data"
    for file in files:
        content = file.read_bytes()
        step = len(content) // (40 if file.name in HEADS else 3)
        places = [*range(0, len(content), step), len(content) - 1]
        bad: list[bytes | None] = [None, content[:-1], content + b"\n"]
        for place in places:
            flipped = bytearray(content)
            flipped[place] ^= 1
            bad.append(bytes(flipped))
        for one in bad:
            file.unlink(missing_ok=True)
            if one is not None:
                file.write_bytes(one)
            with pytest.raises(GatewayError) as caught:
                restore(saved, target, ring, now_ms=NOW_MS)
            assert str(file) in str(caught.value) or (
                one is None and file.name in HEADS and file.name in str(caught.value)
            )
            assert not target.exists(), file
            assert not target.with_name("data.restoring").exists()
        file.write_bytes(content)
        file.chmod(0o600)
    restore(saved, target, ring, now_ms=NOW_MS)


async def test_a_restore_refuses_what_does_not_belong_together(tmp_path: Path) -> None:
    settings, saved, ring = await saved_ward(tmp_path)
    used = tmp_path / "used"
    used.mkdir()
    (used / "something").write_text("")
    with pytest.raises(ConfigurationError, match="not an empty directory"):
        restore(saved, used, ring, now_ms=NOW_MS)
    with pytest.raises(ConfigurationError, match="no complete backup"):
        restore(ring, tmp_path / "data", ring, now_ms=NOW_MS)
    other = make_gateway(tmp_path / "other")
    async with open_core(other):
        pass
    save(other, "saved")
    foreign = tmp_path / "other" / "saved-keys"
    with pytest.raises(IntegrityError, match=r"backup.json: .*another log key"):
        restore(saved, tmp_path / "data", foreign, now_ms=NOW_MS)
    ours = settings.keys
    shutil.copy(ours / "log.key", foreign)  # the log's, with another master
    shutil.copy(ring / "ring.db", foreign)
    again(foreign, ours, vkey=vkey(settings))
    with pytest.raises(IntegrityError, match="do not open"):
        restore(saved, tmp_path / "data", foreign, now_ms=NOW_MS)

    def refused(error: type[GatewayError], words: str) -> None:
        with pytest.raises(error, match=words):
            restore(saved, tmp_path / "data", ring, now_ms=NOW_MS)

    for path in ("../evil", "/etc/passwd", "ledger/../../evil", "ledger-x/tile/0/000"):
        with changed(saved, ours, more={path: "00"}):
            refused(IntegrityError, "no file of it")
    for change in ({"tree_size": 3}, {"epoch": 2}):
        with changed(saved, ours, **change):
            refused(IntegrityError, r"backup\.json")
    newer = rf"\.json: of version {STORE_VERSION + 1};.* with the newer program"
    for top in (saved, ring):
        with changed(top, ours, version=STORE_VERSION + 1):
            refused(ConfigurationError, newer)
    assert not (tmp_path / "data").exists()


async def test_a_backup_of_an_older_version_restores_and_is_migrated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The fixture's store, backed up as the program of its version would have."""
    settings = old_store(tmp_path)
    before = old_names(settings)
    saved, ring = tmp_path / "v1" / "saved", tmp_path / "v1" / "saved-keys"
    with monkeypatch.context() as patch:
        for module in (database, backups):
            patch.setattr(module, "STORE_VERSION", 1)
        patch.setattr(database, "MIGRATIONS", {})
        patch.setattr(backups, "RING_TABLES", ("patients", "episodes", "assignments"))
        save(settings, "saved")
    target = tmp_path / "data"
    assert not main(["restore", str(saved), "--to", str(target), "--keys", str(ring)])
    assert "of version 1: `iomt migrate`" in capsys.readouterr().out
    with pytest.raises(ConfigurationError, match="iomt migrate"):
        reader_at(target)
    assert not main(["migrate", "--data", str(target)])
    assert names(reader_at(target)) == before
    assert_proven(settings, reader_at(target), tmp_path / "proofs")


async def test_a_restore_that_is_cut_anywhere_leaves_no_half_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A gateway on a half store would begin a second log under the first one's key."""
    settings, saved, ring = await saved_ward(tmp_path)
    expected = names(reader_of(settings))
    target = tmp_path / "data"
    building = tmp_path / "data.restoring"

    def work() -> None:
        restore(saved, target, ring, now_ms=NOW_MS)

    whole = 0
    for place in all_cuts(monkeypatch, work):
        if target.exists():  # only the sync of its name was left to do
            assert names(reader_at(target)) == expected, place
            whole += 1
            shutil.rmtree(target)
        if building.exists():
            with pytest.raises(ConfigurationError, match="cut off"):
                work()
            shutil.rmtree(building)
    assert whole == 3  # after the rename, and on both sides of the last sync
    assert names(reader_at(target)) == expected


# ---- What the restored gateway knows of the one before ----


async def test_a_restored_gateway_finds_the_checkpoint_that_it_lacks(
    tmp_path: Path,
) -> None:
    """And carries it into its new epoch, where everybody sees what ended the first."""
    stick = tmp_path / "stick"
    stick.mkdir()
    second_medium = {
        '# checkpoint_copy = "/media/stick" ': f'checkpoint_copy = "{stick}" '
    }
    settings = make_gateway(tmp_path / "g", **second_medium)
    monitor = SignedDevice("monitor")
    async with a_ward(settings) as (_, mail):
        await mail.send("monitor", monitor.envelope())
    save(settings, "saved")
    saved, target = tmp_path / "g" / "saved", tmp_path / "data"
    async with a_ward(settings) as (_, mail):
        await mail.send("monitor", monitor.envelope())
    [copy] = stick.iterdir()
    newest = copy.read_bytes()
    restored = restore(saved, target, tmp_path / "g" / "saved-keys", now_ms=NOW_MS)
    marked = moved(settings, target)
    with apsw.Connection(str(target / DATABASE_NAME)) as connection:
        connection.execute("DELETE FROM meta WHERE key = 'restored'")  # evidence alone
    async with a_ward(marked) as (_, mail):
        outcome = await mail.send("monitor", monitor.envelope())
        assert outcome.verdict is Verdict.COMMITTED
    with contextlib.closing(database.open_reader(target)) as connection:
        assert epochs.current(connection) == 2
        ended = epochs.ended(connection, 1)
    assert restored.tree_size == ended.size
    assert ended.evidence == newest
    assert f"{ORIGIN} has signed a checkpoint that this store does not" in ended.reason


async def test_keys_of_a_later_epoch_are_newer_though_its_log_is_shorter(
    tmp_path: Path,
) -> None:
    """Sizes begin anew with an epoch: what was corrected after a restore holds."""
    settings = make_gateway(tmp_path / "g")
    monitor = SignedDevice("monitor")
    async with a_ward(settings) as (_, mail):
        for _ in range(12):
            await mail.send("monitor", monitor.envelope())
    save(settings, "saved")
    saved, first, second = tmp_path / "g" / "saved", tmp_path / "first", tmp_path / "2"
    restored = restore(saved, first, tmp_path / "g" / "saved-keys", now_ms=NOW_MS)
    later = moved(settings, first)
    async with open_core(later) as core:
        core.intake.open_views()
        await core.administration.add_patient("Right")
        await core.forgetting.correct_patient("monitor", "P-1", "Right")
    keys = save_keys(later, "later-keys")
    head = json.loads((keys / KEYS_NAME).read_text())
    assert head["epoch"] == 2
    assert head["tree_size"] < restored.tree_size
    restored = restore(saved, second, keys, now_ms=NOW_MS)
    assert not restored.keys_are_older
    assert {name for name, _ in holders(second)} == {"Right"}


async def test_nobody_becomes_somebody_else_by_two_histories_that_went_apart(
    tmp_path: Path,
) -> None:
    """One backup restored, and both gateways gave the next patient the same number."""
    settings = make_gateway(tmp_path / "g")
    monitor, worn = SignedDevice("monitor"), SignedDevice("worn", seed=bytes(32))
    async with a_ward(settings) as (core, _):
        await core.administration.add_device("worn", "signed", worn.public_key)
    save(settings, "saved")
    top, first, second = tmp_path / "g", tmp_path / "first", tmp_path / "second"
    async with a_ward(settings) as (core, mail):
        await core.administration.add_patient("Here")
        await core.administration.assign_device("worn", "Here")
        await mail.send("worn", worn.envelope())
        await mail.send("monitor", monitor.envelope())
    save(settings, "later")
    restore(top / "saved", first, top / "saved-keys", now_ms=NOW_MS)
    other = moved(settings, first)
    async with open_core(other) as core:
        await core.administration.add_patient("There")
    ring = save_keys(other, "other-keys")
    for number in ({1: "P-1", 2: "Here"}, {1: "P-1", 2: "There"}):
        data = first if "There" in number.values() else settings.directory
        found = reader_at(data).patients()
        assert dict(found.values()) == number
    restored = restore(top / "later", second, ring, now_ms=NOW_MS)
    assert restored.patients_without_key == 1
    assert not [one for one in holders(second) if one[0] == "There"]
    async with open_core(moved(settings, second)) as core:
        device = core.registry.find("worn")
        assert device is not None
        assert device.assignment is None


async def test_devices_are_who_they_were_after_a_restore(tmp_path: Path) -> None:
    """Keys of before and after, shared ones, certificates and passwords; and the
    backup of the store holds none that is secret."""
    settings = make_gateway(tmp_path / "g")
    old, new = SignedDevice("pump"), SignedDevice("pump", seed=bytes(range(1, 33)))
    shared = bytes(range(7, 39))
    async with a_ward(settings) as (core, mail):
        add = core.administration.add_device
        await add("pump", "signed", old.public_key)
        await mail.send("pump", old.envelope())
        operation = core.administration.operations["device-key"]
        await operation(name="pump", public_key=new.public_key, grace_h=1)
        await add("strip", "shared", shared_key=shared.hex())
        made = await core.identities.password("strip")
    top = settings.directory.parent
    save(settings, "saved")
    tables = (top / "saved" / "gateway.db").read_bytes()
    assert b"shared-key-" not in tables
    restore(top / "saved", top / "again", top / "saved-keys", now_ms=NOW_MS)
    assert_proven(settings, reader_at(top / "again"), tmp_path / "proofs")
    async with open_core(moved(settings, top / "again")) as core:
        device, strip = (core.registry.find(one) for one in ("pump", "strip"))
        assert device is not None
        assert strip is not None
        assert device.public_key == bytes.fromhex(new.public_key)
        assert device.former_key == bytes.fromhex(old.public_key)
        assert strip.shared_key == shared
        password = str(made["password"]).encode()
        assert core.identities.identify("strip", password, None) == ("device", "strip")
