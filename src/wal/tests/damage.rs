//! What is cut, what is refused, and that nothing is ever silently wrong.

use super::*;
use crate::host::Disk;

const COUNT: u64 = 12;

/// Three full segments, and a fourth with two frames and two free sectors.
fn sized(index: u64) -> Entry {
    entry(1, index, if index < COUNT { 300 + 60 * index as usize } else { 200 })
}

/// Where a segment's frames end: at its seal, or for the newest at the first free sector.
fn used(bytes: &[u8]) -> usize {
    let free =
        |sector: &usize| bytes[sector * SECTOR..].starts_with(b"SEAL") || bytes[sector * SECTOR..][..SECTOR] == [0; SECTOR];
    (1..8).find(free).unwrap() * SECTOR
}

/// A log of four segments, its entries, and where each frame of the last segment ends.
struct Sample {
    disk: SimDisk,
    entries: Vec<Entry>,
    /// End of the frame in bytes, padding included, and the last entry's index.
    frames: Vec<(usize, usize)>,
}

fn sample() -> Sample {
    let (host, disk) = sim::host(1);
    let mut wal = create(&host, SMALL);
    let entries: Vec<_> = (1..=COUNT).map(sized).collect();
    let mut frames = Vec::new();
    for entry in &entries {
        let before = wal.current.header.sequence;
        wal.append(Some(state(1, 1, entry.id.index.0 - 1)), std::slice::from_ref(entry)).unwrap();
        tend(&mut wal);
        if wal.current.header.sequence != before {
            frames.clear();
        }
        frames.push((wal.current.end as usize, entry.id.index.0 as usize));
    }
    assert_eq!(wal.current.header.sequence, 4);
    assert_eq!(frames, [(4 * SECTOR, 11), (5 * SECTOR, 12)]);
    disk.power_cut();
    Sample { disk, entries, frames }
}

/// Replaces all from `cut` on.
fn fill_from(bytes: &[u8], cut: usize, fill: u8) -> Vec<u8> {
    bytes.iter().enumerate().map(|(at, &byte)| if at < cut { byte } else { fill }).collect()
}

#[test]
fn a_log_torn_at_any_byte_loses_the_frames_from_there_on_and_goes_on() {
    let Sample { disk, entries, frames } = sample();
    let path = segment(4);
    let whole = disk.bytes(&path);
    let first = entries.len() - frames.len();
    for fill in [0, 0xa5] {
        for cut in SECTOR..whole.len() {
            let disk = disk.fork();
            let torn = fill_from(&whole, cut, fill);
            // Zeros after the cut may be the very bytes that were there.
            let kept = frames.iter().filter(|&&(end, _)| torn[..end] == whole[..end]).count();
            disk.set_bytes(&path, torn);
            let host = next_host(&disk, cut as u64);
            let (mut wal, recovered) = open(&host, 0).unwrap();
            assert_eq!(recovered.entries, entries[..first + kept], "cut at {cut}");

            // What follows is shorter than what was torn, so old bytes stand behind it.
            let index = recovered.last.index.0 + 1;
            wal.append(None, &[entry(2, index, 1)]).unwrap();
            disk.power_cut();
            let (_, again) = open(&host, 0).unwrap();
            assert_eq!(again.entries[..first + kept], entries[..first + kept], "cut at {cut}");
            assert_eq!(again.entries[first + kept..], [entry(2, index, 1)], "cut at {cut}");
        }
    }
}

#[test]
fn a_torn_tail_is_reported_with_its_place() {
    let Sample { disk, frames, .. } = sample();
    let mut bytes = disk.bytes(&segment(4));
    let start = frames[frames.len() - 2].0;
    bytes[start + 100] ^= 1;
    disk.set_bytes(&segment(4), bytes);
    let (_, recovered) = open(&next_host(&disk, 2), 0).unwrap();
    assert_eq!(recovered.torn, Some((segment(4), start as u64)));
}

