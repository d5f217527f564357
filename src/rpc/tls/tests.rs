use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures_lite::{AsyncReadExt, AsyncWriteExt};
use futures_rustls::TlsConnector;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType, IsCa, Issuer, KeyIdMethod, KeyPair,
    RevokedCertParams, SerialNumber, date_time_ymd,
};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::version::{TLS12, TLS13};
use rustls::{CipherSuite, ClientConfig, DigitallySignedStruct, SignatureScheme, SupportedProtocolVersion};
use tempfile::TempDir;

use super::*;
use crate::config::TlsVersion;
use crate::rpc::tests::rig::pipe;

/// An authority that signs what a test needs.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

/// A certificate and its key, PEM.
pub struct Pair {
    pub cert: String,
    pub key: String,
}

impl Authority {
    pub fn new() -> Authority {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Authority { issuer: Issuer::new(params, key), pem }
    }

    pub fn sign(&self, common_name: &str, serial: u64, names: &[&str]) -> Pair {
        let mut params = CertificateParams::new(names.iter().map(|name| name.to_string()).collect::<Vec<_>>()).unwrap();
        params.distinguished_name.push(DnType::CommonName, common_name);
        params.serial_number = Some(SerialNumber::from(serial));
        let key = KeyPair::generate().unwrap();
        let cert = params.signed_by(&key, &self.issuer).unwrap().pem();
        Pair { cert, key: key.serialize_pem() }
    }

    fn revoke(&self, serials: &[u64]) -> rcgen::CertificateRevocationList {
        let revoked = |serial: &u64| RevokedCertParams {
            serial_number: SerialNumber::from(*serial),
            revocation_time: date_time_ymd(2024, 1, 1),
            reason_code: None,
            invalidity_date: None,
        };
        let params = CertificateRevocationListParams {
            this_update: date_time_ymd(2024, 1, 1),
            next_update: date_time_ymd(2034, 1, 1),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: serials.iter().map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        params.signed_by(&self.issuer).unwrap()
    }
}

/// A directory with the files of a server.
pub struct Files {
    pub dir: TempDir,
    pub authority: Authority,
}

impl Files {
    pub fn new() -> Files {
        let files = Files { dir: tempfile::tempdir().unwrap(), authority: Authority::new() };
        files.write_pair(&files.authority.sign("server", 1, &["localhost"]));
        files.write("ca.pem", &files.authority.pem);
        files
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Writes as renewal tools do: a new file takes the old one's place.
    fn write(&self, name: &str, text: impl AsRef<[u8]>) {
        fs::write(self.path("new"), text).unwrap();
        fs::rename(self.path("new"), self.path(name)).unwrap();
    }

    fn write_pair(&self, pair: &Pair) {
        self.write("cert.pem", &pair.cert);
        self.write("key.pem", &pair.key);
    }

    pub fn server(&self) -> Tls {
        Tls {
            cert_file: Some(self.path("cert.pem")),
            key_file: Some(self.path("key.pem")),
            min_version: TlsVersion::Tls12,
            max_version: TlsVersion::Tls13,
            ..Tls::default()
        }
    }

    pub fn mutual(&self) -> Tls {
        Tls { trusted_ca_file: Some(self.path("ca.pem")), client_cert_auth: true, ..self.server() }
    }
}

/// Takes any server, and remembers nothing: the tests look at the certificate themselves.
#[derive(Debug)]
struct TrustAll(Arc<CryptoProvider>);

impl ServerCertVerifier for TrustAll {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// A client's side.
pub struct Client<'a> {
    pub pair: Option<&'a Pair>,
    pub versions: Vec<&'static SupportedProtocolVersion>,
    pub suites: Option<Vec<CipherSuite>>,
    pub alpn: &'a [&'a [u8]],
}

impl Default for Client<'_> {
    fn default() -> Self {
        Client { pair: None, versions: vec![&TLS12, &TLS13], suites: None, alpn: &[b"h2"] }
    }
}

