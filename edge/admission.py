"""Admission: from a message at a door to a record, or to a refusal with its reason.

The checks and their order are those of docs/wire-format.md section 3. What needs one
message alone (size, device, decoding) comes first, for each message of a turn; then all
signatures of the turn are verified with one call; then, in order of arrival, what
depends on the messages before it (sequence) and on the clock.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from edge.devices import es256, mac_envelope, mapped, senml
from edge.devices.envelope import Envelope, sequence_of
from edge.devices.envelope import parse as parse_envelope
from edge.devices.fragments import ENVELOPE_UUID as ENVELOPE
from edge.devices.originals import LATE_MS
from edge.devices.profiles import CLOCKS, PROFILES
from edge.devices.registry import (
    Device,
    DeviceKind,
    Novelty,
    Registry,
    SequenceWindow,
)
from edge.errors import Reason, RefusedError
from edge.ledger import core
from edge.ledger.device_key import EDDSA, ES256, algorithm_of, kid_of
from edge.model import (
    NO_FLAGS,
    Arrival,
    Attestation,
    Event,
    EventKind,
    Flag,
    Kind,
    Reading,
    Record,
    Source,
)

PAYLOAD_SIZE_MAX = 65_536
AHEAD_MAX_MS = 5 * 60 * 1000
BEHIND_MAX_MS = 30 * 24 * 3600 * 1000
REPEAT_WINDOW_MS = 24 * 3600 * 1000
REDELIVERY_WINDOW_MS = 10 * 60 * 1000
REPEATS_KEPT = 8192
DIGEST_SIZE = 16
WILL_KEPT_SIZE = 1_024


# How one envelope is checked, where not many at once; algorithm_of(key) is its own.
_CHECKS = {ES256: es256.verify, mac_envelope.HMAC_256: mac_envelope.verify}


def digest_of(payload: bytes) -> bytes:
    """What a payload is remembered by."""
    return hashlib.sha256(payload).digest()[:DIGEST_SIZE]


class TimeLimits(NamedTuple):
    """How far a device's clock may be from ours; what is beyond is refused."""

    ahead_ms: int = AHEAD_MAX_MS
    behind_ms: int = BEHIND_MAX_MS


DEFAULT_LIMITS = TimeLimits()


class _Taken(NamedTuple):
    """An unsigned message of this process's life."""

    received_ms: int
    packet_id: int


class Admitted(NamedTuple):
    """A message that becomes a record."""

    device: Device
    record: Record
    readings: tuple[Reading, ...]
    gap: tuple[int, int] | None = None  # sequences that it skipped


@dataclass(frozen=True, slots=True)
class Repeated:
    """A message that is in the store already, with these bytes as far as we know."""

    verified: bool


Recall = Callable[[Device], Sequence[Record]]


