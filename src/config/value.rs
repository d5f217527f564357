//! Reads single values the way Go's `flag`, `strconv` and `time` packages do, with their error texts: whoever moves here from etcd
//! sees the same answer to the same typing error. In: text. Out: a value, or the part of the message that follows the last colon.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

/// How a value looks in a configuration file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// `true` or `false`; on a command line the flag alone means `true`.
    Bool,
    /// An integer.
    Number,
    /// An integer of nanoseconds, or text such as `5s`.
    Duration,
    /// Text.
    Text,
    /// A list of texts, or one text with commas.
    List,
}

/// A type that a flag may have.
pub trait Value: Sized {
    /// How it looks in a configuration file.
    const FORM: Form;
    /// Reads it, or says why not in Go's words.
    fn parse(text: &str) -> Result<Self, String>;
}

impl Value for String {
    const FORM: Form = Form::Text;
    fn parse(text: &str) -> Result<String, String> {
        Ok(text.to_owned())
    }
}

impl Value for bool {
    const FORM: Form = Form::Bool;
    fn parse(text: &str) -> Result<bool, String> {
        match text {
            "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
            "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
            _ => Err("parse error".into()),
        }
    }
}

impl Value for u64 {
    const FORM: Form = Form::Number;
    fn parse(text: &str) -> Result<u64, String> {
        unsigned(text).map_err(NotANumber::of_flag)
    }
}

impl Value for i64 {
    const FORM: Form = Form::Number;
    fn parse(text: &str) -> Result<i64, String> {
        let (negative, digits) = match text.as_bytes().first() {
            Some(b'-') => (true, &text[1..]),
            Some(b'+') => (false, &text[1..]),
            _ => (false, text),
        };
        let magnitude = i128::from(unsigned(digits).map_err(NotANumber::of_flag)?);
        i64::try_from(if negative { -magnitude } else { magnitude }).map_err(|_| NotANumber::OutOfRange.of_flag())
    }
}

impl Value for u32 {
    const FORM: Form = Form::Number;
    fn parse(text: &str) -> Result<u32, String> {
        let number = unsigned(text).and_then(|n| u32::try_from(n).map_err(|_| NotANumber::OutOfRange));
        number.map_err(|e| format!("strconv.ParseUint: parsing {}: {}", quote(text), e.of_strconv()))
    }
}

/// Comma-separated, in the order given; empty parts left out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct List(pub Vec<String>);

impl Value for List {
    const FORM: Form = Form::List;
    fn parse(text: &str) -> Result<List, String> {
        Ok(List(text.split(',').filter(|part| !part.is_empty()).map(str::to_owned).collect()))
    }
}

/// Comma-separated, sorted, each once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Set(pub Vec<String>);

impl Value for Set {
    const FORM: Form = Form::List;
    fn parse(text: &str) -> Result<Set, String> {
        let List(mut parts) = List::parse(text)?;
        parts.sort();
        parts.dedup();
        Ok(Set(parts))
    }
}

/// `--initial-cluster-state`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClusterState {
    /// `new`
    New,
    /// `existing`
    Existing,
}

impl Value for ClusterState {
    const FORM: Form = Form::Text;
    fn parse(text: &str) -> Result<ClusterState, String> {
        match text {
            "new" => Ok(ClusterState::New),
            "existing" => Ok(ClusterState::Existing),
            _ => Err("invalid value".into()),
        }
    }
}

/// `--discovery-fallback`: true for `proxy`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FallbackProxy(pub bool);

impl Value for FallbackProxy {
    const FORM: Form = Form::Text;
    fn parse(text: &str) -> Result<FallbackProxy, String> {
        match text {
            "exit" => Ok(FallbackProxy(false)),
            "proxy" => Ok(FallbackProxy(true)),
            _ => Err("invalid value".into()),
        }
    }
}

/// `--v2-deprecation`: checked for spelling only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct V2Deprecation;

impl Value for V2Deprecation {
    const FORM: Form = Form::Text;
    fn parse(text: &str) -> Result<V2Deprecation, String> {
        const STAGES: [&str; 5] = ["not-yet", "write-only", "write-only-skip-check", "write-only-drop-data", "gone"];
        match text.split(',').find(|stage| !STAGES.contains(stage)) {
            None => Ok(V2Deprecation),
            Some(stage) => Err(format!("invalid value {}", quote(stage))),
        }
    }
}

/// `--proxy` of etcd 3.5 and before. Only `off` can be had: silently starting a member instead of a proxy would be wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProxyOff;

