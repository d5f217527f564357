//! Whom it lets in over TLS, and what it says to whom it does not.

use std::fs;
use std::process::Command;
use std::sync::Arc;

use rcgen::{
    CertificateParams, CertificateRevocationListParams, IsCa, Issuer, KeyIdMethod, KeyPair, RevokedCertParams, SerialNumber,
};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::version::{TLS12, TLS13};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::serves;
use crate::support::command::Running;
use crate::support::requests::{Watch, put, watch};
use crate::support::server::Target;
use crate::support::wait::until;
use crate::support::{Certs, Client, Security, Server, oracle};

fn target(server: &Server, tls: Arc<rustls::ClientConfig>) -> Target {
    Target { tls: Some(tls), ..server.target() }
}

#[test]
fn only_certificates_of_the_authority_are_let_in() {
    let server = Server::builder().security(Security::Mutual).start();
    let certs = server.certs().unwrap();
    assert!(serves(&target(&server, certs.client_config(true, &["h2"]))));
    assert!(!serves(&target(&server, certs.client_config(false, &["h2"]))), "no certificate");
    let dir = tempfile::tempdir().unwrap();
    let foreign = Certs::create(dir.path());
    fs::copy(certs.ca(), foreign.ca()).unwrap();
    assert!(!serves(&target(&server, foreign.client_config(true, &["h2"]))), "a certificate of somebody else's authority");
    assert!(!serves(&Target { tls: None, ..server.target() }), "no TLS");
    // A refusal is told with the client's address and in words.
    for why in [
        "the client shows no certificate",
        "the client's certificate comes from no authority of --trusted-ca-file",
        "the client does not speak TLS",
    ] {
        let line = until(why, || server.log().lines().find(|line| line.contains(why)).map(str::to_owned));
        let line: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!((&line["level"], &line["msg"]), (&"warn".into(), &"rejected connection on client endpoint".into()));
        assert!(line["remote-addr"].as_str().unwrap().starts_with("127.0.0.1:"), "{line}");
    }
}

/// A revocation list, DER, that names one certificate.
fn revoke(certificate: &std::path::Path) -> Vec<u8> {
    let der = CertificateDer::from_pem_file(certificate).unwrap();
    let serial = X509Certificate::from_der(&der).unwrap().1.raw_serial().to_vec();
    let key = KeyPair::generate().unwrap();
    let mut authority = CertificateParams::new(Vec::<String>::new()).unwrap();
    authority.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let revoked = RevokedCertParams {
        serial_number: SerialNumber::from_slice(&serial),
        revocation_time: rcgen::date_time_ymd(2026, 1, 1),
        reason_code: None,
        invalidity_date: None,
    };
    let list = CertificateRevocationListParams {
        this_update: rcgen::date_time_ymd(2026, 1, 1),
        next_update: rcgen::date_time_ymd(2126, 1, 1),
        crl_number: SerialNumber::from(1),
        issuing_distribution_point: None,
        revoked_certs: vec![revoked],
        key_identifier_method: KeyIdMethod::Sha256,
    };
    list.signed_by(&Issuer::new(authority, key)).unwrap().der().to_vec()
}

#[test]
fn a_revoked_certificate_is_turned_away_without_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let list = dir.path().join("crl");
    let other = Certs::create(&dir.path().join("other"));
    fs::write(&list, revoke(&other.pair("client").0)).unwrap();
    let server = Server::builder().security(Security::Mutual).flag(format!("--client-crl-file={}", list.display())).start();
    let client = target(&server, server.certs().unwrap().client_config(true, &["h2"]));
    assert!(serves(&client), "another certificate is on the list");
    fs::write(&list, revoke(&server.certs().unwrap().pair("client").0)).unwrap();
    assert!(!serves(&client));
    until("the refusal to be told", || server.log().contains("the client's certificate is revoked").then_some(()));
}

