"""A sensor of another maker, from its own topic to the ledger."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from fronts import front
from mqtt_fakes import Peer, both
from workbench import SignedDevice, reader_of, trusted_clock

from edge.devices.mapped import Field, Mapping, Rule
from edge.devices.originals import readings_of
from edge.model import Kind
from edge.sources.mqtt_packets import V5, Puback, Publish
from edge.store.reading_rows import reading_rows

TOPIC = "zigbee2mqtt/thermometer"
RULE = Rule((Field("ambient_temperature", "temperature", "[degF]"),), "at", "ms")
MAPPINGS = (Mapping("zigbee2mqtt/{device}", "room", RULE.encode()),)


@both
async def test_a_sensor_that_knows_nothing_of_us_is_read_by_the_configuration(
    version: int, tmp_path: Path
) -> None:
    settings = replace(trusted_clock(tmp_path), mappings=MAPPINGS)
    async with front(settings) as gateway, Peer(gateway, version) as peer:
        await gateway.enrol(SignedDevice("monitor"))
        now_ms = gateway.running.core.intake.now_ms()
        await peer.connect(user=None)
        payload = json.dumps({"temperature": 71.6, "at": now_ms, "lqi": 9}).encode()
        for i in (1, 2):  # the second is a repetition, for it bears a time
            peer.write(Publish(TOPIC, payload, 1, i))
            assert await peer.receive() == Puback(i)
        totals = dict(gateway.running.core.intake.totals)
    assert (totals["committed"], totals["duplicates"]) == (1, 1)
    [stored] = [
        one for one in reader_of(settings).records() if one.record.kind is Kind.READING
    ]
    [row] = reading_rows(stored)
    assert row["metrics"] == {"ambient_temperature": 22}
    assert (row["device"], row["stream"]) == ("thermometer", "room")
    assert payload in stored.record.original
    # Another configuration changes nothing of what was entered.
    unmapped = replace(settings, mappings=())
    async with front(unmapped) as gateway, Peer(gateway, V5) as peer:
        await peer.connect(user=None)
        peer.write(Publish(TOPIC, payload, 1, 1))
        answer = await peer.receive()
        assert isinstance(answer, Puback)
        assert answer.code == 0x90
    assert readings_of(stored.record).readings[0].time_ms == now_ms


async def test_a_device_that_signs_is_not_mapped(tmp_path: Path) -> None:
    settings = replace(trusted_clock(tmp_path), mappings=MAPPINGS)
    async with front(settings) as gateway, Peer(gateway, V5) as peer:
        await gateway.enrol(SignedDevice("monitor"))
        await peer.connect(user=None)
        peer.write(Publish("zigbee2mqtt/monitor", b'{"temperature": 71.6}', 1, 1))
        answer = await peer.receive()
        assert isinstance(answer, Puback)
        assert answer.code == 0x87
