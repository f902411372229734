"""Who may speak as a device: certificates by claim, bundle or CSR; passwords; TLS."""

from __future__ import annotations

import asyncio
import json
import shutil
import ssl
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import NameOID
from fronts import Front, front, temperature
from processes import done, run
from workbench import SignedDevice, make_gateway, readings_of

from edge.config import Address, Settings
from edge.errors import ConfigurationError, RejectError
from edge.identity import CLAIM_LIFE_S, WRONG_CLAIMS_MAX
from edge.store.certificates import Authority, identity_of

HERE = Address("127.0.0.1", 0)
needs_mosquitto = pytest.mark.skipif(
    shutil.which("mosquitto_pub") is None, reason="apt install mosquitto-clients"
)
WARM = temperature(b"36.5").decode()


def secure(directory: Path, **changes: Any) -> Settings:
    """A gateway with TLS, and a door for new devices."""
    return replace(
        make_gateway(directory),
        mqtt_tls=HERE,
        enrol=HERE,
        names=("localhost", "127.0.0.1"),
        **changes,
    )


def request_of(key: Any) -> str:
    digest = None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "whatever it says")])
    csr = x509.CertificateSigningRequestBuilder(name).sign(key, digest)
    return csr.public_bytes(serialization.Encoding.PEM).decode()


def keep(directory: Path, key: Any, row: dict[str, Any]) -> Path:
    """A device's key, certificate and CA as files, as its maker would store them."""
    directory.mkdir(parents=True, exist_ok=True)
    pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    (directory / "device.key").write_bytes(pem)
    (directory / "device.pem").write_text(row["certificate"])
    (directory / "ca.pem").write_text(row["ca"])
    return directory


def port_of(door: Front) -> str:
    return str(door.running.core.identities.place["mqtt"]).rpartition(":")[2]


async def publish(
    door: Front, device: str, files: Path, *words: str
) -> tuple[int, str]:
    """What mosquitto_pub makes of it: its exit status, and what it says."""
    result = await run(
        *("mosquitto_pub", "-h", "localhost", "-p", port_of(door), "-q", "1"),
        *("-V", "5", "--cafile", str(files / "ca.pem"), "-m", WARM),
        *("-t", f"iomt/v1/{device}/temperature", *words),
        timeout_s=10,
    )
    return result.status, result.out + result.err


def with_key(files: Path) -> tuple[str, ...]:
    return "--cert", str(files / "device.pem"), "--key", str(files / "device.key")


async def do(door: Front, name: str, **arguments: object) -> dict[str, Any]:
    operation = door.running.core.administration.operations[name]
    row = await operation(**arguments)
    assert isinstance(row, dict)
    return row


async def redeem(row: dict[str, Any], csr: str, claim: str = "") -> tuple[int, Any]:
    """What a device does that knows only what its QR code says: it takes the CA, checks
    it against the fingerprint, and only then says its claim."""
    url = str(row["enrol"])
    blind = ssl.create_default_context()
    blind.check_hostname, blind.verify_mode = False, ssl.CERT_NONE
    async with aiohttp.ClientSession() as session:
        async with session.get(url.replace("/enrol", "/ca.pem"), ssl=blind) as response:
            authority = await response.text()
        [certificate, *_] = x509.load_pem_x509_certificates(authority.encode())
        assert certificate.fingerprint(hashes.SHA256()).hex() == row["ca_sha256"]
        context = ssl.create_default_context(cadata=authority)
        about = {"claim": claim or row["claim"], "csr": csr}
        async with session.post(url, json=about, ssl=context) as response:
            return response.status, await response.json()


@needs_mosquitto
async def test_a_claim_makes_a_certificate_that_lets_its_device_in(
    tmp_path: Path,
) -> None:
    """A P-256 key that never left the device, from the QR code to a reading."""
    settings = secure(tmp_path / "g")
    key = ec.generate_private_key(ec.SECP256R1())
    async with front(settings) as door:
        await door.running.core.administration.add_device("thermo-1", "unsigned")
        row = await do(door, "device-enrol", device="thermo-1")
        status, answer = await redeem(row, request_of(key))
        assert status == 200, answer
        assert answer["mqtt"] == f"localhost:{port_of(door)}"
        files = keep(tmp_path / "d", key, answer)
        assert await publish(door, "thermo-1", files, *with_key(files)) == (0, "")
        status, text = await publish(door, "other", files, *with_key(files))
        assert "Not authorized" in text
        status, answer = await redeem(row, request_of(key))
        assert (status, "no such claim" in answer["error"]) == (403, True)
    assert [one.record.device for one in readings_of(settings)] == ["thermo-1"]


