#!/bin/sh
# What: fetches Docker engines newer than this machine's, and runs the Docker tests
#       in labs whose hosts have different ones: of Debian's newer releases by
#       apt, of Moby by the Go toolchain.
# Why:  a cluster is upgraded host by host, and engines differ: MACs, the order
#       of calls to plugins, firewall rules, how long they wait.
# Use:  scripts/test-docker-mixed.sh [REGEXP OF TESTS], as root. SUITES='trixie
#       forky' are the releases, for host2 and host3, MOBY=v2.0.0-beta.4 is the
#       version of Moby for host4 (empty: none); TESTFLAGS is passed to go test.
#       The engines stay in ~/.cache/baize.
set -eu

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
cd "$here/.."
tests=${1:-^TestMixed}
cache=${XDG_CACHE_HOME:-$HOME/.cache}/baize/docker
# The machine's own archive, whichever it is.
# shellcheck disable=SC2016 # apt-get's own placeholder
archive=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Component: main' | grep -v security | head -n 1)
if [ -z "$archive" ]; then
	echo "test-docker-mixed: apt has no archive with a component main: add Debian's to /etc/apt/sources.list" >&2
	exit 1
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM

# engine SUITE prints the directory of that release's dockerd. Its containerd and
# runc stay this machine's.
engine() {
	dir=$cache/$1
	if [ ! -x "$dir/usr/sbin/dockerd" ]; then
		rm -rf "$dir"
		mkdir -p "$work/$1/lists/partial" "$work/$1/cache/archives/partial"
		# _apt reads what root downloads.
		chmod 755 "$work" "$work/$1"
		echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $archive $1 main" >"$work/$1/sources.list"
		set -- "$1" -o "Dir::Etc::sourcelist=$work/$1/sources.list" -o Dir::Etc::sourceparts=/dev/null -o Dir::Etc::preferencesparts=/dev/null \
			-o "Dir::State::lists=$work/$1/lists" -o "Dir::Cache=$work/$1/cache" -o APT::Sandbox::User=root
		suite=$1
		shift
		apt-get -q "$@" update >&2
		(cd "$work/$suite" && apt-get -q "$@" download docker.io >&2)
		dpkg-deb -x "$work/$suite"/docker.io_*.deb "$work/$suite/root"
		mkdir -p "$cache"
		mv "$work/$suite/root" "$dir"
	fi
	"$dir/usr/sbin/dockerd" --version >&2
	echo "$dir/usr/sbin"
}

# moby VERSION prints the directory of a dockerd that is built from the module
# github.com/moby/moby/v2, as engines from version 29 on are. It is told to take
# this machine's older client and to keep images as the others do.
moby() {
	dir=$cache/moby-$1
	if [ ! -x "$dir/dockerd" ]; then
		source=$(go mod download -json "github.com/moby/moby/v2@$1" | sed -n 's/^\t"Dir": "\(.*\)",$/\1/p')
		rm -rf "$dir"
		mkdir -p "$work/moby"
		(cd "$source" && CGO_ENABLED=0 go build -trimpath -tags exclude_graphdriver_btrfs \
			-ldflags "-s -w -X github.com/moby/moby/v2/dockerversion.Version=29+moby-$1" -o "$work/moby/engine" ./cmd/dockerd)
		(cd "$source" && CGO_ENABLED=0 go build -trimpath -o "$work/moby/docker-proxy" ./cmd/docker-proxy)
		cat >"$work/moby/dockerd" <<-'END'
			#!/bin/sh
			export DOCKER_MIN_API_VERSION=1.24
			exec "$(dirname "$0")/engine" --feature containerd-snapshotter=false "$@"
		END
		chmod 755 "$work/moby/dockerd"
		mkdir -p "$cache"
		mv "$work/moby" "$dir"
	fi
	"$dir/dockerd" --version >&2
	echo "$dir"
}

engines=
for suite in ${SUITES:-trixie forky}; do
	# Assigned alone, or a failure would be lost.
	dir=$(engine "$suite")
	engines="$engines $dir"
done
if [ -n "${MOBY-v2.0.0-beta.4}" ]; then
	dir=$(moby "${MOBY-v2.0.0-beta.4}")
	engines="$engines $dir"
fi
export BAIZE_TEST_ENGINES="${engines# }"
# shellcheck disable=SC2086 # a list of flags
go test -tags 'system engines' -count=1 -timeout 120m -run "$tests" ./cmd/internal/domaintest ${TESTFLAGS--v}