#[test]
fn a_segment_cut_short_or_grown_is_refused() {
    let Sample { disk, .. } = sample();
    for sequence in 1..=4 {
        let whole = disk.bytes(&segment(sequence));
        for len in (0..whole.len()).chain([whole.len() + 1]) {
            let disk = disk.fork();
            let mut bytes = whole.clone();
            bytes.resize(len, 0);
            disk.set_bytes(&segment(sequence), bytes);
            let fault = open(&next_host(&disk, 2), 0).err().unwrap().to_string();
            let place = format!("{} is damaged at byte {}: ", segment(sequence).display(), len.min(whole.len()));
            assert!(fault.starts_with(&place), "{fault}");
        }
    }
}

#[test]
fn every_flipped_bit_is_a_torn_last_frame_or_refused_or_without_effect() {
    let Sample { disk, entries, frames } = sample();
    let (mut refused, mut torn) = (0, 0);
    let last_frame = frames[frames.len() - 2].0..frames[frames.len() - 1].0;
    for sequence in 1..=4 {
        let used = used(&disk.bytes(&segment(sequence)));
        for bit in 0..disk.bytes(&segment(sequence)).len() * 8 {
            disk.flip(&segment(sequence), bit);
            let copy = disk.fork();
            disk.flip(&segment(sequence), bit);
            match open(&next_host(&copy, 2), 0) {
                Err(fault) => {
                    assert!(fault.to_string().contains("is damaged at byte"), "{fault}");
                    assert!(fault.to_string().contains("Restore its data directory"), "{fault}");
                    refused += 1;
                }
                Ok((_, recovered)) if recovered.entries == entries => {
                    assert_eq!(recovered.hard_state, state(1, 1, COUNT - 1));
                    assert!(bit / 8 >= used, "bit {bit} of segment {sequence} was not looked at");
                }
                Ok((_, recovered)) => {
                    assert!(sequence == 4 && last_frame.contains(&(bit / 8)), "bit {bit} of segment {sequence}");
                    assert_eq!(recovered.entries, entries[..entries.len() - 1]);
                    assert_eq!(recovered.hard_state, state(1, 1, COUNT - 2));
                    torn += 1;
                }
            }
        }
    }
    assert_eq!(torn, last_frame.len() * 8, "each bit of the last frame counts");
    assert!(refused > 4 * SECTOR * 8, "{refused}");
}

#[test]
fn damage_before_the_last_frame_is_refused_and_named() {
    let Sample { disk, frames, .. } = sample();
    let mut bytes = disk.bytes(&segment(4));
    bytes[SECTOR + 30] ^= 4;
    disk.set_bytes(&segment(4), bytes);
    let fault = open(&next_host(&disk, 2), 0).err().unwrap().to_string();
    let next = frames[0].0;
    assert!(fault.starts_with("/data/wal/0000000000000004.wal is damaged at byte 512: "), "{fault}");
    assert!(fault.contains(&format!("one follows at byte {next}")), "{fault}");
    assert!(fault.contains("Restore its data directory from a backup"), "{fault}");
}

#[test]
fn damage_in_an_earlier_segment_is_refused_even_in_its_last_frame() {
    let Sample { disk, .. } = sample();
    for sequence in 1..=3 {
        let disk = disk.fork();
        let mut bytes = disk.bytes(&segment(sequence));
        let end = used(&bytes);
        bytes[end - 1] ^= 1;
        disk.set_bytes(&segment(sequence), bytes);
        let fault = open(&next_host(&disk, 2), 0).err().unwrap().to_string();
        assert!(fault.contains(&format!("{} is damaged", segment(sequence).display())), "{fault}");
        assert!(fault.contains("the next segment shows that there was one"), "{fault}");
    }
}

#[test]
fn a_missing_segment_is_refused_and_named_wherever_it_stood() {
    let Sample { disk, .. } = sample();
    for sequence in 1..=4 {
        let disk = disk.fork();
        disk.remove(&segment(sequence)).unwrap();
        let fault = open(&next_host(&disk, 2), 0).err().unwrap().to_string();
        assert!(fault.starts_with(&format!("{} is missing", segment(sequence).display())), "{fault}");
    }
}

