//! All tests that look at the crate from outside: one target, so that it links once.

mod api;
mod cli;
mod lease;
mod raft;
mod script;
mod side_by_side;
mod smoke;
mod support;
mod tidy;
