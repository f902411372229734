"""What the writer does about its own head: kept checkpoints, and a look at its tiles.

One signed checkpoint an hour is kept in `kept_checkpoints`, in the transaction that
made it, so that `iomt ledger consistency` can show that the log only grew between any
two of them. At the start the full tiles on the disk are held against the right edge.
"""

from __future__ import annotations

import random
from pathlib import Path

import apsw

from edge.errors import IntegrityError, RejectError
from edge.ledger import core, tiles, tlog
from edge.store.database import rows

KEEP_INTERVAL_MS = 3600 * 1000
SAMPLE_COUNT = 8


def keep_checkpoint(
    connection: apsw.Connection, size: int, time_ms: int, signed: bytes
) -> None:
    """Keep this checkpoint where the newest that is kept is an hour old."""
    newest = rows(
        connection, "SELECT time_ms FROM kept_checkpoints ORDER BY size DESC LIMIT 1"
    )
    if not newest or time_ms - newest[0][0] >= KEEP_INTERVAL_MS:
        connection.execute(
            "INSERT INTO kept_checkpoints VALUES (?, ?, ?)", (size, time_ms, signed)
        )


def check_tiles(directory: Path, edge: tiles.TileEdge) -> None:
    """IntegrityError where a full tile on the disk does not lead to the edge.

    The newest of each level and SAMPLE_COUNT of the others: the time is bounded, and
    `iomt verify` of an export looks at all of them.
    """
    counts = [
        edge.size >> tiles.TILE_HEIGHT * (level + 1)
        for level in range(tiles.levels(edge.size))
    ]
    chosen = {(level, count - 1) for level, count in enumerate(counts) if count}
    if counts and counts[0]:
        some = random.sample(range(counts[0]), min(SAMPLE_COUNT, counts[0]))
        chosen |= {(0, index) for index in some}
    for level, index in sorted(chosen):
        _check_tile(directory, edge, level, index)


def _check_tile(directory: Path, edge: tiles.TileEdge, level: int, index: int) -> bytes:
    """The tile's content, checked against the hash above it."""
    path = tiles.tile_path(level, index)
    content = _read(directory, path)
    above, place = divmod(index, tiles.TILE_WIDTH)
    if above < edge.size >> tiles.TILE_HEIGHT * (level + 2):
        parents = _check_tile(directory, edge, level + 1, above)
    else:
        parents = edge.partial(level + 1)
    wanted = parents[place * tlog.HASH_SIZE : (place + 1) * tlog.HASH_SIZE]
    if len(content) != tiles.TILE_SIZE or core.tree_root(content) != wanted:
        raise IntegrityError(
            f"{directory / path}: damaged; it does not lead to the log's head"
        )
    if level == 0:
        _check_bundle(directory, index, content)
    return content


def _check_bundle(directory: Path, index: int, hashes: bytes) -> None:
    path = tiles.entries_path(index)
    try:
        entries = tiles.decode_bundle(_read(directory, path), tiles.TILE_WIDTH)
    except RejectError as error:
        raise IntegrityError(f"{directory / path}: damaged: {error}") from error
    if b"".join(map(tlog.leaf_hash, entries)) != hashes:
        raise IntegrityError(f"{directory / path}: damaged; not what its tile says")


def _read(directory: Path, path: str) -> bytes:
    try:
        return (directory / path).read_bytes()
    except OSError as error:
        raise IntegrityError(f"{directory / path}: cannot be read: {error}") from error
