//! The Python side of it: an `Edge`, which Python's event loop drives without ever waiting.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use pyo3::buffer::PyBuffer;
use pyo3::exceptions::{PyOSError, PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList, PyTuple};
use tokio::sync::{mpsc, watch};

use crate::bank::Texts;
use crate::books::Books;
use crate::node::{Node, Options, Tokens};
use crate::python::{Event, Question};
use crate::queue::Block;
use crate::record::{COMMAND_BYTES, REPLY_BYTES};
use crate::refusal::{ok, Refusal};
use crate::streams::{distribute, fail};
use crate::structure::Structure;
use crate::{server, tls, wake};

/// (code, message, further trailers): how Python words a refusal.
type Worded = (u16, String, Vec<(String, String)>);

fn refusal((code, message, metadata): Worded) -> Arc<Refusal> {
    Arc::new(Refusal {
        code,
        message,
        metadata,
    })
}

/// A dictionary of all that the edge is made with.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
struct Settings {
    max_in_flight: usize,
    max_streams: usize,
    max_calls: usize,
    max_connections: usize,
    max_message_bytes: usize,
    keepalive_ms: u64,
    operation_fields: Vec<i64>,
    operation_flags: Vec<i64>,
    done_texts: Vec<String>,
    refused_texts: Vec<String>,
    not_found_text: String,
    token_digests: Vec<Vec<u8>>,
    token_missing: Worded,
    token_unknown: Worded,
    too_many_streams: Worded,
    not_leading: Worded,
    tls: Option<TlsTexts>,
}

/// Whose the commands of a block are: given back with their replies, once.
#[pyclass(frozen)]
pub struct Routes(Mutex<Option<Block>>);

impl Routes {
    fn take(&self) -> PyResult<Block> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
            .ok_or_else(|| PyValueError::new_err("these routes have been answered already"))
    }
}

struct Replied {
    block: Block,
    replies: Vec<u8>,
    ledger_time_ns: i64,
}

/// What the edge's thread begins with.
struct Start {
    listener: std::net::TcpListener,
    replied: mpsc::UnboundedReceiver<Replied>,
}

#[pyclass(frozen)]
pub struct Edge {
    node: Arc<Node>,
    port: u16,
    start: Mutex<Option<Start>>,
    replied: mpsc::UnboundedSender<Replied>,
    ending: watch::Sender<bool>,
    ended: Arc<watch::Sender<bool>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

#[pymethods]
impl Edge {
    /// Bind `address`. Raises OSError when it can't be had, ValueError for settings or TLS texts
    /// that can't be used.
    #[new]
    fn new(address: &str, shared_port: bool, settings: Settings) -> PyResult<Self> {
        let address: SocketAddr = address
            .parse()
            .map_err(|_| PyValueError::new_err(format!("{address} is no IP:PORT")))?;
        let wake = Arc::new(wake::Wake::new()?);
        let node = Node::new(
            Options {
                max_in_flight: settings.max_in_flight,
                max_streams: settings.max_streams,
                max_calls: settings.max_calls,
                max_connections: settings.max_connections,
                max_message_bytes: settings.max_message_bytes,
                keepalive_ms: settings.keepalive_ms,
            },
            Structure {
                fields: settings.operation_fields,
                flags: settings.operation_flags,
            },
            Texts {
                done: settings.done_texts,
                refused: settings.refused_texts,
                not_found: settings.not_found_text,
            },
            Tokens {
                digests: settings.token_digests,
                missing: refusal(settings.token_missing),
                unknown: refusal(settings.token_unknown),
            },
            refusal(settings.too_many_streams),
            refusal(settings.not_leading),
            settings.tls.as_ref().map(configuration).transpose()?,
            wake,
        );
        let listener = server::bind(address, shared_port)?;
        let port = listener.local_addr()?.port();
        let (sender, replied) = mpsc::unbounded_channel();
        Ok(Edge {
            node: Arc::new(node),
            port,
            start: Mutex::new(Some(Start { listener, replied })),
            replied: sender,
            ending: watch::channel(false).0,
            ended: Arc::new(watch::channel(false).0),
            thread: Mutex::default(),
        })
    }