impl Value for ProxyOff {
    const FORM: Form = Form::Text;
    fn parse(text: &str) -> Result<ProxyOff, String> {
        match text {
            "off" => Ok(ProxyOff),
            _ => Err("the v2 proxy has been removed from etcd: only off is accepted".into()),
        }
    }
}

/// etcd's feature gates: name, on by default, alpha (otherwise beta).
const GATES: [(&str, bool, bool); 9] = [
    ("CompactHashCheck", false, true),
    ("FastLeaseKeepAlive", true, false),
    ("InitialCorruptCheck", false, true),
    ("LeaseCheckpoint", false, true),
    ("LeaseCheckpointPersist", false, true),
    ("PriorityRequest", false, true),
    ("SetMemberLocalAddr", false, true),
    ("StopGRPCServiceOnDefrag", false, true),
    ("TxnModeWriteWithSharedBuffer", true, false),
];

/// `--feature-gates`: what was set, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Gates(BTreeMap<String, bool>);

impl Gates {
    /// Whether a gate is open: as set, or as its whole class was set, or by default.
    pub fn enabled(&self, name: &str) -> bool {
        let (_, default, alpha) = GATES.iter().find(|gate| gate.0 == name).copied().expect("a gate of the table");
        let class = if alpha { "AllAlpha" } else { "AllBeta" };
        self.0.get(name).or_else(|| self.0.get(class)).copied().unwrap_or(default)
    }

    /// The gates set to something else than their default, for a notice.
    pub fn changed(&self) -> impl Iterator<Item = &str> {
        GATES.iter().filter(|(name, default, _)| self.enabled(name) != *default).map(|gate| gate.0)
    }
}

impl Value for Gates {
    const FORM: Form = Form::Text;
    fn parse(text: &str) -> Result<Gates, String> {
        let mut gates = BTreeMap::new();
        for pair in text.split(',').filter(|pair| !pair.is_empty()) {
            let Some((name, value)) = pair.split_once('=') else {
                return Err(format!("missing bool value for {}", pair.trim()));
            };
            let (name, value) = (name.trim(), value.trim());
            let on = bool::parse(value).map_err(|_| {
                format!("invalid value of {name}={value}, err: strconv.ParseBool: parsing {}: invalid syntax", quote(value))
            })?;
            if !GATES.iter().any(|gate| gate.0 == name) && name != "AllAlpha" && name != "AllBeta" {
                return Err(format!("unrecognized feature gate: {name}"));
            }
            gates.insert(name.to_owned(), on);
        }
        Ok(Gates(gates))
    }
}

/// A span of time as Go holds it: signed nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Nanos(pub i64);

impl Nanos {
    /// The span; nothing if it is negative, which etcd treats as never wherever it does not refuse it.
    pub fn span(self) -> Duration {
        Duration::from_nanos(u64::try_from(self.0).unwrap_or(0))
    }
}

impl Value for Nanos {
    const FORM: Form = Form::Duration;
    fn parse(text: &str) -> Result<Nanos, String> {
        duration(text).map_err(|_| "parse error".to_owned())
    }
}

/// `time.ParseDuration`: `1h30m`, `-1.5s`, `100ms`, `0`.
pub fn duration(text: &str) -> Result<Nanos, String> {
    let invalid = || format!("time: invalid duration {}", quote(text));
    let (negative, mut rest) = match text.as_bytes().first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    };
    if rest == "0" {
        return Ok(Nanos(0));
    }
    if rest.is_empty() {
        return Err(invalid());
    }
    let mut total: u128 = 0;
    while !rest.is_empty() {
        let whole = leading_digits(rest);
        let mut after = &rest[whole.len()..];
        let mut fraction = "";
        if let Some(tail) = after.strip_prefix('.') {
            fraction = leading_digits(tail);
            after = &tail[fraction.len()..];
        }
        if whole.is_empty() && fraction.is_empty() {
            return Err(invalid());
        }
        let unit_len = after.find(|c: char| c == '.' || c.is_ascii_digit()).unwrap_or(after.len());
        let (unit, next) = after.split_at(unit_len);
        if unit.is_empty() {
            return Err(format!("time: missing unit in duration {}", quote(text)));
        }
        let nanos: u128 = match unit {
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            _ => return Err(format!("time: unknown unit {} in duration {}", quote(unit), quote(text))),
        };
        let whole: u64 = if whole.is_empty() { 0 } else { whole.parse().map_err(|_| invalid())? };
        // Digits beyond the 18th are below a nanosecond in every unit.
        let fraction = &fraction[..fraction.len().min(18)];
        let part: u128 = if fraction.is_empty() { 0 } else { fraction.parse().map_err(|_| invalid())? };
        total += u128::from(whole) * nanos + part * nanos / 10u128.pow(fraction.len() as u32);
        if total > 1 << 63 {
            return Err(invalid());
        }
        rest = next;
    }
    let total = i128::try_from(total).map_err(|_| invalid())?;
    i64::try_from(if negative { -total } else { total }).map(Nanos).map_err(|_| invalid())
}

