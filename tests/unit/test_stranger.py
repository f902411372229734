"""A verifier that shares no code with us accepts our ledgers (tests/scenario/stranger).

It is written in Go over golang.org/x/mod, the library that checks Go's module log;
Debian has both as golang-go and golang-golang-x-mod-dev.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import ledger_files
import pytest

from edge.ledger import note

SOURCE = Path(__file__).parents[1] / "scenario" / "stranger" / "main.go"
DEBIAN_GOPATH = Path("/usr/share/gocode")
VKEY = ledger_files.VERIFIER.vkey
SIZES = (1, 255, 256, 257, 600, 70_000)


@pytest.fixture(scope="session")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built program, or a skip with the reason."""
    go = shutil.which("go")
    if go is None:
        pytest.skip("no Go compiler: apt install golang-go")
    if not (DEBIAN_GOPATH / "src/golang.org/x/mod/sumdb/tlog").is_dir():
        pytest.skip("no golang.org/x/mod: apt install golang-golang-x-mod-dev")
    program = tmp_path_factory.mktemp("stranger") / "stranger"
    environment = {**os.environ, "GO111MODULE": "off", "GOPATH": str(DEBIAN_GOPATH)}
    environment |= {"GOFLAGS": "", "CGO_ENABLED": "0"}
    built = subprocess.run(
        [go, "build", "-o", program, SOURCE],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stderr
    return program


@pytest.fixture(scope="session", params=SIZES)
def ledger(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, int, bytes]:
    """A ledger of one of SIZES, its size and its root."""
    size: int = request.param
    directory = tmp_path_factory.mktemp(f"ledger-{size}")
    entries = [b"entry %d" % at for at in range(size)]
    return directory, size, ledger_files.write_ledger(directory, entries)


def ask(program: Path, directory: Path, vkey: str = VKEY) -> tuple[int, str]:
    done = subprocess.run(
        [program, vkey, directory],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def test_a_stranger_accepts_our_ledger_and_finds_our_root(
    stranger: Path, ledger: tuple[Path, int, bytes]
) -> None:
    directory, size, root = ledger
    assert ask(stranger, directory) == (0, f"accepted {size} {root.hex()}\n")


def test_a_stranger_refuses_our_ledger_with_one_flipped_byte(
    stranger: Path, ledger: tuple[Path, int, bytes]
) -> None:
    """In the first and the last file of each kind; else it would accept anything."""
    directory, _, _ = ledger
    for kind in ("checkpoint", "tile/0", "tile/1", "tile/2", "tile/entries"):
        top = directory / kind
        files = sorted(one for one in top.rglob("*") if one.is_file()) or [top]
        for path in {files[0], files[-1]} & set(directory.rglob("*")):
            content = path.read_bytes()
            at = len(content) // 2
            path.write_bytes(
                content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]
            )
            status, output = ask(stranger, directory)
            assert status == 1, path
            assert output.startswith("refused: ")
            path.write_bytes(content)


def test_a_stranger_refuses_our_ledger_under_another_key(
    stranger: Path, tmp_path: Path
) -> None:
    ledger_files.write_ledger(tmp_path, [b"entry"])
    other = note.Verifier(ledger_files.ORIGIN, bytes(range(32)))
    status, output = ask(stranger, tmp_path, other.vkey)
    assert (status, "no verifiable signatures" in output) == (1, True)


def test_a_stranger_accepts_the_ledger_of_the_vectors(stranger: Path) -> None:
    log = Path(__file__).parents[1] / "vectors" / "ledger" / "log"
    status, output = ask(stranger, log)
    assert (status, output.split()[:2]) == (0, ["accepted", "300"])
