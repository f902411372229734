"""`iomt backup`, `iomt backup-keys`, `iomt restore`, `iomt migrate`, `iomt keys …`."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from edge.commands.place import Commands, find_place, with_data


def add_to(commands: Commands) -> None:
    """Add this file's commands to the parser."""
    one = with_data(commands.add_parser("backup", help="copy the store, without keys"))
    one.add_argument("directory", metavar="DIR", type=Path, help="a new directory")
    one.set_defaults(run=_backup)
    one = with_data(commands.add_parser("backup-keys", help="copy the key ring, apart"))
    one.add_argument("directory", metavar="DIR", type=Path, help="a new directory")
    one.set_defaults(run=_backup_keys)

    one = commands.add_parser("restore", help="make a store of its two backups")
    one.add_argument("backup", metavar="BACKUP", type=Path)
    one.add_argument(
        "--to", metavar="DIR", type=Path, required=True, help="the new data directory"
    )
    one.add_argument(
        "--keys", metavar="KEYS", type=Path, required=True, help="from backup-keys"
    )
    one.add_argument(
        "--leave-keys", action="store_true", help="put no copy of the keys into DIR"
    )
    one.add_argument(
        "--accept-loss",
        action="store_true",
        help="also with a key backup that is older than the store's",
    )
    one.set_defaults(run=_restore)

    one = with_data(commands.add_parser("migrate", help="bring an older store to now"))
    one.set_defaults(run=_migrate)

    keys = commands.add_parser("keys", help="the master key").add_subparsers(
        required=True, metavar="WHAT"
    )
    one = with_data(keys.add_parser("rotate", help="wrap all keys under a new one"))
    one.set_defaults(run=_rotate)
    one = with_data(keys.add_parser("passphrase", help="put it under a passphrase"))
    one.add_argument(
        "--remove", action="store_true", help="make it a file without passphrase again"
    )
    one.set_defaults(run=_passphrase)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _source(options: argparse.Namespace) -> tuple[Path, Path, str | None]:
    """(data directory, keys directory, the configured source of the master key)."""
    place = find_place(options)
    source = place.settings.master if place.settings else None
    return place.directory, place.keys, source


def _backup(options: argparse.Namespace) -> int:
    from edge.store.backup import backup  # noqa: PLC0415

    directory, keys, _ = _source(options)
    copied = backup(directory, keys, options.directory, now_ms=_now_ms())
    print(
        f"{options.directory}: {copied.tree_size} entries, {copied.file_count} files, "
        f"{copied.size} bytes; verified.\nIt holds no key: now `iomt backup-keys` to "
        "another place, without which it opens nothing."
    )
    return 0


def _backup_keys(options: argparse.Namespace) -> int:
    from edge.store import keysource  # noqa: PLC0415
    from edge.store.backup import backup_keys  # noqa: PLC0415

    directory, keys, source = _source(options)
    target: Path = options.directory
    copied = backup_keys(directory, keys, target, source=source, now_ms=_now_ms())
    print(
        f"{target}: {copied.file_count} files, at {copied.tree_size} entries.\n"
        "Whoever has it and a backup of the store reads everything: lock it away."
    )
    if keysource.place_of(keys, source).source == keysource.CREDENTIAL:
        print("The master key itself is a credential and is not in it: keep it apart.")
    return 0


def _restore(options: argparse.Namespace) -> int:
    from edge.store.restore import restore  # noqa: PLC0415

    restored = restore(
        options.backup,
        options.to,
        options.keys,
        now_ms=_now_ms(),
        take_keys=not options.leave_keys,
        accept_loss=options.accept_loss,
    )
    print(f"{options.to}: {restored.tree_size} entries; verified.")
    if restored.patients_without_key or restored.episodes_without_key:
        why = (
            "lost, for the key backup is older than the store's"
            if restored.keys_are_older
            else "forgotten since the backup, and still are"
        )
        print(
            f"{restored.patients_without_key} patients and "
            f"{restored.episodes_without_key} episodes (a day of a device at one "
            f"patient) are {why}:\nnobody can read their records, and the log and all "
            "other proofs verify."
        )
    if restored.episodes_given_back:
        print(
            f"{restored.episodes_given_back} hours that were claimed for a patient "
            "after the backup are nobody's\nagain: `iomt device claim` once more."
        )
    print(
        "What the gateway received after the backup is not in it. It may have signed "
        "more than\nthis store knows, so its next start begins a new epoch: a log with "
        "a key of its own\n(docs/operations.md). Take both backups anew after that."
    )
    if restored.migrate_first:
        print(f"It is of version {restored.version}: `iomt migrate` before it runs.")
    return 0


def _migrate(options: argparse.Namespace) -> int:
    from edge.store.database import STORE_VERSION  # noqa: PLC0415
    from edge.store.migrate import migrate  # noqa: PLC0415

    place = find_place(options)
    done = migrate(place.directory)
    if done.copy is None:
        print(f"{place.directory}: of version {STORE_VERSION} already")
        return 0
    print(
        f"{place.directory}: version {done.version} became {STORE_VERSION}.\n"
        f"{done.copy} is the store of before, keys included: remove it\nonce the "
        "gateway runs well. The next erasure of a patient removes it, too."
    )
    return 0


def _rotate(options: argparse.Namespace) -> int:
    from edge.store.rotation import rotate  # noqa: PLC0415

    count = rotate(*_source(options))
    print(
        f"{count} keys are wrapped under a new master key. Take a new key backup: the "
        "old one\nholds the old master key, and opens the wraps that lie beside it."
    )
    return 0


def _passphrase(options: argparse.Namespace) -> int:
    from edge.store import keysource, rotation  # noqa: PLC0415

    directory, keys, _ = _source(options)
    if options.remove:
        rotation.unseal_to_file(directory, keys)
        name, source = "master.key", keysource.FILE
    else:
        rotation.seal_with_passphrase(directory, keys)
        name, source = keysource.SEALED_KEY, keysource.PASSPHRASE
    print(f'{keys / name} is written; now set [gateway] master = "{source}".')
    if not options.remove:
        print(
            "The disk may still hold the old file's bytes: `iomt keys rotate` after "
            "that, and\nthey open nothing. Without the passphrase nothing opens at all."
        )
    return 0
