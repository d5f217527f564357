//! The commands of the scripts in `tests/scripts/raft`.

use bramble::raft::{Body, ConfState, Entry, EntryKind, Event, Index, LogId, MemberId, Message, Term};

use super::cluster::{Cluster, Disk, parse_conf, show_entries};
use crate::script::{Story, play};

#[test]
fn every_story_ends_as_it_is_told() {
    play("raft", || Raft(Cluster::new(1)));
}

struct Raft(Cluster);

impl Story for Raft {
    fn run(&mut self, command: &str) -> Vec<String> {
        let words: Vec<&str> = command.split_whitespace().collect();
        let id = || words[1].parse().expect("a member");
        let number = |at: usize| words[at].parse::<u64>().expect("a number");
        match words[0] {
            "max-append" => self.0.max_append_bytes = number(1) as usize,
            "cluster" => self.form(number(1)),
            "node" => self.0.add(id(), parse_disk(&words[2..])),
            "tick" => (0..words.get(2).map_or(1, |_| number(2))).for_each(|_| self.0.step(id(), Event::Tick)),
            "campaign" => self.campaign(id()),
            "propose" => words[2..].iter().for_each(|data| self.propose(id(), EntryKind::Normal, data)),
            "batch" => self.batch(id(), &words[2..]),
            "conf" => self.propose(id(), EntryKind::ConfChange, &words[2..].join(" ")),
            "read" => self.0.step(id(), Event::ReadIndex(number(2))),
            "transfer" => self.0.step(id(), Event::Transfer(MemberId(number(2)))),
            "snapshot" => self.0.send_snapshot(id(), number(2)),
            "snapshot-done" => self.0.step(id(), Event::SnapshotDone(MemberId(number(2)))),
            "recv" => self.receive(id(), &words[2..]),
            "deliver" => self.deliver(words.get(1).map(|_| number(1))),
            "drop" => self.0.network.clear(),
            "cut" => self.0.cut.extend([(number(1), number(2)), (number(2), number(1))]),
            "heal" => self.0.cut.clear(),
            "hold" => self.0.hold(id()),
            "sync" => self.0.sync(id(), words.get(2).map_or(usize::MAX, |_| number(2) as usize)),
            "release" => self.0.release(id()),
            "crash" => self.0.crash(id(), 0),
            "start" => self.0.start(id()),
            "compact" => self.0.compact(id(), Index(number(2))),
            "status" => self.status(),
            unknown => panic!("no command {unknown}"),
        }
        std::mem::take(&mut self.0.trace)
    }
}

impl Raft {
    /// Members 1 to `count`, all voters, with empty logs.
    fn form(&mut self, count: u64) {
        let conf = ConfState { voters: (1..=count).map(MemberId).collect(), learners: Vec::new() };
        for id in 1..=count {
            self.0.add(id, Disk { conf: conf.clone(), ..Disk::default() });
        }
    }

    /// Lets time pass at one member until its election timeout.
    fn campaign(&mut self, id: u64) {
        let before = self.0.trace.len();
        for _ in 0..40 {
            self.0.step(id, Event::Tick);
            if self.0.trace.len() > before {
                return;
            }
        }
        self.0.trace.push(format!("{id}: does not campaign"));
    }

    fn propose(&mut self, id: u64, kind: EntryKind, data: &str) {
        self.append(id, kind, data);
        self.0.settle(id);
    }

    /// Many proposals before the effects are taken once.
    fn batch(&mut self, id: u64, datas: &[&str]) {
        datas.iter().for_each(|data| self.append(id, EntryKind::Normal, data));
        self.0.settle(id);
    }

    fn append(&mut self, id: u64, kind: EntryKind, data: &str) {
        let bytes = data.strip_prefix("bytes=").map(|n| vec![b'x'; n.parse().expect("a number")]);
        let data = bytes.unwrap_or_else(|| data.as_bytes().to_vec());
        if let Err(refused) = self.0.core(id).expect("running").propose(kind, data.into()) {
            self.0.trace.push(format!("{id}: refused: {refused:?}"));
        }
    }

    /// Everything that is on its way to `to`, or everything until nothing is left.
    fn deliver(&mut self, to: Option<u64>) {
        let Some(to) = to else { return self.0.deliver_all() };
        let mut rest = Vec::new();
        for message in std::mem::take(&mut self.0.network) {
            if message.to.0 == to {
                self.0.network.push_front(message);
                self.0.deliver_at(0);
            } else {
                rest.push(message);
            }
        }
        rest.into_iter().rev().for_each(|message| self.0.network.push_front(message));
    }

