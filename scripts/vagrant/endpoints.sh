#!/bin/sh
# What: an endpoint of each of the networks t-TRANSPORT on this machine of the
#       Vagrant lab, and traffic from it to those of other machines.
# Use:  endpoints.sh add TRANSPORT...             (root, in the machine)
#       endpoints.sh reach TRANSPORT ADDRESS...   ping, and 2 MB by TCP with a checksum
set -eu

do=$1
shift
run=/run/baize-test
mkdir -p $run
# shellcheck source=/dev/null
set -a && . /etc/default/baize-lab && set +a
# patiently COMMAND...: the agents hear of a network, and of endpoints, a moment later.
patiently() {
	left=60
	while ! "$@" >$run/log 2>&1; do
		left=$((left - 1))
		[ $left -gt 0 ] || {
			cat $run/log >&2
			echo "endpoints: failed on $(hostname): $*" >&2
			exit 1
		}
		sleep 1
	done
}
case $do in
add)
	for t in "$@"; do
		ip netns add "t-$t"
		ip -n "t-$t" link set lo up
		patiently baize endpoint add "t-$t" --network "t-$t" --netns "t-$t" -o json
		ip -n "t-$t" -4 -o address show dev eth0 | sed 's,.* inet \([0-9.]*\)/.*,\1,' >"$run/$t"
		ip netns exec "t-$t" baize probe serve >/dev/null 2>&1 &
	done
	;;
reach)
	t=$1
	shift
	for address in "$@"; do
		patiently ip netns exec "t-$t" ping -c 3 -W 5 "$address"
		patiently ip netns exec "t-$t" baize probe send --to "$address" --bytes 2M
	done
	;;
esac
