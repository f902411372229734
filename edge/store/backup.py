"""Copies of a store that runs: what is read and proven in one, the keys in another.

    DIR/gateway.db        the tables, less every key and less what only the gateway's
                          own key seals (the contracts' snapshot, quarantine)
    DIR/ledger…/tile/…    the tile files that its checkpoints need
    DIR/backup.json       last: {"format", "version", "origin", "vkey", "epoch",
                          "tree_size", "time_ms", "files": {path: SHA-256}, "mac"};
                          without it, no backup

    KEYS/log.key …        the files of the keys directory
    KEYS/ring.db          all wrapped or sealed keys: the gateway's, patients',
                          episodes', those that devices share with us
    KEYS/keys.json        last: the same

"mac" is HMAC-SHA-256 over the other members, under a key made of the epoch's log key:
whoever finds a copy cannot change it unseen.

A copy without its keys is what makes forgetting reach copies: an erasure destroys keys
in the store, and a backup of the store holds none of them, wrapped or not. Only key
backups from before an erasure can open what it forgot. So rows are copied, not pages
(SQLite's own backup copies pages): a wrapped key or a deleted row's remains never get
onto the other medium, where overwriting would not remove them.

Rows are read in one read transaction. What is copied is flushed in small pieces, with
as long a pause after each, so that the gateway has the disk at least half of the time,
and no flush of its own waits for a cache full of the copy. Nothing keeps the gateway
from writing meanwhile; its WAL grows by what it writes until the copy is done.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import apsw

from edge.errors import (
    ConfigurationError,
    DurabilityError,
    GatewayError,
    IntegrityError,
)
from edge.store import epochs, keysource, shared_keys
from edge.store.database import (
    APPLICATION_ID,
    DATABASE_NAME,
    STORE_VERSION,
    meta,
    open_reader,
    rows,
)
from edge.store.keys import Keys
from edge.store.log_check import check_log, head, needed_files
from edge.store.vault import load_keys, sync_directory

BACKUP_FORMAT, KEYS_FORMAT = "iomt/backup@v1", "iomt/key-backup@v1"
BACKUP_NAME, KEYS_NAME, RING_NAME = "backup.json", "keys.json", "ring.db"
MASTER = "master."  # how the names of the master key's files begin
CHUNK_SIZE = 1 << 20
PAUSE_MAX_S = 1.0
LEFT_OUT_TABLES = frozenset({"contract_state", "quarantine"})
KEPT_META = (
    *("origin", "epoch", "ended-*", "kept-*", "retained.*", "contract-*"),
    *("contract_log", "rollback_alarm", "frames_indexed", "start_hashes"),
    "outbox_released",  # or a restore would show every alarm that is kept once more
    *("tls-*", "password-*", "device-keys-*"),  # hashes and public keys: no secret
)
RING_TABLES = ("patients", "episodes", "assignments", "erasures")
WRAPPED = "wrapped"  # the column of a wrapped key, in every table that has one
# Of patients only the random reference goes into a copy: the tag, made with a key that
# no erasure destroys, would tell whoever guesses a name that it was there.
INSTEAD = {WRAPPED: "x''", "sealed_name": "x''", "tag": "ref"}


@dataclass(frozen=True, slots=True)
class Copied:
    """What a backup holds."""

    tree_size: int
    file_count: int
    size: int


# ---- The store ----


def backup(directory: Path, keys: Path, target: Path, *, now_ms: int) -> Copied:
    """Copy the store into a new directory, verified; the gateway may run.

    `keys` is only read for the log's own keys. ConfigurationError for a target that is
    not fit, IntegrityError where the log does not verify, DurabilityError where writing
    failed; nothing is left of the target then.
    """
    _check_target(target, KEYS_NAME, (directory, keys))
    with contextlib.closing(open_reader(directory)) as source, _new(target):
        pace = _Pace()
        source.execute("BEGIN")  # one state of the store, however long the copy takes
        size, _ = head(source)
        copy_tables(source, target / DATABASE_NAME, _store_plan(source), pace)
        source.execute("COMMIT")
        with contextlib.closing(open_copy(target / DATABASE_NAME)) as copy:
            for path in needed_files(copy):
                _copy_file(directory / path, target / path)
                pace.wrote(target / path)
            check_log(target, copy, keys)
            return _complete(target, copy, BACKUP_FORMAT, keys, size, now_ms)


def _store_plan(source: apsw.Connection) -> dict[str, str]:
    """Each table of the store to the query of what goes into a backup."""
    plan = {}
    for (table,) in rows(
        source,
        "SELECT name FROM sqlite_schema WHERE type = 'table' "
        "AND name NOT LIKE 'sqlite_%'",
    ):
        columns = [
            f"{INSTEAD[name]} AS {name}" if name in INSTEAD else name
            for (name,) in rows(
                source, "SELECT name FROM pragma_table_info(?)", (table,)
            )
        ]
        query = f"SELECT {', '.join(columns)} FROM {table}"  # noqa: S608 - our schema
        if table in LEFT_OUT_TABLES:
            query += " WHERE 0"
        elif table == "meta":
            like = [f"key GLOB '{one}'" for one in KEPT_META]
            query += f" WHERE {' OR '.join(like)}"
        plan[table] = query
    return plan


# ---- The key ring ----


def backup_keys(
    directory: Path, keys: Path, target: Path, *, source: str | None, now_ms: int
) -> Copied:
    """Copy the key ring into a new 0700 directory of 0600 files, beside no backup.

    The copied master key is known to open every patient's copied key.
    ConfigurationError where the target is within a backup of the store: keys beside
    what they seal are no seal.
    """
    _check_target(target, BACKUP_NAME, (directory, keys))
    load_keys(keys, source, directory)  # says what is wrong with them, if anything
    with contextlib.closing(open_reader(directory)) as connection, _new(target):
        connection.execute("BEGIN")
        size, _ = head(connection)
        plan = {
            table: f"SELECT * FROM {table}"  # noqa: S608 - names above
            for table in RING_TABLES
        }
        plan["meta"] = "SELECT * FROM meta WHERE key IN ('gateway_key', 'origin')"
        plan["meta"] += f" OR key = 'epoch' OR key GLOB '{shared_keys.PREFIX}*'"
        copy_tables(connection, target / RING_NAME, plan, _Pace())
        connection.execute("COMMIT")
        for file in sorted(keys.iterdir()):
            if file.is_file() and not file.name.startswith(MASTER):
                _copy_file(file, target / file.name, mode=0o600)
        master = _copy_master(directory, keys, target, source)
        with contextlib.closing(open_copy(target / RING_NAME)) as ring:
            _check_ring(ring, master, target)
            return _complete(target, ring, KEYS_FORMAT, target, size, now_ms)


def _copy_master(
    directory: Path, keys: Path, target: Path, source: str | None
) -> bytes:
    """Copy the master key's file that is in force, under its own name; the key.

    A rotation or a conversion that was cut off leaves a second file, which opens
    nothing or opens too much. A credential is not copied.
    """
    place = keysource.place_of(keys, source)
    path = keysource.in_force(place, directory)
    if place.source != keysource.CREDENTIAL:
        _copy_file(path, target / place.current.name, mode=0o600)
        path = target / place.current.name
    return place.read(path)


def _check_ring(ring: apsw.Connection, master: bytes, target: Path) -> None:
    try:
        opened = Keys(master, ring)
        for (patient,) in rows(ring, "SELECT id FROM patients"):
            opened.patient(patient)
    except IntegrityError as error:
        raise IntegrityError(
            f"{target}: the master key does not open the keys beside it; if it was "
            f"rotated just now, try again ({error})"
        ) from error


# ---- Copying ----


@dataclass(slots=True)
class _Pace:
    """Flushes what was written every CHUNK_SIZE bytes, and pauses for as long."""

    _began_s: float = field(default_factory=time.monotonic)
    _size: int = 0
    _paths: list[Path] = field(default_factory=list)

    def wrote(self, path: Path, size: int | None = None) -> None:
        """Some bytes of a file were written, or all of it."""
        self._paths.append(path)
        self._size += path.stat().st_size if size is None else size
        if self._size < CHUNK_SIZE:
            return
        for one in self._paths:
            sync_file(one)
        time.sleep(min(time.monotonic() - self._began_s, PAUSE_MAX_S))
        self._began_s, self._size = time.monotonic(), 0
        self._paths.clear()


def copy_tables(
    source: apsw.Connection, target: Path, plan: Mapping[str, str], pace: _Pace
) -> None:
    """A new database with the planned tables of the source, their indices and triggers.

    Views are there where all tables are.
    """
    write_file(target, b"")
    # No locks: nobody else knows the file, and `pace` would end them by closing it.
    with contextlib.closing(apsw.Connection(str(target), vfs="unix-none")) as copy:
        copy.pragma("auto_vacuum", "INCREMENTAL")
        copy.pragma("journal_mode", "OFF")  # not a backup before it is whole and synced
        copy.pragma("synchronous", "OFF")
        copy.execute("BEGIN")
        schema = rows(
            source,
            "SELECT type, tbl_name, sql FROM sqlite_schema WHERE sql IS NOT NULL",
        )
        for type_, table, sql in schema:
            if type_ == "table" and table in plan:
                copy.execute(sql)
        for table, query in plan.items():
            for chunk, size in _chunks(source, query):
                marks = ", ".join("?" * len(chunk[0]))
                insert = f"INSERT INTO {table} VALUES ({marks})"  # noqa: S608
                copy.executemany(insert, chunk)
                pace.wrote(target, size)
        whole = all(table in plan for type_, table, _ in schema if type_ == "table")
        for type_, table, sql in schema:
            if type_ != "table" and (table in plan or (type_ == "view" and whole)):
                copy.execute(sql)
        copy.execute("COMMIT")
        copy.pragma("application_id", APPLICATION_ID)
        copy.pragma("user_version", source.pragma("user_version"))


def _chunks(
    source: apsw.Connection, query: str
) -> Iterator[tuple[list[tuple[apsw.SQLiteValue, ...]], int]]:
    """The rows of a query, CHUNK_SIZE bytes at a time, and how many bytes."""
    chunk: list[tuple[apsw.SQLiteValue, ...]] = []
    size = 0
    for row in source.execute(query):
        chunk.append(row)
        size += sum(len(one) if isinstance(one, bytes | str) else 8 for one in row)
        if size >= CHUNK_SIZE:
            yield chunk, size
            chunk, size = [], 0
    if chunk:
        yield chunk, size


def _copy_file(source: Path, target: Path, mode: int = 0o644) -> None:
    try:
        content = source.read_bytes()
    except FileNotFoundError:
        raise IntegrityError(f"{source}: missing") from None
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_file(target, content, mode)


def write_file(path: Path, content: bytes, mode: int = 0o600) -> None:
    """A new file; not synced. FileExistsError where one stands already."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        view = memoryview(content)
        while view:
            view = view[os.write(descriptor, view) :]
    finally:
        os.close(descriptor)


