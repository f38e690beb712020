#!/usr/bin/env bash
# guest.sh: boots a Linux guest once and looks for a line on its console.
#
#   guest.sh --kernel DIR --init SCRIPT --expect TEXT [OPTION]... [-- QEMU-ARG...]
#
#   --kernel DIR        what guest-kernel.sh printed
#   --init SCRIPT       becomes /init of the initrd: busybox sh, with every busybox
#                       command, and `load` to insert the modules; it ends by `reboot -f`
#   --expect TEXT       fixed text that a console line must contain
#   --modules "M..."    modules to load, with what they need (virtio_mmio, virtio_blk
#                       and ext4 are always there)
#   --add SRC:DST       also in the initrd, DST without a leading slash
#   --drive SPEC        a read-only disk: a raw file, or what QEMU's file= takes
#                       (nbd:unix:PATH:exportname=NAME); the first is /dev/vda
#   --net               user networking: the host is 10.0.2.2, the guest 10.0.2.15 on eth0
#   --timeout SECONDS   default 120
#   --memory MIB        default 512
#
# Proves nothing by itself: vhost-user and other tests pass their devices after --.
# The machine is a microvm under TCG, so that KVM is not needed. Prints the console;
# exit status 0 if TEXT was there, 1 if not, 77 if a tool is missing.
# shellcheck disable=SC2016,SC2054
set -euo pipefail

skip() {
	echo "skipped: needs $*"
	[ "${RIVULET_E2E_STRICT:-}" = 1 ] && exit 1
	exit 77
}

kernel='' init='' expect='' modules='virtio_mmio virtio_blk' timeout=120 memory=512
add=() devices=() drives=0
while [ $# -gt 0 ]; do
	case $1 in
	--kernel) kernel=$2 ;;
	--init) init=$2 ;;
	--expect) expect=$2 ;;
	--modules) modules+=" $2" ;;
	--add) add+=("$2") ;;
	--drive)
		devices+=(-drive "id=d$drives,file=$2,format=raw,if=none,readonly=on" -device "virtio-blk-device,drive=d$drives")
		drives=$((drives + 1))
		;;
	--net)
		devices+=(-netdev user,id=n0 -device virtio-net-device,netdev=n0)
		modules+=' virtio_net'
		shift
		continue
		;;
	--timeout) timeout=$2 ;;
	--memory) memory=$2 ;;
	--)
		shift
		devices+=("$@")
		break
		;;
	*) echo "guest.sh: $1: no such option" >&2; exit 2 ;;
	esac
	shift 2
done
if [ -z "$kernel" ] || [ -z "$init" ] || [ -z "$expect" ]; then
	sed -n '4s/^# */usage: /p' "$0" >&2
	exit 2
fi
PATH=$PATH:/usr/sbin:/sbin
for tool in qemu-system-x86_64 busybox cpio modprobe timeout; do
	command -v "$tool" >/dev/null || skip "$tool"
done

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM

# module_files: the kernel's module files in the order in which to load them.
module_files() {
	local m
	for m in $modules; do
		modprobe -d "$kernel" -S "$version" --show-depends "$m"
	done | awk '$1 == "insmod" && !seen[$2]++ { print $2 }'
}

make_initrd() {
	local root=$work/root n=0 file pair applet
	mkdir -p "$root"/{bin,dev,proc,sys,newroot,modules}
	cp "$(command -v busybox)" "$root/bin/busybox"
	for applet in $("$root/bin/busybox" --list); do
		[ "$applet" = busybox ] || ln -s busybox "$root/bin/$applet"
	done
	for file in $(module_files); do
		printf -v n '%03d' $((10#$n + 1))
		case $file in
		*.xz) xz -dc "$file" >"$root/modules/$n.ko" ;;
		*) cp "$file" "$root/modules/$n.ko" ;;
		esac
	done
	printf '#!/bin/sh\nfor m in /modules/*.ko; do insmod "$m" || echo "insmod $m failed"; done\n' >"$root/bin/load"
	cp "$init" "$root/init"
	chmod +x "$root/init" "$root/bin/load"
	for pair in ${add[@]+"${add[@]}"}; do
		mkdir -p "$root/$(dirname "${pair#*:}")"
		cp -L "${pair%%:*}" "$root/${pair#*:}"
	done
	(cd "$root" && find . | sort | cpio -o -H newc --quiet -R 0:0) >"$work/initrd"
}

# tsc_khz: the rate of the time stamp counter. A microvm has no timer to measure
# it by, and a guest that is not told may wait for ever while it tries.
tsc_khz() {
	local khz
	khz=$( (dmesg 2>/dev/null || true) | awk '/tsc: Detected [0-9.]* MHz/ { sub(/.*tsc: Detected /, ""); khz = $1 * 1000 } END { print khz }')
	[ -n "$khz" ] || khz=$(awk '/^cpu MHz/ { khz = $NF * 1000 } END { print khz }' /proc/cpuinfo)
	echo "${khz:-2000000}"
}

version=$(basename "$kernel"/lib/modules/*)
make_initrd
# QEMU reads no terminal: its standard input is not ours to take.
timeout -k 5 "$timeout" qemu-system-x86_64 -accel tcg,tb-size=256 -cpu qemu64 -m "$memory" \
	-M microvm,x-option-roms=off,rtc=on -nodefaults -no-user-config -display none -no-reboot \
	-chardev "file,id=console,path=$work/console" -serial chardev:console \
	-kernel "$kernel/boot/vmlinuz-$version" -initrd "$work/initrd" \
	-append "console=ttyS0 quiet panic=-1 reboot=t mitigations=off cryptomgr.notests tsc=reliable tsc_early_khz=$(tsc_khz)" \
	${devices[@]+"${devices[@]}"} </dev/null >"$work/qemu" 2>&1 || echo "guest.sh: qemu exit status $?" >>"$work/qemu"
tr -d '\r' <"$work/console" || true
cat "$work/qemu"
grep -qF -- "$expect" "$work/console"