class Admission:
    """Decides on messages; holds what it takes to know a repetition.

    `recall(device)` gives the device's newest HASHES_KEPT stored records, oldest first;
    it is asked once for each device after a start, when an old message comes.
    """

    def __init__(
        self,
        registry: Registry,
        windows: dict[int, SequenceWindow],
        recall: Recall,
        poison: frozenset[bytes] = frozenset(),
        limits: TimeLimits = DEFAULT_LIMITS,
    ) -> None:
        self._limits = limits
        self._registry = registry
        self._windows = windows
        self._recall = recall
        self._poison = poison
        self._repeats: dict[int, dict[tuple[str, bytes], _Taken]] = {}
        self._recalled: dict[int, dict[tuple[str, bytes], int]] = {}

    def window(self, device: Device) -> SequenceWindow:
        """The sequences of a device."""
        window = self._windows.get(device.id)
        if window is None:
            window = self._windows[device.id] = SequenceWindow()
        return window

    def decide(
        self, arrivals: Sequence[Arrival], received_ms: int, *, synced: bool
    ) -> list[Admitted | Repeated | RefusedError]:
        """One decision for each message of a turn, in their order."""
        opened = [self._open(one, received_ms) for one in arrivals]
        good = iter(_verified(opened))
        decisions: list[Admitted | Repeated | RefusedError] = []
        for arrival, one in zip(arrivals, opened, strict=True):
            try:
                if isinstance(one, RefusedError):
                    raise one
                if one.envelope is not None and not next(good):
                    raise RefusedError(
                        Reason.BAD_SIGNATURE, "not signed with the device's key"
                    )
                decisions.append(self._admit(arrival, one, received_ms, synced=synced))
            except RefusedError as refusal:
                decisions.append(refusal)
        return decisions

    def _open(self, arrival: Arrival, received_ms: int) -> _Opened | RefusedError:
        """The checks that need one message alone."""
        try:
            return self._decode(arrival, received_ms)
        except RefusedError as refusal:
            return refusal

    def _decode(self, arrival: Arrival, received_ms: int) -> _Opened:
        payload = arrival.payload
        if arrival.refusal is not None:
            raise RefusedError(*arrival.refusal)
        if len(payload) > PAYLOAD_SIZE_MAX:
            raise RefusedError(
                Reason.TOO_LARGE, f"{len(payload)} bytes; at most {PAYLOAD_SIZE_MAX}"
            )
        if self._poison and digest_of(payload) in self._poison:
            raise RefusedError(
                Reason.POISON, "this message stopped the gateway before; see its log"
            )
        device = self._device(arrival)
        if arrival.will:
            if arrival.user != device.name:
                raise RefusedError(
                    Reason.NOT_AUTHORISED, "a will needs the device's own user name"
                )
            return _Opened(device, (), None, timed=False)
        if arrival.mapping and device.kind is not DeviceKind.UNSIGNED:
            raise RefusedError(
                Reason.NOT_AUTHORISED, f"device {device.name} signs what it sends"
            )
        if device.kind is DeviceKind.SIGNED:
            envelope = parse_envelope(payload)
            key = _signing_key(device, envelope, received_ms)
            return _Opened(device, envelope.readings, envelope, timed=True, key=key)
        if device.kind is DeviceKind.SHARED:
            envelope, shared = mac_envelope.parse(payload), device.shared_key
            if shared is None or envelope.kid != kid_of(shared):
                raise RefusedError(
                    Reason.BAD_SIGNATURE, "the kid is not that of the shared key"
                )
            return _Opened(device, envelope.readings, envelope, timed=True, key=shared)
        return _unsigned(device, arrival, received_ms)

    def _device(self, arrival: Arrival) -> Device:
        """The device that it comes from, if that may send by this door."""
        device = self._registry.find(arrival.device)
        if device is None:
            raise RefusedError(
                Reason.UNKNOWN_DEVICE, f"no device {arrival.device!r} is enrolled"
            )
        if device.revoked:
            raise RefusedError(
                Reason.UNKNOWN_DEVICE, f"device {arrival.device!r} was revoked"
            )
        if not _may_use(device, arrival.source):
            raise RefusedError(
                Reason.NOT_AUTHORISED,
                f"device {device.name} is enrolled as {device.kind} and does not "
                f"send over {arrival.source}",
            )
        return device

    def _admit(
        self, arrival: Arrival, opened: _Opened, received_ms: int, *, synced: bool
    ) -> Admitted | Repeated:
        device, envelope = opened.device, opened.envelope
        if arrival.will:
            return Admitted(device, _lost(device, arrival, received_ms, synced), ())
        if envelope is not None:
            topic = arrival.device, arrival.stream
            if arrival.source is Source.BLE:  # its streams have one characteristic
                topic = arrival.device, envelope.stream
            if (envelope.device, envelope.stream) != topic:
                raise RefusedError(
                    Reason.WRONG_TOPIC,
                    f"signed for {envelope.device}/{envelope.stream}, published "
                    f"to {arrival.device}/{arrival.stream}",
                )
            digest = digest_of(arrival.payload)
            repeated = self._sequence(device, envelope.sequence, digest)
        else:
            digest = b""
            repeated = self._repeat(device, arrival, received_ms, opened)
        if repeated is not None:
            return repeated
        flags = _flags(opened, received_ms, self._limits, synced=synced)
        if arrival.backlog:
            flags |= Flag.BACKLOG
        gap = None
        if envelope is not None:
            gap = self.window(device).accept(envelope.sequence, digest)
        elif device.kind is DeviceKind.UNSIGNED or _may_come_again(arrival, opened):
            self._note_repeat(device, arrival, received_ms)
        original = arrival.payload
        if arrival.mapping:
            original = mapped.original(original, arrival.mapping)
        record = Record(
            Kind.READING,
            received_ms,
            original,
            device.name,
            envelope.stream if envelope is not None else arrival.stream,
            Attestation.DEVICE
            if device.kind is DeviceKind.SIGNED
            else Attestation.GATEWAY,
            arrival.link,
            flags,
            device.assignment.ref if device.assignment else None,
            arrival.address,
        )
        return Admitted(device, record, opened.readings, gap)

    def _sequence(
        self, device: Device, sequence: int, digest: bytes
    ) -> Repeated | None:
        window = self.window(device)
        novelty = window.classify(sequence, digest)
        if novelty is Novelty.UNVERIFIED and not window.recalled:
            window.recall(self._recalled_hashes(device))
            novelty = window.classify(sequence, digest)
        if novelty is Novelty.EQUIVOCATION:
            raise RefusedError(
                Reason.EQUIVOCATION, f"sequence {sequence} was used with other bytes"
            )
        if novelty is Novelty.NEW:
            return None
        return Repeated(verified=novelty is Novelty.DUPLICATE)

    def _recalled_hashes(self, device: Device) -> dict[int, bytes]:
        hashes = {}
        for record in self._recall(device):
            sequence = sequence_of(record.original)
            if sequence is not None:  # else enrolled as unsigned at that time
                hashes[sequence] = digest_of(record.original)
        return hashes

    def _repeat(
        self, device: Device, arrival: Arrival, received_ms: int, opened: _Opened
    ) -> Repeated | None:
        """Whether an unsigned message is in the store already.

        With a time of its own it is when the same bytes are. Without one, equal bytes
        may be two measurements: it is only when MQTT marks it as redelivered and we
        took these bytes under this packet id, or (before our start, so that we no
        longer know the id) took them a short time ago. In doubt it is committed: twice
        is better than never.
        """
        if device.kind is DeviceKind.BLE:
            return self._ble_repeat(device, arrival, received_ms, opened)
        timed = opened.timed
        if not timed and not arrival.redelivered:
            return None
        place = (arrival.stream, digest_of(arrival.payload))
        seen = self._taken(device.id).get(place)
        if seen is not None:
            if received_ms - seen.received_ms > REPEAT_WINDOW_MS:
                return None
            return (
                Repeated(True) if timed or seen.packet_id == arrival.packet_id else None
            )
        before_ms = self._recalled_ms(device, place)
        window_ms = REPEAT_WINDOW_MS if timed else REDELIVERY_WINDOW_MS
        if before_ms is not None and received_ms - before_ms <= window_ms:
            return Repeated(verified=True)
        return None

    def _ble_repeat(
        self, device: Device, arrival: Arrival, received_ms: int, opened: _Opened
    ) -> Repeated | None:
        """Whether a value of a Bluetooth device is in the store already.

        A device that stores its readings may send one at every connection. With a time
        of the device's the same bytes are the same reading: for ever where that time
        was near ours when the first came, for a day otherwise, for the clock may stand
        still. Without a time they are where we asked for what was stored, for a day.
        """
        if not _may_come_again(arrival, opened):
            return None
        place = (arrival.stream, digest_of(arrival.payload))
        seen = self._taken(device.id).get(place)
        first_ms = seen.received_ms if seen else self._recalled_ms(device, place)
        if first_ms is None:
            return None
        time_ms = opened.readings[0].time_ms
        if time_ms is not None and abs(first_ms - time_ms) <= BEHIND_MAX_MS:
            return Repeated(verified=True)
        if received_ms - first_ms <= REPEAT_WINDOW_MS:
            return Repeated(verified=True)
        return None

    def _recalled_ms(self, device: Device, place: tuple[str, bytes]) -> int | None:
        """When a message of before our start came, None for one that we do not know."""
        if device.id not in self._recalled:
            self._recalled[device.id] = {
                (
                    one.stream or "",
                    digest_of(mapped.message_of(one.original)),
                ): one.received_ms
                for one in self._recall(device)
            }
        return self._recalled[device.id].get(place)

    def _taken(self, device: int) -> dict[tuple[str, bytes], _Taken]:
        return self._repeats.setdefault(device, {})

    def _note_repeat(self, device: Device, arrival: Arrival, received_ms: int) -> None:
        taken = self._taken(device.id)
        place = (arrival.stream, digest_of(arrival.payload))
        taken.pop(place, None)
        taken[place] = _Taken(received_ms, arrival.packet_id)
        if len(taken) > REPEATS_KEPT:
            del taken[next(iter(taken))]