#[test]
fn a_missing_segment_that_the_checkpoint_covers_does_not_matter() {
    let Sample { disk, entries, .. } = sample();
    disk.remove(&segment(1)).unwrap();
    let (_, recovered) = open(&next_host(&disk, 2), 4).unwrap();
    assert_eq!(recovered.entries, entries[4..]);
}

#[test]
fn a_renamed_segment_is_refused() {
    let Sample { disk, .. } = sample();
    disk.remove(&segment(3)).unwrap();
    disk.rename(&segment(2), &segment(3)).unwrap();
    let fault = open(&next_host(&disk, 2), 0).err().unwrap().to_string();
    assert!(fault.contains("the file is segment 0000000000000002 under another name"), "{fault}");
}

#[test]
fn a_log_of_another_cluster_or_member_is_refused() {
    let Sample { disk, .. } = sample();
    for other in [Identity { cluster_id: 0xc2, ..IDENTITY }, Identity { member_id: 0xa2, ..IDENTITY }] {
        let fault = Wal::open(&next_host(&disk, 2), dir(), Some(other), Index(0), SMALL).err().unwrap().to_string();
        assert!(fault.contains("it belongs to member a1 of cluster c1"), "{fault}");
        assert!(fault.contains(&other.to_string()), "{fault}");
    }
}

#[test]
fn a_segment_from_another_log_is_refused_even_if_it_fits() {
    let ours = sample().disk;
    let other = {
        let (host, disk) = sim::host(77);
        let mut wal = create(&host, SMALL);
        for index in 1..=COUNT {
            wal.append(Some(state(1, 1, index - 1)), &[sized(index)]).unwrap();
            tend(&mut wal);
        }
        disk
    };
    for sequence in 1..=4 {
        let disk = ours.fork();
        disk.set_bytes(&segment(sequence), other.bytes(&segment(sequence)));
        assert!(open(&next_host(&disk, 2), 0).is_err(), "segment {sequence}");
    }
}

#[test]
fn an_older_copy_of_the_newest_segment_is_only_a_shorter_log_and_an_older_copy_of_another_is_refused() {
    let (host, disk) = sim::host(1);
    let mut wal = create(&host, SMALL);
    wal.append(None, &[entry(1, 1, 300)]).unwrap();
    let old = disk.bytes(&segment(1));
    for index in 2..=12 {
        wal.append(None, &[entry(1, index, 700)]).unwrap();
        tend(&mut wal);
    }
    disk.set_bytes(&segment(1), old);
    assert!(open(&next_host(&disk, 2), 0).err().unwrap().to_string().contains("is damaged at byte 1024"));
}

#[test]
fn a_frame_that_follows_another_one_is_refused() {
    let (host, disk) = sim::host(1);
    create(&host, SMALL);
    let [ours, theirs] = [1, 2].map(|term| {
        let disk = disk.fork();
        let (mut wal, _) = open(&next_host(&disk, 2), 0).unwrap();
        wal.append(None, &[entry(term, 1, 5)]).unwrap();
        wal.append(None, &[entry(term, 2, 5)]).unwrap();
        disk.bytes(&segment(1))
    });
    // As if a write had gone astray: each frame is whole, but they are not of one log.
    disk.set_bytes(&segment(1), [&ours[..2 * SECTOR], &theirs[2 * SECTOR..]].concat());
    let fault = open(&next_host(&disk, 2), 0).err().unwrap().to_string();
    assert!(fault.contains("is damaged at byte 1024: a frame does not follow the one before it"), "{fault}");
}

