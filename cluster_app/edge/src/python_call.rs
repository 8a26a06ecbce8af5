//! A call that Python's handlers serve: its messages go over, one when one is wanted, and back.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::{Bytes, BytesMut};
use http::HeaderMap;

use crate::framing::{put_message, Broken, Requests};
use crate::node::{ActiveCall, Node};
use crate::python::Event;
use crate::response::{Step, Steps};

/// Bytes that the client has not taken: beyond, Python is told to wait.
const OUTBOX_BYTES_MAX: usize = 1 << 20;

#[derive(Default)]
struct State {
    outbox: BytesMut,
    is_overfull: bool,
    is_message_wanted: bool,
    trailers: Option<HeaderMap>,
    /// The client has gone: what Python still writes is nobody's.
    is_closed: bool,
    waker: Option<Waker>,
}

/// What Python is to know of a call.
#[derive(Clone, Copy)]
pub struct Passed<'a> {
    pub method: &'a str,
    pub timeout_s: Option<f64>,
    pub guard: &'a Arc<ActiveCall>,
}

/// One call's side that Python reaches. It is counted until Python has ended it, however early the
/// client left: else calls that come and go would pile up before Python.
pub struct PythonState {
    state: Mutex<State>,
    _guard: Arc<ActiveCall>,
}

impl PythonState {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.lock();
        change(&mut state);
        let waker = state.waker.take();
        drop(state);
        waker.into_iter().for_each(Waker::wake);
    }

    /// Python wants the next message.
    pub fn want_message(&self) {
        self.change(|state| state.is_message_wanted = true);
    }

    /// Queue a message; false when Python should wait for `Writable` before the next.
    pub fn write(&self, message: &[u8]) -> bool {
        let mut has_room = true;
        self.change(|state| {
            if state.is_closed {
                return;
            }
            put_message(&mut state.outbox, |outbox| {
                outbox.extend_from_slice(message)
            });
            state.is_overfull = state.outbox.len() > OUTBOX_BYTES_MAX;
            has_room = !state.is_overfull;
        });
        has_room
    }

    /// End the call, after what was written.
    pub fn finish(&self, trailers: HeaderMap) {
        self.change(|state| state.trailers = Some(trailers));
    }
}

/// The edge's side of it.
pub struct PythonCall {
    node: Arc<Node>,
    id: u64,
    requests: Option<Requests>,
    shared: Arc<PythonState>,
}

impl PythonCall {
    /// Hand a call over; `message` is its first one, if it was read already.
    pub fn open(
        node: &Arc<Node>,
        passed: Passed<'_>,
        requests: Requests,
        message: Option<Bytes>,
    ) -> Self {
        let shared = Arc::new(PythonState {
            state: Mutex::default(),
            _guard: passed.guard.clone(),
        });
        let id = node.python.enter(shared.clone());
        node.python.tell(Event::Opened {
            id,
            method: passed.method.to_owned(),
            message,
            timeout_s: passed.timeout_s,
        });
        PythonCall {
            node: node.clone(),
            id,
            requests: Some(requests),
            shared,
        }
    }

    fn read(&mut self, cx: &mut Context<'_>) {
        if !self.shared.lock().is_message_wanted {
            return self.keep(cx);
        }
        let message = match self
            .requests
            .as_mut()
            .map(|requests| requests.poll_next(cx))
        {
            Some(Poll::Pending) => return,
            Some(Poll::Ready(Some(Ok(message)))) => Some(message),
            Some(Poll::Ready(Some(Err(Broken::Refused(refusal))))) => {
                self.shared.lock().trailers = Some(refusal.trailers());
                self.requests = None;
                None
            }
            Some(Poll::Ready(Some(Err(Broken::Gone)))) | Some(Poll::Ready(None)) | None => {
                self.requests = None;
                None
            }
        };
        self.shared.lock().is_message_wanted = false;
        self.node.python.tell(Event::Message {
            id: self.id,
            message,
        });
    }
}

impl Steps for PythonCall {
    fn poll_step(&mut self, cx: &mut Context<'_>) -> Poll<Step> {
        // before the first look: whatever Python does after one wakes this task
        self.shared.lock().waker = Some(cx.waker().clone());
        self.read(cx);
        let mut state = self.shared.lock();
        if !state.outbox.is_empty() {
            let data = state.outbox.split().freeze();
            if std::mem::take(&mut state.is_overfull) {
                self.node.python.tell(Event::Writable { id: self.id });
            }
            return Poll::Ready(Step::Data(data));
        }
        if let Some(trailers) = state.trailers.take() {
            return Poll::Ready(Step::End(trailers));
        }
        Poll::Pending
    }

    fn keep(&mut self, cx: &mut Context<'_>) {
        if let Some(requests) = self.requests.as_mut() {
            requests.keep(cx);
        }
    }
}

impl Drop for PythonCall {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.is_closed = true;
        state.outbox = BytesMut::new();
        drop(state);
        if self.node.python.call(self.id).is_some() {
            self.node.python.tell(Event::Cancelled { id: self.id });
        }
    }
}
