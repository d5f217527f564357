//! A command line program: what it is fed, what it prints, how it ends.

use std::fs::File;
use std::io::Write;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::wait::DEADLINE;

/// What a command printed, and its exit code.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// Exit code; none: ended by a signal.
    pub code: Option<i32>,
    /// Bytes: `-w protobuf` prints no text.
    pub stdout: Vec<u8>,
    /// Text.
    pub stderr: String,
}

impl Output {
    /// stdout as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }
}

/// A command that has not ended yet. Killed when dropped.
pub struct Running {
    child: Child,
    out: tempfile::TempDir,
    line: String,
}

impl Running {
    /// Starts it; `stdin` is fed, then left open until the process is dropped or awaited.
    pub fn start(mut command: Command, stdin: &str) -> Running {
        let out = tempfile::tempdir().unwrap();
        let file = |name: &str| File::create(out.path().join(name)).unwrap();
        command.stdin(Stdio::piped()).stdout(file("stdout")).stderr(file("stderr"));
        let line = line(&command);
        let mut child = command.spawn().unwrap_or_else(|error| panic!("cannot start {line}: {error}"));
        // A command that reads nothing may be gone already.
        let _ = child.stdin.as_mut().unwrap().write_all(stdin.as_bytes());
        Running { child, out, line }
    }

    /// What it has printed so far.
    pub fn so_far(&self) -> Output {
        let read = |name: &str| std::fs::read(self.out.path().join(name)).unwrap_or_default();
        Output { code: None, stdout: read("stdout"), stderr: String::from_utf8_lossy(&read("stderr")).into_owned() }
    }

    /// Waits until stdout is `enough`; false: it has not become so within `patience`, or the command has ended before.
    pub fn wait_for(&mut self, patience: Duration, enough: impl Fn(&str) -> bool) -> bool {
        let start = Instant::now();
        loop {
            let ended = self.child.try_wait().unwrap().is_some();
            if enough(&self.so_far().text()) {
                return true;
            }
            if ended || start.elapsed() > patience {
                return false;
            }
            std::thread::sleep(Duration::from_millis(3));
        }
    }

    /// Closes stdin and waits for the end, which has to come.
    #[track_caller]
    pub fn finish(self) -> Output {
        let line = self.line.clone();
        let (output, ended) = self.finish_within(DEADLINE);
        assert!(ended, "{line} does not end");
        output
    }

    /// Closes stdin and waits for the end; false: it had to be killed.
    pub fn finish_within(mut self, patience: Duration) -> (Output, bool) {
        drop(self.child.stdin.take());
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return (Output { code: status.code(), ..self.so_far() }, true);
            }
            if start.elapsed() > patience {
                return (self.kill(), false);
            }
            std::thread::sleep(Duration::from_millis(3));
        }
    }

    /// Kills it and gives what it had printed.
    pub fn kill(mut self) -> Output {
        let _ = self.child.kill();
        let _ = self.child.wait();
        self.so_far()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn line(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}
