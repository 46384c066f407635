#!/bin/sh
# What: reports known vulnerabilities of the Go modules and of Go itself that the
#       programs can reach (govulncheck, from the nested module scripts/tools).
# Why:  a module that is called is looked at by somebody else, too; one that is only
#       required is no news. A check that could not be made must not look like one that
#       found nothing.
# Use:  scripts/vuln.sh [PACKAGES]   (default: the programs; GOVULNDB=URL of another
#       database, file:///DIRECTORY for a copy of it)
# Exit: 0 none, 3 some, 1 the check could not be made
set -eu

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
cd "$here/.."
[ $# -gt 0 ] || set -- ./cmd/baize ./cmd/baize-cni
db=${GOVULNDB:-https://vuln.go.dev}

out=$(mktemp)
trap 'rm -f "$out"' EXIT
trap 'exit 130' HUP INT TERM
code=0
go tool -modfile=scripts/tools/go.mod govulncheck -db "$db" "$@" >"$out" 2>&1 || code=$?
cat "$out"
case $code in
0) echo "vuln: no known vulnerability is reached ($*)" ;;
3) echo "vuln: update the modules named above: go get MODULE@VERSION" >&2 ;;
*)
	if grep -Eq 'fetching vulnerabilities|vulnerability database|no such file' "$out"; then
		echo "vuln: NOT CHECKED: the database $db cannot be reached from here; set GOVULNDB to one that can," >&2
		echo "vuln: or run it where there is a way to the Internet" >&2
	else
		echo "vuln: NOT CHECKED: govulncheck failed" >&2
	fi
	code=1
	;;
esac
exit "$code"
