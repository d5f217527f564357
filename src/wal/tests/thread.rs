//! The writer: what it batches, reports and keeps.

use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::*;
use crate::host::Disk;
use crate::raft::Unsynced;
use crate::wal::{NoObserver, Observer, Report, Synced, Writer};

fn start(wal: Wal) -> (Writer, Receiver<Report>) {
    let (sender, reports) = mpsc::channel();
    let writer = Writer::start(wal, Arc::new(NoObserver), Box::new(move |report| sender.send(report).unwrap_or(()))).unwrap();
    (writer, reports)
}

fn batch(entries: Vec<Entry>) -> Unsynced {
    Unsynced { hard_state: None, entries }
}

/// Waits for the next sync.
fn synced(reports: &Receiver<Report>) -> Synced {
    match reports.recv().unwrap() {
        Report::Synced(synced) => synced,
        other => panic!("{other:?}"),
    }
}

/// Waits until everything up to this ticket is durable.
fn durable(reports: &Receiver<Report>, ticket: u64) -> Synced {
    std::iter::repeat_with(|| synced(reports)).find(|synced| synced.ticket >= ticket).unwrap()
}

/// Closes, and returns what was reported.
fn all_synced(writer: Writer, reports: &Receiver<Report>) -> Vec<Synced> {
    writer.close();
    let synced = |report| if let Report::Synced(synced) = report { synced } else { panic!("{report:?}") };
    reports.iter().map(synced).collect()
}

#[test]
fn a_batch_is_reported_once_it_is_durable() {
    let (host, disk) = sim::host(1);
    let (writer, reports) = start(create(&host, SMALL));
    disk.hold_syncs();
    let ticket = writer.submit(Unsynced { hard_state: Some(state(1, 1, 0)), entries: vec![entry(1, 1, 9)] });
    disk.await_held_sync();
    assert!(reports.try_recv().is_err(), "nothing is reported before the sync ends");
    assert_eq!(writer.queued_bytes(), 25 + 21 + 9);
    disk.let_go();
    assert_eq!(synced(&reports), Synced { ticket, last: id(1, 1), hard_state: state(1, 1, 0) });
    assert_eq!(writer.queued_bytes(), 0);
    let copy = disk.fork();
    copy.power_cut();
    assert_eq!(open(&next_host(&copy, 2), 0).unwrap().1.entries, [entry(1, 1, 9)]);
}

#[test]
fn all_that_is_queued_during_a_sync_goes_into_the_next_one() {
    let (host, disk) = sim::host(1);
    let (writer, reports) = start(create(&host, Options::default()));
    disk.hold_syncs();
    let before = disk.counts();
    writer.submit(batch(vec![entry(1, 1, 100)]));
    disk.await_held_sync();
    for index in 2..=1000 {
        writer.submit(batch(vec![entry(1, index, 100)]));
    }
    disk.let_go();
    assert_eq!(synced(&reports).ticket, 1);
    assert_eq!(synced(&reports), Synced { ticket: 1000, last: id(1, 1000), hard_state: HardState::default() });
    let after = disk.counts();
    assert_eq!((after.writes - before.writes, after.syncs - before.syncs), (2, 2));
}

#[test]
fn of_queued_hard_states_the_last_one_counts() {
    let (host, disk) = sim::host(1);
    let (writer, reports) = start(create(&host, SMALL));
    disk.hold_syncs();
    writer.submit(batch(vec![entry(1, 1, 1)]));
    disk.await_held_sync();
    writer.submit(Unsynced { hard_state: Some(state(2, 1, 0)), entries: Vec::new() });
    writer.submit(Unsynced { hard_state: Some(state(3, 2, 1)), entries: Vec::new() });
    writer.submit(batch(vec![entry(3, 2, 1)]));
    disk.let_go();
    assert_eq!(durable(&reports, 4), Synced { ticket: 4, last: id(3, 2), hard_state: state(3, 2, 1) });
}

#[test]
fn a_queued_entry_that_is_replaced_is_never_written() {
    let (host, disk) = sim::host(1);
    let (writer, reports) = start(create(&host, Options::default()));
    disk.hold_syncs();
    writer.submit(batch(vec![entry(1, 1, 1), entry(1, 2, 1)]));
    disk.await_held_sync();
    writer.submit(batch(vec![entry(1, 3, 1 << 20), entry(1, 4, 1)]));
    // The commit index means the new entry 3: it must never be on disk with the old one.
    writer.submit(Unsynced { hard_state: Some(state(2, 0, 3)), entries: vec![entry(2, 2, 1 << 20), entry(2, 3, 1)] });
    disk.let_go();
    let reported = all_synced(writer, &reports);
    assert_eq!(reported.iter().map(|synced| synced.last).collect::<Vec<_>>(), [id(1, 2), id(2, 2), id(2, 3)]);
    assert_eq!(reported.iter().map(|synced| synced.hard_state.commit.0).collect::<Vec<_>>(), [0, 2, 3]);
    let (_, recovered) = Wal::open(&next_host(&disk, 2), dir(), None, Index(0), Options::default()).unwrap();
    assert!(recovered.entries == [entry(1, 1, 1), entry(2, 2, 1 << 20), entry(2, 3, 1)]);
}

