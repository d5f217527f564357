//! From files to a TLS configuration. Every error names the flag, the file and what is wrong with it.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::{Error as PemError, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::version::{TLS12, TLS13};
use rustls::{CipherSuite, RootCertStore, ServerConfig, SupportedProtocolVersion};

use super::clients::{ClientRules, revoked_serials};
use crate::config::{Tls, TlsVersion};

/// The configuration of a listener. The error is the whole story, for the log.
pub fn server_config(tls: &Tls) -> Result<Arc<ServerConfig>, String> {
    let (Some(cert_file), Some(key_file)) = (&tls.cert_file, &tls.key_file) else {
        return Err("TLS is asked for, but there is no certificate: give --cert-file and --key-file, or --auto-tls".into());
    };
    let chain = certificates("certificate", cert_file)?;
    let key = private_key(key_file)?;
    let provider = Arc::new(provider(&tls.cipher_suites)?);
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&versions(tls)?)
        .map_err(|error| format!("no TLS with these versions and cipher suites: {error}"))?;
    let builder = match client_rules(tls, provider)? {
        Some(rules) => builder.with_client_cert_verifier(Arc::new(rules)),
        None => builder.with_no_client_auth(),
    };
    let mut config = builder.with_single_cert(chain, key).map_err(|error| match error {
        rustls::Error::InconsistentKeys(_) => {
            format!("the key in {} does not belong to the certificate in {}", key_file.display(), cert_file.display())
        }
        error => format!("cannot use the certificate in {}: {error}", cert_file.display()),
    })?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    // A resumed session would skip the look at the client's certificate, which may have been revoked since.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

fn client_rules(tls: &Tls, provider: Arc<CryptoProvider>) -> Result<Option<ClientRules>, String> {
    // As in etcd: authorities alone are enough to ask for certificates of theirs.
    let Some(ca_file) = &tls.trusted_ca_file else {
        if tls.client_cert_auth {
            return Err(
                "--client-cert-auth needs the authorities that clients' certificates come from: give --trusted-ca-file".into()
            );
        }
        return Ok(None);
    };
    let mut roots = RootCertStore::empty();
    for authority in certificates("authority", ca_file)? {
        roots.add(authority).map_err(|error| format!("an authority in {} cannot be used: {error}", ca_file.display()))?;
    }
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
        .build()
        .map_err(|error| format!("the authorities in {} cannot be used: {error}", ca_file.display()))?;
    let revoked = match &tls.crl_file {
        Some(file) => revoked_serials(&read("revocation list", file)?)
            .map_err(|why| format!("{} is no certificate revocation list: {why}", file.display()))?,
        None => Default::default(),
    };
    ClientRules::new(verifier, revoked, &tls.allowed_cns, &tls.allowed_hostnames).map(Some)
}

/// All certificates of a PEM file, at least one.
pub fn certificates(what: &str, path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let text = read(what, path)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    match found {
        Ok(found) if found.is_empty() => Err(format!("{} holds no PEM certificate", path.display())),
        Ok(found) => Ok(found),
        Err(error) => Err(format!("{} is damaged PEM: {error}", path.display())),
    }
}

/// The private key of a PEM file.
pub fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, String> {
    let text = read("private key", path)?;
    PrivateKeyDer::from_pem_slice(&text).map_err(|error| match error {
        PemError::NoItemsFound => format!("{} holds no PEM private key (an encrypted one cannot be used)", path.display()),
        error => format!("{} is damaged PEM: {error}", path.display()),
    })
}

fn read(what: &str, path: &Path) -> Result<Vec<u8>, String> {
    let bytes = fs::read(path).map_err(|error| format!("cannot read the {what} file {}: {error}", path.display()))?;
    if bytes.is_empty() {
        return Err(format!("the {what} file {} is empty", path.display()));
    }
    Ok(bytes)
}

fn versions(tls: &Tls) -> Result<Vec<&'static SupportedProtocolVersion>, String> {
    if tls.min_version > tls.max_version {
        return Err("--tls-min-version is above --tls-max-version".into());
    }
    let all = [(TlsVersion::Tls12, &TLS12), (TlsVersion::Tls13, &TLS13)];
    let wanted = all.into_iter().filter(|(version, _)| (tls.min_version..=tls.max_version).contains(version));
    Ok(wanted.map(|(_, version)| version).collect())
}

/// The suites that were asked for, and those of TLS 1.3, which cannot be chosen. None asked for: all.
fn provider(names: &[String]) -> Result<CryptoProvider, String> {
    let mut provider = ring::default_provider();
    if !names.is_empty() {
        let wanted: Vec<CipherSuite> = names.iter().map(|name| suite(name)).collect::<Result<_, _>>()?;
        provider.cipher_suites.retain(|suite| suite.tls13().is_some() || wanted.contains(&suite.suite()));
    }
    Ok(provider)
}

/// Go's name of a suite to the suite.
fn suite(name: &str) -> Result<CipherSuite, String> {
    Ok(match name {
        "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256" => CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
        "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384" => CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
        "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305" | "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256" => {
            CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256
        }
        "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256" => CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
        "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384" => CipherSuite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
        "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305" | "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256" => {
            CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256
        }
        // Always there with TLS 1.3.
        "TLS_AES_128_GCM_SHA256" => CipherSuite::TLS13_AES_128_GCM_SHA256,
        "TLS_AES_256_GCM_SHA384" => CipherSuite::TLS13_AES_256_GCM_SHA384,
        "TLS_CHACHA20_POLY1305_SHA256" => CipherSuite::TLS13_CHACHA20_POLY1305_SHA256,
        _ => {
            return Err(format!(
                "cipher suite {name} is not supported: only those with ECDHE and AES-GCM or ChaCha20-Poly1305 are; \
                 take it out of --cipher-suites"
            ));
        }
    })
}
