//! The log as a start finds it: begun, continued beside its checkpoint, or cut off by a power cut.

use super::boot::{Dirs, Tuning, first_members};
use super::checkpoint::Stored;
use super::command::Command;
use super::membership::{self, Member};
use super::relaxed::MAX_UNSYNCED;
use super::run::FIRST_TERM;
use crate::config::Config;
use crate::error::Fault;
use crate::host::Host;
use crate::raft::{Entry, EntryKind, HardState, Index, LogId, MemberId, Term};
use crate::wal::{self, Wal};

/// The log, open for appending.
pub(super) struct Log {
    pub wal: Wal,
    pub identity: wal::Identity,
    pub hard_state: HardState,
    /// Above the checkpoint.
    pub entries: Vec<Entry>,
}

/// Opens the log, or begins one beside a checkpoint that is empty.
///
/// # Errors
/// A fault if the two do not belong together, or the log is damaged.
pub(super) fn open_log(config: &Config, host: &Host, dirs: &Dirs, stored: &Stored, tuning: Tuning) -> Result<Log, Fault> {
    let options = wal::Options {
        segment_bytes: tuning.wal_segment_bytes,
        no_fsync: config.unsafe_no_fsync,
        max_unsynced: if config.relaxed.is_some() { MAX_UNSYNCED } else { 0 },
        ..wal::Options::default()
    };
    if !Wal::exists(host, &dirs.wal)? {
        if stored.identity.is_some() {
            return Err(Fault::new(format!(
                "{} holds no WAL, but the checkpoint in {} was written beside one: writes may be missing. Put the WAL back (is \
                 --wal-dir right?), or delete the data directory to start with an empty store",
                dirs.wal.display(),
                dirs.snap.display()
            )));
        }
        let (identity, _) = first_members(config)?;
        if !config.unsafe_no_fsync {
            dirs.make_names_durable(&*host.disk)?;
        }
        let wal = Wal::create(host, &dirs.wal, identity, LogId::default(), options)?;
        return bootstrap(config, wal, identity);
    }
    let (wal, recovered) = Wal::open(host, &dirs.wal, stored.identity, stored.applied.index, options)?;
    if let Some((path, at)) = &recovered.torn {
        let what = if recovered.may_have_lost > 0 { "it was never synced" } else { "it was never acknowledged" };
        log::warn!("cut an unfinished write off {} at byte {at}: {what}", path.display());
    }
    if recovered.last.index == Index(0) {
        // The first start was cut short before its first write.
        if !config.unsafe_no_fsync {
            dirs.make_names_durable(&*host.disk)?;
        }
        return bootstrap(config, wal, recovered.identity);
    }
    if recovered.last.index < stored.applied.index {
        return Err(Fault::new(format!(
            "the WAL in {} ends at {}, but the checkpoint in {} holds everything up to {}: they are not of one time. Put both \
             back from the same moment",
            dirs.wal.display(),
            recovered.last,
            dirs.snap.display(),
            stored.applied
        )));
    }
    let may_have_lost = recovered.may_have_lost;
    let mut log = Log { wal, identity: recovered.identity, hard_state: recovered.hard_state, entries: recovered.entries };
    if may_have_lost > 0 {
        log.skip_revisions(recovered.last, may_have_lost)?;
    }
    Ok(log)
}

impl Log {
    /// Entries of the relaxed class may be missing behind `last`, `count` at the most, and clients may have seen what they did. Their
    /// revisions are not given out again: the log says that it goes on so much higher, before it takes anything else, so that every
    /// start counts alike. A voter that is alone may do so: it is the leader of a term of its own, in which this is the only entry.
    fn skip_revisions(&mut self, last: LogId, count: u32) -> Result<(), Fault> {
        log::warn!(
            "the last run did not end in good order: writes of the relaxed class may be lost if the power failed; revisions go on {count} higher"
        );
        let id = LogId { term: Term(self.hard_state.term.0 + 1), index: Index(last.index.0 + 1) };
        let entry = Entry { id, kind: EntryKind::Normal, data: Command::SkipRevisions(count).encode(0) };
        let hard_state = HardState { term: id.term, vote: Some(MemberId(self.identity.member_id)), commit: id.index };
        match self.wal.append(Some(hard_state), std::slice::from_ref(&entry)) {
            Ok(_) => {}
            Err(wal::AppendError::Full) => {
                return Err(Fault::new("the disk is full: there is no room in the WAL to go on from where it was cut"));
            }
            Err(wal::AppendError::Fault(fault)) => return Err(fault),
        }
        self.hard_state = hard_state;
        self.entries.push(entry);
        Ok(())
    }
}

/// Writes the log's first entries: the members that `--initial-cluster` names.
fn bootstrap(config: &Config, mut wal: Wal, identity: wal::Identity) -> Result<Log, Fault> {
    let (named, members) = first_members(config)?;
    if named != identity {
        return Err(Fault::new(format!(
            "the WAL was begun for {identity}, and the flags now name {named}: delete the data directory, or put the flags back"
        )));
    }
    let entry = |(n, member): (usize, &Member)| Entry {
        id: LogId { term: FIRST_TERM, index: Index(n as u64 + 1) },
        kind: EntryKind::ConfChange,
        data: membership::encode_add(member),
    };
    let entries: Vec<Entry> = members.list().iter().enumerate().map(entry).collect();
    let hard_state = HardState { term: FIRST_TERM, vote: None, commit: Index(entries.len() as u64) };
    match wal.append(Some(hard_state), &entries) {
        Ok(_) => Ok(Log { wal, identity, hard_state, entries }),
        Err(wal::AppendError::Full) => {
            Err(Fault::new(format!("{} is full: there is no room for the first entry", config.data_dir.display())))
        }
        Err(wal::AppendError::Fault(fault)) => Err(fault),
    }
}
