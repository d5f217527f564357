//! TLS of the listeners. In: the files of a [`Tls`], a plaintext stream. Out: a stream, what its client wants to speak, and the common name
//! of a verified client.
//!
//! The files are looked at before each handshake and read again when they changed, so that certificates, keys, authorities and
//! revocations are renewed without a restart. If the new ones do not make a working whole, the old ones stay in use and
//! the log says why: renewal writes a certificate and its key one after the other, and between the two no client should be turned
//! away. What was revoked stays revoked.

mod auto;
mod clients;
mod files;

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Arc, Mutex};

use rustls::{CertificateError, InvalidMessage, ServerConfig};

use super::front::Protocol;
use super::stream::Stream;
use crate::config::Tls;
use crate::error::Fault;

pub use auto::with_auto_certificate;

/// Makes TLS of plaintext streams.
pub struct TlsAcceptor {
    tls: Tls,
    loaded: Mutex<Loaded>,
}

struct Loaded {
    /// The files as they were when they were last read, well or not.
    stamps: Vec<Option<Stamp>>,
    config: Arc<ServerConfig>,
}

/// Tells a file from its earlier self.
#[derive(PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    length: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

/// A stream whose handshake, if it needs one, is done.
pub struct Secured {
    /// Plaintext.
    pub stream: Stream,
    /// Whether there is TLS below it.
    pub tls: bool,
    /// What ALPN settled on.
    pub protocol: Protocol,
    /// The client's verified common name.
    pub common_name: Option<String>,
}

impl TlsAcceptor {
    /// Reads the files. The fault names the file and what is wrong with it.
    pub fn new(tls: &Tls) -> Result<Arc<TlsAcceptor>, Fault> {
        let stamps = stamps(tls);
        let config = files::server_config(tls).map_err(Fault::new)?;
        Ok(Arc::new(TlsAcceptor { tls: tls.clone(), loaded: Mutex::new(Loaded { stamps, config }) }))
    }

    /// Shakes hands.
    pub async fn accept(self: Arc<Self>, stream: Stream) -> io::Result<Secured> {
        // Files are looked at where blocking is allowed: the disk may be stalled.
        let acceptor = self.clone();
        let config = smol::unblock(move || acceptor.current()).await;
        let stream = futures_rustls::TlsAcceptor::from(config).accept(stream).await?;
        let connection = stream.get_ref().1;
        let protocol = match connection.alpn_protocol() {
            Some(b"h2") => Protocol::Http2,
            Some(_) => Protocol::Http1,
            None => Protocol::Unsaid,
        };
        let common_name = connection.peer_certificates().and_then(|chain| clients::common_name(chain.first()?));
        Ok(Secured { stream: Stream::new(stream), tls: true, protocol, common_name })
    }

    /// The configuration of the files as they are, or as they last were in order.
    fn current(&self) -> Arc<ServerConfig> {
        let mut loaded = self.loaded.lock().expect("no panic while it was held");
        let stamps = stamps(&self.tls);
        if stamps != loaded.stamps {
            match files::server_config(&self.tls) {
                Ok(config) => {
                    log::info!("TLS files have changed and are used from now on");
                    loaded.config = config;
                }
                Err(why) => log::error!("TLS files have changed, but the old ones stay in use: {why}"),
            }
            loaded.stamps = stamps;
        }
        loaded.config.clone()
    }
}

/// Why a handshake has failed, in words for whoever runs the server.
pub fn reason(error: &io::Error) -> String {
    use CertificateError as Bad;
    let Some(cause) = error.get_ref().and_then(|cause| cause.downcast_ref::<rustls::Error>()) else { return error.to_string() };
    match cause {
        rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType) => "the client does not speak TLS".into(),
        rustls::Error::NoCertificatesPresented => "the client shows no certificate".into(),
        rustls::Error::AlertReceived(alert) => format!("the client has ended the handshake: {alert:?}"),
        rustls::Error::InvalidCertificate(Bad::Revoked) => "the client's certificate is revoked".into(),
        rustls::Error::InvalidCertificate(Bad::UnknownIssuer | Bad::BadSignature) => {
            "the client's certificate comes from no authority of --trusted-ca-file".into()
        }
        rustls::Error::InvalidCertificate(Bad::Expired | Bad::ExpiredContext { .. }) => {
            "the client's certificate has expired, if our clock is right".into()
        }
        rustls::Error::InvalidCertificate(Bad::NotValidYet | Bad::NotValidYetContext { .. }) => {
            "the client's certificate is not valid yet, if our clock is right".into()
        }
        rustls::Error::InvalidCertificate(Bad::Other(why)) => why.to_string(),
        cause => cause.to_string(),
    }
}

fn stamps(tls: &Tls) -> Vec<Option<Stamp>> {
    let files = [&tls.cert_file, &tls.key_file, &tls.trusted_ca_file, &tls.crl_file];
    files.into_iter().map(|file| file.as_deref().and_then(stamp)).collect()
}

fn stamp(path: &Path) -> Option<Stamp> {
    let metadata = fs::metadata(path).ok()?;
    Some(Stamp {
        device: metadata.dev(),
        inode: metadata.ino(),
        length: metadata.len(),
        modified: (metadata.mtime(), metadata.mtime_nsec()),
        changed: (metadata.ctime(), metadata.ctime_nsec()),
    })
}

#[cfg(test)]
pub(super) mod tests;
