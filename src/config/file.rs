//! `--config-file`: YAML whose keys are the flags' names, with blocks for TLS, socket options and discovery, as kubeadm's, k3s's and
//! etcd's own sample write it.
//!
//! In: a path. Out: [`Setting`]s, as from a command line. Unknown keys are ignored, as etcd does, but each is noted; what is wrong
//! names file and line. Booleans must be booleans and numbers numbers; a duration is an integer of nanoseconds (etcd takes nothing
//! else), or a text such as `5s`.

use std::fmt;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_saphyr::{DuplicateKeyPolicy, Spanned};

use super::Notice;
use super::flags::{Setting, setting};
use super::table::{Named, named};
use super::value::Form;

/// No configuration is larger. A wrong path should not fill the memory.
const MOST_BYTES: u64 = 1 << 20;

/// Blocks: their name, and what stands before the names of the flags in them.
const BLOCKS: [(&str, &str); 4] = [
    ("client-transport-security", ""),
    ("peer-transport-security", "peer-"),
    ("socket-options", "socket-"),
    ("discovery-config", "discovery-"),
];

/// Keys in blocks that are not the flag's name without its prefix: the key below its block, and the flag.
const KEYS: [(&str, &str); 22] = [
    ("client-transport-security.allowed-cn", "client-cert-allowed-cn"),
    ("client-transport-security.allowed-cns", "client-cert-allowed-cn"),
    ("client-transport-security.allowed-hostname", "client-cert-allowed-hostname"),
    ("client-transport-security.allowed-hostnames", "client-cert-allowed-hostname"),
    ("client-transport-security.crl-file", "client-crl-file"),
    ("client-transport-security.client-crl-file", "client-crl-file"),
    ("peer-transport-security.allowed-cn", "peer-cert-allowed-cn"),
    ("peer-transport-security.allowed-cns", "peer-cert-allowed-cn"),
    ("peer-transport-security.allowed-hostname", "peer-cert-allowed-hostname"),
    ("peer-transport-security.allowed-hostnames", "peer-cert-allowed-hostname"),
    ("peer-transport-security.client-crl-file", "peer-crl-file"),
    ("discovery-config.client.endpoints", "discovery-endpoints"),
    ("discovery-config.endpoints", "discovery-endpoints"),
    ("discovery-config.token", "discovery-token"),
    ("discovery-config.client.dial-timeout", "discovery-dial-timeout"),
    ("discovery-config.client.request-timeout", "discovery-request-timeout"),
    ("discovery-config.client.keepalive-time", "discovery-keepalive-time"),
    ("discovery-config.client.keepalive-timeout", "discovery-keepalive-timeout"),
    ("discovery-config.dial-timeout", "discovery-dial-timeout"),
    ("discovery-config.request-timeout", "discovery-request-timeout"),
    ("discovery-config.keepalive-time", "discovery-keepalive-time"),
    ("discovery-config.keepalive-timeout", "discovery-keepalive-timeout"),
];

/// Flags that are only read inside their block: etcd does not know them at the top of a file.
const IN_BLOCKS_ONLY: [&str; 4] = ["config-file", "version", "socket-reuse-port", "socket-reuse-address"];

/// Reads the file. The error says where and what.
pub fn read(path: &str, notices: &mut Vec<Notice>) -> Result<Vec<Setting>, String> {
    let text = text_of(Path::new(path)).map_err(|(doing, error)| format!("{doing} {path}: {}", in_gos_words(&error)))?;
    parse(path, &text, notices)
}

fn text_of(path: &Path) -> Result<String, (&'static str, io::Error)> {
    let file = File::open(path).map_err(|e| ("open", e))?;
    let mut text = String::new();
    let read = file.take(MOST_BYTES + 1).read_to_string(&mut text).map_err(|e| ("read", e))?;
    if read as u64 > MOST_BYTES {
        return Err(("read", io::Error::other("the file is larger than 1 MiB, so it is no configuration")));
    }
    Ok(text)
}

fn in_gos_words(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "no such file or directory".into(),
        io::ErrorKind::PermissionDenied => "permission denied".into(),
        io::ErrorKind::IsADirectory => "is a directory".into(),
        _ => error.to_string(),
    }
}

