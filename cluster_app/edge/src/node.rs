//! What all connections of a node share: limits, who may call, what is served, who is connected.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use http::HeaderMap;
use ring::digest::{digest, SHA256};
use slab::Slab;
use subtle::{Choice, ConstantTimeEq};
use tokio_rustls::rustls::ServerConfig;

use crate::bank::Texts;
use crate::books::Books;
use crate::python::Python;
use crate::queue::Queue;
use crate::refusal::{Refusal, RESOURCE_EXHAUSTED};
use crate::streams::Stream;
use crate::structure::Structure;
use crate::wake::Wake;

const BEARER: &[u8] = b"bearer ";

/// Limits, each from a setting or a constant of `cluster_app`.
pub struct Options {
    pub max_in_flight: usize,
    pub max_streams: usize,
    pub max_calls: usize,
    /// A file descriptor each.
    pub max_connections: usize,
    pub max_message_bytes: usize,
    pub keepalive_ms: u64,
}

/// Who may call: SHA-256 digests of the tokens; none for everybody.
pub struct Tokens {
    pub digests: Vec<Vec<u8>>,
    pub missing: Arc<Refusal>,
    pub unknown: Arc<Refusal>,
}

pub struct Node {
    pub options: Options,
    pub structure: Structure,
    pub texts: Texts,
    pub tokens: Tokens,
    pub too_many_streams: Arc<Refusal>,
    pub wake: Arc<Wake>,
    pub queue: Queue,
    pub python: Python,
    pub books: OnceLock<Arc<Books>>,
    /// None for plain text.
    pub tls: Option<Mutex<Arc<ServerConfig>>>,
    gate: Mutex<Option<Arc<Refusal>>>,
    streams: Mutex<Slab<Arc<Stream>>>,
    calls: AtomicUsize,
    connections: AtomicUsize,
}

impl Node {
    #[allow(clippy::too_many_arguments)]
    pub fn new(
        options: Options,
        structure: Structure,
        texts: Texts,
        tokens: Tokens,
        too_many_streams: Arc<Refusal>,
        not_leading: Arc<Refusal>,
        tls: Option<Arc<ServerConfig>>,
        wake: Arc<Wake>,
    ) -> Self {
        Node {
            options,
            structure,
            texts,
            tokens,
            too_many_streams,
            queue: Queue::new(wake.clone()),
            python: Python::new(wake.clone()),
            wake,
            books: OnceLock::new(),
            tls: tls.map(Mutex::new),
            gate: Mutex::new(Some(not_leading)),
            streams: Mutex::default(),
            calls: AtomicUsize::new(0),
            connections: AtomicUsize::new(0),
        }
    }

    /// Why commands aren't taken now, or None while they are.
    pub fn refused(&self) -> Option<Arc<Refusal>> {
        self.gate
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Take commands from now on, or refuse them so.
    pub fn set_refused(&self, refusal: Option<Arc<Refusal>>) {
        *self.gate.lock().unwrap_or_else(PoisonError::into_inner) = refusal;
    }

    fn streams(&self) -> MutexGuard<'_, Slab<Arc<Stream>>> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn enter_stream(&self, stream: Arc<Stream>) -> usize {
        self.streams().insert(stream)
    }

    pub fn leave_stream(&self, key: usize) {
        self.streams().remove(key);
    }

    /// Command streams that are open now.
    pub fn open_streams(&self) -> usize {
        self.streams().len()
    }

    /// End every command stream, after its replies.
    pub fn end_streams(&self, reason: &Arc<str>) {
        for (_, stream) in self.streams().iter() {
            stream.end_of_term(reason);
        }
    }

    /// Whether a call with these headers may be served, or why not.
    pub fn admit(&self, path: &str, headers: &HeaderMap) -> Result<(), Arc<Refusal>> {
        if self.tokens.digests.is_empty() || path.starts_with("/grpc.health.v1.Health/") {
            return Ok(());
        }
        let mut values = headers.get_all("authorization").iter();
        let (Some(value), None) = (values.next(), values.next()) else {
            return Err(self.tokens.missing.clone());
        };
        let value = value.as_bytes();
        let Some((scheme, token)) = value.split_at_checked(BEARER.len()) else {
            return Err(self.tokens.missing.clone());
        };
        let token = token.trim_ascii();
        if !scheme.eq_ignore_ascii_case(BEARER) || token.is_empty() {
            return Err(self.tokens.missing.clone());
        }
        let presented = digest(&SHA256, token);
        // all of them, so that the time doesn't tell which one was meant
        let mut known = Choice::from(0);
        for digest in &self.tokens.digests {
            known |= presented.as_ref().ct_eq(digest);
        }
        if bool::from(known) {
            Ok(())
        } else {
            Err(self.tokens.unknown.clone())
        }
    }

    /// Count a call for as long as the guard lives; refused beyond the limit.
    pub fn begin_call(self: &Arc<Self>) -> Result<ActiveCall, Arc<Refusal>> {
        let call = ActiveCall(self.clone());
        if self.calls.fetch_add(1, Ordering::Relaxed) >= self.options.max_calls {
            return Err(Refusal::new(
                RESOURCE_EXHAUSTED,
                "too many calls are being served: try again later",
            ));
        }
        Ok(call)
    }

    /// Count a connection for as long as the guard lives.
    pub fn begin_connection(self: &Arc<Self>) -> ActiveConnection {
        self.connections.fetch_add(1, Ordering::Relaxed);
        ActiveConnection(self.clone())
    }

    /// Whether a call is being served, or a connection still has something to send.
    pub fn is_active(&self) -> bool {
        self.calls.load(Ordering::Relaxed) > 0 || self.connections.load(Ordering::Relaxed) > 0
    }
}

/// One call that is being served.
pub struct ActiveCall(Arc<Node>);

impl Drop for ActiveCall {
    fn drop(&mut self) {
        self.0.calls.fetch_sub(1, Ordering::Relaxed);
    }
}

/// One connection that is up.
pub struct ActiveConnection(Arc<Node>);

impl Drop for ActiveConnection {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::Relaxed);
    }
}
