#!/bin/sh
# What: before removal: the agent stops, and forwarding continues. The executable
#       and the settings are kept: a purge, or the command printed below, removes
#       bridge, tunnels and routes with them.
set -e
# An upgrade: "upgrade" (dpkg), 1 (rpm).
case $1 in upgrade | 1) exit 0 ;; esac
if [ -d /run/systemd/system ]; then
	systemctl disable --now baize.service >/dev/null 2>&1 || true
fi
mkdir -p /var/lib/baize
cp -f /usr/bin/baize /var/lib/baize/.last-baize
# A purge removes the settings before it asks for what they are.
if [ -e /etc/default/baize ]; then cp -pf /etc/default/baize /var/lib/baize/.last-default; else : >/var/lib/baize/.last-default; fi
purge=
[ "$1" = 0 ] || purge=", or a purge of the package,"
cat <<END
baize: this host's bridge, tunnels and routes stay as they are, and traffic goes on. This$purge removes them:
baize:   /var/lib/baize/.last-baize with-settings /var/lib/baize/.last-default agent cleanup && rm -r /var/lib/baize
END
