#!/bin/sh
# What: makes a release in dist/: packages (.deb, .rpm) and executables for amd64
#       and arm64 with SBOMs, the container image of this machine's architecture, the
#       notes (the version's section of CHANGELOG.md), the public key, SHA256SUMS and
#       its signature. Packages are signed, too.
# Why:  a release is one command, and is refused where the tree is not what the
#       version says: changes that are not committed, or another commit's tag.
# Use:  SIGN_KEY=FILE scripts/release.sh [DIRECTORY]       (default dist)
#       VERSION=0.2.0   default: the newest version in CHANGELOG.md
#       UNSIGNED=1      without a key, to try it; ARCHES and SIGN_PASSPHRASE: see
#                       packages.sh and sign.sh
set -eu

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
cd "$here/.."
out=${1:-dist}
fail() {
	echo "release: $1" >&2
	exit 1
}
newest=$(sed -n 's/^## \[\([0-9][^]]*\)\] - [0-9].*/\1/p' CHANGELOG.md | head -n 1)
version=${VERSION:-$newest}
version=${version#v}
[ -n "$version" ] || fail "CHANGELOG.md has no version: begin a section '## [0.1.0] - $(date -u +%Y-%m-%d)'"
# notes prints a version's section, without its title.
notes() { awk -v title="## [$version] - " 'index($0, title) == 1 { on = 1; next } /^## / { on = 0 } on' CHANGELOG.md; }
[ -n "$(notes)" ] || fail "CHANGELOG.md has no section '## [$version] - DATE': its text becomes the notes"
changed=$(git status --porcelain) || fail "this is no clone of git: a release says which commit it was made of"
[ -z "$changed" ] || fail "these changes are not committed:
$changed"
tagged=$(git rev-parse -q --verify "refs/tags/v$version^{commit}") || tagged=
[ -z "$tagged" ] || [ "$tagged" = "$(git rev-parse HEAD)" ] ||
	fail "the tag v$version is on another commit: check it out, or begin the next version in CHANGELOG.md"
if [ -z "${UNSIGNED-}" ]; then
	[ -z "${SIGN_KEY-}" ] || SIGN_KEY=$(realpath -m -- "$SIGN_KEY")
	export SIGN_KEY="${SIGN_KEY-}"
	key=$(scripts/sign.sh public)
else
	unset SIGN_KEY
fi

VERSION=$version scripts/packages.sh "$out" >/dev/null
VERSION=$version scripts/image.sh "$out" >/dev/null
notes | sed '1{/^$/d}' >"$out/baize_${version}_notes.md"
[ -n "${UNSIGNED-}" ] || printf '%s\n' "$key" >"$out/baize.asc"
(cd "$out" && sha256sum baize* >SHA256SUMS)
[ -n "${UNSIGNED-}" ] || scripts/sign.sh detached "$out/SHA256SUMS"
ls -l "$out"
[ -n "$tagged" ] || echo "Not tagged yet: git tag -s -m 'Baize $version' v$version"
