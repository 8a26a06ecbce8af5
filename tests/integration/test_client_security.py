"""Client against a real leader and follower with TLS, client certificates and tokens."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest

from client_core import Client, Unauthenticated, Unavailable
from client_core.testing import FakeNode
from tests.certificates import Authority, Signed
from tests.follower_process import FollowerProcess
from tests.leader_process import LeaderProcess, journal_url
from tests.unit.test_client_settings import make_certificate

TOKEN = "right-token-0123456789"
WRONG = "wrong-token-0123456789"
SOON_S = 2.0


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("secured")


@pytest.fixture(scope="module")
def authority(folder: Path) -> Authority:
    return Authority(folder, "authority")


@pytest.fixture(scope="module")
def client(authority: Authority) -> Signed:
    return authority.sign("client")


@pytest.fixture(scope="module")
def nodes(folder: Path, authority: Authority) -> Iterator[tuple[LeaderProcess, FollowerProcess]]:
    """Both with TLS, client certificates and a token."""
    node, ca = authority.sign("node"), authority.own.certificate_file
    (folder / "tokens").write_text(f"{TOKEN}\n")
    flags = [
        *("--tls-cert", str(node.certificate_file), "--tls-key", str(node.key_file)),
        *("--tls-client-ca", str(ca), "--token", f"@{folder / 'tokens'}", "--no-snapshot"),
    ]
    journal = journal_url(folder)
    with LeaderProcess(journal, *flags) as leader:
        leader.wait_ready()
        with FollowerProcess(folder, journal, *flags) as follower:
            yield leader, follower.wait_ready()


@pytest.fixture
def secure(authority: Authority, client: Signed) -> dict[str, Any]:
    return {
        "tls_ca": authority.own.certificate_file,
        "tls_cert": client.certificate_file,
        "tls_key": client.key_file,
        "token": TOKEN,
        "connect_timeout_s": SOON_S,
    }


async def test_commands_and_queries_pass_with_certificate_and_token(
    nodes: tuple[LeaderProcess, FollowerProcess], secure: dict[str, Any]
) -> None:
    leader, follower = nodes
    # the leader is found by way of the follower
    async with Client(follower.address, **secure) as ledger:
        account = (await ledger.create_account()).entity
        await ledger.deposit(account, 7)
        assert (await ledger.account(account)).posted == 7
        assert (await ledger.account(account, consistency="linearizable")).posted == 7
        roles = {status.role: status.address for status in await ledger.cluster()}
        assert roles == {"leader": leader.address, "follower": follower.address}


@pytest.mark.parametrize("token", [WRONG, ""])
async def test_a_wrong_or_missing_token_is_told_at_once_and_never_shown(
    nodes: tuple[LeaderProcess, FollowerProcess], secure: dict[str, Any], token: str
) -> None:
    for node in nodes:
        with pytest.raises(Unauthenticated) as told:
            async with Client(node.address, **secure | {"token": token}):
                pass
        assert "token" in str(told.value)
        assert WRONG not in str(told.value)
        assert TOKEN not in str(told.value)


async def test_a_client_that_disagrees_about_tls_is_told_so_in_time(
    nodes: tuple[LeaderProcess, FollowerProcess], secure: dict[str, Any], tmp_path: Path
) -> None:
    foreign = Authority(tmp_path, "foreign")
    stranger = foreign.sign("stranger")
    plain = dict.fromkeys(("tls_ca", "tls_cert", "tls_key"), "")
    for wrong, advice in (
        (plain, "perhaps it wants TLS (tls_ca)"),
        ({"tls_ca": foreign.own.certificate_file}, "is not signed by tls_ca"),
        ({"tls_cert": "", "tls_key": ""}, "another client certificate (tls_cert)"),
        (
            {"tls_cert": stranger.certificate_file, "tls_key": stranger.key_file},
            "another client certificate (tls_cert)",
        ),
    ):
        with pytest.raises(Unavailable) as told:
            async with Client(nodes[0].address, **secure | wrong):
                pass
        assert advice in str(told.value)
        assert TOKEN not in str(told.value)
        assert nodes[0].address in str(told.value)


async def test_a_client_with_tls_is_told_by_a_plain_node(
    tmp_path: Path, secure: dict[str, Any]
) -> None:
    with LeaderProcess(journal_url(tmp_path)) as plain:
        address = plain.wait_ready().address
        with pytest.raises(Unavailable) as told:
            async with Client(address, **secure):
                pass
        assert "the node speaks no TLS: leave out tls_ca" in str(told.value)


async def test_tls_and_client_certificates(tmp_path: Path) -> None:
    cert, key = make_certificate(tmp_path, "node")
    other, _ = make_certificate(tmp_path, "other")
    mine, my_key = make_certificate(tmp_path, "mine")
    pair = [(key.read_bytes(), cert.read_bytes())]
    mutual = grpc.ssl_server_credentials(pair, mine.read_bytes(), require_client_auth=True)
    with ExitStack() as stack:
        plain = stack.enter_context(FakeNode(credentials=grpc.ssl_server_credentials(pair)))
        strict = stack.enter_context(FakeNode(credentials=mutual))
        async with Client(plain.address, tls_ca=cert) as ledger:
            assert (await ledger.create_account()).accepted
        async with Client(strict.address, tls_ca=cert, tls_cert=mine, tls_key=my_key) as ledger:
            assert (await ledger.create_account()).accepted
        for address, ca in ((plain.address, other), (plain.address, ""), (strict.address, cert)):
            with pytest.raises(Unavailable):
                async with Client(address, tls_ca=ca, connect_timeout_s=0.5):
                    pass
