//! The counters tell the truth: what is known to be written is what they count.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::fs::{AtFlags, StatxFlags, statx};

use crate::support::Server;
use crate::support::requests::put;
use crate::support::volume::Volume;

const PAGE: usize = 4096;
/// What a file's times and a commit of the journal may add.
const METADATA: u64 = 64 << 10;

#[test]
fn the_device_counts_each_page_that_is_written_and_synced() {
    let Some(volume) = Volume::mount(64 << 20) else { return };
    let file = File::create(volume.path().join("file")).unwrap();
    file.write_all_at(&[1; 200 * PAGE], 0).unwrap();
    let before = volume.settle();
    for n in 0..200 {
        file.write_all_at(&[2; PAGE], n * PAGE as u64).unwrap();
        file.sync_data().unwrap();
    }
    let serving = volume.written() - before;
    assert!(serving.flushes >= 200, "{serving:?}");
    assert!(serving.requests >= 200, "{serving:?}");
    let wear = volume.wear(before);
    let page_bytes = 200 * PAGE as u64;
    assert!((page_bytes..page_bytes + METADATA).contains(&wear.bytes), "{wear:?}");
}

#[test]
fn what_is_only_in_memory_is_counted_too() {
    let Some(volume) = Volume::mount(64 << 20) else { return };
    let before = volume.settle();
    File::create(volume.path().join("file")).unwrap().write_all_at(&[1; 256 * PAGE], 0).unwrap();
    let wear = volume.wear(before);
    let page_bytes = 256 * PAGE as u64;
    // A new file has metadata of its own.
    assert!((page_bytes + 1..page_bytes + 2 * METADATA).contains(&wear.bytes), "{wear:?}");
}

#[test]
fn a_file_system_that_nobody_writes_to_wears_nothing() {
    let Some(volume) = Volume::mount(64 << 20) else { return };
    File::create(volume.path().join("file")).unwrap().write_all_at(b"x", 0).unwrap();
    let before = volume.settle();
    assert_eq!(volume.wear(before).bytes, 0);
    let before = volume.written();
    assert_eq!(std::fs::read(volume.path().join("file")).unwrap(), b"x");
    assert_eq!((volume.written_and_synced() - before).bytes, 0);
}

fn has_direct_writes(dir: &Path) -> bool {
    let file = File::create(dir.join("probe")).unwrap();
    let stat = statx(&file, "", AtFlags::EMPTY_PATH, StatxFlags::DIOALIGN).unwrap();
    stat.stx_mask & StatxFlags::DIOALIGN.bits() != 0 && (1..=512).contains(&stat.stx_dio_offset_align)
}

/// A server whose log went through the page cache would write 4 KiB for each, and one whose every write had the file's times in the
/// journal 12 KiB.
#[test]
fn a_small_put_costs_the_device_a_sector() {
    const PUTS: u64 = 200;
    let Some(volume) = Volume::mount(64 << 20) else { return };
    if !has_direct_writes(volume.path()) {
        return eprintln!(
            "\nSKIPPED: this kernel does not say whether ext4 has direct writes of sectors (statx, since Linux 6.1)\n"
        );
    }
    let server = Server::builder().data_dir(volume.path().join("data")).start();
    let client = server.client();
    client.call(&put("first", ""));
    let before = volume.settle();
    for n in 0..PUTS {
        client.call(&put("key", format!("{n}")));
    }
    let wear = volume.wear(before);
    assert!(wear.flushes >= PUTS, "{wear:?}");
    assert!((PUTS * 512..PUTS * 512 + 4 * METADATA).contains(&wear.bytes), "{wear:?}");
}
