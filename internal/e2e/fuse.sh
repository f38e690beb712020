#!/usr/bin/env bash
# fuse.sh [IMAGES_DIR] [NAME]: a mounted disk is the image, and its end is an error.
#
# Proves, for one image of an OCI layout (default python3): `rivulet mount` returns
# with the image's tree mounted read-only, programs run from it in a chroot, the tree
# equals what umoci makes of the same layers, `rivulet umount` leaves nothing behind.
# When the server dies by kill -9 under a reader, the reader gets an error within
# 30 s, and clean-up works afterwards.
#
# Needs root, /dev/fuse, a loop device, umoci.
source "$(dirname "${BASH_SOURCE[0]}")/harness.sh"

if [ $# -gt 0 ] && [ -d "$1" ]; then IMAGES=$(images "$1"); shift; else IMAGES=$(images); fi
NAME=${1:-python3}
need_root
need umoci mount losetup timeout dd
[ -c /dev/fuse ] || skip "/dev/fuse"
build

MNT=$WORK/mnt
mkdir "$MNT"
later umount -l "$MNT"
later rivulet umount "$MNT"
rivulet publish "oci:$IMAGES:$NAME" --name "$NAME"

# leftovers: what is still mounted, attached or running of ours.
leftovers() {
	grep -F " $WORK/" /proc/mounts || true
	losetup -a | grep -F "$WORK" || true
	ours
}

clean() { [ -z "$(leftovers)" ]; }
mounted() { mountpoint -q "$MNT"; }

programs() {
	[ "$(chroot "$MNT" /bin/sh -c 'echo from the image')" = "from the image" ] || fail "chroot: /bin/sh"
	if [ -e "$MNT/usr/bin/python3" ]; then
		[ "$(chroot "$MNT" /usr/bin/python3 -c 'import json; print(json.dumps([6 * 7]))')" = "[42]" ] || fail "chroot: python3"
	fi
	if touch "$MNT/file" 2>/dev/null; then fail "the mount is writable"; fi
}

# largest: the image's largest file, which a reader will be in the middle of.
largest() { find "$MNT" -xdev -type f -printf '%s %p\n' | sort -n | tail -n 1 | cut -d ' ' -f 2-; }

# reader FILE: reads FILE past the page cache, over and over, until that fails.
reader() {
	while dd if="$1" of=/dev/null bs=64k iflag=direct status=none; do :; done
}

kill_under_reader() {
	local file pid server status=0
	file=$(largest)
	export -f reader
	# shellcheck disable=SC2016
	start "$WORK/reader" timeout 60 bash -c 'reader "$1"' reader "$file"
	pid=$!
	sleep 1
	kill -0 "$pid" || fail "the reader ended before the server did: $(cat "$WORK/reader")"
	# The server may be one process or several; each is a copy of ours.
	for server in $(ours); do kill -9 "$server"; done
	SECONDS=0
	wait "$pid" || status=$?
	if [ "$status" = 124 ] || [ $SECONDS -gt 30 ]; then fail "the reader hangs after the server's death"; fi
	grep -q 'Input/output error' "$WORK/reader" || fail "the reader got no EIO: $(cat "$WORK/reader")"
	echo "reader ended by EIO after $SECONDS s"
}

step "mount"
timeout 60 "$WORK/bin/rivulet" mount "$NAME" "$MNT"
mounted || fail "mount returned before the tree was there"
programs
reference "$IMAGES" "$NAME" "$WORK/ref"
treediff -except lost+found "$WORK/ref" "$MNT" || fail "the mounted tree is not the image's"

step "umount"
timeout 60 "$WORK/bin/rivulet" umount "$MNT"
await 60 clean || fail "left behind: $(leftovers)"

step "kill -9 under a reader"
timeout 60 "$WORK/bin/rivulet" mount "$NAME" "$MNT"
kill_under_reader
timeout 60 "$WORK/bin/rivulet" umount "$MNT" || fail "umount after the server's death"
await 60 clean || fail "left behind: $(leftovers)"

step "mount again"
timeout 60 "$WORK/bin/rivulet" mount "$NAME" "$MNT"
programs
timeout 60 "$WORK/bin/rivulet" umount "$MNT"
echo "fuse: ok"
