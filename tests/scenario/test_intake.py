"""The path of a reading through a real store: durable first, answered second."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

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
    vkey,
)

from edge.admission import digest_of
from edge.config import Settings
from edge.devices.profiles.date_time import Timestamp
from edge.devices.profiles.pulse_oximeter import Pair, SpotCheck
from edge.errors import (
    BusyError,
    ConfigurationError,
    DurabilityError,
    IntegrityError,
    NotFoundError,
    Reason,
)
from edge.gateway import KERNEL_BOOT, Core, open_core
from edge.ledger.verify import Verdict as LedgerVerdict
from edge.ledger.verify import verify_directory, verify_proof
from edge.model import (
    Arrival,
    Attestation,
    CommitReport,
    Flag,
    Kind,
    Outcome,
    Source,
    Verdict,
)
from edge.store.commit import Writer
from edge.store.database import open_writer

SENML = b'[{"n":"body_temperature","u":"Cel","v":36.7}]'
DAY_MS = 24 * 3600 * 1000


def exported(settings: Settings, target: Path) -> Path:
    reader_of(settings).export(target)
    return target


async def test_every_message_is_answered_and_the_counts_add_up(tmp_path: Path) -> None:
    """received = committed + duplicates + refused, each refusal with its reason."""
    settings = trusted_clock(tmp_path)
    monitor = SignedDevice("monitor")
    stranger = SignedDevice("monitor", seed=bytes(32))
    now_ms = time.time_ns() // 1_000_000
    async with a_ward(settings) as (core, mail):
        good = monitor.envelope(heart_rate=71.5, spo2=97)
        assert (await mail.send("monitor", good)).verdict is Verdict.COMMITTED
        assert (await mail.send("monitor", good)).verdict is Verdict.DUPLICATE
        assert (await mail.send("thermometer", SENML)).verdict is Verdict.COMMITTED
        refusals = [
            (
                "monitor",
                monitor.envelope(sequence=0, heart_rate=9),
                Reason.EQUIVOCATION,
            ),
            ("monitor", stranger.envelope(sequence=77), Reason.BAD_SIGNATURE),
            ("monitor", b"\xd2garbage", Reason.MALFORMED),
            ("monitor", good[:-1], Reason.MALFORMED),
            ("monitor", good[:-1] + bytes([good[-1] ^ 1]), Reason.BAD_SIGNATURE),
            ("nobody", good, Reason.UNKNOWN_DEVICE),
            ("thermometer", b"[{", Reason.MALFORMED),
            ("monitor", bytes(70_000), Reason.TOO_LARGE),
            (
                "monitor",
                monitor.envelope(time_ms=now_ms + 6 * 60_000),
                Reason.IMPLAUSIBLE_CLOCK,
            ),
            (
                "monitor",
                monitor.envelope(time_ms=now_ms - 31 * DAY_MS),
                Reason.IMPLAUSIBLE_CLOCK,
            ),
        ]
        for device, payload, reason in refusals:
            outcome = await mail.send(device, payload)
            assert (outcome.verdict, outcome.reason) == (Verdict.REFUSED, reason)
            assert outcome.detail
        wrong_stream = await mail.send("monitor", monitor.envelope(), stream="other")
        assert wrong_stream.reason is Reason.WRONG_TOPIC
        totals = core.intake.totals
    counted = reader_of(settings).counters()
    assert counted == +totals
    assert counted["received"] == 3 + len(refusals) + 1
    assert counted["received"] == (
        counted["committed"] + counted["duplicates"] + counted["refused"]
    )
    kept = list(reader_of(settings).quarantine())
    assert [row[3] for _, _, row in kept] == [
        *(reason.value for _, _, reason in refusals),
        "wrong-topic",
    ]
    assert kept[2][2][5] == b"\xd2garbage"  # the refused bytes themselves


async def test_nothing_is_answered_or_shown_before_the_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Invariant 1. The writer is held; meanwhile no answer, no view, no alert."""
    settings = make_gateway(tmp_path)
    held = asyncio.Event()
    loop = asyncio.get_running_loop()
    commit = Writer.commit

    def slow(self: Writer, batch: object) -> object:
        asyncio.run_coroutine_threadsafe(held.wait(), loop).result()
        return commit(self, batch)  # type: ignore[arg-type]

    seen: list[CommitReport] = []
    async with a_ward(settings) as (core, mail):
        core.intake.on_commit.append(seen.append)
        monkeypatch.setattr(Writer, "commit", slow)
        answer = mail.submit("monitor", SignedDevice("monitor").envelope(spo2=70))
        await asyncio.sleep(0.1)
        answered, shown, stored = answer.done(), bool(seen), readings_of(settings)
        held.set()
        assert (answered, shown, stored) == (False, False, [])
        assert (await answer).verdict is Verdict.COMMITTED
        assert seen[0].readings[0].patient == "P-1"


