"""The signed envelope: shared vectors, bytes written by hand, round trips, garbage."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nacl.exceptions import BadSignatureError
from nacl.signing import SigningKey, VerifyKey

from edge import cbor
from edge.devices import envelope
from edge.devices.metrics import BY_NAME, METRICS, make_reading
from edge.errors import Reason, RefusedError, RejectError
from edge.ledger.device_key import kid_of
from edge.model import Reading

VECTORS = Path(__file__).parent.parent / "vectors" / "envelope"
GOOD = sorted(VECTORS.glob("good-*.json"))
BAD = sorted(VECTORS.glob("bad-*.json"))
KID = bytes.fromhex("0102030405060708")
SIGNATURE = bytes(range(64))


def vector_of(path: Path) -> dict[str, Any]:
    vector = json.loads(path.read_text())
    assert isinstance(vector, dict)
    return vector


def named(path: Path) -> str:
    return path.stem


@pytest.mark.skipif(not VECTORS.is_dir(), reason="tests/vectors/envelope is missing")
def test_the_shared_vectors_are_there_in_numbers() -> None:
    """An empty folder would let every test below pass."""
    assert len(GOOD) >= 12
    assert len(BAD) >= 25


@pytest.mark.parametrize("path", GOOD, ids=named)
def test_a_good_vector_of_the_other_codec_says_what_it_meant(path: Path) -> None:
    vector = vector_of(path)
    data = bytes.fromhex(vector["envelope"])
    found = envelope.parse(data)
    said = vector["fields"]
    assert found.device == said["device"]
    assert found.stream == said["stream"]
    assert found.sequence == said["sequence"]
    assert found.device_time_ms == said["device_time_ms"]
    assert found.backlog is said["backlog"]
    assert len(found.readings) == len(said["readings"])
    for reading, expected in zip(found.readings, said["readings"], strict=True):
        assert reading.time_ms == expected["time_ms"]
        # str(): 36.70 is not 36.7, the digits a device sent are kept
        assert {n: str(v) for n, v in reading.values.items()} == expected["values"]
        assert dict(reading.texts) == expected["texts"]
    public_key = bytes.fromhex(vector["public_key"])
    assert found.kid == hashlib.sha256(public_key).digest()[:8]
    assert found.signed_bytes.endswith(bytes.fromhex(vector["payload"]))
    VerifyKey(public_key).verify(found.signed_bytes, found.signature)


@pytest.mark.parametrize("path", GOOD, ids=named)
def test_a_good_vector_is_what_we_would_have_built(path: Path) -> None:
    vector = vector_of(path)
    data = bytes.fromhex(vector["envelope"])
    found = envelope.parse(data)
    key = SigningKey(bytes.fromhex(vector["key_seed"]))
    built = envelope.build(
        found.device,
        found.stream,
        found.sequence,
        found.device_time_ms,
        found.readings,
        kid=kid_of(bytes(key.verify_key)),
        sign=lambda message: key.sign(message).signature,
        backlog=found.backlog,
    )
    again = envelope.parse(built)
    assert again.readings == found.readings
    # Two things are legal and never built: a stated offset of 0, and 72 * 10**0.
    if not says_more_than_needed(data):
        assert built.hex() == data.hex()


def says_more_than_needed(data: bytes) -> bool:
    readings = cbor2.loads(cbor2.loads(data).value[2])[5]
    zero_offset = any(pairs.get(0) == 0 for pairs in readings)
    return zero_offset or b"\xc4\x82\x00" in data


def test_most_good_vectors_are_compared_byte_by_byte() -> None:
    """So that the exception above does not become the rule."""
    datas = [bytes.fromhex(vector_of(path)["envelope"]) for path in GOOD]
    assert sum(map(says_more_than_needed, datas)) <= len(GOOD) / 4


@pytest.mark.parametrize("path", BAD, ids=named)
def test_a_bad_vector_is_refused_for_its_reason(path: Path) -> None:
    """In the order of docs/wire-format.md section 3; the last two are the intake's."""
    vector = vector_of(path)
    assert vector["reason"] == reason_of(vector)


