#!/usr/bin/env bash
# images.sh [IMAGES_DIR] NAME...: real images become the disks they should.
#
# Proves, for each named image of an OCI layout: it publishes; the exported disk
# passes e2fsck -fn without a finding; verify agrees; the mounted disk equals the
# tree that umoci makes of the same layers; publishing it in fresh stores at
# GOMAXPROCS 1 and 2 gives one digest. For the first image, a linux/arm64 build
# under qemu-user gives that digest too.
#
# Needs root, a loop device, umoci, e2fsck, jq; qemu-aarch64-static for arm64.
source "$(dirname "${BASH_SOURCE[0]}")/harness.sh"

[ $# -gt 0 ] || { sed -n '2s/^# /usage: /p' "$0" >&2; exit 2; }
if [ -d "$1" ]; then IMAGES=$(images "$1"); shift; else IMAGES=$(images); fi
need_root
need umoci e2fsck jq mount
build

# publish STORE NAME [PROGRAM...]: prints what publish --json says.
publish() {
	local store=$1 name=$2
	shift 2
	[ $# -gt 0 ] || set -- "$WORK/bin/rivulet"
	"$@" --store "dir:$store" publish "oci:$IMAGES:$name" --name "$name" --json 2>"$WORK/progress" || {
		tail -n 5 "$WORK/progress" >&2
		return 1
	}
}

# check_disk NAME: file system, chunks and tree of the published image.
check_disk() {
	local name=$1 disk=$WORK/disk tree=$WORK/tree
	rivulet export "$name" "$disk"
	e2fsck -fn "$disk" >"$WORK/fsck" 2>&1 || { cat "$WORK/fsck"; fail "$name: e2fsck"; }
	# A clean run prints its five passes and a summary; anything else is a finding.
	if sed '/^e2fsck /d; /^Pass [1-5]/d; /^.*: [0-9]*\/[0-9]* files (.*) blocks$/d; /files (.*), .* blocks$/d' "$WORK/fsck" | grep .; then
		fail "$name: e2fsck has findings"
	fi
	rivulet verify "$name"
	reference "$IMAGES" "$name" "$tree"
	mkdir -p "$WORK/mnt"
	mount -o loop,ro,noload "$disk" "$WORK/mnt"
	later umount "$WORK/mnt"
	treediff -except lost+found "$tree" "$WORK/mnt" || fail "$name: the disk's tree is not the image's"
	umount "$WORK/mnt"
	rm -rf "$disk" "$tree"
}

# check_digest NAME WANT: other processor counts give the same disk.
check_digest() {
	local n got
	for n in 1 2; do
		got=$(GOMAXPROCS=$n publish "$WORK/fresh" "$1" | result digest)
		rm -rf "$WORK/fresh"
		[ "$got" = "$2" ] || fail "$1: digest $got at GOMAXPROCS=$n, else $2"
	done
}

# check_arm64 NAME WANT: another architecture gives the same disk.
check_arm64() {
	local got
	if [ -n "${RIVULET:-}" ] || ! command -v qemu-aarch64-static >/dev/null; then
		[ "${RIVULET_E2E_STRICT:-}" = 1 ] && fail "needs qemu-aarch64-static, and RIVULET unset"
		echo "not done: the arm64 digest needs qemu-aarch64-static, and RIVULET unset"
		return
	fi
	(cd "$ROOT" && GOARCH=arm64 go build -o "$WORK/bin/rivulet-arm64" ./cmd/rivulet)
	got=$(publish "$WORK/fresh" "$1" qemu-aarch64-static "$WORK/bin/rivulet-arm64" | result digest)
	rm -rf "$WORK/fresh"
	[ "$got" = "$2" ] || fail "$1: digest $got on arm64, else $2"
}

first=1
for name; do
	step "$name"
	digest=$(publish "$WORK/store" "$name" | result digest)
	[[ $digest == sha256:* ]] || fail "$name: publish --json gives no digest"
	check_disk "$name"
	check_digest "$name" "$digest"
	[ $first = 1 ] && check_arm64 "$name" "$digest"
	first=0
done
echo "images: ok"