    /// The port that it is bound to.
    #[getter]
    fn port(&self) -> u16 {
        self.port
    }

    /// Readable when enough commands wait, or events.
    #[getter]
    fn wake_descriptor(&self) -> i32 {
        self.node.wake.raw_descriptor()
    }

    /// Command streams that are open now.
    #[getter]
    fn open_streams(&self) -> usize {
        self.node.open_streams()
    }

    /// Answer queries from these arrays, each as u64 words, from now on.
    fn read_books(
        &self,
        marks: &Bound<'_, PyAny>,
        ledger: &Bound<'_, PyAny>,
        accounts: &Bound<'_, PyAny>,
        assets: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        let books = Arc::new(Books::new(marks, ledger, accounts, assets)?);
        self.node
            .books
            .set(books)
            .map_err(|_| PyRuntimeError::new_err("the books are being read already"))
    }

    /// Begin to serve, on a thread of its own.
    fn start(&self) -> PyResult<()> {
        let start = self
            .start
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
            .ok_or_else(|| PyRuntimeError::new_err("started already"))?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let (node, ending, mut ended) = (
            self.node.clone(),
            self.ending.subscribe(),
            self.ended.subscribe(),
        );
        let thread = std::thread::Builder::new()
            .name("edge".into())
            .spawn(move || {
                runtime.block_on(async move {
                    tokio::spawn(answer(node.clone(), start.replied));
                    let serving = tokio::spawn(server::serve(node, start.listener, ending));
                    let _ = ended.wait_for(|ended| *ended).await;
                    serving.abort();
                });
            })
            .map_err(|error| PyOSError::new_err(error.to_string()))?;
        *self.thread.lock().unwrap_or_else(PoisonError::into_inner) = Some(thread);
        Ok(())
    }

    /// Take commands from now on (None), or refuse them so.
    fn refuse_commands(&self, worded: Option<Worded>) {
        self.node.set_refused(worded.map(refusal));
    }

    /// To be called when `wake_descriptor` is readable, before `take` and `events`.
    fn clear_wake(&self) {
        self.node.wake.clear();
    }

    /// The next block: (count * 64 bytes of well-formed commands, their routes), or None: then
    /// `wake_descriptor` gets readable once `enough` commands wait. After a block it doesn't:
    /// another look must follow.
    fn take<'py>(&self, py: Python<'py>, enough: usize) -> Option<(Bound<'py, PyBytes>, Routes)> {
        let block = self.node.queue.take(enough)?;
        let records = PyBytes::new(py, block.records());
        Some((records, Routes(Mutex::new(Some(block)))))
    }

    /// Send the replies of a block, count * 48 bytes. Raises ValueError for another length.
    fn reply(&self, routes: &Routes, replies: PyBuffer<u8>, ledger_time_ns: i64) -> PyResult<()> {
        let replies = Python::attach(|py| replies.to_vec(py))?;
        let block = routes.take()?;
        if replies.len() / REPLY_BYTES != block.records().len() / COMMAND_BYTES {
            return Err(PyValueError::new_err(
                "a block's replies are as many as its commands",
            ));
        }
        let _ = self.replied.send(Replied {
            block,
            replies,
            ledger_time_ns,
        });
        Ok(())
    }

    /// A block will have no replies: its calls end. `is_unknown`: it may have been run.
    fn fail(&self, routes: &Routes, is_unknown: bool, reason: &str) -> PyResult<()> {
        fail(&routes.take()?, is_unknown, &reason.into());
        Ok(())
    }

    /// End every command stream, after its replies.
    fn end_streams(&self, reason: &str) {
        self.node.end_streams(&reason.into());
    }

