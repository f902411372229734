"""The MQTT codec: vectors by hand from the two specifications, round trips, fuzz."""

from __future__ import annotations

import time
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.sources.mqtt_encoder import encode, encode_puback
from edge.sources.mqtt_packets import (
    V5,
    V311,
    Connack,
    Connect,
    Decoder,
    Disconnect,
    Packet,
    Pingreq,
    Pingresp,
    Puback,
    Publish,
    Suback,
    Subscribe,
    Subscription,
    Unsuback,
    Unsubscribe,
    Will,
)
from edge.sources.mqtt_properties import (
    Code,
    MqttError,
    Properties,
    Property,
    printable,
    varint,
)
from edge.sources.mqtt_topics import is_filter, matches, may_subscribe, route

SIZE_MAX = 1_000
FUZZ = settings(max_examples=250)


def decode(data: bytes, version: int, *, from_server: bool = False) -> list[Packet]:
    """All packets of `data`; version 0 expects a CONNECT first."""
    decoder = Decoder(SIZE_MAX, version=version, from_server=from_server)
    return list(decoder.packets(data))


def code_of(data: bytes, version: int, *, from_server: bool = False) -> int:
    """The reason code of the refusal of `data`."""
    with pytest.raises(MqttError) as caught:
        decode(data, version, from_server=from_server)
    return caught.value.code


# Vectors, every byte written by hand from the specification

CONNECT_311 = bytes.fromhex(
    "10 28"  # CONNECT, 40 bytes
    "00 04 4d 51 54 54 04"  # "MQTT" level 4
    "ce"  # user, password, will QoS 1, will, clean session
    "00 0a"  # keep-alive 10 s
    "00 02 63 31"  # client id "c1"
    "00 03 61 2f 62"  # will topic "a/b"
    "00 04 67 6f 6e 65"  # will message "gone"
    "00 05 62 65 64 2d 31"  # user "bed-1"
    "00 06 73 65 63 72 65 74"  # password "secret"
)
CONNECT_5 = bytes.fromhex(
    "10 28"  # CONNECT, 40 bytes
    "00 04 4d 51 54 54 05"  # "MQTT" level 5
    "06"  # will QoS 0, clean start
    "00 3c"  # keep-alive 60 s
    "08"  # 8 bytes of properties
    "11 00 00 00 0a"  # session expiry 10 s
    "21 00 14"  # receive maximum 20
    "00 02 63 31"  # client id "c1"
    "0b"  # 11 bytes of will properties
    "18 00 00 00 05"  # will delay 5 s
    "01 01"  # payload is text
    "09 00 01 ff"  # correlation
    "00 01 77"  # will topic "w"
    "00 00"  # will message ""
)


def test_connect_of_3_1_1_with_everything() -> None:
    assert decode(CONNECT_311, 0) == [
        Connect("c1", V311, True, 10, "bed-1", b"secret", Will("a/b", b"gone", 1))
    ]


def test_connect_of_5_with_properties_and_will() -> None:
    will: Properties = {
        Property.WILL_DELAY_S: 5,
        Property.PAYLOAD_FORMAT: 1,
        Property.CORRELATION: b"\xff",
    }
    assert decode(CONNECT_5, 0) == [
        Connect(
            "c1",
            V5,
            True,
            60,
            will=Will("w", b"", properties=will),
            properties={Property.SESSION_EXPIRY_S: 10, Property.RECEIVE_MAXIMUM: 20},
        )
    ]


