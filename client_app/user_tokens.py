"""People's tokens: JWT (RFC 7519), whose signature alone says who may touch which account.

    {"sub": "alice", "accounts": [1, 2], "aud": "ringledger-user", "exp": 1795269600}

Each key has one algorithm, fixed by its kind before a token is looked at: what the token's own head
claims (`none`, or HS256 over a public key) changes nothing.
"""

import os
import re
import secrets
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import jwt
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from client_app.auth import Caller, bearer_token
from client_app.errors import UsageError
from client_app.schemas import U64_MAX
from client_app.settings import (
    DEVELOPMENT_KEY,
    TokenSettings,
    UserSettings,
    key_lines,
    read_settings,
    read_text,
)

ACCOUNTS_MAX: Final = 64
"""Accounts of one person."""

_MAX_TOKEN_BYTES: Final = 4_096
_MAX_KEYS: Final = 16
"""Old and new ones while they are changed."""

_RSA_BITS_MIN: Final = 2_048
_HMAC: Final = "HS256"
_KEY: Final = re.compile(r"([A-Za-z0-9._-]{1,64}):([!-~]{32,512})")
_SUBJECT: Final = re.compile(r"[A-Za-z0-9._@+|-]{1,128}")
_REQUIRED: Final = ("exp", "sub", "aud", "accounts")


class SigningKey(NamedTuple):
    """A key, its only algorithm, and the name by which a token's head may point to it."""

    name: str
    algorithm: str
    key: Any


class UserTokens:
    """Who calls the user app. Any of `keys` may have signed; `audience` must be the token's."""

    open_to_anybody: Final = False
    asks_for: Final = "send a token: Authorization: Bearer TOKEN"

    def __init__(self, keys: Sequence[SigningKey], audience: str) -> None:
        self._keys = keys
        self._audience = audience

    def caller(self, authorization: bytes | None) -> Caller | None:
        """Whose token this header has; None for one that isn't whole, ours and in its time."""
        token = bearer_token(authorization)
        if token is None or len(token) > _MAX_TOKEN_BYTES:
            return None
        for key in self._keys:
            claims = self._claims(token, key)
            if claims is not None:
                return _read_claims(claims)
        return None

    def _claims(self, token: bytes, key: SigningKey) -> dict[str, Any] | None:
        try:
            named = jwt.get_unverified_header(token).get("kid")
            if named is not None and key.name and named != key.name:
                return None
            claims: dict[str, Any] = jwt.decode(
                token,
                key.key,
                algorithms=[key.algorithm],
                audience=self._audience,
                options={"require": list(_REQUIRED), "strict_aud": False},
            )
        except (jwt.PyJWTError, ValueError, TypeError, ArithmeticError, RecursionError):
            # also what a parser makes of numbers and depths that no token of ours has
            return None
        return claims


def _read_claims(claims: dict[str, Any]) -> Caller | None:
    subject, accounts = claims["sub"], claims["accounts"]
    if not isinstance(subject, str) or _SUBJECT.fullmatch(subject) is None:
        return None
    if not isinstance(accounts, list) or not 1 <= len(accounts) <= ACCOUNTS_MAX:
        return None
    if not all(type(account) is int and 1 <= account <= U64_MAX for account in accounts):
        return None
    # the prefix keeps its idempotency keys apart from those of the admin app's callers
    return Caller(f"user:{subject}", frozenset(accounts), float(claims["exp"]))


def signing_keys(settings: UserSettings) -> list[SigningKey]:
    """The keys of the settings. Raises UsageError."""
    keys = _secret_keys(settings.jwt_keys)
    if settings.jwt_public_key:
        keys.append(_public_key(Path(settings.jwt_public_key)))
    if not keys:
        keys = [SigningKey("", _HMAC, _development_key())]
    return keys


def _secret_keys(setting: str) -> list[SigningKey]:
    keys = []
    for number, line in enumerate(key_lines(setting, "jwt_keys").splitlines(), 1):
        entry = line.strip()
        if not entry or entry.startswith("#"):
            continue
        match = _KEY.fullmatch(entry)
        if match is None:  # the line itself may be a secret
            raise UsageError(
                f"--jwt-keys, entry {number}: must be NAME:KEY, the name of A-Z a-z 0-9 . _ - and "
                "the key 32 to 512 printable characters without spaces"
            )
        keys.append(SigningKey(match[1], _HMAC, match[2].encode()))
    if len(keys) > _MAX_KEYS or (setting and not keys):
        raise UsageError(f"--jwt-keys must name 1 to {_MAX_KEYS} keys, not {len(keys)}")
    return keys


def _public_key(path: Path) -> SigningKey:
    try:
        key = load_pem_public_key(read_text(path, "jwt_public_key").encode())
    except (ValueError, UnsupportedAlgorithm):
        raise UsageError(f"--jwt-public-key: {str(path)!r} is no public key in PEM") from None
    match key:
        case Ed25519PublicKey():
            return SigningKey("", "EdDSA", key)
        case EllipticCurvePublicKey() if isinstance(key.curve, SECP256R1):
            return SigningKey("", "ES256", key)
        case RSAPublicKey() if key.key_size >= _RSA_BITS_MIN:
            return SigningKey("", "RS256", key)
    raise UsageError(
        f"--jwt-public-key: {str(path)!r} must be Ed25519, P-256, or RSA from 2,048 bits on"
    )


def _development_key() -> bytes:
    """The key of this folder, made when it is needed first. Raises UsageError."""
    path = Path(DEVELOPMENT_KEY)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            pass
        else:
            with os.fdopen(descriptor, "w") as file:
                file.write(secrets.token_urlsafe(48))
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}: run it in the project's folder") from None
    return read_text(path, "development").strip().encode()


def new_token(
    key: SigningKey, audience: str, subject: str, accounts: Sequence[int], valid_s: float
) -> str:
    """A signed token. Raises UsageError for a subject or accounts that no token can have."""
    now = int(time.time())
    claims = {
        "sub": subject,
        "accounts": list(accounts),
        "aud": audience,
        "iat": now,
        "exp": now + int(valid_s),
    }
    if _read_claims(claims) is None:
        raise UsageError(
            f"--accounts must be 1 to {ACCOUNTS_MAX} ids with commas, and --subject of A-Z a-z 0-9 "
            ". _ @ + | -"
        )
    headers = {"kid": key.name} if key.name else None
    return jwt.encode(claims, key.key, algorithm=key.algorithm, headers=headers)


def run(arguments: Sequence[str]) -> int:
    """Print a token. 0: well, 2: a setting can't be used."""
    try:
        settings = read_settings(TokenSettings, "token", arguments)
        keys = _secret_keys(settings.jwt_keys)
        key = keys[0] if keys else SigningKey("", _HMAC, _development_key())
        ids = [part.strip() for part in settings.accounts.split(",")]
        if not all(part.isascii() and part.isdigit() and len(part) <= 20 for part in ids):
            raise UsageError("--accounts must be ids with commas, such as --accounts 1,2")
        accounts = [int(part) for part in ids]
        token = new_token(key, settings.jwt_audience, settings.subject, accounts, settings.valid_s)
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if not keys:
        print(f"signed by {DEVELOPMENT_KEY}, for development", file=sys.stderr)
    print(token)
    return 0
