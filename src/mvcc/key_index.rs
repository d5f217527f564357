//! The history of one key in memory: where each of its revisions stands. Values are elsewhere.

use super::Revision;

/// One revision of a key, and whether it deleted the key. Sixteen bytes, because there is one for every revision kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    main: i64,
    sub_and_kind: u32,
}

const TOMBSTONE: u32 = Revision::SUB_END;

impl Stamp {
    fn new(revision: Revision, tombstone: bool) -> Stamp {
        assert!(revision.sub < TOMBSTONE, "more than 2^31 writes in one transaction");
        Stamp { main: revision.main, sub_and_kind: revision.sub | if tombstone { TOMBSTONE } else { 0 } }
    }

    /// Where the row stands.
    pub fn revision(self) -> Revision {
        Revision { main: self.main, sub: self.sub_and_kind & !TOMBSTONE }
    }

    /// Whether the row is a deletion.
    pub fn is_tombstone(self) -> bool {
        self.sub_and_kind & TOMBSTONE != 0
    }
}

/// Most keys have one revision between compactions; those need no allocation of their own.
#[derive(Clone, Debug)]
enum Stamps {
    One(Stamp),
    Many(Vec<Stamp>),
}

/// All revisions of one key above the compacted one, and the newest below it if a read may still ask for it. Never empty.
#[derive(Clone, Debug)]
pub struct KeyIndex {
    stamps: Stamps,
    /// Of the newest generation: the put that created it ...
    create_revision: i64,
    /// ... and how many puts it has had.
    version: i64,
}

/// The newest row of a key that exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Live {
    /// Where the row stands; its `main` is the `mod_revision`.
    pub revision: Revision,
    /// As in the row.
    pub create_revision: i64,
    /// As in the row.
    pub version: i64,
}

impl KeyIndex {
    /// A key whose first known revision is this put.
    pub fn of_put(revision: Revision, create_revision: i64, version: i64) -> KeyIndex {
        KeyIndex { stamps: Stamps::One(Stamp::new(revision, false)), create_revision, version }
    }

    /// A key whose first known revision is a deletion: what a compaction at that very revision leaves.
    pub fn of_tombstone(revision: Revision) -> KeyIndex {
        KeyIndex { stamps: Stamps::One(Stamp::new(revision, true)), create_revision: 0, version: 0 }
    }

    /// All stamps, oldest first.
    pub fn stamps(&self) -> &[Stamp] {
        match &self.stamps {
            Stamps::One(stamp) => std::slice::from_ref(stamp),
            Stamps::Many(stamps) => stamps,
        }
    }

    fn newest(&self) -> Stamp {
        *self.stamps().last().expect("a key index is never empty")
    }

    /// Adds a put, newer than all before.
    pub fn put(&mut self, revision: Revision, create_revision: i64, version: i64) {
        self.push(Stamp::new(revision, false));
        self.create_revision = create_revision;
        self.version = version;
    }

    /// Adds a deletion, newer than all before.
    pub fn delete(&mut self, revision: Revision) {
        self.push(Stamp::new(revision, true));
    }

    fn push(&mut self, stamp: Stamp) {
        assert!(stamp.revision() > self.newest().revision(), "a key's revisions only grow");
        match &mut self.stamps {
            Stamps::One(first) => self.stamps = Stamps::Many(vec![*first, stamp]),
            Stamps::Many(stamps) => stamps.push(stamp),
        }
    }

    /// The key as it is now; none if it is deleted.
    pub fn live(&self) -> Option<Live> {
        let newest = self.newest();
        (!newest.is_tombstone()).then_some(Live {
            revision: newest.revision(),
            create_revision: self.create_revision,
            version: self.version,
        })
    }

    /// Where the row stands that a read at `main` sees; none if the key did not exist then.
    pub fn at(&self, main: i64) -> Option<Revision> {
        let stamps = self.stamps();
        let newest = self.newest();
        // Most reads ask for the present.
        let seen = if newest.main <= main { newest } else { *stamps[..self.older_than(main + 1)].last()? };
        (!seen.is_tombstone()).then(|| seen.revision())
    }

    /// The row that a transaction at `main` found: what a watcher calls the previous value of all that the transaction did.
    pub fn before(&self, main: i64) -> Option<Revision> {
        self.at(main - 1)
    }

    fn older_than(&self, main: i64) -> usize {
        self.stamps().partition_point(|stamp| stamp.main < main)
    }

