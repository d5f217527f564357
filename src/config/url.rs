//! URLs as etcd takes them: http, https, unix and unixs, with a port and without a path. The error texts are Go's `net/url` and etcd's.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use super::value::{Form, Value, quote};
use super::{ListenAddr, ListenUrl};

/// One URL.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Url {
    /// The whole, as given but for white space around it and the case of the scheme. It is what Go's `String` makes of it.
    pub text: String,
    /// What it speaks.
    pub scheme: Scheme,
    /// Host and port; of a unix socket the first part of its path.
    pub host: String,
    /// Of a unix socket the rest of its path; otherwise empty.
    pub path: String,
}

/// What a URL speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scheme {
    /// TCP
    Http,
    /// TLS
    Https,
    /// A unix socket.
    Unix,
    /// TLS over a unix socket.
    Unixs,
}

impl Scheme {
    /// Over TLS.
    pub fn tls(self) -> bool {
        matches!(self, Scheme::Https | Scheme::Unixs)
    }

    /// A unix socket.
    pub fn unix(self) -> bool {
        matches!(self, Scheme::Unix | Scheme::Unixs)
    }
}

impl Url {
    /// One URL, or the reason against it.
    pub fn parse(given: &str) -> Result<Url, String> {
        let given = given.trim();
        let fail = |why: &str| format!("parse {}: {why}", quote(given));
        if given.chars().any(|c| c.is_ascii_control()) {
            return Err(fail("net/url: invalid control character in URL"));
        }
        let (scheme, rest) = split_scheme(given).map_err(fail)?;
        let rest = rest.split('#').next().unwrap_or_default();
        let rest = rest.split('?').next().unwrap_or_default();
        if scheme.is_empty() && rest.split('/').next().is_some_and(|first| first.contains(':')) {
            return Err(fail("first path segment in URL cannot contain colon"));
        }
        let (authority, path) = match rest.strip_prefix("//") {
            Some(rest) => rest.split_at(rest.find('/').unwrap_or(rest.len())),
            None => ("", rest),
        };
        check_authority(authority).map_err(|why| fail(&why))?;
        let scheme_kind = match scheme.to_ascii_lowercase().as_str() {
            "http" => Scheme::Http,
            "https" => Scheme::Https,
            "unix" => Scheme::Unix,
            "unixs" => Scheme::Unixs,
            _ => return Err(format!("URL scheme must be http, https, unix, or unixs: {given}")),
        };
        let url = Url {
            text: format!("{}{}", scheme.to_ascii_lowercase(), &given[scheme.len()..]),
            scheme: scheme_kind,
            host: authority.to_owned(),
            path: path.to_owned(),
        };
        if scheme_kind.unix() {
            return Ok(url);
        }
        if split_host_port(authority).is_none() {
            return Err(format!("URL address does not have the form \"host:port\": {given}"));
        }
        if !path.is_empty() {
            return Err(format!("URL must not contain a path: {given}"));
        }
        Ok(url)
    }

    /// Comma-separated URLs, in the order etcd keeps them: sorted.
    pub fn list(text: &str) -> Result<Vec<Url>, String> {
        let mut urls = text.split(',').map(Url::parse).collect::<Result<Vec<_>, _>>()?;
        urls.sort_by(|a, b| a.text.cmp(&b.text));
        Ok(urls)
    }

    /// Host name or address without the port and without brackets.
    pub fn hostname(&self) -> &str {
        split_host_port(&self.host).map_or("", |(host, _)| host)
    }

    /// The port as given.
    pub fn port(&self) -> &str {
        split_host_port(&self.host).map_or("", |(_, port)| port)
    }

    /// Where to listen. Names cannot be bound, but for `localhost`.
    pub fn listen(&self) -> Result<ListenUrl, String> {
        let addr = if self.scheme.unix() {
            let path = format!("{}{}", self.host, self.path);
            if path.is_empty() {
                return Err(format!("expected a path in URL for binding ({})", self.text));
            }
            ListenAddr::Unix(PathBuf::from(path))
        } else {
            ListenAddr::Tcp(SocketAddr::new(self.bind_ip()?, self.bind_port()?))
        };
        Ok(ListenUrl { tls: self.scheme.tls(), addr, url: self.text.clone() })
    }

    fn bind_ip(&self) -> Result<IpAddr, String> {
        match self.hostname() {
            "localhost" => Ok(IpAddr::V4(Ipv4Addr::LOCALHOST)),
            host => host.parse().map_err(|_| format!("expected IP in URL for binding ({})", self.text)),
        }
    }

    fn bind_port(&self) -> Result<u16, String> {
        match self.port() {
            "" => Ok(0), // any, as in Go
            port => port.parse().map_err(|_| format!("invalid port {} in URL for binding ({})", quote(port), self.text)),
        }
    }

    /// A URL for others must say where.
    pub fn check_host(&self) -> Result<(), String> {
        if !self.scheme.unix() && self.hostname().is_empty() {
            return Err(format!("unexpected empty host ({})", self.text));
        }
        Ok(())
    }
}

/// A flag's URLs, each once, sorted. Empty: the flag was given empty, which leaves the default in place.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Urls(pub Vec<Url>);

impl Value for Urls {
    const FORM: Form = Form::Text;
    fn parse(text: &str) -> Result<Urls, String> {
        if text.is_empty() {
            return Ok(Urls::default());
        }
        let mut urls = Url::list(text)?;
        urls.dedup();
        Ok(Urls(urls))
    }
}

/// `--cors`: origins, or `*`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origins(pub Vec<String>);