CLIENT_PACKETS: list[tuple[int, str, Packet]] = [
    (V311, "30 05 00 03 61 2f 62", Publish("a/b", b"")),
    (V311, "3b 09 00 03 61 2f 62 00 0a 68 69",
     Publish("a/b", b"hi", 1, 10, True, True)),
    (V5, "32 0a 00 03 61 2f 62 00 0a 00 68 69", Publish("a/b", b"hi", 1, 10)),
    (V5, "32 10 00 03 61 2f 62 ff ff 07 26 00 01 6b 00 01 76 21",
     Publish("a/b", b"!", 1, 65535, properties={Property.USER: (("k", "v"),)})),
    (V311, "40 02 12 34", Puback(0x1234)),
    (V5, "40 02 12 34", Puback(0x1234)),
    (V5, "40 03 12 34 87", Puback(0x1234, 0x87)),
    (V5, "40 09 12 34 99 05 1f 00 02 6e 6f",
     Puback(0x1234, 0x99, {Property.REASON: "no"})),
    (V311, "82 08 00 0a 00 03 61 2f 62 01",
     Subscribe(10, (Subscription("a/b", 1),))),
    (V5, "82 0b 00 0a 02 0b 07 00 03 61 2f 23 2e",
     Subscribe(10, (Subscription("a/#", 2, True, True, 2),),
               {Property.SUBSCRIPTION_ID: 7})),
    (V311, "a2 07 00 0a 00 03 61 2f 62", Unsubscribe(10, ("a/b",))),
    (V5, "a2 08 00 0a 00 00 03 61 2f 62", Unsubscribe(10, ("a/b",))),
    (V311, "c0 00", Pingreq()),
    (V311, "e0 00", Disconnect()),
    (V5, "e0 00", Disconnect()),
    (V5, "e0 01 04", Disconnect(4)),
    (V5, "e0 07 00 05 11 00 00 00 0f",
     Disconnect(0, {Property.SESSION_EXPIRY_S: 15})),
]  # fmt: skip


@pytest.mark.parametrize(("version", "text", "packet"), CLIENT_PACKETS)
def test_what_a_client_sends(version: int, text: str, packet: Packet) -> None:
    data = bytes.fromhex(text)
    assert decode(data, version) == [packet]
    assert encode(packet, version) == data


@pytest.mark.parametrize(
    ("version", "text", "packet"),
    [
        (V311, "20 02 00 00", Connack()),
        (V311, "20 02 01 05", Connack(5, True)),
        (V5, "20 08 00 00 05 21 04 00 24 01",
         Connack(0, False, {Property.RECEIVE_MAXIMUM: 1024, Property.MAXIMUM_QOS: 1})),
        (V311, "90 04 00 0a 01 80", Suback(10, (1, 0x80))),
        (V5, "90 04 00 0a 00 87", Suback(10, (0x87,))),
        (V311, "b0 02 00 0a", Unsuback(10)),
        (V5, "b0 04 00 0a 00 11", Unsuback(10, (0x11,))),
        (V311, "d0 00", Pingresp()),
        (V5, "e0 02 8e 00", Disconnect(0x8E)),
    ],
)  # fmt: skip
def test_what_a_server_sends(version: int, text: str, packet: Packet) -> None:
    data = bytes.fromhex(text)
    assert decode(data, version, from_server=True) == [packet]
    again = encode(packet, version)
    assert decode(again, version, from_server=True) == [packet]


def test_a_puback_is_the_same_four_bytes_in_both_versions() -> None:
    assert encode_puback(0x1234) == b"\x40\x02\x12\x34"
    for version in (V311, V5):
        assert encode(Puback(0x1234), version) == encode_puback(0x1234)


def test_a_connect_sets_the_version_of_what_follows() -> None:
    """The same byte of a PUBLISH is a property length in 5 and payload in 3.1.1."""
    publish = bytes.fromhex("30 04 00 01 74 00")
    assert decode(CONNECT_311 + publish, 0)[1] == Publish("t", b"\0")
    assert decode(CONNECT_5 + publish, 0)[1] == Publish("t", b"")


# Refusals

MALFORMED, PROTOCOL = Code.MALFORMED, Code.PROTOCOL_ERROR


