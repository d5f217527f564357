//! Waiting for a condition, never for a time: a deadline only turns a hang into a failure that says what was waited for.

use std::future::Future;
use std::time::{Duration, Instant};

/// After this a wait counts as a hang. Generous, because machines are shared.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// Asks `condition` until it has an answer.
///
/// # Panics
/// If it has none within [`DEADLINE`].
#[track_caller]
pub fn until<T>(what: &str, condition: impl FnMut() -> Option<T>) -> T {
    until_within(what, DEADLINE, Duration::from_millis(3), condition)
}

/// The same with another patience and another pause between two questions.
///
/// # Panics
/// If it has no answer within `patience`.
#[track_caller]
pub fn until_within<T>(what: &str, patience: Duration, pause: Duration, mut condition: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(answer) = condition() {
            return answer;
        }
        assert!(start.elapsed() < patience, "waited {patience:?} in vain: {what}");
        std::thread::sleep(pause);
    }
}

/// Runs a future to its end.
///
/// # Panics
/// If it does not end within [`DEADLINE`].
#[track_caller]
pub fn block_on<T>(what: &str, future: impl Future<Output = T>) -> T {
    let hang = async {
        smol::Timer::after(DEADLINE).await;
        None
    };
    match smol::block_on(smol::future::or(async { Some(future.await) }, hang)) {
        Some(answer) => answer,
        None => panic!("waited {DEADLINE:?} in vain: {what}"),
    }
}
