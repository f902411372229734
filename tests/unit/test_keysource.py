"""Where the master key comes from: three sources, and what is said when one fails."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge import config
from edge.errors import ConfigurationError
from edge.store import keysource, vault
from edge.store.keysource import Passphrase, load_master, seal_master, unseal_master

MASTER = bytes(range(32))
PASSPHRASE = "correct horse battery"


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fast parameters, no credentials and no passphrase of another test."""
    monkeypatch.setattr(keysource, "SCRYPT_N", 1 << 4)
    monkeypatch.setattr(keysource, "_passphrase", Passphrase())
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)


def said(keys: Path, source: str | None) -> str:
    with pytest.raises(ConfigurationError) as caught:
        load_master(keys, source)
    return str(caught.value)


def from_pipe(content: bytes) -> Passphrase:
    read, write = os.pipe()
    os.write(write, content)
    os.close(write)
    return Passphrase(read)


def credentials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    directory = tmp_path / "credentials"
    directory.mkdir()
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(directory))
    return directory


def written(path: Path, text: str) -> Path:
    vault.write_secret(path, text)
    return path


# ---- The sealed form ----


def test_the_real_parameters_cost_an_attacker_128_mib_for_each_guess(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.undo()
    text = seal_master(MASTER, PASSPHRASE)
    members = json.loads(text)
    assert 128 * members["n"] * members["r"] * members["p"] == 128 << 20
    assert unseal_master(text, lambda: PASSPHRASE, "here") == MASTER
    assert MASTER.hex() not in text


def test_a_wrong_passphrase_is_told_from_a_file_that_is_none() -> None:
    text = seal_master(MASTER, PASSPHRASE)
    assert seal_master(MASTER, PASSPHRASE) != text  # its own salt and nonce
    with pytest.raises(ConfigurationError, match="here: the passphrase does not open"):
        unseal_master(text, lambda: PASSPHRASE + "x", "here")

    def never() -> str:
        raise AssertionError("asked for a file that cannot be opened")

    members = json.loads(text)
    for change in (
        {"format": "other"},
        {"n": 3},
        {"n": 0},
        {"n": 1 << 30},
        {"r": 1 << 20},
        {"p": -1},
        {"salt": "zz"},
        {"sealed": 7},
    ):
        with pytest.raises(ConfigurationError, match="here: no sealed master key"):
            unseal_master(json.dumps(members | change), never, "here")
    for other in ("", "[]", "{}", "null", '"x"'):
        with pytest.raises(ConfigurationError, match="no sealed master key"):
            unseal_master(other, never, "here")


@pytest.mark.parametrize("name", ["n", "r", "p", "salt", "sealed"])
def test_no_member_of_the_sealed_file_can_be_exchanged(name: str) -> None:
    """Not even for another good one: weaker parameters do not go in unseen."""
    members = json.loads(seal_master(MASTER, PASSPHRASE))
    value = members[name]
    members[name] = 2 * value if isinstance(value, int) else value[:-2] + "00"
    if members[name] == value:
        members[name] = value[:-2] + "01"
    with pytest.raises(ConfigurationError, match="does not open it"):
        unseal_master(json.dumps(members), lambda: PASSPHRASE, "here")


@given(st.text(max_size=200))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_text_is_a_master_key_or_refused(text: str) -> None:
    with pytest.raises(ConfigurationError):
        unseal_master(text, lambda: PASSPHRASE, "here")


# ---- The passphrase ----


def test_a_passphrase_is_one_line_of_a_descriptor_and_read_once() -> None:
    one = from_pipe(PASSPHRASE.encode() + b"\r\nmore\n")
    assert one.get() == one.get() == PASSPHRASE
    assert PASSPHRASE not in repr(one)
    assert from_pipe("cafe\u0301 au lait".encode()).get() == "caf\u00e9 au lait"
    for content in (b"", b"\n", b"\xff\n", b"x" * 2000 + b"\n"):
        with pytest.raises(ConfigurationError, match=r"--passphrase-fd \d+: "):
            from_pipe(content).get()
    with pytest.raises(ConfigurationError, match="--passphrase-fd 12345: "):
        Passphrase(12345).get()


def test_a_credential_serves_where_no_descriptor_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = credentials(tmp_path, monkeypatch)
    file = written(directory / "iomt-passphrase", PASSPHRASE)
    assert Passphrase().get() == PASSPHRASE
    assert from_pipe(b"from the descriptor\n").get() == "from the descriptor"
    file.chmod(0o604)
    with pytest.raises(ConfigurationError, match="iomt-passphrase: others may read"):
        Passphrase().get()


def test_a_new_passphrase_is_typed_twice_and_not_short(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    typed: list[str] = []
    monkeypatch.setattr(keysource, "_ask", lambda _: typed.pop(0))
    typed[:] = [PASSPHRASE, PASSPHRASE]
    assert Passphrase().choose() == PASSPHRASE
    typed[:] = [PASSPHRASE, PASSPHRASE + "x"]
    with pytest.raises(ConfigurationError, match="differ"):
        Passphrase().choose()
    typed[:] = ["short", "short"]
    with pytest.raises(ConfigurationError, match="at least 12"):
        Passphrase().choose()


# ---- The sources ----


def test_every_source_gives_the_key_and_is_found_without_being_configured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = written(tmp_path / "master.key", MASTER.hex())
    assert load_master(tmp_path) == load_master(tmp_path, "file") == MASTER
    file.unlink()
    sealed = written(tmp_path / "master.sealed", seal_master(MASTER, PASSPHRASE))
    monkeypatch.setattr(keysource, "_passphrase", from_pipe(PASSPHRASE.encode()))
    assert load_master(tmp_path) == load_master(tmp_path, "passphrase") == MASTER
    sealed.unlink()
    written(credentials(tmp_path, monkeypatch) / "iomt-master", MASTER.hex())
    assert load_master(tmp_path) == load_master(tmp_path, "credential") == MASTER


def test_every_failure_names_its_file_or_credential_and_no_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "$CREDENTIALS_DIRECTORY is not set" in said(tmp_path, "credential")
    directory = credentials(tmp_path, monkeypatch)
    assert f"credential {directory}/iomt-master: No such" in said(
        tmp_path, "credential"
    )
    file = written(directory / "iomt-master", MASTER.hex()[:-1])
    text = said(tmp_path, "credential")
    assert f"credential {file}: not 32 bytes in hexadecimal" in text
    assert MASTER.hex()[:8] not in text
    file.chmod(0o444)
    assert "others may read it" in said(tmp_path, "credential")

    assert "master.key: missing" in said(tmp_path, "file")
    assert "master.sealed: missing" in said(tmp_path, "passphrase")
    master = written(tmp_path / "master.key", MASTER.hex())
    text = said(tmp_path, "passphrase")
    assert f'{master} is there: set [gateway] master = "file"' in text
    master.chmod(0o640)
    assert "master.key: others may read it" in said(tmp_path, "file")
    master.unlink()
    sealed = written(tmp_path / "master.sealed", seal_master(MASTER, PASSPHRASE))
    assert 'set [gateway] master = "passphrase"' in said(tmp_path, "file")
    monkeypatch.setattr(keysource, "_passphrase", from_pipe(b"another one\n"))
    assert f"{sealed}: the passphrase does not open it" in said(tmp_path, "passphrase")


def test_an_open_key_beside_a_sealed_one_is_warned_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    written(tmp_path / "master.key", MASTER.hex())
    written(tmp_path / "master.sealed", seal_master(MASTER, PASSPHRASE))
    monkeypatch.setattr(keysource, "_passphrase", from_pipe(PASSPHRASE.encode()))
    assert load_master(tmp_path, "passphrase") == MASTER
    assert "master.key lies open beside" in caplog.text
    for secret in (PASSPHRASE, MASTER.hex()):
        assert secret not in caplog.text


def test_two_keys_and_no_store_to_ask_is_said(tmp_path: Path) -> None:
    written(tmp_path / "master.key", MASTER.hex())
    written(tmp_path / "master.key.new", MASTER.hex())
    assert "a rotation was cut off" in said(tmp_path, "file")


def test_the_configuration_names_the_source() -> None:
    text = '[gateway]\norigin = "a"\ndata = "b"\n'
    assert config.parse(text, "f", Path()).master == "file"
    for source in ("file", "credential", "passphrase"):
        line = f'master = "{source}"\n'
        assert config.parse(text + line, "f", Path()).master == source
    with pytest.raises(ConfigurationError, match=r"f:4: \[gateway\] master: must be"):
        config.parse(text + 'master = "tpm"\n', "f", Path())
