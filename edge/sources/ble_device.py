"""What we ask of a device that is connected: its clock, and its stored records.

Its clock is read, recorded as it was (a record of the stream 2a2b or 2a08, whose
received_ms is our time at that moment, so that their difference is the offset) and then
set, where the device lets us and our own clock is right. Times that the device has
stamped by then are by the clock that was recorded.

The records of a continuous glucose sensor count minutes since its session began; when
that was is read and recorded too (stream 2aaa).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable

from bleak.backends.characteristic import BleakGATTCharacteristic
from bleak.exc import BleakError

from edge.devices import fragments
from edge.devices.originals import LATE_MS
from edge.devices.profiles import (
    CLOCKS,
    PROFILES,
    READ_BY_US,
    continuous_glucose,
    current_time,
    date_time,
    racp,
)
from edge.errors import RefusedError
from edge.sources.ble_link import Limits, Link
from edge.sources.ble_records import STREAMS, RecordAccess
from edge.sources.ble_words import RADIO_ERRORS, explain, short

log = logging.getLogger("edge.ble")

Take = Callable[[Link, str, bytes], None]
Now = Callable[[], int | None]  # ms since 1970, None while our clock is not right
MS_PER_MINUTE = 60_000
WRITES = frozenset({"write", "write-without-response"})


_Point = BleakGATTCharacteristic


def accesses_of(link: Link, limits: Limits) -> list[tuple[RecordAccess, _Point]]:
    """The services of the device that have stored records, and their control points."""
    assert link.client is not None  # noqa: S101 - it is connected
    client = link.client
    found = []
    for service in client.services:
        by_uuid = {short(one.uuid): one for one in service.characteristics}
        point = by_uuid.get(racp.UUID)
        for measurement in STREAMS:
            if point is None or measurement not in by_uuid:
                continue

            async def write(value: bytes, to: _Point = point) -> None:
                await client.write_gatt_char(to, value, response=True)

            access = RecordAccess(measurement, write, quiet_s=limits.record_quiet_s)
            found.append((access, point))
    return found


def wanted_streams(link: Link) -> frozenset[str]:
    """What to subscribe to: of a device that signs, nothing but what it signed."""
    assert link.client is not None  # noqa: S101 - it is connected
    characteristics = link.client.services.characteristics.values()
    if fragments.ENVELOPE_UUID in {short(one.uuid) for one in characteristics}:
        return frozenset({fragments.ENVELOPE_UUID})
    return frozenset(PROFILES) - READ_BY_US


async def read_and_set_clock(link: Link, take: Take, now: Now, limits: Limits) -> None:
    """The device's clock, where it shows one. Radio errors are told, not raised."""
    assert link.client is not None  # noqa: S101 - it is connected
    for characteristic in list(link.client.services.characteristics.values()):
        uuid = short(characteristic.uuid)
        if uuid not in CLOCKS:
            continue
        properties = set(characteristic.properties)
        try:
            async with asyncio.timeout(limits.subscribe_timeout_s):
                if "read" in properties:
                    value = bytes(await link.client.read_gatt_char(characteristic))
                    _note_clock(link, uuid, value, now())
                    take(link, uuid, value)
                now_ms = now()
                if properties & WRITES and now_ms is not None and _is_off(link, limits):
                    await link.client.write_gatt_char(
                        characteristic,
                        _clock_value(uuid, now_ms),
                        "write" in properties,
                    )
                    log.info("%s: its clock is set", link.device)
        except RADIO_ERRORS as error:
            if link.gone.is_set():
                raise
            log.info("%s: its clock: %s", link.device, explain(error))


def _note_clock(link: Link, uuid: str, value: bytes, now_ms: int | None) -> None:
    try:
        said_ms = PROFILES[uuid](value).time_ms
    except RefusedError:
        return
    if said_ms is None or now_ms is None:
        return
    link.clock_ahead_ms = said_ms - now_ms
    if abs(link.clock_ahead_ms) > LATE_MS:
        log.warning(
            "%s: its clock is %d s off", link.device, link.clock_ahead_ms // 1000
        )


def _is_off(link: Link, limits: Limits) -> bool:
    ahead_ms = link.clock_ahead_ms
    return ahead_ms is None or abs(ahead_ms) > limits.clock_tolerance_s * 1000


def _clock_value(uuid: str, now_ms: int) -> bytes:
    if uuid == current_time.UUID:
        return bytes(current_time.CurrentTime.at(now_ms))
    return bytes(date_time.Timestamp.at(now_ms))


async def read_session_start(link: Link, take: Take, limits: Limits) -> None:
    """When a glucose sensor's session began. Radio errors are told, not raised."""
    assert link.client is not None  # noqa: S101 - it is connected
    for characteristic in list(link.client.services.characteristics.values()):
        uuid = short(characteristic.uuid)
        if uuid != continuous_glucose.SESSION_START_UUID:
            continue
        try:
            async with asyncio.timeout(limits.subscribe_timeout_s):
                value = bytes(await link.client.read_gatt_char(characteristic))
        except RADIO_ERRORS as error:
            if link.gone.is_set():
                raise
            log.info("%s: its session: %s", link.device, explain(error))
            continue
        with contextlib.suppress(RefusedError):  # the intake refuses and keeps it
            link.session_start_ms = PROFILES[uuid](value).time_ms
        take(link, uuid, value)


def _time_ms(link: Link, stream: str, value: bytes) -> int | None:
    """When a value was measured, by the device; RefusedError where it is malformed."""
    if stream == continuous_glucose.MEASUREMENT_UUID:
        if link.session_start_ms is None:
            return None
        point = continuous_glucose.GlucosePoint.from_bytes(value)
        return link.session_start_ms + point.offset_min * MS_PER_MINUTE
    return PROFILES[stream](value).time_ms


def is_old(link: Link, stream: str, value: bytes, now: Now, *, stored: bool) -> bool:
    """Whether a value is too old to tell of now.

    By the device's clock, corrected where it was read. A value from the device's memory
    whose age nobody can tell counts as old.
    """
    try:
        time_ms = _time_ms(link, stream, value)
    except (RefusedError, KeyError):
        return stored
    now_ms = now()
    if time_ms is None or now_ms is None:
        return stored
    if link.clock_ahead_ms is not None:
        return now_ms + link.clock_ahead_ms - time_ms > LATE_MS
    # Its clock is not known: in UTC and right it would say about our own time.
    return stored and abs(now_ms - time_ms) > LATE_MS


async def drain(
    link: Link, access: RecordAccess, after: int | None, limits: Limits
) -> int | None:
    """Fetch the stored records of a service; the newest number that is durable here.

    None where the device did not send all, so that the next connection asks again.
    TimeoutError, BleakError where the device does not answer or leaves.
    """
    complete = await access.fetch(after)
    async with asyncio.timeout(limits.commit_wait_s):
        await access.settled()
    count = len(access.sequences)
    if not complete:
        raise BleakError(f"sent {count} of its records, and not all")
    if count:
        log.info("%s: %d stored records are durable", link.device, count)
    if access.refused_count:
        log.warning("%s: %d records are refused", link.device, access.refused_count)
        return after
    if not count:
        return after
    if limits.delete_stored and access.may_delete() and await access.delete():
        log.info("%s: has deleted them", link.device)
    return access.sequences[-1]
