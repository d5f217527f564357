//! A data directory with damage in it: the process says what is wrong, where and what to do, ends with code 1, and dies of no
//! signal. Put right again, the directory starts with all that it had.

use std::fs;
use std::path::{Path, PathBuf};

use bramble::pb::etcdserverpb::DefragmentRequest;

use super::refusal;
use crate::support::Server;
use crate::support::requests::{key, put};
use crate::support::server::free_port;

/// What LMDB's file is to be replaced by, or the WAL's segment.
const REMEDIES: [&str; 2] = ["Put back a copy of the data directory", "Restore its data directory from a backup"];

/// A directory with a checkpoint and a WAL above it, of a process that was killed.
struct Sample(tempfile::TempDir);

impl Sample {
    fn new() -> Sample {
        let dir = tempfile::tempdir().unwrap();
        let mut server = Server::builder().data_dir(dir.path().join("data")).start();
        let client = server.client();
        for n in 0..200 {
            client.call(&put(format!("key{n}"), "v".repeat(700)));
            if n == 150 {
                client.call(&DefragmentRequest {});
            }
        }
        drop(client);
        server.kill();
        Sample(dir)
    }

    fn data(&self) -> PathBuf {
        self.0.path().join("data")
    }

    fn db(&self) -> PathBuf {
        self.data().join("member/snap/db")
    }

    fn segment(&self) -> PathBuf {
        self.data().join("member/wal/0000000000000001.wal")
    }

    /// The last line of a start that ends with code 1, an error.
    #[track_caller]
    fn refused(&self) -> String {
        let url = format!("http://127.0.0.1:{}", free_port());
        let args = [
            format!("--data-dir={}", self.data().display()),
            format!("--listen-client-urls={url}"),
            format!("--advertise-client-urls={url}"),
        ];
        let (code, log) = refusal(self.0.path(), &args);
        assert_eq!(code, Some(1), "{log:#?}");
        let last = log.last().expect("it says why").clone();
        assert!(last.contains(" ERROR "), "{log:#?}");
        last
    }

    /// Refused while `file` is changed so; the message names it and says all this.
    #[track_caller]
    fn refused_with(&self, file: &Path, change: impl FnOnce(&mut Vec<u8>), says: &[&str]) {
        let before = fs::read(file).unwrap();
        let mut bytes = before.clone();
        change(&mut bytes);
        fs::write(file, &bytes).unwrap();
        let message = self.refused();
        assert!(message.contains(&file.display().to_string()), "{message}");
        assert!(REMEDIES.iter().any(|remedy| message.contains(remedy)), "{message}");
        says.iter().for_each(|part| assert!(message.contains(part), "no {part:?}: {message}"));
        assert!(fs::read(file).unwrap() == bytes, "a refused start has changed {}", file.display());
        fs::write(file, before).unwrap();
    }

    /// Refused while something else stands at `path`.
    #[track_caller]
    fn refused_instead(&self, path: &Path, put: impl FnOnce(&Path), take: impl FnOnce(&Path)) {
        let aside = self.0.path().join("aside");
        fs::rename(path, &aside).unwrap();
        put(path);
        let message = self.refused();
        assert!(message.contains(&path.display().to_string()), "{message}");
        take(path);
        fs::rename(&aside, path).unwrap();
    }

    #[track_caller]
    fn starts_with_all(&self) {
        let server = Server::builder().data_dir(self.data()).start();
        for n in 0..200 {
            assert_eq!(server.client().call(&key(format!("key{n}"))).kvs.len(), 1, "key{n}");
        }
    }
}

#[test]
fn a_damaged_checkpoint_is_refused_by_name() {
    let sample = Sample::new();
    let db = sample.db();
    let page = |bytes: &[u8]| u16::from_ne_bytes(bytes[2 * size_of::<usize>() + 24..][..2].try_into().unwrap()) as usize;
    // The newest root stands in one of the two first pages.
    let root = |bytes: &[u8], meta: usize| {
        let at = meta * page(bytes) + 13 * size_of::<usize>() + 24;
        usize::from_ne_bytes(bytes[at..][..size_of::<usize>()].try_into().unwrap()) * page(bytes)
    };
    let damaged = ["is damaged at byte"];
    sample.refused_with(
        &db,
        |bytes| {
            let at = root(bytes, 1);
            bytes[at..at + 64].fill(0)
        },
        &damaged,
    );
    sample.refused_with(
        &db,
        |bytes| {
            let at = root(bytes, 1);
            bytes[at + 17] ^= 0x10
        },
        &damaged,
    );
    sample.refused_with(&db, |bytes| bytes[..4096].fill(0), &damaged);
    sample.refused_with(&db, |bytes| bytes.truncate(bytes.len() / 2 + 100), &damaged);
    sample.refused_with(&db, |bytes| *bytes = b"some text where a database should be".to_vec(), &damaged);
    sample.starts_with_all();
}

#[test]
fn a_damaged_wal_is_refused_by_name_and_a_torn_end_is_not() {
    let sample = Sample::new();
    let segment = sample.segment();
    let damaged = ["is damaged at byte"];
    sample.refused_with(&segment, |bytes| bytes[100] ^= 1, &damaged);
    sample.refused_with(&segment, |bytes| bytes[2 * 512 + 30] ^= 1, &["is damaged at byte", "one follows at byte"]);
    sample.refused_with(&segment, |bytes| bytes.truncate(5000), &damaged);
    sample.refused_with(&segment, Vec::clear, &damaged);
    let aside = sample.0.path().join("aside");
    fs::rename(&segment, &aside).unwrap();
    assert!(sample.refused().contains("holds no WAL"));
    fs::rename(&aside, &segment).unwrap();
    // Half a frame behind the last one.
    let mut bytes = fs::read(&segment).unwrap();
    let end = bytes.iter().rposition(|byte| *byte != 0).unwrap().next_multiple_of(512);
    let frame = bytes[512..600].to_vec();
    bytes[end..end + 88].copy_from_slice(&frame);
    fs::write(&segment, bytes).unwrap();
    sample.starts_with_all();
}

#[test]
fn what_is_no_file_where_one_should_be_is_refused_by_name() {
    let sample = Sample::new();
    let directory = |path: &Path| fs::create_dir(path).unwrap();
    let no_directory = |path: &Path| fs::remove_dir_all(path).unwrap();
    let file = |path: &Path| fs::write(path, "x").unwrap();
    let no_file = |path: &Path| fs::remove_file(path).unwrap();
    sample.refused_instead(&sample.db(), directory, no_directory);
    sample.refused_instead(&sample.segment(), directory, no_directory);
    sample.refused_instead(&sample.data().join("member/wal"), file, no_file);
    sample.refused_instead(&sample.data().join("member/snap"), file, no_file);
    sample.refused_instead(&sample.data().join("member/lock"), directory, no_directory);
    sample.starts_with_all();
}
