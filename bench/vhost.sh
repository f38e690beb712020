# shellcheck shell=bash disable=SC2154
# vhost.sh: part of run.sh. Reading a warm disk over vhost-user-blk by a front end of
# our own (vhostload), from rivulet, from rivulet's back end on the exported raw image,
# with and without polling, and from qemu-storage-daemon on that image. Before each
# run the window is read once; it fits into rivulet's memory and the page cache.
need qemu-storage-daemon nbdinfo

image=${BENCH_IMAGE:-python3-sci} window=$((256 << 20)) seconds=${SECONDS_A_RUN:-5}
rivulet publish "oci:$IMAGES:$image" --name "$image" >/dev/null
rivulet export "$image" "$WORK/disk"
serving "$image" --nbd "unix:$WORK/nbd.sock"
read -r at share < <(densest "$URI" $window)
stop "$SERVER"
serving "$image" --vhost-user "$WORK/rivulet.vhost" --memory 512M
start "$WORK/raw.log" "$WORK/bin/vhostload" -serve "$WORK/disk" -socket "$WORK/raw.vhost"
start "$WORK/polled.log" "$WORK/bin/vhostload" -serve "$WORK/disk" -socket "$WORK/polled.vhost" -poll 50us
start "$WORK/qemu.log" qemu-storage-daemon --blockdev "driver=file,node-name=f0,filename=$WORK/disk,read-only=on" \
	--blockdev driver=raw,node-name=r0,file=f0,read-only=on \
	--export "type=vhost-user-blk,id=e0,node-name=r0,addr.type=unix,addr.path=$WORK/qemu.vhost,num-queues=1,writable=off"
declare -A socket=([rivulet]=rivulet [qemu-storage-daemon]=qemu ["rivulet on the raw image"]=raw ["the same, polling"]=polled)
subjects=(rivulet qemu-storage-daemon "rivulet on the raw image" "the same, polling")
for subject in "${subjects[@]}"; do
	await 10 test -S "$WORK/${socket[$subject]}.vhost" || fail "$subject: no socket"
done

# load SUBJECT OPTION...: what vhostload prints for the window.
load() {
	vhostload -socket "$WORK/${socket[$1]}.vhost" -offset "$at" -size $window "${@:2}"
}

for ((round = 1; round <= ROUNDS; round++)); do
	for work in "4 KiB random, depth 1:-bs 4096 -random -depth 1" "4 KiB random, depth 32:-bs 4096 -random -depth 32" \
		"256 KiB sequential, depth 8:-bs 262144 -depth 8"; do
		# Who comes first changes from round to round.
		for subject in "${subjects[@]:(round - 1) % 4}" "${subjects[@]:0:(round - 1) % 4}"; do
			# Pages and frames idle for long may be gone: warm just before.
			load "$subject" -bs 262144 -depth 8 >/dev/null
			# shellcheck disable=SC2086
			read -r rate p99 errors < <(load "$subject" ${work#*:} -for "${seconds}s" | jq -r '"\(.reads_per_second) \(.p99_us) \(.errors)"')
			[ "$errors" = 0 ] || fail "$subject: $errors reads failed"
			note "${work%%:*}" "$subject" "$rate" >>"$WORK/rates"
			note "${work%%:*}" "$subject" "$p99" >>"$WORK/p99"
		done
	done
done
for server in "${PIDS[@]}"; do stop "$server"; done
printf '\n### Serving %s warm over vhost-user-blk (window of %d MiB, %d %% of it data)\n\n' "$image" $((window >> 20)) "$share"
median -unit 'reads/s' <"$WORK/rates"
echo
median -unit 'p99, µs' -digits 0 <"$WORK/p99"
rm "$WORK/disk" "$WORK/rates" "$WORK/p99"
