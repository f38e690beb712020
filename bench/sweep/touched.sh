#!/usr/bin/env bash
# touched.sh [IMAGES_DIR]: prints the pages that starts of programs read, for sweep.
#
# Each program runs once in its image, on a disk without readahead and with nothing
# in the page cache; the kernel is asked afterwards which pages of which file it has.
# A line is label, image, path and page numbers of 4 KiB.
#
# Needs root, a loop device, python3.
source "$(dirname "${BASH_SOURCE[0]}")/../../internal/e2e/harness.sh"

IMAGES=$(images "${1:-}")
need python3 mount losetup blockdev
need_root
build

# resident LABEL IMAGE ROOT: the pages of ROOT's files that are in memory.
resident() {
	python3 - "$@" <<'PYTHON'
import ctypes, mmap, os, sys
label, image, root = sys.argv[1:]
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
libc.mincore.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p]
seen = set()
for folder, _, names in os.walk(root):
    for name in names:
        path = os.path.join(folder, name)
        if os.path.islink(path) or not os.path.isfile(path):
            continue
        info = os.stat(path)
        if info.st_size == 0 or info.st_ino in seen:
            continue
        seen.add(info.st_ino)
        fd = os.open(path, os.O_RDONLY)
        at = libc.mmap(None, info.st_size, mmap.PROT_READ, mmap.MAP_SHARED, fd, 0)
        pages = ctypes.create_string_buffer((info.st_size + 4095) // 4096)
        libc.mincore(at, info.st_size, pages)
        libc.munmap(at, info.st_size)
        os.close(fd)
        there = [str(i) for i, b in enumerate(pages.raw[:(info.st_size + 4095) // 4096]) if b & 1]
        if there:
            print(label, image, os.path.relpath(path, root), " ".join(there), sep="\t")
PYTHON
}

# start_in LABEL IMAGE CMD...: runs CMD in the image.
start_in() {
	local label=$1 image=$2 loop
	shift 2
	rivulet publish "oci:$IMAGES:$image" --name "$image" >/dev/null 2>&1
	rivulet export "$image" "$WORK/disk"
	loop=$(losetup --find --show --read-only --direct-io=on "$WORK/disk")
	later losetup -d "$loop"
	blockdev --setra 0 "$loop"
	mkdir -p "$WORK/root"
	mount -o ro,noload "$loop" "$WORK/root"
	later umount -R "$WORK/root"
	mount -t proc proc "$WORK/root/proc"
	chroot "$WORK/root" "$@" >/dev/null
	umount "$WORK/root/proc"
	resident "$label" "$image" "$WORK/root"
	umount "$WORK/root"
	losetup -d "$loop"
	rm "$WORK/disk"
}

start_in "sh" base /bin/sh -c 'echo'
start_in "python3" python3 /usr/bin/python3 -c 'print(1)'
start_in "numpy" python3-numpy /usr/bin/python3 -c 'import numpy'
start_in "node" nodejs /usr/bin/node -e '1'
start_in "java" openjdk /usr/bin/java -version
