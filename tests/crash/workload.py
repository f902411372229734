"""What the crash tests do to a gateway's data, and note that it promised.

The real path: `open_core`, signed envelopes, an administrator's changes, alarms,
refused and repeated messages, and as many entries as it takes to fill the first tile.
Only the pace of commits and the length of the WAL are changed, so that little work
meets everything that a month would.

Promises (recorder.Promise), each noted where the gateway gave it:

    answered  (payload, verdict): `settle` was called
    changed   the administrator's command returned
    shown     name of a firing that the views got
    grown     (tree size, root) when the views got a commit
    starting, stopped   no promises: where a run of the gateway begins, and where
              nothing of it is left but to close its files
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from unittest import mock

import apsw
from recorder import Fault, Recorder, recording
from states import image_now

from edge import gateway
from edge.config import Pace, Settings
from edge.errors import GatewayError
from edge.gateway import Core, open_core
from edge.ledger import tiles
from edge.ledger.note import parse_checkpoint, parse_note
from edge.model import Arrival, CommitReport, Outcome, Source
from edge.store import commit as commit_room
from edge.store.reader import Reader
from edge.store.vault import load_keys

sys.path.append(str(Path(__file__).parents[1] / "scenario"))
from workbench import SignedDevice, make_gateway

CONTRACTS = Path(gateway.__file__).parent / "contracts" / "library"
AT_ONCE = Pace(refill_per_s=1e6, burst=1_000_000)
WAL_PAGES = 60  # so that checkpoints of the WAL happen between commits
PATIENTS = "P-1", "P-2"
ALARMING = 190  # mm[Hg], above the limit of the contract blood-pressure
CALM = 120


Tell = Callable[[str, object], None]


class StoppedError(Exception):
    """The gateway failed for this reason: nothing more is to be expected of it."""

    def __init__(self, reason: BaseException | None) -> None:
        super().__init__(repr(reason))
        self.reason = reason


@dataclass(slots=True)
class Story:
    """One recorded run, and what is known of it apart from the recording."""

    settings: Settings
    recorder: Recorder
    sent: list[bytes] = field(default_factory=list)  # fit to be stored, each new
    refused: list[bytes] = field(default_factory=list)
    devices: dict[str, SignedDevice] = field(default_factory=dict)
    failure: Exception | None = None


def prepared(directory: Path) -> Settings:
    """The settings of a fresh gateway whose keys are durable."""
    return replace(
        make_gateway(directory),
        directory=directory / "data",
        contracts=CONTRACTS,
        pace=AT_ONCE,
    )


class Session:
    """An open gateway whose answers and views are noted as promises."""

    def __init__(self, core: Core, story: Story, tell: Tell) -> None:
        self.core = core
        self._story = story
        self._tell = tell
        core.intake.on_commit.append(self._view)
        gateway._release_undelivered(core)

    def _view(self, report: CommitReport) -> None:
        for firing in report.firings:
            self._tell("shown", firing.reading_id)
        size, signed = self.core.reader.checkpoint()
        root = parse_checkpoint(parse_note(signed).text).root
        assert size == report.tree_size
        self._tell("grown", (size, root))

    def submit(self, device: str, payload: bytes) -> asyncio.Future[Outcome]:
        answer: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()

        def settle(outcome: Outcome) -> None:
            self._tell("answered", (payload, outcome.verdict))
            if not answer.done():
                answer.set_result(outcome)

        self.core.intake.submit(
            Arrival(Source.MQTT, f"mqtt:{device}", device, "vitals", payload, settle)
        )
        return answer

    async def until(self, awaited: Awaitable[object]) -> None:
        """Wait for it, or StoppedError when the gateway fails before."""
        task = asyncio.ensure_future(awaited)
        waiting: list[asyncio.Future[object]] = [task, self.core.failure]  # type: ignore[list-item]
        async with asyncio.timeout(20):
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        if self.core.failure.done():
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError, GatewayError):
                await task
            raise StoppedError(self.core.failure.exception())
        task.result()

    async def send(self, name: str, count: int = 1, systolic: int = CALM) -> None:
        """New envelopes of a device, handed in at once: one commit."""
        device = self._story.devices[name]
        new = [device.envelope(systolic_pressure=systolic) for _ in range(count)]
        self._story.sent += new
        await self.until(asyncio.gather(*(self.submit(name, one) for one in new)))

    async def repeat(self, name: str) -> None:
        """The device's newest envelope once more."""
        device = self._story.devices[name]
        await self.until(self.submit(name, device.sent[device.sequence - 1]))

    async def forge(self, name: str) -> None:
        """An envelope that another key signed."""
        payload = SignedDevice(name, bytes(32)).envelope(heart_rate=70)
        self._story.refused.append(payload)
        await self.until(self.submit(name, payload))

    async def change(self, what: tuple[str, ...], done: Awaitable[object]) -> None:
        """A change by the administrator."""
        await self.until(done)
        self._tell("changed", what)

    async def enrol(self, name: str, patient: str) -> None:
        """A patient, a device, and the one at the other: three commits."""
        device = SignedDevice(name, bytes([len(self._story.devices) + 1]) * 32)
        self._story.devices[name] = device
        administration = self.core.administration
        await self.change(("patient", patient), administration.add_patient(patient))
        await self.change(
            ("device", name),
            administration.add_device(name, "signed", device.public_key),
        )
        await self.change(
            ("assigned", name, patient), administration.assign_device(name, patient)
        )

    async def idle(self, size: int) -> None:
        """Ticks of the clock, as a gateway without readings makes them, to a size."""
        while self.core.intake.tree_size < size:
            for _ in range(size - self.core.intake.tree_size):
                self.core.intake._tick()
            await self.until(self.core.intake._commit_all())


