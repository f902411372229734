"""Keys and sealing."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.errors import ConfigurationError, IntegrityError
from edge.store import vault

KEY = bytes(range(32))


@given(st.binary(max_size=300), st.binary(max_size=40))
def test_what_is_sealed_opens_with_its_key_and_place_alone(
    plain: bytes, place: bytes
) -> None:
    sealed = vault.seal(KEY, plain, place)
    assert vault.unseal(KEY, sealed, place) == plain
    with pytest.raises(IntegrityError):
        vault.unseal(vault.new_key(), sealed, place)
    with pytest.raises(IntegrityError):
        vault.unseal(KEY, sealed, place + b"x")


@given(st.binary(max_size=60), st.data())
def test_one_flipped_bit_and_the_seal_does_not_open(
    plain: bytes, data: st.DataObject
) -> None:
    sealed = bytearray(vault.seal(KEY, plain, b""))
    at = data.draw(st.integers(0, len(sealed) - 1))
    sealed[at] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(IntegrityError):
        vault.unseal(KEY, bytes(sealed), b"")


def test_no_nonce_is_used_twice() -> None:
    sealed = {vault.seal(KEY, b"", b"")[: vault.NONCE_SIZE] for _ in range(1000)}
    assert len(sealed) == 1000


def test_keys_that_others_may_read_are_refused_and_all_faults_are_named(
    tmp_path: Path,
) -> None:
    vault.create_keys(tmp_path / "keys")
    keyring = vault.load_keys(tmp_path / "keys")
    assert len(keyring.log_seed) == len(keyring.master) == 32
    assert keyring.master.hex() not in repr(keyring)
    (tmp_path / "keys" / "log.key").chmod(0o640)
    (tmp_path / "keys" / "master.key").write_text("zz")
    (tmp_path / "keys" / "access.token").unlink()
    with pytest.raises(ConfigurationError) as caught:
        vault.load_keys(tmp_path / "keys")
    text = str(caught.value)
    assert "log.key: others may read it" in text
    assert "master.key: not 32 bytes" in text
    assert "access.token: missing" in text


def test_existing_keys_are_never_overwritten(tmp_path: Path) -> None:
    vault.create_keys(tmp_path)
    before = (tmp_path / "log.key").read_bytes()
    with pytest.raises(ConfigurationError, match="exists already"):
        vault.create_keys(tmp_path)
    assert (tmp_path / "log.key").read_bytes() == before
