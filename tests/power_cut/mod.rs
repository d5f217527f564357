//! Power cuts under load, and disks that fail.
//!
//! The server runs on a file system of our own ([`mount`], over FUSE), on a [`disk`] that keeps what was synced. When the power goes,
//! a seed decides sector by sector and name by name what else had made it. Then the server has to start at once, by itself, and
//! [`crate::crash::verify`] looks for everything that was acknowledged. So the WAL, LMDB's own writes, the births of segments, of the
//! checkpoint and of its copies are all covered.
//!
//! `make power-cut SEED= N=` plays many. The seed decides what is asked for, when something goes wrong (with which write, sync or
//! rename of which kind of file) and what the disk keeps; which request is under way then is chance.

mod content;
mod cuts;
mod disk;
mod mount;
mod troubles;
mod wear;

use crate::crash::campaign::Campaign;
use crate::crash::load::Load;
use crate::crash::relaxed::Relaxed;
use crate::support::Server;
use crate::support::random::Random;
use disk::{Disk, Kind, Operation, Plan, Trouble};
use mount::Mounted;

/// Small enough that a life is short, large enough that segments are born.
const LOAD: Load = Load { writers: 4, longest_value: 600_000 };
/// A life ends after so many writes, if nothing has happened until then.
const WRITES: u64 = 250;

/// Files that trouble is meant for.
const KINDS: [Kind; 6] =
    [Kind::Segment, Kind::Spare, Kind::UnfinishedSpare, Kind::Checkpoint, Kind::CheckpointCopy, Kind::Directory];

/// A disk and its mount; says so where none can be mounted.
fn mounted(seed: u64) -> Option<(Disk, Mounted)> {
    let disk = Disk::new(seed);
    match Mounted::new(disk.clone()) {
        Ok(mounted) => Some((disk, mounted)),
        Err(why) => {
            eprintln!("\nSKIPPED: this test needs a file system of its own, and FUSE cannot be mounted here: {why}\n");
            None
        }
    }
}

fn server_on(mounted: &Mounted) -> Server {
    // A checkpoint every twenty writes.
    let server = Server::builder().data_dir(mounted.path()).flag("--snapshot-count=2");
    server.flag("--heartbeat-interval=20").flag("--election-timeout=200").prepare()
}

/// A new server with a relaxed class on a new disk.
fn begin_relaxed(random: &mut Random) -> Option<(Disk, Mounted, Campaign)> {
    let (disk, mounted) = mounted(random.next())?;
    let mut server = server_on(&mounted);
    let relaxed = Relaxed::of(&["k0/", "k1/", "k2/", "k3/", "k4/", "k5/"]);
    relaxed.flags().into_iter().for_each(|flag| server.add_flag(flag));
    server.restart();
    let mut campaign = Campaign::new(server, random.fork());
    campaign.ledger.relaxed = relaxed;
    Some((disk, mounted, campaign))
}

/// A new server on a new disk.
fn begin(random: &mut Random) -> Option<(Disk, Mounted, Campaign)> {
    let (disk, mounted) = mounted(random.next())?;
    let mut server = server_on(&mounted);
    server.restart();
    let campaign = Campaign::new(server, random.fork());
    Some((disk, mounted, campaign))
}

/// `N` of the environment.
fn count(unless_said: u64) -> u64 {
    std::env::var("N").map_or(unless_said, |count| count.parse().expect("N is a number"))
}
