"""A device that cannot sign: a MAC under a shared key, attested by the gateway."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import shutil
import time
from decimal import Decimal
from pathlib import Path

import apsw
import cbor2
import pytest
from copies import NOW_MS, save
from hypothesis import given
from hypothesis import strategies as st
from workbench import SignedDevice, a_ward, make_gateway, reader_of, readings_of, vkey

from edge import cli
from edge.devices import envelope, mac_envelope
from edge.devices.metrics import make_reading
from edge.devices.originals import readings_of as decoded
from edge.errors import ConfigurationError, Reason, RefusedError
from edge.ledger.verify import Verdict, verify_proof
from edge.model import Attestation
from edge.model import Verdict as Answer
from edge.store import rotation
from edge.store.backup import open_copy
from edge.store.database import DATABASE_NAME, rows
from edge.store.restore import restore

KEY = bytes(range(7, 39))
TIME_MS = 1_790_000_000_000


def made(sequence: int, key: bytes = KEY, time_ms: int | None = None) -> bytes:
    now_ms = time.time_ns() // 1_000_000 if time_ms is None else time_ms
    reading = make_reading(now_ms, {"heart_rate": Decimal(71)}, {})
    where = "strip", "vitals", sequence, now_ms
    return mac_envelope.build(*where, [reading], key=key)


def test_the_bytes_of_the_format_page_written_out_by_hand() -> None:
    """With another codec and without ours: RFC 9052 sections 6.2 and 6.3."""
    payload = cbor2.dumps(
        {1: "strip", 2: "vitals", 3: 5, 4: TIME_MS, 5: [{1: 71}]}, canonical=True
    )
    protected = cbor2.dumps({1: 5, 4: hashlib.sha256(KEY).digest()[:8]}, canonical=True)
    to_mac = cbor2.dumps(["MAC0", protected, b"iomt/reading/v1", payload])
    mac = hmac.digest(KEY, to_mac, "sha256")
    by_hand = cbor2.dumps(cbor2.CBORTag(17, [protected, {}, payload, mac]))
    assert made(5, time_ms=TIME_MS) == by_hand
    found = mac_envelope.parse(by_hand)
    assert (found.sequence, found.signed_bytes) == (5, to_mac)
    assert envelope.sequence_of(by_hand) == 5


async def test_its_readings_are_committed_and_attested_by_the_gateway(
    tmp_path: Path,
) -> None:
    """Whoever holds the key could have made them: the proof claims no signature."""
    settings = make_gateway(tmp_path / "g")
    async with a_ward(settings) as (core, mail):
        add = core.administration.add_device
        await add("strip", "shared", shared_key=KEY.hex())
        first = made(1)
        assert (await mail.send("strip", first)).verdict is Answer.COMMITTED
        assert (await mail.send("strip", first)).verdict is Answer.DUPLICATE
    async with a_ward(settings) as (core, mail):  # the key comes from the store
        for payload, reason in (
            (made(2, key=bytes(range(32))), Reason.BAD_SIGNATURE),  # another kid
            (made(2)[:-1] + b"\0", Reason.BAD_SIGNATURE),
            (made(1), Reason.EQUIVOCATION),
            (made(2)[:-1], Reason.MALFORMED),
            (SignedDevice("strip").envelope(), Reason.MALFORMED),
        ):
            assert (await mail.send("strip", payload)).reason is reason
        assert (await mail.send("strip", made(2))).verdict is Answer.COMMITTED
        # The algorithm is the enrolled device's, never the message's.
        outcome = await mail.send("monitor", made(3))
        assert outcome.reason is Reason.MALFORMED
    readings = readings_of(settings)
    assert [one.record.device for one in readings] == ["strip"] * 2
    for one in readings:
        assert one.record.attestation is Attestation.GATEWAY
        assert decoded(one.record).readings[0].values == {"heart_rate": Decimal(71)}
    proof = tmp_path / "one.tlog-proof"
    name = readings[0].reading_id(0)
    proof.write_bytes(reader_of(settings).prove(name, disclose=True))
    report = verify_proof(proof, vkey(settings))
    assert report.verdict is Verdict.OK
    assert "the gateway vouches for receiving it" in "\n".join(report.lines())


async def test_a_new_master_key_leaves_the_shared_ones_usable(tmp_path: Path) -> None:
    settings = make_gateway(tmp_path / "g")
    async with a_ward(settings) as (core, _):
        await core.administration.add_device("strip", "shared", shared_key=KEY.hex())
    rotation.rotate(settings.directory, settings.keys, settings.master)
    async with a_ward(settings) as (_, mail):
        assert (await mail.send("strip", made(1))).verdict is Answer.COMMITTED
    stored = b"".join(
        one.read_bytes() for one in settings.directory.glob("gateway.db*")
    )
    assert KEY not in stored


async def test_a_backup_has_the_shared_keys_with_the_keys_alone(tmp_path: Path) -> None:
    settings = make_gateway(tmp_path / "g")
    async with a_ward(settings) as (core, mail):
        await core.administration.add_device("strip", "shared", shared_key=KEY.hex())
        assert (await mail.send("strip", made(1))).verdict is Answer.COMMITTED
    save(settings, "saved")
    saved = tmp_path / "g" / "saved"
    with contextlib.closing(open_copy(saved / "gateway.db")) as copy:
        assert not rows(copy, "SELECT 1 FROM meta WHERE key GLOB 'shared-key-*'")
    shutil.rmtree(settings.directory)
    keys = saved.with_name("saved-keys")
    restore(saved, settings.directory, keys, now_ms=NOW_MS)
    async with a_ward(settings) as (_, mail):
        assert (await mail.send("strip", made(2))).verdict is Answer.COMMITTED


@pytest.mark.parametrize(
    ("kind", "key"),
    [
        ("shared", None),
        ("unsigned", KEY.hex()),
        ("shared", KEY[:-1].hex()),
        ("shared", "no"),
        ("shared", "00" * 32),
    ],
)
async def test_what_is_no_shared_key_enrols_nobody(
    tmp_path: Path, kind: str, key: str | None
) -> None:
    settings = make_gateway(tmp_path / "g")
    async with a_ward(settings) as (core, _):
        with pytest.raises(ConfigurationError, match="shared key"):
            await core.administration.add_device("strip", kind, shared_key=key)
        assert core.registry.find("strip") is None


@given(st.binary(max_size=200), st.integers(0, 150), st.booleans())
def test_any_bytes_are_an_envelope_or_refused(
    junk: bytes, at: int, behind_a_true_head: bool
) -> None:
    good = made(1, time_ms=TIME_MS)
    data = good[:at] + junk + good[at + len(junk) :] if behind_a_true_head else junk
    try:
        mac_envelope.parse(data)
    except RefusedError:
        return
    assert data[0] == mac_envelope.FIRST_BYTE


def test_the_commands_make_check_and_enrol_with_one_key_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_gateway(tmp_path / "g")
    config = ("--config", str(tmp_path / "g" / "iomt.toml"))
    key, file = str(tmp_path / "strip.key"), str(tmp_path / "one.bin")
    assert cli.main(["device", "add", "strip", "--shared-key", key, *config]) == 0
    assert (tmp_path / "strip.key").stat().st_mode & 0o777 == 0o600
    words = ("--device", "strip", "--sequence", "1", "--shared-key", key, "-o", file)
    assert cli.main(["envelope", "make", "heart_rate=72", *words]) == 0
    assert cli.main(["envelope", "check", file, "--key", key]) == 0
    assert "GOOD, its MAC made by this key" in capsys.readouterr().out
    (tmp_path / "other.key").write_text(KEY.hex())
    other = str(tmp_path / "other.key")
    assert cli.main(["envelope", "check", file, "--key", other]) == 1
    assert "the kid is not that of this key" in capsys.readouterr().out


async def test_a_damaged_shared_key_does_not_keep_a_ward_without_its_gateway(
    tmp_path: Path,
) -> None:
    settings = make_gateway(tmp_path / "g")
    async with a_ward(settings) as (core, _):
        add = core.administration.add_device
        await add("strip", "shared", shared_key=KEY.hex())
        await add("other", "shared", shared_key=KEY[::-1].hex())
    with contextlib.closing(
        apsw.Connection(str(settings.directory / DATABASE_NAME))
    ) as c:
        c.execute("UPDATE meta SET value = zeroblob(60) WHERE key = 'shared-key-3'")
        assert c.changes() == 1
    async with a_ward(settings) as (core, mail):
        assert (await mail.send("strip", made(1))).reason is Reason.BAD_SIGNATURE
        found = core.registry.find("other")
        assert found is not None
        assert found.shared_key == KEY[::-1]
        good = SignedDevice("monitor").envelope()
        assert (await mail.send("monitor", good)).verdict is Answer.COMMITTED