#[test]
fn only_allowed_names_are_let_in() {
    for (name, allowed) in [("localhost", true), ("127.0.0.1", true), ("pi.example", false)] {
        let mut server =
            Server::builder().security(Security::Mutual).flag(format!("--client-cert-allowed-hostname={name}")).prepare();
        server.spawn();
        until("the server to be ready", || server.log().contains("ready to serve client requests").then_some(()));
        assert_eq!(serves(&server.target()), allowed, "{name}");
    }
}

#[test]
fn versions_are_kept() {
    for (flags, versions) in [
        (&["--tls-min-version=TLS1.3"][..], (false, true)),
        (&["--tls-max-version=TLS1.2"], (true, false)),
        (&["--cipher-suites=TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256"], (true, true)),
        (&["--cipher-suites=TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"], (false, true)),
    ] {
        let server = flags.iter().fold(Server::builder().security(Security::Tls), |server, flag| server.flag(*flag)).start();
        let with = |version| serves(&target(&server, server.certs().unwrap().client_config_of(&[version], false, &["h2"])));
        assert_eq!((with(&TLS12), with(&TLS13)), versions, "{flags:?}: the certificate is ECDSA");
    }
}

#[test]
fn new_certificates_are_used_without_a_restart_and_hurt_no_connection() {
    let server = Server::builder().security(Security::Mutual).start();
    let old = server.certs().unwrap().clone();
    let client = server.client();
    let mut watched = Watch::open(&client);
    watched.create(watch("a"));
    let dir = tempfile::tempdir().unwrap();
    let new = Certs::create(dir.path());
    let before = old.client_config(true, &["h2"]);
    // Key first: between the two the pair does not fit, and the old pair serves on.
    fs::copy(new.pair("server").1, old.pair("server").1).unwrap();
    assert!(serves(&target(&server, before.clone())));
    fs::copy(new.pair("server").0, old.pair("server").0).unwrap();
    fs::copy(new.ca(), old.ca()).unwrap();
    let after = target(&server, new.client_config(true, &["h2"]));
    assert!(serves(&after));
    assert!(!serves(&target(&server, before)), "the old authority is gone");
    Client::connect(&after).unwrap().call(&put("a", "1"));
    assert_eq!(watched.events().events.len(), 1);
    let told = server.log().matches("TLS files have changed and are used from now on").count();
    assert!((1..=2).contains(&told), "{}", server.log());
}

#[test]
fn auto_tls_makes_a_certificate_that_clients_can_use_and_keeps_it() {
    let mut server = Server::builder().flag("--auto-tls").prepare();
    let url = format!("https://127.0.0.1:{}", server.ports().client);
    server.add_flag(format!("--listen-client-urls={url}"));
    server.add_flag(format!("--advertise-client-urls={url}"));
    server.spawn();
    let ready = |server: &Server, times| {
        until("the server to be ready", || {
            (server.log().matches("ready to serve client requests").count() == times).then_some(())
        });
    };
    ready(&server, 1);
    let etcdctl = |name: &str, flags: &[&str], args: &[&str]| {
        let mut command = Command::new(oracle(name));
        command.env("ETCDCTL_API", "3").arg(format!("--endpoints={url}")).args(flags).args(args);
        Running::start(command, "").finish().text()
    };
    const BLIND: [&str; 2] = ["--insecure-transport=false", "--insecure-skip-tls-verify"];
    assert_eq!(etcdctl("etcdctl", &BLIND, &["put", "a", "1"]), "OK\n");
    assert_eq!(etcdctl("etcdctl34", &BLIND, &["get", "a"]), "a\n1\n");
    let cert = server.data_dir().join("fixtures/client/cert.pem");
    let made = fs::read(&cert).unwrap();
    server.terminate();
    server.spawn();
    ready(&server, 2);
    assert_eq!(fs::read(&cert).unwrap(), made);
    assert_eq!(etcdctl("etcdctl", &[&format!("--cacert={}", cert.display())], &["get", "a"]), "a\n1\n");
}
