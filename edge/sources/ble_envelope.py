"""Signed envelopes over GATT: put together, handed on, answered when durable.

The format of fragments and answers is devices/fragments.py's.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from edge.devices import fragments
from edge.devices.envelope import sequence_of
from edge.devices.registry import SEQUENCE_MAX
from edge.errors import RefusedError
from edge.model import Outcome, Verdict
from edge.sources.ble_link import Link, Value
from edge.sources.ble_words import RADIO_ERRORS, explain

log = logging.getLogger("edge.ble")


def envelope_of(link: Link, fragment: bytes) -> Value | None:
    """The envelope that a fragment ends, ready for the intake; None before that."""
    try:
        envelope = link.assembly.add(fragment)
    except RefusedError as refusal:
        log.warning("%s: %s", link.device, refusal.detail)
        return None
    if link.assembly.broken_count > link.broken_count:
        link.broken_count = link.assembly.broken_count
        log.warning("%s: an envelope came in part, awaited anew", link.device)
    if envelope is None:
        return None
    settle = _answerer(link, sequence_of(envelope))
    return Value(fragments.ENVELOPE_UUID, envelope, settle=settle)


def _answerer(link: Link, sequence: int | None) -> Callable[[Outcome], None]:
    """Tells the device, after the commit, what became of its envelope."""

    async def write(octets: bytes) -> None:
        if link.client is None or link.gone.is_set():
            return  # it sends the envelope again, and is answered then
        try:
            await link.client.write_gatt_char(
                fragments.ANSWER_UUID, octets, response=True
            )
        except RADIO_ERRORS as error:
            log.info("%s: is not answered: %s", link.device, explain(error))

    def settle(outcome: Outcome) -> None:
        if sequence is None or not 0 <= sequence <= SEQUENCE_MAX:
            return  # no envelope: nobody can tell the device which
        refused = outcome.verdict is Verdict.REFUSED
        verdict = fragments.REFUSED if refused else fragments.TAKEN
        octets = fragments.answer(sequence, verdict)
        task = asyncio.get_running_loop().create_task(write(octets))
        link.answers.add(task)
        task.add_done_callback(link.answers.discard)

    return settle