def open_copy(path: Path) -> apsw.Connection:
    """A database of a backup, which nobody writes to: no lock and no WAL beside it."""
    flags = apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI
    return apsw.Connection(f"{path.resolve().as_uri()}?immutable=1", flags=flags)


@contextlib.contextmanager
def _new(target: Path) -> Iterator[None]:
    """A new directory, of which nothing is left where anything fails."""
    try:
        make_directory(target)
        yield
    except (GatewayError, OSError, apsw.Error) as error:
        shutil.rmtree(target, ignore_errors=True)
        if isinstance(error, GatewayError):
            raise
        raise DurabilityError(f"{target}: no backup: {error}") from error


def make_directory(target: Path) -> None:
    """A 0700 directory, and those above it that are missing; all durable."""
    for one in (*reversed(target.parents), target):
        if not one.exists():
            one.mkdir(mode=0o700)
            sync_directory(one.parent)
    target.chmod(0o700)


def _check_target(target: Path, foreign: str, inside: tuple[Path, ...]) -> None:
    """A new directory, away from the originals and from the other kind of backup."""
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ConfigurationError([f"{target}: not an empty directory"])
    place = target.resolve()
    for one in inside:
        if place.is_relative_to(one.resolve()):
            raise ConfigurationError([f"{target}: is inside {one}, and no copy there"])
    for one in (place, *place.parents):
        if (one / foreign).exists():
            raise ConfigurationError(
                [f"{target}: {one} is the other backup; keep store and keys apart"]
            )


