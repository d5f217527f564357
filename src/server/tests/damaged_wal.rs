//! A whole server's start on a WAL with damage in it, or with files that are missing, renamed, doubled, empty, of another member or
//! of a newer version: all that was acknowledged is there, or the start is refused with file, place and remedy, and touches nothing.
//!
//! `DAMAGED_STEP=n` damages every nth byte.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use smol::block_on;

use super::rig::{Rig, put, rows};
use crate::error::Fault;
use crate::host::Disk;
use crate::pb::etcdserverpb::RangeRequest;

/// The WAL's files and what is in them.
type Files = BTreeMap<PathBuf, Vec<u8>>;

/// A server that was killed, with a checkpoint in the middle of its log.
struct Sample {
    rig: Rig,
    db: Vec<u8>,
    wal: Files,
    /// The newest revision, and all that is there.
    revision: i64,
    rows: Vec<(String, String)>,
}

fn everything(revision: i64) -> RangeRequest {
    RangeRequest { key: "a".into(), range_end: "z".into(), revision, ..RangeRequest::default() }
}

fn files(rig: &Rig) -> Files {
    let names = rig.disk.list(&rig.wal_dir()).unwrap();
    names.into_iter().map(|name| rig.wal_dir().join(name)).map(|path| (path.clone(), rig.disk.bytes(&path))).collect()
}

fn sample(seed: u64, flags: &[&str]) -> Sample {
    let mut rig = Rig::new(seed, flags);
    rig.tuning.wal_segment_bytes = 8 << 10;
    let server = rig.start().unwrap();
    let handle = server.handle();
    for n in 0..40 {
        put(&handle, &format!("key{n}"), &"v".repeat(900)).unwrap();
        if n == 12 {
            block_on(handle.defragment()).unwrap();
        }
    }
    let (revision, rows) = (handle.revision(), rows(&handle, &everything(0)).unwrap());
    // As a kill leaves them: a stop writes a checkpoint.
    let (db, wal) = (fs::read(rig.db()).unwrap(), files(&rig));
    drop(handle);
    server.stop();
    server.wait().unwrap();
    Sample { rig, db, wal, revision, rows }
}

impl Sample {
    fn segments(&self) -> Vec<PathBuf> {
        self.wal.keys().filter(|path| path.extension().is_some_and(|kind| kind == "wal")).cloned().collect()
    }

    /// Starts on these files. What is there then: the newest revision, which has to have all that was acknowledged up to it.
    fn start(&self, wal: &Files) -> Result<i64, Fault> {
        let Rig { disk, .. } = &self.rig;
        fs::write(self.rig.db(), &self.db).unwrap();
        files(&self.rig).keys().for_each(|path| disk.remove(path).unwrap());
        wal.iter().for_each(|(path, bytes)| disk.set_bytes(path, bytes.clone()));
        let server = self.rig.start().inspect_err(|_| {
            let left: BTreeMap<_, _> =
                wal.iter().filter(|(path, _)| path.extension().is_some_and(|kind| kind == "wal")).collect();
            let now = files(&self.rig);
            assert!(left.iter().all(|(path, bytes)| now.get(*path) == Some(*bytes)), "a refused start has changed something");
        })?;
        let revision = server.handle().revision();
        let expected: Vec<_> =
            self.rows.iter().filter(|(key, _)| key[3..].parse::<i64>().unwrap() + 2 <= revision).cloned().collect();
        assert_eq!(rows(&server.handle(), &everything(0)), Ok(expected));
        server.stop();
        server.wait().unwrap();
        Ok(revision)
    }

    #[track_caller]
    fn refused(&self, wal: &Files, what: &str) -> String {
        let fault = self.start(wal).err().unwrap_or_else(|| panic!("{what}: it was taken")).to_string();
        assert!(fault.contains("/member/wal/") && fault.contains("Restore its data directory"), "{what}: {fault}");
        assert!(fault.contains(" is damaged at byte ") || fault.contains(".wal is missing"), "{what}: {fault}");
        fault
    }
}

fn damage_every(step: usize) {
    let step = std::env::var("DAMAGED_STEP").map_or(step, |text| text.parse().unwrap());
    let sample = sample(1, &[]);
    let segments = sample.segments();
    assert!(segments.len() >= 4, "{segments:?}");
    let (mut whole, mut torn, mut refused) = (0, 0, 0);
    for (n, path) in segments.iter().enumerate() {
        let newest = n + 1 == segments.len();
        for at in (n..sample.wal[path].len()).step_by(step) {
            let mut wal = sample.wal.clone();
            wal.get_mut(path).unwrap()[at] ^= 1 << (at % 8);
            match sample.start(&wal) {
                Ok(revision) if revision == sample.revision => whole += 1,
                Ok(revision) => {
                    assert!(newest && revision == sample.revision - 1, "byte {at} of {}: {revision}", path.display());
                    torn += 1;
                }
                Err(fault) => {
                    let fault = fault.to_string();
                    assert!(fault.contains(" is damaged at byte ") && fault.contains("Restore its data directory"), "{fault}");
                    assert!(fault.contains(".wal"), "{fault}");
                    refused += 1;
                }
            }
        }
    }
    println!("{whole} without effect, {torn} torn tails, {refused} refused");
    assert!(refused > 0 && torn > 0);
}