    /// A message from a script: `recv 1 from=2 term=3 append prev=1/1 entries=2/2,2/3 commit=3`.
    fn receive(&mut self, id: u64, words: &[&str]) {
        let field = |name: &str| words.iter().find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
        let number = |name: &str| field(name).map_or(0, |value| value.parse().expect("a number"));
        let log_id = |name: &str| field(name).map_or(LogId::default(), parse_log_id);
        let kind = words.iter().find(|word| !word.contains('=')).expect("what is said");
        let granted = !words.contains(&"granted=false");
        let entries = || field("entries").into_iter().flat_map(|list| list.split(',')).map(parse_entry).collect();
        let body = match *kind {
            "prevote" if field("last").is_some() => Body::PreVote { last: log_id("last"), commit: log_id("commit") },
            "prevote" => Body::PreVoteResponse { granted, commit: log_id("commit") },
            "vote" if field("last").is_some() => Body::Vote { last: log_id("last"), forced: false, commit: log_id("commit") },
            "vote" => Body::VoteResponse { granted, commit: log_id("commit") },
            "append" => Body::Append { prev: log_id("prev"), entries: entries(), commit: Index(number("commit")) },
            "appended" => Body::Appended { matched: Index(number("matched")) },
            "rejected" => Body::AppendRejected { prev: Index(number("prev")), hint: log_id("hint") },
            "heartbeat" => Body::Heartbeat { commit: Index(number("commit")), round: number("round") },
            "answered" => Body::HeartbeatResponse { round: number("round") },
            "timeout" => Body::TimeoutNow,
            "snapshot" => Body::Snapshot { last: log_id("last"), conf: parse_conf(&words.join(" ")) },
            "readindex" => Body::ReadIndex { number: number("number") },
            "readable" => Body::ReadIndexResponse { number: number("number"), index: Index(number("index")) },
            "removed" => Body::Removed { applied: Index(number("applied")) },
            unknown => panic!("no message {unknown}"),
        };
        let to = if field("to").is_some() { number("to") } else { id };
        let message = Message { from: MemberId(number("from")), to: MemberId(to), term: Term(number("term")), body };
        self.0.step(id, Event::Recv(message));
    }

    fn status(&mut self) {
        let mut lines = Vec::new();
        for (id, member) in &self.0.members {
            let Some(core) = &member.core else {
                lines.push(format!("{id}: down"));
                continue;
            };
            let leader = core.leader().map_or("none".into(), |leader| leader.to_string());
            let role = if core.is_leader() { " (leads)" } else { "" };
            let disk = show_entries(&member.disk.entries);
            let (term, committed, base) = (core.term(), core.committed(), core.base());
            lines.push(format!("{id}: term={term} leader={leader}{role} committed={committed} base={base} disk={disk}"));
        }
        self.0.trace.extend(lines);
    }
}

/// `voters=1,2,3 term=2 vote=1 commit=1 base=1/3 log=1/4,1/5:a`.
fn parse_disk(words: &[&str]) -> Disk {
    let mut disk = Disk { conf: parse_conf(&words.join(" ")), ..Disk::default() };
    for word in words {
        match word.split_once('=') {
            Some(("term", term)) => disk.hard_state.term = Term(term.parse().expect("a term")),
            Some(("vote", vote)) => disk.hard_state.vote = Some(MemberId(vote.parse().expect("a member"))),
            Some(("commit", commit)) => disk.hard_state.commit = Index(commit.parse().expect("an index")),
            Some(("base", base)) => disk.base = parse_log_id(base),
            Some(("log", log)) => disk.entries = log.split(',').map(parse_entry).collect(),
            _ => {}
        }
    }
    disk
}

fn parse_log_id(text: &str) -> LogId {
    let (term, index) = text.split_once('/').expect("term/index");
    LogId { term: Term(term.parse().expect("a term")), index: Index(index.parse().expect("an index")) }
}

fn parse_entry(text: &str) -> Entry {
    let (id, data) = text.split_once(':').unwrap_or((text, ""));
    let kind = if data.starts_with("conf") { EntryKind::ConfChange } else { EntryKind::Normal };
    let data = data.strip_prefix("conf-").map_or(data.to_string(), |conf| format!("voters={}", conf.replace('+', ",")));
    Entry { id: parse_log_id(id), kind, data: data.into() }
}
