#!/usr/bin/env bash
# nbd.sh [IMAGES_DIR] [NAME]: a served disk in the hands of everybody else's clients.
#
# Proves, for one image of an OCI layout (default python3): qemu-img, nbdinfo, nbdcopy
# over several connections and fio read from `rivulet serve` exactly what `rivulet
# export` writes; hostile sequences (hostile.py) harm nobody; a Linux guest mounts
# the disk read-only as its root over nbd:unix: and runs /bin/sh from it; in a guest,
# the kernel's own client attaches it over TCP and mounts it.
#
# Needs umoci, qemu-img, libnbd's programs and Python module, fio with the nbd
# engine, debugfs; for the guests what guest.sh and guest-kernel.sh need, nbd-client.
source "$(dirname "${BASH_SOURCE[0]}")/harness.sh"

if [ $# -gt 0 ] && [ -d "$1" ]; then IMAGES=$(images "$1"); shift; else IMAGES=$(images); fi
NAME=${1:-python3}
need_root
need umoci jq qemu-img nbdinfo nbdcopy fio debugfs cmp timeout qemu-system-x86_64 busybox cpio nbd-client
for PYTHON in python3 /usr/bin/python3 ''; do
	[ -n "$PYTHON" ] || skip "python3 with libnbd's module (python3-libnbd)"
	if "$PYTHON" -c 'import nbd' 2>/dev/null; then break; fi
done
fio --enghelp=nbd >/dev/null 2>&1 || skip "fio with the nbd engine"
KERNEL=$("$E2E/guest-kernel.sh") || exit $?
build

DISK=$WORK/disk SOCKET=$WORK/nbd.sock
rivulet publish "oci:$IMAGES:$NAME" --name "$NAME"
rivulet export "$NAME" "$DISK"
SIZE=$(stat -c %s "$DISK")
serving "$NAME" --nbd "unix:$SOCKET"

qemu_img() {
	local size
	size=$(timeout 60 qemu-img info --output=json "$URI" | jq '."virtual-size"')
	[ "$size" = "$SIZE" ] || fail "qemu-img info: $size bytes, the disk has $SIZE"
	timeout 300 qemu-img convert -f raw -O raw -W -m 8 "$URI" "$WORK/copy"
	cmp "$DISK" "$WORK/copy"
	timeout 300 qemu-img compare -f raw -F raw "$URI" "$DISK"
	rm "$WORK/copy"
}

# block_map: extents in order without gaps over the whole disk, and the holes that
# they promise are zeros in the exported file.
block_map() {
	local size
	timeout 60 nbdinfo --list --json "$URI" | jq -e --arg name "$NAME" 'any(.exports[]; ."export-name" == $name)' >/dev/null ||
		fail "nbdinfo --list: no export $NAME"
	timeout 60 nbdinfo --map --json "$URI" >"$WORK/map.json"
	size=$(jq 'reduce .[] as $e (0; if . == $e.offset then . + $e.length else error("gap") end)' "$WORK/map.json")
	[ "$size" = "$SIZE" ] || fail "nbdinfo --map: covers $size bytes of $SIZE"
	jq -e 'any(.[]; .type == 3) and any(.[]; .type == 0)' "$WORK/map.json" >/dev/null || fail "nbdinfo --map: no holes, or no data"
	jq -r 'limit(2000; .[] | select(.type != 0)) | "\(.offset) \(.length)"' "$WORK/map.json" |
		while read -r offset length; do
			cmp -s -n "$length" -i "$offset:0" "$DISK" /dev/zero || fail "nbdinfo --map: data in the hole at $offset"
		done
}

copy() {
	timeout 300 nbdcopy --connections=4 --requests=64 "$URI" "$WORK/copy"
	cmp "$DISK" "$WORK/copy"
	rm "$WORK/copy"
	timeout 300 nbdcopy --connections=1 --requests=1 --no-extents "$URI" "$WORK/copy"
	cmp "$DISK" "$WORK/copy"
	rm "$WORK/copy"
}

# fio_verify: fio reads a file that it wrote, with checksums in each block.
fio_verify() {
	fio_pattern
	serving pattern --nbd "unix:$WORK/pattern.sock"
	timeout 300 fio "${FIO_PATTERN[@]}" --ioengine=nbd --uri="$URI" --iodepth=16 >"$WORK/fio" 2>&1 || {
		cat "$WORK/fio"
		fail "fio: verify"
	}
	stop "$SERVER"
}

# sums TREE: checksums of a sample of the image's files, as the guests check them.
sums() {
	(cd "$1" && find bin etc usr/bin usr/lib lab -xdev -type f -size -512k 2>/dev/null | sort | awk 'NR % 97 == 1 && n++ < 100' |
		xargs -d '\n' sha256sum)
}

guest_root() {
	timeout 200 "$E2E/guest.sh" --kernel "$KERNEL" --init "$E2E/guest-root.init" --modules ext4 \
		--add "$WORK/sums:sums" --drive "nbd:unix:$SOCKET:exportname=$NAME" \
		--expect "guest: $(wc -l <"$WORK/sums") files right" >"$WORK/console" || { cat "$WORK/console"; fail "guest: root disk"; }
	grep '^guest: ' "$WORK/console"
	if grep -q 'guest: root is writable' "$WORK/console"; then fail "guest: root is writable"; fi
}

guest_client() {
	local add=() library
	serving "$NAME" --nbd tcp:127.0.0.1:0
	[[ $URI =~ ^nbd://127\.0\.0\.1:([0-9]+)/ ]] || fail "ready line of a TCP server: $URI"
	printf 'PORT=%s NAME=%s\n' "${BASH_REMATCH[1]}" "$NAME" >"$WORK/nbd"
	for library in $(ldd "$(command -v nbd-client)" | grep -o '/[^ ]*'); do add+=(--add "$library:${library#/}"); done
	timeout 200 "$E2E/guest.sh" --kernel "$KERNEL" --init "$E2E/guest-nbd.init" --modules "ext4 nbd" --net \
		--add "$WORK/sums:sums" --add "$WORK/nbd:nbd" --add "$(command -v nbd-client):usr/sbin/nbd-client" "${add[@]}" \
		--expect "guest: detached" >"$WORK/console" || { cat "$WORK/console"; fail "guest: nbd-client"; }
	grep '^guest: ' "$WORK/console"
	grep -qF "guest: $(wc -l <"$WORK/sums") files right" "$WORK/console" || fail "guest: wrong files"
	stop "$SERVER"
}

step "qemu-img info, convert, compare"; qemu_img
step "nbdinfo --list, --map"; block_map
step "nbdcopy"; copy
step "hostile sequences"; timeout 300 "$PYTHON" "$E2E/hostile.py" "$URI" "$DISK" || fail "hostile sequences"
step "guest with its root over nbd:unix:"
reference "$IMAGES" "$NAME" "$WORK/ref"
sums "$WORK/ref" >"$WORK/sums"
guest_root
kill -0 "$SERVER" || fail "the server did not live through this"
stop "$SERVER"
step "nbd-client in a guest"; guest_client
step "fio verify"; fio_verify
echo "nbd: ok"
