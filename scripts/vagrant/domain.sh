#!/bin/sh
# What: creates the lab's network where it is missing, puts this host's Docker
#       into it both ways, starts a container of each kind.
# Why:  it has to wait for etcd's majority, which provisioning of the first
#       machine cannot: so it is a unit of its own, tried until it succeeds.
# Use:  baize-lab-domain       (baize-lab.service does)
set -eu

host=$(hostname)
network=blue
# Exit code 4: another node was first.
baize network create $network --subnet 10.1.0.0/16 --subnet fd00:10:1::/48 || [ $? -eq 4 ]

# Way 2, docker0 in the network: docs/docker.md.
if ! [ -e /etc/systemd/system/docker.service.d/baize.conf ]; then
	systemctl start docker
	baize docker configure --network $network --yes --restart
fi
systemctl start docker

if ! docker image inspect busybox >/dev/null 2>&1; then
	root=$(mktemp -d)
	mkdir -p "$root/bin" "$root/tmp" "$root/etc" "$root/usr"
	busybox --install -s "$root/bin" # links to /usr/bin/busybox, or /bin/busybox
	ln -s ../bin "$root/usr/bin"
	rm -f "$root/bin/busybox"
	cp "$(command -v busybox)" "$root/bin/busybox"
	tar -C "$root" -c . | docker import --change 'CMD ["sh"]' - busybox:latest
	rm -rf "$root"
fi
# serve NAME OPTION... starts a container once; it serves 4 MB and their sum.
serve() {
	name=$1
	shift
	docker container inspect "$name" >/dev/null 2>&1 ||
		docker run -d --init --restart always --name "$name" "$@" busybox sh -c '
			mkdir -p /www; cd /www; echo "hello from $0" >index.html
			head -c 4000000 /dev/urandom >bulk; md5sum <bulk >sum; exec httpd -f' "$name"
}
serve "plain-$host"

# Way 1, the plugin.
docker network inspect $network >/dev/null 2>&1 ||
	docker network create -d baize --ipam-driver baize -o baize.network=$network --ipam-opt baize.network=$network --subnet 10.1.0.0/16 $network
serve "web-$host" --network $network
