"""From records to firings: the one code for everyday evaluation and for replay.

Each record's received_ms is the only clock. A reading's record first lets the timers
that are due drain, then shows its live readings to the machine in their order; a tick
record only drains timers. A late reading raises no live alarm; rules that ask for it
record a finding. What a person did to an alarm or a param takes effect at its record.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from decimal import Decimal

from edge import cbor
from edge.contracts.actions import Action
from edge.contracts.machine import Machine
from edge.contracts.program import Contract
from edge.devices.originals import live, readings_of
from edge.errors import NotFoundError, RejectError
from edge.ledger.batch import Step
from edge.model import Firing, Kind, Reading, Record

# In the original of an assignment, a transfer, an erasure: the patient whom contracts
# watch no more. In an assignment's: what they hold for the device itself ends, too.
RELEASED, FORGOTTEN = 4, 5


def _no_contract(digest: bytes) -> Contract:
    raise NotFoundError(f"no contract {digest.hex()[:16]}")


class Evaluator:
    """Feeds records to a machine.

    `patient_of` gives the key of the patient that an assignment reference stands for,
    `contract_of` the contract of a hash, where contracts are activated while we run.
    """

    def __init__(
        self,
        machine: Machine,
        patient_of: Callable[[bytes | None], bytes | None],
        contract_of: Callable[[bytes], Contract] = _no_contract,
    ) -> None:
        self.machine = machine
        self._patient_of = patient_of
        self._contract_of = contract_of

    def feed(
        self, record: Record, readings: Sequence[Reading] | None = None
    ) -> list[Firing]:
        """The firings of this record; `readings` spares decoding its original again."""
        if record.kind is Kind.TICK:
            return self.machine.advance(record.received_ms)
        if record.kind in {Kind.ASSIGNMENT, Kind.TRANSFER, Kind.ERASURE}:
            return self._release(record)
        if record.kind is Kind.ACTION:
            return self.machine.act(record.received_ms, Action.decode(record.original))
        if record.kind is Kind.CONTRACT:
            step, contract = decode_step(record.original)
            if step in (Step.ACTIVATE, Step.RESUME):
                found = self._contract_of(contract)
                return self.machine.activate(record.received_ms, found)
            return self.machine.deactivate(record.received_ms, contract)
        if record.kind is not Kind.READING or record.device is None:
            return []
        firings = self.machine.advance(record.received_ms)
        if readings is None:
            readings = readings_of(record).readings
        patient_ref = self._patient_of(record.assignment)
        patient = patient_ref.hex() if patient_ref else None
        for reading in readings:
            known = reading.known()
            values: Mapping[str, Decimal | str] = known
            if reading.texts:
                values = {**known, **reading.texts}
            if live(record, reading):
                firings += self.machine.observe(
                    record.received_ms,
                    record.device,
                    patient,
                    values,
                    _unknown(reading, known),
                )
            else:
                time_ms = record.received_ms
                if reading.time_ms is not None:
                    time_ms = reading.time_ms
                firings += self.machine.late(
                    record.received_ms, record.device, patient, values, time_ms
                )
        return firings

    def _release(self, record: Record) -> list[Firing]:
        """End what is active for a patient who is watched no more, or a device."""
        firings = self.machine.advance(record.received_ms)
        body = cbor.decode(record.original)
        if not isinstance(body, dict):
            return firings
        released = body.get(RELEASED)
        if isinstance(released, bytes):
            subject = f"patient:{released.hex()}"
            firings += self.machine.release(record.received_ms, subject)
        if body.get(FORGOTTEN) and record.device is not None:
            subject = f"device:{record.device}"
            firings += self.machine.release(record.received_ms, subject)
        return firings


def _unknown(reading: Reading, known: Mapping[str, Decimal]) -> Collection[str]:
    """The metrics that a reading names and that nobody may rely on."""
    if known is reading.values and not reading.implausible:
        return ()
    return (reading.values.keys() | reading.implausible) - known.keys()


def encode_step(step: Step, sequence: int, contract: bytes) -> bytes:
    """The original of the record that makes a contract's step take effect."""
    return cbor.encode({1: int(step), 2: sequence, 3: contract})


def decode_step(original: bytes) -> tuple[Step, bytes]:
    """Step and contract's hash of a record of kind 8; RejectError otherwise."""
    match cbor.decode(original):
        case {1: int(number), 2: int(), 3: bytes(contract), **more} if not more:
            if number in set(Step):
                return Step(number), contract
    raise RejectError("a record of kind 8 that is no contract's step")
