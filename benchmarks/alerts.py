"""From publish to alert: `python benchmarks/alerts.py [--devices 500] [--seconds 30]`.

A gateway in a process of its own with fifty rules, all evaluated at each reading, under
signed readings of one a second from each device. Beside them one more device publishes
a value that is an alarm at once, and one that ends it, and a viewer on MQTT takes the
time until the alert is there. Prints the times, and beside each of the slowest how late
a thread that only sleeps was woken meanwhile: what the machine did to everybody. The
ledger is verified at the end.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import threading
import time
from pathlib import Path

import contracts
import paho.mqtt.client as mqtt
import report
from mqtt_load import Phase
from paho.mqtt.enums import CallbackAPIVersion
from served import PREFIX, Gateway, Load, running

from edge import control
from edge.store.vault import ACCESS_TOKEN

PROBE = "probe"
PACE_S, PATIENCE_S = 0.4, 30
NAP_S = 0.005  # of the thread that only sleeps
SLOWEST_COUNT = 5
ALARM = {
    "at-once": 'contract = "at-once"\nversion = 1\nengine = "rules/1"\n'
    'subject = "device"\n[inputs]\nweight = { unit = "kg", fresh = "1h" }\n'
    '[rules.heavy]\npriority = "high"\nwhen = "weight > 200"\n'
}


class Sleeper(threading.Thread):
    """Knows how late this machine wakes up somebody who asks for nothing else."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self._late: list[tuple[float, float]] = []  # when, ms

    def run(self) -> None:
        """Sleep for ever."""
        while True:
            began = time.perf_counter()
            time.sleep(NAP_S)
            now = time.perf_counter()
            self._late.append((now, (now - began - NAP_S) * 1000))

    def most(self, since: float, until: float) -> float:
        """The most ms that it was late in a time, naps that end right after too."""
        time.sleep(2 * NAP_S)
        found = [late for at, late in self._late if since <= at <= until + NAP_S]
        return max(found, default=0.0)


def probe(gateway: Gateway, seconds: float) -> list[tuple[float, float]]:
    """From each publish to its alert, and how late the sleeper was meanwhile; in ms."""
    taken: list[tuple[float, float]] = []
    sleeper = Sleeper()
    sleeper.start()
    arrived = threading.Event()
    viewer = mqtt.Client(CallbackAPIVersion.VERSION2)
    token = gateway.directory / "keys" / ACCESS_TOKEN
    viewer.username_pw_set("viewer", token.read_text().strip())
    viewer.on_message = lambda *_: arrived.set()
    sender = mqtt.Client(CallbackAPIVersion.VERSION2)
    for client in (viewer, sender):
        client.connect("127.0.0.1", gateway.port)
        client.loop_start()
    time.sleep(0.5)
    viewer.subscribe("iomt/v1/alerts/high/at-once", 1)
    time.sleep(0.5)
    ends = time.monotonic() + seconds
    weight = 250
    while time.monotonic() < ends:
        body = json.dumps([{"n": "weight", "u": "kg", "v": weight}])
        arrived.clear()
        began = time.perf_counter()
        sender.publish(f"iomt/v1/{PROBE}/scale", body, qos=1)
        if not arrived.wait(PATIENCE_S):
            raise RuntimeError("an alert did not come")
        ended = time.perf_counter()
        taken.append(((ended - began) * 1000, sleeper.most(began, ended)))
        weight = 300 - weight
        time.sleep(PACE_S)
    for client in (viewer, sender):
        client.loop_stop()
        client.disconnect()
    return taken


def main() -> None:
    """Measure once, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--devices", type=int, default=500)
    parser.add_argument("--seconds", type=float, default=30.0)
    options = parser.parse_args()
    parent = Path(tempfile.gettempdir())
    load = Load()
    try:
        with running(parent, {**contracts.texts(), **ALARM}) as gateway:
            gateway.enrol(options.devices)
            adding = {"name": PROBE, "kind": "unsigned"}
            control.call(gateway.directory, "device-add", adding)
            span_s = options.seconds + 6
            phase = Phase(
                *(gateway.port, gateway.pid, PREFIX, options.devices, span_s, 2.0),
                rate_per_s=float(options.devices),
            )
            loading = threading.Thread(target=load.run, args=(phase,))
            loading.start()
            time.sleep(4)
            taken = probe(gateway, options.seconds)
            loading.join()
    finally:
        load.close()
    times = [one for one, _ in taken]
    p50, p99 = report.percentile(times, 50), report.percentile(times, 99)
    print("\n".join(report.machine(parent)))
    print(
        f"\npublish to MQTT alert at {options.devices} × 1 Hz with 51 rules: "
        f"p50 {p50:.1f} ms, p99 {p99:.1f} ms, most {max(times):.1f} ms, of {len(times)}"
    )
    slowest = sorted(taken, reverse=True)[:SLOWEST_COUNT]
    shown = ", ".join(f"{one:.0f} ({late:.0f})" for one, late in slowest)
    print(f"the slowest, and how late a sleeper was meanwhile: {shown} ms")


if __name__ == "__main__":
    main()
