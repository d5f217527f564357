//! Frames that wait for a sync: what a power cut may take of them, and what it never takes.

use super::*;
use crate::host::Disk;
use crate::host::sim::SimRandom;

/// At most so many entries wait.
const MOST: u32 = 20;
const RELAXED: Options = Options { segment_bytes: 40 * SECTOR as u64, max_unsynced: MOST, ..SMALL };

fn reopen(disk: &SimDisk) -> Result<(Wal, Recovered), Fault> {
    Wal::open(&next_host(disk, 2), dir(), Some(IDENTITY), Index(0), RELAXED)
}

fn relaxed(wal: &mut Wal, index: u64, len: usize) {
    wal.append_relaxed(Some(state(1, 1, index)), &[entry(1, index, len)]).unwrap();
    assert!(!wal.is_synced());
}

fn strict(wal: &mut Wal, index: u64, len: usize) {
    wal.append(Some(state(1, 1, index)), &[entry(1, index, len)]).unwrap();
    assert!(wal.is_synced());
}

/// Indexes of the entries that a start finds.
fn indexes(recovered: &Recovered) -> Vec<u64> {
    recovered.entries.iter().map(|entry| entry.id.index.0).collect()
}

fn sequence(last: u64) -> Vec<u64> {
    (1..=last).collect()
}

#[test]
fn frames_that_wait_share_sectors_and_one_sync() {
    let (host, disk) = sim::host(1);
    let mut wal = create(&host, RELAXED);
    strict(&mut wal, 1, 10);
    let (before, start) = (disk.counts(), wal.current.end);
    assert_eq!(start, 2 * SECTOR as u64);
    for index in 2..=11 {
        relaxed(&mut wal, index, 100);
    }
    assert_eq!((disk.counts().writes - before.writes, disk.counts().syncs - before.syncs), (10, 0));
    // Header, run, hard state, entry: the first frame needs not say where its run began.
    assert_eq!(
        wal.current.end - start,
        (24 + 25 + 21 + 100_u64).next_multiple_of(8) + 9 * (24 + 9 + 25 + 21 + 100_u64).next_multiple_of(8)
    );
    wal.sync().unwrap();
    assert!(wal.is_synced());
    assert_eq!(wal.current.end, start + 4 * SECTOR as u64, "what comes next has a sector of its own");
    wal.sync().unwrap();
    assert_eq!(disk.counts().syncs - before.syncs, 1, "nothing new, nothing synced");
    disk.power_cut();
    assert_eq!(indexes(&reopen(&disk).unwrap().1), sequence(11));
}

#[test]
fn a_frame_that_must_be_durable_makes_all_before_it_durable() {
    for seed in 0..200 {
        let (host, disk) = sim::host(seed);
        let mut wal = create(&host, RELAXED);
        strict(&mut wal, 1, 10);
        (2..=5).for_each(|index| relaxed(&mut wal, index, 300));
        let before = disk.counts();
        strict(&mut wal, 6, 600);
        assert_eq!(disk.counts().syncs - before.syncs, 1);
        relaxed(&mut wal, 7, 50);
        disk.power_cut();
        let found = indexes(&reopen(&disk).unwrap().1);
        assert!(found == sequence(6) || found == sequence(7), "seed {seed}: {found:?}");
    }
}

/// Where the run ends with a sector, a direct write would be durable by itself alone.
#[test]
fn neither_does_a_direct_write_overtake_what_waits() {
    for seed in 0..50 {
        let (host, disk) = sim::host(seed);
        disk.set_direct(true);
        let mut wal = create(&host, RELAXED);
        strict(&mut wal, 1, 10);
        relaxed(&mut wal, 2, 2 * SECTOR - 24 - 25 - 21);
        assert!(wal.current.end.is_multiple_of(SECTOR as u64));
        strict(&mut wal, 3, 100);
        disk.power_cut();
        assert_eq!(indexes(&reopen(&disk).unwrap().1), sequence(3), "seed {seed}");
    }
}

