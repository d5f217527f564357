//! The TLS flags. Files are opened by whoever serves, again for each handshake; here it is only checked that the flags fit together.

use super::check::{AllUrls, path};
use super::table::LowArgs;
use super::url::Url;
use super::value::{List, quote};
use super::{Notice, Tls, TlsVersion};

/// The suites that are offered, in Go's names.
const OFFERED: [&str; 6] = [
    "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
    "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384",
    "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256",
    "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
    "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384",
    "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256",
];

/// Names that Go knows besides: of TLS 1.3, where there is no choice, and of suites too weak to be offered.
const KNOWN: [&str; 19] = [
    "TLS_AES_128_GCM_SHA256",
    "TLS_AES_256_GCM_SHA384",
    "TLS_CHACHA20_POLY1305_SHA256",
    "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA256",
    "TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA",
    "TLS_ECDHE_ECDSA_WITH_RC4_128_SHA",
    "TLS_ECDHE_RSA_WITH_3DES_EDE_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA256",
    "TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_RC4_128_SHA",
    "TLS_RSA_WITH_3DES_EDE_CBC_SHA",
    "TLS_RSA_WITH_AES_128_CBC_SHA",
    "TLS_RSA_WITH_AES_128_CBC_SHA256",
    "TLS_RSA_WITH_AES_128_GCM_SHA256",
    "TLS_RSA_WITH_AES_256_CBC_SHA",
    "TLS_RSA_WITH_AES_256_GCM_SHA384",
    "TLS_RSA_WITH_RC4_128_SHA",
];

/// The lowest and the highest version.
pub fn versions(low: &LowArgs) -> Result<(TlsVersion, TlsVersion), String> {
    let (min_text, max_text) = (low.tls_min_version.as_deref().unwrap_or("TLS1.2"), low.tls_max_version.as_deref().unwrap_or(""));
    let min = version(min_text)?.unwrap_or(TlsVersion::Tls12);
    let max = version(max_text)?.unwrap_or(TlsVersion::Tls13);
    if min > max {
        return Err(format!("min version ({min_text}) is greater than max version ({max_text})"));
    }
    if min == TlsVersion::Tls13 && !suites(low).is_empty() {
        return Err("cipher suites cannot be configured when only TLS1.3 is enabled".into());
    }
    Ok((min, max))
}

fn version(text: &str) -> Result<Option<TlsVersion>, String> {
    match text {
        "" => Ok(None),
        "TLS1.2" => Ok(Some(TlsVersion::Tls12)),
        "TLS1.3" => Ok(Some(TlsVersion::Tls13)),
        _ => Err(format!("unexpected TLS version {} (must be one of: TLS1.2, TLS1.3)", quote(text))),
    }
}

fn suites(low: &LowArgs) -> &[String] {
    low.cipher_suites.as_ref().map_or(&[], |List(suites)| suites)
}

/// The suites to offer.
fn cipher_suites(low: &LowArgs, notices: &mut Vec<Notice>) -> Result<Vec<String>, String> {
    let mut offered = Vec::new();
    for given in suites(low) {
        let name = match given.as_str() {
            "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305" | "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305" => format!("{given}_SHA256"),
            _ => given.clone(),
        };
        if OFFERED.contains(&name.as_str()) {
            offered.push(name);
        } else if KNOWN.contains(&name.as_str()) {
            notices.push(Notice::warn("TLS cipher suite is not offered here").with("cipher-suite", &name));
        } else {
            return Err(format!("unexpected TLS cipher suite {}", quote(given)));
        }
    }
    if offered.is_empty() && !suites(low).is_empty() {
        return Err(format!("--cipher-suites names none that is offered here; there are {}", OFFERED.join(", ")));
    }
    Ok(offered)
}

/// TLS for clients and for members.
pub fn both(low: &LowArgs, versions: (TlsVersion, TlsVersion), notices: &mut Vec<Notice>) -> Result<(Tls, Tls), String> {
    let names = |list: &Option<List>| list.clone().unwrap_or_default().0;
    let years = low.self_signed_cert_validity.filter(|years| *years > 0).unwrap_or(1);
    let years = u32::try_from(years).ok().filter(|years| *years <= 1000);
    let years = years.ok_or("--self-signed-cert-validity must be at most 1000 years")?;
    let cipher_suites = cipher_suites(low, notices)?;
    let common = Tls {
        self_signed_validity_years: years,
        cipher_suites,
        min_version: versions.0,
        max_version: versions.1,
        ..Tls::default()
    };
    let client = Tls {
        cert_file: path(&low.cert_file),
        key_file: path(&low.key_file),
        client_cert_file: path(&low.client_cert_file),
        client_key_file: path(&low.client_key_file),
        trusted_ca_file: path(&low.trusted_ca_file),
        client_cert_auth: low.client_cert_auth.unwrap_or(false),
        crl_file: path(&low.client_crl_file),
        auto_tls: low.auto_tls.unwrap_or(false),
        allowed_hostnames: names(&low.client_cert_allowed_hostname),
        allowed_cns: names(&low.client_cert_allowed_cn),
        ..common.clone()
    };
    let peer = Tls {
        cert_file: path(&low.peer_cert_file),
        key_file: path(&low.peer_key_file),
        client_cert_file: path(&low.peer_client_cert_file),
        client_key_file: path(&low.peer_client_key_file),
        trusted_ca_file: path(&low.peer_trusted_ca_file),
        client_cert_auth: low.peer_client_cert_auth.unwrap_or(false),
        crl_file: path(&low.peer_crl_file),
        auto_tls: low.peer_auto_tls.unwrap_or(false),
        allowed_hostnames: names(&low.peer_cert_allowed_hostname),
        allowed_cns: names(&low.peer_cert_allowed_cn),
        skip_client_san_verification: low.peer_skip_client_san_verification.unwrap_or(false),
        ..common
    };
    Ok((settle(client, "client", notices), settle(peer, "peer", notices)))
}

