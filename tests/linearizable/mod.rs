//! Many clients and watches at once, the server killed again and again, and everything that was answered held against what etcd
//! promises: strictly serializable writes, linearizable reads, serializable reads of a state that existed, and its guarantees of
//! watches.
//!
//! Two judges that share nothing. [`order`] takes one watch of everything, resumed after each kill, as what has happened, and checks
//! every answer and every moment against it: strict, because every answer names its revision. [`judge`] trusts no revision and looks
//! for an order itself ([`group`], [`compactions`]). [`promises`] checks the watches.
//!
//! `make linear SEED=1 N=20` plays as many rounds as one has time for. A seed replays what is asked, not when.

mod clients;
mod compactions;
mod examples;
mod expiries;
mod group;
mod history;
mod judge;
mod keys;
mod order;
mod promises;
mod round;
mod timeline;
mod value;
mod violation;
mod watchers;

use std::time::Instant;

use round::Plan;

/// Plays a round and judges it.
///
/// # Panics
/// If a promise was not kept; with what shows it, and the file that has all.
fn prove(plan: &Plan) {
    println!("linearizable: replay with SEED={}: {plan:?}", plan.seed);
    let start = Instant::now();
    let record = round::play(plan);
    let played = start.elapsed();
    let violations = record.judge();
    println!("linearizable: {}, played in {played:.1?}, judged in {:.1?}", record.figures(), start.elapsed() - played);
    if violations.is_empty() {
        return;
    }
    let file = record.write(plan.seed);
    for violation in &violations {
        println!("{violation}");
    }
    panic!(
        "SEED={}: {} promises were not kept; all that was asked and answered is in {}",
        plan.seed,
        violations.len(),
        file.display()
    );
}

#[test]
fn what_was_answered_over_kills_is_one_history() {
    for seed in [1, 2] {
        prove(&Plan::short(seed));
    }
}

/// `SEED` is the first round's; `N` rounds.
#[test]
#[ignore = "as long as one likes: make linear SEED= N="]
fn what_was_answered_over_many_kills_is_one_history() {
    let number = |name: &str, default: u64| std::env::var(name).map_or(default, |text| text.parse().expect("a number"));
    let first = number("SEED", 1);
    for seed in first..first + number("N", 5) {
        prove(&Plan::long(seed));
    }
}
