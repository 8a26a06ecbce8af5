//! The bank contract's messages: single commands in, short texts out.
//!
//! Read here is only what every client writes: one set command within the limits. Anything else
//! is Python's to judge (`cluster_app/bank.py`), and so are the texts.

use bytes::{BufMut, BytesMut};
use prost::encoding::encode_varint;
use prost::Message;

use crate::books::{AccountRow, Books};
use crate::contracts::bank::{
    balance_command, balance_query, balance_query_result, BalanceCommand, BalanceQuery,
    BalanceQueryResult, BaseResult, SingleBalanceResult,
};
use crate::record::{u64_at, Command, OPERATION_OFFSET, STATUS_OFFSET};

const CREATE_ACCOUNT: u16 = 1;
const DEPOSIT: u16 = 2;
const WITHDRAW: u16 = 3;
const TRANSFER: u16 = 4;
const STATUS_OK: u16 = 1;
const BAD_REQUEST: u64 = 400;
const NOT_FOUND: u32 = 404;
const CORRELATION_ID_BYTES_MAX: usize = 4_096;
const DEFAULT_ASSET: u32 = 1;
const CLOSED: u64 = 4;

/// The contract's texts, which `cluster_app/bank.py` words.
#[derive(Default)]
pub struct Texts {
    /// By operation, of a command that was done.
    pub done: Vec<String>,
    /// By status, with `{debit}` and `{credit}` for account numbers.
    pub refused: Vec<String>,
    /// Of a query, with `{id}`.
    pub not_found: String,
}

/// One command and its correlation id; None when Python must judge.
pub fn read_command(message: &[u8]) -> Option<(Command, String)> {
    let command = BalanceCommand::decode(message).ok()?;
    // a message of another length holds something that this program doesn't know
    if command.encoded_len() != message.len() {
        return None;
    }
    let (packed, correlation_id) = match command.r#type? {
        balance_command::Type::DepositCommand(deposit) => (
            Command {
                operation: DEPOSIT,
                credit_account: deposit.id,
                amount: i64::try_from(deposit.amount).ok()?,
                ..Command::default()
            },
            deposit.correlation_id,
        ),
        balance_command::Type::WithdrawCommand(withdraw) => (
            Command {
                operation: WITHDRAW,
                debit_account: withdraw.id,
                amount: i64::try_from(withdraw.amount).ok()?,
                ..Command::default()
            },
            withdraw.correlation_id,
        ),
        balance_command::Type::TransferCommand(transfer) => (
            Command {
                operation: TRANSFER,
                debit_account: transfer.from_id,
                credit_account: transfer.to_id,
                amount: i64::try_from(transfer.amount).ok()?,
                ..Command::default()
            },
            transfer.correlation_id,
        ),
        balance_command::Type::CreateBalanceCommand(create) => (
            Command {
                operation: CREATE_ACCOUNT,
                asset: DEFAULT_ASSET,
                ..Command::default()
            },
            create.correlation_id,
        ),
    };
    (correlation_id.len() <= CORRELATION_ID_BYTES_MAX).then_some((packed, correlation_id))
}

/// Append the BaseResult of one command: its record, its reply, and its correlation id.
pub fn put_result(texts: &Texts, record: &[u8], reply: &[u8], id: &[u8], outbox: &mut BytesMut) {
    let operation = u16::from_le_bytes([record[OPERATION_OFFSET], record[OPERATION_OFFSET + 1]]);
    let status = u16::from_le_bytes([reply[STATUS_OFFSET], reply[STATUS_OFFSET + 1]]);
    if status == STATUS_OK {
        let done = text_of(&texts.done, operation);
        if operation == CREATE_ACCOUNT {
            put_text(outbox, format!("{done}::{}", u64_at(reply, 8)).as_bytes());
        } else {
            put_text(outbox, done.as_bytes());
        }
    } else {
        outbox.put_u8(0x08);
        encode_varint(BAD_REQUEST, outbox);
        let text = text_of(&texts.refused, status);
        if text.contains('{') {
            let text = text
                .replace("{debit}", &u64_at(record, 16).to_string())
                .replace("{credit}", &u64_at(record, 24).to_string());
            put_text(outbox, text.as_bytes());
        } else {
            put_text(outbox, text.as_bytes());
        }
    }
    if !id.is_empty() {
        outbox.put_u8(0x1a);
        encode_varint(id.len() as u64, outbox);
        outbox.put_slice(id);
    }
}

fn text_of(texts: &[String], number: u16) -> &str {
    texts.get(number as usize).map_or("", String::as_str)
}

fn put_text(outbox: &mut BytesMut, text: &[u8]) {
    outbox.put_u8(0x12);
    encode_varint(text.len() as u64, outbox);
    outbox.put_slice(text);
}

/// The answer to a plain query; None when Python must judge, or help to find a quiet moment.
pub fn answer_query(books: &Books, texts: &Texts, message: &[u8]) -> Option<BalanceQueryResult> {
    let query = BalanceQuery::decode(message).ok()?;
    if query.encoded_len() != message.len() {
        return None;
    }
    let Some(balance_query::Type::SingleBalanceQuery(query)) = query.r#type else {
        return None;
    };
    let (account, _) = books.account(query.id).ok()?;
    let result = match account {
        Some(row) => balance_query_result::Type::SingleBalanceResult(single(
            books,
            &row,
            query.id,
            query.correlation_id,
        )),
        None => balance_query_result::Type::BaseResult(BaseResult {
            code: NOT_FOUND,
            message: texts.not_found.replace("{id}", &query.id.to_string()),
            correlation_id: query.correlation_id,
        }),
    };
    Some(BalanceQueryResult {
        r#type: Some(result),
    })
}

fn single(books: &Books, row: &AccountRow, id: u64, correlation_id: String) -> SingleBalanceResult {
    SingleBalanceResult {
        id,
        amount: (row[0] as i64).max(0) as u64,
        precision: books.decimals(row[7] as u32),
        active: (row[7] >> 32) & CLOSED == 0,
        correlation_id,
    }
}
