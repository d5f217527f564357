//! etcd's command line client.

use std::path::PathBuf;
use std::process::Command;

use super::command::{Output, Running};
use super::server::{Security, Server};
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

    fn command(&self, args: &[impl AsRef<str>]) -> Command {
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
        command
    }

    /// Starts a command; `stdin` is fed, then left open until the process is dropped or awaited.
    pub fn spawn(&self, args: &[impl AsRef<str>], stdin: &str) -> Running {
        Running::start(self.command(args), stdin)
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
