"""Everything of one patient, to take away: values, events, and what proves them.

    DIR/README.txt                  what this is and how to check it, in plain words
    DIR/readings.jsonl              one JSON object for each reading
    DIR/readings.csv                one line for each value
    DIR/events.jsonl                alarms, assignments of devices
    DIR/shared.json                 who was shown it
    DIR/proofs/<day>/<record>.tlog-proof    docs/ledger-format.md section 5, disclosed
    DIR/log.vkey                    the log's public key (log-<N>.vkey of an epoch)

Written record by record, so its memory does not depend on the number of readings. The
files hold what the hospital knows of a person, in the clear: the directory is 0700.
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

from edge import cbor
from edge.errors import ConfigurationError, NotFoundError
from edge.model import Firing, Kind
from edge.store import epochs
from edge.store.reader import Reader, StoredRecord
from edge.store.reading_rows import reading_rows

CSV_HEAD = (
    *("id", "device", "stream", "sequence", "device_time_ms", "received_ms"),
    *("attestation", "flags", "metric", "value", "proof"),
)
SHARED = {
    "shared": [],
    "note": "This gateway cannot share records with anybody yet, so nobody was shown "
    "these through it. It cannot know what people copied from its screen.",
}
_README = """\
What this is
============
Everything that the gateway "{origin}" holds of the patient "{patient}", as of {now}:
{readings} readings in readings.jsonl (one JSON object on each line) and readings.csv
(one value on each line), {events} events in events.jsonl (alarms, and which device was
at the patient), and in shared.json who was shown them.
Times are milliseconds since 1970-01-01 UTC. It is in the clear: keep it like a letter
from your doctor.

What the proofs show
====================
Each record has a file in proofs/ ("proof" in the lists). It shows that this record was
entered in the gateway's ledger and has not been altered since, and it discloses this
one record and no other. "attestation": "device" says that the device itself signed the
reading (the proof checks that too); "gateway", that the gateway vouches for having
received it. A proof does not show that nothing was left out.
{unproven}
How to check one
================
No network is needed, only Python 3.11 or later and the gateway's program:

    iomt verify proofs/DAY/RECORD.tlog-proof --vkey "$(cat log.vkey)"

or, without installing it, from the directory of its source code:

    python -S -m edge.ledger.verify PROOF --vkey "$(cat log.vkey)"

It answers VERIFIED, REFUSED (with the reason) or NOT ENOUGH. All of them:

    find proofs -name '*.tlog-proof' -exec iomt verify {{}} --vkey "$(cat log.vkey)" ';'
{older}
The key in log.vkey came to you together with the proofs, so by itself it convinces only
you. Whoever doubts it asks the clinic for the key of its ledger and compares.
"""


@dataclass(slots=True)
class Exported:
    """How much was written."""

    readings: int = 0
    events: int = 0
    proofs: int = 0
    unproven: int = 0
    epochs: set[int] = field(default_factory=set)


def export_patient(
    reader: Reader, keys: Path, patient: str, target: Path, now_ms: int
) -> Exported:
    """Write everything of the patient of this name into a new directory.

    NotFoundError for an unknown patient, ConfigurationError where `target` holds
    something already. `keys` is the keys directory, for the log's public key.
    """
    ids = {name: id_ for id_, name in reader.patients().values()}
    if patient not in ids:
        raise NotFoundError(f"no patient {patient!r}")
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ConfigurationError([f"{target}: is there already and not empty"])
    target.mkdir(parents=True, exist_ok=True)
    target.chmod(0o700)
    exported = Exported()
    with ExitStack() as stack:
        open_ = _opener(target, stack)
        rows, values, events = map(
            open_, ("readings.jsonl", "readings.csv", "events.jsonl")
        )
        table = csv.writer(values)
        table.writerow(CSV_HEAD)
        for stored in reader.records(patient=ids[patient]):
            proof = _write_proof(reader, stored, target, exported)
            if stored.record.kind is Kind.READING:
                for row in reading_rows(stored):
                    row["proof"] = proof
                    rows.write(json.dumps(row) + "\n")
                    table.writerows(_csv_rows(row))
                    exported.readings += 1
            else:
                event = _event(stored) | {"proof": proof}
                events.write(json.dumps(event) + "\n")
                exported.events += 1
        open_("shared.json").write(json.dumps(SHARED, indent=1) + "\n")
        _write_keys(reader, keys, exported, open_)
        open_("README.txt").write(_readme(reader, patient, exported, now_ms))
    return exported


def _opener(target: Path, stack: ExitStack) -> Any:
    def open_(name: str) -> TextIO:
        descriptor = os.open(target / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        return stack.enter_context(os.fdopen(descriptor, "w", newline=""))

    return open_


def _write_proof(
    reader: Reader, stored: StoredRecord, target: Path, exported: Exported
) -> str | None:
    """Write a record's proof; its name, None where its epoch releases none."""
    name = stored.reading_id(0).removesuffix(".0")
    moment = datetime.fromtimestamp(stored.record.received_ms / 1000, UTC)
    place = f"proofs/{moment:%Y-%m-%d}/{name}.tlog-proof"
    try:
        proof = reader.prove(name, disclose=True)
    except NotFoundError:
        exported.unproven += 1
        return None
    (target / place).parent.mkdir(parents=True, exist_ok=True)
    (target / place).write_bytes(proof)
    exported.proofs += 1
    exported.epochs.add(reader.epoch_of(stored.batch_id))
    return place


