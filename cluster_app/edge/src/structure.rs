//! What a packed command must look like: `cluster_core/structure.py`'s rules, by its own tables.
//!
//! Only the good are recognised here. What isn't is worded by Python, which has the same rules.

use crate::record::{u64_at, COMMAND_BYTES};

pub const MAX_MESSAGE_COMMANDS: usize = 8_192;
const LINKED: u64 = 1;
const EXPECT_VERSION: u64 = 4;
const DEBIT: i64 = 1;
const CREDIT: i64 = 2;
const AMOUNT: i64 = 4;
const REFERENCE: i64 = 8;
const ASSET: i64 = 16;
const TIMEOUT: i64 = 32;
const CODE: i64 = 64;

/// By operation: the fields that it uses (-1: there is none, or it is no client's) and its flags.
pub struct Structure {
    pub fields: Vec<i64>,
    pub flags: Vec<i64>,
}

impl Structure {
    /// Whether a message holds 1 to 8,192 whole, well-formed commands.
    pub fn is_well_formed(&self, packed: &[u8]) -> bool {
        let count = packed.len() / COMMAND_BYTES;
        if !(1..=MAX_MESSAGE_COMMANDS).contains(&count)
            || !packed.len().is_multiple_of(COMMAND_BYTES)
        {
            return false;
        }
        let mut is_linked = false;
        for command in packed.chunks_exact(COMMAND_BYTES) {
            match self.check(command) {
                Some(linked) => is_linked = linked,
                None => return false,
            }
        }
        !is_linked
    }

    /// Whether a well-formed command is LINKED; None for a malformed one.
    fn check(&self, command: &[u8]) -> Option<bool> {
        let head = u64_at(command, 48);
        let tail = u64_at(command, 56);
        let operation = (head >> 32) as u16 as usize;
        let flags = head >> 48;
        let mut used = *self.fields.get(operation)?;
        if used < 0 || flags as i64 & !self.flags[operation] != 0 {
            return None;
        }
        if flags & EXPECT_VERSION != 0 {
            used |= REFERENCE;
        }
        let filled = [
            (u64_at(command, 16), DEBIT),
            (u64_at(command, 24), CREDIT),
            (u64_at(command, 32), AMOUNT),
            (u64_at(command, 40), REFERENCE),
            (head & 0xFFFF_FFFF, ASSET),
            (tail & 0xFFFF_FFFF, TIMEOUT),
            (tail >> 32, CODE),
        ]
        .iter()
        .fold(0, |filled, (value, field)| {
            filled | if *value != 0 { *field } else { 0 }
        });
        (filled & !used == 0).then_some(flags & LINKED != 0)
    }
}
