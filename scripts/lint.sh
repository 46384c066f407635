#!/bin/sh
# What: everything that can be said about the sources without running them:
#       shell scripts (syntax, shellcheck) and Go (golangci-lint, .golangci.yml).
# Why:  one command for people and for CI. golangci-lint comes from the nested
#       module scripts/tools, so that its 200 requirements stay out of ours;
#       the first build takes a minute or two and is cached by Go.
# Use:  scripts/lint.sh [golangci-lint arguments, such as --fix]
set -eu

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
cd "$here/.."
bad=0

for f in scripts/*.sh scripts/*/*.sh cmd/internal/packagetest/*.sh .ci/run; do
	case $(head -n 1 "$f") in
	*bash*) bash -n "$f" || bad=1 ;;
	*) sh -n "$f" || bad=1 ;;
	esac
done
if command -v shellcheck >/dev/null 2>&1; then
	shellcheck scripts/*.sh scripts/*/*.sh cmd/internal/packagetest/*.sh .ci/run || bad=1
else
	echo "lint: shellcheck is missing: run 'scripts/install-deps.sh test', or install it" >&2
	bad=1
fi

# The same flags as those of the system tests: nothing is compiled twice.
export CGO_ENABLED=0 GOFLAGS=-trimpath
go tool -modfile=scripts/tools/go.mod golangci-lint run "$@" ./... || bad=1
exit $bad