impl Value for Origins {
    const FORM: Form = Form::Text;
    fn parse(text: &str) -> Result<Origins, String> {
        if text.is_empty() || text == "*" {
            return Ok(Origins(vec!["*".into()]));
        }
        Ok(Origins(Urls::parse(text)?.0.into_iter().map(|url| url.text).collect()))
    }
}

fn split_scheme(text: &str) -> Result<(&str, &str), &'static str> {
    for (i, c) in text.char_indices() {
        match c {
            'a'..='z' | 'A'..='Z' => {}
            '0'..='9' | '+' | '-' | '.' if i > 0 => {}
            ':' if i == 0 => return Err("missing protocol scheme"),
            ':' => return Ok((&text[..i], &text[i + 1..])),
            _ => break,
        }
    }
    Ok(("", text))
}

fn check_authority(authority: &str) -> Result<(), String> {
    if authority.contains('@') {
        return Err("a URL with a user name cannot be served".into());
    }
    let after_host = match authority.strip_prefix('[') {
        None => authority.find(':').map_or("", |at| &authority[at..]),
        Some(rest) => match rest.find(']') {
            None => return Err("missing ']' in host".into()),
            Some(at) => &rest[at + 1..],
        },
    };
    let port = after_host.strip_prefix(':').is_some_and(|port| port.bytes().all(|b| b.is_ascii_digit()));
    if !after_host.is_empty() && !port {
        return Err(format!("invalid port {} after host", quote(after_host)));
    }
    match authority.chars().find(|c| c.is_whitespace() || "<>\"{}|\\^`".contains(*c)) {
        Some(c) => Err(format!("invalid character {} in host name", quote(&c.to_string()))),
        None => Ok(()),
    }
}

/// Go's `net.SplitHostPort`: `host:port` or `[v6]:port`.
pub fn split_host_port(text: &str) -> Option<(&str, &str)> {
    if let Some(rest) = text.strip_prefix('[') {
        let (host, rest) = rest.split_once(']')?;
        return rest.strip_prefix(':').filter(|port| !port.contains(':')).map(|port| (host, port));
    }
    text.split_once(':').filter(|(_, port)| !port.contains(':'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn good_urls_keep_their_text_and_their_parts() {
        let url = Url::parse(" HTTP://127.0.0.1:2379 ").unwrap();
        assert_eq!((url.text.as_str(), url.hostname(), url.port()), ("http://127.0.0.1:2379", "127.0.0.1", "2379"));
        let six = Url::parse("https://[::1]:2380").unwrap();
        assert_eq!((six.hostname(), six.port(), six.scheme.tls()), ("::1", "2380", true));
        let socket = Url::parse("unix:///run/x.sock").unwrap().listen().unwrap();
        assert_eq!(socket.addr, ListenAddr::Unix("/run/x.sock".into()));
        let socket = Url::parse("unixs://localhost:2379").unwrap().listen().unwrap();
        assert_eq!((socket.addr, socket.tls), (ListenAddr::Unix("localhost:2379".into()), true));
        let local = Url::parse("http://localhost:2379").unwrap().listen().unwrap();
        assert_eq!(local.addr, ListenAddr::Tcp("127.0.0.1:2379".parse().unwrap()));
    }

    #[test]
    fn bad_urls_are_refused_in_etcds_words() {
        let cases = [
            ("foo", "URL scheme must be http, https, unix, or unixs: foo"),
            ("", "URL scheme must be http, https, unix, or unixs: "),
            ("localhost:2379", "URL scheme must be http, https, unix, or unixs: localhost:2379"),
            ("127.0.0.1:2379", "parse \"127.0.0.1:2379\": first path segment in URL cannot contain colon"),
            ("://x", "parse \"://x\": missing protocol scheme"),
            ("http://127.0.0.1", "URL address does not have the form \"host:port\": http://127.0.0.1"),
            ("http://::1:2379", "parse \"http://::1:2379\": invalid port \"::1:2379\" after host"),
            ("http://a b:1", "parse \"http://a b:1\": invalid character \" \" in host name"),
            ("http://127.0.0.1:1/x", "URL must not contain a path: http://127.0.0.1:1/x"),
            ("http://127.0.0.1:1/", "URL must not contain a path: http://127.0.0.1:1/"),
            ("http://127.0.0.1:x", "parse \"http://127.0.0.1:x\": invalid port \":x\" after host"),
            ("http://[::1", "parse \"http://[::1\": missing ']' in host"),
            ("http://a\x01:1", "parse \"http://a\\x01:1\": net/url: invalid control character in URL"),
        ];
        for (text, error) in cases {
            assert_eq!(Url::parse(text).unwrap_err(), error, "{text}");
        }
    }

    #[test]
    fn only_addresses_and_localhost_can_be_bound() {
        for host in ["example.com:1", ":2380", "[fe80::1%25eth0]:1"] {
            let url = Url::parse(&format!("http://{host}")).unwrap();
            assert_eq!(url.listen().unwrap_err(), format!("expected IP in URL for binding (http://{host})"));
        }
        assert!(Url::parse("http://127.0.0.1:65536").unwrap().listen().unwrap_err().contains("invalid port"));
        assert!(Url::parse("unix://").unwrap().listen().is_err());
    }

    #[test]
    fn lists_are_sorted_and_a_flag_names_each_url_once() {
        let Urls(urls) = Urls::parse("http://b:2, http://a:1,http://b:2").unwrap();
        assert_eq!(urls.iter().map(|u| u.text.as_str()).collect::<Vec<_>>(), ["http://a:1", "http://b:2"]);
        assert_eq!(Urls::parse("").unwrap(), Urls::default());
        assert!(Urls::parse("http://a:1,").is_err());
        assert_eq!(Origins::parse("*").unwrap().0, ["*"]);
    }
}
