"""The app does what its OpenAPI document says: schemathesis calls every route on a real leader."""

from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.admin_process import AdminProcess
from tests.archiver_process import ArchiverProcess
from tests.leader_process import LeaderProcess, journal_url


def no_fault(_: Any, response: Any, case: Any) -> None:
    """Busy or too old a node is no fault of the app's; these are."""
    assert response.status_code not in {500, 502}, (case, response.text)


CHECKS = [
    no_fault,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AdminProcess]:
    folder = tmp_path_factory.mktemp("schema")
    journal, history = journal_url(folder), f"sqlite:///{folder / 'history.db'}"
    with (
        LeaderProcess(journal).wait_ready() as leader,
        ArchiverProcess(folder, journal, history).wait_ready() as archiver,
        AdminProcess(
            leader.address, "--rate-limit", "0", "--history-endpoint", archiver.address
        ).wait_ready() as admin,
    ):
        for _ in range(3):
            admin.call("POST", "/api/v1/accounts")
        admin.call("POST", "/api/v1/deposits", {"credit_account": 1, "amount": "1000000.00"})
        yield admin


@pytest.mark.timeout(300)
def test_every_route_answers_as_the_document_says(app: AdminProcess) -> None:
    document = schemathesis.openapi.from_url(f"http://{app.address}/openapi.json")
    called = 0
    for found in document.get_all_operations():
        operation = found.ok()  # type: ignore[union-attr]  # our document is valid

        @seed(20_261_121)
        @settings(
            max_examples=30,
            deadline=None,
            database=None,
            phases=(Phase.explicit, Phase.generate),
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy())
        def call(case: Any) -> None:
            case.call_and_validate(checks=CHECKS, timeout=30)

        call()
        called += 1
    assert called == 28
