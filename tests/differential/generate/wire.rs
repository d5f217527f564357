//! What no client library would send: bytes that are no message, frames that are none, paths that lead nowhere, odd HTTP.

use bytes::{BufMut, Bytes, BytesMut};
use prost::Message;

use super::Generator;
use crate::differential::method::{METHODS, Method, method};
use crate::differential::step::Step;
use crate::support::grpc::frame;

/// Fields that no message has, and things that are no fields: each ends or spoils a message in its own way.
const ODD_FIELDS: [&[u8]; 12] = [
    &[0xba, 0x3e, 1, 0],                                                    // 999, of one byte
    &[0xb8, 0x3e, 7],                                                       // 999, a number
    &[0xbb, 0x3e, 0xbc, 0x3e],                                              // 999, an empty group
    &[0xbb, 0x3e, 0x08, 0x01, 0xbc, 0x3e],                                  // 999, a group with a field
    &[0xbb, 0x3e],                                                          // a group that does not end
    &[0xbc, 0x3e],                                                          // the end of none
    &[0x00, 0x01],                                                          // field 0
    &[0xb9, 0x3e, 1, 2, 3, 4, 5, 6, 7, 8],                                  // 999, of 8 bytes
    &[0xbe, 0x3e],                                                          // wire type 6
    &[0xba, 0x3e, 0xff, 0xff, 0xff, 0xff, 0x0f],                            // 999, of 4 GiB that are not there
    &[0xb8, 0x3e, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],    // a number that does not end
    &[0xb8, 0x3e, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2], // a number of more than 64 bits
];

impl Generator {
    /// A method whose message, or frame, is off.
    pub(super) fn bytes(&mut self) -> Step {
        if self.chance(3) {
            return self.frames();
        }
        let method = self.a_method();
        let count =
            if method.name == "Watch/Watch" || method.name == "Lease/LeaseKeepAlive" { 1 + self.random.below(3) } else { 1 };
        let sound = self.random.below(count);
        let messages = (0..count).map(|at| if at < sound { self.message(method) } else { self.bad_message(method) });
        Step::Call(method, messages.collect())
    }