async def test_a_failed_commit_answers_nothing_and_stops_the_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Invariant 9, with the seeded failure that a full or broken disk gives."""
    settings = make_gateway(tmp_path)

    def broken(*_: object) -> object:
        raise DurabilityError("commit: disk I/O error")

    async with a_failing_ward(settings, DurabilityError) as (core, mail):
        monkeypatch.setattr(Writer, "commit", broken)
        answer = mail.submit("monitor", SignedDevice("monitor").envelope())
        with pytest.raises(DurabilityError):
            async with asyncio.timeout(5):
                await core.failure
        assert not answer.done()
    monkeypatch.undo()
    async with a_ward(settings) as (_, mail):
        outcome = await mail.send("monitor", SignedDevice("monitor").envelope())
        assert outcome.verdict is Verdict.COMMITTED


async def test_after_a_restart_what_came_before_is_known(tmp_path: Path) -> None:
    """A device that did not see our answer sends again: once in the ledger."""
    settings = make_gateway(tmp_path)
    monitor = SignedDevice("monitor")
    timed = b'[{"n":"body_temperature","u":"Cel","v":36.7,"t":1800000000}]'
    async with a_ward(settings) as (_, mail):
        first = monitor.envelope(heart_rate=60)
        assert (await mail.send("monitor", first)).verdict is Verdict.COMMITTED
        assert (await mail.send("thermometer", timed)).verdict is Verdict.COMMITTED
    async with a_ward(settings) as (_, mail):
        assert (await mail.send("monitor", first)).verdict is Verdict.DUPLICATE
        other = monitor.envelope(sequence=0, heart_rate=61)
        assert (await mail.send("monitor", other)).reason is Reason.EQUIVOCATION
        assert (await mail.send("thermometer", timed)).verdict is Verdict.DUPLICATE
    assert len(readings_of(settings)) == 2


async def test_an_unsigned_reading_without_a_time_repeats_only_when_redelivered(
    tmp_path: Path,
) -> None:
    """36.7 twice is two measurements, unless MQTT says that it is the same packet."""
    async with a_ward(make_gateway(tmp_path)) as (_, mail):
        verdicts = [
            (await mail.send("thermometer", SENML, again=again, packet=packet)).verdict
            for packet, again in ((1, False), (2, False), (2, True), (3, True))
        ]
    # Packet 3 was lost on its way the first time: it is a reading of its own.
    assert [one.value for one in verdicts] == [
        "committed",
        "committed",
        "duplicate",
        "committed",
    ]


async def test_the_ledger_and_a_disclosed_proof_verify_offline(tmp_path: Path) -> None:
    settings = make_gateway(tmp_path / "gateway")
    monitor = SignedDevice("monitor")
    async with a_ward(settings) as (_, mail):
        for _ in range(3):
            payloads = [monitor.envelope(heart_rate=60) for _ in range(5)]
            await asyncio.gather(*(mail.submit("monitor", one) for one in payloads))
    report = verify_directory(exported(settings, tmp_path / "log"), vkey(settings))
    assert report.verdict is LedgerVerdict.OK, report.lines()
    reader = reader_of(settings)
    stored = readings_of(settings)
    assert [one.record.original for one in stored] == list(monitor.sent.values())
    proof = tmp_path / "one.tlog-proof"
    for disclose in (False, True):
        for one in stored:
            proof.write_bytes(reader.prove(one.reading_id(0), disclose=disclose))
            assert verify_proof(proof, vkey(settings)).verdict is LedgerVerdict.OK
    for name in (
        "nonsense",
        "000000000000-0-1.0",
        f"{stored[0].reading_id(0)[:-4]}999",
    ):
        with pytest.raises(NotFoundError):
            reader.prove(name)


async def test_the_log_grows_over_a_tile_and_its_files_match(tmp_path: Path) -> None:
    """More than 256 entries: full tiles and bundles become files, rows go."""
    settings = make_gateway(tmp_path / "gateway")
    monitor = SignedDevice("monitor")
    async with a_ward(settings) as (core, mail):
        for _ in range(3):  # each restart adds an entry too
            for _ in range(90):
                await asyncio.wait_for(
                    _urgent(core, mail.submit("monitor", monitor.envelope())), 10
                )
    reader = reader_of(settings)
    size, _ = reader.checkpoint()
    assert size > 256
    assert (settings.directory / "ledger/tile/entries/000").is_file()
    assert (settings.directory / "ledger/tile/0/000").is_file()
    target = exported(settings, tmp_path / "log")
    assert verify_directory(target, vkey(settings)).verdict is LedgerVerdict.OK
    for path in (p for p in target.rglob("*") if p.is_file()):
        name = str(path.relative_to(target))
        assert reader.resource(name) == path.read_bytes()
    # A smaller checkpoint's partial tiles are still served.
    bundle = reader.resource("tile/entries/000.p/7")
    whole = reader.resource("tile/entries/000")
    assert bundle is not None
    assert whole is not None
    assert whole.startswith(bundle)
    assert reader.resource("tile/0/009") is None
    assert reader.resource("../keys/log.key") is None


async def _urgent(core: Core, answer: asyncio.Future[Outcome]) -> Outcome:
    """Have what waits committed now: an administrator's change needs no token."""
    await asyncio.sleep(0)
    await core.administration.assign_device("monitor", None)
    return await answer


