#!/bin/sh
# What: runs the test tiers named, each under a heading and with its time, all
#       of them even where one fails; ends with a summary. Exit 1 where one failed.
# Why:  'make test' and CI are to show every failure of a run, and what it cost.
# Use:  scripts/test.sh [lint] [unit] [system] [kernel]      (default: all)
#       TESTFLAGS='-run Name -v' is passed to go test.
set -eu

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
cd "$here/.."
[ $# -gt 0 ] || set -- lint unit system kernel

unit() {
	# shellcheck disable=SC2086 # a list of flags
	go test -race -timeout 15m ${TESTFLAGS-} ./...
}

# system runs the tests of the packages that have some for a real Open vSwitch
# and network namespaces, one package at a time: they share one machine.
system() {
	if [ "$(id -u)" -ne 0 ]; then
		echo "test: the system tests make network namespaces, which needs root: run 'sudo make test-system'" >&2
		return 1
	fi
	dirs=$(grep -rl '^//go:build system' --include='*_test.go' cmd ovs topology | xargs -r -n 1 dirname | sort -u | sed 's,^,./,')
	if [ -z "$dirs" ]; then
		echo "test: no file begins with //go:build system: the tier is empty" >&2
		return 1
	fi
	# shellcheck disable=SC2086 # lists
	go test -tags system -race -count=1 -p 1 -timeout 30m ${TESTFLAGS-} $dirs
}

# kernel runs tests on the kernel's datapath, in a virtual machine that brings a
# kernel along: what this machine has does not matter.
kernel() {
	set --
	for flag in ${TESTFLAGS-}; do
		case $flag in
		-*) set -- "$@" "-test.${flag#-}" ;;
		*) set -- "$@" "$flag" ;;
		esac
	done
	dir=$(mktemp -d)
	# The test ends before the machine is ended: it then says where it hung.
	go test -c -tags kernel -o "$dir/kernel.test" ./cmd/internal/kerneltest &&
		BAIZE_VM_LIMIT=330 scripts/kernel-vm.sh "$dir" ./kernel.test -test.v -test.timeout 5m "$@" && result=0 || result=1
	rm -rf "$dir"
	return $result
}

summary=
failed=0
for tier in "$@"; do
	printf '\n=== %s\n' "$tier"
	begin=$(date +%s)
	result=ok
	case $tier in
	lint) scripts/lint.sh || result=FAILED ;;
	unit) unit || result=FAILED ;;
	system) system || result=FAILED ;;
	kernel) (kernel) || result=FAILED ;;
	*)
		echo "test: unknown tier '$tier': use lint, unit, system or kernel" >&2
		exit 2
		;;
	esac
	[ $result = ok ] || failed=1
	line=$(printf '%-8s %-7s %5d s' "$tier" "$result" $(($(date +%s) - begin)))
	printf '=== %s\n' "$line"
	summary="$summary$line
"
done

printf '\n=== summary\n%s' "$summary"
exit $failed
