//! The scripts' language, line by line:
//!
//! ```text
//! # a comment                     nothing
//! flags --quota-backend-bytes=9   the servers start with this
//! $ put a "b c"                   runs etcdctl; quotes hold words together, {NAME} is a bound lease
//! < text                          a line of its stdin
//! bind NAME                       binds the lease id that it printed
//! until text                      it does not end by itself: ended once its stdout holds the text
//! lines 12                        likewise, once its stdout has so many lines
//! patience 90                     it may take so many seconds
//! sorted                          its lines may come in any order
//! grant 1234 60                   grants a lease of this hexadecimal id without etcdctl, which cannot choose ids
//! alarm NOSPACE                   raises an alarm, which etcdctl cannot
//! kill                            kill -9 and start again
//! ```
//!
//! `{BIG}` stands for 1.6 million bytes.

use std::time::Duration;

use bramble::pb::etcdserverpb::AlarmType;

/// How long a command may take to print what is expected of it; generous, because a step that comes to it fails anyway.
const PATIENCE: Duration = Duration::from_secs(10);

/// A parsed script.
pub struct Script {
    /// More flags for the server.
    pub flags: Vec<String>,
    /// What to do, in order.
    pub steps: Vec<Step>,
}

/// One step.
pub struct Step {
    /// Its line, numbered.
    pub source: String,
    /// What to do.
    pub action: Action,
}

/// What to do.
pub enum Action {
    /// Run etcdctl.
    Etcdctl { args: Vec<String>, stdin: String, end: End, bind: Option<String>, sorted: bool, patience: Duration },
    /// Grant a lease.
    Grant { id: i64, ttl: i64 },
    /// Raise an alarm.
    Alarm(AlarmType),
    /// SIGKILL and start.
    Kill,
}

/// When a command ends.
pub enum End {
    /// By itself.
    Own,
    /// When this is on stdout.
    Text(String),
    /// When stdout has so many lines.
    Lines(usize),
}

impl End {
    /// Whether stdout is complete; none: the command ends by itself.
    pub fn reached(&self) -> Option<Box<dyn Fn(&str) -> bool>> {
        match self {
            End::Own => None,
            End::Text(text) => {
                let text = text.clone();
                Some(Box::new(move |stdout| stdout.contains(&text)))
            }
            End::Lines(count) => {
                let count = *count;
                Some(Box::new(move |stdout| stdout.lines().count() >= count && stdout.ends_with('\n')))
            }
        }
    }
}

impl Script {
    /// Parses a script.
    ///
    /// # Panics
    /// If a line is none of the language.
    pub fn parse(name: &str, text: &str) -> Script {
        let mut script = Script { flags: Vec::new(), steps: Vec::new() };
        for (number, line) in text.lines().enumerate() {
            let place = format!("{name}.txt:{}: {line}", number + 1);
            let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
            let action = match word {
                "" | "#" => continue,
                "flags" => {
                    script.flags.extend(words(rest));
                    continue;
                }
                "<" | "bind" | "until" | "lines" | "sorted" | "patience" => {
                    amend(script.steps.last_mut(), word, rest).unwrap_or_else(|| panic!("{place}: belongs to no command"));
                    continue;
                }
                "$" => Action::Etcdctl {
                    args: words(rest),
                    stdin: String::new(),
                    end: End::Own,
                    bind: None,
                    sorted: false,
                    patience: PATIENCE,
                },
                "grant" => {
                    let (id, ttl) = rest.split_once(' ').unwrap_or_else(|| panic!("{place}: an id and a TTL"));
                    Action::Grant { id: i64::from_str_radix(id, 16).unwrap(), ttl: ttl.parse().unwrap() }
                }
                "alarm" => Action::Alarm(AlarmType::from_str_name(rest).unwrap_or_else(|| panic!("{place}: no alarm"))),
                "kill" => Action::Kill,
                _ => panic!("{place}: unknown word"),
            };
            script.steps.push(Step { source: place, action });
        }
        script
    }
}

fn amend(step: Option<&mut Step>, word: &str, rest: &str) -> Option<()> {
    let Action::Etcdctl { stdin, end, bind, sorted, patience, .. } = &mut step?.action else { return None };
    match word {
        "<" => {
            stdin.push_str(rest);
            stdin.push('\n');
        }
        "bind" => *bind = Some(rest.to_owned()),
        "sorted" => *sorted = true,
        "patience" => *patience = Duration::from_secs(rest.parse().ok()?),
        "until" => *end = End::Text(rest.to_owned()),
        _ => *end = End::Lines(rest.parse().ok()?),
    }
    Some(())
}

/// Splits at spaces outside of quotes.
fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quoted = None;
    for c in line.chars() {
        match (c, quoted) {
            (c, Some(quote)) if c == quote => quoted = None,
            ('"' | '\'', None) => {
                quoted = Some(c);
                word.get_or_insert_default();
            }
            (' ', None) => words.extend(word.take()),
            (c, _) => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}