# ---- Complete and durable ----


def _complete(
    target: Path,
    copy: apsw.Connection,
    format_: str,
    keys: Path,
    size: int,
    now_ms: int,
) -> Copied:
    """Flush everything, and then write the head that makes it a backup."""
    listed = _flush(target)
    origin, epoch = str(meta(copy, "origin")), epochs.current(copy)
    members = {
        "format": format_,
        "version": STORE_VERSION,
        "origin": origin,
        "vkey": epochs.verifier(keys, origin, epoch).vkey,
        "epoch": epoch,
        "tree_size": size,
        "time_ms": now_ms,
        "files": {path: digest for path, (digest, _) in listed.items()},
    }
    name = BACKUP_NAME if format_ == BACKUP_FORMAT else KEYS_NAME
    _write_head(target / name, members, epochs.load_log_seed(keys, epoch))
    return Copied(size, len(listed), sum(bytes_ for _, bytes_ in listed.values()))


def encode_head(members: Mapping[str, object]) -> bytes:
    """A head's one form: what a file holds beside it was put there by somebody."""
    return json.dumps(members, indent=1).encode() + b"\n"


def head_mac(members: Mapping[str, object], seed: bytes) -> str:
    """The "mac" over the other members, under the log key of their epoch."""
    key = hmac.digest(seed, b"iomt/backup@v1 head", "sha256")
    covered = {name: one for name, one in members.items() if name != "mac"}
    return hmac.digest(key, encode_head(covered), "sha256").hex()


def _flush(target: Path) -> dict[str, tuple[str, int]]:
    """Sync every file and directory; each file's (SHA-256, size) by its path."""
    listed = {}
    for path in sorted(target.rglob("*")):
        if path.is_file():
            listed[str(path.relative_to(target))] = digest_of(path), path.stat().st_size
            sync_file(path)
    sync_tree(target)
    return listed


def digest_of(path: Path) -> str:
    """The file's SHA-256, hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def sync_file(path: Path) -> None:
    """fsync of a file that was written before."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(top: Path) -> None:
    """fsync of every directory below `top`, of itself, and of its parent."""
    for path in sorted(top.rglob("*"), reverse=True):
        if path.is_dir():
            sync_directory(path)
    sync_directory(top)
    sync_directory(top.parent)


def _write_head(path: Path, members: Mapping[str, object], seed: bytes) -> None:
    temporary = path.with_name(path.name + ".tmp")
    signed = {**members, "mac": head_mac(members, seed)}
    write_file(temporary, encode_head(signed))
    sync_file(temporary)
    os.rename(temporary, path)
    sync_directory(path.parent)
