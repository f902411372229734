"""The Bumble backend: what bleak expects of it, and how a lost controller is told."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator
from functools import partial

import pytest
from ble_fakes import (
    FAST,
    READ,
    STRAP,
    Intake,
    Radio,
    pushing,
    until,
    virtual_radio,
)
from bleak import BleakClient, BleakScanner
from bleak.backends.client import BaseBleakClient
from bleak.exc import BleakError, BleakGATTProtocolError
from bumble.att import ATT_Error
from bumble.core import UUID
from bumble.gatt import Characteristic, CharacteristicValue

from edge.errors import ConfigurationError
from edge.sources import ble_hci
from edge.sources.ble import BleSource
from edge.sources.ble_hci import attach


@pytest.fixture
async def radio() -> AsyncIterator[Radio]:
    async with virtual_radio() as made:
        yield made


async def test_losing_the_controller_ends_the_body_at_once_and_attaching_again_works(
    radio: Radio,
) -> None:
    """The ward restarts: the gateway's supervisor attaches again and goes on."""
    strap = await radio.strap()
    intake = Intake()
    attached = 0

    async def supervise() -> None:
        nonlocal attached
        while True:
            try:
                async with attach(radio.address) as (scanner, client):
                    attached += 1
                    await BleSource(
                        intake,
                        lambda: {STRAP: "strap"},
                        scanner_backend=scanner,
                        client_backend=client,
                        limits=FAST,
                    ).run()
            except ConnectionError:
                await asyncio.sleep(0.01)

    supervisor = asyncio.create_task(supervise())
    for value in ("0041", "0042", "0043"):
        await until(lambda: strap.subscribed("2a37"), "subscribed")
        await strap.send("2a37", value)
        await until(partial(intake.has, value), f"{value} arrived")
        radio.unplug()
        await until(lambda: not strap.device.connections, "the strap noticed")
    assert attached >= 3
    supervisor.cancel()
    with pytest.raises(asyncio.CancelledError):
        await supervisor


async def test_a_lost_controller_is_told_as_connection_error_within_a_second(
    radio: Radio,
) -> None:
    started = time.monotonic()

    async def body() -> None:
        async with attach(radio.address):
            asyncio.get_running_loop().call_later(0.05, radio.unplug)
            await asyncio.sleep(60)

    with pytest.raises(ConnectionError, match="is lost"):
        await body()
    assert time.monotonic() - started < 1
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


async def test_cancelling_the_body_stays_a_cancellation(radio: Radio) -> None:
    """Also when the controller is lost in the same moment."""

    async def body() -> None:
        async with attach(radio.address):
            await asyncio.sleep(60)

    for unplug in (False, True):
        count = len(radio.hosts)
        task = asyncio.create_task(body())
        await until(partial(radio.has_hosts, count + 1), "attached")
        await asyncio.sleep(0.1)
        if unplug:
            radio.unplug()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_an_address_that_nobody_serves_or_of_another_form_says_so() -> None:
    server = await asyncio.start_server(lambda _, __: None, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    server.close()
    await server.wait_closed()
    with pytest.raises(ConnectionError, match="no controller at"):
        async with attach(f"tcp-client:127.0.0.1:{port}"):
            pass
    with pytest.raises(ConfigurationError, match="not tcp-client:HOST:PORT"):
        async with attach("usb:0"):
            pass


@pytest.mark.parametrize("hangs_up", [True, False])
async def test_a_controller_that_does_not_answer_is_no_controller(
    hangs_up: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Something listens on the port, and is no controller or a stuck one."""
    monkeypatch.setattr(ble_hci, "ATTACH_TIMEOUT_S", 0.2)
    accepted: list[asyncio.StreamWriter] = []

    def accept(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        accepted.append(writer)
        if hangs_up:
            writer.transport.abort()

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    started = time.monotonic()
    with pytest.raises(ConnectionError, match="is lost" if hangs_up else "no answer"):
        async with attach(f"tcp-client:127.0.0.1:{port}"):
            pass
    assert time.monotonic() - started < 2
    server.close()
    for writer in accepted:
        writer.transport.abort()


async def test_without_bumble_the_extra_to_install_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "bumble", None)
    with pytest.raises(ConfigurationError, match="the extra 'demo'"):
        async with attach("tcp-client:127.0.0.1:1"):
            pass


async def test_the_backend_gives_what_bleak_promises_of_any_backend(
    radio: Radio,
) -> None:
    """Advertisement fields, reads, writes, descriptors, and errors by their code."""

    def forbidden(_: object) -> bytes:
        raise ATT_Error(0x80)

    written: list[bytes] = []
    readable: Characteristic[bytes] = Characteristic(
        UUID.from_16_bits(0x2A38), READ, Characteristic.READABLE, b"\x01"
    )
    failing: Characteristic[bytes] = Characteristic(
        UUID.from_16_bits(0x2A3A),
        READ,
        Characteristic.READABLE,
        CharacteristicValue(read=forbidden),
    )
    writable: Characteristic[bytes] = Characteristic(
        UUID("12345678-1234-5678-1234-56789abcdef0"),
        Characteristic.Properties.WRITE,
        Characteristic.WRITEABLE,
        CharacteristicValue(write=lambda _, value: written.append(bytes(value))),
    )
    await radio.peripheral(
        STRAP, {0x180D: [pushing(0x2A37), readable, failing, writable]}
    )
    async with attach(radio.address) as (scanner, client):
        device = await BleakScanner.find_device_by_address(
            STRAP, timeout=3, backend=scanner
        )
        assert device is not None
        assert (device.address, device.name) == (STRAP, "virtual")
        found = await BleakScanner.discover(0.1, return_adv=True, backend=scanner)
        said = found[STRAP][1]
        assert said.service_uuids == ["0000180d-0000-1000-8000-00805f9b34fb"]
        assert (said.manufacturer_data, said.tx_power) == ({0xFFFF: b"\x2a"}, -4)
        backend: type[BaseBleakClient] = client
        async with BleakClient(device, backend=backend) as link:
            assert link.mtu_size > 23
            assert await link.read_gatt_char("2a38") == b"\x01"
            with pytest.raises(BleakGATTProtocolError) as refused:
                await link.read_gatt_char("2a3a")
            assert refused.value.code == 0x80
            uuid = "12345678-1234-5678-1234-56789abcdef0"
            await link.write_gatt_char(uuid, b"\x05", response=True)
            assert written == [b"\x05"]
            measured = link.services.get_characteristic("2a37")
            assert measured is not None
            assert measured.properties == ["notify"]
            assert [d.uuid[4:8] for d in measured.descriptors] == ["2902"]
        with pytest.raises(BleakError):
            await link.read_gatt_char("2a38")
