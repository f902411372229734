"""The composition root: opens the store, builds the rooms, runs the doors.

    lock ► keys ► store (recovered, head checked) ► contracts (state restored, replayed)
         ► intake ► local socket, MQTT, BLE, web ► … ► the same backwards

`open_core` is everything but the doors: commands use it when no gateway runs. Nobody
imports this module but the command line.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import logging
import os
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import apsw

from edge import cbor, control
from edge.activation import Activation, contracts_by_hash
from edge.administration import Administration, Patients
from edge.admission import Admission, TimeLimits
from edge.alarms import Alarms
from edge.clock import Clock, kernel_says_synced
from edge.config import Address, Broker, Settings
from edge.contracts.evaluation import Evaluator
from edge.contracts.machine import Machine
from edge.contracts.program import Contract
from edge.delivery.feed import AlertFeed, live_firing
from edge.delivery.live_readings import LiveReadings
from edge.delivery.receipts import LogKey, ReceiptWriter
from edge.delivery.sessions import SessionKeeper
from edge.delivery.webhook import WebhookSender
from edge.devices.registry import Registry
from edge.entering import Entering
from edge.errors import ConfigurationError, IntegrityError, RefusedError, RejectError
from edge.forgetting import Forgetting
from edge.heartbeat import beat
from edge.identity import Identities
from edge.intake import Intake, Stores
from edge.model import Firing, LiveFiring
from edge.rekeying import Rekeying
from edge.sources.ble_adapter import run_ble
from edge.sources.ble_link import Limits
from edge.sources.mqtt_broker import BrokerLogin, BrokerSource
from edge.sources.mqtt_listener import MqttListener
from edge.start import Rules, begin, load_contracts, rules
from edge.store import commit as store
from edge.store import contract_log, firings, forget, sessions
from edge.store.certificates import Authority
from edge.store.contract_log import SOURCE_KEY
from edge.store.database import lock_directory, meta, open_writer
from edge.store.evidence import CheckpointCopy, open_log
from edge.store.keys import Keys
from edge.store.keysource import settle
from edge.store.reader import Reader, StoredRecord
from edge.store.vault import Keyring, load_keys, read_secret
from edge.web.app import make_app
from edge.web.app import serve as serve_web
from edge.web.enrol import make_app as make_enrol_app
from edge.web.enrol import serve as serve_enrol
from edge.web.live import Live

SAFE_MODE_EXITS = 1
KERNEL_BOOT = Path("/proc/sys/kernel/random/boot_id")  # another after each power cut
POISON_MAX = 100
DISK_CHECK_INTERVAL_S = 1.0
VIEWER = "viewer"

log = logging.getLogger("edge.gateway")


@dataclass(slots=True)
class Core:
    """A gateway without doors."""

    settings: Settings
    keyring: Keyring
    reader: Reader
    registry: Registry
    intake: Intake
    clock: Clock
    administration: Administration
    forgetting: Forgetting
    identities: Identities
    failure: asyncio.Future[None]
    log_key: LogKey
    undelivered: list[tuple[int, StoredRecord]]


@contextlib.asynccontextmanager
async def open_core(settings: Settings) -> AsyncIterator[Core]:
    """Hold the data directory, with an intake that commits; stopped at the end."""
    if not settings.quorum:
        load_contracts(settings.contracts)  # mistakes are told before anything changes
    with contextlib.ExitStack() as stack:
        stack.enter_context(lock_directory(settings.directory))
        settle(settings.keys, settings.master, settings.directory)
        keyring = load_keys(settings.keys, settings.master, settings.directory)
        connection = stack.enter_context(
            contextlib.closing(open_writer(settings.directory))
        )
        origin = meta(connection, "origin")
        if origin is None:
            store.create(connection, settings.origin, keyring.master)
        elif origin != settings.origin:
            raise ConfigurationError([f"[gateway] origin: the data are of {origin!r}"])
        boot_id = os.urandom(store.BOOT_ID_SIZE)
        keys = Keys(keyring.master, connection)
        writer, trouble = open_log(
            connection,
            settings.directory,
            settings.keys,
            settings.checkpoint_copy,
            settings.signer,
            lambda verifier, sign: store.Writer(
                connection,
                settings.directory,
                keys,
                verifier,
                sign,
                boot_id,
                settings.quarantine_quota_kb * 1024,
            ),
        )
        begun = rules(settings, connection)
        exits, poison = _note_start(writer, connection, begun.contracts)
        forget.resume(writer)
        reader = stack.enter_context(
            contextlib.closing(Reader(settings.directory, keyring.master))
        )
        async with _running(
            settings,
            keyring,
            reader,
            writer,
            keys,
            begun,
            boot_id,
            safe_mode=exits >= SAFE_MODE_EXITS,
            poison=poison,
            trouble=trouble,
        ) as opened:
            yield opened


def _note_start(
    writer: store.Writer, connection: apsw.Connection, contracts: Sequence[Contract]
) -> tuple[int, frozenset[bytes]]:
    """(abnormal exits in a row, digests of what caused them); notes that we run.

    And keeps the texts of the contracts, for a replay.
    """
    stored_exits = meta(connection, "abnormal_exits")
    exits = stored_exits if isinstance(stored_exits, int) else 0
    stored = meta(connection, "poison")
    known = cbor.decode(stored) if isinstance(stored, bytes) else []
    listed = known if isinstance(known, list) else []
    poison = [one for one in listed if isinstance(one, bytes)]
    kernel = _kernel_boot()
    was_running = meta(connection, "running")
    if was_running is not None and was_running != kernel:
        log.warning("the machine stopped while the gateway ran")
    elif was_running is not None:
        exits += 1
        suspect = meta(connection, "suspect")
        if isinstance(suspect, bytes) and suspect not in poison:
            poison = [*poison, suspect][-POISON_MAX:]
            log.error(
                "the gateway ended while it handled message %s: it is refused from "
                "now on and kept in quarantine",
                suspect.hex(),
            )
    writer.mark(
        {
            "running": kernel,
            "suspect": None,
            "abnormal_exits": exits,
            "poison": cbor.encode(poison),
            **{f"{SOURCE_KEY}{one.hash.hex()}": one.source for one in contracts},
        }
    )
    if exits >= SAFE_MODE_EXITS:
        log.warning("abnormal exits in a row: %d; starting in safe mode", exits)
    return exits, frozenset(poison)


def _kernel_boot() -> str:
    """The id of the kernel's start, so that a power cut is blamed on no message."""
    try:
        return KERNEL_BOOT.read_text().strip()
    except OSError:  # not Linux: each end without a goodbye counts
        return "unknown"


