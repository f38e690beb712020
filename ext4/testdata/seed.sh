#!/bin/sh
# Makes seed.ext4.gz, of which the fuzz targets and the damage tests start: no
# checksums, since a changed byte is to get past them.
set -e
cd "$(dirname "$0")"
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
mkdir -p "$tmp/tree/a/b"
printf 'hello' >"$tmp/tree/a/b/file"
head -c 9000 /dev/zero | tr '\0' x >"$tmp/tree/a/data"
truncate -s 100M "$tmp/tree/sparse"
printf x | dd of="$tmp/tree/sparse" bs=1 seek=20000 conv=notrunc 2>/dev/null
ln -s a/b/file "$tmp/tree/fast"
ln -s "$(printf './%.0s' $(seq 40))a" "$tmp/tree/slow"
ln -s loop "$tmp/tree/loop"
i=0
while [ $i -lt 60 ]; do
	: >"$tmp/tree/a/b/a name of some length, number $i"
	i=$((i + 1))
done
mke2fs -q -F -t ext4 -b 1024 -N 112 -I 256 -O '^has_journal,^resize_inode,^metadata_csum,^uninit_bg,inline_data' \
	-U 00000000-0000-0000-0000-000000000001 -d "$tmp/tree" "$tmp/disk" 256
printf 'ea_set /a/data user.one 1\nea_set /a/data user.long %s\nmknod fifo p\n' "$(head -c 400 /dev/zero | tr '\0' y)" |
	debugfs -w "$tmp/disk" >/dev/null 2>&1
e2fsck -fyD "$tmp/disk" >/dev/null || true
gzip -9n <"$tmp/disk" >seed.ext4.gz
