"""A store from its two backups: everything is checked before anything has its name.

The copy is built in TARGET.restoring, beside the target, and becomes TARGET by one
rename once it is whole, verified and synced. A restore that is cut off leaves that
directory and no target: a gateway cannot start on half a store.

Of two backups the key ring decides what can be read (reunion.py).

    meta `restored`   CBOR [time_ms, tree size of the backup]: this store is as old as
                      its backup, and its gateway may have signed more since
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import apsw

from edge import cbor
from edge.errors import (
    ConfigurationError,
    DurabilityError,
    GatewayError,
    IntegrityError,
    RejectError,
)
from edge.ledger import core, note, tiles
from edge.store import epochs, shared_keys, vault
from edge.store.backup import (
    BACKUP_FORMAT,
    BACKUP_NAME,
    KEYS_FORMAT,
    KEYS_NAME,
    RING_NAME,
    digest_of,
    encode_head,
    head_mac,
    make_directory,
    open_copy,
    sync_file,
    sync_tree,
    write_file,
)
from edge.store.database import DATABASE_NAME, STORE_VERSION, TILE_DIRECTORY, rows
from edge.store.keys import Keys
from edge.store.keysource import CREDENTIAL, SEALED_KEY
from edge.store.log_check import check_log
from edge.store.log_check import head as log_head
from edge.store.reunion import other_people, put_keys, put_patients
from edge.store.vault import load_keys, sync_directory

RESTORING = ".restoring"
HEAD_SIZE_MAX = 256 << 20


@dataclass(frozen=True, slots=True)
class Head:
    """The content of backup.json or keys.json; `check` tells whether it was altered."""

    path: Path
    members: Mapping[str, object]
    version: int
    origin: str
    vkey: str
    epoch: int
    tree_size: int
    time_ms: int
    files: Mapping[str, str]

    def check(self, ring: Head) -> None:
        """IntegrityError where it was not written with the log key in the ring."""
        path = ring.path.with_name(epochs.key_name(self.epoch))
        try:
            content = path.read_bytes()
        except OSError as error:
            reason = error.strerror or "unreadable"
            raise IntegrityError(f"{self.path}: its log key {path}: {reason}") from None
        if hashlib.sha256(content).hexdigest() != ring.files.get(path.name):
            raise IntegrityError(f"{path}: altered, or {ring.path} was")
        try:
            seed = bytes.fromhex(content.decode())
        except ValueError:
            raise IntegrityError(f"{path}: no log key") from None
        name = epochs.log_name(self.origin, self.epoch)
        if note.Verifier(name, core.public_key(seed)).vkey != self.vkey:
            raise IntegrityError(f"{self.path}: altered, or of another log key")
        mac = str(self.members.get("mac", ""))
        if not hmac.compare_digest(mac.encode(), head_mac(self.members, seed).encode()):
            raise IntegrityError(f"{self.path}: its bytes were altered")

    def is_older(self, other: Head) -> bool:
        """Whether it was made before: logs start anew with each epoch."""
        return (self.epoch, self.tree_size) < (other.epoch, other.tree_size)


@dataclass(frozen=True, slots=True)
class Restored:
    """What a restore brought back."""

    version: int
    tree_size: int
    backup_ms: int
    keys_are_older: bool
    episodes_without_key: int  # an episode is a device's day at a patient, at most
    patients_without_key: int
    episodes_given_back: int

    @property
    def migrate_first(self) -> bool:
        """Whether the store is older than this program's."""
        return self.version < STORE_VERSION


def restore(
    backup: Path,
    target: Path,
    ring: Path,
    *,
    now_ms: int,
    take_keys: bool = True,
    accept_loss: bool = False,
) -> Restored:
    """Make `target`, a data directory, of a backup of the store and one of the keys.

    `take_keys` puts the keys into target/keys. ConfigurationError for what a person can
    mend (a target in use, a newer version, keys of another store, a key backup older
    than the store's without `accept_loss`), IntegrityError for altered bytes.
    """
    head = read_head(backup, BACKUP_NAME, BACKUP_FORMAT)
    keys_head = read_head(ring, KEYS_NAME, KEYS_FORMAT)
    for one in (keys_head, head):
        one.check(keys_head)
    temporary = target.with_name(target.name + RESTORING)
    _check_places(target, temporary, head, keys_head)
    try:
        make_directory(temporary)
        keys = temporary / "keys"
        keys.mkdir(mode=0o700)
        _copy_files(ring, keys, keys_head, _is_key_file)
        _copy_files(backup, temporary, head, _is_store_file)
        restored = _merge(
            temporary, keys, head, keys_head, now_ms=now_ms, accept_loss=accept_loss
        )
        (keys / RING_NAME).unlink()
        if not take_keys:
            for file in keys.iterdir():
                file.unlink()
            keys.rmdir()
        for path in temporary.rglob("*"):
            if path.is_file():
                sync_file(path)
        sync_tree(temporary)
        os.rename(temporary, target)
        sync_directory(target.parent)
    except (GatewayError, OSError, apsw.Error) as error:
        shutil.rmtree(temporary, ignore_errors=True)
        if isinstance(error, GatewayError):
            raise
        raise DurabilityError(f"{target}: not restored: {error}") from error
    return restored


# ---- What is there ----


