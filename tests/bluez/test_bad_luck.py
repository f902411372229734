"""What goes wrong on a ward, on BlueZ: hanging devices, and others at the radio."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
from typing import Any

import pytest
from ble_fakes import OXIMETER, STRAP, Intake, Peripheral, until
from lab import DEVICE, QUICK, Lab, serving

LIMIT_S = 60


def answering_after(peripheral: Peripheral, delay_s: float) -> None:
    """The device takes its time for each request of GATT."""
    server: Any = peripheral.device.gatt_server
    answer = server.on_gatt_pdu

    def later(connection: Any, pdu: Any) -> None:
        asyncio.get_running_loop().call_later(delay_s, answer, connection, pdu)

    server.on_gatt_pdu = later


async def test_a_device_that_hangs_in_discovery_leaves_the_others_their_turn(
    lab: Lab, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "edge.ble")
    hanging, strap = await lab.strap(), await lab.strap(OXIMETER)
    server: Any = hanging.device.gatt_server
    answer, asked = server.on_gatt_pdu, asyncio.Event()
    server.on_gatt_pdu = lambda *_: asked.set()
    limits = dataclasses.replace(QUICK, exclusive_s=2, connect_timeout_s=8)
    intake = Intake()
    enrolled = {STRAP: "hanging"}
    async with serving(intake, enrolled, limits) as source:
        await asyncio.wait_for(asked.wait(), LIMIT_S)
        enrolled[OXIMETER] = "strap"
        await until(lambda: source.connected == {OXIMETER}, "the other", LIMIT_S)
        await strap.send("2a37", "0048")
        await until(lambda: intake.payloads() == ["0048"], "its value", LIMIT_S)
        words = "hanging: TimeoutError"
        await until(lambda: words in caplog.messages, "given up", LIMIT_S)
        server.on_gatt_pdu = answer
        await until(lambda: STRAP in source.connected, "served in the end", LIMIT_S)


async def test_a_connection_that_somebody_else_has_begun_is_awaited(
    lab: Lab,
) -> None:
    """By a desktop's applet, or by our own life before; then it is shared."""
    strap = await lab.strap()
    answering_after(strap, 0.2)
    path = f"{lab.path}/dev_{STRAP.replace(':', '_')}"
    enrolled: dict[str, str] = {}
    intake = Intake()
    async with serving(intake, enrolled) as source:
        async with asyncio.timeout(LIMIT_S):
            while path not in await lab.objects():
                await asyncio.sleep(0.1)
        other = asyncio.create_task(lab.call(path, DEVICE, "Connect", ""))
        await until(lambda: bool(strap.device.connections), "the other's", LIMIT_S)
        enrolled[STRAP] = "strap"
        await until(lambda: source.connected == {STRAP}, "connected", LIMIT_S)
        await strap.send("2a37", "0048")
        await until(lambda: intake.payloads() == ["0048"], "the value", LIMIT_S)
        with contextlib.suppress(RuntimeError):
            await other


async def test_an_adapter_with_fewer_connections_than_ours_is_shared_by_turns(
    lab: Lab, caplog: pytest.LogCaptureFixture
) -> None:
    """We think it has seven; it has two, and BlueZ waits in silence for the third."""
    caplog.set_level(logging.INFO, "edge.ble")
    addresses = [f"F1:00:00:00:04:{i:02X}" for i in range(4)]
    for address in addresses:
        await lab.strap(address)
    lab.bound_connections(2)
    limits = dataclasses.replace(
        QUICK, idle_s=0.5, connect_timeout_s=4, exclusive_s=2, backoff_max_s=0.2
    )
    served: set[str] = set()
    async with serving(Intake(), {a: a for a in addresses}, limits) as source:

        def all_served() -> bool:
            served.update(source.connected)
            return len(served) == 4

        await until(all_served, "each has had its turn", LIMIT_S)
    assert "the adapter holds no more than 2 connections" in caplog.messages
