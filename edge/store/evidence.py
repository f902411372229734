"""Evidence of what the gateway has signed, kept where the store is not.

A store that was restored from yesterday looks perfect from inside. What gives it away
is a checkpoint with the gateway's own valid signature that the store does not know:
one larger than the store's, or one of a size that it has with another root. To go on
would then be a second history under one key (design, invariant 7), so the start begins
a new epoch (edge/store/epochs.py).

    DIR/<first 16 hex digits of SHA-256(origin)>-<epoch>.checkpoint

The newest signed checkpoint is written to `[ledger] checkpoint_copy = DIR`, a second
medium (a USB stick, a network share), at most once a minute and at a clean stop. What
is there is judged before it is overwritten: a medium that comes back late still tells.
A medium that cannot be reached, even one that hangs, stops nothing: all that touches it
runs on a daemon thread. What another key signed, or nobody can read, proves nothing: it
is put aside and raises a technical alarm.

Two things on the gateway's own disk prove a rollback as well: a full tile ahead of the
database (tiles are written after their commit), and the key of a later epoch.
"""

from __future__ import annotations

import hashlib
import logging
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import apsw

from edge import cbor
from edge.errors import GatewayError, NotFoundError, RejectError
from edge.ledger import core, note, tiles
from edge.store import epochs
from edge.store.commit import Writer
from edge.store.database import meta, open_reader
from edge.store.log_reader import LogReader
from edge.store.vault import sync_directory

COPY_INTERVAL_S = 60.0
READ_TIMEOUT_S = 10.0  # a hanging share must not keep the gateway from its devices
STOP_TIMEOUT_S = 5.0
COPIES_MAX = 1000
ASIDE = ".unreadable"

log = logging.getLogger("edge.evidence")


@dataclass(frozen=True, slots=True)
class Finding:
    """What the evidence says; `rollback` and `trouble` are sentences, or empty.

    `proof` is the signed checkpoint that proves the rollback, `seen` the highest epoch
    that anything knows of.
    """

    rollback: str = ""
    proof: bytes = b""
    trouble: str = ""
    seen: int = 1


def copy_name(origin: str, epoch: int) -> str:
    """The name of an epoch's copy on the second medium."""
    return f"{hashlib.sha256(origin.encode()).hexdigest()[:16]}-{epoch}.checkpoint"


def judge(signed: bytes, verifier: note.Verifier, log_reader: LogReader) -> Finding:
    """What a checkpoint that claims to be ours says about the store's log."""
    try:
        opened = note.open_note(signed, [verifier], core.verify)
        shown = note.parse_checkpoint(opened.text)
        if shown.origin != verifier.name:
            raise RejectError(f"it is of the log {shown.origin!r}")
    except RejectError as error:
        return Finding(trouble=f"not a checkpoint of {verifier.name}: {error}")
    with log_reader.snapshot():
        try:
            size, _ = log_reader.checkpoint()
        except NotFoundError:
            size = 0
        if shown.size > size:
            reason = f"it has size {shown.size}, this store's log only {size}"
        elif log_reader.root_at(shown.size, size) != shown.root:
            reason = f"at size {shown.size} this store's log has another root"
        else:
            return Finding()
    return Finding(
        rollback=f"{verifier.name} has signed a checkpoint that this store does not "
        f"know: {reason}",
        proof=signed,
    )


# ---- At the start ----


def open_log(
    connection: apsw.Connection,
    data: Path,
    keys: Path,
    place: Path | None,
    signer: str,
    make_writer: Callable[[note.Verifier, note.Sign], Writer],
) -> tuple[Writer, str]:
    """(the log's writer, recovered; what is wrong with the second medium, or "").

    `signer` is one of `edge.config.SIGNERS`: who signs with the log key. Where anything
    proves a rollback the writer is that of a new epoch.
    """
    origin = str(meta(connection, "origin"))

    def of_current() -> Writer:
        number = epochs.current(connection)
        seed = epochs.load_log_seed(keys, number)
        verifier = epochs.verifier(keys, origin, number)
        writer = make_writer(verifier, _signing(seed, signer))
        writer.recover()
        return writer

    writer = of_current()
    found = examine(connection, data, keys, origin, place)
    restored = _restored_size(connection)
    reason = found.rollback
    if not reason and restored is not None:
        reason = "the store was restored from a backup, which lacks what came after it"
    if reason:
        number = epochs.begin(
            connection,
            keys,
            origin,
            reason=reason,
            evidence=found.proof,
            original=restored is not None and restored == writer.tree_size,
            seen=found.seen,
        )
        log.error(
            "ROLLBACK: %s. Nothing more is signed in that history: the log %s begins, "
            "with a key of its own",
            reason,
            epochs.log_name(origin, number),
        )
        writer = of_current()
    return writer, found.trouble