impl Client<'_> {
    pub fn config(&self) -> ClientConfig {
        let mut provider = ring::default_provider();
        if let Some(suites) = &self.suites {
            provider.cipher_suites.retain(|suite| suites.contains(&suite.suite()));
        }
        let provider = Arc::new(provider);
        let builder = ClientConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&self.versions)
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(TrustAll(provider)));
        let mut config = match self.pair {
            Some(pair) => {
                let chain = vec![CertificateDer::from_pem_slice(pair.cert.as_bytes()).unwrap()];
                builder.with_client_auth_cert(chain, PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).unwrap()).unwrap()
            }
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = self.alpn.iter().map(|name| name.to_vec()).collect();
        config
    }
}

/// What a handshake came to.
struct Shaken {
    server: io::Result<Secured>,
    /// The common name of the server's certificate, if the client is content.
    client: io::Result<String>,
}

fn shake(acceptor: &Arc<TlsAcceptor>, client: Client<'_>) -> Shaken {
    let (near, far) = pipe();
    let connect = TlsConnector::from(Arc::new(client.config())).connect("localhost".try_into().unwrap(), near);
    smol::block_on(async {
        let server = acceptor.clone().accept(Stream::new(far));
        let client = async {
            let mut stream = connect.await?;
            let name = clients::common_name(&stream.get_ref().1.peer_certificates().unwrap()[0]).unwrap();
            // With TLS 1.3 a client hears of a refusal only after its own handshake is done.
            let mut byte = [0];
            stream.read_exact(&mut byte).await?;
            Ok(name)
        };
        let server = async {
            let mut secured = server.await?;
            secured.stream.write_all(b"!").await?;
            secured.stream.flush().await?;
            Ok(secured)
        };
        let (server, client) = futures_lite::future::zip(server, client).await;
        Shaken { server, client }
    })
}

fn refusal(shaken: Shaken) -> String {
    assert!(shaken.client.is_err());
    shaken.server.err().expect("the server refuses").to_string()
}

#[test]
fn a_client_of_our_authority_is_let_in_by_its_name() {
    let files = Files::new();
    let acceptor = TlsAcceptor::new(&files.mutual()).unwrap();
    let pair = files.authority.sign("apiserver", 7, &[]);
    for version in [&TLS12, &TLS13] {
        let shaken = shake(&acceptor, Client { pair: Some(&pair), versions: vec![version], ..Client::default() });
        assert_eq!(shaken.client.unwrap(), "server");
        assert_eq!(shaken.server.unwrap().common_name.as_deref(), Some("apiserver"));
    }
}

#[test]
fn clients_without_a_certificate_of_our_authority_are_refused() {
    let files = Files::new();
    let stranger = Authority::new().sign("apiserver", 7, &[]);
    // An authority alone asks for certificates, too.
    for tls in [files.mutual(), Tls { client_cert_auth: false, ..files.mutual() }] {
        let acceptor = TlsAcceptor::new(&tls).unwrap();
        for version in [&TLS12, &TLS13] {
            let versions = || vec![version];
            refusal(shake(&acceptor, Client { versions: versions(), ..Client::default() }));
            refusal(shake(&acceptor, Client { versions: versions(), pair: Some(&stranger), ..Client::default() }));
        }
    }
}

#[test]
fn without_mutual_tls_nobody_has_a_name() {
    let files = Files::new();
    let acceptor = TlsAcceptor::new(&files.server()).unwrap();
    let pair = files.authority.sign("apiserver", 7, &[]);
    assert_eq!(shake(&acceptor, Client { pair: Some(&pair), ..Client::default() }).server.unwrap().common_name, None);
}

#[test]
fn alpn_says_what_is_spoken() {
    let files = Files::new();
    let acceptor = TlsAcceptor::new(&files.server()).unwrap();
    for (alpn, protocol) in [
        (&[&b"h2"[..], b"http/1.1"][..], Protocol::Http2),
        (&[b"http/1.1", b"h2"], Protocol::Http2),
        (&[b"http/1.1"], Protocol::Http1),
        (&[], Protocol::Unsaid),
    ] {
        assert_eq!(shake(&acceptor, Client { alpn, ..Client::default() }).server.unwrap().protocol, protocol);
    }
}

