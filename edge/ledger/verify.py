"""`iomt verify`: check an exported ledger or a proof, offline, trusting neither.

    python -m edge.ledger.verify PATH [--vkey V]

needs nothing but Python. A directory is a ledger, a file is a proof. The answers:

    exit 0  verified
    1       refused: the reason, and the place (file, and byte, hash or entry)
    2       could not run: no such file, not readable, a wrong argument
    3       not enough: all that could be checked is right, but no key was given

A ledger is checked from the signature down, so that blame falls on the file that is
wrong: the log's key signs the checkpoint, the checkpoint's root fixes the partial
tiles of the right edge, every hash in a tile fixes the full tile below it, every leaf
hash fixes an entry. Then come the entries' own rules (docs/ledger-format.md), and last
every other file: an earlier, narrower partial tile must be a prefix of the present one,
and a file that the log has no place for is refused. One bundle is in memory at a time,
and 16 bytes for each start of the gateway.

A key that lies beside the ledger proves nothing; it has to come from elsewhere.
"""

from __future__ import annotations

import argparse
import os
import stat
import sys
from base64 import b64encode
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import IntEnum
from pathlib import Path

from edge.errors import RejectError
from edge.ledger import proof as proofs
from edge.ledger import tiles
from edge.ledger.batch import (
    Batch,
    ClockTick,
    EpochStart,
    GatewayStart,
    decode_entry,
)
from edge.ledger.note import (
    NOTE_SIZE_MAX,
    Checkpoint,
    Verifier,
    open_note,
    parse_checkpoint,
    parse_note,
    parse_vkey,
)
from edge.ledger.tiles import CHECKPOINT_PATH, Tile, TileEdge
from edge.ledger.tlog import HASH_SIZE, leaf_hash, tree_root
from edge.model import Attestation, Kind, Record

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_Check = Callable[[Path, "Verifier | None", "Report"], None]


class Verdict(IntEnum):
    """The answer; the value is the exit status."""

    OK = 0
    REFUSED = 1
    CANNOT_RUN = 2
    NOT_ENOUGH = 3


_WORDS = {
    Verdict.OK: "VERIFIED",
    Verdict.REFUSED: "REFUSED",
    Verdict.CANNOT_RUN: "CANNOT RUN",
    Verdict.NOT_ENOUGH: "NOT ENOUGH",
}


@dataclass(slots=True)
class Report:
    """What was found. `place` names the file and, where known, the spot in it."""

    verdict: Verdict
    reason: str = ""
    place: str = ""
    origin: str | None = None
    size: int | None = None
    root: bytes | None = None
    counts: Counter[str] = field(default_factory=Counter)  # entries by kind
    facts: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """The report for a terminal, the verdict last."""
        lines = []
        if self.origin is not None and self.size is not None and self.root is not None:
            lines.append(f"origin  {self.origin}")
            lines.append(f"size    {self.size}")
            lines.append(f"root    {b64encode(self.root).decode()}")
        if self.counts:
            kinds = ", ".join(
                f"{self.counts[one]} {one}" for one in sorted(self.counts)
            )
            lines.append(f"entries {kinds}")
        lines += self.facts
        last = _WORDS[self.verdict]
        if self.reason:
            last += f": {self.reason}"
        if self.place:
            last += f" [{self.place}]"
        return [_shown(line) for line in (*lines, last)]


def _shown(text: str) -> str:
    """The text without what could steer a terminal: names in here are a stranger's."""
    return "".join(one if one.isprintable() else ascii(one)[1:-1] for one in text)


class _DamageError(RejectError):
    """What was read is not what it must be."""

    def __init__(self, place: str, reason: str) -> None:
        super().__init__(f"{reason} [{place}]")
        self.place = place
        self.reason = reason


def verify_directory(path: str | os.PathLike[str], vkey: str | None = None) -> Report:
    """Check the ledger in this directory, with the log's verifier key if there is one.

    Raises nothing: every outcome is a Report.
    """
    return _run(Path(path), vkey, _verify_directory)


def verify_proof(path: str | os.PathLike[str], vkey: str | None = None) -> Report:
    """Check this proof file, with the log's verifier key if there is one.

    Raises nothing: every outcome is a Report.
    """
    return _run(Path(path), vkey, _verify_proof)


