"""A new master key, a passphrase, credentials: whatever is cut, the store opens."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from cuts import all_cuts
from workbench import Mailbox, SignedDevice, a_ward, make_gateway, reader_of

from edge import config
from edge.cli import main
from edge.errors import BusyError, ConfigurationError, IntegrityError
from edge.gateway import open_core
from edge.model import Kind, Verdict
from edge.store import keysource, rotation, vault
from edge.store.database import lock_directory, open_reader
from edge.store.keys import Keys
from edge.store.keysource import SEALED_KEY, settle
from edge.store.reader import Reader
from edge.store.rotation import rotate, seal_with_passphrase, unseal_to_file
from edge.store.vault import MASTER_KEY, load_keys

PASSPHRASE = "correct horse battery"


@pytest.fixture(autouse=True)
def quick_scrypt(monkeypatch: pytest.MonkeyPatch) -> None:
    """The real parameters take half a second each; the code is the same."""
    monkeypatch.setattr(keysource, "SCRYPT_N", 1 << 4)
    monkeypatch.setattr(keysource, "_passphrase", keysource.Passphrase())
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)


def give(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """Let the process know this passphrase, as if it had asked for it."""
    read, write = os.pipe()
    os.write(write, text.encode() + b"\n")
    os.close(write)
    monkeypatch.setattr(keysource, "_passphrase", keysource.Passphrase(read))


async def a_store(directory: Path) -> config.Settings:
    """A gateway's directory with two patients and a reading."""
    settings = make_gateway(directory)
    monitor = SignedDevice("monitor")
    async with a_ward(settings) as (core, mail):
        await core.administration.add_patient("P-2")
        outcome = await mail.send("monitor", monitor.envelope())
        assert outcome.verdict is Verdict.COMMITTED
    return settings


def configured(settings: config.Settings, source: str) -> config.Settings:
    """The same gateway with this source of its master key."""
    file = settings.directory.parent / "iomt.toml"
    text = file.read_text()
    for line in ('# master = "file" ', 'master = "passphrase" '):
        text = text.replace(line, f'master = "{source}" ')
    file.write_text(text)
    found = config.load(file)
    assert found.master == source
    return found


def content(settings: config.Settings, master: bytes) -> list[object]:
    """Everything that only keys open: records and names."""
    reader = reader_with(settings, master)
    records = [(one.reading_id(0), one.record) for one in reader.records()]
    found: list[object] = [records, reader.patients()]
    reader.close()
    return found


def reader_with(settings: config.Settings, master: bytes) -> Reader:
    return Reader(settings.directory, master)


def opening(settings: config.Settings) -> list[str]:
    """The names of the key files that open the store."""
    found = []
    for file in sorted(settings.keys.glob("master.*")):
        try:
            if file.name.startswith(SEALED_KEY):
                master = keysource.load_sealed(file)
            else:
                master = bytes.fromhex(file.read_text())
            with open_reader(settings.directory) as connection:
                Keys(master, connection)
        except (IntegrityError, ConfigurationError, ValueError):
            continue
        found.append(file.name)
    return found


def masters(settings: config.Settings) -> list[str]:
    return sorted(one.name for one in settings.keys.glob("master*"))


def reset(settings: config.Settings, original: Path) -> None:
    shutil.rmtree(settings.directory)
    shutil.copytree(original, settings.directory)


async def test_a_rotation_re_wraps_and_changes_nothing_else(tmp_path: Path) -> None:
    """No byte of the ledger, no episode and no frame."""
    settings = await a_store(tmp_path / "g")

    def untouched() -> list[object]:
        connection = open_reader(settings.directory)
        found: list[object] = [
            connection.execute(f"SELECT * FROM {table}").fetchall()
            for table in ("entries", "checkpoint", "batches", "episodes", "frames")
        ]
        connection.close()
        return found

    old = load_keys(settings.keys).master
    before, rows_before = content(settings, old), untouched()
    assert rotate(settings.directory, settings.keys, "file") == 3
    new = load_keys(settings.keys).master
    assert new != old
    assert content(settings, new) == before
    assert untouched() == rows_before
    with pytest.raises(IntegrityError):
        reader_with(settings, old)
    assert masters(settings) == [MASTER_KEY]
    assert (settings.keys / MASTER_KEY).stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("source", ["file", "passphrase"])
