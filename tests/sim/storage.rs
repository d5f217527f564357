//! What a member has on its disk: the real WAL, and a checkpoint file in place of LMDB's.
//!
//! The checkpoint names its log, `wal-<n>`. A copy of the state that comes from another member brings an empty log: that is made first,
//! with the term and the vote in it, and the checkpoint that names it is put in place by a rename. So a crash finds the old state and log,
//! or the copy, and never a member that has forgotten its vote.

use std::io;
use std::path::{Path, PathBuf};

use bramble::error::Fault;
use bramble::host::sim::{SimDisk, host};
use bramble::host::{Disk, Host};
use bramble::raft::{Entry, HardState, LogId, Snapshot, Unsynced};
use bramble::wal::{AppendError, Identity, Options, Wal};

use super::machine::Checkpoint;

const CLUSTER: u64 = 1;
const OPTIONS: Options =
    Options { segment_bytes: 8 << 10, max_spares: 2, buffer_bytes: 4 << 10, no_fsync: false, max_unsynced: 0 };

/// A disk, between the lives of its member.
pub struct Storage {
    member: u64,
    host: Host,
    pub disk: SimDisk,
}

/// What a start found.
pub struct Found {
    pub checkpoint: Checkpoint,
    pub wal: Wal,
    pub hard_state: HardState,
    pub last: LogId,
    pub entries: Vec<Entry>,
}

/// Why something was not written.
pub enum Unwritten {
    /// Nothing has changed; it may be tried again.
    Full,
    /// The process ends.
    Fault(String),
}

impl From<AppendError> for Unwritten {
    fn from(error: AppendError) -> Unwritten {
        match error {
            AppendError::Full => Unwritten::Full,
            AppendError::Fault(fault) => Unwritten::Fault(fault.to_string()),
        }
    }
}

impl From<Fault> for Unwritten {
    fn from(fault: Fault) -> Unwritten {
        Unwritten::Fault(fault.to_string())
    }
}

impl From<io::Error> for Unwritten {
    fn from(error: io::Error) -> Unwritten {
        match error.kind() {
            io::ErrorKind::StorageFull => Unwritten::Full,
            _ => Unwritten::Fault(error.to_string()),
        }
    }
}

impl Storage {
    pub fn new(member: u64, seed: u64) -> Storage {
        let (host, disk) = host(seed);
        Storage { member, host, disk }
    }

    /// Opens what is there, or begins with `first`.
    pub fn start(&self, first: &Checkpoint) -> Result<Found, Unwritten> {
        self.disk.create_dir(Path::new("/m"))?;
        let checkpoint = match self.read(Path::new("/m/checkpoint")) {
            Ok(bytes) => Checkpoint::decode(&bytes).ok_or_else(|| Unwritten::Fault("the checkpoint is damaged".into()))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.disk.sync_dir(Path::new("/"))?;
                self.put(first)?;
                first.clone()
            }
            Err(error) => return Err(error.into()),
        };
        let dir = log_dir(checkpoint.log);
        let mut hard_state = HardState { term: checkpoint.applied.term, vote: None, commit: checkpoint.applied.index };
        if !Wal::exists(&self.host, &dir)? {
            // Only the first log is made after its checkpoint.
            if checkpoint != *first {
                return Err(Unwritten::Fault("the log is gone".into()));
            }
            let wal = self.begin_log(checkpoint.log, checkpoint.applied)?;
            return Ok(Found { last: checkpoint.applied, checkpoint, wal, hard_state, entries: Vec::new() });
        }
        let (wal, recovered) = Wal::open(&self.host, &dir, Some(self.identity()), checkpoint.applied.index, OPTIONS)?;
        hard_state.term = hard_state.term.max(recovered.hard_state.term);
        if hard_state.term == recovered.hard_state.term {
            hard_state.vote = recovered.hard_state.vote;
        }
        hard_state.commit = hard_state.commit.max(recovered.hard_state.commit);
        if recovered.last.index < checkpoint.applied.index {
            return Err(Unwritten::Fault(format!("the log ends at {} below its checkpoint", recovered.last)));
        }
        Ok(Found { checkpoint, wal, hard_state, last: recovered.last, entries: recovered.entries })
    }

    /// Makes something durable, as the WAL's thread does.
    pub fn append(&self, wal: &mut Wal, unsynced: &Unsynced) -> Result<(), Unwritten> {
        wal.append(unsynced.hard_state, &unsynced.entries)?;
        while let Some(chore) = wal.next_chore() {
            wal.finish_chore(chore.run())?;
        }
        Ok(())
    }

    /// Puts a copy of the state in the place of state and log. Returns the log that begins behind it.
    pub fn install(
        &self,
        copy: &Checkpoint,
        Snapshot { last, .. }: &Snapshot,
        hard_state: HardState,
        old: u64,
    ) -> Result<Wal, Unwritten> {
        let dir = log_dir(copy.log);
        for name in self.disk.list(&dir).unwrap_or_default() {
            // An attempt before this one found the disk full.
            self.disk.remove(&dir.join(name))?;
        }
        let mut wal = self.begin_log(copy.log, *last)?;
        wal.append(Some(hard_state), &[])?;
        self.put(copy)?;
        let dir = log_dir(old);
        for name in self.disk.list(&dir).unwrap_or_default() {
            self.disk.remove(&dir.join(name))?;
        }
        Ok(wal)
    }

    /// Replaces the checkpoint, in one step.
    pub fn put(&self, checkpoint: &Checkpoint) -> Result<(), Unwritten> {
        let (new, place) = (Path::new("/m/new"), Path::new("/m/checkpoint"));
        if let Ok(names) = self.disk.list(Path::new("/m"))
            && names.iter().any(|name| name == "new")
        {
            // Else a rename that outlives this could give the place to what is removed here.
            self.disk.remove(new)?;
            self.disk.sync_dir(Path::new("/m"))?;
        }
        let file = self.disk.create(new)?;
        file.write_at(&checkpoint.encode(), 0)?;
        file.sync_data()?;
        self.disk.rename(new, place)?;
        self.disk.sync_dir(Path::new("/m"))?;
        Ok(())
    }

    fn begin_log(&self, number: u64, base: LogId) -> Result<Wal, Unwritten> {
        if self.disk.free_bytes(Path::new("/m"))? < 2 * OPTIONS.segment_bytes {
            return Err(Unwritten::Full);
        }
        let wal = Wal::create(&self.host, &log_dir(number), self.identity(), base, OPTIONS)?;
        self.disk.sync_dir(Path::new("/m"))?;
        Ok(wal)
    }

    /// Reads a file, and makes certain that it stays: a process that was killed may have left what only the page cache has, and a log
    /// that lets go of entries because of it cannot bring them back.
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        let file = self.disk.open(path)?;
        file.sync_data()?;
        self.disk.sync_dir(Path::new("/m"))?;
        let mut bytes = vec![0; usize::try_from(file.len()?).expect("a small file")];
        file.read_at(&mut bytes, 0)?;
        Ok(bytes)
    }

    fn identity(&self) -> Identity {
        Identity { cluster_id: CLUSTER, member_id: self.member }
    }

    /// Bytes in all files.
    pub fn used(&self) -> u64 {
        self.disk.set_capacity(Some(1 << 40));
        let free = self.disk.free_bytes(Path::new("/m")).unwrap_or(0);
        self.disk.set_capacity(None);
        (1 << 40) - free
    }
}

fn log_dir(number: u64) -> PathBuf {
    PathBuf::from(format!("/m/wal-{number}"))
}
