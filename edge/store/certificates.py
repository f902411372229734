"""The gateway's own certificate authority, for MQTT and enrolment over TLS.

    keys/ca.key       P-256 key of the authority, PKCS #8 PEM, 0600
    keys/ca.pem       its certificates, the newest first: after a change the old one
                      stays until every device has a new certificate
    keys/server.key   P-256 key of the listeners, PKCS #8 PEM, 0600
    keys/server.pem   their certificate, for the names that the configuration says

A device's certificate says one thing: its holder may speak as the device in its CN.
Whether that device is enrolled, and with this very key, the registry says at each
connection, so certificates need no revocation list. For the same reason, and because
the clocks of a Pi and of most devices are wrong after a power cut, none expires
(IEEE 802.1AR: 9999-12-31, RFC 5280 section 4.1.2.5).
"""

from __future__ import annotations

import datetime
import hashlib
import ipaddress
import os
import ssl
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from edge.errors import ConfigurationError, RejectError
from edge.model import is_name
from edge.store.vault import read_secret, sync_directory, write_secret

CA_KEY, CA_CERTIFICATE = "ca.key", "ca.pem"
SERVER_KEY, SERVER_CERTIFICATE = "server.key", "server.pem"
CSR_SIZE_MAX = 8_192
AUTHORITIES_MAX = 4
BEGIN = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
NEVER = datetime.datetime(9999, 12, 31, 23, 59, 59, tzinfo=datetime.UTC)

PublicKey: TypeAlias = ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey


