//! Reads callgrind's output (valgrind's manual, "Callgrind Format Specification"): costs by function and by file, and who calls malloc.

use std::collections::{BTreeMap, HashMap};

use regex_lite::Regex;

/// Where instructions stand.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The file they were written in, or the library.
    pub file: String,
    /// The function they were compiled into.
    pub function: String,
}

impl Place {
    /// The room or library.
    pub fn room(&self) -> String {
        match self.file.split_once('/') {
            Some((room, _)) => format!("{room}/"),
            None => self.file.clone(),
        }
    }
}

/// A run.
#[derive(Debug, Default)]
pub struct Profile {
    /// Instructions by where they stand.
    pub instructions: BTreeMap<Place, i64>,
    /// Calls of malloc, calloc, realloc and their like, by caller.
    pub allocations: BTreeMap<String, i64>,
}

const MALLOC: &str = "malloc";
const ALLOCATORS: [&str; 5] = ["malloc", "calloc", "realloc", "posix_memalign", "aligned_alloc"];

impl Profile {
    /// Reads a file of it.
    pub fn read(text: &str) -> Profile {
        let mut profile = Profile::default();
        let (mut files, mut functions) = (Names::default(), Names::default());
        let (mut file, mut function, mut callee) = (0, 0, 0);
        // The line after `calls=` holds what the callee took, which stands under its own name too.
        let mut calls = None;
        let mut costs: HashMap<(u32, u32), i64> = HashMap::new();
        for line in text.lines() {
            match line.split_once('=') {
                Some(("fl" | "fi" | "fe", name)) => file = files.number(name),
                Some(("cfi" | "cfl", name)) => _ = files.number(name),
                Some(("fn", name)) => function = functions.number(name),
                Some(("cfn", name)) => callee = functions.number(name),
                Some(("calls", count)) => calls = count.split(' ').next().and_then(|count| count.parse::<i64>().ok()),
                _ if line.starts_with(|first: char| first.is_ascii_digit() || "+-*".contains(first)) => match calls.take() {
                    Some(calls) if ALLOCATORS.contains(&functions.name(callee)) => {
                        *profile.allocations.entry(short(functions.name(function))).or_default() += calls;
                    }
                    Some(_) => {}
                    None => {
                        let cost = line.split(' ').nth(1).and_then(|cost| cost.parse::<i64>().ok());
                        *costs.entry((file, function)).or_default() += cost.expect("a line has one cost");
                    }
                },
                _ => {}
            }
        }
        for ((file, function), cost) in costs {
            let file = origin(files.name(file));
            // The parts of malloc say nothing by themselves.
            let function = if file == MALLOC { "malloc and free".to_owned() } else { short(functions.name(function)) };
            let place = Place { file, function };
            *profile.instructions.entry(place).or_default() += cost;
        }
        profile
    }
}

/// Names are written once, `(7) name`, and are `(7)` afterwards.
#[derive(Default)]
struct Names(HashMap<u32, String>);

impl Names {
    fn number(&mut self, text: &str) -> u32 {
        let (number, name) = text.trim_start_matches('(').split_once(')').expect("names are compressed");
        let number = number.parse().expect("a number");
        if !name.is_empty() {
            self.0.insert(number, name.trim_start().to_owned());
        }
        number
    }

    fn name(&self, number: u32) -> &str {
        self.0.get(&number).map_or("?", String::as_str)
    }
}

/// A file of ours below `src/`, or the name of a library.
fn origin(path: &str) -> String {
    let dependency = Regex::new(r"/registry/src/[^/]+/([A-Za-z0-9_-]+?)-\d").unwrap();
    let ours = Regex::new(&format!(r"^(?:{}/)?src/(.+)$", env!("CARGO_MANIFEST_DIR"))).unwrap();
    let file = path.rsplit('/').next().unwrap_or_default();
    if let Some(found) = dependency.captures(path) {
        found[1].to_owned()
    } else if let Some(found) = ours.captures(path) {
        found[1].to_owned()
    } else if path.contains("/rustc/") || path.contains("/library/") {
        "std".to_owned()
    } else if file.contains("malloc") || file.contains("arena") {
        MALLOC.to_owned()
    } else if file.starts_with("mem") {
        "memcpy and its like".to_owned()
    } else if path.contains("/out/") {
        "pb/".to_owned() + file
    } else {
        "libc".to_owned()
    }
}

