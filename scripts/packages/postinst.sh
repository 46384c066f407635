#!/bin/sh
# What: after installation and upgrade: systemd reads the unit, and a running agent
#       is restarted, which interrupts no traffic. A new one is not started: the
#       operator first has to say where etcd is.
set -e
rm -f /var/lib/baize/.last-baize /var/lib/baize/.last-default
[ -d /run/systemd/system ] || exit 0
systemctl daemon-reload
if [ "$1" = configure ] && [ -z "$2" ] || [ "$1" = 1 ]; then
	systemctl enable baize.service >/dev/null 2>&1 || true
	echo "baize: set BAIZE_ETCD_ENDPOINTS in /etc/default/baize, then 'systemctl start baize'"
else
	systemctl try-restart baize.service
fi
