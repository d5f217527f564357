//! Where log lines go, and how they look.
//!
//! In: records of the `log` crate, with their key-values. Out: lines, to stderr, stdout or files; for people, or as etcd writes them,
//! one JSON object a line: `{"level":"info","ts":"2026-01-02T15:04:05.123456Z","caller":"server/run.rs:12","msg":"…","key":"value"}`.
//! Always: a line that cannot be written is dropped. A full disk or a closed pipe must not end a database.

use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::io::{self, IsTerminal as _, Write as _};
use std::path::Path;
use std::sync::Mutex;
use std::time::{SystemTime, UNIX_EPOCH};

use log::kv::{self, Key, Value, VisitSource, VisitValue};
use log::{Level, LevelFilter, Metadata, Record};
use simple_logger::SimpleLogger;

use crate::config;
use crate::error::Fault;

/// The target of the line that says why the process ends: its level reads `fatal`.
pub const FATAL: &str = "fatal";

/// Starts logging. May be called once.
pub fn install(log: &config::Log) -> Result<(), Fault> {
    let logger = Logger::open(log)?;
    log::set_boxed_logger(Box::new(logger)).map_err(|e| Fault::new(format!("cannot start logging: {e}")))?;
    log::set_max_level(log.level);
    Ok(())
}

struct Logger {
    json: bool,
    level: LevelFilter,
    outputs: Vec<Output>,
    /// Writes for people at a terminal. It panics if it cannot write, and a panic ends the process; so it never gets anything else.
    terminal: SimpleLogger,
}

enum Output {
    Stderr,
    Stdout,
    File(Mutex<File>),
}

impl Logger {
    fn open(log: &config::Log) -> Result<Logger, Fault> {
        // Like zap: one /dev/null silences all.
        let silent = log.outputs.iter().any(|output| output == "/dev/null");
        let outputs = log.outputs.iter().filter(|_| !silent).map(|output| Output::open(output)).collect::<Result<_, _>>()?;
        let terminal = SimpleLogger::new().with_level(log.level).with_utc_timestamps();
        Ok(Logger { json: log.json, level: log.level, outputs, terminal })
    }

    fn write(&self, record: &Record<'_>) {
        let line = if self.json { json_line(record, SystemTime::now()) } else { human_line(record, SystemTime::now()) };
        for output in &self.outputs {
            // A terminal that has gone is no terminal any more, so this holds after a hang-up too.
            if !self.json && matches!(output, Output::Stderr) && io::stderr().is_terminal() {
                let message = human_message(record);
                log::Log::log(&self.terminal, &record.to_builder().args(format_args!("{message}")).build());
            } else {
                output.write(line.as_bytes());
            }
        }
    }
}

impl Output {
    fn open(name: &str) -> Result<Output, Fault> {
        match name {
            "stderr" => Ok(Output::Stderr),
            "stdout" => Ok(Output::Stdout),
            path => {
                let file = OpenOptions::new().create(true).append(true).open(path);
                file.map(|file| Output::File(Mutex::new(file))).map_err(|e| Fault::io("open the log file", Path::new(path), &e))
            }
        }
    }

    /// One write a line, so that lines of several processes do not mix.
    fn write(&self, line: &[u8]) {
        // Nobody could be told of a failure.
        _ = match self {
            Output::Stderr => io::stderr().lock().write_all(line),
            Output::Stdout => io::stdout().lock().write_all(line),
            Output::File(file) => match file.lock() {
                Ok(mut file) => file.write_all(line),
                Err(poisoned) => poisoned.into_inner().write_all(line),
            },
        };
    }
}

impl log::Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= self.level
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            self.write(record);
        }
    }

    fn flush(&self) {
        _ = io::stdout().lock().flush();
    }
}

/// A line as etcd's zap writes it.
fn json_line(record: &Record<'_>, now: SystemTime) -> String {
    let mut line = String::with_capacity(160);
    _ = write!(line, "{{\"level\":\"{}\",\"ts\":\"{}\",\"caller\":", level(record), timestamp(now, 6));
    json_string(&mut line, &caller(record));
    line.push_str(",\"msg\":");
    json_string(&mut line, &record.args().to_string());
    _ = record.key_values().visit(&mut JsonFields(&mut line));
    line.push_str("}\n");
    line
}

