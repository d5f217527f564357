//! A file with damage anywhere in it: right answers, or a fault with a message; never a signal, never a wrong answer.
//!
//! LMDB is C and may die, so the work is done in a child process that says which case it is at. `DAMAGE_SEED` replays a choice of
//! cases, `DAMAGE_CASES` says how many there are of each page.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use super::{Backend, Options, Table, WriteError};
use crate::error::Fault;

const OPTIONS: Options = Options { map_bytes: 64 << 20, no_fsync: true };
const CHILD: &str = "backend::tests::child";

type Rows = BTreeMap<Vec<u8>, Vec<u8>>;

/// Xorshift: small, and the same everywhere.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        ((self.0 >> 8) % bound as u64) as usize
    }
}

/// A file with three levels, overflow pages and free pages, and what it held after each of the commits whose pages are still in it.
struct Sample {
    file: Vec<u8>,
    /// The file some commits before, and just before the last.
    older: Vec<u8>,
    before: Vec<u8>,
    states: [Rows; 2],
    page: usize,
}

fn value(dice: &mut Dice) -> Vec<u8> {
    let len = match dice.below(12) {
        0 => 3000 + dice.below(10_000),
        1..5 => dice.below(200),
        _ => 1400 + dice.below(500),
    };
    let first = dice.below(256);
    (0..len).map(|at| (first + at * 7) as u8).collect()
}

fn sample() -> Sample {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("db");
    let backend = Backend::open(&path, OPTIONS).unwrap();
    let mut dice = Dice(0x5eed);
    let (mut rows, mut states, mut older, mut before) = (Rows::new(), [Rows::new(), Rows::new()], Vec::new(), Vec::new());
    for batch in 0..24_u64 {
        before = fs::read(&path).unwrap();
        states[0] = rows.clone();
        backend
            .write(|writer| {
                writer.put(Table::Meta, b"batch", &batch.to_be_bytes())?;
                for n in 0..30 {
                    let (key, value) = ((batch * 100 + n).to_be_bytes(), value(&mut dice));
                    writer.append(Table::Row, &key, &value)?;
                    rows.insert(key.to_vec(), value);
                }
                for _ in 0..9 {
                    let key = rows.keys().nth(dice.below(rows.len())).unwrap().clone();
                    rows.remove(&key);
                    writer.delete(Table::Row, &key)?;
                }
                Ok(())
            })
            .unwrap();
        if batch == 19 {
            older = fs::read(&path).unwrap();
        }
    }
    states[1] = rows;
    let page = usize::from(u16::from_ne_bytes(fs::read(&path).unwrap()[40..42].try_into().unwrap()));
    drop(backend);
    Sample { file: fs::read(&path).unwrap(), older, before, states, page }
}

/// Kinds of damage that a page sees, beside single bits.
const KINDS: usize = 7;

impl Sample {
    fn pages(&self) -> usize {
        self.file.len() / self.page
    }

    /// The file with case `case` of page `at`: first the kinds, then bits, those of the header and of node offsets more often.
    fn damaged(&self, at: usize, case: usize, dice: &mut Dice) -> (Vec<u8>, String) {
        let mut file = self.file.clone();
        let range = at * self.page..(at + 1) * self.page;
        let other = dice.below(self.pages());
        let what = match case {
            0 => {
                file[range].fill(0);
                "zeros".to_owned()
            }
            1 => {
                file[range].fill(0xff);
                "ones".to_owned()
            }
            2 => {
                file.copy_within(other * self.page..(other + 1) * self.page, range.start);
                format!("page {other} in its place")
            }
            3 => {
                file.truncate(range.start);
                "cut off before it".to_owned()
            }
            4 => {
                file.truncate(range.start + dice.below(self.page));
                "cut off within it".to_owned()
            }
            5 => {
                let Some(stale) = self.older.get(range.clone()) else { return (file, "as it was".to_owned()) };
                file[range].copy_from_slice(stale);
                "as some commits before".to_owned()
            }
            6 => {
                let from = range.start + dice.below(self.page);
                file[from..range.end].iter_mut().for_each(|byte| *byte = dice.below(256) as u8);
                format!("random from byte {from} on")
            }
            _ => {
                let byte = match dice.below(4) {
                    0 => dice.below(16),
                    1 => 16 + dice.below(2 * 20),
                    _ => dice.below(self.page),
                };
                let bit = dice.below(8);
                file[range.start + byte] ^= 1 << bit;
                format!("bit {bit} of its byte {byte}")
            }
        };
        (file, what)
    }
}

