//! Clients that mean harm. Each attack is one client's or a crowd's way of making the server hold more, wait or fall. While it goes on
//! and while what it has opened stays open, the server's memory, sockets and threads stay below a bound, and a
//! bystander's puts, reads and events come back right; afterwards sockets and threads are as before.
//!
//! Times are printed and never asserted. The short sizes run with every test; `make hostile` runs the full ones, over TCP and
//! over TLS, on the release binary.

mod bystander;
mod calls;
mod connections;
mod footprint;
mod frames;
mod halves;
mod headers;
mod http1;
mod replies;
mod watches;
pub mod wire;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use crate::support::server::Target;
use crate::support::wait::until_within;
use crate::support::{Security, Server};
use bystander::Bystander;
use footprint::{Footprint, size};

/// Bytes in a MiB.
const MIB: u64 = 1 << 20;
/// What all open calls of the process may cost together.
const CALLS: u64 = 160 * MIB;
/// And all requests that are read: the pool, in buffers that may be half empty.
const REQUESTS: u64 = 128 * MIB;
/// What answers may cost the process.
const REPLIES: u64 = 128 * MIB;
/// Rounds of the bystander before, and at least during an attack and while its doings stay open.
const ROUNDS: usize = 20;
/// For what a bound has no name for: the allocator's fragments, the bystander's own connection, the checkpoint's pages in memory.
const SLACK: u64 = 16 * MIB;
/// Threads that come and go with long reads, handshakes and `/metrics`: the pool's own limit.
const POOL: usize = 500;

/// The server, as an attack sees it.
struct Field<'a> {
    server: &'a Server,
    target: Target,
}

/// Whether a test is the short one, or one of `make hostile`.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Size {
    Short,
    Full,
}

impl Size {
    /// A number for each.
    fn of<T>(self, short: T, full: T) -> T {
        match self {
            Size::Short => short,
            Size::Full => full,
        }
    }
}

/// Sets `attack` on `server` twice, so that what stays behind of the first shows in the second. What it returns is kept open
/// until the bystander has worked beside it. `bound` is what its doings may cost, in bytes.
fn withstands<T>(server: &Server, name: &str, bound: u64, attack: impl Fn(&Field<'_>) -> T) {
    let field = Field { server, target: server.target() };
    let mut bystander = Bystander::of(server);
    (0..ROUNDS).for_each(|_| bystander.round());
    println!("{name}");
    bystander.tell("before");
    let before = Footprint::of(server);
    for time in ["first", "second"] {
        Footprint::forget_peak(server);
        let held = beside(&mut bystander, || attack(&field));
        bystander.tell("during");
        let Footprint { resident, peak, sockets, threads } = Footprint::of(server);
        println!(
            "  {time} time: {} before, {} at the most, {} held; {sockets} sockets, {threads} threads",
            size(before.resident),
            size(peak),
            size(resident),
        );
        let most = before.resident + bound + SLACK;
        assert!(peak <= most, "{name}: {} in memory, where {} is the bound", size(peak), size(most));
        assert!(threads <= before.threads + POOL, "{name}: {threads} threads, {} before", before.threads);
        drop(held);
        until_within("sockets and threads to be given back", Duration::from_secs(300), Duration::from_millis(20), || {
            let now = Footprint::of(server);
            (now.sockets <= before.sockets && now.threads <= before.threads + POOL).then_some(())
        });
    }
    (0..ROUNDS).for_each(|_| bystander.round());
    println!("  {} afterwards", size(Footprint::of(server).resident));
}

/// Runs `work`, and the bystander all the while, for [`ROUNDS`] more at the least when it is done.
fn beside<T>(bystander: &mut Bystander, work: impl FnOnce() -> T) -> T {
    struct Stop<'a>(&'a AtomicBool);
    impl Drop for Stop<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let (stop, rounds) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        let other = scope.spawn(|| bystander.until(&stop, &rounds));
        let on_end = Stop(&stop);
        let held = work();
        let enough = rounds.load(Ordering::Relaxed) + ROUNDS;
        until_within("the bystander to go on", Duration::from_secs(120), Duration::from_millis(5), || {
            (rounds.load(Ordering::Relaxed) >= enough || other.is_finished()).then_some(())
        });
        drop(on_end);
        other.join().expect("the bystander was served well");
        held
    })
}

/// A server for an attack.
fn server(security: Security) -> Server {
    Server::builder().security(security).start()
}

/// Makes of each attack a short test and two full ones.
macro_rules! attacks {
    ($($name:ident)*) => {
        mod short {
            $(#[test]
            fn $name() {
                super::$name(&crate::hostile::server(crate::support::Security::Plain), crate::hostile::Size::Short);
            })*
        }
        mod full {
            $(#[test]
            #[ignore = "large: make hostile"]
            fn $name() {
                for security in [crate::support::Security::Plain, crate::support::Security::Tls] {
                    println!("{security:?}");
                    super::$name(&crate::hostile::server(security), crate::hostile::Size::Full);
                }
            })*
        }
    };
}
use attacks;
