"""`iomt demo`: a simulated ward against a real gateway, checked at the end.

    ward (own process) ──MQTT, HCI over TCP on loopback──► gateway (this process)
      └─ JSON lines: ready, progress, final ◄──► "start", "stop"

At the end the demo believes neither side alone: what the ward says it sent and got
acknowledged is compared with what the store says it received and committed, and the
exported ledger is checked by `iomt verify` in a process of its own. The last line of
the output is JSON; the exit status is 0 only if all of it holds.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import json
import logging
import shutil
import signal
import socket
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.box import SIMPLE
from rich.console import Console
from rich.live import Live as LiveTable
from rich.table import Table

from edge import config, gateway
from edge.config import Settings
from edge.errors import ConfigurationError, GatewayError
from edge.init import CONFIG_NAME, initialise
from edge.ledger import core
from edge.ledger.note import Verifier
from edge.store.database import lock_directory
from edge.store.reader import Reader
from edge.store.vault import load_keys
from edge.web.table import WardTable

ORIGIN = "demo.example/ward"
MQTT_PORT, WEB_PORT = 1883, 8080
BEDS_MAX = 100
FRAME_INTERVAL_S = 0.5
HEADLESS_INTERVAL_S = 5.0
WARD_READY_S, WARD_END_S = 60.0, 60.0
LINE_SIZE_MAX = 1 << 20

log = logging.getLogger("edge.demo")

_CONFIGURATION = """\
# Made by `iomt demo`: everything on loopback, the radio a virtual one.
[gateway]
origin = "{origin}"
data   = "data"
[mqtt]
listen = "127.0.0.1:{mqtt_port}"
[ble]
enabled = true
adapter = "hci-tcp:127.0.0.1:{hci_port}"
[web]
listen = "127.0.0.1:{web_port}"
[contracts]
directory = "contracts"
"""


@dataclass(slots=True)
class _Ward:
    """The ward's process, and what it said last."""

    process: asyncio.subprocess.Process
    manifest: dict[str, Any] = field(default_factory=dict)
    progress: dict[str, Any] = field(default_factory=dict)
    final: dict[str, Any] = field(default_factory=dict)

    async def read(self) -> dict[str, Any] | None:
        """The next event, None at the end of its output."""
        stream = self.process.stdout
        line = await stream.readline() if stream is not None else b""
        if not line:
            return None
        event: dict[str, Any] = json.loads(line)
        if event.get("event") == "progress":
            self.progress = event
        elif event.get("event") == "final":
            self.final = event
        return event

    def say(self, word: str) -> None:
        """A command to the ward."""
        stream = self.process.stdin
        if stream is not None and not stream.is_closing():
            stream.write(f"{word}\n".encode())


def main(
    directory: Path | None,
    *,
    seconds: float | None = None,
    speed: float = 1.0,
    beds: int = 8,
    headless: bool = False,
) -> int:
    """Run the demo; 0 if it adds up, 1 if not."""
    problems = []
    if seconds is not None and seconds <= 0:
        problems.append("--seconds: must be above 0")
    if not 0 < speed <= 1000:
        problems.append("--speed: must be above 0 and at most 1000")
    if not 1 <= beds <= BEDS_MAX:
        problems.append(f"--beds: must be 1 to {BEDS_MAX}")
    for module, package in (("bumble", "bumble"), ("aiomqtt", "aiomqtt")):
        if importlib.util.find_spec(module) is None:
            problems.append(
                f"{package} is not installed: pip install 'iomt-edge-gateway[demo]'"
            )
    if problems:
        raise ConfigurationError(problems)
    temporary = directory is None
    top = directory or Path(tempfile.mkdtemp(prefix="iomt-demo-"))
    logging.getLogger("bumble").setLevel(logging.CRITICAL)  # we say it in our words
    if headless or not sys.stdout.isatty():
        headless = True
        logging.getLogger("edge").setLevel(logging.WARNING)
    else:  # the table has the terminal; the log goes beside the data
        _log_to(top / "gateway.log")
    try:
        demo = _Demo(top, seconds, speed, beds, headless=headless)
        return asyncio.run(demo.run())
    finally:
        if temporary:
            shutil.rmtree(top, ignore_errors=True)


