#!/bin/sh
# What: after removal nothing of Baize runs; after a purge nothing of it is left
#       on this host. The node stays registered: 'baize node remove', elsewhere.
set -e
[ ! -d /run/systemd/system ] || systemctl daemon-reload
[ "$1" = purge ] || exit 0
if [ -x /var/lib/baize/.last-baize ]; then
	# The settings are the agent's: another bridge, another prefix. They are no shell
	# script: a password may have anything in it.
	/var/lib/baize/.last-baize with-settings /var/lib/baize/.last-default agent cleanup --yes || echo "baize: what is named above is left; Open vSwitch has to run for it to be removed" >&2
fi
rm -rf /var/lib/baize /run/baize
