"""The store's keys: what wraps what, and what each sealed thing is bound to.

    master ─► gateway key (meta), patient keys (patients) ─► episode keys (episodes)

The associated data of a sealed thing say where it belongs, so that a row moved to
another place does not open.
"""

from __future__ import annotations

import hmac

import apsw

from edge import cbor
from edge.errors import ErasedError, IntegrityError
from edge.store import vault
from edge.store.database import meta, rows


def frame_associated(boot: bytes, number: int, episode: bytes, retention: int) -> bytes:
    """The associated data of a frame: where in the ledger it belongs."""
    return cbor.encode([boot, number, episode, retention])


def episode_associated(ref: bytes, patient: int) -> bytes:
    """The associated data of a wrapped episode key."""
    return cbor.encode(["episode", ref, patient])


def patient_associated(ref: bytes, what: str) -> bytes:
    """The associated data of a patient's wrapped key or sealed name."""
    return cbor.encode(["patient", ref, what])


class Keys:
    """Unwraps the store's keys with the master key; shared by writer and readers."""

    def __init__(self, master: bytes, connection: apsw.Connection) -> None:
        self._master = master
        self._connection = connection
        wrapped = meta(connection, "gateway_key")
        if not isinstance(wrapped, bytes):
            raise IntegrityError("the store has no gateway key")
        self.gateway = vault.unseal(master, wrapped, b"gateway")
        self._patients: dict[int, bytes] = {}

    def patient(self, patient: int) -> bytes:
        """The key of a patient, or the gateway's own for 0."""
        if patient == 0:
            return self.gateway
        key = self._patients.get(patient)
        if key is None:
            found = rows(
                self._connection,
                "SELECT ref, wrapped FROM patients WHERE id = ?",
                (patient,),
            )
            if not found:
                raise ErasedError(f"the key of patient {patient} is gone")
            [(ref, wrapped)] = found
            key = vault.unseal(self._master, wrapped, patient_associated(ref, "key"))
            self._patients[patient] = key
        return key

    def forget(self, patient: int) -> None:
        """Keep no copy of a patient's key in memory."""
        self._patients.pop(patient, None)

    def forget_all(self) -> None:
        """Keep no patient's key in memory."""
        self._patients.clear()

    def new_patient(self, ref: bytes) -> bytes:
        """A fresh patient key, wrapped."""
        return vault.seal(self._master, vault.new_key(), patient_associated(ref, "key"))

    def tag(self, text: str) -> bytes:
        """A keyed hash to look a name up by, without storing the name."""
        return hmac.digest(self.gateway, b"tag" + text.encode(), "sha256")
