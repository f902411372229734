"""The intake when something goes wrong: failures, floods, restores, restarts."""

from __future__ import annotations

import asyncio
import contextlib
import time
from pathlib import Path

import apsw
import pytest
from workbench import (
    Mailbox,
    SignedDevice,
    a_failing_ward,
    a_ward,
    make_gateway,
    reader_of,
    readings_of,
    trusted_clock,
)

from edge import admission as admission_room
from edge import gateway
from edge import intake as intake_room
from edge.contracts.evaluation import Evaluator
from edge.devices.envelope import Envelope, parse
from edge.devices.originals import readings_of as decoded
from edge.devices.registry import HASHES_KEPT, Novelty, SequenceWindow
from edge.errors import ConfigurationError, DurabilityError, IntegrityError
from edge.gateway import open_core
from edge.ledger.batch import ClockTick
from edge.model import (
    Arrival,
    CommitReport,
    Firing,
    Outcome,
    Record,
    Source,
    Verdict,
)
from edge.open_batch import Change
from edge.store.commit import Batch, Writer
from edge.store.database import open_writer
from edge.store.firings import unshown

MONITOR = "monitor"


def timed_senml(time_s: int) -> bytes:
    return b'[{"n":"body_temperature","u":"Cel","v":36.7,"t":%d}]' % time_s


# ---- Acknowledged and not in the ledger ----


def test_forty_open_gaps_are_all_remembered() -> None:
    """64 are promised (docs/wire-format.md); each odd number is such a gap."""
    window = SequenceWindow()
    for sequence in range(0, 82, 2):
        window.accept(sequence, b"")
    assert window.classify(1, b"x") is Novelty.NEW


async def test_a_gap_that_is_filled_later_is_committed(tmp_path: Path) -> None:
    """A device with 40 holes in its sequence sends what it held back."""
    settings = make_gateway(tmp_path)
    monitor = SignedDevice(MONITOR)
    async with a_ward(settings) as (_, mail):
        even = [monitor.envelope(sequence=number) for number in range(0, 82, 2)]
        await asyncio.gather(*(mail.submit(MONITOR, one) for one in even))
        late = await mail.send(MONITOR, monitor.envelope(sequence=1))
    assert late.verdict is Verdict.COMMITTED


async def test_a_neighbour_of_a_deadly_message_is_never_acknowledged_unstored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A decoder's mistake loses the turn; what was accepted in it must not become a
    duplicate of something that nobody stored. The process has to stop."""
    settings = make_gateway(tmp_path)
    monitor = SignedDevice(MONITOR)
    good, deadly = monitor.envelope(), monitor.envelope()
    admit = admission_room.Admission._admit

    def faulty(self: object, arrival: Arrival, *rest: object, **more: object) -> object:
        if arrival.payload == deadly:
            raise ZeroDivisionError
        return admit(self, arrival, *rest, **more)  # type: ignore[arg-type]

    asyncio.get_running_loop().set_exception_handler(lambda *_: None)
    async with a_failing_ward(settings, ZeroDivisionError) as (core, mail):
        monkeypatch.setattr(admission_room.Admission, "_admit", faulty)
        mail.submit(MONITOR, good)
        mail.submit(MONITOR, deadly)
        await asyncio.sleep(0.1)
        again = mail.submit(MONITOR, good)
        await asyncio.sleep(0.3)
        stopped, answered = core.failure.done(), again.done()
    stored = [one.record.original for one in readings_of(settings)]
    assert not answered or good in stored, again.result()
    assert stopped


async def test_what_a_failed_turn_did_not_take_is_new_after_the_restart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The window of the first message already holds the sequences of the whole turn:
    committing the half that was taken calls the rest a duplicate for ever."""
    settings = make_gateway(tmp_path)
    monitor = SignedDevice(MONITOR)
    payloads = [monitor.envelope() for _ in range(3)]
    feed = Evaluator.feed

    def faulty(self: Evaluator, record: Record, *rest: object) -> list[Firing]:
        if record.original == payloads[1]:
            raise ZeroDivisionError
        return feed(self, record, *rest)  # type: ignore[arg-type]

    async with a_failing_ward(settings, ZeroDivisionError) as (core, mail):
        monkeypatch.setattr(Evaluator, "feed", faulty)
        for one in payloads:
            mail.submit(MONITOR, one)
        await asyncio.sleep(0.3)
        assert core.failure.done()
    monkeypatch.undo()
    async with a_ward(settings) as (_, mail):
        for one in payloads:
            await mail.send(MONITOR, one)
    stored = [one.record.original for one in readings_of(settings)]
    assert stored == payloads