async def test_a_rotation_cut_at_any_step_leaves_one_key_that_opens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    """And the next start of the gateway finds out which, without anybody's help."""
    give(monkeypatch, PASSPHRASE)
    settings = await a_store(tmp_path / "g")
    if source == "passphrase":
        seal_with_passphrase(settings.directory, settings.keys)
        settings = configured(settings, source)
    expected = content(settings, load_keys(settings.keys, source).master)
    original = tmp_path / "original"
    shutil.copytree(settings.directory, original)
    seen = set()

    def work() -> None:
        rotate(settings.directory, settings.keys, source)

    cuts = 0
    for place in all_cuts(monkeypatch, work):
        cuts += 1
        seen.add(tuple(opening(settings)))
        assert len(opening(settings)) == 1, place
        keyring = load_keys(settings.keys, source, settings.directory)
        assert content(settings, keyring.master) == expected, place
        with lock_directory(settings.directory):  # what every start does
            settle(settings.keys, source, settings.directory)
        name = MASTER_KEY if source == "file" else SEALED_KEY
        assert masters(settings) == opening(settings) == [name], place
        reset(settings, original)
    assert cuts >= 10
    assert len(seen) == 2  # the old one, and then the new one beside it
    work()
    async with open_core(settings) as core:
        assert core.registry.find("monitor")


async def test_a_gateway_starts_after_a_rotation_that_was_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On both sides of the transaction, and after a key file that was torn."""
    settings = await a_store(tmp_path / "g")
    original = tmp_path / "original"
    shutil.copytree(settings.directory, original)
    real, seal = rotation._rewrap_all, vault.seal

    class PowerCut(BaseException):
        pass

    def in_the_middle(*values: object) -> int:
        sealed = []

        def once(*parts: bytes) -> bytes:
            sealed.append(1)
            if len(sealed) == 2:
                raise PowerCut
            return seal(*parts)

        with monkeypatch.context() as patch:
            patch.setattr(vault, "seal", once)
            return real(*values)  # type: ignore[arg-type]

    def at_the_end(*values: object) -> int:
        real(*values)  # type: ignore[arg-type]
        raise PowerCut

    for rewrap in (in_the_middle, at_the_end):
        with monkeypatch.context() as patch:
            patch.setattr(rotation, "_rewrap_all", rewrap)
            with pytest.raises(PowerCut):
                rotate(settings.directory, settings.keys, "file")
        assert opening(settings) == [MASTER_KEY]
        assert len(masters(settings)) == 2
        new = settings.keys / "master.key.new"
        new.write_text(new.read_text()[:20])
        async with open_core(settings) as core:
            assert core.registry.find("monitor")
        assert masters(settings) == [MASTER_KEY]
        reset(settings, original)

    def committed(*_: object) -> None:
        raise PowerCut

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", committed)
        with pytest.raises(PowerCut):
            rotate(settings.directory, settings.keys, "file")
    assert opening(settings) == ["master.key.new"]
    assert reader_of(settings).patients()  # a command reads, and settles nothing
    assert len(masters(settings)) == 2
    async with a_ward(settings) as (_, mail):
        monitor = SignedDevice("monitor", sequence=7)
        outcome = await mail.send("monitor", monitor.envelope())
        assert outcome.verdict is Verdict.COMMITTED
    assert masters(settings) == opening(settings) == [MASTER_KEY]


KILLED = """
import os, pathlib, signal, sys
from edge.store import rotation, vault

def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

seal, left = vault.seal, int(sys.argv[2])

