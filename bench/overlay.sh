# shellcheck shell=bash disable=SC2154
# overlay.sh: part of run.sh. Writing 4 KiB at random places of a disk with private writes
# over NBD, by fio: rivulet's overlay, which encrypts, and a qcow2 file over the exported
# raw image behind qemu-nbd, which does not. "First" writes each block once into a new
# overlay; "again" overwrites what is there; flushed ones are followed by a flush each.
need fio qemu-nbd qemu-img nbdinfo
fio --enghelp=nbd >/dev/null 2>&1 || skip "fio with the nbd engine"

image=python3 window=$((64 << 20)) seconds=${SECONDS_A_RUN:-5}
rivulet publish "oci:$IMAGES:$image" --name $image >/dev/null
rivulet export $image "$WORK/disk"

# begin SUBJECT: a new overlay, and its address in URI.
begin() {
	rm -rf "$WORK/private" "$WORK/private.qcow2" "$WORK/private.sock"
	case $1 in
	rivulet) serving $image --writable --overlay "$WORK/private" --nbd "unix:$WORK/private.sock" ;;
	qcow2)
		qemu-img create -q -f qcow2 -b "$WORK/disk" -F raw "$WORK/private.qcow2"
		start "$WORK/qemu-nbd.log" qemu-nbd -t -f qcow2 -e 32 -k "$WORK/private.sock" "$WORK/private.qcow2"
		await 10 test -S "$WORK/private.sock"
		URI="nbd+unix:///?socket=$WORK/private.sock"
		;;
	esac
}

# cpu PID: microseconds that a process has used.
cpu() { awk -v hz="$(getconf CLK_TCK)" '{ sub(/.*\) /, ""); printf "%.0f", ($12 + $13) * 1e6 / hz }' "/proc/$1/stat"; }

# random_write CASE SUBJECT NAME=VALUE...: notes writes a second, and what one took of the
# server's CPU time.
random_write() {
	local case=$1 subject=$2 before
	before=$(cpu "${PIDS[-1]}")
	shift 2
	fio --name=write --ioengine=nbd --uri="$URI" --rw=randwrite --bs=4k --offset="$at" --size=$window --refill_buffers "$@" \
		--output-format=json --output="$WORK/fio.json" >"$WORK/log" 2>&1 || { cat "$WORK/log" >&2; fail "fio on $URI"; }
	note "$case" "$subject" "$(jq '.jobs[0].write.iops' "$WORK/fio.json")" >>"$WORK/rates"
	note "$case" "$subject" "$(jq --argjson us $(($(cpu "${PIDS[-1]}") - before)) '$us / .jobs[0].write.total_ios' "$WORK/fio.json")" >>"$WORK/cpu"
}

serving $image --nbd "unix:$WORK/plain.sock"
read -r at _ < <(densest "$URI" $window)
stop "$SERVER"
subjects=(rivulet qcow2)
for ((round = 0; round < ROUNDS; round++)); do
	for subject in "${subjects[@]:round % 2}" "${subjects[@]:0:round % 2}"; do
		for depth in 1 16; do
			begin "$subject"
			random_write "first, depth $depth" "$subject" --iodepth=$depth
			random_write "again, depth $depth" "$subject" --iodepth=$depth --norandommap --time_based --runtime="$seconds"
			random_write "again, flushed, depth $depth" "$subject" --iodepth=$depth --norandommap --fsync=1 --time_based --runtime="$seconds"
			stop "${PIDS[-1]}"
		done
	done
done
printf '\n### Private writes of 4 KiB, random in %d MiB of %s\n\n' $((window >> 20)) $image
median -unit 'writes/s' <"$WORK/rates"
echo
median -unit 'CPU µs of the server' -digits 1 <"$WORK/cpu"
rm -rf "$WORK/disk" "$WORK/rates" "$WORK/cpu" "$WORK/private" "$WORK/private.qcow2"
