"""A stored record as the rows of values that people ask for, one for each reading."""

from __future__ import annotations

from edge.devices.originals import readings_of
from edge.model import Flag, Kind
from edge.store.reader import StoredRecord


def reading_rows(stored: StoredRecord) -> list[dict[str, object]]:
    """One row for each reading of a record; none for records of another kind."""
    record = stored.record
    if record.kind is not Kind.READING:
        return []
    decoded = readings_of(record)
    flags = [one.name.lower() for one in Flag if one in record.flags and one.name]
    return [
        {
            "id": stored.reading_id(place),
            "device": record.device,
            "stream": record.stream,
            "sequence": decoded.sequence,
            "device_time_ms": reading.time_ms,
            "received_ms": record.received_ms,
            "attestation": record.attestation.name.lower(),
            "flags": flags,
            "metrics": {
                **{
                    name: int(value) if value == int(value) else float(value)
                    for name, value in reading.values.items()
                },
                **reading.texts,
            },
        }
        for place, reading in enumerate(decoded.readings)
    ]
