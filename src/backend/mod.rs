//! The checkpoint: one LMDB file, written rarely and in whole transactions. The only room that names the LMDB binding.
//!
//! In: batches of puts and deletes from one writer at a time. Out: short-lived [`Reader`]s, each a frozen view.
//! Always: a batch is there whole or not at all; a row read back is the row written, or a [`crate::error::Fault`] says it is damaged.
//!
//! All tables share LMDB's unnamed tree, told apart by the first byte of the key: one root to rewrite per commit. Every value
//! carries a CRC-32C of its key and bytes, because LMDB 0.9 itself would hand out a damaged page without a word.

mod check;
mod env;
mod guard;
mod meta;
mod pace;
mod page;
mod table;
#[cfg(test)]
mod tests;

/// What an operator can do about a damaged file.
const REMEDY: &str =
    "Put back a copy of the data directory, or in a cluster remove this member, delete its data directory and add it again.";

pub use env::{Backend, Options, ReadAhead, Reader, Size, WriteError, Writer};
pub use table::Table;
