#!/usr/bin/env bash
# dedupe.sh [IMAGES_DIR] [NAME...]: how much disks share, and what a change costs.
#
# Proves, for the named images of an OCI layout (all of them unless some are named):
# what all chunks take together is close to what each file once would take; NAME
# makes no more chunks new after NAME-old than the project promises. And with real
# layers, changed by dedupe.py: one small file of a large layer changed (node-npm), a
# package more in a layer (python3), 100 MiB of new files on a mounted, writable disk
# (python3). A part whose image is not there is left out, and says so; with
# RIVULET_E2E_STRICT=1 an image that was named must be there.
#
# Needs python3, jq; root, e2fsck and a loop device for the writable disk.
source "$(dirname "${BASH_SOURCE[0]}")/harness.sh"

if [ $# -gt 0 ] && [ -d "$1" ]; then IMAGES=$(images "$1"); shift; else IMAGES=$(images); fi
need jq python3
build
for tool in uniquechunks uniquefiles; do (cd "$ROOT" && go build -o "$WORK/bin/" ./bench/$tool); done
PATH=$WORK/bin:$PATH

mapfile -t present < <(jq -r '.manifests[].annotations["org.opencontainers.image.ref.name"]' "$IMAGES/index.json" | sort)
chosen=("$@")
[ $# -gt 0 ] || chosen=("${present[@]}")
names=() # that are no older ones
for name in "${chosen[@]}"; do
	if ! [[ " ${present[*]} " == *" $name "* ]]; then
		[ "${RIVULET_E2E_STRICT:-}" = 1 ] && fail "no image $name"
		echo "not done: the layout has no image $name"
	elif [[ $name != *-old ]]; then
		names+=("$name")
	fi
done

# have NAME WHAT: whether WHAT can be checked, which takes image NAME.
have() {
	[[ " ${chosen[*]} " == *" $1 "* && " ${present[*]} " == *" $1 "* ]] && return
	echo "not done: $2 takes image $1"
	return 1
}

# at_most N BOUND WHAT: fails at the end if N is above BOUND.
broken=()
at_most() {
	printf '%s: %s, at most %s\n' "$3" "$1" "$2"
	awk -v n="$1" -v most="$2" 'BEGIN { exit n > most }' && return
	broken+=("$3: $1 is above $2")
}

# publish STORE SOURCE...: prints what publish --json says.
publish() {
	local store=$1
	shift
	rivulet --store "dir:$store" publish "$@" --json 2>"$WORK/progress" || { tail -n 5 "$WORK/progress" >&2; return 1; }
}

# new_share NAME: the largest per cent of chunks that may be new after NAME-old. For
# images without a promise (an update may bring other versions of all it holds) all.
new_share() {
	case $1 in
	python3 | nginx | postgres | python3-numpy) echo 30 ;;
	nodejs) echo 36 ;;
	esac
}

