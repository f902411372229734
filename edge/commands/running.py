"""`iomt init`, `iomt run`, `iomt demo`."""

from __future__ import annotations

import argparse
import asyncio
import gc
import logging
import signal
from pathlib import Path

from edge.commands.place import Commands

# Objects that are made before the collector looks at the young ones. Python's 700 have
# it look every few messages at all that wait for their commit. A few MB at the most.
YOUNG_COUNT = 20_000


def add_to(commands: Commands) -> None:
    """Add this file's commands to the parser."""
    one = commands.add_parser("init", help="write a configuration and the keys")
    one.add_argument("directory", metavar="DIR", type=Path)
    one.add_argument("--origin", default="clinic.example/ward", help="the log's name")
    one.set_defaults(run=_init)

    one = commands.add_parser("run", help="run the gateway")
    one.add_argument("--config", metavar="FILE", type=Path, required=True)
    one.set_defaults(run=_run)

    one = commands.add_parser("demo", help="run a simulated ward against a gateway")
    one.add_argument("--data", metavar="DIR", type=Path, help="keep everything here")
    one.add_argument("--seconds", type=float, help="stop after this time")
    one.add_argument("--speed", type=float, default=1.0, help="samples per second")
    one.add_argument("--beds", type=int, default=8)
    one.add_argument("--headless", action="store_true", help="no live table")
    one.set_defaults(run=_demo)


def _init(options: argparse.Namespace) -> int:
    from edge.init import initialise  # noqa: PLC0415

    directory: Path = options.directory
    file = initialise(directory, options.origin)
    print(f"""wrote {file}, the keys in {directory}/data/keys (keep a copy of log.key
and master.key apart) and example contracts in {directory}/contracts.

Next:
  1. read {file} and the thresholds in {directory}/contracts
  2. iomt run --config {file}
  3. in another terminal:
     iomt device add thermometer-1 --unsigned --config {file}
     iomt patient add P-1 --config {file}
     iomt device assign thermometer-1 --patient P-1 --config {file}""")
    return 0


def _run(options: argparse.Namespace) -> int:
    from edge import config, gateway  # noqa: PLC0415

    settings = config.load(options.config)

    def ready(running: gateway.Running) -> None:
        doors = [
            f"{name} {config.Address(place.host, port)}"  # port 0 took a free one
            for name, place, port in (
                ("MQTT", settings.mqtt, running.mqtt_port),
                ("web", settings.web, running.web_port),
            )
            if place is not None and port is not None
        ]
        if settings.ble_adapter is not None:
            doors.append(f"BLE {settings.ble_adapter}")
        logging.getLogger("edge").info(
            "%s is ready: %s; %d entries",
            settings.origin,
            ", ".join(doors) or "no door",
            running.core.intake.tree_size,
        )
        _ease_collector()

    async def serve() -> None:
        stop = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        await gateway.run(settings, stop, ready)

    asyncio.run(serve())
    return 0


def _ease_collector() -> None:
    """Have the garbage collector pass over what the start has made: it stays.

    Messages make no cycles of objects, but they make it look. A signed reading takes a
    fourteenth less CPU time so (benchmarks/gateway.py, 100 connections, window 20).
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG_COUNT, *gc.get_threshold()[1:])


def _demo(options: argparse.Namespace) -> int:
    from edge import demo  # noqa: PLC0415

    return demo.main(
        options.data,
        seconds=options.seconds,
        speed=options.speed,
        beds=options.beds,
        headless=options.headless,
    )
