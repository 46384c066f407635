#!/bin/sh
# What: prints the version to stamp into the binary, such as v0.1.0-3-gabc1234,
#       or, with "commit", the commit.
# Why:  it must work in a clone, in a tarball made by 'git archive' (the
#       placeholders below are then filled in, see .gitattributes) and in a
#       bare copy of the files.
# Use:  scripts/version.sh [commit]
set -eu

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
# shellcheck disable=SC2016 # git expands them
archive_version='$Format:%(describe:tags=true)$' archive_commit='$Format:%H$'

# .git is asked for by name: a tarball unpacked inside another repository must
# not get that one's version.
git_says() {
	[ -e "$here/../.git" ] && git -C "$here/.." "$@" 2>/dev/null
}

if [ "${1-}" = commit ]; then
	v=$(git_says rev-parse --verify HEAD) || v=$archive_commit
	case $v in '$'*) v=unknown ;; esac
else
	v=$(git_says describe --tags --always --dirty) || v=$archive_version
	# Without a tag the placeholder becomes empty.
	case $v in '') v=$(printf '%.7s' "$archive_commit") ;; '$'*) v=devel ;; esac
fi
echo "$v"
