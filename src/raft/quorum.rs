//! Majorities of voters. A learner's word counts nowhere.

use super::types::MemberId;

/// How many of `voters` make a majority.
pub(super) fn majority(voters: usize) -> usize {
    voters / 2 + 1
}

/// The highest value that a majority of `voters` has reached. Quadratic, without memory of its own: there are a handful.
pub(super) fn reached<T: Copy + Ord + Default>(voters: &[MemberId], value: impl Fn(MemberId) -> T) -> T {
    let needed = majority(voters.len());
    let by_majority = |candidate: T| voters.iter().filter(|&&voter| value(voter) >= candidate).count() >= needed;
    voters.iter().map(|&voter| value(voter)).filter(|&candidate| by_majority(candidate)).max().unwrap_or_default()
}

/// Votes of one election.
#[derive(Debug, Default)]
pub(super) struct Votes {
    cast: Vec<(MemberId, bool)>,
}

/// How an election stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// A majority granted.
    Won,
    /// A majority can no longer be reached.
    Lost,
    /// Open.
    Pending,
}

impl Votes {
    /// Counts a vote; a member's first one stands.
    pub(super) fn cast(&mut self, voter: MemberId, granted: bool) {
        if !self.cast.iter().any(|&(member, _)| member == voter) {
            self.cast.push((voter, granted));
        }
    }

    pub(super) fn outcome(&self, voters: &[MemberId]) -> Outcome {
        let count = |granted| self.cast.iter().filter(|&&(m, vote)| vote == granted && voters.contains(&m)).count();
        let needed = majority(voters.len());
        if count(true) >= needed {
            Outcome::Won
        } else if voters.len() - count(false) < needed {
            Outcome::Lost
        } else {
            Outcome::Pending
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn members(ids: &[u64]) -> Vec<MemberId> {
        ids.iter().copied().map(MemberId).collect()
    }

    #[test]
    fn the_highest_value_of_a_majority_is_found_for_any_number_of_voters() {
        let reached_by =
            |values: &[u64]| reached(&members(&(0..values.len() as u64).collect::<Vec<_>>()), |m| values[m.0 as usize]);
        assert_eq!(reached_by(&[7]), 7);
        assert_eq!(reached_by(&[7, 3]), 3);
        assert_eq!(reached_by(&[7, 3, 5]), 5);
        assert_eq!(reached_by(&[7, 3, 5, 1]), 3);
        assert_eq!(reached_by(&[1, 9, 9, 9, 1]), 9);
        assert_eq!(reached_by(&[]), 0);
    }

    #[test]
    fn a_majority_of_voters_decides_and_others_count_nothing() {
        let voters = members(&[1, 2, 3]);
        let mut votes = Votes::default();
        votes.cast(MemberId(1), true);
        votes.cast(MemberId(4), true);
        votes.cast(MemberId(1), true);
        assert_eq!(votes.outcome(&voters), Outcome::Pending);
        votes.cast(MemberId(2), false);
        assert_eq!(votes.outcome(&voters), Outcome::Pending);
        votes.cast(MemberId(2), true);
        assert_eq!(votes.outcome(&voters), Outcome::Pending, "the first word stands");
        votes.cast(MemberId(3), false);
        assert_eq!(votes.outcome(&voters), Outcome::Lost);
        assert_eq!(votes.outcome(&members(&[1])), Outcome::Won);
    }
}
