#!/bin/sh
# What: leaves in a directory the one package that the machines install.
# Why:  'vagrant up' is to need no other command before it.
# Use:  scripts/vagrant/package.sh DIRECTORY       (the Vagrantfile does)
#       BAIZE_PACKAGE=FILE: that one, where this machine has no Go.
set -eu

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
cd "$here/../.."
out=$1
package=${BAIZE_PACKAGE-}
mkdir -p "$out"
if [ -z "$package" ]; then
	arch=amd64
	case $(uname -m) in aarch64 | arm64) arch=arm64 ;; esac
	scripts/check-go.sh || {
		echo "vagrant: no Go to build the package with: install it, or name a .deb: BAIZE_PACKAGE=FILE vagrant up" >&2
		exit 1
	}
	build=$(mktemp -d)
	trap 'rm -rf "$build"' EXIT
	ARCHES=$arch FORMATS=deb scripts/packages.sh "$build" >/dev/null
	package=$(ls "$build"/baize_*_$arch.deb)
elif ! [ -f "$package" ]; then
	echo "vagrant: BAIZE_PACKAGE=$package: there is no such file" >&2
	exit 1
fi
cp "$package" "$out/.baize.deb"
mv "$out/.baize.deb" "$out/baize.deb"