#[test]
fn a_server_starts_on_no_wal_with_a_flipped_bit_but_for_its_last_frame() {
    damage_every(149);
}

#[test]
#[ignore = "minutes; make crash-disk"]
fn a_server_starts_on_no_wal_with_a_flipped_bit_in_any_byte_but_for_its_last_frame() {
    damage_every(1);
}

/// Zeros from a place on are what a file system leaves of a tail that it had not written.
#[test]
fn a_server_starts_on_a_wal_whose_tail_was_zeroed_within_the_last_frame_and_on_no_other() {
    let sample = sample(2, &[]);
    let newest = sample.segments().pop().unwrap();
    let bytes = &sample.wal[&newest];
    let end = bytes.iter().rposition(|byte| *byte != 0).unwrap() + 1;
    let last = (0..end).rev().find(|at| at % 512 == 0 && bytes[*at..].starts_with(b"FRAM")).unwrap();
    for from in (last..end).step_by(37) {
        let mut wal = sample.wal.clone();
        wal.get_mut(&newest).unwrap()[from..].fill(0);
        assert_eq!(sample.start(&wal).unwrap(), sample.revision - 1, "zeros from byte {from} on");
    }
    for cut in [0, 100, 512, last, end, bytes.len() - 1] {
        let mut wal = sample.wal.clone();
        wal.get_mut(&newest).unwrap().truncate(cut);
        sample.refused(&wal, &format!("cut at {cut}"));
    }
}

#[test]
fn a_server_starts_on_no_wal_whose_files_are_not_its_own_and_all_there() {
    let sample = sample(3, &[]);
    let segments = sample.segments();
    let needed = segments.len() - 3..segments.len();
    let changed = |change: &dyn Fn(&mut Files)| {
        let mut wal = sample.wal.clone();
        change(&mut wal);
        wal
    };
    for n in needed {
        let (path, bytes) = (&segments[n], &sample.wal[&segments[n]]);
        let name = path.display();
        sample.refused(&changed(&|wal| drop(wal.remove(path))), &format!("{name} is missing"));
        sample.refused(&changed(&|wal| drop(wal.insert(path.clone(), Vec::new()))), &format!("{name} is empty"));
        sample.refused(&changed(&|wal| drop(wal.insert(path.clone(), vec![0; bytes.len()]))), &format!("{name} is zeros"));
        let other = &segments[n - 1];
        let doubled = changed(&|wal| drop(wal.insert(path.clone(), sample.wal[other].clone())));
        assert!(sample.refused(&doubled, &format!("{name} is {}", other.display())).contains("under another name"));
        let mut newer = bytes.clone();
        newer[8] = 2;
        let crc = crc32c::crc32c(&newer[..508]);
        newer[508..512].copy_from_slice(&crc.to_le_bytes());
        let newer = changed(&|wal| drop(wal.insert(path.clone(), newer.clone())));
        assert!(sample.refused(&newer, &format!("{name} of a newer format")).contains("format version 2"));
    }
    let newest = segments.last().unwrap();
    let beyond = newest.with_file_name(format!("{:016x}.wal", segments.len() + 5));
    let renamed = changed(&|wal| {
        let bytes = wal.remove(newest).unwrap();
        wal.insert(beyond.clone(), bytes);
    });
    sample.refused(&renamed, "the newest under a higher number");
    let copied = changed(&|wal| drop(wal.insert(beyond.clone(), sample.wal[newest].clone())));
    sample.refused(&copied, "the newest under a higher number too");
    let nobody = sample.start(&BTreeMap::new()).err().unwrap().to_string();
    assert!(nobody.contains("holds no WAL") && nobody.contains("Put the WAL back"), "{nobody}");
}

#[test]
fn a_server_starts_on_no_wal_and_no_checkpoint_of_another_cluster() {
    let ours = sample(4, &[]);
    let theirs = sample(5, &["--initial-cluster-token=another"]);
    let moved = |wal: &Files| -> Files {
        wal.iter().map(|(path, bytes)| (ours.rig.wal_dir().join(path.file_name().unwrap()), bytes.clone())).collect()
    };
    let all = moved(&theirs.wal);
    assert!(ours.refused(&all, "their WAL").contains("it comes from another data directory"));
    for path in ours.segments().iter().rev().take(3) {
        let mut wal = ours.wal.clone();
        wal.insert(path.clone(), all[path].clone());
        ours.refused(&wal, "one segment of theirs");
    }
    let their_checkpoint = Sample { db: theirs.db.clone(), ..ours };
    assert!(their_checkpoint.refused(&their_checkpoint.wal, "their checkpoint").contains("it comes from another data directory"));
}

#[test]
fn a_checkpoint_newer_than_the_wal_is_refused() {
    let sample = sample(6, &[]);
    let server = sample.rig.start().unwrap();
    put(&server.handle(), "key40", "new").unwrap();
    server.stop();
    server.wait().unwrap();
    let newer = Sample { db: fs::read(sample.rig.db()).unwrap(), ..sample };
    let fault = newer.start(&newer.wal).err().unwrap().to_string();
    assert!(fault.contains("they are not of one time"), "{fault}");
}
