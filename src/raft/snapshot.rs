//! Copies of the state, for members that lack what the log no longer holds (paper §7). The core decides that one is needed and what
//! it means; the shell carries the bytes.

use crate::error::Fault;

use super::core::{Core, Snapshot};
use super::message::Body;
use super::types::{ConfState, Index, LogId, MemberId};

impl Core {
    /// The leader's shell has sent a copy, or has given up. Only the member's own word tells whether it has it.
    pub(super) fn snapshot_done(&mut self, member: MemberId) {
        if let Some(progress) = self.progress_of(member) {
            progress.snapshot_done();
        }
    }

    /// Takes over a copy of the state, unless the log gets there by itself. It is one history with what is committed here, and brings
    /// its own configuration: the entries that made it are not in the log any more.
    pub(super) fn answer_snapshot(&mut self, from: MemberId, last: LogId, conf: ConfState) -> Result<(), Fault> {
        let sound = conf.check().is_ok() && !conf.voters.is_empty() && last.index > Index(0) && last.term <= self.term;
        if !sound || !self.heed(from) {
            return Ok(());
        }
        self.log.check_history(last, &[])?;
        if self.log.term_at(last.index) == Some(last.term) {
            self.commit_to(last.index);
        } else if last.index > self.log.committed() {
            self.log.restore(last);
            self.conf = conf.clone();
            self.out.install = Some(Snapshot { last, conf });
        }
        let matched = self.log.committed();
        self.send_then(from, Body::Appended { matched });
        Ok(())
    }
}
