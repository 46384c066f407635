#!/bin/sh
# What: builds dist/: packages (.deb, .rpm) for amd64 and arm64, the static
#       binaries, an SBOM (CycloneDX) of each, SHA256SUMS.
# Why:  what users install is built one way, and the same commit gives the same
#       bytes: times are the commit's, paths are trimmed.
# Use:  scripts/packages.sh [DIRECTORY]        (default dist)
#       ARCHES='amd64' FORMATS='deb' VERSION=1.2.3 for others than all of this commit.
#       SIGN_KEY=FILE signs .deb and .rpm; see sign.sh.
set -eu

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
cd "$here/.."
out=${1:-dist}
version=$(scripts/version.sh package ${VERSION:+"$VERSION"})
commit=$(scripts/version.sh commit)
epoch=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || echo 0)}
export SOURCE_DATE_EPOCH="$epoch" NFPM_PASSPHRASE="${SIGN_PASSPHRASE-}"
mtime=$(date -u -d "@$epoch" +%Y-%m-%dT%H:%M:%SZ)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM
# tool NAME ARGUMENT... runs one of scripts/tools; what it prints shows if it fails.
tool() {
	go tool -modfile=scripts/tools/go.mod "$@" >"$work/log" 2>&1 || {
		cat "$work/log" >&2
		return 1
	}
}
stamp=github.com/baize-net/baize/cmd/internal/command

mkdir -p "$out" "$work/stage"
rm -f "$out"/baize[_-]* "$out"/SHA256SUMS
CGO_ENABLED=0 go build -trimpath -buildvcs=false -o "$work/baize" ./cmd/baize
"$work/baize" docs default >"$work/stage/default"
"$work/baize" docs man "$work/stage/man"
gzip -n -9 "$work/stage/man"/*.8
for shell in bash zsh fish; do "$work/baize" completion $shell >"$work/stage/$shell"; done
for arch in ${ARCHES:-amd64 arm64}; do
	binary=$out/baize_${version}_linux_$arch
	CGO_ENABLED=0 GOOS=linux GOARCH=$arch go build -trimpath -buildvcs=false \
		-ldflags "-s -w -X $stamp.Version=$version -X $stamp.Commit=$commit" -o "$binary" ./cmd/baize
	cp "$binary" "$work/stage/baize"
	plugin=$out/baize-cni_${version}_linux_$arch
	CGO_ENABLED=0 GOOS=linux GOARCH=$arch go build -trimpath -buildvcs=false \
		-ldflags "-s -w -X main.version=$version" -o "$plugin" ./cmd/baize-cni
	cp "$plugin" "$work/stage/baize-cni"
	sed "s|[$]{STAGE}|$work/stage|; s|[$]{ARCH}|$arch|; s|[$]{VERSION}|$version|; s|[$]{mtime}|$mtime|
		s|[$]{SIGN_KEY}|${SIGN_KEY-}|" scripts/packages/nfpm.yaml >"$work/nfpm.yaml"
	for format in ${FORMATS:-deb rpm}; do
		tool nfpm package --config "$work/nfpm.yaml" --packager "$format" --target "$out/"
	done
	# Without what differs from run to run.
	for program in "$binary" "$plugin"; do
		tool cyclonedx-gomod bin -json -noserial -version "v$version" -output "$work/sbom" "$program"
		sed "s/\"timestamp\": \"[^\"]*\"/\"timestamp\": \"$mtime\"/" "$work/sbom" >"$program.cdx.json"
	done
done
(cd "$out" && sha256sum baize* >SHA256SUMS)
ls -l "$out"