@contextlib.asynccontextmanager
async def session(story: Story, *, killed: bool = False) -> AsyncIterator[Session]:
    """A gateway on the story's data; `killed`: its WAL is left as kill -9 leaves it."""
    story.recorder.promise("starting", None)
    async with open_core(story.settings) as core:
        stop = core.intake.stop

        async def stop_and_tell() -> None:
            await stop()
            story.recorder.promise("stopped", None)

        core.intake.stop = stop_and_tell  # type: ignore[method-assign]
        if killed:
            connection = core.intake._stores.writer._connection
            connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
        yield Session(core, story, story.recorder.promise)


async def full_day(story: Story) -> None:
    """Three runs of a gateway, with the first tile filled in the first of them."""
    first, second = PATIENTS
    async with session(story, killed=True) as ward:
        await ward.enrol("monitor", first)
        for count in (1, 3, 2):
            await ward.send("monitor", count)
        await ward.forge("monitor")
        await ward.repeat("monitor")
        await ward.send("monitor", systolic=ALARMING)
        await ward.send("monitor")
        await ward.idle(tiles.TILE_WIDTH - 3)
        for _ in range(5):
            await ward.send("monitor")
    async with session(story) as ward:
        await ward.send("monitor", 2)
        await ward.enrol("cuff", second)
        await ward.send("cuff", systolic=ALARMING)
        await ward.send("monitor", 2)
    async with session(story) as ward:
        await ward.change(
            ("assigned", "cuff", first),
            ward.core.administration.assign_device("cuff", first),
        )
        await ward.send("cuff", systolic=CALM)
        await ward.repeat("monitor")
        await ward.send("monitor")


async def short_day(story: Story) -> None:
    """The same kinds of work, each once: for faults, which need a run each."""
    async with session(story, killed=True) as ward:
        await ward.enrol("monitor", PATIENTS[0])
        await ward.send("monitor", 2)
        await ward.idle(tiles.TILE_WIDTH - 1)
        await ward.send("monitor", systolic=ALARMING)
        await ward.send("monitor")
    async with session(story) as ward:
        await ward.send("monitor")
        await ward.repeat("monitor")


async def next_day(story: Story) -> None:
    """A little more work, with a device of its own, after whatever was before."""
    async with session(story) as ward:
        await ward.enrol("spare", "P-3")
        for _ in range(3):
            await ward.send("spare")


Day = Callable[[Story], Awaitable[None]]


def reader_of(settings: Settings) -> Reader:
    return Reader(settings.directory, load_keys(settings.keys).master)


async def recorded(directory: Path, day: Day, fault: Fault | None = None) -> Story:
    """Live the day on a fresh gateway in `directory`/gateway and record it.

    With a fault the gateway may stop in the middle: what it raised is the story's
    `failure` then.
    """
    settings = prepared(directory / "gateway")
    with recording(settings.directory, fault) as recorder:
        story = Story(settings, recorder)
        with mock.patch.object(commit_room, "WAL_CHECKPOINT_PAGES", WAL_PAGES):
            try:
                await day(story)
            except (GatewayError, StoppedError, apsw.Error, OSError) as error:
                if fault is None:
                    raise
                story.failure = error
    missed = real_files(settings.directory) != image_now(recorder).files
    assert not missed, "the recorder has missed something"
    return story


def real_files(directory: Path) -> dict[str, bytes]:
    """What stands in the recorded directory, without the WAL's shared memory."""
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.is_file() and not path.name.endswith("-shm")
    }
