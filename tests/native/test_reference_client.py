"""The reference client for device makers (firmware_sim/client): its own C tests, its
size on a small processor, and the vectors' envelopes through its public interface."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from edge.devices.envelope import parse
from edge.devices.metrics import BY_NAME
from edge.ledger.device_key import kid_of

CLIENT = Path(__file__).resolve().parents[2] / "firmware_sim" / "client"
VECTORS = Path(__file__).parents[1] / "vectors" / "envelope"
TEXT_SIZE_MAX = 8192
LETTER_EXPONENT = 127
INT64_MAX = 2**63 - 1
PUBLISH_QOS_1 = 0x32
# The format also allows an offset of 0 to be written out; the client leaves it away.
EXPLICIT_ZERO = {"good-offset-limits", "good-256-readings", "good-consciousness"}

needs_compiler = pytest.mark.skipif(
    not (shutil.which("make") and shutil.which("cc")), reason="needs make and cc"
)
needs_arm = pytest.mark.skipif(
    not (shutil.which("make") and shutil.which("arm-none-eabi-gcc")),
    reason="no compiler for Cortex-M here (apt install gcc-arm-none-eabi)",
)


def make(target: str, build: Path) -> str:
    """Build a target outside the tree; what make and the program printed."""
    done = subprocess.run(
        ["make", "-C", str(CLIENT), target, f"BUILD={build}"],
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@needs_compiler
def test_no_power_cut_loses_or_doubles_a_reading(tmp_path: Path) -> None:
    """Every word and every erase of four geometries, in four ways each; see rig.c."""
    out = make("test", tmp_path)
    counts = re.search(r"^(\d+) passed, (\d+) failed$", out, re.MULTILINE)
    assert counts is not None, out
    assert int(counts[1]) > 1_000_000
    assert int(counts[2]) == 0
    cuts = [
        int(count) for count in re.findall(r": (\d+) power cuts$", out, re.MULTILINE)
    ]
    assert len(cuts) == 4
    assert sum(cuts) > 5000


@needs_arm
def test_it_fits_into_eight_kilobytes_of_a_cortex_m4(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = make("size", tmp_path)
    total = re.search(r"^ *(\d+)\t *(\d+)\t *(\d+)\t.*TOTALS", out, re.MULTILINE)
    assert total is not None, out
    text, initialised, zeroed = map(int, total.groups())
    with capsys.disabled():
        print(f"\nreference client, Cortex-M4, -Os: {text} bytes of .text")
    assert 1000 < text <= TEXT_SIZE_MAX
    assert initialised == zeroed == 0  # no globals


def lines_for(vector: dict[str, Any]) -> str:
    """The vector as tests/write_envelope.c reads it."""
    fields = vector["fields"]
    lines = [
        fields["device"],
        fields["stream"],
        kid_of(bytes.fromhex(vector["public_key"])).hex(),
        bytes.fromhex(vector["envelope"])[-64:].hex(),
        f"{fields['sequence']} {fields['device_time_ms']} {len(fields['readings'])}",
    ]
    for reading in fields["readings"]:
        pairs: list[tuple[int, int, int]] = []
        for name, text in reading["values"].items():
            sign, digits, exponent = Decimal(text).as_tuple()
            assert isinstance(exponent, int)
            mantissa = int("".join(map(str, digits))) * (-1 if sign else 1)
            pairs.append((BY_NAME[name].key, exponent, mantissa))
        pairs += [
            (BY_NAME[name].key, LETTER_EXPONENT, ord(letter))
            for name, letter in reading["texts"].items()
        ]
        lines.append(f"{reading['time_ms']} {len(pairs)}")
        lines += [" ".join(map(str, pair)) for pair in sorted(pairs)]
    return "\n".join(lines) + "\n"


def payload_of(packet: bytes, topic: str) -> bytes:
    """What a PUBLISH at QoS 1 carries."""
    assert packet[0] == PUBLISH_QOS_1
    size, at, shift = 0, 1, 0
    while True:
        size |= (packet[at] & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if not packet[at - 1] & 0x80:
            break
    assert len(packet) == at + size
    head = len(topic).to_bytes(2, "big") + topic.encode()
    assert packet[at : at + len(head)] == head
    return packet[at + len(head) + 2 :]


def can_be_said(vector: dict[str, Any]) -> bool:
    """It has no time 0, for that is "not known", and no numbers above 63 bits."""
    values = [
        Decimal(text)
        for reading in vector["fields"]["readings"]
        for text in reading["values"].values()
    ]
    return vector["fields"]["device_time_ms"] > 0 and max(values, default=0) <= (
        INT64_MAX
    )


@needs_compiler
def test_its_envelopes_are_those_of_the_vectors(tmp_path: Path) -> None:
    make(str(tmp_path / "write_envelope"), tmp_path)
    compared = 0
    for path in sorted(VECTORS.glob("good-*.json")):
        vector = json.loads(path.read_text())
        if not can_be_said(vector):
            continue
        done = subprocess.run(
            [tmp_path / "write_envelope"],
            input=lines_for(vector),
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
        )
        assert done.returncode == 0, (path.name, done)
        written = dict(line.split() for line in done.stdout.splitlines())
        envelope = payload_of(bytes.fromhex(written["publish"]), vector["topic"])
        signed = bytes.fromhex(written["signed"])
        expected = bytes.fromhex(vector["envelope"])
        compared += 1
        if path.stem in EXPLICIT_ZERO:
            ours, theirs = parse(envelope), parse(expected)
            assert ours.readings == theirs.readings, path.name
            assert ours.signed_bytes == signed, path.name
            continue
        assert envelope == expected, path.name
        key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(vector["public_key"]))
        key.verify(expected[-64:], signed)
    assert compared >= 19
