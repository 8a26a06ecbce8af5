//! Command calls: messages become records in the queue, replies become messages in the outbox.
//!
//! A call is polled in its own HTTP/2 stream's task: it reads all that has arrived, then writes
//! all that is answered. It isn't read while too much of it is unanswered or the queue is full, nor
//! while the client doesn't take its replies: HTTP/2's own back-pressure then holds the client.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::{BufMut, Bytes, BytesMut};
use prost::encoding::encode_varint;
use prost::Message;
use tokio::sync::oneshot;

use crate::bank;
use crate::contracts::ledger::SubmitRequest;
use crate::framing::{put_message, Broken, Requests};
use crate::node::{ActiveCall, Node};
use crate::python::{Answer, Question};
use crate::queue::{Block, Entry, Singles};
use crate::record::{COMMAND_BYTES, REPLY_BYTES};
use crate::refusal::{ok, Refusal, INTERNAL, UNAVAILABLE};
use crate::response::{Step, Steps};
use crate::typed;

/// Replies that a stream's client has not taken; beyond it the stream is not read.
const OUTBOX_BYTES_MAX: usize = 4 << 20;
/// Single commands read before the queue is locked once for all of them.
const SINGLES_AT_ONCE: usize = 1_024;
/// How Python's judgement of a message begins: commands to run, or an answer that needs none.
const IS_COMMANDS: u8 = 0;

/// How a call's messages are read and its replies worded. Python knows them by these numbers.
#[derive(Clone, Copy, PartialEq)]
pub enum Contract {
    Bank = 0,
    Submit = 1,
    Execute = 2,
}

#[derive(Default)]
struct State {
    outbox: BytesMut,
    /// Commands whose replies lie in the outbox.
    outbox_commands: usize,
    in_flight: usize,
    unanswered: u64,
    answered: u64,
    unknown: u64,
    failed: u64,
    lost_because: Option<Arc<str>>,
    is_closed: bool,
    waker: Option<Waker>,
}

/// What a call and the replies on their way to it share.
pub struct Stream {
    contract: Contract,
    state: Mutex<State>,
}

impl Stream {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The leadership is over: the call ends once nothing of it is awaited.
    pub fn end_of_term(&self, reason: &Arc<str>) {
        let mut state = self.lock();
        state.lost_because = Some(reason.clone());
        let waker = state.waker.take();
        drop(state);
        waker.into_iter().for_each(Waker::wake);
    }

    /// Fail messages that count as unanswered, if they came after a loss or the end of the term.
    pub fn refuse_if_lost(&self, messages: u64) -> bool {
        let mut state = self.lock();
        let is_lost = state.lost_because.is_some();
        if is_lost {
            state.unanswered -= messages;
            state.failed += messages;
        }
        is_lost
    }

    fn replied(&self, entry: &Entry, put: impl FnOnce(&mut BytesMut)) {
        let mut state = self.lock();
        state.unanswered -= u64::from(entry.messages);
        state.answered += u64::from(entry.messages);
        if state.is_closed {
            return;
        }
        put(&mut state.outbox);
        state.outbox_commands += entry.commands as usize;
        let waker = state.waker.take();
        drop(state);
        waker.into_iter().for_each(Waker::wake);
    }

    fn failed(&self, entry: &Entry, is_unknown: bool, reason: &Arc<str>) {
        let messages = u64::from(entry.messages);
        let mut state = self.lock();
        state.unanswered -= messages;
        state.failed += messages;
        state.unknown += if is_unknown { messages } else { 0 };
        drop(state);
        self.end_of_term(reason);
    }
}

/// Hand a block's replies, count * 48 bytes, to the calls that asked.
pub fn distribute(texts: &bank::Texts, block: &Block, replies: &[u8], ledger_time_ns: i64) {
    let (mut records, mut replies) = (block.records(), replies);
    let (mut lengths, mut own_texts) = (block.text_lengths.as_slice(), block.texts.as_slice());
    for entry in &block.entries {
        let count = entry.commands as usize;
        let (commands, results, singles);
        (commands, records) = records.split_at(count * COMMAND_BYTES);
        (results, replies) = replies.split_at(count * REPLY_BYTES);
        match entry.stream.contract {
            Contract::Bank => {
                (singles, lengths) = lengths.split_at(count);
                let bytes = singles.iter().map(|length| *length as usize).sum();
                let (mut repeated, rest) = own_texts.split_at(bytes);
                own_texts = rest;
                entry.stream.replied(entry, |outbox| {
                    let pairs = commands.chunks_exact(COMMAND_BYTES);
                    for ((record, reply), length) in
                        pairs.zip(results.chunks_exact(REPLY_BYTES)).zip(singles)
                    {
                        let (text, rest) = repeated.split_at(*length as usize);
                        repeated = rest;
                        put_message(outbox, |outbox| {
                            bank::put_result(texts, record, reply, text, outbox);
                        });
                    }
                });
            }
            Contract::Submit => entry.stream.replied(entry, |outbox| {
                put_message(outbox, |outbox| {
                    put_response(results, ledger_time_ns, outbox)
                });
            }),
            Contract::Execute => entry.stream.replied(entry, |outbox| {
                put_message(outbox, |outbox| {
                    typed::execute_response(results, ledger_time_ns).encode_raw(outbox);
                });
            }),
        }
    }
}

