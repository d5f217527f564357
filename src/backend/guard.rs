//! A page of the map that cannot be read while we serve: an SD card's bad sector, or a file cut short by somebody else. The kernel
//! has no other way to tell than SIGBUS (SIGSEGV, if damage that came after the start made LMDB write where it may not). Nothing
//! can be saved then, but the operator is told which file it was and what to do, and the exit code is that of every other fault.

use std::ffi::{c_int, c_void};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};
use std::sync::{Once, OnceLock};

use super::REMEDY;

const SIGNALS: [c_int; 2] = [libc::SIGBUS, libc::SIGSEGV];
/// As every fault ends the process.
const EXIT_CODE: c_int = 1;

/// Where the map stands; empty if none does.
static BEGIN: AtomicUsize = AtomicUsize::new(0);
static END: AtomicUsize = AtomicUsize::new(0);
/// What to say. Never freed: the handler may be reading it.
static MESSAGE: AtomicPtr<String> = AtomicPtr::new(ptr::null_mut());
/// What these signals did before.
static BEFORE: [OnceLock<libc::sigaction>; 2] = [OnceLock::new(), OnceLock::new()];

/// From now on a fault in the map of the file at `path` is told of. Without `/proc` nothing is watched.
pub(super) fn watch(path: &Path) {
    static INSTALL: Once = Once::new();
    INSTALL.call_once(install);
    forget();
    let Some((begin, end)) = map_of(path) else { return log::debug!("the map of {} is not found", path.display()) };
    let text = format!("{} cannot be read any more, or was damaged while it was in use. {REMEDY}\n", path.display());
    // SAFETY: what MESSAGE points to came from a Box that is never freed.
    let known = unsafe { MESSAGE.load(Ordering::Acquire).as_ref() };
    if known != Some(&text) {
        MESSAGE.store(Box::leak(Box::new(text)), Ordering::Release);
    }
    BEGIN.store(begin, Ordering::Release);
    END.store(end, Ordering::Release);
}

/// The map goes away: what comes to stand there is not ours.
pub(super) fn forget() {
    END.store(0, Ordering::Release);
}

fn install() {
    for (signal, before) in SIGNALS.into_iter().zip(&BEFORE) {
        // SAFETY: a sigaction of zeros is a valid value: no flags, an empty mask, the default handler.
        let (mut action, mut old): (libc::sigaction, libc::sigaction) = unsafe { (std::mem::zeroed(), std::mem::zeroed()) };
        action.sa_sigaction = on_fault as *const () as usize;
        // On the stack that std has set aside: a thread that has overflowed its own must still reach std's handler.
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        // SAFETY: asking for the present action changes nothing, and both pointers are to valid places.
        unsafe { libc::sigaction(signal, ptr::null(), &raw mut old) };
        // Kept before ours can run.
        let _ = before.set(old);
        // SAFETY: `on_fault` has the signature that SA_SIGINFO asks for, and does only what a signal handler may.
        unsafe { libc::sigaction(signal, &raw const action, ptr::null_mut()) };
    }
}

/// Runs in the thread that faulted, between two of its instructions: atomics and system calls only.
extern "C" fn on_fault(signal: c_int, info: *mut libc::siginfo_t, _: *mut c_void) {
    // SAFETY: SA_SIGINFO: the kernel hands out a valid siginfo, which for these signals holds an address if the code is above zero.
    let (code, address) = unsafe { ((*info).si_code, (*info).si_addr() as usize) };
    let ours = code > 0 && (BEGIN.load(Ordering::Acquire)..END.load(Ordering::Acquire)).contains(&address);
    // SAFETY: it is null or points to a String that is never freed nor changed.
    let message = unsafe { MESSAGE.load(Ordering::Acquire).as_ref() };
    if let Some(message) = message.filter(|_| ours) {
        // SAFETY: write and _exit may be called in a signal handler, and the bytes are valid.
        unsafe {
            libc::write(libc::STDERR_FILENO, message.as_ptr().cast(), message.len());
            libc::_exit(EXIT_CODE);
        }
    }
    // Somebody else's: as it was before us. The instruction is tried again, or the signal sent again.
    let before = SIGNALS.iter().position(|known| *known == signal).and_then(|at| BEFORE[at].get());
    if let Some(before) = before {
        // SAFETY: `before` is what the kernel gave us, and both calls may be made in a signal handler.
        unsafe {
            libc::sigaction(signal, before, ptr::null_mut());
            if code <= 0 {
                libc::raise(signal);
            }
        }
    }
}

/// Where the kernel has mapped the file.
fn map_of(path: &Path) -> Option<(usize, usize)> {
    let (inode, name) = (fs::metadata(path).ok()?.ino().to_string(), path.file_name()?.to_str()?);
    fs::read_to_string("/proc/self/maps").ok()?.lines().find_map(|line| {
        let mut words = line.split_whitespace();
        let (range, found) = (words.next()?, words.nth(3)?);
        let (begin, end) = range.split_once('-')?;
        let is_it = found == inode && line.ends_with(name);
        let number = |text| usize::from_str_radix(text, 16).ok();
        if is_it { number(begin).zip(number(end)) } else { None }
    })
}