#[test]
fn a_process_that_dies_loses_nothing_and_the_next_start_makes_it_durable() {
    for seed in 0..50 {
        let (host, disk) = sim::host(seed);
        let mut wal = create(&host, RELAXED);
        strict(&mut wal, 1, 10);
        (2..=7).for_each(|index| relaxed(&mut wal, index, 40 * index as usize));
        if seed % 2 == 0 {
            disk.fail_syncs_after(0);
            wal.sync().unwrap_err();
            wal.sync().unwrap_err();
        }
        disk.kill();
        assert_eq!(indexes(&reopen(&disk).unwrap().1), sequence(7));
        disk.power_cut();
        assert_eq!(indexes(&reopen(&disk).unwrap().1), sequence(7), "seed {seed}");
    }
}

/// Two strict frames, then a run of six that nobody has synced.
struct Unsynced {
    disk: SimDisk,
    /// The segment without the run, and with it.
    synced: Vec<u8>,
    whole: Vec<u8>,
    /// Where each frame of the run begins, and where the last ends.
    frames: Vec<usize>,
}

fn unsynced(fill: u8) -> Unsynced {
    let (host, disk) = sim::host(1);
    let mut wal = create(&host, RELAXED);
    strict(&mut wal, 1, 10);
    strict(&mut wal, 2, 700);
    let mut synced = disk.bytes(&segment(1));
    synced[wal.current.end as usize..].fill(fill);
    let mut frames = vec![wal.current.end as usize];
    for (index, len) in (3..).zip([150, 900, 20, 5, 1300, 60]) {
        relaxed(&mut wal, index, len);
        frames.push(wal.current.end as usize);
    }
    Unsynced { whole: disk.bytes(&segment(1)), disk, synced, frames }
}

/// What a start makes of these bytes, and a start after that, with other frames written between: the frames of the run that are whole
/// and have none before them that is not, and then the new ones. Nothing that was cut off comes back.
fn is_cut_where_it_is_torn(sample: &Unsynced, torn: Vec<u8>, case: &str) {
    let Unsynced { disk, whole, frames, .. } = sample;
    let disk = disk.fork();
    let kept = frames.windows(2).take_while(|frame| torn[frame[0]..frame[1]] == whole[frame[0]..frame[1]]).count() as u64;
    disk.set_bytes(&segment(1), torn);
    let (mut wal, recovered) = reopen(&disk).unwrap_or_else(|fault| panic!("{fault}: {case}"));
    assert_eq!(indexes(&recovered), sequence(2 + kept), "{case}");
    assert_eq!(recovered.may_have_lost, MOST);
    // Frames as long as those that were cut off end where those ended.
    let lens = [[150, 900, 20], [60, 60, 1300], [0, 1, 2000]][case.len() % 3];
    let mut index = 2 + kept;
    for len in lens {
        index += 1;
        wal.append_relaxed(Some(state(2, 1, index)), &[entry(2, index, len)]).unwrap();
    }
    wal.sync().unwrap();
    let (_, again) = reopen(&disk).unwrap_or_else(|fault| panic!("{fault}: {case}, and more"));
    assert_eq!(indexes(&again), sequence(index), "{case}, and more");
    assert!(again.entries[2 + kept as usize..].iter().all(|entry| entry.id.term == Term(2)), "{case}: what was cut off is back");
}

#[test]
fn whichever_sectors_of_a_run_are_kept_it_is_cut_at_the_first_that_is_missing() {
    for fill in [0, 0xa5] {
        let sample = unsynced(fill);
        let (from, to) = (sample.frames[0] / SECTOR, sample.frames.last().unwrap().div_ceil(SECTOR));
        assert_eq!(to - from, 6);
        for kept in 0..1_u32 << (to - from) {
            let mut torn = sample.synced.clone();
            for sector in (from..to).filter(|sector| kept & 1 << (sector - from) != 0) {
                let bytes = sector * SECTOR..(sector + 1) * SECTOR;
                torn[bytes.clone()].copy_from_slice(&sample.whole[bytes]);
            }
            is_cut_where_it_is_torn(&sample, torn, &format!("{fill:x} {kept:b}"));
        }
    }
}

