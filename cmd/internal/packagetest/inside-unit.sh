#!/bin/sh
# What: baize.service under a real systemd: the package is installed, the unit started,
#       stopped, restarted and killed.
# Use:  inside-unit.sh, by boot.sh
set -eu
said() { echo "ok: $*"; }
no() {
	echo "NOT OK: $*"
	systemctl --no-pager status baize ovs-vswitchd || true
	journalctl --no-pager -n 50 || true
	exit 1
}
await() { # WHAT COMMAND...
	what=$1
	shift
	i=0
	until "$@" >/tmp/await 2>&1; do
		i=$((i + 1))
		[ $i -lt 300 ] || { cat /tmp/await; no "$what"; }
		sleep 0.1
	done
	said "$what"
}
of() { systemctl show -P "$1" baize; }
flows() { ovs-ofctl dump-flows br-baize | wc -l; }
other() { [ "$(of MainPID)" != 0 ] && [ "$(of MainPID)" != "$1" ] && [ "$(of ActiveState)" = active ]; }

ip link set lo up
ip link add underlay type veth peer name underlay-peer
ip link set underlay-peer up
ip address add 192.0.2.1/24 dev underlay
ip link set underlay up
if ! modprobe -q openvswitch; then
	# Debian's unit insists on the module; the userspace datapath needs none.
	mkdir -p /etc/systemd/system/ovs-vswitchd.service.d
	printf '[Service]\nExecStart=\nExecStart=/usr/sbin/ovs-vswitchd --pidfile --detach --log-file\nExecStop=\n' \
		>/etc/systemd/system/ovs-vswitchd.service.d/userspace.conf
fi
systemctl daemon-reload

dpkg -i --force-confold /try/old.deb || no "it installs"
[ "$(systemctl is-enabled baize)" = enabled ] || no "the package enables the unit"
[ "$(of ActiveState)" = inactive ] || no "the package starts nothing"
sed -i 's|^#BAIZE_VTEP=.*|BAIZE_VTEP=192.0.2.1|' /etc/default/baize
systemd-run --quiet --unit=try-etcd baize etcd --data-dir /tmp/etcd
await "etcd runs" baize network create blue --subnet 10.1.0.0/16

# Type=notify: started is ready, with all that the unit orders before it.
systemctl start baize || no "it starts"
[ "$(of ActiveState) $(of SubState) $(of Type)" = "active running notify" ] || no "it is running"
[ "$(systemctl is-active openvswitch-switch)" = active ] || no "it brings Open vSwitch along"
baize status >/tmp/status || { cat /tmp/status; no "it is ready when systemd says that it is started"; }
said "it starts, and is ready then"
ip netns add box
baize endpoint add box --network blue --netns /run/netns/box >/dev/null || no "a namespace that came later is seen"
ip netns exec box ip -4 -o address show eth0 | grep -q 10.1. || no "the endpoint has its address"
said "what the unit's sandbox allows is enough"
before=$(flows)

first=$(of MainPID)
systemctl restart baize || no "it restarts"
other "$first" || no "another process"
[ "$(flows)" = "$before" ] || no "a restart leaves the flows"
said "it restarts"

second=$(of MainPID)
kill -9 "$second"
await "it comes back after kill -9" other "$second"
[ "$(of NRestarts)" = 1 ] || no "systemd counts $(of NRestarts) restarts"
[ "$(flows)" = "$before" ] || no "kill -9 leaves the flows"

# The watchdog, faster than the unit's own two minutes.
[ "$(of WatchdogUSec)" = 2min ] || no "the unit's watchdog is $(of WatchdogUSec)"
mkdir -p /etc/systemd/system/baize.service.d
printf '[Service]\nWatchdogSec=3\nTimeoutAbortSec=1\n' >/etc/systemd/system/baize.service.d/fast.conf
systemctl daemon-reload
systemctl restart baize
third=$(of MainPID)
sleep 7 # more than twice its time
[ "$(of MainPID)" = "$third" ] || no "an agent at work serves the watchdog"
[ "$(of NRestarts)" = 0 ] || no "an agent at work was restarted"
said "an agent at work serves the watchdog"
kill -STOP "$third"
await "an agent that hangs is replaced" other "$third"
[ "$(of NRestarts)" = 1 ] || no "the watchdog restarted it $(of NRestarts) times"
await "it is ready again" baize status
[ "$(flows)" = "$before" ] || no "the watchdog leaves the flows"

# Processes of the host find containers by systemd-resolved, as docs/names.md has it.
printf 'BAIZE_HOST_NAMES=127.0.0.12\nBAIZE_DOCKER_PLUGIN=off\n' >>/etc/default/baize # no engine runs
systemctl restart baize
ip netns add pod
ip -n pod link set lo up
cni() {
	echo '{"cniVersion":"1.0.0","name":"blue","type":"baize-cni","runtimeConfig":{"aliases":["web"]}}' |
		CNI_COMMAND=$1 CNI_CONTAINERID=pod CNI_NETNS=/run/netns/pod CNI_IFNAME=eth0 CNI_PATH=/opt/cni/bin /opt/cni/bin/baize-cni
}
cni ADD >/tmp/result || { cat /tmp/result; no "a container with a name"; }
dpkg --force-depends -i /try/resolved.deb >/tmp/await 2>&1 || { cat /tmp/await; no "systemd-resolved is installed"; }
install -D -m 644 /try/resolved.conf /etc/systemd/resolved.conf.d/baize.conf
mkdir -p /etc/systemd/system/systemd-resolved.service.d
printf '[Service]\nPrivateDevices=no\n' >/etc/systemd/system/systemd-resolved.service.d/devices.conf # this root makes none
systemctl daemon-reload
systemctl restart systemd-resolved || no "systemd-resolved starts"
ln -sf ../run/systemd/resolve/stub-resolv.conf /etc/resolv.conf
address=$(ip netns exec pod ip -4 -o address show eth0 | grep -o '10\.1\.[0-9.]*' | head -n 1)
finds() { baize name list && getent ahostsv4 web.blue | grep "^$address "; }
await "the host finds a container by systemd-resolved" finds
cni DEL
systemctl stop systemd-resolved
ip netns del pod

before=$(flows)
systemctl stop baize || no "it stops"
[ "$(of ActiveState) $(of Result)" = "inactive success" ] || no "it stopped: $(of ActiveState) $(of Result)"
[ "$(flows)" = "$before" ] || no "a stop leaves the flows"
said "it stops, and forwarding goes on"

systemctl start baize
fourth=$(of MainPID)
dpkg -i --force-confold /try/new.deb || no "it upgrades"
other "$fourth" || no "an upgrade restarts a unit that runs"
[ "$(flows)" = "$before" ] || no "an upgrade leaves the flows"
baize status -o json | grep -q '"version": *"0.0.2"' || no "the new version runs"
said "it is upgraded while it runs"

dpkg -r baize || no "it is removed"
[ "$(of ActiveState)" = inactive ] || no "a removal stops it"
[ "$(flows)" = "$before" ] || no "a removal leaves the flows"
said "a removal stops it, and forwarding goes on"
