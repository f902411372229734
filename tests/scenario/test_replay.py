"""`iomt replay` against gateways that lie: each is the real one with one seeded lie."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import apsw
import pytest
from workbench import SignedDevice, a_ward, make_gateway, reader_of

import edge.contracts
from edge.admission import Admitted
from edge.clock import Clock
from edge.commands import replay as command
from edge.config import Settings
from edge.contracts.replay import Fault, Inputs
from edge.devices.originals import readings_of
from edge.intake import Intake
from edge.ledger.note import parse_checkpoint, parse_note
from edge.model import Firing, Outcome, Record, Verdict
from edge.open_batch import OpenBatch
from edge.store.database import DATABASE_NAME
from edge.store.replaying import Replayed, replay

LIBRARY = Path(edge.contracts.__file__).parent / "library"
HIGH, CALM = 199, 120
LATER_MS = 2**45  # of a look at the store, long after


async def a_day(settings: Settings, count: int = 6) -> None:
    """Alarms start and end; the gateway is restarted in between, an alarm active."""
    monitor = SignedDevice("monitor")
    for begin in (0, count):
        monitor.sequence = begin
        async with a_ward(settings) as (core, mail):
            for number in range(count):
                pressure = HIGH if number in (1, 2, count - 1) else CALM
                await mail.send("monitor", monitor.envelope(systolic_pressure=pressure))
            about = {"contract": "blood-pressure", "rule": "high", "patient": "P-1"}
            act = core.administration.operations["alarm-act"]
            await act(kind="acknowledge", actor="n.b", **about)


async def replayed(directory: Path) -> Replayed:
    settings = replace(make_gateway(directory), contracts=LIBRARY)
    await a_day(settings)
    return replay(reader_of(settings), LATER_MS)


def faults(result: Replayed) -> set[Fault]:
    return {one.fault for one in result.findings}


async def test_an_honest_gateway_is_found_honest(tmp_path: Path) -> None:
    """Over restarts, acknowledgements and alarms that last through a restart."""
    result = await replayed(tmp_path)
    assert result.findings == []
    assert result.firings >= 6
    assert result.lacking == []


Fire = Callable[[OpenBatch, Sequence[Firing], Record], None]


def lying(
    monkeypatch: pytest.MonkeyPatch, lie: Callable[[Firing], Sequence[Firing]]
) -> None:
    """A gateway that enters something else than its contracts fired."""
    honest = OpenBatch.fire

    def fire(self: OpenBatch, firings: Sequence[Firing], cause: Record) -> None:
        honest(self, [told for one in firings for told in lie(one)], cause)

    monkeypatch.setattr(OpenBatch, "fire", fire)


@pytest.mark.parametrize(
    ("lie", "fault"),
    [
        (lambda one: [] if one.phase == "start" else [one], Fault.MISSING),
        (lambda one: [one, one], Fault.EXTRA),
        (lambda one: [one, replace(one, rule="low")], Fault.EXTRA),
        (lambda one: [replace(one, values={"systolic": 130})], Fault.ALTERED),
        (lambda one: [replace(one, priority="low")], Fault.ALTERED),
        (lambda one: [replace(one, at_ms=one.at_ms + 1)], Fault.ALTERED),
    ],
    ids=["suppressed", "twice", "invented", "values", "priority", "time"],
)
async def test_a_firing_that_is_not_what_the_contract_says_is_found(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    lie: Callable[[Firing], Sequence[Firing]],
    fault: Fault,
) -> None:
    lying(monkeypatch, lie)
    assert faults(await replayed(tmp_path)) == {fault}


async def test_a_firing_that_is_held_back_is_late(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held: list[tuple[Firing, Record]] = []
    honest = OpenBatch.fire

    def fire(self: OpenBatch, firings: Sequence[Firing], cause: Record) -> None:
        told = [one for one, _ in held]
        held.clear()
        held.extend((one, cause) for one in firings)
        honest(self, told, cause)

    monkeypatch.setattr(OpenBatch, "fire", fire)
    result = await replayed(tmp_path)
    assert Fault.LATE in faults(result)


async def test_a_reading_that_is_left_out_is_a_gap_in_its_devices_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The gateway acknowledges it and neither enters nor evaluates it: replay finds the
    contracts followed, and the device's own numbers tell."""
    honest = Intake._take

    def take(self: Intake, admitted: Admitted) -> Outcome:
        if readings_of(admitted.record).sequence == 3:
            return Outcome(Verdict.COMMITTED)
        return honest(self, admitted)

    monkeypatch.setattr(Intake, "_take", take)
    result = await replayed(tmp_path)
    assert faults(result) == {Fault.GAP}
    assert "number 3 never came" in result.findings[0].text


def test_two_readings_that_change_places_are_out_of_order() -> None:
    """A device numbers what it sends; without a mark of being late they only rise."""
    inputs = Inputs()
    for sequence in (0, 2, 1, 3):
        inputs.signed("monitor", sequence, sequence, 0, late=False)
    assert [one.fault for one in inputs.end()] == [Fault.ORDER]
    late = Inputs()
    for sequence in (0, 2, 1, 3):
        late.signed("monitor", sequence, sequence, 0, late=sequence == 1)
    assert late.end() == []


