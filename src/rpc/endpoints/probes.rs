//! Health, asked in three ways: `/health`, `/livez` and `/readyz`, the last two as a whole or one check at a time
//! (`/readyz/data_corruption`).

use http::{Response, StatusCode};

use super::query::Query;
use super::{PLAIN_TEXT, Served, error, plain, respond};
use crate::error::Error;
use crate::metrics::text::{Label, Text};
use crate::metrics::{Counter, Gauge};
use crate::pb::etcdserverpb::AlarmType;
use crate::rpc::http::Body;
use crate::rpc::status::Status;
use crate::rpc::timers::within;

static HEALTHY: Counter = Counter::new();
static UNHEALTHY: Counter = Counter::new();

/// One thing to look at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Check {
    DataCorruption,
    SerializableRead,
    LinearizableRead,
    NonLearner,
}

impl Check {
    const ALL: [Check; 4] = [Check::DataCorruption, Check::SerializableRead, Check::LinearizableRead, Check::NonLearner];

    fn name(self) -> &'static str {
        match self {
            Check::DataCorruption => "data_corruption",
            Check::SerializableRead => "serializable_read",
            Check::LinearizableRead => "linearizable_read",
            Check::NonLearner => "non_learner",
        }
    }
}

/// A list of checks with a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum List {
    Livez,
    Readyz,
}

impl List {
    const ALL: [List; 2] = [List::Livez, List::Readyz];

    fn name(self) -> &'static str {
        match self {
            List::Livez => "livez",
            List::Readyz => "readyz",
        }
    }

    fn checks(self) -> &'static [Check] {
        match self {
            List::Livez => &[Check::SerializableRead],
            List::Readyz => &Check::ALL,
        }
    }
}

/// What a path asks for: all checks of a list, or one of them.
#[derive(Clone, Copy, Debug)]
pub struct Probe {
    list: List,
    only: Option<Check>,
}

impl Probe {
    /// The probe with this path.
    pub fn find(path: &str) -> Option<Probe> {
        let path = path.strip_prefix('/')?;
        let (list, check) = path.split_once('/').map_or((path, None), |(list, check)| (list, Some(check)));
        let list = List::ALL.into_iter().find(|candidate| candidate.name() == list)?;
        let only = match check {
            Some(check) => Some(*list.checks().iter().find(|candidate| candidate.name() == check)?),
            None => None,
        };
        Some(Probe { list, only })
    }
}

/// How often a check of a list went which way.
struct Tally {
    passes_now: Gauge,
    passed: Counter,
    failed: Counter,
}

/// By list and check.
static TALLIES: [[Tally; Check::ALL.len()]; List::ALL.len()] =
    [const { [const { Tally { passes_now: Gauge::new(), passed: Counter::new(), failed: Counter::new() } }; Check::ALL.len()] };
        List::ALL.len()];

