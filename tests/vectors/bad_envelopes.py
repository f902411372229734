"""The envelopes that a gateway refuses, and why (make_envelopes.py writes them).

Each differs from a good envelope in one thing. All but the forged ones are signed by
the enrolled key, so that the signature is not what they are refused for.
"""

from __future__ import annotations

from collections.abc import Iterator

from firmware_sim.envelope import (
    COSE_SIGN1_TAG,
    METRIC_KEYS,
    Signer,
    Tagged,
    cbor,
)

KEY = Signer(bytes(range(32)))
OTHER_KEY = Signer(bytes(range(32, 64)))
DEVICE, STREAM = "bed-1-monitor", "vitals"
TOPIC = f"iomt/v1/{DEVICE}/{STREAM}"
SEQUENCE = 1001
TIME_MS = 1_790_000_000_000
ENVELOPE_SIZE_MAX = 65_536
# The order of the group (RFC 8032 section 5.1): S + L is another name of the same S.
ED25519_ORDER = 2**252 + 27742317777372353535851937790883648493
TEXT_METRIC = "acvpu"
HEART_RATE = {METRIC_KEYS["heart_rate"]: 72}

Vector = dict[str, object]


def bad(
    name: str, reason: str, why: str, envelope: bytes, *, topic: str = TOPIC
) -> tuple[str, Vector]:
    """A vector that is refused with `reason`."""
    return f"bad-{name}", {
        "name": name,
        "why": why,
        "reason": reason,
        "topic": topic,
        "key_seed": KEY.seed.hex(),
        "public_key": KEY.public_key.hex(),
        "envelope": envelope.hex(),
    }


def fields(**changes: object) -> dict[object, object]:
    """A good payload's map, with keys `k1` to `k9` changed, or removed by None."""
    body: dict[object, object] = {
        1: DEVICE,
        2: STREAM,
        3: SEQUENCE,
        4: TIME_MS,
        5: [HEART_RATE],
    }
    for name, value in changes.items():
        key = int(name.removeprefix("k"))
        if value is None:
            del body[key]
        else:
            body[key] = value
    return body


def reading(pairs: object) -> bytes:
    """A signed envelope whose only reading is `pairs`."""
    return KEY.envelope(cbor(fields(k5=[pairs])))


def value(raw: bytes) -> bytes:
    """A signed envelope whose heart rate is encoded as `raw`."""
    return KEY.envelope(_spliced(cbor(fields()), b"\x01\x18\x48", b"\x01" + raw))


def cose(
    protected: object, unprotected: object, body: object, signature: object
) -> bytes:
    """A COSE_Sign1 message of any parts."""
    return cbor(Tagged(COSE_SIGN1_TAG, [protected, unprotected, body, signature]))


def _spliced(source: bytes, old: bytes, new: bytes) -> bytes:
    """`source` with the only `old` in it replaced."""
    if source.count(old) != 1:
        raise AssertionError(f"{old.hex()} is there {source.count(old)} times")
    return source.replace(old, new)


def framing_vectors() -> Iterator[tuple[str, Vector]]:
    """Messages that are no COSE_Sign1 of ours."""
    body = cbor(fields())
    whole = KEY.envelope(body)
    signature = KEY.sign(body)
    header = KEY.protected
    kid = header[-8:]

    def malformed(name: str, why: str, envelope: bytes) -> tuple[str, Vector]:
        return bad(name, "malformed", why, envelope)

    def signed(protected: bytes) -> bytes:
        return cose(protected, {}, body, KEY.sign(body, protected=protected))

    yield malformed("empty", "No bytes at all.", b"")
    yield malformed("text", "JSON from a signed device.", b'[{"n":"heart_rate"}]')
    yield malformed("cut-short", "The last byte is missing.", whole[:-1])
    yield malformed("cut-in-payload", "It ends inside the payload.", whole[:40])
    yield malformed("bytes-after-the-end", "One byte too many.", whole + b"\x00")
    yield malformed("untagged", "The tag 18 is missing.", whole[1:])
    yield malformed("tag-17", "The tag of COSE_Mac0.", b"\xd1" + whole[1:])
    yield malformed(
        "tag-in-two-bytes", "The tag 18 in a longer form.", b"\xd8\x12" + whole[1:]
    )
    yield malformed(
        "three-parts",
        "The signature is missing from the array.",
        cbor(Tagged(COSE_SIGN1_TAG, [header, {}, body])),
    )
    yield malformed(
        "indefinite-array",
        "The outer array has an indefinite length.",
        b"\xd2\x9f" + whole[2:] + b"\xff",
    )
    yield malformed(
        "kid-unprotected",
        "The kid stands in the unprotected header, which is always empty.",
        cose(header, {4: kid}, body, signature),
    )
    yield malformed(
        "header-not-bytes",
        "The protected header is a map and not a byte string.",
        cose({1: -8, 4: kid}, {}, body, signature),
    )
    yield malformed(
        "alg-other", "Another algorithm, -6.", signed(cbor({1: -6, 4: kid}))
    )
    yield malformed("no-kid", "The protected header has no kid.", signed(cbor({1: -8})))
    yield malformed(
        "kid-of-7-bytes", "A shorter kid.", signed(cbor({1: -8, 4: kid[:7]}))
    )
    yield malformed(
        "extra-header",
        "A content type (3) that nobody asked for.",
        signed(cbor({1: -8, 3: 60, 4: kid})),
    )
    yield malformed(
        "signature-of-63-bytes",
        "A shorter signature.",
        cose(header, {}, body, signature[:63]),
    )
    yield malformed(
        "payload-detached",
        "The payload is an array, not a byte string.",
        cose(header, {}, [], signature),
    )
    yield malformed(
        "payload-length-long-form",
        "The payload's length takes two bytes where one is enough.",
        _spliced(
            whole,
            b"\xa0" + cbor(body),
            b"\xa0\x59" + len(body).to_bytes(2, "big") + body,
        ),
    )


