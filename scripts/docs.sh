#!/bin/sh
# What: writes the generated files anew: the golden files of every package whose
#       tests know -update, docs/cli.md among them, and the README's picture.
# Why:  tests compare them with what the code says; after a wanted change they
#       are regenerated, and the difference is read before it is committed.
# Use:  scripts/docs.sh
set -eu

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
cd "$here/.."

dirs=$(grep -rl 'flag\.Bool("update"' --include='*_test.go' cmd ovs topology scripts | xargs -r -n 1 dirname | sort -u | sed 's,^,./,')
for d in $dirs; do
	go test -count=1 "$d" -update
done
git --no-pager diff --stat -- docs cmd ovs topology 2>/dev/null || true