class _Opened(NamedTuple):
    """A message that decodes; its signature is not checked yet."""

    device: Device
    readings: tuple[Reading, ...]
    envelope: Envelope | None
    timed: bool
    key: bytes = b""  # that has to have signed the envelope


def _signing_key(device: Device, envelope: Envelope, received_ms: int) -> bytes:
    """The device's key that the envelope names, of those that are good."""
    key = device.public_key
    if key is None or envelope.kid != kid_of(key):
        former = device.former_key
        if former is None or envelope.kid != kid_of(former):
            raise RefusedError(
                Reason.BAD_SIGNATURE, "the kid is not that of the device's key"
            )
        if received_ms >= device.former_until_ms:
            raise RefusedError(
                Reason.BAD_SIGNATURE, "the device's key of before is good no more"
            )
        key = former
    if envelope.algorithm != algorithm_of(key):
        raise RefusedError(
            Reason.BAD_SIGNATURE, "the algorithm is not that of the device's key"
        )
    return key


def _unsigned(device: Device, arrival: Arrival, received_ms: int) -> _Opened:
    """A message that no device signed: a GATT value, SenML, or JSON with its rule."""
    payload = arrival.payload
    if device.kind is DeviceKind.BLE:
        decode = PROFILES.get(arrival.stream)
        if decode is None:
            hint = ": enrol it with --key" if arrival.stream == ENVELOPE else ""
            raise RefusedError(
                Reason.MALFORMED,
                f"no profile for characteristic {arrival.stream}{hint}",
            )
        return _Opened(device, (decode(payload),), None, timed=False)
    if arrival.mapping:
        message = mapped.read(payload, arrival.mapping, received_ms)
    else:
        message = senml.parse(payload, received_ms)
    return _Opened(device, message.readings, None, timed=message.timed)


