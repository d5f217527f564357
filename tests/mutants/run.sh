#!/bin/sh
# run.sh [ROOM...]: cargo-mutants on rooms of the crate: wal, mvcc, lease, backend, raft. Each is copied with the rooms that it may name
# into a crate of its own, so that a mutant is built in a second or two. What survives is listed in target/mutants/ROOM.missed; judged
# survivors stand in README.md here.
#
# MUTANTS= is handed to cargo-mutants, for example MUTANTS="--shard 1/8" or "-F torn".
set -eu
cd "$(dirname "$0")/../.."
tree=$PWD
place=${CARGO_TARGET_DIR:-$tree/target}/mutants
command -v cargo-mutants >/dev/null || { echo "cargo-mutants is missing: cargo install --locked cargo-mutants"; exit 1; }

# The rooms that a room may name, itself last (tests/tidy.rs holds them).
rooms() {
    case $1 in
        wal) echo "error host metrics raft wal" ;;
        mvcc) echo "error metrics pb backend mvcc" ;;
        lease) echo "error lease" ;;
        backend) echo "error metrics pb backend mvcc" ;;
        raft) echo "error raft" ;;
        *) echo "no campaign for $1" >&2; exit 1 ;;
    esac
}

# The tests that see the room from outside and need no server.
outside() {
    case $1 in lease | raft) echo "$1 script" ;; *) echo "" ;; esac
}

make_crate() {
    crate=$place/$1
    rm -rf "$crate" && mkdir -p "$crate/src" "$crate/tests"
    # Features that only left-out rooms ask for cost a build, and no more.
    sed -e '/^\[\[bin\]\]/,/^$/d' "$tree/Cargo.toml" >"$crate/Cargo.toml"
    printf '\n[profile.test]\ndebug = false\n' >>"$crate/Cargo.toml"
    cp "$tree/Cargo.lock" "$tree/build.rs" "$crate/"
    cp -r "$tree/src/pb" "$crate/src/"
    echo '#![allow(missing_docs, dead_code)]' >"$crate/src/lib.rs"
    for room in $(rooms "$1"); do
        if [ -d "$tree/src/$room" ]; then cp -r "$tree/src/$room" "$crate/src/"; else cp "$tree/src/$room.rs" "$crate/src/"; fi
        echo "pub mod $room;" >>"$crate/src/lib.rs"
    done
    : >"$crate/tests/tests.rs"
    for test in $(outside "$1"); do
        cp -r "$tree/tests/$test"* "$crate/tests/"
        echo "mod $test;" >>"$crate/tests/tests.rs"
    done
}

for room in ${*:-lease wal mvcc}; do
    make_crate "$room"
    # A mutant that never ends is stopped by the time it takes from a processor, which a busy machine does not stretch. The room's own
    # tests, with one seed of the random ones, come first: most mutants fall there, in a tenth of the time.
    limit=$place/limit.sh
    printf '#!/bin/sh\nulimit -t 60\nSEED=1 "$@" "%s::" && exec "$@"\n' "$room" >"$limit" && chmod +x "$limit"
    host=$(rustc -vV | sed -n 's/^host: //p' | tr 'a-z-' 'A-Z_')
    (
        cd "$place/$room"
        export CARGO_TARGET_DIR="$place/target" "CARGO_TARGET_${host}_RUNNER=$limit"
        # Bodies replaced by answers that have nothing to do with the function say little, and are many.
        cargo mutants --in-place -f "src/$room/**" -E 'fmt::Display|metrics' -E 'with Ok\((Err|Ok)' \
            --timeout 120 --no-shuffle -o "$place/$room.out" ${MUTANTS:-} || true
        cp "$place/$room.out/mutants.out/missed.txt" "$place/$room.missed"
    )
    echo "$room: $(wc -l <"$place/$room.missed") survivors in $place/$room.missed"
done