#[test]
fn a_queue_beyond_the_byte_cap_takes_several_frames_and_its_ticket_comes_with_the_last() {
    let (host, disk) = sim::host(1);
    let (writer, reports) = start(create(&host, Options::default()));
    let entries: Vec<_> = (1..=5).map(|index| entry(1, index, 700_000)).collect();
    let hard_state = Some(state(1, 0, 5));
    let ticket = writer.submit(Unsynced { hard_state, entries: entries.clone() });
    let reported = all_synced(writer, &reports);
    assert_eq!(reported.iter().map(|synced| synced.ticket).collect::<Vec<_>>(), [0, 0, ticket]);
    assert_eq!(reported.iter().map(|synced| synced.last.index.0).collect::<Vec<_>>(), [2, 4, 5]);
    // Never ahead of the entries beside it, and in the end what was asked for.
    assert_eq!(reported.iter().map(|synced| synced.hard_state.commit.0).collect::<Vec<_>>(), [2, 4, 5]);
    let (_, recovered) = Wal::open(&next_host(&disk, 2), dir(), None, Index(0), Options::default()).unwrap();
    assert!(recovered.entries == entries);
    assert_eq!(recovered.hard_state, state(1, 0, 5));
}

#[test]
fn closing_writes_what_is_queued() {
    let (host, disk) = sim::host(1);
    let (writer, _reports) = start(create(&host, SMALL));
    for index in 1..=50 {
        writer.submit(batch(vec![entry(1, index, 300)]));
    }
    writer.close();
    disk.power_cut();
    assert_eq!(open(&host, 0).unwrap().1.last, id(1, 50));
}

#[test]
fn a_full_disk_stalls_the_queue_until_a_release_frees_a_segment() {
    let (host, disk) = sim::host(1);
    let (writer, reports) = start(create(&host, SMALL));
    disk.set_capacity(Some(2 * SMALL.segment_bytes + 1));
    let mut last = 0;
    let stalled = loop {
        last += 1;
        let ticket = writer.submit(batch(vec![entry(1, last, 700)]));
        match reports.recv().unwrap() {
            Report::Synced(synced) => assert_eq!(synced.ticket, ticket),
            other => break other,
        }
    };
    assert!(matches!(stalled, Report::Stalled), "{stalled:?}");
    assert!(last > 4);
    assert!(writer.queued_bytes() > 0);
    writer.submit(batch(vec![entry(1, last + 1, 700)]));
    writer.release(Index(last - 1));
    assert_eq!(durable(&reports, last + 1).last, id(1, last + 1));
    assert_eq!(writer.queued_bytes(), 0);
    writer.close();
    disk.power_cut();
    let (_, recovered) = open(&host, last - 1).unwrap();
    assert_eq!(recovered.entries, [entry(1, last, 700), entry(1, last + 1, 700)]);
}

/// The checkpoint that would make room may wait for it.
#[test]
fn what_waits_for_a_sync_is_synced_before_a_full_disk_is_waited_for() {
    let (host, disk) = sim::host(1);
    let (writer, reports) = start(create(&host, Options { max_unsynced: 100, ..SMALL }));
    writer.submit(Unsynced { hard_state: Some(state(1, 1, 0)), entries: vec![entry(1, 1, 9)] });
    assert_eq!(synced(&reports).last, id(1, 1));
    let ticket = writer.submit_relaxed(batch(vec![entry(1, 2, 9)]));
    assert!(matches!(reports.recv().unwrap(), Report::Written(written) if written == ticket));
    assert!(reports.try_recv().is_err());
    disk.set_capacity(Some(0));
    writer.submit_relaxed(batch(vec![entry(1, 3, 9000)]));
    assert_eq!(synced(&reports).last, id(1, 2));
    assert!(matches!(reports.recv().unwrap(), Report::Stalled));
    assert_eq!(writer.close(), Index(2));
    disk.power_cut();
    assert_eq!(open(&next_host(&disk, 2), 0).unwrap().1.last, id(1, 2));
}

#[test]
fn relaxed_batches_are_written_at_once_and_synced_when_asked_for_or_with_a_strict_one() {
    let (host, disk) = sim::host(1);
    let (writer, reports) = start(create(&host, Options { max_unsynced: 100, segment_bytes: 1 << 20, ..SMALL }));
    writer.submit(Unsynced { hard_state: Some(state(1, 1, 0)), entries: vec![entry(1, 1, 9)] });
    assert_eq!(synced(&reports).last, id(1, 1));
    let before = disk.counts().syncs;
    let relaxed = |index| {
        let ticket = writer.submit_relaxed(batch(vec![entry(1, index, 9)]));
        assert!(matches!(reports.recv().unwrap(), Report::Written(written) if written == ticket));
    };
    relaxed(2);
    relaxed(3);
    assert_eq!(disk.counts().syncs, before);
    writer.sync();
    assert_eq!(synced(&reports), Synced { ticket: 3, last: id(1, 3), hard_state: state(1, 1, 0) });
    relaxed(4);
    writer.submit(batch(vec![entry(1, 5, 9)]));
    assert_eq!(synced(&reports).last, id(1, 5));
    relaxed(6);
    assert_eq!(disk.counts().syncs - before, 2);
    assert_eq!(writer.close(), Index(6));
    disk.power_cut();
    let (_, recovered) = Wal::open(&next_host(&disk, 2), dir(), None, Index(0), SMALL).unwrap();
    assert_eq!((recovered.last, recovered.may_have_lost), (id(1, 6), 0));
}

