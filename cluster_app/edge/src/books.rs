//! Reads of the books while another thread or process changes them, as of one moment.
//!
//! The protocol is that of `cluster_core/reading.py`, which explains it: versions, a moment
//! between two turns, rows, another such moment, versions again. Every word is an atomic here.

use std::sync::atomic::{fence, AtomicU64, Ordering};

use pyo3::buffer::PyBuffer;
use pyo3::prelude::*;

const TURN: usize = 0;
const UNDONE: usize = 1;
const LEDGER_APPLIED: usize = 0;
const LEDGER_ACCOUNTS: usize = 1;
pub const ACCOUNT_WORDS: usize = 16;
const ASSET_WORDS: usize = 8;
const VERSION: usize = 4;
/// Looks at an odd turn before Python is asked, which waits without holding up anybody: some
/// 100 us, a turn without long chains. A writer that was stopped inside its turn never ends it.
const SPINS: usize = 1_024;
const TRIES: usize = 16;
/// Accounts in one read: 1 MiB.
pub const MAX_READ_ACCOUNTS: usize = 8_192;

pub type AccountRow = [u64; ACCOUNT_WORDS];

/// u64 words of an array that the kernel changes. Python's buffer keeps the memory mapped.
struct Words {
    first: *const u64,
    count: usize,
    _buffer: PyBuffer<u64>,
}

// SAFETY: the pointer is only read, as atomics, and `_buffer` keeps what it points at alive.
#[allow(unsafe_code)]
unsafe impl Send for Words {}
// SAFETY: as above; atomics may be read from any thread.
#[allow(unsafe_code)]
unsafe impl Sync for Words {}

impl Words {
    fn new(array: &Bound<'_, PyAny>) -> PyResult<Self> {
        let buffer = PyBuffer::<u64>::get(array)?;
        if !buffer.is_c_contiguous() {
            return Err(pyo3::exceptions::PyValueError::new_err(
                "the books' arrays must be contiguous",
            ));
        }
        Ok(Words {
            first: buffer.buf_ptr() as *const u64,
            count: buffer.item_count(),
            _buffer: buffer,
        })
    }

    fn load(&self, index: usize, ordering: Ordering) -> u64 {
        assert!(index < self.count, "a read beyond the books");
        // SAFETY: `index` is inside the buffer, which is aligned for u64 (PyBuffer checks it) and
        // stays mapped. Other threads and processes change it, by whole words: hence an atomic,
        // which is only loaded, so that a read-only mapping does as well.
        #[allow(unsafe_code)]
        let word = unsafe { AtomicU64::from_ptr(self.first.add(index).cast_mut()) };
        word.load(ordering)
    }

    fn get(&self, index: usize) -> u64 {
        self.load(index, Ordering::Relaxed)
    }
}

/// The arrays that queries read.
pub struct Books {
    marks: Words,
    ledger: Words,
    accounts: Words,
    assets: Words,
}

/// No moment between two turns was found: ask with patience.
pub struct Busy;

impl Books {
    /// Each array as u64 words, contiguous.
    pub fn new(
        marks: &Bound<'_, PyAny>,
        ledger: &Bound<'_, PyAny>,
        accounts: &Bound<'_, PyAny>,
        assets: &Bound<'_, PyAny>,
    ) -> PyResult<Self> {
        Ok(Books {
            marks: Words::new(marks)?,
            ledger: Words::new(ledger)?,
            accounts: Words::new(accounts)?,
            assets: Words::new(assets)?,
        })
    }

    /// One account's row, if there is one, and the sequence below which all is in it.
    pub fn account(&self, id: u64) -> Result<(Option<AccountRow>, u64), Busy> {
        let mut row = [[0; ACCOUNT_WORDS]];
        let mut versions = [0];
        for _ in 0..TRIES {
            if let Some(applied) = self.copy(&[id], &mut row, &mut versions)? {
                return Ok(((row[0][VERSION] != 0).then_some(row[0]), applied));
            }
        }
        Err(Busy)
    }

    /// Many accounts as of one moment, zeros for unknown ids, and the sequence as above.
    pub fn accounts(&self, ids: &[u64]) -> Result<(Vec<AccountRow>, u64), Busy> {
        let mut rows = vec![[0; ACCOUNT_WORDS]; ids.len()];
        let mut versions = vec![0; ids.len()];
        for _ in 0..TRIES {
            if let Some(applied) = self.copy(ids, &mut rows, &mut versions)? {
                return Ok((rows, applied));
            }
        }
        Err(Busy)
    }

    /// Decimals of the asset of an account that was read: they never change once it is there.
    pub fn decimals(&self, asset: u32) -> u32 {
        (self.assets.get(asset as usize * ASSET_WORDS) >> 32) as u32
    }

    /// One try: copy the rows, `versions` is scratch; None when they changed meanwhile.
    fn copy(
        &self,
        ids: &[u64],
        rows: &mut [AccountRow],
        versions: &mut [u64],
    ) -> Result<Option<u64>, Busy> {
        let undone = self.marks.load(UNDONE, Ordering::Acquire);
        let known = self.ledger.get(LEDGER_ACCOUNTS);
        for (id, version) in ids.iter().zip(versions.iter_mut()) {
            *version = match self.row(*id, known) {
                Some(row) => self.accounts.get(row + VERSION),
                None => 0,
            };
        }
        fence(Ordering::Acquire);
        self.between_turns()?;
        let applied = self.ledger.get(LEDGER_APPLIED);
        for (id, copy) in ids.iter().zip(rows.iter_mut()) {
            match self.row(*id, known) {
                Some(row) => {
                    for (word, value) in copy.iter_mut().enumerate() {
                        *value = self.accounts.get(row + word);
                    }
                }
                None => *copy = [0; ACCOUNT_WORDS],
            }
        }
        fence(Ordering::Acquire);
        self.between_turns()?;
        let known_after = self.ledger.get(LEDGER_ACCOUNTS);
        for (id, version) in ids.iter().zip(versions.iter()) {
            match self.row(*id, known) {
                Some(row) if self.accounts.get(row + VERSION) != *version => return Ok(None),
                None if self.row(*id, known_after).is_some() => return Ok(None),
                _ => {}
            }
        }
        Ok((self.marks.load(UNDONE, Ordering::Acquire) == undone).then_some(applied))
    }

    /// The row's first word, for an id that is known.
    fn row(&self, id: u64, known: u64) -> Option<usize> {
        (id != 0 && id <= known).then_some(id as usize * ACCOUNT_WORDS)
    }

    /// Wait for a moment when the turn is even; Busy after `SPINS` looks.
    fn between_turns(&self) -> Result<(), Busy> {
        for _ in 0..SPINS {
            if self.marks.load(TURN, Ordering::Acquire) & 1 == 0 {
                return Ok(());
            }
            std::hint::spin_loop();
        }
        Err(Busy)
    }
}
