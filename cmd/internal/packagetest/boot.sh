#!/bin/sh
# What: starts systemd as process 1 of new namespaces, in this machine's own root, of which
#       nothing is changed: what is written is in memory.
# Why:  baize.service is tried with the systemd that reads it.
# Use:  boot.sh DIRECTORY SCRIPT, by unit_system_test.go; DIRECTORY is /try inside, has the
#       script and gets its log. The exit status is that of the script.
set -eu
shared=$1 script=$2
mount -t tmpfs memory /mnt
mkdir /mnt/upper /mnt/work /mnt/root
mount -t overlay overlay -o lowerdir=/,upperdir=/mnt/upper,workdir=/mnt/work /mnt/root
cd /mnt/root
mount -t proc proc proc
mount -t sysfs sysfs sys -o ro
mount -t tmpfs memory sys/fs/cgroup
mount -t cgroup2 none sys/fs/cgroup
for d in run tmp dev; do mount -t tmpfs memory $d -o mode=755; done
mkdir -p run/lock run/netns dev/pts dev/shm dev/net try
chmod 1777 tmp dev/shm
for d in null zero full random urandom tty net/tun; do
	touch dev/$d
	mount --bind /dev/$d dev/$d
done
ln -s /proc/self/fd dev/fd
mount --bind "$shared" try
# What would change the machine: its kernel's settings, modules, clocks.
for unit in systemd-sysctl systemd-modules-load systemd-udevd systemd-timesyncd modprobe@ systemd-remount-fs sys-kernel-debug.mount \
	sys-kernel-tracing.mount sys-fs-fuse-connections.mount dev-hugepages.mount; do
	case $unit in *.mount) ;; *) unit=$unit.service ;; esac
	ln -sf /dev/null etc/systemd/system/$unit
done
cat >etc/systemd/system/try.service <<UNIT
[Unit]
SuccessAction=exit-force
FailureAction=exit-force
FailureActionExitStatus=1
[Service]
Type=oneshot
ExecStart=/bin/sh /try/$script
StandardOutput=file:/try/log
StandardError=inherit
Environment=LC_ALL=C.UTF-8 HOME=/root DEBIAN_FRONTEND=noninteractive
TimeoutStartSec=1200
UNIT
pivot_root . mnt
umount -l /mnt
mount --make-rshared / # as a systemd that is no container's makes it
export container=baize-test
exec /lib/systemd/systemd --system --unit=try.service --log-target=null --show-status=false