@contextlib.asynccontextmanager
async def _running(
    settings: Settings,
    keyring: Keyring,
    reader: Reader,
    writer: store.Writer,
    keys: Keys,
    begun: Rules,
    boot_id: bytes,
    *,
    safe_mode: bool,
    poison: frozenset[bytes],
    trouble: str,
) -> AsyncIterator[Core]:
    registry = reader.registry()
    patients = Patients(reader.patients(), reader.last_patient_id())
    contract_of = contracts_by_hash(
        lambda digest: contract_log.text_of(reader.connection, digest),
        {one.hash: one for one in begun.contracts},
    )
    evaluator = Evaluator(Machine(begun.contracts), registry.patient_ref, contract_of)
    damaged = replay(reader, evaluator)
    clock = Clock(
        reader.newest_ms(),
        disciplined=(lambda: True) if settings.clock_trusted else kernel_says_synced,
    )
    failure: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def failed(error: Exception) -> None:
        if not failure.done():
            failure.set_exception(error)

    intake = Intake(
        Stores(
            writer=writer,
            boot_id=boot_id,
            totals=reader.counters(),
            patients=patients,
            safe_mode=safe_mode,
            deliver=settings.webhook is not None,
        ),
        registry,
        Admission(
            *(registry, reader.windows(), reader.newest_of, poison),
            TimeLimits(settings.ahead_max_s * 1000, settings.behind_max_s * 1000),
        ),
        evaluator,
        clock,
        settings.pace,
        failed,
    )
    undelivered = firings.unshown(reader)  # before this process's own firings
    own = begin(
        settings,
        writer.connection,
        registry,
        begun,
        boot_id,
        tree_size=writer.tree_size,
        now_ms=clock.now_ms(),
        synced=clock.synced,
    )
    rollback = str(meta(writer.connection, "rollback_alarm") or "")
    intake.start(own.entries, rollback, own.statements)
    if own.changed:
        log.warning("changed since the last start: %s", own.changed)
        intake.alarm("changed", "finding", own.changed)
    if damaged:
        detail = f"{len(damaged)} stored frames are damaged, the first: {damaged[0]}"
        log.error("%s (see `iomt store check`)", detail)
        intake.alarm("store", "start", detail)
    copy = _start_copy(settings, intake, trouble)
    administration = Administration(
        intake, registry, patients, keys, clock, keyring.master
    )
    forgetting = Forgetting(
        administration,
        intake,
        registry,
        patients,
        reader,
        clock,
        settings.retention,
        settings.master,
    )
    administration.more.update(forgetting.operations)
    alarms = Alarms(intake, registry, patients, clock)
    administration.more.update(alarms.operations)
    activation = Activation(intake, begun.lifecycle, contract_of, clock)
    administration.more.update(activation.operations)
    administration.more.update(Entering(intake, clock).operations)
    rekeying = Rekeying(administration, intake, registry, reader.connection)
    administration.more.update(rekeying.operations)
    identities = Identities(
        administration,
        rekeying,
        intake,
        registry,
        writer.connection,
        keyring.access_token,
        lambda: Authority(settings.keys, settings.origin),
    )
    administration.more.update(identities.operations)
    await forgetting.resume()
    try:
        yield Core(
            settings,
            keyring,
            reader,
            registry,
            intake,
            clock,
            administration,
            forgetting,
            identities,
            failure,
            LogKey(writer.verifier, writer.sign),
            undelivered,
        )
    finally:
        await forgetting.stop()
        await intake.stop()
        if copy is not None:
            copy.stop(last=not failure.done())
        ended = failure.done() and not failure.cancelled()
        lost = failure.exception() if ended else None
    if lost is not None:  # of the last commits, which nobody waits for any more
        raise lost


