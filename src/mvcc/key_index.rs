//! The history of one key in memory: where each of its revisions stands. Values are elsewhere.

use super::Revision;

/// One revision of a key, and whether it deleted the key. Sixteen bytes, because there is one for every revision kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    main: i64,
    sub_and_kind: u32,
}

const TOMBSTONE: u32 = 1 << 31;

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
        let older = stamps.partition_point(|stamp| stamp.main <= main);
        let seen = stamps[..older].last()?;
        (!seen.is_tombstone()).then(|| seen.revision())
    }

    /// The row before the one at `revision`, within the same generation: what a watcher calls the previous value.
    pub fn before(&self, revision: Revision) -> Option<Revision> {
        let stamps = self.stamps();
        let older = stamps.partition_point(|stamp| stamp.revision() < revision);
        let previous = stamps[..older].last()?;
        (!previous.is_tombstone()).then(|| previous.revision())
    }

    /// Forgets what no read at or above `main` can see, and pushes it to `dropped`. Returns whether anything is left.
    ///
    /// The newest revision up to `main` stays if it is a put. A deletion goes, but for one at `main` itself: a watch that starts
    /// there still has to see it.
    pub fn compact(&mut self, main: i64, dropped: &mut Vec<Revision>) -> bool {
        let stamps = self.stamps();
        let older = stamps.partition_point(|stamp| stamp.main <= main);
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
        assert_eq!(index().before(revision(4)), Some(revision(2)));
        assert_eq!(index().before(revision(6)), Some(revision(4)));
        assert_eq!(index().before(revision(8)), None);
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
