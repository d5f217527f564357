//! Which clients may come: certificates of our authorities, not revoked, and with an allowed name if names are given.

use std::collections::HashSet;
use std::sync::Arc;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::client::verify_server_name;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, SignatureScheme};
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::revocation_list::CertificateRevocationList;

/// Checks what the library checks, and then our own rules.
#[derive(Debug)]
pub struct ClientRules {
    inner: Arc<dyn ClientCertVerifier>,
    revoked: HashSet<Vec<u8>>,
    allowed_cns: Vec<String>,
    allowed_hostnames: Vec<ServerName<'static>>,
}

impl ClientRules {
    /// Rules on top of a verifier's. Empty lists allow all.
    pub fn new(
        inner: Arc<dyn ClientCertVerifier>,
        revoked: HashSet<Vec<u8>>,
        allowed_cns: &[String],
        allowed_hostnames: &[String],
    ) -> Result<ClientRules, String> {
        let names = allowed_hostnames.iter().map(|name| {
            ServerName::try_from(name.clone()).map_err(|_| format!("{name:?} is neither a host name nor an IP address"))
        });
        let allowed_hostnames = names.collect::<Result<_, _>>()?;
        Ok(ClientRules { inner, revoked, allowed_cns: allowed_cns.to_vec(), allowed_hostnames })
    }

    fn has_allowed_name(&self, certificate: &CertificateDer<'_>) -> Result<bool, Error> {
        if !self.allowed_cns.is_empty() {
            return Ok(common_name(certificate).is_some_and(|name| self.allowed_cns.contains(&name)));
        }
        if !self.allowed_hostnames.is_empty() {
            let parsed = ParsedCertificate::try_from(certificate)?;
            return Ok(self.allowed_hostnames.iter().any(|name| verify_server_name(&parsed, name).is_ok()));
        }
        Ok(true)
    }
}

impl ClientCertVerifier for ClientRules {
    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.inner.verify_client_cert(end_entity, intermediates, now)?;
        for certificate in std::iter::once(end_entity).chain(intermediates) {
            if !self.revoked.is_empty() && self.revoked.contains(&serial(certificate)?) {
                return Err(CertificateError::Revoked.into());
            }
        }
        if !self.has_allowed_name(end_entity)? {
            return Err(refused("client certificate authentication failed: its name is not an allowed one"));
        }
        Ok(verified)
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.inner.root_hint_subjects()
    }

    fn client_auth_mandatory(&self) -> bool {
        true
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

fn refused(why: &'static str) -> Error {
    CertificateError::Other(OtherError(Arc::from(Box::<dyn std::error::Error + Send + Sync>::from(why)))).into()
}

/// The common name of a certificate, if it has one. The last, if it has more, as in Go.
pub fn common_name(certificate: &CertificateDer<'_>) -> Option<String> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    let name = parsed.subject().iter_common_name().last()?.as_str().ok()?;
    (!name.is_empty()).then(|| name.to_owned())
}

fn serial(certificate: &CertificateDer<'_>) -> Result<Vec<u8>, Error> {
    let (_, parsed) = X509Certificate::from_der(certificate).map_err(|_| CertificateError::BadEncoding)?;
    Ok(without_leading_zeros(parsed.raw_serial()))
}

/// The serial numbers on the lists of a file, PEM or DER. As etcd, we look at the numbers alone: whoever may write the file
/// may turn clients away.
pub fn revoked_serials(file: &[u8]) -> Result<HashSet<Vec<u8>>, String> {
    let is_pem = file.trim_ascii_start().starts_with(b"-----BEGIN");
    let lists = if is_pem {
        CertificateRevocationListDer::pem_slice_iter(file).collect::<Result<_, _>>().map_err(|error| error.to_string())?
    } else {
        vec![CertificateRevocationListDer::from(file)]
    };
    if lists.is_empty() {
        return Err("it holds other PEM sections only".into());
    }
    let mut serials = HashSet::new();
    for list in &lists {
        let (_, list) = CertificateRevocationList::from_der(list).map_err(|error| error.to_string())?;
        serials.extend(list.iter_revoked_certificates().map(|revoked| without_leading_zeros(revoked.raw_serial())));
    }
    Ok(serials)
}

/// DER puts a zero before numbers whose first bit is set.
fn without_leading_zeros(number: &[u8]) -> Vec<u8> {
    number.iter().copied().skip_while(|byte| *byte == 0).collect()
}
