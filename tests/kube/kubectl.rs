//! kubectl, as the cluster's administrator.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::support::command::{Output, Running};
use crate::support::oracle;

/// A kubectl that talks to one apiserver.
#[derive(Clone)]
pub struct Kubectl {
    home: PathBuf,
    config: PathBuf,
}

impl Kubectl {
    /// With a home of its own for its caches.
    pub fn new(home: &Path, config: PathBuf) -> Kubectl {
        Kubectl { home: home.to_path_buf(), config }
    }

    /// Starts a command.
    pub fn spawn(&self, args: &[&str], stdin: &str) -> Running {
        let mut command = Command::new(oracle("kubectl"));
        command.env_clear().env("HOME", &self.home).env("KUBECONFIG", &self.config).args(args);
        Running::start(command, stdin)
    }

    /// Runs a command to its end.
    pub fn run(&self, args: &[&str], stdin: &str) -> Output {
        self.spawn(args, stdin).finish()
    }

    /// Runs a command that has to succeed.
    #[track_caller]
    pub fn stdout(&self, args: &[&str]) -> String {
        let output = self.run(args, "");
        assert_eq!(output.code, Some(0), "kubectl {args:?} failed: {}{}", output.text(), output.stderr);
        output.text()
    }

    /// Creates what a manifest describes.
    #[track_caller]
    pub fn create(&self, manifest: &Value) {
        let output = self.run(&["create", "-f", "-"], &manifest.to_string());
        assert_eq!(output.code, Some(0), "kubectl cannot create {manifest}: {}", output.stderr);
    }

    /// `-o json` of a command; none if it fails.
    pub fn try_json(&self, args: &[&str]) -> Option<Value> {
        let output = self.run(&[args, &["-o", "json"]].concat(), "");
        (output.code == Some(0)).then(|| serde_json::from_slice(&output.stdout).expect("kubectl prints JSON"))
    }

    /// `-o json` of a command that has to succeed.
    #[track_caller]
    pub fn json(&self, args: &[&str]) -> Value {
        serde_json::from_str(&self.stdout(&[args, &["-o", "json"]].concat())).expect("kubectl prints JSON")
    }

    /// GET of a path of the apiserver; none if it fails.
    pub fn try_raw(&self, path: &str) -> Option<String> {
        let output = self.run(&["get", "--raw", path], "");
        (output.code == Some(0)).then(|| output.text())
    }

    /// GET of a path of the apiserver.
    #[track_caller]
    pub fn raw(&self, path: &str) -> String {
        self.stdout(&["get", "--raw", path])
    }
}

/// The resource version of an object or a list.
#[track_caller]
pub fn revision(object: &Value) -> u64 {
    let text = object["metadata"]["resourceVersion"].as_str();
    text.and_then(|text| text.parse().ok()).unwrap_or_else(|| panic!("no resource version in {object}"))
}

/// The name of an object.
#[track_caller]
pub fn name(object: &Value) -> String {
    object["metadata"]["name"].as_str().unwrap_or_else(|| panic!("no name in {object}")).to_owned()
}

/// The items of a list.
#[track_caller]
pub fn items(list: &Value) -> &[Value] {
    list["items"].as_array().unwrap_or_else(|| panic!("no list: {list}"))
}
