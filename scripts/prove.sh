#!/bin/sh
# What: sends traffic between the endpoints c1 of every two hosts of the lab
#       that is up, IPv4 and IPv6, small packets and packets of exactly the
#       interface's MTU; then shows the topology and what to try next.
# Why:  'make lab' ends with proof, not with a promise.
# Use:  scripts/prove.sh bin/baize HOSTS      (hosts host1 … hostHOSTS)
set -eu

baize=$1
hosts=$2

inside() { # inside HOST COMMAND... runs in its endpoint c1
	host=$1
	shift
	"$baize" lab exec "host$host/c1" -- "$@"
}

# address HOST FAMILY prints the address of c1; mtu HOST its interface's MTU.
address() {
	inside "$1" ip "-$2" -o addr show scope global | awk '{ sub("/.*", "", $4); print $4; exit }'
}

mtu() {
	inside "$1" ip -o -4 addr show scope global | awk '{ print $2; exit }' |
		{ read -r dev; inside "$1" cat "/sys/class/net/$dev/mtu"; }
}

# cross FROM TO FAMILY ADDRESS SIZE sends ten packets and wants ten answers.
# One exchange goes before: it may wait for ARP, or for a new address to be
# found unique.
cross() {
	inside "$1" ping "-$3" -n -q -c 1 -i 0.2 -w 10 "$4" >/dev/null 2>&1 &&
		inside "$1" ping "-$3" -n -q -c 10 -i 0.01 -W 2 -M "do" -s "$5" "$4" 2>&1 | grep -q ' 0% packet loss' && return
	printf '\n' >&2
	echo "prove: host$1/c1 does not reach $4 (host$2/c1) with packets of $5 bytes: look at '$baize lab status'" >&2
	exit 1
}

pairs=0
i=1
while [ "$i" -le "$hosts" ]; do
	v4=$(address "$i" 4)
	v6=$(address "$i" 6)
	if [ -z "$v4$v6" ]; then
		echo "prove: host$i/c1 has no address: look at '$baize lab status'" >&2
		exit 1
	fi
	size=$(mtu "$i")
	j=1
	while [ "$j" -le "$hosts" ]; do
		if [ "$i" -ne "$j" ]; then
			# 28 and 48 bytes are the IP and ICMP headers.
			[ -z "$v4" ] || { cross "$j" "$i" 4 "$v4" 56; cross "$j" "$i" 4 "$v4" $((size - 28)); }
			[ -z "$v6" ] || { cross "$j" "$i" 6 "$v6" 56; cross "$j" "$i" 6 "$v6" $((size - 48)); }
			pairs=$((pairs + 1))
			printf '\rproving: %d of %d pairs of endpoints reach each other' "$pairs" $((hosts * (hosts - 1)))
		fi
		j=$((j + 1))
	done
	i=$((i + 1))
done
printf '\n\n'

"$baize" lab exec host1 -- baize topology
cat <<TXT

The lab stays up. Try:

  $baize lab exec host1/c1 -- ping $(address "$hosts" 4)     from one host's container to another's
  $baize lab exec host1 -- ovs-vsctl show               the switch of a host
  $baize lab exec host1 -- baize status                 what its agent says

'make lab-down' removes it.
TXT
