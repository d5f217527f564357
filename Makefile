# Everything a developer does here. `make run` and `make test` need nothing but the toolchains README.md names.

CARGO ?= cargo
ORACLE := tests/oracle
DATA ?= data
RELEASE = $(abspath $(or $(CARGO_TARGET_DIR),target))/release/bramble

.PHONY: all run test test-kube check unit limits figures release diff crash crash-disk power-cut guards sim mutants kube-shaped fuzz linear hostile bench bench-growth bench-flash bench-flash-kube bench-slow bench-beside counts profile fmt doc clippy bless oracle oracle-kube clean

all: run

# Builds and serves on 127.0.0.1:2379, data in ./data.
run: toolchain
	$(CARGO) run --release --locked -- --data-dir=$(DATA)

# What CI runs: style, documentation, and every test, the ones against real etcd included.
test: toolchain check oracle release
	RELEASE_BIN=$(RELEASE) $(CARGO) test --locked

# Kubernetes' own control plane on it (about ten minutes, and ten more to build Kubernetes the first time).
test-kube: toolchain oracle-kube
	$(CARGO) test --locked --test tests -- --ignored --exact --nocapture kube::kubernetes_cannot_tell_it_from_etcd

# Kubernetes' load with every answer checked, on the release binary, or on another by AT=; prints what it measures.
# RATE: times Kubernetes' own; RESTARTS: how often the server is ended; NODES, PODS (on each); COMPACTION: seconds between two.
kube-shaped: release oracle
	BRAMBLE_BIN=$(abspath $(or $(AT),$(RELEASE))) SEED=$(SEED) $(if $(MINUTES),MINUTES=$(MINUTES)) $(if $(RATE),RATE=$(RATE)) \
		$(if $(RESTARTS),RESTARTS=$(RESTARTS)) $(if $(NODES),NODES=$(NODES)) $(if $(PODS),PODS=$(PODS)) $(if $(COMPACTION),COMPACTION=$(COMPACTION)) \
		$(CARGO) test --locked --test tests -- --ignored --nocapture kube_shaped::many

check: toolchain fmt clippy doc

fmt:
	$(CARGO) fmt --check

clippy:
	$(CARGO) clippy --locked --all-targets -- -D warnings

doc:
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --no-deps --document-private-items

# The tests inside the crate only: no Go needed.
unit: toolchain
	$(CARGO) test --locked --lib

# Random requests at real etcd and at ours, answers compared: N in all, in cases of 500, the first of them determined by SEED. What differs
# is made small and written to a file that tests/differential/kept/ can keep; at the end stands what was played.
SEED ?= 1
N ?= 50000
diff: toolchain oracle
	SEED=$(SEED) N=$(N) $(CARGO) test --locked --test tests -- --ignored --nocapture differential::many

# Kills at random moments under load, N in all; SEED replays the load, not the moments.
crash: N = 500
crash: toolchain
	SEED=$(SEED) N=$(N) $(CARGO) test --locked --test tests -- --ignored --nocapture crash::what_was_acknowledged_survives_many_kills

# Power cuts under load on a disk that loses what was not synced, and disks that fail: N cuts, and a third as many of each failure.
# As root: it mounts a file system of its own. SEED replays the load, the moments and what is lost.
power-cut: N = 300
power-cut: toolchain
	SEED=$(SEED) N=$(N) $(CARGO) test --locked --test tests -- --ignored --nocapture --test-threads=1 power_cut::

# Breaks each guard of tests/guards in a copy of the tree, one after the other, and runs the tests that have to fall then. GUARD= picks
# those whose title, file or tests hold a text.
GUARD ?=
guards: toolchain oracle
	GUARD="$(GUARD)" $(CARGO) test --locked --test tests -- --ignored --nocapture guards::

# Whole clusters on simulated disks, clocks and networks, on all cores: SEEDS runs, the first determined by SEED. What was met on the way
# stands at the end; a run that breaks something prints how to play it again.
SEEDS ?= 10000
sim: toolchain
	SEED=$(SEED) SEEDS=$(SEEDS) $(CARGO) test --locked --profile load --test sim -- --ignored --nocapture

# Every small change that cargo-mutants can think of in these rooms, and whether a test notices. Hours; tests/mutants/README.md judges
# those that survive.
ROOMS ?= lease wal mvcc
mutants: toolchain
	tests/mutants/run.sh $(ROOMS)

# Hostile bytes, guided by coverage, for SECONDS at one TARGET (their names: tests/fuzz/targets/mod.rs). It goes on from what it has
# found interesting before, in CORPUS, and leaves an input that breaks something in FOUND.
TARGET ?= http2
SECONDS ?= 60
CORPUS ?= fuzz/corpus/$(TARGET)
FOUND ?= fuzz/found/$(TARGET)
fuzz: toolchain
	mkdir -p $(CORPUS) $(FOUND)
	TARGET=$(TARGET) $$(fuzz/build.sh) -max_total_time=$(SECONDS) -timeout=30 -rss_limit_mb=1024 -max_len=4096 \
		-artifact_prefix=$(FOUND)/ $(CORPUS) tests/fuzz/corpus/$(TARGET)

# Clients and watches over kills, their answers judged: N rounds of some thirty starts of the server, the first determined by SEED.
linear: N = 5
linear: toolchain
	SEED=$(SEED) N=$(N) $(CARGO) test --locked --test tests -- --ignored --nocapture linearizable::

