#!/usr/bin/env bash
# vhost.sh [IMAGES_DIR] [NAME]: disks of a virtual machine whose back ends are killed.
#
# Proves, for one image of an OCI layout (default python3): a Linux guest has it twice from
# an agent, by vhost-user-blk, read-only, and with private writes over it (an overlay). It
# reads the files of the first; in the second fio verifies what it writes, and fsx what it
# does to a file, while the agent is killed with -9 KILLS times (default 20) and started
# again: the guest sees no error. It discards, and the host finds the space given back. A
# live upgrade of the agent and its end by SIGTERM are met likewise. What the guest wrote is
# committed, and e2fsck finds nothing in that; the disk is made larger, and a guest that has
# that and the commit finds its files in both.
#
# Needs root, e2fsck, resize2fs, nbdfuse, fio, fsx (cargo install fsx), jq, and for the guests what guest.sh and
# guest-kernel.sh need. Two minutes, most of which QEMU waits between attempts.
source "$(dirname "${BASH_SOURCE[0]}")/harness.sh"

if [ $# -gt 0 ] && [ -d "$1" ]; then IMAGES=$(images "$1"); shift; else IMAGES=$(images); fi
NAME=${1:-python3}
: "${KILLS:=20}"
need_root
need jq fio fsx e2fsck resize2fs nbdfuse ldd qemu-system-x86_64 busybox cpio timeout
KERNEL=$("$E2E/guest-kernel.sh") || exit $?
build
export XDG_STATE_HOME=$WORK/state
RO=$WORK/ro.sock RW=$WORK/rw.sock

# agent: starts one, which brings back what was attached.
agent() {
	"$WORK/bin/rivulet" agent --hold 60s >>"$WORK/agent.log" 2>&1 &
	AGENT=$!
	PIDS+=("$AGENT")
	LOGS+=("$WORK/agent.log")
}

connections() { grep -c 'front end connected' "$WORK/agent.log" || true; }

# connected N: whether the guest has come to both disks since there were N connections.
connected() { [ "$(connections)" -ge $(($1 + 2)) ]; }

word() { [ "$(dd if="$WORK/control" bs=512 skip=1 count=1 status=none | head -c 4)" = "$1" ]; }

info() { rivulet agent ls --json | jq -r ".[] | select(.spec.name == \"writable\")$1"; }

# guest PHASE EXPECT: boots one with both disks.
memory=512
guest() {
	printf 'IMAGE=%s\nPHASE=%s\n' "$READ" "$1" >"$WORK/names"
	timeout 300 "$E2E/guest.sh" --kernel "$KERNEL" --init "$E2E/guest-vhost.init" --modules ext4 --memory $memory --timeout 280 \
		--add "$WORK/sums:sums" --add "$WORK/names:names" --expect "$2" -- \
		-object "memory-backend-memfd,id=mem,size=${memory}M,share=on" -machine memory-backend=mem -global virtio-mmio.force-legacy=false \
		-chardev "socket,id=ro,path=$RO,reconnect=1" -device vhost-user-blk,chardev=ro,num-queues=1 \
		-chardev "socket,id=rw,path=$RW,reconnect=1" -device vhost-user-blk,chardev=rw,num-queues=1 \
		-drive "id=control,file=$WORK/control,format=raw,if=none" -device virtio-blk-device,drive=control,serial=control
}

step "publish, attach"
portable "$WORK/tools" fio fsx
rivulet publish "oci:$IMAGES:$NAME" "dir:$WORK/tools" --name "$NAME" >/dev/null
rivulet export "$NAME" "$WORK/disk"
mkdir "$WORK/mnt"
mount -o loop,ro,noload "$WORK/disk" "$WORK/mnt"
later umount "$WORK/mnt"
(cd "$WORK/mnt" && find bin etc usr/bin usr/lib lab -xdev -type f -size -512k 2>/dev/null | sort | awk 'NR % 97 == 1 && n++ < 60' |
	xargs -d '\n' sha256sum) >"$WORK/sums"
umount "$WORK/mnt"
rm "$WORK/disk"
head -c 4096 /dev/zero >"$WORK/control"
agent
await 60 rivulet agent ls >/dev/null || fail "agent: not ready"
rivulet agent attach "$NAME" --vhost-user "$RO" --name image
rivulet agent attach "$NAME" --writable --overlay "$WORK/vm.overlay" --vhost-user "$RW" --name writable

step "a guest, whose disks' agent is killed $KILLS times"
READ=image
guest load "guest: no error" >"$WORK/console" 2>&1 &
GUEST=$!
PIDS+=("$GUEST")
# The guest works by itself, or has ended.
loaded() { word load || ! child "$GUEST"; }
await 120 loaded && child "$GUEST" || { cat "$WORK/console"; fail "guest: not at work after 120 s"; }
for ((n = 1; n <= KILLS; n++)); do
	seen=$(connections)
	kill -9 "$AGENT"
	wait "$AGENT" 2>/dev/null || true
	begun=$EPOCHREALTIME
	agent
	await 60 rivulet agent ls >/dev/null || fail "agent: does not begin, after $n kills"
	awk -v from="$begun" -v to="$(stat -c %.6Y "$WORK/agent.log")" 'BEGIN { printf "%.0f\n", (to - from) * 1000 }' >>"$WORK/restarts"
	await 30 connected "$seen" || fail "the guest does not come back, after $n kills"
	sleep "0.$((RANDOM % 4 + 2))" # QEMU 7.2 gives a device up whose handshake is cut
done
# Until it wrote "ready", its log's last line; the guest has the processors meanwhile.
sort -n "$WORK/restarts" | awk '{ t[NR] = $1 } END {
	half = t[int((NR + 1) / 2)]
	printf "the agent is back after %d ms (median of %d, most %d)\n", half, NR, t[NR]
	exit half >= 100 }' || fail "the agent takes 100 ms and more to be back"