async def test_an_alarm_is_committed_with_its_reading_and_then_shown(
    tmp_path: Path,
) -> None:
    settings = make_gateway(tmp_path)
    seen: list[CommitReport] = []
    async with a_ward(settings) as (core, mail):
        core.intake.on_commit.append(seen.append)
        high = SignedDevice("monitor").envelope(systolic_pressure=192)
        await mail.send("monitor", high)
    fired = [one for report in seen for one in report.firings]
    assert [(one.firing.phase, one.patient) for one in fired] == [("start", "P-1")]
    records = list(reader_of(settings).records())
    kinds = {one.leaf: one.record.kind for one in records if one.number == 1}
    firing = next(one for one in records if one.record.kind is Kind.FIRING)
    reading = next(one for one in records if one.record.kind is Kind.READING)
    assert firing.number == reading.number, kinds
    assert fired[0].reading_id == firing.reading_id(0)


async def test_a_rule_fires_at_its_time_without_another_reading(tmp_path: Path) -> None:
    """A due timer makes a tick record; the firing stands in the same commit."""
    settings = make_gateway(tmp_path)
    assert settings.contracts is not None
    for file in settings.contracts.iterdir():
        file.unlink()
    (settings.contracts / "low.toml").write_text(
        """\
contract = "low"
version = 1
engine = "rules/1"
subject = "patient"
[inputs]
spo2 = { unit = "%", scale = 1, fresh = "10s" }
[rules.low]
priority = "high"
when = "spo2 < 90"
for = "1s"
"""
    )
    seen: list[CommitReport] = []
    async with a_ward(settings) as (core, mail):
        core.intake.on_commit.append(seen.append)
        await mail.send("monitor", SignedDevice("monitor").envelope(spo2=80))
        assert not [one for report in seen for one in report.firings]
        async with asyncio.timeout(5):
            while not any(report.firings for report in seen):
                await asyncio.sleep(0.05)
    kinds = [one.record.kind for one in reader_of(settings).records()]
    assert kinds.count(Kind.TICK) == 1
    assert kinds.count(Kind.FIRING) == 1


