//! All tests that look at the crate from outside: one target, so that it links once.

mod api;
mod bench;
mod cli;
mod counts;
mod crash;
mod differential;
mod fuzz;
mod guards;
mod hostile;
mod kube;
mod kube_shaped;
mod lease;
mod limits;
mod linearizable;
mod power_cut;
mod raft;
mod script;
mod seed;
mod serving;
mod side_by_side;
mod support;
mod syncs;
mod tidy;