/// What the file holds, read in every way there is. Then a batch is written and the file rewritten, and it is read again.
fn use_file(path: &Path, states: &[Rows]) -> Result<(), Fault> {
    let backend = Backend::open(path, OPTIONS)?;
    let mut loaded = Rows::new();
    backend.load(Table::Row, |key, value| {
        loaded.insert(key.to_vec(), value.to_vec());
        Ok(())
    })?;
    assert!(states.contains(&loaded), "{} rows were loaded, and they are not those written", loaded.len());
    let mut reader = backend.reader()?;
    for (key, value) in &loaded {
        assert_eq!(reader.get(Table::Row, key)?, Some(&value[..]));
    }
    let mut scanned = Rows::new();
    reader.scan(Table::Row, b"", |key, value| {
        scanned.insert(key.to_vec(), value.to_vec());
        Ok(true)
    })?;
    assert_eq!(scanned, loaded);
    drop(reader);
    for n in 0..3_u64 {
        let (doomed, key) = (loaded.keys().nth(loaded.len() / 3).unwrap().clone(), (1_000_000 + n).to_be_bytes());
        let written = backend.write(|writer| {
            writer.delete(Table::Row, &doomed)?;
            writer.append(Table::Row, &key, &[7; 9000])
        });
        if let Err(WriteError::Fault(fault)) = written {
            return Err(fault);
        }
        loaded.remove(&doomed);
        loaded.insert(key.to_vec(), vec![7; 9000]);
    }
    if let Err(WriteError::Fault(fault)) = backend.defragment(&|| false) {
        return Err(fault);
    }
    drop(backend);
    let mut again = Rows::new();
    Backend::open(path, OPTIONS)?.load(Table::Row, |key, value| {
        again.insert(key.to_vec(), value.to_vec());
        Ok(())
    })?;
    assert_eq!(again, loaded, "after more batches");
    Ok(())
}

fn number(name: &str, default: usize) -> usize {
    std::env::var(name).map_or(default, |text| text.parse().expect(name))
}

/// Runs in a process of its own.
#[test]
#[ignore = "the other half of the tests of damage, which start it"]
fn child() {
    let Ok(note) = std::env::var("DAMAGE_NOTE") else { return };
    let (seed, cases) = (number("DAMAGE_SEED", 1), number("DAMAGE_CASES", 0));
    let sample = sample();
    // Thousands of files, each synced: in memory if there is a place.
    let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    let path = dir.path().join("db");
    let (mut refused, mut right) = (0, 0);
    for page in 0..sample.pages() {
        // Few cases are shared out among the pages.
        let shared =
            if cases == 0 { (0..2).map(|n| (page * 2 + n) % (KINDS + 2)).collect() } else { Vec::from_iter(0..KINDS + cases) };
        for case in shared {
            let mut dice = Dice(((seed * 1_000_003 + page) * 1009 + case + 1) as u64);
            let (file, what) = sample.damaged(page, case, &mut dice);
            fs::write(&note, format!("page {page}: {what}")).unwrap();
            if file.is_empty() {
                // A new one is made. Whether it may be empty is for the WAL to say.
                continue;
            }
            fs::write(&path, file).unwrap();
            match use_file(&path, &sample.states) {
                Ok(()) => right += 1,
                Err(fault) => {
                    let fault = fault.to_string();
                    assert!(fault.contains(path.to_str().unwrap()) && fault.contains("Put back a copy"), "{fault}");
                    assert!(fault.contains(" at byte ") || fault.contains("the row "), "no place is named: {fault}");
                    refused += 1;
                }
            }
        }
    }
    fs::write(&note, format!("{refused} refused, {right} right")).unwrap();
}