def seal_or_die(*parts):
    global left
    left -= 1
    return die() if left < 0 else seal(*parts)

vault.seal = seal_or_die
rotation.Keys = die  # opened once more after the commit
data = pathlib.Path(sys.argv[1])
rotation.rotate(data, data / "keys", "file")
"""


async def test_a_rotation_that_is_killed_leaves_one_key_that_opens(
    tmp_path: Path,
) -> None:
    """By the kernel: at each wrap, and right after the commit."""
    settings = await a_store(tmp_path / "g")
    expected = content(settings, load_keys(settings.keys).master)
    original = tmp_path / "original"
    shutil.copytree(settings.directory, original)
    for wraps in range(4):
        done = subprocess.run(
            [sys.executable, "-c", KILLED, str(settings.directory), str(wraps)],
            capture_output=True,
            check=False,
        )
        assert done.returncode == -signal.SIGKILL, done.stderr
        assert masters(settings) == [MASTER_KEY, "master.key.new"]
        assert opening(settings) == [MASTER_KEY if wraps < 3 else "master.key.new"]
        async with open_core(settings) as core:
            assert core.registry.find("monitor")
        assert masters(settings) == opening(settings) == [MASTER_KEY]
        found = content(settings, load_keys(settings.keys).master)
        assert found[1] == expected[1]
        reset(settings, original)


async def test_no_secret_is_ever_written_to_a_log_or_a_terminal(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Nor to any file but the key files, through all that handles keys."""
    caplog.set_level(logging.DEBUG)
    give(monkeypatch, PASSPHRASE)
    settings = await a_store(tmp_path / "g")
    where = ("--config", str(tmp_path / "g" / "iomt.toml"))
    secrets = [PASSPHRASE]

    def note_secrets() -> None:
        secrets.extend(one.read_text().strip() for one in settings.keys.iterdir())
        with suppress(ConfigurationError):
            secrets.append(load_keys(settings.keys).master.hex())

    note_secrets()
    top = tmp_path / "g"
    assert not main(["keys", "rotate", *where])
    note_secrets()
    assert not main(["backup", str(top / "saved"), *where])
    assert not main(["backup-keys", str(top / "ring"), *where])
    target = ("--to", str(tmp_path / "data"), "--keys", str(top / "ring"))
    assert not main(["restore", str(top / "saved"), *target])
    assert not main(["keys", "passphrase", *where])
    assert main(["keys", "rotate", *where]) == 2  # not configured so yet
    settings = configured(settings, "passphrase")
    assert not main(["keys", "rotate", *where])
    note_secrets()
    (settings.keys / SEALED_KEY).write_text('{"format": "iomt/master-sealed@v1"}')
    assert main(["device", "list", *where]) == 2
    out, err = capfd.readouterr()
    told = [out, err, caplog.text, *(repr(one.__dict__) for one in caplog.records)]
    told += [file.read_text() for file in top.rglob("*.json")]
    assert out
    assert err
    for secret in secrets:
        assert len(secret) >= len(PASSPHRASE)
        assert not [one for one in told if secret in one]


async def test_no_key_changes_under_a_gateway_that_runs(tmp_path: Path) -> None:
    settings = await a_store(tmp_path / "g")
    async with open_core(settings):
        for change in (seal_with_passphrase, unseal_to_file):
            with pytest.raises(BusyError):
                change(settings.directory, settings.keys)
        with pytest.raises(BusyError):
            rotate(settings.directory, settings.keys, None)


