//! Which hosts and origins may ask: `--host-whitelist` against DNS rebinding, `--cors` for pages of other sites.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};

use super::error;
use crate::rpc::grpc::Peer;
use crate::rpc::http::Body;

const ANY: &str = "*";

/// The two lists. `*` allows everything, and so does an empty list.
pub struct Access {
    /// Origins that a browser may show our answers to.
    pub origins: Vec<String>,
    /// Names that plaintext requests may have asked for.
    pub hosts: Vec<String>,
}

impl Access {
    /// The answer to a request for a host that is none of ours. Over TLS the certificate has settled that.
    pub fn refuses(&self, peer: &Peer, request: &Request<Bytes>) -> Option<Response<Body>> {
        let host = host(request);
        if peer.tls || allows_any(&self.hosts) || self.hosts.iter().any(|allowed| allowed == host) {
            return None;
        }
        log::warn!("rejecting a request of {} for the host {host:?}: --host-whitelist does not name it", peer.addr);
        let text = format!(
            "this server does not answer for the host {host:?}, because its --host-whitelist does not name it. Add the name there \
             (--host-whitelist={host}), or use https: requests over TLS are not checked. The list protects from web pages that \
             reach this server under a name of their own (DNS rebinding, CVE-2018-5702)."
        );
        Some(error(StatusCode::MISDIRECTED_REQUEST, &text))
    }

    /// Tells a browser whose pages may see the answer.
    pub fn add_headers(&self, request: &Request<Bytes>, headers: &mut HeaderMap) {
        let origin = match request.headers().get(header::ORIGIN) {
            _ if allows_any(&self.origins) => HeaderValue::from_static(ANY),
            Some(origin) if self.origins.iter().any(|allowed| allowed.as_bytes() == origin.as_bytes()) => origin.clone(),
            _ => return,
        };
        headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("POST, GET, OPTIONS, PUT, DELETE"));
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static("accept, content-type, authorization"));
    }
}

fn allows_any(list: &[String]) -> bool {
    list.is_empty() || list.iter().any(|allowed| allowed == ANY)
}

/// The host asked for, without its port. HTTP/2 and absolute URIs have it in the URI.
fn host(request: &Request<Bytes>) -> &str {
    let from_header = || request.headers().get(header::HOST).and_then(|host| host.to_str().ok());
    let host = request.uri().authority().map(|authority| authority.as_str()).or_else(from_header).unwrap_or("");
    match host.rsplit_once(':') {
        // An address in brackets loses them with its port, and keeps both otherwise, as in Go.
        Some((name, _port)) if name.starts_with('[') && name.ends_with(']') => &name[1..name.len() - 1],
        Some((name, _port)) if !name.contains([':', '[']) => name,
        _ => host,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_loses_its_port_and_nothing_else() {
        for (given, host_is) in [
            ("foo.com", "foo.com"),
            ("foo.com:2379", "foo.com"),
            ("127.0.0.1:2379", "127.0.0.1"),
            ("[::1]:2379", "::1"),
            ("[::1]", "[::1]"),
            ("::1", "::1"),
            ("", ""),
        ] {
            let request = Request::builder().uri("/version").header("host", given).body(Bytes::new()).unwrap();
            assert_eq!(host(&request), host_is);
        }
        let request = Request::builder().uri("http://bar:1/version").header("host", "foo").body(Bytes::new()).unwrap();
        assert_eq!(host(&request), "bar");
    }
}