def _signing(seed: bytes, signer: str) -> note.Sign:
    """The same signatures either way; see docs/ed25519.md for what each promises."""
    if signer == "openssl":
        return lambda message: core.sign_by_openssl(seed, message)
    return core.Signer(seed).sign


def _restored_size(connection: apsw.Connection) -> int | None:
    """The tree size that `iomt restore` left, None where it was not the last to write.

    Its own mark is enough to begin a new epoch: the gateway signs every few seconds, so
    a backup is never the last word, and nobody need hold the proof of that.
    """
    stored = meta(connection, "restored")
    match cbor.decode(stored) if isinstance(stored, bytes) else None:
        case [int(), int(size)]:
            return size
    return None


def examine(
    connection: apsw.Connection, data: Path, keys: Path, origin: str, place: Path | None
) -> Finding:
    """Whether anything proves that the gateway has signed what this store lacks."""
    now = epochs.current(connection)
    log_reader = LogReader(connection, data)
    found = copies_on(place, origin) if place is not None else {}
    if isinstance(found, str):
        finding = Finding(trouble=found)
        seen = now
    else:
        finding = _judge_copies(found, keys, origin, now, log_reader)
        seen = max(now, *found) if found else now
        if place is not None and not found and _size(log_reader):
            finding = Finding(
                trouble=f"{place} holds no checkpoint of {origin}: newly configured, "
                "or another medium"
            )
    rollback = finding.rollback or _on_own_disk(log_reader, data, keys, now)
    return Finding(rollback, finding.proof, finding.trouble, seen)


def _size(log_reader: LogReader) -> int:
    try:
        return log_reader.checkpoint()[0]
    except NotFoundError:
        return 0


def _judge_copies(
    found: dict[int, bytes], keys: Path, origin: str, now: int, log_reader: LogReader
) -> Finding:
    """The newest epoch that proves something; earlier ones have ended already."""
    trouble = ""
    for epoch in sorted((one for one in found if one >= now), reverse=True):
        try:
            verifier = epochs.verifier(keys, origin, epoch)
        except GatewayError as error:
            trouble = f"a checkpoint of epoch {epoch} that cannot be checked: {error}"
            continue
        if epoch == now:
            finding = judge(found[epoch], verifier, log_reader)
        else:
            try:
                note.open_note(found[epoch], [verifier], core.verify)
            except RejectError as error:
                trouble = f"not a checkpoint of {verifier.name}: {error}"
                continue
            finding = Finding(
                rollback=f"{verifier.name} has begun, and this store is of epoch {now}",
                proof=found[epoch],
            )
        if finding.rollback:
            return finding
        trouble = finding.trouble or trouble
    return Finding(trouble=trouble)


