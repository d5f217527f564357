//! libFuzzer over the targets of `tests/fuzz/targets`. One binary for all: the variable TARGET names the one to run.

#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;

#[path = "../../tests/fuzz/targets/mod.rs"]
mod targets;

static TARGET: LazyLock<&targets::Target> = LazyLock::new(|| {
    let name = std::env::var("TARGET").unwrap_or_default();
    let all = || targets::TARGETS.iter().map(|target| target.name).collect::<Vec<_>>().join(" ");
    targets::named(&name).unwrap_or_else(|| panic!("TARGET must be one of: {}", all()))
});

fuzz_target!(|data: &[u8]| (TARGET.run)(data));
