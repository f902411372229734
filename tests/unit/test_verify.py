"""`iomt verify`: the whole is verified, the damaged is refused with its place."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from base64 import b64decode, b64encode
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import ledger_files
import pytest

from edge.ledger import batch, note, tiles, tlog, verify
from edge.ledger.verify import Report, Verdict

VECTORS = Path(__file__).parents[1] / "vectors" / "ledger"
LOG = VECTORS / "log"
VKEY = ledger_files.VERIFIER.vkey
DEVICE_KEY = ledger_files.DEVICE_PUBLIC_KEY.hex()
CONSISTENCY = str(VECTORS / "grown.consistency")
FILES = sorted(
    one.relative_to(LOG).as_posix() for one in LOG.rglob("*") if one.is_file()
)
ENTRIES = [one.encode() for one in ledger_files.sample_entries(300)]


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """A copy of the vector's ledger, to be damaged."""
    return Path(shutil.copytree(LOG, tmp_path / "log"))


def refused(directory: Path, vkey: str | None = VKEY) -> Report:
    report = verify.verify_directory(directory, vkey)
    assert report.verdict is Verdict.REFUSED, report.lines()
    assert report.place
    assert report.reason
    return report


# --- whole ledgers ------------------------------------------------------------------


def test_the_vector_is_verified_with_its_key() -> None:
    expected = json.loads((VECTORS / "expected.json").read_text())
    report = verify.verify_directory(LOG, expected["vkey"])
    assert report.verdict is Verdict.OK
    assert report.root is not None
    assert (report.origin, report.size, report.root.hex()) == (
        expected["origin"],
        expected["size"],
        expected["root"],
    )
    assert dict(report.counts) == {
        "batch": 293,
        "clock tick": 1,
        "device enrolment": 2,
        "device revocation": 1,
        "epoch start": 1,
        "gateway start": 2,
    }
    assert report.lines()[-1] == "VERIFIED"


def test_the_vector_comes_out_of_its_script_byte_for_byte(tmp_path: Path) -> None:
    script = VECTORS.parent / "make_ledger.py"
    subprocess.run([sys.executable, script, tmp_path / "new"], check=True)
    names = [one.relative_to(VECTORS) for one in VECTORS.rglob("*") if one.is_file()]
    made = (tmp_path / "new").rglob("*")
    assert len(names) == sum(one.is_file() for one in made) == 19
    for name in names:
        assert (tmp_path / "new" / name).read_bytes() == (VECTORS / name).read_bytes()


def test_without_the_key_a_whole_ledger_is_not_enough() -> None:
    """Anybody can make a consistent ledger; a key beside it would prove nothing."""
    report = verify.verify_directory(LOG)
    assert report.verdict is Verdict.NOT_ENOUGH
    assert "--vkey" in report.reason
    assert report.counts["batch"] == 293


def test_another_logs_key_refuses_the_ledger() -> None:
    for origin in ("clinic.example/ward-3", "clinic.example/ward-4"):
        key = bytes(32) if origin.endswith("3") else ledger_files.VERIFIER.public_key
        vkey = note.Verifier(origin, key).vkey
        report = verify.verify_directory(LOG, vkey)
        assert report.verdict is Verdict.REFUSED
        assert report.place == "checkpoint"
        assert "not signed by a key that we know" in report.reason


@pytest.mark.parametrize("size", [1, 2, 255, 256, 257, 512, 600])
def test_every_size_is_verified_and_missing_files_are_noticed(
    tmp_path: Path, size: int
) -> None:
    entries = [one.encode() for one in ledger_files.sample_entries(600)]
    if size < 20:  # the first ones hold no batch, which is a history too
        entries = entries[:size]
    else:
        entries = [one.encode() for one in ledger_files.sample_entries(size)]
    ledger_files.write_ledger(tmp_path, entries)
    assert verify.verify_directory(tmp_path, VKEY).verdict is Verdict.OK
    for path in [one for one in tmp_path.rglob("*") if one.is_file()]:
        content = path.read_bytes()
        path.unlink()
        name = path.relative_to(tmp_path).as_posix()
        report = refused(tmp_path)
        assert (report.place, report.reason) == (name, "the file is missing")
        path.write_bytes(content)
    assert verify.verify_directory(tmp_path, VKEY).verdict is Verdict.OK


