#!/bin/sh
# What: the life of the package, inside a clean root, in namespaces of its own.
# Use:  inside.sh OLD.deb NEW.deb, by packages_system_test.go
set -eu
old=$1 new=$2
export DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8 HOME=/root
said() { echo "ok: $*"; }
no() { echo "NOT OK: $*"; exit 1; }
await() { # WHAT COMMAND...
	what=$1
	shift
	i=0
	until "$@" >/tmp/await 2>&1; do
		i=$((i + 1))
		[ $i -lt 300 ] || { cat /tmp/await /tmp/agent.log; ovs-vsctl show; baize status; no "$what"; }
		sleep 0.1
	done
	said "$what"
}
there() { ovs-vsctl br-exists br-baize; }

ip link set lo up
ip link add underlay type veth peer name underlay-peer
ip link set underlay-peer up
ip address add 192.0.2.1/24 dev underlay
ip link set underlay up
mkdir -p /run/openvswitch /var/log/openvswitch /etc/openvswitch
ovsdb-tool create /etc/openvswitch/conf.db /usr/share/openvswitch/vswitch.ovsschema
ovsdb-server --remote=punix:/run/openvswitch/db.sock --pidfile --detach --log-file=/dev/null
ovs-vsctl --no-wait init
ovs-vswitchd --pidfile --detach --log-file=/dev/null

dpkg -i "$old" || no "it installs on a clean root"
said "it installs on a clean root"
[ "$(baize version | sed -n 1p)" = "baize 0.0.1" ] || no "the version is stamped: $(baize version)"
for f in /usr/lib/systemd/system/baize.service /usr/share/man/man8/baize.8.gz /usr/share/bash-completion/completions/baize /usr/lib/sysctl.d/60-baize.conf; do
	[ -s $f ] || no "$f is there"
done
[ "$(stat -c %a /etc/default/baize)" = 640 ] || no "the settings, which may have a password, are not everybody's"

sed -i 's|^#BAIZE_VTEP=.*|BAIZE_VTEP=192.0.2.1|' /etc/default/baize
baize etcd --data-dir /tmp/etcd >/tmp/etcd.log 2>&1 &
etcd=$!
await "etcd runs" baize network create blue --subnet 10.1.0.0/16
# As baize.service does it.
(
	set -a
	# shellcheck disable=SC1091 # inside the root
	. /etc/default/baize
	exec baize agent
) >/tmp/agent.log 2>&1 &
agent=$!
await "the agent runs with the settings of /etc/default/baize" baize status
await "the bridge is there" there
ip netns add box
baize endpoint add --network blue --netns /run/netns/box >/dev/null

dpkg -i --force-confold "$new" || no "it upgrades"
[ "$(baize version | sed -n 1p)" = "baize 0.0.2" ] || no "the upgrade is the new version: $(baize version)"
grep -q '^BAIZE_VTEP=192.0.2.1' /etc/default/baize || no "an upgrade keeps the settings"
kill -0 $agent || no "an upgrade leaves the agent alone where there is no systemd"
there || no "an upgrade leaves the bridge"
said "it upgrades, and keeps the settings"

flows() { ovs-ofctl dump-flows br-baize | wc -l; }
before=$(flows)
kill $agent
wait $agent || true
dpkg -r baize || no "it is removed"
[ ! -e /usr/bin/baize ] || no "the program is gone"
if ! there || [ "$(flows)" != "$before" ]; then no "a removal leaves forwarding as it is"; fi
[ -s /etc/default/baize ] || no "a removal keeps the settings"
said "a removal leaves forwarding and settings"

dpkg -i "$new" >/dev/null || no "it is installed again"
baize agent cleanup --help >/dev/null || no "it runs again"
dpkg -P baize || no "it is purged"
if there; then no "a purge removes the bridge"; fi
for f in /var/lib/baize /etc/default/baize /run/baize /usr/lib/baize; do
	[ ! -e $f ] || no "a purge leaves $f"
done
if ip -o link show type veth | grep -v underlay; then no "a purge leaves devices"; fi
said "a purge leaves nothing"
kill $etcd