/// A line as [`SimpleLogger`] writes it.
fn human_line(record: &Record<'_>, now: SystemTime) -> String {
    format!("{} {:<5} [{}] {}\n", timestamp(now, 3), record.level(), record.target(), human_message(record))
}

/// The message, and the fields behind it.
fn human_message(record: &Record<'_>) -> String {
    let mut text = record.args().to_string();
    _ = record.key_values().visit(&mut HumanFields(&mut text));
    text
}

fn level(record: &Record<'_>) -> &'static str {
    match record.level() {
        _ if record.target() == FATAL => "fatal",
        Level::Error => "error",
        Level::Warn => "warn",
        Level::Info => "info",
        Level::Debug | Level::Trace => "debug",
    }
}

/// File and line, with the last directory only.
fn caller(record: &Record<'_>) -> String {
    let file = record.file().unwrap_or("unknown");
    let start = file.rmatch_indices('/').nth(1).map_or(0, |(at, _)| at + 1);
    format!("{}:{}", &file[start..], record.line().unwrap_or(0))
}

struct JsonFields<'a>(&'a mut String);

impl<'kvs> VisitSource<'kvs> for JsonFields<'_> {
    fn visit_pair(&mut self, key: Key<'kvs>, value: Value<'kvs>) -> Result<(), kv::Error> {
        self.0.push(',');
        json_string(self.0, key.as_str());
        self.0.push(':');
        value.visit(JsonValue(self.0))
    }
}

struct JsonValue<'a>(&'a mut String);

impl JsonValue<'_> {
    fn push(&mut self, number: impl std::fmt::Display) -> Result<(), kv::Error> {
        _ = write!(self.0, "{number}");
        Ok(())
    }
}

impl<'v> VisitValue<'v> for JsonValue<'_> {
    fn visit_any(&mut self, value: Value<'_>) -> Result<(), kv::Error> {
        json_string(self.0, &value.to_string());
        Ok(())
    }

    fn visit_null(&mut self) -> Result<(), kv::Error> {
        self.push("null")
    }

    fn visit_u64(&mut self, value: u64) -> Result<(), kv::Error> {
        self.push(value)
    }

    fn visit_i64(&mut self, value: i64) -> Result<(), kv::Error> {
        self.push(value)
    }

    fn visit_f64(&mut self, value: f64) -> Result<(), kv::Error> {
        if value.is_finite() { self.push(value) } else { self.visit_any(Value::from(value)) }
    }

    fn visit_bool(&mut self, value: bool) -> Result<(), kv::Error> {
        self.push(value)
    }

    fn visit_str(&mut self, value: &str) -> Result<(), kv::Error> {
        json_string(self.0, value);
        Ok(())
    }
}

struct HumanFields<'a>(&'a mut String);

impl<'kvs> VisitSource<'kvs> for HumanFields<'_> {
    fn visit_pair(&mut self, key: Key<'kvs>, value: Value<'kvs>) -> Result<(), kv::Error> {
        let value = value.to_string();
        _ = if value.is_empty() || value.contains([' ', '"', '\n']) {
            write!(self.0, " {key}={value:?}")
        } else {
            write!(self.0, " {key}={value}")
        };
        Ok(())
    }
}

/// A JSON string (RFC 8259 §7).
fn json_string(out: &mut String, text: &str) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c < ' ' => _ = write!(out, "\\u{:04x}", u32::from(c)),
            c => out.push(c),
        }
    }
    out.push('"');
}

/// UTC as RFC 3339, with so many digits of a second. A clock before 1970 reads as 1970.
fn timestamp(now: SystemTime, digits: usize) -> String {
    let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    let (days, of_day) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    let (year, month, day) = civil(days);
    let fraction = format!("{:09}", since.subsec_nanos());
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{}Z",
        of_day / 3600,
        of_day / 60 % 60,
        of_day % 60,
        &fraction[..digits]
    )
}

/// Year, month and day of a number of days since 1970-01-01. Counts in eras of 400 years that begin on a 1 March, so that the leap day
/// is the last of its year.
fn civil(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468; // from 0000-03-01
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * of_year + 2) / 153; // 0 is March
    let day = of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}
