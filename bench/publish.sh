# shellcheck shell=bash disable=SC2154
# publish.sh: part of run.sh. Publishing python3-sci to a directory store, beside
# reading its layers and nothing else (gzip -dc | sha256sum), and beside the stock way
# to the same end (umoci unpack, mke2fs -d, casync make).
need umoci mke2fs casync gzip sha256sum igzip
[ -x /usr/bin/time ] || skip "GNU time"

image=python3-sci below=python3-numpy

# blobs NAME: the files of an image's layers, lowest first.
blobs() {
	local manifest
	manifest=$(jq -r --arg name "$1" '.manifests[] | select(.annotations["org.opencontainers.image.ref.name"] == $name) | .digest' "$IMAGES/index.json")
	jq -r '.layers[].digest' "$IMAGES/blobs/${manifest/://}" | sed "s|:|/|; s|^|$IMAGES/blobs/|"
}
mapfile -t layers < <(blobs "$image")
mapfile -t known < <(blobs "$image" | grep -Fx -f <(blobs "$below"))
export -f reference

# stock: each of the three steps, and their sums in time, their largest in memory.
stock() {
	local tree=$WORK/stock/tree disk=$WORK/stock/disk
	mkdir "$WORK/stock"
	{
		timed bash -c 'reference "$@"' reference "$IMAGES" "$image" "$tree"
		timed mke2fs -q -F -t ext4 -b 4096 -d "$tree" "$disk" 2G
		timed casync make --chunk-size=524288 --store="$WORK/stock/store.castr" "$WORK/stock/disk.caibx" "$disk"
	} >"$WORK/steps"
	rm -r "$WORK/stock"
	cat "$WORK/steps" >&2
	awk '{ s += $1; c += $3; if ($2 > m) m = $2 } END { print s, m, c }' "$WORK/steps"
}

# measure CASE SUBJECT CMD...: notes time, memory and CPU time.
measure() {
	local what=$1 subject=$2 seconds mib cpu
	shift 2
	read -r seconds mib cpu < <("$@")
	[ -n "${cpu:-}" ] || fail "$what by $subject"
	note "$what" "$subject" "$seconds" >>"$WORK/seconds"
	note "$what" "$subject" "$mib" >>"$WORK/mib"
	note "$what" "$subject" "$cpu" >>"$WORK/cpu"
}

# only_top: publishing an image on a published one must read only the layers that it
# adds; so the others are taken away.
only_top() {
	local copy=$WORK/top layer
	cp -as "$IMAGES" "$copy"
	for layer in "${known[@]}"; do rm "$copy/blobs/${layer#"$IMAGES"/blobs/}"; done
	rivulet --store "dir:$WORK/one" publish "oci:$IMAGES:$below" --name "$below" >/dev/null
	timed "$WORK/bin/rivulet" --store "dir:$WORK/one" publish "oci:$copy:$image" --name "$image"
	rm -r "$copy" "$WORK/one"
}

# Each store lies in a folder of its own until the end: ext4 looks at every inode that was
# freed in the last minute before it gives one out again.
cat "${layers[@]}" >/dev/null # all subjects find the layers in the page cache
for ((round = 1; round <= ROUNDS; round++)); do
	fresh=dir:$WORK/fresh/$round
	measure "publish" rivulet timed "$WORK/bin/rivulet" --store "$fresh" publish "oci:$IMAGES:$image" --name "$image"
	measure "publish" "rivulet, without igzip" timed env RIVULET_GUNZIP=go "$WORK/bin/rivulet" --store "$fresh-go" publish "oci:$IMAGES:$image" --name "$image"
	# shellcheck disable=SC2016
	measure "publish" 'gzip -dc \| sha256sum' timed bash -c 'for l; do gzip -dc "$l" | sha256sum; done' layers "${layers[@]}"
	measure "publish" "umoci, mke2fs, casync" stock
	measure "publish again" rivulet timed "$WORK/bin/rivulet" --store "$fresh" publish "oci:$IMAGES:$image" --name "$image"
	measure "publish after $below, other layers absent" rivulet only_top
done
rm -rf "$WORK/fresh"
printf '\n### Publishing %s (%d layers, %d MB compressed)\n\n' "$image" ${#layers[@]} $(($(cat "${layers[@]}" | wc -c) / 1000000))
median -unit seconds -digits 2 <"$WORK/seconds"
echo
median -unit 'CPU seconds' -digits 2 <"$WORK/cpu"
echo
median -unit 'peak RSS, MiB' <"$WORK/mib"
