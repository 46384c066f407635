#!/bin/sh
# What: prints the version to stamp into the binary, such as v0.1.0-3-gabc1234;
#       with "commit" the commit, with "package" the version as packages have it,
#       such as 0.1.0+3.gabc1234, which dpkg and rpm sort as people do.
# Why:  it must work in a clone, in a tarball made by 'git archive' (the
#       placeholders below are then filled in, see .gitattributes) and in a
#       bare copy of the files.
# Use:  scripts/version.sh [commit | package [VERSION]]
set -eu

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
# shellcheck disable=SC2016 # git expands them
archive_version='$Format:%(describe:tags=true)$' archive_commit='$Format:%H$' archive_time='$Format:%ct$'

# .git is asked for by name: a tarball unpacked inside another repository must
# not get that one's version.
git_says() {
	[ -e "$here/../.git" ] && git -C "$here/.." "$@" 2>/dev/null
}

version() {
	v=$(git_says describe --tags --always --dirty) || v=$archive_version
	# Without a tag the placeholder becomes empty.
	case $v in '') v=$(printf '%.7s' "$archive_commit") ;; '$'*) v=devel ;; esac
	echo "$v"
}

commit() {
	v=$(git_says rev-parse --verify HEAD) || v=$archive_commit
	case $v in '$'*) v=unknown ;; esac
	echo "$v"
}

# package VERSION: 1.2.0~rc1 comes before 1.2.0, 1.2.0+3.gabc after it. A commit
# without a tag is before all versions, and after older commits.
package() {
	case $1 in
	v[0-9]*) v=${1#v} ;;
	[0-9]*.[0-9]*) v=$1 ;;
	*)
		time=$(git_says log -1 --format=%ct) || time=$archive_time
		case $time in *[!0-9]*) time=0 ;; esac
		v=0.0.0~git$(date -u -d "@$time" +%Y%m%d%H%M%S).$1
		;;
	esac
	printf '%s\n' "$v" | sed 's/-\(alpha\|beta\|rc\)/~\1/; s/-/+/; s/-/./g'
}

case ${1-} in
commit) commit ;;
package) package "${2-$(version)}" ;;
*) version ;;
esac