class Authority:
    """Issues certificates; its files are made at the first use."""

    def __init__(self, keys: Path, origin: str) -> None:
        self._keys = keys
        self._origin = origin
        if not (keys / CA_CERTIFICATE).exists():
            self._begin()
        self._load()

    def _load(self) -> None:
        self._key = _load_key(self._keys / CA_KEY)
        self._certificates = _load_certificates(self._keys / CA_CERTIFICATE)
        # Not always the first: a change of the authority may have been cut in two.
        ours = [
            one
            for one in self._certificates
            if _spki(one.public_key()) == _spki(self._key.public_key())
        ]
        if not ours:
            path = self._keys / CA_CERTIFICATE
            raise ConfigurationError([f"{path}: none is of {CA_KEY}"])
        self._issuer = ours[0]

    @property
    def pem(self) -> str:
        """The certificates that devices and the gateway trust, newest first."""
        return "".join(_pem(one) for one in self._certificates)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the certificate that issues (DER), 64 hex digits."""
        return self._issuer.fingerprint(hashes.SHA256()).hex()

    def roll(self) -> None:
        """Begin a new authority; what the old ones have issued stays good."""
        self._begin(self._certificates[: AUTHORITIES_MAX - 1])
        self._load()

    def forget_old(self) -> int:
        """Trust the authority that issues alone; how many are trusted no more."""
        count = len(self._certificates) - 1
        self._certificates = [self._issuer]
        _write(self._keys / CA_CERTIFICATE, self.pem)
        return count

    def issue(self, request: bytes, device: str) -> tuple[str, bytes]:
        """(certificate PEM, SHA-256 of its key) for the key of a PEM or DER CSR.

        RejectError with the reason where the request is no good. Its subject does not
        matter: the certificate is for `device`.
        """
        csr = _load_request(request)
        key = csr.public_key()
        if not isinstance(key, ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey):
            raise RejectError("CSR: the key is neither P-256 nor Ed25519")
        if isinstance(key, ec.EllipticCurvePublicKey) and not isinstance(
            key.curve, ec.SECP256R1
        ):
            raise RejectError(f"CSR: a key on {key.curve.name}; P-256 is wanted")
        if not csr.is_signature_valid:
            raise RejectError("CSR: its signature is not by its own key")
        certificate = self._certificate(device, key, [ExtendedKeyUsageOID.CLIENT_AUTH])
        return _pem(certificate), hashlib.sha256(_spki(key)).digest()

    def context(
        self, names: Sequence[str], *, allow_12: bool = False
    ) -> ssl.SSLContext:
        """The listeners' TLS: 1.3 (1.2 where told), a client certificate if it has one.

        `names` are the host names and addresses that devices connect to.
        """
        self._serve(names)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        version = ssl.TLSVersion.TLSv1_2 if allow_12 else ssl.TLSVersion.TLSv1_3
        context.minimum_version = version
        context.verify_mode = ssl.CERT_OPTIONAL
        context.verify_flags |= ssl.VERIFY_X509_STRICT
        context.load_verify_locations(cadata=self.pem)
        context.load_cert_chain(
            self._keys / SERVER_CERTIFICATE, self._keys / SERVER_KEY
        )
        return context

    # ---- Small parts ----

    def _begin(self, old: Sequence[x509.Certificate] = ()) -> None:
        path = self._keys / CA_CERTIFICATE
        key = ec.generate_private_key(ec.SECP256R1())
        now = datetime.datetime.now(datetime.UTC)
        serial = x509.random_serial_number()
        name = x509.Name(
            [
                x509.NameAttribute(NameOID.ORGANIZATION_NAME, self._origin[:64]),
                x509.NameAttribute(
                    NameOID.COMMON_NAME, f"{now:%Y-%m-%d} {serial:x}"[:64]
                ),
            ]
        )
        certificate = (
            x509.CertificateBuilder(name, name, key.public_key(), serial, BEGIN, NEVER)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(signs_certificates=True), critical=True)
            .add_extension(
                x509.SubjectKeyIdentifier.from_public_key(key.public_key()),
                critical=False,
            )
            .sign(key, hashes.SHA256())
        )
        # The certificate of a key that is not in place yet does no harm; a key whose
        # certificate nobody trusts would.
        fresh = self._keys / f"{CA_KEY}.new"
        fresh.unlink(missing_ok=True)
        write_secret(fresh, _private_pem(key))
        if old:
            _write(path, "".join(map(_pem, [certificate, *old])))
        fresh.replace(self._keys / CA_KEY)
        _write(path, "".join(map(_pem, [certificate, *old])))

    def _serve(self, names: Sequence[str]) -> None:
        """Have a server certificate for just these names."""
        wanted = _alternative_names(names)
        path = self._keys / SERVER_CERTIFICATE
        if path.exists() and (self._keys / SERVER_KEY).exists():
            [certificate, *_] = _load_certificates(path)
            found = certificate.extensions.get_extension_for_class(
                x509.SubjectAlternativeName
            ).value
            ours = certificate.issuer == self._issuer.subject
            if ours and set(found) == set(wanted):
                return
        (self._keys / SERVER_KEY).unlink(missing_ok=True)
        key = ec.generate_private_key(ec.SECP256R1())
        write_secret(self._keys / SERVER_KEY, _private_pem(key))
        certificate = self._certificate(
            names[0], key.public_key(), [ExtendedKeyUsageOID.SERVER_AUTH], wanted
        )
        # With the authority's own, so that a device that knows only the fingerprint of
        # it can check the chain.
        _write(path, _pem(certificate) + _pem(self._issuer))

    def _certificate(
        self,
        name: str,
        key: PublicKey,
        uses: Sequence[x509.ObjectIdentifier],
        alternative: Sequence[x509.GeneralName] = (),
    ) -> x509.Certificate:
        issuer = self._issuer
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name[:64])])
        builder = (
            x509.CertificateBuilder(
                issuer.subject,
                subject,
                key,
                x509.random_serial_number(),
                BEGIN,
                NEVER,
            )
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), True)
            .add_extension(_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage(uses), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(
                    self._key.public_key()
                ),
                critical=False,
            )
        )
        if alternative:
            names = x509.SubjectAlternativeName(alternative)
            builder = builder.add_extension(names, critical=False)
        return builder.sign(self._key, hashes.SHA256())


def identity_of(certificate: bytes) -> tuple[str, bytes]:
    """(device, SHA-256 of its key) of a client's certificate that TLS has checked.

    RejectError where it is not one of a device.
    """
    try:
        parsed = x509.load_der_x509_certificate(certificate)
        [common] = parsed.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    except ValueError as error:
        raise RejectError(f"client certificate: {error}") from error
    name = str(common.value)
    if not is_name(name):
        raise RejectError("client certificate: its CN is no device's name")
    return name, hashlib.sha256(_spki(parsed.public_key())).digest()


def key_of_request(request: bytes) -> PublicKey:
    """The public key of a CSR that `issue` has taken."""
    key = _load_request(request).public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey):
        raise RejectError("CSR: the key is neither P-256 nor Ed25519")
    return key


def _load_request(request: bytes) -> x509.CertificateSigningRequest:
    if len(request) > CSR_SIZE_MAX:
        raise RejectError(f"CSR: {len(request)} bytes; at most {CSR_SIZE_MAX}")
    try:
        if request.lstrip().startswith(b"-----BEGIN"):
            return x509.load_pem_x509_csr(request)
        return x509.load_der_x509_csr(request)
    except (ValueError, TypeError) as error:
        raise RejectError(f"CSR: cannot be read ({error})") from error


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _alternative_names(names: Sequence[str]) -> list[x509.GeneralName]:
    found: list[x509.GeneralName] = []
    for name in names:
        try:
            found.append(x509.IPAddress(ipaddress.ip_address(name)))
        except ValueError:
            found.append(x509.DNSName(name))
    return found


def _spki(key: object) -> bytes:
    encoded: bytes = key.public_bytes(  # type: ignore[attr-defined] # any public key
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return encoded


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


def _private_pem(key: ec.EllipticCurvePrivateKey) -> str:
    return (
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        .decode()
        .rstrip()
    )


def _load_key(path: Path) -> ec.EllipticCurvePrivateKey:
    problems: list[str] = []
    text = read_secret(path, problems)
    if problems:
        raise ConfigurationError(problems)
    try:
        key = serialization.load_pem_private_key(text.encode(), None)
    except (ValueError, TypeError) as error:
        raise ConfigurationError([f"{path}: no private key ({error})"]) from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ConfigurationError([f"{path}: no P-256 key"])
    return key


def _load_certificates(path: Path) -> list[x509.Certificate]:
    try:
        found = x509.load_pem_x509_certificates(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ConfigurationError([f"{path}: {error}"]) from error
    return found


def _write(path: Path, text: str) -> None:
    """A public file, durable, in place of the one of before."""
    temporary = path.with_suffix(".new")
    with temporary.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    sync_directory(path.parent)
