"""From publish to alert: `python benchmarks/alerts.py [--devices 500] [--seconds 30]`.

A gateway in a process of its own with fifty rules, all evaluated at each reading, under
signed readings of one a second from each device. Beside them one more device publishes
a value that is an alarm at once, and one that ends it, and a viewer on MQTT takes the
time until the alert is there. Prints one line; the ledger is verified at the end.
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
PACE_S = 0.4
ALARM = {
    "at-once": 'contract = "at-once"\nversion = 1\nengine = "rules/1"\n'
    'subject = "device"\n[inputs]\nweight = { unit = "kg", fresh = "1h" }\n'
    '[rules.heavy]\npriority = "high"\nwhen = "weight > 200"\n'
}


def probe(gateway: Gateway, seconds: float) -> list[float]:
    """Milliseconds from each publish to its alert."""
    taken: list[float] = []
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
        if not arrived.wait(5):
            raise RuntimeError("an alert did not come")
        taken.append((time.perf_counter() - began) * 1000)
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
    p50, p99 = report.percentile(taken, 50), report.percentile(taken, 99)
    print("\n".join(report.machine(parent)))
    print(
        f"\npublish to MQTT alert at {options.devices} × 1 Hz with 51 rules: "
        f"p50 {p50:.1f} ms, p99 {p99:.1f} ms, most {max(taken):.1f} ms, of {len(taken)}"
    )


if __name__ == "__main__":
    main()
