"""client_core's records and envelopes, against the generated classes and known bytes."""

import struct
import uuid
from collections.abc import Callable
from typing import Any

import pytest

from client_core import messages, records, wire
from client_core.errors import IdInFuture, OutcomeUnsettled, Refused
from client_core.records import CommandFlag, Operation, Reply, Side, Status
from proto import ledger_pb2

ID = bytes(range(16))


def fields(command: bytes) -> tuple[int, ...]:
    """(debit, credit, amount, reference, asset, operation, flags, timeout_s, code)."""
    assert len(command) == records.COMMAND_BYTES
    assert command[:16] == ID
    return struct.unpack("<QQqQIHHII", command[16:])


def test_each_operation_fills_only_its_own_fields() -> None:
    assert fields(records.create_account(ID, asset=7, reference=2**64 - 1, code=9)) == (
        (0, 0, 0, 2**64 - 1, 7, Operation.CREATE_ACCOUNT, 0, 0, 9)
    )
    assert fields(records.deposit(ID, 3, 2**63 - 1)) == (
        (0, 3, 2**63 - 1, 0, 0, Operation.DEPOSIT, 0, 0, 0)
    )
    assert fields(records.withdraw(ID, 3, 5)) == (3, 0, 5, 0, 0, Operation.WITHDRAW, 0, 0, 0)
    assert fields(records.transfer(ID, 1, 2, 50, code=4)) == (
        (1, 2, 50, 0, 0, Operation.TRANSFER, 0, 0, 4)
    )
    assert fields(records.register_asset(ID, asset=2, symbol="EUR", decimals=2)) == (
        (0, 0, 0, int.from_bytes(b"EUR", "little"), 2, Operation.REGISTER_ASSET, 0, 0, 2)
    )


def test_operations_on_holds_and_accounts_fill_only_their_own_fields() -> None:
    assert fields(records.hold(ID, 1, 2, 50, timeout_s=9, code=4)) == (
        (1, 2, 50, 0, 0, Operation.HOLD, 0, 9, 4)
    )
    assert fields(records.capture(ID, 7, 50, code=4)) == (
        (0, 0, 50, 7, 0, Operation.CAPTURE, 0, 0, 4)
    )
    assert fields(records.release(ID, 7)) == (0, 0, 0, 7, 0, Operation.RELEASE, 0, 0, 0)
    assert fields(records.lock(ID, 3)) == (3, 0, 0, 0, 0, Operation.LOCK, 0, 0, 3)
    assert fields(records.unlock(ID, 3, Side.CREDITS)) == (
        (3, 0, 0, 0, 0, Operation.UNLOCK, 0, 0, 2)
    )
    assert fields(records.close_account(ID, 3, code=4)) == (
        (3, 0, 0, 0, 0, Operation.CLOSE, 0, 0, 4)
    )
    assert fields(records.set_limits(ID, 3, floor=-5)) == (
        (3, 0, -5, 2**63 - 1, 0, Operation.SET_LIMITS, 0, 0, 0)
    )
    assert fields(records.set_limits(ID, 3, floor=-5, ceiling=-1))[3] == 2**64 - 1


@pytest.mark.parametrize(
    ("command", "flags", "reference"),
    [
        (records.deposit(ID, 1, 5, expected_version=8), CommandFlag.EXPECT_VERSION, 8),
        (records.withdraw(ID, 1, 5, expected_version=8), CommandFlag.EXPECT_VERSION, 8),
        (records.transfer(ID, 1, 2, 5, balancing=True), CommandFlag.BALANCING, 0),
        (
            records.transfer(ID, 1, 2, 5, balancing=True, expected_version=8),
            CommandFlag.BALANCING | CommandFlag.EXPECT_VERSION,
            8,
        ),
        (records.hold(ID, 1, 2, 5, expected_version=8), CommandFlag.EXPECT_VERSION, 8),
        (records.capture(ID, 8, balancing=True), CommandFlag.BALANCING, 8),
        (records.capture(ID, 8, keep_rest_held=True), CommandFlag.KEEP_REST_HELD, 8),
        (records.create_account(ID, linked=True), CommandFlag.LINKED, 0),
        (records.release(ID, 8, linked=True), CommandFlag.LINKED, 8),
        (records.lock(ID, 8, linked=True), CommandFlag.LINKED, 0),
    ],
)
def test_flags_stand_in_their_bits(command: bytes, flags: int, reference: int) -> None:
    packed = records.unpack_fields(command)
    assert (packed.flags, packed.reference) == (flags, reference)


