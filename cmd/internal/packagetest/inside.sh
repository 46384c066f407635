#!/bin/sh
# What: the life of the package, inside a clean root, in namespaces of its own.
# Use:  inside.sh deb|rpm OLD NEW, by packages_system_test.go
set -eu
kind=$1 old=$2 new=$3
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
case $kind in
deb)
	install() { dpkg -i --force-confold "$1"; }
	remove() { dpkg -r baize; }
	kept=/etc/default/baize
	;;
rpm)
	# Of the root's own packages rpm knows nothing.
	install() { rpm -U --nodeps "$1"; }
	remove() { rpm -e --nodeps baize; }
	kept=/etc/default/baize.rpmsave
	;;
esac
# A systemctl that takes notes.
mkdir -p /run/systemd/system
printf '#!/bin/sh\necho "$*" >>/tmp/systemctl\n' >/usr/bin/systemctl
chmod 755 /usr/bin/systemctl
told() { # WHAT: what systemd was told since, beside daemon-reload
	have=$(grep -vx daemon-reload /tmp/systemctl || true)
	grep -qx daemon-reload /tmp/systemctl || no "systemd reads its units again"
	rm /tmp/systemctl
	[ "$have" = "$1" ] || no "systemd is told '$1', not '$have'"
}

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

install "$old" || no "it installs on a clean root"
told "enable baize.service"
said "it installs on a clean root"
[ "$(baize version | sed -n 1p)" = "baize 0.0.1" ] || no "the version is stamped: $(baize version)"
for f in /usr/lib/systemd/system/baize.service /usr/share/man/man8/baize.8.gz /usr/share/man/man8/baize-agent.8.gz /usr/share/bash-completion/completions/baize /usr/lib/sysctl.d/60-baize.conf /usr/share/baize/prometheus/alerts.yml /usr/share/baize/prometheus/dashboard.json; do
	[ -s $f ] || no "$f is there"
done
[ "$(stat -c %a /etc/default/baize)" = 640 ] || no "the settings, which may have a password, are not everybody's"

for f in /opt/cni/bin/baize-cni /usr/lib/netavark/baize; do
	echo '{"cniVersion":"1.1.0"}' | CNI_COMMAND=VERSION $f | grep -q 1.1.0 || no "$f is the plugin"
done
case $kind in
deb) [ -x /usr/lib/cni/baize-cni ] ;;
rpm) [ -x /usr/libexec/cni/baize-cni ] ;;
esac || no "the distribution's runtimes find the plugin"

sed -i 's|^#BAIZE_VTEP=.*|BAIZE_VTEP=192.0.2.1|' /etc/default/baize
baize etcd --data-dir /tmp/etcd >/tmp/etcd.log 2>&1 &
etcd=$!
await "etcd runs" baize network create blue --subnet 10.1.0.0/16
# Nothing in the settings is executed (S8).
cat >>/etc/default/baize <<'SETTINGS'
TEST_SETTING="$(touch /tmp/executed) `touch /tmp/executed` a b;touch /tmp/executed"
SETTINGS
# As baize.service does it.
baize with-settings /etc/default/baize agent >/tmp/agent.log 2>&1 &
agent=$!
await "the agent runs with the settings of /etc/default/baize" baize status
await "the bridge is there" there
ip netns add box
baize endpoint add --network blue --netns /run/netns/box >/dev/null

install "$new" || no "it upgrades"
told "try-restart baize.service"
[ "$(baize version | sed -n 1p)" = "baize 0.0.2" ] || no "the upgrade is the new version: $(baize version)"
grep -q '^BAIZE_VTEP=192.0.2.1' /etc/default/baize || no "an upgrade keeps the settings"
kill -0 $agent || no "an upgrade leaves the agent to systemd"
there || no "an upgrade leaves the bridge"
said "it upgrades, and keeps the settings"

flows() { ovs-ofctl dump-flows br-baize | wc -l; }
before=$(flows)
kill $agent
wait $agent || true
remove || no "it is removed"
told "disable --now baize.service"
[ ! -e /usr/bin/baize ] || no "the program is gone"
if ! there || [ "$(flows)" != "$before" ]; then no "a removal leaves forwarding as it is"; fi
grep -q '^BAIZE_VTEP=192.0.2.1' "$kept" || no "a removal keeps the settings"
said "a removal leaves forwarding and settings"

left="/usr/lib/baize /usr/share/baize /usr/share/doc/baize"
case $kind in
deb)
	install "$new" >/dev/null || no "it is installed again"
	baize agent cleanup --help >/dev/null || no "it runs again"
	dpkg -P baize || no "it is purged"
	left="$left /var/lib/baize /run/baize $kept"
	;;
rpm)
	# What a removal says: there is no purge.
	/var/lib/baize/.last-baize with-settings /var/lib/baize/.last-default agent cleanup || no "the program that was kept cleans up"
	;;
esac
if there; then no "the bridge is removed"; fi
for f in $left; do
	[ ! -e "$f" ] || no "$f is left"
done
if ip -o link show type veth | grep -v underlay; then no "devices are left"; fi
[ ! -e /tmp/executed ] || no "a setting was executed"
said "nothing is left"
kill $etcd
