# shellcheck shell=bash disable=SC2154
# cold.sh: part of run.sh. Reading a disk that is not here yet: rivulet on a directory
# store behind 5 ms a request (coldserve), beside the strongest stock set-up,
# qemu-storage-daemon with its http driver under qcow2 and copy-on-read, on the raw
# image behind an HTTP server with the same delay (slowhttp).
need fio nbdinfo nbdcopy qemu-storage-daemon qemu-img curl
fio --enghelp=nbd >/dev/null 2>&1 || skip "fio with the nbd engine"

image=python3 window=$((40 << 20)) amount=$((8 << 20))
rivulet publish "oci:$IMAGES:$image" --name $image --open >/dev/null
mkdir "$WORK/www"
rivulet export $image "$WORK/www/disk"
size=$(stat -c %s "$WORK/www/disk")

# cold_SUBJECT: starts it with nothing local, and sets URI and STATS.
cold_rivulet() {
	start "$WORK/cold.log" coldserve -delay 5ms "${RIVULET_STORE#dir:}" $image "$WORK/cold.sock"
	await 20 grep -q '^ready ' "$WORK/cold.log" || fail "coldserve: $(cat "$WORK/cold.log")"
	URI=$(sed -n 's/^ready //p' "$WORK/cold.log")
	STATS=$(sed -n 's/^stats //p' "$WORK/cold.log")
}
cold_qemu() {
	local http
	start "$WORK/slow.log" slowhttp -delay 5ms "$WORK/www"
	await 20 grep -q '^ready ' "$WORK/slow.log" || fail "slowhttp: $(cat "$WORK/slow.log")"
	http=$(sed -n 's/^ready //p' "$WORK/slow.log")
	STATS=$http/.stats
	qemu-img create -q -f qcow2 -o cluster_size=512k "$WORK/overlay" "$size"
	start "$WORK/cold.log" qemu-storage-daemon --blockdev "driver=http,node-name=http,url=$http/disk,read-only=on" \
		--blockdev "driver=file,node-name=file,filename=$WORK/overlay" --blockdev driver=qcow2,node-name=overlay,file=file,backing=http \
		--blockdev driver=copy-on-read,node-name=copy,file=overlay --nbd-server "addr.type=unix,addr.path=$WORK/cold.sock,max-connections=16" \
		--export type=nbd,id=export,node-name=copy,name=disk
	URI="nbd+unix:///disk?socket=$WORK/cold.sock"
	await 20 nbdinfo --size "$URI" >/dev/null || fail "qemu-storage-daemon: $(cat "$WORK/cold.log")"
}
stop_all() {
	for server in "${PIDS[@]}"; do stop "$server"; done
	PIDS=()
	rm -f "$WORK/cold.sock" "$WORK/overlay"
}

# figures SUBJECT: random reads, then the whole disk, each with what it cost the store.
figures() {
	local before began
	random_read "$URI" --bs=4k --rw=randread --iodepth=16 --offset="$at" --size=$window --io_size=$amount --randseed="$round" >"$WORK/read"
	before=$(curl -sf "$STATS")
	note "reads/s, 4 KiB random, depth 16" "$1" "$(jq .iops "$WORK/read")"
	note "p50, ms" "$1" "$(jq '.clat_ns.percentile."50.000000" / 1e6' "$WORK/read")"
	note "p99, ms" "$1" "$(jq '.clat_ns.percentile."99.000000" / 1e6' "$WORK/read")"
	note "requests to the store" "$1" "$(jq .requests <<<"$before")"
	note "MB fetched" "$1" "$(jq '.bytes / 1e6' <<<"$before")"
	note "most in flight" "$1" "$(jq .max_in_flight <<<"$before")"
	began=$EPOCHREALTIME
	timeout 600 nbdcopy --no-extents "$URI" null:
	note "then the whole disk, s" "$1" "$(awk -v a="$began" -v b="$EPOCHREALTIME" 'BEGIN { print b - a }')"
	note "MB fetched in the end" "$1" "$(curl -sf "$STATS" | jq '.bytes / 1e6')"
}

cold_rivulet
read -r at share < <(densest "$URI" $window)
stop_all
for ((round = 1; round <= ROUNDS; round++)); do
	for subject in rivulet qemu; do
		echo 3 >/proc/sys/vm/drop_caches
		cold_$subject
		figures "${subject/qemu/qemu-storage-daemon}" >>"$WORK/cold"
		stop_all
	done
done
printf '\n### Cold, 5 ms a request (%s; %d MiB of reads in %d MiB, %d %% of it data)\n\n' $image $((amount >> 20)) $((window >> 20)) "$share"
median -unit '' -digits 2 <"$WORK/cold"