/// A power cut between a commit's first write and its meta page: of the pages that it wrote, any were, were in part or were not.
#[test]
fn a_commit_cut_short_anywhere_leaves_the_one_before_it() {
    let sample = sample();
    let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    let path = dir.path().join("db");
    for seed in 1..=40 {
        let mut dice = Dice(seed);
        let mut file = sample.before.clone();
        if dice.below(2) == 0 {
            file.resize(sample.file.len(), 0);
        }
        for at in 2..file.len() / sample.page {
            let (begin, end) = (at * sample.page, (at + 1) * sample.page);
            let (from, to) = match dice.below(5) {
                0 => (begin, begin),
                1 => (begin, begin + dice.below(sample.page / 512) * 512),
                2 => (begin + dice.below(sample.page / 512) * 512, end),
                _ => (begin, end),
            };
            file[from..to].copy_from_slice(&sample.file[from..to]);
        }
        fs::write(&path, file).unwrap();
        use_file(&path, &sample.states[..1]).unwrap_or_else(|fault| panic!("seed {seed}: {fault}"));
    }
}

/// Runs in a process of its own, and does what would have ended it by a signal.
#[test]
#[ignore = "the other half of the tests of the guard, which start it"]
fn faulting_child() {
    let Ok(fault) = std::env::var("GUARD_FAULT") else { return };
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("db");
    let backend = Backend::open(&path, OPTIONS).unwrap();
    backend.write(|writer| writer.put(Table::Row, b"key", b"value")).unwrap();
    backend.defragment(&|| false).unwrap();
    if fault == "map" {
        fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(2 * 4096).unwrap();
        println!("{:?}", backend.reader().unwrap().get(Table::Row, b"key"));
    } else {
        // SAFETY: nothing is mapped there, so the process ends here, as it is meant to.
        println!("{}", unsafe { std::ptr::read_volatile(std::ptr::without_provenance::<u8>(16)) });
    }
}

fn fault(kind: &str) -> std::process::Output {
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args(["backend::tests::faulting_child", "--exact", "--ignored", "--nocapture"]).env("GUARD_FAULT", kind);
    child.stdin(Stdio::null()).output().unwrap()
}

#[test]
fn a_page_that_cannot_be_read_while_serving_is_told_of_and_ends_the_process_as_any_fault() {
    let output = fault("map");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{}: {said}", output.status);
    assert!(said.contains("/db cannot be read any more") && said.contains("Put back a copy"), "{said}");
}

#[test]
fn a_fault_that_is_none_of_the_maps_ends_the_process_as_it_would_have() {
    let output = fault("other");
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&output.status), Some(libc::SIGSEGV), "{}", output.status);
}

fn damage(cases: usize) {
    let dir = tempfile::tempdir().unwrap();
    let note = dir.path().join("note");
    let child = Command::new(std::env::current_exe().unwrap())
        .args([CHILD, "--exact", "--ignored", "--nocapture"])
        .env("DAMAGE_NOTE", &note)
        .env("DAMAGE_CASES", number("DAMAGE_CASES", cases).to_string())
        .stderr(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let output = child.wait_with_output().unwrap();
    let note = fs::read_to_string(&note).unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "DAMAGE_SEED={}: {note}: {}\n{said}", number("DAMAGE_SEED", 1), output.status);
    println!("{note}");
}

#[test]
fn a_file_damaged_anywhere_is_refused_or_answers_right_and_kills_nobody() {
    damage(0);
}

#[test]
#[ignore = "minutes; make crash-disk"]
fn a_file_with_many_bits_flipped_in_each_page_is_refused_or_answers_right_and_kills_nobody() {
    damage(60);
}
