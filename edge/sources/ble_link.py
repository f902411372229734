"""The bounds of the BLE source, and what it knows of one connection."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from bleak import BleakClient
from bleak.backends.characteristic import BleakGATTCharacteristic

from edge.devices.fragments import Assembly
from edge.model import Outcome
from edge.sources.ble_records import RecordAccess


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of the source; times in seconds."""

    connections_max: int = 7  # what a Pi's own adapter holds
    connect_timeout_s: float = 20.0  # discovery included
    # A device that hangs in discovery may keep the others waiting no longer than this.
    exclusive_s: float = 6.0
    subscribe_timeout_s: float = 10.0
    disconnect_timeout_s: float = 2.0
    backoff_first_s: float = 0.5
    backoff_max_s: float = 60.0
    fresh_s: float = 10.0  # older advertisements are nothing to connect to
    silence_s: float = 120.0  # of all advertisers: then the scanner is started anew
    silences_max: int = 3  # in a row: then the adapter is switched off and on
    check_s: float = 1.0
    waiting_count_max: int = 256  # values of one device that wait for the intake
    stored_count_max: int = 8192  # the same of what the device keeps until we have it
    grace_s: float = 1.0  # of a full intake before a device is unsubscribed
    unreached_max: int = 2  # then the adapter may hold fewer connections than we think
    bound_s: float = 300.0  # for which we go on thinking so
    idle_s: float = 10.0  # then a connection may be given to a device that waits
    record_quiet_s: float = 10.0  # between two stored records
    commit_wait_s: float = 60.0  # for what was fetched to be durable
    clock_tolerance_s: float = 2.0  # of a device's clock before it is set
    delete_stored: bool = True  # on the device, what is durable here

    def waiting_max(self, value: Value) -> int:
        """How many may wait before this one is not taken."""
        return self.stored_count_max if value.stored else self.waiting_count_max


@dataclass(slots=True, eq=False)
class Value:
    """A value from the radio on its way to the intake.

    `stored` says that the device had it in memory and sent it because we asked;
    `backlog` that it is too old to tell of now.
    """

    stream: str
    octets: bytes
    stored: bool = False
    backlog: bool = False
    settle: Callable[[Outcome], None] | None = None


@dataclass(slots=True, eq=False)
class Link:
    """One device, from the advertisement we answer to the last value handed on.

    `clock_ahead_ms` is how far the device's clock was ahead of ours when it was read,
    None where it told none; `session_start_ms` when the session of a glucose sensor
    began, by its own clock.
    """

    address: str
    device: str
    client: BleakClient | None = None
    reached: bool = False  # connected, if not yet subscribed to
    connected: bool = False
    bonded: bool = False
    subscribed: list[BleakGATTCharacteristic] = field(default_factory=list)
    accesses: list[RecordAccess] = field(default_factory=list)
    busy: bool = False  # with what we ask of it; not to be given up now
    clock_ahead_ms: int | None = None
    session_start_ms: int | None = None
    waiting: deque[Value] = field(default_factory=deque)
    has_waiting: asyncio.Event = field(default_factory=asyncio.Event)
    gone: asyncio.Event = field(default_factory=asyncio.Event)
    heard_s: float = 0.0
    received_count: int = 0
    lost_count: int = 0
    assembly: Assembly = field(default_factory=Assembly)
    answers: set[asyncio.Task[None]] = field(default_factory=set)
    broken_count: int = 0  # envelopes that came in part, as already told

    @property
    def address_octets(self) -> bytes:
        """The address as a record has it."""
        return bytes.fromhex(self.address.replace(":", ""))


@dataclass(slots=True)
class Backoff:
    """Failures in a row, and the loop time before which there is no new try.

    `unreached` counts the connections in a row that did not come about; `room_made`
    says that another device was disconnected for that, `room_after` how many failures
    have to be counted before the next is.
    """

    failures: int = 0
    not_before_s: float = 0.0
    unreached: int = 0
    room_made: bool = False
    room_after: int = 0
