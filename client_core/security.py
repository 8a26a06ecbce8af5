"""How this client proves who it is, and how it knows the nodes: TLS, mTLS and a bearer token."""

import os
import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import grpc

SYSTEM_ROOTS: Final = "system"
"""In place of a CA's file: the roots that gRPC ships."""

_TOKEN_MAX: Final = 4_096
"""Characters: HTTP/2 header lists have limits of 8 KiB and more."""

Metadata = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Security:
    """What channels and calls carry. Never shown: neither the key nor the token is in `repr`."""

    tls: bool = False
    ca: bytes | None = field(default=None, repr=False)
    certificate: bytes | None = field(default=None, repr=False)
    key: bytes | None = field(default=None, repr=False)
    token: str = field(default="", repr=False)

    @property
    def metadata(self) -> Metadata:
        """What each call sends beside its request."""
        return (("authorization", f"Bearer {self.token}"),) if self.token else ()

    @property
    def credentials(self) -> grpc.ChannelCredentials | None:
        """Of a TLS channel; None for a plain one."""
        if not self.tls:
            return None
        return grpc.ssl_channel_credentials(self.ca, self.key, self.certificate)


PLAIN: Final = Security()


def read_security(
    *,
    tls_ca: str | os.PathLike[str] | None = None,
    tls_cert: str | os.PathLike[str] | None = None,
    tls_key: str | os.PathLike[str] | None = None,
    token: str | None = None,
) -> Security:
    """The security that arguments ask for; what is None comes from the environment.

    `tls_ca` (RINGLEDGER_TLS_CA) is a PEM file of the authorities that sign the nodes' certificates,
    or "system"; without one the channel is plain. `tls_cert` and `tls_key` (RINGLEDGER_TLS_CERT,
    RINGLEDGER_TLS_KEY) are this client's own, for nodes that ask for one. `token`
    (RINGLEDGER_TOKEN) is sent as bearer token; "@FILE" reads it from a file's first line. Raises
    ValueError for what can't be used, naming the setting and never its secret.
    """
    ca_file = _given(tls_ca, "RINGLEDGER_TLS_CA")
    cert_file = _given(tls_cert, "RINGLEDGER_TLS_CERT")
    key_file = _given(tls_key, "RINGLEDGER_TLS_KEY")
    secret = _read_token(_given(token, "RINGLEDGER_TOKEN"))
    if bool(cert_file) != bool(key_file):
        raise ValueError("give both tls_cert and tls_key (RINGLEDGER_TLS_CERT, _TLS_KEY), or none")
    if not ca_file:
        if tls_cert is not None and cert_file:
            raise ValueError(
                "tls_cert needs tls_ca (RINGLEDGER_TLS_CA): the CA's PEM file, or 'system'"
            )
        return Security(token=secret)
    ca = None if ca_file == SYSTEM_ROOTS else _read_file("tls_ca", ca_file)
    if ca is not None:
        _check_ca(ca, ca_file)
    if not cert_file:
        return Security(tls=True, ca=ca, token=secret)
    certificate, key = _read_file("tls_cert", cert_file), _read_file("tls_key", key_file)
    _check_pair(cert_file, key_file)
    return Security(tls=True, ca=ca, certificate=certificate, key=key, token=secret)


def _given(value: str | os.PathLike[str] | None, variable: str) -> str:
    return os.environ.get(variable, "") if value is None else os.fspath(value)


def _read_file(name: str, path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise ValueError(f"{name}: {path} can't be read: {error.strerror}") from None


def _read_token(given: str) -> str:
    token = given
    if given.startswith("@"):
        lines = _read_file("token", given[1:]).decode("ascii", "replace").splitlines()
        token = lines[0].strip() if lines else ""
        if not token:
            raise ValueError(f"token: the first line of {given[1:]} is empty: put the token there")
    if len(token) > _TOKEN_MAX or any(not "!" <= character <= "~" for character in token):
        raise ValueError(
            f"the token must be 1 to {_TOKEN_MAX} printable ASCII characters without spaces"
        )
    return token


def _check_ca(ca: bytes, path: str) -> None:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=ca.decode("ascii"))
    except (ssl.SSLError, ValueError):
        raise ValueError(f"tls_ca: {path} holds no PEM certificate: give the CA's file") from None


def _check_pair(cert_file: str, key_file: str) -> None:
    def no_password() -> str:
        raise ValueError(f"tls_key: {key_file} has a password: give one without")

    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(cert_file, key_file, no_password)
    except ssl.SSLError:
        raise ValueError(
            f"tls_cert {cert_file} and tls_key {key_file} are no PEM pair that belongs together"
        ) from None