#[test]
fn wherever_sectors_of_a_run_are_torn_it_is_cut_there() {
    let (random, sample) = (SimRandom::new(3), unsynced(0x77));
    for case in 0..3000 {
        let mut torn = sample.synced.clone();
        for sector in sample.frames[0] / SECTOR..sample.frames.last().unwrap().div_ceil(SECTOR) {
            let count = if random.below(3) == 0 { random.below(SECTOR as u64) as usize } else { SECTOR };
            let bytes = sector * SECTOR..sector * SECTOR + count;
            torn[bytes.clone()].copy_from_slice(&sample.whole[bytes]);
        }
        is_cut_where_it_is_torn(&sample, torn, &format!("case {case}"));
    }
}

#[test]
fn a_start_after_a_power_cut_may_lose_its_power_too() {
    for seed in 0..400 {
        let (host, disk) = sim::host(seed);
        let mut wal = create(&host, RELAXED);
        strict(&mut wal, 1, 10);
        (2..=8).for_each(|index| relaxed(&mut wal, index, 90 * index as usize));
        disk.power_cut();
        let mut last = u64::MAX;
        for changes in 0..6 {
            disk.crash_after(changes);
            let found = reopen(&disk).ok().map(|(_, recovered)| recovered.last.index.0);
            disk.power_cut();
            last = found.unwrap_or(last).min(last);
        }
        let (mut wal, recovered) = reopen(&disk).unwrap();
        assert!(last == u64::MAX || recovered.last.index.0 == last, "seed {seed}: shown once, and lost then");
        wal.append(Some(state(2, 1, 0)), &[entry(2, recovered.last.index.0 + 1, 100)]).unwrap();
        disk.power_cut();
        assert_eq!(reopen(&disk).unwrap().1.last.index.0, recovered.last.index.0 + 1, "seed {seed}");
    }
}

/// Runs that were synced, each followed by something, and one that was not.
struct Runs {
    disk: SimDisk,
    /// Where the last run that was synced ends, and the log.
    synced: usize,
    end: usize,
}

fn runs() -> Runs {
    let (host, disk) = sim::host(1);
    let mut wal = create(&host, RELAXED);
    strict(&mut wal, 1, 10);
    (2..=5).for_each(|index| relaxed(&mut wal, index, 200));
    wal.sync().unwrap();
    (6..=7).for_each(|index| relaxed(&mut wal, index, 30));
    strict(&mut wal, 8, 600);
    (9..=10).for_each(|index| relaxed(&mut wal, index, 100));
    wal.sync().unwrap();
    let synced = wal.current.end as usize;
    (11..=14).for_each(|index| relaxed(&mut wal, index, 200));
    Runs { end: wal.current.end as usize, disk, synced }
}

#[test]
fn every_flipped_bit_of_a_synced_run_is_refused_or_without_effect() {
    let Runs { disk, synced, end } = runs();
    let whole = reopen(&disk.fork()).unwrap().1.entries;
    let (mut refused, mut idle) = (0, 0);
    for bit in 0..end * 8 {
        let copy = disk.fork();
        copy.flip(&segment(1), bit);
        match reopen(&copy) {
            Err(fault) => {
                assert!(bit / 8 < synced, "bit {bit} was never synced: {fault}");
                assert!(fault.to_string().contains("is damaged at byte"), "{fault}");
                refused += 1;
            }
            Ok((_, recovered)) if recovered.entries == whole => idle += 1,
            Ok((_, recovered)) => {
                assert!(bit / 8 >= synced, "bit {bit} of what was synced is lost without a word");
                assert_eq!(recovered.entries[..], whole[..recovered.entries.len()]);
                assert!(recovered.entries.len() >= 10);
            }
        }
    }
    // Zeros behind runs, up to the end of their sectors.
    assert!(idle < 4 * SECTOR * 8 && refused > 4 * SECTOR * 8, "{refused} refused, {idle} idle");
}

