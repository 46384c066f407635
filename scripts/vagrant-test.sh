#!/bin/bash
# What: brings the Vagrant lab up (libvirt), checks it from inside, reboots a
#       machine and checks again, and destroys it.
# Why:  what runs in namespaces is to be shown to run on machines: their kernel's
#       datapath, systemd, Docker as it is installed, the package, a boot.
# Use:  scripts/vagrant-test.sh       (root; 'make vagrant-test')
#       BAIZE_BOX      the box (debian/bookworm64, or one made here where that
#                      cannot be downloaded)
#       BAIZE_DRIVER   kvm or qemu (what this machine can)
#       BAIZE_NODES    3 at least
#       BAIZE_KEEP=1   leaves the machines, and says how to reach them
#
# Where no libvirtd runs, one is started in a network and a mount namespace of
# its own, and ended again.
set -euo pipefail

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
cd "$here/.."
export PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin

begin=${BAIZE_BEGIN:-$(date +%s)}
export BAIZE_BEGIN=$begin
step() { printf '=== %s (%d s)\n' "$*" $(($(date +%s) - begin)); }
fail() {
	echo "vagrant-test: $*" >&2
	exit 1
}
[ "$(id -u)" -eq 0 ] || fail "libvirt's machines and networks need root: run 'sudo make vagrant-test'"
for tool in vagrant virsh qemu-img ssh; do
	command -v $tool >/dev/null || fail "$tool is missing: run 'scripts/install-deps.sh vagrant' as root"
done

nodes=${BAIZE_NODES:-3}
[ "$nodes" -ge 3 ] || fail "BAIZE_NODES=$nodes: a machine is rebooted, and etcd needs two others meanwhile: use 3 at least"
# Nobody's own lab, boxes or settings are touched.
if [ "${1-}" = --inside ]; then
	work=$2 # of the process that is outside, which removes it
else
	work=$(mktemp -d /var/tmp/baize-vagrant.XXXXXX)
	trap 'rm -rf "$work"' EXIT
fi
export VAGRANT_HOME=$work/home VAGRANT_DOTFILE_PATH=$work/dot VAGRANT_CHECKPOINT_DISABLE=1 VAGRANT_DEFAULT_PROVIDER=libvirt
export BAIZE_NODES=$nodes BAIZE_NET=${BAIZE_NET:-192.168.57} BAIZE_MACHINES=baize-test-$$-
if [ -z "${BAIZE_DRIVER-}" ]; then
	# That /dev/kvm exists says little: inside other virtual machines guests hang.
	BAIZE_DRIVER=qemu
	if [ -w /dev/kvm ] && grep -qE '\b(vmx|svm)\b' /proc/cpuinfo; then BAIZE_DRIVER=kvm; fi
fi
export BAIZE_DRIVER

# Before any namespace: there is no way out of it.
if [ -z "${BAIZE_BOX-}" ]; then
	BAIZE_BOX=debian/bookworm64
	step "fetching $BAIZE_BOX"
	if ! timeout 900 vagrant box add --no-tty "$BAIZE_BOX" --provider libvirt >"$work/box" 2>&1; then
		step "it cannot be downloaded: making a box of Debian's archive"
		file=$(scripts/vagrant/box.sh)
		BAIZE_BOX=baize-bookworm
		vagrant box add --no-tty --name $BAIZE_BOX "$file" >/dev/null
	fi
fi
export BAIZE_BOX
if [ "${1-}" != --inside ]; then
	scripts/vagrant/package.sh "$work/package"
	export BAIZE_PACKAGE=$work/package/baize.deb
fi

if [ "${1-}" != --inside ] && ! timeout 10 virsh -q -c qemu:///system version >/dev/null 2>&1; then
	step "no libvirtd answers: starting one in namespaces of its own"
	command -v libvirtd >/dev/null || fail "libvirtd is missing: run 'scripts/install-deps.sh vagrant' as root"
	netns=baize-vagrant-$$
	ip netns add $netns
	trap 'for pid in $(ip netns pids '$netns'); do kill "$pid" 2>/dev/null || :; done; ip netns del '$netns'; rm -rf "$work"' EXIT
	ip -n $netns link set lo up
	ip netns exec $netns unshare --mount "$0" --inside "$work"
	exit
fi

libvirtd=
if [ "${1-}" = --inside ]; then
	mkdir -p "$work"/{etc,run,lib,cache,log} /run/libvirt /var/lib/libvirt /var/cache/libvirt
	cp -r /etc/libvirt/. "$work/etc/"
	# As root, without the help of systemd, AppArmor and cgroups.
	printf '%s\n' 'user = "root"' 'group = "root"' 'security_driver = "none"' 'cgroup_controllers = [ ]' \
		'stdio_handler = "file"' 'namespaces = [ ]' >"$work/etc/qemu.conf"
	printf '%s\n' 'auth_unix_ro = "none"' 'auth_unix_rw = "none"' "log_outputs = \"3:file:$work/log/libvirtd\"" >"$work/etc/libvirtd.conf"
	mount --bind "$work/etc" /etc/libvirt
	mount --bind "$work/run" /run/libvirt
	mount --bind "$work/lib" /var/lib/libvirt
	mount --bind "$work/cache" /var/cache/libvirt
	echo 1 >/proc/sys/net/ipv4/ip_forward
	libvirtd --pid-file "$work/libvirtd.pid" >"$work/log/out" 2>&1 &
	libvirtd=$!
	for _ in $(seq 100); do
		virsh -q -c qemu:///system version >/dev/null 2>&1 && break
		kill -0 $libvirtd 2>/dev/null || break
		sleep 0.2
	done
	virsh -q -c qemu:///system version >/dev/null || fail "libvirtd does not start: $(tail -n 5 "$work/log/libvirtd" "$work/log/out")"
