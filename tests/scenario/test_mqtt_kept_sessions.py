"""Alerts reach who was away: sessions that outlive connections, restarts and kills."""

from __future__ import annotations

import asyncio
import json
import logging
import ssl
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Self

import apsw
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from fronts import COLD, FROST, WARM, Front, Place, front, temperature, with_frost
from mqtt_fakes import Peer, both, code_of_disconnect, expected
from processes import installed
from test_device_identity import do, keep, port_of, request_of, secure
from workbench import Mailbox, a_ward, make_gateway

from edge.delivery.feed import live_firing
from edge.delivery.sessions import SessionKeeper
from edge.gateway import open_core
from edge.sources.mqtt_listener import Limits, RateLimitedLog
from edge.sources.mqtt_packets import (
    V5,
    V311,
    Connack,
    Disconnect,
    Pingreq,
    Pingresp,
    Puback,
    Publish,
    Suback,
    Subscribe,
    Subscription,
    Unsubscribe,
)
from edge.sources.mqtt_properties import Code, Properties, Property
from edge.sources.mqtt_sessions import Sessions
from edge.store import firings, sessions
from edge.store.database import DATABASE_NAME, FRAME_BITS, rows
from edge.store.keys import Keys
from edge.store.vault import load_keys

TOPIC = "iomt/v1/alerts/high/frost"
KEPT: Properties = {Property.SESSION_EXPIRY_S: 600}
PUBLISHED = "iomt/v1/thermometer/vitals"


async def raise_alarms(at: Front | Place, count: int, first: int = 1) -> None:
    """So many alarms that begin or end, each in a commit of its own."""
    async with Peer(at, V5) as device:
        await device.connect(client_id="thermometer")
        for i in range(first, first + count):
            payload = temperature(COLD if i % 2 else WARM)
            device.write(Publish(PUBLISHED, payload, 1, i))
            assert await device.receive() == Puback(i)


async def hello(
    peer: Peer, token: str, properties: Properties | None = None, **more: object
) -> Connack:
    """CONNECT as the nurse's tablet, which wants its session kept."""
    if properties is None:
        properties = KEPT if peer.version == V5 else {}
    fields = {"client_id": "tablet", "user": "viewer", "clean_start": False} | more
    return await peer.connect(password=token.encode(), properties=properties, **fields)


async def follow(peer: Peer, qos: int = 1) -> None:
    peer.write(Subscribe(1, (Subscription("iomt/v1/alerts/#", qos),)))
    assert await peer.receive() == Suback(1, (qos,))


async def alert(peer: Peer, *, acknowledge: bool = True) -> tuple[str, bool, int]:
    """(phase, DUP, packet identifier) of the next alert."""
    packet = await peer.receive()
    assert isinstance(packet, Publish), packet
    assert packet.topic == TOPIC
    if acknowledge and packet.qos:
        peer.write(Puback(packet.packet_id))
    phase = json.loads(packet.payload)["phase"]
    return phase, packet.dup, packet.packet_id


@both
async def test_who_was_away_is_told_what_it_missed_and_again_what_it_had_not_confirmed(
    version: int, tmp_path: Path
) -> None:
    async with front(with_frost(tmp_path)) as gateway:
        await gateway.enrol()
        async with Peer(gateway, version) as tablet:
            assert not (await hello(tablet, gateway.token)).session_present
            await follow(tablet)
            await raise_alarms(gateway, 1)
            assert await alert(tablet, acknowledge=False) == ("start", False, 1)
        await raise_alarms(gateway, 2, first=2)
        async with Peer(gateway, version) as tablet:
            assert (await hello(tablet, gateway.token)).session_present
            assert await alert(tablet) == ("start", True, 1)
            assert await alert(tablet) == ("end", False, 2)
            assert await alert(tablet) == ("start", False, 3)
            assert await tablet.silence()
        async with Peer(gateway, version) as tablet:
            assert (await hello(tablet, gateway.token)).session_present
            assert await tablet.silence()


@both
async def test_a_session_survives_a_restart_of_the_gateway(
    version: int, tmp_path: Path
) -> None:
    settings = with_frost(tmp_path)
    async with front(settings) as gateway:
        await gateway.enrol()
        async with Peer(gateway, version) as tablet:
            await hello(tablet, gateway.token)
            await follow(tablet)
            await raise_alarms(gateway, 2)
            await alert(tablet)
            await alert(tablet, acknowledge=False)
    async with front(settings) as gateway:
        await raise_alarms(gateway, 1, first=3)
        async with Peer(gateway, version) as tablet:
            assert (await hello(tablet, gateway.token)).session_present
            assert [await alert(tablet) for _ in range(2)] == [
                ("end", True, 1),  # sent before, and not confirmed
                ("start", False, 2),
            ]
            assert await tablet.silence()


