#!/bin/sh
# What: runs the test tiers named, all of them even where one fails, and ends with
#       a summary: which passed, and what each took. Exit 1 where one failed.
# Why:  'make test' and CI are to show every failure of a run, and what it cost.
#       Much of the system tier is waiting: lint and unit run beside it. What a tier
#       prints is shown when it ends, whole; that of a tier that runs alone as it
#       comes.
# Use:  scripts/test.sh [lint] [unit] [system] [kernel]      (default: all)
#       TESTFLAGS='-run Name -v' is passed to go test.
#       BAIZE_TEST_LABS=2 is how many tests with a lab of their own run at a time
#       in each package, BAIZE_TEST_PACKAGES=2 how many packages of the system tier.
set -eu

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
self=$here/$(basename -- "$0")
cd "$here/.."

# Ending, each test executable with the race detector waits for a second by default.
export GORACE="${GORACE-atexit_sleep_ms=100}"

lint() { scripts/lint.sh; }

# unit runs more packages at a time than there are processors: some
# wait for connections and for timers of libraries.
unit() {
	# shellcheck disable=SC2086 # a list of flags
	go test -race -p "$(($(nproc) + 1))" -timeout 15m ${TESTFLAGS-} ./...
}

# system runs the tests of the packages that have some for a real Open vSwitch
# and network namespaces. All that they make has names of its own.
system() {
	if [ "$(id -u)" -ne 0 ]; then
		echo "test: the system tests make network namespaces, which needs root: run 'sudo make test-system'" >&2
		return 1
	fi
	dirs=$(grep -rl '^//go:build system' --include='*_test.go' cmd ovs topology |
		xargs -r -n 1 dirname | sort -u | sed 's,^,./,')
	if [ -z "$dirs" ]; then
		echo "test: no file begins with //go:build system: the tier is empty" >&2
		return 1
	fi
	# shellcheck disable=SC2086 # lists
	go test -tags system -race -count=1 -p "${BAIZE_TEST_PACKAGES:-2}" -parallel "${BAIZE_TEST_LABS:-2}" \
		-timeout 40m ${TESTFLAGS-} $dirs
}

# kernel runs tests on the kernel's datapath, in a virtual machine that brings a
# kernel along: what this machine has does not matter. Its limits are for a
# processor that is emulated.
kernel() {
	set --
	for flag in ${TESTFLAGS-}; do
		case $flag in
		-*) set -- "$@" "-test.${flag#-}" ;;
		*) set -- "$@" "$flag" ;;
		esac
	done
	# No other tier runs now, but other programs of this machine may, and an
	# emulation is slow enough: where root runs this, it comes before them.
	first=
	[ "$(id -u)" -ne 0 ] || first='nice -n -5'
	dir=$(mktemp -d)
	# The test ends before the machine is ended: it then says where it hung.
	CGO_ENABLED=0 go test -c -trimpath -tags kernel -o "$dir/kernel.test" ./cmd/internal/kerneltest &&
		BAIZE_VM_LIMIT=930 $first scripts/kernel-vm.sh "$dir" ./kernel.test -test.v -test.timeout 15m "$@" &&
		result=0 || result=1
	rm -rf "$dir"
	return "$result"
}

[ $# -gt 0 ] || set -- lint unit system kernel
case $1 in
--tier)
	# In a session of its own, so that it can be ended with all that it started.
	echo $$ >"$3"
	case $2 in
	lint) lint ;;
	unit) unit ;;
	system) system ;;
	kernel) kernel ;;
	esac
	exit
	;;
esac
for tier in "$@"; do
	case $tier in
	lint | unit | system | kernel) ;;
	*)
		echo "test: unknown tier '$tier': use lint, unit, system or kernel" >&2
		exit 2
		;;
	esac
done

logs=$(mktemp -d)
lanes=
# shellcheck disable=SC2317 # a trap
ended() {
	# shellcheck disable=SC2086 # a list
	[ -z "$lanes" ] || kill $lanes 2>/dev/null || :
	for group in "$logs"/*.group; do end_group "$group"; done
	rm -rf "$logs"
}
# shellcheck disable=SC2317 # used by a trap
end_group() { [ ! -e "$1" ] || kill -s TERM -- "-$(cat "$1")" 2>/dev/null || :; }
trap ended EXIT
trap 'exit 130' HUP INT TERM

# run runs a tier and leaves its result in a file.
run() {
	begin=$(date +%s)
	# What runs beside the system tier gives way to it, whose systems are real and
	# have deadlines of their own.
	case " $beside " in *" $1 "*) first='nice -n 5' ;; *) first= ;; esac
	# shellcheck disable=SC2086 # a command or nothing
	setsid -w $first sh "$self" --tier "$1" "$logs/$1.group" &
	# In the background: the shell heeds a signal only between commands.
	wait $! && result=ok || result=FAILED
	rm -f "$logs/$1.group"
	result "$1" "$result" "$begin"
}
# result leaves that of a tier, which began at a time, in its file.
result() {
	printf '%-8s %-7s %5d s\n' "$1" "$2" "$(($(date +%s) - $3))" >"$logs/$1.new"
	mv "$logs/$1.new" "$logs/$1.result"
}

start=$(date +%s)
# report shows the result of a tier.
report() { printf '=== %s\n' "$(cat "$logs/$1.result")"; }

# Beside the system tier run lint and unit; the kernel tier, whose packets are
# counted while an emulated processor forwards them, has the machine to itself.
beside=
alone=
case " $* " in *' system '*) system=system ;; *) system= ;; esac
for tier in "$@"; do
	case $tier in
	lint | unit) [ -z "$system" ] && alone="$alone $tier" || beside="$beside $tier" ;;
	system) ;;
	kernel) alone="$alone $tier" ;;
	esac
done
if [ -z "$beside" ]; then
	alone="$system$alone"
else
	echo "=== system,$beside: what each prints is shown when it has ended"
	for lane in system "$beside"; do
		for tier in $lane; do run "$tier" >"$logs/$tier.log" 2>&1; done &
		lanes="$lanes $!"
		for tier in $lane; do echo $! >"$logs/$tier.lane"; done
	done
	left="system$beside"
	while [ -n "$left" ]; do
		sleep 1
		still=
		for tier in $left; do
			# In this order: a lane ends after its last result.
			if ! kill -0 "$(cat "$logs/$tier.lane")" 2>/dev/null && [ ! -e "$logs/$tier.result" ]; then
				echo "test: the shell that runs this tier was killed: see dmesg, and whether memory or disk is full" \
					>>"$logs/$tier.log"
				end_group "$logs/$tier.group"
				result "$tier" FAILED "$start"
			fi
			if [ -e "$logs/$tier.result" ]; then
				printf '\n=== %s\n' "$tier"
				cat "$logs/$tier.log"
				report "$tier"
			else
				still="$still $tier"
			fi
		done
		left=$still
	done
fi
for tier in $alone; do
	printf '\n=== %s\n' "$tier"
	run "$tier"
	report "$tier"
done

printf '\n=== summary\n'
result=ok
for tier in "$@"; do
	cat "$logs/$tier.result"
	! grep -q FAILED "$logs/$tier.result" || result=FAILED
done
[ $# -eq 1 ] || printf '%-8s %-7s %5d s\n' all "$result" "$(($(date +%s) - start))"
[ $result = ok ]