def test_three_levels_of_tiles_are_verified(tmp_path: Path) -> None:
    """From 65,536 entries on there is a level 2, and level 1 has full tiles."""
    boot = bytes(16)
    roots = [tlog.leaf_hash(bytes([at])) for at in range(256)]
    start = replace(_gateway_start(), boot_id=boot, time_ms=0)
    entries = [batch.EpochStart(ledger_files.ORIGIN, 0).encode(), start.encode()]
    entries += [
        batch.Batch(boot, at, at, synchronised=True, root=roots[at & 255]).encode()
        for at in range(65_700 - len(entries))
    ]
    ledger_files.write_ledger(tmp_path, entries)
    report = verify.verify_directory(tmp_path, VKEY)
    assert report.verdict is Verdict.OK, report.lines()
    for path, at in (("tile/1/000", 8191), ("tile/0/255", 0), ("tile/2/000.p/1", 31)):
        flip(tmp_path / path, at)
        assert path in refused(tmp_path).place
        flip(tmp_path / path, at)


def test_an_empty_log_is_verified(tmp_path: Path) -> None:
    ledger_files.write_ledger(tmp_path, [])
    assert verify.verify_directory(tmp_path, VKEY).verdict is Verdict.OK
    ledger_files.put(tmp_path, "tile/0/000.p/1", bytes(32))
    assert "size 0 has no such tile" in refused(tmp_path).reason


# --- damage -------------------------------------------------------------------------


def flip(path: Path, at: int, mask: int = 1) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= mask
    path.write_bytes(content)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("vkey", [VKEY, None])
def test_a_flipped_byte_in_any_file_is_refused_and_the_file_is_named(
    log: Path, name: str, vkey: str | None
) -> None:
    """Without the key too, but for the signature itself, which then stays unchecked."""
    size = (log / name).stat().st_size
    chosen = random.Random(name)
    signed = (log / "checkpoint").read_bytes().index(b"\n\n")
    offsets = {0, 1, size - 1, *(chosen.randrange(size) for _ in range(10))}
    for at in sorted(offsets):
        mask = chosen.randrange(1, 256)
        if vkey is None and name == "checkpoint" and at > signed:
            continue
        flip(log / name, at, mask)
        report = refused(log, vkey)
        if name != "checkpoint" or vkey:
            assert report.place.split(",")[0] == name, (at, report.lines())
        flip(log / name, at, mask)
    assert verify.verify_directory(log, VKEY).verdict is Verdict.OK


def test_every_byte_of_the_checkpoint_counts(log: Path) -> None:
    for at in range((log / "checkpoint").stat().st_size):
        flip(log / "checkpoint", at)
        assert refused(log).place == "checkpoint"
        flip(log / "checkpoint", at)


@pytest.mark.parametrize(
    ("path", "at", "place"),
    [
        ("tile/0/000", 100 * 32 + 5, "tile/0/000, hash 100 (byte 3200)"),
        ("tile/0/001.p/44", 43 * 32, "tile/0/001.p/44, hash 43 (byte 1376)"),
        ("tile/1/000.p/1", 31, "tile/1/000.p/1, hash 0 (byte 0)"),
        ("tile/0/000.p/100", 77, "tile/0/000.p/100, byte 77"),
        ("tile/entries/000.p/100", 7, "tile/entries/000.p/100, byte 7"),
        ("tile/entries/000", 1, "tile/entries/000, entry 0 (byte 0)"),
        ("tile/entries/001.p/44", 2, "tile/entries/001.p/44, entry 256 (byte 0)"),
    ],
)
def test_the_place_of_a_flipped_byte_is_exact(
    log: Path, path: str, at: int, place: str
) -> None:
    flip(log / path, at)
    assert refused(log).place == place