async def test_a_restart_in_the_middle_of_a_rule_changes_no_firing(
    tmp_path: Path,
) -> None:
    """Invariant 2: the state is replayed from the records with everyday's code."""
    settings = make_gateway(tmp_path)
    monitor = SignedDevice("monitor")
    seen: list[CommitReport] = []
    async with a_ward(settings) as (core, mail):
        await mail.send("monitor", monitor.envelope(systolic_pressure=192))
        state = core.intake.evaluator.machine.snapshot()
    async with a_ward(settings) as (core, mail):
        core.intake.on_commit.append(seen.append)
        assert core.intake.evaluator.machine.snapshot() == state
        [active] = core.intake.evaluator.machine.active()
        assert (active.rule, active.phase) == ("high", "start")
        await mail.send("monitor", monitor.envelope(systolic_pressure=193))
        assert not [one for report in seen for one in report.firings]
        await mail.send("monitor", monitor.envelope(systolic_pressure=120))
    phases = [one.firing.phase for report in seen for one in report.firings]
    assert phases == ["end"]


async def test_a_sensor_that_is_off_raises_no_low_alarm(tmp_path: Path) -> None:
    """0 on every channel, as a monitor whose leads fell off sends it."""
    settings = make_gateway(tmp_path)
    monitor = SignedDevice("monitor")
    seen: list[CommitReport] = []
    async with a_ward(settings) as (core, mail):
        core.intake.on_commit.append(seen.append)
        off = monitor.envelope(heart_rate=0, spo2=0, systolic_pressure=0)
        await mail.send("monitor", off)
        low = monitor.envelope(systolic_pressure=60, sensor_contact=0)
        await mail.send("monitor", low)
    fired = [one.firing for report in seen for one in report.firings]
    assert not [one for one in fired if one.priority != "technical"]
    flags = [one.record.flags for one in reader_of(settings).records(device=1)]
    assert any(Flag.IMPLAUSIBLE in one for one in flags)
    assert any(Flag.NO_CONTACT in one for one in flags)


