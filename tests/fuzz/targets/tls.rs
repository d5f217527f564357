//! TLS: the files of certificates, keys, authorities and revocations, and the bytes of a handshake.
//!
//! Input: how the four files come about, then what the client sends.

use std::fs;
use std::path::PathBuf;
use std::sync::LazyLock;

use bramble::config::{Tls, TlsVersion};
use bramble::rpc::stream::Stream;
use bramble::rpc::tls::TlsAcceptor;
use futures_lite::future::block_on;
use tempfile::TempDir;

use super::input::Input;
use super::pipe::pipe;

static DIR: LazyLock<TempDir> = LazyLock::new(super::memory_dir);

/// Made for this test and used nowhere else.
const FILES: [(&str, &[u8]); 4] = [
    ("cert.pem", include_bytes!("tls_files/cert.pem")),
    ("key.pem", include_bytes!("tls_files/key.pem")),
    ("ca.pem", include_bytes!("tls_files/ca.pem")),
    ("crl.pem", include_bytes!("tls_files/crl.pem")),
];

pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let [cert_file, key_file, trusted_ca_file, crl_file] = FILES.map(|(name, sound)| file(name, sound, &mut input));
    let tls = Tls {
        client_cert_auth: trusted_ca_file.is_some(),
        cert_file,
        key_file,
        trusted_ca_file,
        crl_file,
        min_version: TlsVersion::Tls12,
        max_version: TlsVersion::Tls13,
        ..Tls::default()
    };
    match TlsAcceptor::new(&tls) {
        Err(fault) => {
            let text = fault.to_string();
            let named = FILES.iter().any(|(name, _)| text.contains(name)) || text.contains("--cert-file");
            assert!(named, "{text:?} names no file");
        }
        Ok(acceptor) => {
            let (client, server_end) = pipe();
            client.write(input.rest());
            client.finish();
            // Nobody has a key that could end the handshake well; it has to end.
            assert!(block_on(acceptor.accept(Stream::new(server_end))).is_err());
        }
    }
}

/// A file as it should be, with changes, anything else, or none.
fn file(name: &str, sound: &[u8], input: &mut Input<'_>) -> Option<PathBuf> {
    let text = match input.byte() % 8 {
        0 => return None,
        1 => input.piece().to_vec(),
        2 | 3 => {
            let mut text = sound.to_vec();
            for _ in 0..=input.byte() % 4 {
                let at = usize::from(input.u16()) % text.len();
                text[at] = input.byte();
            }
            text
        }
        _ => sound.to_vec(),
    };
    let path = DIR.path().join(format!("{:?}-{name}", std::thread::current().id()));
    fs::write(&path, text).expect("the memory has room");
    Some(path)
}