# Damage and faults everywhere: an hour or two. Every IO of a story fails in every way, and again in the start after it; every byte of
# a WAL and DAMAGE_CASES bits of every page of LMDB's file are flipped; the stores' models see RUNS runs each.
RUNS ?= 2000
crash-disk: toolchain
	$(CARGO) test --locked --lib -- --ignored --nocapture server::tests::each_io server::tests::relaxed server::tests::damaged_wal backend::tests::a_file_with_many
	RUNS=$(RUNS) $(CARGO) test --locked --lib -- --nocapture mvcc::tests::the_store_answers
	RUNS=$(RUNS) $(CARGO) test --locked --test tests -- --nocapture lease::no_lease_expires

# Large and many things, full and stalled disks, on the release binary; prints what it measures. As root also the disks.
limits: release oracle
	BRAMBLE_BIN=$(RELEASE) $(CARGO) test --locked --test tests -- limits:: --include-ignored --skip limits::figures --test-threads=1 --nocapture

# Clients that mean harm, in full size, on the release binary; prints what it measures. As root also hosts that vanish.
hostile: release
	BRAMBLE_BIN=$(RELEASE) $(CARGO) test --locked --test tests -- hostile:: --include-ignored --test-threads=1 --nocapture

# What reaches the device, journal included, beside a real etcd; each server on a loop device of its own, so as root. MINUTES: of each of
# the loads that last (they run at the same time); NODES: of the idle cluster; MOUNT: mount options, noatime unless said. The results are kept in
# tests/bench/results.
bench-flash: release oracle
	$(if $(MINUTES),MINUTES=$(MINUTES)) $(if $(NODES),NODES=$(NODES)) $(if $(MOUNT),MOUNT=$(MOUNT)) $(BENCH) bench::flash::table_of_wear

# The same under Kubernetes' own control plane, one on each server, left idle.
bench-flash-kube: release oracle-kube
	$(if $(MINUTES),MINUTES=$(MINUTES)) $(if $(MOUNT),MOUNT=$(MOUNT)) $(BENCH) bench::flash::kube::table_of_wear_under_an_idle_control_plane

# What clients feel while fifty of them put on a device that takes 20, 100, 500 ms for each flush, beside a real etcd; as root. LENGTH:
# seconds for each pace and server.
bench-slow: release oracle
	$(if $(LENGTH),LENGTH=$(LENGTH)) $(BENCH) bench::slow::table_of_a_slow_device

# What clients who put feel beside a checkpoint, compactions of a million revisions, a defragmentation, ranges of 100 MB and a watch of a
# million events of history, at a real etcd and here. LOADS= picks by the beginnings of: checkpoint, watch, range, defragmentation, compaction.
bench-beside: release oracle
	LOADS=$(LOADS) $(BENCH) bench::beside::table_of_puts_beside_heavy_work

# Idle memory, sizes and start times, beside a real etcd in the same run.
figures: release oracle
	BRAMBLE_BIN=$(RELEASE) $(CARGO) test --locked --test tests -- limits::figures --include-ignored --nocapture

# Beside a real etcd in the same run: requests a second, latency, processor time, memory and bytes written, in one table. Raw results go to
# tests/bench/results. LOADS=put,range picks loads by the beginnings of their names, TOTAL sets the calls of each, ROUNDS how often each is measured.
BENCH = BRAMBLE_BIN=$(RELEASE) $(CARGO) test --locked --profile load --test tests -- --include-ignored --exact --nocapture
bench: release oracle
	LOADS=$(LOADS) TOTAL=$(TOTAL) ROUNDS=$(ROUNDS) $(BENCH) bench::bramble_beside_etcd

# How costs grow with the size of values and the numbers of clients, keys and watchers (LOADS= picks of these), beside etcd's. Draws docs/growth-*.svg.
bench-growth: release oracle
	LOADS=$(LOADS) ROUNDS=$(ROUNDS) $(BENCH) bench::growth::no_cost_grows_faster_than_etcds

# What requests cost in instructions, system calls and bytes (`make test` holds them to limits), ROUNDS times, to see how much they
# spread. LOADS= picks some.
counts: release
	RELEASE_BIN=$(RELEASE) LOADS=$(LOADS) ROUNDS=$(ROUNDS) $(CARGO) test --locked --test tests -- --ignored --exact --nocapture counts::figures

# Instructions by function of put, txn, range, watch and keepalive, or one of them: LOAD=. Writes docs/profiles.
profile: toolchain
	$(CARGO) build --profile profiled --locked
	RELEASE_BIN=$(subst /release/,/profiled/,$(RELEASE)) LOAD=$(LOAD) $(CARGO) test --locked --test tests -- --ignored --exact --nocapture counts::profile::of_a_load

release: toolchain
	$(CARGO) build --release --locked

# Rewrites the expected output of the scripts under tests/scripts; read the difference before you keep it.
bless: toolchain
	BLESS=1 $(CARGO) test --locked --test tests -- script raft lease

# Real etcd, its clients and its benchmark, from Go modules.
oracle: toolchain-go
	$(ORACLE)/build.sh

oracle-kube: toolchain-go
	$(ORACLE)/build.sh kube

.PHONY: toolchain toolchain-go
toolchain:
	@command -v $(CARGO) >/dev/null || { echo "cargo is missing: install Rust 1.95 or later (https://rustup.rs)"; exit 1; }
	@command -v cc >/dev/null || { echo "a C compiler is missing (LMDB is written in C): install gcc or clang"; exit 1; }

toolchain-go:
	@command -v go >/dev/null || { echo "go is missing: the tests compare with a real etcd, built with Go 1.26 or later"; exit 1; }

clean:
	$(CARGO) clean