@pytest.mark.parametrize(
    ("code", "version", "text", "why"),
    [
        (PROTOCOL, 0, "c0 00", "PINGREQ before CONNECT"),
        (PROTOCOL, 0, "30 03 00 01 74", "PUBLISH before CONNECT"),
        (PROTOCOL, 4, CONNECT_311.hex(), "a second CONNECT"),
        (MALFORMED, 4, "00 00", "type 0"),
        (MALFORMED, 4, "f0 00", "AUTH does not exist in 3.1.1"),
        (PROTOCOL, 5, "f0 00", "AUTH without an agreed method"),
        (PROTOCOL, 4, "d0 00", "PINGRESP from a client"),
        (PROTOCOL, 4, "20 02 00 00", "CONNACK from a client"),
        (MALFORMED, 4, "c1 00", "reserved flags of PINGREQ"),
        (MALFORMED, 4, "80 08 00 0a 00 03 61 2f 62 01", "flags of SUBSCRIBE not 2"),
        (MALFORMED, 4, "c0 01 00", "PINGREQ with a body"),
        (MALFORMED, 4, "30 ff ff ff ff 01", "length of five bytes"),
        (MALFORMED, 5, "c0 80 00", "length not in its shortest form"),
        (Code.PACKET_TOO_LARGE, 4, "30 e8 07", "1,003 bytes, before they are there"),
        (Code.QOS_NOT_SUPPORTED, 4, "34 06 00 01 74 00 01 00", "QoS 2"),
        (MALFORMED, 4, "36 06 00 01 74 00 01 00", "QoS 3"),
        (MALFORMED, 4, "38 03 00 01 74", "DUP at QoS 0"),
        (PROTOCOL, 4, "32 05 00 01 74 00 00", "packet identifier 0"),
        (MALFORMED, 4, "30 01 00", "half a topic length"),
        (MALFORMED, 4, "30 03 00 02 74", "topic longer than the packet"),
        (MALFORMED, 4, "32 04 00 01 74 00", "half a packet identifier"),
        (MALFORMED, 4, "30 04 00 02 c3 28", "topic is not UTF-8"),
        (MALFORMED, 4, "30 05 00 03 ed a0 80", "a surrogate in the topic"),
        (MALFORMED, 4, "30 03 00 01 00", "U+0000 in the topic"),
        (PROTOCOL, 4, "30 02 00 00", "empty topic"),
        (PROTOCOL, 5, "30 03 00 00 00", "empty topic without an alias"),
        (Code.TOPIC_NAME_INVALID, 4, "30 05 00 03 61 2f 2b", "+ in a topic"),
        (Code.TOPIC_NAME_INVALID, 4, "30 05 00 03 61 2f 23", "# in a topic"),
        (MALFORMED, 5, "30 03 00 01 74", "no property length"),
        (MALFORMED, 5, "30 05 00 01 74 02 01", "properties longer than the packet"),
        (MALFORMED, 5, "30 06 00 01 74 81 00 00", "property length not shortest"),
        (MALFORMED, 5, "30 06 00 01 74 02 7f 00", "unknown property"),
        (MALFORMED, 5, "30 07 00 01 74 03 21 00 01", "receive maximum in PUBLISH"),
        (PROTOCOL, 5, "30 08 00 01 74 04 01 01 01 01", "payload format twice"),
        (PROTOCOL, 5, "30 06 00 01 74 02 01 02", "payload format 2"),
        (PROTOCOL, 5, "30 06 00 01 74 02 0b 01", "subscription id from a client"),
        (PROTOCOL, 5, "30 06 00 01 74 02 0b 00", "subscription id 0"),
        (Code.TOPIC_ALIAS_INVALID, 5, "30 07 00 01 74 03 23 00 00", "alias 0"),
        (Code.TOPIC_NAME_INVALID, 5, "30 08 00 01 74 04 08 00 01 23", "response topic"),
        (MALFORMED, 5, "30 08 00 01 74 04 03 00 02 61", "text beyond the properties"),
        (PROTOCOL, 4, "40 02 00 00", "PUBACK of 0"),
        (MALFORMED, 4, "40 03 00 01 00", "PUBACK of 3.1.1 with a code"),
        (MALFORMED, 5, "40 03 00 01 01", "PUBACK with a code that is none"),
        (Code.QOS_NOT_SUPPORTED, 4, "50 02 00 01", "PUBREC"),
        (Code.QOS_NOT_SUPPORTED, 5, "62 02 00 01", "PUBREL"),
        (Code.QOS_NOT_SUPPORTED, 5, "70 02 00 01", "PUBCOMP"),
        (PROTOCOL, 4, "82 02 00 0a", "SUBSCRIBE of nothing"),
        (PROTOCOL, 4, "82 06 00 00 00 01 61 00", "SUBSCRIBE with identifier 0"),
        (MALFORMED, 4, "82 06 00 0a 00 01 61 03", "QoS 3 asked"),
        (MALFORMED, 4, "82 06 00 0a 00 01 61 04", "options of version 5 in 3.1.1"),
        (MALFORMED, 5, "82 07 00 0a 00 00 01 61 40", "reserved option"),
        (PROTOCOL, 5, "82 07 00 0a 00 00 01 61 30", "retain handling 3"),
        (PROTOCOL, 5, "82 0e 00 0a 00 00 08 24 73 68 61 72 65 2f 61 04", "no-local"),
        (PROTOCOL, 4, "a2 02 00 0a", "UNSUBSCRIBE of nothing"),
        (MALFORMED, 5, "e0 01 8e", "a client cannot say: session taken over"),
        (MALFORMED, 4, "e0 01 00", "DISCONNECT of 3.1.1 with a code"),
    ],
)  # fmt: skip
def test_what_breaks_the_protocol_is_refused(
    code: int, version: int, text: str, why: str
) -> None:
    assert code_of(bytes.fromhex(text), version) == code, why


