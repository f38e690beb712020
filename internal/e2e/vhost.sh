#!/usr/bin/env bash
# vhost.sh [IMAGES_DIR] [NAME]: disks of a virtual machine whose back ends are killed.
#
# Proves, for one image of an OCI layout (default python3): a Linux guest has it as a
# read-only disk from an agent, by vhost-user-blk, and a copy of it as one that it can
# write (vhostdisk), reads the files of the first and verifies with fio what it writes to
# the second, while both back ends are killed with -9 KILLS times (default 20) and
# started again: the guest sees no error. It discards, and the host finds the space
# given back, the file system clean and the files right. A live upgrade of the agent
# and the end of its process by SIGTERM are met likewise.
#
# Needs root, umoci, e2fsck, fio, jq, losetup, and for the guest what guest.sh and
# guest-kernel.sh need. 60 to 90 seconds, most of which QEMU waits between attempts.
source "$(dirname "${BASH_SOURCE[0]}")/harness.sh"

if [ $# -gt 0 ] && [ -d "$1" ]; then IMAGES=$(images "$1"); shift; else IMAGES=$(images); fi
NAME=${1:-python3}
: "${KILLS:=20}"
need_root
need umoci jq fio e2fsck losetup ldd qemu-system-x86_64 busybox cpio timeout
KERNEL=$("$E2E/guest-kernel.sh") || exit $?
build
(cd "$ROOT" && CGO_ENABLED=0 go build -o "$WORK/bin/" ./internal/e2e/vhostdisk)
export XDG_STATE_HOME=$WORK/state
RO=$WORK/ro.sock RW=$WORK/rw.sock DISK=$WORK/disk

# agent: starts one, which brings back what was attached.
agent() {
	"$WORK/bin/rivulet" agent --hold 60s >>"$WORK/agent.log" 2>&1 &
	AGENT=$!
	PIDS+=("$AGENT")
	LOGS+=("$WORK/agent.log")
}

# writer: starts the back end of the disk that can be written.
writer() {
	"$WORK/bin/vhostdisk" -file "$DISK" -socket "$RW" -serial writable -delay 2ms >>"$WORK/writer.log" 2>&1 &
	WRITER=$!
	PIDS+=("$WRITER")
	LOGS+=("$WORK/writer.log")
}

connections() { grep -c 'front end connected' "$1" || true; }

# connected N: whether the guest has come to both back ends for the Nth time, or after.
connected() { [ "$(connections "$WORK/agent.log")" -ge "$1" ] && [ "$(connections "$WORK/writer.log")" -ge "$1" ]; }

word() { [ "$(dd if="$WORK/control" bs=512 skip=1 count=1 status=none | head -c 4)" = "$1" ]; }

# add_fio MOUNT: puts fio and its libraries on the disk.
add_fio() {
	local file dir=$1/opt/fio
	mkdir -p "$dir"
	cp -L "$(command -v fio)" "$dir/fio"
	for file in $(ldd "$(command -v fio)" | grep -o '/[^ ]*'); do
		cp -L "$file" "$dir/"
		case $file in */ld-linux*) cp -L "$file" "$dir/ld" ;; esac
	done
}

step "publish, attach"
rivulet publish "oci:$IMAGES:$NAME" --name "$NAME"
rivulet export "$NAME" "$DISK"
mkdir "$WORK/mnt"
mount -o loop "$DISK" "$WORK/mnt"
later umount "$WORK/mnt"
(cd "$WORK/mnt" && find bin etc usr/bin usr/lib lab -xdev -type f -size -512k 2>/dev/null | sort | awk 'NR % 97 == 1 && n++ < 60' |
	xargs -d '\n' sha256sum) >"$WORK/sums"
