//! What the process counts, under etcd's names, and how Prometheus reads it.
//!
//! ```text
//! kinds.rs     counters, gauges, histograms: a few relaxed atomics each, made at compile time
//! names.rs     all of those that count as things happen
//! text.rs      the exposition format
//! process.rs   the process as the kernel sees it
//! ```
//!
//! In: one-line calls from any room but `raft` and `lease`, which are pure. Out: families of samples, written by whoever
//! answers `/metrics`; figures that are cheaper to read than to keep are read there. A leaf.
//! Always: counting never waits, allocates or fails. The counts are the process's own: several servers in one process (a
//! simulator, the tests) share them.
//!
//! Names, types, labels and buckets are those of etcd 3.7, on which dashboards and alerts are built. No `go_*` names: nothing
//! here has a Go runtime to tell of, and constants in their place would mislead.

mod kinds;
mod names;
pub mod process;
pub mod text;

pub use kinds::{Counter, Gauge, Held, Histogram, Scale, Summed};
pub use names::*;