fn leading_digits(text: &str) -> &str {
    &text[..text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len())]
}

/// A duration as Go prints it: `1h0m0s`, `1.5s`, `100ms`, `0s`.
pub fn show_duration(nanos: Nanos) -> String {
    let sign = if nanos.0 < 0 { "-" } else { "" };
    let n = nanos.0.unsigned_abs();
    let (hours, minutes, seconds) = (n / 3_600_000_000_000, n / 60_000_000_000 % 60, n % 60_000_000_000);
    let decimal = |n: u64, unit: u64| {
        let digits = unit.ilog10() as usize;
        let text = format!("{}.{:0digits$}", n / unit, n % unit);
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    };
    let text = match n {
        0 => "0s".to_owned(),
        1..1_000 => format!("{n}ns"),
        1_000..1_000_000 => format!("{}µs", decimal(n, 1_000)),
        1_000_000..1_000_000_000 => format!("{}ms", decimal(n, 1_000_000)),
        _ if hours > 0 => format!("{hours}h{minutes}m{}s", decimal(seconds, 1_000_000_000)),
        _ if minutes > 0 => format!("{minutes}m{}s", decimal(seconds, 1_000_000_000)),
        _ => format!("{}s", decimal(seconds, 1_000_000_000)),
    };
    format!("{sign}{text}")
}

/// Why a text is no integer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum NotANumber {
    Syntax,
    OutOfRange,
}

impl NotANumber {
    fn of_flag(self) -> String {
        match self {
            NotANumber::Syntax => "parse error".into(),
            NotANumber::OutOfRange => "value out of range".into(),
        }
    }

    fn of_strconv(self) -> &'static str {
        match self {
            NotANumber::Syntax => "invalid syntax",
            NotANumber::OutOfRange => "value out of range",
        }
    }
}

/// An unsigned Go integer literal: decimal, `0x`, `0o`, `0b`, a leading `0` for octal, `_` between digits.
fn unsigned(text: &str) -> Result<u64, NotANumber> {
    let lower = text.to_ascii_lowercase();
    let (base, digits) = match lower.as_bytes() {
        [b'0', b'x', _, ..] => (16, &lower[2..]),
        [b'0', b'o', _, ..] => (8, &lower[2..]),
        [b'0', b'b', _, ..] => (2, &lower[2..]),
        [b'0', _, ..] => (8, &lower[1..]),
        _ => (10, lower.as_str()),
    };
    if digits.ends_with('_') || digits.contains("__") || (base == 10 && digits.starts_with('_')) {
        return Err(NotANumber::Syntax);
    }
    let digits: String = digits.chars().filter(|c| *c != '_').collect();
    if digits.is_empty() || !digits.chars().all(|c| c.is_digit(base)) {
        return Err(NotANumber::Syntax);
    }
    u64::from_str_radix(&digits, base).map_err(|_| NotANumber::OutOfRange)
}