async def test_a_clock_that_stands_still_shows_as_silence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Time that is not told is made up for later: entries jump farther than a tick."""
    honest, stopped = Clock.now_ms, [0]

    def now_ms(self: Clock) -> int:
        stopped[0] += 1
        now = honest(self)
        return now + (90_000 if stopped[0] > 12 else 0)

    monkeypatch.setattr(Clock, "now_ms", now_ms)
    assert Fault.SILENCE in faults(await replayed(tmp_path))


async def test_an_episode_that_is_dropped_after_its_commit_is_lost(
    tmp_path: Path,
) -> None:
    """The frames of one device and assignment, and their key, as if they never were:
    the leaf hashes of their batches tell that they were."""
    settings = replace(make_gateway(tmp_path), contracts=LIBRARY)
    await a_day(settings)
    connection = apsw.Connection(str(settings.directory / "gateway.db"))
    [(episode,)] = connection.execute(
        "SELECT episode FROM frames WHERE class = 1 LIMIT 1"
    )
    connection.execute("DELETE FROM frames WHERE episode = ?", (episode,))
    connection.execute("DELETE FROM episodes WHERE id = ?", (episode,))
    connection.close()
    result = replay(reader_of(settings), LATER_MS)
    assert Fault.LOST in faults(result)
    assert "records are missing" in result.findings[0].text


async def test_an_episode_that_was_never_entered_is_a_gap(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A whole assignment of a device, acknowledged and kept from the ledger."""
    honest, kept_out = Intake._take, range(2, 9)

    def take(self: Intake, admitted: Admitted) -> Outcome:
        if readings_of(admitted.record).sequence in kept_out:
            return Outcome(Verdict.COMMITTED)
        return honest(self, admitted)

    monkeypatch.setattr(Intake, "_take", take)
    result = await replayed(tmp_path)
    [gap] = result.findings
    assert (gap.fault, gap.text) == (
        Fault.GAP,
        "monitor: number 2, 3, 4, 5, 6, 7, 8 never came",
    )


async def test_a_tail_that_was_cut_is_a_gap_and_no_continuation(tmp_path: Path) -> None:
    """The gateway goes back to yesterday's store, and signs on with the same key: the
    device's numbers jump, and a checkpoint that anybody kept fits no more."""
    settings = replace(make_gateway(tmp_path / "g"), contracts=LIBRARY)
    monitor = SignedDevice("monitor")
    async with a_ward(settings) as (core, mail):
        for _ in range(3):
            await mail.send("monitor", monitor.envelope(systolic_pressure=HIGH))
    yesterday = tmp_path / "yesterday"
    shutil.copytree(settings.directory, yesterday)
    async with a_ward(settings) as (core, mail):
        for _ in range(4):
            await mail.send("monitor", monitor.envelope(systolic_pressure=CALM))
    kept = reader_of(settings).log().checkpoint()[1]
    shutil.rmtree(settings.directory)
    shutil.copytree(yesterday, settings.directory)  # with the evidence, keys and all
    async with a_ward(settings) as (core, mail):
        for _ in range(5):
            await mail.send("monitor", monitor.envelope(systolic_pressure=HIGH))
        log = core.reader.log()
        size, _ = log.checkpoint()
        old = parse_checkpoint(parse_note(kept).text)
        assert size > old.size
        assert log.root_at(old.size, size) != old.root
    result = replay(reader_of(settings), LATER_MS)
    [gap] = result.findings
    assert gap.text == "monitor: number 3, 4, 5, 6 never came"


async def test_the_records_of_an_erased_patient_are_not_enough(tmp_path: Path) -> None:
    settings = replace(make_gateway(tmp_path), contracts=LIBRARY)
    await a_day(settings)
    async with a_ward(settings) as (core, _):
        await core.administration.operations["patient-erase"](name="P-1")
    with contextlib.closing(
        apsw.Connection(str(settings.directory / DATABASE_NAME))
    ) as store:
        store.execute(  # a slow commit: the end of the alarm stands in it too
            "UPDATE erasures SET started_ms = "
            "(SELECT MIN(time_ms) FROM batches WHERE time_ms >= started_ms) - 1"
        )
    result = replay(reader_of(settings), LATER_MS)
    assert result.findings == []
    [lacking] = result.lacking
    assert "records of patients who were erased" in lacking


async def test_the_command_exits_by_what_it_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from edge.cli import main

    lying(monkeypatch, lambda one: [] if one.phase == "end" else [one])
    settings = replace(make_gateway(tmp_path), contracts=LIBRARY)
    await a_day(settings)
    data = ("--data", str(settings.directory))
    status = await asyncio.to_thread(main, ["replay", *data])
    assert status == command.EXIT_FAULTS
    assert "missing  batch" in capsys.readouterr().out
    status = await asyncio.to_thread(main, ["replay", "--patient", "nobody", *data])
    assert "no patient 'nobody'" in capsys.readouterr().err
    status = await asyncio.to_thread(main, ["replay", "--from", "999999", *data])
    assert status == 0