/// A SubmitResponse: the replies as they are, and the ledger time.
fn put_response(replies: &[u8], ledger_time_ns: i64, outbox: &mut BytesMut) {
    outbox.put_u8(0x0a);
    encode_varint(replies.len() as u64, outbox);
    outbox.put_slice(replies);
    outbox.put_u8(0x10);
    encode_varint(ledger_time_ns as u64, outbox);
}

/// Tell the calls of a block that there will be no replies.
pub fn fail(block: &Block, is_unknown: bool, reason: &Arc<str>) {
    for entry in &block.entries {
        entry.stream.failed(entry, is_unknown, reason);
    }
}

enum Asked {
    Message,
    Lost,
}

/// One call of a command contract.
pub struct CommandCall {
    node: Arc<Node>,
    contract: Contract,
    stream: Arc<Stream>,
    key: Option<usize>,
    guard: Arc<ActiveCall>,
    /// None once no more is to be read.
    requests: Option<Requests>,
    index: u64,
    asked: Option<(Asked, oneshot::Receiver<Answer>)>,
    end: Option<Arc<Refusal>>,
    is_loss_told: bool,
    singles: Singles,
}

impl CommandCall {
    /// A call that may be served. Streams are entered, so that the end of a term ends them.
    pub fn new(
        node: &Arc<Node>,
        contract: Contract,
        requests: Requests,
        guard: &Arc<ActiveCall>,
    ) -> Self {
        let stream = Arc::new(Stream {
            contract,
            state: Mutex::default(),
        });
        let key = (contract != Contract::Execute).then(|| node.enter_stream(stream.clone()));
        CommandCall {
            node: node.clone(),
            contract,
            stream,
            key,
            guard: guard.clone(),
            requests: Some(requests),
            index: 0,
            asked: None,
            end: None,
            is_loss_told: false,
            singles: Singles::default(),
        }
    }

    /// Messages that may be read before the next look at the locks; 0 when none may be.
    fn room(&self, cx: &Context<'_>) -> usize {
        if self.asked.is_some() || self.end.is_some() || self.requests.is_none() {
            return 0;
        }
        let state = self.stream.lock();
        let room = self
            .node
            .options
            .max_in_flight
            .saturating_sub(state.in_flight);
        if state.outbox.len() >= OUTBOX_BYTES_MAX || state.lost_because.is_some() {
            return 0;
        }
        drop(state);
        if room == 0 || !self.node.queue.has_room(cx) {
            return 0;
        }
        if self.contract == Contract::Bank {
            room.min(SINGLES_AT_ONCE)
        } else {
            1
        }
    }

    fn read(&mut self, cx: &mut Context<'_>) {
        loop {
            let room = self.room(cx);
            let is_more = room > 0 && self.read_some(cx, room);
            if !self.singles.text_lengths.is_empty() {
                let count = self.singles.text_lengths.len();
                self.count(count, count as u64);
                self.node
                    .queue
                    .push_singles(&self.stream, &mut self.singles);
            }
            if room == 0 {
                self.keep(cx);
            }
            if !is_more {
                return;
            }
        }
    }

    /// Read so many messages. False when there are no more now.
    fn read_some(&mut self, cx: &mut Context<'_>, room: usize) -> bool {
        for _ in 0..room {
            let Some(requests) = self.requests.as_mut() else {
                return false;
            };
            match requests.poll_next(cx) {
                Poll::Pending => return false,
                Poll::Ready(Some(Ok(message))) => self.take(message),
                Poll::Ready(Some(Err(Broken::Refused(refusal)))) => self.end = Some(refusal),
                Poll::Ready(Some(Err(Broken::Gone))) => self.requests = None,
                Poll::Ready(None) => {
                    self.requests = None;
                    if self.contract == Contract::Execute && self.index == 0 {
                        self.end = Some(Refusal::new(INTERNAL, "the call holds no message"));
                    }
                }
            }
            if self.asked.is_some() || self.end.is_some() {
                return false;
            }
        }
        true
    }

    fn take(&mut self, message: Bytes) {
        let is_taken = match self.contract {
            Contract::Bank => self.take_bank(&message),
            Contract::Submit => self.take_packed(&message),
            Contract::Execute => match typed::read_execute(&message) {
                Some(command) => self.push_message(Bytes::copy_from_slice(&command.pack())),
                None => false,
            },
        };
        if !is_taken {
            let question = Question::Message {
                contract: self.contract as u8,
                index: self.index,
                message,
            };
            self.asked = Some((Asked::Message, self.ask(question)));
        }
        self.index += 1;
        if self.contract == Contract::Execute {
            self.requests = None;
        }
    }

