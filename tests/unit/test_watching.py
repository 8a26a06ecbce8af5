"""What a slow watcher is told of its gap."""

from cluster_app.watching import _Watcher


def test_a_gap_is_told_from_where_it_began() -> None:
    watcher = _Watcher([1])
    watcher.told = 100
    watcher.miss(140)
    watcher.miss(150)
    assert watcher.take_gap() == 140
    assert watcher.take_gap() is None


def test_a_gap_noted_while_newer_states_were_read_begins_where_these_end() -> None:
    watcher = _Watcher([1])
    watcher.miss(140)
    watcher.told = 200  # the states of all accounts, read after the gap had been noted
    assert watcher.take_gap() == 200
