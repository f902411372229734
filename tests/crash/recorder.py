"""Records what a program does to a directory: every write, flush and name, in order.

Two seams, both in this process: the functions of `os` that the store calls, and a
SQLite VFS that becomes the default one while the recording lasts. Both pass every call
on, so that the program runs on a real directory, and both can fail one call (`Fault`).

A file is a number, as an inode is, because a name and a file become durable apart.
Directories are numbered too; 0 is the recorded one. What a flush is, and what it makes
durable, is the matter of states.py.

The shared memory of the WAL (-shm) is no part of the disk: SQLite makes it anew after a
power cut. It never comes here, for the VFS below ours opens it by itself. Modes and
times are not recorded.

SQLite flushes the directory of a journal or WAL it has made right after the file's own
first flush, below its VFS interface; strace shows fdatasync of the file, then of the
directory. That flush of names is recorded here as SQLite does it.
"""

from __future__ import annotations

import errno
import os
import stat
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias
from unittest import mock

import apsw

VFS_NAME = "crash-recorder"
ROOT = 0
_DIRECTORY_FLUSHED_WITH = (
    apsw.SQLITE_OPEN_MAIN_JOURNAL
    | apsw.SQLITE_OPEN_SUPER_JOURNAL
    | apsw.SQLITE_OPEN_WAL
)
_VFS_CODES = {
    "write": apsw.SQLITE_IOERR_WRITE,
    "flush": apsw.SQLITE_IOERR_FSYNC,
    "truncate": apsw.SQLITE_IOERR_TRUNCATE,
    "unlink": apsw.SQLITE_IOERR_DELETE,
}


class Write(NamedTuple):
    file: int
    offset: int
    content: bytes


class Truncate(NamedTuple):
    file: int
    size: int


class Flush(NamedTuple):
    """fsync or fdatasync of a file; nobody here asks for the one without the size."""

    file: int


class Link(NamedTuple):
    """A new file or directory gets its name."""

    directory: int
    name: str
    file: int
    is_directory: bool


class Unlink(NamedTuple):
    directory: int
    name: str


class Rename(NamedTuple):
    """Within one directory; what had the new name loses it."""

    directory: int
    name: str
    new_name: str
    file: int


class FlushNames(NamedTuple):
    """fsync of a directory."""

    directory: int


class Promise(NamedTuple):
    """Not an operation: what the program told somebody at this point, and to keep."""

    what: str
    value: Any


Operation: TypeAlias = (
    Write | Truncate | Flush | Link | Unlink | Rename | FlushNames | Promise
)


