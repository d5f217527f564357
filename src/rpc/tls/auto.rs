//! `--auto-tls`: a self-signed certificate below the data directory, made once and used again until it expires.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose,
};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::files;
use crate::config::Tls;
use crate::error::Fault;

/// 2025-01-01. A board without a clock battery starts in 1970; a certificate counted from there would be over before it is used.
const NOT_EARLIER: Duration = Duration::from_secs(1_735_689_600);
const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);

/// `tls` itself, or with a certificate of our own if it asks for one and names none. `dir` holds it: `<data-dir>/fixtures/client`
/// for clients, `.../peer` for peers. `hosts` are the names and addresses it is for.
pub fn with_auto_certificate(tls: &Tls, dir: &Path, hosts: &[String]) -> Result<Tls, Fault> {
    if !tls.auto_tls {
        return Ok(tls.clone());
    }
    if tls.cert_file.is_some() || tls.key_file.is_some() {
        log::warn!("--auto-tls is ignored: a certificate is given");
        return Ok(tls.clone());
    }
    let files = Files { cert: dir.join("cert.pem"), key: dir.join("key.pem") };
    if !files.are_usable() {
        let years = tls.self_signed_validity_years;
        files
            .create(dir, hosts, years)
            .map_err(|why| Fault::new(format!("cannot make the certificate of --auto-tls in {}: {why}", dir.display())))?;
        log::warn!("made a self-signed certificate: {}, for {}, {years} year(s)", files.cert.display(), hosts.join(", "));
    }
    Ok(Tls { cert_file: Some(files.cert), key_file: Some(files.key), ..tls.clone() })
}

struct Files {
    cert: PathBuf,
    key: PathBuf,
}

impl Files {
    /// Whether both are there, read well and have time left.
    fn are_usable(&self) -> bool {
        if !self.cert.exists() && !self.key.exists() {
            return false;
        }
        match self.expiry() {
            Ok(expiry) if expiry > now() => true,
            Ok(_) => {
                log::warn!("the certificate in {} has expired; a new one is made", self.cert.display());
                false
            }
            Err(why) => {
                log::warn!("the certificate of --auto-tls is made anew: {why}");
                false
            }
        }
    }

    fn expiry(&self) -> Result<Duration, String> {
        files::private_key(&self.key)?;
        let chain = files::certificates("certificate", &self.cert)?;
        let (_, parsed) = X509Certificate::from_der(&chain[0]).map_err(|error| error.to_string())?;
        Ok(Duration::from_secs(u64::try_from(parsed.validity().not_after.timestamp()).unwrap_or(0)))
    }

    fn create(&self, dir: &Path, hosts: &[String], years: u32) -> Result<(), String> {
        let key = KeyPair::generate().map_err(|error| error.to_string())?;
        let certificate = params(hosts, years)?.self_signed(&key).map_err(|error| error.to_string())?;
        DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(|error| error.to_string())?;
        // The key first: a certificate without its key would be taken for a damaged pair.
        replace(&self.key, key.serialize_pem().as_bytes(), 0o600).map_err(|error| error.to_string())?;
        replace(&self.cert, certificate.pem().as_bytes(), 0o644).map_err(|error| error.to_string())
    }
}

fn params(hosts: &[String], years: u32) -> Result<CertificateParams, String> {
    let mut params = CertificateParams::new(hosts).map_err(|error| error.to_string())?;
    let mut name = DistinguishedName::new();
    name.push(DnType::OrganizationName, "etcd");
    params.distinguished_name = name;
    // Clients that are told to trust this file take it for an authority.
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![
        KeyUsagePurpose::DigitalSignature,
        KeyUsagePurpose::KeyEncipherment,
        KeyUsagePurpose::KeyCertSign,
        KeyUsagePurpose::CrlSign,
    ];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    // Valid from the beginning of time, for clients whose clock is not set yet.
    params.not_before = UNIX_EPOCH.into();
    params.not_after = (UNIX_EPOCH + now().max(NOT_EARLIER) + YEAR * years.max(1)).into();
    Ok(params)
}

fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// Puts a file in place whole.
fn replace(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let new = path.with_extension("new");
    let _ = fs::remove_file(&new);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&new)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(new, path)
}