def read_head(directory: Path, name: str, format_: str) -> Head:
    """The head of a backup; ConfigurationError where it is none, or of another kind."""
    path = directory / name
    try:
        with path.open("rb") as stream:
            raw = stream.read(HEAD_SIZE_MAX)
        members = json.loads(raw)
        if members["format"] != format_:
            raise ValueError(f"of format {members['format']!a}")
        _check_newness(path, int(members["version"]))
        files = members["files"]
        if not all(isinstance(one, str) for pair in files.items() for one in pair):
            raise ValueError("its files are not paths and hashes")
        if encode_head(members) != raw:
            raise ValueError("not as it was written")
        return Head(
            path=path,
            members=members,
            version=int(members["version"]),
            origin=str(members["origin"]),
            vkey=str(members["vkey"]),
            epoch=int(members["epoch"]),
            tree_size=int(members["tree_size"]),
            time_ms=int(members["time_ms"]),
            files=files,
        )
    except FileNotFoundError:
        raise ConfigurationError(
            [f"{directory}: no complete backup of this kind, {name} is not there"]
        ) from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigurationError([f"{path}: cannot be read ({error})"]) from error


def _check_newness(path: Path, version: int) -> None:
    if version > STORE_VERSION:
        raise ConfigurationError(
            [
                (
                    f"{path}: of version {version}; this program knows up to "
                    f"{STORE_VERSION}: restore it with the newer program"
                )
            ]
        )


def _check_places(target: Path, temporary: Path, head: Head, ring: Head) -> None:
    problems = []
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        problems.append(f"{target}: not an empty directory")
    elif target.is_mount():
        problems.append(f"{target}: a mount point; restore into a directory below it")
    if temporary.exists():
        problems.append(f"{temporary}: left by a restore that was cut off; remove it")
    if head.origin != ring.origin:
        problems.append(
            f"{head.path} is of {head.origin!r}, {ring.path} of {ring.origin!r}"
        )
    if problems:
        raise ConfigurationError(problems)


def _is_store_file(path: str) -> bool:
    """The database, or exactly a tile's path: a backup names no other place."""
    top, _, below = path.partition("/")
    if path == DATABASE_NAME:
        return True
    number = top.removeprefix(TILE_DIRECTORY + "-")
    if top != TILE_DIRECTORY and not (number.isascii() and number.isdecimal()):
        return False
    try:
        return tiles.parse_path(below).width == tiles.TILE_WIDTH
    except RejectError:
        return False


def _is_key_file(path: str) -> bool:
    return "/" not in path and path not in ("", ".", "..")


def _copy_files(
    source: Path, target: Path, head: Head, allowed: Callable[[str], bool]
) -> None:
    """Copy what the head lists; IntegrityError names the file that is not as listed."""
    for name, digest in head.files.items():
        if not allowed(name):
            raise IntegrityError(f"{source}: lists {name!a}, which is no file of it")
        try:
            content = (source / name).read_bytes()
        except FileNotFoundError:
            raise IntegrityError(f"{source / name}: missing") from None
        (target / name).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_file(target / name, content)
        if digest_of(target / name) != digest:
            raise IntegrityError(f"{source / name}: its bytes were altered")


# ---- Store and keys together ----


def _merge(
    directory: Path,
    keys: Path,
    head: Head,
    ring_head: Head,
    *,
    now_ms: int,
    accept_loss: bool,
) -> Restored:
    path = directory / DATABASE_NAME
    with (
        contextlib.closing(apsw.Connection(str(path))) as store,
        contextlib.closing(open_copy(keys / RING_NAME)) as ring,
    ):
        version = store.pragma("user_version")
        if version != head.version:
            raise IntegrityError(f"{path}: of version {version}, not {head.version}")
        store.pragma("journal_mode", "DELETE")
        store.pragma("secure_delete", "ON")
        opened = _check_keys(directory, store, ring, keys, head)
        older = ring_head.is_older(head)
        with store:
            others = other_people(store, ring)
            missing, given_back = put_keys(store, ring, opened, others, older=older)
            patients = put_patients(store, ring, others, older=older)
            marker = cbor.encode([now_ms, head.tree_size])
            store.execute(
                "INSERT OR REPLACE INTO meta VALUES ('restored', ?)", (marker,)
            )
        if older and (missing or patients) and not accept_loss:
            raise ConfigurationError(
                [
                    (
                        f"the key backup is older than the store's: {missing} episodes "
                        f"and {patients} patients of the store have no key in it, and "
                        "what they sealed would be lost; take a newer one, or "
                        "--accept-loss"
                    )
                ]
            )
    return Restored(
        version=head.version,
        tree_size=head.tree_size,
        backup_ms=head.time_ms,
        keys_are_older=older,
        episodes_without_key=missing,
        patients_without_key=patients,
        episodes_given_back=given_back,
    )


def _check_keys(
    directory: Path,
    store: apsw.Connection,
    ring: apsw.Connection,
    keys: Path,
    head: Head,
) -> Keys:
    """The ring's keys: the log verifies under its log key, its master key opens it."""
    size, _ = log_head(store)
    if (size, epochs.current(store)) != (head.tree_size, head.epoch):
        raise IntegrityError(f"{head.path}: of another moment than its database")
    check_log(directory, store, keys)
    held = any((keys / one).exists() for one in (vault.MASTER_KEY, SEALED_KEY))
    opened = Keys(load_keys(keys, None if held else CREDENTIAL).master, ring)
    query = "SELECT key, value FROM meta WHERE key = 'gateway_key' OR key GLOB ?"
    for row in rows(ring, query, (f"{shared_keys.PREFIX}*",)):
        store.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", row)
    return opened
