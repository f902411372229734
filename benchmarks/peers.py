"""What the gateway is compared with, in the same run on the same machine.

- `verify_rate`: the `cryptography` package's Ed25519 verification alone. No Python
  gateway that checks signatures through it can be faster on one core: the ceiling.
- `floor`: verification and one row a message into SQLite (WAL, synchronous FULL),
  committed in batches as large as the gateway's. No socket, no MQTT, no decoding, no
  contracts, no sealing, no ledger: what a plain durable store costs in Python.
- `Mosquitto`: a broker with the same clients and the same bytes. It checks no
  signature and keeps nothing: its PUBACK says that the message was read.
"""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import NamedTuple

import apsw
from cryptography.hazmat.primitives.asymmetric.ed25519 import (
    Ed25519PrivateKey,
    Ed25519PublicKey,
)
from mqtt_load import Fleet, device_names, seed_of

from edge.devices.envelope import parse

DEVICES = 100
BATCH = 256
MESSAGES = 20 * BATCH
START_TIMEOUT_S = 10.0


class Signed(NamedTuple):
    """An envelope taken apart, so that only verifying and storing are timed."""

    key: Ed25519PublicKey
    device: str
    sequence: int
    signature: bytes
    message: bytes
    envelope: bytes


def signed_messages() -> list[Signed]:
    """MESSAGES envelopes of DEVICES devices, in turn."""
    fleet, columns = Fleet(), []
    for device in device_names("peer-", DEVICES):
        private = Ed25519PrivateKey.from_private_bytes(seed_of(device))
        key = private.public_key()
        column = []
        for envelope in fleet.envelopes(device, -(-MESSAGES // DEVICES), 100.0):
            parsed = parse(envelope)
            column.append(
                Signed(
                    key,
                    device,
                    parsed.sequence,
                    parsed.signature,
                    parsed.signed_bytes,
                    envelope,
                )
            )
        columns.append(column)
    turns = zip(*columns, strict=True)
    return [one for turn in turns for one in turn][:MESSAGES]


def verify_rate(messages: list[Signed], seconds: float) -> float:
    """Verifications for each second of CPU time; the key objects are made before."""
    count, begin_s = 0, time.process_time()
    while time.process_time() - begin_s < seconds:
        for one in messages[:BATCH]:
            one.key.verify(one.signature, one.message)
        count += BATCH
    return count / (time.process_time() - begin_s)


def floor(
    messages: list[Signed], directory: Path, seconds: float
) -> tuple[float, float]:
    """(messages a second, CPU seconds for 1,000) of verify and insert."""
    path = directory / "floor.db"
    count, place = 0, 0
    with closing(apsw.Connection(str(path))) as connection:
        connection.pragma("journal_mode", "WAL")
        connection.pragma("synchronous", "FULL")
        connection.execute(
            "CREATE TABLE readings (id INTEGER PRIMARY KEY, device TEXT, "
            "sequence INTEGER, received_ms INTEGER, envelope BLOB) STRICT"
        )
        begin_s, begin_cpu_s = time.perf_counter(), time.process_time()
        while time.perf_counter() - begin_s < seconds:
            batch = messages[place : place + BATCH]
            place = (place + BATCH) % len(messages)
            now_ms = time.time_ns() // 1_000_000
            with connection:
                for one in batch:
                    one.key.verify(one.signature, one.message)
                    connection.execute(
                        "INSERT INTO readings (device, sequence, received_ms, "
                        "envelope) VALUES (?, ?, ?, ?)",
                        (one.device, one.sequence, now_ms, one.envelope),
                    )
            count += len(batch)
        elapsed_s = time.perf_counter() - begin_s
        spent_s = time.process_time() - begin_cpu_s
    return count / elapsed_s, spent_s / count * 1000


def free_port() -> int:
    """A port of loopback that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for_port(port: int, process: subprocess.Popen[bytes]) -> None:
    """Return once something listens there; RuntimeError where the process ends."""
    deadline_s = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline_s:
        if process.poll() is not None:
            raise RuntimeError(f"{process.args!r} ended with {process.returncode}")
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.02)
    raise TimeoutError(f"{process.args!r}: nothing listens on port {port}")


def mosquitto_path() -> str | None:
    """Debian puts it where users do not look."""
    return shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin")


@contextmanager
def mosquitto(program: str, directory: Path) -> Iterator[tuple[int, int]]:
    """(port, process id) of a broker on loopback with its default settings."""
    port = free_port()
    configuration = directory / "mosquitto.conf"
    configuration.write_text(f"listener {port} 127.0.0.1\nallow_anonymous true\n")
    process = subprocess.Popen(
        [program, "-c", str(configuration)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_for_port(port, process)
        yield port, process.pid
    finally:
        process.terminate()
        process.wait(START_TIMEOUT_S)
