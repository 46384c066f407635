#!/bin/sh
# What: builds Kubernetes, once, and runs the tests of clusters whose network is Baize
#       on it.
# Why:  no image and no registry is needed: all of Kubernetes is one Go program (the
#       module cmd/internal/kubernetes/cluster), containerd and runc are Debian's.
# Use:  scripts/test-kubernetes.sh [--build]   (as root; --build: only build)
#       TESTFLAGS is passed to go test. The first build takes 10 minutes on two cores
#       and 3 GB of memory; the program (140 MB) stays in ~/.cache/baize.
set -eu

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
cd "$here/.."
module=cmd/internal/kubernetes/cluster
version=$(sed -n 's,^require k8s.io/kubernetes v,,p' "$module/go.mod")
cache=${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/baize/kubernetes
program=$cache/v$version/kubernetes

if [ ! -x "$program" ]; then
	echo "test-kubernetes: building Kubernetes $version into $cache, once" >&2
	mkdir -p "$cache/v$version"
	# Components compare versions with each other: without a stamp theirs is v0.0.0.
	stamp=k8s.io/component-base/version
	minor=${version#1.}
	GOFLAGS=-mod=readonly CGO_ENABLED=0 nice -n 10 go build -C "$module" -p 2 -trimpath -buildvcs=false -ldflags "-s -w \
		-X $stamp.gitVersion=v$version -X $stamp.gitMajor=1 -X $stamp.gitMinor=${minor%%.*} \
		-X $stamp.gitTreeState=clean -X $stamp.gitCommit=0000000000000000000000000000000000000000" \
		-o "$program.new" .
	mv "$program.new" "$program"
	for old in "$cache"/v*; do
		[ "$old" = "$cache/v$version" ] || rm -rf "$old"
	done
fi
[ "${1-}" != --build ] || exit 0

# shellcheck disable=SC2086 # a list of words
BAIZE_KUBERNETES=$program CGO_ENABLED=0 go test -trimpath -tags kubernetes -vet=off -count=1 -timeout 30m \
	${TESTFLAGS-} ./cmd/internal/kubernetes