async def test_an_ed25519_key_signs_envelopes_as_well(tmp_path: Path) -> None:
    settings = secure(tmp_path / "g")
    seed = bytes(range(32))
    key = ed25519.Ed25519PrivateKey.from_private_bytes(seed)
    async with front(settings) as door:
        row = await do(door, "device-enrol", device="monitor")
        status, _ = await redeem(row, request_of(key))
        assert status == 200
        device = door.running.core.registry.find("monitor")
        assert device is not None
        assert device.public_key == key.public_key().public_bytes_raw()
        other = ed25519.Ed25519PrivateKey.generate()
        csr = request_of(other)
        with pytest.raises(ConfigurationError, match="not the one that the device"):
            await do(door, "device-certificate", device="monitor", request=csr)


@needs_mosquitto
async def test_nobody_is_let_in_without_a_certificate_or_password(
    tmp_path: Path,
) -> None:
    settings = secure(tmp_path / "g")
    async with front(settings) as door:
        await door.enrol(SignedDevice("monitor"))
        made = await do(door, "device-password", device="thermometer")
        files = tmp_path
        (files / "ca.pem").write_text(made["ca"])
        name, secret = ("-u", "thermometer"), ("-P", str(made["password"]))
        for words, good in (
            ((), False),
            ((*name, *secret), True),
            (name, False),
            ((*name, "-P", "guessed"), False),
            (("-u", "monitor", *secret), False),
            (("-u", "nobody", *secret), False),
        ):
            status, _ = await publish(door, "thermometer", files, *words)
            assert (status == 0) is good, words
        again = await do(door, "device-password", device="thermometer")
        status, _ = await publish(door, "thermometer", files, *name, *secret)
        assert status != 0
        secret = ("-P", str(again["password"]))
        assert (await publish(door, "thermometer", files, *name, *secret))[0] == 0
    async with front(settings) as door:  # it outlives a restart
        assert (await publish(door, "thermometer", files, *name, *secret))[0] == 0


@needs_mosquitto
async def test_a_certificate_is_good_for_the_enrolled_key_alone(tmp_path: Path) -> None:
    """A second certificate ends the first; one of another authority is nothing."""
    settings = secure(tmp_path / "g")
    async with front(settings) as door:
        await door.enrol()
        rows = []
        for number in range(2):
            key = ec.generate_private_key(ec.SECP256R1())
            row = await do(
                door,
                "device-certificate",
                device="thermometer",
                request=request_of(key),
            )
            rows.append(keep(tmp_path / str(number), key, row))
        first, second = rows
        assert (await publish(door, "thermometer", first, *with_key(first)))[0] != 0
        assert (await publish(door, "thermometer", second, *with_key(second)))[0] == 0
        foreign = tmp_path / "foreign"
        foreign.mkdir()
        key = ec.generate_private_key(ec.SECP256R1())
        pem, _ = Authority(foreign, "else").issue(
            request_of(key).encode(), "thermometer"
        )
        fake = keep(foreign, key, {"certificate": pem, "ca": row["ca"]})
        assert (await publish(door, "thermometer", fake, *with_key(fake)))[0] != 0


