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

/// Gives the kernel back what is free in the heap, wherever it lies. By itself glibc gives back only what is free at its end, and above a
/// burst's leavings there is always something that stays. Whoever allocates meanwhile waits, for some milliseconds after a large burst.
#[cfg(target_env = "gnu")]
pub fn give_back_memory() {
    // SAFETY: malloc_trim takes a number; glibc allows the call at any time, beside any other use of the heap.
    unsafe { libc::malloc_trim(0) };
}

/// Others than glibc give back by themselves.
#[cfg(not(target_env = "gnu"))]
pub fn give_back_memory() {}

/// Memory of this process that is no file's, in bytes; none where the kernel does not tell.
pub fn own_memory() -> Option<u64> {
    let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: Vec<u64> = statm.split(' ').map_while(|pages| pages.trim().parse().ok()).collect();
    // All, resident, and of those the ones that are files'.
    let [_, resident, of_files, ..] = pages[..] else { return None };
    Some(resident.saturating_sub(of_files) * rustix::param::page_size() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_memory_holds_what_was_written() {
        let before = own_memory().unwrap();
        let much = vec![1_u8; 64 << 20];
        assert!(own_memory().unwrap() > before + (32 << 20), "{before}");
        drop(much);
        give_back_memory();
    }
}