def payload_vectors() -> Iterator[tuple[str, Vector]]:
    """Signed by the right key, but not a payload of ours."""

    def malformed(name: str, why: str, body: object) -> tuple[str, Vector]:
        raw = body if isinstance(body, bytes) else cbor(body)
        return bad(name, "malformed", why, KEY.envelope(raw))

    encoded = cbor(fields())
    yield malformed("payload-empty", "A payload of no bytes.", b"")
    yield malformed("payload-array", "An array instead of a map.", [DEVICE, STREAM])
    yield malformed(
        "payload-and-more", "A byte behind the payload's map.", encoded + b"\x00"
    )
    for key, missing in enumerate(
        ("device", "stream", "sequence", "time", "readings"), start=1
    ):
        yield malformed(
            f"no-{missing}", f"Key {key} is missing.", fields(**{f"k{key}": None})
        )
    yield malformed("unknown-field", "A key 7 that we do not know.", fields(k7=1))
    yield malformed(
        "backlog-false", "Key 6 may only be true, or absent.", fields(k6=False)
    )
    yield malformed("backlog-one", "Key 6 is 1 and not true.", fields(k6=1))
    yield malformed("device-bytes", "The device is a byte string.", fields(k1=b"bed-1"))
    yield malformed(
        "device-not-utf-8",
        "The device's name is not UTF-8.",
        _spliced(encoded, b"\x6dbed-1-monitor", b"\x6dbed-1-monito\xff"),
    )
    yield malformed("sequence-negative", "A sequence below 0.", fields(k3=-1))
    yield malformed(
        "sequence-bignum",
        "A sequence of more than 64 bits, as a bignum.",
        fields(k3=Tagged(2, b"\x01" + bytes(8))),
    )
    yield malformed("time-negative", "A time before 1970.", fields(k4=-1))
    yield malformed("time-text", "A time in words.", fields(k4="2026-11-21T00:00:00Z"))
    yield malformed(
        "sequence-long-form",
        "The sequence 1001 in four bytes instead of two.",
        _spliced(encoded, b"\x03\x19\x03\xe9", b"\x03\x1a\x00\x00\x03\xe9"),
    )
    yield malformed(
        "keys-out-of-order",
        "Stream before device.",
        _spliced(
            encoded,
            cbor(1) + cbor(DEVICE) + cbor(2) + cbor(STREAM),
            cbor(2) + cbor(STREAM) + cbor(1) + cbor(DEVICE),
        ),
    )
    yield malformed(
        "key-twice",
        "Two sequences.",
        b"\xa6" + _spliced(encoded[1:], b"\x03\x19\x03\xe9", b"\x03\x01\x03\x02"),
    )
    yield malformed(
        "indefinite-map",
        "The payload's map has an indefinite length.",
        b"\xbf" + encoded[1:] + b"\xff",
    )
    yield malformed("no-reading", "An empty array of readings.", fields(k5=[]))
    yield malformed(
        "257-readings", "One reading too many.", fields(k5=[HEART_RATE] * 257)
    )
    yield malformed("readings-map", "Readings that are a map.", fields(k5=HEART_RATE))
    yield malformed("reading-array", "A reading that is an array.", fields(k5=[[72]]))
    yield malformed("reading-empty", "A reading of nothing.", fields(k5=[{}]))


