"""The simulated ward, a process of its own: `python -m firmware_sim.ward`.

It speaks JSON lines on stdout and takes commands, one a line, on stdin:

    → {"event": "ready", "manifest": ".../manifest.json"}    keys made, HCI served
    ← start                                                  connect and send
    → {"event": "progress", "sent": .., "acknowledged": .., "in_flight": .., ...}
    ← stop          (or end of input, SIGTERM, SIGINT)
    → {"event": "final", "sent": .., "acknowledged": .., "ble_sent": .., "bad": {..}}

`sent` counts QoS 1 messages handed to an MQTT client, once each, good and bad;
`acknowledged` their PUBACKs, whatever the reason code; `resent` what was handed over
again after a lost connection; `ble_sent` the values sent to subscribed centrals. After
stop nothing new is sent, and outstanding acknowledgements are awaited for up to 30 s.

Bed 1 desaturates, 2 replays a recorded patient, 3 has a hypertensive cuff reading, 4
sends pairs and backlogs over MQTT 5, 5 has an unsigned thermometer, 6 a tachycardia, 7
and 8 are BLE (a strap and an oximeter each); more beds are healthy MQTT beds. Without
--hci there is no radio, and the BLE devices are left out of the manifest.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import sys
import threading
from collections import Counter
from collections.abc import Coroutine
from pathlib import Path
from typing import TYPE_CHECKING

import aiomqtt

from firmware_sim import patients, recording
from firmware_sim.beds import BEDS_MAX, MODELLED_BEDS, Bed, SignedStream
from firmware_sim.intruder import KINDS, STREAM, Intruder, Overheard
from firmware_sim.mqtt_device import MqttDevice, Tally
from firmware_sim.patients import Patient
from firmware_sim.state import StateError, WardState, replace_file

if TYPE_CHECKING:
    from firmware_sim.ble import BleDevice
    from firmware_sim.hci_server import HciServer

ACKNOWLEDGE_WAIT_S = 30.0
PROGRESS_PERIOD_S = 1.0
RADIO_LINGER_S = 0.3  # what was notified last shall reach the host before we go
INTRUDER = "ward-intruder"
READ_SIZE = 4096


def ble_beds(count: int) -> tuple[int, ...]:
    """Which of `count` beds are BLE: 7 and 8, or the last of a smaller ward."""
    if count >= MODELLED_BEDS:
        return (MODELLED_BEDS - 1, MODELLED_BEDS)
    return (count,) if count >= 2 else ()


class Ward:
    """All devices of the ward and what they count."""

    def __init__(
        self,
        state_directory: Path,
        beds: int,
        seed: int,
        speed: float,
        mqtt: tuple[str, int],
        hci: tuple[str, int] | None,
    ) -> None:
        self.tally = Tally()
        self._directory = state_directory
        self._seed = seed
        self._speed = speed
        self._mqtt = mqtt
        self._hci = hci
        self._ble_beds = ble_beds(beds) if hci else ()
        self._mqtt_beds = tuple(
            bed for bed in range(1, beds + 1) if bed not in ble_beds(beds)
        )
        self._recording = _recording()
        self._links: dict[str, MqttDevice] = {}
        self._jobs: list[Coroutine[object, object, None]] = []
        self._ble: list[BleDevice] = []
        self._adapter: HciServer | None = None
        self._overheard = Overheard()
        self._state = WardState(state_directory)
        self._state.enrol([_monitor(bed) for bed in self._mqtt_beds])
        self._manifest: list[dict[str, object]] = []

    async def prepare(self) -> Path:
        """Make every device, serve the radio, write the manifest; returns its path."""
        for number in self._mqtt_beds:
            self._add_mqtt_bed(number)
        victim = _monitor(1)
        intruder = Intruder(
            self._connect(INTRUDER, aiomqtt.ProtocolVersion.V5),
            victim,
            self._state.signer(victim),
            self._overheard,
        )
        self._jobs.append(intruder.run())
        if self._hci is not None:
            await self._add_ble(self._hci)
        manifest = {
            "devices": self._manifest,
            "expected_refused": True,
            "recording": self._recording is not None and 2 in self._mqtt_beds,
        }
        path = self._directory / "manifest.json"
        replace_file(path, json.dumps(manifest, indent=1).encode())
        return path.resolve()

    def _connect(self, name: str, version: aiomqtt.ProtocolVersion) -> MqttDevice:
        link = MqttDevice(
            name,
            self._mqtt,
            self.tally,
            version=version,
            on_acknowledged=self._overheard.hear if name == _monitor(1) else None,
        )
        self._links[name] = link
        return link

    def _add_mqtt_bed(self, number: int) -> None:
        name = _monitor(number)
        v311, v5 = aiomqtt.ProtocolVersion.V311, aiomqtt.ProtocolVersion.V5
        device = self._connect(name, v5 if number == 4 else v311)
        signer = self._state.signer(name)
        monitor = SignedStream(device, signer, self._state, STREAM)
        cuff = SignedStream(device, signer, self._state, "nibp")
        self._enter(number, name, "signed", public_key=signer.public_key.hex())
        bed = Bed(number, Patient(self._seed, number), monitor, self._speed)
        if number == 2 and self._recording is not None:
            self._jobs.append(bed.run_recording(self._recording, cuff))
            return
        if number == 4:
            self._jobs += [bed.run_pairs(), bed.run_backlog()]
            return
        overlay = {1: patients.desaturation, 6: patients.tachycardia}
        self._jobs.append(bed.run_monitor(overlay.get(number, patients.healthy)))
        if number == 3:
            self._jobs.append(bed.run_cuff(cuff))
        if number == 5:
            thermometer = self._connect("bed-5-thermometer", v5)
            self._enter(number, thermometer.name, "unsigned")
            self._jobs.append(bed.run_thermometer(thermometer))

    def _enter(self, bed: int, device: str, kind: str, **more: str) -> None:
        self._manifest.append(
            {"device": device, "patient": f"bed-{bed}", "kind": kind, **more}
        )

    async def _add_ble(self, address: tuple[str, int]) -> None:
        # Bumble takes a second to import: only a ward with a radio pays for it.
        from bumble.link import LocalLink  # noqa: PLC0415

        from firmware_sim.ble import (  # noqa: PLC0415
            HeartRateStrap,
            Peripheral,
            PulseOximeter,
            static_address,
        )
        from firmware_sim.hci_server import HciServer  # noqa: PLC0415

        link = LocalLink()

        def peripheral(name: str) -> Peripheral:
            return Peripheral(name, static_address(self._seed, name), link)

        for bed in self._ble_beds:
            patient = Patient(self._seed, bed)
            last = bed == self._ble_beds[-1]
            self._ble += [
                HeartRateStrap(
                    peripheral(f"bed-{bed}-heart"), patient, battery=last, slips=last
                ),
                PulseOximeter(peripheral(f"bed-{bed}-oximeter"), patient, status=last),
            ]
            for device in self._ble[-2:]:
                worn = device.peripheral
                self._enter(bed, worn.name, "ble", address=worn.address)
        for device in self._ble:
            await device.peripheral.start()
            self._jobs.append(device.run(self._speed))
        self._adapter = HciServer(link)
        await self._adapter.start(*address)

    async def run(self, stop: asyncio.Event) -> None:
        """Send until `stop`, then wait for the outstanding acknowledgements."""
        async with asyncio.TaskGroup() as group:
            links = [
                group.create_task(link.run(), name=name)
                for name, link in self._links.items()
            ]
            sending = [group.create_task(job) for job in self._jobs]
            self._jobs = []
            progress = group.create_task(self._report())
            await stop.wait()
            for task in sending:
                task.cancel()
            await asyncio.wait(sending)
            for name, link in self._links.items():
                unsent = link.drain()
                if unsent is not None and unsent.sequence is not None:
                    self._state.give_back(name, unsent.sequence)
            await asyncio.wait(links, timeout=ACKNOWLEDGE_WAIT_S)
            if self._ble:
                await asyncio.sleep(RADIO_LINGER_S)
            for link in self._links.values():
                link.abandon()
            for task in (*links, progress):
                task.cancel()

    async def _report(self) -> None:
        while True:
            await asyncio.sleep(PROGRESS_PERIOD_S)
            say({"event": "progress", **self._counts()})

    def _counts(self) -> dict[str, object]:
        tally = self.tally
        ble: Counter[str] = Counter()
        for device in self._ble:
            ble.update(device.peripheral.sent)
        return {
            "sent": tally.sent,
            "acknowledged": tally.acknowledged,
            "in_flight": tally.in_flight,
            "resent": tally.resent,
            "dropped": tally.dropped,
            "ble_sent": ble.total(),
            "ble": dict(sorted(ble.items())),
        }

    def final(self) -> dict[str, object]:
        """The last line: everything that was counted."""
        bad = {kind: self.tally.bad[kind] for kind in KINDS}
        return {
            "event": "final",
            **self._counts(),
            "unsent": self.tally.unsent,
            "bad": bad,
        }

    async def close(self) -> None:
        """Power everything off and keep the exact sequences."""
        for job in self._jobs:
            job.close()
        if self._adapter is not None:
            await self._adapter.close()
        for device in self._ble:
            await device.peripheral.stop()
        self._state.close()


def _monitor(bed: int) -> str:
    return f"bed-{bed}-monitor"


def _recording() -> list[recording.Minute] | None:
    try:
        return recording.load()
    except FileNotFoundError:  # an installed package: a modelled patient stands in
        return None


def say(event: dict[str, object]) -> None:
    """One JSON line on stdout, at once."""
    sys.stdout.write(json.dumps(event) + "\n")
    sys.stdout.flush()


def _listen(start: asyncio.Event, stop: asyncio.Event) -> None:
    """Turn lines on stdin into events, from a thread that may be left behind.

    os.read and not sys.stdin: no lock is held in it when the process ends, and it takes
    a file or /dev/null as well as a pipe.
    """
    loop = asyncio.get_running_loop()
    commands = {b"start": start, b"stop": stop}

    def read() -> None:
        rest = b""
        while chunk := os.read(sys.stdin.fileno(), READ_SIZE):
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                event = commands.get(line.strip())
                if event is None:
                    sys.stderr.write(f"ward: no such command: {line!r}\n")
                else:
                    loop.call_soon_threadsafe(event.set)
        loop.call_soon_threadsafe(stop.set)

    threading.Thread(target=read, name="commands", daemon=True).start()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)


async def _live(ward: Ward) -> None:
    start, stop = asyncio.Event(), asyncio.Event()
    try:
        manifest = await ward.prepare()
        _listen(start, stop)
        say({"event": "ready", "manifest": str(manifest)})
        waits = [asyncio.create_task(event.wait()) for event in (start, stop)]
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()
        if start.is_set():
            await ward.run(stop)
        say(ward.final())
    finally:
        await ward.close()


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not host or not port.isdigit() or int(port) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not HOST:PORT")
    return host.strip("[]"), int(port)


def _bed_count(text: str) -> int:
    if not text.isdigit() or not 1 <= int(text) <= BEDS_MAX:
        raise argparse.ArgumentTypeError(f"{text!r} is not 1 to {BEDS_MAX}")
    return int(text)


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= 1000:
        raise argparse.ArgumentTypeError(f"{text!r} is not above 0 and at most 1000")
    return value


def main(arguments: list[str] | None = None) -> int:
    """The command: 0 when the final line was printed, 2 when it could not start."""
    parser = argparse.ArgumentParser(
        prog="python -m firmware_sim.ward", description="a simulated ward"
    )
    parser.add_argument("--state", type=Path, required=True, metavar="DIR")
    parser.add_argument("--beds", type=_bed_count, default=MODELLED_BEDS)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--speed", type=_positive, default=1.0)
    parser.add_argument("--mqtt", type=_address, required=True, metavar="HOST:PORT")
    parser.add_argument("--hci", type=_address, metavar="HOST:PORT")
    options = parser.parse_args(arguments)
    try:
        ward = Ward(
            options.state,
            options.beds,
            options.seed,
            options.speed,
            options.mqtt,
            options.hci,
        )
        asyncio.run(_live(ward))
    except (StateError, OSError) as error:
        sys.stderr.write(f"ward: {error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