def _run(path: Path, vkey: str | None, check: _Check) -> Report:
    try:
        verifier = None if vkey is None else parse_vkey(vkey)
    except RejectError as error:
        return Report(Verdict.CANNOT_RUN, f"the key that was given: {error}")
    report = Report(Verdict.OK if verifier else Verdict.NOT_ENOUGH)
    try:
        check(path, verifier, report)
    except _DamageError as damage:
        report.verdict = Verdict.REFUSED
        report.reason, report.place = damage.reason, damage.place
    except OSError as error:
        report.verdict = Verdict.CANNOT_RUN
        report.reason = error.strerror or str(error)
        report.place = str(error.filename or path)
    else:
        if verifier is None:
            report.reason = (
                "all is consistent, but without the log's key (--vkey) "
                "nobody can tell who made it"
            )
    return report


# --- reading ------------------------------------------------------------------------


class _Files:
    """The files below one directory; what is not there or not a file is damage."""

    def __init__(self, top: Path) -> None:
        self._top = top

    def read(self, path: str, size_max: int) -> bytes:
        whole = self._top / path
        try:
            if not stat.S_ISREG(whole.lstat().st_mode):
                raise _DamageError(path, "not a regular file")
            with whole.open("rb") as file:
                content = file.read(size_max + 1)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise _DamageError(path, "the file is missing") from error
        if len(content) > size_max:
            raise _DamageError(
                path, f"longer than {size_max} bytes, at byte {size_max}"
            )
        return content

    def hashes(self, tile: Tile) -> list[bytes]:
        """The hashes of a tile that has exactly its width."""
        wanted = tile.width * HASH_SIZE
        content = self.read(tile.path, wanted)
        if len(content) < wanted:
            raise _DamageError(
                tile.path, f"cut at byte {len(content)}, should have {wanted}"
            )
        return tiles.split_hashes(content)

    def entries(self, tile: Tile) -> Iterator[tuple[int, bytes]]:
        """Each entry of a bundle, after the byte where it begins."""
        content = self.read(tile.path, tile.width * (2 + tiles.ENTRY_SIZE_MAX))
        try:
            yield from tiles.iterate_bundle(content, tile.width)
        except RejectError as error:
            raise _DamageError(tile.path, str(error)) from error

    def walk(self) -> Iterator[str]:
        """Every file and link, as a path with slashes."""
        for folder, folders, names in os.walk(self._top, onerror=_raise):
            folders.sort()
            links = [one for one in folders if Path(folder, one).is_symlink()]
            for name in sorted(names + links):
                yield Path(folder, name).relative_to(self._top).as_posix()


def _raise(error: OSError) -> None:
    raise error


# --- a ledger -----------------------------------------------------------------------


def _verify_directory(path: Path, verifier: Verifier | None, report: Report) -> None:
    os.scandir(path).close()  # a directory, and one that we may read
    files = _Files(path)
    content = files.read(CHECKPOINT_PATH, NOTE_SIZE_MAX)
    checkpoint = _open_checkpoint(content, verifier, CHECKPOINT_PATH, report)
    _check_edge(files, checkpoint)
    for level in reversed(range(tiles.levels(checkpoint.size) - 1)):
        _check_full_tiles(files, level, checkpoint.size)
    _check_entries(files, checkpoint, report)
    _check_other_files(files, checkpoint.size)


def _open_checkpoint(
    content: bytes, verifier: Verifier | None, place: str, report: Report
) -> Checkpoint:
    """The checkpoint, signed by the log's key where we have that."""
    try:
        if verifier is None:
            parsed = parse_note(content)
            text, others = parsed.text, parsed.signatures
        else:
            note = open_note(content, [verifier])
            text, others = note.text, note.unverified
        checkpoint = parse_checkpoint(text)
        if checkpoint.extensions:
            raise RejectError("line 4: a checkpoint here has no extension lines")
        if verifier is not None and verifier.name != checkpoint.origin:
            raise RejectError(f"line 1: the key is for the origin {verifier.name}")
    except RejectError as error:
        raise _DamageError(place, f"checkpoint: {error}") from error
    report.origin, report.size = checkpoint.origin, checkpoint.size
    report.root = checkpoint.root
    report.facts += [f"signature by {one.name}: not checked" for one in others]
    return checkpoint


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
    raise _DamageError(CHECKPOINT_PATH, "line 3: the root is not that of the tiles")


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
            raise _DamageError(tile.path, "its root is not the hash in the tile above")


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
            raise _DamageError(place, f"the hash is not {what}")


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
                raise _DamageError(
                    place, "the entry does not have the hash in the tree"
                )
            try:
                history.take(index, entry)
            except RejectError as error:
                raise _DamageError(place, str(error)) from error
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
        elif isinstance(entry, Batch | ClockTick) and entry.boot_id != self._boot:
            raise RejectError("the boot id is not that of the last gateway start")
        if isinstance(entry, Batch):
            if entry.number != self._number:
                raise RejectError(f"batch {entry.number} where {self._number} is due")
            self._number += 1
        self._time_ms = entry.time_ms
        self._counts[entry.NAME] += 1


