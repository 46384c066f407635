#!/bin/sh
# What: waits until a machine of the Vagrant lab sees all of them, and proves that
#       its containers reach those of the others: by name, with a checked bulk of
#       TCP, by the plugin and by docker0.
# Use:  check.sh COUNT [ADDRESS...]       (root, in the machine; in the lab's files)
#       ADDRESS  of further containers that serve the same
set -eu

count=$1
shift
name=$(hostname)
begin=$(cut -d. -f1 /proc/uptime)
# shellcheck source=/dev/null
set -a && . /etc/default/baize-lab && set +a

# patiently COMMAND...: until it succeeds; after ten minutes it shows why not.
patiently() {
	while ! "$@" >/tmp/baize-check 2>&1; do
		if [ $(($(cut -d. -f1 /proc/uptime) - begin)) -gt 600 ]; then
			cat /tmp/baize-check >&2
			echo "check: failed on $name: $*" >&2
			systemctl --no-pager --lines 20 status baize baize-lab docker etcd >&2 || :
			exit 1
		fi
		sleep 2
	done
}
ready() {
	[ "$(baize node list -o json | grep -c '"status": "ready"')" -eq "$count" ]
}
# bulk CONTAINER HOST compares what comes with the sum that the server made.
bulk() {
	# Not wget -T: Debian 12's busybox ends in a segmentation fault there.
	want=$(docker exec "$1" timeout 60 wget -q -O- "http://$2/sum") &&
		have=$(docker exec "$1" sh -c "timeout 60 wget -q -O- 'http://$2/bulk' | md5sum") || return 1
	echo "the sum of what came is $have, and of what was sent $want"
	[ -n "$want" ] && [ "$want" = "$have" ]
}

patiently ready
patiently systemctl -q is-active baize-lab
for n in $(seq "$count"); do
	patiently docker exec "web-$name" ping -c 3 -W 5 "web-node$n"
	patiently bulk "web-$name" "web-node$n"
done
for address in "$@"; do
	for container in "web-$name" "plain-$name"; do
		patiently docker exec "$container" ping -c 3 -W 5 "$address"
		patiently bulk "$container" "$address"
	done
done
patiently baize status
# The kernel forwards, and nothing was lost on its way to ovs-vswitchd.
dpctl=$(ovs-appctl dpctl/show)
case $dpctl in
*system@ovs-system*lost:0*) ;;
*)
	echo "check: $name: not the kernel's datapath, or packets were lost: $dpctl" >&2
	exit 1
	;;
esac
echo "check: $name: $count nodes, every container reached, status without a problem"
