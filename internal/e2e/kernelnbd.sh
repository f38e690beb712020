#!/usr/bin/env bash
# kernelnbd.sh: an agent that mounts by the kernel's NBD client.
#
# Proves, in a guest without FUSE: the agent mounts a disk by that client by itself, and who reads it all the time
# reads on, without an error, while the agent is killed with -9, ended, started again and upgraded. Unmounted, nothing is
# connected any more.
#
# Needs mke2fs, and what guest.sh and guest-kernel.sh need. Some 30 s.
source "$(dirname "${BASH_SOURCE[0]}")/harness.sh"

need go mke2fs timeout qemu-system-x86_64 busybox cpio sha256sum
KERNEL=$("$E2E/guest-kernel.sh") || exit $?
build
(cd "$ROOT" && CGO_ENABLED=0 go build -o "$WORK/bin/rivulet.guest" ./cmd/rivulet)

step "a small image, whose store is a disk of the guest"
mkdir "$WORK/tree"
for i in 1 2 3 4 5 6 7 8; do head -c 300000 /dev/urandom >"$WORK/tree/f$i"; done
(cd "$WORK/tree" && sha256sum -- *) >"$WORK/sums"
rivulet publish "dir:$WORK/tree" --name disk --open >/dev/null
mke2fs -q -t ext4 -b 4096 -d "$WORK/store" "$WORK/disk" 64M

step "the guest"
timeout 200 "$E2E/guest.sh" --kernel "$KERNEL" --init "$E2E/guest-nbdmount.init" --modules "ext4 nbd" --memory 1024 \
	--add "$WORK/sums:sums" --add "$WORK/bin/rivulet.guest:bin/rivulet" --drive "$WORK/disk" \
	--expect "guest: detached" --timeout 180 >"$WORK/console" || { cat "$WORK/console"; fail "guest: mounts by NBD"; }
grep '^guest: ' "$WORK/console"
step "passed"
