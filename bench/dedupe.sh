# shellcheck shell=bash disable=SC2154
# dedupe.sh: part of run.sh and of the end-to-end checks. What all images take
# together, beside the bounds: each file's content once, and the images' gzip layers.
# Takes the images in names, or all that are no older ones. Leaves the rows that are
# above their bounds in over, and the images in the store $WORK/all.
[ -v names ] || mapfile -t names < <(jq -r '.manifests[].annotations["org.opencontainers.image.ref.name"] | select(endswith("-old") | not)' "$IMAGES/index.json" | sort)
for name in "${names[@]}"; do
	rivulet --store "dir:$WORK/all" publish "oci:$IMAGES:$name" --name "$name" >/dev/null 2>&1 || fail "publish $name"
done
chunks=$(uniquechunks "$WORK/all")
files=$(uniquefiles "$IMAGES" "${names[@]}")

# line WHAT BYTES OF BYTES BOUND: a row with the ratio.
over=()
line() {
	awk -v what="$1" -v a="$2" -v of="$3" -v b="$4" -v most="$5" 'BEGIN { printf "| %s | %.1f | %s | %.1f | %.3f | %s |\n", what, a / 1e6, of, b / 1e6, a / b, most; exit most != "" && a / b > most }' ||
		over+=("$1 over $3: more than $5")
}

printf '\n### Deduplication over %d images\n\n| | MB | beside | MB | ratio | at most |\n| --- | ---: | --- | ---: | ---: | ---: |\n' ${#names[@]}
data=$(jq .data.bytes <<<"$chunks")
stored=$(jq '.data.stored_bytes + .metadata.stored_bytes' <<<"$chunks")
line "data chunks before the codec" "$data" "unique files, rounded up to 4 KiB" "$(jq .unique_bytes <<<"$files")" 1.04
line "all chunks as stored" "$stored" "unique files by the same codec" "$(jq .unique_zstd <<<"$files")" 1.03
line "all chunks as stored" "$stored" "gzip layers, images singly" "$(jq .layer_bytes <<<"$files")" 1.1
line "all chunks as stored" "$stored" "gzip layers, each once" "$(jq .unique_layers <<<"$files")" ""
line "all files of all images" "$(jq .file_bytes <<<"$files")" "unique files, rounded up to 4 KiB" "$(jq .unique_bytes <<<"$files")" ""
