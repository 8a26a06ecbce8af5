"""The oracle by itself, against cases worked out by hand from the rules."""

import struct
from typing import Final

import pytest
from blake3 import blake3

from tests.property.strategies import linked, packed, uuid7
from tests.reference import (
    BALANCING,
    CAPTURE,
    CREATE_ACCOUNT,
    DEPOSIT,
    EXPIRE,
    HOLD,
    I64_MAX,
    KEEP_REST_HELD,
    NO_ID,
    RELEASE,
    REPLY,
    SET_LIMITS,
    TRANSFER,
    Command,
    ReferenceLedger,
    Reply,
    Status,
)

START_NS: Final = 1_700_000_000 * 10**9
CREATE: Final = Command(operation=CREATE_ACCOUNT, asset=1)


def new_ledger() -> ReferenceLedger:
    """Accounts 1 with 100 and 2 with nothing; the next sequence is 3."""
    ledger = ReferenceLedger(8, 0, account_capacity=4, hold_capacity=4)
    run(ledger, CREATE, CREATE, deposit(1, 100))
    return ledger


def run(ledger: ReferenceLedger, *commands: Command, now_ns: int = START_NS) -> list[Reply]:
    return [Reply._make(REPLY.unpack(row)) for row in ledger.apply(packed(commands), now_ns)]


def statuses(ledger: ReferenceLedger, *commands: Command, now_ns: int = START_NS) -> list[Status]:
    return [Status(reply.status) for reply in run(ledger, *commands, now_ns=now_ns)]


def deposit(credit: int, amount: int, command_id: bytes = NO_ID) -> Command:
    return Command(command_id, 0, credit, amount, operation=DEPOSIT)


def hold(amount: int, timeout_s: int = 0) -> Command:
    return Command(NO_ID, 1, 2, amount, operation=HOLD, timeout_s=timeout_s)


def of_hold(operation: int, hold_id: int, amount: int = 0, flags: int = 0) -> Command:
    return Command(operation=operation, reference=hold_id, amount=amount, flags=flags)


def money(ledger: ReferenceLedger) -> list[tuple[int, int, int, int]]:
    """Of each account: posted, held, open holds, version."""
    return [(a.posted, a.held, a.open_holds, a.version) for a in ledger.accounts]


def test_a_hold_is_captured_in_parts_and_its_rest_released() -> None:
    ledger = new_ledger()
    replies = run(
        ledger,
        hold(60),
        of_hold(CAPTURE, 1, 20, KEEP_REST_HELD),
        of_hold(CAPTURE, 1, 99, KEEP_REST_HELD),
        of_hold(RELEASE, 1, 15),
        of_hold(CAPTURE, 1, 99, BALANCING),
        of_hold(CAPTURE, 1),
        hold(50),
        of_hold(CAPTURE, 2, 1),
    )
    assert replies == [
        (3, 1, 60, 100, 0, Status.OK, 0),
        (4, 1, 20, 80, 20, Status.OK, 0),
        (5, 0, 0, 0, 0, Status.HOLD_EXCEEDED, 0),
        (6, 1, 15, 80, 20, Status.OK, 0),
        (7, 1, 25, 55, 45, Status.OK, 0),
        (8, 0, 0, 0, 0, Status.HOLD_NOT_OPEN, 0),
        (9, 2, 50, 55, 45, Status.OK, 0),
        (10, 2, 1, 54, 46, Status.OK, 0),
    ]
    assert money(ledger) == [(54, 0, 0, 8), (46, 0, 0, 4)]
    assert (ledger.assets[1].held, ledger.assets[1].open_holds, ledger.next_hold) == (0, 0, 3)


@pytest.mark.parametrize(
    ("after_ns", "captured", "expired"),
    [
        (999_999_999, Status.OK, Status.HOLD_NOT_EXPIRED),
        (1_000_000_000, Status.HOLD_EXPIRED, Status.OK),
    ],
)
def test_a_hold_is_over_from_its_very_nanosecond_on(
    after_ns: int, captured: Status, expired: Status
) -> None:
    now_ns = START_NS + after_ns
    for operation, status in ((CAPTURE, captured), (EXPIRE, expired), (RELEASE, Status.OK)):
        ledger = new_ledger()
        run(ledger, hold(60, timeout_s=1))
        assert statuses(ledger, of_hold(operation, 1), now_ns=now_ns) == [status]


