"""What a device of the ward sends: the signed envelope and SenML JSON.

Written from docs/wire-format.md and not from the gateway's code,
as a device maker would.
The envelope is COSE_Sign1 (RFC 9052) in deterministic CBOR (RFC 8949 section 4.2.1):

    d2 84                      tag 18, array of 4
       4e a2 01 27 04 48 kid   protected header {alg: EdDSA, kid: 8 bytes}
       a0                      unprotected header, empty
       58.. payload            {1: device, 2: stream, 3: sequence, 4: time_ms,
                                5: [{0: offset_ms, key: value, ...}, ...], 6: true}
       58 40 signature         Ed25519 over ["Signature1", protected, aad, payload]
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

EXTERNAL_AAD = b"iomt/reading/v1"
COSE_SIGN1_TAG = 18
DECIMAL_FRACTION_TAG = 4
ALG_EDDSA = -8
KID_SIZE = 8
METRIC_KEYS = {
    "heart_rate": 1,
    "spo2": 2,
    "body_temperature": 3,
    "respiratory_rate": 4,
    "systolic_pressure": 5,
    "diastolic_pressure": 6,
    "mean_pressure": 7,
    "glucose": 8,
    "weight": 9,
    "ecg": 10,
    "pulse_rate": 11,
    "supplemental_oxygen": 12,
    "acvpu": 13,
    "battery": 14,
    "ambient_temperature": 15,
    "sensor_contact": 16,
}

Value = Decimal | int | str


@dataclass(frozen=True, slots=True)
class Tagged:
    """A CBOR item with a tag (RFC 8949 section 3.4)."""

    number: int
    item: object


@dataclass(frozen=True, slots=True)
class Sample:
    """Values that were measured at one time.

    `values` maps metric names to numbers in the metric's unit, or a letter for acvpu.
    `offset_ms` is the measuring time less the envelope's time: 0 or negative, or None.
    """

    values: Mapping[str, Value]
    offset_ms: int | None = None


def _head(major: int, argument: int) -> bytes:
    for code, width in ((24, 1), (25, 2), (26, 4), (27, 8)):
        if argument < 24:
            return bytes((major << 5 | argument,))
        if argument < 1 << 8 * width:
            return bytes((major << 5 | code,)) + argument.to_bytes(width, "big")
    raise ValueError(f"{argument} needs more than 64 bits")


def cbor(item: object) -> bytes:
    """The deterministic encoding of int, str, bytes, bool, Tagged, list or dict."""
    match item:
        case bool():
            return b"\xf5" if item else b"\xf4"
        case int():
            return _head(0, item) if item >= 0 else _head(1, -1 - item)
        case bytes():
            return _head(2, len(item)) + item
        case str():
            text = item.encode()
            return _head(3, len(text)) + text
        case list():
            return _head(4, len(item)) + b"".join(map(cbor, item))
        case dict():
            pairs = sorted((cbor(key), cbor(value)) for key, value in item.items())
            return _head(5, len(pairs)) + b"".join(k + v for k, v in pairs)
        case Tagged():
            return _head(6, item.number) + cbor(item.item)
    raise TypeError(f"no encoding here for {type(item).__name__}")


def number(value: Decimal | int) -> int | Tagged:
    """A value as the wire has it: 36.7 is 4([-1, 367]), 72 is 72.

    A decimal keeps its own exponent, so 37.0 says that tenths were measured.
    """
    if isinstance(value, int):
        return value
    sign, digits, exponent = value.as_tuple()
    if not isinstance(exponent, int):
        raise ValueError(f"{value} is not a number")
    mantissa = int("".join(map(str, digits))) * (-1 if sign else 1)
    if exponent == 0:
        return mantissa
    return Tagged(DECIMAL_FRACTION_TAG, [exponent, mantissa])


def payload(
    device: str,
    stream: str,
    sequence: int,
    time_ms: int,
    samples: Sequence[Sample],
    *,
    backlog: bool = False,
) -> bytes:
    """The map that an envelope signs; times in ms since 1970 by the device's clock."""
    readings: list[object] = []
    for sample in samples:
        reading: dict[int, object] = {
            METRIC_KEYS[name]: value if isinstance(value, str) else number(value)
            for name, value in sample.values.items()
        }
        if sample.offset_ms is not None:
            reading[0] = sample.offset_ms
        readings.append(reading)
    fields: dict[int, object] = {
        1: device,
        2: stream,
        3: sequence,
        4: time_ms,
        5: readings,
    }
    if backlog:
        fields[6] = True
    return cbor(fields)


class Signer:
    """A device's Ed25519 key and the envelopes that it signs."""

    def __init__(self, seed: bytes) -> None:
        self.seed = seed
        self._key = Ed25519PrivateKey.from_private_bytes(seed)
        self.public_key = self._key.public_key().public_bytes_raw()
        kid = hashlib.sha256(self.public_key).digest()[:KID_SIZE]
        self.protected = cbor({1: ALG_EDDSA, 4: kid})

    def sign(
        self, payload: bytes, *, aad: bytes = EXTERNAL_AAD, protected: bytes = b""
    ) -> bytes:
        """The 64-byte signature over the Sig_structure of RFC 9052 section 4.4."""
        header = protected or self.protected
        return self._key.sign(cbor(["Signature1", header, aad, payload]))

    def envelope(self, payload: bytes) -> bytes:
        """The complete envelope around `payload`."""
        signature = self.sign(payload)
        return cbor(Tagged(COSE_SIGN1_TAG, [self.protected, {}, payload, signature]))


def senml(device: str, time_ms: int, metric: str, unit: str, value: Decimal) -> bytes:
    """One SenML JSON record (RFC 8428) with a time of its own, in ms since 1970."""
    record = {
        "bn": f"{device}/",
        "n": metric,
        "u": unit,
        "v": float(value),
        "t": time_ms / 1000,
    }
    return json.dumps([record], separators=(",", ":")).encode()
