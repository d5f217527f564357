//! etcd's command line client.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::server::{Security, Server};
use super::wait::DEADLINE;
use super::{Certs, oracle};

/// Which one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// 3.4
    V34,
    /// 3.7.3
    V37,
}

impl Version {
    fn binary(self) -> PathBuf {
        oracle(match self {
            Version::V34 => "etcdctl34",
            Version::V37 => "etcdctl",
        })
    }
}

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

/// An etcdctl that talks to one server.
pub struct Etcdctl {
    version: Version,
    url: String,
    tls: Option<(Certs, bool)>,
}

impl Etcdctl {
    /// For `server`.
    pub fn new(version: Version, server: &Server) -> Etcdctl {
        let tls = server.certs().map(|certs| (certs.clone(), server.security() == Security::Mutual));
        Etcdctl { version, url: server.url(), tls }
    }

    fn command(&self, args: &[impl AsRef<str>], out: &Path) -> Command {
        let mut command = Command::new(self.version.binary());
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
        if self.version == Version::V34 {
            command.env("ETCDCTL_API", "3");
        }
        command.arg(format!("--endpoints={}", self.url));
        if let Some((certs, mutual)) = &self.tls {
            command.arg("--cacert").arg(certs.ca());
            if *mutual {
                let (cert, key) = certs.pair("client");
                command.arg("--cert").arg(cert).arg("--key").arg(key);
            }
        }
        command.args(args.iter().map(AsRef::as_ref));
        command.stdin(Stdio::piped());
        command.stdout(File::create(out.join("stdout")).unwrap());
        command.stderr(File::create(out.join("stderr")).unwrap());
        command
    }

    /// Starts a command; `stdin` is fed, then left open until the process is dropped or awaited.
    pub fn spawn(&self, args: &[impl AsRef<str>], stdin: &str) -> Running {
        let out = tempfile::tempdir().unwrap();
        let mut child = self.command(args, out.path()).spawn().unwrap();
        // A command that reads nothing may be gone already.
        let _ = child.stdin.as_mut().unwrap().write_all(stdin.as_bytes());
        let line = args.iter().map(|arg| arg.as_ref()).collect::<Vec<_>>().join(" ");
        Running { child, out, line }
    }

    /// Runs a command to its end.
    #[track_caller]
    pub fn run_with(&self, args: &[impl AsRef<str>], stdin: &str) -> Output {
        self.spawn(args, stdin).finish()
    }

    /// Runs a command to its end, with an empty stdin.
    #[track_caller]
    pub fn run(&self, args: &[impl AsRef<str>]) -> Output {
        self.run_with(args, "")
    }

    /// Runs a command that has to succeed, and gives its stdout.
    #[track_caller]
    pub fn stdout(&self, args: &[impl AsRef<str>]) -> String {
        let output = self.run(args);
        assert_eq!(output.code, Some(0), "etcdctl failed: {}{}", output.text(), output.stderr);
        output.text()
    }
}

/// A command that has not ended yet. Killed when dropped.
pub struct Running {
    child: Child,
    out: tempfile::TempDir,
    line: String,
}

impl Running {
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
        assert!(ended, "etcdctl {line} does not end");
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
