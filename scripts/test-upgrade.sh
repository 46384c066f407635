#!/bin/sh
# What: builds an older version of Baize from this repository's history and runs
#       the tests that have both.
# Why:  clusters are upgraded node by node.
# Use:  scripts/test-upgrade.sh [PACKAGE…], as root. OLDER=COMMIT is another version than the
#       default one; TESTFLAGS is passed to go test.
set -eu

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
cd "$here/.."
# The first with everything that the test uses. To be replaced by the release
# before this one, when there is one.
older=${OLDER:-1a9cc968ee1b908210b952d8fa1bb6b6ecbf8fd6}
if ! git cat-file -e "$older^{commit}" 2>/dev/null; then
	echo "test-upgrade: this clone has no commit $older: run 'git fetch --unshallow', or name another with OLDER=" >&2
	exit 1
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM
mkdir "$work/source"
git archive "$older" | tar -C "$work/source" -x
version=$(git describe --always "$older")
(cd "$work/source" && CGO_ENABLED=0 go build -trimpath -buildvcs=false \
	-ldflags "-X github.com/baize-net/baize/cmd/internal/command.Version=$version" -o "$work/baize" ./cmd/baize)
BAIZE_TEST_OLDER=$work/baize
export BAIZE_TEST_OLDER
"$BAIZE_TEST_OLDER" version
# In packagetest the package, under a real systemd, while Debian's engine starts containers.
[ $# -gt 0 ] || set -- ./cmd/internal/packagetest ./cmd/internal/domaintest
for package in "$@"; do
	# shellcheck disable=SC2086 # a list of flags
	CGO_ENABLED=0 go test -trimpath -tags 'system versions' -count=1 -timeout 30m \
		-run '^(TestUpgradeUnderLoad|TestTwoVersions)$' ${TESTFLAGS--v} "$package"
done
