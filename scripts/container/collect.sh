#!/bin/sh
# What: collects the file system of the agent's image: the program, the commands
#       that it runs with the libraries they need, and nothing else.
# Why:  one list, for the Dockerfile beside it and for scripts/image.sh.
# Use:  collect.sh BINARY PLUGIN DIRECTORY, on Debian with openvswitch-common and iptables
set -eu
LC_ALL=C
export LC_ALL
umask 022
binary=$1 plugin=$2 root=$3

# What is run with os/exec. Not modprobe: that Open vSwitch runs says that its
# module is loaded, and a container that may load others may do anything.
set -- /usr/bin/ovs-ofctl /usr/bin/ovs-appctl /usr/sbin/xtables-nft-multi /usr/sbin/xtables-legacy-multi
for f; do
	[ -x "$f" ] || {
		echo "collect: no $f: run 'apt-get install openvswitch-common iptables'" >&2
		exit 1
	}
done
# iptables loads these by name, to print the rules of others.
xtables=$(ldd /usr/sbin/xtables-nft-multi | awk '$1 ~ /^libxtables/ { sub("/[^/]*$", "", $3); print $3 }')/xtables
set -- "$@" "$xtables"/*.so
libraries=$(ldd "$@" | awk '
	/not found/ { print "collect: " $0 > "/dev/stderr"; exit 1 }
	$2 == "=>" { print $3; next }
	$1 ~ /^\/.*[^:]$/ { print $1 }' | sort -u)

mkdir -p "$root/tmp" "$root/var/lib/baize" "$root/usr/share/doc/baize"
chmod 1777 "$root/tmp"
for d in dev etc proc run sys usr/bin usr/lib usr/lib64 usr/sbin; do mkdir -p "$root/$d"; done
for d in bin lib lib64 sbin; do ln -s "usr/$d" "$root/$d"; done
ln -s ../run "$root/var/run"
install -m 0755 "$binary" "$root/usr/bin/baize"
install -D -m 0755 "$plugin" "$root/usr/lib/baize/baize-cni"
for f in "$@" $libraries; do
	to=$root$(realpath "$(dirname "$f")")
	mkdir -p "$to"
	cp -L --preserve=mode "$f" "$to/"
	# dpkg may know it by the path from before /lib became a link.
	printf '%s\n' "$f" "/usr$f" "${f#/usr}"
done >"$root/tmp/paths"
xargs dpkg-query -S <"$root/tmp/paths" 2>/dev/null | sed 's/: .*//' | sort -u | while read -r package; do
	# Their licences come along, and which versions they are.
	name=${package%%:*}
	install -D -m 0644 "/usr/share/doc/$name/copyright" "$root/usr/share/doc/$name/copyright"
	# shellcheck disable=SC2016 # dpkg-query's own
	dpkg-query -W -f '${Package} ${Version}\n' "$package"
done >"$root/usr/share/doc/baize/image-packages"
[ -s "$root/usr/share/doc/baize/image-packages" ] || {
	echo "collect: dpkg does not know what was copied" >&2
	exit 1
}
rm "$root/tmp/paths"
for family in iptables ip6tables; do
	for kind in nft legacy; do
		ln -s xtables-$kind-multi "$root/usr/sbin/$family-$kind"
		ln -s xtables-$kind-multi "$root/usr/sbin/$family-$kind-restore"
	done
	ln -s xtables-nft-multi "$root/usr/sbin/$family"
	ln -s xtables-nft-multi "$root/usr/sbin/$family-restore"
done
