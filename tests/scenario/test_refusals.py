"""The table of refusals (docs/wire-format.md section 3), row by row, over a socket.

Each row: what a device sends, what a client of version 5 is told, that one of 3.1.1
gets a plain PUBACK (so that it does not send for ever), the counter, the quarantine.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import pytest
from fronts import Front, front
from mqtt_fakes import Peer, both
from workbench import SignedDevice, reader_of, trusted_clock

from edge.config import Settings
from edge.errors import Reason
from edge.ledger import core
from edge.sources.mqtt_packets import V5, Puback, Publish, Suback, Subscribe
from edge.sources.mqtt_packets import Subscription as Line
from edge.sources.mqtt_properties import Code, Property

MINUTE_MS, DAY_MS = 60_000, 86_400_000
VITALS = "iomt/v1/monitor/vitals"
UNSIGNED = "iomt/v1/thermometer/vitals"


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def by_another_key(device: SignedDevice) -> bytes:
    """An envelope with the device's kid that somebody else signed."""
    payload = device.envelope()
    stranger = bytes(range(100, 132))
    return payload[:-64] + core.sign(stranger, payload)


class Sent(NamedTuple):
    """One message: where, what, and as which user."""

    topic: str
    payload: bytes
    user: str | None = None


@dataclass(frozen=True)
class Row:
    """One row of the table."""

    name: str
    make: Callable[[SignedDevice], Sent]
    reason: Reason
    code: Code
    told: str  # a part of the reason string


MALFORMED = Code.PAYLOAD_FORMAT_INVALID
ROWS = [
    Row(
        "too large",
        lambda _: Sent(VITALS, b"x" * 65_537),
        Reason.TOO_LARGE,
        Code.QUOTA_EXCEEDED,
        "payload of 65537 bytes, at most 65536",
    ),
    Row(
        "no topic of ours",
        lambda d: Sent("hospital/monitor", d.envelope()),
        Reason.WRONG_TOPIC,
        Code.TOPIC_NAME_INVALID,
        "is not iomt/v1/<device>/<stream>",
    ),
    Row(
        "a reserved stream",
        lambda d: Sent("iomt/v1/monitor/receipt", d.envelope()),
        Reason.WRONG_TOPIC,
        Code.TOPIC_NAME_INVALID,
        "is not iomt/v1/<device>/<stream>",
    ),
    Row(
        "signed for another stream",
        lambda d: Sent("iomt/v1/monitor/ecg", d.envelope()),
        Reason.WRONG_TOPIC,
        Code.TOPIC_NAME_INVALID,
        "signed for monitor/vitals, published to monitor/ecg",
    ),
    Row(
        "an unknown device",
        lambda d: Sent("iomt/v1/stranger/vitals", d.envelope()),
        Reason.UNKNOWN_DEVICE,
        Code.NOT_AUTHORISED,
        "no device 'stranger' is enrolled",
    ),
    Row(
        "a revoked device",
        lambda d: Sent("iomt/v1/old/vitals", d.envelope()),
        Reason.UNKNOWN_DEVICE,
        Code.NOT_AUTHORISED,
        "device 'old' was revoked",
    ),
    Row(
        "another device's topic",
        lambda d: Sent(VITALS, d.envelope(), "thermometer"),
        Reason.NOT_AUTHORISED,
        Code.NOT_AUTHORISED,
        "topic belongs to another device",
    ),
    Row(
        "no envelope",
        lambda _: Sent(VITALS, b"36.7"),
        Reason.MALFORMED,
        MALFORMED,
        "does not begin with d2 84 (COSE_Sign1), at byte 0",
    ),
    Row(
        "an envelope cut short",
        lambda d: Sent(VITALS, d.envelope()[:-1]),
        Reason.MALFORMED,
        MALFORMED,
        "signature must end the envelope at byte",
    ),
    Row(
        "no SenML",
        lambda _: Sent(UNSIGNED, b"{}"),
        Reason.MALFORMED,
        MALFORMED,
        "not an array of 1 to 1024 records",
    ),
    Row(
        "an unknown metric",
        lambda _: Sent(UNSIGNED, b'[{"n":"mood","v":1}]'),
        Reason.MALFORMED,
        MALFORMED,
        "names no metric",
    ),
    Row(
        "an unknown unit",
        lambda _: Sent(UNSIGNED, b'[{"n":"heart_rate","u":"bpm!","v":70}]'),
        Reason.UNKNOWN_UNIT,
        MALFORMED,
        "heart_rate is in /min, not in 'bpm!'",
    ),
    Row(
        "a bad signature",
        lambda d: Sent(VITALS, by_another_key(d)),
        Reason.BAD_SIGNATURE,
        Code.NOT_AUTHORISED,
        "not signed with the device's key",
    ),
    Row(
        "another key's kid",
        lambda _: Sent(VITALS, SignedDevice("monitor", bytes(32)).envelope()),
        Reason.BAD_SIGNATURE,
        Code.NOT_AUTHORISED,
        "the kid is not that of the device's key",
    ),
    Row(
        "a sequence with other bytes",
        lambda d: Sent(VITALS, d.envelope(sequence=0, heart_rate=99)),
        Reason.EQUIVOCATION,
        MALFORMED,
        "sequence 0 was used with other bytes",
    ),
    Row(
        "a clock too far ahead",
        lambda d: Sent(VITALS, d.envelope(time_ms=now_ms() + 6 * MINUTE_MS)),
        Reason.IMPLAUSIBLE_CLOCK,
        MALFORMED,
        "ms ahead; at most 300000",
    ),
    Row(
        "a clock too far behind",
        lambda d: Sent(VITALS, d.envelope(time_ms=now_ms() - 31 * DAY_MS)),
        Reason.IMPLAUSIBLE_CLOCK,
        MALFORMED,
        "ms behind; at most 2592000000",
    ),
]


