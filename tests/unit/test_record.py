"""The records' bytes are part of the journal format: each is pinned by hand-made golden bytes."""

from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pytest

from cluster_core.record import (
    ACCOUNT,
    ASSET,
    COMMAND,
    HOLD,
    MAX_CHAIN_COMMANDS,
    MAX_MESSAGE_COMMANDS,
    REPLY,
    AccountState,
    CommandFlag,
    Operation,
    ReplyFlag,
    Status,
)

GOLDEN: Final = Path(__file__).parent / "golden"


def golden(name: str) -> bytes:
    """The bytes of a hex text; what follows a `#` is a remark."""
    lines = (GOLDEN / f"{name}.hex").read_text("utf-8").splitlines()
    return bytes.fromhex(" ".join(line.partition("#")[0] for line in lines))


VALUES: Final[dict[str, tuple[npt.DTypeLike, dict[str, int]]]] = {
    "command": (
        COMMAND,
        {
            "id_0": 0x0706050403020100,
            "id_1": 0x0F0E0D0C0B0A0908,
            "debit_account": 0x1112131415161718,
            "credit_account": 0x2122232425262728,
            "amount": -2,
            "reference": 0x3132333435363738,
            "asset": 0x41424344,
            "operation": 0x5152,
            "flags": 0x6162,
            "timeout_s": 0x71727374,
            "code": 0x81828384,
        },
    ),
    "reply": (
        REPLY,
        {
            "sequence": 0x0102030405060708,
            "entity": 0x1112131415161718,
            "amount": 0x2122232425262728,
            "debit_balance": -3,
            "credit_balance": 0x3132333435363738,
            "status": 0x4142,
            "flags": 0x5152,
            "reserved": 0,
        },
    ),
    "account": (
        ACCOUNT,
        {
            "posted": -4,
            "held": 0x0102030405060708,
            "floor": -(2**63),
            "ceiling": 2**63 - 1,
            "version": 0x1112131415161718,
            "last_sequence": 0x2122232425262728,
            "credits_total": 0x3132333435363738,
            "asset": 0x41424344,
            "state": 0x5152,
            "account_id": 0x6162636465666768,
            "reference": 0x7172737475767778,
            "opened_ns": 0x0182838485868788,
            "code": 0x91929394,
            "open_holds": 0xA1A2A3A4,
        },
    ),
    "asset": (
        ASSET,
        {
            "number": 0x01020304,
            "decimals": 0x11121314,
            "symbol": int.from_bytes(b"UNIT".ljust(8, b"\0"), "little"),
            "external": -5,
            "accounts": 0x2122232425262728,
            "held": 0x3132333435363738,
            "open_holds": 0x4142434445464748,
        },
    ),
    "hold": (
        HOLD,
        {
            "hold_id": 0x0102030405060708,
            "debit_account": 0x1112131415161718,
            "credit_account": 0x2122232425262728,
            "remaining": 0x3132333435363738,
            "expires_ns": 0x4142434445464748,
            "opened_sequence": 0x5152535455565758,
            "code": 0x61626364,
            "asset": 0x71727374,
            "next": 0x81828384,
            "heap_place": 0x91929394,
        },
    ),
}


@pytest.mark.parametrize("name", VALUES)
def test_a_record_written_is_its_golden_bytes(name: str) -> None:
    dtype, values = VALUES[name]
    record: npt.NDArray[Any] = np.zeros(1, dtype)
    assert set(values) == set(record.dtype.names or ())
    for field, value in values.items():
        record[field] = value
    assert record.tobytes() == golden(name)


@pytest.mark.parametrize("name", VALUES)
def test_golden_bytes_read_are_the_record(name: str) -> None:
    dtype, values = VALUES[name]
    record = np.frombuffer(golden(name), dtype)
    assert len(record) == 1
    assert {field: int(record[field][0]) for field in values} == values


@pytest.mark.parametrize("name", VALUES)
def test_every_field_is_naturally_aligned_and_overlaps_no_other(name: str) -> None:
    dtype = np.dtype(VALUES[name][0])
    assert dtype.fields is not None
    taken: set[int] = set()
    for field, offset, *_ in dtype.fields.values():
        assert offset % field.itemsize == 0
        own = range(offset, offset + field.itemsize)
        assert taken.isdisjoint(own)
        taken.update(own)