def test_a_timeout_past_the_last_i64_ends_there_and_none_never_ends() -> None:
    ledger = new_ledger()
    run(ledger, hold(1, timeout_s=2**32 - 1), hold(1), now_ns=I64_MAX - 5)
    assert [ledger.holds[number].expires_ns for number in (1, 2)] == [I64_MAX, 0]
    assert statuses(ledger, of_hold(EXPIRE, 2), now_ns=I64_MAX) == [Status.HOLD_NOT_EXPIRED]


def test_a_failed_chain_leaves_no_trace_but_its_sequences_and_its_place_in_the_window() -> None:
    ledger = new_ledger()
    before = (ledger.accounts.copy(), ledger.assets.copy(), ledger.holds.copy(), ledger.next_hold)
    ids = [uuid7(START_NS // 10**6, tail) for tail in range(4)]
    members = [CREATE, hold(30), of_hold(CAPTURE, 1), deposit(9, 1)]
    chain = linked([m._replace(command_id=i) for m, i in zip(members, ids, strict=True)])
    failed = [(3 + place, 0, 0, 0, 0, Status.LINKED_FAILED, 0) for place in range(4)]
    failed[3] = (6, 0, 0, 0, 0, Status.CREDIT_ACCOUNT_NOT_FOUND, 0)
    assert run(ledger, *chain) == failed
    assert (ledger.accounts, ledger.assets, ledger.holds, ledger.next_hold) == before
    assert list(ledger.window) == ids
    assert run(ledger, *chain) == [(*reply[:6], 1) for reply in failed]
    assert run(ledger, hold(1))[0].sequence == 11


def test_a_later_member_of_a_chain_sees_what_the_earlier_ones_did() -> None:
    ledger = new_ledger()
    chain = linked([CREATE, deposit(3, 5), hold(30), of_hold(CAPTURE, 1), deposit(3, 2)])
    assert set(statuses(ledger, *chain)) == {Status.OK}
    assert money(ledger) == [(70, 0, 0, 4), (30, 0, 0, 2), (7, 0, 0, 3)]


def test_a_chain_with_an_id_that_is_not_new_or_stands_twice_does_not_run() -> None:
    ledger = new_ledger()
    known, fresh, ahead = (uuid7(START_NS // 10**6 + step, 0) for step in (-1, 0, 1))
    first = linked([deposit(1, 1, known), deposit(1, 1)])
    first_replies = run(ledger, *first)
    assert first_replies[0].amount == 1
    before = (ledger.accounts.copy(), ledger.window.copy())
    last = deposit(1, 1, fresh)
    chains = {
        (first_replies[0]._replace(flags=1), Status.CHAIN_ID_REUSED): (first[0], last),
        (Status.COMMAND_ID_REUSED, Status.CHAIN_ID_REUSED): (deposit(1, 2, known), deposit(1, 1)),
        (Status.COMMAND_ID_IN_FUTURE, Status.CHAIN_ID_REUSED): (deposit(1, 1, ahead), last),
        (Status.CHAIN_ID_REUSED, Status.CHAIN_ID_REUSED): (last, last),
    }
    for expected, members in chains.items():
        replies = run(ledger, *linked(members))
        for reply, said in zip(replies, expected, strict=True):
            assert said in (reply, reply.status)
        assert (ledger.accounts, ledger.window) == before


def test_what_is_available_passes_the_last_i64_by_an_overdraft() -> None:
    ledger = ReferenceLedger(8, 0, account_capacity=4)
    limits = Command(operation=SET_LIMITS, debit_account=1, amount=-I64_MAX, reference=I64_MAX)
    run(ledger, CREATE, CREATE, deposit(1, 2**62), limits)
    assert ledger.accounts[0].available == 2**62 + I64_MAX
    transfer = Command(NO_ID, 1, 2, I64_MAX, operation=TRANSFER, flags=BALANCING)
    assert run(ledger, transfer) == [(4, 0, I64_MAX, 2**62 - I64_MAX, I64_MAX, Status.OK, 0)]


def test_the_digest_covers_the_bytes_that_the_format_names() -> None:
    ledger = ReferenceLedger(8, 7, account_capacity=4, hold_capacity=5)
    scalars = struct.pack("<9Q", 8, 7, 4, 5, 0, 0, 1, 1, 0)
    unit = struct.pack("<II8s48x", 1, 2, b"UNIT")
    assert ledger.digest() == blake3(b"RLSTATE1" + scalars + bytes(16) + unit + bytes(8)).digest()
