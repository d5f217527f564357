//! What is compacted, as an object of its own: a mark that goes up only. Who reads below it is refused, who reads at it or above is
//! not; and it is where the last compaction put it, killed in between or not.

use super::history::{Deadlines, Operation, Reply, Request};
use super::judge::{Call, Object};

/// The compacted revision; 0 at first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Mark(i64);

/// The compactions and the reads of old revisions.
pub fn calls(history: &[Operation]) -> Vec<Call<&Operation>> {
    let concerns = |operation: &&Operation| match &operation.request {
        Request::Compact(_) => true,
        Request::Range(range) => range.revision > 0 && operation.end.is_some(),
        _ => false,
    };
    let deadlines = Deadlines::of(history);
    let concerned = history.iter().filter(concerns);
    let (deadline, returned) = (|operation| deadlines.get(operation), Operation::returned);
    concerned.map(|act| Call { call: act.call, returned: returned(act), deadline: deadline(act), act }).collect()
}

impl Object<&Operation> for Mark {
    fn step(&self, operation: &&Operation) -> Option<Mark> {
        match (&operation.request, operation.reply()) {
            (Request::Compact(compaction), reply) => {
                let is_refused = compaction.revision <= self.0;
                let is_possible = reply.is_none_or(|reply| is_compacted(reply) == is_refused);
                is_possible.then(|| Mark(self.0.max(compaction.revision)))
            }
            (Request::Range(range), Some(reply)) => (is_compacted(reply) == (range.revision < self.0)).then(|| self.clone()),
            _ => None,
        }
    }

    fn only_looks(operation: &&Operation) -> bool {
        matches!(operation.reply(), Some(Reply::Range(_) | Reply::Refused(_)))
    }
}

/// Nothing else is a reason here: no client asks for the future.
fn is_compacted(reply: &Reply) -> bool {
    match reply {
        Reply::Refused(text) => {
            assert_eq!(text, "etcdserver: mvcc: required revision has been compacted");
            true
        }
        _ => false,
    }
}
