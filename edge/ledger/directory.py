"""An exported ledger, checked file by file from its signed checkpoint down.

Blame falls on the file that is wrong: the log's key signs the checkpoint, the
checkpoint's root fixes the partial tiles of the right edge, every hash in a tile fixes
the full tile below it, every leaf hash fixes an entry. Then come the entries' own rules
(docs/ledger-format.md section 11), and last every other file: an earlier, narrower
partial tile must be a prefix of the present one, and a file that the log has no place
for is refused. One bundle is in memory at a time, 16 bytes for each start of the
gateway, and the key of each device.
"""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from edge.errors import RejectError
from edge.ledger import device_key, ed25519, tiles
from edge.ledger.batch import (
    Authority,
    Batch,
    ClockTick,
    ContractApproval,
    ContractProposal,
    ContractStep,
    DeviceEnrolment,
    DeviceKey,
    DeviceRevocation,
    EpochStart,
    GatewayStart,
    decode_entry,
)
from edge.ledger.lifecycle import Lifecycle
from edge.ledger.note import NOTE_SIZE_MAX, Checkpoint
from edge.ledger.report import DamageError, Report
from edge.ledger.tiles import CHECKPOINT_PATH, Tile, TileEdge
from edge.ledger.tlog import HASH_SIZE, leaf_hash, tree_root
from edge.ledger.trust import Trust, open_checkpoint


def check_directory(path: Path, trust: Trust, report: Report) -> None:
    """Nothing if the ledger is whole; DamageError, or OSError where it is not read."""
    os.scandir(path).close()  # a directory, and one that we may read
    files = _Files(path)
    content = files.read(CHECKPOINT_PATH, NOTE_SIZE_MAX)
    checkpoint = open_checkpoint(content, trust, CHECKPOINT_PATH, report)
    report.describe(checkpoint.origin, checkpoint.size, checkpoint.root)
    _check_edge(files, checkpoint)
    for level in reversed(range(tiles.levels(checkpoint.size) - 1)):
        _check_full_tiles(files, level, checkpoint.size)
    _check_entries(files, checkpoint, report)
    _check_other_files(files, checkpoint.size)


class _Files:
    """The files below one directory; what is not there or not a file is damage."""

    def __init__(self, top: Path) -> None:
        self._top = top

    def read(self, path: str, size_max: int) -> bytes:
        whole = self._top / path
        try:
            if not stat.S_ISREG(whole.lstat().st_mode):
                raise DamageError(path, "not a regular file")
            with whole.open("rb") as file:
                content = file.read(size_max + 1)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise DamageError(path, "the file is missing") from error
        if len(content) > size_max:
            raise DamageError(path, f"longer than {size_max} bytes, at byte {size_max}")
        return content

    def hashes(self, tile: Tile) -> list[bytes]:
        """The hashes of a tile that has exactly its width."""
        wanted = tile.width * HASH_SIZE
        content = self.read(tile.path, wanted)
        if len(content) < wanted:
            raise DamageError(
                tile.path, f"cut at byte {len(content)}, should have {wanted}"
            )
        return tiles.split_hashes(content)

    def entries(self, tile: Tile) -> Iterator[tuple[int, bytes]]:
        """Each entry of a bundle, after the byte where it begins."""
        content = self.read(tile.path, tile.width * (2 + tiles.ENTRY_SIZE_MAX))
        try:
            yield from tiles.iterate_bundle(content, tile.width)
        except RejectError as error:
            raise DamageError(tile.path, str(error)) from error

    def walk(self) -> Iterator[str]:
        """Every file and link, as a path with slashes."""
        for folder, folders, names in os.walk(self._top, onerror=_raise):
            folders.sort()
            links = [one for one in folders if Path(folder, one).is_symlink()]
            for name in sorted(names + links):
                yield Path(folder, name).relative_to(self._top).as_posix()


def _raise(error: OSError) -> None:
    raise error


def _check_edge(files: _Files, checkpoint: Checkpoint) -> None:
    """The partial tiles of the right edge, against the checkpoint's root."""
    edge = tiles.partial_tiles(checkpoint.size)
    rows = [b""] * tiles.levels(checkpoint.size)
    for tile in edge:
        if tile.level is not None:
            rows[tile.level] = b"".join(files.hashes(tile))
    if TileEdge.load(checkpoint.size, rows).root() == checkpoint.root:
        return
    for tile in reversed(edge):
        _blame(files, tile)
    raise DamageError(CHECKPOINT_PATH, "line 3: the root is not that of the tiles")


def _check_full_tiles(files: _Files, level: int, size: int) -> None:
    """The full tiles of one level, each against its hash in the level above."""
    above: Iterator[bytes] = iter(())
    parents = tiles.level_tiles(level + 1, size)
    for tile in tiles.level_tiles(level, size):
        if tile.width < tiles.TILE_WIDTH:
            return  # of the edge, which was checked
        wanted = next(above, None)
        if wanted is None:
            above = iter(files.hashes(next(parents)))
            wanted = next(above)
        if tree_root(files.hashes(tile)) != wanted:
            _blame(files, tile)
            raise DamageError(tile.path, "its root is not the hash in the tile above")