/// Nothing in a sector says how many frames it held. But the run behind it knows the chain up to where it began.
#[test]
fn a_lost_frame_at_the_end_of_a_synced_run_is_refused_even_if_the_next_run_is_torn_at_its_beginning() {
    let Runs { disk, synced, .. } = runs();
    let mut bytes = disk.bytes(&segment(1));
    // The first frame of the last run, and with it the only one whose predecessor is the last that was synced.
    bytes[synced + 100] ^= 1;
    disk.set_bytes(&segment(1), bytes.clone());
    assert_eq!(indexes(&reopen(&disk.fork()).unwrap().1), sequence(10), "a power cut may have done that");
    let last = (2..).map(|back| synced - 8 * back).find(|at| bytes[*at..].starts_with(b"FRAM")).unwrap();
    bytes[last..synced].fill(0);
    disk.set_bytes(&segment(1), bytes);
    let fault = reopen(&disk).err().unwrap().to_string();
    assert!(fault.contains("no valid frame is here"), "{fault}");
}

#[test]
fn a_frame_that_names_another_run_than_its_own_is_refused() {
    let (host, disk) = sim::host(1);
    let mut wal = create(&host, RELAXED);
    strict(&mut wal, 1, 10);
    relaxed(&mut wal, 2, 10);
    let earlier = wal.run;
    wal.sync().unwrap();
    relaxed(&mut wal, 3, 10);
    wal.run = earlier;
    relaxed(&mut wal, 4, 10);
    let fault = reopen(&disk).err().unwrap().to_string();
    assert!(fault.contains("a frame names another run than the one it stands in"), "{fault}");
}

#[test]
fn no_more_waits_than_the_log_has_said() {
    let (host, disk) = sim::host(1);
    let mut wal = create(&host, RELAXED);
    strict(&mut wal, 1, 10);
    let next = u64::from(MOST) + 2;
    (2..next).for_each(|index| relaxed(&mut wal, index, 10));
    wal.append_relaxed(None, &[entry(1, next, 10)]).unwrap();
    assert!(wal.is_synced(), "one more than the bound");
    wal.append_relaxed(None, &(next + 1..=next + 21).map(|index| entry(1, index, 10)).collect::<Vec<_>>()).unwrap();
    assert!(wal.is_synced(), "a batch beyond the bound");
    disk.power_cut();
    assert_eq!(indexes(&reopen(&disk).unwrap().1), sequence(next + 21));
    let large = Options { segment_bytes: 4 << 20, max_unsynced: 1000, ..SMALL };
    let mut wal = create(&sim::host(1).0, large);
    strict(&mut wal, 1, 10);
    (2..=5).for_each(|index| relaxed(&mut wal, index, 250_000));
    wal.append_relaxed(None, &[entry(1, 6, 250_000)]).unwrap();
    assert!(wal.is_synced(), "a mebibyte at the most");
}

#[test]
fn a_new_term_a_vote_and_entries_that_replace_others_never_wait() {
    let (host, _) = sim::host(1);
    let mut wal = create(&host, RELAXED);
    strict(&mut wal, 1, 10);
    relaxed(&mut wal, 2, 10);
    for (hard_state, entry) in
        [(Some(state(2, 1, 2)), entry(2, 3, 1)), (Some(state(2, 2, 2)), entry(2, 4, 1)), (None, entry(2, 3, 1))]
    {
        wal.append_relaxed(hard_state, &[entry]).unwrap();
        assert!(wal.is_synced(), "{hard_state:?}");
    }
}

#[test]
fn a_log_that_knows_no_class_syncs_everything() {
    let (host, _) = sim::host(1);
    let mut wal = create(&host, SMALL);
    wal.append_relaxed(None, &[entry(1, 1, 10)]).unwrap();
    assert!(wal.is_synced());
    wal.append_relaxed(Some(state(0, 0, 1)), &[]).unwrap();
    assert!(wal.is_synced(), "a hard state alone");
}

