//! Appending, reading back, replacing, recycling, full disks and failed syncs.

use super::*;
use crate::host::Disk;

#[test]
fn what_was_appended_comes_back() {
    let (host, disk) = sim::host(1);
    let mut wal = create(&host, SMALL);
    wal.append(Some(state(1, 0xa1, 0)), &[entry(1, 1, 0)]).unwrap();
    wal.append(Some(state(1, 0xa1, 1)), &[entry(1, 2, 600), entry(1, 3, 10)]).unwrap();
    let change = Entry { kind: EntryKind::ConfChange, ..entry(1, 4, 20) };
    wal.append(None, std::slice::from_ref(&change)).unwrap();
    disk.power_cut();

    let (wal, recovered) = open(&host, 0).unwrap();
    assert_eq!(recovered.entries, [entry(1, 1, 0), entry(1, 2, 600), entry(1, 3, 10), change]);
    assert_eq!(recovered.hard_state, state(1, 0xa1, 1));
    assert_eq!(recovered.identity, IDENTITY);
    assert_eq!(recovered.last, id(1, 4));
    assert_eq!(recovered.torn, None);
    assert_eq!((wal.last(), wal.hard_state()), (recovered.last, recovered.hard_state));
}

#[test]
fn a_new_log_comes_back_empty_and_cannot_be_made_again() {
    let (host, disk) = sim::host(1);
    assert!(!Wal::exists(&host, dir()).unwrap());
    create(&host, SMALL);
    disk.power_cut();
    assert!(Wal::exists(&host, dir()).unwrap());
    let (_, recovered) = open(&host, 0).unwrap();
    assert_eq!((recovered.last, recovered.hard_state), (LogId::default(), HardState::default()));
    let refused = Wal::create(&host, dir(), IDENTITY, LogId::default(), SMALL).err().unwrap();
    assert!(refused.to_string().contains("0000000000000001.wal is there already"), "{refused}");
}

#[test]
fn a_log_may_begin_after_a_restored_snapshot() {
    let (host, disk) = sim::host(1);
    let mut wal = Wal::create(&host, dir(), IDENTITY, id(3, 100), SMALL).unwrap();
    wal.append(None, &[entry(3, 101, 9)]).unwrap();
    disk.power_cut();
    assert_eq!(open(&host, 100).unwrap().1.entries, [entry(3, 101, 9)]);
    let refused = open(&host, 99).err().unwrap();
    assert!(refused.to_string().contains("0000000000000000.wal is missing"), "{refused}");
}

#[test]
fn opening_a_directory_without_a_log_says_so() {
    let (host, disk) = sim::host(1);
    disk.create_dir(dir()).unwrap();
    let fault = open(&host, 0).err().unwrap();
    assert_eq!(fault.to_string(), "/data/wal holds no WAL");
}

#[test]
fn a_new_log_costs_one_segment_and_two_file_syncs_at_most() {
    let (host, disk) = sim::host(1);
    create(&host, SMALL);
    assert_eq!(disk.counts().creates, 1);
    assert!(disk.counts().syncs <= 2);
}

#[test]
fn an_append_is_one_write_and_one_sync_of_whole_sectors() {
    for direct in [false, true] {
        let (host, disk) = sim::host(1);
        disk.set_direct(direct);
        let mut wal = create(&host, SMALL);
        let before = disk.counts();
        let appended = wal.append(Some(state(1, 0, 0)), &[entry(1, 1, 3), entry(1, 2, 400)]).unwrap();
        let after = disk.counts();
        assert_eq!((after.writes - before.writes, after.syncs - before.syncs), (1, 1));
        assert_eq!((appended.bytes, after.bytes - before.bytes), (512, 512));
        assert_eq!(after.dir_syncs, before.dir_syncs);
        assert_eq!(after.changes - before.changes, if direct { 1 } else { 2 }, "a direct write is a sync too");
    }
}

#[test]
fn nothing_new_costs_nothing() {
    let (host, disk) = sim::host(1);
    let mut wal = create(&host, SMALL);
    wal.append(Some(state(2, 1, 0)), &[]).unwrap();
    let before = disk.counts();
    assert_eq!(wal.append(Some(state(2, 1, 0)), &[]).unwrap().bytes, 0);
    assert_eq!(disk.counts(), before);
}

