#!/bin/sh
# Builds the fuzzer with LLVM's coverage counters, on the stable toolchain: what `cargo fuzz build -s none` does. --target keeps
# the counters out of build scripts and macros. Prints the binary's path.
set -e
cd "$(dirname "$0")"
# The versions that the product is built with; cargo adds what only the fuzzer needs.
cp ../Cargo.lock Cargo.lock
host=$(rustc -vV | sed -n 's/^host: //p')
export RUSTFLAGS="-Cpasses=sancov-module \
 -Cllvm-args=-sanitizer-coverage-level=4 \
 -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
 -Cllvm-args=-sanitizer-coverage-pc-table \
 -Cllvm-args=-sanitizer-coverage-trace-compares \
 -Ccodegen-units=16"
${CARGO:-cargo} build --release --target "$host" >&2
echo "${CARGO_TARGET_DIR:-$PWD/target}/$host/release/bramble-fuzz"