/// Reads the text of a file; `path` is for messages.
pub fn parse(path: &str, text: &str, notices: &mut Vec<Notice>) -> Result<Vec<Setting>, String> {
    let options = serde_saphyr::options! { duplicate_keys: DuplicateKeyPolicy::PassThrough, with_snippet: false };
    if text.lines().all(|line| matches!(line.trim_start().bytes().next(), None | Some(b'#'))) {
        return Ok(Vec::new());
    }
    let document: Spanned<Node> = serde_saphyr::from_str_with_options(text, options).map_err(|error| {
        let line = error.location().map_or(1, |at| at.line().max(1));
        format!("{path}:{line}: not valid YAML: {}", error.to_string().replace('\n', " "))
    })?;
    let mut settings = Settings { path, notices, settings: Vec::new() };
    match &document.value {
        Node::Null => {}
        Node::Map(entries) => settings.entries("", entries)?,
        _ => return Err(settings.error(document.referenced.line(), "expected keys with values, such as name: node1")),
    }
    Ok(settings.settings)
}

struct Settings<'a> {
    path: &'a str,
    notices: &'a mut Vec<Notice>,
    settings: Vec<Setting>,
}

impl Settings<'_> {
    fn error(&self, line: u64, what: &str) -> String {
        format!("{}:{}: {what}", self.path, line.max(1))
    }

    fn entries(&mut self, block: &str, entries: &[(String, Spanned<Node>)]) -> Result<(), String> {
        for (key, node) in entries {
            // Go's decoder takes keys in any case.
            let key = format!("{block}{}", key.to_ascii_lowercase());
            let is_block = key == "discovery-config.client" || BLOCKS.iter().any(|(block, _)| *block == key);
            match &node.value {
                Node::Null => {}
                Node::Map(inner) if is_block => self.entries(&format!("{key}."), inner)?,
                _ if is_block => return Err(self.error(node.referenced.line(), &format!("{key}: expected a block of keys"))),
                _ => self.entry(&key, node)?,
            }
        }
        Ok(())
    }

    fn entry(&mut self, key: &str, node: &Spanned<Node>) -> Result<(), String> {
        let Some((name, found)) = flag_of(key) else {
            self.notices.push(Notice::warn("unknown key in the configuration file - ignoring").with("key", key));
            return Ok(());
        };
        let line = node.referenced.line();
        let form = match found {
            Named::Flag(flag) | Named::Old(flag) => flag.form,
            Named::Gone { .. } => Form::Text,
        };
        let value = match found {
            Named::Gone { .. } => String::new(),
            _ => text_as(form, &node.value).map_err(|expected| self.error(line, &format!("{key}: expected {expected}")))?,
        };
        // Go leaves a field as it is if the file gives it empty.
        if value.is_empty() && !matches!(found, Named::Gone { .. }) && name != "auto-compaction-mode" {
            return Ok(());
        }
        let setting = setting(found, &name, &value, self.notices).map_err(|why| self.error(line, &format!("{key}: {why}")))?;
        self.settings.extend(setting);
        Ok(())
    }
}

/// The flag of a key, blocks included, and the name it is meant by.
fn flag_of(key: &str) -> Option<(String, Named)> {
    let name = match (KEYS.iter().find(|(full, _)| *full == key), key.split_once('.')) {
        (Some((_, flag)), _) => (*flag).to_owned(),
        (None, Some((block, key))) => format!("{}{key}", BLOCKS.iter().find(|(name, _)| *name == block)?.1),
        (None, None) if IN_BLOCKS_ONLY.contains(&key) || secured_in_a_block(key) => return None,
        (None, None) => key.to_owned(),
    };
    named(&name).map(|found| (name, found))
}

/// What etcd reads from `client-transport-security` and `peer-transport-security` alone.
fn secured_in_a_block(key: &str) -> bool {
    let key = key.strip_prefix("peer-").unwrap_or(key);
    const SECURITY: [&str; 11] = [
        "auto-tls",
        "cert-allowed-cn",
        "cert-allowed-hostname",
        "cert-file",
        "client-cert-allowed-cn",
        "client-cert-allowed-hostname",
        "client-cert-auth",
        "client-cert-file",
        "client-key-file",
        "key-file",
        "trusted-ca-file",
    ];
    SECURITY.contains(&key)
}

