"""The logs' form where standard error is no terminal: one JSON object a line."""

import json
from collections.abc import Iterator

import pytest
import structlog

from cluster_app.logs import configure_logs


@pytest.fixture(autouse=True)
def logs_as_they_were() -> Iterator[None]:
    yield
    structlog.reset_defaults()


def test_a_fault_is_logged_with_its_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logs("info")
    try:
        _ = 1 // 0
    except ZeroDivisionError:
        structlog.get_logger().exception("engine_fault", offset=7)
    [line] = capsys.readouterr().err.splitlines()
    logged = json.loads(line)
    assert (logged["event"], logged["level"], logged["offset"]) == ("engine_fault", "error", 7)
    assert logged["exception"].startswith("Traceback")
    assert logged["exception"].endswith("ZeroDivisionError: integer division or modulo by zero")
