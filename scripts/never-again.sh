#!/bin/sh
# What: runs every test that scripts/neveragain/rows.yaml names, and prints the table of
#       what is impossible, healed or named here. The last line is the count.
# Why:  a row is proven only where its tests have passed in this very run.
# Use:  scripts/never-again.sh [unit] [system] [kernel] [versions]      (default: all; root)
set -eu

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
cd "$here/neveragain"
[ $# -gt 0 ] || set -- unit system kernel versions
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
trap 'exit 130' HUP INT TERM
go test -c -o "$dir/neveragain.test" .
BAIZE_NEVER_AGAIN="$*" "$dir/neveragain.test"
