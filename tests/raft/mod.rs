//! The Raft core: stories in `tests/scripts/raft`, and a cluster under random faults.

mod cluster;
mod sim;
mod story;
