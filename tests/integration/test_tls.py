"""TLS of a real leader: who gets in, files that can't be used, and files that change."""

from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519

from cluster_app.errors import UsageError
from cluster_app.settings import LeaderSettings
from proto import ledger_pb2, ledger_pb2_grpc
from tests.certificates import Authority, Signed, encrypted_key
from tests.integration.test_leader_contracts import bank
from tests.leader_process import LeaderProcess, journal_url
from tests.server_process import poll_until

DEADLINE_S = 20.0


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tls")


@pytest.fixture(scope="module")
def authority(folder: Path) -> Authority:
    return Authority(folder, "authority")


@pytest.fixture(scope="module")
def stranger(folder: Path) -> Authority:
    return Authority(folder, "stranger")


@pytest.fixture(scope="module")
def node(authority: Authority) -> Signed:
    return authority.sign("node")


def leader_with(folder: Path, node: Signed, *flags: str) -> LeaderProcess:
    return LeaderProcess(
        journal_url(folder),
        *("--tls-cert", str(node.certificate_file), "--tls-key", str(node.key_file)),
        *flags,
    )


@pytest.fixture(scope="module")
def leader(edge: str, folder: Path, node: Signed) -> Iterator[LeaderProcess]:
    with leader_with(folder, node) as process:
        yield process.wait_ready()


@pytest.fixture(scope="module")
def mutual(
    edge: str, tmp_path_factory: pytest.TempPathFactory, node: Signed, authority: Authority
) -> Iterator[LeaderProcess]:
    """A leader whose clients must present a certificate."""
    flag = ("--tls-client-ca", str(authority.own.certificate_file))
    with leader_with(tmp_path_factory.mktemp("mutual"), node, *flag) as process:
        yield process.wait_ready()


def channel_to(address: str, trusted: Signed | None, client: Signed | None) -> grpc.Channel:
    if trusted is None:
        return grpc.insecure_channel(address)
    own = (client.key, client.certificate) if client else (None, None)
    options = (("grpc.use_local_subchannel_pool", 1),)  # no connection of a test before
    credentials = grpc.ssl_channel_credentials(trusted.certificate, *own)
    return grpc.secure_channel(address, credentials, options)


def served(address: str, trusted: Signed | None, client: Signed | None = None) -> bool:
    """Whether a status call and a bank command are answered; False if no connection comes up."""
    with channel_to(address, trusted, client) as channel:
        try:
            ledger_pb2_grpc.ClusterServiceStub(channel).GetStatus(
                ledger_pb2.GetStatusRequest(), timeout=DEADLINE_S
            )
        except grpc.RpcError as error:
            if error.code() is grpc.StatusCode.UNAVAILABLE:
                return False
            raise
        [(code, _, _)] = bank(channel, {"createBalanceCommand": {"correlationId": "c"}})
        assert code == 0
        return True


def test_a_client_that_trusts_the_authority_is_served(
    leader: LeaderProcess, authority: Authority
) -> None:
    assert served(leader.address, authority.own)


def test_a_client_of_another_authority_and_a_plain_one_are_not(
    leader: LeaderProcess, stranger: Authority
) -> None:
    assert not served(leader.address, stranger.own)
    assert not served(leader.address, None)


def test_mutual_tls_takes_only_clients_with_a_certificate_of_its_authority(
    mutual: LeaderProcess, authority: Authority, stranger: Authority
) -> None:
    assert served(mutual.address, authority.own, authority.sign("client"))
    assert not served(mutual.address, authority.own)
    assert not served(mutual.address, authority.own, stranger.sign("foreign client"))
    assert not served(mutual.address, authority.own, authority.sign("late", days=-1, from_days=-9))


def test_changed_files_are_used_for_new_connections_unless_they_cannot_be(
    tmp_path: Path, stranger: Authority, authority: Authority
) -> None:
    node = authority.sign("changing")
    with leader_with(tmp_path, node) as process:
        address = process.wait_ready().address
        assert served(address, authority.own)
        other = stranger.sign("other")
        # a key that doesn't fit yet: the old pair is served on
        node.key_file.write_bytes(other.key)
        assert served(address, authority.own)
        node.certificate_file.write_bytes(other.certificate)
        assert poll_until(lambda: served(address, stranger.own), DEADLINE_S)
        assert not served(address, authority.own)
        process.process.terminate()
        code, log = process.wait_exit()
    assert code == 0
    assert log.count("the old ones stay") == 1
    assert "changed TLS files are used" in log
    assert "PRIVATE KEY" not in log


def refused(**settings: Path | str) -> str:
    with pytest.raises(UsageError) as error:
        LeaderSettings(**{name: str(value) for name, value in settings.items()})  # type: ignore[arg-type]
    return str(error.value)


def test_files_that_cannot_be_used_are_refused_at_the_start_each_in_one_line(
    folder: Path, authority: Authority, stranger: Authority, node: Signed
) -> None:
    certificate, key = node.certificate_file, node.key_file
    empty = folder / "empty.pem"
    empty.write_text("")
    old = authority.sign("old", days=0, from_days=-9)
    early = authority.sign("early", days=9, from_days=3)
    modern = authority.sign("modern", key=ed25519.Ed25519PrivateKey.generate())
    for said, settings in (
        ("go together", {"tls_cert": certificate}),
        ("go together", {"tls_key": key}),
        ("needs --tls-cert", {"tls_client_ca": certificate}),
        ("--tls-cert: cannot read /nowhere.pem", {"tls_cert": "/nowhere.pem", "tls_key": key}),
        ("--tls-key: cannot read /nowhere", {"tls_cert": certificate, "tls_key": "/nowhere"}),
        ("holds no PEM certificate", {"tls_cert": empty, "tls_key": key}),
        ("holds no PEM private key", {"tls_cert": certificate, "tls_key": empty}),
        ("doesn't fit", {"tls_cert": certificate, "tls_key": stranger.own.key_file}),
        ("expired on", {"tls_cert": old.certificate_file, "tls_key": old.key_file}),
        ("valid only from", {"tls_cert": early.certificate_file, "tls_key": early.key_file}),
        ("RSA", {"tls_cert": modern.certificate_file, "tls_key": modern.key_file}),
        ("is encrypted", {"tls_cert": certificate, "tls_key": encrypted_key(folder / "e.key")}),
        ("--tls-client-ca", {"tls_cert": certificate, "tls_key": key, "tls_client_ca": empty}),
        (
            "expired",
            {"tls_cert": certificate, "tls_key": key, "tls_client_ca": old.certificate_file},
        ),
    ):
        message = refused(**settings)
        assert said in message
        assert "\n" not in message


def test_a_leader_with_a_wrong_key_leaves_with_exit_code_2(
    tmp_path: Path, node: Signed, stranger: Authority
) -> None:
    wrong = ("--tls-key", str(stranger.own.key_file))
    with leader_with(tmp_path, node, *wrong) as process:
        code, log = process.wait_exit()
    assert code == 2
    assert "doesn't fit" in log
