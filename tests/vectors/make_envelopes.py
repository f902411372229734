"""Writes tests/vectors/envelope/*.json: envelopes that a gateway takes or refuses.

    python tests/vectors/make_envelopes.py

One file is one vector; all byte strings are hex:

    name, why       what the vector shows
    topic           the MQTT topic it is published to
    public_key      the Ed25519 key that the topic's device is enrolled with
    key_seed        its private half, to build more vectors
    envelope        the MQTT payload
    reason          only in bad-*: the refusal (docs/wire-format.md section 3)
    payload, fields only in good-*: the signed bytes, and what they say. Numbers of a
                    reading are decimal text; times are absolute, in ms since 1970

Only the simulated devices' own encoder is used here, so that the gateway's decoder
meets bytes that it did not make. Ed25519 signatures are deterministic, and so is the
output.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from decimal import Decimal
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path += [str(HERE), str(HERE.parents[1])]

from bad_envelopes import (  # noqa: E402  its directory was only now known
    DEVICE,
    KEY,
    SEQUENCE,
    STREAM,
    TEXT_METRIC,
    TIME_MS,
    Vector,
    framing_vectors,
    payload_vectors,
    reading_vectors,
    signature_vectors,
    topic_vectors,
)

from firmware_sim.envelope import Sample, Value, payload  # noqa: E402  likewise

OUTPUT = HERE / "envelope"


def good(
    name: str,
    why: str,
    samples: Sequence[Sample],
    *,
    device: str = DEVICE,
    stream: str = STREAM,
    sequence: int = SEQUENCE,
    time_ms: int = TIME_MS,
    backlog: bool = False,
) -> tuple[str, Vector]:
    """A vector that is taken."""
    body = payload(device, stream, sequence, time_ms, samples, backlog=backlog)
    fields = {
        "device": device,
        "stream": stream,
        "sequence": sequence,
        "device_time_ms": time_ms,
        "backlog": backlog,
        "readings": [
            {
                "time_ms": time_ms + (sample.offset_ms or 0),
                "values": {
                    metric: str(value)
                    for metric, value in sample.values.items()
                    if metric != TEXT_METRIC
                },
                "texts": {
                    metric: value
                    for metric, value in sample.values.items()
                    if metric == TEXT_METRIC
                },
            }
            for sample in samples
        ],
    }
    return f"good-{name}", {
        "name": name,
        "why": why,
        "topic": f"iomt/v1/{device}/{stream}",
        "key_seed": KEY.seed.hex(),
        "public_key": KEY.public_key.hex(),
        "fields": fields,
        "payload": body.hex(),
        "envelope": KEY.envelope(body).hex(),
    }


def one(**values: Value) -> list[Sample]:
    """One sample of these values."""
    return [Sample(values)]


def good_vectors() -> Iterator[tuple[str, Vector]]:
    """Every feature of the format, at its edges."""
    yield good(
        "minimal", "One reading of one integer value.", one(heart_rate=Decimal(72))
    )
    yield good(
        "monitor",
        "The everyday envelope: four vital signs, one of them a decimal fraction.",
        one(
            heart_rate=Decimal(72),
            spo2=Decimal(97),
            respiratory_rate=Decimal(15),
            body_temperature=Decimal("36.7"),
        ),
    )
    yield good(
        "every-metric",
        "All sixteen metrics of the table in one reading.",
        one(
            heart_rate=Decimal(72),
            spo2=Decimal(97),
            body_temperature=Decimal("36.7"),
            respiratory_rate=Decimal(15),
            systolic_pressure=Decimal(121),
            diastolic_pressure=Decimal(74),
            mean_pressure=Decimal("89.7"),
            glucose=Decimal("101.5"),
            weight=Decimal("71.25"),
            ecg=Decimal("0.845"),
            pulse_rate=Decimal(71),
            supplemental_oxygen=Decimal(1),
            acvpu="A",
            battery=Decimal(88),
            ambient_temperature=Decimal("21.4"),
            sensor_contact=Decimal(1),
        ),
    )
    yield good(
        "two-times",
        "Two readings with times of their own, the later one without an offset.",
        [
            Sample({"heart_rate": Decimal(71)}, offset_ms=-1000),
            Sample({"heart_rate": Decimal(72)}),
        ],
    )
    yield good(
        "backlog",
        "Readings that were stored and are sent 90 seconds late, marked as such.",
        [
            Sample({"spo2": Decimal(95)}, offset_ms=-90_000),
            Sample({"spo2": Decimal(96)}, offset_ms=-89_000),
        ],
        backlog=True,
    )
    yield good(
        "offset-limits",
        "The oldest and the newest offset there may be: 30 days back, and 0.",
        [
            Sample({"heart_rate": Decimal(70)}, offset_ms=-2_592_000_000),
            Sample({"heart_rate": Decimal(71)}, offset_ms=0),
        ],
        backlog=True,
    )
    yield good(
        "256-readings",
        "As many readings as one envelope may carry.",
        [
            Sample({"ecg": Decimal(n - 128).scaleb(-2)}, offset_ms=n - 255)
            for n in range(256)
        ],
        stream="ecg",
    )
    yield good(
        "first-sequence-zero",
        "A device may begin to count with 0.",
        one(heart_rate=Decimal(72)),
        sequence=0,
    )
    yield good(
        "last-sequence",
        "The largest sequence: 64 bits, nine bytes of CBOR.",
        one(heart_rate=Decimal(72)),
        sequence=2**64 - 1,
    )
    yield good(
        "clock-at-zero",
        "A device whose clock never was set; it decodes, its time is judged later.",
        one(heart_rate=Decimal(72)),
        time_ms=0,
    )
    yield good(
        "longest-names",
        "Names of 64 characters, with every kind of character that is allowed.",
        one(heart_rate=Decimal(72)),
        device="Az09._-" + "d" * 57,
        stream="s" * 63 + "_",
    )
    yield from good_numbers()


def good_numbers() -> Iterator[tuple[str, Vector]]:
    """Values at the edges of what a number may be."""
    yield good(
        "negative",
        "Values below zero: a negative integer and a negative mantissa.",
        one(ambient_temperature=Decimal(-12), ecg=Decimal("-0.75")),
    )
    yield good(
        "trailing-zero",
        "37.0 keeps its zero: the device says that it measures tenths.",
        one(body_temperature=Decimal("37.0")),
    )
    yield good(
        "smallest-exponent",
        "The exponent -9, the smallest there may be.",
        one(ecg=Decimal("0.000000001")),
    )
    yield good(
        "largest-exponent",
        "The exponent 9, the largest; the value is implausible, but well formed.",
        one(weight=Decimal("3E+9")),
    )
    yield good(
        "integer-widths",
        "Integers at each change of width; many are implausible and still decode.",
        [
            Sample({"glucose": Decimal(value)}, offset_ms=offset_ms)
            for offset_ms, value in enumerate(
                (23, 24, 255, 256, 65535, 65536, 2**32 - 1, 2**32, 2**64 - 1), start=-8
            )
        ]
        + [Sample({"ecg": Decimal(value)}) for value in (-1, -24, -25, -256, -257)],
    )
    yield good(
        "sensor-off",
        "0 from a probe that fell off: taken, recorded and flagged as implausible.",
        one(spo2=Decimal(0), pulse_rate=Decimal(0)),
    )
    yield good(
        "no-contact",
        "A sensor that says itself that it touches nobody.",
        one(heart_rate=Decimal(0), sensor_contact=Decimal(0)),
    )
    yield good(
        "consciousness",
        "Each letter of ACVPU, typed in by a nurse's terminal.",
        [
            Sample({"acvpu": letter}, offset_ms=-1000 * n)
            for n, letter in enumerate("ACVPU")
        ],
        stream="acvpu",
    )
    for size in (255, 256):
        yield good(
            f"payload-of-{size}-bytes",
            "A payload whose length is the last, or first, of its width of head.",
            _samples_for(size),
        )


def _samples_for(payload_size: int) -> list[Sample]:
    """Samples that make a payload of exactly this size.

    A sample of one digit takes three bytes; the first is wider, to reach every size.
    """
    for first in (9, 99, 999):
        samples = [Sample({"battery": Decimal(first)})]
        while len(payload(DEVICE, STREAM, SEQUENCE, TIME_MS, samples)) < payload_size:
            samples.append(Sample({"battery": Decimal(9)}))
        if len(payload(DEVICE, STREAM, SEQUENCE, TIME_MS, samples)) == payload_size:
            return samples
    raise AssertionError(f"no payload of {payload_size} bytes")


def vectors() -> dict[str, str]:
    """File name to file content of all vectors."""
    sources: tuple[Callable[[], Iterator[tuple[str, Vector]]], ...] = (
        good_vectors,
        framing_vectors,
        payload_vectors,
        reading_vectors,
        signature_vectors,
        topic_vectors,
    )
    files: dict[str, str] = {}
    for source in sources:
        for name, vector in source():
            if f"{name}.json" in files:
                raise AssertionError(f"two vectors are called {name}")
            files[f"{name}.json"] = json.dumps(vector, indent=1) + "\n"
    return files


def main() -> None:
    """Write the vectors in place of those that were there."""
    OUTPUT.mkdir(exist_ok=True)
    for old in OUTPUT.glob("*.json"):
        old.unlink()
    for name, content in vectors().items():
        (OUTPUT / name).write_text(content)


if __name__ == "__main__":
    main()