#[test]
fn no_fsync_syncs_nothing() {
    let (host, disk) = sim::host(1);
    let mut wal = create(&host, Options { no_fsync: true, ..SMALL });
    for index in 1..40 {
        wal.append(None, &[entry(1, index, 700)]).unwrap();
        wal.release(Index(index));
        tend(&mut wal);
    }
    assert_eq!((disk.counts().syncs, disk.counts().dir_syncs), (0, 0));
}

#[test]
fn an_entry_at_or_below_the_last_replaces_the_tail() {
    let (host, disk) = sim::host(1);
    let mut wal = create(&host, SMALL);
    for index in 1..=10 {
        wal.append(None, &[entry(1, index, 700)]).unwrap();
    }
    wal.append(Some(state(2, 0, 0)), &[entry(2, 4, 30), entry(2, 5, 30)]).unwrap();
    wal.append(None, &[entry(2, 6, 900)]).unwrap();
    disk.power_cut();
    let (_, recovered) = open(&host, 0).unwrap();
    let expected = [entry(1, 1, 700), entry(1, 2, 700), entry(1, 3, 700), entry(2, 4, 30), entry(2, 5, 30), entry(2, 6, 900)];
    assert_eq!(recovered.entries, expected);
}

#[test]
fn a_replaced_tail_stays_replaced_when_only_newer_entries_are_asked_for() {
    let (host, disk) = sim::host(1);
    let mut wal = create(&host, SMALL);
    for index in 1..=10 {
        wal.append(None, &[entry(1, index, 700)]).unwrap();
    }
    wal.append(Some(state(2, 0, 0)), &[entry(2, 4, 30)]).unwrap();
    disk.power_cut();
    for after in 0..4 {
        let (_, recovered) = open(&host, after).unwrap();
        assert_eq!(recovered.last, id(2, 4));
        assert_eq!(recovered.entries.last(), Some(&entry(2, 4, 30)));
        assert_eq!(recovered.entries.len() as u64, 4 - after);
    }
    assert_eq!(open(&host, 4).unwrap().1.entries, []);
}

#[test]
fn a_commit_index_beyond_the_appended_entries_is_cut_down_to_them() {
    let (host, disk) = sim::host(1);
    let mut wal = create(&host, SMALL);
    wal.append(Some(state(1, 0, 3)), &[entry(1, 1, 5)]).unwrap();
    assert_eq!(wal.hard_state(), state(1, 0, 1));
    wal.append(Some(state(1, 0, 3)), &[entry(1, 2, 5), entry(1, 3, 5)]).unwrap();
    disk.power_cut();
    assert_eq!(open(&host, 0).unwrap().1.hard_state, state(1, 0, 3));
}

#[test]
fn released_segments_go_and_the_rest_still_reads() {
    let (host, disk) = sim::host(1);
    let mut wal = create(&host, SMALL);
    let entries: Vec<_> = (1..=30).map(|index| entry(1, index, 700)).collect();
    for entry in &entries {
        wal.append(Some(state(1, 1, entry.id.index.0)), std::slice::from_ref(entry)).unwrap();
        tend(&mut wal);
    }
    let before = disk.list(dir()).unwrap();
    wal.release(Index(20));
    tend(&mut wal);
    let after = disk.list(dir()).unwrap();
    assert!(before.iter().filter(|name| name.ends_with(".wal")).count() >= 10, "{before:?}");
    assert!(after.iter().filter(|name| name.ends_with(".wal")).count() <= 5, "{after:?}");
    assert_eq!(after.iter().filter(|name| name.ends_with(".spare")).count(), SMALL.max_spares, "{after:?}");
    disk.power_cut();

    let (_, recovered) = open(&host, 20).unwrap();
    assert_eq!(recovered.entries, entries[20..]);
    assert_eq!(recovered.hard_state, state(1, 1, 30));
    assert!(open(&host, 5).err().unwrap().to_string().contains("is missing"));
}