def _lost(device: Device, arrival: Arrival, received_ms: int, synced: bool) -> Record:
    """That a device vanished, as a record; its will is kept as it left it."""
    event = Event(EventKind.LOST, will=arrival.payload[:WILL_KEPT_SIZE])
    return Record(
        kind=Kind.EVENT,
        received_ms=received_ms,
        original=event.encode(),
        device=device.name,
        stream=arrival.stream,
        link=arrival.link,
        flags=Flag(0) if synced else Flag.UNSYNCED,
        assignment=device.assignment.ref if device.assignment else None,
    )


def _may_use(device: Device, source: Source) -> bool:
    """Whether a device may send by this door: one that signs may by either."""
    if source is Source.BLE:
        return device.address is not None
    if DeviceKind.TYPED is device.kind or Source.TYPED is source:
        return DeviceKind.TYPED is device.kind and Source.TYPED is source
    return device.kind is not DeviceKind.BLE


def _may_come_again(arrival: Arrival, opened: _Opened) -> bool:
    """Whether a value over Bluetooth bears what tells it from an equal one."""
    if arrival.source is not Source.BLE or arrival.stream in CLOCKS:
        return False
    return arrival.redelivered or opened.readings[0].time_ms is not None


def _verified(opened: Sequence[_Opened | RefusedError]) -> bytes:
    """One byte for each envelope: whether the enrolled key signed it."""
    signed = [
        (one.key, one.envelope)
        for one in opened
        if isinstance(one, _Opened) and one.envelope is not None
    ]
    keys, messages, signatures = bytearray(), bytearray(), bytearray()
    ends = array("Q")
    for key, envelope in signed:
        if envelope.algorithm == EDDSA:
            keys += key
            messages += envelope.signed_bytes
            signatures += envelope.signature
            ends.append(len(messages))
    many = iter(core.verify_many(keys, messages, ends, signatures) if ends else b"")
    return bytes(
        next(many)
        if envelope.algorithm == EDDSA
        else _CHECKS[envelope.algorithm](key, envelope.signed_bytes, envelope.signature)
        for key, envelope in signed
    )


def _flags(
    opened: _Opened, received_ms: int, limits: TimeLimits, *, synced: bool
) -> Flag:
    """The record's flags; refuses a device time that cannot be."""
    flags = NO_FLAGS
    if not synced:
        flags |= Flag.UNSYNCED
    if opened.device.kind is DeviceKind.TYPED:
        flags |= Flag.TYPED
    envelope = opened.envelope
    if envelope is not None and envelope.backlog:
        flags |= Flag.BACKLOG
    times = [one.time_ms for one in opened.readings if one.time_ms is not None]
    if envelope is not None:
        times.append(envelope.device_time_ms)
    # A GATT time has no zone, and most devices' clocks were never set.
    if synced and times and opened.device.kind is not DeviceKind.BLE:
        ahead_ms, behind_ms = max(times) - received_ms, received_ms - min(times)
        if ahead_ms > limits.ahead_ms:
            raise RefusedError(
                Reason.IMPLAUSIBLE_CLOCK,
                f"device time is {ahead_ms} ms ahead; at most {limits.ahead_ms}",
            )
        if behind_ms > limits.behind_ms:
            raise RefusedError(
                Reason.IMPLAUSIBLE_CLOCK,
                f"device time is {behind_ms} ms behind; at most {limits.behind_ms}",
            )
        if behind_ms > LATE_MS:
            flags |= Flag.LATE
    for reading in opened.readings:
        if reading.implausible:
            flags |= Flag.IMPLAUSIBLE
        if reading.no_contact:
            flags |= Flag.NO_CONTACT
    return flags