    /// Those that do harm if they are called with anything are left out, and the slow ones are seldom.
    fn a_method(&mut self) -> &'static Method {
        const COMMON: [&str; 10] = [
            "KV/Range",
            "KV/RangeStream",
            "KV/Put",
            "KV/DeleteRange",
            "KV/Txn",
            "KV/Compact",
            "Watch/Watch",
            "Lease/LeaseKeepAlive",
            "Lease/LeaseTimeToLive",
            "Maintenance/HashKV",
        ];
        if !self.chance(4) {
            return method(self.one_of(&COMMON));
        }
        let harmless = |method: &&Method| {
            !["LeaseGrant", "Alarm", "Member", "Downgrade", "MoveLeader"].iter().any(|name| method.name.contains(name))
        };
        let all: Vec<&Method> = METHODS.iter().filter(harmless).collect();
        all[self.random.below(all.len() as u64) as usize]
    }

    fn message(&mut self, method: &Method) -> Bytes {
        match method.name {
            "KV/Range" | "KV/RangeStream" => self.range().encode_to_vec(),
            "KV/Put" => self.put().encode_to_vec(),
            "KV/DeleteRange" => self.delete_range().encode_to_vec(),
            "KV/Txn" => self.txn(1).encode_to_vec(),
            "KV/Compact" => self.compact().encode_to_vec(),
            "Watch/Watch" => self.watch_request().encode_to_vec(),
            // Of one number: an id, or a revision.
            "Lease/LeaseKeepAlive" | "Lease/LeaseTimeToLive" | "Lease/LeaseRevoke" => vec![8, self.random.below(4) as u8],
            "Maintenance/HashKV" => vec![8, self.random.below(10) as u8],
            _ => Vec::new(),
        }
        .into()
    }

    /// A message with a few bytes changed, added or missing; twice the same or another, which merges them; or bytes that were never
    /// one.
    fn bad_message(&mut self, method: &Method) -> Bytes {
        let mut body = self.message(method).to_vec();
        if self.chance(5) {
            body = self.random_bytes(12).to_vec();
        }
        if self.chance(5) {
            body.extend_from_slice(&self.message(method));
        }
        for _ in 0..=self.random.below(2) {
            let at = self.random.below(body.len() as u64 + 1) as usize;
            match self.random.below(5) {
                0 => body.truncate(at),
                1 => body.insert(at, self.random.next() as u8),
                2 => body.extend_from_slice(self.one_of(&ODD_FIELDS)),
                3 => drop(body.splice(at..at, self.one_of(&ODD_FIELDS).iter().copied())),
                _ if at < body.len() => body[at] ^= 1 << self.random.below(8),
                _ => {}
            }
        }
        body.into()
    }

    /// A sound message in frames that are not, or with header fields that say something about it.
    fn frames(&mut self) -> Step {
        let method = loop {
            let method = self.a_method();
            // Nothing ends a stream of watches whose frames stop in the middle, but its client.
            if method.name != "Watch/Watch" {
                break method;
            }
        };
        let message = self.message(method);
        let whole = frame(false, &message);
        let mut fields: Vec<(String, String)> = Vec::new();
        let body: Bytes = match self.random.below(9) {
            0 => Bytes::new(),
            1 => whole.slice(..self.random.below(whole.len() as u64) as usize),
            2 => [&whole[..], &whole].concat().into(),
            3 => frame(true, &message),
            4 => with_prefix(self.one_of(&[2, 3, 128, 255]), message.len() as u32, &message),
            // A length that is more than there is, and more than there may be.
            5 => with_prefix(0, self.one_of(&[1_000, 2_097_153, 2_097_152, u32::MAX, i32::MAX as u32]), &message),
            6 => [&whole[..], &self.random_bytes(9)].concat().into(),
            7 => {
                fields.push(("grpc-encoding".to_owned(), self.one_of(&["identity", "gzip", "snappy", "", "GZIP"]).to_owned()));
                frame(self.chance(2), &message)
            }
            _ => {
                let (name, value) = self.one_of(&ODD_HEADERS);
                fields.push((name.to_owned(), value.to_owned()));
                whole
            }
        };
        Step::Body { path: method.path.to_owned(), body, fields }
    }

    /// A path that no method has.
    pub(super) fn unknown_method(&mut self) -> Step {
        let path = self.one_of(&[
            "/etcdserverpb.KV/Nonsense",
            "/etcdserverpb.KV/range",
            "/etcdserverpb.KV/",
            "/etcdserverpb.KV",
            "/etcdserverpb.KV/Range/",
            "/etcdserverpb.KV//Range",
            "//",
            "/",
            "/foo.Bar/Baz",
            "/Range",
            "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
            "/etcdserverpb.Watch/Progress",
            "/etcdserverpb.KV/Range?x=1",
            "/etcdserverpb.KV/%52ange",
            "/etcdserverpb.Auth/AuthStatus",
            "/etcdserverpb.Auth/AuthEnable",
            "/etcdserverpb.Auth/Authenticate",
            "/etcdserverpb.Auth/UserAdd",
            "/etcdserverpb.Auth/UserList",
            "/etcdserverpb.Auth/RoleGrantPermission",
            "/etcdserverpb.Auth/Nonsense",
            "/etcdserverpb.Maintenance/Snapshot",
            "/v3lockpb.Lock/Lock",
            "/v3electionpb.Election/Leader",
        ]);
        Step::Body { path: path.to_owned(), body: frame(false, &self.random_bytes(8)), fields: Vec::new() }
    }

    /// A question to the endpoints that are no gRPC.
    pub(super) fn http(&mut self) -> Step {
        let method = self.one_of(&["GET", "GET", "GET", "GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "BREW"]);
        let path = self.one_of(&[
            "/health",
            "/health",
            "/livez",
            "/readyz",
            "/readyz",
            "/livez/serializable_read",
            "/livez/linearizable_read",
            "/readyz/data_corruption",
            "/readyz/serializable_read",
            "/readyz/linearizable_read",
            "/readyz/non_learner",
            "/readyz/nonsense",
            "/version",
            "/version",
            "/metrics",
            "/",
            "/nope",
            "/health/",
            "//health",
            "/./health",
            "/x/../health",
            "/readyz/",
            "/version/",
            "/%68ealth",
            "/Health",
            "/debug/pprof/",
            "/v2/keys",
            "/members",
            "/config/local/log",
        ]);
        let query = self.one_of(&[
            "",
            "",
            "",
            "?",
            "?verbose",
            "?verbose=0",
            "?serializable=true",
            "?serializable=True",
            "?serializable=false&serializable=true",
            "?exclude=NOSPACE",
            "?exclude=CORRUPT",
            "?exclude=NOSPACE&exclude=CORRUPT",
            "?exclude=",
            "?exclude=serializable_read&verbose",
            "?exclude=nonsense&verbose",
            "?exclude=data_corruption&exclude=non_learner&verbose",
            "?%zz=1&verbose",
            "?exclude=NOSPACE;exclude=CORRUPT",
            "?exclude=NOSPACE,CORRUPT",
            "?VERBOSE",
        ]);
        Step::Http { method: method.to_owned(), target: format!("{path}{query}") }
    }
}

/// Header fields that mean something, or would if they were right.
const ODD_HEADERS: [(&str, &str); 12] = [
    ("grpc-timeout", "1H"),
    ("grpc-timeout", "100000000S"),
    ("grpc-timeout", "nonsense"),
    ("grpc-timeout", "-1S"),
    ("grpc-timeout", "0S"),
    ("content-type", "application/grpc+json"),
    ("content-type", "application/grpc;x"),
    ("hasleader", "true"),
    ("hasleader", "false"),
    ("client-api-version", "3.7"),
    ("token", "nonsense"),
    ("authorization", "Bearer nonsense"),
];

fn with_prefix(flags: u8, length: u32, message: &[u8]) -> Bytes {
    let mut framed = BytesMut::new();
    framed.put_u8(flags);
    framed.put_u32(length);
    framed.put_slice(message);
    framed.freeze()
}
