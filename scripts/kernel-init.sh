#!/bin/sh
# What: process 1 of the machine that kernel-vm.sh starts: mounts what a system
#       has, loads the modules of Open vSwitch, runs the command, leaves its exit
#       code, powers off.
# Why:  the root directory is the outer machine's and read-only; whatever is
#       written needs a file system of its own.
# Use:  only by kernel-vm.sh, with its directories under /run/vm
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/run/vm LANG=C.UTF-8

up() {
	read -r up _ </proc/uptime
	echo "kernel-vm: $* at $up s"
}

mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t cgroup2 cgroup /sys/fs/cgroup
# What udev would make; ovs-ofctl reads flows from /dev/stdin.
ln -s /proc/self/fd /dev/fd
for n in 0:stdin 1:stdout 2:stderr; do ln -s "/proc/self/fd/${n%:*}" "/dev/${n#*:}"; done
mkdir -p /dev/shm /dev/pts /dev/net /run/lock /run/netns /run/vm/m/lib
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /dev/shm
for d in /tmp /var/tmp /var/log; do mount -t tmpfs -o mode=1777 tmpfs $d; done

# Modules by a program of our own, for modprobe's callers and the kernel alike:
# /lib/modules is that of the outer machine, or not there at all.
ln -s /run/vm/modules /run/vm/m/lib/modules
printf '#!/bin/sh\nexec modprobe -d /run/vm/m "$@"\n' >/run/vm/modprobe
chmod +x /run/vm/modprobe
echo /run/vm/modprobe >/proc/sys/kernel/modprobe
for m in tun overlay bridge veth vxlan openvswitch vport-vxlan vport-gre vport-geneve nf_tables nft_chain_nat; do
	/run/vm/modprobe -q $m || echo "kernel-vm: this kernel has no module $m"
done
[ -e /dev/net/tun ] || mknod /dev/net/tun c 10 200

ip link set lo up
hostname kernel-vm
up "Linux $(uname -r) runs"

set --
while IFS= read -r word; do set -- "$@" "$word"; done </run/vm/control/command
cd /run/vm/share || exit
timeout -k 5 "$(cat /run/vm/control/limit)" "$@"
code=$?
up "the command ended with $code"
echo $code >/run/vm/control/code
sync
echo o >/proc/sysrq-trigger
# No program: the disks may be gone before the machine is.
while :; do :; done
