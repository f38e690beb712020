#!/usr/bin/env bash
# layout.sh [CASE...]: rivulet's disks are those of doc/format/ext4-layout.md.
#
# Small images that reach the corners of the page's rules are published and
# exported. The package layout beside this script, which follows the page and
# shares no code with rivulet, makes the same disks, and every block is compared.
# At the first difference it says which block that is and what lies there, and ends.
#
# Needs root, for devices, owners and attributes, and python3.
source "$(dirname "${BASH_SOURCE[0]}")/harness.sh"

need_root
need python3
build
export PYTHONPATH=$E2E PYTHONDONTWRITEBYTECODE=1

# check NAME SIZE SOURCE...: one case; SIZE is in bytes, 0 for none.
check() {
	local name=$1 size=$2 disk=$WORK/disk asked=()
	shift 2
	[ "$size" = 0 ] || asked=(--size "$size")
	rivulet publish "$@" --name "$name" "${asked[@]}" >"$WORK/publish" 2>&1 || {
		cat "$WORK/publish" >&2
		fail "$name: publish"
	}
	rivulet export "$name" "$disk" >"$WORK/export" 2>&1 || {
		cat "$WORK/export" >&2
		fail "$name: export"
	}
	python3 -m layout compare "$disk" "$size" "$@" >"$WORK/compared" 2>&1 || {
		cat "$WORK/compared" >&2
		fail "$name: the disk is not the page's"
	}
	printf "%-22s %s\n" "$name" "$(cat "$WORK/compared")"
	rm "$disk"
}

mkdir "$WORK/cases"
python3 -m layout make "$WORK/cases" >"$WORK/list"
while read -r name size sources <&3; do
	if [ $# -eq 0 ] || [[ " $* " == *" $name "* ]]; then
		# shellcheck disable=SC2086
		check "$name" "$size" $sources
	fi
done 3<"$WORK/list"
echo "layout: ok"
