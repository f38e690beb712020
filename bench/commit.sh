# shellcheck shell=bash disable=SC2154
# commit.sh: part of run.sh. Committing a disk of 2 GiB after 100 MiB of changes,
# in one run of blocks and scattered over the disk by 64 KiB, beside putting as much
# that is sealed already into an empty store, and beside publishing it as a file.
# What is scattered makes each chunk that it meets new, six times as much.
need fio
fio --enghelp=nbd >/dev/null 2>&1 || skip "fio with the nbd engine"

image=python3
changed=$((100 << 20))
rivulet publish "oci:$IMAGES:$image" --name "$image" --size 2G >/dev/null
mkdir "$WORK/file"
head -c $changed /dev/urandom >"$WORK/file/data"
rivulet --store "dir:$WORK/sealed" publish "dir:$WORK/file" --name file >/dev/null

# written NAME FIO-ARG...: a writable disk of the image, changed by fio.
written() {
	local name=$1
	shift
	serving "$image" --writable --overlay "$WORK/$name.overlay" --nbd "unix:$WORK/commit.sock"
	fio --name=write --ioengine=nbd --uri="$URI" --iodepth=8 --io_size=$changed --buffer_compress_percentage=0 \
		--refill_buffers --end_fsync=1 --randrepeat=1 "$@" >"$WORK/log" 2>&1 || { cat "$WORK/log" >&2; fail "fio"; }
	stop "$SERVER"
}
written run --rw=write --bs=1m --offset=1g --size=1g
written scattered --rw=randwrite --bs=64k --size=2g

seconds() { timed "$@" | cut -d' ' -f1; }

for ((round = 1; round <= ROUNDS; round++)); do
	for name in run scattered; do
		# Into a copy of the store each time, or nothing would be new.
		cp -a --reflink=auto "$WORK/store" "$WORK/commit-store"
		sync
		note "$name" commit "$(seconds "$WORK/bin/rivulet" --store "dir:$WORK/commit-store" commit "$WORK/$name.overlay" "committed-$name" --json)"
		rm -r "$WORK/commit-store"
	done >>"$WORK/commit-seconds"
	sync
	{
		note run "put sealed" "$(seconds "$WORK/bin/chunkput" "$WORK/sealed" "dir:$WORK/put$round")"
		note run publish "$(seconds "$WORK/bin/rivulet" --store "dir:$WORK/publish$round" publish "dir:$WORK/file" --name file)"
	} >>"$WORK/commit-seconds"
	rm -r "$WORK/put$round" "$WORK/publish$round"
done
printf '\n### Committing %s MiB of changes in a disk of 2 GiB\n\n' $((changed >> 20))
median -unit seconds -digits 2 <"$WORK/commit-seconds"
