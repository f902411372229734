"""Whose readings they are: claims, corrections and merges re-wrap episode keys.

    claim     episodes of a device at nobody           gateway ─► patient
    correct   episodes of one assignment               patient ─► another patient
    merge     all episodes, assignments of a patient   patient ─► another patient

An episode's key stays, so its frames and every leaf stay; only the wrap is made anew
for the new holder and the old one overwritten. A claim need not fall on episodes
(hours): frames of a commit outside the claimed time are first sealed again under a
fresh key of the gateway's. All of it runs within the transaction of the commit that
says so.
"""

from __future__ import annotations

import logging
import os

import apsw

from edge.errors import IntegrityError
from edge.store import vault
from edge.store.commit import BOOT_ID_SIZE, Writer
from edge.store.database import FRAME_BITS, rows
from edge.store.keys import Keys, episode_associated, frame_associated

log = logging.getLogger("edge.transfer")


def rewrap(writer: Writer, where: str, values: tuple[int, ...], patient: int) -> int:
    """Hand the episodes of a condition over to a patient; returns how many."""
    connection, keys = writer.connection, writer.keys
    episodes = rows(
        connection,
        f"SELECT id, ref, patient, wrapped FROM episodes WHERE {where}",  # noqa: S608
        values,
    )
    for id_, ref, was, wrapped in episodes:
        try:
            key = _unwrap(keys, ref, was, wrapped)
        except IntegrityError as error:  # it opens nothing, whoever holds it
            log.error("the key of episode %d is damaged: %s", id_, error)
            sealed = wrapped
        else:
            sealed = vault.seal(
                keys.patient(patient), key, episode_associated(ref, patient)
            )
        connection.execute(
            "UPDATE episodes SET patient = ?, wrapped = ? WHERE id = ?",
            (patient, sealed, id_),
        )
    return len(episodes)


def _unwrap(keys: Keys, ref: bytes, patient: int, wrapped: bytes) -> bytes:
    return vault.unseal(
        keys.patient(patient), wrapped, episode_associated(ref, patient)
    )


def merge(writer: Writer, patient: int, into: int) -> int:
    """Everything of a patient becomes another's; the patient and their key go."""
    count = rewrap(writer, "patient = ?", (patient,), into)
    execute = writer.connection.execute
    execute("UPDATE assignments SET patient = ? WHERE patient = ?", (into, patient))
    execute("DELETE FROM patients WHERE id = ?", (patient,))
    writer.keys.forget(patient)
    writer.close_episodes(patient=patient)
    return count


def correct(writer: Writer, assignment: int, was: int, patient: int) -> int:
    """The readings of an assignment were of another patient."""
    count = rewrap(writer, "assignment = ? AND patient = ?", (assignment, was), patient)
    writer.connection.execute(
        "UPDATE assignments SET patient = ? WHERE id = ?", (patient, assignment)
    )
    writer.close_episodes(patient=was)
    return count


def claim(
    writer: Writer,
    device: int,
    patient: int,
    assignment: int,
    span_ms: tuple[int, int],
) -> int:
    """What a device sent at nobody becomes a patient's; returns how many frames.

    `span_ms` is the first and the last time, in received_ms of the commits.
    """
    connection, total = writer.connection, 0
    episodes = rows(
        connection,
        "SELECT id, ref, wrapped, opened_ms, until_ms FROM episodes WHERE device = ? "
        "AND patient = 0 AND opened_ms <= ? AND until_ms >= ? ORDER BY id",
        (device, span_ms[1], span_ms[0]),
    )
    for id_, ref, wrapped, opened_ms, until_ms in episodes:
        frames = rows(
            connection,
            "SELECT f.id, b.time_ms FROM episode_frames f "
            "JOIN batches b ON b.id = f.id >> ? WHERE f.episode = ?",
            (FRAME_BITS, id_),
        )
        outside = [
            frame
            for frame, time_ms in frames
            if not span_ms[0] <= time_ms <= span_ms[1]
        ]
        if len(outside) == len(frames):
            continue
        if outside:
            key = _unwrap(writer.keys, ref, 0, wrapped)
            _reseal(writer, outside, (ref, key), (device, opened_ms, until_ms))
        rewrap(writer, "id = ?", (id_,), patient)
        connection.execute(
            "UPDATE episodes SET assignment = ? WHERE id = ?", (assignment, id_)
        )
        total += len(frames) - len(outside)
    writer.close_episodes(device=device)
    return total


def _reseal(
    writer: Writer,
    frames: list[int],
    under: tuple[bytes, bytes],
    episode: tuple[int, int, int],
) -> None:
    """Move frames into a fresh episode at nobody; `under` is what opens them now."""
    connection = writer.connection
    was_ref, was_key = under
    device, opened_ms, until_ms = episode
    ref, key = os.urandom(BOOT_ID_SIZE), vault.new_key()
    wrapped = vault.seal(writer.keys.gateway, key, episode_associated(ref, 0))
    connection.execute(
        "INSERT INTO episodes (ref, device, assignment, patient, wrapped, opened_ms, "
        "until_ms) VALUES (?, ?, 0, 0, ?, ?, ?)",
        (ref, device, wrapped, opened_ms, until_ms),
    )
    episode_id = connection.last_insert_rowid()
    for frame in frames:
        boot, number, retention, sealed = _frame(connection, frame)
        try:
            plain = vault.unseal(
                was_key, sealed, frame_associated(boot, number, was_ref, retention)
            )
        except IntegrityError as error:  # nobody can read it, here or there
            log.error("frame %d is damaged and goes with the claim: %s", frame, error)
            continue
        again = vault.seal(key, plain, frame_associated(boot, number, ref, retention))
        connection.execute(
            "UPDATE frames SET episode = ?, sealed = ? WHERE id = ?",
            (episode_id, again, frame),
        )


def _frame(connection: apsw.Connection, frame: int) -> tuple[bytes, int, int, bytes]:
    found = rows(
        connection,
        "SELECT b.boot, b.number, f.class, f.sealed FROM frames f "
        "JOIN batches b ON b.id = f.id >> ? WHERE f.id = ?",
        (FRAME_BITS, frame),
    )
    if not found:
        raise IntegrityError(f"frame {frame} is missing")
    [(boot, number, retention, sealed)] = found
    return boot, number, retention, sealed
