"""What must hold after a power cut: the start succeeds and no promise is broken.

`check` starts the real gateway on a state of the disk, looks at all that it finds, has
the devices send everything again as they would, and looks once more.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import tempfile
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import apsw
from recorder import Promise, Recorder, recording
from states import Image, State, images_of, promises_before, states_of
from workload import Session, StoppedError, Story, reader_of

from edge import gateway
from edge.config import Settings
from edge.errors import GatewayError
from edge.gateway import Core, open_core
from edge.ledger import core as hashing
from edge.ledger import tiles, verify
from edge.ledger.note import Verifier
from edge.ledger.tlog import leaf_hash, tree_root
from edge.model import Kind
from edge.model import Verdict as Answer
from edge.store.database import DATABASE_NAME
from edge.store.reader import Reader
from edge.store.vault import load_keys

_INCREMENTAL = 2  # PRAGMA auto_vacuum


class BrokenError(AssertionError):
    """A promise that a power cut broke; the text names it."""


def _demand(holds: object, sentence: str) -> None:
    if not holds:
        raise BrokenError(sentence)


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """A directory in memory where there is one: flushes of it cost nothing."""
    memory = Path("/dev/shm")
    place = memory if os.access(memory, os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="crash-", dir=place) as name:
        yield Path(name)


def settings_at(directory: Path, story: Story) -> Settings:
    """The story's settings for a gateway whose data stand elsewhere."""
    return replace(story.settings, directory=directory, keys=directory / "keys")


# ---- What was promised ----


class Promises:
    """The promises given before the power cut, by kind."""

    def __init__(self, story: Story, given: Iterable[Promise]) -> None:
        self._story = story
        self._given: dict[str, list[Any]] = {}
        for one in given:
            self.add(one.what, one.value)

    def add(self, what: str, value: object) -> None:
        """One more, given after the recovery."""
        self._given.setdefault(what, []).append(value)

    def kept_by(self, opened: Core) -> None:
        """Look at everything a reader of the recovered store can see."""
        reader, given = opened.reader, self._given
        records = list(reader.records())
        stored = Counter(
            one.record.original for one in records if one.record.kind is Kind.READING
        )
        self._readings(stored)
        self._counts(reader.counters(), stored)
        self._refusals(reader)
        firings = {
            one.reading_id(0) for one in records if one.record.kind is Kind.FIRING
        }
        shown = set(given.get("shown", ()))
        _demand(shown <= firings, "a firing that was shown is not in the ledger")
        waiting = {one.reading_id(0) for _, one in opened.undelivered}
        _demand(firings <= shown | waiting, "a committed firing will never be shown")
        for what in given.get("changed", ()):
            _demand(self._changed(reader, what), f"lost: {' '.join(what)}")

    def _readings(self, stored: Counter[bytes]) -> None:
        _demand(stored.keys() <= set(self._story.sent), "a reading that nobody sent")
        twice = [one for one, count in stored.items() if count > 1]
        _demand(not twice, f"{len(twice)} readings are stored twice")
        lost = [
            payload
            for payload, answer in self._given.get("answered", ())
            if answer is not Answer.REFUSED and payload not in stored
        ]
        _demand(not lost, f"{len(lost)} acknowledged readings are lost")

    def _counts(self, counters: Counter[str], stored: Counter[bytes]) -> None:
        same = counters["committed"] == stored.total()
        _demand(same, "the counter of committed messages is not that of the readings")

    def _refusals(self, reader: Reader) -> None:
        kept = {refusal[-1] for _, _, refusal in reader.quarantine()}
        answered = [
            payload
            for payload, answer in self._given.get("answered", ())
            if answer is Answer.REFUSED
        ]
        _demand(set(answered) <= kept, "an answered refusal is not in quarantine")

    def _changed(self, reader: Reader, what: tuple[str, ...]) -> bool:
        registry = reader.registry()
        match what:
            case ("patient", name):
                return name in [one for _, one in reader.patients().values()]
            case ("device", name):
                return registry.find(name) is not None
            case ("assigned", name, patient):
                later = [
                    one[2]
                    for one in self._given["changed"]
                    if one[:2] == ("assigned", name)
                ]
                device = registry.find(name)
                if device is None or device.assignment is None:
                    return False
                now = reader.patients()[device.assignment.patient_ref.hex()][1]
                return now == patient or patient in later[:-1] or now not in later
        raise AssertionError(what)

    def log_kept(self, entries: Sequence[bytes]) -> None:
        """Whoever saw a checkpoint finds the same log below it."""
        size, root = max(self._given.get("grown", ()), default=(0, b""))
        _demand(len(entries) >= size, f"{len(entries)} entries where {size} were shown")
        same = size == 0 or tree_root(list(map(leaf_hash, entries[:size]))) == root
        _demand(same, f"another history below the size {size}")


def entries_of(exported: Path, size: int) -> list[bytes]:
    """The entries of an exported ledger."""
    found: list[bytes] = []
    for one in tiles.level_tiles(None, size):
        found += tiles.decode_bundle((exported / one.path).read_bytes(), one.width)
    return found