def _start_copy(
    settings: Settings, intake: Intake, trouble: str
) -> CheckpointCopy | None:
    """Have the newest checkpoint copied to the second medium; its alarms are ours."""
    if settings.checkpoint_copy is None:
        return None
    loop = asyncio.get_running_loop()

    def call(function: Callable[..., None], *arguments: object) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(function, *arguments)

    copy = CheckpointCopy(
        settings.checkpoint_copy,
        settings.directory,
        settings.keys,
        lambda phase, detail: call(intake.alarm, "checkpoint-copy", phase, detail),
        lambda reason: call(intake.abandon, IntegrityError(f"rollback: {reason}")),
        trouble,
    )
    intake.on_commit.append(copy.committed)
    return copy


def replay(reader: Reader, evaluator: Evaluator) -> list[str]:
    """Bring the contracts to where the newest commit left them: snapshot, then replay.

    The firings of the replay stand in the ledger already, so they are not kept. A frame
    that is damaged must not keep a ward without its gateway: it is returned, and told.
    """
    state = reader.contract_state()
    after = 0
    damaged: list[str] = []
    if state is not None:
        after, snapshot = state
        try:
            for sentence in evaluator.machine.restore(snapshot):
                log.warning("%s", sentence)
        except RejectError as error:
            raise IntegrityError(f"the contracts' state is damaged: {error}") from error
    for stored in reader.records_after(after, damaged.append):
        try:
            evaluator.feed(stored.record)
        except RefusedError as error:
            log.warning(
                "record %s was admitted by other code and is not evaluated again: %s",
                stored.reading_id(0),
                error,
            )
    return damaged


# ---- The doors ----


@dataclass(slots=True)
class Running:
    """A gateway with its doors open."""

    core: Core
    live: Live
    mqtt_port: int | None
    web_port: int | None