/// A Go string literal, as `%q` prints it.
pub fn quote(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\x07' => out.push_str("\\a"),
            '\x08' => out.push_str("\\b"),
            '\x0c' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\x0b' => out.push_str("\\v"),
            c if c.is_ascii_control() => _ = write!(out, "\\x{:02x}", u32::from(c)),
            c if c.is_control() => _ = write!(out, "\\u{:04x}", u32::from(c)),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_gos() {
        let cases = [
            ("0", 0),
            ("5s", 5_000_000_000),
            ("1h30m", 5_400_000_000_000),
            ("-1.5s", -1_500_000_000),
            ("+100ms", 100_000_000),
            (".5m", 30_000_000_000),
            ("1.s", 1_000_000_000),
            ("3us7ns", 3_007),
            ("2µs", 2_000),
            ("0.0000000000000000000000001s", 0),
            ("9223372036854775807ns", i64::MAX),
            ("-9223372036854775808ns", i64::MIN),
        ];
        for (text, nanos) in cases {
            assert_eq!(duration(text), Ok(Nanos(nanos)), "{text}");
        }
    }

    #[test]
    fn what_is_no_duration_is_said_in_gos_words() {
        let cases = [
            ("", "time: invalid duration \"\""),
            ("-", "time: invalid duration \"-\""),
            ("5", "time: missing unit in duration \"5\""),
            ("-5", "time: missing unit in duration \"-5\""),
            ("x", "time: invalid duration \"x\""),
            (".s", "time: invalid duration \".s\""),
            ("5d", "time: unknown unit \"d\" in duration \"5d\""),
            ("1s x", "time: unknown unit \"s x\" in duration \"1s x\""),
            ("9223372036854775808ns", "time: invalid duration \"9223372036854775808ns\""),
            ("99999999999999999999h", "time: invalid duration \"99999999999999999999h\""),
        ];
        for (text, error) in cases {
            assert_eq!(duration(text).unwrap_err(), error, "{text}");
        }
    }

    #[test]
    fn durations_print_as_gos() {
        let cases = [
            (0, "0s"),
            (1, "1ns"),
            (1_500, "1.5µs"),
            (100_000_000, "100ms"),
            (-1_000_000_000, "-1s"),
            (2_500_000_000, "2.5s"),
            (60_000_000_000, "1m0s"),
            (5_400_000_000_000, "1h30m0s"),
            (i64::MIN, "-2562047h47m16.854775808s"),
        ];
        for (nanos, text) in cases {
            assert_eq!(show_duration(Nanos(nanos)), text);
        }
    }

    #[test]
    fn integers_are_gos_literals() {
        let good = [("0", 0), ("10000", 10000), ("0x10", 16), ("0X1F", 31), ("0b11", 3), ("0o17", 15), ("017", 15)];
        for (text, value) in good {
            assert_eq!(u64::parse(text), Ok(value), "{text}");
        }
        assert_eq!(u64::parse("1_000"), Ok(1000));
        assert_eq!(u64::parse("0x_ff"), Ok(255));
        for bad in ["", "-1", "+1", "x", "1.5", "1e4", "0x", "_1", "1_", "1__0", "08", "0b2", " 1", "1 "] {
            assert_eq!(u64::parse(bad), Err("parse error".into()), "{bad}");
        }
        assert_eq!(u64::parse("99999999999999999999"), Err("value out of range".into()));
        assert_eq!(i64::parse("-9223372036854775808"), Ok(i64::MIN));
        assert_eq!(i64::parse("9223372036854775808"), Err("value out of range".into()));
        assert_eq!(i64::parse("--1"), Err("parse error".into()));
        let error = "strconv.ParseUint: parsing \"5000000000\": value out of range";
        assert_eq!(u32::parse("5000000000"), Err(error.into()));
    }

    #[test]
    fn booleans_are_gos() {
        for text in ["1", "t", "T", "true", "TRUE", "True"] {
            assert_eq!(bool::parse(text), Ok(true));
        }
        for text in ["0", "f", "F", "false", "FALSE", "False"] {
            assert_eq!(bool::parse(text), Ok(false));
        }
        for text in ["", "yes", "tRUE", "on", "2"] {
            assert_eq!(bool::parse(text), Err("parse error".into()));
        }
    }

    #[test]
    fn gates_open_by_name_or_by_class() {
        let gates = Gates::parse("InitialCorruptCheck=true, LeaseCheckpoint = f").unwrap();
        assert!(gates.enabled("InitialCorruptCheck") && !gates.enabled("LeaseCheckpoint") && gates.enabled("FastLeaseKeepAlive"));
        let all = Gates::parse("AllAlpha=true,LeaseCheckpoint=false,AllBeta=false").unwrap();
        assert!(all.enabled("CompactHashCheck") && !all.enabled("LeaseCheckpoint") && !all.enabled("FastLeaseKeepAlive"));
        assert_eq!(Gates::parse("x").unwrap_err(), "missing bool value for x");
        assert_eq!(Gates::parse("X=true").unwrap_err(), "unrecognized feature gate: X");
        assert!(Gates::parse("LeaseCheckpoint=yes").unwrap_err().ends_with("parsing \"yes\": invalid syntax"));
    }

    #[test]
    fn quotes_are_gos() {
        assert_eq!(quote("a\"\\\n\t\x01é\u{85}"), r#""a\"\\\n\t\x01é\u0085""#);
    }
}