async def test_a_wrong_clock_refuses_no_good_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A Pi without a clock chip has booted and no time server has answered yet."""
    settings = make_gateway(tmp_path)
    monitor = SignedDevice("monitor")
    now_ms = time.time_ns() // 1_000_000
    monkeypatch.setattr("edge.gateway.kernel_says_synced", lambda: False)
    async with a_ward(settings) as (_, mail):
        for shift_ms in (-4000 * DAY_MS, 400 * DAY_MS, 0):
            payload = monitor.envelope(time_ms=now_ms + shift_ms)
            outcome = await mail.send("monitor", payload)
            assert outcome.verdict is Verdict.COMMITTED
    records = [one.record for one in readings_of(settings)]
    assert all(Flag.UNSYNCED in one.flags for one in records)
    assert not any(Flag.LATE in one.flags for one in records)


async def test_a_late_reading_is_flagged_and_raises_no_live_alarm(
    tmp_path: Path,
) -> None:
    settings = trusted_clock(tmp_path)
    monitor = SignedDevice("monitor")
    now_ms = time.time_ns() // 1_000_000
    seen: list[CommitReport] = []
    async with a_ward(settings) as (core, mail):
        core.intake.on_commit.append(seen.append)
        late = monitor.envelope(time_ms=now_ms - 90_000, systolic_pressure=200)
        assert (await mail.send("monitor", late)).verdict is Verdict.COMMITTED
        stored = monitor.envelope(backlog=True, systolic_pressure=200)
        assert (await mail.send("monitor", stored)).verdict is Verdict.COMMITTED
    assert not [one for report in seen for one in report.firings]
    flags = [one.record.flags for one in reader_of(settings).records(device=1)]
    assert any(Flag.LATE in one for one in flags)
    assert any(Flag.BACKLOG in one for one in flags)


async def test_two_gateways_on_one_directory_the_second_refuses(tmp_path: Path) -> None:
    settings = make_gateway(tmp_path)
    async with open_core(settings):
        with pytest.raises(BusyError, match=f"process {os.getpid()}"):
            async with open_core(settings):
                pass


async def test_another_origin_is_refused_for_the_same_data(tmp_path: Path) -> None:
    """Else one key would sign two logs over one history."""
    settings = make_gateway(tmp_path)
    async with open_core(settings):
        pass
    from dataclasses import replace

    with pytest.raises(ConfigurationError, match="origin"):
        async with open_core(replace(settings, origin="other.example/ward")):
            pass


async def test_a_damaged_store_is_not_signed_over(tmp_path: Path) -> None:
    """The head is recomputed at the start: an altered entry stops the gateway."""
    import apsw

    settings = make_gateway(tmp_path)
    async with a_ward(settings) as (_, mail):
        await mail.send("monitor", SignedDevice("monitor").envelope())
    connection = apsw.Connection(str(settings.directory / "gateway.db"))
    connection.execute(
        "UPDATE entries SET body = CAST(body || x'00' AS BLOB) WHERE idx = 2"
    )
    connection.close()
    with pytest.raises(IntegrityError, match="do not lead to the checkpoint"):
        async with open_core(settings):
            pass


async def test_a_revoked_device_is_refused_and_stays_so(tmp_path: Path) -> None:
    settings = make_gateway(tmp_path)
    monitor = SignedDevice("monitor")
    async with a_ward(settings) as (core, mail):
        await core.administration.revoke_device("monitor")
        outcome = await mail.send("monitor", monitor.envelope())
        assert outcome.reason is Reason.UNKNOWN_DEVICE
        with pytest.raises(ConfigurationError, match="there already"):
            await core.administration.add_device("monitor", "unsigned")
    async with a_ward(settings) as (_, mail):
        outcome = await mail.send("monitor", monitor.envelope())
        assert outcome.reason is Reason.UNKNOWN_DEVICE


@pytest.mark.parametrize(
    ("key", "fault"),
    [
        ("00" * 32, "small order"),
        ("01" + "00" * 31, "small order"),
        ("ed" + "ff" * 30 + "7f", "canonical"),
        ("02" + "00" * 31, "no point"),
        ("aa", "1 bytes"),
        ("zz", "hexadecimal"),
    ],
)
async def test_a_public_key_that_proves_nothing_is_not_enrolled(
    tmp_path: Path, key: str, fault: str
) -> None:
    async with open_core(make_gateway(tmp_path)) as core:
        with pytest.raises(ConfigurationError, match=fault):
            await core.administration.add_device("weak", "signed", key)


async def test_a_full_disk_stops_the_intake_and_says_so(tmp_path: Path) -> None:
    """Congestion is what makes a door stop reading; the alarm itself commits."""
    settings = make_gateway(tmp_path)
    async with a_ward(settings) as (core, mail):
        core.intake.block("only 3 MB free")
        stopped = core.intake.congested
        waiting = asyncio.create_task(core.intake.relieved())
        core.intake.alarm("disk-reserve", "start", "only 3 MB free")
        await asyncio.sleep(0.1)
        assert not waiting.done()
        core.intake.block("")
        await asyncio.wait_for(waiting, 1)
        assert (stopped, core.intake.congested) == (True, False)
        await mail.send("monitor", SignedDevice("monitor").envelope())
    firings = [
        one for one in reader_of(settings).records() if one.record.kind is Kind.FIRING
    ]
    assert len(firings) == 1


async def test_a_sender_of_garbage_fills_its_own_quarantine_and_no_more(
    tmp_path: Path,
) -> None:
    settings = make_gateway(
        tmp_path,
        **{"# quarantine_quota_kb = 1024      ": "quarantine_quota_kb = 64 "},
    )
    async with a_ward(settings) as (_, mail):
        garbage = [bytes([number]) * 4000 for number in range(40)]
        await asyncio.gather(*(mail.submit("thermometer", one) for one in garbage))
        await mail.send("nobody", b"kept")
    reader = reader_of(settings)
    kept = [row for _, _, row in reader.quarantine()]
    assert sum(row[0] == "mqtt:thermometer" for row in kept) <= 16
    assert [row[5] for row in kept if row[0] == "mqtt:nobody"] == [b"kept"]
    counted = reader.counters()
    assert counted["refused"] == 41
    assert counted["quarantine-evicted"] == 41 - len(kept)


async def test_what_kills_the_process_is_found_in_safe_mode(tmp_path: Path) -> None:
    """It ends the first process unseen and the second in safe mode, which takes one
    message a commit and remembers; the second restart refuses it, the rest flows."""
    settings = make_gateway(tmp_path)
    monitor = SignedDevice("monitor")
    deadly, good = monitor.envelope(heart_rate=66), monitor.envelope(heart_rate=67)
    async with a_ward(settings):
        pass
    script = f"""
