"""The admin app before a node that asks who calls: mTLS and a token, by the client's variables."""

from collections.abc import Iterator

import pytest

from tests.admin_process import AdminProcess
from tests.certificates import Authority, Signed
from tests.leader_process import LeaderProcess, journal_url

TOKEN = "a-token-that-nobody-may-see"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"), "authority")


@pytest.fixture(scope="module")
def leader(
    tmp_path_factory: pytest.TempPathFactory, authority: Authority
) -> Iterator[LeaderProcess]:
    folder = tmp_path_factory.mktemp("secured")
    node = authority.sign("node")
    secret = folder / "token"
    secret.write_text(f"{TOKEN}\n")
    with LeaderProcess(
        journal_url(folder),
        *("--tls-cert", str(node.certificate_file), "--tls-key", str(node.key_file)),
        *(
            "--tls-client-ca",
            str(authority.own.certificate_file),
            "--token",
            f"@{secret}",
        ),
    ) as leader:
        yield leader.wait_ready()


@pytest.fixture(scope="module")
def variables(authority: Authority) -> dict[str, str]:
    own: Signed = authority.sign("admin")
    return {
        "RINGLEDGER_TLS_CA": str(authority.own.certificate_file),
        "RINGLEDGER_TLS_CERT": str(own.certificate_file),
        "RINGLEDGER_TLS_KEY": str(own.key_file),
        "RINGLEDGER_TOKEN": TOKEN,
    }


def test_with_certificate_and_token_it_serves_and_shows_neither(
    leader: LeaderProcess, variables: dict[str, str]
) -> None:
    with AdminProcess(leader.address, variables=variables).wait_ready() as app:
        assert app.call("POST", "/api/v1/accounts").status == 201
        body = {"credit_account": 1, "amount": "1.00"}
        assert app.call("POST", "/api/v1/deposits", body).status == 200
        assert app.call("GET", "/api/v1/accounts/1").json["posted"] == "1.00"
        assert TOKEN not in str(app.call("GET", "/api/v1/cluster"))
        code, log = app.stop()
        assert (code, TOKEN in log) == (0, False)


@pytest.mark.parametrize(
    "wrong",
    [
        {"RINGLEDGER_TOKEN": "another-token-entirely"},
        {"RINGLEDGER_TLS_CERT": "", "RINGLEDGER_TLS_KEY": ""},
        {"RINGLEDGER_TOKEN": "a token with spaces"},
        {"RINGLEDGER_TLS_KEY": "/nowhere"},
    ],
    ids=["another token", "no certificate", "no token", "no key"],
)
def test_without_them_it_ends_with_one_line_that_shows_no_secret(
    leader: LeaderProcess, variables: dict[str, str], wrong: dict[str, str]
) -> None:
    with AdminProcess(leader.address, variables=variables | wrong) as app:
        log = app.output()
        assert app.process.returncode in {1, 2}
    [line] = [line for line in log.splitlines() if line.startswith("error: ")]
    assert "Traceback" not in log
    assert wrong.get("RINGLEDGER_TOKEN", TOKEN) not in line
