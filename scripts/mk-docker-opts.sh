#!/bin/sh
# What: turns the subnet of this host (flannel's subnet.env, or Baize's) into
#       options of the Docker daemon, in an environment file for its unit.
# Why:  flannel's own script has this name, these options and this output, so
#       what was written for it goes on working. This one gives the same under
#       dash and bash, and fails closed: without a whole subnet.env there is an
#       error and no file, so Docker does not start with addresses of its own.
# Use:  mk-docker-opts.sh [-f FILE] [-d FILE] [-i] [-c] [-m] [-k NAME] [-w]
#       With BAIZE_L2=true in subnet.env (or -w) containers get the network's
#       mask, and addresses of this host's subnet: --bip and --fixed-cidr.
set -eu
LC_ALL=C
export LC_ALL

usage() {
	cat >&2 <<USAGE
usage: $0 [-f SUBNET-ENV] [-d DOCKER-ENV] [-i] [-c] [-m] [-k NAME] [-w]
  -f  the file to read (default /run/flannel/subnet.env)
  -d  the file to write (default /run/docker_opts.env)
  -i  each option in a variable of its own, such as DOCKER_OPT_MTU
  -c  all options in one variable; without -i and -c: both
  -k  name of that variable (default DOCKER_OPTS); what it holds already stays
      in front
  -m  leave --ip-masq out
  -w  the network's mask for containers, as with BAIZE_L2=true in SUBNET-ENV
USAGE
	exit 1
}

from=/run/flannel/subnet.env
to=/run/docker_opts.env
key=DOCKER_OPTS
each=false all=false masq=true wide=false
while getopts f:d:icmk:wh opt; do
	case $opt in
	f) from=$OPTARG ;;
	d) to=$OPTARG ;;
	i) each=true ;;
	c) all=true ;;
	m) masq=false ;;
	k) key=$OPTARG ;;
	w) wide=true ;;
	*) usage ;;
	esac
done
shift $((OPTIND - 1))
[ $# -eq 0 ] || usage
$each || $all || each=true all=true

new=
# fail MESSAGE: no old file may pass for the answer either.
fail() {
	echo "mk-docker-opts: $1" >&2
	if [ -n "$new" ]; then rm -f "$new"; fi
	if [ -f "$to" ] && [ ! -L "$to" ]; then rm -f "$to"; fi
	exit 1
}

# name TEXT: can it be a variable's name?
name() {
	case $1 in
	'' | [0-9]* | *[!A-Za-z0-9_]*) return 1 ;;
	esac
}
name "$key" || fail "-k $key is not the name of a variable"

# ipv4 TEXT: is it ADDRESS/LENGTH? Sets addr (a number) and len.
ipv4() {
	addr=0
	case $1 in
	*[!0-9./]* | *.*.*.*.* | */*/* | *..* | .* | *./*) return 1 ;;
	*.*.*.*/?*) ;;
	*) return 1 ;;
	esac
	len=${1#*/}
	case $len in
	*[!0-9]* | ???* | 0?*) return 1 ;;
	esac
	[ "$len" -le 32 ] || return 1
	rest=${1%/*}.
	while [ -n "$rest" ]; do
		part=${rest%%.*}
		rest=${rest#*.}
		case $part in
		'' | ????* | 0?*) return 1 ;;
		esac
		[ "$part" -le 255 ] || return 1
		addr=$((addr * 256 + part))
	done
}

# dotted NUMBER
dotted() {
	echo "$(($1 >> 24 & 255)).$(($1 >> 16 & 255)).$(($1 >> 8 & 255)).$(($1 & 255))"
}

# ipv6 TEXT: does it look like ADDRESS/LENGTH? Docker checks the rest.
ipv6() {
	case $1 in
	*[!0-9A-Fa-f:./]* | */*/* | *[!0-9:A-Fa-f./]*) return 1 ;;
	*:*:*/[0-9] | *:*:*/[1-9][0-9] | *:*:*/1[0-2][0-9]) return 0 ;;
	esac
	return 1
}

# What comes from the environment is not this host's subnet.
unset FLANNEL_SUBNET FLANNEL_NETWORK FLANNEL_MTU FLANNEL_IPMASQ FLANNEL_IPV6_SUBNET FLANNEL_IPV6_NETWORK BAIZE_L2
FLANNEL_SUBNET='' FLANNEL_NETWORK='' FLANNEL_MTU='' FLANNEL_IPMASQ='' FLANNEL_IPV6_SUBNET='' BAIZE_L2=''