def _on_own_disk(log_reader: LogReader, data: Path, keys: Path, now: int) -> str:
    newest = epochs.newest_key(keys)
    if newest > now:
        name = epochs.key_name(newest)
        return f"{keys / name} is there, and this store is of epoch {now}"
    size = _size(log_reader)
    ahead = tiles.tile_path(0, size // tiles.TILE_WIDTH)
    if (data / epochs.tile_directory(now) / ahead).exists():
        return (
            f"the tile {ahead} is there, and this store's log has only {size} entries"
        )
    return ""


def copies_on(place: Path, origin: str) -> dict[int, bytes] | str:
    """The copies on a medium by epoch; a sentence where it cannot be read in time."""
    answer: list[dict[int, bytes] | str] = []

    def read() -> None:
        try:
            answer.append(_read_copies(place, origin))
        except OSError as error:
            answer.append(f"{place} cannot be read: {error}")

    reading = threading.Thread(target=read, name="evidence", daemon=True)
    reading.start()
    reading.join(READ_TIMEOUT_S)
    return answer[0] if answer else f"{place} gave no answer in {READ_TIMEOUT_S:.0f} s"


def _read_copies(place: Path, origin: str) -> dict[int, bytes]:
    prefix = copy_name(origin, 1).removesuffix("1.checkpoint")
    found = {}
    for name in os.listdir(place):
        number = name.removeprefix(prefix).removesuffix(".checkpoint")
        if not number.isascii() or not number.isdecimal() or int(number) > COPIES_MAX:
            continue
        if name == copy_name(origin, int(number)):
            found[int(number)] = _read(place / name)
    return found


def _read(path: Path) -> bytes:
    with path.open("rb") as stream:
        return stream.read(note.NOTE_SIZE_MAX + 1)


# ---- While the gateway runs ----


class CheckpointCopy:
    """Keeps the newest checkpoint on the second medium, from a thread of its own.

    `alarm(phase, detail)` and `proven(reason)` are called on that thread: for a medium
    that cannot be used (once, and once when it can again), and for a rollback that a
    medium shows which was not there at the start.
    """

    def __init__(
        self,
        place: Path,
        data: Path,
        keys: Path,
        alarm: Callable[[str, str], None],
        proven: Callable[[str], None],
        noticed: str = "",
    ) -> None:
        self._place, self._data, self._keys = place, data, keys
        self._alarm, self._proven = alarm, proven
        self._noticed = noticed
        self._trouble = ""
        self._written = b""
        self._last = True
        self._wake, self._stop = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="copy", daemon=True)
        self._thread.start()

    def committed(self, _report: object = None) -> None:
        """There is a newer checkpoint."""
        self._wake.set()

    def stop(self, *, last: bool) -> None:
        """End; where `last`, with a last copy, unless the medium hangs."""
        self._last = last
        self._stop.set()
        self._wake.set()
        self._thread.join(STOP_TIMEOUT_S)
        if self._thread.is_alive():
            log.warning("%s hangs: the last checkpoint may not be there", self._place)

    def _run(self) -> None:
        while True:
            self._wake.wait()
            self._wake.clear()
            if not self._stop.is_set():
                self._copy()
            if self._stop.wait(COPY_INTERVAL_S):
                if self._last:
                    self._copy()
                return

    def _copy(self) -> None:
        if self._noticed:
            self._say(self._noticed)
            self._noticed = ""
        try:
            trouble = self._copy_newest()
        except (OSError, GatewayError, apsw.Error) as error:
            trouble = f"{self._place}: {error}"
        self._say(trouble)

    def _say(self, trouble: str) -> None:
        """Tell a change, once: the start of a trouble, and its end."""
        if bool(trouble) == bool(self._trouble):
            return
        if trouble:
            log.warning("no copy of the checkpoint: %s", trouble)
        else:
            log.info("the checkpoint is copied to %s again", self._place)
        self._trouble = trouble
        self._alarm("start" if trouble else "end", trouble)

    def _copy_newest(self) -> str:
        """Judge what is there, then replace it; a sentence about what was put aside."""
        connection = open_reader(self._data)
        try:
            log_reader = LogReader(connection, self._data)
            origin = str(meta(connection, "origin"))
            path = self._place / copy_name(origin, log_reader.epoch)
            _, signed = log_reader.checkpoint()
            if signed == self._written:
                return ""
            there = _read(path) if path.exists() else b""
            aside = ""
            if there and there != self._written:
                verifier = epochs.verifier(self._keys, origin, log_reader.epoch)
                finding = judge(there, verifier, log_reader)
                if finding.rollback:
                    self._proven(finding.rollback)
                    return finding.rollback
                if finding.trouble:
                    path.rename(path.with_name(path.name + ASIDE))
                    aside = f"{path}: {finding.trouble}; put aside"
            _replace(path, signed)
            self._written = signed
            return aside
        finally:
            connection.close()


def _replace(path: Path, content: bytes) -> None:
    temporary = path.with_name(path.name + ".tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    try:
        view = memoryview(content)
        while view:
            view = view[os.write(descriptor, view) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    temporary.rename(path)
    sync_directory(path.parent)
