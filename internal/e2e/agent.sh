#!/usr/bin/env bash
# agent.sh [IMAGES_DIR] [NAME]: disks outlive the agent that serves them.
#
# Proves, for one image of an OCI layout (default python3), with a mount and an NBD
# export of it under readers all the time: an agent that is killed with -9 and
# started again, 5 times, fails no read of the mount, and qemu-io with
# reconnect-delay none of the export; 5 upgrades to a new copy of the program fail
# no read and cut no NBD connection (fio's nbd engine never connects again, and
# verifies); an agent that is ended by SIGTERM leaves everything to the next one;
# detach leaves nothing behind. A process with one idle disk takes at most 20 MiB, one of
# many at most 1 MiB for each. With a host cache, an agent that is killed comes back
# though store and daemon are gone and come later: what is cached is read, what is
# not waits for the store, or fails in its time. At the end readers of a mount get an error if no
# agent comes back in time.
#
# Needs root, /dev/fuse, a loop device, fio with the nbd engine, qemu-io, qemu-img.

# In mounts of its own: whoever copies the machine's (ip netns, unshare) would hold
# what is unmounted here.
if [ "$(id -u)" = 0 ] && [ "${OWN_MOUNTS:-}" != 1 ]; then
	OWN_MOUNTS=1 exec unshare --mount --propagation private "${BASH_SOURCE[0]}" "$@"
fi
source "$(dirname "${BASH_SOURCE[0]}")/harness.sh"