def reason_of(vector: Mapping[str, Any]) -> str:
    public_key = bytes.fromhex(vector["public_key"])
    try:
        found = envelope.parse(bytes.fromhex(vector["envelope"]))
    except RefusedError as refused:
        return refused.reason.value
    if found.kid != kid_of(public_key):
        return Reason.BAD_SIGNATURE.value
    try:
        VerifyKey(public_key).verify(found.signed_bytes, found.signature)
    except BadSignatureError:
        return Reason.BAD_SIGNATURE.value
    if vector["topic"] != f"iomt/v1/{found.device}/{found.stream}":
        return Reason.WRONG_TOPIC.value
    return "accepted"


def enveloped(payload: str) -> bytes:
    """A payload, given as hex, in an otherwise right envelope, by hand."""
    octets = bytes.fromhex(payload)
    size = len(octets)
    if size < 24:
        head = bytes((0x40 + size,))
    elif size < 256:
        head = bytes((0x58, size))
    else:
        head = b"\x59" + size.to_bytes(2, "big")
    return (
        bytes.fromhex("d2844da201270448")
        + KID
        + b"\xa0"
        + head
        + octets
        + b"\x58\x40"
        + SIGNATURE
    )


# {1: "d", 2: "s", 3: 7, 4: 1000, 5: [{...}]} up to the array of readings
HEAD = "a5016164026173030704" + "1903e8" + "05"


def test_the_bytes_of_the_format_page_written_out_by_hand() -> None:
    """{0: -500, 3: [-1, 367], 13: "V", 16: 1}: a time, a fraction, a letter."""
    found = envelope.parse(
        enveloped(
            HEAD + "81" + "a400" + "3901f3" + "03c4822019016f" + "0d6156" + "1001"
        )
    )
    assert found == envelope.Envelope(
        kid=KID,
        signed_bytes=bytes.fromhex("846a5369676e6174757265314da201270448")
        + KID
        + bytes.fromhex("4f696f6d742f72656164696e672f7631")
        + bytes.fromhex("5820" + HEAD + "81a4003901f303c4822019016f0d61561001"),
        signature=SIGNATURE,
        device="d",
        stream="s",
        sequence=7,
        device_time_ms=1000,
        readings=(
            Reading(
                500,
                {"body_temperature": Decimal("36.7"), "sensor_contact": Decimal(1)},
                {"acvpu": "V"},
            ),
        ),
        backlog=False,
    )


REFUSED = {
    "": "payload: ends early, at byte 0",
    "80": "payload: not a map",
    "a0": "payload: device (key 1) is missing",
    HEAD[:-2].replace("a5", "a4", 1): "payload: readings (key 5) is missing",
    "a6" + HEAD[2:] + "81a1011848" + "06f4": "payload: backlog (key 6) is not true",
    "a6" + HEAD[2:] + "81a1011848" + "0701": "payload: unknown key 7",
    "a6" + HEAD[2:] + "81a1011848" + "616100": "payload: unknown key 'a'",
    HEAD.replace("6164", "4164") + "81a10118": "payload: ends early, at byte 18",
    HEAD.replace("016164", "014164") + "81a1011848": "device (key 1) is not text",
    HEAD.replace("0307", "0326") + "81a1011848": "sequence (key 3) is not an unsigned",
    HEAD.replace("1903e8", "f5") + "81a1011848": "device time (key 4) is not an unsig",
    HEAD + "80": "readings (key 5) is not an array of 1 to 256",
    HEAD + "a1011848": "readings (key 5) is not an array of 1 to 256",
    HEAD + "81a0": "reading 0: not a map of 1 to 32 pairs",
    HEAD + "8101": "reading 0: not a map of 1 to 32 pairs",
    HEAD + "82a1011848a119270f1848": "reading 1: unknown metric 9999",
    HEAD + "81a12001": "reading 0: unknown metric -1",
    HEAD + "81a1686865617274202020" + "00": "reading 0: unknown metric 'heart   '",
    HEAD + "81a10001": "reading 0: time offset (key 0) is not -2592000000 to 0 ms",
    HEAD + "81a1003a9a7ec800": "reading 0: time offset (key 0) is not",
    HEAD + "81a101f5": "reading 0: heart_rate is no integer or decimal fraction",
    HEAD + "81a1016137": "reading 0: heart_rate is no integer or decimal fraction",
    HEAD + "81a101c48120": "reading 0: heart_rate is no integer or decimal fraction",
    HEAD + "81a101c4822060": "reading 0: heart_rate is no integer or decimal fraction",
    HEAD + "81a101c482f501": "reading 0: heart_rate is no integer or decimal fraction",
    HEAD + "81a101c5822001": "reading 0: heart_rate is no integer or decimal fraction",
    HEAD + "81a101c4820a01": "reading 0: heart_rate has the exponent 10",
    HEAD + "81a101c4822901": "reading 0: heart_rate has the exponent -10",
    HEAD + "81a10d01": "reading 0: acvpu is not one character",
    HEAD + "81a10d624156": "reading 0: acvpu is not one character",
    HEAD + "81a10d60": "reading 0: acvpu is not one character",
    HEAD + "81a101f94880": "payload: float or unassigned simple value at byte 17",
}


