//! The fixed-size records, as `cluster_core/record.py` draws them. Little-endian throughout.

pub const COMMAND_BYTES: usize = 64;
pub const REPLY_BYTES: usize = 48;
pub const OPERATION_OFFSET: usize = 52;
pub const STATUS_OFFSET: usize = 40;
pub const REPLY_FLAGS_OFFSET: usize = 42;

/// One COMMAND, before it is packed.
#[derive(Default)]
pub struct Command {
    pub command_id: [u8; 16],
    pub debit_account: u64,
    pub credit_account: u64,
    pub amount: i64,
    pub reference: u64,
    pub asset: u32,
    pub operation: u16,
    pub flags: u16,
    pub timeout_s: u32,
    pub code: u32,
}

impl Command {
    pub fn pack(&self) -> [u8; COMMAND_BYTES] {
        let mut packed = [0; COMMAND_BYTES];
        packed[..16].copy_from_slice(&self.command_id);
        packed[16..24].copy_from_slice(&self.debit_account.to_le_bytes());
        packed[24..32].copy_from_slice(&self.credit_account.to_le_bytes());
        packed[32..40].copy_from_slice(&self.amount.to_le_bytes());
        packed[40..48].copy_from_slice(&self.reference.to_le_bytes());
        packed[48..52].copy_from_slice(&self.asset.to_le_bytes());
        packed[52..54].copy_from_slice(&self.operation.to_le_bytes());
        packed[54..56].copy_from_slice(&self.flags.to_le_bytes());
        packed[56..60].copy_from_slice(&self.timeout_s.to_le_bytes());
        packed[60..].copy_from_slice(&self.code.to_le_bytes());
        packed
    }
}

/// The u64 at a record's offset.
pub fn u64_at(record: &[u8], offset: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&record[offset..offset + 8]);
    u64::from_le_bytes(word)
}
