//! ringledger's native edge: gRPC at the speed of the engine behind it.
//!
//! One thread of its own owns all connections. Single commands become 64-byte records, gathered
//! into blocks; Python takes a block, and gives its replies back. Queries are answered from the
//! books in shared memory. Whatever is rare goes to Python's own handlers, message by message.

mod bank;
mod books;
mod contracts {
    #![allow(dead_code, clippy::all, missing_docs)]
    pub mod bank {
        include!(concat!(env!("OUT_DIR"), "/gc.garcol.bank.proto.rs"));
    }
    pub mod ledger {
        include!(concat!(env!("OUT_DIR"), "/ringledger.v1.rs"));
    }
}
mod edge;
mod framing;
mod node;
mod python;
mod python_call;
mod queries;
mod queue;
mod record;
mod refusal;
mod response;
mod server;
mod streams;
mod structure;
mod tls;
mod typed;
mod wake;

/// A short stream is some dozens of small allocations: glibc's took a seventh of its CPU.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[pyo3::pymodule]
mod _native {
    #[pymodule_export]
    use crate::edge::{Edge, Routes};
}
