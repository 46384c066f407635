#!/bin/sh
# What: builds Kubernetes, its tests of networks, CoreDNS and Multus, once, and runs the tests of
#       clusters whose network is Baize on them.
# Why:  no image and no registry is needed: all of Kubernetes is one Go program (the
#       module cmd/internal/kubernetes/cluster), containerd and runc are Debian's.
# Use:  scripts/test-kubernetes.sh [--build|--lab]   (as root; --build: only build;
#       --lab: only Kubernetes itself, which is all that 'baize lab up --kubernetes' needs)
#       TESTFLAGS is passed to go test. The first build takes 15 minutes on two cores
#       and 3 GB of memory; the programs (390 MB) stay in ~/.cache/baize.
set -eu

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
cd "$here/.."
module=cmd/internal/kubernetes/cluster
version=$(sed -n 's,^require k8s.io/kubernetes v,,p' "$module/go.mod")
cache=${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/baize/kubernetes
programs=$cache/v$version

# Components and tests compare versions with each other: without a stamp theirs is v0.0.0.
stamp=k8s.io/component-base/version
minor=${version#1.}
stamps="-s -w -X $stamp.gitVersion=v$version -X $stamp.gitMajor=1 -X $stamp.gitMinor=${minor%%.*} \
	-X $stamp.gitTreeState=clean -X $stamp.gitCommit=0000000000000000000000000000000000000000"

# program NAME MODULE COMMAND... runs a command of Go that builds a program, unless it
# is there.
program() {
	[ ! -x "$programs/$1" ] || return 0
	name=$1 in=$2
	shift 2
	echo "test-kubernetes: building $name ($version) into $programs, once" >&2
	mkdir -p "$programs"
	verb=$1
	shift
	GOFLAGS=-mod=readonly CGO_ENABLED=0 nice -n 10 go "$verb" -C "$in" -p 2 -trimpath -buildvcs=false \
		-ldflags "$stamps" -o "$programs/$name.new" "$@"
	mv "$programs/$name.new" "$programs/$name"
}

program kubernetes "$module" build .
for old in "$cache"/v*; do
	[ "$old" = "$programs" ] || rm -rf "$old"
done
[ "${1-}" != --lab ] || exit 0
program coredns cmd/internal/kubernetes/dns build .
program multus cmd/internal/kubernetes/multus build .
program e2e.test "$module" test -c ./e2e
program ginkgo "$module" build github.com/onsi/ginkgo/v2/ginkgo
# What the suite's pods run, and its certificate, which is in no package.
program agnhost "$module" build k8s.io/kubernetes/test/images/agnhost
source=$(GOFLAGS=-mod=readonly go list -C "$module" -m -f '{{.Dir}}' k8s.io/kubernetes)
install -m 0644 "$source"/test/images/agnhost/porter/localhost.* "$programs/"
[ "${1-}" != --build ] || exit 0

# shellcheck disable=SC2086 # a list of words
BAIZE_KUBERNETES=$programs/kubernetes CGO_ENABLED=0 go test -trimpath -tags kubernetes -vet=off -count=1 -timeout 45m \
	${TESTFLAGS-} ./cmd/internal/kubernetes