#[test]
fn renewed_files_are_used_from_the_next_handshake_on() {
    let files = Files::new();
    let acceptor = TlsAcceptor::new(&files.mutual()).unwrap();
    let old = files.authority.sign("client", 7, &[]);
    let new_authority = Authority::new();
    let new = new_authority.sign("client", 7, &[]);
    let name = |pair| shake(&acceptor, Client { pair: Some(pair), ..Client::default() }).client.ok();
    assert_eq!((name(&old).as_deref(), name(&new).as_deref()), (Some("server"), None));

    files.write_pair(&files.authority.sign("renewed", 2, &["localhost"]));
    assert_eq!(name(&old).as_deref(), Some("renewed"));

    files.write("ca.pem", &new_authority.pem);
    assert_eq!((name(&old).as_deref(), name(&new).as_deref()), (None, Some("renewed")));
}

#[test]
fn files_that_do_not_fit_together_leave_the_old_ones_in_use() {
    let files = Files::new();
    let acceptor = TlsAcceptor::new(&files.server()).unwrap();
    let name = || shake(&acceptor, Client::default()).client.unwrap();
    let renewed = files.authority.sign("renewed", 2, &["localhost"]);
    // A renewal that is half done, then one that went wrong, then one that is undone.
    files.write("cert.pem", &renewed.cert);
    assert_eq!(name(), "server");
    files.write("key.pem", "-----BEGIN PRIVATE KEY-----\n");
    assert_eq!(name(), "server");
    fs::remove_file(files.path("key.pem")).unwrap();
    assert_eq!(name(), "server");
    files.write("key.pem", &renewed.key);
    assert_eq!(name(), "renewed");
}

#[test]
fn revoked_clients_are_refused_as_soon_as_the_list_says_so() {
    let files = Files::new();
    // Its first bit is set: DER puts a zero before it.
    let (one, other) = (files.authority.sign("one", 0x80, &[]), files.authority.sign("other", 2, &[]));
    let tls = Tls { crl_file: Some(files.path("crl")), ..files.mutual() };
    files.write("crl", files.authority.revoke(&[]).pem().unwrap());
    let acceptor = TlsAcceptor::new(&tls).unwrap();
    let shake = |pair| shake(&acceptor, Client { pair: Some(pair), ..Client::default() });
    assert!(shake(&one).client.is_ok());

    files.write("crl", files.authority.revoke(&[0x80, 99]).pem().unwrap());
    assert!(refusal(shake(&one)).contains("Revoked"));
    assert!(shake(&other).client.is_ok());

    // DER is read as well. A list that cannot be read leaves the last one in force.
    files.write("crl", files.authority.revoke(&[2]).der());
    assert!(shake(&one).client.is_ok());
    assert!(refusal(shake(&other)).contains("Revoked"));
    files.write("crl", "nonsense");
    assert!(refusal(shake(&other)).contains("Revoked"));
}

#[test]
fn every_handshake_looks_at_the_certificate_anew() {
    let files = Files::new();
    let acceptor = TlsAcceptor::new(&files.mutual()).unwrap();
    let pair = files.authority.sign("client", 3, &[]);
    for version in [&TLS12, &TLS13] {
        // A client that would resume its session if it could.
        let config = Arc::new(Client { pair: Some(&pair), versions: vec![version], ..Client::default() }.config());
        for _ in 0..3 {
            let (near, far) = pipe();
            let connect = TlsConnector::from(config.clone()).connect("localhost".try_into().unwrap(), near);
            let server = async {
                let mut stream = acceptor.clone().accept(Stream::new(far)).await.unwrap().stream;
                stream.write_all(b"!").await.unwrap();
                stream.flush().await.unwrap();
            };
            let client = async {
                let mut stream = connect.await.unwrap();
                stream.read_exact(&mut [0]).await.unwrap();
                stream.get_ref().1.handshake_kind()
            };
            let ((), kind) = smol::block_on(futures_lite::future::zip(server, client));
            assert_eq!(kind, Some(rustls::HandshakeKind::Full));
        }
    }
}