def _check_other_files(files: _Files, size: int) -> None:
    """No file but those of the tree and narrower partial tiles of it."""
    for path in files.walk():
        if path == CHECKPOINT_PATH:
            continue
        try:
            tile = tiles.parse_path(path)
        except RejectError as error:
            raise _DamageError(path, "a file that the log has no place for") from error
        width = tiles.width_at(tile.level, tile.index, size)
        if tile.width > width:
            raise _DamageError(path, f"the tree of size {size} has no such tile")
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
        raise _DamageError(
            f"{tile.path}, byte {at}", f"is not how {present.path} begins"
        )


# --- a proof ------------------------------------------------------------------------


def _verify_proof(path: Path, verifier: Verifier | None, report: Report) -> None:
    with path.open("rb") as file:
        content = file.read(proofs.PROOF_SIZE_MAX + 1)
    place = path.name
    try:
        proof = proofs.parse_proof(content)
        if proof.extra is None:
            raise RejectError("no line `extra`, so it does not say what it proves")
        batch_proof = proofs.decode_extra(proof.extra)
        batch = proofs.check_batch(batch_proof)
    except RejectError as error:
        raise _DamageError(place, str(error)) from error
    checkpoint = _open_checkpoint(proof.checkpoint, verifier, place, report)
    try:
        root = proofs.root_of_log(proof, batch_proof.entry, checkpoint.size)
        if root != checkpoint.root:
            raise RejectError("the path does not lead to the checkpoint's root")
        record = (
            None if batch_proof.record is None else Record.decode(batch_proof.record)
        )
    except RejectError as error:
        raise _DamageError(place, str(error)) from error
    name = f"{batch.boot_id.hex()[:12]}-{batch.number}-{batch_proof.leaf_index}"
    report.facts.append(f"entry   {proof.index}, a batch of {_time(batch.time_ms)}")
    report.facts.append(f"leaf    {name}, hash {batch_proof.leaf_hash.hex()}")
    report.facts += _record_facts(record)


def _record_facts(record: Record | None) -> list[str]:
    if record is None:
        return ["record  not disclosed"]
    kind = record.kind.name.lower()
    by = f" of {record.device}" if record.device is not None else ""
    facts = [f"record  {kind}{by}, received {_time(record.received_ms)}"]
    if record.kind is Kind.READING:
        if record.attestation is Attestation.DEVICE:
            facts.append("device signature: not checked (no key pinned)")
        else:
            facts.append("device signature: none, the gateway vouches for receiving it")
    return facts


def _time(time_ms: int) -> str:
    try:
        moment = _EPOCH + timedelta(milliseconds=time_ms)
    except OverflowError:
        return f"{time_ms} ms"
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{time_ms % 1000:03d}Z"


# --- the command --------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command, print the report, return the exit status."""
    parser = argparse.ArgumentParser(
        prog="iomt verify",
        description="Check a ledger directory or a .tlog-proof, offline.",
        epilog="exit status: 0 verified, 1 refused, 2 cannot run, 3 not enough",
    )
    parser.add_argument("path", metavar="PATH", help="a ledger directory or a proof")
    parser.add_argument("--vkey", help="the log's key, as `iomt ledger vkey` prints it")
    parser.add_argument("--policy", help="a quorum of witnesses (not understood yet)")
    options = parser.parse_args(arguments)
    if options.policy is not None:
        report = Report(
            Verdict.CANNOT_RUN, "--policy is not understood by this version"
        )
    elif Path(options.path).is_dir():
        report = verify_directory(options.path, options.vkey)
    else:
        report = verify_proof(options.path, options.vkey)
    for line in report.lines():
        print(line)
    return int(report.verdict)


if __name__ == "__main__":
    sys.exit(main())
