#!/bin/sh
# What: throughput and round trip between two endpoints over a bare wire, kernel
#       routes set by hand, and Baize's route, auto and vxlan, in one run, as
#       ratios to the bare wire.
# Why:  numbers of different runs or machines do not compare.
# Use:  scripts/bench-routes.sh, as root; builds bin/baize where it is missing.
#       ROUNDS=3 BYTES=64M set how much. One MTU, 1450, for all.
set -eu

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
cd "$here/.."
baize=$PWD/bin/baize
if [ "$(id -u)" -ne 0 ]; then
	echo "bench-routes: left out, it needs root (network namespaces)"
	exit 0
fi
[ -x "$baize" ] || make build >&2
rounds=${ROUNDS:-3}
bytes=${BYTES:-64M}
p=bzb$$
lab=bench-$$
servers=

cleanup() {
	for s in $servers; do kill "$s" 2>/dev/null || true; done
	for n in a b ra rb w x; do ip netns delete "$p-$n" 2>/dev/null || true; done
	"$baize" lab down --name "$lab" >/dev/null 2>&1 || true
}
trap cleanup EXIT INT TERM

wire() { # NS1 DEV1 NS2 DEV2
	ip link add "$2" mtu 1450 netns "$p-$1" type veth peer name "$4" mtu 1450 netns "$p-$3"
	ip -n "$p-$1" link set "$2" up
	ip -n "$p-$3" link set "$4" up
}
address() { ip -n "$p-$1" address add "$2" dev "$3"; }

for n in a b ra rb w x; do ip netns add "$p-$n"; done
# A bare wire: w - x.
wire w e0 x e0
address w 192.0.2.1/30 e0
address x 192.0.2.2/30 e0
# Routes set by hand: a - ra - rb - b.
wire a e0 ra in
wire ra out rb out
wire rb in b e0
address a 198.51.100.2/30 e0
address ra 198.51.100.1/30 in
address ra 192.0.2.1/30 out
address rb 192.0.2.2/30 out
address rb 198.51.100.5/30 in
address b 198.51.100.6/30 e0
ip -n "$p-a" route add default via 198.51.100.1
ip -n "$p-b" route add default via 198.51.100.5
ip -n "$p-ra" route add 198.51.100.4/30 via 192.0.2.2
ip -n "$p-rb" route add 198.51.100.0/30 via 192.0.2.1
for n in ra rb; do ip netns exec "$p-$n" sh -c 'echo 1 >/proc/sys/net/ipv4/ip_forward'; done

"$baize" lab up --name "$lab" --hosts 2 --transport vxlan >/dev/null
in_lab() { "$baize" lab exec --name "$lab" "$@"; }

serve() { "$@" "$baize" probe serve >/dev/null 2>&1 & servers="$servers $!"; }
serve ip netns exec "$p-x"
serve ip netns exec "$p-b"
in_lab host2/c1 -- baize probe serve >/dev/null 2>&1 &
servers="$servers $!"
peer=$(in_lab host2/c1 -- ip -4 -o address show dev eth0 | awk '{ sub("/.*", "", $4); print $4 }')

# run NAME ADDRESS COMMAND...: the best throughput of all rounds, the least median round trip.
run() {
	name=$1 to=$2
	shift 2
	tries=0
	until "$@" baize probe send --to "$to" --bytes 1M >/dev/null 2>&1; do
		tries=$((tries + 1))
		[ $tries -lt 50 ] || { echo "bench-routes: $name does not work" >&2; exit 1; }
		sleep 0.2
	done
	best=0 rtt=0 i=0
	while [ $i -lt "$rounds" ]; do
		i=$((i + 1))
		bps=$("$@" baize probe send --to "$to" --bytes "$bytes" |
			sed -n 's/.*"bytes": *\([0-9]*\).*"seconds": *\([0-9.e-]*\).*/\1 \2/p' | awk '{ printf "%.0f", 8 * $1 / $2 }')
		[ "${bps:-0}" -le "$best" ] || best=$bps
		ms=$("$@" ping -q -c 200 -i 0.005 "$to" | sed -n 's|^rtt [^=]*= [0-9.]*/\([0-9.]*\)/.*|\1|p')
		rtt=$(awk -v a="$rtt" -v b="$ms" 'BEGIN { print (a == 0 || b < a) ? b : a }')
	done
	bare=${bare:-$best}
	awk -v n="$name" -v b="$best" -v w="$bare" -v r="$rtt" 'BEGIN { printf "%-14s %8.2f Gbit/s  %5.2f of the bare wire  %7.0f us\n", n, b / 1e9, b / w, r * 1000 }'
}

# taken HOST: its agent knows the transport $t, and the paths are each a $want.
taken() {
	in_lab "$1" -- baize status -o json | grep -q "\"transport\": *\"$t\"" &&
		in_lab "$1" -- baize route list -o json | grep -q "\"way\": *\"$want\""
}

export PATH="$PWD/bin:$PATH"
echo "TCP both ways, best of $rounds; mean round trip, least of $rounds; datapath of Baize: $(in_lab host1 -- ovs-vsctl get bridge br-baize datapath_type)"
run 'bare wire' 192.0.2.2 ip netns exec "$p-w"
run 'routes by hand' 198.51.100.6 ip netns exec "$p-a"
for t in route auto vxlan; do
	in_lab host1 -- baize network update blue --transport "$t" --mtu 1450 >/dev/null 2>&1 || true
	# The path is what the transport says, or the numbers would lie.
	want=tunnel
	[ "$t" = vxlan ] || want=route
	tries=0
	until taken host1 && taken host2; do
		tries=$((tries + 1))
		[ $tries -lt 50 ] || { echo "bench-routes: $t: the path is not a $want" >&2; exit 1; }
		sleep 0.2
	done
	run "$t" "$peer" in_lab host1/c1 --
done