async def test_nothing_is_committed_after_a_failed_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Invariant 9. The edge in memory holds entries that were rolled back: a tick or
    an alarm after it signs a head that the stored entries do not lead to."""
    settings = make_gateway(tmp_path)
    monkeypatch.setattr(intake_room, "TICK_INTERVAL_S", 0.2)
    write = Writer._write_side_tables
    failures = 0

    def full_once(self: Writer, batch: Batch, batch_id: int | None) -> int:
        nonlocal failures
        if batch.message_count and not failures:
            failures += 1
            raise apsw.FullError("database or disk is full")
        return write(self, batch, batch_id)

    monkeypatch.setattr(Writer, "_write_side_tables", full_once)
    async with a_failing_ward(settings, DurabilityError) as (core, mail):
        mail.submit(MONITOR, SignedDevice(MONITOR).envelope())
        await asyncio.sleep(0.05)
        size = reader_of(settings).checkpoint()[0]
        await asyncio.sleep(0.5)  # the doors close meanwhile: up to 8 s in run()
        assert core.failure.done()
        after = reader_of(settings).checkpoint()[0]
    async with a_ward(settings):  # IntegrityError: can never be started again
        pass
    assert after == size


# ---- Never answered, and nobody told ----


async def test_a_view_that_raises_keeps_nobody_from_an_answer(tmp_path: Path) -> None:
    """Else the commit task dies and the open batch waits for some other message."""
    settings = make_gateway(tmp_path)
    monitor = SignedDevice(MONITOR)

    def broken(_: CommitReport) -> None:
        raise ZeroDivisionError

    async with a_ward(settings) as (core, mail):
        core.intake.on_commit.append(broken)
        mail.submit(MONITOR, monitor.envelope())
        await asyncio.sleep(0)
        await asyncio.sleep(0)  # the first is in flight now
        second = mail.submit(MONITOR, monitor.envelope())
        outcome = await asyncio.wait_for(second, 5)
        core.intake.on_commit.clear()
    assert outcome.verdict is Verdict.COMMITTED


async def test_a_settle_that_raises_keeps_no_answer_from_the_others(
    tmp_path: Path,
) -> None:
    """Two messages of one commit; the first door's settle has a mistake."""
    settings = make_gateway(tmp_path)
    monitor = SignedDevice(MONITOR)

    def broken(_: Outcome) -> None:
        raise ZeroDivisionError

    async with a_ward(settings) as (core, mail):
        core.intake.submit(
            Arrival(Source.MQTT, "x", MONITOR, "vitals", monitor.envelope(), broken)
        )
        second = mail.submit(MONITOR, monitor.envelope())
        await asyncio.sleep(0.3)
        told = core.failure.done() or second.done()
    assert told