def _blame(files: _Files, tile: Tile) -> None:
    """Damage at the first hash of a tile that is not what lies below it gives."""
    found = files.hashes(tile)
    if tile.level:
        below = (
            tree_root(files.hashes(Tile(tile.level - 1, index)))
            for index in range(
                tile.index * tiles.TILE_WIDTH,
                tile.index * tiles.TILE_WIDTH + len(found),
            )
        )
        what = "the root of the tile below it"
    else:
        bundle = Tile(None, tile.index, tile.width)
        below = (leaf_hash(entry) for _, entry in files.entries(bundle))
        what = "that of its entry"
    for number, (ours, computed) in enumerate(zip(found, below, strict=False)):
        if ours != computed:
            place = f"{tile.path}, hash {number} (byte {number * HASH_SIZE})"
            raise DamageError(place, f"the hash is not {what}")


def _check_entries(files: _Files, checkpoint: Checkpoint, report: Report) -> None:
    """Every entry, against its leaf hash and against the entries before it."""
    history = _History(checkpoint.origin, report.counts)
    for tile in tiles.level_tiles(0, checkpoint.size):
        bundle = Tile(None, tile.index, tile.width)
        entries = files.entries(bundle)
        for number, wanted in enumerate(files.hashes(tile)):
            at, entry = next(entries)
            index = tile.index * tiles.TILE_WIDTH + number
            place = f"{bundle.path}, entry {index} (byte {at})"
            if leaf_hash(entry) != wanted:
                raise DamageError(place, "the entry does not have the hash in the tree")
            try:
                history.take(index, entry)
            except RejectError as error:
                raise DamageError(place, str(error)) from error
        next(entries, None)  # bytes after the last entry


class _History:
    """What the entries so far demand of the next one."""

    def __init__(self, origin: str, counts: Counter[str]) -> None:
        self._origin = origin
        self._counts = counts
        self._time_ms = 0
        self._boots: set[bytes] = set()
        self._boot: bytes | None = None  # the one that runs
        self._number = 0  # of its next batch
        self._lifecycle = Lifecycle(ed25519.verify)
        self._keys: dict[bytes, bytes] = {}  # of the devices that sign

    def take(self, index: int, content: bytes) -> None:
        entry = decode_entry(content)
        if isinstance(entry, EpochStart) != (index == 0):
            raise RejectError("entry 0, and no other, is the epoch start")
        if isinstance(entry, EpochStart) and entry.origin != self._origin:
            raise RejectError("the epoch's origin is not the checkpoint's")
        if entry.time_ms < self._time_ms:
            raise RejectError(f"time goes back from {self._time_ms} to {entry.time_ms}")
        if isinstance(entry, GatewayStart):
            if entry.boot_id in self._boots:
                raise RejectError("a boot id comes for the second time")
            self._boots.add(entry.boot_id)
            self._boot, self._number = entry.boot_id, 0
            self._check_contracts(entry)
        elif isinstance(entry, Batch | ClockTick) and entry.boot_id != self._boot:
            raise RejectError("the boot id is not that of the last gateway start")
        if isinstance(entry, Batch):
            if entry.number != self._number:
                raise RejectError(f"batch {entry.number} where {self._number} is due")
            self._number += 1
        if isinstance(
            entry, Authority | ContractProposal | ContractApproval | ContractStep
        ):
            self._lifecycle.take(entry)
        if isinstance(entry, DeviceEnrolment | DeviceRevocation | DeviceKey):
            self._take_device(entry)
        self._time_ms = entry.time_ms
        self._counts[entry.NAME] += 1

    def _take_device(
        self, entry: DeviceEnrolment | DeviceRevocation | DeviceKey
    ) -> None:
        """A new key belongs to a device that signs, and is a key, and is new."""
        if isinstance(entry, DeviceKey):
            before = self._keys.get(entry.device_id)
            if before is None:
                raise RejectError("a new key of a device that signs nothing")
            if before == entry.public_key:
                raise RejectError("a new key that is the one before")
            if fault := device_key.key_fault(entry.public_key):
                raise RejectError(f"the device's key: {fault}")
        self._keys.pop(entry.device_id, None)
        if not isinstance(entry, DeviceRevocation) and entry.public_key is not None:
            self._keys[entry.device_id] = entry.public_key

    def _check_contracts(self, start: GatewayStart) -> None:
        """Where approvals decide, a gateway starts with what they made active."""
        if not self._lifecycle.governs:
            return
        active = {one.contract for one in self._lifecycle.active()}
        if set(start.contracts) != active:
            raise RejectError("the start names other contracts than were activated")


def _check_other_files(files: _Files, size: int) -> None:
    """No file but those of the tree and narrower partial tiles of it."""
    for path in files.walk():
        if path == CHECKPOINT_PATH:
            continue
        try:
            tile = tiles.parse_path(path)
        except RejectError as error:
            raise DamageError(path, "a file that the log has no place for") from error
        width = tiles.width_at(tile.level, tile.index, size)
        if tile.width > width:
            raise DamageError(path, f"the tree of size {size} has no such tile")
        if tile.width < width:
            _check_narrower(files, tile, Tile(tile.level, tile.index, width))


def _check_narrower(files: _Files, tile: Tile, present: Tile) -> None:
    if tile.level is not None:
        wanted = b"".join(files.hashes(present)[: tile.width])
    else:
        entries = files.entries(present)
        first = [
            entry for _, (_, entry) in zip(range(tile.width), entries, strict=False)
        ]
        wanted = tiles.encode_bundle(first)
    content = files.read(tile.path, len(wanted))
    if content != wanted:
        pairs = zip(content, wanted, strict=False)
        same = (at for at, (one, other) in enumerate(pairs) if one != other)
        at = next(same, len(content))
        raise DamageError(
            f"{tile.path}, byte {at}", f"is not how {present.path} begins"
        )
