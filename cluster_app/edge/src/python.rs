//! What Python is told and asked: calls that it serves, and questions of this edge's own.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::oneshot;

use crate::node::ActiveCall;
use crate::python_call::PythonState;
use crate::refusal::Refusal;
use crate::wake::Wake;

/// What Python hears. `id` names a call or a question.
pub enum Event {
    /// A call that Python serves; its first message, if it has been read already.
    Opened {
        id: u64,
        method: String,
        message: Option<Bytes>,
        timeout_s: Option<f64>,
    },
    /// The message that was wanted; None at the end of the client's side.
    Message { id: u64, message: Option<Bytes> },
    /// The client has taken what was written: there is room again.
    Writable { id: u64 },
    /// The client has gone.
    Cancelled { id: u64 },
    /// A question of this edge.
    Asked { id: u64, question: Question },
}

/// What Python decides, so that both edges say the same in the same words.
pub enum Question {
    /// What this message of a contract is; its number in its stream.
    Message {
        contract: u8,
        index: u64,
        message: Bytes,
    },
    /// How a stream ends with the leadership: messages answered, and the first that wasn't run.
    Lost {
        contract: u8,
        answered: u64,
        not_run_from: u64,
        reason: Arc<str>,
    },
    /// The answer to a bank query that found no quiet moment, or isn't plain.
    BankQuery { message: Bytes },
    /// Whether the TLS files have changed.
    Tls,
}

pub type Answer = Result<Vec<u8>, Arc<Refusal>>;

#[derive(Default)]
struct Open {
    calls: HashMap<u64, Arc<PythonState>>,
    /// Each with the call that asks: it is counted until the answer is there.
    questions: HashMap<u64, (oneshot::Sender<Answer>, Option<Arc<ActiveCall>>)>,
}

/// The way to Python and back.
pub struct Python {
    events: Mutex<VecDeque<Event>>,
    open: Mutex<Open>,
    next: AtomicU64,
    wake: Arc<Wake>,
}

impl Python {
    pub fn new(wake: Arc<Wake>) -> Self {
        Python {
            events: Mutex::default(),
            open: Mutex::default(),
            next: AtomicU64::new(1),
            wake,
        }
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queue an event. A call has at most three of them waiting, and is counted meanwhile.
    pub fn tell(&self, event: Event) {
        self.events
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push_back(event);
        self.wake.signal();
    }

    /// All events that wait.
    pub fn events(&self) -> VecDeque<Event> {
        std::mem::take(&mut *self.events.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Ask something; the answer comes by the receiver, or never once the node stops.
    pub fn ask(
        &self,
        question: Question,
        guard: Option<&Arc<ActiveCall>>,
    ) -> oneshot::Receiver<Answer> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let (sender, receiver) = oneshot::channel();
        self.open().questions.insert(id, (sender, guard.cloned()));
        self.tell(Event::Asked { id, question });
        receiver
    }

    /// Python's answer.
    pub fn answer(&self, id: u64, answer: Answer) {
        let asked = self.open().questions.remove(&id);
        if let Some((sender, _guard)) = asked {
            let _ = sender.send(answer); // who asked may have gone
        }
    }

    /// Enter a call that Python is going to serve.
    pub fn enter(&self, state: Arc<PythonState>) -> u64 {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        self.open().calls.insert(id, state);
        id
    }

    /// Python has ended the call.
    pub fn leave(&self, id: u64) -> Option<Arc<PythonState>> {
        self.open().calls.remove(&id)
    }

    pub fn call(&self, id: u64) -> Option<Arc<PythonState>> {
        self.open().calls.get(&id).cloned()
    }
}
