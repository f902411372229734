"""Fuzz targets for what strangers send: MQTT packets and envelopes.

    IOMT_FUZZ=10000000 pytest tests/unit/test_fuzz.py      `make soak`; 100,000 without

Inputs are good ones with bytes changed, cut, doubled, moved in from others, and then
lengths mended, so that damage gets past the first check. The same inputs each time, for
a count. A decoder gives a value or its own refusal, never another exception, and:

    codec      the same packets however the stream is cut; each is encoded to what is
               decoded to it again
    envelope   what is taken is the only encoding of what it says
"""

from __future__ import annotations

import json
import os
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from test_mqtt_packets import CLIENT_PACKETS, CONNECT_5, CONNECT_311

from edge import cbor
from edge.devices import envelope, mac_envelope
from edge.errors import RefusedError
from edge.ledger.device_key import KID_SIZE
from edge.sources.mqtt_encoder import encode
from edge.sources.mqtt_packets import V5, V311, Decoder, Packet
from edge.sources.mqtt_properties import MqttError

COUNT = int(os.environ.get("IOMT_FUZZ", "100000"))
SEED = 7
VECTORS = Path(__file__).parents[1] / "vectors" / "envelope"
SIZE_MAX = 4096
# Where lengths and kinds turn over, in CBOR and in MQTT.
SHARP = bytes((0, 1, 0x17, 0x18, 0x1B, 0x1F, 0x40, 0x58, 0x60, 0x7F, 0x80, 0xA0, 0xC4))
SHARP += bytes((0xD1, 0xD2, 0xF5, 0xF6, 0xFB, 0xFF))

Sample = Callable[[random.Random], bytes]


def damaged(chance: random.Random, good: list[bytes]) -> bytes:
    """One of the good ones with one to four things done to it."""
    data = bytearray(chance.choice(good))
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(data) + 1)
        what = chance.randrange(7)
        if what == 0 and data:
            data[at % len(data)] ^= 1 << chance.randrange(8)
        elif what == 1 and data:
            data[at % len(data)] = chance.choice(SHARP)
        elif what == 2:
            data[at:at] = chance.randbytes(chance.randint(1, 9))
        elif what == 3:
            del data[at : at + chance.randint(1, 9)]
        elif what == 4:
            data[at:at] = data[at : at + chance.randint(1, 30)]
        elif what == 5:
            other = chance.choice(good)
            begin = chance.randrange(len(other))
            data[at : at + 20] = other[begin : begin + chance.randint(1, 40)]
        else:
            del data[at:]
    return bytes(data[:SIZE_MAX])


# ---- Envelopes ----


def good_envelopes() -> list[bytes]:
    found = [json.loads(path.read_text()) for path in VECTORS.glob("good-*.json")]
    return [
        data for one in found if len(data := bytes.fromhex(one["envelope"])) < SIZE_MAX
    ]


def rewrapped(chance: random.Random, payloads: list[bytes], head: bytes) -> bytes:
    """A damaged payload in an envelope whose lengths are right."""
    payload = cbor.encode(damaged(chance, payloads))
    size = mac_envelope.MAC_SIZE if head[0] == mac_envelope.FIRST_BYTE else 64
    return head + b"\xa0" + payload + b"\x58" + bytes((size,)) + bytes(size)


def check_envelope(data: bytes) -> bool:
    """Whether it was taken."""
    maced = data[:1] == bytes((mac_envelope.FIRST_BYTE,))
    try:
        found = (mac_envelope if maced else envelope).parse(data)
    except RefusedError:
        return False
    begin, end = envelope.payload_span(data)
    assert cbor.encode(cbor.decode(data[begin:end])) == data[begin:end]
    assert found.sequence == envelope.sequence_of(data)
    assert found.readings
    return True


def test_no_bytes_do_to_the_envelope_reader_what_it_does_not_expect() -> None:
    chance, taken = random.Random(SEED), Counter[bool]()
    good = good_envelopes()
    payloads = [one[slice(*envelope.payload_span(one))] for one in good]
    signed = good[0][: envelope.KID_AT + KID_SIZE]
    maced = b"\xd1\x84\x4d\xa2\x01\x05\x04\x48" + bytes(8)
    assert all(map(check_envelope, good))
    for number in range(COUNT):
        if number % 4:
            head = maced if number % 4 == 1 else signed
            data = rewrapped(chance, payloads, head)
        else:
            data = damaged(chance, good)
        try:
            taken[check_envelope(data)] += 1
        except Exception as error:
            error.add_note(data.hex())
            raise
    assert min(taken.values()) > COUNT // 200, taken  # both ways were gone


# ---- MQTT packets ----


def good_streams() -> list[bytes]:
    """What clients send, each behind a CONNECT of its version."""
    found = []
    for version, text, _ in CLIENT_PACKETS:
        data = bytes.fromhex(text)
        begin = {V311: CONNECT_311, V5: CONNECT_5}[version]
        found += [begin + data, begin + data + data]
    return found


def mended(chance: random.Random, streams: list[bytes]) -> bytes:
    """A CONNECT that is whole, and then a damaged body behind a head that fits it."""
    stream = chance.choice(streams)
    connect = stream[: 2 + stream[1]]
    body = damaged(chance, [stream[len(connect) + 2 :] or b"\0"])[:127]
    head = stream[len(connect)] if chance.randrange(4) else chance.randrange(256)
    return connect + bytes((head, len(body))) + body


def outcome(chunks: list[bytes]) -> tuple[list[Packet], int | None]:
    """The packets, and the code with which the rest was refused."""
    decoder = Decoder(SIZE_MAX)
    found: list[Packet] = []
    try:
        for chunk in chunks:
            found += decoder.packets(chunk)
    except MqttError as error:
        return found, error.code
    return found, None


def check_stream(data: bytes, cut: int = 0) -> bool:
    """Whether more than the CONNECT was taken; fed in two pieces where `cut` is."""
    found, code = outcome([data])
    packets = list(found)
    if cut:
        assert outcome([data[:cut], data[cut:]]) == (packets, code)
    if packets and not cut:
        version = packets[0].version  # type: ignore[union-attr]
        again = b"".join(encode(one, version) for one in packets)
        assert outcome([again]) == (packets, None)
    return len(packets) > 1


def test_no_bytes_do_to_the_packet_reader_what_it_does_not_expect() -> None:
    chance, taken = random.Random(SEED), Counter[bool]()
    streams = good_streams()
    assert all(check_stream(one, 3) for one in streams)
    for number in range(COUNT):
        data = (mended if number % 4 else damaged)(chance, streams)
        try:
            cut = chance.randrange(len(data) + 1) if number % 3 else 0
            taken[check_stream(data, cut)] += 1
        except Exception as error:
            error.add_note(data.hex())
            raise
    assert min(taken.values()) > COUNT // 200, taken
