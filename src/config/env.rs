//! `ETCD_*` variables: `ETCD_SNAPSHOT_COUNT` for `--snapshot-count`. A flag and its variable may not both be set, since nobody could
//! tell which was meant; a variable that is empty counts as not set.

use super::Notice;
use super::flags::{Setting, setting};
use super::table::{Named, named, variable};
use super::value::quote;

/// The environment: names and values.
pub type Env = [(String, String)];

/// Why the environment cannot be used.
#[derive(Debug, PartialEq, Eq)]
pub enum Trouble {
    /// This variable is set, and so is its flag.
    Conflict(String),
    /// A value is malformed; etcd's text.
    Value(String),
}

/// The value of one variable; none if it is empty.
pub fn get<'a>(env: &'a Env, name: &str) -> Option<&'a str> {
    env.iter().find(|(key, value)| key == name && !value.is_empty()).map(|(_, value)| value.as_str())
}

/// Adds what the environment sets to what the flags have set.
pub fn read(env: &Env, settings: &mut Vec<Setting>, notices: &mut Vec<Notice>) -> Result<(), Trouble> {
    let from_flags: Vec<&str> = settings.iter().map(|setting| setting.flag.name).collect();
    let mut malformed = None;
    let mut sorted: Vec<&(String, String)> = env.iter().filter(|(key, _)| key.starts_with("ETCD_")).collect();
    sorted.sort();
    for (key, value) in sorted {
        if key == "ETCD_VERSION" {
            let notice = Notice::warn("cannot set special environment variable");
            notices.push(notice.with("key", key).with("value", value));
            continue;
        }
        // etcd asks for it on boards such as these; every architecture is supported here.
        if key == "ETCD_UNSUPPORTED_ARCH" {
            continue;
        }
        let Some((name, found)) = flag_of(key) else {
            notices.push(unrecognized(key, value));
            continue;
        };
        if let Named::Flag(flag) | Named::Old(flag) = found
            && from_flags.contains(&flag.name)
        {
            return Err(Trouble::Conflict(key.clone()));
        }
        if value.is_empty() {
            notices.push(unrecognized(key, value));
            continue;
        }
        match setting(found, &name, value, notices) {
            Ok(Some(setting)) => {
                let notice = Notice::info("recognized and used environment variable");
                let shown = if key.contains("PASSWORD") { "***" } else { value };
                notices.push(notice.with("variable-name", key).with("variable-value", shown));
                settings.push(setting);
            }
            Ok(None) => {}
            Err(why) => malformed = Some(format!("invalid value {} for {key}: {why}", quote(value))),
        }
    }
    malformed.map_or(Ok(()), |text| Err(Trouble::Value(text)))
}

fn unrecognized(key: &str, value: &str) -> Notice {
    Notice::warn("unrecognized environment variable").with("environment-variable", &format!("{key}={value}"))
}

/// The flag of a variable, and the name it is meant by.
fn flag_of(key: &str) -> Option<(String, Named)> {
    let name = key.strip_prefix("ETCD_")?.to_ascii_lowercase().replace('_', "-");
    named(&name).filter(|_| variable(&name) == key).map(|found| (name, found))
}
