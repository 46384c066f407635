#!/bin/sh
# What: throughput and round trip between two endpoints over a bare wire, kernel
#       routes set by hand, and Baize's route and auto, each without and with the
#       fast path, and vxlan, in one run, as ratios to the wire and to the routes.
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
	rm -rf "${tmp:-}"
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

tmp=$(mktemp -d)

# once NAME ADDRESS COMMAND...: one exchange of bulk TCP and 200 pings, into files.
once() {
	name=$1 to=$2
	shift 2
	tries=0
	until "$@" baize probe send --to "$to" --bytes 1M >/dev/null 2>&1; do
		tries=$((tries + 1))
		[ $tries -lt 50 ] || { echo "bench-routes: $name does not work" >&2; exit 1; }
		sleep 0.2
	done
	"$@" baize probe send --to "$to" --bytes "$bytes" |
		sed -n 's/.*"bytes": *\([0-9]*\).*"seconds": *\([0-9.e-]*\).*/\1 \2/p' |
		awk '{ printf "%.0f\n", 8 * $1 / $2 }' >>"$tmp/$name.bps"
	"$@" ping -q -c 200 -i 0.005 "$to" | sed -n 's|^rtt [^=]*= [0-9.]*/\([0-9.]*\)/.*|\1|p' >>"$tmp/$name.rtt"
}

# fast HOST: whether the fast path of blue is used there.
fast() { in_lab "$1" -- baize status -o json | tr -d ' \n' | sed -n 's/.*"fastPath":\[{"network":"blue","used":\([a-z]*\).*/\1/p'; }

# taken HOST: its agent knows the transport $t, the paths are each a $want, and the
# fast path is used or not, as $use says.
taken() {
	in_lab "$1" -- baize status -o json | grep -q "\"transport\": *\"$t\"" &&
		in_lab "$1" -- baize route list -o json | grep -q "\"way\": *\"$want\"" &&
		[ "$(fast "$1")" = "$use" ]
}

# lab_way NAME TRANSPORT WAY FAST: one variant of the lab. A rule that has to see
# packets turns the fast path off.
lab_way() {
	name=$1 t=$2 want=$3 use=$4
	for h in host1 host2; do
		in_lab $h -- nft delete table inet bench >/dev/null 2>&1 || true
		[ "$use" != false ] || in_lab $h -- nft 'table inet bench { chain f { type filter hook forward priority 0; counter; }; }'
	done
	in_lab host1 -- baize network update blue --transport "$t" --mtu 1450 >/dev/null 2>&1 || true
	# The path is what the transport says, or the numbers would lie.
	tries=0
	until taken host1 && taken host2; do
		tries=$((tries + 1))
		[ $tries -lt 300 ] || { echo "bench-routes: $name: the path is not a $want" >&2; exit 1; }
		sleep 0.2
	done
	once "$name" "$peer" in_lab host1/c1 --
}

# pick FILE QUANTILE: a number of those in a file; 0.5 is the median, 0 the least, 1 the most.
pick() { sort -n "$1" | awk -v q="$2" '{ v[NR] = $1 } END { print v[1 + int((NR - 1) * q + 0.5)] }'; }

export PATH="$PWD/bin:$PATH"
i=0
while [ $i -lt "$rounds" ]; do
	i=$((i + 1))
	once wire 192.0.2.2 ip netns exec "$p-w"
	once by-hand 198.51.100.6 ip netns exec "$p-a"
	lab_way route-plain route route false
	lab_way route route route true
	lab_way auto-plain auto route false
	lab_way auto auto route true
	lab_way vxlan vxlan tunnel ''
done
echo "TCP both ways and mean round trip, medians of $rounds interleaved rounds (least to most);" \
	"datapath of Baize: $(in_lab host1 -- ovs-vsctl get bridge br-baize datapath_type)"
base=$(pick "$tmp/wire.bps" 0.5) hand=$(pick "$tmp/by-hand.bps" 0.5)
for name in wire by-hand route-plain route auto-plain auto vxlan; do
	echo "$name $(pick "$tmp/$name.bps" 0.5) $(pick "$tmp/$name.bps" 0) $(pick "$tmp/$name.bps" 1) $(pick "$tmp/$name.rtt" 0.5)"
done | awk -v w="$base" -v h="$hand" '{
	printf "%-12s %7.3f Gbit/s (%.3f to %.3f)  %5.2f of the wire  %5.2f of routes by hand  %7.0f us\n",
		$1, $2 / 1e9, $3 / 1e9, $4 / 1e9, $2 / w, $2 / h, $5 * 1000 }'