    /// What has happened: tuples that begin with the event's name and the call's number.
    fn events<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        let events = PyList::empty(py);
        for event in self.node.python.events() {
            events.append(tuple_of(py, event)?)?;
        }
        Ok(events)
    }

    /// Read a call's next message: it comes as an event.
    fn want_message(&self, call: u64) {
        if let Some(call) = self.node.python.call(call) {
            call.want_message();
        }
    }

    /// Send a message; False when the next should wait for the event `writable`.
    fn write(&self, call: u64, message: &[u8]) -> bool {
        self.node
            .python
            .call(call)
            .is_none_or(|call| call.write(message))
    }

    /// End a call, with OK or with a refusal.
    #[pyo3(signature = (call, worded=None))]
    fn finish(&self, call: u64, worded: Option<Worded>) {
        if let Some(state) = self.node.python.leave(call) {
            state.finish(worded.map_or_else(ok, |worded| refusal(worded).trailers()));
        }
    }

    /// The answer to a question.
    fn answer(&self, question: u64, answer: Vec<u8>) {
        self.node.python.answer(question, Ok(answer));
    }

    /// The answer to a question is a refusal.
    fn refuse(&self, question: u64, worded: Worded) {
        self.node.python.answer(question, Err(refusal(worded)));
    }

    /// Use other TLS texts for new connections. Raises ValueError when they can't be used.
    fn change_tls(&self, certificate: &[u8], key: &[u8], authority: Option<&[u8]>) -> PyResult<()> {
        let config =
            tls::configuration(certificate, key, authority).map_err(PyValueError::new_err)?;
        if let Some(current) = &self.node.tls {
            *current.lock().unwrap_or_else(PoisonError::into_inner) = config;
        }
        Ok(())
    }

    /// Take no more calls, give those that are served `grace_s` to end and their clients to take
    /// the answers, then end all. It waits:
    /// call it on another thread than the loop's.
    fn stop(&self, py: Python<'_>, grace_s: f64) {
        let _ = self.ending.send(true);
        py.detach(|| {
            let deadline = Instant::now() + Duration::from_secs_f64(grace_s);
            while self.node.is_active() && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(2));
            }
            let _ = self.ended.send(true);
            // never started: the port is let go of all the same
            drop(
                self.start
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .take(),
            );
            let thread = self
                .thread
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .take();
            if let Some(thread) = thread {
                let _ = thread.join();
            }
        });
    }
}

/// Hand out replies, on the edge's own thread.
async fn answer(node: Arc<Node>, mut replied: mpsc::UnboundedReceiver<Replied>) {
    while let Some(replied) = replied.recv().await {
        distribute(
            &node.texts,
            &replied.block,
            &replied.replies,
            replied.ledger_time_ns,
        );
    }
}

type TlsTexts = (Vec<u8>, Vec<u8>, Option<Vec<u8>>);

fn configuration(
    (certificate, key, authority): &TlsTexts,
) -> PyResult<Arc<tokio_rustls::rustls::ServerConfig>> {
    tls::configuration(certificate, key, authority.as_deref()).map_err(PyValueError::new_err)
}

fn tuple_of<'py>(py: Python<'py>, event: Event) -> PyResult<Bound<'py, PyTuple>> {
    let bytes = |message: Option<bytes::Bytes>| message.map(|message| PyBytes::new(py, &message));
    match event {
        Event::Opened {
            id,
            method,
            message,
            timeout_s,
        } => ("opened", id, method, bytes(message), timeout_s).into_pyobject(py),
        Event::Message { id, message } => ("message", id, bytes(message)).into_pyobject(py),
        Event::Writable { id } => ("writable", id).into_pyobject(py),
        Event::Cancelled { id } => ("cancelled", id).into_pyobject(py),
        Event::Asked { id, question } => match question {
            Question::Message {
                contract,
                index,
                message,
            } => ("ask_message", id, contract, index, bytes(Some(message))).into_pyobject(py),
            Question::Lost {
                contract,
                answered,
                not_run_from,
                reason,
            } => (
                "ask_lost",
                id,
                contract,
                answered,
                not_run_from,
                reason.to_string(),
            )
                .into_pyobject(py),
            Question::BankQuery { message } => {
                ("ask_query", id, bytes(Some(message))).into_pyobject(py)
            }
            Question::Tls => ("ask_tls", id).into_pyobject(py),
        },
    }
}
