#!/bin/sh
# check-chunk.sh FILE [ID [FRAMES]]: check a stored chunk (chunk.md) against its name with
# sha256sum, dd and od alone. Without ID, the file's name is the chunk's. FRAMES, a hexadecimal
# number, says that it is an extract (cache.md): frame i is there if bit i is set.
# Prints the frames; exit status 0 if all is right, 1 if not, 2 if misused.
set -u

if [ $# -lt 1 ] || [ $# -gt 3 ]; then
	echo "usage: $0 FILE [ID [FRAMES]]" >&2
	exit 2
fi
file=$1
id=${2:-$(basename "$file")}
set=${3:-}

bad() { echo "$file: $1" >&2; exit 1; }
# kept I: is frame I of those of $set? By the digit that has it: some shells have numbers of 63 bits.
kept() {
	digit=$((${#set} - $1 / 4))
	[ "$digit" -ge 1 ] && [ $((0x$(printf %s "$set" | cut -c "$digit") >> $1 % 4 & 1)) = 1 ]
}
bytes() { dd if="$file" bs=1 skip="$1" count="$2" 2>/dev/null; } # offset, length
sum() { sha256sum | cut -d' ' -f1; }
hex() { bytes "$1" "$2" | od -An -v -tx1 | tr -d ' \n'; }

# number OFFSET LENGTH: an unsigned little-endian number.
number() {
	value=0 unit=1
	for byte in $(bytes "$1" "$2" | od -An -v -tu1); do
		value=$((value + byte * unit)) unit=$((unit * 256))
	done
	echo "$value"
}

[ -r "$file" ] || bad "cannot be read"
size=$(($(wc -c <"$file")))
[ "$size" -ge 52 ] || bad "$size bytes: too short for a header"
[ "$(hex 0 4)" = 72766331 ] || bad "is no chunk of version 1"

codec=$(number 4 1) log2=$(number 5 1) frames=$(number 6 2) plain=$(number 8 4)
[ "$codec" -le 1 ] || bad "unknown codec $codec"
[ "$log2" -ge 14 ] && [ "$log2" -le 20 ] || bad "frames of 2^$log2 bytes"
[ "$plain" -ge 1 ] && [ "$plain" -le 4194304 ] || bad "$plain bytes of plaintext"
[ "$(number 12 4)" = 0 ] || bad "reserved bytes are not zero"
full=$((1 << log2))
[ "$frames" = $(((plain + full - 1) / full)) ] || bad "$frames frames for $plain bytes"

head=$((16 + 36 * frames))
[ "$size" -ge "$head" ] || bad "ends in the header"
[ "$(bytes 0 "$head" | sum)" = "$id" ] || bad "the header's SHA-256 is not $id"

if [ -n "$set" ]; then
	[ "$frames" -le 64 ] || bad "an extract of $frames frames"
	i=$frames
	while [ "$i" -lt $((4 * ${#set})) ]; do
		kept "$i" && bad "an extract of frames beyond $frames"
		i=$((i + 1))
	done
fi

at=$head i=0 left=$plain lacks=0
while [ "$i" -lt "$frames" ]; do
	length=$(number $((16 + 36 * i)) 4)
	want=$((left < full ? left : full))
	if [ "$codec" = 0 ]; then
		[ "$length" = "$want" ] || bad "raw frame $i: $length bytes stored for $want"
	else
		[ "$length" -ge 1 ] && [ "$length" -le $((want + 64)) ] || bad "frame $i: $length bytes stored for $want"
	fi
	if [ -n "$set" ] && ! kept "$i"; then
		left=$((left - want)) i=$((i + 1)) lacks=1
		continue
	fi
	[ $((at + length)) -le "$size" ] || bad "ends in frame $i"
	[ "$(bytes "$at" "$length" | sum)" = "$(hex $((20 + 36 * i)) 32)" ] || bad "frame $i has another SHA-256"
	echo "frame $i: $length bytes at $at for $want"
	at=$((at + length)) left=$((left - want)) i=$((i + 1))
done
[ -z "$set" ] || [ "$lacks" = 1 ] || bad "an extract with all frames"
[ "$at" = "$size" ] || bad "$((size - at)) bytes behind the last frame"
echo "$file: ok, codec $codec, $plain bytes of plaintext in $frames frames"
