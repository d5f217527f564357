//! A host in memory, for tests: a disk that loses, reorders and tears what was not synced, fails its syncs, fills up and stalls;
//! a clock that is set by hand; and random numbers from a seed. One seed replays one run.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

use super::{Clock, Disk, File, Host, Random, SECTOR, suits_direct};

/// Random numbers from a seed (SplitMix64).
pub struct SimRandom(Mutex<u64>);

impl SimRandom {
    /// The same seed gives the same numbers.
    pub fn new(seed: u64) -> SimRandom {
        SimRandom(Mutex::new(seed))
    }

    /// A number below `bound`, which must not be 0.
    pub fn below(&self, bound: u64) -> u64 {
        self.next_u64() % bound
    }
}

impl Random for SimRandom {
    fn next_u64(&self) -> u64 {
        let mut state = lock(&self.0);
        *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = *state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

/// Time that moves when told to.
#[derive(Default)]
pub struct SimClock(Mutex<Duration>);

impl SimClock {
    /// Moves both clocks forward.
    pub fn advance(&self, by: Duration) {
        *lock(&self.0) += by;
    }
}

impl Clock for SimClock {
    fn now(&self) -> Duration {
        *lock(&self.0)
    }

    fn unix_time(&self) -> Duration {
        *lock(&self.0)
    }
}

/// A host of simulated parts; the disk is there twice, so that the test keeps its hand on it.
pub fn host(seed: u64) -> (Host, SimDisk) {
    let disk = SimDisk::new(seed);
    let random = Arc::new(SimRandom::new(seed ^ 0x5eed));
    (Host { disk: Arc::new(disk.clone()), clock: Arc::new(SimClock::default()), random }, disk)
}

/// What the disk was asked to do so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Writes to files.
    pub writes: u64,
    /// Bytes of those.
    pub bytes: u64,
    /// Syncs of files.
    pub syncs: u64,
    /// Syncs of directories.
    pub dir_syncs: u64,
    /// Files created.
    pub creates: u64,
    /// All that changes something: what [`SimDisk::crash_after`] counts.
    pub changes: u64,
}

/// A disk in memory. Clones are handles on the same one.
///
/// Reads see every write at once, as through a page cache; [`SimDisk::power_cut`] shows what of it was durable.
#[derive(Clone)]
pub struct SimDisk(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    /// Someone waits in a held sync, or may go on.
    syncing: Condvar,
}

#[derive(Clone)]
struct State {
    seed: u64,
    files: Vec<Content>,
    live: Tree,
    durable: Tree,
    /// Changes of the tree that no directory sync has covered, in order.
    pending: Vec<Change>,
    counts: Counts,
    capacity: Option<u64>,
    refuses_writes: bool,
    /// Writes may go past the page cache.
    direct: bool,
    changes_left: Option<u64>,
    /// Changes until one fails.
    sound_left: Option<u64>,
    /// Changes until the disk is full, and writes that are refused then.
    room_left: Option<(u64, u64)>,
    syncs_left: Option<u64>,
    crashed: bool,
    /// Open files of an earlier life answer with an error.
    life: u64,
    holding: bool,
    held: u64,
}

#[derive(Clone, Default)]
struct Tree {
    dirs: BTreeSet<PathBuf>,
    files: BTreeMap<PathBuf, usize>,
}

#[derive(Clone)]
enum Change {
    MakeDir(PathBuf),
    Create(PathBuf, usize),
    Rename(PathBuf, PathBuf),
    Remove(PathBuf),
}

#[derive(Clone, Default)]
struct Content {
    live: Vec<u8>,
    durable: Vec<u8>,
    /// Not yet synced, in order.
    dirty: Vec<Dirty>,
}

#[derive(Clone)]
enum Dirty {
    Write(usize, Vec<u8>),
    SetLen(usize),
}

impl Tree {
    fn apply(&mut self, change: &Change) {
        match change {
            Change::MakeDir(path) => {
                self.dirs.insert(path.clone());
            }
            Change::Create(path, file) => {
                self.files.insert(path.clone(), *file);
            }
            Change::Rename(from, to) => {
                if let Some(file) = self.files.remove(from) {
                    self.files.insert(to.clone(), file);
                }
            }
            Change::Remove(path) => {
                self.files.remove(path);
            }
        }
    }