# ---- Recovery ----


def _check_files(settings: Settings, exported: Path, promises: Promises) -> None:
    """What is on the disk once the gateway has stopped."""
    with contextlib.closing(reader_of(settings)) as reader:
        size = reader.export(exported)
    seed = load_keys(settings.keys).log_seed
    vkey = Verifier(settings.origin, hashing.public_key(seed)).vkey
    report = verify.verify_directory(exported, vkey)
    _demand(report.verdict is verify.Verdict.OK, "; ".join(report.lines()))
    promises.log_kept(entries_of(exported, size))
    connection = apsw.Connection(
        str(settings.directory / DATABASE_NAME), flags=apsw.SQLITE_OPEN_READONLY
    )
    with contextlib.closing(connection):
        sound = connection.pragma("integrity_check")
        _demand(sound == "ok", f"integrity_check: {sound}")
        _demand(
            connection.pragma("auto_vacuum") == _INCREMENTAL,
            "the database cannot give space back",
        )


@contextlib.asynccontextmanager
async def open_rebooted(settings: Settings) -> AsyncIterator[Core]:
    """The gateway after a power cut: the kernel is another one, so nobody is blamed."""
    another = uuid.uuid4().hex
    with mock.patch.object(gateway, "_kernel_boot", return_value=another):
        async with open_core(settings) as opened:
            yield opened


async def _start(
    settings: Settings,
    story: Story,
    promises: Promises,
    recorder: Recorder | None = None,
) -> None:
    """Start, look, have everything sent again, stop."""

    def tell(what: str, value: object) -> None:
        promises.add(what, value)
        if recorder is not None:
            recorder.promise(what, value)

    async with open_rebooted(settings) as opened:
        promises.kept_by(opened)
        ward = Session(opened, story, tell)
        stored = {
            one.record.original
            for one in opened.reader.records()
            if one.record.kind is Kind.READING
        }
        ours = {
            payload: name
            for name, device in story.devices.items()
            if opened.registry.find(name) is not None
            for payload in device.sent.values()
        }
        again = [one for one in story.sent if one in ours]
        answers = [ward.submit(ours[one], one) for one in again]
        await ward.until(asyncio.gather(*answers))
        for payload, answer in zip(again, answers, strict=True):
            wanted = Answer.DUPLICATE if payload in stored else Answer.COMMITTED
            _demand(
                answer.result().verdict is wanted,
                f"sent again: {answer.result()} where {wanted} was due",
            )
        promises.kept_by(opened)


async def check(
    directory: Path, story: Story, given: Sequence[Promise], exported: Path
) -> None:
    """Recover a state of the disk that was made in `directory`.

    BrokenError where a promise is broken or the gateway does not start.
    """
    settings = settings_at(directory, story)
    promises = Promises(story, given)
    try:
        await _start(settings, story, promises)
        _check_files(settings, exported, promises)
    except (GatewayError, StoppedError, apsw.Error, OSError) as error:
        raise BrokenError(f"{type(error).__name__}: {error}") from error


async def check_image(image: Image, story: Story, given: Sequence[Promise]) -> None:
    """The same for a state that is no directory yet."""
    with scratch() as place:
        image.write(place / "data")
        await check(place / "data", story, given, place / "exported")


async def recorded_recovery(
    image: Image, story: Story, given: Sequence[Promise], directory: Path
) -> Recorder:
    """A recovery of the image, recorded: for power cuts during it."""
    image.write(directory)
    settings = settings_at(directory, story)
    with recording(directory) as recorder:
        await _start(settings, story, Promises(story, given), recorder)
    return recorder


async def check_states(
    story: Story,
    states: Iterable[State],
    seed: int,
    recorder: Recorder | None = None,
    given: Sequence[Promise] = (),
) -> tuple[int, list[tuple[State, BrokenError]]]:
    """(how many different states were recovered, those that broke a promise).

    The states are of the story's recording, or of another one that began with `given`.
    """
    recorder = recorder or story.recorder
    count, broken = 0, []
    for state, image in images_of(recorder, states, seed):
        count += 1
        promises = [*given, *promises_before(recorder, state.place)]
        try:
            await check_image(image, story, promises)
        except BrokenError as error:
            broken.append((state, error))
    return count, broken


async def check_cut_recoveries(
    story: Story, states: Iterable[State], seed: int, cuts: int
) -> tuple[int, list[tuple[State, BrokenError]]]:
    """The same for power cuts during the recovery of each of these states."""
    count, broken = 0, []
    for state, image in images_of(story.recorder, states, seed):
        given = promises_before(story.recorder, state.place)
        with scratch() as place:
            again = await recorded_recovery(image, story, given, place / "data")
        every = states_of(again, 1)
        some = random.Random(f"{seed} {state}").sample(every, min(cuts, len(every)))
        done, found = await check_states(story, some, seed, again, given)
        count += done
        broken += found
    return count, broken