async def test_nothing_is_lost_by_a_kill_and_little_repeated(tmp_path: Path) -> None:
    """kill -9 with alerts unconfirmed, confirmed and never sent."""
    async with installed(tmp_path) as gateway:
        (tmp_path / "contracts" / "frost.toml").write_text(FROST)
        await gateway.do("device", "add", "thermometer", "--unsigned")
        token = load_keys(gateway.settings.keys).access_token
        await gateway.start()
        async with Peer(gateway, V5) as tablet:
            await hello(tablet, token)
            await follow(tablet)
            await raise_alarms(Place(gateway.port), 3)
            for _ in range(3):
                await alert(tablet)
            await raise_alarms(Place(gateway.port), 1, first=4)  # keeps the PUBACKs
            await alert(tablet, acknowledge=False)
        await raise_alarms(Place(gateway.port), 1, first=5)
        await gateway.kill()
        await gateway.start()
        async with Peer(gateway, V5) as tablet:
            assert (await hello(tablet, token)).session_present
            told = [await alert(tablet) for _ in range(2)]
            assert [phase for phase, _, _ in told] == ["end", "start"]
            assert told[0][1]  # DUP: it may have been sent
            assert await tablet.silence(0.2)
        assert await gateway.stop() == 0


async def test_the_backlog_keeps_to_the_receive_maximum(tmp_path: Path) -> None:
    async with front(with_frost(tmp_path)) as gateway:
        await gateway.enrol()
        async with Peer(gateway, V5) as tablet:
            await hello(tablet, gateway.token)
            await follow(tablet)
        await raise_alarms(gateway, 5)
        narrow = KEPT | {Property.RECEIVE_MAXIMUM: 2}
        async with Peer(gateway, V5) as tablet:
            await hello(tablet, gateway.token, narrow)
            for expected in (1, 2):
                assert (await alert(tablet, acknowledge=False))[2] == expected
            assert await tablet.silence()
            tablet.write(Puback(2))
            assert (await alert(tablet, acknowledge=False))[2] == 3
            assert await tablet.silence()
        async with Peer(gateway, V5) as tablet:  # 1 and 3 are not confirmed
            await hello(tablet, gateway.token, KEPT | {Property.RECEIVE_MAXIMUM: 1})
            seen = [await alert(tablet) for _ in range(4)]
            assert [one[1:] for one in seen] == [
                (True, 1),
                (True, 3),
                (False, 4),
                (False, 5),
            ]


async def test_a_clean_start_and_an_expiry_of_0_end_the_session(
    tmp_path: Path,
) -> None:
    settings = with_frost(tmp_path)
    async with front(settings) as gateway:
        await gateway.enrol()
        async with Peer(gateway, V5) as tablet:
            await hello(tablet, gateway.token)
            await follow(tablet)
        async with Peer(gateway, V5) as tablet:
            answer = await hello(tablet, gateway.token, clean_start=True)
            assert not answer.session_present
            await follow(tablet)
            tablet.write(Disconnect(0, {Property.SESSION_EXPIRY_S: 0}))
            await tablet.bytes_until_closed()
        await raise_alarms(gateway, 1)
        async with Peer(gateway, V5) as tablet:
            assert not (await hello(tablet, gateway.token)).session_present
            await follow(tablet)
            assert await tablet.silence()
            tablet.write(Unsubscribe(2, ("iomt/v1/alerts/#",)))
            await tablet.receive()
    async with front(settings) as gateway:  # without a subscription it is one, too
        await raise_alarms(gateway, 1, first=2)
        async with Peer(gateway, V5) as tablet:
            assert (await hello(tablet, gateway.token)).session_present
            assert await tablet.silence()


async def test_at_qos_0_nothing_is_kept_for_who_is_away(tmp_path: Path) -> None:
    async with front(with_frost(tmp_path)) as gateway:
        await gateway.enrol()
        async with Peer(gateway, V5) as tablet:
            await hello(tablet, gateway.token)
            await follow(tablet, 0)
        await raise_alarms(gateway, 1)
        async with Peer(gateway, V5) as tablet:
            assert (await hello(tablet, gateway.token)).session_present
            assert await tablet.silence()
            await raise_alarms(gateway, 1, first=2)
            assert await alert(tablet) == ("end", False, 0)