async def run(
    settings: Settings,
    stop: asyncio.Event,
    ready: Callable[[Running], None] = lambda _: None,
) -> None:
    """Run until `stop` is set; raises what made the gateway fail."""
    async with contextlib.AsyncExitStack() as stack:
        opened = await stack.enter_async_context(open_core(settings))
        live = Live()
        opened.intake.on_commit.append(live.update)
        opened.forgetting.on_forget.append(live.forget)
        server = await control.serve(
            settings.directory, opened.administration.operations
        )
        stack.callback(control.socket_path(settings.directory).unlink, missing_ok=True)
        stack.callback(server.close)
        listener = await _start_mqtt(opened, stack)
        if listener is not None:
            stack.push_async_callback(_close, listener, opened.failure)
        _show_active(opened, live)
        web_port = await _start_web(opened, live, stack)
        _release_undelivered(opened)
        tasks: list[asyncio.Task[Any]] = [
            asyncio.create_task(_watch_disk(settings, opened.intake, live)),
            asyncio.create_task(stop.wait()),
            asyncio.create_task(opened.forgetting.keep_retention()),
        ]
        if settings.webhook is not None:
            own = stack.enter_context(
                contextlib.closing(Reader(settings.directory, opened.keyring.master))
            )
            sender = WebhookSender(settings.webhook, own, opened.intake)
            tasks.append(asyncio.create_task(sender.run()))
        if settings.watchdog is not None:
            beating = beat(settings.watchdog, opened.intake)
            tasks.append(asyncio.create_task(beating))
        if settings.broker is not None:
            source = BrokerSource(
                opened.intake,
                _broker_login(settings.broker),
                mappings=settings.mappings,
            )
            tasks.append(asyncio.create_task(source.run()))
        if settings.ble_adapter is not None:
            tasks.append(asyncio.create_task(_run_ble(opened)))
        stack.push_async_callback(_cancel, tasks)
        port = listener.port if listener else None
        ready(Running(opened, live, port, web_port))
        waiting: list[asyncio.Future[Any]] = [opened.failure, *tasks]
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        for one in waiting:
            if one.done():
                one.result()


async def _close(listener: MqttListener, failure: asyncio.Future[None]) -> None:
    await listener.close(wait=not failure.done())


