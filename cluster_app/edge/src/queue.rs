//! Commands on their way to Python: whole messages, gathered into blocks that fit one batch.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Waker};

use bytes::{Bytes, BytesMut};

use crate::record::COMMAND_BYTES;
use crate::streams::Stream;
use crate::structure::MAX_MESSAGE_COMMANDS;
use crate::wake::Wake;

/// Commands that wait for Python before streams are read no further: as many as its ring holds.
const WAITING_MAX: usize = 1 << 17;
/// Messages of so many commands stay where they were read: they are a block of their own.
const LARGE_MESSAGE_COMMANDS: usize = 512;

/// Messages of one stream, next to each other in a block. Several are single commands.
pub struct Entry {
    pub stream: Arc<Stream>,
    pub messages: u32,
    pub commands: u32,
}

/// Single commands of one stream, read in one go; each with a text that its reply repeats.
#[derive(Default)]
pub struct Singles {
    pub records: Vec<u8>,
    pub texts: Vec<u8>,
    pub text_lengths: Vec<u16>,
}

impl Singles {
    pub fn push(&mut self, record: &[u8], text: &[u8]) {
        self.records.extend_from_slice(record);
        self.texts.extend_from_slice(text);
        self.text_lengths.push(text.len() as u16);
    }

    fn clear(&mut self) {
        self.records.clear();
        self.texts.clear();
        self.text_lengths.clear();
    }
}

/// Messages next to each other: count * 64 bytes, and what their replies need.
#[derive(Default)]
pub struct Block {
    pub gathered: BytesMut,
    /// One large message, instead of gathered ones.
    pub message: Bytes,
    pub entries: Vec<Entry>,
    /// Of singles only.
    pub texts: Vec<u8>,
    pub text_lengths: Vec<u16>,
}

impl Block {
    pub fn records(&self) -> &[u8] {
        if self.message.is_empty() {
            &self.gathered
        } else {
            &self.message
        }
    }

    /// Commands that can be gathered beside those that are.
    fn room(&self) -> usize {
        if self.message.is_empty() {
            MAX_MESSAGE_COMMANDS - self.gathered.len() / COMMAND_BYTES
        } else {
            0
        }
    }
}

#[derive(Default)]
struct Waiting {
    blocks: VecDeque<Block>,
    commands: usize,
    /// Python has looked, and wants to hear when so many wait.
    enough: usize,
    readers: Vec<Waker>,
}

impl Waiting {
    /// The newest block, or a new one if it has no room for so many commands.
    fn open_block(&mut self, count: usize) -> &mut Block {
        if self.blocks.back().is_none_or(|block| block.room() < count) {
            self.blocks.push_back(Block::default());
        }
        let newest = self.blocks.len() - 1;
        &mut self.blocks[newest]
    }
}

/// Bounded: streams ask for room before they read, and a message is 8,192 commands at most.
///
/// A stream that has lost a message adds no more, or a later one would be run and its reply taken
/// for the lost one's. Once Python fails a message it takes none to run until it has found the queue
/// empty and failed all that was there: what came before that fails too, and what comes after sees
/// the loss under this lock.
pub struct Queue {
    waiting: Mutex<Waiting>,
    wake: Arc<Wake>,
}

impl Queue {
    pub fn new(wake: Arc<Wake>) -> Self {
        Queue {
            waiting: Mutex::default(),
            wake,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether another message may be read; if not, the task is woken when it is worth a look.
    pub fn has_room(&self, cx: &Context<'_>) -> bool {
        let mut waiting = self.lock();
        if waiting.commands < WAITING_MAX {
            return true;
        }
        waiting.readers.push(cx.waker().clone());
        false
    }

    /// Add single commands, and leave `singles` empty.
    pub fn push_singles(&self, stream: &Arc<Stream>, singles: &mut Singles) {
        let mut waiting = self.lock();
        let count = singles.text_lengths.len();
        if stream.refuse_if_lost(count as u64) {
            return singles.clear();
        }
        waiting.commands += count;
        let (mut first, mut text) = (0, 0);
        while first < count {
            let block = waiting.open_block(1);
            let end = count.min(first + block.room());
            let lengths = &singles.text_lengths[first..end];
            let text_end = text + lengths.iter().map(|length| *length as usize).sum::<usize>();
            let records = &singles.records[first * COMMAND_BYTES..end * COMMAND_BYTES];
            block.gathered.extend_from_slice(records);
            block
                .texts
                .extend_from_slice(&singles.texts[text..text_end]);
            block.text_lengths.extend_from_slice(lengths);
            block.entries.push(Entry {
                stream: stream.clone(),
                messages: (end - first) as u32,
                commands: (end - first) as u32,
            });
            (first, text) = (end, text_end);
        }
        self.release(waiting);
        singles.clear();
    }

    /// Add one message; a large one without a copy.
    pub fn push_message(&self, stream: &Arc<Stream>, message: Bytes) {
        let mut waiting = self.lock();
        if stream.refuse_if_lost(1) {
            return;
        }
        let count = message.len() / COMMAND_BYTES;
        let entry = Entry {
            stream: stream.clone(),
            messages: 1,
            commands: count as u32,
        };
        waiting.commands += count;
        if count < LARGE_MESSAGE_COMMANDS {
            let block = waiting.open_block(count);
            block.gathered.extend_from_slice(&message);
            block.entries.push(entry);
        } else {
            waiting.blocks.push_back(Block {
                message,
                entries: vec![entry],
                ..Block::default()
            });
        }
        self.release(waiting);
    }

    /// Python isn't woken for what would only wait there: that costs more than all the rest.
    fn release(&self, waiting: MutexGuard<'_, Waiting>) {
        let is_enough = waiting.commands >= waiting.enough;
        drop(waiting);
        if is_enough {
            self.wake.signal();
        }
    }

    /// The oldest block, if any: at most 8,192 commands, in whole messages. If there is none, the
    /// wake comes once `enough` commands wait; otherwise Python will look again by itself.
    pub fn take(&self, enough: usize) -> Option<Block> {
        let mut waiting = self.lock();
        waiting.enough = enough;
        let block = waiting.blocks.pop_front()?;
        waiting.enough = usize::MAX;
        waiting.commands -= block.records().len() / COMMAND_BYTES;
        let readers = if waiting.commands <= WAITING_MAX / 2 {
            std::mem::take(&mut waiting.readers)
        } else {
            Vec::new()
        };
        drop(waiting);
        readers.into_iter().for_each(Waker::wake);
        Some(block)
    }
}
