"""An ECG waveform in chunks over GATT: a service of no vendor's, of ours.

    service          69747631-0010-4d65-8a5e-1f7d6c3b2a10
    samples          69747631-0011-...  notify, device to gateway: one chunk each
    acknowledgement  69747631-0012-...  write with response, gateway to device

    chunk     session 4     random, new at each start of the device's counting
              first   8     number of the chunk's first sample in the session, from 0
              rate    2     Hz, 100..2000
              scale   2     nanovolts of one step
              lead    1     0 not said, 1..12 I, II, III, aVR, aVL, aVF, V1..V6
              samples n*2   signed steps, n at least 1
    acknowledgement
              session 4
              next    8     every sample of the session before this one is durable

Everything is little-endian. A device keeps its samples until they are acknowledged and
begins with the first that is not whenever the gateway subscribes, in the same chunks as
before, so that the gateway knows those that it has. A second of 250 Hz is 500 bytes and
17 for each chunk.

The waveform is kept as it came. What contracts see of it is the heart rate of its R
peaks (devices/r_peaks.py): records of the stream `ecg-rate`, written by the gateway as
Heart Rate Measurements with their RR intervals (heart_rate.py).
"""

from __future__ import annotations

import struct
from array import array
from dataclasses import dataclass

from edge.devices.metrics import make_reading
from edge.devices.profiles.fields import Fields
from edge.model import Reading

SERVICE_UUID = "69747631-0010-4d65-8a5e-1f7d6c3b2a10"
SAMPLES_UUID = "69747631-0011-4d65-8a5e-1f7d6c3b2a10"
ACKNOWLEDGEMENT_UUID = "69747631-0012-4d65-8a5e-1f7d6c3b2a10"
RATE_STREAM = "ecg-rate"

RATE_HZ_MIN, RATE_HZ_MAX = 100, 2000
LEADS = ("", "I", "II", "III", "aVR", "aVL", "aVF", *(f"V{i}" for i in range(1, 7)))
HEAD_SIZE = 17
_HEAD = struct.Struct("<IQHHB")
_ACKNOWLEDGEMENT = struct.Struct("<IQ")
_SAMPLE_SIZE = 2


@dataclass(frozen=True, slots=True)
class EcgChunk:
    """Consecutive samples of one lead; `first` is the number of the first."""

    session: int
    first: int
    rate_hz: int
    scale_nv: int
    lead: int
    samples: tuple[int, ...]

    @classmethod
    def from_bytes(cls, value: bytes) -> EcgChunk:
        """RefusedError MALFORMED names the field where `value` goes wrong."""
        fields = Fields("ECG chunk", value)
        session = fields.unsigned("session", 4)
        first = fields.unsigned("first sample's number", 8)
        rate_hz = fields.unsigned("rate", 2)
        if not RATE_HZ_MIN <= rate_hz <= RATE_HZ_MAX:
            raise fields.refusal(
                f"rate is {rate_hz} Hz, not {RATE_HZ_MIN} to {RATE_HZ_MAX}"
            )
        scale_nv = fields.unsigned("scale", 2)
        if scale_nv == 0:
            raise fields.refusal("scale is 0")
        lead = fields.unsigned("lead", 1)
        if lead >= len(LEADS):
            raise fields.refusal(f"lead is {lead}; at most {len(LEADS) - 1}")
        count, rest = divmod(fields.left_size, _SAMPLE_SIZE)
        if rest or not count:
            raise fields.refusal(f"ends {'inside' if rest else 'before'} a sample")
        octets = fields.octets("samples", count * _SAMPLE_SIZE)
        samples = struct.unpack(f"<{count}h", octets)
        return cls(session, first, rate_hz, scale_nv, lead, samples)

    def __bytes__(self) -> bytes:
        head = _HEAD.pack(
            self.session, self.first, self.rate_hz, self.scale_nv, self.lead
        )
        return head + struct.pack(f"<{len(self.samples)}h", *self.samples)

    @property
    def end(self) -> int:
        """The number of the sample behind the last."""
        return self.first + len(self.samples)

    def microvolts(self) -> array[int]:
        """The samples in µV, rounded towards zero."""
        return array("q", [int(one * self.scale_nv / 1000) for one in self.samples])


def decode(value: bytes) -> Reading:
    """A reading without values: the waveform stays in the original."""
    EcgChunk.from_bytes(value)
    return make_reading(None, {})


def acknowledgement(session: int, next_sample: int) -> bytes:
    """What is written to the device."""
    return _ACKNOWLEDGEMENT.pack(session, next_sample)


def parse_acknowledgement(value: bytes) -> tuple[int, int]:
    """Session and next sample; RefusedError MALFORMED by field."""
    fields = Fields("ECG acknowledgement", value)
    session = fields.unsigned("session", 4)
    next_sample = fields.unsigned("next sample's number", 8)
    fields.end()
    return session, next_sample
