//! Random steps: what a case is about, and how often it does what.

mod requests;
mod wire;

use bramble::pb::etcdserverpb::{
    DefragmentRequest, HashKvRequest, HashRequest, LeaseKeepAliveRequest, LeaseLeasesRequest, LeaseRevokeRequest,
    LeaseTimeToLiveRequest, MemberListRequest, MemberPromoteRequest, MemberRemoveRequest, MoveLeaderRequest, StatusRequest,
};
use bramble::pb::health::HealthCheckRequest;
use bytes::Bytes;
use prost::Message;

use super::method::method;
use super::side::Side;
use super::step::{End, Step};
use crate::support::random::Random;

pub use requests::KEYS;

/// What a case does more of than others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mood {
    /// Requests of every kind.
    Plain,
    /// Bytes that are no request, or in no frame.
    Wire,
    /// Values near what a request, a fragment or a chunk may hold.
    Large,
    /// Small `--max-request-bytes` and `--max-txn-ops`.
    Limits,
    /// The servers are killed or terminated, and go on.
    Restarts,
    /// Leases expire.
    Leases,
    /// Maintenance, membership, alarms, HTTP.
    Operator,
}

impl Mood {
    /// All of them.
    pub const ALL: [Mood; 7] = [Mood::Plain, Mood::Wire, Mood::Large, Mood::Limits, Mood::Restarts, Mood::Leases, Mood::Operator];

    /// A seed's.
    pub fn of(seed: u64) -> Mood {
        Mood::ALL[(seed % Mood::ALL.len() as u64) as usize]
    }

    /// Of a kept case, which names it in its head.
    pub fn named_in(text: &str) -> Mood {
        let name = text.lines().find_map(|line| line.strip_prefix("# mood: ")).unwrap_or("Plain");
        Mood::ALL.into_iter().find(|mood| format!("{mood:?}") == name).unwrap_or_else(|| panic!("no mood {name:?}"))
    }

    /// Flags of both servers.
    pub fn flags(self) -> &'static [&'static str] {
        match self {
            Mood::Limits => &["--max-request-bytes=2000", "--max-txn-ops=5"],
            // The shortest lease is one and a half election timeouts.
            Mood::Leases => &["--heartbeat-interval=50", "--election-timeout=500"],
            _ => &[],
        }
    }
}

/// A source of steps.
pub struct Generator {
    random: Random,
    mood: Mood,
    revision: i64,
    compacted: i64,
    member: u64,
    /// Steps until raised alarms are cleared.
    alarmed: Option<u32>,
}

impl Generator {
    /// Determined by `random` and by what it is told of the store.
    pub fn new(random: Random, mood: Mood) -> Generator {
        Generator { random, mood, revision: 1, compacted: -1, member: 0, alarmed: None }
    }

    /// The next step, for a store in this state.
    pub fn next(&mut self, side: &Side) -> Step {
        (self.revision, self.compacted, self.member) = (side.revision, side.compacted(), side.member);
        match self.alarmed {
            Some(0) => {
                self.alarmed = None;
                return Step::call("Maintenance/Alarm", &self.alarm(2));
            }
            Some(more) => self.alarmed = Some(more - 1),
            None => {}
        }
        if self.chance(4) { self.special() } else { self.step() }
    }

    /// Of what the case is about.
    fn special(&mut self) -> Step {
        match self.mood {
            Mood::Plain => self.step(),
            Mood::Wire => self.bytes(),
            Mood::Large => self.large(),
            Mood::Limits => self.near_a_limit(),
            Mood::Restarts => match self.random.below(24) {
                0 => Step::Restart(End::Kill),
                1 => Step::Restart(End::Terminate),
                _ => self.step(),
            },
            Mood::Leases => match self.random.below(20) {
                0 => Step::LeaseAndExpiry(self.random.below(6) as usize, self.short_lease().encode_to_vec().into()),
                _ => self.lease_step(),
            },
            Mood::Operator => self.operator_step(),
        }
    }

    /// Of every kind.
    fn step(&mut self) -> Step {
        match self.random.below(1000) {
            0..250 => Step::call("KV/Range", &self.range()),
            250..300 => Step::call("KV/RangeStream", &self.range()),
            300..480 => Step::call("KV/Put", &self.put()),
            480..540 => Step::call("KV/DeleteRange", &self.delete_range()),
            540..760 => Step::call("KV/Txn", &self.txn(0)),
            760..775 => Step::call("KV/Compact", &self.compact()),
            775..850 => self.lease_step(),
            850..900 => self.operator_step(),
            900..920 => self.bytes(),
            920..985 => Step::Watch(self.watch_request().encode_to_vec().into()),
            _ => Step::EndWatches,
        }
    }