import asyncio, os, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from pathlib import Path
from workbench import Mailbox
from edge import admission, config
from edge.gateway import open_core
deadly = bytes.fromhex({deadly.hex()!r})
decode = admission.parse_envelope
def parse(payload):
    if payload == deadly:
        os._exit(9)
    return decode(payload)
admission.parse_envelope = parse
async def main():
    async with open_core(config.load(Path({str(tmp_path / "iomt.toml")!r}))) as core:
        mail = Mailbox(core)
        print((await mail.send("monitor", deadly)).reason)
        print((await mail.send("monitor", bytes.fromhex({good.hex()!r}))).verdict)
asyncio.run(main())
"""
    ends = [
        subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, check=False
        )
        for _ in range(3)
    ]
    assert [one.returncode for one in ends] == [9, 9, 0], ends[-1].stderr
    assert ends[2].stdout.split() == ["poison", "committed"]


@pytest.mark.parametrize(("kernel", "blamed"), [("another", False), ("this", True)])
async def test_a_power_cut_is_blamed_on_no_message(
    tmp_path: Path, kernel: str, blamed: bool
) -> None:
    """What a process left that the machine took down with it: no safe mode, and the
    message that it was handling is taken when it comes again."""
    settings = make_gateway(tmp_path)
    payload = SignedDevice("monitor").envelope(heart_rate=66)
    async with a_ward(settings):
        pass
    running = KERNEL_BOOT.read_text().strip() if kernel == "this" else kernel
    connection = open_writer(settings.directory)
    for key, value in (("running", running), ("suspect", digest_of(payload))):
        connection.execute("INSERT INTO meta VALUES (?, ?)", (key, value))
    connection.close()
    async with open_core(settings) as core:
        assert bool(core.intake._safe_left) is blamed
        outcome = await Mailbox(core).send("monitor", payload)
        assert outcome.reason is (Reason.POISON if blamed else None)


async def test_the_command_line_reads_beside_a_running_gateway(tmp_path: Path) -> None:
    settings = make_gateway(tmp_path)
    async with a_ward(settings) as (_, mail):
        await mail.send("monitor", SignedDevice("monitor").envelope(spo2=97.5))
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "edge", "readings", "--json", "--patient", "P-1"),
            *("--data", str(settings.directory)),
            stdout=subprocess.PIPE,
        )
        output, _ = await process.communicate()
    row = json.loads(output)
    assert row["metrics"] == {"spo2": 97.5}
    assert row["attestation"] == "device"


async def test_no_personal_datum_stands_in_the_ledger_or_in_clear_on_the_disk(
    tmp_path: Path,
) -> None:
    """Invariant 3: distinctive strings go in, and every exported byte is searched."""
    settings = make_gateway(tmp_path / "gateway")
    patient, device = "Distinctive Patient 4711", "distinctive-device"
    value = b'[{"n":"body_temperature","u":"Cel","v":36.70707}]'
    async with open_core(settings) as core:
        mail = Mailbox(core)
        await core.administration.add_patient(patient)
        await core.administration.add_device(device, "unsigned")
        await core.administration.assign_device(device, patient)
        assert (await mail.send(device, value)).verdict is Verdict.COMMITTED
        assert (await mail.send(device, value + b"!")).verdict is Verdict.REFUSED
    ledger = exported(settings, tmp_path / "log")
    secrets = [patient.encode(), device.encode(), b"36.70707", b"body_temperature"]
    for file in (one for one in ledger.rglob("*") if one.is_file()):
        content = file.read_bytes()
        assert not [one for one in secrets if one in content], file
    store = b"".join(one.read_bytes() for one in settings.directory.glob("gateway.db*"))
    assert device.encode() in store  # device names are no secret: docs/limits.md
    for one in (patient.encode(), b"36.70707", b'"n":"body_temperature"'):
        assert one not in store  # (the name of a metric stands in contracts' texts)


async def test_attestation_says_who_vouches(tmp_path: Path) -> None:
    """Invariant 5: a checked signature of the device, or our word alone."""
    settings = make_gateway(tmp_path)
    async with a_ward(settings) as (_, mail):
        await mail.send("monitor", SignedDevice("monitor").envelope())
        await mail.send("thermometer", SENML)
    found = {one.record.device: one.record.attestation for one in readings_of(settings)}
    assert found == {
        "monitor": Attestation.DEVICE,
        "thermometer": Attestation.GATEWAY,
    }


async def test_overload_makes_the_doors_wait_and_drops_nothing(tmp_path: Path) -> None:
    """Invariant 8: congested above the bound, relieved by the commit, all answered."""
    settings = make_gateway(tmp_path)
    async with a_ward(settings) as (core, mail):
        answers = [mail.submit("nobody", b"x") for _ in range(9000)]
        congested = core.intake.congested
        async with asyncio.timeout(20):
            await core.intake.relieved()
            outcomes = await asyncio.gather(*answers)
    assert congested
    assert len(outcomes) == 9000
    assert reader_of(settings).counters()["refused"] == 9000


async def test_a_ble_device_whose_clock_was_never_set_is_not_refused(
    tmp_path: Path,
) -> None:
    """A spot check of the year 2000 still is a measurement of now."""
    settings = trusted_clock(tmp_path)
    when = Timestamp(2000, 1, 1, 0, 0, 0)
    value = bytes(SpotCheck(Pair(Decimal(97), Decimal(60)), when))
    answers: list[Outcome] = []
    address = "F0:00:00:00:00:01"
    async with open_core(settings) as core:
        await core.administration.add_device("oximeter", "ble", address=address)
        core.intake.submit(
            Arrival(
                Source.BLE,
                f"ble:{address}",
                "oximeter",
                "2a5e",
                value,
                answers.append,
                link="ble",
            )
        )
        async with asyncio.timeout(5):
            while not answers:
                await asyncio.sleep(0.01)
    assert answers[0].verdict is Verdict.COMMITTED
    [stored] = readings_of(settings)
    assert Flag.LATE not in stored.record.flags


async def test_a_patient_without_a_device_has_no_alarm_left(tmp_path: Path) -> None:
    """Else "high" would stand on the wall after the discharge, for ever."""
    settings = make_gateway(tmp_path)
    seen: list[CommitReport] = []
    async with a_ward(settings) as (core, mail):
        core.intake.on_commit.append(seen.append)
        await mail.send(
            "monitor", SignedDevice("monitor").envelope(systolic_pressure=199)
        )
        await core.administration.assign_device("monitor", None)
        state = core.intake.evaluator.machine.snapshot()
    fired = [one.firing for report in seen for one in report.firings]
    assert [one.phase for one in fired] == ["start", "end"]
    async with a_ward(settings) as (core, _):  # and the replay comes to the same
        assert core.intake.evaluator.machine.snapshot() == state


async def test_how_far_a_clock_may_be_off_is_the_clinics_to_say(tmp_path: Path) -> None:
    settings = replace(trusted_clock(tmp_path), ahead_max_s=10, behind_max_s=3600)
    now_ms = time.time_ns() // 1_000_000
    device = SignedDevice("monitor")
    async with a_ward(settings) as (_, mail):
        for offset_ms, said in (
            (20_000, "ms ahead; at most 10000"),
            (-3_700_000, "ms behind; at most 3600000"),
            (-3_500_000, ""),
        ):
            payload = device.envelope(time_ms=now_ms + offset_ms)
            outcome = await mail.send("monitor", payload)
            assert outcome.detail.endswith(said)
            assert (outcome.reason is Reason.IMPLAUSIBLE_CLOCK) == bool(said)
