"""The native edge's own reads of the books, with arrays that a test changes by hand."""

import selectors
import threading
from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pytest

from cluster_app.settings import LeaderSettings
from cluster_core.books import TURN
from proto import balance_pb2, balance_pb2_grpc

pytest.importorskip("cluster_app.edge._native", reason="the native edge isn't built")

DEADLINE_S = 20.0
ACCOUNTS = 4
WORDS_A_ROW = 64
"""More than any row of the books has."""

PASSED_ON = balance_pb2.BalanceQueryResult(baseResult={"message": "by Python"})


@pytest.fixture
def marks() -> np.ndarray[Any, Any]:
    return np.zeros(WORDS_A_ROW, np.uint64)


@pytest.fixture
def channel(marks: np.ndarray[Any, Any]) -> Iterator[grpc.Channel]:
    """To an edge whose questions are answered at once, with PASSED_ON."""
    from cluster_app.edge._native import Edge
    from cluster_app.edge.serving import edge_settings

    settings = edge_settings(LeaderSettings(), None, max_in_flight=1, max_streams=1)
    edge = Edge("127.0.0.1:0", False, settings)
    ledger = np.zeros(WORDS_A_ROW, np.uint64)
    ledger[1] = ACCOUNTS
    rows = np.ones(WORDS_A_ROW * ACCOUNTS, np.uint64)
    edge.read_books(marks, ledger, rows, rows)
    edge.start()
    over = threading.Event()
    answering = threading.Thread(target=answer_questions, args=(edge, over))
    answering.start()
    try:
        with grpc.insecure_channel(f"127.0.0.1:{edge.port}") as channel:
            yield channel
    finally:
        over.set()
        answering.join()
        edge.stop(0.0)


def answer_questions(edge: Any, over: threading.Event) -> None:
    with selectors.DefaultSelector() as selector:
        selector.register(edge.wake_descriptor, selectors.EVENT_READ)
        while not over.is_set():
            if selector.select(0.05):
                edge.clear_wake()
                for _, number, *_ in edge.events():
                    edge.answer(number, PASSED_ON.SerializeToString())


def ask(channel: grpc.Channel, count: int) -> list[balance_pb2.BalanceQueryResult]:
    query = balance_pb2.BalanceQuery(singleBalanceQuery={"id": 1})
    stub = balance_pb2_grpc.BalanceQueryServiceStub(channel)
    return list(stub.sendQuery(iter([query] * count), timeout=DEADLINE_S))


def test_queries_are_read_from_the_books_between_two_turns(channel: grpc.Channel) -> None:
    assert [result.singleBalanceResult.amount for result in ask(channel, 10)] == [1] * 10


def test_a_writer_that_stopped_inside_its_turn_holds_up_no_other_call(
    channel: grpc.Channel, marks: np.ndarray[Any, Any]
) -> None:
    marks[TURN] = 1
    assert ask(channel, 2_000) == [PASSED_ON] * 2_000
    marks[TURN] = 2
    assert ask(channel, 1)[0].singleBalanceResult.amount == 1
