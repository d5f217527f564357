//! The command line in all of Go's spellings, rewritten into what `argh` takes.
//!
//! In: arguments. Out: [`Setting`]s, each a flag and a well-formed value, and from them [`LowArgs`]: what was set, still without
//! defaults. Go writes `-x v`, `--x v`, `-x=v`, `--x=v`, for a boolean `--x` or `--x=false`, and ends flags with `--`; a repeated flag
//! counts as given last. `argh` knows none of that but `--x v`.

use argh::FromArgs;

use super::Notice;
use super::table::{FLAGS, Flag, LowArgs, Named, named};
use super::value::{Form, quote};

/// A flag, and a value that `flag.check` accepts.
#[derive(Clone, Debug)]
pub struct Setting {
    /// Which.
    pub flag: &'static Flag,
    /// Its value.
    pub value: String,
}

/// What a command line says.
#[derive(Debug)]
pub enum CommandLine {
    /// `-h` or `--help`, with nothing wrong before it.
    Help,
    /// Flags, and what follows them.
    Flags {
        /// In the order given.
        settings: Vec<Setting>,
        /// About old and ignored flags.
        notices: Vec<Notice>,
        /// The first argument that is no flag. Go stops at it.
        junk: Option<String>,
    },
}

/// Reads a command line without the program's name. The error is Go's.
pub fn read(args: &[String]) -> Result<CommandLine, String> {
    let (mut settings, mut notices) = (Vec::new(), Vec::new());
    let mut rest = args.iter();
    while let Some(arg) = rest.next() {
        let Some(body) = flag_body(arg)? else {
            let junk = if arg == "--" { rest.next() } else { Some(arg) };
            return Ok(CommandLine::Flags { settings, notices, junk: junk.cloned() });
        };
        let (name, inline) = match body.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (body, None),
        };
        let Some(found) = named(name) else {
            if name == "help" || name == "h" {
                return Ok(CommandLine::Help);
            }
            return Err(format!("flag provided but not defined: -{name}"));
        };
        let boolean = match found {
            Named::Flag(flag) | Named::Old(flag) => flag.form == Form::Bool,
            Named::Gone { takes_value } => !takes_value,
        };
        let value = match inline {
            Some(value) => value,
            None if boolean => "true",
            None => rest.next().ok_or_else(|| format!("flag needs an argument: -{name}"))?,
        };
        if let Some(setting) = setting(found, name, value, &mut notices).map_err(|why| {
            let kind = if boolean { "boolean value" } else { "value" };
            let flag = if boolean { "" } else { "flag " };
            format!("invalid {kind} {} for {flag}-{name}: {why}", quote(value))
        })? {
            settings.push(setting);
        }
    }
    Ok(CommandLine::Flags { settings, notices, junk: None })
}

/// The name, and `=value` if it is there; none if the argument is no flag.
fn flag_body(arg: &str) -> Result<Option<&str>, String> {
    if arg.len() < 2 || !arg.starts_with('-') || arg == "--" {
        return Ok(None);
    }
    let body = arg.strip_prefix("--").unwrap_or(&arg[1..]);
    if body.starts_with(['-', '=']) {
        return Err(format!("bad flag syntax: {arg}"));
    }
    Ok(Some(body))
}

/// Checks one value; nothing if the flag is ignored. Old names are noted.
pub fn setting(found: Named, name: &str, value: &str, notices: &mut Vec<Notice>) -> Result<Option<Setting>, String> {
    let flag = match found {
        Named::Gone { .. } => {
            notices.push(Notice::warn("flag is no longer supported - ignoring").with("flag-name", name));
            return Ok(None);
        }
        Named::Old(flag) => {
            notices.push(Notice::warn("flag has a new name").with("flag-name", name).with("new-name", flag.name));
            flag
        }
        Named::Flag(flag) => flag,
    };
    (flag.check)(value)?;
    Ok(Some(Setting { flag, value: value.to_owned() }))
}

/// What the settings amount to: of a repeated flag the last.
pub fn low_args(settings: &[Setting]) -> Result<LowArgs, String> {
    let mut args = Vec::with_capacity(2 * settings.len());
    let long: Vec<(String, &str)> = FLAGS
        .iter()
        .filter_map(|flag| settings.iter().rfind(|setting| setting.flag.name == flag.name))
        .map(|setting| (format!("--{}", setting.flag.name), setting.value.as_str()))
        .collect();
    for (name, value) in &long {
        args.push(name.as_str());
        args.push(value);
    }
    LowArgs::from_args(&["etcd"], &args).map_err(|exit| exit.output.trim_end().to_owned())
}

/// One notice for each flag that was set and changes nothing here.
pub fn inert(settings: &[Setting]) -> Vec<Notice> {
    FLAGS
        .iter()
        .filter(|flag| settings.iter().any(|setting| setting.flag.name == flag.name))
        .filter_map(|flag| flag.inert.map(|why| (flag, why)))
        .map(|(flag, why)| Notice::info("flag has no effect here").with("flag-name", flag.name).with("reason", why))
        .collect()
}
