"""People's tokens: only what is whole, ours and in its time opens an account."""

import base64
import hashlib
import hmac
import json
import time
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from client_app.errors import UsageError
from client_app.settings import UserSettings, read_settings
from client_app.user_tokens import SigningKey, UserTokens, new_token, run, signing_keys

KEY = "0123456789abcdef0123456789abcdef"
OTHER = "fedcba9876543210fedcba9876543210"
AUDIENCE = "ringledger-user"
HMAC_KEY = SigningKey("k1", "HS256", KEY.encode())


def tokens(*keys: SigningKey) -> UserTokens:
    return UserTokens(keys or (HMAC_KEY,), AUDIENCE)


def claims(**changed: Any) -> dict[str, Any]:
    given = {"sub": "alice", "accounts": [1, 2], "aud": AUDIENCE, "exp": int(time.time()) + 60}
    return {name: value for name, value in (given | changed).items() if value is not None}


def header(token: str | bytes) -> bytes:
    return b"Bearer " + (token.encode() if isinstance(token, str) else token)


def signed(key: str = KEY, **changed: Any) -> bytes:
    return header(jwt.encode(claims(**changed), key, algorithm="HS256"))


def packed(value: Any) -> str:
    text = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(text).rstrip(b"=").decode()


def hand_made(head: Any, body: Any, key: bytes = KEY.encode()) -> bytes:
    text = f"{packed(head)}.{packed(body)}"
    signature = hmac.new(key, text.encode(), hashlib.sha256).digest()
    return header(f"{text}.{packed(signature)}")


def test_a_token_opens_its_accounts_until_its_time() -> None:
    caller = tokens().caller(header(new_token(HMAC_KEY, AUDIENCE, "alice", [1, 2], 60)))
    assert caller is not None
    assert (caller.name, caller.accounts) == ("user:alice", frozenset({1, 2}))
    assert 0 < caller.until_s - time.time() <= 60


@pytest.mark.parametrize(
    "changed",
    [
        {"exp": 1},
        {"exp": None},
        {"exp": "soon"},
        {"exp": 1e400},
        {"nbf": 2**33},
        {"aud": "another"},
        {"aud": None},
        {"aud": []},
        {"sub": None},
        {"sub": 7},
        {"sub": ""},
        {"sub": "a b"},
        {"sub": "x" * 129},
        {"accounts": None},
        {"accounts": []},
        {"accounts": 1},
        {"accounts": ["1"]},
        {"accounts": [True]},
        {"accounts": [1.0]},
        {"accounts": [0]},
        {"accounts": [2**64]},
        {"accounts": list(range(1, 66))},
    ],
    ids=str,
)
def test_claims_that_are_not_right_open_nothing(changed: dict[str, Any]) -> None:
    assert tokens().caller(signed()) is not None
    body = {**claims(), **changed}
    body = {name: value for name, value in body.items() if value is not None}
    assert tokens().caller(hand_made({"alg": "HS256", "typ": "JWT"}, body)) is None


def test_a_tampered_token_opens_nothing() -> None:
    head, body, signature = signed()[7:].decode().split(".")
    more = json.loads(base64.urlsafe_b64decode(body + "=="))
    more["accounts"] = [1, 2, 3]
    for token in (
        f"{head}.{packed(more)}.{signature}",
        f"{head}.{body}.{packed(b'x' * 32)}",
        f"{head}.{body}.",
        f"{head}.{body}",
        f"{head}.{body}.{signature}.{signature}",
    ):
        assert tokens().caller(header(token)) is None
    assert tokens().caller(signed(OTHER)) is None


@pytest.mark.parametrize(
    "algorithm", ["none", "None", "NONE", "", None, "HS384", "RS256", ["HS256"]]
)
def test_what_the_head_claims_of_the_algorithm_changes_nothing(algorithm: Any) -> None:
    head = {"alg": algorithm, "typ": "JWT"}
    assert tokens().caller(hand_made(head, claims())) is None
    unsigned = header(f"{packed(head)}.{packed(claims())}.")
    assert tokens().caller(unsigned) is None