def test_linking_ties_all_commands_but_the_last_and_may_be_repeated() -> None:
    commands = [records.deposit(ID, account, 1) for account in (1, 2, 3)]
    chain = messages.link(commands)
    assert [messages.is_linked(chain[at : at + 64]) for at in (0, 64, 128)] == [True, True, False]
    assert messages.link([chain]) == chain
    assert messages.link(commands[:1]) == commands[0]


def test_a_transfer_has_these_very_bytes() -> None:
    assert records.transfer(ID, 1, 2, 50).hex() == (
        "000102030405060708090a0b0c0d0e0f"
        "0100000000000000020000000000000032000000000000000000000000000000"
        "00000000040000000000000000000000"
    )


@pytest.mark.parametrize(
    ("build", "told"),
    [
        (lambda: records.transfer(b"short", 1, 2, 3), "16"),
        (lambda: records.transfer(ID, 0, 2, 3), "debit_account"),
        (lambda: records.transfer(ID, 1, 2**64, 3), "credit_account"),
        (lambda: records.transfer(ID, 1, 1, 3), "two accounts"),
        (lambda: records.transfer(ID, 1, 2, 0), "amount"),
        (lambda: records.deposit(ID, 1, -1), "amount"),
        (lambda: records.deposit(ID, 1, 2**63), "amount"),
        (lambda: records.withdraw(ID, 1, 1, code=2**32), "code"),
        (lambda: records.deposit(ID, 1, 1.5), "integer"),  # type: ignore[arg-type]
        (lambda: records.create_account(ID, asset=0), "asset"),
        (lambda: records.create_account(ID, reference=-1), "reference"),
        (lambda: records.register_asset(ID, asset=4096, symbol="A", decimals=0), "asset"),
        (lambda: records.register_asset(ID, asset=2, symbol="eur", decimals=0), "A-Z"),
        (lambda: records.register_asset(ID, asset=2, symbol="NINECHARS", decimals=0), "A-Z"),
        (lambda: records.register_asset(ID, asset=2, symbol="", decimals=0), "A-Z"),
        (lambda: records.register_asset(ID, asset=2, symbol="A", decimals=19), "decimals"),
        (lambda: records.hold(ID, 1, 1, 3), "two accounts"),
        (lambda: records.hold(ID, 1, 2, 3, timeout_s=2**32), "timeout_s"),
        (lambda: records.hold(ID, 1, 2, 3, expected_version=-1), "expected_version"),
        (lambda: records.capture(ID, 0), "hold_id"),
        (lambda: records.capture(ID, 1, -1), "amount"),
        (lambda: records.release(ID, 1, 2**63), "amount"),
        (lambda: records.lock(ID, 1, Side(0)), "side"),
        (lambda: records.unlock(ID, 0), "account"),
        (lambda: records.close_account(ID, 0), "account"),
        (lambda: records.set_limits(ID, 1, floor=-(2**63)), "floor"),
        (lambda: records.set_limits(ID, 1, ceiling=2**63), "ceiling"),
        (lambda: records.set_limits(ID, 1, floor=2, ceiling=1), "above"),
        (lambda: records.transfer(ID, True, 2, 3), "debit_account is True"),
        (lambda: records.deposit(ID, 1, True), "amount is True"),
        (lambda: records.transfer(b"", 1, 2, 3), "command_id is 0 bytes"),
    ],
)
def test_an_argument_out_of_range_is_named(build: Callable[[], bytes], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        build()


@pytest.mark.parametrize("command_id", [uuid.UUID(bytes=ID), "x" * 16, None, 7])
def test_a_command_id_that_is_not_bytes_is_refused_and_says_what_to_give(command_id: Any) -> None:
    with pytest.raises(TypeError, match=r"command_id is a \w+: give 16 bytes, from .*UUID.bytes"):
        records.transfer(command_id, 1, 2, 3)


def test_a_status_that_leaves_the_outcome_open_is_no_refusal() -> None:
    command = records.deposit(ID, 1, 2)
    too_old, in_future = (Reply(9, 0, 0, 0, 0, status, 0, 0) for status in (3, 4))
    with pytest.raises(OutcomeUnsettled, match="COMMAND_ID_TOO_OLD") as unsettled:
        too_old.raise_for_status(command)
    assert unsettled.value.command_ids == [ID]
    assert unsettled.value.replies == [too_old]
    with pytest.raises(IdInFuture, match="COMMAND_ID_IN_FUTURE"):
        in_future.raise_for_status(command)


def test_replies_unpack_in_order() -> None:
    packed = struct.pack("<QQqqqHHI", 9, 8, 7, -6, 5, 1, 1, 0)
    packed += struct.pack("<QQqqqHHI", 10, 0, 0, 0, 0, 15, 0, 0)
    first, second = records.unpack_replies(packed)
    assert first == Reply(9, 8, 7, -6, 5, 1, 1, 0)
    assert first.accepted
    assert first.duplicate
    assert first.raise_for_status() is first
    assert second.status is Status.INSUFFICIENT_FUNDS
    assert not second.accepted
    assert not second.duplicate
    with pytest.raises(Refused, match="INSUFFICIENT_FUNDS") as refused:
        second.raise_for_status()
    assert refused.value.reply is second
    assert refused.value.status is second.status


def test_a_torn_reply_is_refused() -> None:
    with pytest.raises(ValueError, match="48"):
        records.unpack_replies(bytes(47))


def test_a_status_of_a_newer_node_keeps_its_number() -> None:
    status = Reply(1, 0, 0, 0, 0, 4_000, 0, 0).status
    assert (status, status.name) == (4_000, "STATUS_4000")
    assert 4_000 not in [int(known) for known in Status]


def test_statuses_are_those_of_the_contract() -> None:
    contract = {
        name.removeprefix("STATUS_"): number
        for name, number in ledger_pb2.Status.items()
        if number != ledger_pb2.STATUS_UNSPECIFIED
    }
    assert contract == {status.name: int(status) for status in Status}


@pytest.mark.parametrize("count", [1, 2, 127, 128, 1_024, 8_192])
def test_the_request_envelope_is_that_of_the_generated_class(count: int) -> None:
    commands = bytes(range(64)) * count
    request = ledger_pb2.SubmitRequest(commands=commands)
    assert wire.submit_header(len(commands)) + commands == request.SerializeToString()


@pytest.mark.parametrize("count", [0, 1, 3, 8_192])
@pytest.mark.parametrize("ledger_time_ns", [0, 1, 127, 128, 1_764_000_000_000_000_000, 2**63 - 1])
def test_the_response_envelope_is_read(count: int, ledger_time_ns: int) -> None:
    replies = bytes(range(48)) * count
    response = ledger_pb2.SubmitResponse(replies=replies, ledger_time_ns=ledger_time_ns)
    read, read_ns = wire.read_response(response.SerializeToString())
    assert (bytes(read), read_ns) == (replies, ledger_time_ns)


def test_an_unusual_but_right_response_is_read_too() -> None:
    usual = ledger_pb2.SubmitResponse(replies=bytes(48), ledger_time_ns=7).SerializeToString()
    replies_field, time_field = usual[:50], usual[50:]
    unknown_field = b"\x1a\x02hi"
    for data in (usual + unknown_field, unknown_field + usual, time_field + replies_field):
        replies, ledger_time_ns = wire.read_response(data)
        assert (bytes(replies), ledger_time_ns) == (bytes(48), 7)


def test_a_response_with_a_torn_reply_is_refused() -> None:
    torn = ledger_pb2.SubmitResponse(replies=bytes(40), ledger_time_ns=1).SerializeToString()
    with pytest.raises(ValueError, match="40"):
        wire.read_response(torn)


def reply(sequence: int, flags: int = 0) -> bytes:
    return struct.pack("<QQqqqHHI", sequence, 0, 0, 0, 0, 1, flags, 0)


@pytest.mark.parametrize(
    ("replies", "newest"),
    [
        (b"", -1),
        (reply(7) + reply(8), 8),
        (reply(9) + reply(3, flags=1), 9),
        (reply(5, flags=1) + reply(6, flags=1) + reply(2, flags=1), 6),
        (reply(2, flags=1) + reply(30), 30),
    ],
)
def test_the_newest_sequence_of_a_message_is_found_among_duplicates(
    replies: bytes, newest: int
) -> None:
    assert messages.newest_sequence(replies) == newest
    assert messages.newest_sequence(memoryview(replies)) == newest


def test_a_message_can_only_be_sent_again_when_every_command_has_an_id() -> None:
    with_id, without = records.transfer(ID, 1, 2, 3), records.transfer(bytes(16), 1, 2, 3)
    assert messages.have_ids(with_id + with_id)
    assert not messages.have_ids(with_id + without)
