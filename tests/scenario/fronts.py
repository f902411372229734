"""A whole gateway inside the test's process: real store, real doors, free ports."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from workbench import SignedDevice, make_gateway

from edge.config import Settings
from edge.gateway import Running, run
from edge.store.vault import load_keys

FROST = """\
contract = "frost"
version  = 1
engine   = "rules/1"
subject  = "device"
[inputs]
temp = { metric = "body_temperature", unit = "Cel", scale = 10, fresh = "1h" }
[rules.freeze]
priority = "high"
when     = "temp <= '35.0'"
"""
COLD, WARM = b"34.0", b"36.5"


def temperature(value: bytes) -> bytes:
    """What an unsigned thermometer sends: COLD begins an alarm, WARM ends it."""
    return b'[{"n":"body_temperature","u":"Cel","v":%s}]' % value


def with_frost(directory: Path) -> Settings:
    """A fresh gateway where a cold thermometer is an alarm."""
    settings = make_gateway(directory)
    place = directory / "rules"
    place.mkdir()
    (place / "frost.toml").write_text(FROST)
    return replace(settings, contracts=place)


@dataclass
class Front:
    """A gateway that runs, and what a client needs to reach it."""

    running: Running
    port: int
    token: str

    async def enrol(self, *devices: SignedDevice) -> None:
        """Enrol these and the unsigned `thermometer`, where they are not yet."""
        administration = self.running.core.administration
        if self.running.core.registry.find("thermometer") is None:
            await administration.add_device("thermometer", "unsigned")
        for one in devices:
            if self.running.core.registry.find(one.name) is None:
                await administration.add_device(one.name, "signed", one.public_key)


@asynccontextmanager
async def front(settings: Settings) -> AsyncIterator[Front]:
    """Run the gateway of this directory; it is stopped as SIGTERM would."""
    stop, ready = asyncio.Event(), asyncio.Event()
    found: list[Running] = []

    def note(running: Running) -> None:
        found.append(running)
        ready.set()

    task = asyncio.create_task(run(settings, stop, note))
    waiting = asyncio.create_task(ready.wait())
    await asyncio.wait([task, waiting], return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    try:
        if task.done():
            task.result()
        port = found[0].mqtt_port
        assert port is not None
        yield Front(found[0], port, load_keys(settings.keys).access_token)
    finally:
        stop.set()
        await task


class Place:
    """Where a listener is, for a Peer that only needs its port."""

    def __init__(self, port: int) -> None:
        self.port = port
