"""What a patient takes away: complete, theirs alone, and proven without a network."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
import tracemalloc
from decimal import Decimal
from pathlib import Path

import pytest
from test_rollback import SENML, set_back
from workbench import SignedDevice, a_ward, make_gateway, reader_of, readings_of, vkey

from edge.config import Settings
from edge.errors import ConfigurationError, NotFoundError
from edge.ledger.verify import Verdict, verify_proof
from edge.store.patient_export import CSV_HEAD, Exported, export_patient

TOP = Path(__file__).parents[2]
NOW_MS = 1_795_225_000_000


async def a_ward_of_two(settings: Settings) -> None:
    """P-1 with a signed and an unsigned device and an alarm; P-2 with one reading."""
    async with a_ward(settings) as (opened, mail):
        administration = opened.administration
        await administration.add_patient("P-2")
        key = SignedDevice("other", seed=bytes(32)).public_key
        await administration.add_device("other", "signed", key)
        await administration.assign_device("other", "P-2")
        await administration.assign_device("thermometer", "P-1")
        monitor = SignedDevice("monitor")
        await mail.send("monitor", monitor.envelope(spo2=97.5, heart_rate=70))
        await mail.send("monitor", monitor.envelope(systolic_pressure=199))
        await mail.send("thermometer", SENML)
        foreign = SignedDevice("other", seed=bytes(32)).envelope(spo2=91)
        await mail.send("other", foreign)


def export(settings: Settings, target: Path, patient: str = "P-1") -> Exported:
    return export_patient(reader_of(settings), settings.keys, patient, target, NOW_MS)


def lines(file: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


async def test_everything_of_one_patient_and_nothing_of_another(
    tmp_path: Path,
) -> None:
    settings = make_gateway(tmp_path / "gateway")
    await a_ward_of_two(settings)
    target = tmp_path / "out"
    done = export(settings, target)
    rows = lines(target / "readings.jsonl")
    metrics = [row["metrics"] for row in rows]
    assert metrics == [
        {"spo2": 97.5, "heart_rate": 70},
        {"systolic_pressure": 199},
        {"body_temperature": 36.7},
    ]
    events = lines(target / "events.jsonl")
    kinds = [one["kind"] for one in events]
    assert kinds.count("assignment") == 2
    assert [one["rule"] for one in events if one["kind"] == "firing"] == ["high"]
    assert (done.readings, done.events) == (3, len(events))
    assert json.loads((target / "shared.json").read_text())["shared"] == []
    for file in (one for one in target.rglob("*") if one.is_file()):
        assert b"P-2" not in file.read_bytes()
        assert b"other" not in file.read_bytes() or file.name == "README.txt", file


async def test_the_table_holds_one_line_for_each_value(tmp_path: Path) -> None:
    settings = make_gateway(tmp_path / "gateway")
    await a_ward_of_two(settings)
    export(settings, tmp_path / "out")
    with (tmp_path / "out" / "readings.csv").open(newline="") as stream:
        head, *table = csv.reader(stream)
    assert tuple(head) == CSV_HEAD
    found = [dict(zip(head, line, strict=True)) for line in table]
    values = {one["metric"]: Decimal(one["value"]) for one in found}
    assert values == {
        "spo2": Decimal("97.5"),
        "heart_rate": Decimal(70),
        "systolic_pressure": Decimal(199),
        "body_temperature": Decimal("36.7"),
    }
    assert {one["attestation"] for one in found} == {"device", "gateway"}
    for one in found:
        assert (tmp_path / "out" / one["proof"]).is_file()


async def test_every_proof_is_verified_by_python_alone_as_the_readme_says(
    tmp_path: Path,
) -> None:
    """`-S`: no packages, so no store and no C core; the key is the one beside it."""
    settings = make_gateway(tmp_path / "gateway")
    await a_ward_of_two(settings)
    target = tmp_path / "out"
    done = export(settings, target)
    key = (target / "log.vkey").read_text().strip()
    assert key == vkey(settings)
    assert "python -S -m edge.ledger.verify" in (target / "README.txt").read_text()
    proofs = sorted(target.glob("proofs/*/*.tlog-proof"))
    assert len(proofs) == done.proofs
    named = {
        str(one["proof"])
        for name in ("readings.jsonl", "events.jsonl")
        for one in lines(target / name)
    }
    assert named == {str(one.relative_to(target)) for one in proofs}
    for proof in proofs:
        words = [sys.executable, "-S", "-m", "edge.ledger.verify", str(proof)]
        ended = subprocess.run(
            [*words, "--vkey", key],
            cwd=TOP,
            capture_output=True,
            text=True,
            check=False,
        )
        assert ended.returncode == 0, ended.stdout + ended.stderr


async def test_an_altered_value_no_longer_fits_its_proof(tmp_path: Path) -> None:
    """The record in the proof is the original; changing a byte of it is refused."""
    settings = make_gateway(tmp_path / "gateway")
    await a_ward_of_two(settings)
    target = tmp_path / "out"
    export(settings, target)
    proof = next(target.glob("proofs/*/*.tlog-proof"))
    good = proof.read_bytes()
    extra = good.index(b"extra ")
    swapped = b"B" if good[extra + 100 : extra + 101] != b"B" else b"C"
    proof.write_bytes(good[: extra + 100] + swapped + good[extra + 101 :])
    assert verify_proof(proof, vkey(settings)).verdict is Verdict.REFUSED


async def test_the_export_is_for_its_owner_and_overwrites_nothing(
    tmp_path: Path,
) -> None:
    settings = make_gateway(tmp_path / "gateway")
    await a_ward_of_two(settings)
    target = tmp_path / "out"
    export(settings, target)
    assert target.stat().st_mode & 0o777 == 0o700
    with pytest.raises(ConfigurationError, match="not empty"):
        export(settings, target)
    with pytest.raises(NotFoundError, match="no patient"):
        export(settings, tmp_path / "other", "P-3")
    assert not (tmp_path / "other").exists()


async def test_readings_of_an_ended_epoch_are_exported_without_a_proof(
    tmp_path: Path,
) -> None:
    settings, _, _, old = await set_back(tmp_path / "gateway")
    async with a_ward(settings) as (_, mail):
        await mail.send("monitor", SignedDevice("monitor", sequence=40).envelope())
    target = tmp_path / "out"
    done = export(settings, target)
    rows = lines(target / "readings.jsonl")
    assert rows[0]["id"] == old
    assert [row["proof"] is None for row in rows] == [True, False]
    assert done.unproven >= 1
    assert "have no proof" in (target / "README.txt").read_text()


async def test_the_memory_does_not_grow_with_the_readings(tmp_path: Path) -> None:
    """A year of one patient is millions of records on a machine with 1 GB."""
    settings = make_gateway(tmp_path / "gateway")
    peaks = []
    for number, count in enumerate((20, 160)):
        async with a_ward(settings) as (_, mail):
            monitor = SignedDevice("monitor", sequence=1000 * number)
            for _ in range(count):
                last = mail.submit("monitor", monitor.envelope())
            await last
        assert len(readings_of(settings)) >= count
        tracemalloc.start()
        export(settings, tmp_path / str(number))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 2 * peaks[0] + 500_000


async def test_the_command_writes_it_beside_a_running_gateway(tmp_path: Path) -> None:
    settings = make_gateway(tmp_path / "gateway")
    async with a_ward(settings) as (_, mail):
        await mail.send("monitor", SignedDevice("monitor").envelope())
        words = ["patient", "export", "P-1", "-o", str(tmp_path / "out")]
        done = subprocess.run(
            [sys.executable, "-m", "edge", *words, "--data", str(settings.directory)],
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    assert "1 readings" in done.stdout