fi

destroy() {
	code=$?
	if [ -n "${BAIZE_KEEP-}" ] && [ -z "$libvirtd" ]; then
		echo "vagrant-test: the machines stay: VAGRANT_HOME=$VAGRANT_HOME VAGRANT_DOTFILE_PATH=$VAGRANT_DOTFILE_PATH BAIZE_NODES=$nodes vagrant ssh node1"
		exit $code
	fi
	step "destroying the machines"
	vagrant destroy -f --no-tty >"$work/destroy" 2>&1 || {
		cat "$work/destroy"
		code=1
	}
	if [ -z "$libvirtd" ]; then
		rm -rf "$work"
	else
		kill $libvirtd
		wait $libvirtd || :
	fi
	step "done, exit code $code"
	exit $code
}
trap destroy EXIT
trap 'exit 130' INT TERM

step "vagrant up: $nodes machines of $BAIZE_BOX, $BAIZE_DRIVER"
vagrant validate
vagrant up --no-tty 2>&1 | stdbuf -oL tr '\r' '\n' | grep --line-buffered -vE '^ *$|Removing (insecure|domain)|Warning: (Connection|Remote)'
[ "${PIPESTATUS[0]}" -eq 0 ] || fail "vagrant up failed"
step "up"
vagrant ssh-config --no-tty >"$work/ssh"
# on NODE COMMAND: as root.
on() {
	local node=$1
	shift
	ssh -n -F "$work/ssh" -o LogLevel=ERROR -o ServerAliveInterval=10 "$node" sudo "$@"
}
# each COMMAND: on all nodes at once; fails where one does.
each() {
	local pids=() n failed=0
	for n in $(seq "$nodes"); do
		on "node$n" "$@" &
		pids+=($!)
	done
	for pid in "${pids[@]}"; do wait "$pid" || failed=1; done
	return $failed
}
# check: every node reaches every container, the ones on docker0 included.
check() {
	local n addresses=()
	for n in $(seq "$nodes"); do
		addresses+=("$(on "node$n" docker inspect -f "'{{.NetworkSettings.IPAddress}}'" "plain-node$n")")
	done
	each sh /tmp/baize-vagrant/check.sh "$nodes" "${addresses[@]}" || fail "$1"
}

each sh -c "'baize version; ovs-vsctl --version | head -n 1; docker --version; uname -r'"
check "Docker, both ways"
step "Docker, both ways: every container reached from every node"

# Endpoints of networks with each transport, on every node.
transports=(vxlan gre auto)
octet=0
for t in "${transports[@]}"; do
	on node1 baize network create "t-$t" --subnet "10.$((10 + octet++)).0.0/16" --transport "$t" >/dev/null
done
each sh /tmp/baize-vagrant/endpoints.sh add "${transports[@]}" || fail "endpoints"
for t in "${transports[@]}"; do
	targets=()
	for n in $(seq "$nodes"); do
		targets+=("$(on "node$n" cat "/run/baize-test/$t")")
	done
	each sh /tmp/baize-vagrant/endpoints.sh reach "$t" "${targets[@]}" || fail "transport $t"
	step "transport $t: every endpoint reached from every node, in bulk by TCP"
done

step "rebooting node$nodes"
booted=$(on "node$nodes" cat /proc/sys/kernel/random/boot_id)
on "node$nodes" systemctl --no-block reboot || :
until now=$(timeout 20 ssh -n -F "$work/ssh" -o LogLevel=ERROR -o ConnectTimeout=10 "node$nodes" cat /proc/sys/kernel/random/boot_id 2>/dev/null) && [ "$now" != "$booted" ]; do
	sleep 1
	[ $(($(date +%s) - begin)) -lt 3000 ] || fail "node$nodes does not come back"
done
step "node$nodes is back"
# /tmp is empty after a boot where it is in memory.
for f in check endpoints; do
	ssh -F "$work/ssh" -o LogLevel=ERROR "node$nodes" "mkdir -p /tmp/baize-vagrant; cat >/tmp/baize-vagrant/$f.sh" <"scripts/vagrant/$f.sh"
done
check "after the reboot"
step "everything again, without a hand"

step "provisioning again"
vagrant provision --no-tty >"$work/provision" 2>&1 || {
	cat "$work/provision"
	fail "provisioning is not idempotent"
}
check "after provisioning again"
each baize status || fail "a node has problems"
