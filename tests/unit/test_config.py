"""The configuration: all mistakes at once, each with its place."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge import config
from edge.errors import ConfigurationError
from edge.init import initialise
from edge.mqtt_limits import Limits

SMALLEST = """\
[gateway]
origin = "clinic.example/ward-3"
data   = "/var/lib/iomt"
[mqtt]
listen = "127.0.0.1:1883"
[ble]
enabled = false
[web]
listen = "127.0.0.1:8080"
"""


def problems_of(text: str) -> list[str]:
    with pytest.raises(ConfigurationError) as caught:
        config.parse(text, "iomt.toml", Path("/etc/iomt"))
    return caught.value.problems


def test_the_smallest_configuration_has_every_default() -> None:
    settings = config.parse(SMALLEST, "iomt.toml", Path("/etc/iomt"))
    assert settings.directory == Path("/var/lib/iomt")
    assert settings.keys == Path("/var/lib/iomt/keys")
    assert settings.mqtt == config.Address("127.0.0.1", 1883)
    assert settings.ble_adapter is None
    assert settings.contracts is None
    assert settings.pace == config.PACES["ssd"]


def test_the_log_key_signs_natively_unless_openssl_is_chosen() -> None:
    """A clinic that trusts OpenSSL more can stay with it."""
    place = Path("/etc/iomt")
    assert config.parse(SMALLEST, "iomt.toml", place).signer == "native"
    stay = SMALLEST + '[ledger]\nsigner = "openssl"\n'
    assert config.parse(stay, "iomt.toml", place).signer == "openssl"
    (problem,) = problems_of(SMALLEST + '[ledger]\nsigner = "hsm"\n')
    assert "must be one of 'native', 'openssl'" in problem


def test_all_mistakes_are_reported_at_once_with_their_lines() -> None:
    problems = problems_of(
        """\
[gateway]
data = 7
[mqtt]
listen = "0.0.0.0:1883"
listten = "127.0.0.1:1883"
[store]
medium = "floppy"
free_reserve_mb = 1
[web]
listen = "127.0.0.1:99999"
[weather]
"""
    )
    text = "\n".join(problems)
    assert "iomt.toml:1: [gateway] origin: missing" in text
    assert "iomt.toml:2: [gateway] data: must be a text" in text
    assert "iomt.toml:4: [mqtt] listen: 0.0.0.0 is reachable" in text
    assert "iomt.toml:5: [mqtt] listten: unknown key" in text
    assert "iomt.toml:7: [store] medium: must be one of" in text
    assert "iomt.toml:8: [store] free_reserve_mb: 1 is not within" in text
    assert "iomt.toml:10: [web] listen: port 99999" in text
    assert "iomt.toml:11: [weather]" in text
    assert len(problems) == 8


@pytest.mark.parametrize(
    "address", ["192.168.1.5:1883", "[::]:1883", "example.org:1883", "1883", ":1883"]
)
def test_plain_text_is_never_offered_to_other_machines(address: str) -> None:
    assert problems_of(SMALLEST.replace("127.0.0.1:1883", address))


@pytest.mark.parametrize("address", ["127.0.0.1:1", "[::1]:1883", "localhost:1883"])
def test_loopback_in_all_its_forms_is_accepted(address: str) -> None:
    text = SMALLEST.replace("127.0.0.1:1883", address)
    assert config.parse(text, "iomt.toml", Path()).mqtt is not None


def test_a_file_that_is_no_toml_or_not_there_is_named(tmp_path: Path) -> None:
    assert problems_of("[gateway")[0].startswith("iomt.toml: not TOML")
    with pytest.raises(ConfigurationError, match="cannot be read"):
        config.load(tmp_path / "nothing.toml")


def test_init_writes_what_the_gateway_reads_and_overwrites_nothing(
    tmp_path: Path,
) -> None:
    file = initialise(tmp_path / "clinic", "clinic.example/ward-3")
    settings = config.load(file)
    assert settings.contracts is not None
    assert list(settings.contracts.glob("*.toml"))
    for key in settings.keys.iterdir():
        assert key.stat().st_mode & 0o777 == 0o600
    with pytest.raises(ConfigurationError, match="exists already"):
        initialise(tmp_path / "clinic", "clinic.example/ward-3")


def test_init_refuses_an_unfit_origin_before_it_makes_keys(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="origin"):
        initialise(tmp_path / "clinic", "two words")
    assert not (tmp_path / "clinic" / "data").exists()


@given(st.text(max_size=200))
def test_any_text_is_settings_or_a_configuration_error(text: str) -> None:
    with contextlib.suppress(ConfigurationError):
        config.parse(text, "iomt.toml", Path())


def test_every_bound_of_the_listener_can_be_said_by_its_name() -> None:
    text = SMALLEST + "[mqtt.limits]\nconnections_max = 2000\npending_max = 8\n"
    settings = config.parse(text, "iomt.toml", Path("/etc/iomt"))
    limits = settings.mqtt_limits
    assert (limits.connections_max, limits.pending_max) == (2000, 8)
    assert limits.receive_max == Limits().receive_max


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("conections_max = 5", "there are close_timeout_s, connect_size_max"),
        ("connections_max = 0", "connections_max: 0 is not within 1"),
        ('connections_max = "many"', "connections_max: must be a whole number"),
        ("receive_max = 65535", "receive_max: 65535 is not within 1 and 65534"),
    ],
)
def test_a_bound_that_is_none_is_named(line: str, words: str) -> None:
    [problem] = problems_of(f"{SMALLEST}[mqtt.limits]\n{line}\n")
    assert words in problem
