//! How a call ends: a gRPC status in trailers, with google.rpc details where Python worded it.

use std::sync::Arc;

use http::{HeaderMap, HeaderValue};
use percent_encoding::{percent_encode, AsciiSet, CONTROLS};

pub const DEADLINE_EXCEEDED: u16 = 4;
pub const RESOURCE_EXHAUSTED: u16 = 8;
pub const UNIMPLEMENTED: u16 = 12;
pub const INTERNAL: u16 = 13;
pub const UNAVAILABLE: u16 = 14;

/// What gRPC's percent-encoding keeps: printable ASCII but the percent sign.
const NOT_PRINTABLE: &AsciiSet = &CONTROLS.add(b'%');

/// A status other than OK. `metadata` are further trailers, already in their form on the wire.
#[derive(Debug, Default)]
pub struct Refusal {
    pub code: u16,
    pub message: String,
    pub metadata: Vec<(String, String)>,
}

impl Refusal {
    pub fn new(code: u16, message: impl Into<String>) -> Arc<Self> {
        Arc::new(Refusal {
            code,
            message: message.into(),
            metadata: Vec::new(),
        })
    }

    /// The trailers that end a call so.
    pub fn trailers(&self) -> HeaderMap {
        let mut trailers = HeaderMap::with_capacity(2 + self.metadata.len());
        trailers.insert("grpc-status", HeaderValue::from(self.code));
        let encoded = percent_encode(self.message.as_bytes(), NOT_PRINTABLE).to_string();
        if let Ok(value) = HeaderValue::from_str(&encoded) {
            if !encoded.is_empty() {
                trailers.insert("grpc-message", value);
            }
        }
        for (name, value) in &self.metadata {
            if let (Ok(name), Ok(value)) = (
                http::HeaderName::try_from(name.as_str()),
                HeaderValue::from_str(value),
            ) {
                trailers.append(name, value);
            }
        }
        trailers
    }
}

/// The trailers of a call that went well.
pub fn ok() -> HeaderMap {
    let mut trailers = HeaderMap::with_capacity(1);
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    trailers
}
