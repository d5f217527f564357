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
    /// One more than the largest `sub`: the index keeps a flag in the same 32 bits.
    pub const SUB_END: u32 = 1 << 31;

    /// The largest `main` we read back. Nobody gets there by writing; beyond it, arithmetic on revisions could overflow.
    pub const MAIN_MAX: i64 = i64::MAX / 2;

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

    /// The reverse of [`Revision::to_key`]; none if no write can have had this revision.
    pub fn from_key(key: &[u8]) -> Option<Revision> {
        let (main, sub) = key.split_first_chunk::<8>()?;
        let revision = Revision { main: i64::from_be_bytes(*main), sub: u32::from_be_bytes(sub.try_into().ok()?) };
        (1..=Revision::MAIN_MAX).contains(&revision.main).then_some(revision).filter(|r| r.sub < Revision::SUB_END)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_that_no_write_can_have_is_refused() {
        let good = Revision { main: 7, sub: Revision::SUB_END - 1 };
        assert_eq!(Revision::from_key(&good.to_key()), Some(good));
        for bad in [
            Revision { main: 7, sub: Revision::SUB_END },
            Revision { main: 0, sub: 0 },
            Revision { main: -1, sub: 0 },
            Revision { main: i64::MAX, sub: 0 },
        ] {
            assert_eq!(Revision::from_key(&bad.to_key()), None, "{bad:?}");
        }
        assert_eq!(Revision::from_key(&good.to_key()[..11]), None);
    }
}
