#!/bin/sh
# check-vectors.sh [ROOT]: check the test vectors of chunk.md, blockmap.md and
# origin.md with openssl, zstd and age, and dd, od and sha256sum to cut and compare.
# ROOT is the folder that has chunk/testdata, domain/testdata, seal/testdata and
# seal/kmswrap/testdata; by default that of this script's checkout. Exit status 0
# if all is right, 1 if not.
#
# What openssl's command line cannot do is check the tag of AES-GCM. It decrypts
# GCM all the same: that is counter mode from nonce ‖ 00000002 on.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
root=${1:-$here/../..}
chunks=$root/chunk/testdata vectors=$root/seal/testdata pointers=$root/domain/testdata
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT

bad() { echo "check-vectors: $1" >&2; exit 1; }
same() { [ "$2" = "$3" ] || bad "$1: $2, want $3"; echo "$1: $2"; }

# bin HEX: the bytes. hex [FILE]: their digits. cut FILE OFFSET LENGTH: a part.
bin() {
	rest=$1
	octal=
	while [ -n "$rest" ]; do
		pair=$((0x${rest%"${rest#??}"})) rest=${rest#??}
		octal=$octal\\$((pair / 64))$((pair / 8 % 8))$((pair % 8))
	done
	# shellcheck disable=SC2059
	printf "$octal"
}
hex() { od -An -v -tx1 ${1:+"$1"} | tr -d ' \n'; }
cut_file() { dd if="$1" bs=1 skip="$2" count="$3" 2>/dev/null; }
part() { cut_file "$1" "$2" "$3" | hex; }
number() { # little-endian, of FILE at OFFSET, LENGTH bytes
	value=0 unit=1
	for byte in $(cut_file "$1" "$2" "$3" | od -An -v -tu1); do
		value=$((value + byte * unit)) unit=$((unit * 256))
	done
	echo "$value"
}
sum() { sha256sum | cut -d' ' -f1; }
word() { printf %s "$1" | hex; }
hkdf() { # SECRET SALT INFO, all in hexadecimal; an empty salt is none
	openssl kdf -keylen 32 -kdfopt digest:SHA256 -kdfopt hexkey:"$1" ${2:+-kdfopt hexsalt:"$2"} -kdfopt hexinfo:"$3" -binary HKDF | hex
}
ctr() { openssl enc -d -aes-256-ctr -K "$1" -iv "$2"; } # KEY, first counter block

# --- the salt: magic ‖ ID ‖ epoch ‖ secret ‖ domain
salt=$vectors/salt
same "salt: magic" "$(part "$salt" 0 8)" "$(word rvsalt1)0a"
salt_id=$(part "$salt" 8 16) epoch=$(part "$salt" 24 4) secret=$(part "$salt" 28 32) domain=$(part "$salt" 60 64)
same "salt: secret" "$secret" "$(printf secret | sum)"
same "salt: ID" "$salt_id" "$(bin "$(word 'rivulet salt v1')${domain}00$epoch$secret" | sum | cut -c1-32)"

# open_chunk NAME ID KEY: decrypt and decode a chunk into $tmp/NAME, and derive
# its key again from what was encrypted.
open_chunk() {
	file=$chunks/$1.chunk
	sh "$here/check-chunk.sh" "$file" "$2" >/dev/null || bad "$1: damaged"
	codec=$(number "$file" 4 1) frames=$(number "$file" 6 2)
	at=$((16 + 36 * frames)) frame=0 lengths=
	: >"$tmp/coded"
	: >"$tmp/$1"
	while [ "$frame" -lt "$frames" ]; do
		length=$(number "$file" $((16 + 36 * frame)) 4)
		lengths=$lengths$(part "$file" $((16 + 36 * frame)) 4)
		cut_file "$file" "$at" "$length" | ctr "$3" "$(printf %016x%016x "$frame" 0)" >"$tmp/coded-frame"
		cat "$tmp/coded-frame" >>"$tmp/coded"
		if [ "$codec" = 1 ]; then
			zstd -dcq <"$tmp/coded-frame" >>"$tmp/$1" || bad "$1: frame $frame does not decode"
		else
			cat "$tmp/coded-frame" >>"$tmp/$1"
		fi
		at=$((at + length)) frame=$((frame + 1))
	done
	same "$1: key" "$(hkdf "$(sum <"$tmp/coded")" "$secret" "$(word 'rivulet chunk key v1')$salt_id$(part "$file" 4 8)$lengths")" "$3"
}

# --- the chunks: names and keys as chunk.md has them
open_chunk one 607c47863c64f06fb111265c3bc3bad86888887378f875be82227cc47ab381d6 cb8cae3679b9279cf9dbda3cda7576bbe89ceb8d6666f7924d355a4065edc82e
same "one: plaintext" "$(hex "$tmp/one")" 01
open_chunk raw 6e0790f59616dac24bdccc5deb1a73c3768b51e4d463d261965fac30da5a2b3d a27541453e0e163d7a7c3a8d9b823dd25cc7f5e24248bef3671e19fdab9c48d4
same "raw: plaintext" "$(sum <"$tmp/raw")" "$(seq 4000 | sum)"
open_chunk zstd 7d752bf142c3fb77356a5557930ca55367a6146847f0af6173f9297d7f7b4086 c0264cab9b33cb363089ef1f36c2aab6eaa65303431d44b3b6516d5c6c8109e0
same "zstd: plaintext" "$(sum <"$tmp/zstd")" "$(seq 9000 | sum)"

# A page of a raw frame opens alone: 4 KiB at 8192 of frame 0, block 512.
same "raw: a page" "$(cut_file "$chunks/raw.chunk" $((16 + 36 * 2 + 8192)) 4096 | ctr a27541453e0e163d7a7c3a8d9b823dd25cc7f5e24248bef3671e19fdab9c48d4 "$(printf %016x%016x 0 512)" | sum)" \
	"$(seq 4000 | dd bs=4096 skip=2 count=1 2>/dev/null | sum)"

# --- the block map: the image key from age; the chunks' keys and the configuration by it
map=$vectors/sealed.blockmap
same "block map: name" "$(sum <"$map")" 2cdde21147b46d1de7d544958e1d410f9969ab34881aa8ca158701c1669262bc
same "block map: version" "$(number "$map" 8 4)" 2
same "block map: lock" "$(number "$map" 176 4)" 1
same "block map: salt" "$(part "$map" 160 16)" "$salt_id"
age -d -i "$vectors/identity" "$map.age" >"$tmp/key" || bad "the image key does not come out of its age file"
same "image key" "$(hex "$tmp/key")" "$(printf 'image key' | sum)"
nonce=$(part "$map" 180 12) table=$(number "$map" 208 8) count=$(number "$map" 216 4) keys=$(number "$map" 224 8) length=$(number "$map" 240 8)
same "block map: configuration at" "$(number "$map" 232 8)" $((keys + 32 * count))
same "block map: end" $((keys + 32 * count + length + 16)) "$(($(wc -c <"$map")))"
cut_file "$map" "$keys" $((32 * count + length)) | ctr "$(hex "$tmp/key")" "${nonce}00000002" >"$tmp/secret"
same "block map: configuration" "$(cut_file "$tmp/secret" $((32 * count)) "$length")" '{"os":"linux"}'
{
	part "$map" 12 4
	part "$map" 16 8
	i=0
	for name in raw zstd; do
		entry=$((table + 44 * i))
		id=$(part "$map" $((entry + 12)) 32) key=$(part "$tmp/secret" $((32 * i)) 32)
		open_chunk "$name" "$id" "$key" >&2
		size=$(number "$map" $((entry + 8)) 4)
		[ "$size" = "$(($(wc -c <"$tmp/$name")))" ] || bad "$name: $size bytes in the block map"
		offset=$(printf %016x $(($(number "$map" "$entry" 4) << $(number "$map" 24 4)))) # little-endian next
		while [ -n "$offset" ]; do
			printf %s "${offset#"${offset%??}"}"
			offset=${offset%??}
		done
		sum <"$tmp/$name" | tr -d '\n'
		i=$((i + 1))
	done
} >"$tmp/digest"
same "block map: disk digest" "$(part "$map" 32 32)" "$(bin "$(cat "$tmp/digest")" | sum)"

# --- its signature: Ed25519 over BLAKE2b-512, and over the signature and the
# trusted comment; in the file, two letters of algorithm and eight bytes of key
# ID come first
line() { sed -n "$2p" "$1"; }
line "$map.minisig" 2 | openssl base64 -d -A >"$tmp/signature"
line "$map.minisig" 4 | openssl base64 -d -A >"$tmp/global"
line "$vectors/publisher.pub" 2 | openssl base64 -d -A >"$tmp/public"
same "signature: prehashed" "$(part "$tmp/signature" 0 2)" "$(word ED)"
same "signature: key" "$(part "$tmp/signature" 2 8)" "$(part "$tmp/public" 2 8)"
bin "302a300506032b6570032100$(part "$tmp/public" 10 32)" >"$tmp/public.der"
comment=$(line "$map.minisig" 3)
openssl dgst -blake2b512 -binary "$map" >"$tmp/hash"
cut_file "$tmp/signature" 10 64 >"$tmp/ed25519"
{
	cat "$tmp/ed25519"
	printf %s "${comment#trusted comment: }"
} >"$tmp/claimed"
verify() { openssl pkeyutl -verify -pubin -inkey "$tmp/public.der" -keyform DER -rawin -in "$1" -sigfile "$2" >/dev/null 2>&1; }
verify "$tmp/hash" "$tmp/ed25519" || bad "the block map has another signature"
verify "$tmp/claimed" "$tmp/global" || bad "the trusted comment has another signature"
same "signature: comment" "${comment#trusted comment: }" \
	"rivulet block map source=sha256:$(part "$map" 64 32) chain=sha256:$(part "$map" 96 32) disk=sha256:$(part "$map" 32 32)"

# --- the same image key wrapped by KMS, whose data key is 32 bytes 0x42
wrapped=$root/seal/kmswrap/testdata/wrapped
same "kms: magic" "$(part "$wrapped" 0 7)" "$(word rvkms1)0a"
arn=$(number "$wrapped" 7 2)
at=$((7 + 2 + arn + 2 + $(number "$wrapped" $((9 + arn)) 2)))
same "kms: length" $((at + 12 + 32 + 16)) "$(($(wc -c <"$wrapped")))"
same "kms: image key" "$(cut_file "$wrapped" $((at + 12)) 32 | ctr "$(printf '42%.0s' $(seq 32))" "$(part "$wrapped" "$at" 12)00000002" | hex)" "$(printf 'image key' | sum)"

# --- a salt domain in its second epoch: the key of its salt from age, the salt by
# that key, and the proofs of state, recipient and succession
proof() { # SECRET LABEL: of stdin
	openssl dgst -sha256 -mac HMAC -macopt hexkey:"$(hkdf "$1" "" "$(word "$2")")" -binary | hex
}
state=$pointers/state wrap=$pointers/wrap locked=$pointers/salt
same "state: first line" "$(line "$state" 1)" "rivulet salt domain 1"
next_id=$(line "$state" 3)
next_id=${next_id#salt }
head -n 3 "$wrap" >"$tmp/head"
same "wrapped key: kind" "$(line "$tmp/head" 1)" age
same "wrapped key: recipient" "$(line "$tmp/head" 2)" "$(sed -n 's/^# public key: //p' "$vectors/identity")"
tail -c +$(($(wc -c <"$tmp/head") + 1)) "$wrap" >"$tmp/salt.age"
age -d -i "$vectors/identity" "$tmp/salt.age" >"$tmp/key" || bad "the salt's key does not come out of its age file"
same "locked salt: magic and salt before" "$(part "$locked" 0 24)" "$(word rvsltlk1)$salt_id"
length=$(($(wc -c <"$locked") - 68 - 16))
cut_file "$locked" 68 "$length" | ctr "$(hex "$tmp/key")" "$(part "$locked" 56 12)00000002" >"$tmp/salt"
next=$(part "$tmp/salt" 28 32)
same "locked salt: magic and ID" "$(part "$tmp/salt" 0 24)" "$(word rvsalt1)0a$next_id"
same "locked salt: epoch" "epoch $(number "$tmp/salt" 24 4)" "$(line "$state" 2)"
same "locked salt: domain" "$(part "$tmp/salt" 60 64)" "$domain"
same "locked salt: ID" "$next_id" "$(bin "$(word 'rivulet salt v1')${domain}00$(part "$tmp/salt" 24 4)$next" | sum | cut -c1-32)"
same "locked salt: proof of the salt before" "$(part "$locked" 24 32)" "$(bin "$next_id" | proof "$secret" 'rivulet salt succession v1')"
same "state: proof" "$(line "$state" 5)" "proof $(head -n 4 "$state" | proof "$next" 'rivulet salt domain v1')"
same "wrapped key: proof" "$(line "$tmp/head" 3)" "$(printf %s "$(head -n 2 "$tmp/head")" | proof "$next" 'rivulet salt recipient v1')"

# --- a segment record of the layer "layer", layout 1
record=$vectors/record
same "record: magic and salt" "$(part "$record" 0 24)" "$(word rvseglk1)$salt_id"
key=$(hkdf "$secret" "" "$(word 'rivulet segment record v1')$(printf layer | sum)01000000")
length=$(($(wc -c <"$record") - 24 - 12 - 16))
same "record" "$(cut_file "$record" 36 "$length" | ctr "$key" "$(part "$record" 24 12)00000002")" "what a publisher remembers of a layer"
echo "all vectors are right"
