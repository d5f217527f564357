//! The same etcdctl commands against etcd 3.7.3 and against the server under test, with etcdctl 3.4 and 3.7.3: what they print and
//! their exit codes must be equal, but for the few things that [`normalise`] names.
//!
//! Both servers run on the same ports, one after the other, so that ids, URLs and addresses are equal and need no excuse. After a
//! run both transcripts lie in `target/tmp/side_by_side`.

mod normalise;
mod script;

use std::fmt::Write;
use std::fs;
use std::path::PathBuf;

use bramble::pb::etcdserverpb::AlarmRequest;
use bramble::pb::etcdserverpb::alarm_request::AlarmAction;

use crate::support::requests::grant;
use crate::support::server::Ports;
use crate::support::{Etcdctl, Security, Server, Version, oracle, under_test};
use script::{Action, Script};

const NOT_REACHED: &str = "[the expected end never came]";

/// One step's command and what came of it, normalised.
type Transcript = Vec<(String, String)>;

fn play(script: &Script, binary: PathBuf, version: Version, security: Security, ports: Ports) -> Transcript {
    let mut builder = Server::builder().binary(binary).security(security).ports(ports);
    for flag in &script.flags {
        builder = builder.flag(flag);
    }
    let mut server = builder.start();
    let mut names = normalise::Names::default();
    let mut transcript = Vec::new();
    for step in &script.steps {
        let outcome = match &step.action {
            Action::Etcdctl { args, stdin, end, bind, sorted, patience } => {
                let args: Vec<String> = args.iter().map(|arg| names.filled_in(arg)).collect();
                let etcdctl = Etcdctl::new(version, &server);
                let stdin = names.filled_in(stdin);
                let mut running = etcdctl.spawn(&args, &stdin);
                let (output, reached) = match end.reached() {
                    None => running.finish_within(*patience),
                    Some(enough) => {
                        let reached = running.wait_for(*patience, enough);
                        (running.kill(), reached)
                    }
                };
                let note = if reached { "" } else { NOT_REACHED };
                if let Some(name) = bind {
                    names.bind(name, &output.text());
                }
                let outcome = normalise::output(&output, &args, &names) + note;
                if *sorted { normalise::sorted(&outcome) } else { outcome }
            }
            Action::Grant { id, ttl } => format!("{:?}", server.client().try_call(&grant(*ttl, *id)).map(|reply| reply.ttl)),
            Action::Alarm(alarm) => {
                let member_id = server.client().call(&grant(60, 0)).header.unwrap().member_id;
                let request = AlarmRequest { action: AlarmAction::Activate as i32, member_id, alarm: *alarm as i32 };
                format!("{:?}", server.client().try_call(&request).map(|reply| reply.alarms.len()))
            }
            Action::Kill => {
                server.kill();
                server.restart();
                String::new()
            }
        };
        transcript.push((step.source.clone(), outcome));
    }
    transcript
}

fn written(transcript: &Transcript) -> String {
    transcript.iter().fold(String::new(), |mut text, (source, outcome)| {
        let _ = write!(text, "{source}\n{outcome}\n");
        text
    })
}

fn compare(name: &str, text: &str, version: Version, security: Security) {
    let script = Script::parse(name, text);
    let ports = Ports::free();
    let expected = play(&script, oracle("etcd"), version, security, ports);
    let actual = play(&script, under_test(), version, security, ports);

    let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("side_by_side");
    fs::create_dir_all(&dir).unwrap();
    fs::write(dir.join(format!("{name}-{version:?}-{security:?}.etcd")), written(&expected)).unwrap();
    fs::write(dir.join(format!("{name}-{version:?}-{security:?}.tested")), written(&actual)).unwrap();

    for (source, outcome) in &expected {
        assert!(!outcome.contains(NOT_REACHED), "the script is wrong about etcd\n{source}\n{outcome}\n{}", written(&expected));
    }
    let differing: Vec<String> = expected
        .iter()
        .zip(&actual)
        .filter(|(expected, actual)| expected != actual)
        .map(|((source, expected), (_, actual))| format!("{source}\n--- etcd\n{expected}\n--- tested\n{actual}\n"))
        .collect();
    assert!(
        differing.is_empty(),
        "{name} with etcdctl {version:?} over {security:?}: {} of {} steps differ\n\n{}",
        differing.len(),
        expected.len(),
        differing.join("\n")
    );
}

/// A test for each script, client version and transport.
macro_rules! scripts {
    ($($test:ident: $file:literal, $version:ident, $security:ident;)*) => {
        $(#[test]
        fn $test() {
            compare($file, include_str!(concat!($file, ".txt")), Version::$version, Security::$security);
        })*
    };
}

scripts! {
    keys_with_etcdctl_3_4: "keys", V34, Plain;
    keys_with_etcdctl_3_7: "keys", V37, Plain;
    formats_with_etcdctl_3_4: "formats", V34, Plain;
    formats_with_etcdctl_3_7: "formats", V37, Plain;
    transactions_with_etcdctl_3_4: "transactions", V34, Plain;
    transactions_with_etcdctl_3_7: "transactions", V37, Plain;
    watches_with_etcdctl_3_4: "watches", V34, Plain;
    watches_with_etcdctl_3_7: "watches", V37, Plain;
    leases_with_etcdctl_3_4: "leases", V34, Plain;
    leases_with_etcdctl_3_7: "leases", V37, Plain;
    compaction_with_etcdctl_3_4: "compaction", V34, Plain;
    compaction_with_etcdctl_3_7: "compaction", V37, Plain;
    maintenance_with_etcdctl_3_4: "maintenance", V34, Plain;
    maintenance_with_etcdctl_3_7: "maintenance", V37, Plain;
    errors_with_etcdctl_3_4: "errors", V34, Plain;
    errors_with_etcdctl_3_7: "errors", V37, Plain;
    tour_with_etcdctl_3_4_over_tls: "tour", V34, Tls;
    tour_with_etcdctl_3_7_over_tls: "tour", V37, Tls;
    tour_with_etcdctl_3_4_over_mutual_tls: "tour", V34, Mutual;
    tour_with_etcdctl_3_7_over_mutual_tls: "tour", V37, Mutual;
    check_perf_with_etcdctl_3_4: "perf", V34, Plain;
    check_perf_with_etcdctl_3_7: "perf", V37, Plain;
}
