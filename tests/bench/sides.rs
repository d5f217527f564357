//! The two servers that everything is measured on.

use serde::{Deserialize, Serialize};

use crate::support::{Server, oracle, under_test};

/// A server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Side {
    /// The binary under test.
    Bramble,
    /// The etcd of `tests/oracle`.
    Etcd,
}

impl Side {
    /// Both.
    pub const ALL: [Side; 2] = [Side::Bramble, Side::Etcd];

    /// A fresh one, with its defaults, but for a quota that a million keys fit in. It is given time to become idle.
    pub fn start(self) -> Server {
        let binary = match self {
            Side::Bramble => under_test(),
            Side::Etcd => oracle("etcd"),
        };
        let server = Server::builder().binary(binary).flag("--quota-backend-bytes=8589934592").start();
        std::thread::sleep(std::time::Duration::from_millis(500));
        server
    }

    /// The order of so many rounds: in each both, and neither always first.
    pub fn interleaved(rounds: usize) -> impl Iterator<Item = (usize, Side)> {
        let order =
            |round: usize| if round.is_multiple_of(2) { [Side::Etcd, Side::Bramble] } else { [Side::Bramble, Side::Etcd] };
        (0..rounds).flat_map(move |round| order(round).map(|side| (round, side)))
    }
}
