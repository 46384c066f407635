#!/bin/sh
# What: signs with the OpenPGP key in the file SIGN_KEY (armored, secret; its
#       passphrase, if it has one, in SIGN_PASSPHRASE).
# Why:  releases and the apt repository are signed alike, and neither the key
#       ring nor the agent of the person who signs is touched.
# Use:  scripts/sign.sh public              prints the public key, armored
#       scripts/sign.sh detached FILE       writes FILE.asc
#       scripts/sign.sh clear FILE SIGNED   writes a copy that has the signature in it
set -eu

usage() {
	echo "use: sign.sh public, sign.sh detached FILE, or sign.sh clear FILE SIGNED" >&2
	exit 2
}
case ${1-} in
public) [ $# -eq 1 ] || usage ;;
detached) [ $# -eq 2 ] || usage ;;
clear) [ $# -eq 3 ] || usage ;;
*) usage ;;
esac
command -v gpg >/dev/null || {
	echo "sign: gpg is missing: install gnupg" >&2
	exit 1
}
if ! [ -r "${SIGN_KEY-}" ]; then
	cat >&2 <<END
sign: SIGN_KEY='${SIGN_KEY-}' is no file that can be read: it is to be a secret OpenPGP key. To make one:
    gpg --quick-generate-key 'Name <address>' rsa4096 sign 3y
    gpg --armor --export-secret-keys address >key.asc
END
	exit 1
fi

GNUPGHOME=$(mktemp -d)
export GNUPGHOME
trap 'gpgconf --kill all >/dev/null 2>&1 || :; rm -rf "$GNUPGHOME"' EXIT
trap 'exit 1' HUP INT TERM
pass() { printf '%s' "${SIGN_PASSPHRASE-}" | gpg --batch --quiet --yes --pinentry-mode loopback --passphrase-fd 0 "$@"; }
pass --import "$SIGN_KEY"
case $1 in
public) gpg --batch --armor --export ;;
detached) pass --armor --detach-sign --output "$2.asc" "$2" ;;
clear) pass --clearsign --output "$3" "$2" ;;
esac