def test_the_place_of_a_damaged_entry_is_the_byte_where_it_begins(log: Path) -> None:
    begins = sum(2 + len(one) for one in ENTRIES[:200])
    flip(log / "tile/entries/000", begins + 30)
    assert refused(log).place == f"tile/entries/000, entry 200 (byte {begins})"


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_cut_or_has_more_is_refused(log: Path, name: str) -> None:
    content = (log / name).read_bytes()
    for changed in (b"", content[:-1], content[: len(content) // 2], content + b"\0"):
        (log / name).write_bytes(changed)
        assert refused(log).place.split(",")[0] == name
    (log / name).write_bytes(content)


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_a_directory_or_a_link_is_refused(
    log: Path, name: str, tmp_path: Path
) -> None:
    """What a link points to can be another thing tomorrow."""
    (log / name).rename(tmp_path / "elsewhere")
    (log / name).mkdir()
    if ".p/" in name and refusal_may_be_silent(name):
        assert verify.verify_directory(log, VKEY).verdict is Verdict.OK
    else:
        assert refused(log).place == name
    (log / name).rmdir()
    (log / name).symlink_to(tmp_path / "elsewhere")
    assert refused(log).place == name


def refusal_may_be_silent(name: str) -> bool:
    """An earlier partial tile may go once there is a wider one (tlog-tiles)."""
    tile = tiles.parse_path(name)
    return tile.width < tiles.width_at(tile.level, tile.index, 300)


def test_an_earlier_partial_tile_may_be_missing(log: Path) -> None:
    earlier = [one for one in FILES if ".p/" in one and refusal_may_be_silent(one)]
    assert len(earlier) == 4
    for name in earlier:
        (log / name).unlink()
    assert verify.verify_directory(log, VKEY).verdict is Verdict.OK


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("README", "no place for"),
        (".hidden", "no place for"),
        ("tile/0/000~", "no place for"),
        ("tile/0/1", "no place for"),
        ("tile/0/x000/000", "no place for"),
        ("tile/entries/000.tmp", "no place for"),
        ("sub/checkpoint", "no place for"),
        ("tile/0/002.p/1", "has no such tile"),
        ("tile/0/001.p/45", "has no such tile"),
        ("tile/0/001", "has no such tile"),
        ("tile/2/000.p/1", "has no such tile"),
        ("tile/entries/001", "has no such tile"),
        ("tile/entries/x001/000", "has no such tile"),
        ("tile/0/000.p/99", "is not how tile/0/000 begins"),
        ("tile/entries/000.p/99", "is not how tile/entries/000 begins"),
    ],
)
def test_a_foreign_file_is_refused_by_its_name(
    log: Path, path: str, reason: str
) -> None:
    ledger_files.put(log, path, b"")
    report = refused(log)
    assert report.place.split(",")[0] == path
    assert reason in report.reason


