//! Typed commands, replies and accounts of `ringledger.v1`, to and from the packed records.
//!
//! The common operations are read here; the others, and whatever isn't plain, Python reads
//! (`cluster_app/typed.py`), which also words every refusal.

use prost::Message;

use crate::books::AccountRow;
use crate::contracts::ledger::{
    command, Account, ExecuteRequest, ExecuteResponse, GetAccountRequest, Reply,
};
use crate::record::{u64_at, Command, REPLY_FLAGS_OFFSET, STATUS_OFFSET};

const BALANCING: u16 = 2;
const EXPECT_VERSION: u16 = 4;
const KEEP_REST_HELD: u16 = 8;
const DUPLICATE: u8 = 1;
const DEBITS_LOCKED: u64 = 1;
const CREDITS_LOCKED: u64 = 2;
const CLOSED: u64 = 4;

/// The command of an ExecuteRequest; None when Python must judge.
pub fn read_execute(message: &[u8]) -> Option<Command> {
    let request = ExecuteRequest::decode(message).ok()?;
    // a message of another length holds something that this program doesn't know
    if request.encoded_len() != message.len() {
        return None;
    }
    let command = request.command?;
    let mut packed = pack(command.operation?)?;
    if !command.command_id.is_empty() {
        packed.command_id = command.command_id.as_ref().try_into().ok()?;
    }
    packed.code = command.code;
    Some(packed)
}

fn pack(operation: command::Operation) -> Option<Command> {
    use command::Operation;
    Some(match operation {
        Operation::CreateAccount(create) => Command {
            operation: 1,
            asset: create.asset,
            reference: create.reference,
            ..Command::default()
        },
        Operation::Deposit(deposit) => Command {
            operation: 2,
            credit_account: deposit.credit_account,
            amount: deposit.amount,
            reference: deposit.expected_version,
            flags: expecting(deposit.expected_version),
            ..Command::default()
        },
        Operation::Withdraw(withdraw) => Command {
            operation: 3,
            debit_account: withdraw.debit_account,
            amount: withdraw.amount,
            reference: withdraw.expected_version,
            flags: expecting(withdraw.expected_version),
            ..Command::default()
        },
        Operation::Transfer(transfer) => Command {
            operation: 4,
            debit_account: transfer.debit_account,
            credit_account: transfer.credit_account,
            amount: transfer.amount,
            reference: transfer.expected_version,
            flags: expecting(transfer.expected_version) | flag(transfer.balancing, BALANCING),
            ..Command::default()
        },
        Operation::Hold(hold) => Command {
            operation: 6,
            debit_account: hold.debit_account,
            credit_account: hold.credit_account,
            amount: hold.amount,
            reference: hold.expected_version,
            flags: expecting(hold.expected_version),
            timeout_s: hold.timeout_s,
            ..Command::default()
        },
        Operation::Capture(capture) => Command {
            operation: 7,
            amount: capture.amount,
            reference: capture.hold_id,
            flags: flag(capture.balancing, BALANCING)
                | flag(capture.keep_rest_held, KEEP_REST_HELD),
            ..Command::default()
        },
        Operation::Release(release) => Command {
            operation: 8,
            amount: release.amount,
            reference: release.hold_id,
            ..Command::default()
        },
        _ => return None,
    })
}

fn expecting(version: u64) -> u16 {
    flag(version != 0, EXPECT_VERSION)
}

fn flag(is_set: bool, flag: u16) -> u16 {
    if is_set {
        flag
    } else {
        0
    }
}

/// The typed form of one REPLY record.
pub fn execute_response(reply: &[u8], ledger_time_ns: i64) -> ExecuteResponse {
    ExecuteResponse {
        reply: Some(Reply {
            status: i32::from(u16::from_le_bytes([
                reply[STATUS_OFFSET],
                reply[STATUS_OFFSET + 1],
            ])),
            sequence: u64_at(reply, 0),
            entity: u64_at(reply, 8),
            amount: u64_at(reply, 16) as i64,
            debit_balance: u64_at(reply, 24) as i64,
            credit_balance: u64_at(reply, 32) as i64,
            duplicate: reply[REPLY_FLAGS_OFFSET] & DUPLICATE != 0,
        }),
        ledger_time_ns,
    }
}

/// The account that is asked for, as it is now; None when Python must judge.
pub fn read_get_account(message: &[u8]) -> Option<u64> {
    let request = GetAccountRequest::decode(message).ok()?;
    let is_plain = request.encoded_len() == message.len() && request.consistency.is_none();
    is_plain.then_some(request.account_id)
}

/// The typed form of one ACCOUNT record.
pub fn account(row: &AccountRow) -> Account {
    let [posted, held, floor, ceiling] = [row[0], row[1], row[2], row[3]].map(|word| word as i64);
    let credits_total = row[6] as i64;
    let state = (row[7] >> 32) & 0xFFFF;
    Account {
        account_id: row[8],
        asset: row[7] as u32,
        posted,
        held,
        debits_total: credits_total.wrapping_sub(posted),
        credits_total,
        version: row[4],
        last_sequence: row[5],
        reference: row[9],
        code: row[11] as u32,
        opened_ns: row[10] as i64,
        floor,
        ceiling,
        open_holds: (row[11] >> 32) as u32,
        debits_locked: state & DEBITS_LOCKED != 0,
        credits_locked: state & CREDITS_LOCKED != 0,
        closed: state & CLOSED != 0,
        // it can pass 2^63, never 2^64
        available: posted.wrapping_sub(held).wrapping_sub(floor) as u64,
    }
}
