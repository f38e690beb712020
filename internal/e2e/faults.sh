#!/usr/bin/env bash
# faults.sh [IMAGES_DIR] [GOOD NAME]: what bad input, bad disks and bad luck get.
#
# Proves, with two images of an OCI layout (default base and nginx): damaged layers
# and damaged files of the store give one error that names the object and exit status
# 1, and harm no other image; so do a full disk and a read-only store, which keep
# nothing half-written; publish killed by -9 at random moments resumes and ends in the
# same disk; wrong usage exits 2. SEED repeats a run's moments.
#
# Needs root (for small tmpfs mounts), jq, nbdcopy.
source "$(dirname "${BASH_SOURCE[0]}")/harness.sh"

if [ $# -gt 0 ] && [ -d "$1" ]; then IMAGES=$(images "$1"); shift; else IMAGES=$(images); fi
GOOD=${1:-base}
NAME=${2:-nginx}
need_root
need jq mount nbdcopy timeout
build

# refuses STATUS TEXT ARG...: rivulet ARG... exits with STATUS and one error line,
# which the extended regular expression TEXT matches.
refuses() {
	local want=$1 text=$2 status=0
	shift 2
	timeout 300 "$WORK/bin/rivulet" "$@" >"$WORK/out" 2>"$WORK/err" || status=$?
	if [ $status != "$want" ] || grep -qE '^(panic|goroutine|fatal error)' "$WORK/err"; then
		tail -n 20 "$WORK/err" >&2
		fail "rivulet $*: exit status $status, want $want"
	fi
	[ "$(grep -c '^rivulet: ' "$WORK/err")" = 1 ] || fail "rivulet $*: want one error line: $(cat "$WORK/err")"
	grep '^rivulet: ' "$WORK/err" | grep -qiE -- "$text" || fail "rivulet $*: error does not name $text: $(cat "$WORK/err")"
}

blob() { echo "$1/blobs/${2/://}"; }

# second_layer: digest and diff ID of the second layer of NAME, which GOOD has not.
second_layer() {
	local manifest config
	manifest=$(jq -r --arg name "$NAME" '.manifests[] | select(.annotations["org.opencontainers.image.ref.name"] == $name) | .digest' "$IMAGES/index.json")
	config=$(jq -r .config.digest "$(blob "$IMAGES" "$manifest")")
	echo "$(jq -r '.layers[1].digest' "$(blob "$IMAGES" "$manifest")") $(jq -r '.rootfs.diff_ids[1]' "$(blob "$IMAGES" "$config")")"
}

halve() { truncate -s $(($(stat -c %s "$1") / 2)) "$1"; }

damaged_layers() {
	local layer diff_id copy=$WORK/oci damage
	read -r layer diff_id < <(second_layer)
	for damage in halve flip 'truncate -s 0' rm; do
		cp -as "$IMAGES" "$copy"
		rm "$(blob "$copy" "$layer")"
		cp "$(blob "$IMAGES" "$layer")" "$(blob "$copy" "$layer")"
		$damage "$(blob "$copy" "$layer")"
		refuses 1 "$layer|$diff_id" publish "oci:$copy:$NAME" --name damaged
		refuses 1 damaged verify damaged
		rivulet verify "$GOOD"
		rm -r "$copy"
	done
}

# files: everything in the store, with sizes.
files() { (cd "$1" && find . -type f -printf '%p %s\n' | sort); }

# shapes: the same, without what depends on a store's salt and keys.
shapes() { files "$1" | sed -E 's/[0-9a-f]{16,}/H/g; s|/[0-9a-f]{2}/|/|' | sort; }

# added: files that the store has and $WORK/before does not list, smallest first.
added() { files "$WORK/store" | comm -13 "$WORK/before" - | sort -k 2 -n | cut -d ' ' -f 1; }

# damaged_store: what publishing NAME added to the store, cut short and flipped: the
# largest chunk, each object, each pointer. verify must notice a damaged chunk and
# block map by name; other things it may leave unread. GOOD never suffers.
damaged_store() {
	local store=$WORK/store kind file damage status
	local -A count=([chunks]=0 [objects]=0 [pointers]=0)
	files "$store" >"$WORK/before"
	rivulet publish "oci:$IMAGES:$NAME" --name "$NAME"
	added | sed -n 's|^\./generations/1/\(objects\)/.*|\1 &|p; s|^\./generations/1/\(pointers\)/.*|\1 &|p' >"$WORK/kinds"
	echo "chunks $(added | grep '^./generations/1/chunks/' | tail -n 1)" >>"$WORK/kinds"
	while read -r kind file; do
		cp "$store/$file" "$WORK/saved"
		for damage in halve flip 'truncate -s 0'; do
			chmod u+w "$store/$file"
			$damage "$store/$file"
			status=0
			rivulet verify "$NAME" >"$WORK/out" 2>"$WORK/err" || status=$?
			rivulet verify "$GOOD"
			cp "$WORK/saved" "$store/$file"
			[ $status = 0 ] && continue
			count[$kind]=$((count[$kind] + 1))
			[ $status = 1 ] || fail "verify with a damaged $file: exit status $status"
			[ "$kind" = pointers ] || grep -qF "$(basename "$file")" "$WORK/err" ||
				fail "verify with a damaged $file: error does not name it: $(cat "$WORK/err")"
		done
	done <"$WORK/kinds"
	for kind in "${!count[@]}"; do
		echo "verify noticed ${count[$kind]} times that $kind were damaged"
		[ "${count[$kind]}" -ge 3 ] || fail "verify overlooks damaged $kind"
	done
	rivulet verify "$NAME"
}

# damaged_serving: a damaged chunk is an error to its reader and to nobody else.
damaged_serving() {
	local file
	file=$(added | grep '^./generations/1/chunks/' | tail -n 1)
	chmod u+w "$WORK/store/$file"
	cp "$WORK/store/$file" "$WORK/saved"
	flip "$WORK/store/$file"
	serving "$NAME" "$GOOD" --nbd "unix:$WORK/nbd.sock"
	if timeout 120 nbdcopy "nbd+unix:///$NAME?socket=$WORK/nbd.sock" null: 2>"$WORK/err"; then fail "nbdcopy read a damaged chunk"; fi
	grep -qi 'input/output error' "$WORK/err" || fail "nbdcopy of a damaged chunk: $(cat "$WORK/err")"
	timeout 120 nbdcopy "nbd+unix:///$GOOD?socket=$WORK/nbd.sock" null: || fail "a damaged chunk of $NAME harms $GOOD"
	stop "$SERVER"
	cp "$WORK/saved" "$WORK/store/$file"
}

full_disk() {
	local small=$WORK/small
	mkdir "$small"
	mount -t tmpfs -o size=16m small "$small"
	later umount "$small"
	refuses 1 "no space" --store "dir:$small/store" publish "oci:$IMAGES:$NAME" --name "$NAME"
	refuses 1 "$NAME" --store "dir:$small/store" verify "$NAME"
	mount -o remount,size=2g "$small"
	rivulet --store "dir:$small/store" publish "oci:$IMAGES:$NAME" --name "$NAME"
	rivulet --store "dir:$small/store" verify "$NAME"
	rivulet --store "dir:$WORK/whole" publish "oci:$IMAGES:$NAME" --name "$NAME"
	diff <(shapes "$WORK/whole") <(shapes "$small/store") || fail "a full disk left something half-written"
}

read_only() {
	local small=$WORK/small
	mount -o remount,ro "$small"
	refuses 1 "read-only" --store "dir:$small/store" publish "oci:$IMAGES:$GOOD" --name "$GOOD"
	rivulet --store "dir:$small/store" verify "$NAME"
}

killed() {
	local store=$WORK/killed full want got i pid ms
	want=$(rivulet --store "dir:$WORK/whole" inspect "$NAME" --json | result digest)
	RANDOM=${SEED:=$$}
	SECONDS=0
	rivulet --store "dir:$store" publish "oci:$IMAGES:$NAME" --name "$NAME" >/dev/null
	full=$((SECONDS * 1000 + 500))
	rm -r "$store"
	for i in 1 2 3 4 5 6 7 8; do
		start "$WORK/publish" "$WORK/bin/rivulet" --store "dir:$store" publish "oci:$IMAGES:$NAME" --name "$NAME"
		pid=$!
		ms=$((full * RANDOM / 32768))
		sleep "$(printf '%d.%03d' $((ms / 1000)) $((ms % 1000)))"
		kill -9 "$pid" 2>/dev/null || echo "attempt $i was done before it was killed"
		wait "$pid" 2>/dev/null || true
	done
	got=$(rivulet --store "dir:$store" publish "oci:$IMAGES:$NAME" --name "$NAME" --json 2>"$WORK/err" | result digest)
	[ "$got" = "$want" ] || fail "after kills (SEED=$SEED): digest $got, else $want"
	rivulet --store "dir:$store" verify "$NAME"
}

wrong_use() {
	local args status
	while read -r args; do
		status=0
		# shellcheck disable=SC2086
		timeout 20 "$WORK/bin/rivulet" $args >/dev/null 2>"$WORK/err" </dev/null || status=$?
		[ $status = 2 ] || fail "rivulet $args: exit status $status, want 2"
		[ -s "$WORK/err" ] || fail "rivulet $args: no word about what is wrong"
	done <<-END
		no-such-command
		publish
		publish --no-such-flag oci:x:y
		export $GOOD
		verify
		serve
		serve $GOOD --nbd ftp:x
		mount $GOOD
		umount
		diff $GOOD
		--store no-such-kind:x df
	END
}

absent() {
	refuses 1 no-such-image verify no-such-image
	refuses 1 no-such-image export no-such-image "$WORK/disk"
	[ ! -e "$WORK/disk" ] || fail "export of an absent image left a file"
	refuses 1 "$WORK/no-such-dir" publish "oci:$WORK/no-such-dir:x"
	refuses 1 "$WORK/no-such-file" publish "tar:$WORK/no-such-file"
}

rivulet publish "oci:$IMAGES:$GOOD" --name "$GOOD"
step "wrong usage"; wrong_use
step "absent things"; absent
step "damaged layers"; damaged_layers
step "damaged files of the store"; damaged_store
step "damaged chunk under a reader"; damaged_serving
step "full disk"; full_disk
step "read-only store"; read_only
step "kill -9 while publishing"; killed
echo "faults: ok"
