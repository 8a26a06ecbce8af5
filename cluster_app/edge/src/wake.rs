//! How Python's event loop is woken: an eventfd that it watches, written at most once until it
//! has looked.

use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::event::{eventfd, EventfdFlags};

pub struct Wake {
    descriptor: OwnedFd,
    is_signalled: AtomicBool,
}

impl Wake {
    pub fn new() -> std::io::Result<Self> {
        Ok(Wake {
            descriptor: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
            is_signalled: AtomicBool::new(false),
        })
    }

    pub fn raw_descriptor(&self) -> i32 {
        self.descriptor.as_raw_fd()
    }

    /// Something waits for Python.
    pub fn signal(&self) {
        if !self.is_signalled.swap(true, Ordering::SeqCst) {
            // it can only fail when it is readable already
            let _ = rustix::io::write(&self.descriptor, &1u64.to_ne_bytes());
        }
    }

    /// Python is going to look: what comes from now on signals again.
    pub fn clear(&self) {
        let _ = rustix::io::read(&self.descriptor, &mut [0u8; 8]);
        self.is_signalled.store(false, Ordering::SeqCst);
    }
}