#[test]
fn only_allowed_names_come_in() {
    let files = Files::new();
    let alice = files.authority.sign("alice", 3, &["alice.example.com", "10.0.0.1"]);
    let bob = files.authority.sign("bob", 4, &["*.example.org"]);
    for (cns, hostnames, alice_may, bob_may) in [
        (&["alice"][..], &[][..], true, false),
        (&["carol", "bob"], &[], false, true),
        (&[], &["alice.example.com"], true, false),
        (&[], &["10.0.0.1"], true, false),
        (&[], &["x.example.org", "nobody"], false, true),
    ] {
        let owned = |names: &[&str]| names.iter().map(|name| name.to_string()).collect();
        let tls = Tls { allowed_cns: owned(cns), allowed_hostnames: owned(hostnames), ..files.mutual() };
        let acceptor = TlsAcceptor::new(&tls).unwrap();
        for (pair, may) in [(&alice, alice_may), (&bob, bob_may)] {
            let shaken = shake(&acceptor, Client { pair: Some(pair), ..Client::default() });
            assert_eq!(shaken.server.is_ok(), may, "{cns:?} {hostnames:?}");
        }
    }
}

#[test]
fn only_the_versions_and_suites_that_are_asked_for_are_served() {
    let files = Files::new();
    let accepts = |tls: &Tls, client| shake(&TlsAcceptor::new(tls).unwrap(), client).client.is_ok();
    let only = |version| Client { versions: vec![version], ..Client::default() };
    let new = Tls { min_version: TlsVersion::Tls13, ..files.server() };
    assert!(!accepts(&new, only(&TLS12)) && accepts(&new, only(&TLS13)));
    let old = Tls { max_version: TlsVersion::Tls12, ..files.server() };
    assert!(accepts(&old, only(&TLS12)) && !accepts(&old, only(&TLS13)));

    let suites = Tls { cipher_suites: vec!["TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256".into()], ..files.server() };
    let with = |suite| Client { suites: Some(vec![suite]), versions: vec![&TLS12], ..Client::default() };
    assert!(accepts(&suites, with(CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256)));
    assert!(!accepts(&suites, with(CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384)));
    assert!(accepts(&suites, only(&TLS13)));
}

#[test]
fn bad_files_are_named_with_what_is_wrong() {
    let files = Files::new();
    files.write("empty.pem", "");
    files.write("text.pem", "hello");
    files.write("cut.pem", &files.authority.pem[..100]);
    let other = files.authority.sign("other", 9, &[]);
    files.write("other-key.pem", &other.key);
    let path = |name| Some(files.path(name));
    let server = || files.server();
    for (tls, parts) in [
        (Tls { cert_file: path("no.pem"), ..server() }, ["no.pem", "No such file"]),
        (Tls { key_file: path("no.pem"), ..server() }, ["no.pem", "No such file"]),
        (Tls { cert_file: path("empty.pem"), ..server() }, ["empty.pem", "is empty"]),
        (Tls { cert_file: path("text.pem"), ..server() }, ["text.pem", "no PEM certificate"]),
        (Tls { cert_file: path("cut.pem"), ..server() }, ["cut.pem", "damaged PEM"]),
        (Tls { key_file: path("cert.pem"), ..server() }, ["cert.pem", "no PEM private key"]),
        (Tls { key_file: path("other-key.pem"), ..server() }, ["other-key.pem", "does not belong to the certificate"]),
        (Tls { cert_file: None, ..server() }, ["no certificate", "--cert-file"]),
        (Tls { client_cert_auth: true, ..server() }, ["--client-cert-auth", "--trusted-ca-file"]),
        (Tls { trusted_ca_file: path("text.pem"), ..server() }, ["text.pem", "no PEM certificate"]),
        (Tls { crl_file: path("text.pem"), ..files.mutual() }, ["text.pem", "no certificate revocation list"]),
        (Tls { crl_file: path("ca.pem"), ..files.mutual() }, ["ca.pem", "no certificate revocation list"]),
        (Tls { allowed_hostnames: vec!["a b".into()], ..files.mutual() }, ["a b", "neither"]),
        (Tls { cipher_suites: vec!["TLS_RSA_WITH_RC4_128_SHA".into()], ..server() }, ["RC4_128_SHA", "--cipher-suites"]),
        (Tls { min_version: TlsVersion::Tls13, max_version: TlsVersion::Tls12, ..server() }, ["min", "max"]),
    ] {
        let text = TlsAcceptor::new(&tls).err().unwrap_or_else(|| panic!("{parts:?} expected")).to_string();
        assert!(parts.iter().all(|part| text.contains(part)), "{text:?} should hold {parts:?}");
    }
}

