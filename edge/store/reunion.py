"""The keys of a key ring into a restored store: whose is what from now on.

The ring decides what can be read. Keys that it does not hold any more were destroyed
(an erasure), and the frames and patients that they opened do not come back. Corrections
and merges that it knows hold; a claim has to be made again (_put_moved says why). A
ring that is `older` than the store lacks the newest keys; the store is right otherwise.
"""

from __future__ import annotations

from collections.abc import Iterator

import apsw

from edge.errors import ErasedError
from edge.store import vault
from edge.store.database import rows
from edge.store.keys import Keys, episode_associated

RING_ROWS_COUNT = 1000


def _pages(
    connection: apsw.Connection, query: str
) -> Iterator[list[tuple[apsw.SQLiteValue, ...]]]:
    cursor = connection.execute(query)
    while page := [row for _, row in zip(range(RING_ROWS_COUNT), cursor, strict=False)]:
        yield page


def put_keys(
    store: apsw.Connection,
    ring: apsw.Connection,
    keys: Keys,
    others: frozenset[int],
    *,
    older: bool,
) -> tuple[int, int]:
    """The ring's wraps into the store's episodes; (how many have none, given back).

    By their random reference: row numbers may have been given twice since.
    """
    store.execute("CREATE TEMP TABLE wraps (ref BLOB PRIMARY KEY, patient, wrapped)")
    query = "SELECT ref, patient, wrapped FROM episodes WHERE length(wrapped) > 0"
    for page in _pages(ring, query):
        store.executemany("INSERT INTO wraps VALUES (?, ?, ?)", page)
    store.execute(
        "UPDATE episodes SET wrapped = w.wrapped FROM wraps w "
        "WHERE w.ref = episodes.ref AND w.patient = episodes.patient"
    )
    given_back = _put_moved(store, keys, others, older=older)
    [(missing,)] = rows(
        store, "SELECT count(*) FROM episodes WHERE length(wrapped) = 0"
    )
    store.execute(
        "DELETE FROM frames WHERE episode IN "
        "(SELECT id FROM episodes WHERE length(wrapped) = 0)"
    )
    store.execute("DELETE FROM episodes WHERE length(wrapped) = 0")
    store.execute("DROP TABLE wraps")
    return int(missing), given_back


def _put_moved(
    store: apsw.Connection, keys: Keys, others: frozenset[int], *, older: bool
) -> int:
    """Episodes that store and ring give to different holders; how many claims fall.

    A correction or merge that the ring knows holds. A claim does not: it may have moved
    a part of the hour to another episode, and this store still has the hour whole, so
    all of it is nobody's again. Where the store is the newer one, it is right.
    """
    given_back = 0
    for id_, ref, was, patient, wrapped in rows(
        store,
        "SELECT e.id, e.ref, e.patient, w.patient, w.wrapped FROM episodes e "
        "JOIN wraps w ON w.ref = e.ref WHERE w.patient <> e.patient",
    ):
        holder = was if older or was == 0 else patient
        if holder == was and was in others:
            continue
        try:
            key = vault.unseal(
                keys.patient(patient), wrapped, episode_associated(ref, patient)
            )
            again = vault.seal(
                keys.patient(holder), key, episode_associated(ref, holder)
            )
        except ErasedError:
            continue  # counted with those that have no key
        store.execute(
            "UPDATE episodes SET patient = ?, wrapped = ? WHERE id = ?",
            (holder, again, id_),
        )
        given_back += was == 0
    return given_back


def other_people(store: apsw.Connection, ring: apsw.Connection) -> frozenset[int]:
    """Row numbers that are one patient in the store and another one in the ring.

    A merge may free a number, and two gateways that were restored from one backup give
    the same numbers. Nothing of the one may become the other's.
    """
    query = "SELECT id, ref FROM patients"
    there = dict(rows(ring, query))
    return frozenset(
        id_ for id_, ref in rows(store, query) if there.get(id_, ref) != ref
    )


def put_patients(
    store: apsw.Connection,
    ring: apsw.Connection,
    others: frozenset[int],
    *,
    older: bool,
) -> int:
    """The ring's patients for the store's; how many of the store's are not there.

    Whoever is not there any more was forgotten: their assignments go as well. Erasures
    that either of the two knows stay known, so that one which was begun is completed.
    """
    before = {ref for (ref,) in rows(store, "SELECT ref FROM patients")}
    store.execute("DELETE FROM patients")
    for page in _pages(
        ring, "SELECT id, ref, tag, sealed_name, wrapped, added_ms FROM patients"
    ):
        store.executemany("INSERT INTO patients VALUES (?, ?, ?, ?, ?, ?)", page)
    if store.table_exists("main", "erasures"):
        store.executemany(  # whoever it was has no key any more, and must not get one
            "UPDATE erasures SET completed_ms = started_ms "
            "WHERE patient = ? AND completed_ms IS NULL",
            [(id_,) for id_ in others],
        )
    if store.table_exists("main", "erasures") and ring.table_exists("main", "erasures"):
        known = {ref for (ref,) in rows(store, "SELECT ref FROM erasures")}
        for patient, ref, started_ms, completed_ms in rows(
            ring, "SELECT patient, ref, started_ms, completed_ms FROM erasures"
        ):
            if ref not in known:
                store.execute(
                    "INSERT INTO erasures (patient, ref, started_ms, completed_ms) "
                    "VALUES (?, ?, ?, ?)",
                    (patient, ref, started_ms, completed_ms),
                )
        _forget_again(store)
    theirs = [(id_,) for id_ in others]
    store.execute("CREATE TEMP TABLE known (ref BLOB PRIMARY KEY, patient)")
    if not older:  # corrections and merges since
        store.executemany(
            "INSERT INTO known VALUES (?, ?)",
            rows(ring, "SELECT ref, patient FROM assignments"),
        )
    store.executemany(
        "DELETE FROM assignments WHERE patient = ? AND ref NOT IN "
        "(SELECT ref FROM known)",
        theirs,
    )
    store.execute(
        "UPDATE assignments SET patient = known.patient FROM known "
        "WHERE known.ref = assignments.ref"
    )
    store.execute("DROP TABLE known")
    store.execute(
        "DELETE FROM assignments WHERE patient NOT IN (SELECT id FROM patients)"
    )
    after = {ref for (ref,) in rows(store, "SELECT ref FROM patients")}
    return len(before - after)


def _forget_again(store: apsw.Connection) -> None:
    """An older ring still has the keys of whom the store knows as erased."""
    gone = (
        "SELECT p.id FROM patients p JOIN erasures e ON e.ref = p.ref "
        "WHERE e.completed_ms IS NOT NULL"
    )
    for sql in (
        (
            f"DELETE FROM frames WHERE episode IN "  # noqa: S608 - no value in it
            f"(SELECT id FROM episodes WHERE patient IN ({gone}))"
        ),
        f"DELETE FROM episodes WHERE patient IN ({gone})",  # noqa: S608 - the same
        f"DELETE FROM patients WHERE id IN ({gone})",  # noqa: S608 - the same
    ):
        store.execute(sql)