@pytest.mark.parametrize("payload", REFUSED, ids=range(len(REFUSED)))
def test_a_wrong_payload_is_refused_with_its_field_and_place(payload: str) -> None:
    with pytest.raises(RefusedError) as refused:
        envelope.parse(enveloped(payload))
    assert refused.value.reason is Reason.MALFORMED
    assert REFUSED[payload] in refused.value.detail


MINIMAL = enveloped(HEAD + "81a1011848")
LONGER = enveloped(HEAD.replace("6164", "6a" + "64" * 10) + "81a1011848")
OUTSIDE = {
    "d1": (0, "d1", "does not begin with d2 84"),
    "83": (1, "83", "does not begin with d2 84"),
    "another alg": (5, "25", "protected header is not"),
    "another kid size": (7, "47", "protected header is not"),
    "unprotected": (16, "a1", "unprotected header is not empty, at byte 16"),
    "detached payload": (17, "f6", "payload byte string: not a byte string"),
    "indefinite payload": (17, "5f", "payload byte string: indefinite length"),
    "payload too long": (18, "ff", "payload byte string: string of 255 bytes"),
    "payload too short": (18, "17", "payload byte string: number not in its shortest"),
    "signature of 63": (-65, "3f", "signature is not 64 bytes long"),
}


@pytest.mark.parametrize("case", OUTSIDE)
def test_what_is_wrong_around_the_payload_is_named(case: str) -> None:
    at, octet, detail = OUTSIDE[case]
    data = bytearray(LONGER)
    data[at : at + 1 or None] = bytes.fromhex(octet)
    with pytest.raises(RefusedError) as refused:
        envelope.parse(bytes(data))
    assert refused.value.reason is Reason.MALFORMED
    assert detail in refused.value.detail


def test_the_end_is_exactly_the_signatures_end() -> None:
    assert envelope.parse(MINIMAL).sequence == 7
    for data in (MINIMAL + b"\x00", MINIMAL[:-1], MINIMAL[:17]):
        with pytest.raises(RefusedError) as refused:
            envelope.parse(data)
        assert refused.value.reason is Reason.MALFORMED


def test_the_largest_envelope_is_taken_and_one_more_byte_is_too_large() -> None:
    """The padding is the device's name, whose length is the intake's business."""
    room = envelope.ENVELOPE_SIZE_MAX - len(MINIMAL)
    for more, reason in ((-4, None), (-3, Reason.TOO_LARGE)):
        # 2 bytes more than in MINIMAL for the text's head, and 2 for the payload's
        text = "d" * (1 + room + more)
        payload = HEAD.replace("6164", "79" + f"{len(text):04x}" + text.encode().hex())
        data = enveloped(payload + "81a1011848")
        if reason is None:
            assert len(data) == envelope.ENVELOPE_SIZE_MAX
            assert envelope.parse(data).device == text
        else:
            assert len(data) == envelope.ENVELOPE_SIZE_MAX + 1
            with pytest.raises(RefusedError) as refused:
                envelope.parse(data)
            assert refused.value.reason is reason


NUMBERS = st.builds(
    lambda mantissa, exponent: Decimal(mantissa).scaleb(exponent),
    st.one_of(st.integers(-999_999, 999_999), st.integers(-(2**64), 2**64 - 1)),
    st.integers(-9, 9),
)
VALUES = st.dictionaries(
    st.sampled_from([m.name for m in METRICS if not m.letters]), NUMBERS, max_size=6
)
TEXTS = st.dictionaries(
    st.just("acvpu"), st.characters(codec="utf-8", categories=None), max_size=1
)
TIMES = st.integers(0, 2**53)
OFFSETS = st.integers(envelope.OFFSET_MS_MIN, 0)


