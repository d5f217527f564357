//! Whether a history can be explained by doing its operations one after the other: Wing and Gong's search ("Testing and Verifying
//! Concurrent Objects", 1993) with Lowe's cache ("Testing for Linearizability", 2017), as porcupine does it.
//!
//! An operation may be done at any moment between its call and its return; one that never returned, at any moment after its call up
//! to its deadline, or never. The search does what can be done next, and takes back what leads nowhere. A set of done operations with
//! the state they lead to is tried once. And an operation without an answer is done as late as it can be: where it could as well come
//! after the next that was answered, that order alone is tried. Else each of those that nobody notices would double the work. What only
//! looks, and may be done and is answered right in a state, is done there: whatever else comes next, it can as well come after.

use std::collections::HashSet;
use std::fmt;
use std::hash::Hash;

use super::history::Time;

/// A sequential object: its state.
pub trait Object<A>: Clone + Eq + Hash + fmt::Debug {
    /// The state after `act`, an operation with its answer if there is any; none if in this state it is not answered so.
    fn step(&self, act: &A) -> Option<Self>;

    /// Whether `act` with its answer leaves every state as it is.
    fn only_looks(act: &A) -> bool;
}

/// An operation and its time.
pub struct Call<A> {
    /// Before it was sent.
    pub call: Time,
    /// After it was answered; none: it was not.
    pub returned: Option<Time>,
    /// If it was not: what is sent from then on finds it done, or never will.
    pub deadline: Time,
    /// What was done.
    pub act: A,
}

/// What comes out.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict<O> {
    /// There is an order.
    Linearizable,
    /// There is none. The farthest that one comes: in this state none of these operations (indices) can be next.
    Impossible {
        /// The state.
        state: O,
        /// Those that may be next by time, one that must come before all later ones among them.
        stuck: Vec<usize>,
    },
    /// The search was given up after so many steps.
    Undecided(u64),
}

/// Looks for an order, in no more than so many steps.
pub fn judge<A, O: Object<A>>(initial: &O, calls: &[Call<A>], max_steps: u64) -> Verdict<O> {
    let mut search = Search::new(calls);
    let mut path = vec![search.node(initial.clone(), 0, None)];
    let mut tried = HashSet::new();
    let mut farthest: Option<(usize, O, Vec<usize>)> = None;
    let mut steps = 0;
    while let Some(node) = path.last_mut() {
        if let Some(done) = node.done.take() {
            search.undo(done);
        }
        if search.left == 0 {
            return Verdict::Linearizable;
        }
        if farthest.as_ref().is_none_or(|(left, ..)| search.left < *left) {
            farthest = Some((search.left, node.state.clone(), node.candidates.clone()));
        }
        let Some(next) = node.candidates.get(node.tried).copied() else {
            path.pop();
            continue;
        };
        node.tried += 1;
        steps += 1;
        if steps > max_steps {
            return Verdict::Undecided(max_steps);
        }
        let Some(state) = node.state.step(&calls[next].act) else { continue };
        let is_open = calls[next].returned.is_none();
        if is_open && state == node.state || !is_open && search.may_go_before(next, &state, &node.after_open) {
            continue;
        }
        search.redo(next);
        let newest_call = node.newest_call.max(calls[next].call);
        if tried.insert((search.done_set(newest_call), state.clone())) {
            node.done = Some(next);
            let after_open = is_open.then(|| (next, node.state.clone()));
            path.push(search.node(state, newest_call, after_open));
        } else {
            search.undo(next);
        }
    }
    let (_, state, stuck) = farthest.expect("a node was visited");
    Verdict::Impossible { state, stuck }
}

/// A state on the way, and what may be done next in it.
struct Node<O> {
    state: O,
    /// The newest of what is done was sent then.
    newest_call: Time,
    /// The operation without an answer that was done last, and the state before it; none: it was answered.
    after_open: Option<(usize, O)>,
    candidates: Vec<usize>,
    /// How many of the candidates were tried.
    tried: usize,
    /// The one that the nodes behind this one have begun with.
    done: Option<usize>,
}

struct Search<'a, A> {
    calls: &'a [Call<A>],
    /// Indices of those that returned, by call.
    closed: Vec<usize>,
    /// Indices of those that did not, by call.
    open: Vec<usize>,
    done: Vec<bool>,
    /// All of `closed` before this are done.
    frontier: usize,
    /// How many of `closed` are not done.
    left: usize,
}