step "an upgrade, and an end in good order"
seen=$(connections)
AGENT=$(rivulet agent upgrade 2>&1 | sed -n 's/.*served by process \([0-9]*\).*/\1/p')
[ -n "$AGENT" ] || fail "no upgrade"
await 30 connected "$seen" || fail "the guest does not come back after an upgrade"
sleep 0.3
seen=$(connections)
kill "$AGENT"
await 30 eval "! kill -0 $AGENT"
agent
await 30 connected "$seen" || fail "the guest does not come back after the agent has ended"

printf stop | dd of="$WORK/control" conv=notrunc status=none
wait "$GUEST" || { cat "$WORK/console"; fail "guest"; }
grep '^guest: ' "$WORK/console"
grep -q 'guest: wrong file' "$WORK/console" && fail "guest: wrong file"
resubmitted=$(grep -c "requests of an earlier process are done again" "$WORK/agent.log" || true)
# What was under way at a kill was done again, or the kills have proved little.
[ "$resubmitted" -gt 0 ] || fail "no kill met a request under way"
echo "requests taken up again $resubmitted times"
# What fio and fsx wrote, and what was removed, is 40 MiB.
allocated=$(info .written.allocated)
[ "$allocated" -lt $((24 << 20)) ] || fail "$allocated bytes are taken: discards gave nothing back"
echo "$((allocated >> 10)) KiB taken"

step "commit, and a larger disk"
rivulet commit writable "$NAME-committed" --json 2>/dev/null | jq -c .
rivulet export "$NAME-committed" "$WORK/disk"
e2fsck -fn "$WORK/disk" >"$WORK/fsck" 2>&1 || { cat "$WORK/fsck"; fail "e2fsck of what was committed"; }
rm "$WORK/disk"
rivulet agent detach --all --force
rivulet agent attach "$NAME" --writable --overlay "$WORK/vm.overlay" --size 4G --nbd "unix:$WORK/vm.sock" --name vm
start "$WORK/nbdfuse.log" nbdfuse "$WORK/mnt" "nbd+unix:///vm?socket=$WORK/vm.sock"
later fusermount3 -u "$WORK/mnt"
await 20 test -s "$WORK/mnt/nbd" || fail "nbdfuse"
e2fsck -fp "$WORK/mnt/nbd" >"$WORK/fsck" 2>&1 || [ $? = 1 ] || { cat "$WORK/fsck"; fail "e2fsck of the disk"; }
resize2fs "$WORK/mnt/nbd" >"$WORK/log" 2>&1 || { cat "$WORK/log"; fail "resize2fs"; }
e2fsck -fn "$WORK/mnt/nbd" >"$WORK/fsck" 2>&1 || { cat "$WORK/fsck"; fail "e2fsck of the larger disk"; }
fusermount3 -u "$WORK/mnt"
rivulet agent detach --all --force

step "a guest with the commit and the larger disk"
rivulet agent attach "$NAME-committed" --vhost-user "$RO" --name commit
rivulet agent attach "$NAME" --writable --overlay "$WORK/vm.overlay" --vhost-user "$RW" --name writable
READ=commit
guest check "guest: no error" >"$WORK/console" 2>&1 || { cat "$WORK/console"; fail "guest"; }
grep '^guest: ' "$WORK/console"
[ "$(grep -c 'files right' "$WORK/console")" = 2 ] || { cat "$WORK/console"; fail "guest: not all files are right"; }
rivulet agent detach --all --force
echo "vhost: ok"
