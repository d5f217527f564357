//! All tests that look at the crate from outside: one target, so that it links once.

mod raft;
mod script;