def test_numbers_of_the_format_are_never_changed() -> None:
    assert {operation.name: operation.value for operation in Operation} == {
        "CREATE_ACCOUNT": 1,
        "DEPOSIT": 2,
        "WITHDRAW": 3,
        "TRANSFER": 4,
        "REGISTER_ASSET": 5,
        "HOLD": 6,
        "CAPTURE": 7,
        "RELEASE": 8,
        "EXPIRE": 9,
        "LOCK": 10,
        "UNLOCK": 11,
        "CLOSE": 12,
        "SET_LIMITS": 13,
    }
    assert {status.name: status.value for status in Status} == {
        "OK": 1,
        "COMMAND_ID_REUSED": 2,
        "COMMAND_ID_TOO_OLD": 3,
        "COMMAND_ID_IN_FUTURE": 4,
        "CHAIN_ID_REUSED": 5,
        "LINKED_FAILED": 6,
        "HOLD_NOT_FOUND": 41,
        "HOLD_NOT_OPEN": 42,
        "HOLD_EXPIRED": 43,
        "HOLD_NOT_EXPIRED": 44,
        "AMOUNT_NOT_POSITIVE": 10,
        "HOLD_EXCEEDED": 45,
        "SAME_ACCOUNT": 11,
        "DEBIT_ACCOUNT_NOT_FOUND": 12,
        "CREDIT_ACCOUNT_NOT_FOUND": 13,
        "ASSETS_DIFFER": 14,
        "DEBIT_ACCOUNT_CLOSED": 30,
        "CREDIT_ACCOUNT_CLOSED": 31,
        "DEBIT_ACCOUNT_LOCKED": 32,
        "CREDIT_ACCOUNT_LOCKED": 33,
        "VERSION_MISMATCH": 34,
        "INSUFFICIENT_FUNDS": 15,
        "BALANCE_OVERFLOW": 16,
        "CEILING_EXCEEDED": 17,
        "HOLD_CAPACITY_REACHED": 40,
        "ASSET_NOT_FOUND": 20,
        "ACCOUNT_CAPACITY_REACHED": 21,
        "ASSET_NUMBER_OUT_OF_RANGE": 22,
        "ASSET_DECIMALS_OUT_OF_RANGE": 23,
        "ASSET_SYMBOL_INVALID": 24,
        "ASSET_EXISTS": 25,
        "ASSET_SYMBOL_TAKEN": 26,
        "LOCK_CODE_INVALID": 50,
        "FLOOR_OUT_OF_RANGE": 51,
        "FLOOR_ABOVE_CEILING": 52,
        "BALANCE_OUTSIDE_LIMITS": 53,
        "BALANCE_NOT_ZERO": 54,
        "HOLDS_OPEN": 55,
    }
    assert {flag.name: flag.value for flag in CommandFlag} == {
        "LINKED": 1,
        "BALANCING": 2,
        "EXPECT_VERSION": 4,
        "KEEP_REST_HELD": 8,
    }
    assert {flag.name: flag.value for flag in AccountState} == {
        "DEBITS_LOCKED": 1,
        "CREDITS_LOCKED": 2,
        "CLOSED": 4,
    }
    assert {flag.name: flag.value for flag in ReplyFlag} == {"DUPLICATE": 1}
    assert (MAX_MESSAGE_COMMANDS, MAX_CHAIN_COMMANDS) == (8_192, 8_192)


def test_statuses_stand_in_the_order_of_checking() -> None:
    names = [status.name for status in Status]
    for earlier, later in (
        ("LINKED_FAILED", "HOLD_NOT_FOUND"),
        ("AMOUNT_NOT_POSITIVE", "HOLD_EXCEEDED"),
        ("CREDIT_ACCOUNT_LOCKED", "VERSION_MISMATCH"),
        ("CEILING_EXCEEDED", "HOLD_CAPACITY_REACHED"),
    ):
        assert names.index(earlier) + 1 == names.index(later)
