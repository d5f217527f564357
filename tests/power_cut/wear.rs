//! What a load costs the disk, exactly: writes, their bytes, and syncs, by kind of file.

use std::collections::BTreeMap;
use std::fmt;

use bramble::pb::etcdserverpb::DefragmentRequest;

use super::disk::Kind;
use super::mounted;
use crate::support::Server;
use crate::support::requests::put;

/// Counts by kind of file.
#[derive(Clone, Debug, Default)]
pub struct Wear(BTreeMap<Kind, Counts>);

/// Of one kind.
#[derive(Clone, Copy, Debug, Default)]
#[allow(missing_docs)]
pub struct Counts {
    pub writes: u64,
    pub bytes: u64,
    pub syncs: u64,
}

impl Wear {
    /// One write.
    pub fn write(&mut self, kind: Kind, bytes: usize) {
        let counts = self.0.entry(kind).or_default();
        counts.writes += 1;
        counts.bytes += bytes as u64;
    }

    /// One sync.
    pub fn sync(&mut self, kind: Kind) {
        self.0.entry(kind).or_default().syncs += 1;
    }

    /// Of one kind.
    pub fn of(&self, kind: Kind) -> Counts {
        self.0.get(&kind).copied().unwrap_or_default()
    }
}

impl fmt::Display for Wear {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut all = Counts::default();
        for (kind, counts) in &self.0 {
            let Counts { writes, bytes, syncs } = counts;
            writeln!(f, "| {:<16} | {writes:>7} writes | {bytes:>11} bytes | {syncs:>6} syncs |", format!("{kind:?}"))?;
            all = Counts { writes: all.writes + writes, bytes: all.bytes + bytes, syncs: all.syncs + syncs };
        }
        let Counts { writes, bytes, syncs } = all;
        write!(f, "| {:<16} | {writes:>7} writes | {bytes:>11} bytes | {syncs:>6} syncs |", "all")
    }
}

/// Puts of 1000 bytes, so many of them at a time.
fn wear_of_puts(at_once: usize) -> Option<Wear> {
    let (disk, mounted) = mounted(1)?;
    let server = Server::builder().data_dir(mounted.path()).start();
    disk.state().wear = Wear::default();
    let puts: Vec<_> = (0..1000).map(|n| put(format!("key/{n:04}"), vec![b'x'; 1000])).collect();
    assert!(server.client().call_all(&puts, at_once).iter().all(Result::is_ok));
    let puts = disk.state().wear.clone();
    println!("1000 puts of 1000 bytes, {at_once} at a time:\n{puts}");
    disk.state().wear = Wear::default();
    server.client().call(&DefragmentRequest {});
    println!("and their checkpoint, with a defragmentation:\n{}", disk.state().wear);
    Some(puts)
}

#[test]
fn a_put_costs_the_disk_one_sync_and_one_frame() {
    let Some(wear) = wear_of_puts(1) else { return };
    let log = wear.of(Kind::Segment);
    // A frame: 24 bytes, 21 for the entry, some 30 for the request, the key and the value, filled up to three sectors.
    assert_eq!(log.syncs, 1000, "{wear}");
    assert_eq!(log.bytes, 1000 * 3 * 512, "{wear}");
    assert_eq!(wear.of(Kind::Checkpoint).bytes, 0, "{wear}");
}

#[test]
fn puts_at_the_same_time_share_syncs() {
    let Some(wear) = wear_of_puts(64) else { return };
    let log = wear.of(Kind::Segment);
    assert!(log.syncs < 700, "{wear}");
    assert!(log.bytes < 1000 * 3 * 512, "{wear}");
}
