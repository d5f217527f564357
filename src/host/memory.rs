//! The allocator, as far as it has to be told what a small machine is.

/// Keeps all threads' memory in one heap, once and for the whole process.
///
/// glibc gives each thread a heap of its own and returns what is free at the end of a heap only: what a burst of clients on one thread
/// has left behind is of no use to the next thread's burst, and hostile clients took half as much again as they were allowed. The lock
/// of the one heap is not what limits us (`tests/hostile`; puts of 1,000 clients: as many as before, and a tenth less memory).
#[cfg(target_env = "gnu")]
pub fn share_one_heap() {
    // SAFETY: mallopt takes two numbers; glibc allows the call at any time, and a value that it refuses changes nothing.
    unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
}

/// Others than glibc have no heap for each thread.
#[cfg(not(target_env = "gnu"))]
pub fn share_one_heap() {}