def test_a_linked_directory_is_refused(log: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (log / "tile/5").symlink_to(tmp_path / "other")
    assert refused(log).place == "tile/5"


def test_a_foreign_name_cannot_steer_the_terminal(log: Path) -> None:
    (log / "\x1b[2J\udcff").write_bytes(b"")
    lines = refused(log).lines()
    assert all(line.isprintable() and line.encode() for line in lines)
    assert "\\x1b[2J\\udcff" in lines[-1]


def test_two_files_that_agree_with_each_other_are_still_refused(log: Path) -> None:
    """Whoever changes an entry will change its leaf hash too."""
    content = bytearray((log / "tile/entries/000").read_bytes())
    content[-1] ^= 1
    (log / "tile/entries/000").write_bytes(content)
    leaf = tlog.leaf_hash(tiles.decode_bundle(bytes(content), 256)[-1])
    hashes = (log / "tile/0/000").read_bytes()[:-32] + leaf
    (log / "tile/0/000").write_bytes(hashes)
    assert refused(log).place == "tile/0/000"
    above = tlog.tree_root(tiles.split_hashes(hashes))
    (log / "tile/1/000.p/1").write_bytes(above)
    report = refused(log)
    assert report.place == "checkpoint"
    assert "the root is not that of the tiles" in report.reason


# --- histories that are signed and wrong --------------------------------------------

Change = Callable[[list[Any]], object]
LATE = ledger_files.STARTED_MS + 10_000_000


def _gateway_start() -> batch.GatewayStart:
    start = ledger_files.sample_entries(24)[1]
    assert isinstance(start, batch.GatewayStart)
    return start


def _batch(number: int = 0, **changes: object) -> batch.Batch:
    made = batch.Batch(
        _gateway_start().boot_id, number, LATE, synchronised=True, root=bytes(32)
    )
    return replace(made, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "index", "reason"),
    [
        (lambda e: e.insert(1, e[0]), 1, "entry 0, and no other"),
        (lambda e: e.pop(0), 0, "entry 0, and no other"),
        (lambda e: e.insert(0, batch.EpochStart("other", 0)), 0, "origin"),
        (lambda e: e.append(replace(e[1], time_ms=LATE)), 24, "second time"),
        (lambda e: e.pop(1), 3, "boot id"),
        (lambda e: e.append(_batch(boot_id=bytes(16))), 24, "boot id"),
        (lambda e: e.append(batch.ClockTick(bytes(16), LATE, True)), 24, "boot id"),
        (lambda e: e.append(_batch(6)), 24, "boot id"),  # of the first boot
        (lambda e: e.pop(15), 15, "batch 3 where 2 is due"),
        (lambda e: e.insert(15, e[14]), 15, "batch 1 where 2 is due"),
        (lambda e: e.insert(14, replace(e[14], number=9)), 14, "batch 9 where 1"),
        (lambda e: e.insert(14, replace(e[14], time_ms=5)), 14, "time goes back"),
        (lambda e: e.append(batch.DeviceRevocation(bytes(16), 5)), 24, "time goes"),
        (lambda e: e.append(b"\x7f\xa0"), 24, "no entry begins with 7f"),
        (lambda e: e.append(b"\x06\xa0"), 24, "field 1"),
        (lambda e: e.append(b""), 24, "no entry begins with nothing"),
    ],
)
def test_a_history_against_the_rules_is_refused_though_it_is_signed(
    tmp_path: Path, change: Change, index: int, reason: str
) -> None:
    """A faulty or cheating gateway signs what it likes; the entry is named."""
    entries: list[batch.Entry | bytes] = [*ledger_files.sample_entries(24)]
    change(entries)
    encoded = [one if isinstance(one, bytes) else one.encode() for one in entries]
    ledger_files.write_ledger(tmp_path, encoded)
    report = refused(tmp_path)
    assert f", entry {index} (byte" in report.place, report.lines()
    assert reason in report.reason


def test_a_checkpoint_with_extension_lines_is_refused(log: Path) -> None:
    """Ours have none, so nobody may smuggle a meaning in."""
    text = note.Checkpoint(ledger_files.ORIGIN, 300, bytes(32), ("more",)).text
    content = note.sign_note(text, ledger_files.VERIFIER, ledger_files.KEY.sign)
    (log / "checkpoint").write_bytes(content)
    assert "extension" in refused(log).reason


def test_a_checkpoint_of_another_origin_is_refused_though_our_key_signed(
    log: Path,
) -> None:
    text = note.Checkpoint("other", 300, bytes(32)).text
    content = note.sign_note(text, ledger_files.VERIFIER, ledger_files.KEY.sign)
    (log / "checkpoint").write_bytes(content)
    assert "origin" in refused(log).reason


# --- the command --------------------------------------------------------------------


def run(*arguments: str | Path) -> tuple[int, str]:
    """The command in a process of its own, without the packages installed here."""
    command = [sys.executable, "-S", "-m", "edge.ledger.verify", *arguments]
    root = Path(verify.__file__).parents[2]
    done = subprocess.run(
        command, cwd=root, capture_output=True, text=True, timeout=60, check=False
    )
    return done.returncode, done.stdout + done.stderr


