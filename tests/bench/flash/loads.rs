//! Puts of 1 KiB on a thousand keys: few and many.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use bramble::pb::etcdserverpb::DefragmentRequest;

use crate::support::requests::{Revision, compact, delete, put};
use crate::support::{Server, oracle};

const KEYS: usize = 1000;
const VALUE_BYTES: usize = 1024;
const SLOW_PUTS_PER_SECOND: u32 = 20;

fn nth(n: usize) -> bramble::pb::etcdserverpb::PutRequest {
    // In no order, and each key as often as any other.
    put(format!("key/{:05}", n * 617 % KEYS), vec![b'a' + (n % 26) as u8; VALUE_BYTES])
}

/// So much log that segments have come round: from then on none is made anew.
const WARM_UP_PUTS: usize = 32;
const WARM_UP_BYTES: usize = 1 << 20;

/// Makes segments come round, and leaves nothing but that.
pub fn warm_up(server: &Server) {
    let client = server.client();
    for _ in 0..WARM_UP_PUTS {
        client.call(&put("warm-up", vec![b'x'; WARM_UP_BYTES]));
    }
    let deleted = client.call(&delete("warm-up"));
    client.call(&compact(deleted.revision()));
    client.call(&DefragmentRequest {});
}

/// Twenty puts a second for so long, one at a time. Gives how many there were.
pub fn slow_puts(server: &Server, length: Duration) -> u64 {
    let client = server.client();
    let begun = Instant::now();
    let mut puts = 0;
    while begun.elapsed() < length {
        client.call(&nth(puts as usize));
        puts += 1;
        let next = begun + Duration::from_secs(1) / SLOW_PUTS_PER_SECOND * puts;
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    u64::from(puts)
}

/// So many puts by a thousand clients of etcd's own load generator. Gives how many there were.
pub fn many_puts(server: &Server, puts: u64) -> u64 {
    let status = Command::new(oracle("benchmark"))
        .arg(format!("--endpoints=127.0.0.1:{}", server.ports().client))
        .args(["--conns=100", "--clients=1000", "put", "--sequential-keys", "--key-size=8"])
        .args([format!("--val-size={VALUE_BYTES}"), format!("--key-space-size={KEYS}"), format!("--total={puts}")])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .unwrap();
    assert!(status.success(), "the load generator: {status}");
    puts
}
