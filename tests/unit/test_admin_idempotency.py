"""Idempotency keys become command ids: whose, which route's, and how long they hold."""

import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client_app.idempotency import IdempotencyKey, key_of, read_key
from client_app.problems import Problem

V7 = "0192d5e0-7d1c-7a3b-9f00-5a1b2c3d4e5f"
_TEXT = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=255)


def test_a_command_id_depends_on_caller_route_and_key() -> None:
    ids = {
        IdempotencyKey(caller, route, key).command_id()
        for caller in ("a", "b")
        for route in ("POST /x", "POST /y")
        for key in ("1", "2", V7)
    }
    assert len(ids) == 12


def test_the_parts_of_a_name_cant_be_moved_from_one_to_the_next() -> None:
    assert (
        IdempotencyKey("a", "POST /x", "1").command_id()
        != IdempotencyKey("aPOST", " /x", "1").command_id()
    )


@given(_TEXT)
def test_the_same_key_gives_the_same_16_bytes_and_they_are_a_uuid_of_the_rfc(key: str) -> None:
    command_id = IdempotencyKey("a", "POST /x", key).command_id()
    assert command_id == IdempotencyKey("a", "POST /x", key).command_id()
    named = uuid.UUID(bytes=command_id)
    assert named.variant == uuid.RFC_4122
    assert named.version in {7, 8}
    assert command_id != bytes(16)


def test_a_uuidv7_key_keeps_its_time_and_is_one_key_in_capitals_too() -> None:
    command_id = IdempotencyKey("a", "POST /x", V7).command_id()
    assert uuid.UUID(bytes=command_id).version == 7
    assert command_id[:6] == uuid.UUID(V7).bytes[:6]
    assert command_id == IdempotencyKey("a", "POST /x", V7.upper()).command_id()


@pytest.mark.parametrize(
    "key", ["k", str(uuid.UUID(int=5)), V7[:-1], f"{V7}0", V7.replace("-", "")]
)
def test_any_other_key_gives_an_id_that_the_ledger_takes_for_no_time(key: str) -> None:
    assert uuid.UUID(bytes=IdempotencyKey("a", "POST /x", key).command_id()).version == 8


def test_members_of_a_batch_have_rising_ids_of_their_own_with_the_keys_time() -> None:
    key = IdempotencyKey("a", "POST /x", V7)
    ids = [key.command_id(member) for member in range(5_001)]
    assert len(set(ids)) == 5_001
    assert ids == sorted(ids)
    assert {uuid.UUID(bytes=command_id).version for command_id in ids} == {7}
    assert {command_id[:6] for command_id in ids} == {uuid.UUID(V7).bytes[:6]}


def test_a_key_drawn_for_a_request_is_a_key_that_can_be_sent_again() -> None:
    drawn = uuid.UUID(V7).bytes
    assert key_of(drawn) == V7
    assert read_key(key_of(drawn).encode()) == V7


def test_a_key_may_stand_in_quotes() -> None:
    assert read_key(b'"abc"') == read_key(b"abc") == "abc"


@pytest.mark.parametrize("header", [b"", b" ", b"a b", b"a\xff", b"a\x00", b"x" * 256])
def test_a_key_that_cant_be_kept_is_refused(header: bytes) -> None:
    with pytest.raises(Problem) as refused:
        read_key(header)
    assert refused.value.http_status == 400
