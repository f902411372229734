"""Full tiles and bundles as files, each written once and durable before it counts.

    open temporary (O_EXCL) · write · fsync · rename · fsync directory

A crash leaves either no file or the whole file; a temporary that a crash left behind is
overwritten by the next attempt, for the rows in the database go only after the rename
is durable. New directories are synced into their parents, also those that a crashed
process may have made without syncing them.

After a flush that failed the rows are still there, and the next start writes the file
anew: nothing is built on bytes that only the kernel's cache holds.
"""

from __future__ import annotations

import os
from pathlib import Path

from edge.errors import DurabilityError, IntegrityError
from edge.store.vault import sync_directory


def write_once(root: Path, name: str, content: bytes) -> None:
    """Make `content` durable as `root/name`; DurabilityError when it cannot be.

    IntegrityError where the file is there with other bytes: the database is older than
    the tiles, and to go on would be a second history under one key.
    """
    path = root / name
    temporary = path.with_name(path.name + ".tmp")
    try:
        if path.exists() and path.read_bytes() != content:
            raise IntegrityError(
                f"{path}: there already with other bytes; was the database restored "
                "from a backup?"
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        try:
            view = memoryview(content)
            while view:
                view = view[os.write(descriptor, view) :]
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.rename(temporary, path)
        directory = path.parent
        sync_directory(directory)
        while directory != root.parent:  # the name of `root` itself, too
            directory = directory.parent
            sync_directory(directory)
    except OSError as error:
        raise DurabilityError(f"{path}: {error}") from error