    fn ask(&self, question: Question) -> oneshot::Receiver<Answer> {
        self.node.python.ask(question, Some(&self.guard))
    }

    fn take_bank(&mut self, message: &[u8]) -> bool {
        let Some((command, correlation_id)) = bank::read_command(message) else {
            return false;
        };
        self.singles
            .push(&command.pack(), correlation_id.as_bytes());
        true
    }

    fn take_packed(&self, message: &Bytes) -> bool {
        let Ok(request) = SubmitRequest::decode(message.clone()) else {
            return false;
        };
        let commands = request.commands;
        self.node.structure.is_well_formed(&commands)
            && commands.len() / COMMAND_BYTES <= self.node.options.max_in_flight
            && self.push_message(commands)
    }

    fn push_message(&self, records: Bytes) -> bool {
        self.count(records.len() / COMMAND_BYTES, 1);
        self.node.queue.push_message(&self.stream, records);
        true
    }

    fn count(&self, commands: usize, messages: u64) {
        let mut state = self.stream.lock();
        state.in_flight += commands;
        state.unanswered += messages;
    }

    fn take_answer(&mut self, asked: &Asked, answer: Answer) {
        match (asked, answer) {
            (_, Err(refusal)) => {
                self.is_loss_told |= matches!(asked, Asked::Lost);
                self.end = Some(refusal);
            }
            (Asked::Message, Ok(answer)) => match answer.split_first() {
                Some((&IS_COMMANDS, rest)) if self.contract == Contract::Bank => {
                    let (record, text) = rest.split_at(COMMAND_BYTES.min(rest.len()));
                    self.singles.push(record, text); // the next read sends it on
                }
                Some((&IS_COMMANDS, records)) => {
                    self.push_message(Bytes::copy_from_slice(records));
                }
                Some((_, message)) => put_message(&mut self.stream.lock().outbox, |outbox| {
                    outbox.put_slice(message);
                }),
                None => self.end = Some(Refusal::new(INTERNAL, "no answer")),
            },
            (Asked::Lost, Ok(_)) => self.end = Some(Refusal::new(INTERNAL, "no answer")),
        }
    }

    /// What Python was asked, once it has answered. False while it hasn't.
    fn hear(&mut self, cx: &mut Context<'_>) -> bool {
        let Some((_, receiver)) = self.asked.as_mut() else {
            return true;
        };
        let Poll::Ready(answer) = Pin::new(receiver).poll(cx) else {
            return false;
        };
        let answer =
            answer.unwrap_or_else(|_| Err(Refusal::new(UNAVAILABLE, "this node is stopping")));
        if let Some((asked, _)) = self.asked.take() {
            self.take_answer(&asked, answer);
        }
        true
    }
}

impl Steps for CommandCall {
    fn poll_step(&mut self, cx: &mut Context<'_>) -> Poll<Step> {
        loop {
            self.hear(cx);
            self.read(cx);
            let mut state = self.stream.lock();
            if !state.outbox.is_empty() {
                state.in_flight -= std::mem::take(&mut state.outbox_commands);
                return Poll::Ready(Step::Data(state.outbox.split().freeze()));
            }
            let is_ended = self.end.is_some() || self.requests.is_none();
            if state.unanswered == 0 && self.asked.is_none() {
                if let Some(reason) = &state.lost_because {
                    // a stream that was answered whole ends as if nothing had happened
                    if !self.is_loss_told
                        && (state.unknown > 0
                            || self.end.is_none() && (state.failed > 0 || !is_ended))
                    {
                        let question = Question::Lost {
                            contract: self.contract as u8,
                            answered: state.answered,
                            not_run_from: state.answered + state.unknown,
                            reason: reason.clone(),
                        };
                        drop(state);
                        self.asked = Some((Asked::Lost, self.ask(question)));
                        continue;
                    }
                }
                if let Some(end) = &self.end {
                    return Poll::Ready(Step::End(end.trailers()));
                }
                if is_ended {
                    return Poll::Ready(Step::End(ok()));
                }
            }
            state.waker = Some(cx.waker().clone());
            drop(state);
            // asked just now: the receiver must know whom to wake
            if self.asked.is_none() || !self.hear(cx) {
                return Poll::Pending;
            }
        }
    }

    fn keep(&mut self, cx: &mut Context<'_>) {
        if let Some(requests) = self.requests.as_mut() {
            requests.keep(cx);
        }
    }
}

impl Drop for CommandCall {
    fn drop(&mut self) {
        let mut state = self.stream.lock();
        state.is_closed = true;
        state.outbox = BytesMut::new();
        drop(state);
        if let Some(key) = self.key {
            self.node.leave_stream(key);
        }
    }
}
