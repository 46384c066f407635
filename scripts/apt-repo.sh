#!/bin/sh
# What: makes an apt repository in dist/apt of the .deb files in dist/, signed;
#       static files, for any web server. Packages that the repository already has
#       stay: older versions can still be installed.
# Why:  'apt-get install baize' on every host, and upgrades with the system's own.
# Use:  SIGN_KEY=FILE scripts/apt-repo.sh [DIRECTORY]          (default dist)
#       APT_URL=https://packages.example.org/baize   where hosts will find it; it is
#       written into baize.sources, as is the key (apt 2.4 or later)
set -eu

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
dist=${1:-dist}
repo=$dist/apt
fail() {
	echo "apt-repo: $1" >&2
	exit 1
}
command -v dpkg-scanpackages >/dev/null || fail "dpkg-scanpackages is missing: install dpkg-dev"
command -v apt-ftparchive >/dev/null || fail "apt-ftparchive is missing: install apt-utils"
ls "$dist"/baize_*.deb >/dev/null 2>&1 || fail "$dist has no baize_*.deb: run 'make release' or 'make packages' first"
case ${APT_URL-} in
http://* | https://* | file:/*) ;;
*) fail "APT_URL='${APT_URL-}' is not the URL where hosts will find the repository, such as https://packages.example.org/baize" ;;
esac
[ -z "${SIGN_KEY-}" ] || SIGN_KEY=$(realpath -m -- "$SIGN_KEY")
export SIGN_KEY="${SIGN_KEY-}"
key=$("$here/sign.sh" public)

mkdir -p "$repo/pool"
cp "$dist"/baize_*.deb "$repo/pool/"
# New files first, the signed list of them last: a host that updates meanwhile
# sees the old repository or the new one.
cd "$repo"
suite=dists/stable
for arch in amd64 arm64; do
	dir=$suite/main/binary-$arch
	mkdir -p "$dir"
	dpkg-scanpackages --multiversion --arch "$arch" pool >"$dir/Packages.new" 2>/dev/null
	gzip -n -9 <"$dir/Packages.new" >"$dir/Packages.gz"
	mv "$dir/Packages.new" "$dir/Packages"
done
apt-ftparchive -o APT::FTPArchive::Release::Origin=Baize -o APT::FTPArchive::Release::Label=Baize \
	-o APT::FTPArchive::Release::Suite=stable -o APT::FTPArchive::Release::Codename=stable \
	-o APT::FTPArchive::Release::Architectures='amd64 arm64' -o APT::FTPArchive::Release::Components=main \
	release "$suite" >Release.new
"$here/sign.sh" clear Release.new InRelease.new
mv Release.new "$suite/Release"
mv InRelease.new "$suite/InRelease"
{
	printf 'Types: deb\nURIs: %s\nSuites: stable\nComponents: main\nSigned-By:\n' "${APT_URL%/}"
	printf '%s\n' "$key" | sed 's/^$/./; s/^/ /'
} >baize.sources
cat <<END
$repo is the repository. Once it is to be found at ${APT_URL%/}, on each host:
    sudo wget -qO /etc/apt/sources.list.d/baize.sources ${APT_URL%/}/baize.sources
    sudo apt-get update
    sudo apt-get install baize
END