#[test]
fn a_full_disk_is_tried_again_without_being_told() {
    let (host, disk) = sim::host(1);
    let (writer, reports) = start(create(&host, SMALL));
    disk.set_capacity(Some(0));
    writer.submit(batch((1..=9).map(|index| entry(1, index, 700)).collect()));
    assert!(matches!(reports.recv().unwrap(), Report::Stalled));
    disk.set_capacity(None);
    assert_eq!(durable(&reports, 1).last, id(1, 9));
}

#[test]
fn closing_on_a_full_disk_comes_to_an_end() {
    let (host, disk) = sim::host(1);
    let (writer, reports) = start(create(&host, SMALL));
    disk.set_capacity(Some(0));
    writer.submit(batch((1..=9).map(|index| entry(1, index, 700)).collect()));
    assert!(matches!(reports.recv().unwrap(), Report::Stalled));
    writer.close();
    disk.power_cut();
    assert_eq!(open(&host, 0).unwrap().1.last, LogId::default());
}

#[test]
fn a_failed_sync_is_a_fault_and_the_last_report() {
    let (host, disk) = sim::host(1);
    let (writer, reports) = start(create(&host, SMALL));
    disk.fail_syncs_after(0);
    writer.submit(batch(vec![entry(1, 1, 1)]));
    let Report::Fault(fault) = reports.recv().unwrap() else { panic!("the sync failed") };
    assert!(fault.to_string().contains("the sync failed"), "{fault}");
    let before = disk.counts();
    writer.submit(batch(vec![entry(1, 2, 1)]));
    assert!(reports.recv().is_err(), "no report follows");
    assert_eq!(disk.counts(), before);
}

#[test]
fn a_long_sync_can_be_seen_while_it_lasts() {
    let (sim_host, disk) = sim::host(1);
    let clock = Arc::new(sim::SimClock::default());
    let host = Host { clock: clock.clone(), ..sim_host };
    let (writer, reports) = start(create(&host, SMALL));
    clock.advance(Duration::from_secs(100));
    assert_eq!(writer.stalled_for(), Duration::ZERO);
    disk.hold_syncs();
    let ticket = writer.submit(batch(vec![entry(1, 1, 1)]));
    disk.await_held_sync();
    clock.advance(Duration::from_secs(5));
    assert_eq!(writer.stalled_for(), Duration::from_secs(5));
    disk.let_go();
    durable(&reports, ticket);
    assert_eq!(writer.last_sync(), Duration::from_secs(5));
    assert_eq!(writer.stalled_for(), Duration::ZERO);
}

#[test]
fn the_observer_sees_each_sync_and_its_bytes() {
    #[derive(Default)]
    struct Seen(Mutex<Vec<u64>>);
    impl Observer for Seen {
        fn synced(&self, bytes: u64, _: Duration) {
            self.0.lock().unwrap().push(bytes);
        }
    }
    let (host, _) = sim::host(1);
    let seen = Arc::new(Seen::default());
    let writer = Writer::start(create(&host, SMALL), seen.clone(), Box::new(|_| ())).unwrap();
    writer.submit(batch(vec![entry(1, 1, 1000)]));
    writer.close();
    assert_eq!(*seen.0.lock().unwrap(), [1536]);
}

#[test]
fn a_steady_load_lives_on_recycled_files() {
    let (host, disk) = sim::host(1);
    let (writer, reports) = start(create(&host, SMALL));
    for index in 1..=400 {
        let ticket = writer.submit(batch(vec![entry(1, index, 700)]));
        durable(&reports, ticket);
        writer.release(Index(index));
    }
    writer.close();
    assert!(disk.counts().creates < 10, "{:?} for 134 segments", disk.counts());
    assert!(disk.list(dir()).unwrap().len() < 10);
}

#[test]
fn the_machine_we_run_on_keeps_a_log_too() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("member").join("wal");
    let host = Host::real();
    let options = Options { segment_bytes: 64 << 10, ..Options::default() };
    let (writer, reports) = start(Wal::create(&host, &dir, IDENTITY, LogId::default(), options).unwrap());
    for index in 1..=200 {
        let ticket = writer.submit(batch(vec![entry(1, index, 5000)]));
        durable(&reports, ticket);
        writer.release(Index(index.saturating_sub(20)));
    }
    writer.close();
    let (_, recovered) = Wal::open(&host, &dir, Some(IDENTITY), Index(180), options).unwrap();
    assert_eq!(recovered.entries, (181..=200).map(|index| entry(1, index, 5000)).collect::<Vec<_>>());
}