# The file is read, not run: it holds plain values only.
[ -f "$from" ] || fail "$from is not there: is the agent (or flanneld) running, and has it a subnet?"
[ -r "$from" ] || fail "$from cannot be read"
whole=true
while IFS= read -r line || { [ -n "$line" ] && whole=false; }; do
	$whole || fail "$from: the last line has no end, the file is cut off"
	case $line in
	'' | '#'*) continue ;;
	esac
	line=${line#export }
	var=${line%%=*}
	value=${line#*=}
	if [ "$var" = "$line" ] || ! name "$var"; then fail "$from: '$line' is not NAME=value"; fi
	case $value in
	\"*\") value=${value#?} value=${value%?} ;;
	\'*\') value=${value#?} value=${value%?} ;;
	esac
	case $value in
	*[\"\'\`\$\\]*) fail "$from: $var is not a plain value" ;;
	esac
	case $var in
	FLANNEL_* | BAIZE_L2 | DOCKER_OPT_* | "$key")
		eval "$var=\$value"
		# shellcheck disable=SC2163 # the variable that var names
		case $var in DOCKER_OPT_*) export "$var" ;; esac
		;;
	esac
done <"$from"

for var in FLANNEL_MTU FLANNEL_IPMASQ; do
	eval "[ -n \"\$$var\" ]" || fail "$from: $var is missing, the file is not complete"
done
[ -n "$FLANNEL_SUBNET$FLANNEL_IPV6_SUBNET" ] || fail "$from: FLANNEL_SUBNET is missing, the file is not complete"
case $FLANNEL_MTU in
*[!0-9]* | ??????* | 0*) fail "$from: FLANNEL_MTU=$FLANNEL_MTU is not a size" ;;
esac
case $BAIZE_L2 in
true) wide=true ;;
false | '') ;;
*) fail "$from: BAIZE_L2=$BAIZE_L2 is neither true nor false" ;;
esac

if [ -n "$FLANNEL_SUBNET" ]; then
	ipv4 "$FLANNEL_SUBNET" || fail "$from: FLANNEL_SUBNET=$FLANNEL_SUBNET is not ADDRESS/LENGTH"
	# A /0 has no bits to keep.
	if [ "$len" -eq 0 ]; then mask=0; else mask=$((4294967295 << (32 - len) & 4294967295)); fi
	subnet=$(dotted $((addr & mask)))/$len
	DOCKER_OPT_BIP=--bip=$FLANNEL_SUBNET
	if $wide; then
		host=$addr sublen=$len
		ipv4 "$FLANNEL_NETWORK" || fail "$from: FLANNEL_NETWORK=$FLANNEL_NETWORK is not ADDRESS/LENGTH"
		[ "$len" -le "$sublen" ] || fail "$from: $FLANNEL_SUBNET is not a part of $FLANNEL_NETWORK"
		if [ "$len" -eq 0 ]; then mask=0; else mask=$((4294967295 << (32 - len) & 4294967295)); fi
		[ $((addr & mask)) -eq $((host & mask)) ] || fail "$from: $FLANNEL_SUBNET is not a part of $FLANNEL_NETWORK"
		DOCKER_OPT_BIP=--bip=${FLANNEL_SUBNET%/*}/$len
		DOCKER_OPT_FIXED_CIDR=--fixed-cidr=$subnet
		export DOCKER_OPT_FIXED_CIDR
	fi
	export DOCKER_OPT_BIP
	# Packets for what is routed to another host would never reach docker0.
	if command -v ip >/dev/null 2>&1; then
		route=$(ip -4 route show exact "$subnet" 2>/dev/null) || route=
		case $route in
		*' via '*) fail "the routing table has this host's subnet already: $route" ;;
		esac
	fi
fi

if [ -n "$FLANNEL_IPV6_SUBNET" ]; then
	ipv6 "$FLANNEL_IPV6_SUBNET" || fail "$from: FLANNEL_IPV6_SUBNET=$FLANNEL_IPV6_SUBNET is not ADDRESS/LENGTH"
	# The file has the subnet's first address; Docker wants the subnet.
	subnet=${FLANNEL_IPV6_SUBNET%/*}
	case $subnet in
	*::1) subnet=${subnet%1} ;;
	*:1) subnet=${subnet%1}0 ;;
	esac
	DOCKER_OPT_IPV6=--ipv6
	DOCKER_OPT_FIXED_CIDR_V6=--fixed-cidr-v6=$subnet/${FLANNEL_IPV6_SUBNET#*/}
	export DOCKER_OPT_IPV6 DOCKER_OPT_FIXED_CIDR_V6
fi

DOCKER_OPT_MTU=--mtu=$FLANNEL_MTU
export DOCKER_OPT_MTU

# Only one of the two is to masquerade.
case $FLANNEL_IPMASQ in
true) ipmasq=false ;;
false) ipmasq=true ;;
*) fail "$from: FLANNEL_IPMASQ=$FLANNEL_IPMASQ is neither true nor false" ;;
esac
if $masq; then
	DOCKER_OPT_IPMASQ=--ip-masq=$ipmasq
	export DOCKER_OPT_IPMASQ
fi

# As flannel's, it takes every variable of that name, in the order of names.
vars=$(env | sed -n 's/^\(DOCKER_OPT_[A-Za-z0-9_]*\)=.*/\1/p' | sort -u)
eval "opts=\${$key-}"
[ -z "$opts" ] || opts="$opts "

# print writes the file's lines.
print() {
	for var in $vars; do
		eval "value=\$$var"
		if $each; then printf '%s="%s"\n' "$var" "$value"; fi
		opts="$opts $value"
	done
	if $all; then printf '%s="%s"\n' "$key" "$opts"; fi
}

# A device, a pipe or a link (/dev/stdout) cannot be replaced in one step.
if [ -L "$to" ] || { [ -e "$to" ] && [ ! -f "$to" ]; }; then
	print >"$to"
	exit 0
fi
case $to in
*/*) dir=${to%/*}/ ;;
*) dir=./ ;;
esac
mkdir -p "$dir" || fail "cannot make $dir"
new=$(mktemp "$dir.docker-opts-XXXXXX") || { new='' && fail "cannot write in $dir"; }
{ print >"$new" && chmod 644 "$new" && mv -f "$new" "$to"; } || fail "cannot write $to"
