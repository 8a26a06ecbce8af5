//! gRPC's framing on an HTTP/2 body: a flag, a length, a message; cut where they lie if possible.

use std::io::Read;
use std::sync::Arc;
use std::task::{ready, Context, Poll};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use flate2::read::{GzDecoder, ZlibDecoder};
use h2::RecvStream;
use http::HeaderMap;

use crate::refusal::{Refusal, INTERNAL, RESOURCE_EXHAUSTED, UNIMPLEMENTED};

const PREFIX_BYTES: usize = 5;
/// Compressed messages that a client may send, as grpc.aio takes them.
pub const ACCEPTED: &str = "identity,deflate,gzip";

#[derive(Clone, Copy)]
enum Encoding {
    Identity,
    Gzip,
    Deflate,
    Unknown,
}

/// Why no further message can be read.
pub enum Broken {
    /// The client cancelled or vanished: nobody is there to be told.
    Gone,
    /// It broke the rules, and is told so.
    Refused(Arc<Refusal>),
}

/// How the client's side has ended.
enum End {
    Whole,
    Gone,
}

/// The messages of one call, in order, none over `limit` bytes.
///
/// Frames are taken as they come, also while nobody reads, for many small ones are dear where
/// HTTP/2 keeps them. The client is given room for more only as messages are read.
pub struct Requests {
    body: RecvStream,
    chunk: Bytes,
    partial: BytesMut,
    /// Bytes that were taken and that the client has no new room for.
    unreleased: usize,
    end: Option<End>,
    limit: usize,
    encoding: Encoding,
}

impl Requests {
    pub fn new(body: RecvStream, headers: &HeaderMap, limit: usize) -> Self {
        let encoding = match headers.get("grpc-encoding").map(|value| value.as_bytes()) {
            None | Some(b"identity") => Encoding::Identity,
            Some(b"gzip") => Encoding::Gzip,
            Some(b"deflate") => Encoding::Deflate,
            Some(_) => Encoding::Unknown,
        };
        Requests {
            body,
            chunk: Bytes::new(),
            partial: BytesMut::new(),
            unreleased: 0,
            end: None,
            limit,
            encoding,
        }
    }

    /// The next message; None once the client has ended its side.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Broken>>> {
        loop {
            match self.cut() {
                Ok(Some(message)) => return Poll::Ready(Some(Ok(message))),
                Ok(None) => {}
                Err(refusal) => return Poll::Ready(Some(Err(Broken::Refused(refusal)))),
            }
            match self.end {
                None => {}
                Some(End::Gone) => return Poll::Ready(Some(Err(Broken::Gone))),
                Some(End::Whole) if self.chunk.is_empty() && self.partial.is_empty() => {
                    return Poll::Ready(None)
                }
                Some(End::Whole) => {
                    self.chunk.clear();
                    self.partial.clear();
                    let refusal = Refusal::new(INTERNAL, "the stream ended inside a message");
                    return Poll::Ready(Some(Err(Broken::Refused(refusal))));
                }
            }
            // what is missing of this message: it may be longer than the window
            self.release(self.unreleased);
            ready!(self.poll_frame(cx));
        }
    }

    /// Take what has arrived while no message is wanted: a window's worth at most.
    pub fn keep(&mut self, cx: &mut Context<'_>) {
        while self.end.is_none() && self.poll_frame(cx).is_ready() {}
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match ready!(self.body.poll_data(cx)) {
            Some(Ok(data)) => {
                self.unreleased += data.len();
                self.append(data);
            }
            Some(Err(_)) => self.end = Some(End::Gone),
            None => self.end = Some(End::Whole),
        }
        Poll::Ready(())
    }

    /// Give the client room for so many bytes again.
    fn release(&mut self, bytes: usize) {
        let bytes = bytes.min(self.unreleased);
        if bytes > 0 {
            self.unreleased -= bytes;
            // it can only fail once the stream has ended
            let _ = self.body.flow_control().release_capacity(bytes);
        }
    }

    /// Note a frame's bytes: where they lie if nothing waits before them.
    fn append(&mut self, data: Bytes) {
        if self.partial.is_empty() && self.chunk.is_empty() {
            self.chunk = data;
            return;
        }
        if self.partial.is_empty() {
            // the whole message's room at once, but no more than a message may have
            let wanted = match self.chunk.get(1..PREFIX_BYTES) {
                Some(length) => u32::from_be_bytes([length[0], length[1], length[2], length[3]]),
                None => 0,
            };
            self.partial
                .reserve((wanted as usize).min(self.limit) + PREFIX_BYTES);
        }
        self.partial.put(std::mem::take(&mut self.chunk));
        self.partial.put(data);
    }

    fn cut(&mut self) -> Result<Option<Bytes>, Arc<Refusal>> {
        let waiting: &[u8] = if self.partial.is_empty() {
            &self.chunk
        } else {
            &self.partial
        };
        if waiting.len() < PREFIX_BYTES {
            return Ok(None);
        }
        let is_compressed = waiting[0] != 0;
        let length = u32::from_be_bytes([waiting[1], waiting[2], waiting[3], waiting[4]]) as usize;
        if length > self.limit {
            return Err(too_large(length, self.limit));
        }
        if waiting.len() < PREFIX_BYTES + length {
            return Ok(None);
        }
        let message = if self.partial.is_empty() {
            self.chunk.advance(PREFIX_BYTES);
            self.chunk.split_to(length)
        } else {
            self.partial.advance(PREFIX_BYTES);
            let message = self.partial.split_to(length).freeze();
            if self.partial.is_empty() {
                self.partial = BytesMut::new(); // its memory goes with the message
            }
            message
        };
        self.release(PREFIX_BYTES + length);
        if is_compressed {
            self.decompress(&message).map(Some)
        } else {
            Ok(Some(message))
        }
    }

    fn decompress(&self, message: &[u8]) -> Result<Bytes, Arc<Refusal>> {
        // one byte over the limit tells that there is more, without unpacking it
        let most = self.limit as u64 + 1;
        let mut plain = Vec::new();
        let read = match self.encoding {
            Encoding::Gzip => GzDecoder::new(message).take(most).read_to_end(&mut plain),
            Encoding::Deflate => ZlibDecoder::new(message).take(most).read_to_end(&mut plain),
            Encoding::Identity => {
                return Err(Refusal::new(
                    INTERNAL,
                    "a compressed message without grpc-encoding",
                ))
            }
            Encoding::Unknown => {
                return Err(Refusal::new(
                    UNIMPLEMENTED,
                    format!("unknown grpc-encoding: use one of {ACCEPTED}"),
                ))
            }
        };
        if read.is_err() {
            return Err(Refusal::new(INTERNAL, "a message can't be decompressed"));
        }
        if plain.len() > self.limit {
            return Err(too_large(plain.len(), self.limit));
        }
        Ok(plain.into())
    }
}

fn too_large(length: usize, limit: usize) -> Arc<Refusal> {
    Refusal::new(
        RESOURCE_EXHAUSTED,
        format!("a message of {length} bytes is over the limit of {limit}: send smaller ones"),
    )
}

/// Append one message's frame; `write` appends the message itself.
pub fn put_message(outbox: &mut BytesMut, write: impl FnOnce(&mut BytesMut)) {
    let start = outbox.len();
    outbox.put_bytes(0, PREFIX_BYTES);
    write(outbox);
    let length = (outbox.len() - start - PREFIX_BYTES) as u32;
    outbox[start + 1..start + PREFIX_BYTES].copy_from_slice(&length.to_be_bytes());
}
