#!/bin/sh
# What: says whether the Go in PATH can build this module, in one line where it
#       cannot, and exits 1.
# Why:  a Go that is too old for go.mod either tries to download another one or
#       fails with a message about syntax; a missing one gives "not found" in
#       the middle of a build. Run before any other go command.
# Use:  scripts/check-go.sh [go.mod]
#
# A toolchain download is tried only where GOTOOLCHAIN is set by hand: it may
# be impossible on this machine, and then nobody would say so.
set -eu

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
mod=${1:-$here/../go.mod}

fail() {
	echo "check-go: $1: install Go $want or later from https://go.dev/dl/ and put its bin directory in PATH" >&2
	exit 1
}

want=$(sed -n 's/^go[[:space:]][[:space:]]*\([0-9][0-9.]*\).*/\1/p' "$mod" | head -n 1)
if [ -z "$want" ]; then
	echo "check-go: $mod has no go line" >&2
	exit 1
fi

path=$(command -v go) || fail "Go is not in PATH"

cd -- "$(dirname -- "$mod")"
# "go version go1.26.8 linux/amd64"; a pre-release is go1.27rc1, a build from
# source "devel go1.28-…".
line=$(GOTOOLCHAIN=${GOTOOLCHAIN:-local} GOFLAGS='' go version 2>&1) || line=
have=$(printf '%s\n' "$line" | sed -n 's/^go version.* go\([0-9][0-9.]*\).*/\1/p' | head -n 1)
[ -n "$have" ] || fail "$path does not tell its version"

# at_least HAVE WANT compares three numeric parts, missing ones as 0.
at_least() {
	awk -v have="$1" -v want="$2" 'BEGIN {
		split(have, h, "."); split(want, w, ".")
		for (i = 1; i <= 3; i++) {
			if (h[i] + 0 > w[i] + 0) exit 0
			if (h[i] + 0 < w[i] + 0) exit 1
		}
		exit 0
	}'
}
at_least "$have" "$want" || fail "$path is Go $have, too old"
