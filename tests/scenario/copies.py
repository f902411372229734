"""What the tests of backups share: a copy of a store, and what a store holds."""

from __future__ import annotations

import shutil
from pathlib import Path

import apsw
from workbench import (
    Mailbox,
    SignedDevice,
    a_ward,
    make_gateway,
    vkey,
)

from edge import config
from edge.gateway import Core
from edge.ledger.verify import Verdict as Ledger
from edge.ledger.verify import verify_directory, verify_proof
from edge.model import Kind, Verdict
from edge.store.backup import Copied, backup, backup_keys
from edge.store.database import DATABASE_NAME
from edge.store.reader import Reader
from edge.store.vault import load_keys

V1 = Path(__file__).parents[1] / "vectors" / "store" / "v1"
NOW_MS = 1_790_000_000_000


def save(settings: config.Settings, name: str) -> Copied:
    """`iomt backup` and `iomt backup-keys` into NAME and NAME-keys beside the data."""
    top = settings.directory.parent
    copied = backup(settings.directory, settings.keys, top / name, now_ms=NOW_MS)
    save_keys(settings, f"{name}-keys")
    return copied


def save_keys(settings: config.Settings, name: str) -> Path:
    target = settings.directory.parent / name
    backup_keys(settings.directory, settings.keys, target, source=None, now_ms=NOW_MS)
    return target


async def grow(core: Core, mail: Mailbox, device: SignedDevice) -> None:
    """More than one full tile, and readings at both ends of it."""
    assert (await mail.send("monitor", device.envelope())).verdict is Verdict.COMMITTED
    for number in range(265):
        await core.administration.add_device(f"d{number}", "unsigned")
    assert (await mail.send("monitor", device.envelope())).verdict is Verdict.COMMITTED


def reader_at(data: Path) -> Reader:
    return Reader(data, load_keys(data / "keys").master)


def names(reader: Reader) -> list[str]:
    return [
        one.reading_id(0) for one in reader.records() if one.record.kind is Kind.READING
    ]


def moved(settings: config.Settings, target: Path) -> config.Settings:
    """The same gateway on another data directory."""
    file = target.with_suffix(".toml")
    text = settings.source_bytes.decode().replace('"data" ', f'"{target}" ')
    file.write_text(text.replace('directory = "contracts"', ""))
    return config.load(file)


def assert_proven(settings: config.Settings, reader: Reader, aside: Path) -> None:
    """The exported log verifies, and so does the proof of every reading."""
    aside.mkdir(exist_ok=True)
    key = vkey(settings)
    reader.export(aside / "log")
    assert verify_directory(aside / "log", key).verdict is Ledger.OK
    for name in names(reader):
        file = aside / f"{name}.tlog-proof"
        file.write_bytes(reader.prove(name, disclose=True))
        assert verify_proof(file, key).verdict is Ledger.OK


async def saved_ward(tmp_path: Path) -> tuple[config.Settings, Path, Path]:
    settings = make_gateway(tmp_path / "g")
    async with a_ward(settings) as (core, mail):
        await grow(core, mail, SignedDevice("monitor"))
    save(settings, "saved")
    return settings, tmp_path / "g" / "saved", tmp_path / "g" / "saved-keys"


def holders(data: Path) -> list[tuple[str, str]]:
    """(patient or "", device) of every reading, by whose key opens it."""
    reader = reader_at(data)
    found = [
        (name, one.record.device or "")
        for id_, name in [*reader.patients().values(), (0, "")]
        for one in reader.records(patient=id_)
        if one.record.kind is Kind.READING
    ]
    order = ("Right", "Wrong", "Once", "Twice", "P-1", "")
    return sorted(found, key=lambda pair: (order.index(pair[0]), pair[1]))


def old_store(tmp_path: Path) -> config.Settings:
    """The store of version 1 that the fixture keeps."""
    shutil.copytree(V1, tmp_path / "v1")
    for key in (tmp_path / "v1" / "data" / "keys").iterdir():
        key.chmod(0o600)
    return config.load(tmp_path / "v1" / "iomt.toml")


def old_names(settings: config.Settings) -> list[str]:
    """The names of all records of the store of version 1, read with SQL alone."""
    path = settings.directory / DATABASE_NAME
    connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
    reader = Reader(settings.directory, load_keys(settings.keys).master, connection)
    found = names(reader)
    reader.close()
    return found
