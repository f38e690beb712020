#!/bin/sh
# check-cache.sh DIR: check a host cache's directory (cache.md), which no process
# should have open, with sha256sum, dd and od alone. Page checksums are not checked,
# but all that they cover is.
# Prints what is wrong; exit status 0 if all is right, 1 if not, 2 if misused.
set -u

if [ $# -ne 1 ]; then
	echo "usage: $0 DIR" >&2
	exit 2
fi
dir=$1
here=$(dirname "$0")
status=0 chunks=0 bytes=0
object=$(mktemp) || exit 1
trap 'rm -f "$object"' EXIT

bad() { echo "$1" >&2; status=1; }

# number FILE OFFSET LENGTH: an unsigned little-endian number.
number() {
	value=0 unit=1
	for byte in $(dd if="$1" bs=1 skip="$2" count="$3" 2>/dev/null | od -An -v -tu1); do
		value=$((value + byte * unit)) unit=$((unit * 256))
	done
	echo "$value"
}

check() {
	file=$1 name=$(basename "$1") folder=$(basename "$(dirname "$1")")
	id=${name%%.*} rest=${name#*.}
	size=${rest%%.*} frames=${rest#"$size"}
	case $frames in '' | .[1-9a-f]*) ;; *) bad "$file: no frames in its name"; return ;; esac
	case ${frames#.} in *[!0-9a-f]*) bad "$file: no frames in its name"; return ;; esac
	case $size in '' | *[!0-9]* | 0*) bad "$file: no size in its name"; return ;; esac
	case $id in "$folder"*) ;; *) bad "$file: in another chunk's folder"; return ;; esac
	all=$(($(wc -c <"$file")))
	tail=$((size + (size + 4095) / 4096 * 4))
	[ "$all" = $((tail + 16)) ] || { bad "$file: $all bytes, want $((tail + 16))"; return; }
	[ "$(dd if="$file" bs=1 skip="$tail" count=4 2>/dev/null)" = rvp1 ] || { bad "$file: no trailer"; return; }
	[ "$(number "$file" $((tail + 4)) 8)" = "$size" ] || { bad "$file: its trailer has another size"; return; }
	head -c "$size" "$file" >"$object"
	sh "$here/check-chunk.sh" "$object" "$id" ${frames:+"${frames#.}"} >/dev/null || { bad "$file: damaged"; return; }
	chunks=$((chunks + 1)) bytes=$((bytes + (all + 4095) / 4096 * 4096))
}

[ "$(cat "$dir/version" 2>/dev/null)" = "rivulet cache 2" ] || { bad "$dir: no cache of version 2"; exit 1; }
for file in "$dir"/chunks/*/*; do
	[ -e "$file" ] || continue # the pattern itself: nothing is held
	check "$file"
done
echo "$chunks chunks, $bytes bytes of the cap"
exit $status
