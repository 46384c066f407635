#!/bin/sh
# What: time from 'docker run' to the first answer from another container: over
#       Docker's own bridge network on one host, over Baize's plugin and over
#       docker0 in a Baize network, both across two hosts, in one run.
# Why:  an overlay that packets cross fast is slow all the same where a
#       container has to wait for it.
# Use:  scripts/bench-docker.sh, as root; builds bin/baize where it is missing.
#       ROUNDS=15 sets how many containers each.
set -eu

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
cd "$here/.."
baize=$PWD/bin/baize
if [ "$(id -u)" -ne 0 ]; then
	echo "bench-docker: left out, it needs root (network namespaces)"
	exit 0
fi
[ -x "$baize" ] || make build >&2
rounds=${ROUNDS:-15}
lab=bench-$$
work=$(mktemp -d)
cleanup() {
	"$baize" lab down --name "$lab" >/dev/null 2>&1 || true
	rm -rf "$work"
}
trap cleanup EXIT
trap 'exit 1' INT TERM

"$baize" lab up --name "$lab" --hosts 2 --docker-bridge >/dev/null
# The client that belongs to the engine; another may come first in PATH.
docker() {
	host=$1
	shift
	"$baize" lab exec --name "$lab" "$host" -- /usr/bin/docker "$@"
}
peer() { # HOST NETWORK: starts a container that answers, prints its address
	docker "$1" run -d --init --name "peer-$2" --network "$2" busybox sleep 100000 >/dev/null
	docker "$1" inspect -f '{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}' "peer-$2"
}
for h in host1 host2; do
	docker $h network create -d baize --ipam-driver baize --ipam-opt baize.network=bench -o baize.network=bench --subnet 10.7.0.0/16 bench >/dev/null
done
docker host1 network create own >/dev/null
own=$(peer host1 own)
bench=$(peer host2 bench)
bridge=$(peer host2 bridge)

# first NETWORK ADDRESS: microseconds until a new container on host1 has an answer.
first() {
	begin=$(date +%s%N)
	docker host1 run --rm --init --network "$1" busybox sh -c "until ping -c 1 -W 1 $2; do :; done >/dev/null; echo there" | {
		read -r there && [ "$there" = there ] && echo $((($(date +%s%N) - begin) / 1000))
		cat >/dev/null
	}
}

i=0
while [ $i -le "$rounds" ]; do
	# In turns, so that a busy moment hits all; the first warms up and counts not.
	for way in "own $own" "bench $bench" "bridge $bridge"; do
		to=${way#* } way=${way% *}
		us=$(first "$way" "$to")
		[ $i -eq 0 ] || echo "$us" >>"$work/$way"
	done
	i=$((i + 1))
done

median() { sort -n "$1" | awk '{ v[NR] = $1 } END { print v[int((NR + 1) / 2)] }'; }
base=$(median "$work/own")
echo "from 'docker run' to the first answer, median of $rounds, engine $(docker host1 version -f '{{.Server.Version}}'):"
row() { awk -v n="$1" -v v="$(median "$work/$2")" -v b="$base" 'BEGIN { printf "%-48s %6.0f ms  %5.2f of Docker'"'"'s bridge\n", n, v / 1000, v / b }'; }
row "Docker's own bridge network, one host" own
row 'docker0 in a Baize network, across hosts' bridge
row "Baize's plugin, across hosts" bench
