//! Queues that are full, and watches that history has left behind.

use super::*;

/// An empty queue takes a transaction of any length, and is full of it.
fn fill(history: &FakeHistory, hub: &Hub) {
    history.commit(hub, &[("a", Some(&[7; 10_000][..]))]);
}

#[test]
fn a_full_queue_is_told_no_progress() {
    let history = FakeHistory::new();
    let hub = Hub::with_limits(history.clone(), 1, SMALL);
    let mut stream = hub.open_stream();
    let options = WatchOptions { progress_notify: true, ..WatchOptions::default() };
    stream.create(&NewWatch { options, ..watch("a", 0) });
    queued(&mut stream);
    fill(&history, &hub);
    assert_eq!(hub.counters().slow_watchers(), 0);
    for _ in 0..100 {
        stream.request_progress();
        stream.progress_tick();
    }
    assert_eq!(queued(&mut stream), ["0 +a@2 rev=2"]);
    stream.request_progress();
    assert_eq!(queued(&mut stream), ["all progress rev=2"]);
}

#[test]
fn of_the_lagging_only_those_below_the_compacted_revision_end() {
    let (history, hub) = new_hub();
    for _ in 2..=6 {
        history.commit(&hub, &[put("a")]);
    }
    let mut stream = hub.open_stream();
    // Pages are read from the nearest and from the farthest in turn: this turn is the nearest's.
    assert!(stream.catch_up().is_none());
    for start in 3..=6 {
        stream.create(&watch("a", start));
    }
    queued(&mut stream);
    history.compact(5);
    let page = stream.catch_up().unwrap().read();
    stream.caught_up(page).unwrap();
    assert_eq!(queued(&mut stream), ["0 compacted at 5", "1 compacted at 5"]);
    assert_eq!(said(&mut stream), ["3 +a@6 rev=6", "2 +a@5 +a@6 rev=6"]);
}

#[test]
fn a_page_for_many_watches_keeps_to_the_bound() {
    let history = FakeHistory::new();
    let hub = Hub::with_limits(history.clone(), 1, SMALL);
    for _ in 2..=11 {
        history.commit(&hub, &[("a", Some(&[7; 1000][..]))]);
    }
    let mut stream = hub.open_stream();
    for _ in 0..20 {
        stream.create(&watch("a", 2));
    }
    queued(&mut stream);
    let mut events = 0;
    while let Some(catch_up) = stream.catch_up() {
        stream.caught_up(catch_up.read()).unwrap();
        let bound = SMALL.queue + 20 * SMALL.per_watch;
        assert!(stream.held() <= bound, "{} bytes and not {bound}", stream.held());
        while let Some(delivery) = stream.pop() {
            let Delivery::Events(batch) = delivery else { panic!("{delivery:?}") };
            events += batch.events.len();
        }
    }
    assert_eq!(events, 20 * 10);
}