/// A node as the text a flag would be given, or what was expected.
fn text_as(form: Form, node: &Node) -> Result<String, &'static str> {
    match (form, node) {
        (Form::Bool, Node::Bool(on)) => Ok(on.to_string()),
        (Form::Bool, Node::Text(word)) => yaml_bool(word).ok_or("true or false"),
        (Form::Bool, _) => Err("true or false"),
        (Form::Number, Node::Integer(n)) => Ok(n.to_string()),
        (Form::Number, _) => Err("an integer"),
        (Form::Duration, Node::Integer(n)) => Ok(format!("{n}ns")),
        (Form::Duration, Node::Text(text)) => Ok(text.clone()),
        (Form::Duration, _) => Err("an integer of nanoseconds or a duration such as 5s"),
        (Form::Text | Form::List, Node::Text(text)) => Ok(text.clone()),
        (Form::Text, _) => Err("a text; put it in quotes"),
        (Form::List, Node::List(items)) => items
            .iter()
            .map(|item| match item {
                Node::Text(text) if !text.contains(',') => Ok(text.as_str()),
                _ => Err("a list of texts without commas"),
            })
            .collect::<Result<Vec<_>, _>>()
            .map(|items| items.join(",")),
        (Form::List, _) => Err("a list of texts"),
    }
}

/// The booleans of YAML 1.1, which etcd's reader still knows.
fn yaml_bool(word: &str) -> Option<String> {
    match word {
        "yes" | "Yes" | "YES" | "on" | "On" | "ON" => Some("true".into()),
        "no" | "No" | "NO" | "off" | "Off" | "OFF" => Some("false".into()),
        _ => None,
    }
}

/// Any YAML.
#[derive(Debug)]
enum Node {
    Null,
    Bool(bool),
    Integer(i128),
    Text(String),
    List(Vec<Node>),
    Map(Vec<(String, Spanned<Node>)>),
    /// A number that is no integer.
    Float,
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Node, D::Error> {
        deserializer.deserialize_any(NodeVisitor)
    }
}

struct NodeVisitor;

impl<'de> Visitor<'de> for NodeVisitor {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("YAML")
    }

    fn visit_unit<E>(self) -> Result<Node, E> {
        Ok(Node::Null)
    }

    fn visit_none<E>(self) -> Result<Node, E> {
        Ok(Node::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Node, D::Error> {
        Node::deserialize(deserializer)
    }

    fn visit_bool<E>(self, on: bool) -> Result<Node, E> {
        Ok(Node::Bool(on))
    }

    fn visit_i64<E>(self, n: i64) -> Result<Node, E> {
        Ok(Node::Integer(n.into()))
    }

    fn visit_u64<E>(self, n: u64) -> Result<Node, E> {
        Ok(Node::Integer(n.into()))
    }

    fn visit_i128<E>(self, n: i128) -> Result<Node, E> {
        Ok(Node::Integer(n))
    }

    fn visit_u128<E: serde::de::Error>(self, n: u128) -> Result<Node, E> {
        i128::try_from(n).map(Node::Integer).map_err(|_| E::custom("number out of range"))
    }

    fn visit_f64<E>(self, x: f64) -> Result<Node, E> {
        // 1e4 is an integer to etcd's reader. Beyond 2^53 a float is none for certain.
        let integer = x.fract() == 0.0 && x.abs() < 9_007_199_254_740_992.0;
        Ok(if integer { Node::Integer(x as i128) } else { Node::Float })
    }

    fn visit_str<E>(self, text: &str) -> Result<Node, E> {
        Ok(Node::Text(text.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Node, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element()? {
            items.push(item);
        }
        Ok(Node::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Node, A::Error> {
        let mut entries = Vec::new();
        while let Some(key) = map.next_key::<Node>()? {
            let key = match key {
                Node::Text(key) => key,
                Node::Integer(n) => n.to_string(),
                Node::Bool(on) => on.to_string(),
                _ => return Err(A::Error::custom("a key must be a text")),
            };
            entries.push((key, map.next_value()?));
        }
        Ok(Node::Map(entries))
    }
}