/// A function without its hash, its generics, and, if it is not ours, all but the end of its path.
fn short(name: &str) -> String {
    let name = Regex::new(r"::h[0-9a-f]{16}").unwrap().replace_all(name, "").replace("{{closure}}", "{closure}");
    let path = without_generics(&name);
    if let Some(ours) = path.strip_prefix("bramble::") {
        return ours.to_owned();
    }
    let words: Vec<&str> = path.split("::").collect();
    let named = words.iter().rposition(|word| !word.starts_with('{')).unwrap_or(0);
    words[named.saturating_sub(1)..].join("::")
}

/// `a::B<C>::d` is `a::B::d`; `<a::B as c::D>::e` is `a::B::e`, and so is `a::<impl a::B>::e`.
fn without_generics(name: &str) -> String {
    let mut path = String::new();
    let mut rest = name;
    while let Some(begin) = rest.find('<') {
        let end = closing(&rest[begin..]).map_or(rest.len(), |length| begin + length);
        let inside = rest[begin..end].trim_start_matches('<').trim_end_matches('>');
        path += &rest[..begin];
        if path.is_empty() || path.ends_with("::") {
            let subject = inside.trim_start_matches("impl ").split(" as ").next().unwrap_or_default();
            path = without_generics(subject);
        }
        rest = &rest[end..];
    }
    path + rest
}

/// The length of what stands in angle brackets at the beginning; the bracket of `->` is none.
fn closing(text: &str) -> Option<usize> {
    let mut depth = 0;
    let mut last = ' ';
    for (at, sign) in text.char_indices() {
        match sign {
            '<' => depth += 1,
            '>' if last != '-' => depth -= 1,
            _ => {}
        }
        last = sign;
        if depth == 0 {
            return Some(at + 1);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn costs_are_exclusive_and_calls_of_malloc_have_their_callers() {
        let text = "events: Ir\n\nfl=(1) /rustc/1/library/core/a.rs\nfn=(1) bramble::x::y::h0123456789abcdef\n10 5\n+3 7\ncfn=(2) malloc\n\
                    calls=3 20 \n* 900\nfi=(2) src/wal/mod.rs\n12 1\nfe=(1)\n* 2\n\nfn=(2)\n20 900\n";
        let profile = Profile::read(text);
        let place = |file: &str, function: &str| Place { file: file.to_owned(), function: function.to_owned() };
        let expected = [(place("std", "malloc"), 900), (place("std", "x::y"), 14), (place("wal/mod.rs", "x::y"), 1)];
        assert_eq!(profile.instructions, expected.into());
        assert_eq!(profile.allocations, [("x::y".to_owned(), 3)].into());
    }

    #[test]
    fn names_are_short() {
        for (long, expected) in [
            ("bramble::rpc::http2::Connection<A,F>::turn::h00112233445566aa", "rpc::http2::Connection::turn"),
            ("<bramble::pb::Range as prost::message::Message>::encode_raw", "pb::Range::encode_raw"),
            ("bramble::http2::sending::<impl bramble::http2::Connection<H>>::send", "http2::Connection::send"),
            ("alloc::collections::btree::map::BTreeMap<K,V,A>::insert", "BTreeMap::insert"),
            ("<core::iter::Map<I,F> as core::iter::Iterator>::fold", "Map::fold"),
            ("core::ops::function::FnOnce::call_once{{vtable.shim}}", "FnOnce::call_once{{vtable.shim}}"),
            ("async_executor::Executor::run::{{closure}}", "Executor::run::{closure}"),
            ("_int_malloc", "_int_malloc"),
        ] {
            assert_eq!(short(long), expected);
        }
    }
}
