# shellcheck shell=bash disable=SC2154
# serve.sh: part of run.sh. Reading a warm disk over a unix socket by fio's nbd
# engine, from rivulet, and from nbdkit and qemu-nbd on the exported raw image.
# Before each run the window is read once; it fits into rivulet's memory and the page cache.
need fio nbdkit qemu-nbd nbdinfo
fio --enghelp=nbd >/dev/null 2>&1 || skip "fio with the nbd engine"

image=python3-sci window=$((256 << 20)) seconds=${SECONDS_A_RUN:-5}
rivulet publish "oci:$IMAGES:$image" --name $image >/dev/null
rivulet export $image "$WORK/disk"
serving $image --nbd "unix:$WORK/rivulet.sock" --memory 512M
start "$WORK/nbdkit.log" nbdkit -f -r -U "$WORK/nbdkit.sock" file "$WORK/disk"
start "$WORK/qemu-nbd.log" qemu-nbd -r -t -f raw -e 32 -k "$WORK/qemu-nbd.sock" "$WORK/disk"
await 10 test -S "$WORK/nbdkit.sock"
await 10 test -S "$WORK/qemu-nbd.sock"
declare -A uri=([rivulet]=$URI ["nbdkit file"]="nbd+unix:///?socket=$WORK/nbdkit.sock" [qemu-nbd]="nbd+unix:///?socket=$WORK/qemu-nbd.sock")
subjects=(rivulet "nbdkit file" qemu-nbd)
read -r at share < <(densest "$URI" $window)

for ((round = 1; round <= ROUNDS; round++)); do
	for load in "4 KiB random, depth 1:--bs=4k --rw=randread --iodepth=1" "4 KiB random, depth 16:--bs=4k --rw=randread --iodepth=16" \
		"4 KiB random, depth 64:--bs=4k --rw=randread --iodepth=64" "256 KiB sequential, depth 8:--bs=256k --rw=read --iodepth=8"; do
		# Who comes first changes from round to round.
		for subject in "${subjects[@]:round % 3}" "${subjects[@]:0:round % 3}"; do
			# Pages and frames idle for long may be gone: warm just before.
			random_read "${uri[$subject]}" --bs=256k --rw=read --iodepth=8 --offset="$at" --size=$window >/dev/null
			# shellcheck disable=SC2086
			read -r rate p99 < <(random_read "${uri[$subject]}" ${load#*:} --offset="$at" --size=$window --time_based --runtime="$seconds" |
				jq -r '"\(.iops) \(.clat_ns.percentile."99.000000" / 1000)"')
			note "${load%%:*}" "$subject" "$rate" >>"$WORK/rates"
			note "${load%%:*}" "$subject" "$p99" >>"$WORK/p99"
		done
	done
done
for server in "${PIDS[@]}"; do stop "$server"; done
printf '\n### Serving %s warm (window of %d MiB, %d %% of it data)\n\n' $image $((window >> 20)) "$share"
median -unit 'reads/s' <"$WORK/rates"
echo
median -unit 'p99, µs' -digits 0 <"$WORK/p99"
rm "$WORK/disk" "$WORK/rates" "$WORK/p99"