#[test]
fn a_steady_load_creates_no_file_and_rewrites_the_old_ones() {
    let (host, disk) = sim::host(1);
    let mut wal = create(&host, SMALL);
    let mut creates = 0;
    for index in 1..=300 {
        wal.append(None, &[entry(1, index, 700)]).unwrap();
        wal.release(Index(index.saturating_sub(5)));
        tend(&mut wal);
        if index == 30 {
            creates = disk.counts().creates;
        }
    }
    assert_eq!(disk.counts().creates, creates);
    disk.power_cut();
    let (_, recovered) = open(&host, 295).unwrap();
    assert_eq!(recovered.entries, (296..=300).map(|index| entry(1, index, 700)).collect::<Vec<_>>());
}

#[test]
fn what_a_recycled_file_held_before_never_comes_back() {
    let (host, disk) = sim::host(1);
    let mut wal = create(&host, SMALL);
    for index in 1..=60 {
        // The same shape each time, so that old frames stand exactly where new ones would.
        wal.append(None, &[entry(1, index, 400)]).unwrap();
        wal.release(Index(index - 1));
        tend(&mut wal);
        let copy = disk.fork();
        copy.power_cut();
        let (_, recovered) = open(&next_host(&copy, index), index - 1).unwrap();
        assert_eq!(recovered.entries, [entry(1, index, 400)]);
    }
}

#[test]
fn spares_and_released_segments_are_used_again_after_a_start() {
    let (host, disk) = sim::host(1);
    let mut wal = create(&host, SMALL);
    for index in 1..=20 {
        wal.append(None, &[entry(1, index, 700)]).unwrap();
        tend(&mut wal);
    }
    disk.power_cut();
    let (mut wal, _) = open(&host, 20).unwrap();
    tend(&mut wal);
    let creates = disk.counts().creates;
    for index in 21..=40 {
        wal.append(None, &[entry(1, index, 700)]).unwrap();
        wal.release(Index(index));
        tend(&mut wal);
    }
    assert_eq!(disk.counts().creates, creates);
}

#[test]
fn an_unfinished_file_and_a_spare_of_another_length_are_removed_at_a_start() {
    let (host, disk) = sim::host(1);
    create(&host, SMALL);
    disk.set_bytes(&Name::Unfinished(7).path(dir()), vec![0; 100]);
    disk.set_bytes(&Name::Spare(8).path(dir()), vec![0; 100]);
    disk.set_bytes(&Name::Spare(9).path(dir()), vec![0xff; 8 * SECTOR]);
    let (wal, _) = open(&host, 0).unwrap();
    assert_eq!(disk.list(dir()).unwrap(), ["0000000000000001.wal", "0000000000000009.spare"]);
    assert_eq!(wal.reserve_bytes(), 12 * SECTOR as u64);
}

#[test]
fn a_frame_longer_than_buffer_and_segment_gets_a_segment_of_its_own() {
    let (host, disk) = sim::host(1);
    let mut wal = create(&host, SMALL);
    for (index, len) in [(1, 10), (2, 100_000), (3, 10), (4, 1500), (5, 40_000), (6, 0)] {
        wal.append(None, &[entry(1, index, len)]).unwrap();
        tend(&mut wal);
    }
    disk.power_cut();
    let (_, recovered) = open(&host, 0).unwrap();
    let lens: Vec<_> = recovered.entries.iter().map(|entry| entry.data.len()).collect();
    assert_eq!(lens, [10, 100_000, 10, 1500, 40_000, 0]);
    assert_eq!(recovered.entries[1], entry(1, 2, 100_000));
}

#[test]
fn entries_of_two_mebibytes_come_back() {
    let (host, disk) = sim::host(1);
    let mut wal = create(&host, Options::default());
    let entries: Vec<_> = (1..=5).map(|index| entry(1, index, 2 << 20)).collect();
    for pair in entries.chunks(2) {
        wal.append(None, pair).unwrap();
    }
    disk.power_cut();
    let (_, recovered) = Wal::open(&host, dir(), None, Index(0), Options::default()).unwrap();
    assert!(recovered.entries == entries);
}