#[test]
fn what_waits_stands_in_the_newest_segment_only() {
    for seed in 0..100 {
        let (host, disk) = sim::host(seed);
        let mut wal = create(&host, Options { segment_bytes: 8 * SECTOR as u64, ..RELAXED });
        let (mut durable, mut index) = (0, 0);
        // Some with the power going right after the birth of a segment.
        while index < 10 + seed % 30 || (seed % 2 == 0 && !wal.is_synced()) {
            index += 1;
            wal.append_relaxed(None, &[entry(1, index, 300)]).unwrap();
            if wal.is_synced() {
                durable = index;
            } else {
                tend(&mut wal);
            }
        }
        assert!(wal.current.header.sequence > 1 && durable > 0);
        disk.power_cut();
        let found = reopen(&disk).unwrap().1.last.index.0;
        assert!((durable..=index).contains(&found), "seed {seed}: {found}, but {durable} were synced");
    }
}

#[test]
fn only_a_log_that_ends_with_its_mark_has_lost_nothing() {
    let (host, disk) = sim::host(1);
    let may_have_lost = || reopen(&disk.fork()).unwrap().1.may_have_lost;
    let mut wal = create(&host, RELAXED);
    strict(&mut wal, 1, 10);
    assert_eq!(may_have_lost(), MOST, "what may have followed is not known");
    relaxed(&mut wal, 2, 10);
    wal.end().unwrap();
    let bytes = disk.counts().bytes;
    wal.end().unwrap();
    assert_eq!(disk.counts().bytes, bytes, "one mark is enough");
    disk.power_cut();
    let (mut wal, recovered) = reopen(&disk).unwrap();
    assert_eq!((indexes(&recovered), recovered.may_have_lost), (sequence(2), 0));
    assert_eq!(may_have_lost(), 0, "nothing was written since");
    wal.end().unwrap();
    wal.append_relaxed(None, &[entry(1, 3, 10)]).unwrap();
    assert!(wal.is_synced(), "the mark must not stay the last frame");
    relaxed(&mut wal, 4, 10);
    assert_eq!(may_have_lost(), MOST);
    let (host, disk) = sim::host(1);
    let mut wal = create(&host, SMALL);
    wal.append(None, &[entry(1, 1, 10)]).unwrap();
    wal.end().unwrap();
    assert_eq!(open(&next_host(&disk, 2), 0).unwrap().1.may_have_lost, 0, "a log without a class");
}

#[test]
fn the_class_begins_and_ends_with_a_segment() {
    let (host, disk) = sim::host(1);
    let mut wal = create(&host, SMALL);
    wal.append(None, &[entry(1, 1, 10)]).unwrap();
    drop(wal);
    for (options, index, versions) in [(RELAXED, 2, [1, 2]), (SMALL, 3, [2, 1])] {
        let (mut wal, recovered) = Wal::open(&next_host(&disk, index), dir(), None, Index(0), options).unwrap();
        let before = wal.current.header.sequence;
        assert_eq!(recovered.may_have_lost, if index == 3 { MOST } else { 0 });
        wal.append_relaxed(None, &[entry(1, index, 10)]).unwrap();
        wal.append_relaxed(None, &[]).unwrap();
        assert_eq!(wal.current.header.sequence, before + 1);
        let version = |sequence| u64::from(disk.bytes(&segment(sequence))[8]);
        assert_eq!([version(before), version(before + 1)], versions);
        wal.sync().unwrap();
    }
    disk.power_cut();
    assert_eq!(indexes(&open(&next_host(&disk, 9), 0).unwrap().1), sequence(3));
}

#[test]
fn a_disk_without_room_for_another_layout_goes_on_with_the_one_it_has() {
    let (host, disk) = sim::host(1);
    let mut wal = create(&host, SMALL);
    wal.append(None, &[entry(1, 1, 10)]).unwrap();
    disk.set_capacity(Some(0));
    let (mut wal, _) = reopen(&disk).unwrap();
    for index in 2..=4 {
        wal.append_relaxed(None, &[entry(1, index, 10)]).unwrap();
        assert!(wal.is_synced() && wal.current.header.sequence == 1);
    }
    disk.power_cut();
    assert_eq!(indexes(&reopen(&disk).unwrap().1), sequence(4));
    assert!(disk.list(dir()).unwrap().len() == 1);
}
