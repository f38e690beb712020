#!/usr/bin/env bash
# guest-kernel.sh: prints a folder that holds Debian's cloud kernel and its modules.
#
# The package is fetched once with apt-get download and unpacked, not installed,
# under RIVULET_E2E_CACHE (default $XDG_CACHE_HOME/rivulet-e2e). Exit status 77 if
# it is neither there nor can be fetched.
set -euo pipefail

cache=${RIVULET_E2E_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/rivulet-e2e}
PATH=$PATH:/usr/sbin:/sbin

skip() {
	echo "skipped: needs $*" >&2
	[ "${RIVULET_E2E_STRICT:-}" = 1 ] && exit 1
	exit 77
}

for have in "$cache"/kernel/*/boot/vmlinuz-*; do
	[ -f "$have" ] && { dirname "$(dirname "$have")"; exit; }
done
for tool in apt-get apt-cache dpkg depmod; do
	command -v "$tool" >/dev/null || skip "$tool, or a kernel in $cache/kernel"
done

mkdir -p "$cache/kernel"
work=$(mktemp -d "$cache/kernel.XXXX")
trap 'rm -rf "$work"' EXIT
package=$(apt-cache depends linux-image-cloud-amd64 2>/dev/null | awk '$1 == "Depends:" { print $2; exit }')
[ -n "$package" ] || skip "the package linux-image-cloud-amd64 in apt's lists"
(cd "$work" && apt-get -qq -o APT::Sandbox::User=root download "$package" >&2) || skip "the package $package"
dpkg -x "$work"/*.deb "$work/root"
depmod -b "$work/root" "$(basename "$work"/root/lib/modules/*)"
mv -T "$work/root" "$cache/kernel/$package" 2>/dev/null || true # another run was first
echo "$cache/kernel/$package"