@pytest.mark.parametrize(
    "private",
    [
        ed25519.Ed25519PrivateKey.generate(),
        ec.generate_private_key(ec.SECP256R1()),
        rsa.generate_private_key(65_537, 2_048),
    ],
    ids=["EdDSA", "ES256", "RS256"],
)
def test_a_public_key_checks_signatures_and_is_never_a_secret(private: Any, tmp_path: Path) -> None:
    pem = private.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    (tmp_path / "key.pem").write_bytes(pem)
    settings = read_settings(
        UserSettings, "user", ["--jwt-public-key", str(tmp_path / "key.pem")], {}
    )
    [key] = signing_keys(settings)
    mine = UserTokens([key], AUDIENCE)
    assert mine.caller(header(jwt.encode(claims(), private, algorithm=key.algorithm))) is not None
    # signed with the public key's text, as HMAC: anybody could
    assert mine.caller(hand_made({"alg": "HS256", "typ": "JWT"}, claims(), pem)) is None


@pytest.mark.parametrize(
    "token",
    [
        None,
        b"",
        b"Bearer",
        b"Bearer ",
        b"Basic abc",
        b"Bearer a.b.c",
        b"Bearer " + b"a" * 10_000,
        b"Bearer \xff\xfe.\x00.x",
        header(f"{packed(b'[' * 2_900)}.e30.x"),
        header(f"{packed(b'{' * 10)}.e30.x"),
        header("e30.e30.e30"),
    ],
    ids=range(11),
)
def test_what_is_no_token_opens_nothing(token: bytes | None) -> None:
    assert tokens().caller(token) is None


def test_a_signed_body_of_great_depth_opens_nothing() -> None:
    body = b'{"a":' * 500 + b"1" + b"}" * 500
    assert tokens().caller(hand_made({"alg": "HS256"}, body)) is None


def test_old_and_new_keys_serve_while_they_are_changed() -> None:
    new = SigningKey("k2", "HS256", OTHER.encode())
    both = tokens(HMAC_KEY, new)
    for key in (HMAC_KEY, new):
        assert both.caller(header(new_token(key, AUDIENCE, "a", [1], 60))) is not None
    assert both.caller(signed(OTHER)) is not None  # without a name
    assert tokens(new).caller(header(new_token(HMAC_KEY, AUDIENCE, "a", [1], 60))) is None


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("--jwt-keys", "k:short"),
        ("--jwt-keys", f"no name:{KEY}"),
        ("--jwt-keys", "@/nowhere"),
        ("--jwt-public-key", "/nowhere"),
        ("--development", "--listen", "0.0.0.0:8901"),
        ("--jwt-audience", ""),
    ],
    ids=str,
)
def test_a_key_that_cant_be_used_is_refused_and_never_shown(arguments: tuple[str, ...]) -> None:
    with pytest.raises(UsageError) as refused:
        signing_keys(read_settings(UserSettings, "user", arguments, {}))
    assert KEY not in str(refused.value)
    assert "short" not in str(refused.value)


def test_in_development_a_token_is_signed_by_a_key_of_this_folder_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("RINGLEDGER_JWT_KEYS", "RINGLEDGER_JWT_AUDIENCE"):
        monkeypatch.delenv(name, raising=False)
    assert run(["--accounts", "1,2", "--subject", "bob"]) == 0
    token = capsys.readouterr().out.strip()
    settings = read_settings(UserSettings, "user", ["--development"], {})
    caller = UserTokens(signing_keys(settings), AUDIENCE).caller(header(token))
    assert caller is not None
    assert caller.accounts == frozenset({1, 2})
    [key] = (tmp_path / "data").iterdir()
    assert key.stat().st_mode & 0o777 == 0o600
    for wrong in ("", "0", "x", "1,", "1" * 30):
        assert run(["--accounts", wrong]) == 2
