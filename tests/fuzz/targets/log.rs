//! Entries of the log, applied at a start: requests that no check at the door has seen, as another version or another member might
//! have let them in. Whatever they hold, the server starts and serves, or says what is wrong; and a second start ends like the first.
//!
//! Input: entries.

use std::cell::RefCell;

use bramble::host::sim::SimDisk;
use bramble::pb::etcdserverpb::*;
use bramble::raft::{Entry, EntryKind, HardState, Index, LogId};
use bramble::wal::{Options, Wal};
use bytes::Bytes;
use prost::Message;

use super::data_dir::{self, DataDir, LEFT};
use super::input::Input;
use super::messages;

thread_local! {
    static DIR: RefCell<DataDir> = RefCell::new(DataDir::new());
}

pub fn run(data: &[u8]) {
    DIR.with_borrow(|dir| {
        let disk = dir.disk();
        append(dir, &disk, &mut Input::new(data));
        dir.lay(&LEFT.db);
        let first = start(dir, &disk);
        dir.lay(&LEFT.db);
        assert_eq!(start(dir, &disk), first, "a log leads to one state");
    });
}

/// Revision and hash after the start; none if there was none.
fn start(dir: &DataDir, disk: &SimDisk) -> Option<(i64, u32)> {
    let disk = disk.fork();
    let server = dir.start(&disk).ok()?;
    let handle = server.handle();
    let state = handle.hash_kv(0).ok().map(|hash| (hash.current, hash.hash));
    data_dir::serve(&handle);
    server.stop();
    let _ = server.wait();
    state
}

fn append(dir: &DataDir, disk: &SimDisk, input: &mut Input<'_>) {
    let (mut wal, recovered) =
        Wal::open(&data_dir::host(disk), &dir.wal(), None, Index(0), Options::default()).expect("the server has left it so");
    let (last, state) = (recovered.last, recovered.hard_state);
    let mut entries = Vec::new();
    while !input.is_empty() && entries.len() < 20 {
        let id = LogId { term: last.term, index: Index(last.index.0 + 1 + entries.len() as u64) };
        let kind = if input.byte() % 16 == 15 { EntryKind::ConfChange } else { EntryKind::Normal };
        entries.push(Entry { id, kind, data: entry(kind, input) });
    }
    let commit = Index(last.index.0 + entries.len() as u64);
    wal.append(Some(HardState { commit, ..state }), &entries).expect("the disk is sound");
}

fn entry(kind: EntryKind, input: &mut Input<'_>) -> Bytes {
    if kind == EntryKind::ConfChange {
        let name = String::from_utf8_lossy(input.piece()).into_owned();
        let member =
            Member { id: input.u64(), peer_ur_ls: vec![name.clone()], name, is_learner: input.bool(), ..Member::default() };
        return if input.bool() { member.encode_to_vec().into() } else { Bytes::copy_from_slice(input.piece()) };
    }
    let mut request = InternalRaftRequest::default();
    match input.byte() % 14 {
        0 => return Bytes::copy_from_slice(input.piece()),
        1 => request.delete_range = Some(messages::delete_range(input)),
        2 => request.compaction = Some(messages::compaction(input)),
        3 => request.lease_grant = Some(messages::lease_grant(input)),
        4 => request.lease_revoke = Some(messages::lease_revoke(input)),
        5 => request.alarm = Some(messages::alarm(input)),
        6 => {
            let checkpoints = (0..input.byte() % 4)
                .map(|_| LeaseCheckpoint { id: i64::from(input.byte() % 8), remaining_ttl: input.number() })
                .collect();
            request.lease_checkpoint = Some(LeaseCheckpointRequest { checkpoints });
        }
        7 => request.cluster_version_set = Some(ClusterVersionSetRequest { ver: text(input) }),
        8 => {
            let attributes = MemberAttributes { name: text(input), client_urls: vec![text(input)] };
            let member_attributes = input.bool().then_some(attributes);
            request.member_attr_set = Some(MemberAttrSetRequest { member_id: input.u64(), member_attributes });
        }
        9 => request.member_update = Some(MemberUpdateRequest { id: input.u64(), peer_ur_ls: vec![text(input)] }),
        10 | 11 => request.txn = Some(messages::txn(input, 40)),
        _ => request.put = Some(messages::put(input)),
    }
    request.encode_to_vec().into()
}

fn text(input: &mut Input<'_>) -> String {
    String::from_utf8_lossy(input.piece()).into_owned()
}
