# shellcheck shell=bash disable=SC2154
# codec.sh: part of run.sh. What the chunk codec costs and saves at each level, over
# all images but their older selves, and what starts of programs would fetch.
#
# TOUCHED may name a file that sweep/touched.sh has written; else it is made.
touched=${TOUCHED:-$WORK/touched}
[ -s "$touched" ] || "$BENCH/sweep/touched.sh" "$IMAGES" >"$touched"
jq -r '.manifests[].annotations["org.opencontainers.image.ref.name"] | select(endswith("-old") | not)' "$IMAGES/index.json" | sort -u |
	while read -r image; do
		rivulet --store "dir:$WORK/open" publish "oci:$IMAGES:$image" --name "$image" --open >/dev/null 2>&1
	done
printf '\n## The codec, by level\n'
codec -touched "$touched" "$WORK/open"
rm -r "$WORK/open"