impl Served {
    /// `/health`: alarms, leader, a read. `exclude` names alarms that do not count; a serializable check does without a leader.
    pub(super) async fn health(&self, query: &Query<'_>) -> Response<Body> {
        let serializable = query.first("serializable") == Some("true");
        match self.illness(query, serializable).await {
            None => {
                HEALTHY.inc();
                respond(StatusCode::OK, Some(PLAIN_TEXT), r#"{"health":"true","reason":""}"#)
            }
            Some(reason) => {
                UNHEALTHY.inc();
                log::warn!("/health is false: {reason}");
                error(StatusCode::SERVICE_UNAVAILABLE, &format!(r#"{{"health":"false","reason":"{reason}"}}"#))
            }
        }
    }

    async fn illness(&self, query: &Query<'_>, serializable: bool) -> Option<String> {
        let alarms = self.server.alarms();
        let mut names = alarms.iter().map(|alarm| AlarmType::try_from(alarm.alarm).unwrap_or_default());
        // Corruption is told first, as in etcd, whose alarms come in no order that could be relied on.
        let counts = |kind: AlarmType| !query.all("exclude").any(|excluded| excluded == kind.as_str_name());
        if let Some(kind) = names.by_ref().filter(|kind| counts(*kind)).max_by_key(|kind| *kind as i32) {
            return Some(format!("ALARM {}", kind.as_str_name()));
        }
        if !serializable && !self.server.has_leader() {
            return Some("RAFT NO LEADER".to_owned());
        }
        self.read(serializable).await.err().map(|why| format!("RANGE ERROR:{why}"))
    }

    /// `/livez`, `/readyz` and their parts.
    pub(super) async fn probe(&self, probe: Probe, path: &str, query: &Query<'_>) -> Response<Body> {
        let checks: Vec<Check> = match probe.only {
            Some(check) => vec![check],
            None => wanted(probe.list, path, query),
        };
        let mut lines = String::new();
        let mut passes = true;
        for check in checks {
            let outcome = self.look(check).await;
            let tally = &TALLIES[probe.list as usize][check as usize];
            tally.passes_now.set(u64::from(outcome.is_ok()));
            match outcome {
                Ok(()) => {
                    tally.passed.inc();
                    lines += &format!("[+]{} ok\n", check.name());
                }
                Err(reason) => {
                    tally.failed.inc();
                    passes = false;
                    lines += &format!("[-]{} failed: {reason}\n", check.name());
                }
            }
        }
        if !passes {
            log::warn!("{path} fails: {}", lines.trim_end().replace('\n', ", "));
            return error(StatusCode::SERVICE_UNAVAILABLE, &lines);
        }
        let verbose = query.first("verbose").is_some();
        plain(StatusCode::OK, if verbose { lines + "ok\n" } else { "ok\n".to_owned() })
    }

    async fn look(&self, check: Check) -> Result<(), String> {
        match check {
            Check::DataCorruption => {
                let corrupt = self.server.alarms().iter().any(|alarm| alarm.alarm == AlarmType::Corrupt as i32);
                if corrupt { Err("alarm activated: CORRUPT".to_owned()) } else { Ok(()) }
            }
            Check::SerializableRead => self.read(true).await,
            Check::LinearizableRead => self.read(false).await,
            Check::NonLearner if self.server.is_learner() => Err("not supported for learner".to_owned()),
            Check::NonLearner => Ok(()),
        }
    }

    /// Reads, but does not wait for ever.
    async fn read(&self, serializable: bool) -> Result<(), String> {
        let read = within(&*self.timers, self.patience, self.server.read(serializable)).await;
        read.unwrap_or(Err(Error::DeadlineExceeded)).map_err(|error| Status::from(error).message.into_owned())
    }
}

/// The checks of a list without those that `exclude` names.
fn wanted(list: List, path: &str, query: &Query<'_>) -> Vec<Check> {
    let known = |name: &str| name.is_empty() || list.checks().iter().any(|check| check.name() == name);
    for unknown in query.all("exclude").filter(|name| !known(name)) {
        log::info!("{path} has no check {unknown:?} to exclude");
    }
    let excluded = |check: &Check| query.all("exclude").any(|name| name == check.name());
    list.checks().iter().copied().filter(|check| !excluded(check)).collect()
}

/// Writes the families of this file. A check is told of once it has been made.
pub fn families(text: &mut Text) {
    text.counter("etcd_server_health_success", "Times that /health was true.", &HEALTHY);
    text.counter("etcd_server_health_failures", "Times that /health was false.", &UNHEALTHY);
    let mut now: Vec<([Label<'_>; 2], f64)> = Vec::new();
    let mut total: Vec<([Label<'_>; 3], f64)> = Vec::new();
    for list in List::ALL {
        for check in list.checks() {
            let tally = &TALLIES[list as usize][*check as usize];
            let (passed, failed) = (tally.passed.get(), tally.failed.get());
            let (name, kind) = (("name", check.name()), ("type", list.name()));
            if passed + failed > 0 {
                now.push(([name, kind], tally.passes_now.get() as f64));
            }
            for (status, count) in [("error", failed), ("success", passed)] {
                if count > 0 {
                    total.push(([name, ("status", status), kind], count as f64));
                }
            }
        }
    }
    text.values(
        "etcd_server_healthcheck",
        "1 if a health check passed the last time, else 0.",
        now.iter().map(|(labels, value)| (&labels[..], *value)),
    );
    text.counters(
        "etcd_server_healthchecks_total",
        "Health checks made, by outcome.",
        total.iter().map(|(labels, value)| (&labels[..], *value)),
    );
}