def _csv_rows(row: dict[str, object]) -> Iterator[list[object]]:
    flags, metrics = row["flags"], row["metrics"]
    if not isinstance(flags, list) or not isinstance(metrics, dict):
        raise TypeError("a row of reading_rows")
    for metric, value in metrics.items():
        named = row | {"flags": " ".join(flags), "metric": metric, "value": value}
        yield [named[column] for column in CSV_HEAD]


def _event(stored: StoredRecord) -> dict[str, object]:
    record = stored.record
    event: dict[str, object] = {
        "id": stored.reading_id(0),
        "kind": record.kind.name.lower(),
        "received_ms": record.received_ms,
        "device": record.device,
    }
    if record.kind is Kind.FIRING:
        firing = Firing.decode(record.original)
        return event | {
            "contract": firing.contract,
            "contract_hash": firing.contract_hash.hex(),
            "rule": firing.rule,
            "priority": firing.priority,
            "phase": firing.phase,
            "at_ms": firing.at_ms,
            "values": dict(firing.values),
            "detail": firing.detail,
        }
    fields = cbor.decode(record.original)
    if record.kind is Kind.ASSIGNMENT and isinstance(fields, dict):
        return event | {"at_the_patient": 3 in fields}
    return event | {"original": record.original.hex()}


def _write_keys(reader: Reader, keys: Path, exported: Exported, open_: Any) -> None:
    now = reader.log().epoch
    for number in sorted(exported.epochs | {now}):
        name = "log.vkey" if number == now else f"log-{number}.vkey"
        verifier = epochs.verifier(keys, reader.base_origin, number)
        open_(name).write(verifier.vkey + "\n")


def _readme(reader: Reader, patient: str, exported: Exported, now_ms: int) -> str:
    now = datetime.fromtimestamp(now_ms / 1000, UTC)
    older, unproven = "", ""
    before = sorted(exported.epochs - {reader.log().epoch})
    if before:
        names = ", ".join(f"log-{number}.vkey" for number in before)
        older = (
            "\nThe ledger began anew after its store was set back. Records from before"
            f"\nare proven under the key of then: {names}.\n"
        )
    if exported.unproven:
        unproven = (
            f'\n{exported.unproven} records have no proof ("proof": null): the '
            "ledger they stand in ended\nwhen its store was set back, and nothing it "
            "signed is released any more.\n"
        )
    return _README.format(
        origin=reader.origin,
        patient=patient,
        now=f"{now:%Y-%m-%d %H:%M} UTC",
        readings=exported.readings,
        events=exported.events,
        unproven=unproven,
        older=older,
    )
