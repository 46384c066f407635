#!/bin/sh
# What: runs the test tiers named, all of them even where one fails, and ends with
#       a summary: which passed, and what each took. Exit 1 where one failed.
# Why:  'make test' and CI are to show every failure of a run, and what it cost.
#       One runs after the other: on two processors tiers that run side by side take
#       longer in all, and what has a deadline of the real world misses it. But
#       'kernel+race' runs race on what kernel leaves of the processors, a quarter.
# Use:  scripts/test.sh [lint] [unit] [race] [system] [kernel] [TIER+TIER]    (default: all)
#       Of TIER+TIER the first goes before the second; what that prints follows.
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

# unit runs more packages at a time than there are processors: some wait for connections
# and for timers of libraries. race does not: beside kernel, leases expire in those that wait.
# go vet is lint's. The flags are the system tier's: nothing is compiled twice, and nothing
# anew in another clone.
unit() {
	# shellcheck disable=SC2086 # a list of flags
	CGO_ENABLED=0 go test -trimpath -vet=off -p "$(($(nproc) + 2))" -timeout 30m ${TESTFLAGS-} ./...
}

# race runs the unit tests of the packages in which something is shared, with the race
# detector. Those that wait for the processes of an Open vSwitch are left out, and tests
# that repeat themselves do it less often (testkit.Fewer), but for those who want all of it
# (BAIZE_TEST_RACE=1): beside kernel, such a process may get no processor for seconds.
race() {
	short=-short
	shared='\bgo (func|[a-z]+\()|\.Go\(|"sync("|/)|synctest'
	dirs=$(grep -rlE "$shared" --include='*.go' cmd ovs topology | xargs -r -n 1 dirname | sort -u | sed 's,^,./,')
	if [ "${BAIZE_TEST_RACE-}" = 1 ]; then
		short=
	else
		waiting=$(grep -rl 'ovstest\.Start(' --include='*_test.go' cmd ovs topology | xargs -r -n 1 dirname |
			sort -u | sed 's,^,./,')
		dirs=$(echo "$dirs" | grep -vxF "$waiting") || : # none is left
	fi
	# shellcheck disable=SC2046,SC2086 # lists
	go test -race $short -trimpath -vet=off -p "$(nproc)" -timeout 30m ${TESTFLAGS-} \
		$(go list -e -find -f '{{if or .TestGoFiles .XTestGoFiles}}{{.ImportPath}}{{end}}' $dirs)
}

# system runs the tests of the packages that have some for a real Open vSwitch
# and network namespaces. All that they make has names of its own. The executables
# are built as releases are: the agents of some labs alone have the race detector
# (labkit.Race), or all of them (BAIZE_TEST_RACE=1).
system() {
	if [ "$(id -u)" -ne 0 ]; then
		echo "test: the system tests make network namespaces, which needs root: run 'sudo make test-system'" >&2
		return 1
	fi
	# The one that takes longest goes first: the others fill what it leaves.
	dirs=$(grep -rl '^//go:build system' --include='*_test.go' cmd ovs topology | xargs -r -n 1 dirname |
		sed 's,^,./,; s,.*/domaintest$,! &,' | LC_ALL=C sort -u | sed 's,^! ,,')
	if [ -z "$dirs" ]; then
		echo "test: no file begins with //go:build system: the tier is empty" >&2
		return 1
	fi
	# shellcheck disable=SC2086 # lists
	CGO_ENABLED=0 go test -trimpath -tags system -vet=off -count=1 -p "${BAIZE_TEST_PACKAGES:-2}" -parallel "${BAIZE_TEST_LABS:-2}" \
		-timeout 60m ${TESTFLAGS-} $dirs
}

# weigh gives this session a weight beside others. Without it nice(1) counts within a
# session only, where the kernel shares processors among sessions first (sched(7), "The
# autogroup feature").
weigh() {
	[ ! -w /proc/self/autogroup ] || echo "$1" >/proc/self/autogroup || :
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
	# Other programs of this machine may run, and an emulation is slow enough: where
	# root runs this, it comes before them.
	first=
	[ "$(id -u)" -ne 0 ] || { first='nice -n -10' && weigh -10; }
	dir=$(mktemp -d)
	# The test ends before the machine is ended: it then says where it hung.
	CGO_ENABLED=0 go test -c -trimpath -tags kernel -o "$dir/kernel.test" ./cmd/internal/kerneltest &&
		BAIZE_VM_LIMIT=930 $first scripts/kernel-vm.sh "$dir" ./kernel.test -test.v -test.timeout 15m "$@" &&
		result=0 || result=1
	rm -rf "$dir"
	return "$result"
}

[ $# -gt 0 ] || set -- lint unit race system kernel
case $1 in
--tier)
	# In a session of its own, so that it can be ended with all that it started.
	echo $$ >"$3"
	[ "$(nice)" -le 0 ] || weigh "$(nice)"
	case $2 in
	lint) lint ;;
	unit) unit ;;
	race) race ;;
	system) system ;;
	kernel) kernel ;;
	esac
	exit
	;;
esac
# Words of a line without quotes: the tiers of all groups, one by one.
tiers=$(echo "$@" | sed 's/+/ /g')
for tier in $tiers; do
	case $tier in
	lint | unit | race | system | kernel) ;;
	*)
		echo "test: unknown tier '$tier': use lint, unit, race, system or kernel" >&2
		exit 2
		;;
	esac
done

logs=$(mktemp -d)
# end_group ends a tier with all that it started, also where its shell was killed.
end_group() {
	[ ! -e "$1" ] || kill -s TERM -- "-$(cat "$1")" 2>/dev/null || :
	rm -f "$1"
}
# shellcheck disable=SC2317 # a trap
ended() {
	for group in "$logs"/*.group; do end_group "$group"; done
	rm -rf "$logs"
}
trap ended EXIT
trap 'exit 130' HUP INT TERM

# run_tier runs a tier as a command, if one is given, such as nice, and notes its result.
run_tier() {
	tier=$1
	shift
	begin=$(date +%s)
	"$@" setsid -w sh "$self" --tier "$tier" "$logs/$tier.group" &
	# In the background: the shell heeds a signal only between commands.
	wait $! && result=ok || result=FAILED
	end_group "$logs/$tier.group"
	printf '%-8s %-7s %5d s\n' "$tier" "$result" "$(($(date +%s) - begin))" >"$logs/$tier.result"
}

start=$(date +%s)
for group in "$@"; do
	first=${group%%+*} others=$(echo "${group#"${group%%+*}"}" | sed 's/+/ /g')
	for tier in $others; do
		run_tier "$tier" nice -n 19 >"$logs/$tier.log" 2>&1 &
		echo $! >"$logs/$tier.job"
	done
	printf '\n=== %s\n' "$first"
	run_tier "$first"
	printf '=== %s\n' "$(cat "$logs/$first.result")"
	for tier in $others; do
		printf '\n=== %s\n' "$tier"
		wait "$(cat "$logs/$tier.job")" || :
		cat "$logs/$tier.log"
		printf '=== %s\n' "$(cat "$logs/$tier.result")"
	done
done

printf '\n=== summary\n'
result=ok count=0
for tier in $tiers; do
	cat "$logs/$tier.result"
	count=$((count + 1))
	! grep -q FAILED "$logs/$tier.result" || result=FAILED
done
[ $count -eq 1 ] || printf '%-8s %-7s %5d s\n' all "$result" "$(($(date +%s) - start))"
[ $result = ok ]