def _log_to(file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    root = logging.getLogger()
    for handler in list(root.handlers):
        root.removeHandler(handler)
    handler = logging.FileHandler(file)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    root.addHandler(handler)


def _manifest(path: str) -> dict[str, Any]:
    manifest: dict[str, Any] = json.loads(Path(path).read_text())
    return manifest


def _free_port(preferred: int) -> int:
    """The preferred port on loopback if it is free, otherwise any."""
    for port in (preferred, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with contextlib.suppress(OSError):
                probe.bind(("127.0.0.1", port))
                return int(probe.getsockname()[1])
    raise ConfigurationError(["no free port on loopback"])


class _Demo:
    def __init__(
        self,
        directory: Path,
        seconds: float | None,
        speed: float,
        beds: int,
        *,
        headless: bool,
    ) -> None:
        self._top = directory
        self._seconds = seconds
        self._speed = speed
        self._beds = beds
        self._headless = headless
        self._console = Console()
        self._alerts = 0

    async def run(self) -> int:
        """Set up, run until the end, check; the exit status."""
        settings = self._settings()
        before = self._counters(settings)
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop.set)
        ward = await self._start_ward(settings)
        gateway_stop = asyncio.Event()
        ready: asyncio.Future[gateway.Running] = loop.create_future()
        running = asyncio.create_task(
            gateway.run(settings, gateway_stop, ready.set_result)
        )
        try:
            either: list[asyncio.Future[Any]] = [running, ready]
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if not ready.done():
                await running  # raises why it did not start
            await self._show(ready.result(), ward, running, stop)
            await self._end_ward(ward)
        finally:
            if ward.process.returncode is None:
                ward.process.kill()
            await ward.process.wait()
            gateway_stop.set()
            await running
        return await self._conclude(settings, before, ward)

    def _settings(self) -> Settings:
        """The directory's configuration, with ports that are free now."""
        text = _CONFIGURATION.format(
            origin=ORIGIN,
            mqtt_port=self._port("MQTT", MQTT_PORT),
            hci_port=_free_port(0),
            web_port=self._port("the page", WEB_PORT),
        )
        file = self._top / CONFIG_NAME
        if not file.exists():
            initialise(self._top, ORIGIN, text)
        elif ORIGIN not in file.read_text():
            raise ConfigurationError([f"{file}: not made by `iomt demo`"])
        else:
            with lock_directory(self._top / "data"):  # not under a demo that runs
                file.write_text(text)
        return config.load(file)

    def _port(self, door: str, preferred: int) -> int:
        port = _free_port(preferred)
        if port != preferred:
            self._console.print(f"port {preferred} is taken: {door} is on {port}")
        return port

    def _counters(self, settings: Settings) -> Counter[str]:
        if not (settings.directory / "gateway.db").exists():
            return Counter()
        reader = self._reader(settings)
        try:
            return reader.counters()
        finally:
            reader.close()

    def _reader(self, settings: Settings) -> Reader:
        return Reader(settings.directory, load_keys(settings.keys).master)

    # ---- The ward ----

    async def _start_ward(self, settings: Settings) -> _Ward:
        state = self._top / "ward"
        adapter = settings.ble_adapter or ""
        words = [sys.executable, "-m", "firmware_sim.ward", "--state", str(state)]
        words += ["--beds", str(self._beds), "--speed", str(self._speed)]
        words += ["--mqtt", str(settings.mqtt)]
        words += ["--hci", adapter.removeprefix("hci-tcp:")]
        process = await asyncio.create_subprocess_exec(
            *words,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=LINE_SIZE_MAX,
            start_new_session=True,  # Ctrl-C is for us: we stop the ward in order
        )
        ward = _Ward(process)
        async with asyncio.timeout(WARD_READY_S):
            while (event := await ward.read()) is not None:
                if event.get("event") == "ready":
                    ward.manifest = _manifest(event["manifest"])
                    return ward
        raise GatewayError("the ward's process ended before it was ready")

    async def _enrol(self, running: gateway.Running, ward: _Ward) -> None:
        """Enrol the ward's devices as an administrator would."""
        administration = running.core.administration
        registry = running.core.registry
        patients = {name for _, name in running.core.reader.patients().values()}
        for one in ward.manifest["devices"]:
            patient, name = one.get("patient"), one["device"]
            if patient and patient not in patients:
                await administration.add_patient(patient)
                patients.add(patient)
            if registry.find(name) is None:
                await administration.add_device(
                    name, one["kind"], one.get("public_key"), one.get("address")
                )
                if patient:
                    await administration.assign_device(name, patient)

    async def _end_ward(self, ward: _Ward) -> None:
        # With the ward its virtual controller goes: no news worth a warning.
        logging.getLogger("edge.gateway").setLevel(logging.ERROR)
        ward.say("stop")
        try:
            async with asyncio.timeout(WARD_END_S):
                while not ward.final and await ward.read() is not None:
                    pass
        except TimeoutError:
            log.error("the ward did not end in time")

    # ---- While it runs ----

    async def _show(
        self,
        running: gateway.Running,
        ward: _Ward,
        gateway_task: asyncio.Task[None],
        stop: asyncio.Event,
    ) -> None:
        await self._enrol(running, ward)
        running.core.intake.on_commit.append(self._count_alerts)
        ward.say("start")
        self._console.print(
            f"[bold]page[/] http://127.0.0.1:{running.web_port}   "
            f"[bold]MQTT[/] 127.0.0.1:{running.mqtt_port}   "
            f"[bold]data[/] {self._top}   "
            + ("" if self._seconds else "Ctrl-C ends and checks")
        )
        events = asyncio.create_task(self._read_events(ward))
        stopping = asyncio.create_task(stop.wait())
        watched = {events, stopping, gateway_task}
        try:
            async with asyncio.timeout(self._seconds):
                if self._headless:
                    await self._print_lines(running, ward, watched)
                else:
                    await self._draw_table(running, watched)
        except TimeoutError:
            pass
        finally:
            for task in (events, stopping):
                task.cancel()
            await asyncio.gather(events, stopping, return_exceptions=True)

    async def _read_events(self, ward: _Ward) -> None:
        while await ward.read() is not None:
            pass

    def _count_alerts(self, report: Any) -> None:
        started = [one for one in report.firings if one.firing.phase == "start"]
        self._alerts += len(started)
        if self._headless:
            for one in started:
                self._console.print(
                    f"alert {one.firing.priority}: {one.patient or one.device} "
                    f"{one.firing.contract}/{one.firing.rule}",
                    highlight=False,
                )

    async def _draw_table(
        self, running: gateway.Running, watched: set[asyncio.Task[Any]]
    ) -> None:
        table = WardTable(running.live.snapshot)
        with LiveTable(table, console=self._console, auto_refresh=False) as screen:
            while not any(task.done() for task in watched):
                screen.refresh()
                await asyncio.wait(watched, timeout=FRAME_INTERVAL_S)

    async def _print_lines(
        self,
        running: gateway.Running,
        ward: _Ward,
        watched: set[asyncio.Task[Any]],
    ) -> None:
        while True:
            await asyncio.wait(
                watched,
                timeout=HEADLESS_INTERVAL_S,
                return_when=asyncio.FIRST_COMPLETED,
            )
            totals = running.core.intake.totals
            self._console.print(
                f"sent {ward.progress.get('sent', 0)}  "
                f"committed {totals['committed']}  refused {totals['refused']}  "
                f"alerts {self._alerts}  entries {running.core.intake.tree_size}",
                highlight=False,
            )
            if any(task.done() for task in watched):
                return

    # ---- The end ----

    async def _conclude(
        self, settings: Settings, before: Counter[str], ward: _Ward
    ) -> int:
        """Compare the two sides, verify the exported ledger, print the result."""
        reader = self._reader(settings)
        try:
            counted = Counter(reader.counters())
            counted.subtract(before)
            exported = self._top / "ledger-export"
            shutil.rmtree(exported, ignore_errors=True)
            tree_size = reader.export(exported)
        finally:
            reader.close()
        seed = load_keys(settings.keys).log_seed
        vkey = Verifier(settings.origin, core.public_key(seed)).vkey
        verified = await self._verify(exported, vkey)
        result = {
            "sent": ward.final.get("sent", -1),
            "acknowledged": ward.final.get("acknowledged", -1),
            "received": counted["mqtt.received"],
            "committed": counted["mqtt.committed"],
            "duplicates": counted["mqtt.duplicates"],
            "refused": counted["mqtt.refused"],
            "resent": ward.final.get("resent", 0),
            "ble": {
                "sent": ward.final.get("ble_sent", -1),
                "received": counted["ble.received"],
                "committed": counted["ble.committed"],
                "duplicates": counted["ble.duplicates"],
                "refused": counted["ble.refused"],
            },
            "alerts": self._alerts,
            "tree_size": tree_size,
            "verified": verified,
        }
        self._console.print(_summary(result))
        faults = _faults(result, counted, ward.manifest)
        for fault in faults:
            self._console.print(f"[bold red]does not hold:[/] {fault}")
        self._console.print(
            "everything adds up" if not faults else "the demo FAILED", style="bold"
        )
        print(json.dumps(result), flush=True)
        return 1 if faults else 0

    async def _verify(self, exported: Path, vkey: str) -> bool:
        words = [sys.executable, "-m", "edge", "verify", str(exported), "--vkey", vkey]
        process = await asyncio.create_subprocess_exec(
            *words, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
        )
        output, _ = await process.communicate()
        self._console.print("iomt verify, in a process of its own:")
        self._console.print(output.decode().rstrip(), highlight=False, markup=False)
        return process.returncode == 0


def _summary(result: dict[str, Any]) -> Table:
    """Both sides' counts beside each other."""
    table = Table(box=SIMPLE, pad_edge=False)
    for name in ("", "sent", "acknowledged", "received"):
        table.add_column(name, justify="right" if name else "left")
    for name in ("committed", "duplicates", "refused"):
        table.add_column(name, justify="right")
    for door, one in (("MQTT", result), ("BLE", result["ble"])):
        names = ("sent", "acknowledged", "received", "committed", "duplicates")
        cells = [str(one.get(name, "-")) for name in (*names, "refused")]
        table.add_row(door, *cells)
    return table


def _faults(
    result: dict[str, Any], counted: Counter[str], manifest: dict[str, Any]
) -> list[str]:
    """What does not hold, in words."""
    faults = []
    for name, one in (("MQTT", result), ("BLE", result["ble"])):
        parts = one["committed"] + one["duplicates"] + one["refused"]
        if one["received"] != parts:
            faults.append(f"{name}: received {one['received']} is not {parts}")
    if counted["received"] != counted["mqtt.received"] + counted["ble.received"]:
        faults.append("received is not the sum over the doors")
    if result["sent"] != result["acknowledged"]:
        faults.append(f"acknowledged {result['acknowledged']} of {result['sent']} sent")
    most = result["sent"] + result["resent"]
    if not result["sent"] <= result["received"] <= most:
        faults.append(f"received {result['received']} of {result['sent']} sent")
    if manifest.get("expected_refused") and not result["refused"]:
        faults.append("the bad senders were not refused")
    if not result["committed"]:
        faults.append("nothing was committed")
    if not result["verified"]:
        faults.append("the exported ledger does not verify")
    return faults
