#!/bin/sh
# build.sh VERSION [OUT]: makes the Debian package of what `make build containerd` has built
# in bin/, in the folder OUT (default bin). Needs nfpm: go install
# github.com/goreleaser/nfpm/v2/cmd/nfpm@v2.45.0
set -eu
cd "$(dirname "$0")/../.."
out=$(mkdir -p "${2:-bin}" && cd "${2:-bin}" && pwd)
version=$(echo "${1#v}" | sed 's/-/~/g') # what is before a release sorts before it
case $version in [0-9]*) ;; *) version=0~$version ;; esac
command -v nfpm >/dev/null || { echo "build.sh: needs nfpm: go install github.com/goreleaser/nfpm/v2/cmd/nfpm@v2.45.0" >&2; exit 1; }
stage=$(mktemp -d)
trap 'rm -rf "$stage"' EXIT
umask 022
mkdir "$stage/bin" "$stage/units" "$stage/man" "$stage/completions" "$stage/examples"
cp bin/rivulet bin/containerd-rivulet "$stage/bin/"
cp bin/rivulet-init "$stage/"
for unit in deploy/*.service deploy/containerd/*.service; do
	sed 's|/usr/local/bin/|/usr/bin/|' "$unit" >"$stage/units/$(basename "$unit")"
done
for page in doc/man/*.1; do gzip -9n <"$page" >"$stage/man/$(basename "$page").gz"; done
bin/rivulet completion bash >"$stage/completions/rivulet.bash"
bin/rivulet completion zsh >"$stage/completions/_rivulet"
bin/rivulet completion fish >"$stage/completions/rivulet.fish"
cp deploy/containerd/config.toml deploy/prometheus/rivulet.rules.yml deploy/grafana/rivulet.json "$stage/examples/"
{
	echo 'Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/'
	printf 'Source: https://github.com/rivuletfs/rivulet\n\nFiles: *\nCopyright: The Rivulet authors\nLicense: Apache-2.0\n'
	echo ' On Debian systems the text is in /usr/share/common-licenses/Apache-2.0.'
} >"$stage/copyright"
cp deploy/debian/nfpm.yaml deploy/debian/postinst deploy/debian/prerm deploy/debian/postrm "$stage/"
cd "$stage"
DEB_VERSION=$version DEB_ARCH=${DEB_ARCH:-$(go env GOARCH)} nfpm package -f nfpm.yaml -p deb -t "$out"