if [ $# -gt 0 ] && [ -d "$1" ]; then IMAGES=$(images "$1"); shift; else IMAGES=$(images); fi
NAME=${1:-python3}
need_root
need mount losetup timeout fio qemu-io qemu-img jq curl
[ -c /dev/fuse ] || skip "/dev/fuse"
fio --enghelp=nbd >/dev/null 2>&1 || skip "fio with the nbd engine"
build

MNT=$WORK/mnt
export XDG_STATE_HOME=$WORK/state
mkdir "$MNT"
later umount -l "$MNT"
later rivulet agent detach --all --force
rivulet publish "oci:$IMAGES:$NAME" --name "$NAME"
rivulet export "$NAME" "$WORK/disk"

# agent: starts one and waits until everything attached is there.
agent() {
	"$WORK/bin/rivulet" agent --memory 4M --hold "${HOLD:-60s}" --telemetry "unix:$WORK/seen.sock" >>"$WORK/agent.log" 2>&1 &
	AGENT=$!
	await 60 ready "$1" || { cat "$WORK/agent.log" >&2; fail "agent: $(rivulet agent ls)"; }
}

# seen: what the agent tells of itself.
seen() { curl -sSf --max-time 20 --unix-socket "$WORK/seen.sock" "http://agent/$1"; }

# ready N: whether N attachments are.
ready() { [ "$(rivulet agent ls --json | jq '[.[] | select(.state == "ready")] | length')" = "$1" ]; }

# tree_reader: compares the mounted tree with the image's, cold, until a file says stop.
tree_reader() {
	local rounds=0
	while [ ! -e "$WORK/stop" ]; do
		sync -f "$MNT"
		echo 3 >/proc/sys/vm/drop_caches
		(cd "$MNT" && sha256sum --quiet -c "$WORK/sums") || return 1
		rounds=$((rounds + 1))
	done
	echo "rounds: $rounds"
}

# readers: starts those that must never see an error; settle waits for them.
readers() {
	rm -f "$WORK/stop"
	tree_reader >"$WORK/tree.log" 2>&1 &
	TREE=$!
	PIDS+=($TREE)
}

settle() {
	touch "$WORK/stop"
	wait "$TREE" || { cat "$WORK/tree.log" "$WORK/agent.log" >&2; fail "a reader of the mount got an error"; }
	grep -q '^rounds: [1-9]' "$WORK/tree.log" || fail "nothing was read"
	cat "$WORK/tree.log"
}

# takes PID FIELD: what the process takes, in KiB, by the kernel's exact count.
takes() { awk -v field="$2:" '$1 == field { print $2 }' "/proc/$1/smaps_rollup"; }

step "memory"
serving "$NAME" --agent none --nbd "unix:$WORK/one.sock"
await 30 eval '[ "$(takes "$SERVER" Rss)" -le 20480 ]' || fail "one idle disk takes $(takes "$SERVER" Rss) KiB"
# Of its own it has 4 to 5 MiB: what comes to that is in every process.
[ "$(takes "$SERVER" Anonymous)" -le 8192 ] || fail "one idle disk has $(takes "$SERVER" Anonymous) KiB of its own"
echo "one idle disk: $(takes "$SERVER" Rss) KiB, of it its own: $(takes "$SERVER" Anonymous)"
stop "$SERVER"
agent 0
rivulet agent attach "$NAME" --nbd "unix:$WORK/many.sock" --name first >/dev/null
before=$(takes "$AGENT" Anonymous)
for i in $(seq 20); do rivulet agent attach "$NAME" --nbd "unix:$WORK/many.sock" --name "disk$i" >/dev/null; done
each=$((($(takes "$AGENT" Anonymous) - before) / 20))
echo "one of many: $each KiB"
[ "$each" -le 1024 ] || fail "a disk in a shared process takes $each KiB"
rivulet agent detach --all
stop "$AGENT"

step "attach"
agent 0
rivulet mount "$NAME" "$MNT"
URI=$(rivulet agent attach "$NAME" --nbd "unix:$WORK/nbd.sock" --json | jq -r .address)
(cd "$MNT" && find bin etc usr/bin usr/lib -xdev -type f -size -2048k 2>/dev/null | sort | awk 'NR % 23 == 1 && n++ < 120' | xargs -d '\n' sha256sum) >"$WORK/sums"
[ "$(wc -l <"$WORK/sums")" -gt 20 ] || fail "too few files to read"

step "kill -9 and restart, 5 times"
readers
for i in $(seq 300); do printf 'read %d 4k\nsleep 50\n' $((i * 65536)); done >"$WORK/commands"
timeout 120 qemu-io -r --image-opts "driver=nbd,server.type=unix,server.path=$WORK/nbd.sock,export=$NAME,reconnect-delay=30" <"$WORK/commands" >"$WORK/qemu.log" 2>&1 &
QEMU=$!
PIDS+=($QEMU)
for _ in 1 2 3 4 5; do
	sleep 1
	kill -9 "$AGENT"
	wait "$AGENT" 2>/dev/null || true
	sleep 0.2
	agent 2
done
settle
wait "$QEMU" || { cat "$WORK/qemu.log" >&2; fail "qemu-io over kills"; }
if grep -q 'failed\|rror' "$WORK/qemu.log"; then cat "$WORK/qemu.log" >&2; fail "a read of the export failed"; fi
count=$(grep -c 'read 4096/4096 bytes' "$WORK/qemu.log" || true)
[ "$count" = 300 ] || fail "qemu-io: $count reads of 300"

step "5 upgrades"
readers
timeout 120 fio --name=read --ioengine=nbd --uri="$URI" --rw=randread --bs=4k --size=64m --iodepth=8 --time_based --runtime=15 \
	--output-format=json --output="$WORK/fio.json" >"$WORK/fio.log" 2>&1 &
FIO=$!
PIDS+=($FIO)
for _ in 1 2 3 4 5; do
	sleep 1.5
	cp "$WORK/bin/rivulet" "$WORK/bin/rivulet.new"
	mv "$WORK/bin/rivulet.new" "$WORK/bin/rivulet"
	said=$(timeout 120 "$WORK/bin/rivulet" agent upgrade 2>&1) || fail "upgrade: $said"
	wait "$AGENT" 2>/dev/null || true
	AGENT=${said#served by process }
	AGENT=${AGENT%% *}
done
cp "$WORK/bin/rivulet" "$WORK/rivulet.good"
printf '#!/bin/sh\nexit 1\n' >"$WORK/rivulet.bad"
chmod +x "$WORK/rivulet.bad"
mv "$WORK/rivulet.bad" "$WORK/bin/rivulet"
if "$WORK/rivulet.good" agent upgrade 2>"$WORK/said"; then fail "upgraded to a program that does not run"; fi
grep -q 'the old process goes on' "$WORK/said" || fail "an upgrade that fails: $(cat "$WORK/said")"
mv "$WORK/rivulet.good" "$WORK/bin/rivulet"
settle
wait "$FIO" || { cat "$WORK/fio.log" >&2; fail "fio over upgrades"; }
jq -e '.jobs[0].error == 0 and .jobs[0].read.total_ios > 100' "$WORK/fio.json" >/dev/null || fail "fio: $(jq -c '.jobs[0] | {error, read: .read.total_ios}' "$WORK/fio.json")"
timeout 60 qemu-img compare -f raw -F raw "$URI" "$WORK/disk"

step "seen from outside, after kills and upgrades"
[ "$(seen healthz)" = ok ] || fail "not well: $(seen healthz)"
seen metrics >"$WORK/metrics"
for frontend in nbd mount; do
	awk -v f="rivulet_read_bytes_total{frontend=\"$frontend\"" 'index($0, f) == 1 && $NF > 0 { n++ } END { exit !n }' "$WORK/metrics" ||
		fail "no reads by $frontend: $(grep ^rivulet_read "$WORK/metrics")"
done
awk '/^rivulet_(hung_reads|read_errors)_total/ && $NF > 0 { print; bad = 1 } END { exit bad }' "$WORK/metrics" || fail "reads failed"

step "SIGTERM leaves everything to the next"
readers
kill -TERM "$AGENT"
await 60 eval '! kill -0 "$AGENT"' || fail "the agent does not end"
sleep 0.5
agent 2
settle

step "detach"
if rivulet agent detach nosuch 2>/dev/null; then fail "detached what is not there"; fi
rivulet agent detach --all
if grep -F " $WORK/" /proc/mounts; then fail "left mounted"; fi
[ ! -e "$WORK/nbd.sock" ] || fail "the socket is left"
[ -z "$(ls "$XDG_STATE_HOME/rivulet/agent" | grep -v '^lock$' || true)" ] || fail "state is left"

step "kill -9, and no store"
kill -TERM "$AGENT"
wait "$AGENT" 2>/dev/null || await 30 eval '! kill -0 "$AGENT"'
cached() {
	start "$WORK/cached.log" "$WORK/bin/rivulet" cached --dir "$WORK/cache" --socket "$WORK/cached.sock" --size 1G --min-free 0
	CACHED=$!
	await 30 eval 'rivulet cache stats >/dev/null'
}
export RIVULET_CACHED=$WORK/cached.sock
cached
agent 0
rivulet mount "$NAME" "$MNT"
large=$(find "$MNT/usr" -xdev -type f -size +3M | sort | head -1)
[ -n "$large" ] || fail "no large file"
(cd "$MNT" && sha256sum --quiet -c "$WORK/sums")
kill -9 "$AGENT" "$CACHED"
wait "$AGENT" "$CACHED" 2>/dev/null || true
mv "$WORK/store" "$WORK/store.away"
cached
agent 1
rivulet agent ls | grep -q 'origin has not answered' || fail "nobody is told: $(rivulet agent ls)"
echo 3 >/proc/sys/vm/drop_caches
(cd "$MNT" && sha256sum --quiet -c "$WORK/sums") || { cat "$WORK/agent.log" >&2; fail "a restarted agent does not read what is cached"; }
SECONDS=0
if timeout 120 dd if="$large" of=/dev/null bs=4k count=1 iflag=direct 2>"$WORK/said"; then fail "read what is nowhere"; fi
grep -q 'nput/output error' "$WORK/said" || fail "another error: $(cat "$WORK/said")"
echo "error after $SECONDS s"
timeout 120 dd if="$large" of="$WORK/got" bs=4k count=1 skip=512 iflag=direct 2>"$WORK/said" &
READ=$!
PIDS+=($READ)
sleep 1
kill -0 "$READ" || fail "a read of what is not cached does not wait: $(cat "$WORK/said")"
mv "$WORK/store.away" "$WORK/store"
wait "$READ" || fail "a read of what is not cached, when the store is back: $(cat "$WORK/said")"
rivulet cat "$NAME" "${large#"$MNT"}" >"$WORK/whole"
cmp -n 4096 "$WORK/whole" "$WORK/got" $((512 * 4096)) 0 || fail "wrong bytes"
await 60 eval '! rivulet agent ls | grep -q "has not answered"' || fail "still away: $(rivulet agent ls)"
rivulet agent detach --all
[ -z "$(ls "$XDG_STATE_HOME/rivulet/agent" | grep -v '^lock$' || true)" ] || fail "state is left"
stop "$CACHED"
unset RIVULET_CACHED

step "no agent comes back: an error, not a hang"
kill -TERM "$AGENT"
wait "$AGENT" 2>/dev/null || await 30 eval '! kill -0 "$AGENT"'
await 60 eval '[ ! -e "$XDG_RUNTIME_DIR/rivulet/agent.hold" ]' || fail "the holder stays with nothing to hold"
HOLD=2s agent 0
rivulet mount "$NAME" "$MNT"
kill -9 "$AGENT"
wait "$AGENT" 2>/dev/null || true
echo 3 >/proc/sys/vm/drop_caches
SECONDS=0
if (cd "$MNT" && timeout 30 sha256sum --quiet -c "$WORK/sums") >/dev/null 2>&1; then fail "read without an agent"; fi
[ $SECONDS -lt 25 ] || fail "readers hang for $SECONDS s"
echo "error after $SECONDS s"
agent 1
(cd "$MNT" && sha256sum --quiet -c "$WORK/sums") || fail "an agent that comes back late does not mount anew"
rivulet agent detach "$MNT"
kill -TERM "$AGENT"
wait "$AGENT" 2>/dev/null || true
echo "agent: ok"
