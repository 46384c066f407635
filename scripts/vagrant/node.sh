#!/bin/sh
# What: makes a machine a node of the Vagrant lab: Baize from its package, etcd
#       on the first three, and a unit that puts Docker into the network.
# Why:  all of it may run again, after every change, and after a reboot nothing
#       of it has to.
# Use:  node.sh NUMBER COUNT NET       (the Vagrantfile does, as root)
#       node 1 of 3 in 192.168.56 is node1, 192.168.56.11
set -eu

i=$1 count=$2 net=$3
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
export DEBIAN_FRONTEND=noninteractive
address() { echo "$net.$((10 + $1))"; }
# setting FILE NAME VALUE makes a line of it, in place of the one that is there.
setting() {
	sed -i "/^$2=/d" "$1"
	echo "$2=$3" >>"$1"
}

sed -i '/ # baize$/d' /etc/hosts
cluster='' endpoints=''
members=$((count < 3 ? count : 3))
for n in $(seq "$count"); do
	echo "$(address "$n") node$n # baize" >>/etc/hosts
	[ "$n" -le $members ] || continue
	cluster=$cluster${cluster:+,}node$n=http://$(address "$n"):2380
	endpoints=$endpoints${endpoints:+,}http://$(address "$n"):2379
done

apt-get -q -o DPkg::Lock::Timeout=120 -o Dpkg::Use-Pty=0 install -y --no-install-recommends --reinstall --allow-downgrades \
	/tmp/baize-package/baize.deb
setting /etc/default/baize BAIZE_ETCD_ENDPOINTS "$endpoints"
setting /etc/default/baize BAIZE_VTEP "$(address "$i")"
# 'sudo baize …' finds etcd as the agent does.
echo "BAIZE_ETCD_ENDPOINTS=$endpoints" >/etc/default/baize-lab
printf 'Defaults env_keep += BAIZE_ETCD_ENDPOINTS\n' >/etc/sudoers.d/baize
setting /etc/environment BAIZE_ETCD_ENDPOINTS "$endpoints"

if [ "$i" -le $members ]; then
	cat >/etc/systemd/system/etcd.service <<-UNIT
		[Unit]
		Description=etcd of Baize's lab
		Wants=network-online.target
		After=network-online.target
		[Service]
		ExecStart=/usr/bin/baize etcd --name node$i --data-dir /var/lib/baize-etcd --listen-client-urls http://$(address "$i"):2379 --listen-peer-urls http://$(address "$i"):2380 --initial-cluster $cluster
		Restart=always
		RestartSec=2
		[Install]
		WantedBy=multi-user.target
	UNIT
fi

# Names across hosts: docs/names.md.
mkdir -p /etc/docker
nameservers=$(awk '$1 == "nameserver" && $2 !~ /^127\./ && $2 !~ /:/ { printf ", \"%s\"", $2 }' /etc/resolv.conf)
echo "{ \"dns\": [\"127.0.0.12\"$nameservers], \"live-restore\": true }" >/etc/docker/daemon.json.new
if ! cmp -s /etc/docker/daemon.json.new /etc/docker/daemon.json; then
	mv /etc/docker/daemon.json.new /etc/docker/daemon.json
	systemctl try-restart docker
fi
rm -f /etc/docker/daemon.json.new

install -m 755 "$here/domain.sh" /usr/local/sbin/baize-lab-domain
cat >/etc/systemd/system/baize-lab.service <<-'UNIT'
	[Unit]
	Description=Network and containers of Baize's lab
	After=baize.service docker.service
	StartLimitIntervalSec=0
	[Service]
	Type=oneshot
	RemainAfterExit=yes
	EnvironmentFile=/etc/default/baize-lab
	ExecStart=/usr/local/sbin/baize-lab-domain
	Restart=on-failure
	RestartSec=3
	[Install]
	WantedBy=multi-user.target
UNIT

systemctl daemon-reload
systemctl -q enable openvswitch-switch docker baize baize-lab
systemctl start openvswitch-switch
if [ "$i" -le $members ]; then
	systemctl -q enable etcd
	systemctl restart --no-block etcd
fi
# Not waited for: the first machine alone is no majority of etcd.
systemctl restart --no-block baize
systemctl restart --no-block baize-lab
[ "$i" -eq "$count" ] || exit 0

echo "baize: waiting until all $count nodes are in"
exec sh "$here/check.sh" "$count"