@dataclass(slots=True)
class Base:
    """What was there, and durable, when the recording began."""

    files: dict[int, bytes] = field(default_factory=dict)
    directories: set[int] = field(default_factory=lambda: {ROOT})
    names: dict[tuple[int, str], int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Fault:
    """The call that fails: the `at`-th (from 0) of those that could."""

    at: int
    code: int


class Recorder:
    """The operations so far; `attempts` names the calls that could have failed."""

    def __init__(self, root: Path, fault: Fault | None = None) -> None:
        self.root = root
        self.base = Base()
        self.operations: list[Operation] = []
        self.attempts: list[str] = []
        self.failed_at: int | None = None  # operations before the call that failed
        self.failed_flush: int | None = None  # the file that it should have flushed
        self._fault = fault
        self._lock = threading.RLock()
        self._next = ROOT + 1
        self._scan(root, ROOT)
        self._names = dict(self.base.names)
        self._sizes = {one: len(content) for one, content in self.base.files.items()}
        self._written: set[int] = set()  # files whose bytes came through the seams

    def _scan(self, directory: Path, number: int) -> None:
        for path in sorted(directory.iterdir()):
            child, self._next = self._next, self._next + 1
            self.base.names[number, path.name] = child
            if path.is_dir():
                self.base.directories.add(child)
                self._scan(path, child)
            elif not path.name.endswith("-shm"):
                self.base.files[child] = path.read_bytes()

    def distrust(self, on_disk: Mapping[str, bytes]) -> None:
        """Say what the disk holds where that is not what can be read of a file."""
        for name, content in on_disk.items():
            self.base.files[self.number(self.root / name)] = content

    # ---- What the seams tell ----

    def covers(self, path: object) -> bool:
        """Whether a path given to a call lies in the recorded directory."""
        return isinstance(path, str | Path) and self.root in Path(path).parents

    def attempt(self, call: str, path: object) -> None:
        """Count a call that may fail; raises OSError in the one that shall."""
        with self._lock:
            number = len(self.attempts)
            self.attempts.append(f"{call} {self._relative(path)}")
            if self._fault is not None and number == self._fault.at:
                self.failed_at = len(self.operations)
                if call == "flush" and path != self.root:
                    self.failed_flush = self.number(path)
                raise OSError(self._fault.code, os.strerror(self._fault.code))

    def record(self, operation: Operation) -> None:
        with self._lock:
            self.operations.append(operation)

    def promise(self, what: str, value: object) -> None:
        """Note what the program has just told somebody."""
        self.record(Promise(what, value))

    def place(self, path: object) -> tuple[int, str]:
        """(number of the directory, last part) of a path."""
        *parents, name = self._relative(path).parts
        directory = ROOT
        for one in parents:
            directory = self._names[directory, one]
        return directory, name

    def number(self, path: object) -> int:
        """The file or directory of a path."""
        if path == self.root:
            return ROOT
        return self._names[self.place(path)]

    def _relative(self, path: object) -> Path:
        assert isinstance(path, str | Path)
        return Path(path).relative_to(self.root)

    def linked(self, path: object, *, is_directory: bool = False) -> int:
        with self._lock:
            place = self.place(path)
            number, self._next = self._next, self._next + 1
            self._names[place] = number
            self._sizes[number] = 0
            self.record(Link(*place, number, is_directory))
            return number

    def unlinked(self, path: object) -> None:
        with self._lock:
            place = self.place(path)
            del self._names[place]
            self.record(Unlink(*place))

    def renamed(self, path: object, target: object) -> None:
        with self._lock:
            directory, name = self.place(path)
            target_directory, new_name = self.place(target)
            assert directory == target_directory, "the model knows no moves"
            number = self._names.pop((directory, name))
            self._names[directory, new_name] = number
            self.record(Rename(directory, name, new_name, number))

    def wrote(self, file: int, offset: int, content: bytes) -> None:
        with self._lock:
            self._written.add(file)
            self._sizes[file] = max(self._sizes[file], offset + len(content))
            self.record(Write(file, offset, content))

    def truncated(self, file: int, size: int) -> None:
        with self._lock:
            self._sizes[file] = size
            self.record(Truncate(file, size))

    def size(self, file: int) -> int:
        return self._sizes[file]

    def flushed(self, file: int, descriptor: int | None = None) -> None:
        """A flush; `descriptor` lets us see what a buffered file object has written."""
        with self._lock:
            if descriptor is not None and file not in self._written:
                size = os.fstat(descriptor).st_size
                path = Path(f"/proc/self/fd/{descriptor}")
                if size:
                    self.record(Write(file, 0, path.read_bytes()))
            self.record(Flush(file))


# ---- The seam of `os` ----


class _OsCalls:
    """What stands in for the functions of `os` while a recording lasts."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._real: dict[str, Callable[..., Any]] = {}
        self._open: dict[int, tuple[int, Path]] = {}  # descriptor: number, path
        self._places: dict[int, int] = {}  # descriptor: offset of the next write

    def patches(self) -> Iterator[Any]:
        for name in (
            "open", "close", "write", "pwrite", "ftruncate", "fsync", "fdatasync",
            "rename", "replace", "unlink", "remove", "mkdir",
        ):  # fmt: skip
            self._real[name] = getattr(os, name)
            yield mock.patch.object(os, name, getattr(self, name))

    def open(self, path: Any, flags: int, *rest: Any, **more: Any) -> int:
        recorder = self._recorder
        if not (recorder.covers(path) or path == recorder.root):
            descriptor = int(self._real["open"](path, flags, *rest, **more))
            self._open.pop(descriptor, None)  # a file object closed it unseen
            return descriptor
        creates = bool(flags & os.O_CREAT) and not os.path.lexists(path)
        if creates:
            recorder.attempt("create", path)
        descriptor = int(self._real["open"](path, flags, *rest, **more))
        number = recorder.linked(path) if creates else recorder.number(path)
        if flags & os.O_TRUNC and not creates:
            recorder.truncated(number, 0)
        self._open[descriptor] = number, Path(path)
        self._places[descriptor] = 0
        return descriptor

    def close(self, descriptor: int) -> None:
        self._open.pop(descriptor, None)
        self._real["close"](descriptor)

    def write(self, descriptor: int, content: Any) -> int:
        number, path = self._open.get(descriptor, (None, None))
        if number is None:
            return int(self._real["write"](descriptor, content))
        self._recorder.attempt("write", path)
        written = int(self._real["write"](descriptor, content))
        offset = self._places[descriptor]
        self._places[descriptor] = offset + written
        self._recorder.wrote(number, offset, bytes(content[:written]))
        return written

    def pwrite(self, descriptor: int, content: Any, offset: int) -> int:
        number, path = self._open.get(descriptor, (None, None))
        if number is None:
            return int(self._real["pwrite"](descriptor, content, offset))
        self._recorder.attempt("write", path)
        written = int(self._real["pwrite"](descriptor, content, offset))
        self._recorder.wrote(number, offset, bytes(content[:written]))
        return written

    def ftruncate(self, descriptor: int, size: int) -> None:
        number, path = self._open.get(descriptor, (None, None))
        if number is not None:
            self._recorder.attempt("truncate", path)
        self._real["ftruncate"](descriptor, size)
        if number is not None:
            self._recorder.truncated(number, size)

    def fsync(self, descriptor: int) -> None:
        self._flush("fsync", descriptor)

    def fdatasync(self, descriptor: int) -> None:
        self._flush("fdatasync", descriptor)

    def _flush(self, name: str, descriptor: int) -> None:
        number, path = self._open.get(descriptor, (None, None))
        if number is None:
            self._real[name](descriptor)
            return
        is_directory = stat.S_ISDIR(os.fstat(descriptor).st_mode)
        self._recorder.attempt("flush", path)
        self._real[name](descriptor)
        if is_directory:
            self._recorder.record(FlushNames(number))
        else:
            self._recorder.flushed(number, descriptor)

    def rename(self, path: Any, target: Any) -> None:
        covered = self._recorder.covers(path)
        if covered:
            self._recorder.attempt("rename", target)
        self._real["rename"](path, target)
        if covered:
            self._recorder.renamed(path, target)

    replace = rename

    def unlink(self, path: Any, **more: Any) -> None:
        covered = self._recorder.covers(path)
        if covered:
            self._recorder.attempt("unlink", path)
        self._real["unlink"](path, **more)
        if covered:
            self._recorder.unlinked(path)

    remove = unlink

    def mkdir(self, path: Any, *rest: Any, **more: Any) -> None:
        covered = self._recorder.covers(path)
        if covered and not os.path.lexists(path):
            self._recorder.attempt("mkdir", path)
        self._real["mkdir"](path, *rest, **more)
        if covered:
            self._recorder.linked(path, is_directory=True)


# ---- The seam of SQLite ----


@contextmanager
def _as_sqlite_sees_it(call: str) -> Iterator[None]:
    """What SQLite's own unix VFS answers where the kernel gives this error."""
    try:
        yield
    except OSError as error:
        if error.errno == errno.ENOSPC and call == "write":
            raise apsw.FullError(str(error)) from error
        failure = apsw.IOError(str(error))
        failure.extendedresult = _VFS_CODES[call]  # type: ignore[attr-defined]
        raise failure from error


class _File(apsw.VFSFile):
    def __init__(self, recorder: Recorder, name: Any, flags: list[int]) -> None:
        self._recorder = recorder
        path = name.filename() if isinstance(name, apsw.URIFilename) else name
        self._path: str | None = path if recorder.covers(path) else None
        before = path is not None and os.path.lexists(path)
        super().__init__("unix", name, flags)
        if self._path is None:
            return
        if before:
            self._number = recorder.number(self._path)
        else:
            self._number = recorder.linked(self._path)
        creates = flags[0] & apsw.SQLITE_OPEN_CREATE
        self._names_too = bool(creates and flags[0] & _DIRECTORY_FLUSHED_WITH)

    def xWrite(self, content: Any, offset: int) -> None:  # noqa: N802
        if self._path is None:
            super().xWrite(content, offset)
            return
        with _as_sqlite_sees_it("write"):
            self._recorder.attempt("write", self._path)
        super().xWrite(content, offset)
        self._recorder.wrote(self._number, offset, bytes(content))

    def xTruncate(self, size: int) -> None:  # noqa: N802
        if self._path is None:
            super().xTruncate(size)
            return
        with _as_sqlite_sees_it("truncate"):
            self._recorder.attempt("truncate", self._path)
        super().xTruncate(size)
        self._recorder.truncated(self._number, size)

    def xSync(self, flags: int) -> None:  # noqa: N802
        if self._path is None:
            super().xSync(flags)
            return
        with _as_sqlite_sees_it("flush"):
            self._recorder.attempt("flush", self._path)
        super().xSync(flags)
        self._recorder.flushed(self._number)
        if self._names_too:
            self._names_too = False
            directory, _ = self._recorder.place(self._path)
            self._recorder.record(FlushNames(directory))


class _Vfs(apsw.VFS):
    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        super().__init__(VFS_NAME, "unix", makedefault=True)

    def xOpen(self, name: Any, flags: list[int]) -> _File:  # noqa: N802
        return _File(self._recorder, name, flags)

    def xDelete(self, name: str, syncdir: bool) -> None:  # noqa: N802
        covered = self._recorder.covers(name)
        if covered and os.path.lexists(name):
            with _as_sqlite_sees_it("unlink"):
                self._recorder.attempt("unlink", name)
        super().xDelete(name, syncdir)
        if covered:
            self._recorder.unlinked(name)
            if syncdir:
                directory, _ = self._recorder.place(name)
                self._recorder.record(FlushNames(directory))


@contextmanager
def recording(root: Path, fault: Fault | None = None) -> Iterator[Recorder]:
    """Record what is done below `root` meanwhile, by any thread of this process."""
    recorder = Recorder(root, fault)
    vfs = _Vfs(recorder)
    patches = []
    try:
        for one in _OsCalls(recorder).patches():
            one.start()
            patches.append(one)
        yield recorder
    finally:
        for one in reversed(patches):
            one.stop()
        vfs.unregister()