impl<A> Search<'_, A> {
    fn new(calls: &[Call<A>]) -> Search<'_, A> {
        let mut order: Vec<usize> = (0..calls.len()).collect();
        order.sort_by_key(|index| calls[*index].call);
        let (closed, open): (Vec<usize>, Vec<usize>) = order.into_iter().partition(|index| calls[*index].returned.is_some());
        Search { calls, left: closed.len(), closed, open, done: vec![false; calls.len()], frontier: 0 }
    }

    /// What may come next: everything that was called before the first of what is left returned. First what returned early, last
    /// what never did: it is needed only where nothing else fits.
    fn node<O: Object<A>>(&self, state: O, newest_call: Time, after_open: Option<(usize, O)>) -> Node<O> {
        let mut bound = Time::MAX;
        let mut candidates = Vec::new();
        for index in self.closed[self.frontier..].iter().copied() {
            if self.calls[index].call > bound {
                break;
            }
            if !self.done[index] {
                bound = bound.min(self.calls[index].returned.expect("it is closed"));
                candidates.push(index);
            }
        }
        candidates.retain(|index| self.calls[*index].call <= bound);
        candidates.sort_by_key(|index| self.calls[*index].returned);
        if let Some(look) = candidates.iter().copied().find(|index| self.is_a_look(*index, &state, newest_call)) {
            return Node { state, newest_call, after_open, candidates: vec![look], tried: 0, done: None };
        }
        let may_be = |index: &usize| !self.done[*index] && self.calls[*index].call <= bound && self.may_yet(*index, newest_call);
        candidates.extend(self.open.iter().copied().filter(may_be));
        Node { state, newest_call, after_open, candidates, tried: 0, done: None }
    }

    /// Whether this may be done at once, because it changes nothing: neither the state nor what may come after it.
    fn is_a_look<O: Object<A>>(&self, index: usize, state: &O, newest_call: Time) -> bool {
        let Call { call, act, .. } = &self.calls[index];
        let ends_nothing = |open: &usize| self.done[*open] || !self.may_yet(*open, newest_call) || self.may_yet(*open, *call);
        O::only_looks(act) && self.open.iter().all(ends_nothing) && state.step(act).is_some()
    }

    /// Whether an operation without an answer may be done after what was sent at `newest_call`.
    fn may_yet(&self, open: usize, newest_call: Time) -> bool {
        newest_call < self.calls[open].deadline
    }

    /// Whether `next`, which leads to `state`, could as well be done before the operation without an answer that was done last.
    fn may_go_before<O: Object<A>>(&self, next: usize, state: &O, after_open: &Option<(usize, O)>) -> bool {
        let Some((open, before)) = after_open else { return false };
        self.may_yet(*open, self.calls[next].call)
            && before.step(&self.calls[next].act).and_then(|then| then.step(&self.calls[*open].act)).as_ref() == Some(state)
    }

    fn redo(&mut self, index: usize) {
        self.done[index] = true;
        self.left -= usize::from(self.calls[index].returned.is_some());
        while self.closed.get(self.frontier).is_some_and(|index| self.done[*index]) {
            self.frontier += 1;
        }
    }

    fn undo(&mut self, index: usize) {
        self.done[index] = false;
        if self.calls[index].returned.is_some() {
            self.left += 1;
            let call = self.calls[index].call;
            let at = self.closed.partition_point(|other| self.calls[*other].call < call);
            self.frontier = self.frontier.min(at);
        }
    }

    /// Which operations are done, in a short form: up to where all are, and which others; without those that cannot be done any more.
    fn done_set(&self, newest_call: Time) -> (usize, Vec<u32>) {
        let beyond = self.closed.len() - self.left - self.frontier;
        let is_done = |index: &&usize| self.done[**index];
        let closed = self.closed[self.frontier..].iter().filter(is_done).take(beyond);
        let open = self.open.iter().filter(|index| self.done[**index] && self.may_yet(**index, newest_call));
        (self.frontier, closed.chain(open).map(|index| *index as u32).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Debug, PartialEq, Eq, Hash)]
    struct Register(u8);

    enum Act {
        Write(u8),
        Read(u8),
        /// Of a value to another; the answer says whether it was that value.
        Swap(u8, u8, Option<bool>),
    }

    impl Object<Act> for Register {
        fn step(&self, act: &Act) -> Option<Register> {
            match *act {
                Act::Write(value) => Some(Register(value)),
                Act::Read(value) => (self.0 == value).then(|| self.clone()),
                Act::Swap(from, to, told) => {
                    let swapped = self.0 == from;
                    (told.is_none_or(|told| told == swapped)).then(|| if swapped { Register(to) } else { self.clone() })
                }
            }
        }

        fn only_looks(act: &Act) -> bool {
            matches!(act, Act::Read(_) | Act::Swap(_, _, Some(false)))
        }
    }

    use Act::{Read, Swap, Write};

    /// From call to return; a return of 0: none.
    fn verdict(history: impl IntoIterator<Item = (Time, Time, Act)>) -> Verdict<Register> {
        let call = |(call, returned, act)| Call { call, returned: (returned > 0).then_some(returned), deadline: 500, act };
        judge(&Register(0), &history.into_iter().map(call).collect::<Vec<_>>(), 100_000)
    }

    #[track_caller]
    fn is_impossible(history: impl IntoIterator<Item = (Time, Time, Act)>, last_state: u8, left: &[usize]) {
        assert_eq!(verdict(history), Verdict::Impossible { state: Register(last_state), stuck: left.to_vec() });
    }

    #[test]
    fn concurrent_operations_may_take_effect_in_either_order() {
        for read in [0, 1, 2] {
            assert_eq!(verdict([(1, 9, Write(1)), (2, 8, Write(2)), (3, 7, Read(read))]), Verdict::Linearizable, "{read}");
        }
        is_impossible([(1, 9, Write(1)), (2, 8, Write(2)), (3, 7, Read(3))], 1, &[2]);
    }

    #[test]
    fn a_read_may_not_be_older_than_a_write_that_had_returned() {
        assert_eq!(verdict([(1, 2, Write(1)), (3, 4, Read(1))]), Verdict::Linearizable);
        is_impossible([(1, 2, Write(1)), (3, 4, Read(0))], 1, &[1]);
    }

    #[test]
    fn what_one_has_read_no_later_read_may_take_back() {
        assert_eq!(verdict([(1, 9, Write(1)), (2, 3, Read(0)), (4, 5, Read(1))]), Verdict::Linearizable);
        is_impossible([(1, 9, Write(1)), (2, 3, Read(1)), (4, 5, Read(0))], 1, &[2]);
    }

    #[test]
    fn an_operation_without_an_answer_happens_late_or_never_but_once_and_not_before_its_call() {
        assert_eq!(verdict([(1, 0, Write(1)), (2, 3, Read(0))]), Verdict::Linearizable);
        assert_eq!(verdict([(1, 0, Write(1)), (2, 3, Read(0)), (8, 9, Read(1))]), Verdict::Linearizable);
        is_impossible([(1, 0, Write(1)), (2, 3, Read(1)), (4, 5, Write(2)), (6, 7, Read(1))], 2, &[3]);
        is_impossible([(2, 3, Read(1)), (4, 0, Write(1))], 0, &[0]);
        assert_eq!(verdict([(1, 0, Write(1)), (499, 501, Read(0)), (499, 502, Read(1))]), Verdict::Linearizable);
        is_impossible([(1, 0, Write(1)), (500, 501, Read(0)), (502, 503, Read(1))], 0, &[2]);
    }

    #[test]
    fn of_two_swaps_from_one_value_one_fails() {
        let swaps = |first, second| [(1, 5, Swap(0, 1, first)), (2, 6, Swap(0, 2, second))];
        assert_eq!(verdict(swaps(Some(true), Some(false))), Verdict::Linearizable);
        assert_eq!(verdict(swaps(Some(false), Some(true))), Verdict::Linearizable);
        assert_eq!(verdict(swaps(None, Some(true))), Verdict::Linearizable);
        assert!(matches!(verdict(swaps(Some(true), Some(true))), Verdict::Impossible { .. }));
    }

    /// The first guess, to swap before the write, is wrong, and has to be taken back long after.
    #[test]
    fn a_wrong_turn_is_taken_back() {
        let lost = (1, 0, Swap(0, 5, None));
        let busy = (2..20).map(|at| (at * 10, at * 10 + 5, Swap(7, 8, Some(false))));
        let history = [lost, (2, 15, Read(0)), (3, 16, Write(3))].into_iter().chain(busy).chain([(900, 901, Read(3))]);
        assert_eq!(verdict(history), Verdict::Linearizable);
    }

    #[test]
    fn the_search_gives_up_where_it_is_told() {
        let writes = (0..20).map(|n| (1, 100, Write(n)));
        assert_eq!(verdict(writes.chain([(1, 100, Read(99))])), Verdict::Undecided(100_000));
    }

    /// What the search says is what trying every order says.
    #[test]
    fn small_random_histories_are_judged_as_by_trying_every_order() {
        let mut random = crate::support::random::Random::from_seed(1);
        let mut impossible = 0;
        for case in 0..3_000 {
            let history: Vec<Call<Act>> = (0..6)
                .map(|_| {
                    let call = random.below(12);
                    let (value, other) = (random.below(3) as u8, random.below(3) as u8);
                    let returned = Some(call + 1 + random.below(6)).filter(|_| random.below(5) > 0);
                    let act = match random.below(3) {
                        0 => Write(value),
                        1 => Read(value),
                        _ => Swap(value, other, returned.map(|_| random.below(2) == 0)),
                    };
                    Call { call, returned, deadline: 2 + random.below(14), act }
                })
                .collect();
            let possible = exists(&Register(0), &history, &mut [false; 6]);
            impossible += usize::from(!possible);
            assert_eq!(judge(&Register(0), &history, 100_000) == Verdict::Linearizable, possible, "case {case}");
        }
        assert!((300..2_700).contains(&impossible), "both kinds are there: {impossible}");
    }

    fn exists(state: &Register, history: &[Call<Act>], done: &mut [bool; 6]) -> bool {
        let left = |done: &[bool; 6]| (0..6).filter(|n| !done[*n]).collect::<Vec<_>>();
        if left(done).iter().all(|n| history[*n].returned.is_none()) {
            return true;
        }
        left(done).into_iter().any(|next| {
            let waits = |other: &usize| history[*other].returned.is_some_and(|returned| returned < history[next].call);
            if left(done).iter().any(waits) {
                return false;
            }
            let is_late = |other: usize| done[other] && history[other].call >= history[next].deadline;
            if history[next].returned.is_none() && (0..6).any(is_late) {
                return false;
            }
            let Some(state) = state.step(&history[next].act) else { return false };
            done[next] = true;
            let found = exists(&state, history, done);
            done[next] = false;
            found
        })
    }
}