    fn file(&self, path: &Path) -> io::Result<usize> {
        self.files.get(path).copied().ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

impl Change {
    /// Syncing this directory makes the change durable.
    fn dir(&self) -> Option<&Path> {
        match self {
            Change::MakeDir(path) | Change::Create(path, _) | Change::Rename(path, _) | Change::Remove(path) => path.parent(),
        }
    }
}

fn put(bytes: &mut Vec<u8>, at: usize, data: &[u8]) {
    if bytes.len() < at + data.len() {
        bytes.resize(at + data.len(), 0);
    }
    bytes[at..at + data.len()].copy_from_slice(data);
}

impl Dirty {
    fn apply(self, bytes: &mut Vec<u8>) {
        match self {
            Dirty::Write(at, data) => put(bytes, at, &data),
            Dirty::SetLen(len) => bytes.resize(len, 0),
        }
    }
}

impl Content {
    /// All that was written is durable.
    fn sync(&mut self) {
        std::mem::take(&mut self.dirty).into_iter().for_each(|dirty| dirty.apply(&mut self.durable));
    }

    /// What was written last is durable. What was written before and not synced is as it was.
    fn sync_last(&mut self) {
        if let Some(last) = self.dirty.pop() {
            last.apply(&mut self.durable);
        }
    }

    /// Whether any of these bytes is written and not synced.
    fn is_dirty(&self, offset: u64, len: usize) -> bool {
        let overlaps = |dirty: &Dirty| match dirty {
            Dirty::Write(at, data) => (*at as u64) < offset + len as u64 && offset < (at + data.len()) as u64,
            Dirty::SetLen(_) => false,
        };
        self.dirty.iter().any(overlaps)
    }

    /// A failed sync. The pages are called clean now: readers still see them, the disk never may.
    fn fail_sync(&mut self, random: &SimRandom) {
        let live = self.live.clone();
        self.lose(random);
        self.live = live;
    }

    /// What a power cut leaves: each sector of each unsynced write made it, or did not, or in part.
    fn lose(&mut self, random: &SimRandom) {
        let keep_all = random.below(4) == 0;
        let lose_all = !keep_all && random.below(3) == 0;
        for dirty in std::mem::take(&mut self.dirty) {
            match dirty {
                Dirty::SetLen(len) if keep_all || (!lose_all && random.below(2) == 0) => self.durable.resize(len, 0),
                Dirty::SetLen(_) => {}
                Dirty::Write(at, data) => {
                    let mut from = 0;
                    while from < data.len() {
                        let to = data.len().min((at + from + 1).next_multiple_of(SECTOR) - at);
                        match random.below(8) {
                            _ if keep_all => put(&mut self.durable, at + from, &data[from..to]),
                            _ if lose_all => {}
                            0..4 => put(&mut self.durable, at + from, &data[from..to]),
                            4 => {
                                let torn = from + usize::try_from(random.below((to - from) as u64)).unwrap_or(0);
                                put(&mut self.durable, at + from, &data[from..torn]);
                            }
                            _ => {}
                        }
                        from = to;
                    }
                }
            }
        }
        self.live = self.durable.clone();
    }
}

impl State {
    /// Called before each change. An error means that the machine is down; `Ok(true)` that it goes down with this change.
    fn change(&mut self) -> io::Result<bool> {
        self.alive()?;
        self.counts.changes += 1;
        if let Some(left) = &mut self.sound_left {
            if *left == 0 {
                self.sound_left = None;
                return Err(io::Error::other("a sector cannot be written"));
            }
            *left -= 1;
        }
        if let Some((left, _)) = &mut self.room_left {
            *left = left.saturating_sub(1);
        }
        if let Some(left) = &mut self.changes_left {
            self.crashed = *left == 0;
            *left = left.saturating_sub(1);
        }
        Ok(self.crashed)
    }

    fn alive(&self) -> io::Result<()> {
        if self.crashed { Err(io::Error::other("the machine is down")) } else { Ok(()) }
    }

    fn random(&mut self) -> SimRandom {
        self.seed = self.seed.wrapping_add(1);
        SimRandom::new(self.seed)
    }

    fn used(&self) -> u64 {
        self.live.files.values().map(|&file| self.files[file].live.len() as u64).sum()
    }

    /// Makes one change of the tree.
    fn change_tree(&mut self, change: Change) -> io::Result<()> {
        let crashed = self.change()?;
        self.live.apply(&change);
        self.pending.push(change);
        if crashed { self.alive() } else { Ok(()) }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("another test thread panicked")
}

impl SimDisk {
    /// An empty disk without limit. The seed decides what a power cut leaves; with an odd one the file system takes direct writes.
    pub fn new(seed: u64) -> SimDisk {
        let mut tree = Tree::default();
        tree.dirs.insert(PathBuf::from("/"));
        let state = State {
            seed,
            files: Vec::new(),
            live: tree.clone(),
            durable: tree,
            pending: Vec::new(),
            counts: Counts::default(),
            capacity: None,
            refuses_writes: false,
            direct: seed % 2 == 1,
            changes_left: None,
            sound_left: None,
            room_left: None,
            syncs_left: None,
            crashed: false,
            life: 0,
            holding: false,
            held: 0,
        };
        SimDisk(Arc::new(Shared { state: Mutex::new(state), syncing: Condvar::new() }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.0.state)
    }

    /// A copy that goes its own way.
    pub fn fork(&self) -> SimDisk {
        SimDisk(Arc::new(Shared { state: Mutex::new(self.state().clone()), syncing: Condvar::new() }))
    }

    /// What was done so far.
    pub fn counts(&self) -> Counts {
        self.state().counts
    }

    /// The disk holds at most this many bytes of files from now on; `None` lifts the limit.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.state().capacity = bytes;
    }

    /// Whether the file system takes direct writes.
    pub fn set_direct(&self, direct: bool) {
        self.state().direct = direct;
    }

    /// While set, every write finds the disk full, as on a copy-on-write file system without a free block.
    pub fn set_refuses_writes(&self, refuses: bool) {
        self.state().refuses_writes = refuses;
    }

    /// The change that comes after `changes` more fails and is not done. Later ones are.
    pub fn fail_change_after(&self, changes: u64) {
        self.state().sound_left = Some(changes);
    }

    /// After `changes` more, the disk finds no room for so many writes.
    pub fn fill_up_after(&self, changes: u64, writes: u64) {
        self.state().room_left = Some((changes + 1, writes));
    }

    /// The machine goes down with the change that comes after `changes` more: that one may be done, in part or not at all.
    pub fn crash_after(&self, changes: u64) {
        self.state().changes_left = Some(changes);
    }

    /// True if the machine is down.
    pub fn has_crashed(&self) -> bool {
        self.state().crashed
    }

    /// The sync (of a file or directory) that comes after `syncs` more fails, and with it all later ones.
    pub fn fail_syncs_after(&self, syncs: u64) {
        self.state().syncs_left = Some(syncs);
    }

    /// Power off and on: what was not synced is lost, reordered or torn. Open files are dead, faults are lifted.
    pub fn power_cut(&self) {
        let mut state = self.state();
        let random = state.random();
        let in_order = random.below(2) == 0;
        let kept = random.below(state.pending.len() as u64 + 1);
        for (at, change) in std::mem::take(&mut state.pending).iter().enumerate() {
            let survives = if in_order { (at as u64) < kept } else { random.below(2) == 0 };
            if survives {
                state.durable.apply(change);
            }
        }
        state.files.iter_mut().for_each(|file| file.lose(&random));
        let Tree { dirs, files } = &mut state.durable;
        files.retain(|path, _| path.parent().is_some_and(|dir| dirs.contains(dir)));
        state.live = state.durable.clone();
        state.restart();
    }

    /// The process dies and starts again; the machine stays up. Open files are dead, faults are lifted, unsynced writes are still
    /// seen and still not durable.
    pub fn kill(&self) {
        self.state().restart();
    }

    /// From now on syncs of files wait for [`SimDisk::let_go`].
    pub fn hold_syncs(&self) {
        self.state().holding = true;
    }

    /// Returns once a sync waits.
    pub fn await_held_sync(&self) {
        let state = self.state();
        drop(self.0.syncing.wait_while(state, |state| state.held == 0).expect("another test thread panicked"));
    }

    /// Held syncs go on.
    pub fn let_go(&self) {
        self.state().holding = false;
        self.0.syncing.notify_all();
    }

    /// A file's bytes as a reader sees them.
    pub fn bytes(&self, path: &Path) -> Vec<u8> {
        let state = self.state();
        let file = state.live.file(path).expect("the test names a file that is there");
        state.files[file].live.clone()
    }

    /// Replaces a file's bytes, durably, behind everyone's back. Creates it if it is not there.
    pub fn set_bytes(&self, path: &Path, bytes: Vec<u8>) {
        let mut state = self.state();
        let content = Content { durable: bytes.clone(), live: bytes, dirty: Vec::new() };
        if let Ok(file) = state.live.file(path) {
            state.files[file] = content;
            return;
        }
        let file = state.files.len();
        state.files.push(content);
        state.live.files.insert(path.to_path_buf(), file);
        state.durable.files.insert(path.to_path_buf(), file);
    }

    /// Changes one bit of a file, durably, behind everyone's back.
    pub fn flip(&self, path: &Path, bit: usize) {
        let mut state = self.state();
        let file = state.live.file(path).expect("the test names a file that is there");
        let content = &mut state.files[file];
        for bytes in [&mut content.live, &mut content.durable] {
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
    }
}

impl State {
    fn restart(&mut self) {
        self.life += 1;
        self.crashed = false;
        self.changes_left = None;
        self.sound_left = None;
        self.room_left = None;
        self.syncs_left = None;
    }

    /// Counts a write to the full disk. False if it has room.
    fn has_filled_up(&mut self) -> bool {
        match &mut self.room_left {
            Some((0, refusals @ 1..)) => {
                *refusals -= 1;
                true
            }
            _ => false,
        }
    }

    /// Counts a sync. False if it fails.
    fn sync_works(&mut self) -> bool {
        match &mut self.syncs_left {
            Some(0) => false,
            Some(left) => {
                *left -= 1;
                true
            }
            None => true,
        }
    }
}

impl Disk for SimDisk {
    fn open(&self, path: &Path) -> io::Result<Box<dyn File>> {
        let state = self.state();
        state.alive()?;
        let file = state.live.file(path)?;
        Ok(Box::new(SimFile { disk: self.clone(), file, life: state.life }))
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn File>> {
        let mut state = self.state();
        state.alive()?;
        if state.live.files.contains_key(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        if !path.parent().is_some_and(|dir| state.live.dirs.contains(dir)) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let file = state.files.len();
        state.files.push(Content::default());
        state.counts.creates += 1;
        state.change_tree(Change::Create(path.to_path_buf(), file))?;
        Ok(Box::new(SimFile { disk: self.clone(), file, life: state.life }))
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state();
        let missing: Vec<_> = path.ancestors().filter(|dir| !state.live.dirs.contains(*dir)).map(PathBuf::from).collect();
        missing.into_iter().rev().try_for_each(|dir| state.change_tree(Change::MakeDir(dir)))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let state = self.state();
        state.alive()?;
        if !state.live.dirs.contains(dir) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let entries = state.live.files.keys().chain(&state.live.dirs).filter(|path| path.parent() == Some(dir));
        let mut names: Vec<String> = entries.filter_map(|path| Some(path.file_name()?.to_string_lossy().into_owned())).collect();
        names.sort();
        Ok(names)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.live.file(from)?;
        state.change_tree(Change::Rename(from.to_path_buf(), to.to_path_buf()))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.live.file(path)?;
        state.change_tree(Change::Remove(path.to_path_buf()))
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.counts.dir_syncs += 1;
        if state.change()? {
            return state.alive();
        }
        if !state.sync_works() {
            return Err(io::Error::other("the sync failed"));
        }
        let (now, later) = std::mem::take(&mut state.pending).into_iter().partition(|change| change.dir() == Some(dir));
        state.pending = later;
        let now: Vec<Change> = now;
        now.iter().for_each(|change| state.durable.apply(change));
        Ok(())
    }

    fn free_bytes(&self, _: &Path) -> io::Result<u64> {
        let state = self.state();
        state.alive()?;
        Ok(state.capacity.map_or(u64::MAX, |capacity| capacity.saturating_sub(state.used())))
    }
}

struct SimFile {
    disk: SimDisk,
    file: usize,
    life: u64,
}

impl SimFile {
    fn state(&self) -> io::Result<MutexGuard<'_, State>> {
        let state = self.disk.state();
        if state.life == self.life { Ok(state) } else { Err(io::Error::other("this file was opened before the crash")) }
    }

    /// Waits while syncs are held.
    fn hold<'a>(&'a self, mut state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        if state.holding {
            state.held += 1;
            self.disk.0.syncing.notify_all();
            state = self.disk.0.syncing.wait_while(state, |state| state.holding).expect("another test thread panicked");
            state.held -= 1;
        }
        state
    }

    /// Writes to the page cache. True: and the machine goes down.
    fn write(&self, state: &mut State, buf: &[u8], offset: u64) -> io::Result<bool> {
        let crashed = state.change()?;
        state.counts.writes += 1;
        state.counts.bytes += buf.len() as u64;
        let at = usize::try_from(offset).map_err(io::Error::other)?;
        let growth = (at + buf.len()).saturating_sub(state.files[self.file].live.len());
        let full = state.capacity.is_some_and(|capacity| state.used() + growth as u64 > capacity);
        if state.has_filled_up() || state.refuses_writes || (full && growth > 0) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let content = &mut state.files[self.file];
        put(&mut content.live, at, buf);
        content.dirty.push(Dirty::Write(at, buf.to_vec()));
        Ok(crashed)
    }

    fn sync(&self, state: &mut State, what: impl FnOnce(&mut Content)) -> io::Result<()> {
        let works = state.sync_works();
        let random = state.random();
        let content = &mut state.files[self.file];
        if works {
            what(content);
            Ok(())
        } else {
            content.fail_sync(&random);
            Err(io::Error::other("the sync failed"))
        }
    }
}

impl File for SimFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let state = self.state()?;
        state.alive()?;
        let at = usize::try_from(offset).map_err(io::Error::other)?;
        let bytes = state.files[self.file].live.get(at..at + buf.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        buf.copy_from_slice(bytes);
        Ok(())
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        let mut state = self.state()?;
        if self.write(&mut state, buf, offset)? { state.alive() } else { Ok(()) }
    }

    fn write_through_at(&self, buf: &[u8], offset: u64) -> io::Result<bool> {
        let state = self.state()?;
        if !(state.direct && suits_direct(buf, offset)) {
            drop(state);
            return self.write_at(buf, offset).map(|()| false);
        }
        let mut state = self.hold(state);
        state.counts.syncs += 1;
        assert!(!state.files[self.file].is_dirty(offset, buf.len()), "a direct write goes only to what is durable");
        if self.write(&mut state, buf, offset)? {
            return state.alive().map(|()| true);
        }
        self.sync(&mut state, Content::sync_last).map(|()| true)
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut state = self.hold(self.state()?);
        state.counts.syncs += 1;
        if state.change()? {
            return state.alive();
        }
        self.sync(&mut state, Content::sync)
    }

    fn len(&self) -> io::Result<u64> {
        let state = self.state()?;
        state.alive()?;
        Ok(state.files[self.file].live.len() as u64)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut state = self.state()?;
        let crashed = state.change()?;
        let len = usize::try_from(len).map_err(io::Error::other)?;
        let content = &mut state.files[self.file];
        content.live.resize(len, 0);
        content.dirty.push(Dirty::SetLen(len));
        if crashed { state.alive() } else { Ok(()) }
    }
}