async def test_a_passphrase_can_be_put_on_and_taken_off_and_cut_at_any_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At each step the store opens with what is there; the key itself stays."""
    give(monkeypatch, PASSPHRASE)
    settings = await a_store(tmp_path / "g")
    master = load_keys(settings.keys).master
    original, sealed = tmp_path / "original", tmp_path / "sealed"
    shutil.copytree(settings.directory, original)

    def put_on() -> None:
        seal_with_passphrase(settings.directory, settings.keys)

    for place in all_cuts(monkeypatch, put_on):
        assert opening(settings), place
        if not (settings.keys / SEALED_KEY).exists():
            assert load_keys(settings.keys).master == master, place
        else:
            keyring = load_keys(settings.keys, "passphrase")
            assert keyring.master == master, place
        reset(settings, original)
    assert masters(settings) == [SEALED_KEY]
    assert (settings.keys / SEALED_KEY).stat().st_mode & 0o777 == 0o600
    assert load_keys(settings.keys).master == master
    assert not any(master.hex() in one.read_text() for one in settings.keys.iterdir())
    with pytest.raises(ConfigurationError, match=r'set .* master = "passphrase"'):
        load_keys(settings.keys, "file")
    shutil.copytree(settings.directory, sealed)

    def take_off() -> None:
        unseal_to_file(settings.directory, settings.keys)

    for place in all_cuts(monkeypatch, take_off):
        assert opening(settings), place
        reset(settings, sealed)
    assert masters(settings) == [MASTER_KEY]
    assert load_keys(settings.keys, "file").master == master


async def test_a_rotation_with_credentials_needs_the_new_one_beside_the_old(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = await a_store(tmp_path / "g")
    directory = tmp_path / "credentials"
    directory.mkdir()
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(directory))
    file = settings.keys / MASTER_KEY
    old = directory / keysource.MASTER_CREDENTIAL
    shutil.move(file, old)
    expected = content(settings, load_keys(settings.keys, "credential").master)
    with pytest.raises(ConfigurationError, match="iomt-master-new"):
        rotate(settings.directory, settings.keys, "credential")
    new = directory / keysource.NEW_CREDENTIAL
    new.write_text(vault.new_key().hex())
    new.chmod(0o440)  # how systemd's access list looks in a mode
    rotate(settings.directory, settings.keys, "credential")
    for _ in range(2):
        keyring = load_keys(settings.keys, "credential", settings.directory)
        assert content(settings, keyring.master) == expected
        if new.exists():
            new.rename(old)  # the administrator exchanges them
    settings = configured(settings, "credential")
    async with open_core(settings) as core:
        assert core.registry.find("monitor")
    assert masters(settings) == []


async def test_the_gateway_takes_its_passphrase_from_a_descriptor_as_a_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without one it names the ways, and waits for nobody."""
    give(monkeypatch, PASSPHRASE)
    settings = await a_store(tmp_path / "g")
    where = ("--data", str(settings.directory))
    assert not main(["keys", "passphrase", *where])
    assert 'now set [gateway] master = "passphrase"' in capsys.readouterr().out
    configured(settings, "passphrase")

    def listed(*options: str, fds: tuple[int, ...] = ()) -> tuple[int, str, str]:
        done = subprocess.run(
            [sys.executable, "-m", "edge", *options, "device", "list", *where],
            capture_output=True,
            text=True,
            check=False,
            start_new_session=True,  # no terminal to ask at
            pass_fds=fds,
        )
        return done.returncode, done.stdout, done.stderr

    read, write = os.pipe()
    os.write(write, PASSPHRASE.encode() + b"\n")
    os.close(write)
    status, out, err = listed("--passphrase-fd", str(read), fds=(read,))
    os.close(read)
    assert "monitor" in out, err
    assert status == 0
    status, _, err = listed()
    assert status == 2
    for way in ("no terminal", "--passphrase-fd", "iomt-passphrase"):
        assert way in err
    assert reader_of(settings).origin
    assert not main(["keys", "passphrase", "--remove", *where])
    settings = configured(settings, "file")
    assert not main(["keys", "rotate", *where])
    keyring = load_keys(settings.keys, "file")
    assert any(
        one.record.kind is Kind.READING
        for one in Reader(settings.directory, keyring.master).records()
    )
    async with open_core(settings) as core:
        assert Mailbox(core)