add_fio "$WORK/mnt"
umount "$WORK/mnt"
before=$(stat -c %b "$DISK")
printf 'IMAGE=%s\n' "$NAME" >"$WORK/names"
head -c 4096 /dev/zero >"$WORK/control"
agent
await 60 rivulet agent ls >/dev/null || fail "agent: not ready"
rivulet agent attach "$NAME" --vhost-user "$RO"
writer
await 20 test -S "$RW" || fail "vhostdisk: not ready"

step "a guest, whose back ends are killed $KILLS times"
memory=512
start "$WORK/console" timeout 300 "$E2E/guest.sh" --kernel "$KERNEL" --init "$E2E/guest-vhost.init" --modules ext4 --memory $memory --timeout 280 \
	--add "$WORK/sums:sums" --add "$WORK/names:names" --expect "guest: no error" -- \
	-object "memory-backend-memfd,id=mem,size=${memory}M,share=on" -machine memory-backend=mem -global virtio-mmio.force-legacy=false \
	-chardev "socket,id=ro,path=$RO,reconnect=1" -device vhost-user-blk,chardev=ro,num-queues=1 \
	-chardev "socket,id=rw,path=$RW,reconnect=1" -device vhost-user-blk,chardev=rw,num-queues=1 \
	-drive "id=control,file=$WORK/control,format=raw,if=none" -device virtio-blk-device,drive=control,serial=control
GUEST=$!
# The guest works by itself, or has ended.
loaded() { word load || ! child "$GUEST"; }
await 120 loaded && child "$GUEST" || { cat "$WORK/console"; fail "guest: not at work after 120 s"; }
for ((n = 1; n <= KILLS; n++)); do
	seen=$(connections "$WORK/agent.log") wrote=$(connections "$WORK/writer.log")
	back() { [ "$(connections "$WORK/agent.log")" -gt "$seen" ] && [ "$(connections "$WORK/writer.log")" -gt "$wrote" ]; }
	kill -9 "$AGENT" "$WRITER"
	wait "$AGENT" "$WRITER" 2>/dev/null || true
	agent
	writer
	await 30 back || fail "the guest does not come back, after $n kills"
	sleep "0.$((RANDOM % 4))"
done
step "an upgrade, and an end in good order"
seen=$(connections "$WORK/agent.log")
again() { [ "$(connections "$WORK/agent.log")" -gt "$seen" ]; }
AGENT=$(rivulet agent upgrade 2>&1 | sed -n 's/.*served by process \([0-9]*\).*/\1/p')
[ -n "$AGENT" ] || fail "no upgrade"
await 30 again || fail "the guest does not come back after an upgrade"
seen=$(connections "$WORK/agent.log")
kill "$AGENT"
await 30 eval "! kill -0 $AGENT"
agent
await 30 again || fail "the guest does not come back after the agent has ended"

printf stop | dd of="$WORK/control" conv=notrunc status=none
wait "$GUEST" || { cat "$WORK/console"; fail "guest"; }
grep '^guest: ' "$WORK/console"
grep -q 'guest: wrong file' "$WORK/console" && fail "guest: wrong file"
resubmitted=$(grep -c "requests of an earlier process are done again" "$WORK/writer.log" || true)
# What was under way at a kill was done again, or the kills have proved little.
[ "$resubmitted" -gt 0 ] || fail "no kill met a request under way"
echo "requests taken up again after $resubmitted of the kills"

step "what the guest left"
kill "$WRITER"
wait "$WRITER" 2>/dev/null || true
e2fsck -fn "$DISK" >"$WORK/fsck" 2>&1 || { cat "$WORK/fsck"; fail "e2fsck"; }
after=$(stat -c %b "$DISK")
echo "blocks in use: $before before, $after after"
# What fio wrote was 4,096 blocks of 512 bytes.
[ "$after" -lt $((before + 2000)) ] || fail "discards gave nothing back"
loop_mount "$DISK" "$WORK/mnt"
cmp "$WORK/sums" "$WORK/mnt/sums"
rivulet agent detach --all --force
echo "vhost: ok"
