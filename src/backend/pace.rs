//! Much that is written beside little that others wait for.
//!
//! What a file takes goes to the kernel's memory first and to the disk all at once, when the kernel has too much of it or somebody syncs:
//! a sync of the log that comes then waits for hundreds of megabytes. So this writes piece by piece, each on the disk before the next.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::thread;
use std::time::Instant;

/// What a sync of the log may have to wait for: 13 ms on a card that takes 20 MB/s.
const PIECE: usize = 256 << 10;

/// Writes all that `from` gives to an empty file. After each piece it rests for as long as that took, while `others_write`. The file
/// still has to be synced, which is little work then.
///
/// # Errors
/// Those of reading and writing.
pub(super) fn write(mut from: impl Read, to: &mut File, others_write: &dyn Fn() -> bool) -> io::Result<()> {
    let mut piece = Vec::with_capacity(PIECE);
    let mut at = 0;
    loop {
        piece.clear();
        from.by_ref().take(PIECE as u64).read_to_end(&mut piece)?;
        if piece.is_empty() {
            return Ok(());
        }
        let begun = Instant::now();
        to.write_all(&piece)?;
        write_back(to, at, piece.len())?;
        at += piece.len();
        if others_write() {
            thread::sleep(begun.elapsed());
        }
    }
}

/// What is given back at a time of a file that nobody needs any more. It costs the file system notes in its journal and a card the
/// erasing of what was there.
const FREED: u64 = 16 << 20;

/// Gives back a file's blocks from its end to its beginning, and rests in between like [`write()`]. For a file without a name.
///
/// # Errors
/// Those of cutting it short.
pub(super) fn give_back(file: &File, others_write: &dyn Fn() -> bool) -> io::Result<()> {
    let mut len = file.metadata()?.len();
    while len > 0 {
        len = len.saturating_sub(FREED);
        let begun = Instant::now();
        file.set_len(len)?;
        if others_write() {
            thread::sleep(begun.elapsed());
        }
    }
    Ok(())
}

/// Has these bytes of the file written to the disk, which is not told to keep them yet.
fn write_back(file: &File, at: usize, len: usize) -> io::Result<()> {
    let all = libc::SYNC_FILE_RANGE_WAIT_BEFORE | libc::SYNC_FILE_RANGE_WRITE | libc::SYNC_FILE_RANGE_WAIT_AFTER;
    // SAFETY: the call takes numbers only, and the file is open as long as it is borrowed.
    match unsafe { libc::sync_file_range(file.as_raw_fd(), at as i64, len as i64, all) } {
        0 => Ok(()),
        _ => match io::Error::last_os_error() {
            // A file system that cannot: the sync at the end does it all.
            error if matches!(error.raw_os_error(), Some(libc::ENOSYS | libc::EINVAL | libc::ESPIPE)) => Ok(()),
            error => Err(error),
        },
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn a_file_is_given_back_whole() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(2 * FREED + 1).unwrap();
        give_back(&file, &|| true).unwrap();
        assert_eq!(file.metadata().unwrap().len(), 0);
    }

    #[test]
    fn all_that_is_read_is_written_whatever_the_pieces() {
        for len in [0, 1, PIECE - 1, PIECE, 3 * PIECE + 7] {
            let bytes: Vec<u8> = (0..len).map(|n| (n % 251) as u8).collect();
            let mut file = tempfile::NamedTempFile::new().unwrap();
            let asked = Cell::new(0);
            let others_write = || {
                asked.set(asked.get() + 1);
                true
            };
            write(&bytes[..], file.as_file_mut(), &others_write).unwrap();
            assert!(std::fs::read(file.path()).unwrap() == bytes, "{len} bytes");
            assert_eq!(asked.get(), len.div_ceil(PIECE), "one rest a piece");
        }
    }
}