    /// What the row of the put at `revision` says of its key, if it belongs to the newest generation; of older ones only the
    /// rows know.
    pub fn describe(&self, revision: Revision) -> Option<Live> {
        let mut version = self.version;
        for (newer, stamp) in self.stamps().iter().rev().enumerate() {
            if stamp.revision() == revision {
                return Some(Live { revision, create_revision: self.create_revision, version });
            }
            match stamp.is_tombstone() {
                false => version -= 1,
                true if newer == 0 => {}
                true => return None,
            }
        }
        None
    }

    /// Forgets what no read at or above `main` can see, and pushes it to `dropped`. Returns whether anything is left.
    ///
    /// The newest revision up to `main` stays if it is a put. A deletion goes, but for one at `main` itself: a watch that starts
    /// there still has to see it.
    pub fn compact(&mut self, main: i64, dropped: &mut Vec<Revision>) -> bool {
        let stamps = self.stamps();
        let older = self.older_than(main + 1);
        let keep_newest = older > 0 && {
            let newest = stamps[older - 1];
            !newest.is_tombstone() || newest.main == main
        };
        let gone = older - usize::from(keep_newest);
        if gone == 0 {
            return true;
        }
        dropped.extend(stamps[..gone].iter().map(|stamp| stamp.revision()));
        match &stamps[gone..] {
            [] => return false,
            [one] => self.stamps = Stamps::One(*one),
            rest => self.stamps = Stamps::Many(rest.to_vec()),
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn revision(main: i64) -> Revision {
        Revision::first_of(main)
    }

    /// put 2, put 4, delete 6, put 8
    fn index() -> KeyIndex {
        let mut index = KeyIndex::of_put(revision(2), 2, 1);
        index.put(revision(4), 2, 2);
        index.delete(revision(6));
        index.put(revision(8), 8, 1);
        index
    }

    #[test]
    fn a_read_sees_the_newest_revision_up_to_its_own() {
        let seen: Vec<_> = (1..=9).map(|main| index().at(main).map(|r| r.main)).collect();
        assert_eq!(seen, [None, Some(2), Some(2), Some(4), Some(4), None, None, Some(8), Some(8)]);
    }

    #[test]
    fn the_previous_value_does_not_reach_over_a_deletion() {
        assert_eq!(index().before(4), Some(revision(2)));
        assert_eq!(index().before(6), Some(revision(4)));
        assert_eq!(index().before(8), None);
    }

    #[test]
    fn the_previous_value_is_the_one_before_the_whole_transaction() {
        let mut twice = KeyIndex::of_put(revision(2), 2, 1);
        twice.put(Revision { main: 5, sub: 0 }, 2, 2);
        twice.delete(Revision { main: 5, sub: 1 });
        assert_eq!(twice.before(5), Some(revision(2)));
    }

    #[test]
    fn the_index_describes_the_rows_of_the_newest_generation() {
        let described = |index: &KeyIndex, main| index.describe(revision(main)).map(|d| (d.create_revision, d.version));
        assert_eq!(described(&index(), 8), Some((8, 1)));
        assert_eq!(described(&index(), 4), None);
        let mut deleted = KeyIndex::of_put(revision(2), 2, 1);
        deleted.put(revision(4), 2, 2);
        deleted.delete(revision(6));
        assert_eq!(described(&deleted, 4), Some((2, 2)));
        assert_eq!(described(&deleted, 2), Some((2, 1)));
    }

    #[test]
    fn compaction_keeps_what_a_read_at_it_sees() {
        for main in 0..=9 {
            let mut compacted = index();
            let mut dropped = Vec::new();
            assert!(compacted.compact(main, &mut dropped));
            for later in main..=9 {
                assert_eq!(compacted.at(later), index().at(later), "compacted at {main}, read at {later}");
            }
            assert_eq!(dropped.len() + compacted.stamps().len(), 4);
        }
    }

    #[test]
    fn compaction_keeps_a_deletion_only_at_its_own_revision() {
        let mut deleted = KeyIndex::of_put(revision(2), 2, 1);
        deleted.delete(revision(6));
        let mut dropped = Vec::new();
        let mut at = deleted.clone();
        assert!(at.compact(6, &mut dropped));
        assert_eq!((dropped.len(), at.stamps().len()), (1, 1));
        assert!(!deleted.compact(7, &mut dropped));
    }
}
