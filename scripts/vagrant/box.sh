#!/bin/sh
# What: makes a box for vagrant-libvirt of Debian's archive: what debian/bookworm64
#       has, and what the lab installs there. Prints the box's path.
# Why:  where no box can be downloaded, and where machines have no way out, the
#       lab is to be tried all the same.
# Use:  scripts/vagrant/box.sh       (root; a few minutes, once)
#       BAIZE_BOX_CACHE  where boxes are kept (~/.cache/baize/vagrant)
#
# There is no boot loader in it: qemu starts the kernel, which the box brings
# along beside its disk.
set -eu

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
cd "$here/.."
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin
suite=bookworm
[ "$(id -u)" -eq 0 ] || {
	echo "box: a file system with owners is made: run it as root" >&2
	exit 1
}
for tool in debootstrap qemu-img mkfs.ext4 vagrant; do
	command -v $tool >/dev/null || {
		echo "box: $tool is missing: run 'scripts/install-deps.sh vagrant'" >&2
		exit 1
	}
done
key=$(find /usr/share/rubygems-integration /opt/vagrant /usr/lib/ruby -path '*/keys/vagrant.pub' 2>/dev/null | head -n 1)
[ -n "$key" ] || {
	echo "box: Vagrant's public key (keys/vagrant.pub) is not found: is Vagrant installed from a package?" >&2
	exit 1
}

cache=${BAIZE_BOX_CACHE:-${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/baize/vagrant}
box=$cache/$suite-$(cat install-deps.sh "$here/box.sh" | sha256sum | cut -c1-12).box
if [ -e "$box" ]; then
	echo "$box"
	exit 0
fi

mkdir -p "$cache"
work=$(mktemp -d "$cache/.new.XXXXXX")
root=$work/root
cleanup() {
	umount "$root/proc" 2>/dev/null || :
	rm -rf "$work"
}
trap cleanup EXIT
trap 'exit 1' HUP INT TERM

log() { "$@" >>"$work/log" 2>&1 || {
	tail -n 30 "$work/log" >&2
	echo "box: failed: $*" >&2
	exit 1
}; }

mirror=
if command -v apt-get >/dev/null; then
	# shellcheck disable=SC2016 # apt's own variable
	mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Component: main' | grep -v security | head -n 1)
fi
case $mirror in *debian*) ;; *) mirror=http://deb.debian.org/debian ;; esac
echo "box: Debian $suite from $mirror" >&2
log debootstrap --variant=minbase \
	--include=systemd-sysv,dbus,udev,openssh-server,sudo,ifupdown,isc-dhcp-client,iproute2,ca-certificates,apparmor,initramfs-tools,linux-image-cloud-amd64 \
	$suite "$root" "$mirror"
cp /etc/resolv.conf "$root/etc/resolv.conf"
if command -v apt-config >/dev/null; then
	apt-config dump | grep -i '::proxy' >"$root/etc/apt/apt.conf.d/90box" || :
fi
mount -t proc proc "$root/proc"
cp install-deps.sh "$root/tmp/"
log env -u TMPDIR chroot "$root" sh /tmp/install-deps.sh docker
for u in apt-daily.timer apt-daily-upgrade.timer e2scrub_all.timer fstrim.timer systemd-networkd-wait-online.service; do
	log chroot "$root" systemctl mask $u
done
log chroot "$root" systemctl disable docker.service containerd.service openvswitch-switch.service
log chroot "$root" useradd -m -s /bin/bash vagrant
log chroot "$root" ssh-keygen -A
umount "$root/proc"

echo 'vagrant ALL=(ALL) NOPASSWD:ALL' >"$root/etc/sudoers.d/vagrant"
mkdir -p "$root/home/vagrant/.ssh"
cp "$key" "$root/home/vagrant/.ssh/authorized_keys"
chmod 700 "$root/home/vagrant/.ssh"
chmod 600 "$root/home/vagrant/.ssh/authorized_keys"
log chroot "$root" chown -R vagrant:vagrant /home/vagrant
# As in Debian's boxes: Vagrant writes its interfaces between the marks.
cat >"$root/etc/network/interfaces" <<'INTERFACES'
auto lo
iface lo inet loopback
auto eth0
iface eth0 inet dhcp
#VAGRANT-BEGIN
#VAGRANT-END
INTERFACES
echo 'UseDNS no' >>"$root/etc/ssh/sshd_config"
echo baize-box >"$root/etc/hostname"
: >"$root/etc/resolv.conf"
rm -rf "$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/* "$root"/tmp/* "$root/etc/apt/apt.conf.d/90box"

mkdir "$work/out"
cp "$root"/boot/vmlinuz-* "$work/out/vmlinuz"
cp "$root"/boot/initrd.img-* "$work/out/initrd.img"
truncate -s 4G "$work/disk"
log mkfs.ext4 -q -F -d "$root" -L root "$work/disk"
log qemu-img convert -O qcow2 "$work/disk" "$work/out/box.img"
echo '{"provider": "libvirt", "format": "qcow2", "virtual_size": 4}' >"$work/out/metadata.json"
cat >"$work/out/Vagrantfile" <<'VAGRANTFILE'
Vagrant.configure("2") do |config|
  config.ssh.insert_key = false
  config.vm.provider :libvirt do |v|
    v.kernel = File.expand_path("../vmlinuz", __FILE__)
    v.initrd = File.expand_path("../initrd.img", __FILE__)
    v.cmd_line = "root=/dev/vda rw console=ttyS0 net.ifnames=0 quiet"
  end
end
VAGRANTFILE
tar -C "$work/out" -cf "$work/box" metadata.json Vagrantfile vmlinuz initrd.img box.img
rm -f "$cache/$suite"-*.box
mv "$work/box" "$box"
echo "$box"
