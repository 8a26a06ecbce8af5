"""The apps' settings: each a flag and an environment variable RINGLEDGER_<NAME>.

A flag wins over its variable, the variable over the default. All are checked at start.
"""

import argparse
import ipaddress
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Final, TypeVar

from client_app.errors import UsageError

_ENVIRONMENT_PREFIX: Final = "RINGLEDGER_"
_ADDRESS: Final = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^:\s]+):(\d{1,5})")
_MAX_ENDPOINTS: Final = 64
_MAX_AUDIENCE: Final = 256
DEVELOPMENT_KEY: Final = "data/user-development.key"
"""Where the user app's key is in development; made when it is needed first."""

_MAX_KEYS: Final = 1_000
_MAX_KEY_FILE_BYTES: Final = 1 << 20
_KEY: Final = re.compile(r"([A-Za-z0-9._-]{1,64}):([!-~]{16,256})")
"""A name and a key. Keys shorter than 16 characters can be guessed."""

Settings = TypeVar("Settings")


def _setting(default: Any, text: str, *, secret: bool = False) -> Any:
    return field(default=default, repr=not secret, metadata={"help": text, "secret": secret})


@dataclass(frozen=True)
class AppSettings:
    """What both apps take. Durations are seconds."""

    endpoints: str = _setting("127.0.0.1:9500", "HOST:PORT[,HOST:PORT...] of the ledger's nodes")
    history_endpoint: str = _setting(
        "", "HOST:PORT of the archiver, for statements, past balances and commands by id"
    )
    listen: str = _setting("127.0.0.1:8900", "HOST:PORT to serve on")
    rate_limit: float = _setting(1_000.0, "requests/s of each caller; 0: no limit")
    rate_burst: int = _setting(2_000, "requests that a caller may send at once")
    max_body_bytes: int = _setting(2 << 20, "largest body taken")
    max_requests: int = _setting(2_048, "requests served at a time; more are told to come back")
    max_pages: int = _setting(256, "open pages that are told of changes; 0: there are no pages")
    max_connections: int = _setting(16_384, "connections at a time; then idle ones are closed")
    idle_timeout_s: float = _setting(60.0, "how long a connection may idle between two requests")
    transfer_timeout_s: float = _setting(
        20.0, "how long a client may take to send a request, or to read its answer"
    )
    timeout_s: float = _setting(10.0, "time for the ledger's answer, retries included")
    stop_timeout_s: float = _setting(10.0, "time for answers in flight at a stop")
    https_cert: str = _setting("", "certificate chain (PEM) to serve HTTPS with")
    https_key: str = _setting("", "its key (PEM)")
    log_level: str = _setting("info", "debug, info, warning or error")

    def __post_init__(self) -> None:
        for endpoint in self.endpoint_list():
            split_address(endpoint, "endpoints")
        if not 1 <= len(self.endpoint_list()) <= _MAX_ENDPOINTS:
            raise UsageError(f"--endpoints must name 1 to {_MAX_ENDPOINTS} nodes")
        if self.history_endpoint:
            split_address(self.history_endpoint, "history_endpoint")
        split_address(self.listen, "listen")
        _check(self, "rate_limit", 0, 1e9)
        _check(self, "rate_burst", 1, 1_000_000_000)
        _check(self, "max_body_bytes", 1_024, 1 << 26)
        _check(self, "max_requests", 1, 65_536)
        _check(self, "max_pages", 0, 10_000)
        _check(self, "max_connections", 1, 1_000_000)
        for name in ("idle_timeout_s", "transfer_timeout_s", "timeout_s", "stop_timeout_s"):
            _check(self, name, 0.1, 3_600)
        if self.log_level not in ("debug", "info", "warning", "error"):
            raise UsageError("--log-level must be debug, info, warning or error")
        self._check_https()

    def endpoint_list(self) -> list[str]:
        """The nodes' addresses."""
        return [text.strip() for text in self.endpoints.split(",") if text.strip()]

    def _check_https(self) -> None:
        if bool(self.https_cert) != bool(self.https_key):
            raise UsageError("--https-cert and --https-key go together: give both")
        for name in ("https_cert", "https_key"):
            path = getattr(self, name)
            if path and not Path(path).is_file():
                raise UsageError(f"{_flag(name)}: there is no file {path!r}")


