//! Odd sizes, odd directories, and what appends say of themselves.

use super::*;

#[test]
fn a_segment_is_whole_sectors_and_at_least_four_whatever_is_asked_for() {
    for (asked, given) in [(0, 4), (1, 4), (3 * SECTOR as u64 + 1, 4), (6 * SECTOR as u64 + 1, 7)] {
        let (host, disk) = sim::host(1);
        create(&host, Options { segment_bytes: asked, ..SMALL });
        assert_eq!(disk.bytes(&segment(1)).len(), given * SECTOR, "{asked} bytes asked for");
    }
}

#[test]
fn a_directory_that_cannot_be_listed_is_not_taken_for_one_without_a_log() {
    let refused = Wal::exists(&Host::real(), Path::new("/dev/null")).unwrap_err().to_string();
    assert!(refused.contains("cannot list /dev/null"), "{refused}");
    assert!(!Wal::exists(&Host::real(), Path::new("/dev/shm/there is no such directory")).unwrap());
}

#[test]
fn a_log_shorter_than_the_buffer_opens() {
    let (host, disk) = sim::host(1);
    let mut wal = create(&host, SMALL);
    wal.append(None, &[sectors(1, 6)]).unwrap();
    disk.power_cut();
    let large = Options { buffer_bytes: 1 << 20, ..SMALL };
    let (_, recovered) = Wal::open(&host, dir(), None, Index(0), large).unwrap();
    assert_eq!(recovered.last, id(1, 1));
}

#[test]
fn an_append_says_what_it_has_written_and_names_the_segment_it_went_to() {
    let (host, disk) = sim::host(1);
    let mut wal = create(&host, SMALL);
    for index in 1..=4 {
        tend(&mut wal);
        let before = disk.counts().bytes;
        let appended = wal.append(None, &[entry(1, index, 2500)]).unwrap();
        assert_eq!(appended.bytes, disk.counts().bytes - before, "entry {index}");
        assert_eq!(appended.bytes, 2560 + if index == 1 { 0 } else { SECTOR as u64 }, "a new segment has a header");
    }
    disk.fail_syncs_after(0);
    let AppendError::Fault(fault) = wal.append(None, &[entry(1, 5, 1)]).unwrap_err() else { panic!("a failed sync is a fault") };
    assert!(fault.to_string().contains("0000000000000004.wal"), "{fault}");
}

/// An entry whose frame takes so many sectors.
fn sectors(index: u64, count: usize) -> Entry {
    entry(1, index, count * SECTOR - 24 - 21)
}

#[test]
fn an_append_waits_for_a_file_under_way_only_if_it_needs_one_and_has_none() {
    let (host, _) = sim::host(1);
    let mut wal = create(&host, SMALL);
    wal.append(None, &[sectors(1, 4)]).unwrap();
    let awaits = |wal: &Wal, count| wal.awaits_chore(None, &[sectors(9, count)]);
    assert!(!awaits(&wal, 6), "nothing is under way");
    let preparing = wal.next_chore().unwrap();
    assert!(!awaits(&wal, 2), "it has room here");
    assert!(awaits(&wal, 3));
    wal.finish_chore(preparing.run()).unwrap();
    assert!(!awaits(&wal, 3));
    wal.append(None, &[sectors(2, 6)]).unwrap();
    tend(&mut wal);
    wal.release(Index(1));
    let recycling = wal.next_chore().unwrap();
    assert!(!awaits(&wal, 6), "a spare is there");
    assert!(awaits(&wal, 7), "but with header and seal it would not fit");
    wal.finish_chore(recycling.run()).unwrap();
}