def reading_vectors() -> Iterator[tuple[str, Vector]]:
    """Signed by the right key, but a value is none of ours."""
    rate = METRIC_KEYS["heart_rate"]
    acvpu = METRIC_KEYS[TEXT_METRIC]

    def malformed(name: str, why: str, envelope: bytes) -> tuple[str, Vector]:
        return bad(name, "malformed", why, envelope)

    yield malformed("unknown-metric", "A metric 9999.", reading({rate: 72, 9999: 1}))
    yield malformed("metric-by-name", "A metric by name.", reading({"heart_rate": 72}))
    yield malformed(
        "offset-positive", "A reading from the future.", reading({0: 1, rate: 72})
    )
    yield malformed(
        "offset-too-old",
        "One millisecond more than 30 days back.",
        reading({0: -2_592_000_001, rate: 72}),
    )
    yield malformed("value-text", "A number as text.", reading({rate: "72"}))
    yield malformed("value-true", "A number that is true.", reading({rate: True}))
    yield malformed("value-null", "No value: leave the key out.", value(b"\xf6"))
    yield malformed(
        "value-half-float", "36.7 is not among its numbers.", value(b"\xf9\x54\x80")
    )
    yield malformed(
        "value-double", "72.0 as a double.", value(b"\xfb\x40\x52" + bytes(6))
    )
    yield malformed("value-long-form", "72 in two bytes.", value(b"\x19\x00\x48"))
    yield malformed(
        "value-bignum", "A bignum.", reading({rate: Tagged(2, b"\x01" + bytes(8))})
    )
    for exponent in (-10, 10):
        yield malformed(
            f"exponent-{exponent}",
            "The exponent is beyond 9.",
            reading({rate: Tagged(4, [exponent, 7])}),
        )
    yield malformed(
        "fraction-of-three",
        "A decimal fraction of three parts.",
        reading({rate: Tagged(4, [-1, 720, 0])}),
    )
    yield malformed(
        "fraction-binary",
        "A bigfloat (tag 5) has base 2.",
        reading({rate: Tagged(5, [-1, 144])}),
    )
    yield malformed(
        "fraction-mantissa-text",
        "A mantissa in words.",
        reading({rate: Tagged(4, [-1, "720"])}),
    )
    yield malformed("acvpu-number", "A letter as a number.", reading({acvpu: 1}))
    yield malformed("acvpu-word", "More than one letter.", reading({acvpu: "Alert"}))
    yield malformed(
        "metric-twice",
        "Two heart rates in one reading.",
        KEY.envelope(
            _spliced(
                cbor(fields()), b"\xa1\x01\x18\x48", b"\xa2\x01\x18\x48\x01\x18\x49"
            )
        ),
    )


def signature_vectors() -> Iterator[tuple[str, Vector]]:
    """Well formed, and not signed by the enrolled key."""
    body = cbor(fields())
    header, signature = KEY.protected, KEY.sign(body)

    def forged(name: str, why: str, envelope: bytes) -> tuple[str, Vector]:
        return bad(name, "bad-signature", why, envelope)

    flipped = bytes((signature[0] ^ 1,)) + signature[1:]
    yield forged("signature-bit", "One bit differs.", cose(header, {}, body, flipped))
    yield forged("signature-zero", "64 zero bytes.", cose(header, {}, body, bytes(64)))
    yield forged(
        "another-key",
        "A good envelope of a key that is not the device's.",
        OTHER_KEY.envelope(body),
    )
    yield forged(
        "another-key-our-kid",
        "The device's kid over the signature of another key.",
        cose(header, {}, body, OTHER_KEY.sign(body, protected=header)),
    )
    yield forged(
        "our-key-another-kid",
        "The device's signature under the kid of another key.",
        cose(
            OTHER_KEY.protected, {}, body, KEY.sign(body, protected=OTHER_KEY.protected)
        ),
    )
    yield forged(
        "payload-changed",
        "The heart rate was changed from 72 to 73 after signing.",
        cose(header, {}, cbor(fields(k5=[{1: 73}])), signature),
    )
    for name, aad in (("none", b""), ("receipt", b"iomt/receipt/v1")):
        yield forged(
            f"aad-{name}",
            "Signed for another purpose: the external_aad differs.",
            cose(header, {}, body, KEY.sign(body, aad=aad)),
        )
    s = int.from_bytes(signature[32:], "little") + ED25519_ORDER
    yield forged(
        "signature-malleable",
        "S + L instead of S: a second signature that RFC 8032 refuses.",
        cose(header, {}, body, signature[:32] + s.to_bytes(32, "little")),
    )


def topic_vectors() -> Iterator[tuple[str, Vector]]:
    """Good envelopes on the wrong topic, and one that is too large."""
    whole = KEY.envelope(cbor(fields()))
    for name, topic, why in (
        ("device", f"iomt/v1/bed-2-monitor/{STREAM}", "Another device's topic."),
        ("stream", f"iomt/v1/{DEVICE}/nibp", "Another stream of the same device."),
        ("case", f"iomt/v1/{DEVICE}/Vitals", "Names tell upper from lower case."),
    ):
        yield bad(f"topic-of-another-{name}", "wrong-topic", why, whole, topic=topic)
    filler = ENVELOPE_SIZE_MAX + 1 - len(whole) - 3  # the heads grow by three bytes
    large = KEY.envelope(cbor(fields(k1="d" * (len(DEVICE) + filler))))
    if len(large) != ENVELOPE_SIZE_MAX + 1:
        raise AssertionError(f"{len(large)} bytes")
    yield bad(
        "one-byte-too-large",
        "too-large",
        "65,537 bytes; the size is checked before anything else.",
        large,
    )
