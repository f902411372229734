"""The command `iomt` as people type it: from an empty directory to a checked proof."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from processes import (
    CHECKOUT,
    COMMAND,
    Burst,
    Gateway,
    done,
    installed,
    iomt,
    run,
    running,
    sending,
    until,
)
from workbench import SignedDevice

COMMANDS = (
    "init",
    "run",
    "demo",
    "verify",
    "prove",
    "ledger",
    "ledger export",
    "ledger vkey",
    "patient",
    "patient add",
    "device",
    "device add",
    "device assign",
    "device list",
    "device revoke",
    "readings",
    "quarantine",
    "contract",
    "contract check",
    "contract list",
    "contract key",
    "contract propose",
    "contract approve",
    "contract activate",
    "contract suspend",
    "contract resume",
    "contract revoke",
    "contract message",
    "device enrol",
    "device bundle",
    "ca roll",
    "enter",
)
needs_mosquitto = pytest.mark.skipif(
    shutil.which("mosquitto_pub") is None, reason="apt install mosquitto-clients"
)
needs_openssl = pytest.mark.skipif(
    shutil.which("openssl") is None, reason="apt install openssl"
)


async def openssl(*words: str | Path) -> None:
    result = await run("openssl", *map(str, words))
    assert result.status == 0, result


async def make_key(directory: Path) -> tuple[Path, Path, bytes]:
    """(private PEM, public PEM, seed) of a device maker who uses openssl."""
    private, public = directory / "device.pem", directory / "device.pub"
    await openssl("genpkey", "-algorithm", "ed25519", "-out", private)
    await openssl("pkey", "-in", private, "-pubout", "-out", public)
    key = load_pem_private_key(private.read_bytes(), None)
    return private, public, key.private_bytes_raw()  # type: ignore[union-attr]


async def publish(gateway: Gateway, topic: str, *words: str) -> None:
    """mosquitto_pub returns when the PUBACK is there."""
    address = ("-h", "127.0.0.1", "-p", str(gateway.port), "-q", "1")
    result = await run("mosquitto_pub", *address, "-t", topic, *words, timeout_s=10)
    assert result == (0, "", "")


@needs_mosquitto
@needs_openssl
@pytest.mark.parametrize("beside", [True, False], ids=["running", "stopped"])
async def test_the_way_from_an_empty_directory_to_a_proof_that_an_auditor_accepts(
    tmp_path: Path, *, beside: bool
) -> None:
    """Commands that change something work beside a gateway and without one."""
    private, public, seed = await make_key(tmp_path)
    monitor = SignedDevice("monitor-1", seed)
    strap = SignedDevice("strap-1", bytes(32))
    (tmp_path / "strap.hex").write_text(strap.public_key + "\n")
    async with installed(tmp_path / "g") as gateway:
        if beside:
            await gateway.start()
        do = gateway.do
        refused = await iomt(
            *("device", "add", "monitor-1", "--key", private),
            *("--config", gateway.config),
        )
        assert refused.status == 2
        assert "a private key; it belongs on the device alone" in refused.err
        await do("device", "add", "monitor-1", "--key", public)
        await do("device", "add", "strap-1", "--key", tmp_path / "strap.hex")
        await do("device", "add", "thermometer-1", "--unsigned")
        await do("patient", "add", "P-1")
        await do("device", "assign", "thermometer-1", "--patient", "P-1")
        assert (await do("device", "list")).splitlines() == [
            "monitor-1                        signed    at nobody",
            "strap-1                          signed    at nobody",
            "thermometer-1                    unsigned  at P-1",
        ]
        if not beside:
            await gateway.start()
        await publish(
            gateway,
            "iomt/v1/thermometer-1/temperature",
            *("-m", '[{"n":"body_temperature","u":"Cel","v":36.7}]'),
        )
        for device in (monitor, strap):
            envelope = tmp_path / "envelope.cbor"
            envelope.write_bytes(device.envelope(heart_rate=71))
            await publish(gateway, f"iomt/v1/{device.name}/vitals", "-f", str(envelope))
        if not beside:
            assert await gateway.stop() == 0
        await assert_readings(gateway)
        await assert_proof(gateway, tmp_path, thoroughly=beside)
        await do("device", "revoke", "monitor-1")
        assert "monitor-1                        signed    at nobody (revoked)" in (
            await do("device", "list")
        )
        await do("device", "assign", "thermometer-1", "--nobody")
        starts = 1 if beside else 7 + 1  # each change without a gateway starts one
        assert f" {starts} gateway start" in await gateway.export(tmp_path / "exported")


async def assert_readings(gateway: Gateway) -> None:
    rows = await gateway.rows()
    shown = [
        (one["device"], one["sequence"], one["attestation"], one["metrics"])
        for one in rows
    ]
    assert shown == [
        ("thermometer-1", None, "gateway", {"body_temperature": 36.7}),
        ("monitor-1", 0, "device", {"heart_rate": 71}),
        ("strap-1", 0, "device", {"heart_rate": 71}),
    ]
    everything = {"id", "device", "stream", "sequence", "device_time_ms"}
    everything |= {"received_ms", "attestation", "flags", "metrics"}
    assert all(set(one) == everything for one in rows)
    [line] = (await gateway.do("readings", "--patient", "P-1")).splitlines()
    assert line.endswith(f"{rows[0]['id']} thermometer-1: body_temperature=36.7")
    received_ms = rows[1]["received_ms"]
    assert received_ms > rows[0]["received_ms"]
    out = await gateway.do(
        *("readings", "--json", "--device", "monitor-1"),
        *("--from", str(received_ms), "--to", str(received_ms)),
    )
    assert [json.loads(out)] == [rows[1]]
    late = await gateway.do("readings", "--from", str(rows[2]["received_ms"] + 1))
    assert late == ""


async def assert_proof(gateway: Gateway, directory: Path, *, thoroughly: bool) -> None:
    rows = await gateway.rows()
    vkey = (await gateway.do("ledger", "vkey")).strip()
    proof, closed = directory / "open.tlog-proof", directory / "closed.tlog-proof"
    await gateway.do("prove", rows[0]["id"], "--disclose", "-o", proof)
    await gateway.do("prove", rows[0]["id"], "-o", closed)
    shown = await done("verify", proof, "--vkey", vkey)
    assert "thermometer-1" in shown
    hidden = await done("verify", closed, "--vkey", vkey)
    assert "thermometer-1" not in hidden
    if not thoroughly:
        return
    ledger = directory / "ledger"
    await gateway.do("ledger", "export", ledger)
    other = directory / "other"
    await done("init", other)
    await done("patient", "add", "P-1", "--config", other / "iomt.toml")
    stranger = await done("ledger", "vkey", "--config", other / "iomt.toml")
    await assert_verdicts(proof, ledger, vkey, stranger.strip())
    await assert_an_auditor_needs_python_alone(proof, ledger, vkey)


async def assert_verdicts(proof: Path, ledger: Path, vkey: str, other: str) -> None:
    """Exit 0 verified, 1 refused, 2 cannot run, 3 not enough."""
    expected = []
    for path in (proof, ledger):
        expected += [
            ((path, "--vkey", vkey), 0, "VERIFIED"),
            ((path, "--vkey", other), 1, "REFUSED: "),
            ((path,), 3, "NOT ENOUGH: "),
            ((path, "--vkey", "no key"), 2, "CANNOT RUN: "),
            ((path.with_name("nothing"), "--vkey", vkey), 2, "CANNOT RUN: "),
        ]
    results = await asyncio.gather(*(iomt("verify", *words) for words, *_ in expected))
    for (words, status, text), result in zip(expected, results, strict=True):
        assert result.status == status, (words, result)
        assert result.out.splitlines()[-1].startswith(text)
        assert result.err == ""


AUDITOR = """
import sys
from edge.cli import main
status = main(["verify", *sys.argv[1:]])
foreign = {"apsw", "cffi", "cryptography", "_cffi_backend", "edge.store"}
foreign |= {"edge.ledger.core", "edge.ledger._core", "edge.config"}
sys.exit(f"{foreign & set(sys.modules)}" if foreign & set(sys.modules) else status)
"""


async def assert_an_auditor_needs_python_alone(
    proof: Path, ledger: Path, vkey: str
) -> None:
    """No site-packages, no compiled core, no store: a checkout and an interpreter."""
    bare = ("env", "-i", f"PYTHONPATH={CHECKOUT}", sys.executable, "-S")
    for path in (proof, ledger):
        for words in (
            ("-m", "edge", "verify"),
            ("-m", "edge.ledger.verify"),
            ("-c", AUDITOR),
        ):
            result = await run(*bare, *words, str(path), "--vkey", vkey)
            assert result.status == 0, (words, result)
            assert result.out.splitlines()[-1] == "VERIFIED"


async def test_every_command_explains_itself() -> None:
    results = await asyncio.gather(
        iomt("--help"), *(iomt(*one.split(), "--help") for one in COMMANDS)
    )
    for result, name in zip(results, ["", *COMMANDS], strict=True):
        assert result.status == 0, result
        assert result.out.startswith(f"usage: iomt {name}".rstrip()), name
        assert result.err == ""
    missing = [one for one in COMMANDS if one.split()[0] not in results[0].out]
    assert not missing


async def test_init_writes_a_configuration_that_runs_and_overwrites_nothing(
    tmp_path: Path,
) -> None:
    out = await done("init", tmp_path / "g", "--origin", "clinic.example/ward-3")
    file = tmp_path / "g" / "iomt.toml"
    assert f"iomt run --config {file}" in out
    for name in ("log.key", "master.key", "access.token"):
        key = tmp_path / "g" / "data" / "keys" / name
        assert key.stat().st_mode & 0o777 == 0o600
    before = {one: one.read_bytes() for one in tmp_path.rglob("*") if one.is_file()}
    again = await iomt("init", tmp_path / "g")
    assert again.status == 2
    assert again.err == f"iomt: {file}: exists already\n"
    after = {one: one.read_bytes() for one in tmp_path.rglob("*") if one.is_file()}
    assert after == before
    unfit = await iomt("init", tmp_path / "h", "--origin", "a name with spaces")
    assert unfit.status == 2
    assert not (tmp_path / "h" / "data").exists()


async def test_mistakes_in_the_configuration_are_all_reported_at_once(
    tmp_path: Path,
) -> None:
    """Each with its place; nobody should mend a file one message at a time."""
    file = tmp_path / "iomt.toml"
    file.write_text("""\
