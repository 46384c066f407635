#!/bin/sh
# What: makes a host of a lab one that a kubelet runs on.
# Use:  host.sh DIRECTORY CGROUP        (in the host; the lab's directory of the host)
set -eu
dir=$1 cgroup=$2

# Where Kubernetes, containerd and CNI's plugins write whatever they are told: private
# copies, with what the lab has mounted there on top.
hosts=$(cat /etc/hosts)
for p in /var/lib /var/log /etc /opt; do
	mkdir -p "$dir/overlay$p/upper" "$dir/overlay$p/work"
	mount -t overlay -o "lowerdir=$p,upperdir=$dir/overlay$p/upper,workdir=$dir/overlay$p/work" overlay "$p"
done
for d in openvswitch baize docker containerd; do
	mkdir -p "/var/lib/$d"
	mount --bind "$dir/lib-$d" "/var/lib/$d"
done
for d in openvswitch docker; do
	mount --bind "$dir/etc-$d" "/etc/$d"
done
echo "$hosts" >/etc/hosts
mkdir -p /etc/cni/net.d /opt/cni/bin
rm -f /etc/cni/net.d/*
for d in openvswitch baize-lab; do
	mkdir -p "/var/log/$d"
	mount --bind "$dir/log" "/var/log/$d"
done

# A control group of its own for the pods. With version 1 a cpuset is empty until told,
# and takes no process before.
for c in /sys/fs/cgroup/*/; do
	[ "$c" != /sys/fs/cgroup/unified/ ] || continue
	mkdir -p "$c$cgroup"
	[ ! -e "$c$cgroup/cpuset.cpus" ] || {
		cat "$c/cpuset.cpus" >"$c$cgroup/cpuset.cpus"
		cat "$c/cpuset.mems" >"$c$cgroup/cpuset.mems"
	}
done

# The kubelet demands values of these, which are the whole machine's: it sees files that
# say what it wants.
mkdir -p "$dir/sysctl"
while read -r name value; do
	echo "$value" >"$dir/sysctl/$(echo "$name" | tr / _)"
	mount --bind "$dir/sysctl/$(echo "$name" | tr / _)" "/proc/sys/$name"
done <<END
vm/overcommit_memory 1
vm/panic_on_oom 0
kernel/panic 10
kernel/panic_on_oops 1
kernel/keys/root_maxkeys 1000000
kernel/keys/root_maxbytes 25000000
END
mount --make-rshared /
