"""Which edge serves a node, by its setting and by what is built."""

import sys

import pytest
from structlog.testing import capture_logs

from cluster_app.edges import is_native
from cluster_app.errors import Fault, UsageError
from cluster_app.settings import FollowerSettings, LeaderSettings

EXTENSION = "cluster_app.edge._native"


@pytest.fixture
def not_built(monkeypatch: pytest.MonkeyPatch) -> None:
    """As after an install without a Rust toolchain: the import fails."""
    monkeypatch.setitem(sys.modules, EXTENSION, None)


@pytest.mark.usefixtures("not_built")
def test_without_the_extension_grpc_aio_serves_and_one_line_says_so() -> None:
    with capture_logs() as logs:
        assert not is_native("auto")
        assert not is_native("auto", tells=False)
        assert not is_native("grpcio")
    [line] = logs
    assert "install Rust" in line["why"]


@pytest.mark.usefixtures("not_built")
def test_a_node_that_must_have_the_extension_refuses_to_start_without() -> None:
    with pytest.raises(Fault, match="make setup"):
        is_native("native")


def test_with_the_extension_it_serves_unless_grpc_aio_is_asked_for() -> None:
    pytest.importorskip(EXTENSION)
    assert is_native("auto")
    assert is_native("native")
    assert not is_native("grpcio")


@pytest.mark.parametrize("settings", [LeaderSettings, FollowerSettings])
def test_any_other_edge_is_refused(settings: type[LeaderSettings | FollowerSettings]) -> None:
    assert settings().edge == "auto"
    with pytest.raises(UsageError, match="auto, native or grpcio"):
        settings(edge="tonic")