def test_the_command_needs_nothing_but_python() -> None:
    """An auditor has neither our compiler nor our packages."""
    policy = ("--policy", VECTORS / "two-of-three.policy")
    for words in (
        (LOG,),
        (VECTORS / "disclosed.tlog-proof",),
        (VECTORS / "cosigned.tlog-proof", *policy),
        (VECTORS / "grown.consistency",),
    ):
        status, output = run(*words, "--vkey", VKEY)
        assert (status, output.splitlines()[-1]) == (0, "VERIFIED")


def arguments(case: dict[str, Any], expected: dict[str, Any]) -> list[str]:
    words = [str(VECTORS / case["path"])]
    for one in case["given"]:
        if one in expected:
            words += [f"--{one.replace('_', '-')}", expected[one]]
        else:
            words += ["--policy", str(VECTORS / one)]
    return words


def test_every_vector_has_the_exit_status_that_it_says(
    capsys: pytest.CaptureFixture[str],
) -> None:
    expected = json.loads((VECTORS / "expected.json").read_text())
    words = {0: "VERIFIED", 2: "CANNOT RUN: ", 3: "NOT ENOUGH: "}
    assert len(expected["cases"]) == 23
    for case in expected["cases"]:
        assert verify.main(arguments(case, expected)) == case["exit"], case
        last = capsys.readouterr().out.splitlines()[-1]
        assert last.startswith(words[case["exit"]])


def test_the_command_answers_with_its_exit_status(
    log: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert verify.main([str(log)]) == 3
    flip(log / "tile/0/000", 0)
    assert verify.main([str(log), "--vkey", VKEY]) == 1
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == (
        "REFUSED: the hash is not that of its entry [tile/0/000, hash 0 (byte 0)]"
    )


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["missing"], "No such file"),
        (["missing", "--vkey", VKEY], "No such file"),
        (["PATH", "--vkey", "nonsense"], "a verifier key is"),
        (["PATH", "--vkey", VKEY, "--policy", "F"], "policy that was given: No such"),
        (["PATH", "--policy", str(LOG / "checkpoint")], "given: line 1: 'clinic.ex"),
        (["PATH", "--vkey", VKEY, "--policy", str(LOG)], "Is a directory"),
        (["PATH", "--vkey", VKEY, "--device-key", "00" * 32], "of small order"),
        (["PATH", "--vkey", VKEY, "--device-key", "F"], "key that was given: No such"),
        (["PATH", "--device-key", str(LOG / "checkpoint")], "not 64 or 130 hex digits"),
        (["PATH", "--device-key", str(LOG / "tile/0/000")], "more than 4096 bytes"),
        (["PATH", "--device-key", DEVICE_KEY], "the proof of a reading"),
        ([CONSISTENCY, "--device-key", DEVICE_KEY], "the proof of a reading"),
    ],
)
def test_the_command_cannot_run_on_what_it_cannot_read(
    words: list[str], text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [str(LOG) if one == "PATH" else one for one in words]
    assert verify.main(arguments) == 2
    assert text in capsys.readouterr().out.splitlines()[-1]


def test_a_wrong_argument_is_cannot_run(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        verify.main([str(LOG), "--no-such-option"])
    assert left.value.code == 2
    assert "unrecognized arguments" in capsys.readouterr().err


def test_a_directory_that_cannot_be_read_is_no_verdict(log: Path) -> None:
    """Not refused: nothing is known about its content."""
    if os.geteuid() == 0:
        report = verify.verify_directory(log / "checkpoint", VKEY)  # no directory
    else:
        (log / "tile/0/000").chmod(0)
        report = verify.verify_directory(log, VKEY)
    assert report.verdict is Verdict.CANNOT_RUN
    assert report.place


def test_the_vectors_key_is_what_it_says() -> None:
    """The key of the vectors is public knowledge: nobody may use it."""
    encoded = VKEY.split("+", 2)[2]
    assert b64decode(encoded)[0] == 1
    assert b64encode(b64decode(encoded)).decode() == encoded