#[test]
fn a_frame_at_every_length_around_the_sector_and_buffer_bounds_comes_back() {
    for len in (0..1700).filter(|len| (len + 45) % 512 < 3 || (len + 45) % 512 > 509) {
        let (host, disk) = sim::host(1);
        let mut wal = create(&host, SMALL);
        wal.append(None, &[entry(1, 1, len)]).unwrap();
        wal.append(None, &[entry(1, 2, 1)]).unwrap();
        disk.power_cut();
        assert_eq!(open(&host, 0).unwrap().1.entries, [entry(1, 1, len), entry(1, 2, 1)], "length {len}");
    }
}

#[test]
fn a_full_disk_refuses_an_append_changes_nothing_and_takes_it_later() {
    let (host, disk) = sim::host(1);
    let mut wal = create(&host, SMALL);
    disk.set_capacity(Some(SMALL.segment_bytes + 3 * SECTOR as u64));
    let mut index = 1;
    while wal.append(None, &[entry(1, index, 700)]).is_ok() {
        index += 1;
    }
    assert!(index > 2);
    assert!(matches!(wal.append(None, &[entry(1, index, 700)]), Err(AppendError::Full)));
    assert_eq!(wal.last(), id(1, index - 1));
    assert_eq!(disk.list(dir()).unwrap(), ["0000000000000001.wal"], "what was begun is given back");
    let copy = disk.fork();
    copy.power_cut();
    assert_eq!(open(&next_host(&copy, 2), 0).unwrap().1.last, id(1, index - 1));

    disk.set_capacity(None);
    wal.append(None, &[entry(1, index, 700)]).unwrap();
    disk.power_cut();
    assert_eq!(open(&host, 0).unwrap().1.last, id(1, index));
}

#[test]
fn a_release_makes_room_on_a_disk_that_stays_full() {
    let (host, disk) = sim::host(1);
    let mut wal = create(&host, SMALL);
    disk.set_capacity(Some(3 * SMALL.segment_bytes));
    let mut index = 1;
    while wal.append(None, &[entry(1, index, 700)]).is_ok() {
        wal.seal().unwrap();
        index += 1;
    }
    wal.release(Index(index - 1));
    wal.append(None, &[entry(1, index, 700)]).unwrap();
    disk.power_cut();
    assert_eq!(open(&host, index - 1).unwrap().1.entries, [entry(1, index, 700)]);
}

#[test]
fn a_write_that_finds_no_block_changes_nothing_and_keeps_the_spare() {
    let (host, disk) = sim::host(1);
    let mut wal = create(&host, SMALL);
    wal.append(None, &[entry(1, 1, 1900)]).unwrap();
    tend(&mut wal);
    for (index, len) in [(2, 600), (3, 600)] {
        let reserve = wal.reserve_bytes();
        disk.set_refuses_writes(true);
        assert!(matches!(wal.append(None, &[entry(1, index, len)]), Err(AppendError::Full)));
        assert_eq!((wal.reserve_bytes(), wal.last()), (reserve, id(1, index - 1)));
        disk.set_refuses_writes(false);
        wal.append(None, &[entry(1, index, len)]).unwrap();
    }
    assert_eq!(disk.counts().creates, 2, "the second entry began a segment in the spare");
    disk.power_cut();
    assert_eq!(open(&host, 0).unwrap().1.entries, [entry(1, 1, 1900), entry(1, 2, 600), entry(1, 3, 600)]);
}

#[test]
fn a_spare_is_written_and_synced_before_it_is_one() {
    for seed in 0..20 {
        let (host, disk) = sim::host(seed);
        let mut wal = create(&host, SMALL);
        wal.append(None, &[entry(1, 1, 1900)]).unwrap();
        tend(&mut wal);
        disk.sync_dir(dir()).unwrap();
        disk.power_cut();
        assert_eq!(disk.bytes(&Name::Spare(1).path(dir())), vec![0; 8 * SECTOR]);
    }
}