@st.composite
def readings(draw: st.DrawFn, device_time_ms: int) -> Reading:
    values, texts = draw(VALUES), draw(TEXTS)
    offset = draw(OFFSETS)
    if not values and not texts and offset == 0:
        offset = -1
    return make_reading(device_time_ms + offset, values, texts)


@given(
    st.data(),
    st.text(max_size=20),
    st.integers(0, 2**64 - 1),
    TIMES,
    st.booleans(),
)
def test_what_is_built_is_parsed_and_an_independent_decoder_agrees(
    data: st.DataObject, name: str, sequence: int, time_ms: int, backlog: bool
) -> None:
    sent = data.draw(st.lists(readings(time_ms), min_size=1, max_size=4))
    signed: list[bytes] = []

    def sign(message: bytes) -> bytes:
        signed.append(message)
        return SIGNATURE

    octets = envelope.build(
        name, "s", sequence, time_ms, sent, kid=KID, sign=sign, backlog=backlog
    )
    found = envelope.parse(octets)
    assert signed == [found.signed_bytes]
    assert found.readings == tuple(sent)
    for ours, theirs in zip(found.readings, sent, strict=True):
        assert set(ours.values) == set(theirs.values)
        for metric, value in theirs.values.items():  # 1.20 stays 1.20
            assert ours.values[metric].as_tuple() == value.as_tuple()
    outer = cbor2.loads(octets)
    assert outer.tag == 18
    protected, unprotected, payload, signature = outer.value
    assert cbor2.loads(protected) == {1: -8, 4: KID}
    assert (dict(unprotected), signature) == ({}, SIGNATURE)
    fields = cbor2.loads(payload)
    assert (fields[1], fields[2], fields[3], fields[4]) == (
        name,
        "s",
        sequence,
        time_ms,
    )
    assert fields.get(6, False) is backlog
    for reading, pairs in zip(sent, fields[5], strict=True):
        assert time_ms + pairs.get(0, 0) == reading.time_ms
        for metric, value in reading.values.items():
            assert Decimal(pairs[BY_NAME[metric].key]) == value
    context = cbor2.loads(signed[0])
    assert [*context] == ["Signature1", protected, b"iomt/reading/v1", payload]


@given(st.binary(max_size=200))
def test_any_bytes_are_an_envelope_or_refused(data: bytes) -> None:
    parses_or_refuses(data)
    parses_or_refuses(enveloped(data.hex()))


@given(st.sampled_from(GOOD or [Path()]), st.data())
def test_a_good_envelope_with_some_bytes_changed_is_an_envelope_or_refused(
    path: Path, choice: st.DataObject
) -> None:
    if not GOOD:
        pytest.skip("tests/vectors/envelope is missing")
    data = bytearray.fromhex(vector_of(path)["envelope"])
    for _ in range(choice.draw(st.integers(1, 4))):
        at = choice.draw(st.integers(0, min(len(data), 200) - 1))
        data[at] = choice.draw(st.integers(0, 255))
    if choice.draw(st.booleans()):
        del data[choice.draw(st.integers(0, len(data))) :]
    parses_or_refuses(bytes(data))


# Well-formed CBOR of the wrong shape gets further than bytes at random.
ITEMS = st.recursive(
    st.one_of(
        st.integers(-(2**64), 2**64 - 1),
        st.text(max_size=3),
        st.binary(max_size=3),
        st.booleans(),
        st.none(),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.integers(-1, 18), inner, max_size=4),
        st.builds(cbor.Tag, st.integers(2, 5), inner),
    ),
    max_leaves=8,
)


@given(
    st.fixed_dictionaries(
        {1: st.one_of(st.just("d"), ITEMS), 2: st.just("s"), 3: st.just(1)},
        optional={
            4: st.one_of(st.just(5), ITEMS),
            5: st.one_of(
                st.lists(
                    st.dictionaries(st.integers(-1, 18), ITEMS, max_size=3), max_size=3
                ),
                ITEMS,
            ),
            6: ITEMS,
        },
    )
)
def test_a_payload_of_the_wrong_shape_is_refused_and_nothing_else(
    fields: dict[int, object],
) -> None:
    try:
        payload = cbor.encode(fields)
        cbor.decode(payload)
    except Exception:  # noqa: BLE001 - deeper than our CBOR goes: not of interest here
        return
    parses_or_refuses(enveloped(payload.hex()))


