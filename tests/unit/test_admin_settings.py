"""The admin app's settings, keys and rate limit."""

from pathlib import Path

import pytest

from client_app.auth import ANYBODY, ApiKeys, Caller, RateLimit
from client_app.errors import UsageError
from client_app.settings import AdminSettings, is_loopback, read_settings

KEY = "0123456789abcdef"


def read(*arguments: str, **environment: str) -> AdminSettings:
    given = {f"RINGLEDGER_{name}": value for name, value in environment.items()}
    return read_settings(AdminSettings, "admin", arguments, given)


def test_a_flag_wins_over_its_variable_and_that_over_the_default() -> None:
    settings = read("--rate-limit", "5", RATE_LIMIT="7", DEVELOPMENT="1", TIMEOUT_S="3.5")
    assert (settings.rate_limit, settings.timeout_s) == (5.0, 3.5)
    assert settings.listen == "127.0.0.1:8900"


def test_without_keys_it_refuses_to_start_unless_for_development_on_loopback() -> None:
    with pytest.raises(UsageError, match="RINGLEDGER_API_KEYS"):
        read()
    with pytest.raises(UsageError, match="serves anybody"):
        read("--listen", "0.0.0.0:8900", DEVELOPMENT="1")
    assert read("--listen", "[::1]:8900", DEVELOPMENT="1").development
    assert read("--listen", "0.0.0.0:8900", API_KEYS=f"a:{KEY}").callers() == [("a", KEY)]


@pytest.mark.parametrize(
    ("address", "loopback"),
    [
        *(("127.0.0.1:1", True), ("127.9.9.9:1", True), ("localhost:1", True), ("[::1]:1", True)),
        *(("0.0.0.0:1", False), ("[::]:1", False), ("10.0.0.1:1", False), ("example.org:1", False)),
    ],
)
def test_loopback_is_told_by_the_address(address: str, loopback: bool) -> None:
    assert is_loopback(address) is loopback


def test_keys_come_from_a_file_too_with_comments_and_several_for_one_name(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(f"# ours\nbilling:{KEY}\n\nbilling:{KEY}2\nops:{KEY}3\n")
    names = [name for name, _ in read(API_KEYS=f"@{file}").callers()]
    assert names == ["billing", "billing", "ops"]


@pytest.mark.parametrize(
    "keys", ["a", "a:short", f"a b:{KEY}", f"a:{KEY} x", f"a:{KEY},b:{KEY}", "@/nowhere", "@", "#"]
)
def test_keys_that_cant_be_used_are_refused_without_being_shown(keys: str) -> None:
    with pytest.raises(UsageError) as refused:
        read(API_KEYS=keys)
    assert KEY not in str(refused.value)
    assert "short" not in str(refused.value)


def test_help_names_the_variables_that_tell_how_to_reach_the_nodes(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit):
        read("--help")
    said = capsys.readouterr().out
    for name in ("TLS_CA", "TLS_CERT", "TLS_KEY", "TOKEN"):
        assert f"RINGLEDGER_{name}" in said


def test_no_key_is_shown_by_the_settings_or_by_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert KEY not in repr(read(API_KEYS=f"a:{KEY}"))
    with pytest.raises(SystemExit):
        read("--help", API_KEYS=f"a:{KEY}")
    shown = capsys.readouterr().out
    assert KEY not in shown
    assert "--api-keys" in shown


@pytest.mark.parametrize(
    "arguments",
    [
        *(("--endpoints", "x"), ("--endpoints", ""), ("--endpoints", ",".join(["a:1"] * 65))),
        *(("--listen", "8900"), ("--rate-limit", "nan"), ("--rate-limit", "-1")),
        *(("--rate-burst", "0"), ("--max-body-bytes", "10"), ("--timeout-s", "0")),
        *(("--max-requests", "0"), ("--https-cert", "/x"), ("--log-level", "loud")),
        ("--timeout-s", "x"),
    ],
)
def test_a_setting_that_cant_be_used_is_named(arguments: tuple[str, ...]) -> None:
    with pytest.raises(UsageError, match=arguments[0]):
        read(*arguments, DEVELOPMENT="1")


def test_a_caller_is_known_by_the_key_alone() -> None:
    keys = ApiKeys([("a", KEY), ("b", KEY + "2")])
    assert keys.caller(f"Bearer {KEY}".encode()) == Caller("a")
    assert keys.caller(f"bearer   {KEY}2".encode()) == Caller("b")
    for wrong in (None, b"", b"Bearer ", b"Bearer x", KEY.encode(), b"Basic " + KEY.encode()):
        assert keys.caller(wrong) is None
    assert keys.caller(b"Bearer " + b"x" * 10_000) is None
    assert KEY not in repr(vars(keys))
    assert ApiKeys([]).caller(None) == Caller(ANYBODY)


def test_a_caller_gets_a_burst_and_then_the_rate_and_others_their_own() -> None:
    now = 0.0
    limit = RateLimit(10.0, 5, lambda: now)
    assert [limit.take("a") for _ in range(7)] == [0, 0, 0, 0, 0, 1, 1]
    assert limit.take("b") == 0
    now = 0.1
    assert [limit.take("a") for _ in range(2)] == [0, 1]
    now = 1_000.0
    assert [limit.take("a") for _ in range(6)] == [0, 0, 0, 0, 0, 1]


def test_a_slow_rate_tells_how_long_to_wait() -> None:
    limit = RateLimit(0.1, 1, lambda: 0.0)
    assert (limit.take("a"), limit.take("a")) == (0, 10)


def test_rate_zero_lets_everybody_pass() -> None:
    limit = RateLimit(0.0, 1)
    assert not any(limit.take("a") for _ in range(1_000))


def test_the_table_of_callers_is_bounded() -> None:
    limit = RateLimit(1.0, 1, lambda: 0.0)
    for number in range(20_000):
        limit.take(str(number))
    assert len(limit._buckets) == 16_384