#[test]
fn auto_tls_makes_a_certificate_and_keeps_it() {
    let dir = tempfile::tempdir().unwrap();
    let fixtures = dir.path().join("fixtures/client");
    let asked = Tls {
        auto_tls: true,
        self_signed_validity_years: 2,
        min_version: TlsVersion::Tls12,
        max_version: TlsVersion::Tls13,
        ..Tls::default()
    };
    let hosts = ["127.0.0.1".to_string(), "pi.local".to_string()];
    let tls = with_auto_certificate(&asked, &fixtures, &hosts).unwrap();
    let read = |name: &str| fs::read_to_string(fixtures.join(name)).unwrap();
    let first = read("cert.pem");
    assert_eq!(fs::metadata(fixtures.join("key.pem")).unwrap().permissions().mode() & 0o777, 0o600);

    let der = CertificateDer::from_pem_slice(first.as_bytes()).unwrap();
    let parsed = rustls::server::ParsedCertificate::try_from(&der).unwrap();
    for host in &hosts {
        let name = ServerName::try_from(host.clone()).unwrap();
        rustls::client::verify_server_name(&parsed, &name).unwrap();
    }
    let acceptor = TlsAcceptor::new(&tls).unwrap();
    assert!(shake_unnamed(&acceptor));

    with_auto_certificate(&asked, &fixtures, &hosts).unwrap();
    assert_eq!(read("cert.pem"), first);

    // Damage is mended, and what has expired is renewed.
    fs::write(fixtures.join("key.pem"), "x").unwrap();
    with_auto_certificate(&asked, &fixtures, &hosts).unwrap();
    let second = read("cert.pem");
    assert_ne!(second, first);
    write_expired(&fixtures);
    with_auto_certificate(&asked, &fixtures, &hosts).unwrap();
    assert_ne!(read("cert.pem"), second);
    assert!(shake_unnamed(&acceptor));
}

/// As [`shake`], for a server certificate without a common name.
fn shake_unnamed(acceptor: &Arc<TlsAcceptor>) -> bool {
    let (near, far) = pipe();
    let connect = TlsConnector::from(Arc::new(Client::default().config())).connect("localhost".try_into().unwrap(), near);
    let both = futures_lite::future::zip(acceptor.clone().accept(Stream::new(far)), connect);
    let (server, client) = smol::block_on(both);
    server.is_ok() && client.is_ok()
}

fn write_expired(dir: &Path) {
    let mut params = CertificateParams::default();
    params.not_after = date_time_ymd(2020, 1, 1);
    let key = KeyPair::generate().unwrap();
    fs::write(dir.join("cert.pem"), params.self_signed(&key).unwrap().pem()).unwrap();
    fs::write(dir.join("key.pem"), key.serialize_pem()).unwrap();
}

#[test]
fn a_given_certificate_goes_before_auto_tls() {
    let files = Files::new();
    let tls = Tls { auto_tls: true, ..files.server() };
    let fixtures = files.path("fixtures");
    assert_eq!(with_auto_certificate(&tls, &fixtures, &[]).unwrap(), tls);
    assert!(!fixtures.exists());
}