#[test]
fn the_reserve_is_what_a_full_disk_still_takes() {
    let (host, disk) = sim::host(1);
    let mut wal = create(&host, SMALL);
    wal.append(None, &[entry(1, 1, 1500)]).unwrap();
    tend(&mut wal);
    disk.set_capacity(Some(0));
    let reserve = wal.reserve_bytes();
    let mut taken = 0;
    let mut index = 2;
    while let Ok(appended) = wal.append(None, &[entry(1, index, 300)]) {
        taken += appended.bytes.min(512);
        index += 1;
    }
    assert_eq!(taken, reserve);
}

#[test]
fn after_a_failed_sync_nothing_more_is_appended() {
    for (through, doing) in [(false, "sync"), (true, "write")] {
        let (host, disk) = sim::host(1);
        disk.set_direct(through);
        let mut wal = create(&host, SMALL);
        wal.append(None, &[entry(1, 1, 700)]).unwrap();
        disk.fail_syncs_after(0);
        let Err(AppendError::Fault(fault)) = wal.append(None, &[entry(1, 2, 700)]) else { panic!("the sync failed") };
        assert!(fault.to_string().starts_with(&format!("cannot {doing} /data/wal/0000000000000001.wal")), "{fault}");
        let before = disk.counts();
        assert!(matches!(wal.append(None, &[entry(1, 2, 700)]), Err(AppendError::Fault(_))));
        assert_eq!(disk.counts(), before, "no second try");
    }
}

#[test]
fn what_a_start_shows_survives_a_power_cut_even_if_its_sync_had_failed() {
    for seed in 0..50 {
        let (host, disk) = sim::host(seed);
        let mut wal = create(&host, SMALL);
        wal.append(None, &[entry(1, 1, 700)]).unwrap();
        disk.fail_syncs_after(0);
        wal.append(None, &[entry(1, 2, 1400)]).unwrap_err();
        disk.kill();
        // The page cache still shows the frame, and calls it clean.
        let (_, shown) = open(&host, 0).unwrap();
        assert_eq!(shown.last, id(1, 2));
        disk.power_cut();
        assert_eq!(open(&host, 0).unwrap().1.entries, shown.entries, "seed {seed}");
    }
}

#[test]
#[should_panic(expected = "entry 1/3 cannot follow 1/1")]
fn a_gap_is_never_written() {
    let (host, _) = sim::host(1);
    let mut wal = create(&host, SMALL);
    wal.append(None, &[entry(1, 1, 1)]).unwrap();
    let _ = wal.append(None, &[entry(1, 3, 1)]);
}

#[test]
#[should_panic(expected = "entry 2/1 cannot follow 1/1, commit 1")]
fn a_committed_entry_is_never_replaced() {
    let (host, _) = sim::host(1);
    let mut wal = create(&host, SMALL);
    wal.append(Some(state(1, 0, 1)), &[entry(1, 1, 1)]).unwrap();
    let _ = wal.append(None, &[entry(2, 1, 1)]);
}

#[test]
#[should_panic(expected = "the term cannot fall from 3 to 2")]
fn a_term_never_falls() {
    let (host, _) = sim::host(1);
    let mut wal = create(&host, SMALL);
    wal.append(Some(state(3, 0, 0)), &[]).unwrap();
    let _ = wal.append(Some(state(2, 0, 0)), &[]);
}

/// A process that is killed between a segment's rename and the sync of its name leaves a name that only the kernel knows.
#[test]
fn what_a_start_shows_has_its_name_on_disk() {
    for changes in 0.. {
        let (host, disk) = sim::host(1);
        let mut wal = create(&host, SMALL);
        wal.append(None, &[entry(1, 1, 2500)]).unwrap();
        disk.crash_after(changes);
        let appended = wal.append(None, &[entry(1, 2, 2500)]);
        drop(wal);
        disk.kill();
        let (_, shown) = open(&next_host(&disk, 2), 0).unwrap();
        disk.power_cut();
        let (_, after) = open(&next_host(&disk, 3), 0).unwrap();
        assert_eq!(after.entries, shown.entries, "killed after {changes} changes");
        if appended.is_ok() {
            assert_eq!(shown.last, id(1, 2));
            break;
        }
    }
}