@dataclass(frozen=True)
class AdminSettings(AppSettings):
    """What `admin` takes."""

    api_keys: str = _setting(
        "", "who may call: NAME:KEY[,NAME:KEY...] or @FILE with one a line", secret=True
    )
    development: bool = _setting(False, "serve without API keys, on a loopback address only")

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_access()

    def node_list(self) -> list[str]:
        """All nodes whose status is shown: the archiver too."""
        return list(dict.fromkeys([*self.endpoint_list(), *filter(None, [self.history_endpoint])]))

    def callers(self) -> list[tuple[str, str]]:
        """Name and key of all who may call; a name may have several keys. Raises UsageError."""
        if not self.api_keys:
            return []
        text = key_lines(self.api_keys, "api_keys")
        pairs = []
        lines = [line.strip() for line in text.splitlines()]
        for number, line in enumerate(lines, 1):
            if not line or line.startswith("#"):
                continue
            match = _KEY.fullmatch(line)
            if match is None:  # the line itself may be a secret
                raise UsageError(
                    f"--api-keys, entry {number}: must be NAME:KEY, the name of A-Z a-z 0-9 . _ - "
                    "and the key 16 to 256 printable characters without spaces"
                )
            pairs.append((match[1], match[2]))
        if not 1 <= len(pairs) <= _MAX_KEYS:
            raise UsageError(f"--api-keys must name 1 to {_MAX_KEYS} keys, not {len(pairs)}")
        if len({key for _, key in pairs}) != len(pairs):
            raise UsageError("--api-keys has one key twice: give each its own")
        return pairs

    def _check_access(self) -> None:
        if self.callers():
            return
        if not self.development:
            raise UsageError(
                "no API keys: set RINGLEDGER_API_KEYS=@FILE with NAME:KEY lines, or, to try things "
                "out on a loopback address, RINGLEDGER_DEVELOPMENT=1"
            )
        if not is_loopback(self.listen):
            raise UsageError(
                f"RINGLEDGER_DEVELOPMENT=1 serves anybody, so not on {self.listen}: listen on "
                "127.0.0.1, or set RINGLEDGER_API_KEYS"
            )


@dataclass(frozen=True)
class UserSettings(AppSettings):
    """What `user` takes."""

    listen: str = _setting("127.0.0.1:8901", "HOST:PORT to serve on")
    rate_limit: float = _setting(50.0, "requests/s of each person; 0: no limit")
    rate_burst: int = _setting(200, "requests that a person may send at once")
    max_body_bytes: int = _setting(16 << 10, "largest body taken")
    jwt_keys: str = _setting(
        "",
        "keys of signed tokens (HS256): NAME:KEY[,NAME:KEY...] or @FILE with one a line, each of "
        "32 characters or more",
        secret=True,
    )
    jwt_public_key: str = _setting(
        "", "public key (PEM file) of who signs tokens: Ed25519, P-256, RSA from 2,048 bits on"
    )
    jwt_audience: str = _setting("ringledger-user", "the audience (aud) that tokens must have")
    development: bool = _setting(False, f"without keys, take tokens signed by {DEVELOPMENT_KEY}")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= len(self.jwt_audience) <= _MAX_AUDIENCE:
            raise UsageError(f"--jwt-audience must have 1 to {_MAX_AUDIENCE} characters")
        if self.jwt_keys or self.jwt_public_key:
            return
        if not self.development:
            raise UsageError(
                "no keys: set RINGLEDGER_JWT_KEYS=@FILE with NAME:KEY lines, or "
                "RINGLEDGER_JWT_PUBLIC_KEY=FILE; or, to try things out on a loopback address, "
                "RINGLEDGER_DEVELOPMENT=1"
            )
        if not is_loopback(self.listen):
            raise UsageError(
                f"RINGLEDGER_DEVELOPMENT=1 is for this machine, so not on {self.listen}: listen on "
                "127.0.0.1, or set RINGLEDGER_JWT_KEYS"
            )


