//! All that may differ between two servers, each with its reason. Everything else has to be equal to the byte.

use std::sync::LazyLock;

use bramble::pb::etcdserverpb::ResponseHeader;
use prost::Message;
use regex_lite::Regex;

use crate::support::command::Output;

/// A pattern, what stands for it, and why it may differ.
type Rule = (&'static str, &'static str, &'static str);

/// Stands for PASS or FAIL of `check perf`, which also sets its exit code.
const VERDICT: &str = "<verdict>";

const RULES: &[Rule] = &[
    (r#"("(?i:raft_?term)" ?: ?)"?[1-9][0-9]*"?"#, "$1<term>", "how many elections there have been is the Raft core's matter"),
    (r#"("(?i:raft(applied)?index)" ?: ?)"?[1-9][0-9]*"?"#, "$1<index>", "so is how many entries the log took"),
    (r#"("(?i:dbsize(inuse)?)" ?: ?)[1-9][0-9]*"#, "$1<bytes>", "another file format has other sizes"),
    (r"[0-9.]+ [kM]?B\b", "<bytes>", "the same, in tables"),
    (r"([|│] *)[0-9]+%( *[|│])", "$1<percent>$2", "the share of free pages, in tables"),
    (r", [0-9]+%,", ", <percent>,", "the same, in lines"),
    (
        r"((true|false), (true|false)), [1-9][0-9]*, [1-9][0-9]*, [1-9][0-9]*",
        "$1, <term>, <index>, <index>",
        "as above, in lines",
    ),
    (
        r"((true|false) *[|│] *(true|false) *)[|│] *[1-9][0-9]* *[|│] *[1-9][0-9]* *[|│] *[1-9][0-9]* *[|│]",
        "$1|<term>|<index>|<index>|",
        "as above, in tables",
    ),
    (r#"("?[vV]ersion"? ?: ?)"3\.7\.[0-9]+""#, "$1\"<version>\"", "Bramble may follow another patch release of 3.7"),
    (r"([|│] *)3\.7\.[0-9]+( *[|│])", "$1<version>$2", "the same, in tables"),
    (r"took[ =]+[0-9.]+(ns|µs|ms|s)", "took <time>", "time"),
    (r#"("[tT]ook" ?: ?)"?[0-9.]+(ns|µs|ms|s)"?"#, "$1<time>", "time"),
    (r"([|│] *(true|false) *[|│] *)[0-9.]+(ns|µs|ms|s)", "$1<time>", "time, in tables"),
    (r#""ts":"[^"]*""#, "\"ts\":<time>", "time, in the client's own log lines"),
    (r"remaining\([0-9]+s\)", "remaining(<seconds>)", "a second may or may not have passed"),
    (r#"("ttl":|"TTL" : )[0-9]+"#, "$1<seconds>", "the same; a lease that is gone has -1"),
    (r"(memberID:[0-9]+) +(alarm:[A-Z]+) *", "$1 $2", "Go varies the spaces of a message's text form from build to build"),
    (r"client-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "client-<uuid>", "drawn by the client"),
    (r"LocalAddr: '127.0.0.1:[0-9]+'", "LocalAddr: '127.0.0.1:<port>'", "drawn by the kernel"),
    (r"0x[0-9a-f]{8,}", "<pointer>", "addresses in the client's own memory"),
    (r"(?m)^.*\r", "", "a progress bar, redrawn as time goes by"),
    (r" ?[0-9]+ ?/ ?[0-9]+ +(\[[->_]*\] +)?[0-9.]+%( [?0-9a-z.]+)?( p/s)?\n?", "", "the same"),
    (r"(Compact(ing|ed) with revision) [0-9]+", "$1 <revision>", "the same: how many puts it came to"),
    (r"(PASS|FAIL): (Throughput is|Slowest request took|Stddev is) .*", "<verdict>: $2", "time"),
    (r"(?m)^(PASS|FAIL)$", "<verdict>", "time"),
];

static COMPILED: LazyLock<Vec<(Regex, &str)>> =
    LazyLock::new(|| RULES.iter().map(|(pattern, stand_in, _)| (Regex::new(pattern).unwrap(), *stand_in)).collect());

/// Lease ids, which etcd draws at random, by the names that a script gave them.
#[derive(Default)]
pub struct Names {
    bound: Vec<(String, String)>,
}

impl Names {
    /// Remembers the id in `lease 1234abcd granted with TTL(60s)`, or in a JSON answer.
    ///
    /// # Panics
    /// If there is none.
    pub fn bind(&mut self, name: &str, stdout: &str) {
        let id = Regex::new(r"lease ([0-9a-f]{5,}) granted").unwrap();
        let found = id.captures(stdout).unwrap_or_else(|| panic!("no lease id to bind as {name} in {stdout:?}"));
        self.bound.push((name.to_owned(), found[1].to_owned()));
    }

    /// Replaces `{NAME}`.
    pub fn filled_in(&self, text: &str) -> String {
        let text = text.replace("{BIG}", &"x".repeat(if text.contains("{BIG}") { 1_600_000 } else { 0 }));
        self.bound.iter().fold(text, |text, (name, id)| text.replace(&format!("{{{name}}}"), id))
    }

    fn hidden(&self, text: String) -> String {
        self.bound.iter().fold(text, |text, (name, id)| {
            let decimal = i64::from_str_radix(id, 16).unwrap().to_string();
            text.replace(id, &format!("<{name}>")).replace(&decimal, &format!("<{name}>"))
        })
    }
}

/// What has to be equal.
pub fn output(output: &Output, args: &[String], names: &Names) -> String {
    let stdout = if args.iter().any(|arg| arg == "protobuf") { message(&output.stdout) } else { output.text() };
    let code = output.code.map_or("ended by us".to_owned(), |code| format!("exit code {code}"));
    let mut text = names.hidden(stdout);
    if !output.stderr.is_empty() {
        text.push_str(&format!("[stderr]\n{}", names.hidden(output.stderr.clone())));
    }
    let text = aligned(&plain(&text));
    if text.contains(VERDICT) { text } else { format!("{text}[{code}]") }
}

/// Lines whose order says nothing: two watches of one client take turns as they like.
pub fn sorted(outcome: &str) -> String {
    let mut lines: Vec<&str> = outcome.lines().collect();
    lines.sort_unstable();
    lines.join("\n")
}

fn plain(text: &str) -> String {
    COMPILED.iter().fold(text.to_owned(), |text, (pattern, stand_in)| pattern.replace_all(&text, *stand_in).into_owned())
}

/// Tables are as wide as their cells: two unequal sizes would move every border.
fn aligned(text: &str) -> String {
    let border = Regex::new("[-─]{2,}").unwrap();
    let spaces = Regex::new(" {2,}").unwrap();
    let lines = text.lines().map(|line| match line.chars().next() {
        Some('+' | '┌' | '├' | '└' | '|' | '│') => {
            spaces.replace_all(&border.replace_all(line, "--"), " ").into_owned() + "\n"
        }
        _ => line.to_owned() + "\n",
    });
    lines.collect()
}

/// `-w protobuf`: the header without its term, then the rest of the message as it is.
fn message(bytes: &[u8]) -> String {
    let Some((&0x0a, rest)) = bytes.split_first() else { return format!("{bytes:02x?}\n") };
    let Some((&length, rest)) = rest.split_first() else { return format!("{bytes:02x?}\n") };
    let (header, rest) = rest.split_at(usize::from(length).min(rest.len()));
    match ResponseHeader::decode(header) {
        Ok(header) => format!("{:?}\n{rest:02x?}\n", ResponseHeader { raft_term: 0, ..header }),
        Err(_) => format!("{bytes:02x?}\n"),
    }
}