def changed(packet: bytes, at: int, value: int) -> bytes:
    return packet[:at] + bytes((value,)) + packet[at + 1 :]


@pytest.mark.parametrize(
    ("code", "data", "answers_in"),
    [
        (Code.UNSUPPORTED_VERSION, changed(CONNECT_311, 8, 3), V311),
        (Code.UNSUPPORTED_VERSION, changed(CONNECT_5, 8, 6), V5),
        (Code.UNSUPPORTED_VERSION, changed(CONNECT_311, 4, 0x6D), V311),
        (Code.MALFORMED, changed(CONNECT_311, 9, 0xCF), V311),  # reserved flag
        (Code.QOS_NOT_SUPPORTED, changed(CONNECT_311, 9, 0xD6), V311),  # will QoS 2
        (Code.MALFORMED, changed(CONNECT_311, 9, 0xDE), V311),  # will QoS 3
        (Code.MALFORMED, changed(CONNECT_5, 9, 0x22), V5),  # will retain, no will
        (Code.MALFORMED, changed(CONNECT_311, 9, 0x4E), V311),  # password, no user
        (Code.MALFORMED, changed(CONNECT_311, 9, 0xC2), V311),  # bytes left over
        (Code.PROTOCOL_ERROR, changed(CONNECT_5, 20, 0), V5),  # receive maximum 0
        (Code.MALFORMED, changed(CONNECT_5, 13, 0x18), V5),  # will delay outside
    ],
)
def test_a_bad_connect_is_refused_in_a_version_the_peer_can_read(
    code: int, data: bytes, answers_in: int
) -> None:
    decoder = Decoder(SIZE_MAX)
    with pytest.raises(MqttError) as caught:
        list(decoder.packets(data))
    assert caught.value.code == code
    assert decoder.version == answers_in


def test_authentication_data_without_a_method_is_a_protocol_error() -> None:
    connect = Connect("c", V5, properties={Property.AUTHENTICATION_DATA: b"x"})
    assert code_of(encode(connect, V5), 0) == Code.PROTOCOL_ERROR


def test_packets_before_an_error_are_delivered_and_nothing_after_it() -> None:
    decoder = Decoder(SIZE_MAX, version=V311)
    decoder.feed(bytes.fromhex("c0 00 c0 01 00 c0 00"))
    assert decoder.next_packet() == Pingreq()
    with pytest.raises(MqttError):
        decoder.next_packet()
    assert decoder.next_packet() is None
    with pytest.raises(MqttError):
        decoder.feed(b"\xc0\x00")


def test_the_size_limit_counts_the_whole_packet() -> None:
    fits = encode(Publish("t", b"x" * (SIZE_MAX - 6)), V311)
    assert len(fits) == SIZE_MAX
    assert len(decode(fits, V311)) == 1
    larger = encode(Publish("t", b"x" * (SIZE_MAX - 5)), V311)
    assert code_of(larger[:3], V311) == Code.PACKET_TOO_LARGE


def test_a_packet_in_single_bytes_is_not_copied_again_for_each() -> None:
    """Joining for every chunk would move 125 GB here; it must be linear."""
    packet = encode(Publish("t", b"x" * 500_000), V311)
    decoder = Decoder(len(packet), version=V311)
    start = time.process_time()
    for at in range(len(packet) - 1):
        decoder.feed(packet[at : at + 1])
        assert decoder.next_packet() is None
    decoder.feed(packet[-1:])
    assert decoder.next_packet() == Publish("t", b"x" * 500_000)
    assert time.process_time() - start < 5


def test_a_caller_may_stop_in_the_middle_of_a_chunk_and_feed_more() -> None:
    """A stalled connection leaves packets behind; later bytes go after them."""
    decoder = Decoder(SIZE_MAX, version=V311)
    decoder.feed(encode(Publish("t", b"1"), V311) + encode(Publish("t", b"2"), V311))
    assert decoder.next_packet() == Publish("t", b"1")
    third = encode(Publish("t", b"3"), V311)
    decoder.feed(third[:2])
    assert decoder.next_packet() == Publish("t", b"2")
    assert decoder.next_packet() is None
    decoder.feed(third[2:])
    assert decoder.next_packet() == Publish("t", b"3")


