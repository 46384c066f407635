#!/bin/sh
# What: installs the tools that the lab (and the tests) need and that are not
#       here, with apt-get. Does nothing, and needs no root, where all are here.
# Why:  'make lab' is to work on a fresh Debian or Ubuntu machine that has
#       nothing but git, make and Go.
# Use:  scripts/install-deps.sh lab|docker|frr|test|kubernetes|vagrant|console
#       docker, frr: also what 'baize lab up' needs with --docker, with --segments;
#       test: what the tests need; kubernetes: also what 'make test-kubernetes' needs;
#       vagrant: also what 'make vagrant-test' needs;
#       console: what 'make test-console' needs, and nothing of the lab's
set -eu

# An ordinary user's PATH lacks the directories that ovs-vswitchd and others
# are in. SBIN is for the test of this script.
PATH=$PATH:${SBIN-/usr/local/sbin:/usr/sbin:/sbin}

case ${1:-lab} in
lab | docker | frr | test | kubernetes | vagrant | console) ;;
*)
	echo "install-deps: unknown set '$1': use lab, docker, frr, test, kubernetes, vagrant or console" >&2
	exit 2
	;;
esac

packages=
# need PACKAGE COMMAND... asks for the package where one of the commands is
# not found.
need() {
	package=$1
	shift
	for c in "$@"; do
		if ! command -v "$c" >/dev/null 2>&1; then
			packages="$packages $package"
			return
		fi
	done
}

if [ "${1:-lab}" = console ]; then
	need chromium chromium
	# Fonts that pictures of the page are taken with: no command tells.
	[ -e "${FONTS-/usr/share/fonts/opentype/inter}" ] || packages="$packages fonts-inter fonts-jetbrains-mono"
else
	need openvswitch-switch ovs-vswitchd ovsdb-server ovs-vsctl ovs-ofctl ovs-appctl
	need iproute2 ip ss
	need iputils-ping ping
	need ethtool ethtool
	need nftables nft
	need procps sysctl ps
	need util-linux nsenter unshare mount
	need kmod modprobe
	need tcpdump tcpdump
fi
# No command tells: Go needs certificates to fetch modules.
[ -e "${CA_CERTIFICATES-/etc/ssl/certs/ca-certificates.crt}" ] || packages="$packages ca-certificates"
case ${1:-lab} in
docker | test)
	need docker.io dockerd docker
	;;
esac
case ${1:-lab} in
docker | test | kubernetes)
	need containerd containerd
	need runc runc
	need iptables iptables
	# Docker starts no container where the kernel has AppArmor and the parser is missing.
	! grep -qs Y "${APPARMOR-/sys/module/apparmor/parameters/enabled}" || need apparmor apparmor_parser
	# The other package has a busybox of that name that is linked dynamically.
	[ -e "${BUSYBOX_STATIC-/usr/share/doc/busybox-static}" ] || packages="$packages busybox-static"
	;;
esac
case ${1:-lab} in
frr | test) need frr vtysh ;;
esac
case ${1:-lab} in
test | kubernetes)
	[ -e "${CNI_PLUGINS-/usr/lib/cni/bridge}" ] || packages="$packages containernetworking-plugins"
	;;
esac
if [ "${1:-lab}" = kubernetes ]; then
	# What pods of Kubernetes' own tests run.
	need curl curl
	need netcat-openbsd nc.openbsd
	need bind9-dnsutils dig
fi
if [ "${1:-lab}" = test ]; then
	need docker-compose docker-compose
	need podman podman
	need gcc gcc # the race detector needs cgo
	[ -e "${LIBC_HEADER-/usr/include/stdlib.h}" ] || packages="$packages libc6-dev"
	need shellcheck shellcheck
	need apt-utils apt-ftparchive
	need dpkg-dev dpkg-scanpackages
	need gnupg gpg
	need groff-base groff
	need zsh zsh # completion is tested by typing
	need fish fish
	need debootstrap debootstrap # the clean root that packages are tried in
	need qemu-system-x86 qemu-system-x86_64 # the machine of the kernel tests
	need xz-utils xz
	need systemd systemd-analyze
	need etcd-client etcdctl
	need etcd-server etcd
	need openssl openssl
	need prometheus promtool # its server is not started: see below
fi
case ${1:-lab} in
test | vagrant)
	need vagrant vagrant
	# A plugin: no command tells.
	[ -e "${VAGRANT_LIBVIRT-/usr/share/vagrant-plugins/plugins.d/vagrant-libvirt.json}" ] || packages="$packages vagrant-libvirt"
	;;
esac
if [ "${1:-lab}" = vagrant ]; then
	need libvirt-daemon-system libvirtd
	need libvirt-clients virsh
	need dnsmasq-base dnsmasq
	need qemu-system-x86 qemu-system-x86_64
	need qemu-utils qemu-img
	need debootstrap debootstrap
	need openssh-client ssh
fi

packages=${packages# }
[ -n "$packages" ] || exit 0

if ! command -v apt-get >/dev/null 2>&1; then
	echo "install-deps: no apt-get here: install with this system's own tool what Debian calls: $packages" >&2
	exit 1
fi
if [ "$(id -u)" -ne 0 ]; then
	echo "install-deps: root is needed to install $packages: run 'sudo make deps', or 'sudo apt-get install $packages'" >&2
	exit 1
fi

echo "install-deps: installing $packages"
# RUNLEVEL=1 keeps maintainer scripts from starting services where there is no
# init system to do it (containers, chroots): Baize starts its own.
export DEBIAN_FRONTEND=noninteractive RUNLEVEL=1
# Where there is one, this does (deb-systemd-invoke(1), invoke-rc.d(8)): the lab
# runs engines and routing daemons of its own, and those on the machine itself
# would change its firewall and its routes.
case " $packages " in
*" docker.io "* | *" containerd "* | *" frr "* | *" etcd-server "* | *" prometheus "*)
	policy=${POLICY_RC_D-/usr/sbin/policy-rc.d}
	if [ ! -e "$policy" ]; then
		trap 'rm -f "$policy"' EXIT
		trap 'exit 1' HUP INT TERM
		printf '#!/bin/sh\nexit 101\n' >"$policy"
		chmod 755 "$policy"
	fi
	;;
esac
# A stale or missing list of one archive is not yet a failure: install decides.
apt-get -q -o DPkg::Lock::Timeout=120 -o Acquire::Retries=3 update ||
	echo "install-deps: apt-get update failed, trying with the lists that are here" >&2
# shellcheck disable=SC2086 # a list of words
apt-get -q -o DPkg::Lock::Timeout=120 -o Acquire::Retries=3 -o Dpkg::Use-Pty=0 \
	install -y --no-install-recommends $packages
