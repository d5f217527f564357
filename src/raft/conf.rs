//! Configurations: which are sound, and which may follow which.

use crate::error::Fault;

use super::types::{ConfState, MemberId};

impl ConfState {
    /// Whether `member` takes part at all.
    pub fn contains(&self, member: MemberId) -> bool {
        self.is_voter(member) || self.learners.binary_search(&member).is_ok()
    }

    /// Whether `member` has a vote.
    pub fn is_voter(&self, member: MemberId) -> bool {
        self.voters.binary_search(&member).is_ok()
    }

    /// All members, voters first.
    pub fn members(&self) -> impl Iterator<Item = MemberId> + '_ {
        self.voters.iter().chain(&self.learners).copied()
    }

    /// Sorted, without a member named twice and without member 0. A member that waits to join has nobody yet.
    pub(super) fn check(&self) -> Result<(), Fault> {
        let ascending = |ids: &[MemberId]| ids.windows(2).all(|pair| pair[0] < pair[1]);
        let sound = ascending(&self.voters)
            && ascending(&self.learners)
            && self.members().all(|member| member.0 != 0)
            && !self.learners.iter().any(|&learner| self.is_voter(learner))
            && (self.learners.is_empty() || !self.voters.is_empty());
        if sound { Ok(()) } else { Err(Fault::new(format!("raft: the configuration {self:?} is not sound"))) }
    }

    /// One voter more or less at the most keeps any two majorities overlapping (thesis §4.1). The first configuration may name
    /// any number.
    pub(super) fn check_step_to(&self, next: &ConfState) -> Result<(), Fault> {
        next.check()?;
        let added = next.voters.iter().filter(|&&member| !self.is_voter(member)).count();
        let removed = self.voters.iter().filter(|&&member| !next.is_voter(member)).count();
        if next.voters.is_empty() || (!self.voters.is_empty() && added + removed > 1) {
            return Err(Fault::new(format!("raft: a configuration cannot go from {self:?} to {next:?} in one step")));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn conf(voters: &[u64], learners: &[u64]) -> ConfState {
        let members = |ids: &[u64]| ids.iter().copied().map(MemberId).collect();
        ConfState { voters: members(voters), learners: members(learners) }
    }

    #[test]
    fn unsound_configurations_are_refused() {
        assert!(conf(&[1, 2], &[3]).check().is_ok());
        assert!(conf(&[], &[]).check().is_ok());
        for unsound in [conf(&[2, 1], &[]), conf(&[1, 1], &[]), conf(&[0], &[]), conf(&[1], &[1]), conf(&[], &[1])] {
            assert!(unsound.check().is_err(), "{unsound:?}");
        }
    }

    #[test]
    fn a_step_adds_or_removes_one_voter_at_the_most() {
        let from = conf(&[1, 2, 3], &[4]);
        for next in [conf(&[1, 2, 3, 4], &[]), conf(&[1, 2], &[3, 4]), conf(&[1, 2, 3], &[5, 6])] {
            assert!(from.check_step_to(&next).is_ok(), "{next:?}");
        }
        for next in [conf(&[1, 2, 5], &[]), conf(&[1], &[]), conf(&[], &[])] {
            assert!(from.check_step_to(&next).is_err(), "{next:?}");
        }
    }
}
