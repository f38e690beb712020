#!/bin/sh
# check-cells.sh STORE [PLACE...]: check pointers and indexes of attachments as
# origin.md has them, with tail, head and sha256sum. STORE is a directory store;
# PLACE is relative to it, such as pointers/generations=; by default, all that
# there are. Exit status 0 if all is right, 1 if not; what is wrong is named.
#
# check-cells.sh --print PLACE: write the cell of the value on standard input.
set -eu

# line FILE LENGTH PLACE: the line that ends the cell whose value is the first
# bytes of a file.
line() { printf 'sha256 %s\n' "$({ printf '%s\0' "$3"; head -c "$2" "$1"; } | sha256sum | cut -d' ' -f1)"; }

if [ "$1" = --print ]; then
	value=$(mktemp)
	trap 'rm -f "$value"' EXIT
	tee "$value"
	line "$value" "$(wc -c <"$value")" "$2"
	exit
fi

cd "$1"
shift
[ $# -gt 0 ] || {
	found=$(find . -path '*/pointers/*=' -type f -o -path './generations/*/attachments/*/index' -type f | sed 's|^\./||' | sort)
	IFS='
'
	set -f
	# shellcheck disable=SC2086
	set -- $found
}
status=0
for place; do
	size=$(wc -c <"$place")
	if [ "$size" -lt 72 ] || [ "$(tail -c 72 "$place")" != "$(line "$place" $((size - 72)) "$place")" ]; then
		echo "check-cells: $place: corrupt" >&2
		status=1
	fi
done
[ $status != 0 ] || echo "$# cells are right"
exit $status