async def test_a_session_moves_to_the_connection_that_takes_it_over(
    tmp_path: Path,
) -> None:
    async with front(with_frost(tmp_path)) as gateway:
        await gateway.enrol()
        async with Peer(gateway, V5) as old, Peer(gateway, V5) as new:
            await hello(old, gateway.token)
            await follow(old)
            await raise_alarms(gateway, 1)
            await alert(old, acknowledge=False)
            assert (await hello(new, gateway.token)).session_present
            assert await alert(new) == ("start", True, 1)
            assert await code_of_disconnect(old) == 0x8E
            await raise_alarms(gateway, 1, first=2)
            assert await alert(new) == ("end", False, 2)


async def test_what_is_kept_for_who_is_away_is_bounded(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(firings, "KEPT_COUNT", 3)
    settings = with_frost(tmp_path)
    async with front(settings) as gateway:
        await gateway.enrol()
        async with Peer(gateway, V5) as tablet:
            await hello(tablet, gateway.token)
            await follow(tablet)
        await raise_alarms(gateway, 9)
    async with front(settings) as gateway, Peer(gateway, V5) as tablet:
        await hello(tablet, gateway.token)
        phases = [(await alert(tablet))[0]]
        async with asyncio.timeout(5):
            while phases[-3:] != ["start", "end", "start"]:
                phases.append((await alert(tablet))[0])
        assert await tablet.silence()
    assert len(phases) < 6  # the released ones that are kept, and the last commit's
    assert f"{9 - len(phases)} alerts are no longer kept" in caplog.text


async def test_an_erased_patients_alerts_are_not_told_any_more(tmp_path: Path) -> None:
    """They wait in no memory either, when the patient is forgotten meanwhile."""
    settings = with_frost(tmp_path)
    async with front(settings) as gateway:
        await gateway.enrol()
        do = gateway.running.core.administration
        await do.add_patient("P-1")
        await do.assign_device("thermometer", "P-1")
        async with Peer(gateway, V5) as tablet:
            await hello(tablet, gateway.token)
            await follow(tablet)
            await raise_alarms(gateway, 1)
            await alert(tablet, acknowledge=False)
        await raise_alarms(gateway, 1, first=2)
        await do.operations["patient-erase"](name="P-1")
        await raise_alarms(gateway, 1, first=3)
        async with Peer(gateway, V5) as tablet:
            assert (await hello(tablet, gateway.token)).session_present
            assert (await alert(tablet))[0] == "start"
            assert await tablet.silence()


async def test_one_user_cannot_fill_the_store_with_sessions(tmp_path: Path) -> None:
    async with front(with_frost(tmp_path)) as gateway:
        for i in range(12):
            async with Peer(gateway, V311) as tablet:
                await hello(tablet, gateway.token, client_id=f"tablet-{i}")
                await follow(tablet)
        present = []
        for i in range(12):
            async with Peer(gateway, V311) as tablet:
                answer = await hello(tablet, gateway.token, client_id=f"tablet-{i}")
                present.append(answer.session_present)
                tablet.write(Disconnect())
                await tablet.bytes_until_closed()
    assert not any(present[:4])  # the ones that were away the longest went


async def test_what_a_commit_takes_along_is_durable_before_what_is_saved_after_it(
    tmp_path: Path,
) -> None:
    """Or a SUBACK would leave before its session is kept, and an older state of it
    would replace a newer one."""
    settings = make_gateway(tmp_path / "g")
    state: dict[str, bytes | None] = {}

    def changes() -> dict[str, bytes | None]:
        taken = dict(state)
        state.clear()
        return taken

    async with a_ward(settings) as (core, _):
        intake = core.intake
        await intake.committed()
        keeper = SessionKeeper(intake, [])
        intake.before_commit.append(lambda: lambda _: time.sleep(0.2))
        keeper.save_with_commits(changes)

        async def save() -> None:
            await keeper.save(changes())

        state["tablet"] = b"as it is now"
        saving = asyncio.create_task(save())  # takes what no commit has taken by then
        intake.alarm("test", "start", "an urgent commit")
        assert not state
        await saving
        connection = core.reader.connection
        keys = Keys(load_keys(settings.keys).master, connection)
        assert sessions.read(connection, keys) == [b"as it is now"]


async def test_a_damaged_alert_does_not_keep_the_others_from_who_was_away(
    tmp_path: Path,
) -> None:
    settings = with_frost(tmp_path)
    async with front(settings) as gateway:
        await gateway.enrol()
        async with Peer(gateway, V5) as tablet:
            await hello(tablet, gateway.token)
            await follow(tablet)
        await raise_alarms(gateway, 3)
        await asyncio.sleep(0)
        await gateway.running.core.administration.add_patient("P-1")  # all are shown
    connection = apsw.Connection(str(settings.directory / DATABASE_NAME))
    found = "SELECT f.id, f.sealed FROM frames f JOIN outbox o ON o.batch = f.id >> ? "
    found += "WHERE f.class = 2 ORDER BY f.id LIMIT 1 OFFSET 1"
    [(frame, sealed)] = rows(connection, found, (FRAME_BITS,))
    damaged = sealed[:-1] + bytes([sealed[-1] ^ 1])
    connection.execute("UPDATE frames SET sealed = ? WHERE id = ?", (damaged, frame))
    connection.close()
    async with front(settings) as gateway, Peer(gateway, V5) as tablet:
        assert (await hello(tablet, gateway.token)).session_present
        assert [(await alert(tablet))[0] for _ in range(2)] == ["start", "start"]


class Secured(Peer):
    """A client over TLS, with a certificate."""

    def __init__(self, port: int, context: ssl.SSLContext) -> None:
        super().__init__(Place(port), V5)
        self._context = context

    async def __aenter__(self) -> Self:
        self._reader, self._writer = await asyncio.open_connection(
            "localhost", self._port, ssl=self._context
        )
        return self


async def test_a_device_that_is_named_like_the_viewer_gets_nothing_of_the_viewers(
    tmp_path: Path,
) -> None:
    """Sessions are told apart by user and client id: a device must not be that user."""
    settings = secure(tmp_path / "g")
    (tmp_path / "rules").mkdir()
    (tmp_path / "rules" / "frost.toml").write_text(FROST)
    settings = replace(settings, contracts=tmp_path / "rules")
    key = ec.generate_private_key(ec.SECP256R1())
    async with front(settings) as gateway:
        await gateway.enrol()
        await gateway.running.core.administration.add_device("viewer", "unsigned")
        row = await do(
            gateway, "device-certificate", device="viewer", request=request_of(key)
        )
        files = keep(tmp_path / "d", key, row)
        context = ssl.create_default_context(cadata=row["ca"])
        context.load_cert_chain(files / "device.pem", files / "device.key")
        async with Peer(gateway, V5) as tablet:
            await hello(tablet, gateway.token)
            await follow(tablet)
            await raise_alarms(gateway, 1)
            await alert(tablet, acknowledge=False)
        async with Secured(int(port_of(gateway)), context) as device:
            answer = await hello(device, "", user=None)
            assert answer.code == Code.BAD_USER_OR_PASSWORD
        async with Peer(gateway, V5) as tablet:
            assert (await hello(tablet, gateway.token)).session_present
            assert await alert(tablet) == ("start", True, 1)


async def test_a_damaged_session_is_left_out_and_the_gateway_starts(
    tmp_path: Path,
) -> None:
    settings = with_frost(tmp_path)
    async with front(settings) as gateway, Peer(gateway, V5) as tablet:
        await hello(tablet, gateway.token)
        await follow(tablet)
    connection = apsw.Connection(str(settings.directory / DATABASE_NAME))
    connection.execute(
        "UPDATE meta SET value = zeroblob(90) WHERE key GLOB 'mqtt.session.*'"
    )
    assert connection.changes() == 1
    connection.close()
    async with front(settings) as gateway, Peer(gateway, V5) as tablet:
        assert not (await hello(tablet, gateway.token)).session_present
        await follow(tablet)
    async with front(settings) as gateway, Peer(gateway, V5) as tablet:
        assert (await hello(tablet, gateway.token)).session_present


async def test_alarms_of_one_commit_are_each_told_once(tmp_path: Path) -> None:
    async with front(with_frost(tmp_path)) as gateway, Peer(gateway, V5) as tablet:
        await gateway.enrol()
        await hello(tablet, gateway.token)
        await follow(tablet)
        async with Peer(gateway, V5) as device:
            await device.connect(client_id="thermometer")
            both_at_once = (COLD, WARM, COLD)
            device.write(
                *(
                    Publish(PUBLISHED, temperature(value), 1, i)
                    for i, value in enumerate(both_at_once, 1)
                )
            )
            for i in range(1, 4):
                assert await device.receive() == Puback(i)
        await raise_alarms(gateway, 2, first=4)
        phases = [(await alert(tablet))[0] for _ in range(5)]
        assert phases[:3] == ["start", "end", "start"]
        assert phases[3:] == ["end", "start"]
        assert await tablet.silence()


async def test_a_session_after_a_clean_start_is_durable_with_its_suback(
    tmp_path: Path,
) -> None:
    settings = with_frost(tmp_path)
    async with front(settings) as gateway:
        connection = gateway.running.core.reader.connection
        keys = Keys(gateway.running.core.keyring.master, connection)
        for clean in (False, True):
            async with Peer(gateway, V5) as tablet:
                await hello(tablet, gateway.token, clean_start=clean)
                await follow(tablet)
                assert len(sessions.read(connection, keys)) == 1
    async with front(settings) as gateway, Peer(gateway, V5) as tablet:
        assert (await hello(tablet, gateway.token)).session_present


@both
async def test_who_is_shown_out_while_its_suback_waits_takes_no_other_suback_along(
    version: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened, save = asyncio.Event(), SessionKeeper.save

    async def save_when_opened(
        keeper: SessionKeeper, changes: Mapping[str, bytes | None]
    ) -> None:
        await opened.wait()
        await save(keeper, changes)

    monkeypatch.setattr(SessionKeeper, "save", save_when_opened)
    asking = Subscribe(1, (Subscription("iomt/v1/alerts/#", 1),))
    async with (
        front(with_frost(tmp_path)) as gateway,
        Peer(gateway, version) as old,
        Peer(gateway, version) as new,
        Peer(gateway, version) as other,
    ):
        await hello(old, gateway.token)
        await hello(other, gateway.token, client_id="other")
        for tablet in (old, other):
            tablet.write(asking, Pingreq())
        await hello(new, gateway.token)  # takes the session over; old does not go yet
        assert await code_of_disconnect(old) == expected(
            version, Code.SESSION_TAKEN_OVER
        )
        opened.set()
        assert await other.receive() == Suback(1, (1,))
        assert await other.receive() == Pingresp()
        new.write(Pingreq())
        assert await new.receive() == Pingresp()


def test_a_tablets_alerts_outlive_the_receipts_of_devices() -> None:
    log = RateLimitedLog(logging.getLogger("test"))
    kept = Sessions(Limits(sessions_max=1), log)
    for user, topic in (
        ("viewer", "iomt/v1/alerts/#"),
        ("bed-7", "iomt/v1/bed-7/receipt"),
    ):
        session, _ = kept.begin(user, "its id", clean=False, expiry_s=600)
        session.subscribe(topic, 1, None)
        kept.leave(session)
        time.sleep(0.002)  # the tablet is away the longest
    assert [one.user for one in kept.all()] == ["viewer"]


async def test_a_damaged_alarm_keeps_neither_the_start_nor_another_of_its_commit(
    tmp_path: Path,
) -> None:
    settings = with_frost(tmp_path)
    async with open_core(settings) as core:  # where nothing is shown
        mail = Mailbox(core)
        for device in ("thermometer", "fridge"):
            await core.administration.add_device(device, "unsigned")
        await asyncio.gather(
            *(mail.send(one, temperature(COLD)) for one in ("thermometer", "fridge"))
        )
    with apsw.Connection(str(settings.directory / DATABASE_NAME)) as connection:
        found = "SELECT f.id, f.sealed FROM frames f WHERE f.class = 2 AND EXISTS "
        found += "(SELECT 1 FROM outbox WHERE batch = f.id >> ?) ORDER BY f.id"
        frames = rows(connection, found, (FRAME_BITS,))
        assert [frame >> FRAME_BITS for frame, _ in frames] == [
            frames[0][0] >> FRAME_BITS
        ] * 2
        frame, sealed = frames[0]
        sealed = sealed[:-1] + bytes([sealed[-1] ^ 1])
        connection.execute("UPDATE frames SET sealed = ? WHERE id = ?", (sealed, frame))
    async with open_core(settings) as core:
        [(_, stored)] = core.undelivered
        assert stored.record.device == "fridge"


async def test_alarms_that_a_start_made_up_for_are_not_told_by_the_next(
    tmp_path: Path,
) -> None:
    """Also where the start's own commit was made before anything could be shown."""
    settings = with_frost(tmp_path)
    async with open_core(settings) as core:
        await core.administration.add_device("thermometer", "unsigned")
        await Mailbox(core).send("thermometer", temperature(COLD))
    async with open_core(settings) as core:
        await core.intake.committed()
        [(number, stored)] = core.undelivered
        late = live_firing(stored, core.reader.patients(), number)
        core.intake.open_views((late,), number)
        await core.administration.add_patient("P-1")
    async with open_core(settings) as core:
        assert not core.undelivered
