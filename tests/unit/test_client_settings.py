"""Endpoints, TLS files and tokens as users give them: bounded, told clearly, never shown."""

import subprocess
from pathlib import Path

import pytest

from client_core import Client
from client_core.endpoints import parse_endpoints
from client_core.security import read_security

SECRET = "s3cret-token"


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ENDPOINTS", "TLS_CA", "TLS_CERT", "TLS_KEY", "TOKEN"):
        monkeypatch.delenv(f"RINGLEDGER_{name}", raising=False)


def test_endpoints_come_as_text_as_a_list_or_from_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert parse_endpoints("a:1, b.c:65535,a:1,") == ("a:1", "b.c:65535")
    assert parse_endpoints(["[::1]:9500"]) == ("[::1]:9500",)
    monkeypatch.setenv("RINGLEDGER_ENDPOINTS", "10.0.0.1:9500")
    assert parse_endpoints(None) == ("10.0.0.1:9500",)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("", "RINGLEDGER_ENDPOINTS"),
        (None, "RINGLEDGER_ENDPOINTS"),
        ("localhost", "HOST:PORT"),
        ("localhost:0", "HOST:PORT"),
        ("localhost:65536", "HOST:PORT"),
        ("http://localhost:80", "HOST:PORT"),
        ("a b:1", "HOST:PORT"),
        ("x" * 300 + ":1", "HOST:PORT"),
        ([f"h:{port}" for port in range(1, 66)], "64 at most"),
    ],
)
def test_what_is_no_endpoint_is_refused_and_told(given: str | list[str] | None, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        parse_endpoints(given)


def test_a_token_comes_from_an_argument_a_file_or_the_environment_and_is_never_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "token"
    file.write_text(f"{SECRET}\nolder\n")
    monkeypatch.setenv("RINGLEDGER_TOKEN", "from-environment")
    assert read_security(token=SECRET).token == SECRET
    assert read_security(token=f"@{file}").token == SECRET
    assert read_security().token == "from-environment"
    assert read_security(token="").metadata == ()
    security = read_security(token=SECRET)
    assert security.metadata == (("authorization", f"Bearer {SECRET}"),)
    client = Client("127.0.0.1:1", token=SECRET)
    for shown in (repr(security), repr(client), str(vars(client))):
        assert SECRET not in shown


@pytest.mark.parametrize("token", ["two words", "new\nline", "é", "x" * 4_097])
def test_a_token_that_no_header_can_carry_is_refused_without_showing_it(token: str) -> None:
    with pytest.raises(ValueError, match="printable ASCII") as error:
        read_security(token=token)
    assert token not in str(error.value)


def test_an_empty_token_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("\n")
    with pytest.raises(ValueError, match="first line"):
        read_security(token=f"@{tmp_path / 'token'}")


def make_certificate(folder: Path, name: str) -> tuple[Path, Path]:
    """A self-signed certificate for 127.0.0.1 and its key."""
    cert, key = folder / f"{name}.pem", folder / f"{name}.key"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"),
            *("-nodes", "-days", "2", "-subj", f"/CN={name}"),
            *("-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(cert)),
        ],
        check=True,
        capture_output=True,
    )
    return cert, key


def test_tls_files_that_cannot_be_used_are_refused_by_name(tmp_path: Path) -> None:
    cert, key = make_certificate(tmp_path, "one")
    _, other_key = make_certificate(tmp_path, "other")
    rubbish = tmp_path / "rubbish"
    rubbish.write_text("no certificate")
    with pytest.raises(ValueError, match="can't be read"):
        read_security(tls_ca=tmp_path / "absent")
    with pytest.raises(ValueError, match="no PEM certificate"):
        read_security(tls_ca=rubbish)
    with pytest.raises(ValueError, match="both tls_cert and tls_key"):
        read_security(tls_ca=cert, tls_cert=cert)
    with pytest.raises(ValueError, match="needs tls_ca"):
        read_security(tls_cert=cert, tls_key=key)
    with pytest.raises(ValueError, match="belongs together"):
        read_security(tls_ca=cert, tls_cert=cert, tls_key=other_key)
    security = read_security(tls_ca=cert, tls_cert=cert, tls_key=key)
    assert security.credentials is not None
    assert "PRIVATE KEY" not in repr(security)


@pytest.mark.parametrize("name", ["timeout_s", "query_timeout_s"])
@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf")])
def test_a_deadline_that_is_none_is_refused(name: str, value: float) -> None:
    arguments: dict[str, float] = {name: value}
    with pytest.raises(ValueError, match=name):
        Client("127.0.0.1:1", **arguments)  # type: ignore[arg-type]


def test_a_consistency_that_there_is_not_is_refused() -> None:
    with pytest.raises(ValueError, match="linearizable"):
        Client("127.0.0.1:1", consistency="eventual")  # type: ignore[arg-type]