async def enrol(gateway: Front, device: SignedDevice) -> None:
    await gateway.enrol(device, SignedDevice("old", device.seed))
    await gateway.running.core.administration.revoke_device("old")


def kept(settings: Settings) -> list[tuple[str, bytes]]:
    """(reason, payload) of everything in quarantine."""
    found = []
    for _, _, refusal in reader_of(settings).quarantine():
        _, _, _, reason, _, payload = refusal
        assert isinstance(reason, str)
        assert isinstance(payload, bytes)
        found.append((reason, payload))
    return found


@both
@pytest.mark.parametrize("row", ROWS, ids=[row.name for row in ROWS])
async def test_a_refusal_is_told_counted_and_kept(
    version: int, row: Row, tmp_path: Path
) -> None:
    settings = trusted_clock(tmp_path)
    device = SignedDevice("monitor")
    async with front(settings) as gateway:
        await enrol(gateway, device)
        async with Peer(gateway, V5) as peer:  # sequence 0 is used from here on
            await peer.connect()
            peer.write(Publish(VITALS, device.envelope(), 1, 1))
            assert await peer.receive() == Puback(1)
        topic, payload, user = row.make(device)
        async with Peer(gateway, version) as peer:
            await peer.connect(user=user)
            peer.write(Publish(topic, payload, 1, 7))
            answer = await peer.receive()
            assert isinstance(answer, Puback)
            if version == V5:
                assert (answer.packet_id, answer.code) == (7, row.code)
                assert row.told in str(answer.properties[Property.REASON])
            else:
                assert answer == Puback(7)
        totals = dict(gateway.running.core.intake.totals)
    assert (totals["received"], totals["committed"], totals["refused"]) == (2, 1, 1)
    assert totals[f"refused.{row.reason.value}"] == 1
    assert kept(settings) == [(row.reason.value, payload[:1024])] or kept(settings) == [
        (row.reason.value, payload)
    ]


def test_every_reason_has_a_row_but_poison() -> None:
    """Poison needs a process that dies: tests/scenario/test_gateway_process.py."""
    assert {row.reason for row in ROWS} == set(Reason) - {Reason.POISON}


@both
async def test_a_repetition_is_no_refusal(version: int, tmp_path: Path) -> None:
    settings = trusted_clock(tmp_path)
    device = SignedDevice("monitor")
    async with front(settings) as gateway:
        await enrol(gateway, device)
        payload = device.envelope()
        async with Peer(gateway, version) as peer:
            await peer.connect()
            for i in (1, 2):
                peer.write(Publish(VITALS, payload, 1, i))
                assert await peer.receive() == Puback(i)
        totals = dict(gateway.running.core.intake.totals)
    assert (totals["committed"], totals["duplicates"]) == (1, 1)
    assert "refused" not in totals
    assert kept(settings) == []


@both
async def test_a_subscription_over_quota_is_refused_by_itself(
    version: int, tmp_path: Path
) -> None:
    settings = trusted_clock(tmp_path)
    async with front(settings) as gateway, Peer(gateway, version) as peer:
        await peer.connect(user="viewer", password=gateway.token.encode())
        lines = tuple(Line(f"iomt/v1/alerts/high/{i}", 1) for i in range(33))
        peer.write(Subscribe(1, lines))
        answer = await peer.receive()
        assert isinstance(answer, Suback)
        assert answer.codes == (1,) * 32 + ((0x97,) if version == V5 else (0x80,))


async def test_the_quarantine_of_a_sender_is_bounded_and_what_goes_is_counted(
    tmp_path: Path,
) -> None:
    settings = trusted_clock(tmp_path)
    async with front(settings) as gateway, Peer(gateway, V5) as peer:
        await gateway.enrol(SignedDevice("monitor"))
        await peer.connect(user="monitor")
        for i in range(1, 41):  # 40 × 60 kB is more than 1 MiB
            peer.write(Publish(VITALS, b"%04d" % i + b"x" * 60_000, 1, i))
            answer = await peer.receive()
            assert isinstance(answer, Puback)
        totals = dict(gateway.running.core.intake.totals)
    assert totals["refused"] == 40
    assert totals["quarantine-evicted"] == 40 - len(kept(settings))
    assert [payload[:4] for _, payload in kept(settings)][-1] == b"0040"
