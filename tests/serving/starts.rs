//! Starts that cannot be: exit code 1, and one line that names what is wrong.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::refusal;
use crate::support::requests::put;
use crate::support::server::{Ports, free_port};
use crate::support::wait::until;
use crate::support::{Certs, Server, oracle};

/// The last line of a refused start, if it is the only error.
#[track_caller]
fn only_error(dir: &Path, args: &[String]) -> String {
    let mut all = vec!["--name=m1".to_owned(), format!("--data-dir={}", dir.join("data").display())];
    all.extend_from_slice(args);
    let (code, log) = refusal(dir, &all);
    let errors: Vec<&String> = log.iter().filter(|line| line.contains(" ERROR ")).collect();
    assert_eq!((code, errors.len()), (Some(1), 1), "{args:?}: {log:#?}");
    assert_eq!(Some(errors[0]), log.last());
    errors[0].clone()
}

fn at(scheme: &str) -> Vec<String> {
    let url = format!("{scheme}://127.0.0.1:{}", free_port());
    vec![format!("--listen-client-urls={url}"), format!("--advertise-client-urls={url}")]
}

#[test]
fn files_that_make_no_tls_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let certs = Certs::create(&dir.path().join("certs"));
    let other = Certs::create(&dir.path().join("other"));
    let (cert, key) = certs.pair("server");
    let (cert, key) = (cert.display().to_string(), key.display().to_string());
    let other_key = other.pair("server").1.display().to_string();
    let (empty, nowhere) = (dir.path().join("empty").display().to_string(), dir.path().join("nowhere").display().to_string());
    fs::write(&empty, "").unwrap();
    let damaged = dir.path().join("damaged").display().to_string();
    fs::write(&damaged, fs::read_to_string(&cert).unwrap().replace('M', "!")).unwrap();
    let pair = |cert: &str, key: &str| vec![format!("--cert-file={cert}"), format!("--key-file={key}")];
    let with_ca = |ca: &str| [pair(&cert, &key), vec![format!("--trusted-ca-file={ca}")]].concat();
    let ca = certs.ca().display().to_string();
    let with_list = |list: &str| [with_ca(&ca), vec![format!("--client-crl-file={list}")]].concat();
    for (flags, named) in [
        (pair(&nowhere, &key), &nowhere),
        (pair(&cert, &nowhere), &nowhere),
        (pair(&empty, &key), &empty),
        (pair(&cert, &empty), &empty),
        (pair(&damaged, &key), &damaged),
        (pair(&key, &key), &key),
        (pair(&cert, &cert), &cert),
        (pair(&cert, &other_key), &other_key),
        (with_ca(&nowhere), &nowhere),
        (with_ca(&key), &key),
        (with_list(&nowhere), &nowhere),
        (with_list(&cert), &cert),
    ] {
        let error = only_error(dir.path(), &[at("https"), flags.clone()].concat());
        assert!(error.contains(named.as_str()), "{flags:?}: {error}");
    }
    let error = only_error(dir.path(), &at("https"));
    assert!(error.contains("--cert-file"), "{error}");
    assert!(!dir.path().join("data").exists(), "nothing is made before the files are in order");
}

#[test]
fn an_address_in_use_is_named() {
    let server = Server::start();
    let dir = tempfile::tempdir().unwrap();
    let url = server.url();
    let error = only_error(dir.path(), &[format!("--listen-client-urls={url}"), format!("--advertise-client-urls={url}")]);
    assert!(error.contains(&format!("cannot listen on {url}: Address already in use")), "{error}");
}

#[test]
fn a_data_directory_that_cannot_be_used_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    // Not even root may write to /proc.
    for path in [file.display().to_string(), file.join("below").display().to_string(), "/proc/data".to_owned()] {
        let error = only_error(dir.path(), &[at("http"), vec![format!("--data-dir={path}")]].concat());
        assert!(error.contains(&format!("cannot create {path}: ")), "{error}");
    }
}

#[test]
fn a_second_server_on_a_data_directory_names_the_first() {
    let server = Server::start();
    let dir = tempfile::tempdir().unwrap();
    let data = format!("--data-dir={}", server.data_dir().display());
    let (code, log) = refusal(dir.path(), &[at("http"), vec![data]].concat());
    assert_eq!(code, Some(1));
    assert!(log.iter().any(|line| line.contains("waiting for another process to leave the data directory")), "{log:?}");
    assert!(log.last().unwrap().contains("the data directory is in use by process "), "{log:?}");
    server.client().call(&put("a", "1"));
}

#[test]
fn a_wal_directory_that_is_not_the_one_of_before_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let wal = |name: &str| format!("--wal-dir={}", dir.path().join(name).display());
    let mut server = Server::builder().flag(wal("wal")).start();
    server.client().call(&put("a", "1"));
    assert!(dir.path().join("wal").read_dir().unwrap().next().is_some());
    server.terminate();
    let data = format!("--data-dir={}", server.data_dir().display());
    for flags in [vec![], vec![wal("elsewhere")]] {
        let error = only_error(dir.path(), &[at("http"), vec![data.clone()], flags].concat());
        assert!(error.contains("holds no WAL") && error.contains("is --wal-dir right?"), "{error}");
    }
    server.restart();
    assert_eq!(server.client().call(&crate::support::requests::everything()).count, 1);
}

#[test]
fn a_data_directory_of_etcd_is_called_that_and_left_alone() {
    let mut etcd = Server::builder().binary(oracle("etcd")).start();
    etcd.client().call(&put("a", "1"));
    etcd.terminate();
    let dir = tempfile::tempdir().unwrap();
    let data = format!("--data-dir={}", etcd.data_dir().display());
    let error = only_error(dir.path(), &[at("http"), vec![data]].concat());
    assert!(error.contains("is a database of etcd") && error.contains("make-mirror"), "{error}");
    etcd.restart();
    assert_eq!(etcd.client().call(&crate::support::requests::everything()).count, 1);
}

#[test]
fn what_later_versions_will_bring_is_refused_in_words() {
    let dir = tempfile::tempdir().unwrap();
    let Ports { peer, .. } = Ports::free();
    let mine = format!("--initial-advertise-peer-urls=http://127.0.0.1:{peer}");
    let alone = format!("--initial-cluster=m1=http://127.0.0.1:{peer}");
    for (flags, words) in [
        (vec!["--initial-cluster-state=existing".to_owned()], "clusters of several members are not there yet"),
        (vec![format!("{alone},m2=http://10.0.0.2:2380")], "clusters of several members are not there yet"),
        (vec!["--discovery-endpoints=http://x:1".to_owned(), "--discovery-token=t".to_owned()], "is not offered"),
    ] {
        let cluster = if words.ends_with("yet") { vec![mine.clone(), alone.clone()] } else { vec![] };
        let error = only_error(dir.path(), &[at("http"), cluster, flags].concat());
        assert!(error.contains(words), "{error}");
        assert!(!dir.path().join("data").exists(), "a start that is refused leaves nothing behind");
    }
}

#[test]
fn a_data_directory_that_others_may_read_is_told() {
    let mut server = Server::start();
    server.terminate();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(server.data_dir()), 0o700);
    fs::set_permissions(server.data_dir(), fs::Permissions::from_mode(0o755)).unwrap();
    server.restart();
    until("the warning", || server.log().contains("it should be 0700").then_some(()));
}