    fn lease_step(&mut self) -> Step {
        let id = self.lease();
        match self.random.below(12) {
            0..4 => Step::call("Lease/LeaseGrant", &self.grant()),
            4 => Step::LeaseAndRevoke(self.short_lease().encode_to_vec().into()),
            5..7 => Step::call("Lease/LeaseRevoke", &LeaseRevokeRequest { id }),
            7..9 => Step::call("Lease/LeaseTimeToLive", &LeaseTimeToLiveRequest { id, keys: self.chance(2) }),
            9 => Step::call("Lease/LeaseLeases", &LeaseLeasesRequest {}),
            _ => {
                let one = |generator: &mut Generator| LeaseKeepAliveRequest { id: generator.lease() }.encode_to_vec().into();
                Step::Call(method("Lease/LeaseKeepAlive"), (0..self.random.below(4)).map(|_| one(self)).collect())
            }
        }
    }

    fn operator_step(&mut self) -> Step {
        let id = self.one_of(&[0, 1, 2, self.member]);
        match self.random.below(40) {
            0..8 => Step::call("Maintenance/HashKV", &HashKvRequest { revision: self.a_revision() }),
            8 => Step::call("Maintenance/Hash", &HashRequest {}),
            9..11 => Step::call("Cluster/MemberList", &MemberListRequest { linearizable: self.chance(2) }),
            // That the only member leaves is refused by each in its own words.
            11 => Step::call("Cluster/MemberRemove", &MemberRemoveRequest { id: self.random.below(3) }),
            12 => Step::call("Cluster/MemberPromote", &MemberPromoteRequest { id }),
            13 => Step::call("Cluster/MemberUpdate", &self.member_update()),
            14 => Step::call("Cluster/MemberAdd", &self.member_add()),
            15 => Step::call("Maintenance/MoveLeader", &MoveLeaderRequest { target_id: id }),
            16..18 => Step::call("Maintenance/Downgrade", &self.downgrade()),
            18..20 => Step::call("Maintenance/Alarm", &self.alarm(0)),
            20..22 if self.alarmed.is_none() => {
                self.alarmed = Some(8);
                Step::call("Maintenance/Alarm", &self.alarm(1))
            }
            20..22 => Step::call("Maintenance/Alarm", &self.alarm(2)),
            22..26 => Step::call("Maintenance/Status", &StatusRequest {}),
            26 => Step::call("Maintenance/Defragment", &DefragmentRequest {}),
            27 => {
                let service = self.one_of(&["", "etcdserverpb.KV", "nonsense"]);
                Step::call("Health/Check", &HealthCheckRequest { service: service.to_owned() })
            }
            28..31 => self.unknown_method(),
            _ => self.http(),
        }
    }

    /// Few keys with long values, and what reads and deletes them.
    fn large(&mut self) -> Step {
        let length = match self.random.below(8) {
            // A request and what is around it, in the log and on the wire.
            0 => 1_572_864 - 20 - self.random.below(24) as usize,
            1 => 2_097_152 - self.random.below(40) as usize,
            2 => 1_572_864 + self.random.below(40) as usize,
            _ => self.one_of(&[100_000, 300_000, 700_000, 1_000_000]),
        };
        match self.random.below(4) {
            0 | 1 => Step::PutOf(length, self.put().encode_to_vec().into()),
            2 => Step::call("KV/RangeStream", &self.range()),
            _ => Step::call("KV/DeleteRange", &self.delete_range()),
        }
    }

    /// Around the limits of [`Mood::Limits`].
    fn near_a_limit(&mut self) -> Step {
        match self.random.below(3) {
            0 => Step::PutOf(2000 - 20 - self.random.below(24) as usize, self.put().encode_to_vec().into()),
            1 => Step::PutOf(2000 + 512 * 1024 - self.random.below(40) as usize, self.put().encode_to_vec().into()),
            _ => Step::call("KV/Txn", &self.txn(0)),
        }
    }

    fn chance(&mut self, of: u64) -> bool {
        self.random.below(of) == 0
    }

    fn one_of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.random.below(all.len() as u64) as usize]
    }

    fn random_bytes(&mut self, below: u64) -> Bytes {
        (0..self.random.below(below)).map(|_| self.random.next() as u8).collect()
    }
}