[gateway]
origin = "a name with spaces"
data   = 7

[store]
medium = "floppy"
free_reserve_mb = 1

[mqtt]
listen = "0.0.0.0:1883"
lisen = "127.0.0.1:1883"

[web]
listen = "127.0.0.1:99999"

[clinic]
name = "St. Elsewhere"
""")
    result = await iomt("run", "--config", file)
    assert result.status == 2
    lines = result.err.splitlines()
    places = [
        "2: [gateway] origin: ",
        "3: [gateway] data: ",
        "6: [store] medium: ",
        "7: [store] free_reserve_mb: ",
        "10: [mqtt] listen: ",
        "11: [mqtt] lisen: unknown key",
        "14: [web] listen: port 99999",
        "[clinic]",
    ]
    for place in places:
        said = [one for one in lines if place in one]
        assert len(said) == 1, (place, lines)
        assert said[0].startswith(f"iomt: {file}:")
    assert len(lines) == len(places)
    assert not (tmp_path / "data").exists()


async def test_a_mistake_in_a_contract_is_found_at_the_start(tmp_path: Path) -> None:
    async with installed(tmp_path / "g") as gateway:
        bad = tmp_path / "g" / "contracts" / "bad.toml"
        bad.write_text('contract = "bad"\nversion = 1\n')
        checked = await iomt("contract", "check", bad)
        started = await iomt("run", "--config", gateway.config)
        assert checked.status == started.status == 2
        assert "bad.toml" in checked.err
        assert "bad.toml" in started.err
        bad.unlink()
        good = sorted((tmp_path / "g" / "contracts").iterdir())
        out = await done("contract", "check", *good)
        assert len(out.splitlines()) == len(good)
        listed = await gateway.do("contract", "list")
        names = [line.split()[0] for line in listed.splitlines()]
        assert names == [one.stem for one in good]


@needs_openssl
@pytest.mark.parametrize("beside", [True, False], ids=["running", "stopped"])
async def test_two_people_put_a_contract_to_work_and_one_stops_it(
    tmp_path: Path, *, beside: bool
) -> None:
    """One signs with `iomt`, the other with openssl, on a machine of her own."""
    made = await done("contract", "key", tmp_path / "ann.pem")
    assert (tmp_path / "ann.pem").stat().st_mode & 0o777 == 0o600
    ann = next(line for line in made.splitlines() if line.startswith("key"))
    bob, _, _ = await make_key(tmp_path)
    key = load_pem_private_key(bob.read_bytes(), None).public_key()
    public = key.public_bytes_raw().hex()  # type: ignore[union-attr]
    approvers = "\n".join(
        (
            "quorum = 2",
            *("[[contracts.approver]]", 'name = "ann"', ann),
            *("[[contracts.approver]]", 'name = "bob"', f'key = "{public}"', "#"),
        )
    )
    rules = tmp_path / "g" / "contracts" / "spo2-low.toml"
    async with installed(
        tmp_path / "g", None, **{"# quorum = 2": approvers}
    ) as gateway:
        if beside:
            await gateway.start()
        do, config = gateway.do, gateway.config
        assert await do("contract", "list") == ""
        proposed = await do("contract", "propose", rules)
        assert proposed.startswith("  1  spo2-low version ")
        assert proposed.endswith("proposed  0 of 2 approvals\n")
        assert "was there already" in await do("contract", "propose", rules)
        signs = ("contract", "approve", "1", rules, "--as", "ann", "--key")
        await do(*signs, tmp_path / "ann.pem")
        other = rules.with_name("heart-rate.toml")
        wrong = ("contract", "approve", "1", other, "--as", "ann", "--key")
        refused = await iomt(*wrong, tmp_path / "ann.pem", "--config", config)
        assert refused.status == 2
        assert "the proposal is of" in refused.err
        early = await iomt("contract", "activate", "1", "--config", config)
        assert early.status == 2
        assert "1 of the 2 approvals" in early.err
        await do("contract", "message", "approve", "1", "-o", tmp_path / "said")
        lines = (tmp_path / "said").read_text().splitlines()
        assert lines[:4] == ["iomt/contract/v1", "approve", "test.example/ward", "1"]
        files = ("-in", tmp_path / "said", "-out", tmp_path / "signature")
        await openssl("pkeyutl", "-sign", "-rawin", "-inkey", bob, *files)
        signature = (tmp_path / "signature").read_bytes().hex()
        approve = ("contract", "approve", "1", rules, "--as", "bob")
        await do(*approve, "--signature", signature)
        assert "active  2 of 2 approvals by ann, bob" in await do(
            "contract", "activate", "1"
        )
        stop = ("contract", "suspend", "1", "--as", "ann", "--key")
        assert "suspended" in await do(*stop, tmp_path / "ann.pem")
        [row] = (await do("contract", "list", "--json")).splitlines()
        assert json.loads(row)["status"] == "suspended"
        await gateway.export(tmp_path / "export")


@pytest.mark.parametrize("door", ["mqtt", "web"])
async def test_a_port_that_is_taken_is_named(tmp_path: Path, door: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        place = f"127.0.0.1:{taken.getsockname()[1]}"
        async with installed(tmp_path / "g") as gateway:
            text = gateway.config.read_text()
            head, section, rest = text.partition(f"[{door}]")
            rest = rest.replace("127.0.0.1:0", place, 1)
            gateway.config.write_text(head + section + rest)
            result = await iomt("run", "--config", gateway.config)
            assert result.status == 2
            last = result.err.splitlines()[-1]
            assert last.startswith(f"iomt: [{door}] listen: {place}: ")
            assert "address already in use" in last
            assert "Traceback" not in result.err
            # It ended in order: no fall is counted.
            gateway.config.write_text(text)
            await gateway.start()
            assert "abnormal" not in gateway.log


async def test_questions_that_have_no_answer_are_told_so(tmp_path: Path) -> None:
    async with running(tmp_path / "g") as gateway:
        await gateway.do("device", "add", "t-1", "--unsigned")
        await gateway.do("patient", "add", "P-1")
        small_order = tmp_path / "small.hex"
        small_order.write_text("00" * 32)
        expected = [
            (("device", "add", "t-1", "--unsigned"), "'t-1' is there already"),
            (("device", "add", "alerts", "--unsigned"), "alerts, cmd, receipt"),
            (("device", "add", "a/b", "--unsigned"), "'a/b'"),
            (("device", "add", "x", "--key", small_order), "a point of small order"),
            (("device", "add", "x", "--key", tmp_path / "none"), "No such file"),
            (("device", "assign", "t-1", "--patient", "P-9"), "no patient 'P-9'"),
            (("device", "assign", "t-9", "--patient", "P-1"), "no device 't-9'"),
            (("device", "revoke", "t-9"), "no device 't-9'"),
            (("patient", "add", "P-1"), "'P-1' is there already"),
            (("patient", "add", ""), "1 to 128 printable"),
            (("readings", "--device", "t-9"), "no device 't-9'"),
            (("readings", "--patient", "P-9"), "no patient 'P-9'"),
            (("prove", "x", "-o", tmp_path / "p"), "is not a reading's name"),
            (("prove", f"{'0' * 12}-0-1.0", "-o", tmp_path / "p"), "no batch "),
        ]
        results = await asyncio.gather(
            *(iomt(*words, "--config", gateway.config) for words, _ in expected)
        )
        for (words, text), result in zip(expected, results, strict=True):
            assert result.status == 2, (words, result)
            assert result.err.startswith("iomt: "), (words, result)
            assert text in result.err
            assert result.out == ""
        assert not (tmp_path / "p").exists()
        assert len((await gateway.do("device", "list")).splitlines()) == 1
        assert await gateway.stop() == 0
        assert "Traceback" not in gateway.log


async def test_a_key_that_others_may_read_is_not_used(tmp_path: Path) -> None:
    async with installed(tmp_path / "g") as gateway:
        key = gateway.settings.keys / "master.key"
        key.chmod(0o644)
        result = await iomt("run", "--config", gateway.config)
        assert result.status == 2
        assert result.err == f"iomt: {key}: others may read it; chmod 600 {key}\n"


async def test_a_reader_that_closes_the_pipe_early_is_no_error(tmp_path: Path) -> None:
    """`iomt readings | head -1` ends quietly, with more rows than a pipe holds."""
    async with running(tmp_path / "g") as gateway:
        burst = Burst(SignedDevice("monitor-1"))
        await gateway.enrol(burst.device)
        async with sending(gateway, [burst]):
            await until(lambda: len(burst.acknowledged) > 500, "many readings")
        words = [*COMMAND, "readings", "--json", "--config", str(gateway.config)]
        shell = ["bash", "-c", 'set -o pipefail; "$@" | head -1', "sh", *words]
        result = await run(*shell)
        assert result.status == 0
        assert len(result.out.splitlines()) == 1
        assert result.err == ""


async def test_the_exit_status_holds_even_when_nothing_can_be_said() -> None:
    """A full disk under the log must not turn `wrong` into a crash."""
    with Path(os.devnull).with_name("full").open("wb", buffering=0) as full:
        command = [*COMMAND, "run", "--config", "/nonexistent/iomt.toml"]
        process = subprocess.run(command, stderr=full, cwd=CHECKOUT, check=False)
    assert process.returncode == 2
