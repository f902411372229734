"""What the scenario tests of the gateway share: a directory, devices, messages."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path

from edge import config
from edge.devices.envelope import build
from edge.devices.metrics import make_reading
from edge.gateway import Core, open_core
from edge.init import initialise
from edge.ledger import core
from edge.ledger.device_key import kid_of
from edge.ledger.note import Verifier
from edge.model import Arrival, Kind, Outcome, Source
from edge.store.reader import Reader, StoredRecord
from edge.store.vault import load_keys

ORIGIN = "test.example/ward"


def make_gateway(directory: Path, **changes: str) -> config.Settings:
    """A fresh directory by `iomt init`'s code; `changes` replace lines of the file."""
    text = config.TEMPLATE.format(path=directory / "iomt.toml", origin=ORIGIN)
    text = text.replace("127.0.0.1:1883", "127.0.0.1:0")
    text = text.replace("127.0.0.1:8080", "127.0.0.1:0")
    for old, new in changes.items():
        assert old in text, old
        text = text.replace(old, new)
    return config.load(initialise(directory, ORIGIN, text))


def trusted_clock(directory: Path) -> config.Settings:
    """The same, on a machine whose clock is known to be right."""
    return make_gateway(directory, **{'# clock = "auto"  ': 'clock = "trusted"  '})


def vkey(settings: config.Settings) -> str:
    """The verifier key of the directory's log."""
    seed = load_keys(settings.keys).log_seed
    return Verifier(settings.origin, core.public_key(seed)).vkey


@dataclass
class SignedDevice:
    """A device with a key, which counts its envelopes."""

    name: str
    seed: bytes = bytes(range(32))
    sequence: int = 0
    sent: dict[int, bytes] = field(default_factory=dict)

    @property
    def public_key(self) -> str:
        return core.public_key(self.seed).hex()

    def envelope(
        self,
        *,
        stream: str = "vitals",
        sequence: int | None = None,
        time_ms: int | None = None,
        backlog: bool = False,
        **values: float | str,
    ) -> bytes:
        """The next envelope (or one of this sequence) with these metrics."""
        if sequence is None:
            sequence = self.sequence
            self.sequence += 1
        if time_ms is None:
            time_ms = time.time_ns() // 1_000_000
        numbers = {name: Decimal(str(value)) for name, value in values.items()}
        payload = build(
            self.name,
            stream,
            sequence,
            time_ms,
            [make_reading(time_ms, numbers or {"heart_rate": Decimal(70)}, {})],
            kid=kid_of(core.public_key(self.seed)),
            sign=lambda message: core.sign(self.seed, message),
            backlog=backlog,
        )
        self.sent[sequence] = payload
        return payload


class Mailbox:
    """Submits messages and waits for their outcomes."""

    def __init__(self, opened: Core) -> None:
        self._core = opened

    def submit(
        self,
        device: str,
        payload: bytes,
        stream: str = "vitals",
        *,
        again: bool = False,
        packet: int = 0,
    ) -> asyncio.Future[Outcome]:
        """Hand a message in as MQTT would; resolved when it is answered."""
        answer: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self._core.intake.submit(
            Arrival(
                Source.MQTT,
                f"mqtt:{device}",
                device,
                stream,
                payload,
                answer.set_result,
                redelivered=again,
                packet_id=packet,
            )
        )
        return answer

    async def send(
        self,
        device: str,
        payload: bytes,
        stream: str = "vitals",
        *,
        again: bool = False,
        packet: int = 0,
    ) -> Outcome:
        """Hand a message in and wait for its answer."""
        async with asyncio.timeout(10):
            return await self.submit(
                device, payload, stream, again=again, packet=packet
            )


@asynccontextmanager
async def a_ward(settings: config.Settings) -> AsyncIterator[tuple[Core, Mailbox]]:
    """A core with a patient, a signed device at them, an unsigned one at nobody."""
    async with open_core(settings) as core:
        if core.registry.find("monitor") is None:
            administration = core.administration
            await administration.add_patient("P-1")
            key = SignedDevice("monitor").public_key
            await administration.add_device("monitor", "signed", key)
            await administration.add_device("thermometer", "unsigned")
            await administration.assign_device("monitor", "P-1")
        core.intake.open_views()
        yield core, Mailbox(core)


@asynccontextmanager
async def a_failing_ward(
    settings: config.Settings, error: type[Exception]
) -> AsyncIterator[tuple[Core, Mailbox]]:
    """`a_ward` whose gateway ends with this error, as its process would."""
    try:
        async with a_ward(settings) as ward:
            yield ward
    except error:
        return
    raise AssertionError(f"ended without a {error.__name__}")


def reader_of(settings: config.Settings) -> Reader:
    return Reader(settings.directory, load_keys(settings.keys).master)


def readings_of(settings: config.Settings) -> list[StoredRecord]:
    return [
        one for one in reader_of(settings).records() if one.record.kind is Kind.READING
    ]
