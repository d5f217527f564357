//! Revisions, and their form as keys of the checkpoint.

/// A point in the store's history. `main` counts writing transactions, `sub` the writes within one. The first revision of an
/// empty store is 1, so the first write is 2.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision {
    /// Of the transaction.
    pub main: i64,
    /// Of the write within it.
    pub sub: u32,
}

impl Revision {
    /// Bytes of a revision as a key of the checkpoint.
    pub const KEY_BYTES: usize = 12;

    /// The first revision with this `main`.
    pub fn first_of(main: i64) -> Revision {
        Revision { main, sub: 0 }
    }

    /// Big-endian, so that byte order is revision order.
    pub fn to_key(self) -> [u8; Revision::KEY_BYTES] {
        let mut key = [0; Revision::KEY_BYTES];
        key[..8].copy_from_slice(&self.main.to_be_bytes());
        key[8..].copy_from_slice(&self.sub.to_be_bytes());
        key
    }

    /// The reverse of [`Revision::to_key`]; none if the length is wrong.
    pub fn from_key(key: &[u8]) -> Option<Revision> {
        let (main, sub) = key.split_first_chunk::<8>()?;
        Some(Revision { main: i64::from_be_bytes(*main), sub: u32::from_be_bytes(sub.try_into().ok()?) })
    }
}
