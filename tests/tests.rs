//! All tests that look at the crate from outside: one target, so that it links once.

mod api;
mod cli;
mod crash;
mod differential;
mod kube;
mod lease;
mod limits;
mod linearizable;
mod raft;
mod script;
mod seed;
mod serving;
mod side_by_side;
mod support;
mod tidy;
