"""What a disk can hold after a power cut: the model, and the states it allows.

The model is POSIX at its least helpful, not any one file system:

* A write is durable once a flush of its file, begun after it, has returned. Until then
  each of its 512-byte sectors is on the disk or not, by itself, in any combination with
  all other writes that wait. A sector is old or new, never a mixture: what SQLite calls
  powersafe overwrite, and what disks and SD cards do promise.
* A size changes with the writes and truncations that were kept. Bytes between kept
  sectors that nobody wrote are zero.
* A name (created, renamed, removed) is durable once its directory was flushed. Until
  then each such change is on the disk or not, by itself. A rename is one change: never
  both names, never none. Flushing a file does not keep its name, and flushing a
  directory keeps neither the bytes of its files nor its own name in its parent.
* A file whose name was never kept is gone, and so is everything below a directory
  whose name was not.
* A flush that failed has flushed nothing. That the kernel may from then on believe the
  bytes clean is `Disk.forget_failed`.

Outside of it: a disk that lies about flushes, bit rot, and old bytes of deleted files
in new ones (ext4, XFS, F2FS and Btrfs all prevent the last).

A state is a place in the recording, and what becomes of all that waits there:

    kept      everything is on the disk: also what kill -9 leaves
    lost      nothing is
    names     the names are, the bytes are not
    bytes     the other way round
    mixed-N   each one or the other, with torn writes: random, from (seed, place, N)
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, TypeAlias

from recorder import (
    ROOT,
    Base,
    Flush,
    FlushNames,
    Link,
    Operation,
    Promise,
    Recorder,
    Rename,
    Truncate,
    Unlink,
    Write,
)

SECTOR_SIZE = 512
EXTREMES = ("kept", "lost", "names", "bytes")
Names: TypeAlias = dict[tuple[int, str], int]


class State(NamedTuple):
    """`place` operations were done when the power went."""

    place: int
    variant: str

    def __str__(self) -> str:
        return f"{self.place}/{self.variant}"


@dataclass(slots=True)
class Image:
    """What the disk holds: paths below the recorded directory."""

    files: dict[str, bytes] = field(default_factory=dict)
    directories: list[str] = field(default_factory=list)

    def write(self, directory: Path) -> None:
        """Make it a real directory, which must not be there yet."""
        directory.mkdir(parents=True, mode=0o700)
        for one in self.directories:
            (directory / one).mkdir(mode=0o700)
        for name, content in self.files.items():
            (directory / name).write_bytes(content)
            (directory / name).chmod(0o600)

    def digest(self) -> bytes:
        """Equal for equal images."""
        state = hashlib.sha256(repr(self.directories).encode())
        for name in sorted(self.files):
            state.update(f"{name}\0{len(self.files[name])}\0".encode())
            state.update(self.files[name])
        return state.digest()


class Fate:
    """What becomes of each change that waits."""

    def __init__(self, variant: str, seed: str) -> None:
        self._variant = variant
        self._random = random.Random(seed)
        self._kept_share = self._random.choice((0.1, 0.5, 0.9))
        self._torn_share = self._random.choice((0.0, 0.2, 0.8))

    def _keeps(self, what: str) -> bool:
        if self._variant in EXTREMES:
            return self._variant in ("kept", what)
        return self._random.random() < self._kept_share

    def keeps_name(self) -> bool:
        return self._keeps("names")

    def keeps_truncation(self) -> bool:
        return self._keeps("bytes")

    def kept_parts(self, write: Write) -> Iterator[tuple[int, bytes]]:
        """(offset, bytes) of the sectors that reach the disk."""
        torn = (
            self._variant not in EXTREMES and self._random.random() < self._torn_share
        )
        if not torn:
            if self._keeps("bytes"):
                yield write.offset, write.content
            return
        start, end = write.offset, write.offset + len(write.content)
        while start < end:
            stop = min(end, start - start % SECTOR_SIZE + SECTOR_SIZE)
            if self._random.random() < 0.5:
                yield start, write.content[start - write.offset : stop - write.offset]
            start = stop


def _rename(names: Names, change: Link | Unlink | Rename) -> None:
    directory = change.directory
    match change:
        case Link():
            names[directory, change.name] = change.file
        case Unlink():
            names.pop((directory, change.name), None)
        case Rename():
            names.pop((directory, change.name), None)
            names[directory, change.new_name] = change.file


def _write(content: bytearray, offset: int, part: bytes) -> None:
    if len(content) < offset:
        content.extend(bytes(offset - len(content)))
    content[offset : offset + len(part)] = part


def _truncate(content: bytearray, size: int) -> None:
    del content[size:]
    content.extend(bytes(size - len(content)))


class Disk:
    """What is durable, and what waits, while the operations go by."""

    def __init__(self, base: Base) -> None:
        self._directories = set(base.directories)
        self._contents = {one: bytearray(kept) for one, kept in base.files.items()}
        self._names: Names = dict(base.names)
        self._waiting: dict[int, list[Write | Truncate]] = {}
        self._waiting_names: dict[int, list[Link | Unlink | Rename]] = {}

    @property
    def waits(self) -> bool:
        """Whether a power cut could lose anything now."""
        return bool(self._waiting or self._waiting_names)

    def apply(self, operation: Operation) -> None:
        """Do the next operation."""
        match operation:
            case Write() | Truncate():
                self._waiting.setdefault(operation.file, []).append(operation)
            case Flush():
                content = self._contents.setdefault(operation.file, bytearray())
                for change in self._waiting.pop(operation.file, ()):
                    if isinstance(change, Write):
                        _write(content, change.offset, change.content)
                    else:
                        _truncate(content, change.size)
            case Link() | Unlink() | Rename():
                waiting = self._waiting_names.setdefault(operation.directory, [])
                waiting.append(operation)
                if isinstance(operation, Link) and operation.is_directory:
                    self._directories.add(operation.file)
            case FlushNames():
                for one in self._waiting_names.pop(operation.directory, ()):
                    _rename(self._names, one)
            case Promise():
                pass

    def forget_failed(self, file: int) -> None:
        """A flush of the file failed and the kernel holds its bytes to be clean.

        They are in its cache and not on the disk, and no later flush writes them, only
        another write to the same place.
        """
        self._waiting.pop(file, None)

    def image(self, fate: Fate) -> Image:
        """A state of the disk after a power cut now."""
        names = dict(self._names)
        for changes in self._waiting_names.values():
            for change in changes:
                if fate.keeps_name():
                    _rename(names, change)
        below: dict[int, list[tuple[str, int]]] = {}
        for (directory, name), number in names.items():
            below.setdefault(directory, []).append((name, number))
        image = Image()
        reached = [("", ROOT)]
        while reached:
            path, directory = reached.pop()
            for name, number in sorted(below.get(directory, ())):
                if number in self._directories:
                    image.directories.append(path + name)
                    reached.append((f"{path}{name}/", number))
                else:
                    image.files[path + name] = self._content(number, fate)
        return image

    def _content(self, file: int, fate: Fate) -> bytes:
        content = bytearray(self._contents.get(file, b""))
        for change in self._waiting.get(file, ()):
            if isinstance(change, Truncate):
                if fate.keeps_truncation():
                    _truncate(content, change.size)
                continue
            for offset, part in fate.kept_parts(change):
                _write(content, offset, part)
        return bytes(content)


def variants(waits: bool, mixed_count: int) -> list[str]:
    """The variants of a place; where nothing waits there is only one."""
    if not waits:
        return ["kept"]
    return [*EXTREMES, *(f"mixed-{number}" for number in range(mixed_count))]


def states_of(recorder: Recorder, mixed_count: int, first: int = 0) -> list[State]:
    """Every place from `first` on, with every variant."""
    disk = Disk(recorder.base)
    found = []
    for place in range(len(recorder.operations) + 1):
        if place >= first:
            found += [State(place, one) for one in variants(disk.waits, mixed_count)]
        if place < len(recorder.operations):
            disk.apply(recorder.operations[place])
    return found


def images_of(
    recorder: Recorder, states: Iterable[State], seed: int
) -> Iterator[tuple[State, Image]]:
    """The states with their images, in the order of places.

    An image that an earlier state had is left out if no promise was given in between.
    """
    disk, done, promises = Disk(recorder.base), 0, 0
    seen: set[tuple[bytes, int]] = set()
    for state in sorted(states):
        for operation in recorder.operations[done : state.place]:
            disk.apply(operation)
            promises += isinstance(operation, Promise)
        done = state.place
        image = disk.image(Fate(state.variant, f"{seed} {state}"))
        key = image.digest(), promises
        if key not in seen:
            seen.add(key)
            yield state, image


def promises_before(recorder: Recorder, place: int) -> Sequence[Promise]:
    """What had been promised when the power went."""
    return [one for one in recorder.operations[:place] if isinstance(one, Promise)]


def image_now(recorder: Recorder) -> Image:
    """Everything recorded, as if nothing could be lost."""
    disk = Disk(recorder.base)
    for operation in recorder.operations:
        disk.apply(operation)
    return disk.image(Fate("kept", ""))
