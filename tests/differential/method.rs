//! The methods that are called, by name, and their requests as text.

use std::sync::LazyLock;

use bramble::pb::etcdserverpb::{
    AlarmRequest, CompactionRequest, DefragmentRequest, DeleteRangeRequest, DowngradeRequest, HashKvRequest, HashRequest,
    LeaseGrantRequest, LeaseKeepAliveRequest, LeaseLeasesRequest, LeaseRevokeRequest, LeaseTimeToLiveRequest, MemberAddRequest,
    MemberListRequest, MemberPromoteRequest, MemberRemoveRequest, MemberUpdateRequest, MoveLeaderRequest, PutRequest,
    RangeRequest, StatusRequest, TxnRequest, WatchRequest,
};
use bramble::pb::health::HealthCheckRequest;
use bytes::Bytes;
use prost::{DecodeError, Message};
use prost_reflect::text_format::FormatOptions;
use prost_reflect::{DescriptorPool, DynamicMessage, MessageDescriptor};

use super::answer::{self, Answer};

/// One method.
pub struct Method {
    /// `Service/Method`, without the package.
    pub name: &'static str,
    /// As the wire has it.
    pub path: &'static str,
    /// Its request, with the package.
    message: &'static str,
    /// How its answer to a request is told.
    pub told: fn(&Bytes, &[Bytes]) -> Answer,
    /// Whether bytes are a request.
    pub decodes: fn(&Bytes) -> Result<(), DecodeError>,
}

macro_rules! methods {
    ($($package:literal $name:literal $request:ident $told:expr;)*) => {
        /// All of them.
        pub static METHODS: &[Method] = &[$(Method {
            name: $name,
            path: concat!("/", $package, ".", $name),
            message: concat!($package, ".", stringify!($request)),
            told: $told,
            decodes: |bytes| $request::decode(bytes.clone()).map(drop),
        }),*];
    };
}

// `HashKvRequest` is prost's spelling; the message's own is found without regard to case.
methods! {
    "etcdserverpb" "KV/Range" RangeRequest answer::unary::<RangeRequest>;
    "etcdserverpb" "KV/RangeStream" RangeRequest answer::range_stream;
    "etcdserverpb" "KV/Put" PutRequest answer::unary::<PutRequest>;
    "etcdserverpb" "KV/DeleteRange" DeleteRangeRequest answer::unary::<DeleteRangeRequest>;
    "etcdserverpb" "KV/Txn" TxnRequest answer::unary::<TxnRequest>;
    "etcdserverpb" "KV/Compact" CompactionRequest answer::unary::<CompactionRequest>;
    "etcdserverpb" "Watch/Watch" WatchRequest answer::watch;
    "etcdserverpb" "Lease/LeaseGrant" LeaseGrantRequest answer::unary::<LeaseGrantRequest>;
    "etcdserverpb" "Lease/LeaseRevoke" LeaseRevokeRequest answer::unary::<LeaseRevokeRequest>;
    "etcdserverpb" "Lease/LeaseKeepAlive" LeaseKeepAliveRequest answer::keep_alive;
    "etcdserverpb" "Lease/LeaseTimeToLive" LeaseTimeToLiveRequest answer::unary::<LeaseTimeToLiveRequest>;
    "etcdserverpb" "Lease/LeaseLeases" LeaseLeasesRequest answer::unary::<LeaseLeasesRequest>;
    "etcdserverpb" "Cluster/MemberAdd" MemberAddRequest answer::unary::<MemberAddRequest>;
    "etcdserverpb" "Cluster/MemberRemove" MemberRemoveRequest answer::unary::<MemberRemoveRequest>;
    "etcdserverpb" "Cluster/MemberUpdate" MemberUpdateRequest answer::unary::<MemberUpdateRequest>;
    "etcdserverpb" "Cluster/MemberList" MemberListRequest answer::unary::<MemberListRequest>;
    "etcdserverpb" "Cluster/MemberPromote" MemberPromoteRequest answer::unary::<MemberPromoteRequest>;
    "etcdserverpb" "Maintenance/Alarm" AlarmRequest answer::unary::<AlarmRequest>;
    "etcdserverpb" "Maintenance/Status" StatusRequest answer::unary::<StatusRequest>;
    "etcdserverpb" "Maintenance/Defragment" DefragmentRequest answer::unary::<DefragmentRequest>;
    "etcdserverpb" "Maintenance/Hash" HashRequest answer::unary::<HashRequest>;
    "etcdserverpb" "Maintenance/HashKV" HashKvRequest answer::unary::<HashKvRequest>;
    "etcdserverpb" "Maintenance/MoveLeader" MoveLeaderRequest answer::unary::<MoveLeaderRequest>;
    "etcdserverpb" "Maintenance/Downgrade" DowngradeRequest answer::unary::<DowngradeRequest>;
    "grpc.health.v1" "Health/Check" HealthCheckRequest answer::health;
}

/// The method of this name.
///
/// # Panics
/// If there is none.
pub fn method(name: &str) -> &'static Method {
    METHODS.iter().find(|method| method.name == name).unwrap_or_else(|| panic!("no method {name:?}"))
}

impl PartialEq for Method {
    fn eq(&self, other: &Method) -> bool {
        self.path == other.path
    }
}

impl std::fmt::Debug for Method {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

impl Method {
    /// The descriptor of its request.
    pub fn request(&self) -> MessageDescriptor {
        static POOL: LazyLock<DescriptorPool> = LazyLock::new(|| {
            let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src/pb");
            let files = protox::compile(["rpc.proto", "health.proto"], [folder]).expect("they compile, or the crate would not");
            DescriptorPool::from_file_descriptor_set(files).expect("they are whole")
        });
        let find = |name: &str| POOL.all_messages().find(|message| message.full_name().eq_ignore_ascii_case(name));
        find(self.message).unwrap_or_else(|| panic!("{} is in no .proto file", self.message))
    }

    /// A request as it is sent; in text form if that says it all, else in hexadecimal digits.
    pub fn text(&self, message: &Bytes) -> String {
        let Ok(dynamic) = DynamicMessage::decode(self.request(), message.clone()) else { return hex(message) };
        let text = dynamic.to_text_format_with_options(&FormatOptions::new().skip_unknown_fields(true));
        match DynamicMessage::parse_text_format(self.request(), &text) {
            Ok(again) if again.encode_to_vec() == message[..] => text,
            _ => hex(message),
        }
    }

    /// Undoes [`Method::text`].
    ///
    /// # Panics
    /// If the text is neither.
    pub fn parse(&self, text: &str) -> Bytes {
        match text.starts_with("0x") {
            true => unhex(text),
            false => DynamicMessage::parse_text_format(self.request(), text)
                .unwrap_or_else(|error| panic!("no {}: {text}: {error}", self.message))
                .encode_to_vec()
                .into(),
        }
    }
}

/// Bytes in hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold("0x".to_owned(), |text, byte| text + &format!("{byte:02x}"))
}

/// Undoes [`hex`].
///
/// # Panics
/// If the text is something else.
pub fn unhex(text: &str) -> Bytes {
    let digits = text.strip_prefix("0x").unwrap_or_else(|| panic!("no hexadecimal digits: {text}"));
    let byte = |at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap_or_else(|_| panic!("no hexadecimal digits: {text}"));
    (0..digits.len()).step_by(2).map(byte).collect()
}
