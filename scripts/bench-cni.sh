#!/bin/sh
# What: time of ADD and DEL of baize-cni, for an endpoint of a network and for a container
#       that its host routes to, beside the reference plugin bridge with host-local, with
#       IPv4 alone and with both families, in one run.
# Why:  a pod waits for it.
# Use:  scripts/bench-cni.sh, as root; builds bin/baize where it is missing.
#       ROUNDS=30 sets how many of each, PLUGINS=/usr/lib/cni where the reference plugins are.
set -eu

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
cd "$here/.."
baize=$PWD/bin/baize
plugins=${PLUGINS:-/usr/lib/cni}
if [ "$(id -u)" -ne 0 ]; then
	echo "bench-cni: left out, it needs root (network namespaces)"
	exit 0
fi
if [ ! -x "$plugins/bridge" ]; then
	echo "bench-cni: left out, there is no $plugins/bridge (apt-get install containernetworking-plugins)"
	exit 0
fi
if [ ! -x "$baize" ] || [ ! -x "$baize-cni" ]; then make build >&2; fi
rounds=${ROUNDS:-30}
lab=bench-$$
work=$(mktemp -d)
cleanup() {
	"$baize" lab down --name "$lab" >/dev/null 2>&1 || true
	rm -rf "$work"
}
trap cleanup EXIT
trap 'exit 1' INT TERM

"$baize" lab up --name "$lab" --hosts 2 \
	--network four=10.1.0.0/16 --network both=10.2.0.0/16 --network both=fd00:2::/48 >/dev/null
four='FLANNEL_NETWORK=10.88.0.0/16 FLANNEL_SUBNET=10.88.1.1/24 FLANNEL_MTU=1450 FLANNEL_IPMASQ=false'
six='FLANNEL_IPV6_NETWORK=fd00:88::/48 FLANNEL_IPV6_SUBNET=fd00:88:0:1::1/64'
echo "$four" | tr ' ' '\n' >"$work/four.env"
echo "$four $six" | tr ' ' '\n' >"$work/both.env"
conf() { printf '{"cniVersion": "1.0.0", "name": "bench-%s", %s}\n' "$1" "$2" >"$work/$1.conf"; }
# bridge NAME RANGES
bridge() {
	conf "bridge-$1" "\"type\": \"bridge\", \"bridge\": \"bench-$1\", \"ipam\": {\"type\": \"host-local\", \"ranges\": [$2]}"
}
bridge four '[{"subnet": "10.89.0.0/16"}]'
bridge both '[{"subnet": "10.90.0.0/16"}], [{"subnet": "fd00:90::/64"}]'
for families in four both; do
	conf "endpoint-$families" "\"type\": \"baize-cni\", \"network\": \"$families\""
	conf "routed-$families" "\"type\": \"baize-cni\", \"subnetFile\": \"$work/$families.env\""
done

# One shell on the host does it all: what starts it is not measured. In turns, so that a busy
# moment hits all; the first round warms up and counts not.
cat >"$work/measure" <<'END'
set -eu
verb() { # VERB WAY CONTAINER: notes microseconds
	case $2 in
	bridge-*) plugin=$plugins/bridge ;;
	*) plugin=$baize-cni ;;
	esac
	begin=$(date +%s%N)
	CNI_COMMAND=$1 CNI_CONTAINERID=$3 CNI_NETNS=/run/netns/$3 CNI_IFNAME=eth0 CNI_PATH=$plugins \
		"$plugin" <"$work/$2.conf" >"$work/out" || {
		cat "$work/out" >&2
		exit 1
	}
	us=$((($(date +%s%N) - begin) / 1000))
	[ "$i" -eq 0 ] || echo $us >>"$work/$1.$2"
}
i=0
while [ $i -le "$rounds" ]; do
	for way in bridge-four endpoint-four routed-four bridge-both endpoint-both routed-both; do
		ip netns add "bench$i$way"
		ip -n "bench$i$way" link set dev lo up
		verb ADD $way "bench$i$way"
		verb DEL $way "bench$i$way"
		ip netns delete "bench$i$way"
	done
	i=$((i + 1))
done
END
"$baize" lab exec --name "$lab" host1 -- env work="$work" plugins="$plugins" baize="$baize" rounds="$rounds" \
	sh "$work/measure"

quarter() { sort -n "$1" | awk -v q="$2" '{ v[NR] = $1 } END { print v[int((NR - 1) * q / 4) + 1] }'; }
echo "median of $rounds, in brackets the middle half; beside the reference plugin bridge with host-local:"
row() { # VERB WAY NAME
	f=$work/$1.$2
	awk -v n="  $1, $3" -v m="$(quarter "$f" 2)" -v l="$(quarter "$f" 1)" -v h="$(quarter "$f" 3)" \
		-v b="$(quarter "$work/$1.bridge-${2#*-}" 2)" \
		'BEGIN { printf "%-36s %7.1f ms  %5.2f (%.2f to %.2f)\n", n, m / 1000, m / b, l / b, h / b }'
}
for families in four both; do
	[ $families = four ] && echo 'IPv4 alone' || echo 'both families'
	for verb in ADD DEL; do
		row $verb bridge-$families bridge
		row $verb endpoint-$families 'an endpoint of a network'
		row $verb routed-$families 'routed by its host'
	done
done
