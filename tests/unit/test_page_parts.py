"""What the pages make of the ledger's answers, and what they let through to it."""

import json
import re

import pytest

from client_app.page_socket import CheckedSocket, RefusedFrame, check_frame
from client_app.pages.operations import OPERATIONS, Field, body_of
from client_app.pages.plot import SHOWN, ceiling_of, paths_of
from client_app.pages.texts import change_text, duration, grouped, hold_text, rounded
from client_app.pages.view_cluster import figures

ME = "0b9a2f0e-0000-4000-8000-000000000001"


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "\u2013"),
        (0, "0"),
        (1234567, "1,234,567"),
        ("-1234.5678", "\u22121,234.5678"),
        (2**64 - 1, "18,446,744,073,709,551,615"),
        ("0.000000000000000001", "0.000000000000000001"),
    ],
)
def test_digits_stand_in_groups_and_none_is_lost(value: object, shown: str) -> None:
    assert grouped(value) == shown


def test_rates_spans_and_changes_are_short() -> None:
    assert [rounded(value) for value in (None, 0.04, 9.96, 12345.6)] == [
        "\u2013",
        "0.0",
        "10.0",
        "12,346",
    ]
    spans = [duration(value) for value in (0.2, 89, 600, 7200, 200_000)]
    assert spans == ["under 1 s", "89 s", "10 min", "2 h", "2 days"]
    changes = [change_text(text) for text in ("0.00", "12.50", "-1000")]
    assert changes == ["\u2013", "+12.50", "\u22121,000"]


def test_an_entry_says_which_hold_it_was_and_how_much() -> None:
    entry = {"hold": 7, "amount": "1000.00"}
    assert hold_text(entry | {"operation": "hold"}) == " 7: 1,000.00"
    assert hold_text(entry | {"operation": "expire"}) == " of hold 7: 1,000.00"
    assert hold_text(entry | {"operation": "capture"}) == " of hold 7"
    assert hold_text(entry | {"hold": 0, "operation": "deposit"}) == ""


@pytest.mark.parametrize(("value", "ceiling"), [(0, 10), (10, 10), (11, 20), (24, 25), (2e6, 2e6)])
def test_a_plot_ends_at_a_round_number(value: float, ceiling: float) -> None:
    assert ceiling_of(value) == ceiling


def test_a_plot_has_a_gap_where_nothing_is_known_and_its_newest_value_on_the_right() -> None:
    line, area, dot = paths_of([1.0, 2.0, None, 4.0, 10.0], 10.0)
    assert line.count("M") == area.count("M") == 2
    assert dot == "M1000.0 0.0h0"
    assert paths_of([], 10.0) == paths_of([None] * SHOWN, 10.0) == ("", "", "")


def test_figures_are_told_apart_from_what_is_not_there() -> None:
    status = {"nodes": [{"reachable": False}], "rate": None, "now_ns": 5_000_000_000}
    assert set(figures(status).values()) == {"\u2013", "no learner", "no archiver"}
    leader = {
        "reachable": True,
        "role": "leader",
        "applied_sequence": 1000,
        "accounts": 7,
        "ring_capacity": 400,
        "in_flight_commands": 1,
    }
    learner = {"reachable": True, "role": "learner", "snapshot_taken_ns": 1_000_000_000}
    told = figures(status | {"nodes": [leader, learner], "rate": 12.0})
    assert told["ring"] == "0.2 %"
    assert (told["rate"], told["applied"], told["snapshot"]) == ("12", "1,000", "4 s")


@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_form_takes_nothing_that_no_browser_of_ours_sends(operation: str) -> None:
    value: object
    for field in OPERATIONS[operation].fields:
        for text in ("x" * 70_000, "1e5", "\u0661", "1 1", "<b>", "-", "1,0"):
            assert field.wrong(text) is not None, text
        for value in ({}, [], 1, None):
            taken = field.wrong(value) is None
            assert not taken or body_of([field], {field.name: value}) in ({}, {field.name: None})


def test_a_body_has_numbers_as_numbers_amounts_as_text_and_null_where_that_is_meant() -> None:
    fields = list(OPERATIONS["set_limits"].fields)
    raw = {"account": str(2**64 - 1), "floor": " -1.50 ", "ceiling": ""}
    assert all(field.wrong(raw[field.name]) is None for field in fields)
    body = body_of(fields, raw)
    assert body == {"account": 2**64 - 1, "floor": "-1.50", "ceiling": None}
    optional = Field("reference", "Reference", optional=True)
    assert body_of([optional], {"reference": ""}) == {}


@pytest.mark.parametrize("name", OPERATIONS)
def test_each_operation_asks_with_what_will_be_sent(name: str) -> None:
    operation = OPERATIONS[name]
    values = {
        field.name: field.kind == "check" or ("EUR" if field.kind == "text" else "12")
        for field in operation.fields
    }
    assert all(field.wrong(values[field.name]) is None for field in operation.fields)
    assert re.fullmatch(r"[A-Z].*12.*\?", operation.asks(body_of(list(operation.fields), values)))


def frame(name: str, **content: object) -> str:
    return "42" + json.dumps([name, {"client_id": ME} | content])


def test_frames_of_pages_pass_and_their_log_lines_are_dropped() -> None:
    for good in (
        "3",
        "40",
        "41",
        frame("ack", next_message_id=3),
        frame("javascript_response", request_id="x", result=None),
        frame("event", id=4, listener_id="x", args=['"typed"', None]),
        frame("event", id=4, listener_id="x"),
    ):
        assert check_frame(good, ME)
    assert not check_frame(frame("log", level="error", message="x"), ME)


@pytest.mark.parametrize(
    "bad",
    [
        None,
        b"3",
        "",
        "0",
        "2",
        "4",
        '42"event"',
        "42" + "[" * 60_000,
        '42["event",' + '{"a":' * 9_000,
        frame("handshake", tab_id="x"),
        frame("event", id=True, listener_id="x", args=[]),
        frame("event", id=1, listener_id=2, args=[]),
        frame("event", id=1, listener_id="x", args=[1]),
        frame("event", id=1, listener_id="x", args=["["]),
        frame("event", id=1, listener_id="x", args=["1"] * 9),
        frame("ack", next_message_id="3"),
        frame("javascript_response", request_id=1),
        frame("event", client_id="another", id=1, listener_id="x", args=[]),
    ],
    ids=lambda bad: str(bad)[:50],
)
def test_any_other_frame_is_refused(bad: object) -> None:
    with pytest.raises(RefusedFrame):
        check_frame(bad, ME)


async def test_who_sends_too_many_frames_is_cut_off() -> None:
    sent: list[str] = []

    async def receive() -> dict[str, object]:
        return {"type": "websocket.receive", "text": "3"}

    async def send(message: object) -> None:
        sent.append(str(message))

    socket = CheckedSocket(ME, receive, send, lambda: 0.0)
    kinds = [(await socket.receive())["type"] for _ in range(201)]
    assert kinds.count("websocket.receive") == 200
    assert kinds[-1] == "websocket.disconnect"
    assert "1008" in sent[0]
