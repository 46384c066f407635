#!/bin/sh
# What: makes dist/baize-image_VERSION_ARCH.tar.gz, the agent's image for this
#       machine's architecture, as 'docker load' (podman, skopeo) takes it: tags
#       baize:VERSION and baize:latest.
# Why:  it needs no engine and no registry, and the same commit on the same
#       packages gives the same bytes. The Dockerfile has the same content.
# Use:  scripts/image.sh [DIRECTORY]        (default dist; VERSION=1.2.3 for another,
#       BINARY=FILE for a program that is there)
set -eu

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
cd "$here/.."
out=${1:-dist}
command -v dpkg >/dev/null || {
	echo "image: the commands in it are Debian's: use scripts/container/Dockerfile here" >&2
	exit 1
}
arch=$(dpkg --print-architecture)
version=${VERSION:-$(scripts/version.sh)}
version=${version#v}
commit=$(scripts/version.sh commit)
epoch=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || echo 0)}
created=$(date -u -d "@$epoch" +%Y-%m-%dT%H:%M:%SZ)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM
# pack DIRECTORY: without what differs from run to run.
pack() { tar -C "$1" --sort=name --format=gnu --mtime="@$epoch" --owner=0 --group=0 --numeric-owner -c .; }
sum() { sha256sum "$1" | cut -d ' ' -f 1; }

binary=${BINARY:-$work/baize}
stamp=github.com/baize-net/baize/cmd/internal/command
[ -n "${BINARY-}" ] || CGO_ENABLED=0 GOOS=linux GOARCH=$arch go build -trimpath -buildvcs=false \
	-ldflags "-s -w -X $stamp.Version=$version -X $stamp.Commit=$commit" -o "$binary" ./cmd/baize
CGO_ENABLED=0 GOOS=linux GOARCH=$arch go build -trimpath -buildvcs=false -ldflags "-s -w -X main.version=$version" \
	-o "$work/baize-cni" ./cmd/baize-cni
sh scripts/container/collect.sh "$binary" "$work/baize-cni" "$work/root"

# The format of 'docker save': github.com/moby/docker-image-spec, v1.2.
mkdir "$work/image"
pack "$work/root" >"$work/image/layer.tar"
cat >"$work/config" <<END
{"architecture":"$arch","os":"linux","created":"$created","config":{"Env":["PATH=/usr/sbin:/usr/bin"],"Entrypoint":["/usr/bin/baize"],"Cmd":["agent"],"Labels":{"org.opencontainers.image.title":"baize","org.opencontainers.image.licenses":"Apache-2.0","org.opencontainers.image.source":"https://github.com/baize-net/baize","org.opencontainers.image.version":"$version","org.opencontainers.image.revision":"$commit"}},"rootfs":{"type":"layers","diff_ids":["sha256:$(sum "$work/image/layer.tar")"]},"history":[{"created":"$created","created_by":"scripts/image.sh"}]}
END
config=$(sum "$work/config").json
mv "$work/config" "$work/image/$config"
printf '[{"Config":"%s","RepoTags":["baize:%s","baize:latest"],"Layers":["layer.tar"]}]\n' "$config" "$version" >"$work/image/manifest.json"
mkdir -p "$out"
file=$out/baize-image_${version}_$arch.tar.gz
pack "$work/image" | gzip -n >"$file"
ls -l "$file"