/// What follows from the flags without a word: files that are given beat `--auto-tls`, and authorities make certificates compulsory.
fn settle(mut tls: Tls, whose: &str, notices: &mut Vec<Notice>) -> Tls {
    if tls.auto_tls && has_files(&tls) {
        notices.push(Notice::warn(&format!("ignoring {whose} auto TLS since certs given")));
        tls.auto_tls = false;
    }
    let prefix = if whose == "peer" { "peer" } else { "client" };
    let flags = [
        ("crl-file", tls.crl_file.is_some()),
        ("cert-allowed-hostname", !tls.allowed_hostnames.is_empty()),
        ("cert-allowed-cn", !tls.allowed_cns.is_empty()),
    ];
    // As in etcd; but whoever gives such a flag takes the door for shut.
    for (flag, _) in flags.iter().filter(|(_, given)| *given && tls.trusted_ca_file.is_none()) {
        let text = format!("--{prefix}-{flag} has no effect: certificates are not asked for without authorities to trust");
        notices.push(Notice::warn(&text));
    }
    tls.client_cert_auth |= tls.trusted_ca_file.is_some();
    tls
}

fn has_files(tls: &Tls) -> bool {
    tls.cert_file.is_some() || tls.key_file.is_some()
}

/// There is a certificate, or will be.
fn presented(tls: &Tls) -> bool {
    has_files(tls) || tls.auto_tls
}

/// Checks the flags against the URLs they are for, in etcd's order.
pub fn check_urls(low: &LowArgs, client: &Tls, peer: &Tls, urls: &AllUrls, notices: &mut Vec<Notice>) -> Result<(), String> {
    let client_urls: Vec<&Url> = urls.listen_client.iter().chain(&urls.listen_client_http).collect();
    let peer_urls: Vec<&Url> = urls.listen_peer.iter().collect();
    ignored(&client_urls, client, low.client_cert_auth == Some(true), ("client-url", "http or unix", ""), notices);
    ignored(&peer_urls, peer, low.peer_client_cert_auth == Some(true), ("peer-url", "HTTP", "peer-"), notices);
    if let Some(url) = peer_urls.iter().find(|url| url.scheme.tls()) {
        if !presented(peer) {
            return Err(format!("cannot listen on TLS for {}: KeyFile and CertFile are not presented", url.host));
        }
        check_files(peer, "peer-")?;
    }
    if let Some(url) = client_urls.iter().find(|url| url.scheme.tls()) {
        if !presented(client) {
            let text = "TLS key/cert (--cert-file, --key-file) must be provided for client url";
            return Err(format!("{text} {} with HTTPS scheme", url.text));
        }
        check_files(client, "")?;
    }
    if urls.listen_metrics.iter().any(|url| url.scheme.tls()) {
        if !presented(client) {
            return Err("client TLS key/cert (--cert-file, --key-file) must be provided for metrics secure url".into());
        }
        check_files(client, "")?;
    }
    Ok(())
}

/// Notes that flags do nothing for a URL without TLS.
fn ignored(urls: &[&Url], tls: &Tls, auth: bool, (key, plain, prefix): (&'static str, &str, &str), notices: &mut Vec<Notice>) {
    for url in urls.iter().filter(|url| !url.scheme.tls()) {
        if has_files(tls) {
            let text = format!("scheme is {plain} while key and cert files are present; ignoring key and cert files");
            notices.push(Notice::warn(&text).with(key, &url.text));
        }
        if auth {
            let text =
                format!("scheme is {plain} while --{prefix}client-cert-auth is enabled; ignoring client cert auth for this URL");
            notices.push(Notice::warn(&text).with(key, &url.text));
        }
    }
}

fn check_files(tls: &Tls, prefix: &str) -> Result<(), String> {
    let shown = |file: &Option<std::path::PathBuf>| file.as_ref().map(|file| file.display().to_string()).unwrap_or_default();
    if !tls.auto_tls && (tls.cert_file.is_none() || tls.key_file.is_none()) {
        let (key, cert) = (shown(&tls.key_file), shown(&tls.cert_file));
        return Err(format!("KeyFile and CertFile must both be present[key: {key}, cert: {cert}]"));
    }
    if tls.client_cert_file.is_some() != tls.client_key_file.is_some() {
        let (key, cert) = (shown(&tls.client_key_file), shown(&tls.client_cert_file));
        return Err(format!("ClientKeyFile and ClientCertFile must both be present or both absent: key: {key}, cert: {cert}]"));
    }
    if !tls.allowed_cns.is_empty() && !tls.allowed_hostnames.is_empty() {
        let (cns, hosts) = (list(&tls.allowed_cns), list(&tls.allowed_hostnames));
        return Err(format!("AllowedCNs and AllowedHostnames are mutually exclusive (cns={cns}, hostnames={hosts})"));
    }
    if tls.client_cert_auth && tls.trusted_ca_file.is_none() && !tls.auto_tls {
        return Err(format!("--{prefix}client-cert-auth needs --{prefix}trusted-ca-file: there is nobody to trust without it"));
    }
    Ok(())
}

/// A list as Go's `%q` prints it.
fn list(names: &[String]) -> String {
    format!("[{}]", names.iter().map(|name| quote(name)).collect::<Vec<_>>().join(" "))
}
