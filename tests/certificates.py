"""Certificates for tests: an authority, and what it signs, as PEM files."""

import ipaddress
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509.oid import NameOID

PrivateKey = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey


class Signed:
    """A certificate and its key, in memory and in two files."""

    def __init__(self, stem: Path, certificate: x509.Certificate, key: PrivateKey) -> None:
        self.certificate_file = stem.with_suffix(".pem")
        self.key_file = stem.with_suffix(".key")
        self.certificate = certificate.public_bytes(Encoding.PEM)
        self.key = _pem(key, NoEncryption())
        self.certificate_file.write_bytes(self.certificate)
        self.key_file.write_bytes(self.key)


class Authority:
    """A certificate authority of a test's own; its files are those of `own`."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _name(name)
        now = datetime.now(UTC)
        certificate = (
            _builder(self._name, self._name, self._key, now - timedelta(days=1), now)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .sign(self._key, hashes.SHA256())
        )
        self.own = Signed(folder / name, certificate, self._key)

    def sign(
        self, name: str, *, days: int = 2, from_days: int = -1, key: PrivateKey | None = None
    ) -> Signed:
        """A certificate for 127.0.0.1, valid from `from_days` to `days` from now on."""
        key = key or ec.generate_private_key(ec.SECP256R1())
        now = datetime.now(UTC)
        begin, end = now + timedelta(days=from_days), now + timedelta(days=days - 2)
        alternative = x509.SubjectAlternativeName(
            [x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        )
        certificate = (
            _builder(_name(name), self._name, key, begin, end)
            .add_extension(alternative, critical=False)
            .sign(self._key, hashes.SHA256())
        )
        return Signed(self._folder / name, certificate, key)


def encrypted_key(file: Path) -> Path:
    """A key that wants a passphrase."""
    key = ec.generate_private_key(ec.SECP256R1())
    file.write_bytes(_pem(key, BestAvailableEncryption(b"passphrase")))
    return file


def _pem(key: PrivateKey, encryption: KeySerializationEncryption) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)


def _name(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _builder(
    subject: x509.Name, issuer: x509.Name, key: PrivateKey, begin: datetime, end: datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(end + timedelta(days=2))
    )
