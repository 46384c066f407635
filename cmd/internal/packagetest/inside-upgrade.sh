#!/bin/sh
# What: the package is upgraded, and goes back, for as long as Docker's engine starts
#       containers in a network of Baize, all of it under a real systemd.
# Use:  inside-upgrade.sh, by boot.sh
set -eu
said() { echo "ok: $*"; }
no() {
	echo "NOT OK: $*"
	systemctl --no-pager status baize docker containerd || true
	journalctl --no-pager -n 50 || true
	exit 1
}

ip link set lo up
ip link add underlay type veth peer name underlay-peer
ip link set underlay-peer up
ip address add 192.0.2.1/24 dev underlay
ip link set underlay up
ip route add default via 192.0.2.2 # engines want one
if ! modprobe -q openvswitch; then
	# Debian's unit insists on the module; the userspace datapath needs none.
	mkdir -p /etc/systemd/system/ovs-vswitchd.service.d
	printf '[Service]\nExecStart=\nExecStart=/usr/sbin/ovs-vswitchd --pidfile --detach --log-file\nExecStop=\n' \
		>/etc/systemd/system/ovs-vswitchd.service.d/userspace.conf
fi
# The root is an overlay, on which there is no other; there are no controllers.
mkdir -p /etc/docker /run/engine
cat >/etc/docker/daemon.json <<'E'
{"storage-driver": "vfs", "data-root": "/run/engine", "exec-opts": ["native.cgroupdriver=cgroupfs"], "ipv6": false}
E
systemctl daemon-reload

dpkg -i --force-confold /try/old.deb || no "it installs"
sed -i 's|^#BAIZE_VTEP=.*|BAIZE_VTEP=192.0.2.1|' /etc/default/baize
systemd-run --quiet --unit=try-etcd baize etcd --data-dir /tmp/etcd
i=0
until baize network create shop --subnet 10.7.0.0/16 >/tmp/await 2>&1; do
	i=$((i + 1))
	[ $i -lt 300 ] || { cat /tmp/await; no "etcd runs"; }
	sleep 0.1
done
systemctl start baize || no "the agent starts"
systemctl start docker || no "the engine starts"

mkdir -p /tmp/image/bin
cp /bin/busybox /tmp/image/bin
for applet in sh true sleep; do ln -s busybox /tmp/image/bin/$applet; done
tar -C /tmp/image -c . | docker import - busybox >/dev/null || no "an image"
docker network create -d baize --ipam-driver baize -o baize.network=shop --ipam-opt baize.network=shop \
	--subnet 10.7.0.0/16 shop >/dev/null || no "a network"
docker run --rm --network shop busybox true || no "a container"
for name in one two three; do
	docker run -d --name $name --restart always --network shop busybox sh -c 'sleep 3; exit 1' >/dev/null || no "a container"
done
said "containers start"

runs=$(cat /try/runs)
(
	failed=0
	for i in $(seq "$runs"); do
		docker run --rm --network shop busybox true >>/tmp/failed 2>&1 || failed=$((failed + 1))
	done
	echo $failed >/tmp/done
) &
upgrades=0
while [ ! -e /tmp/done ]; do
	for version in new old; do
		dpkg -i --force-confold /try/$version.deb >/tmp/dpkg 2>&1 || { cat /tmp/dpkg; no "upgrade $upgrades"; }
		upgrades=$((upgrades + 1))
	done
done
echo "$(cat /tmp/done) of $runs containers failed, $upgrades times another version was installed"
[ "$(cat /tmp/done)" = 0 ] || { cat /tmp/failed; no "no container failed"; }
[ $upgrades -ge 4 ] || no "the package was upgraded meanwhile"
sleep 5 # the engine waits for longer before each restart
for name in one two three; do
	case $(docker inspect -f '{{.State.Status}}' $name) in
	running | restarting) ;;
	*) no "container $name is restarted always: $(docker inspect -f '{{json .State}}' $name)" ;;
	esac
done
baize status || no "the agent has no problem"
said "no container failed"
