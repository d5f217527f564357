//! The room from outside: real clients on one end of a pipe, test services on the other. Time stands still unless a test moves
//! it, and a test goes on when nothing is left to do: no sleeps, no races.

mod calls;
mod connections;
mod limits;
pub(super) mod rig;
mod sockets;