@pytest.mark.parametrize(
    ("value", "encoded"),
    [
        (0, "00"), (127, "7f"), (128, "8001"), (16_383, "ff7f"), (16_384, "808001"),
        (2_097_151, "ffff7f"), (2_097_152, "80808001"), (268_435_455, "ffffff7f"),
    ],
)  # fmt: skip
def test_variable_byte_integers_of_the_specification(value: int, encoded: str) -> None:
    """Table 2.4 of 3.1.1, table 1-1 of 5.0."""
    assert varint(value).hex() == encoded


def test_a_reason_string_is_cut_between_characters_and_has_no_nul() -> None:
    assert printable("a\0b", 10) == "a?b"
    assert printable("ééé", 5) == "éé"
    assert printable("\ud800", 5) == "?"


# Round trips

texts = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12
)
topics = texts.map(lambda t: "t" + t.replace("+", "-").replace("#", "-"))
words = st.integers(1, 0xFFFF)
switches = st.integers(0, 1)
pairs = st.lists(st.tuples(texts, texts), min_size=1, max_size=3).map(tuple)
message_properties = st.fixed_dictionaries(
    {},
    optional={
        int(Property.PAYLOAD_FORMAT): switches,
        int(Property.MESSAGE_EXPIRY_S): st.integers(0, 0xFFFFFFFF),
        int(Property.CONTENT_TYPE): texts,
        int(Property.RESPONSE_TOPIC): topics,
        int(Property.CORRELATION): st.binary(max_size=9),
        int(Property.USER): pairs,
    },
)
reasons = st.fixed_dictionaries(
    {}, optional={int(Property.REASON): texts, int(Property.USER): pairs}
)
connect_properties = st.fixed_dictionaries(
    {},
    optional={
        int(Property.SESSION_EXPIRY_S): st.integers(0, 0xFFFFFFFF),
        int(Property.RECEIVE_MAXIMUM): words,
        int(Property.MAXIMUM_PACKET_SIZE): st.integers(1, 0xFFFFFFFF),
        int(Property.TOPIC_ALIAS_MAXIMUM): st.integers(0, 0xFFFF),
        int(Property.REQUEST_PROBLEM): switches,
        int(Property.REQUEST_RESPONSE): switches,
        int(Property.AUTHENTICATION_METHOD): texts,
        int(Property.USER): pairs,
    },
)


def publishes(version: int) -> st.SearchStrategy[Packet]:
    properties = message_properties if version == V5 else st.just({})
    at_0 = st.builds(
        Publish,
        topics,
        st.binary(max_size=40),
        retain=st.booleans(),
        properties=properties,
    )
    at_1 = st.builds(
        Publish,
        topics,
        st.binary(max_size=40),
        st.just(1),
        words,
        st.booleans(),
        st.booleans(),
        properties,
    )
    return at_0 | at_1


def client_packets(version: int) -> st.SearchStrategy[Packet]:
    five = version == V5
    told = reasons if five else st.just({})
    codes = st.sampled_from([0, 0x80, 0x87, 0x99]) if five else st.just(0)
    subscriptions = (
        st.builds(
            Subscription,
            texts,
            st.integers(0, 2),
            st.booleans(),
            st.booleans(),
            st.integers(0, 2),
        )
        if five
        else st.builds(Subscription, texts, st.integers(0, 2))
    )
    return (
        publishes(version)
        | st.builds(Puback, words, codes, told)
        | st.builds(
            Subscribe,
            words,
            st.lists(subscriptions, min_size=1, max_size=4).map(tuple),
        )
        | st.builds(
            Unsubscribe, words, st.lists(texts, min_size=1, max_size=4).map(tuple)
        )
        | st.just(Pingreq())
        | st.builds(Disconnect, st.sampled_from([0, 4, 0x81]) if five else codes, told)
    )


def connects(version: int) -> st.SearchStrategy[Connect]:
    five = version == V5
    wills = st.builds(
        Will,
        topics,
        st.binary(max_size=20),
        st.integers(0, 1),
        st.booleans(),
        message_properties if five else st.just({}),
    )
    return st.builds(
        Connect,
        texts,
        st.just(version),
        st.booleans(),
        st.integers(0, 0xFFFF),
        texts,
        st.none() | st.binary(max_size=9),
        st.none() | wills,
        connect_properties if five else st.just({}),
    )


