"""Settings of a node: where its snapshots are, and what a learner takes."""

import pytest

from cluster_app.errors import UsageError
from cluster_app.settings import LeaderSettings, LearnerSettings, read_settings


@pytest.mark.parametrize(
    ("journal", "snapshots"),
    [
        ("sqlite:///data/journal.db", "sqlite:///data/snapshots.db"),
        ("sqlite:////var/lib/ledger/journal.db", "sqlite:////var/lib/ledger/snapshots.db"),
        ("sqlite:///euro.db", "sqlite:///euro-snapshots.db"),
        ("sqlite:///some.where/euro", "sqlite:///some.where/euro-snapshots"),
        ("kafka://a:9092,b:9092/euro", "sqlite:///data/euro-snapshots.db"),
    ],
)
def test_a_leader_and_a_learner_of_one_journal_have_the_same_snapshots(
    journal: str, snapshots: str
) -> None:
    for settings in (LeaderSettings, LearnerSettings):
        assert settings(journal=journal).snapshots_url() == snapshots
        assert settings(journal=journal, snapshots="sqlite:///x").snapshots_url() == "sqlite:///x"


def test_no_snapshot_is_a_flag_and_a_variable() -> None:
    assert read_settings(LearnerSettings, "learner", [], {}).snapshot
    assert not read_settings(LearnerSettings, "learner", ["--no-snapshot"], {}).snapshot
    variable = {"RINGLEDGER_SNAPSHOT": "false"}
    assert not read_settings(LeaderSettings, "leader", [], variable).snapshot


@pytest.mark.parametrize(
    "arguments",
    [
        ["--snapshot-interval-s", "0"],
        ["--snapshot-interval-s", "nan"],
        ["--snapshot-interval-commands", "-1"],
        ["--stop-timeout-s", "-1"],
        ["--log-level", "loud"],
    ],
)
def test_a_learner_refuses_what_can_t_be_used(arguments: list[str]) -> None:
    with pytest.raises(UsageError, match=arguments[0]):
        read_settings(LearnerSettings, "learner", arguments, {})


def test_a_store_s_password_is_neither_in_help_nor_in_repr(
    capsys: pytest.CaptureFixture[str],
) -> None:
    variable = {"RINGLEDGER_SNAPSHOTS": "postgresql+psycopg://user:topsecret@host/ledger"}
    assert "topsecret" not in repr(read_settings(LearnerSettings, "learner", [], variable))
    with pytest.raises(SystemExit):
        read_settings(LearnerSettings, "learner", ["--help"], variable)
    assert "topsecret" not in capsys.readouterr().out
