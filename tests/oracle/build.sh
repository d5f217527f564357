#!/bin/sh
# Builds what Bramble is held against into tests/oracle/bin. Usage: build.sh [etcd|etcdctl34|benchmark|kube]... (none: all but kube).
#   etcd       etcd, etcdctl, etcdutl 3.7.3     (about a minute)
#   etcdctl34  etcdctl 3.4, as Debian has it    (seconds)
#   benchmark  etcd's load generator 3.6.8      (about 20 seconds)
#   kube       kube-apiserver, kube-controller-manager, kube-scheduler, kubectl 1.37.2 (about 10 minutes)
# Nothing is done when the binaries are up to date: a stamp beside them holds what they were built from.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
bin=$here/bin

fail() {
    echo "tests/oracle/build.sh: $*" >&2
    exit 1
}

# need_go VERSION: dies with a clear line unless `go` is at least VERSION (like 1.26).
need_go() {
    command -v go >/dev/null 2>&1 || fail "go is not installed; the oracle is built from Go modules. Install Go $1 or later: https://go.dev/dl/"
    have=$(go env GOVERSION)
    have=${have#go}
    lowest=$(printf '%s\n%s\n' "$1" "${have%%[!0-9.]*}" | sort -V | head -n 1)
    [ "$lowest" = "$1" ] || fail "go $have is too old; Go $1 or later is needed: https://go.dev/dl/"
}

# recipe DIR: what its binaries depend on.
recipe() {
    cat "$here/$1/go.mod" "$here/$1/go.sum" "$here/build.sh"
    go env GOVERSION GOOS GOARCH
}

# fresh NAME DIGEST BINARY...: true if NAME was built from this and nothing has been removed since.
fresh() {
    stamp=$bin/.$1
    [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$2" ] || return 1
    shift 2
    for binary in "$@"; do
        [ -x "$bin/$binary" ] || return 1
    done
}

# compile NAME GO LDFLAGS BINARY=PACKAGE...: builds each package of module NAME as bin/BINARY.
compile() {
    name=$1 go=$2 ldflags=$3
    shift 3
    need_go "$go"
    binaries=
    for pair in "$@"; do
        binaries="$binaries ${pair%%=*}"
    done
    digest=$(recipe "$name" | sha256sum)
    # shellcheck disable=SC2086 # a list of words
    if fresh "$name" "$digest" $binaries; then
        return
    fi
    echo "oracle: building$binaries"
    for pair in "$@"; do
        (cd "$here/$name" && CGO_ENABLED=0 GOTOOLCHAIN=local go build -trimpath -ldflags="-s -w $ldflags" -o "$bin/${pair%%=*}" "${pair#*=}") ||
            fail "${pair#*=} did not build, see above"
    done
    echo "$digest" >"$bin/.$name"
}

etcd() {
    compile etcd 1.26 "" \
        etcd=go.etcd.io/etcd/server/v3 etcdctl=go.etcd.io/etcd/etcdctl/v3 etcdutl=go.etcd.io/etcd/etcdutl/v3
}

etcdctl34() {
    compile etcdctl34 1.24 "" etcdctl34=go.etcd.io/etcd/etcdctl
}

benchmark() {
    compile benchmark 1.24 "" benchmark=go.etcd.io/etcd/v3/tools/benchmark
}

kube() {
    version=k8s.io/component-base/version
    compile kube 1.26 "-X $version.gitVersion=v1.37.2 -X $version.gitMajor=1 -X $version.gitMinor=37" \
        kube-apiserver=k8s.io/kubernetes/cmd/kube-apiserver \
        kube-controller-manager=k8s.io/kubernetes/cmd/kube-controller-manager \
        kube-scheduler=k8s.io/kubernetes/cmd/kube-scheduler \
        kubectl=k8s.io/kubernetes/cmd/kubectl
}

mkdir -p "$bin"
[ $# -gt 0 ] || set -- etcd etcdctl34 benchmark
for part in "$@"; do
    case $part in
    etcd | etcdctl34 | benchmark | kube) "$part" ;;
    *) fail "unknown part $part; known are etcd, etcdctl34, benchmark, kube" ;;
    esac
done
