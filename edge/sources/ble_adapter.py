"""Keeping the BLE source alive on its adapter, BlueZ's or a virtual one.

adapter              what it is
"bluez"              this machine's own, through bluetoothd
"hci-tcp:HOST:PORT"  a controller behind a socket (ble_hci.py): demo and tests
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import AsyncIterator, Callable, Mapping

from edge.sources import Door
from edge.sources.ble import Alarm, BleSource
from edge.sources.ble_bluez import Agent, Bluez, system_bus
from edge.sources.ble_device import Now
from edge.sources.ble_hci import attach
from edge.sources.ble_link import Limits
from edge.sources.ble_words import RADIO_ERRORS, explain

log = logging.getLogger("edge.ble")

RESTART_MIN_S, RESTART_MAX_S = 0.5, 30.0
HCI_PREFIX = "hci-tcp:"
NOBODY_THERE = "NoInputNoOutput"  # the agent's capability: "just works" and no more

Devices = Callable[[], Mapping[str, str]]


async def run_ble(
    adapter: str,
    door: Door,
    devices: Devices,
    now: Now,
    alarm: Alarm,
    *,
    limits: Limits,
) -> None:
    """Run the source until cancelled; an adapter that is gone is awaited."""
    delay_s = RESTART_MIN_S
    while True:
        started_s = asyncio.get_running_loop().time()
        try:
            if adapter.startswith(HCI_PREFIX):
                place = adapter.removeprefix(HCI_PREFIX)
                async with attach(f"tcp-client:{place}") as (scanner, client):
                    await BleSource(
                        door,
                        devices,
                        scanner_backend=scanner,
                        client_backend=client,
                        limits=limits,
                        now=now,
                        alarm=alarm,
                    ).run()
            else:
                await _run_bluez(door, devices, now, alarm, limits)
        except RADIO_ERRORS as error:
            log.warning("BLE adapter %s: %s", adapter, explain(error))
        if asyncio.get_running_loop().time() - started_s > RESTART_MAX_S:
            delay_s = RESTART_MIN_S
        await asyncio.sleep(random.uniform(0, delay_s))  # noqa: S311 - no secret
        delay_s = min(2 * delay_s, RESTART_MAX_S)


def bluez_source(
    door: Door, devices: Devices, now: Now, alarm: Alarm, limits: Limits
) -> BleSource:
    """The source on this machine's own stack, with what only BlueZ can tell."""

    async def is_bonded(address: str) -> bool:
        async with system_bus() as bluez:
            return await bluez.is_bonded(address)

    async def power_cycle() -> None:
        async with system_bus() as bluez:
            await bluez.power_cycle()

    async def stack_lost() -> None:
        async with system_bus() as bluez:
            await bluez.gone()

    return BleSource(
        door,
        devices,
        limits=limits,
        now=now,
        alarm=alarm,
        is_bonded=is_bonded,
        power_cycle=power_cycle,
        stack_lost=stack_lost,
    )


async def _run_bluez(
    door: Door, devices: Devices, now: Now, alarm: Alarm, limits: Limits
) -> None:
    source = bluez_source(door, devices, now, alarm, limits)
    async with asyncio.TaskGroup() as group:
        agent = group.create_task(_answer_pairing(devices), name="ble-agent")
        await source.run()
        agent.cancel()


async def _answer_pairing(devices: Devices) -> None:
    """Let enrolled devices pair where there is nothing to compare, and no others.

    Some ask for it at the first reading. What needs a number is paired at enrolment,
    where somebody can read it. bluetoothd forgets its agents when it restarts, so the
    registration is made anew.
    """
    while True:
        try:
            async with system_bus() as bluez, _agent(bluez, devices):
                await bluez.gone()
        except RADIO_ERRORS as error:
            log.debug("no pairing agent: %s", explain(error))
        await asyncio.sleep(RESTART_MIN_S)


@contextlib.asynccontextmanager
async def _agent(bluez: Bluez, devices: Devices) -> AsyncIterator[None]:
    async def may_pair(path: str) -> bool:
        address = await bluez.address_of(path)
        known = address in {one.upper() for one in devices()}
        log.info("a device %s to be paired", "asks" if known else "is refused")
        return known

    async with bluez.answering(Agent(may_pair), NOBODY_THERE):
        yield