def parses_or_refuses(data: bytes) -> None:
    """An accepted envelope is also the only encoding of what it says."""
    read_quickly_or_not(data)
    try:
        found = envelope.parse(data)
    except RefusedError as error:
        refused = error
    else:
        assert data.endswith(found.signature)
        values = [v for reading in found.readings for v in reading.values.values()]
        assert all(value.is_finite() for value in values)
        return
    assert refused.reason in (Reason.MALFORMED, Reason.TOO_LARGE)
    assert refused.detail.isprintable()


def read_quickly_or_not(data: bytes) -> bool:
    """Whether the quick reader takes the payload; the thorough one then says the same,
    to the digits of every number."""
    try:
        start, end = envelope.payload_span(data)
    except RejectError:
        return False
    quick = envelope._usual(data, start, end)
    if quick is None:
        return False
    thorough = envelope._any(data[start:end])
    assert quick == thorough
    for ours, theirs in zip(quick[4], thorough[4], strict=True):
        assert repr(ours) == repr(theirs)  # 1.20 is not 1.2
    return True


USUAL = {
    1: "bed-1",
    2: "vitals",
    3: 70_000,
    4: 1_790_000_000_000,
    5: [
        {1: 72, 3: cbor.Tag(4, [-1, 365]), 7: 300, 16: 1},
        {2: 97, 9: cbor.Tag(4, [2, 1])},
    ],
}


def test_every_byte_of_a_usual_payload_changed_to_every_other_is_judged_alike() -> None:
    """No change may make the quick reader take what the thorough one refuses."""
    good = bytearray(enveloped(cbor.encode(USUAL).hex()))
    assert read_quickly_or_not(bytes(good))
    start, end = envelope.payload_span(bytes(good))
    taken = 0
    for at in range(start, end):
        right = good[at]
        for other in range(256):
            good[at] = other
            taken += read_quickly_or_not(bytes(good))
        good[at] = right
    assert taken > 256  # letters of a name, digits of a number


@given(st.data(), st.text("abc-", max_size=30), st.integers(0, 2**64 - 1), TIMES)
def test_what_devices_usually_send_is_read_quickly(
    data: st.DataObject, name: str, sequence: int, time_ms: int
) -> None:
    usual = [
        metric.name for metric in METRICS if metric.key < 24 and not metric.letters
    ]
    values = st.dictionaries(st.sampled_from(usual), NUMBERS, min_size=1)
    sent = data.draw(st.lists(values, min_size=1, max_size=4))
    octets = envelope.build(
        *(name, "s", sequence, time_ms, [make_reading(time_ms, one) for one in sent]),
        kid=KID,
        sign=lambda _: SIGNATURE,
    )
    assert read_quickly_or_not(octets)


@given(st.data())
def test_a_usual_payload_that_is_cut_or_spoilt_is_judged_alike(
    data: st.DataObject,
) -> None:
    payload = bytearray(cbor.encode(USUAL))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(payload) - 1))
        more = data.draw(st.binary(max_size=9))
        payload[at : at + data.draw(st.integers(0, 9))] = more
        payload = payload or bytearray(1)
    read_quickly_or_not(enveloped(payload.hex()))


def test_what_an_envelope_cannot_say_is_a_mistake_of_the_caller() -> None:
    def build(*readings: Reading) -> bytes:
        return envelope.build(
            "d", "s", 1, 1000, readings, kid=KID, sign=lambda _: SIGNATURE
        )

    good = make_reading(1000, {"heart_rate": Decimal(72)})
    assert envelope.parse(build(good)).readings == (good,)
    wrong = (
        make_reading(1001, {"heart_rate": Decimal(72)}),
        make_reading(None, {"heart_rate": Decimal("1E-10")}),
        make_reading(None, {"heart_rate": Decimal("1E+10")}),
        make_reading(None, {}, {"acvpu": "AV"}),
        Reading(None, {"heart_rate": Decimal("NaN")}),
        make_reading(None, {}),
    )
    for reading in wrong:
        with pytest.raises(ValueError, match="no envelope can say"):
            build(reading)
    with pytest.raises(ValueError, match="no envelope can say"):
        build()


def test_a_key_identifier_is_the_beginning_of_the_keys_hash() -> None:
    """SHA-256 of 32 zero bytes, a published value: 66687aad f862bd77 ..."""
    assert kid_of(bytes(32)).hex() == "66687aadf862bd77"