#[test]
fn a_segment_of_another_member_is_refused_even_if_the_caller_does_not_know_who_it_is() {
    let Sample { disk, .. } = sample();
    let (host, other) = sim::host(77);
    Wal::create(&host, dir(), Identity { member_id: 0xa2, ..IDENTITY }, LogId::default(), SMALL).unwrap();
    disk.set_bytes(&segment(1), other.bytes(&segment(1)));
    let fault = Wal::open(&next_host(&disk, 2), dir(), None, Index(0), SMALL).err().unwrap().to_string();
    assert!(fault.contains("it belongs to member a2 of cluster c1, but this is member a1 of cluster c1"), "{fault}");
}

#[test]
fn a_header_that_disagrees_with_the_log_before_it_is_refused() {
    for mistake in [|wal: &mut Wal| wal.last.term = Term(7), |wal: &mut Wal| wal.hard_state = state(1, 2, 0)] {
        let (host, disk) = sim::host(1);
        let mut wal = create(&host, SMALL);
        wal.append(None, &[entry(1, 1, 2500)]).unwrap();
        mistake(&mut wal);
        wal.append(None, &[entry(1, 2, 2500)]).unwrap();
        disk.power_cut();
        let fault = open(&host, 0).err().unwrap().to_string();
        assert!(fault.contains("0000000000000002.wal is damaged at byte 56"), "{fault}");
    }
}

#[test]
fn a_gap_between_entries_is_refused() {
    let (host, disk) = sim::host(1);
    let mut wal = create(&host, SMALL);
    wal.append(None, &[entry(1, 1, 1)]).unwrap();
    wal.last = id(1, 2);
    wal.append(None, &[entry(1, 3, 1)]).unwrap();
    disk.power_cut();
    let fault = open(&host, 0).err().unwrap().to_string();
    assert!(fault.contains("0000000000000001.wal is damaged at byte 1024"), "{fault}");
    assert!(fault.contains("an entry does not follow the one before it"), "{fault}");
}

#[test]
fn a_commit_index_beyond_the_log_is_refused() {
    let (host, disk) = sim::host(1);
    let mut wal = create(&host, SMALL);
    wal.append(None, &[entry(1, 1, 1)]).unwrap();
    wal.last = id(1, 2);
    wal.append(Some(state(1, 0, 2)), &[]).unwrap();
    disk.power_cut();
    let fault = open(&host, 0).err().unwrap().to_string();
    assert!(fault.contains("the commit index is beyond the log's end"), "{fault}");
}

#[test]
fn a_commit_index_beyond_the_log_is_refused_in_a_header_too() {
    let (host, disk) = sim::host(1);
    create(&host, SMALL);
    let mut bytes = disk.bytes(&segment(1));
    let mut header = Header::decode(bytes[..SECTOR].try_into().unwrap()).unwrap();
    header.hard_state.commit = Index(1);
    bytes[..SECTOR].copy_from_slice(&header.encode());
    disk.set_bytes(&segment(1), bytes);
    let fault = open(&host, 0).err().unwrap().to_string();
    assert!(fault.contains("the commit index in the header is beyond the log's end"), "{fault}");
}

#[test]
fn files_of_others_do_not_matter() {
    let Sample { disk, entries, .. } = sample();
    disk.set_bytes(&dir().join("lost+found"), vec![1]);
    disk.set_bytes(&dir().join("0000000000000009.wal.bak"), vec![1]);
    assert_eq!(open(&next_host(&disk, 2), 0).unwrap().1.entries, entries);
}

#[test]
fn random_bytes_never_panic_and_never_pass_for_a_log() {
    let random = sim::SimRandom::new(5);
    let Sample { disk, entries, .. } = sample();
    for _ in 0..2000 {
        let disk = disk.fork();
        let path = segment(1 + random.below(4));
        let mut bytes = disk.bytes(&path);
        let from = random.below(bytes.len() as u64) as usize;
        let to = from + random.below((bytes.len() - from) as u64 + 1) as usize;
        bytes[from..to].iter_mut().for_each(|byte| *byte = random.below(256) as u8);
        disk.set_bytes(&path, bytes);
        if let Ok((_, recovered)) = open(&next_host(&disk, 2), 0) {
            assert_eq!(recovered.entries, entries[..recovered.entries.len()]);
        }
    }
}
