//! Queries that are answered here, from the books; all others go on to Python's handlers.

use std::future::{poll_fn, Future};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{BufMut, Bytes, BytesMut};
use prost::Message;
use tokio::sync::oneshot;

use crate::bank;
use crate::books::{Books, ACCOUNT_WORDS, MAX_READ_ACCOUNTS};
use crate::contracts::ledger::{GetAccountResponse, GetAccountsRequest, GetAccountsResponse};
use crate::framing::{put_message, Broken, Requests};
use crate::node::{ActiveCall, Node};
use crate::python::{Answer, Question};
use crate::python_call::{Passed, PythonCall};
use crate::refusal::{ok, Refusal, UNAVAILABLE};
use crate::response::{Once, Step, Steps};
use crate::typed;

/// Answers that the client has not taken; beyond it the stream is not read.
const OUTBOX_BYTES_MAX: usize = 64 << 10;
const ID_BYTES: usize = 8;

/// `BalanceQueryService/sendQuery`: each query is answered in order, before the next is read.
pub struct BankQueries {
    node: Arc<Node>,
    books: Arc<Books>,
    requests: Option<Requests>,
    outbox: BytesMut,
    asked: Option<oneshot::Receiver<Answer>>,
    guard: Arc<ActiveCall>,
    end: Option<Arc<Refusal>>,
}

impl BankQueries {
    pub fn new(
        node: &Arc<Node>,
        books: &Arc<Books>,
        requests: Requests,
        guard: &Arc<ActiveCall>,
    ) -> Self {
        BankQueries {
            node: node.clone(),
            books: books.clone(),
            requests: Some(requests),
            outbox: BytesMut::new(),
            asked: None,
            guard: guard.clone(),
            end: None,
        }
    }

    fn answer(&mut self, message: Bytes) {
        match bank::answer_query(&self.books, &self.node.texts, &message) {
            Some(result) => put_message(&mut self.outbox, |outbox| result.encode_raw(outbox)),
            None => {
                let question = Question::BankQuery { message };
                self.asked = Some(self.node.python.ask(question, Some(&self.guard)));
            }
        }
    }

    fn hear(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Some(receiver) = self.asked.as_mut() {
            let answer = std::task::ready!(Pin::new(receiver).poll(cx))
                .unwrap_or_else(|_| Err(Refusal::new(UNAVAILABLE, "this node is stopping")));
            self.asked = None;
            match answer {
                Ok(message) => put_message(&mut self.outbox, |outbox| outbox.put_slice(&message)),
                Err(refusal) => self.end = Some(refusal),
            }
        }
        Poll::Ready(())
    }
}

impl Steps for BankQueries {
    fn poll_step(&mut self, cx: &mut Context<'_>) -> Poll<Step> {
        loop {
            if self.hear(cx).is_pending() {
                self.keep(cx);
                break;
            }
            if self.end.is_some() || self.outbox.len() >= OUTBOX_BYTES_MAX {
                break;
            }
            match self
                .requests
                .as_mut()
                .map(|requests| requests.poll_next(cx))
            {
                Some(Poll::Pending) | None => break,
                Some(Poll::Ready(Some(Ok(message)))) => self.answer(message),
                Some(Poll::Ready(Some(Err(Broken::Refused(refusal))))) => self.end = Some(refusal),
                Some(Poll::Ready(Some(Err(Broken::Gone)))) | Some(Poll::Ready(None)) => {
                    self.requests = None;
                }
            }
        }
        if !self.outbox.is_empty() {
            return Poll::Ready(Step::Data(self.outbox.split().freeze()));
        }
        if let Some(end) = &self.end {
            return Poll::Ready(Step::End(end.trailers()));
        }
        if self.requests.is_none() && self.asked.is_none() {
            return Poll::Ready(Step::End(ok()));
        }
        Poll::Pending
    }

    fn keep(&mut self, cx: &mut Context<'_>) {
        if let Some(requests) = self.requests.as_mut() {
            requests.keep(cx);
        }
    }
}

/// A unary query: answered from the books if it is plain, else by Python's handler.
pub async fn unary(
    node: &Arc<Node>,
    books: &Arc<Books>,
    passed: Passed<'_>,
    mut requests: Requests,
    answer: fn(&Books, &[u8]) -> Option<Once>,
) -> Box<dyn Steps> {
    let message = match poll_fn(|cx| requests.poll_next(cx)).await {
        Some(Ok(message)) => message,
        Some(Err(Broken::Refused(refusal))) => return Box::new(Once::refusal(&refusal)),
        // nobody is there, or no message: Python's handler says so
        Some(Err(Broken::Gone)) | None => {
            return Box::new(PythonCall::open(node, passed, requests, None))
        }
    };
    match answer(books, &message) {
        Some(once) => Box::new(once),
        None => Box::new(PythonCall::open(node, passed, requests, Some(message))),
    }
}

/// GetAccount of an account that there is.
pub fn get_account(books: &Books, message: &[u8]) -> Option<Once> {
    let id = typed::read_get_account(message)?;
    let (row, applied) = books.account(id).ok()?;
    Some(Once::message(&GetAccountResponse {
        account: Some(typed::account(&row?)),
        applied_sequence: applied,
    }))
}

/// GetAccounts, packed.
pub fn get_accounts(books: &Books, message: &[u8]) -> Option<Once> {
    let request = GetAccountsRequest::decode(message).ok()?;
    let packed = &request.account_ids;
    if request.encoded_len() != message.len()
        || request.consistency.is_some()
        || packed.is_empty()
        || !packed.len().is_multiple_of(ID_BYTES)
        || packed.len() > MAX_READ_ACCOUNTS * ID_BYTES
    {
        return None;
    }
    let ids: Vec<u64> = packed
        .chunks_exact(ID_BYTES)
        .map(|id| crate::record::u64_at(id, 0))
        .collect();
    let (rows, applied) = books.accounts(&ids).ok()?;
    let mut accounts = Vec::with_capacity(rows.len() * ACCOUNT_WORDS * 8);
    for word in rows.as_flattened() {
        accounts.extend_from_slice(&word.to_le_bytes());
    }
    Some(Once::message(&GetAccountsResponse {
        accounts: accounts.into(),
        applied_sequence: applied,
    }))
}
