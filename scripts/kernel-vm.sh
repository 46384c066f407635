#!/bin/sh
# What: runs a command as root in a virtual machine with a stock Debian kernel
#       whose root directory is this machine's, read-only; prints what it
#       prints and exits with its code (124: the time limit, or no code came).
# Why:  most users forward with the kernel's Open vSwitch datapath, and the
#       machine that tests may have no openvswitch.ko, be a container, or belong
#       to somebody else. The binaries inside are the ones installed here.
# Use:  scripts/kernel-vm.sh DIRECTORY COMMAND [ARGUMENT...]
#       scripts/kernel-vm.sh --fetch        (only fill the cache)
#       DIRECTORY is shared, writable, and the command's current one.
#       BAIZE_KERNEL_CACHE  where kernels are unpacked (~/.cache/baize/kernel)
#       BAIZE_KERNEL_TREE   an unpacked kernel package to use instead
#       BAIZE_VM_MEMORY, BAIZE_VM_CPUS, BAIZE_VM_LIMIT (seconds)
#
# The kernel package (70 MB) is downloaded and unpacked once; without a network
# the one in the cache is used. KVM is used where a machine really starts with it:
# that /dev/kvm exists says little, inside other virtual machines guests then hang.
set -eu

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin
cache=${BAIZE_KERNEL_CACHE:-${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/baize/kernel}
limit=${BAIZE_VM_LIMIT:-300}

fail() {
	echo "kernel-vm: $1" >&2
	exit 1
}

usage() {
	echo "use: kernel-vm.sh DIRECTORY COMMAND [ARGUMENT...], or kernel-vm.sh --fetch" >&2
	exit 2
}

case ${1-} in
--fetch) [ $# -eq 1 ] || usage ;;
'' | -*) usage ;;
*) [ $# -ge 2 ] || usage ;;
esac

for tool in qemu-system-x86_64 busybox modprobe depmod dpkg gzip xz timeout; do
	command -v $tool >/dev/null 2>&1 || fail "$tool is missing: run 'scripts/install-deps.sh test' as root, or install it"
done
[ "$(uname -m)" = x86_64 ] || fail "this machine is $(uname -m): the kernel tests need x86_64"

# latest prints the package that the kernel's metapackage stands for today.
latest() {
	command -v apt-cache >/dev/null 2>&1 || return 0
	apt-cache depends linux-image-amd64 2>/dev/null | sed -n 's/^ *Depends: \(linux-image-[0-9][^ ]*\)$/\1/p' | head -n 1
}

# unpack downloads a package and unpacks what of it a machine without hardware
# needs. The directory appears whole or not at all.
unpack() {
	new=$cache/.new.$$
	rm -rf "$new"
	mkdir -p "$new/deb"
	echo "kernel-vm: downloading $1" >&2
	if ! (cd "$new/deb" && apt-get -q -o APT::Sandbox::User=root -o Acquire::Retries=3 download "$1" >&2) ||
		! dpkg -x "$new"/deb/*.deb "$new"; then
		rm -rf "$new"
		return 1
	fi
	rm -rf "$new/deb"
	[ -d "$new/lib/modules" ] || ln -s usr/lib "$new/lib"
	for d in drivers/gpu drivers/media drivers/staging drivers/scsi drivers/iio drivers/usb drivers/infiniband \
		drivers/net/wireless drivers/net/ethernet sound; do
		rm -rf "$new"/lib/modules/*/kernel/$d
	done
	depmod -b "$new" "$(ls "$new/lib/modules")"
	rm -rf "${cache:?}/$1"
	mv "$new" "$cache/$1"
	# One kernel is enough, and some are old.
	for old in "$cache"/linux-image-*; do
		[ "$old" = "$cache/$1" ] || rm -rf "$old"
	done
}

tree=${BAIZE_KERNEL_TREE-}
if [ -z "$tree" ]; then
	mkdir -p "$cache"
	package=$(latest)
	if [ -z "$package" ] || { ! [ -d "$cache/$package" ] && ! unpack "$package"; }; then
		package=$(for d in "$cache"/linux-image-*; do [ ! -d "$d" ] || basename "$d"; done | tail -n 1)
		[ -n "$package" ] || fail "no kernel in $cache, and apt has none for us (package linux-image-amd64): run 'apt-get update' with a network once, or name an unpacked package with BAIZE_KERNEL_TREE"
		echo "kernel-vm: no newer kernel can be had: using $package from $cache" >&2
	fi
	tree=$cache/$package
fi
version=$(ls "$tree/lib/modules" 2>/dev/null) || version=none
[ -e "$tree/boot/vmlinuz-$version" ] || fail "$tree is no unpacked kernel package"
[ "$1" != --fetch ] || exit 0

share=$(CDPATH='' cd -- "$1" && pwd)
shift
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM

# The first file system: as little as it takes to mount the machine's by 9p.
mkdir -p "$work/root/bin" "$work/root/modules" "$work/root/proc" "$work/root/new"
cp "$(command -v busybox)" "$work/root/bin/busybox"
n=10
for module in virtio_pci 9pnet_virtio 9p; do
	modprobe -d "$tree" -S "$version" --show-depends $module 2>/dev/null >"$work/depends" || fail "$tree has no module $module: its kernel cannot use the machine's files (the 'cloud' kernels cannot)"
	while read -r how file _; do
		[ "$how" = insmod ] || continue
		name=$(basename "$file")
		! ls "$work/root/modules"/*-"${name%%.*}".ko >/dev/null 2>&1 || continue
		to=$work/root/modules/$n-${name%%.*}.ko
		case $file in
		*.xz) xz -dc "$file" >"$to" ;;
		*.zst) zstd -qdc "$file" >"$to" ;;
		*.gz) gzip -dc "$file" >"$to" ;;
		*) cp "$file" "$to" ;;
		esac
		n=$((n + 1))
	done <"$work/depends"
done
cat >"$work/root/init" <<'INIT'
#!/bin/busybox sh
b=/bin/busybox
$b mount -t proc proc /proc
case " $($b cat /proc/cmdline) " in *' kernel-vm-probe '*)
	echo 'kernel-vm: probe'
	$b poweroff -f
	;;
esac
for m in /modules/*.ko; do $b insmod "$m" || echo "kernel-vm: insmod $m failed"; done
o=trans=virtio,version=9p2000.L,msize=262144
$b mount -t 9p -o ro,cache=loose,$o root /new || { echo 'kernel-vm: no root'; $b poweroff -f; }
$b mount -t devtmpfs dev /new/dev
$b mount -t tmpfs -o mode=755 run /new/run
$b mkdir -p /new/run/vm/modules /new/run/vm/share /new/run/vm/control
$b mount -t 9p -o ro,cache=loose,$o modules /new/run/vm/modules
$b mount -t 9p -o rw,$o share /new/run/vm/share
$b mount -t 9p -o rw,$o control /new/run/vm/control
$b umount /proc
exec $b switch_root /new /bin/sh /run/vm/control/init
INIT
chmod +x "$work/root/init"
(cd "$work/root" && find . | busybox cpio -o -H newc 2>/dev/null | gzip -1 >"$work/initrd") || fail "busybox cannot make a cpio archive: install busybox-static"

# What pid 1 reads.
mkdir "$work/control"
cp "$here/kernel-init.sh" "$work/control/init"
for word in "$@"; do printf '%s\n' "$word"; done >"$work/control/command"
[ $# -eq "$(wc -l <"$work/control/command")" ] || fail "the command has a line break in it"
echo "$limit" >"$work/control/limit"

# machine starts qemu with an accelerator and what else is given.
machine() {
	accel=$1 cpu=max
	shift
	[ "$accel" != kvm ] || cpu=host
	exec qemu-system-x86_64 -name baize-kernel-test -M q35 -accel "$accel" -cpu "$cpu" \
		-smp "${BAIZE_VM_CPUS:-2}" -m "${BAIZE_VM_MEMORY:-3G}" -display none -vga none -serial stdio -monitor none -no-reboot -nic none \
		-kernel "$tree/boot/vmlinuz-$version" -initrd "$work/initrd" "$@" </dev/null
}
# await waits until the machine is off, and makes it so after SECONDS.
await() {
	left=$1
	while kill -0 "$qemu" 2>/dev/null && [ "$left" -gt 0 ]; do
		sleep 1
		left=$((left - 1))
	done
	kill -KILL "$qemu" 2>/dev/null || :
	wait "$qemu" 2>/dev/null || :
}

arguments='console=ttyS0 panic=-1 quiet loglevel=3 mitigations=off'

accel='tcg,thread=multi,tb-size=1024'
if [ -w /dev/kvm ]; then
	# Some seconds where KVM is broken; where it works, the machine is off after one.
	(machine kvm -append "$arguments kernel-vm-probe") >"$work/probe" 2>&1 &
	qemu=$!
	trap 'kill $qemu 2>/dev/null || :; rm -rf "$work"' EXIT
	await 10
	if grep -q 'kernel-vm: probe' "$work/probe"; then
		accel=kvm
	else
		echo "kernel-vm: /dev/kvm is here but starts no machine: emulating" >&2
	fi
fi
begin=$(date +%s)
: >"$work/console" # on a busy machine tail would be here first, and find nothing
# In the background: the shell heeds a signal only between commands.
(machine "$accel" \
	-virtfs local,path=/,mount_tag=root,security_model=none,readonly=on,multidevs=remap \
	-virtfs "local,path=$tree/lib/modules,mount_tag=modules,security_model=none,readonly=on" \
	-virtfs "local,path=$share,mount_tag=share,security_model=none" \
	-virtfs "local,path=$work/control,mount_tag=control,security_model=none" \
	-append "$arguments") >"$work/console" 2>&1 &
qemu=$!
trap 'kill $qemu $follow 2>/dev/null || :; rm -rf "$work"' EXIT
tail -n +1 -f --pid=$qemu "$work/console" | tr -d '\r' &
follow=$!
await $((limit + 60))
wait $follow || :
[ -s "$work/control/code" ] || {
	echo "kernel-vm: the machine ended without an exit code after $(($(date +%s) - begin)) s ($accel)" >&2
	exit 124
}
code=$(cat "$work/control/code")
echo "kernel-vm: exit code $code after $(($(date +%s) - begin)) s (Linux $version, $accel)" >&2
exit "$code"