@dataclass(frozen=True)
class TokenSettings:
    """What `token` takes: whom a token is for, and the user app's keys."""

    accounts: str = _setting("", "ids of the accounts that it opens, with commas")
    subject: str = _setting("me", "whom it is for")
    valid_s: float = _setting(3_600.0, "how long it is valid")
    jwt_keys: str = _setting("", "the user app's keys; the first one signs", secret=True)
    jwt_audience: str = _setting("ringledger-user", "the user app's audience")

    def __post_init__(self) -> None:
        _check(self, "valid_s", 1, 366 * 86_400)


def is_loopback(address: str) -> bool:
    """Whether only this machine can reach HOST:PORT."""
    host = split_address(address, "listen")[0].strip("[]")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def split_address(address: str, name: str) -> tuple[str, int]:
    """HOST and PORT of an address. Raises UsageError for anything else."""
    match = _ADDRESS.fullmatch(address)
    if match is None or int(match[2]) > 65_535:
        raise UsageError(f"{_flag(name)} must be HOST:PORT, not {address[:80]!r}")
    return match[1], int(match[2])


def read_settings(
    settings: type[Settings],
    program: str,
    arguments: Sequence[str],
    environment: Mapping[str, str] = os.environ,
) -> Settings:
    """A program's settings from flags and environment.

    Raises UsageError for a value that can't be used; argparse itself ends on an unknown flag.
    """
    parser = argparse.ArgumentParser(
        prog=f"python -m client_app {program}",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        epilog="Each flag is also an environment variable, RINGLEDGER_ENDPOINTS for --endpoints. "
        "How to reach the nodes is told by variables alone: RINGLEDGER_TLS_CA (a PEM file, or "
        "`system`), RINGLEDGER_TLS_CERT, RINGLEDGER_TLS_KEY, RINGLEDGER_TOKEN (or @FILE).",
    )
    values: dict[str, Any] = {}
    for setting in fields(settings):  # type: ignore[arg-type]  # a dataclass, all of them
        text = environment.get(_ENVIRONMENT_PREFIX + setting.name.upper())
        default = setting.default if text is None else _parse(setting.name, setting.type, text)
        options: dict[str, Any] = {"default": default, "help": setting.metadata["help"]}
        if setting.metadata["secret"]:
            # --help shows defaults, and a secret's comes from the environment
            values[setting.name] = default
            options["default"] = argparse.SUPPRESS
        if setting.type is bool:
            options["action"] = argparse.BooleanOptionalAction
        else:
            options["metavar"] = "TEXT" if setting.type is str else "N"
            options["type"] = lambda text, setting=setting: _parse(setting.name, setting.type, text)
        parser.add_argument(_flag(setting.name), **options)
    return settings(**values | vars(parser.parse_args(arguments)))


def _parse(name: str, kind: Any, text: str) -> Any:
    if kind is bool:
        if text.lower() in ("1", "true", "yes", "on"):
            return True
        if text.lower() in ("", "0", "false", "no", "off"):
            return False
        raise UsageError(f"{_flag(name)} must be true or false, not {text[:80]!r}")
    if kind is str:
        return text
    try:
        return kind(text)
    except ValueError:
        raise UsageError(f"{_flag(name)} must be a number, not {text[:80]!r}") from None


def _check(settings: object, name: str, least: float, most: float) -> None:
    # `not least <= nan <= most` refuses NaN too
    if not least <= getattr(settings, name) <= most:
        raise UsageError(f"{_flag(name)} must be {least:,} to {most:,}")


def key_lines(setting: str, name: str) -> str:
    """A setting's entries, one a line: of `A,B,...`, or of the file of `@FILE`.

    Raises UsageError.
    """
    if not setting.startswith("@"):
        return setting.replace(",", "\n")
    return read_text(Path(setting[1:]), name)


def read_text(path: Path, name: str) -> str:
    """A small ASCII file that the setting `name` names. Raises UsageError."""
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_KEY_FILE_BYTES + 1)
        if len(content) > _MAX_KEY_FILE_BYTES:
            raise UsageError(f"{_flag(name)}: {str(path)!r} is larger than a MiB")
        return content.decode("ascii")
    except OSError as error:
        raise UsageError(f"{_flag(name)}: {str(path)!r}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UsageError(f"{_flag(name)}: {str(path)!r} must be ASCII text") from None


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")
