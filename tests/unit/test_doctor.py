"""`iomt doctor`: what it finds, and that it says so by its exit status."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from edge import cli
from edge.ledger import core


def doctor(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    status = cli.main(["doctor", *words])
    return status, capsys.readouterr().out


@pytest.fixture
def installed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    assert cli.main(["init", str(tmp_path / "site")]) == 0
    capsys.readouterr()
    return tmp_path / "site"


def test_core_is_reported_with_backend_reason_and_self_test(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The first question about a slow gateway needs no data directory."""
    status, out = doctor(capsys)
    assert status == 0
    assert f"backend {core.active()}: " in out
    assert core.report().compiler in out
    assert f"self-test passed by {len(core.backends())} of" in out
    assert f"Ed25519 backend {core.active_signatures()}" in out
    for name in core.signature_backends():
        assert name in out.partition("Ed25519 backend")[2]


def test_sound_installation_passes(
    installed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What `iomt init` writes has no faults."""
    status, out = doctor(capsys, "--data", str(installed))
    assert status == 0, out
    assert "FAIL" not in out
    assert "readable; the log is" in out


def test_key_that_others_may_read_fails(
    installed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A restored backup loses modes easily."""
    key = next((installed / "data" / "keys").iterdir())
    key.chmod(0o644)
    status, out = doctor(capsys, "--data", str(installed))
    assert status == 1
    assert f"{key}: mode 0644" in out


def test_disk_below_its_reserve_fails(
    installed: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The gateway then stops taking readings, and somebody asks why."""
    usage = shutil.disk_usage(installed)._replace(free=1 << 20)
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage)
    status, out = doctor(capsys, "--data", str(installed))
    assert status == 1
    assert "the gateway takes no readings" in out


def test_broken_configuration_is_a_finding(
    installed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every mistake gets its line; the other checks are still made."""
    (installed / "iomt.toml").write_text("[gateway]\ndata = 3\n")
    status, out = doctor(capsys, "--config", str(installed / "iomt.toml"))
    assert status == 1
    assert "FAIL  configuration" in out
    assert f"backend {core.active()}: " in out