async def _cancel(tasks: Sequence[asyncio.Task[Any]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _start_web(
    opened: Core, live: Live, stack: contextlib.AsyncExitStack
) -> int | None:
    """The page and the tile server; the port, None where it is off."""
    settings = opened.settings
    if settings.web is None:
        return None
    reader = stack.enter_context(
        contextlib.closing(Reader(settings.directory, opened.keyring.master))
    )
    app = make_app(live, reader.resource, opened.keyring.access_token)
    try:
        runner, port = await serve_web(app, settings.web.host, settings.web.port)
    except OSError as error:
        raise ConfigurationError([f"[web] listen: {settings.web}: {error}"]) from error
    stack.push_async_callback(runner.cleanup)
    return port


async def _start_mqtt(
    opened: Core, stack: contextlib.AsyncExitStack
) -> MqttListener | None:
    settings, intake = opened.settings, opened.intake
    address = settings.mqtt
    if address is None and settings.mqtt_tls is None:
        return None
    own = stack.enter_context(
        contextlib.closing(Reader(opened.settings.directory, opened.keyring.master))
    )
    feed = AlertFeed(own)
    opened.forgetting.on_forget.append(feed.forget)
    keys = Keys(opened.keyring.master, own.connection)
    keeper = SessionKeeper(intake, sessions.read(own.connection, keys))
    token = opened.keyring.access_token.encode()

    def authenticate(user: str, password: bytes) -> str | None:
        """The viewer needs the access token; a device's word is its signature."""
        if user != VIEWER:
            return "device"
        return VIEWER if hmac.compare_digest(password, token) else None

    listener = MqttListener(
        intake,
        authenticate=authenticate,
        feed=feed,
        keeper=keeper,
        identify=opened.identities.identify,
        mappings=settings.mappings,
        limits=settings.mqtt_limits,
    )
    opened.identities.on_change.append(listener.close_user)
    opened.administration.on_revoke.append(listener.close_user)
    keeper.save_with_commits(listener.sessions.changes)
    receipts = ReceiptWriter(opened.log_key, listener.is_followed, listener.publish)
    stack.callback(receipts.close)
    intake.give_receipts(receipts)
    feed.grew.append(listener.feed_grew)
    intake.on_commit.append(feed.update)
    live = LiveReadings(VIEWER, listener.follows_live, listener.publish)
    intake.on_commit.append(live.update)
    opened.forgetting.on_forget.append(listener.sessions.forget)
    if address is not None:
        try:
            await listener.start(address.host, address.port)
        except OSError as error:
            raise ConfigurationError([f"[mqtt] listen: {address}: {error}"]) from error
    if settings.mqtt_tls is not None:
        await _start_tls(opened, listener, settings.mqtt_tls, stack)
    return listener


async def _start_tls(
    opened: Core,
    listener: MqttListener,
    address: Address,
    stack: contextlib.AsyncExitStack,
) -> None:
    """MQTT over TLS and, where the configuration says so, the door for new devices."""
    settings, identities = opened.settings, opened.identities
    authority = identities.authority()
    context = authority.context(settings.names, allow_12=settings.allow_tls_12)
    try:
        await listener.start(address.host, address.port, context)
    except OSError as error:
        raise ConfigurationError([f"[mqtt] tls: {address}: {error}"]) from error
    place: dict[str, object] = {
        "names": list(settings.names),
        "mqtt": f"{settings.names[0]}:{listener.ports[-1]}",
    }
    if settings.enrol is not None:
        app = make_enrol_app(identities.redeem, lambda: identities.authority().pem)
        own = authority.context(settings.names)
        host, port = settings.enrol.host, settings.enrol.port
        try:
            runner, port = await serve_enrol(app, host, port, own)
        except OSError as error:
            reason = f"[enrol] listen: {settings.enrol}: {error}"
            raise ConfigurationError([reason]) from error
        stack.push_async_callback(runner.cleanup)
        place["enrol"] = f"https://{settings.names[0]}:{port}/enrol"
    identities.place.update(place)


def _show_active(opened: Core, live: Live) -> None:
    """Put the alarms that were active before the start on the views again."""
    active = opened.intake.evaluator.machine.active()
    live.update(opened.intake.report(_live(opened, active)))


def _release_undelivered(opened: Core) -> None:
    """Send the alerts that were committed and not sent before the last end."""
    waiting, patients = opened.undelivered, opened.reader.patients()
    late = [live_firing(stored, patients, number) for number, stored in waiting]
    last = waiting[-1][0] if waiting else 0
    opened.intake.open_views(tuple(late), last)


def _live(opened: Core, active: Sequence[Firing]) -> tuple[LiveFiring, ...]:
    """Firings as the views take them; which records they are is not known."""
    patients = opened.reader.patients()
    shown = []
    for firing in active:
        subject, _, key = firing.subject.partition(":")
        patient = patients.get(key) if subject == "patient" else None
        device = key if subject == "device" else None
        shown.append(LiveFiring(firing, device, patient[1] if patient else None, ""))
    return tuple(shown)


async def _watch_disk(settings: Settings, intake: Intake, live: Live) -> None:
    """Stop taking messages below the reserve, so that a full disk is not an error."""
    reserve = settings.free_reserve_mb << 20
    while True:
        state = os.statvfs(settings.directory)
        free = state.f_bavail * state.f_frsize
        low = free < reserve
        if low and not intake.blocked:
            reason = f"only {free >> 20} MB free, below {settings.free_reserve_mb} MB"
            intake.block(reason)
            intake.alarm("disk-reserve", "start", reason)
        elif not low and intake.blocked:
            intake.block("")
            intake.alarm("disk-reserve", "end", f"{free >> 20} MB free")
        live.blocked = intake.blocked
        await asyncio.sleep(DISK_CHECK_INTERVAL_S)


def _broker_login(broker: Broker) -> BrokerLogin:
    """The settings, with the password that stands in its file."""
    problems: list[str] = []
    password = read_secret(broker.password, problems) if broker.password else None
    if problems:
        raise ConfigurationError(problems)
    return BrokerLogin(
        broker.host,
        broker.port,
        broker.topics,
        broker.client_id,
        broker.user,
        password,
        broker.tls,
        broker.ca,
        v5=broker.version == "5",
    )


async def _run_ble(opened: Core) -> None:
    """Keep the BLE source alive, whatever happens to its adapter."""
    clock = opened.clock
    await run_ble(
        opened.settings.ble_adapter or "",
        opened.intake,
        opened.registry.radio_addresses,
        lambda: clock.now_ms() if clock.synced else None,
        opened.intake.alarm,
        limits=Limits(delete_stored=opened.settings.ble_delete_stored),
    )
