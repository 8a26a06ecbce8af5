"""A server's TLS: certificate, key and the clients' authority from files, checked and re-read.

The files are looked at with each new connection. Changed ones are used from then on, if they
pass the same checks as at the start; else the old ones stay and a warning says why.
"""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, NamedTuple

import grpc
import structlog
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from cluster_app.errors import UsageError
from cluster_app.settings import TlsFiles

_FILE_BYTES_MAX: Final = 1 << 20
"""A bundle of every public authority has a quarter of it."""

_RSA_BITS_MIN: Final = 2_048
_CURVES: Final = ("secp256r1", "secp384r1")
"""What gRPC's TLS library, BoringSSL, agrees on with clients by default."""

_SERVED: list[grpc.ServerCredentials] = []
"""grpc keeps only a pointer to credentials that it asks for changed certificates."""


class TlsTexts(NamedTuple):
    """What a server's TLS is made of, as PEM. None: clients need no certificate."""

    certificate: bytes
    key: bytes
    client_authority: bytes | None


def check_tls(files: TlsFiles) -> None:
    """Raises UsageError, naming flag, file and remedy, when a server can't use these files."""
    _load(files)


def server_credentials(files: TlsFiles) -> grpc.ServerCredentials:
    """Credentials that follow the files. Raises UsageError when they can't be used now."""
    changes = TlsChanges(files, _configuration)
    credentials = grpc.dynamic_ssl_server_credentials(
        _configuration(changes.texts),
        changes,
        require_client_authentication=bool(files.client_authority),
    )
    _SERVED.append(credentials)
    return credentials


class TlsChanges:
    """Called with each new connection, it tells what has changed; safe on any one thread.

    `texts` are those at the start. `use` makes of new texts what the server takes, or raises.
    """

    def __init__(self, files: TlsFiles, use: Callable[[TlsTexts], Any]) -> None:
        """Raises UsageError when the files can't be used now."""
        self._files = files
        self._use = use
        self._seen = self._look()
        self.texts: Final = _load(files)

    def __call__(self) -> Any:
        """What `use` made of changed files; None when there is nothing new."""
        try:
            seen = self._look()
            if seen == self._seen:
                return None
            self._seen = seen
            used = self._use(_load(self._files))
        except Exception as error:  # noqa: BLE001 - any would reach the server's own thread
            structlog.get_logger().warning(
                "changed TLS files can't be used, the old ones stay", error=str(error)
            )
            return None
        structlog.get_logger().info("changed TLS files are used", certificate=self._files[0])
        return used

    def _look(self) -> list[tuple[int, int, int]]:
        # one that is being replaced may be absent for a moment: that is a change too
        return [_identity(Path(name)) for name in self._files if name]


def _identity(path: Path) -> tuple[int, int, int]:
    try:
        status = path.stat()
    except OSError:
        return 0, 0, 0
    return status.st_ino, status.st_size, status.st_mtime_ns


def _configuration(loaded: TlsTexts) -> Any:
    return grpc.ssl_server_certificate_configuration(
        [(loaded.key, loaded.certificate)], loaded.client_authority
    )


def _load(files: TlsFiles) -> TlsTexts:
    certificate = _read("--tls-cert", files.certificate)
    [leaf, *_] = _certificates("--tls-cert", files.certificate, certificate)
    _check_dates("--tls-cert", files.certificate, leaf)
    key = _read("--tls-key", files.key)
    _check_key(files, key, leaf)
    if not files.client_authority:
        return TlsTexts(certificate, key, None)
    authority = _read("--tls-client-ca", files.client_authority)
    authorities = _certificates("--tls-client-ca", files.client_authority, authority)
    now = datetime.now(UTC)
    if all(one.not_valid_after_utc < now for one in authorities):
        raise UsageError(f"--tls-client-ca: every certificate in {files.client_authority} expired")
    return TlsTexts(certificate, key, authority)


def _read(flag: str, name: str) -> bytes:
    try:
        with Path(name).open("rb") as file:
            data = file.read(_FILE_BYTES_MAX + 1)
    except OSError as error:
        raise UsageError(f"{flag}: cannot read {name}: {error.strerror}") from None
    if len(data) > _FILE_BYTES_MAX:
        raise UsageError(f"{flag}: {name} is over {_FILE_BYTES_MAX:,} bytes")
    return data


def _certificates(flag: str, name: str, data: bytes) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(data)
    except ValueError:
        raise UsageError(f"{flag}: {name} holds no PEM certificate") from None


def _check_dates(flag: str, name: str, leaf: x509.Certificate) -> None:
    now = datetime.now(UTC)
    if leaf.not_valid_after_utc < now:
        raise UsageError(
            f"{flag}: {name} expired on {leaf.not_valid_after_utc:%Y-%m-%d %H:%M} UTC: renew it"
        )
    if leaf.not_valid_before_utc > now:
        raise UsageError(
            f"{flag}: {name} is valid only from {leaf.not_valid_before_utc:%Y-%m-%d %H:%M} UTC on: "
            "is this machine's clock right?"
        )


def _check_key(files: TlsFiles, data: bytes, leaf: x509.Certificate) -> None:
    try:
        key = load_pem_private_key(data, password=None)
    except TypeError:
        raise UsageError(
            f"--tls-key: {files.key} is encrypted: give a key without a passphrase, in a file that "
            "only this program can read"
        ) from None
    except (ValueError, UnsupportedAlgorithm):
        raise UsageError(f"--tls-key: {files.key} holds no PEM private key") from None
    if not (
        (isinstance(key, rsa.RSAPrivateKey) and key.key_size >= _RSA_BITS_MIN)
        or (isinstance(key, ec.EllipticCurvePrivateKey) and key.curve.name in _CURVES)
    ):
        raise UsageError(
            f"--tls-key: {files.key} must be RSA with {_RSA_BITS_MIN} bits or more, or ECDSA on "
            "P-256 or P-384: gRPC takes no others"
        )
    if not _fits(key, leaf):
        raise UsageError(
            f"--tls-key: {files.key} doesn't fit the first certificate in {files.certificate}"
        )


def _fits(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey, leaf: x509.Certificate) -> bool:
    try:
        return key.public_key() == leaf.public_key()
    except (ValueError, UnsupportedAlgorithm):
        return False  # a kind of key that isn't known is another one
