"""`iomt envelope check|make` and `iomt quality`, as a device maker types them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from fronts import temperature
from workbench import SignedDevice, a_ward, trusted_clock

from edge.cli import main
from edge.devices.envelope import parse
from edge.ledger import core

VECTORS = Path(__file__).parents[1] / "vectors" / "envelope"
SEED = bytes(range(32))


def run(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str]:
    status = main(["envelope", *map(str, words)])
    return status, capsys.readouterr().out


def written(directory: Path, content: bytes) -> Path:
    path = directory / "envelope"
    path.write_bytes(content)
    return path


@pytest.fixture(name="key")
def key_file(tmp_path: Path) -> Path:
    path = tmp_path / "seed.hex"
    path.write_text(SEED.hex() + "\n")
    return path


def test_what_make_builds_check_reads(
    tmp_path: Path, key: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "made"
    words = ("--device", "m-1", "--sequence", 7, "--time", 1_790_000_000_000)
    made = run(
        *(capsys, "make", "heart_rate=72", "body_temperature=36.7", "acvpu=A"),
        *(*words, "--key", key, "-o", target),
    )
    assert made == (0, "")
    public = core.public_key(SEED).hex()
    status, out = run(capsys, "check", target, "--key", public)
    assert status == 0
    assert out.splitlines() == [
        "device m-1, stream vitals, sequence 7",
        "device time 1790000000000 ms",
        "       0 ms  heart_rate=72 body_temperature=36.7 acvpu=A",
        "GOOD, signed by this key",
    ]


def test_many_readings_each_with_its_own_time(
    tmp_path: Path, key: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As a device drains what it stored; on the output as hexadecimal digits."""
    readings = tmp_path / "readings.json"
    readings.write_text(
        json.dumps([{"time_ms": 1000 * i, "heart_rate": 60 + i} for i in range(1, 4)])
    )
    words = ("--device", "m-1", "--sequence", 8, "--time", 3000, "--backlog")
    status, out = run(
        *(capsys, "make", "--readings", readings, *words, "--key", key, "-o", "-")
    )
    assert status == 0
    made = parse(bytes.fromhex(out))
    assert [one.time_ms for one in made.readings] == [1000, 2000, 3000]
    assert made.backlog
    path = written(tmp_path, out.encode())
    status, out = run(capsys, "check", path, "--hex")
    assert status == 0
    assert "   -2000 ms  heart_rate=61" in out
    assert "no --key was given" in out


@pytest.mark.parametrize(
    "words",
    [
        ("mood=1",),
        ("heart_rate=fast",),
        ("heart_rate=1e30",),
        (),
    ],
)
def test_what_no_envelope_can_say_is_not_made(
    words: tuple[str, ...],
    tmp_path: Path,
    key: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    target = tmp_path / "made"
    rest = ("--device", "m-1", "--sequence", 7, "--key", key, "-o", target)
    assert run(capsys, "make", *words, *rest) == (2, "")
    assert not target.exists()


CASES = sorted(VECTORS.glob("bad-*.json"))


@pytest.mark.parametrize("case", CASES, ids=[one.stem for one in CASES])
def test_check_names_a_byte_and_a_reason_for_every_bad_vector(
    case: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    vector = json.loads(case.read_text())
    content = bytes.fromhex(vector["envelope"])
    path = written(tmp_path, content)
    known = ("--key", vector["public_key"], "--topic", vector["topic"])
    status, out = run(capsys, "check", path, *known)
    assert status == 1, out
    first = out.splitlines()[-2]
    assert first.startswith("byte ")
    at = int(first.split()[1].rstrip(":"))
    assert 0 <= at <= max(len(content), 65_536)
    assert out.splitlines()[-1].startswith("WRONG: ")


def test_the_byte_that_is_named_is_the_one_that_was_changed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = SignedDevice("monitor").envelope(heart_rate=70, spo2=97)
    places = {
        0: 0xD3,  # the tag
        4: 0x00,  # the protected header, told by where it begins
        good.index(b"\xa0"): 0xA1,  # the unprotected header
        good.index(b"monitor") - 1: 0x7F,  # the device's text: an indefinite length
    }
    for at, byte in places.items():
        changed = bytearray(good)
        changed[at] = byte
        status, out = run(capsys, "check", written(tmp_path, bytes(changed)))
        assert status == 1
        named = int(out.split()[1].rstrip(":"))
        assert named == {4: 2}.get(at, at), out


async def test_quality_counts_what_was_wrong_with_a_devices_data(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = trusted_clock(tmp_path)
    device = SignedDevice("monitor")
    async with a_ward(settings) as (core_, mail):
        now_ms = core_.intake.now_ms()
        for sequence, more in (
            (1, {}),
            (2, {"time_ms": now_ms - 600_000}),
            (5, {"spo2": 3}),
            (9, {"heart_rate": 70, "sensor_contact": 0}),
        ):
            payload = device.envelope(sequence=sequence, **more)  # type: ignore[arg-type]
            await mail.send("monitor", payload)
        await mail.send("monitor", b"junk")
        await mail.send("thermometer", temperature(b"36.6"))
    path = str(tmp_path / "iomt.toml")
    assert main(["quality", "--config", path, "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["device"] for row in rows] == ["monitor", "thermometer"]
    expected = {
        "messages": 4,
        "readings": 4,
        "late": 1,
        "implausible": 1,
        "no_contact": 1,
        "gaps": 2,
        "missing": 5,
        "lost": 0,
        "refused": 1,
        "reasons": {"malformed": 1},
    }
    assert {name: rows[0][name] for name in expected} == expected
    assert main(["quality", "--config", path, "--device", "thermometer"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert "thermometer" in lines[1]
    assert main(["quality", "--config", path, "--to", "2020-01-01", "--json"]) == 0
    assert capsys.readouterr().out == ""
