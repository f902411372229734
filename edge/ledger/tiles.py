"""The log as files: C2SP tlog-tiles paths, tiles and entry bundles.

    checkpoint                     the signed note
    tile/<L>/<N>[.p/<W>]           W (or 256) hashes of 32 bytes
    tile/entries/<N>[.p/<W>]       W (or 256) times: size as uint16 big-endian, entry

Hash i of the tile (L, N) is the root over the 256**L leaves from (N*256 + i) * 256**L
on, so level 0 holds leaf hashes, and each hash above is the root of a full tile below.
N is written in groups of three digits, all but the last marked with an x:
1234067 is x001/x234/067. A tree of size s has s // 256**(L+1) full tiles on level L
and, when s // 256**L is no multiple of 256, one partial tile of the rest.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from edge.errors import RejectError
from edge.ledger.tlog import (
    EMPTY_ROOT,
    HASH_SIZE,
    CompactRange,
    Subtree,
    node_hash,
    tree_root,
)

TILE_WIDTH = 256
TILE_SIZE = TILE_WIDTH * HASH_SIZE
TILE_HEIGHT = 8  # binary levels in a tile
LEVEL_MAX = 7  # 256**8 is more than the largest tree size
ENTRY_SIZE_MAX = 65535
BUNDLE_SIZE_MAX = TILE_WIDTH * (2 + ENTRY_SIZE_MAX)
CHECKPOINT_PATH = "checkpoint"

_PATH = re.compile(
    r"tile/(entries|[0-7])/((?:x[0-9]{3}/)*[0-9]{3})(?:\.p/([1-9][0-9]{0,2}))?",
    re.ASCII,
)
_INDEX_GROUPS_MAX = 7  # 10**21 is more than the largest tree size


@dataclass(frozen=True, slots=True)
class Tile:
    """A tile (or, with level None, an entry bundle) of the first `width` items."""

    level: int | None
    index: int
    width: int = TILE_WIDTH

    @property
    def path(self) -> str:
        """The tile's path in the log's directory."""
        level = "entries" if self.level is None else str(self.level)
        text = f"{self.index % 1000:03d}"
        rest = self.index // 1000
        while rest:
            text = f"x{rest % 1000:03d}/{text}"
            rest //= 1000
        partial = "" if self.width == TILE_WIDTH else f".p/{self.width}"
        return f"tile/{level}/{text}{partial}"


@dataclass(frozen=True, slots=True)
class FullTile:
    """A tile that is complete and will never change."""

    level: int
    index: int
    content: bytes


def tile_path(level: int, index: int, width: int = TILE_WIDTH) -> str:
    """The path of a tile of hashes."""
    return Tile(level, index, width).path


def entries_path(index: int, width: int = TILE_WIDTH) -> str:
    """The path of an entry bundle."""
    return Tile(None, index, width).path


def parse_path(path: str) -> Tile:
    """The tile of this path; RejectError unless it is exactly what `path` writes."""
    match = _PATH.fullmatch(path)
    if match is None or match[2].count("/") >= _INDEX_GROUPS_MAX:
        raise RejectError(f"{path}: not the path of a tile")
    level = None if match[1] == "entries" else int(match[1])
    index = int(match[2].replace("x", "").replace("/", ""))
    tile = Tile(level, index, int(match[3] or TILE_WIDTH))
    if tile.path != path or tile.width > TILE_WIDTH:
        raise RejectError(f"{path}: not the path of a tile")
    return tile


def width_at(level: int | None, index: int, size: int) -> int:
    """How many items the tile at this place has in a tree of `size`: 0 to 256."""
    count = size >> TILE_HEIGHT * (level or 0)
    return max(0, min(TILE_WIDTH, count - index * TILE_WIDTH))


def levels(size: int) -> int:
    """How many levels of tiles a tree of `size` has."""
    return -(-size.bit_length() // TILE_HEIGHT)


def level_tiles(level: int | None, size: int) -> Iterator[Tile]:
    """The tiles of one level (None: the bundles), the partial one last."""
    count = size >> TILE_HEIGHT * (level or 0)
    for index in range(count // TILE_WIDTH):
        yield Tile(level, index)
    if count % TILE_WIDTH:
        yield Tile(level, count // TILE_WIDTH, count % TILE_WIDTH)


def partial_tiles(size: int) -> list[Tile]:
    """The partial tiles of hashes of a tree of `size`, the lowest level first."""
    found = []
    for level in range(levels(size)):
        index, width = divmod(size >> TILE_HEIGHT * level, TILE_WIDTH)
        if width:
            found.append(Tile(level, index, width))
    return found


def encode_bundle(entries: Iterable[bytes]) -> bytes:
    """The bundle of these entries; ValueError for one that is too large."""
    parts = []
    for entry in entries:
        if len(entry) > ENTRY_SIZE_MAX:
            raise ValueError(f"an entry of {len(entry)} bytes")
        parts.append(len(entry).to_bytes(2, "big"))
        parts.append(entry)
    return b"".join(parts)


def iterate_bundle(content: bytes, width: int) -> Iterator[tuple[int, bytes]]:
    """Each entry of a bundle after the byte where its size stands.

    RejectError names the byte that is wrong, after the entries before it were given.
    """
    at = 0
    for number in range(width):
        start = at + 2
        end = start + int.from_bytes(content[at:start], "big")
        if start > len(content) or end > len(content):
            raise RejectError(f"ends early: entry {number} begins at byte {at}")
        yield at, content[start:end]
        at = end
    if at != len(content):
        raise RejectError(f"{len(content) - at} bytes after the end, at byte {at}")


def decode_bundle(content: bytes, width: int) -> list[bytes]:
    """The `width` entries of a bundle; RejectError names the byte that is wrong."""
    return [entry for _, entry in iterate_bundle(content, width)]


def split_hashes(content: bytes) -> list[bytes]:
    """The hashes of a tile; RejectError when the last one is cut."""
    if len(content) % HASH_SIZE:
        raise RejectError(f"{len(content)} bytes are no multiple of {HASH_SIZE}")
    return [content[at : at + HASH_SIZE] for at in range(0, len(content), HASH_SIZE)]


def read_subtrees(
    wanted: Sequence[Subtree],
    read: Callable[[int, int], bytes],
    root: Callable[[bytes], bytes] | None = None,
) -> list[bytes]:
    """The hashes of these subtrees, as tlog's plans ask for them.

    `read(level, index)` gives a tile's bytes, full or as wide as the tree has it; it is
    asked once for each tile. `root` is the root over joined leaf hashes (the C core's,
    where there is one). RejectError when a tile is not wide enough.
    """
    kept: dict[tuple[int, int], bytes] = {}
    hashes = []
    for one in wanted:
        tile_level, above = divmod(one.level, TILE_HEIGHT)
        tile_index, start = divmod(one.index << above, TILE_WIDTH)
        place = (tile_level, tile_index)
        if place not in kept:
            kept[place] = read(tile_level, tile_index)
        row = kept[place][start * HASH_SIZE : (start + (1 << above)) * HASH_SIZE]
        if len(row) != HASH_SIZE << above:
            raise RejectError(f"{tile_path(*place)}: less wide than the tree needs")
        hashes.append(root(row) if root else tree_root(split_hashes(row)))
    return hashes


class TileEdge:
    """The right edge of the log: on each level the hashes of its partial tile.

    Appending costs one node hash on average, whatever the size; the root costs one for
    each 1 bit of the size.
    """

    __slots__ = ("_ranges", "_rows", "size")

    def __init__(self) -> None:
        self.size = 0
        self._rows: list[list[bytes]] = []
        self._ranges: list[CompactRange] = []  # over the same hashes as _rows

    @classmethod
    def load(cls, size: int, rows: Sequence[bytes]) -> TileEdge:
        """The edge that `dump` took apart; RejectError where the widths disagree."""
        if len(rows) != levels(size):
            raise RejectError(f"{len(rows)} levels for a tree of size {size}")
        edge = cls()
        edge.size = size
        for level, row in enumerate(rows):
            width = (size >> TILE_HEIGHT * level) % TILE_WIDTH
            if len(row) != width * HASH_SIZE:
                raise RejectError(f"level {level}: {len(row)} bytes for {width} hashes")
            edge._grow()
            for one in split_hashes(row):
                edge._rows[level].append(one)
                edge._ranges[level].append(one)
        return edge

    def dump(self) -> list[bytes]:
        """Each level's partial tile, level 0 first, to be kept together with `size`."""
        return [b"".join(row) for row in self._rows]

    def partial(self, level: int, width: int | None = None) -> bytes:
        """The partial tile of a level, or its first `width` hashes."""
        row = self._rows[level] if level < len(self._rows) else []
        if width is not None and width > len(row):
            raise ValueError(f"level {level} is {len(row)} wide, not {width}")
        return b"".join(row[:width])

    def append(self, leaf: bytes) -> list[FullTile]:
        """Add a leaf hash; the tiles that became full with it, the lowest first."""
        if len(leaf) != HASH_SIZE:
            raise ValueError(f"a leaf hash of {len(leaf)} bytes")
        full: list[FullTile] = []
        self.size += 1
        hash_ = leaf
        level = 0
        while True:
            if level == len(self._rows):
                self._grow()
            row, range_ = self._rows[level], self._ranges[level]
            row.append(hash_)
            range_.append(hash_)
            if len(row) < TILE_WIDTH:
                return full
            index = (self.size >> TILE_HEIGHT * (level + 1)) - 1
            full.append(FullTile(level, index, b"".join(row)))
            hash_ = range_.root()
            self._rows[level] = []
            self._ranges[level] = CompactRange()
            level += 1

    def peaks(self) -> list[bytes]:
        """The roots of the full subtrees that the tree is made of, the smallest first.

        They are the inclusion path of the leaf that is appended next.
        """
        return [left for range_ in self._ranges for left in reversed(range_.dump())]

    def root(self) -> bytes:
        """The root of the whole tree."""
        result = b""
        for range_ in self._ranges:
            for left in reversed(range_.dump()):
                result = node_hash(left, result) if result else left
        return result or EMPTY_ROOT

    def _grow(self) -> None:
        self._rows.append([])
        self._ranges.append(CompactRange())
