# shellcheck shell=bash disable=SC2154
# s3.sh: part of run.sh. Putting the chunks of an image into a bucket behind a link of
# 30 ms, beside rclone's copy of the same files with the same number of connections:
# as it is, and without the requests by which it checks what it has sent. Then the same
# again, when all is there. Then publishing images that are there, beside the same into
# a directory: the difference is round trips.
need rclone
s3_server
unset AWS_CA_BUNDLE # rclone cannot make use of it

image=python3 latency=30ms bandwidth=${BANDWIDTH:-60000000}
fault_proxy -latency "$latency" -bandwidth "$bandwidth" "$S3_ADDR"
rivulet --store "dir:$WORK/source" publish "oci:$IMAGES:$image" --name "$image" >/dev/null 2>&1
chunks=$WORK/source/generations/1/chunks

export RCLONE_CONFIG=/dev/null RCLONE_CONFIG_X_TYPE=s3 RCLONE_CONFIG_X_PROVIDER=Other RCLONE_CONFIG_X_ENDPOINT=http://$PROXY \
	RCLONE_CONFIG_X_REGION=us-east-1 RCLONE_CONFIG_X_FORCE_PATH_STYLE=true RCLONE_CONFIG_X_ENV_AUTH=true

# seconds CMD...: how long CMD takes.
seconds() {
	local begin=$EPOCHREALTIME
	"$@" >"$WORK/log" 2>&1 || { cat "$WORK/log" >&2; fail "$*"; }
	awk -v from="$begin" -v to="$EPOCHREALTIME" 'BEGIN { print to - from }'
}

put_ours() { seconds chunkput -connections "$1" "$WORK/source" "s3://bucket/ours-$1?endpoint=http://$PROXY&connections=$1"; }
put_theirs() {
	local at=$1
	shift
	seconds rclone copy "$chunks" "x:bucket/theirs-$at" --transfers "$at" --checkers "$at" --s3-no-check-bucket "$@"
}

: >"$WORK/put"
for ((round = 1; round <= ROUNDS; round++)); do
	for at in 16 64; do
		rm -rf "$S3_DIR"/bucket/*
		note "put, $at connections" rivulet "$(put_ours $at)" >>"$WORK/put"
		note "put, $at connections" "rclone copy" "$(put_theirs $at)" >>"$WORK/put"
		note "all there, $at connections" rivulet "$(put_ours $at)" >>"$WORK/put"
		note "all there, $at connections" "rclone copy" "$(put_theirs $at)" >>"$WORK/put"
		rm -rf "$S3_DIR/bucket/theirs-$at"
		note "put, $at connections" "rclone copy --s3-no-head" "$(put_theirs $at --s3-no-head --no-traverse)" >>"$WORK/put"
		note "all there, $at connections" "rclone copy --s3-no-head" "$(put_theirs $at --s3-no-head)" >>"$WORK/put"
	done
done
printf '\n### %d chunks, %d MB, to S3 (versitygw) behind %s and %d MB/s\n\n' "$(find "$chunks" -type f | wc -l)" \
	$(($(du -sb "$chunks" | cut -f1) / 1000000)) "$latency" $((bandwidth / 1000000))
median -unit seconds -digits 2 <"$WORK/put"

: >"$WORK/again"
again="s3://bucket/again?endpoint=http://$PROXY"
for name in base python3-sci; do
	for store in "$again" "dir:$WORK/source"; do
		rivulet --store "$store" publish "oci:$IMAGES:$name" --name "$name" --json >"$WORK/first" 2>/dev/null
		layers=$(result layers <"$WORK/first")
		for ((round = 1; round <= ROUNDS; round++)); do
			note "$name, $layers layers" "${store%%:*}" "$(seconds rivulet --store "$store" publish "oci:$IMAGES:$name" --name "$name")" >>"$WORK/again"
		done
	done
done
printf '\n### Publishing again what is there, in S3 behind %s and in a directory\n\n' "$latency"
median -unit seconds -digits 2 <"$WORK/again"