versions = st.sampled_from([V311, V5])
streams = versions.flatmap(
    lambda v: st.tuples(
        st.just(v), connects(v), st.lists(client_packets(v), max_size=5)
    )
)


def cut(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = sorted({0, len(data), *(c % (len(data) + 1) for c in cuts)})
    return [data[a:b] for a, b in pairwise(edges)]


def outcome(
    chunks: list[bytes], version: int = 0, *, from_server: bool = False
) -> tuple[list[Packet], tuple[int, str] | None]:
    """Packets and the error, if any; anything but an MqttError goes through."""
    decoder = Decoder(SIZE_MAX, version=version, from_server=from_server)
    packets: list[Packet] = []
    try:
        for chunk in chunks:
            packets.extend(decoder.packets(chunk))
    except MqttError as error:
        # `extend` keeps what came before the error: it appends one by one.
        return packets, (error.code, str(error))
    return packets, None


@given(streams, st.lists(st.integers(0, 10_000), max_size=8))
def test_packets_come_back_as_they_were_however_the_stream_is_cut(
    stream: tuple[int, Connect, list[Packet]], cuts: list[int]
) -> None:
    version, connect, rest = stream
    packets = [connect, *rest]
    data = b"".join(encode(packet, version) for packet in packets)
    assert outcome(cut(data, cuts)) == (packets, None)


@given(
    versions,
    st.lists(
        st.builds(Connack, st.integers(0, 5), st.booleans())
        | st.builds(Suback, words, st.lists(st.integers(0, 255)).map(tuple))
        | st.builds(Unsuback, words)
        | st.just(Pingresp()),
        max_size=5,
    ),
)
def test_a_servers_packets_come_back_as_they_were(
    version: int, packets: list[Packet]
) -> None:
    data = b"".join(encode(packet, version) for packet in packets)
    assert outcome([data], version, from_server=True) == (packets, None)


# Fuzz: a packet or an MqttError, never anything else, and the same for every cut


def assert_same_for_every_cut(
    data: bytes, cuts: list[int], version: int, *, from_server: bool = False
) -> None:
    whole = outcome([data], version, from_server=from_server)
    singles = [data[i : i + 1] for i in range(len(data))]
    assert outcome(singles, version, from_server=from_server) == whole
    assert outcome(cut(data, cuts), version, from_server=from_server) == whole


@settings(FUZZ)
@given(
    st.binary(max_size=60),
    st.lists(st.integers(0, 60), max_size=4),
    st.sampled_from([0, V311, V5]),
    st.booleans(),
)
def test_random_bytes_are_packets_or_refused(
    data: bytes, cuts: list[int], version: int, from_server: bool
) -> None:
    assert_same_for_every_cut(data, cuts, version, from_server=from_server)


@settings(FUZZ)
@given(
    st.integers(0, 15),
    st.integers(0, 15),
    st.binary(max_size=40),
    st.sampled_from([V311, V5]),
    st.booleans(),
)
def test_random_bodies_behind_a_true_head_are_packets_or_refused(
    kind: int, flags: int, body: bytes, version: int, from_server: bool
) -> None:
    data = bytes((kind << 4 | flags,)) + varint(len(body)) + body
    assert_same_for_every_cut(data + b"\xc0\x00", [], version, from_server=from_server)


@settings(FUZZ)
@given(
    streams,
    st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), max_size=4),
    st.lists(st.integers(0, 10_000), max_size=4),
)
def test_damaged_packets_are_packets_or_refused(
    stream: tuple[int, Connect, list[Packet]],
    damage: list[tuple[int, int]],
    cuts: list[int],
) -> None:
    version, connect, rest = stream
    data = bytearray(b"".join(encode(p, version) for p in (connect, *rest)))
    for at, value in damage:
        data[at % len(data)] = value
    assert_same_for_every_cut(bytes(data), cuts, 0)


# Topics


