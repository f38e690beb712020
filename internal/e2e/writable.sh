#!/usr/bin/env bash
# writable.sh [IMAGES_DIR] [NAME]: a disk that a guest writes to.
#
# Proves, for one image of an OCI layout (default python3), attached by an agent as
# writable: a Linux guest has it as its disk over nbd:unix:, fio verifies in it what
# it writes, most of it not flushed, and no request fails, while the agent is killed
# (-9) again and again; what the guest trims gives its space back; the disk is committed, by which only
# chunks that were written to are new, and e2fsck -fn finds nothing in the image; a
# guest boots it. Of a guest that is writing, what is committed is as after a power
# cut: e2fsck replays the journal and finds nothing else. Grown, the disk is resized
# offline by resize2fs. Mounted on this host instead, the disk is written, over an agent
# that is killed, unmounted and mounted again with what was written, and committed: e2fsck
# -fn finds nothing.
#
# Needs fio, e2fsprogs, nbdfuse, jq; for the guests what guest.sh and guest-kernel.sh
# need.
source "$(dirname "${BASH_SOURCE[0]}")/harness.sh"

if [ $# -gt 0 ] && [ -d "$1" ]; then IMAGES=$(images "$1"); shift; else IMAGES=$(images); fi
NAME=${1:-python3}
need_root
need jq fio ldd e2fsck resize2fs fstrim dumpe2fs nbdfuse mountpoint timeout qemu-system-x86_64 busybox cpio
KERNEL=$("$E2E/guest-kernel.sh") || exit $?
build

SOCKET=$WORK/vm.sock
export XDG_STATE_HOME=$WORK/state

AGENT=''
agent() {
	start "$WORK/agent.log" "$WORK/bin/rivulet" agent --hold 60s
	AGENT=$!
	await 30 eval 'rivulet agent ls >/dev/null' || fail "agent: does not begin"
}

kill_agent() {
	kill -9 "$AGENT"
	wait "$AGENT" 2>/dev/null || true
	agent
}

info() { rivulet agent ls --json | jq -r ".[0]$1"; }

# guest PHASE EXPECT [DRIVE]: runs a guest on the attachment, or on DRIVE. Its disk has a
# volatile cache, which the guest does not know to be lost when the agent is killed:
# what was answered must be there, flushed or not.
guest() {
	local drive=${3:-driver=nbd,server.type=unix,server.path=$SOCKET,export=vm,reconnect-delay=60}
	echo "$1" >"$WORK/phase"
	timeout 520 "$E2E/guest.sh" --kernel "$KERNEL" --init "$E2E/guest-write.init" --modules ext4 --timeout 500 \
		--add "$WORK/phase:phase" --expect "$2" -- \
		-blockdev "node-name=d,$drive,discard=unmap" -device virtio-blk-device,drive=d,write-cache=on >"$WORK/console-$1"
}

# fails CONSOLE WHAT: shows the console.
fails() {
	cat "$WORK/console-$1"
	fail "guest: $2"
}

step "publish and attach"
portable "$WORK/tools" fio
rivulet publish "oci:$IMAGES:$NAME" "dir:$WORK/tools" --name "$NAME" >/dev/null
agent
rivulet agent attach "$NAME" --writable --overlay "$WORK/vm.overlay" --nbd "unix:$SOCKET" --name vm

step "a guest writes, and the agent is killed"
guest write "guest: written" &
GUEST=$!
await 240 eval '[ "$(info .written.bytes)" -gt 0 ]' || fails write "does not write"
kills=0
while sleep 1; child "$GUEST"; do
	[ $kills -lt 20 ] || continue
	kill_agent
	kills=$((kills + 1))
done
wait "$GUEST" || fails write "did not end well, with $kills kills"
grep '^guest: ' "$WORK/console-write"
for line in "fio verified" "trimmed"; do grep -qF "guest: $line" "$WORK/console-write" || fails write "no line $line"; done
if grep -q 'guest: errors' "$WORK/console-write"; then fails write "requests failed"; fi
[ $kills -ge 3 ] || fail "the agent was killed $kills times only"
allocated=$(info .written.allocated)
[ "$allocated" -lt $((60 << 20)) ] || fail "$allocated bytes are taken after a trim of 80 MiB"
echo "$kills kills; $((allocated >> 20)) MiB taken"

step "commit"
rivulet commit vm "$NAME-written" --json >"$WORK/commit.json" 2>/dev/null
jq -c . "$WORK/commit.json"
jq -e '.taken > .chunks / 2 and .new_chunks < 200' "$WORK/commit.json" >/dev/null || fail "commit: most chunks are new"
rivulet verify "$NAME-written" --reads 50
rivulet export "$NAME-written" "$WORK/disk"
e2fsck -fn "$WORK/disk" || fail "e2fsck -fn of the committed image"

step "a guest has the committed image"
rivulet agent attach "$NAME-written" --nbd "unix:$WORK/check.sock" --name check
guest check "files right" "driver=nbd,server.type=unix,server.path=$WORK/check.sock,export=check,read-only=on" || fails check "wrong files"
grep '^guest: ' "$WORK/console-check"

step "commit of a guest that writes"
before=$(info .written.bytes)
guest busy "guest: " &
GUEST=$!
await 240 eval "[ \$(info .written.bytes) -gt \$(($before + (1 << 20))) ]" || fails busy "does not write"
rivulet commit vm "$NAME-busy" --json 2>/dev/null | jq -c .
wait "$GUEST" || fails busy "did not end"
rivulet export "$NAME-busy" "$WORK/disk"
status=0
e2fsck -fp "$WORK/disk" || status=$? # 1: it replayed the journal
[ $status -le 1 ] || fail "e2fsck -fp of what was committed under a guest: status $status"
e2fsck -fn "$WORK/disk" || fail "e2fsck -fn of what was committed under a guest"

step "a larger disk"
for id in $(rivulet agent ls --json | jq -r '.[].id'); do rivulet agent detach "$id" --wait 10s; done
rivulet agent attach "$NAME" --writable --overlay "$WORK/vm.overlay" --size 5G --nbd "unix:$SOCKET" --name vm
mkdir "$WORK/mnt"
start "$WORK/nbdfuse.log" nbdfuse "$WORK/mnt" "nbd+unix:///vm?socket=$SOCKET"
later fusermount3 -u "$WORK/mnt"
await 20 test -s "$WORK/mnt/nbd" || fail "nbdfuse"
e2fsck -fp "$WORK/mnt/nbd" >/dev/null || [ $? = 1 ] || fail "e2fsck of the disk"
resize2fs "$WORK/mnt/nbd" || fail "resize2fs"
e2fsck -fn "$WORK/mnt/nbd" || fail "e2fsck -fn of the larger disk"
blocks=$(dumpe2fs -h "$WORK/mnt/nbd" 2>/dev/null | awk '/^Block count:/ { print $3 }')
[ "$blocks" = $((5 << 18)) ] || fail "the file system has $blocks blocks"
fusermount3 -u "$WORK/mnt"
guest check "files right" || fails check "wrong files on the larger disk"
rivulet commit vm "$NAME-larger" --json 2>/dev/null | jq -c .
rivulet verify "$NAME-larger" --reads 20
rivulet agent detach --all --force

step "a mount that is written"
mkdir "$WORK/rw"
mounting() { rivulet mount "$NAME" "$WORK/rw" --writable --overlay "$WORK/rw.overlay"; }
mounting
later umount -l "$WORK/rw"
cp -a "$WORK/rw/usr" "$WORK/rw/copied" &
COPY=$!
for _ in 1 2 3; do sleep 0.3; kill_agent; done
wait "$COPY" || fail "writing over an agent that is killed"
rm -r "$WORK/rw/usr/share"
fstrim "$WORK/rw"
rivulet umount "$WORK/rw"
mounting
diff -r "$WORK/rw/usr/bin" "$WORK/rw/copied/bin" || fail "what was written is not there"
[ ! -e "$WORK/rw/usr/share" ] || fail "what was removed is back"
rivulet umount "$WORK/rw"
rivulet commit "$WORK/rw.overlay" "$NAME-mounted" --json 2>/dev/null | jq -c .
rivulet export "$NAME-mounted" "$WORK/disk"
e2fsck -fn "$WORK/disk" || fail "e2fsck -fn of what was written to a mount"
rivulet overlay rm "$WORK/rw.overlay"

stop "$AGENT"
rivulet fsck
rivulet overlay rm "$WORK/vm.overlay"
[ ! -e "$WORK/vm.overlay" ] || fail "the overlay is still there"
echo "writable: ok"
