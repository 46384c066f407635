#!/bin/sh
# What: runs every fuzz target for a short time.
# Why:  'go test -fuzz' takes one target of one package at a time.
# Use:  scripts/fuzz.sh [TIME]      (each target; default 20s)
set -eu

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
cd "$here/.."
time=${1:-20s}

targets=$(grep -rn --include='*_test.go' '^func Fuzz' cmd ovs topology |
	sed 's,^\(.*\)/[^/]*_test\.go:[0-9]*:func \(Fuzz[A-Za-z0-9_]*\).*,./\1 \2,' | sort -u)
if [ -z "$targets" ]; then
	echo "fuzz: no fuzz targets found" >&2
	exit 1
fi
printf '%s\n' "$targets" | while read -r package target; do
	printf '=== %s %s\n' "$package" "$target"
	go test -run '^$' -fuzz "^$target\$" -fuzztime "$time" -fuzzminimizetime 1s "$package" || exit 1
done
