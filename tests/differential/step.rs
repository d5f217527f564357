//! What a client does, and the text form of it that cases are kept in: a line for each step.

use std::fmt;

use bramble::pb::etcdserverpb::PutRequest;
use bytes::Bytes;
use prost::Message;

use super::method::{Method, hex, method, unhex};

/// Something that a client does.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Sends these messages to a method, and no more after them: `KV/Range key: "a"`, or each in hexadecimal digits.
    Call(&'static Method, Vec<Bytes>),
    /// Puts a value of so many bytes, which the request does not say: `put-of 900000 key: "a"`.
    PutOf(usize, Bytes),
    /// Sends bytes that need not be gRPC's, with more header fields: `body /etcdserverpb.KV/Put 0x01 grpc-encoding=gzip`.
    Body {
        /// `:path`
        path: String,
        /// What follows the header fields.
        body: Bytes,
        /// Besides those that each call has.
        fields: Vec<(String, String)>,
    },
    /// Says something on the open stream of watches, or on a new one: `watch create_request { key: "a" }`.
    Watch(Bytes),
    /// Everything that the stream has said since it was opened: `end-watches`.
    EndWatches,
    /// Asks an HTTP endpoint: `http GET /health?serializable=true`.
    Http {
        /// In capital letters.
        method: String,
        /// Path and query.
        target: String,
    },
    /// A lease that would end soon: granted, and revoked at once: `lease-and-revoke TTL: 1 ID: 3`.
    LeaseAndRevoke(Bytes),
    /// A lease with so many keys, waited for until it has expired: `lease-and-expiry 2 TTL: 1 ID: 3`.
    LeaseAndExpiry(usize, Bytes),
    /// The server ends and starts again: `restart kill` or `restart terminate`.
    Restart(End),
}

/// How a server ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// SIGKILL
    Kill,
    /// SIGTERM
    Terminate,
}

impl Step {
    /// A call with one message.
    pub fn call(name: &str, request: &impl Message) -> Step {
        Step::Call(method(name), vec![request.encode_to_vec().into()])
    }

    /// A put with its long value.
    pub fn put_of(length: usize, request: &Bytes) -> PutRequest {
        let put = PutRequest::decode(request.clone()).expect("a put");
        PutRequest { value: vec![b'x'; length].into(), ..put }
    }

    /// Reads a line.
    ///
    /// # Panics
    /// If it is none of those that are written.
    pub fn parse(line: &str) -> Step {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        let number = |rest: &str| -> (usize, String) {
            let (number, rest) = rest.split_once(' ').unwrap_or((rest, ""));
            (number.parse().unwrap_or_else(|_| panic!("no number: {line}")), rest.to_owned())
        };
        match word {
            "put-of" => {
                let (length, put) = number(rest);
                Step::PutOf(length, method("KV/Put").parse(&put))
            }
            "body" => {
                let mut words = rest.split(' ');
                let path = words.next().unwrap_or_default().to_owned();
                let body = unhex(words.next().unwrap_or_default());
                let field = |field: &str| field.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned()));
                Step::Body { path, body, fields: words.filter_map(field).collect() }
            }
            "watch" => Step::Watch(method("Watch/Watch").parse(rest)),
            "end-watches" => Step::EndWatches,
            "http" => {
                let (method, target) = rest.split_once(' ').unwrap_or_else(|| panic!("no target: {line}"));
                Step::Http { method: method.to_owned(), target: target.to_owned() }
            }
            "lease-and-revoke" => Step::LeaseAndRevoke(method("Lease/LeaseGrant").parse(rest)),
            "lease-and-expiry" => {
                let (keys, grant) = number(rest);
                Step::LeaseAndExpiry(keys, method("Lease/LeaseGrant").parse(&grant))
            }
            "restart" if rest == "kill" => Step::Restart(End::Kill),
            "restart" if rest == "terminate" => Step::Restart(End::Terminate),
            name if rest.starts_with("0x") => Step::Call(method(name), rest.split(' ').map(unhex).collect()),
            name if rest == "nothing" => Step::Call(method(name), Vec::new()),
            name => Step::Call(method(name), vec![method(name).parse(rest)]),
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let grant = |request| method("Lease/LeaseGrant").text(request);
        match self {
            Step::Call(method, messages) => match &messages[..] {
                [] => write!(f, "{} nothing", method.name),
                [one] => write!(f, "{} {}", method.name, method.text(one)),
                all => write!(f, "{} {}", method.name, all.iter().map(|one| hex(one)).collect::<Vec<_>>().join(" ")),
            },
            Step::PutOf(length, put) => write!(f, "put-of {length} {}", method("KV/Put").text(put)),
            Step::Body { path, body, fields } => {
                let fields: String = fields.iter().map(|(name, value)| format!(" {name}={value}")).collect();
                write!(f, "body {path} {}{fields}", hex(body))
            }
            Step::Watch(request) => write!(f, "watch {}", method("Watch/Watch").text(request)),
            Step::EndWatches => f.write_str("end-watches"),
            Step::Http { method, target } => write!(f, "http {method} {target}"),
            Step::LeaseAndRevoke(request) => write!(f, "lease-and-revoke {}", grant(request)),
            Step::LeaseAndExpiry(keys, request) => write!(f, "lease-and-expiry {keys} {}", grant(request)),
            Step::Restart(End::Kill) => f.write_str("restart kill"),
            Step::Restart(End::Terminate) => f.write_str("restart terminate"),
        }
    }
}

/// Reads a case: its steps, without empty lines and those that begin with `#`.
pub fn parse(text: &str) -> Vec<Step> {
    let lines = text.lines().map(str::trim_end).filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines.map(Step::parse).collect()
}

#[test]
fn a_step_is_read_as_it_was_written() {
    for line in [
        r#"KV/Range key:"a",limit:-1,sort_order:DESCEND"#,
        r#"KV/Range sort_order:7"#,
        r#"KV/Put key:"\000\377",value:"1""#,
        "KV/Txn 0x1201",
        "KV/Put nothing",
        "KV/Range ",
        "Lease/LeaseKeepAlive 0x0801 0x0802",
        r#"put-of 900000 key:"a""#,
        "body /etcdserverpb.KV/Put 0x01 grpc-encoding=gzip te=none",
        r#"watch create_request{key:"a"}"#,
        "end-watches",
        "http GET /health?serializable=true",
        "lease-and-revoke TTL:1,ID:3",
        "lease-and-expiry 2 TTL:1,ID:3",
        "restart kill",
        "restart terminate",
    ] {
        assert_eq!(Step::parse(line).to_string(), line);
    }
}
