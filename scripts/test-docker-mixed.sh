#!/bin/sh
# What: fetches Docker engines of newer Debian releases than this machine's and
#       runs the Docker tests in labs whose hosts have different ones.
# Why:  a cluster is upgraded host by host, and engines differ: MACs, the order
#       of calls to plugins, firewall rules.
# Use:  scripts/test-docker-mixed.sh, as root. SUITES='trixie forky' are the
#       releases, for host2 and host3; TESTFLAGS is passed to go test. The
#       engines stay in ~/.cache/baize.
set -eu

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
cd "$here/.."
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

engines=
for suite in ${SUITES:-trixie forky}; do
	# Assigned alone, or a failure would be lost.
	dir=$(engine "$suite")
	engines="$engines $dir"
done
export BAIZE_TEST_ENGINES="${engines# }"
# shellcheck disable=SC2086 # a list of flags
go test -tags 'system engines' -count=1 -timeout 30m -run '^TestMixed' ${TESTFLAGS--v} ./cmd/internal/domaintest