check_all() {
	step "all images"
	[ ${#names[@]} -gt 0 ] || { echo "not done: no images"; return; }
	# shellcheck source=/dev/null
	source "$ROOT/bench/dedupe.sh"
	# The bounds are those of the whole set: few images have few files in common.
	if [ ${#names[@]} -ge 20 ]; then broken+=("${over[@]}"); fi
}

# check_update NAME: the share of its chunks that NAME-old has not.
check_update() {
	local report share most what="$1 after $1-old, per cent of chunks new"
	publish "$WORK/all" "oci:$IMAGES:$1-old" --name "$1-old" >/dev/null
	report=$(rivulet --store "dir:$WORK/all" diff "$1-old" "$1" --json)
	share=$(jq '10000 * .only_b_chunks / (.only_b_chunks + .shared_chunks) | round / 100' <<<"$report")
	most=$(new_share "$1")
	if [ -n "$most" ]; then at_most "$share" "$most" "$what"; else printf '%s: %s\n' "$what" "$share"; fi
}

# stack STORE NAME DIR N: publishes the layers in DIR one above the other, with
# $WORK/edited.tar in place of layer N.
stack() {
	local store=$1 name=$2 dir=$3 edited=$4 i sources=()
	for ((i = 0; ; i++)); do
		[ -e "$dir/$i.tar" ] || break
		if [ "$i" = "$edited" ]; then sources+=("tar:$WORK/edited.tar"); else sources+=("tar:$dir/$i.tar"); fi
	done
	publish "$store" "${sources[@]}" --name "$name"
}

# largest DIR: the number of the largest layer above the lowest.
largest() { find "$1" -name '[1-9]*.tar' -printf '%s %f\n' | sort -n | tail -n 1 | sed 's/.* //; s/\.tar$//'; }

check_change() {
	local layers=$WORK/layers at how new file most n
	step "one small file changed"
	have node-npm "a changed file" || return 0
	python3 "$E2E/dedupe.py" layers "$IMAGES" node-npm "$layers"
	n=$(largest "$layers")
	stack "$WORK/change" before "$layers" none >/dev/null
	for at in 25 50 75; do
		for how in same longer shorter gone; do
			file=$(python3 "$E2E/dedupe.py" change $how $at "$layers/$n.tar" "$WORK/edited.tar")
			stack "$WORK/change" $how-$at "$layers" "$n" >/dev/null
			new=$(rivulet --store "dir:$WORK/change" diff before $how-$at --json | jq .only_b_chunks)
			# The promise is for a changed file. With one that is gone, its directory changes too.
			most=4
			[ $how = gone ] && most=6
			at_most "$new" $most "node-npm with /$file changed ($how): chunks new"
		done
	done
	rm -r "$layers" "$WORK/change" "$WORK/edited.tar"
}

# grown FIELD: by how many per cent the second line of counts is above the first.
grown() { jq -s "map($1) | 10000 * (.[1] / .[0] - 1) | round / 100" "$WORK/counts"; }

check_package() {
	local layers=$WORK/layers
	step "one package more"
	have python3 "a package more" || return 0
	python3 "$E2E/dedupe.py" layers "$IMAGES" python3 "$layers"
	python3 "$E2E/dedupe.py" package "$layers/1.tar" "$WORK/edited.tar"
	stack "$WORK/package" before "$layers" none >/dev/null
	uniquechunks "$WORK/package" >"$WORK/counts"
	stack "$WORK/package" after "$layers" 1 >/dev/null
	uniquechunks "$WORK/package" >>"$WORK/counts"
	at_most "$(grown .data.chunks)" 5 "python3 with a package more: per cent of data chunks new"
	at_most "$(grown '.data.chunks + .metadata.chunks')" 7 "python3 with a package more: per cent of chunks new"
	rm -r "$layers" "$WORK/package" "$WORK/edited.tar"
}

# fill DIR: 100 MiB of new files: half in files of 1 MiB, half in files of 64 KiB.
fill() {
	mkdir "$1/srv/new"
	head -c $((100 << 20)) /dev/urandom >"$WORK/noise"
	split -a 3 -d -b 1M <(head -c $((50 << 20)) "$WORK/noise") "$1/srv/new/large-"
	split -a 3 -d -b 64K <(tail -c $((50 << 20)) "$WORK/noise") "$1/srv/new/small-"
	rm "$WORK/noise"
}

check_writes() {
	local disk=$WORK/disk dirty slots
	step "100 MiB of new files"
	have python3 "a writable disk" || return 0
	need_root
	need e2fsck mount
	publish "$WORK/store" "oci:$IMAGES:python3" --name python3 >/dev/null
	rivulet export python3 "$disk"
	cp --sparse=always "$disk" "$disk.written"
	mkdir "$WORK/mnt"
	mount -o loop,rw "$disk.written" "$WORK/mnt"
	later umount "$WORK/mnt"
	fill "$WORK/mnt"
	umount "$WORK/mnt"
	e2fsck -fn "$disk.written" >"$WORK/fsck" 2>&1 || { cat "$WORK/fsck" >&2; fail "e2fsck finds errors on the written disk"; }
	dirty=$(python3 "$E2E/dedupe.py" dirty "$disk" "$disk.written")
	at_most "$(wc -l <<<"$dirty")" 220 "chunks dirtied by 100 MiB"
	# A slot has room behind its segment, and new files may lie there: those chunks
	# held nothing. Those that held file data are shared with other images.
	slots=$(rivulet inspect python3 --json | jq -r '.layers[] | range(.first_chunk; .first_chunk + .slot_chunks)')
	at_most "$(awk '$2 == "held" { print $1 }' <<<"$dirty" | grep -cFxf <(echo "$slots") || true)" 0 "chunks with file data dirtied"
	rm "$disk" "$disk.written"
	rmdir "$WORK/mnt"
}

check_change
check_package
check_writes
check_all
step "after an update"
for name in "${names[@]}"; do
	if [[ " ${chosen[*]} " == *" $name-old "* && " ${present[*]} " == *" $name-old "* ]]; then check_update "$name"; fi
done
if [ ${#broken[@]} -gt 0 ]; then
	printf 'above its bound: %s\n' "${broken[@]}" >&2
	fail "${#broken[@]} bounds do not hold"
fi
echo "dedupe: ok"
