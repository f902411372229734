"""A committed original decodes again to what it said, and only news is live."""

from __future__ import annotations

from decimal import Decimal

import pytest

from edge.devices import envelope
from edge.devices.metrics import make_reading
from edge.devices.originals import LATE_MS, Decoded, live, readings_of
from edge.errors import RefusedError
from edge.model import Flag, Kind, Reading, Record

NOW_MS = 1_790_000_000_000
NONE = Flag(0)


def record(
    original: bytes,
    link: str | None = "mqtt",
    stream: str | None = "vitals",
    flags: Flag = NONE,
) -> Record:
    return Record(
        Kind.READING,
        NOW_MS,
        original,
        device="d",
        stream=stream,
        link=link,
        flags=flags,
    )


def test_an_envelope_gives_its_sequence_times_and_mark() -> None:
    readings = (
        make_reading(NOW_MS - 90_500, {"spo2": Decimal(97)}),
        make_reading(NOW_MS - 90_000, {"spo2": Decimal("97.5")}),
    )
    original = envelope.build(
        "d",
        "vitals",
        42,
        NOW_MS - 90_000,
        readings,
        kid=bytes(8),
        sign=lambda _: bytes(64),
        backlog=True,
    )
    assert original[0] == 0xD2
    assert readings_of(record(original)) == Decoded(42, readings, NOW_MS - 90_000, True)


def test_senml_is_relative_to_the_records_own_time_not_to_today() -> None:
    original = b'[{"n":"spo2","u":"%","v":97,"t":-5}]'
    assert readings_of(record(original)) == Decoded(
        None, (make_reading(NOW_MS - 5000, {"spo2": Decimal(97)}),), None, False
    )


@pytest.mark.parametrize("link", ["ble", "ble-bonded"])
def test_a_gatt_value_is_decoded_by_the_characteristic_it_came_from(link: str) -> None:
    heart = readings_of(record(bytes.fromhex("0048"), link, "2a37"))
    assert heart.readings == (make_reading(None, {"heart_rate": Decimal(72)}),)
    assert (heart.sequence, heart.device_time_ms, heart.backlog) == (None, None, False)
    battery = readings_of(record(bytes.fromhex("48"), link, "2a19"))
    assert battery.readings == (make_reading(None, {"battery": Decimal(72)}),)


@pytest.mark.parametrize(
    ("link", "stream", "words"),
    [
        ("ble", "2a00", "no profile for characteristic 2a00"),
        ("ble", None, "no profile"),
        ("zigbee", "vitals", "no decoder for the link zigbee"),
        (None, "vitals", "no decoder"),
        ("mqtt", "vitals", "not an array"),
    ],
)
def test_what_no_decoder_is_for_is_refused_in_words(
    link: str | None, stream: str | None, words: str
) -> None:
    with pytest.raises(RefusedError, match=words):
        readings_of(record(b"{}", link, stream))


def at(age_ms: int | None) -> Reading:
    return make_reading(None if age_ms is None else NOW_MS - age_ms, {})


def test_a_reading_is_live_up_to_a_minute_of_age() -> None:
    now = record(b"")
    assert live(now, at(None))
    assert live(now, at(0))
    assert live(now, at(-240_000))  # the device's clock is ahead
    assert live(now, at(LATE_MS))
    assert not live(now, at(LATE_MS + 1))


def test_while_our_clock_is_wrong_only_the_backlog_mark_says_late() -> None:
    """A Pi that boots in 1970 must not take every alarm for old, nor for new."""
    assert live(record(b"", flags=Flag.UNSYNCED), at(30 * 86_400_000))
    both = record(b"", flags=Flag.UNSYNCED | Flag.BACKLOG)
    assert not live(both, at(0))
    assert not live(record(b"", flags=Flag.BACKLOG), at(None))


def test_the_clock_of_a_ble_device_makes_no_reading_late() -> None:
    """Its time has no zone, and most devices' clocks were never set."""
    for link in ("ble", "ble-bonded"):
        assert live(record(b"", link, "2a5e"), at(30 * 86_400_000))