async def test_a_mistake_in_safe_mode_stops_the_gateway(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The safe task dies and is never started again: all later messages wait."""
    settings = make_gateway(tmp_path)
    async with a_ward(settings):
        pass
    connection = open_writer(settings.directory)
    connection.execute("INSERT OR REPLACE INTO meta VALUES ('abnormal_exits', 2)")
    connection.close()
    monitor = SignedDevice(MONITOR)
    deadly = monitor.envelope()

    def faulty(payload: bytes) -> Envelope:
        if payload == deadly:
            raise ZeroDivisionError
        return parse(payload)

    monkeypatch.setattr(admission_room, "parse_envelope", faulty)
    told = False
    try:
        async with a_ward(settings) as (core, mail):
            mail.submit(MONITOR, deadly)
            await asyncio.sleep(0.2)
            later = mail.submit(MONITOR, monitor.envelope())
            await asyncio.sleep(0.5)
            told = core.failure.done() or later.done()
    except ZeroDivisionError:
        pass
    assert told


async def test_safe_mode_bounds_the_bytes_that_wait(tmp_path: Path) -> None:
    """8,192 messages of 64 KB would be half a gigabyte."""
    settings = make_gateway(tmp_path)
    async with a_ward(settings):
        pass
    connection = open_writer(settings.directory)
    connection.execute("INSERT OR REPLACE INTO meta VALUES ('abnormal_exits', 2)")
    connection.close()
    async with a_ward(settings) as (core, mail):
        answers = [mail.submit(MONITOR, bytes(65_536)) for _ in range(200)]
        congested = core.intake.congested
        core.intake._turn.clear()
        assert answers
    assert congested  # 13 MB wait; the bound is 4 MB


# ---- What contracts know ----


async def test_a_gatt_value_over_mqtt_is_not_a_ble_reading(tmp_path: Path) -> None:
    """Anybody could speak for a BLE device, and the record cannot be decoded again:
    `iomt readings` and the replay refuse it."""
    settings = make_gateway(tmp_path)
    async with open_core(settings) as core:
        await core.administration.add_device("strap", "ble", None, "AA:BB:CC:DD:EE:FF")
        outcome = await Mailbox(core).send("strap", b"\x00\x48", "2a37")
    for one in readings_of(settings):
        assert decoded(one.record).readings
    assert outcome.verdict is Verdict.REFUSED


async def test_an_alarm_ends_when_its_device_leaves_the_patient(tmp_path: Path) -> None:
    """Otherwise it is active for ever, and so is its subject's place among 1,024."""
    settings = make_gateway(tmp_path)
    seen: list[CommitReport] = []
    async with a_ward(settings) as (core, mail):
        core.intake.on_commit.append(seen.append)
        monitor = SignedDevice(MONITOR)
        await mail.send(MONITOR, monitor.envelope(systolic_pressure=192))
        await core.administration.assign_device(MONITOR, None)
    phases = [one.firing.phase for report in seen for one in report.firings]
    assert phases == ["start", "end"]


async def test_an_alarm_ends_when_its_device_is_revoked(tmp_path: Path) -> None:
    """A revoked device cannot be released any more, so this is the last occasion."""
    settings = make_gateway(tmp_path)
    seen: list[CommitReport] = []
    async with a_ward(settings) as (core, mail):
        core.intake.on_commit.append(seen.append)
        high = SignedDevice(MONITOR).envelope(systolic_pressure=192)
        await mail.send(MONITOR, high)
        await core.administration.revoke_device(MONITOR)
    phases = [one.firing.phase for report in seen for one in report.firings]
    assert phases == ["start", "end"]


async def test_an_active_alarm_is_shown_after_a_restart(tmp_path: Path) -> None:
    """The machine knows that it is active, so it does not start again."""
    settings = make_gateway(tmp_path)
    monitor = SignedDevice(MONITOR)
    async with a_ward(settings) as (core, mail):
        await mail.send(MONITOR, monitor.envelope(systolic_pressure=192))
        await core.administration.assign_device("thermometer", None)  # shown: row gone
    stop = asyncio.Event()
    active: list[object] = []

    async def look(running: gateway.Running) -> None:
        mail = Mailbox(running.core)
        await mail.send(MONITOR, monitor.envelope(systolic_pressure=193))
        active.extend(running.live.snapshot()["active"])
        stop.set()

    tasks: list[asyncio.Task[None]] = []
    async with asyncio.timeout(20):
        await gateway.run(
            settings, stop, lambda one: tasks.append(asyncio.create_task(look(one)))
        )
    await tasks[0]
    assert active


async def test_an_undelivered_alert_outlives_a_firing_before_its_release(
    tmp_path: Path,
) -> None:
    """Doors and overdue timers work before run() releases what was left over."""
    settings = make_gateway(tmp_path)
    monitor = SignedDevice(MONITOR)
    async with a_ward(settings) as (_, mail):
        await mail.send(MONITOR, monitor.envelope(systolic_pressure=192))
    left = [stored.leaf for _, stored in unshown(reader_of(settings))]
    assert left  # its commit was the last: as after a crash before the release
    seen: list[CommitReport] = []
    async with a_ward(settings) as (core, mail):
        core.intake.on_commit.append(seen.append)
        await mail.send(MONITOR, monitor.envelope(systolic_pressure=120))
        await mail.send(MONITOR, monitor.envelope(systolic_pressure=120))
        gateway._release_undelivered(core)
    phases = [one.firing.phase for report in seen for one in report.firings]
    assert "start" in phases


# ---- Repetitions ----


async def test_an_unsigned_repetition_is_known_for_a_day(tmp_path: Path) -> None:
    """24 h are promised; after HASHES_KEPT other messages it is committed twice."""
    settings = trusted_clock(tmp_path)
    now_s = time.time_ns() // 1_000_000_000
    async with a_ward(settings) as (_, mail):
        first = timed_senml(now_s)
        await mail.send("thermometer", first)
        others = [timed_senml(now_s - 1 - n) for n in range(HASHES_KEPT)]
        await asyncio.gather(*(mail.submit("thermometer", one) for one in others))
        again = await mail.send("thermometer", first, again=True)
    assert again.verdict is Verdict.DUPLICATE


def test_hashes_that_come_back_from_the_store_do_not_push_out_newer_ones() -> None:
    """After a restart: 10 new, an old one comes and 1,014 are recalled, then 10 new."""
    window = SequenceWindow(high=1999)
    for sequence in range(2000, 2010):
        window.accept(sequence, b"good")
    window.recall(dict.fromkeys(range(986, 2000), b"old"))
    for sequence in range(2010, 2020):
        window.accept(sequence, b"good")
    assert window.classify(2005, b"forged") is Novelty.EQUIVOCATION


# ---- Small doors to a stop ----


async def test_an_address_that_is_no_text_is_refused_and_stops_nothing(
    tmp_path: Path,
) -> None:
    """`iomt device add D --ble $'\\xff'`: a surrogate reaches SQLite on the writer."""
    async with open_core(make_gateway(tmp_path)) as core:
        with pytest.raises(ConfigurationError):
            async with asyncio.timeout(1):
                await core.administration.add_device("strap", "ble", None, "\udcff")
        assert not core.failure.done()


async def test_every_reading_of_a_large_message_can_be_proven(tmp_path: Path) -> None:
    """SenML may hold 1,024 records, hence readings up to .1023."""
    settings = make_gateway(tmp_path)
    now_s = time.time_ns() // 1_000_000_000
    records = (
        f'{{"n":"ecg","u":"mV","v":1,"t":{now_s - number}}}' for number in range(1024)
    )
    async with a_ward(settings) as (_, mail):
        payload = ("[" + ",".join(records) + "]").encode()
        assert (await mail.send("thermometer", payload)).verdict is Verdict.COMMITTED
    [one] = readings_of(settings)
    assert reader_of(settings).prove(one.reading_id(1023))


async def test_a_flood_of_refusals_costs_each_about_the_same(tmp_path: Path) -> None:
    """The quarantine's quota must not be summed up anew for each message: a full one
    (64 MB) makes that 40 ms each here, 10 s for a turn of 256, while all others wait.
    Counted in SQLite's own steps, so that no clock is in it."""
    settings = make_gateway(tmp_path)
    steps = 0

    def step() -> bool:
        nonlocal steps
        steps += 1
        return False

    async def flood(mail: Mailbox, count: int) -> int:
        before = steps
        await asyncio.gather(*(mail.submit("nobody", b"x") for _ in range(count)))
        return steps - before

    async with a_ward(settings) as (core, mail):
        core.intake._stores.writer._connection.set_progress_handler(step, 100)
        first = await flood(mail, 300)
        await flood(mail, 3000)
        last = await flood(mail, 300)
    assert last < 2 * first, (first, last)


async def test_a_restored_database_does_not_write_over_the_tiles_of_its_future(
    tmp_path: Path,
) -> None:
    """Invariant 7, as far as this machine alone can tell: a full tile stands there with
    other bytes, so a larger log was signed already."""
    settings = make_gateway(tmp_path)

    async def grow(count: int) -> None:
        async with open_core(settings) as core:
            boot_id = core.intake._stores.boot_id
            now_ms = core.intake._clock.now_ms()
            entries = [ClockTick(boot_id, now_ms, False).encode() for _ in range(count)]
            await core.administration._intake.administer(
                lambda _: Change(entries=entries)
            )

    await grow(240)
    database = settings.directory / "gateway.db"
    backup = database.read_bytes()
    await grow(20)
    tile = settings.directory / "ledger/tile/0/000"
    signed = tile.read_bytes()
    database.write_bytes(backup)
    with contextlib.suppress(IntegrityError, DurabilityError):
        await grow(20)
    assert tile.read_bytes() == signed