async def subscribed(door: Front, files: Path) -> asyncio.subprocess.Process:
    """A device that stays connected."""
    process = await asyncio.create_subprocess_exec(
        *(
            "stdbuf",
            "-oL",
            "mosquitto_sub",
            "-h",
            "localhost",
            "-p",
            port_of(door),
            "-d",
            "-V",
            "5",
        ),
        *("--cafile", str(files / "ca.pem"), *with_key(files)),
        *("-t", "iomt/v1/thermometer/receipt"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    assert process.stdout is not None
    async with asyncio.timeout(10):
        while b"SUBACK" not in await process.stdout.readline():
            pass
    return process


@needs_mosquitto
@pytest.mark.parametrize("by", ["revocation", "a new key"])
async def test_an_open_connection_ends_with_what_let_it_in(
    tmp_path: Path, by: str
) -> None:
    settings = secure(tmp_path / "g")
    async with front(settings) as door:
        await door.enrol()
        key = ec.generate_private_key(ec.SECP256R1())
        about = {"device": "thermometer", "request": request_of(key)}
        files = keep(tmp_path / "d", key, await do(door, "device-certificate", **about))
        process = await subscribed(door, files)
        try:
            if by == "revocation":
                await door.running.core.administration.revoke_device("thermometer")
            else:
                other = request_of(ec.generate_private_key(ec.SECP256R1()))
                await do(door, "device-certificate", **(about | {"request": other}))
            assert process.stdout is not None
            async with asyncio.timeout(10):
                while line := await process.stdout.readline():
                    if b"DISCONNECT" in line or b"disconnect" in line.lower():
                        break
                else:
                    raise AssertionError("still connected")
            assert (await publish(door, "thermometer", files, *with_key(files)))[0] != 0
        finally:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()


async def test_tls_1_2_only_where_the_configuration_says_so(tmp_path: Path) -> None:
    for number, allowed in enumerate((False, True)):
        settings = secure(tmp_path / str(number), allow_tls_12=allowed)
        async with front(settings) as door:
            context = ssl.create_default_context(
                cadata=door.running.core.identities.authority().pem
            )
            context.maximum_version = ssl.TLSVersion.TLSv1_2
            connecting = asyncio.open_connection(
                "localhost", int(port_of(door)), ssl=context
            )
            if not allowed:
                with pytest.raises((ssl.SSLError, ConnectionError)):
                    await connecting
                continue
            _, writer = await connecting
            assert writer.get_extra_info("ssl_object").version() == "TLSv1.2"
            writer.close()
            with suppress(ConnectionError, ssl.SSLError):
                await writer.wait_closed()


async def test_wrong_claims_are_counted_and_end_the_guessing(tmp_path: Path) -> None:
    settings = secure(tmp_path / "g")
    csr = request_of(ec.generate_private_key(ec.SECP256R1()))
    async with front(settings) as door:
        row = await do(door, "device-enrol", device="thermo-1")
        for _ in range(WRONG_CLAIMS_MAX):
            status, answer = await redeem(row, csr, "AAAA-AAAA-AAAA")
            assert (status, "no such claim" in answer["error"]) == (403, True)
        status, answer = await redeem(row, csr)
        assert (status, "too many" in answer["error"]) == (403, True)


async def test_a_claim_lives_ten_minutes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = secure(tmp_path / "g")
    csr = request_of(ec.generate_private_key(ec.SECP256R1())).encode()
    async with front(settings) as door:
        row = await do(door, "device-enrol", device="thermo-1")
        later_s = time.monotonic() + CLAIM_LIFE_S
        monkeypatch.setattr("edge.identity.time.monotonic", lambda: later_s)
        with pytest.raises(RejectError, match="older than ten minutes"):
            await door.running.core.identities.redeem(row["claim"], csr)


@pytest.mark.parametrize(
    ("csr", "reason"),
    [
        ("", "cannot be read"),
        ("-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n", "cannot be read"),
        ("x" * 9000, "9000 bytes"),
        (request_of(rsa.generate_private_key(65537, 2048)), "neither P-256 nor"),
        (request_of(ec.generate_private_key(ec.SECP384R1())), "secp384r1"),
    ],
)
async def test_a_request_that_is_no_good_does_not_use_its_claim_up(
    tmp_path: Path, csr: str, reason: str
) -> None:
    settings = secure(tmp_path / "g")
    async with front(settings) as door:
        row = await do(door, "device-enrol", device="thermo-1")
        status, answer = await redeem(row, csr)
        assert (status, reason in answer["error"]) == (403, True), answer
        good = request_of(ec.generate_private_key(ec.SECP256R1()))
        assert (await redeem(row, good))[0] == 200


def test_a_request_signed_by_another_key_is_refused(tmp_path: Path) -> None:
    whole = request_of(ec.generate_private_key(ec.SECP256R1()))
    der = bytearray(
        x509.load_pem_x509_csr(whole.encode()).public_bytes(serialization.Encoding.DER)
    )
    der[-1] ^= 1
    with pytest.raises(RejectError, match=r"not by its own key|cannot be read"):
        Authority(tmp_path, "here").issue(bytes(der), "thermo-1")


@needs_mosquitto
async def test_a_bundle_is_all_that_a_bench_board_needs(tmp_path: Path) -> None:
    settings = secure(tmp_path / "g")
    text = (tmp_path / "g" / "iomt.toml").read_text()
    text = text.replace('# tls   = "0.0.0.0:8883"', 'tls = "127.0.0.1:0"')
    text = text.replace(
        '# names = ["gateway.local", "192.168.1.10"]', 'names = ["localhost"]'
    )
    (tmp_path / "g" / "iomt.toml").write_text(text)
    async with front(settings) as door:
        await door.enrol()
        target = tmp_path / "bundle"
        config = ("--config", tmp_path / "g" / "iomt.toml")
        await done("device", "bundle", "thermometer", "-o", target, *config)
        about = json.loads((target / "settings.json").read_text())
        assert (about["host"], str(about["port"])) == ("localhost", port_of(door))
        assert (target / "device.key").stat().st_mode & 0o777 == 0o600
        assert f"IOMT_PORT {port_of(door)}" in (target / "iomt_settings.h").read_text()
        assert await publish(door, "thermometer", target, *with_key(target)) == (0, "")


@needs_mosquitto
async def test_a_new_authority_lets_old_devices_in_until_it_forgets_them(
    tmp_path: Path,
) -> None:
    settings = secure(tmp_path / "g")
    key = ec.generate_private_key(ec.SECP256R1())
    async with front(settings) as door:
        await door.enrol()
        about = {"device": "thermometer", "request": request_of(key)}
        files = keep(tmp_path / "d", key, await do(door, "device-certificate", **about))
    place = ("--config", tmp_path / "g" / "iomt.toml")
    await done("ca", "roll", *place)
    trusted = await done("ca", "show", *place)
    assert trusted.count("BEGIN CERTIFICATE") == 2
    (files / "ca.pem").write_text(trusted.rpartition("SHA-256")[0])
    async with front(settings) as door:
        assert (await publish(door, "thermometer", files, *with_key(files)))[0] == 0
    assert (await done("ca", "forget-old", *place)).startswith("1 authorities")
    async with front(settings) as door:
        assert (await publish(door, "thermometer", files, *with_key(files)))[0] != 0


def test_an_authority_whose_change_was_cut_in_two_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the new certificate is trusted and before the new key is in place."""
    authority = Authority(tmp_path, "here")
    before = authority.fingerprint

    def cut(self: Path, target: Path) -> None:
        if target.name == "ca.key":
            raise OSError("power is gone")
        rename(self, target)

    rename = Path.replace
    monkeypatch.setattr(Path, "replace", cut)
    with pytest.raises(OSError, match="power"):
        authority.roll()
    monkeypatch.undo()
    again = Authority(tmp_path, "here")
    assert again.fingerprint == before
    assert again.pem.count("BEGIN CERTIFICATE") == 2
    again.roll()
    assert Authority(tmp_path, "here").fingerprint != before


@pytest.mark.parametrize("content", [b"", b"\x30\x03\x02\x01\x01", b"no certificate"])
def test_what_is_no_certificate_names_nobody(content: bytes) -> None:
    with pytest.raises(RejectError, match="client certificate"):
        identity_of(content)


@pytest.mark.parametrize(
    "body",
    [b"[" * 16_000, rb'{"claim":"x","csr":"\ud800"}', b"[]", b'{"claim":1}', b"\xff"],
)
async def test_what_is_no_request_is_answered_as_such(
    tmp_path: Path, body: bytes
) -> None:
    """A stranger's bytes must not fill the log with tracebacks."""
    async with front(secure(tmp_path / "g")) as door:
        row = await do(door, "device-enrol", device="thermo-1")
        context = ssl.create_default_context(
            cadata=door.running.core.identities.authority().pem
        )
        async with aiohttp.ClientSession() as session:
            url = str(row["enrol"])
            async with session.post(url, data=body, ssl=context) as response:
                assert response.status == 400
                assert "not a request" in (await response.json())["error"]
