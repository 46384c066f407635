#!/bin/sh
# What: a machine that gets Baize from an apt repository, inside a clean root, in
#       namespaces of its own.
# Use:  inside-repository.sh, by repository_system_test.go, which puts the
#       repositories into /srv and the document's commands into /tmp/commands
set -eu
export DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8 HOME=/root
said() { echo "ok: $*"; }
no() { echo "NOT OK: $*"; exit 1; }
version() { dpkg-query -W -f '${Version}' baize; }

mkdir -p /run/systemd/system
printf '#!/bin/sh\n' >/usr/bin/systemctl
# What the document's machine has, and this root does not.
printf '#!/bin/sh\nexec "$@"\n' >/usr/bin/sudo
printf '#!/bin/sh\nexec /tmp/busybox wget "$@"\n' >/usr/bin/wget
chmod 755 /usr/bin/systemctl /usr/bin/sudo /usr/bin/wget
rm -rf /etc/apt/sources.list /etc/apt/sources.list.d/*
printf 'APT::Get::Assume-Yes "true";\n' >/etc/apt/apt.conf.d/yes
ip link set lo up
serve() { ln -sfn "$1" /srv/now; }
serve first
/tmp/busybox httpd -p 127.0.0.1:8080 -h /srv

sh -ex /tmp/commands || no "the document's commands"
[ "$(version)" = 0.0.1 ] || no "it installs: $(version)"
[ "$(baize version | sed -n 1p)" = "baize 0.0.1" ] || no "it runs: $(baize version)"
said "it is installed with three commands"

serve second
apt-get update
apt-get upgrade
[ "$(version)" = 0.0.2 ] || no "it upgrades: $(version)"
apt-get install --allow-downgrades baize=0.0.1
[ "$(version)" = 0.0.1 ] || no "it goes back: $(version)"
said "it upgrades with the system, and goes back"

refuses() { # WHAT: apt forgets what it has, and takes nothing
	rm -rf /var/lib/apt/lists/*
	if apt-get -o APT::Update::Error-Mode=any update; then no "$1 is refused"; fi
}
serve forged
refuses "a changed list"
serve second
sed -i '/^ [A-Za-z0-9+/]/d' /etc/apt/sources.list.d/baize.sources
refuses "a repository without its key"
said "what was changed after it was signed is refused"

if rpm -K /tmp/baize.rpm; then no "an .rpm whose key is not known is refused"; fi
rpm --import /tmp/baize.asc
rpm -K /tmp/baize.rpm || no "the .rpm is signed"
said "the .rpm is signed"
