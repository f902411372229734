"""The MQTT beds of the ward: which devices stand there and what each sends when.

A bed's methods are endless jobs, each at a period of its own. Samples are numbered: the
number is model time and goes to the patient's model; real seconds since the ward
started go to the episodes. Every message carries the wall clock.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from decimal import Decimal

from firmware_sim import patients
from firmware_sim.envelope import Sample, Signer, Value, payload, senml
from firmware_sim.mqtt_device import Message, MqttDevice
from firmware_sim.patients import Overlay, Patient, Vitals, rounded
from firmware_sim.recording import Minute
from firmware_sim.state import WardState

BEDS_MAX = 100
MODELLED_BEDS = (
    8  # beds 1 to 8 are told apart below; the others are like bed 1, healthy
)
CUFF_PERIOD_S = 30.0
CUFF_FIRST_S = 5.0
THERMOMETER_PERIOD_S = 5.0
PAIR_PERIOD_S = 2.0
BACKLOG_PERIOD_S = 30.0
BACKLOG_FIRST_S = 10.0
BACKLOG_AGE_MS = 90_000
CATCH_UP_COUNT = 100  # samples made at once when the ward was held up


def now_ms() -> int:
    """The devices' clock: wall time in milliseconds since 1970."""
    return time.time_ns() // 1_000_000


def topic(device: str, stream: str) -> str:
    """Where a device publishes a stream."""
    return f"iomt/v1/{device}/{stream}"


async def steps(
    period_s: float, speed: float, *, first_s: float = 0.0
) -> AsyncIterator[tuple[int, float]]:
    """(step, real seconds since now): first at `first_s`, then each period / speed."""
    loop = asyncio.get_running_loop()
    start = loop.time()
    step = 0
    while True:
        due = start + first_s + step * period_s / speed
        wait_s = due - loop.time()
        if wait_s > 0 or step % CATCH_UP_COUNT == 0:
            await asyncio.sleep(max(wait_s, 0.0))
        yield step, loop.time() - start
        step += 1


class SignedStream:
    """A stream of signed envelopes of one device."""

    def __init__(
        self, device: MqttDevice, signer: Signer, state: WardState, name: str
    ) -> None:
        self._device = device
        self._signer = signer
        self._state = state
        self._name = name

    def send(self, samples: Sequence[Sample], *, backlog: bool = False) -> None:
        """Sign one envelope with these samples and hand it to the device."""
        device = self._device.name
        sequence = self._state.next_sequence(device)
        body = payload(device, self._name, sequence, now_ms(), samples, backlog=backlog)
        self._device.put(
            Message(
                topic(device, self._name),
                self._signer.envelope(body),
                sequence=sequence,
            )
        )


def monitor_values(vitals: Vitals) -> dict[str, Value]:
    """What a bedside monitor shows of `vitals`."""
    return {
        "heart_rate": rounded(vitals.heart_rate),
        "spo2": rounded(vitals.spo2),
        "respiratory_rate": rounded(vitals.respiratory_rate),
        "body_temperature": rounded(vitals.body_temperature, 1),
    }


def cuff_values(vitals: Vitals) -> dict[str, Value]:
    """What a blood pressure cuff shows of `vitals`."""
    return {
        "systolic_pressure": rounded(vitals.systolic_pressure),
        "diastolic_pressure": rounded(vitals.diastolic_pressure),
        "mean_pressure": rounded(vitals.mean_pressure),
    }


@dataclass(frozen=True, slots=True)
class Bed:
    """One MQTT bed: its patient and where its monitor's envelopes go."""

    number: int
    patient: Patient
    monitor: SignedStream
    speed: float

    async def run_monitor(self, overlay: Overlay = patients.healthy) -> None:
        """One envelope with the four vital signs each model second."""
        async for step, elapsed_s in steps(1.0, self.speed):
            vitals = overlay(self.patient.vitals(step), elapsed_s)
            self.monitor.send([Sample(monitor_values(vitals))])

    async def run_cuff(self, cuff: SignedStream) -> None:
        """A cuff reading each half minute; the first one is hypertensive."""
        async for step, _ in steps(CUFF_PERIOD_S, self.speed, first_s=CUFF_FIRST_S):
            measured = self.patient.vitals(round(step * CUFF_PERIOD_S))
            shown = patients.hypertensive(measured, first=step == 0)
            cuff.send([Sample(cuff_values(shown))])

    async def run_pairs(self) -> None:
        """Two samples an envelope each two seconds, the earlier one second old."""
        async for step, _ in steps(PAIR_PERIOD_S, self.speed):
            earlier, now = (self.patient.vitals(2 * step + i) for i in (0, 1))
            self.monitor.send(
                [
                    Sample(monitor_values(earlier), offset_ms=-1000),
                    Sample(monitor_values(now), offset_ms=0),
                ]
            )

    async def run_backlog(self) -> None:
        """Now and then, samples of 90 seconds ago that could not be sent then."""
        async for step, _ in steps(
            BACKLOG_PERIOD_S, self.speed, first_s=BACKLOG_FIRST_S
        ):
            first = round(step * BACKLOG_PERIOD_S)
            self.monitor.send(
                [
                    Sample(
                        monitor_values(self.patient.vitals(first + i)),
                        offset_ms=-BACKLOG_AGE_MS + 1000 * i,
                    )
                    for i in range(4)
                ],
                backlog=True,
            )

    async def run_recording(
        self, minutes: Sequence[Minute], cuff: SignedStream
    ) -> None:
        """A recorded minute each model second, from the start again at the end."""
        async for step, _ in steps(1.0, self.speed):
            minute = minutes[step % len(minutes)]
            self.monitor.send([Sample(dict(minute.monitor))])
            if minute.cuff:
                cuff.send([Sample(dict(minute.cuff))])

    async def run_thermometer(self, thermometer: MqttDevice) -> None:
        """An unsigned body temperature in SenML each five seconds."""
        async for step, _ in steps(THERMOMETER_PERIOD_S, self.speed):
            vitals = self.patient.vitals(round(step * THERMOMETER_PERIOD_S))
            value: Decimal = rounded(vitals.body_temperature, 1)
            body = senml(thermometer.name, now_ms(), "body_temperature", "Cel", value)
            thermometer.put(Message(topic(thermometer.name, "temperature"), body))
