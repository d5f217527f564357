//! A certificate authority with a server and a client certificate, fresh for every test.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose as Usage, IsCa, KeyPair,
    KeyUsagePurpose,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};

/// PEM files in a directory.
#[derive(Clone, Debug)]
pub struct Certs {
    dir: PathBuf,
    authority: Arc<CertifiedIssuer<'static, KeyPair>>,
}

impl Certs {
    /// Makes `ca.crt`, `server.crt`, `server.key`, `client.crt` and `client.key` in `dir`. The server is 127.0.0.1 and localhost; its
    /// certificate also serves as a client's, as kubeadm's do.
    pub fn create(dir: &Path) -> Certs {
        fs::create_dir_all(dir).unwrap();
        let certs = Certs { dir: dir.to_path_buf(), authority: Arc::new(authority("test-ca")) };
        fs::write(certs.ca(), certs.authority.pem()).unwrap();
        certs.issue("server", "server", None, &[Usage::ServerAuth, Usage::ClientAuth]);
        certs.issue("client", "root", None, &[Usage::ClientAuth]);
        certs
    }

    /// Makes one more pair, `{file}.crt` and `{file}.key`.
    pub fn issue(&self, file: &str, common_name: &str, organization: Option<&str>, usages: &[Usage]) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["127.0.0.1".into(), "localhost".into()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, common_name);
        if let Some(organization) = organization {
            params.distinguished_name.push(DnType::OrganizationName, organization);
        }
        params.extended_key_usages = usages.to_vec();
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        let cert = params.signed_by(&key, &self.authority).unwrap();
        let (cert_file, key_file) = self.pair(file);
        fs::write(cert_file, cert.pem()).unwrap();
        fs::write(key_file, key.serialize_pem()).unwrap();
    }

    /// The authority.
    pub fn ca(&self) -> PathBuf {
        self.dir.join("ca.crt")
    }

    /// Certificate and key of `server`, `client`, or what else was issued.
    pub fn pair(&self, name: &str) -> (PathBuf, PathBuf) {
        (self.dir.join(format!("{name}.crt")), self.dir.join(format!("{name}.key")))
    }

    /// A client that trusts the authority, with the client certificate if `mutual`, offering `alpn`.
    pub fn client_config(&self, mutual: bool, alpn: &[&str]) -> Arc<ClientConfig> {
        self.client_config_of(rustls::ALL_VERSIONS, mutual, alpn)
    }

    /// The same, with these versions of TLS only.
    pub fn client_config_of(
        &self,
        versions: &[&'static SupportedProtocolVersion],
        mutual: bool,
        alpn: &[&str],
    ) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(self.ca()).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder =
            ClientConfig::builder_with_provider(provider).with_protocol_versions(versions).unwrap().with_root_certificates(roots);
        let mut config = if mutual {
            let (cert, key) = self.pair("client");
            let chain = vec![CertificateDer::from_pem_file(cert).unwrap()];
            builder.with_client_auth_cert(chain, PrivateKeyDer::from_pem_file(key).unwrap()).unwrap()
        } else {
            builder.with_no_client_auth()
        };
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        Arc::new(config)
    }
}

fn authority(name: &str) -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}
