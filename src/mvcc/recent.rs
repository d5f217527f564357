//! The revisions newer than the checkpoint, in revision order.

use std::collections::VecDeque;

use bytes::Bytes;

use super::Revision;

/// Bytes of bookkeeping per row, so that many small rows count too.
const ROW_OVERHEAD: usize = 64;

/// Rows that are in the WAL and in memory, but not yet in the checkpoint.
#[derive(Default)]
pub struct Recent {
    rows: VecDeque<(Revision, Bytes)>,
    bytes: usize,
}

impl Recent {
    /// Adds a row, newer than all before.
    pub fn push(&mut self, revision: Revision, row: Bytes) {
        assert!(self.rows.back().is_none_or(|(last, _)| *last < revision), "revisions only grow");
        self.bytes += row.len() + ROW_OVERHEAD;
        self.rows.push_back((revision, row));
    }

    /// The row at `revision`, if it is here.
    pub fn get(&self, revision: Revision) -> Option<&Bytes> {
        let at = self.find(revision)?;
        Some(&self.rows[at].1).filter(|row| !row.is_empty())
    }

    /// Most transactions write one row, so the row is likely to be as far from the first as their revisions are.
    fn find(&self, revision: Revision) -> Option<usize> {
        let (first, _) = self.rows.front()?;
        let likely = usize::try_from(revision.main - first.main).ok()?;
        match self.rows.get(likely) {
            Some((found, _)) if *found == revision => Some(likely),
            _ => self.rows.binary_search_by_key(&revision, |(revision, _)| *revision).ok(),
        }
    }

    /// Whether rows of this revision would be here, rather than in the checkpoint.
    pub fn covers(&self, revision: Revision) -> bool {
        self.rows.front().is_some_and(|(first, _)| *first <= revision)
    }

    /// Rows from `revision` on.
    pub fn from(&self, revision: Revision) -> impl Iterator<Item = (Revision, &Bytes)> {
        let at = self.rows.partition_point(|(row, _)| *row < revision);
        self.rows.range(at..).filter(|(_, row)| !row.is_empty()).map(|(revision, row)| (*revision, row))
    }

    /// Lets go of a compacted row, so that it need not be written at all.
    pub fn forget(&mut self, revision: Revision) {
        if let Some(at) = self.find(revision) {
            self.bytes -= self.rows[at].1.len();
            self.rows[at].1 = Bytes::new();
        }
    }

    /// Lets go of all rows up to `revision`: the checkpoint has them. They are returned to be dropped where nobody waits for it.
    /// With them goes the memory that a burst has taken.
    #[must_use]
    pub fn split_through(&mut self, revision: Revision) -> VecDeque<(Revision, Bytes)> {
        let at = self.rows.partition_point(|(row, _)| *row <= revision);
        let newer = self.rows.split_off(at);
        let older = std::mem::replace(&mut self.rows, newer);
        self.bytes -= older.iter().map(|(_, row)| row.len() + ROW_OVERHEAD).sum::<usize>();
        older
    }

    /// Memory held, roughly.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn revision(main: i64, sub: u32) -> Revision {
        Revision { main, sub }
    }

    #[test]
    fn rows_are_found_however_many_a_transaction_wrote() {
        let mut recent = Recent::default();
        let written = [(2, 0), (3, 0), (3, 1), (4, 0), (6, 0), (6, 1), (9, 0)].map(|(main, sub)| revision(main, sub));
        for revision in written {
            recent.push(revision, Bytes::from(format!("{revision:?}")));
        }
        for main in 1..11 {
            for sub in 0..3 {
                let sought = revision(main, sub);
                let expected = written.contains(&sought).then(|| Bytes::from(format!("{sought:?}")));
                assert_eq!(recent.get(sought).cloned(), expected, "{sought:?}");
            }
        }
    }

    #[test]
    fn rows_are_found_until_they_are_dropped_or_forgotten() {
        let mut recent = Recent::default();
        for main in 2..6 {
            recent.push(revision(main, 0), Bytes::from(format!("row {main}")));
        }
        recent.forget(revision(4, 0));
        assert_eq!(recent.split_through(revision(2, 9)).len(), 1);
        assert_eq!(recent.get(revision(2, 0)), None);
        assert_eq!(recent.get(revision(3, 0)).unwrap(), "row 3");
        assert_eq!(recent.get(revision(4, 0)), None);
        assert_eq!(recent.from(revision(3, 1)).map(|(r, _)| r.main).collect::<Vec<_>>(), [5]);
        assert_eq!(recent.split_through(revision(9, 0)).len(), 3);
        assert_eq!(recent.bytes(), 0);
    }
}