@pytest.mark.parametrize(
    ("topic_filter", "topic", "covered"),
    [
        # the examples of section 4.7.1
        ("sport/tennis/player1/#", "sport/tennis/player1", True),
        ("sport/tennis/player1/#", "sport/tennis/player1/ranking", True),
        ("sport/tennis/player1/#", "sport/tennis/player1/score/wimbledon", True),
        ("sport/tennis/player1/#", "sport/tennis/player10", False),
        ("sport/#", "sport", True),
        ("#", "a/b/c", True),
        ("sport/tennis/+", "sport/tennis/player1", True),
        ("sport/tennis/+", "sport/tennis/player1/ranking", False),
        ("sport/+", "sport", False),
        ("sport/+", "sport/", True),
        ("+/+", "/finance", True),
        ("/+", "/finance", True),
        ("+", "/finance", False),
        ("#", "$SYS/x", False),
        ("+/monitor/Clients", "$SYS/monitor/Clients", False),
        ("$SYS/#", "$SYS/x", True),
        ("a/b", "A/b", False),
    ],
)
def test_wildcards_cover_what_the_specification_says(
    topic_filter: str, topic: str, covered: bool
) -> None:
    assert is_filter(topic_filter)
    assert matches(topic_filter, topic) is covered


@pytest.mark.parametrize("bad", ["", "a#", "a/#/b", "a+", "a/b+/c", "#/a", "##"])
def test_filters_with_misplaced_wildcards_are_not_well_formed(bad: str) -> None:
    assert not is_filter(bad)


@pytest.mark.parametrize(
    ("topic", "role", "user", "refusal"),
    [
        ("iomt/v1/bed-1/vitals", "device", None, None),
        ("iomt/v1/bed-1/vitals", "device", "bed-1", None),
        ("iomt/v1/bed-1/vitals", "device", "bed-2", "not-authorised"),
        ("iomt/v1/bed-1/vitals", "viewer", "bed-1", "not-authorised"),
        ("iomt/v1/bed-1", "device", None, "wrong-topic"),
        ("iomt/v1/bed-1/a/b", "device", None, "wrong-topic"),
        ("iomt/v2/bed-1/a", "device", None, "wrong-topic"),
        ("iomt/v1//a", "device", None, "wrong-topic"),
        ("iomt/v1/bed 1/a", "device", None, "wrong-topic"),
        ("iomt/v1/alerts/a", "device", None, "wrong-topic"),
        ("iomt/v1/bed-1/cmd", "device", None, "wrong-topic"),
        ("/iomt/v1/bed-1/a", "device", None, "wrong-topic"),
    ],
)
def test_a_topic_names_device_and_stream_or_is_refused(
    topic: str, role: str, user: str | None, refusal: str | None
) -> None:
    way = route(topic, role, user)
    if refusal == "wrong-topic":
        assert (way.device, way.stream) == ("", "")
    else:
        assert (way.device, way.stream) == ("bed-1", "vitals")
    assert (way.refusal and way.refusal[0].value) == refusal


@pytest.mark.parametrize(
    ("topic_filter", "role", "user", "granted"),
    [
        ("iomt/v1/alerts/#", "viewer", None, True),
        ("iomt/v1/alerts/bed-1/+", "viewer", "w", True),
        ("iomt/v1/alerts/+/high", "viewer", "w", True),
        ("iomt/v1/alerts", "viewer", "w", False),
        ("iomt/v1/+/high", "viewer", "w", False),
        ("iomt/v1/#", "viewer", "w", False),
        ("#", "viewer", "w", False),
        ("iomt/v1/bed-1/vitals", "viewer", "w", False),
        ("iomt/v1/live/#", "viewer", "w", True),
        ("iomt/v1/live/bed-1", "viewer", "w", True),
        ("iomt/v1/live", "viewer", "w", False),
        ("iomt/v1/live/#", "device", "bed-1", False),
        ("iomt/v1/live/live", "device", "live", False),
        ("iomt/v1/bed-1/cmd", "device", "bed-1", True),
        ("iomt/v1/bed-1/receipt", "device", "bed-1", True),
        ("iomt/v1/bed-2/cmd", "device", "bed-1", False),
        ("iomt/v1/+/cmd", "device", "+", False),
        ("iomt/v1/bed-1/#", "device", "bed-1", False),
        ("iomt/v1/bed-1/cmd", "device", None, False),
        ("iomt/v1/alerts/#", "device", "bed-1", False),
        ("iomt/v1/alerts/#", "device", "alerts", False),
    ],
)
def test_only_ones_own_topics_and_a_viewers_alerts_are_granted(
    topic_filter: str, role: str, user: str | None, granted: bool
) -> None:
    assert may_subscribe(topic_filter, role, user) is granted
