"""Enrolling a Bluetooth device: who is near, what is asked, what is kept.

Pairing itself is tested on the real stack (tests/bluez/test_bonding.py).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ble_fakes import INDICATE, OXIMETER, STRANGER, STRAP, pushing, virtual_radio
from bleak.backends.device import BLEDevice
from bleak.exc import BleakError
from workbench import make_gateway, reader_of

from edge import cli, config
from edge.errors import ConfigurationError
from edge.gateway import open_core
from edge.sources import ble_pairing
from edge.sources.ble_hci import attach
from edge.sources.ble_pairing import Nearby


async def test_who_is_near_is_shown_with_what_it_offers_the_useful_first() -> None:
    async with virtual_radio() as radio:
        await radio.peripheral(STRANGER, {0x1815: [pushing(0x2A56)]})
        await radio.peripheral(OXIMETER, {0x1810: [pushing(0x2A35, INDICATE)]})
        async with attach(radio.address) as (scanner, _):
            found = await ble_pairing.nearby(0.3, scanner)
    assert [(one.address, one.name, one.words) for one in found] == [
        (OXIMETER, "virtual", "blood pressure"),
        (STRANGER, "virtual", "1815"),
    ]


def near(address: str, name: str) -> Nearby:
    return Nearby(BLEDevice(address, name, None), address, name, ("1810",), -50)


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the person types, in order; the questions are asked of this list."""
    typed: list[str] = []

    def typing(_: str) -> str:
        if not typed:
            raise EOFError
        return typed.pop(0)

    in_range = [near(OXIMETER, "cuff"), near(STRAP, "strap")]

    async def nearby() -> list[Nearby]:
        return in_range

    async def found(address: str) -> BLEDevice | None:
        return {one.address: one.device for one in in_range}.get(address)

    monkeypatch.setattr("builtins.input", typing)
    monkeypatch.setattr(ble_pairing, "nearby", nearby)
    monkeypatch.setattr(ble_pairing, "found", found)
    return typed


def pairing(
    monkeypatch: pytest.MonkeyPatch, act: Callable[..., Any]
) -> list[tuple[str, Any]]:
    """`act` plays the stack; what it was asked to do, and what it got."""
    done: list[tuple[str, Any]] = []

    async def pair(device: BLEDevice, **callbacks: Any) -> dict[str, str]:
        done.append((device.address, await act(**callbacks)))
        return {"manufacturer": "ACME", "model": "C-1"}

    monkeypatch.setattr(ble_pairing, "pair", pair)
    return done


def enrolled(directory: Path) -> dict[str, str | None]:
    settings = config.load(directory / "iomt.toml")
    if not list(settings.directory.glob("*.db")):  # nothing was ever changed
        return {}
    reader = reader_of(settings)
    return {one.name: one.address for one in reader.registry().all()}


def add(directory: Path, *words: str) -> int:
    file = str(directory / "iomt.toml")
    return cli.main(["device", "add", "cuff-1", "--config", file, *words])


def test_the_chosen_device_is_paired_with_the_number_that_it_shows(
    tmp_path: Path,
    answers: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    make_gateway(tmp_path)
    done = pairing(monkeypatch, lambda ask, **_: ask())
    answers += ["1", "123456"]
    assert add(tmp_path, "--ble") == 0
    assert done == [(OXIMETER, 123456)]
    assert enrolled(tmp_path) == {"cuff-1": OXIMETER}
    shown = capsys.readouterr().out
    assert "-50 dBm  cuff" in shown
    assert "blood pressure" in shown
    assert "model: C-1" in shown


def test_what_is_no_number_and_an_empty_answer_refuse_the_pairing(
    tmp_path: Path, answers: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    make_gateway(tmp_path)

    async def refused(ask: Any, confirm: Any, **_: Any) -> None:
        assert await ask() is None
        assert await ask() is None
        assert not await confirm(7)
        raise BleakError("[org.bluez.Error.AuthenticationFailed] ['']")

    done = pairing(monkeypatch, refused)
    answers += ["2", "abc", "1234567", ""]
    assert add(tmp_path, "--ble") != 0
    assert done == []
    assert enrolled(tmp_path) == {}


def test_a_device_that_cannot_pair_is_enrolled_only_when_a_person_says_so(
    tmp_path: Path,
    answers: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    make_gateway(tmp_path)

    async def fails(**_: Any) -> None:
        raise BleakError("[org.bluez.Error.AuthenticationRejected] ['']")

    pairing(monkeypatch, fails)
    answers += ["2", "y"]
    assert add(tmp_path, "--ble") == 0
    assert enrolled(tmp_path) == {"cuff-1": STRAP}
    assert "the device refuses to be paired" in capsys.readouterr().out


@pytest.mark.parametrize("said", ["", "0", "3", "cuff"])
def test_nothing_chosen_is_nothing_enrolled(
    tmp_path: Path, answers: list[str], said: str
) -> None:
    make_gateway(tmp_path)
    answers.append(said)
    assert add(tmp_path, "--ble") != 0
    assert enrolled(tmp_path) == {}


def test_an_address_that_is_given_needs_no_radio_and_no_person(tmp_path: Path) -> None:
    make_gateway(tmp_path)
    assert add(tmp_path, "--ble", STRAP.lower()) == 0
    assert enrolled(tmp_path) == {"cuff-1": STRAP}


def test_pairing_with_an_address_wants_it_near(
    tmp_path: Path, answers: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    make_gateway(tmp_path)

    async def nothing(**_: Any) -> None:
        return None

    done = pairing(monkeypatch, nothing)
    assert add(tmp_path, "--ble", STRANGER, "--pair") != 0
    assert add(tmp_path, "--ble", STRAP, "--pair") == 0
    assert [address for address, _ in done] == [STRAP]
    assert answers == []


def test_a_device_is_enrolled_one_way_or_the_other(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_gateway(tmp_path)
    assert add(tmp_path) != 0
    assert "one of --key, --unsigned, --typed and --ble" in capsys.readouterr().err


def test_an_address_belongs_to_one_device_until_that_is_revoked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Else its readings would go to one of the two, and perhaps to another patient."""
    make_gateway(tmp_path)
    assert add(tmp_path, "--ble", STRAP) == 0
    file = str(tmp_path / "iomt.toml")
    second = ["device", "add", "cuff-2", "--config", file, "--ble", STRAP.lower()]
    assert cli.main(second) != 0
    assert "it is 'cuff-1'; revoke that first" in capsys.readouterr().err
    assert cli.main(["device", "revoke", "cuff-1", "--config", file]) == 0
    assert cli.main(second) == 0


async def test_of_two_who_enrol_one_address_at_once_one_is_refused(
    tmp_path: Path,
) -> None:
    async with open_core(make_gateway(tmp_path)) as core:
        add_device = core.administration.add_device
        done = await asyncio.gather(
            add_device("cuff-1", "ble", None, STRAP),
            add_device("cuff-2", "ble", None, STRAP.lower()),
            return_exceptions=True,
        )
        assert [type(one) for one in done] == [type(None), ConfigurationError]
        assert core.registry.radio_addresses() == {STRAP: "cuff-1"}
