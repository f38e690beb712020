# shellcheck shell=bash disable=SC2034
# harness.sh: what the end-to-end scripts share. Sourced, never run.
#
# It makes $WORK (removed at the end), builds rivulet into it, points
# RIVULET_STORE at an empty store there, RIVULET_KEYS at an empty folder of keys and
# XDG_RUNTIME_DIR at one for sockets, and on exit takes down in reverse order
# whatever went through `later` and ends the processes begun by `start`, and no
# others.
#
# RIVULET             a rivulet program to test instead of one built here
# RIVULET_E2E_STRICT  1: a missing tool is a failure, not a skip (CI)
# RIVULET_E2E_CACHE   where downloads are kept between runs
set -euo pipefail
shopt -s inherit_errexit

E2E=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
ROOT=$(cd "$E2E/../.." && pwd)
WORK=$(mktemp -d)
export RIVULET_STORE=dir:$WORK/store RIVULET_KEYS=$WORK/keys
export XDG_RUNTIME_DIR=$WORK/run # the default socket is no other script's
mkdir -m 700 "$XDG_RUNTIME_DIR"
CACHE=${RIVULET_E2E_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/rivulet-e2e}
PIDS=()
LOGS=()
LATER=()

step() { printf '== %s\n' "$*"; }
fail() { printf 'FAIL: %s\n' "$*" >&2; exit 1; }

skip() {
	[ "${RIVULET_E2E_STRICT:-}" = 1 ] && fail "needs $*"
	printf 'skipped: needs %s\n' "$*"
	exit 77
}

# need TOOL...: skips unless all of them are there.
need() {
	local tool
	PATH=$PATH:/usr/sbin:/sbin
	for tool; do
		command -v "$tool" >/dev/null || skip "$tool"
	done
}

need_root() { [ "$(id -u)" = 0 ] || skip "root"; }

# later CMD...: runs CMD at the end, last registered first, failures ignored.
later() { LATER+=("$(printf '%q ' "$@")"); }

# start LOG CMD...: runs CMD in the background; $! and the last of PIDS are its id. The
# end of LOG is shown if the script fails.
start() {
	local log=$1
	shift
	"$@" >"$log" 2>&1 &
	PIDS+=($!)
	LOGS+=("$log")
}

# child PID: whether the process is this script's, and nobody's who has its number now.
child() { grep -qsx "PPid:[[:space:]]*$$" "/proc/$1/status"; }

# stop PID: ends a process begun by start and waits for it.
stop() {
	kill "$1" 2>/dev/null || true
	wait "$1" 2>/dev/null || true
}

# await SECONDS CMD...: until CMD succeeds; fails if it has not by then.
await() {
	local end=$((SECONDS + $1))
	shift
	until "$@" 2>/dev/null; do
		[ $SECONDS -lt $end ] || return 1
		sleep 0.05
	done
}

# ours: the ids of processes that run this script's copy of rivulet.
ours() {
	local exe
	for exe in /proc/[0-9]*/exe; do
		case $(readlink "$exe" 2>/dev/null) in
		"$WORK/bin/rivulet" | "$WORK/bin/rivulet (deleted)") # by an upgrade
			exe=${exe#/proc/}
			echo "${exe%/exe}"
			;;
		esac
	done
}

cleanup() {
	local status=$? i pid log
	set +e
	trap '' INT TERM # whoever is impatient leaves nothing behind either
	case $status in
	0 | 77 | 130) ;;
	*) for log in "${LOGS[@]}"; do [ ! -s "$log" ] || { printf -- '-- %s\n' "${log##*/}"; tail -n 20 "$log" | cut -c1-1500; } >&2; done ;;
	esac
	for ((i = ${#LATER[@]} - 1; i >= 0; i--)); do eval "${LATER[i]}" >/dev/null 2>&1; done
	for pid in "${PIDS[@]}"; do
		child "$pid" || continue
		kill "$pid" 2>/dev/null
		await 20 eval "! child $pid" || kill -9 "$pid"
		wait "$pid" 2>/dev/null
	done
	for pid in $(ours); do kill -9 "$pid" 2>/dev/null; done
	rm -rf --one-file-system "$WORK"
	exit $status
}
trap cleanup EXIT
trap 'exit 130' INT TERM

# build: puts the program under test where rivulet() finds it.
build() {
	mkdir -p "$WORK/bin"
	if [ -n "${RIVULET:-}" ]; then
		cp "$RIVULET" "$WORK/bin/rivulet"
	else
		need go
		(cd "$ROOT" && go build -o "$WORK/bin/rivulet" ./cmd/rivulet)
	fi
}

rivulet() { "$WORK/bin/rivulet" "$@"; }

# images: the OCI layout that the first argument or RIVULET_E2E_IMAGES names.
images() {
	local dir=${1:-${RIVULET_E2E_IMAGES:-}}
	[ -n "$dir" ] || skip "an OCI layout: give it as argument or in RIVULET_E2E_IMAGES"
	[ -f "$dir/index.json" ] || fail "$dir: no OCI layout"
	(cd "$dir" && pwd)
}

# result KEY: the value of KEY in the last of the JSON lines on stdin that has it.
result() { jq -rs --arg key "$1" 'map(select(has($key))) | last | .[$key]'; }

# serving NAME... -- OPTION...: serves in the background; URI and SERVER tell where.
serving() {
	local log
	log=$(mktemp "$WORK/serve.XXXX")
	start "$log" "$WORK/bin/rivulet" serve "$@"
	SERVER=$!
	await 30 grep -q '^ready ' "$log" || fail "rivulet serve $*: not ready after 30 s"
	URI=$(sed -n 's/^ready //p;T;q' "$log")
}

# collect STORE: all that has a name goes into a new generation, and the first is deleted.
collect() {
	rivulet --store "$1" generation new >/dev/null
	rivulet --store "$1" gc run >/dev/null
	rivulet --store "$1" generation expire 1 >/dev/null
	rivulet --store "$1" generation delete 1 >/dev/null
}

# s3_server [CMD...]: starts an S3 server with a bucket named "bucket", by CMD, which runs
# it elsewhere. S3_ADDR is its HOST:PORT, S3_DIR has its objects, and the environment
# has its credentials.
s3_server() {
	PATH=$PATH:$(go env GOPATH 2>/dev/null || true)/bin need versitygw curl
	local program
	program=$(PATH=$PATH:$(go env GOPATH 2>/dev/null || true)/bin command -v versitygw)
	S3_DIR=$WORK/s3
	S3_ADDR=127.0.0.1:$(free_port)
	export AWS_ACCESS_KEY_ID=e2e AWS_SECRET_ACCESS_KEY AWS_CONFIG_FILE=/dev/null AWS_SHARED_CREDENTIALS_FILE=/dev/null
	AWS_SECRET_ACCESS_KEY=$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')
	mkdir -p "$S3_DIR/bucket"
	ROOT_ACCESS_KEY_ID=$AWS_ACCESS_KEY_ID ROOT_SECRET_ACCESS_KEY=$AWS_SECRET_ACCESS_KEY \
		start "$WORK/s3.log" "$@" "$program" --port "$S3_ADDR" --quiet --keep-alive --health /health posix "$S3_DIR"
	await 20 "$@" curl -sf -o /dev/null "http://$S3_ADDR/health" || fail "versitygw: not ready after 20 s"
}

# free_port: a TCP port of this machine that was free just now, and that no client gets by itself: servers come to it
# later, and again.
free_port() {
	python3 -c '
import errno, random, socket
for port in random.sample(range(20000, 32768), 100):
    try:
        socket.socket().bind(("127.0.0.1", port))
    except OSError as e:
        if e.errno == errno.EADDRINUSE: continue
        raise
    print(port)
    break'
}

# fault_proxy OPTION... ADDR: starts internal/e2e/faultproxy before ADDR; PROXY is its HOST:PORT.
fault_proxy() {
	local log
	log=$(mktemp "$WORK/proxy.XXXX")
	[ -x "$WORK/bin/faultproxy" ] || (cd "$ROOT" && go build -o "$WORK/bin/faultproxy" ./internal/e2e/faultproxy)
	start "$log" "$WORK/bin/faultproxy" "$@"
	await 60 grep -q '^ready ' "$log" || fail "faultproxy $*: not ready after 60 s"
	PROXY=$(sed -n 's/^ready //p;T;q' "$log")
}

# flip FILE [OFFSET]: turns one byte over, by default in the middle.
flip() {
	local at=${2:-$(($(stat -c %s "$1") / 2))} byte
	byte=$(od -An -tu1 -j "$at" -N 1 "$1")
	# shellcheck disable=SC2059
	printf "\\x$(printf %02x $((byte ^ 0x55)))" | dd of="$1" bs=1 seek="$at" conv=notrunc status=none
}

# loop_mount FILE DIR: mounts an ext4 image read-only without replaying its journal.
loop_mount() {
	mkdir -p "$2"
	mount -o loop,ro,noload "$1" "$2"
	later umount "$2"
}

# reference IMAGES NAME DIR: the same layers, applied by umoci.
reference() { umoci --log=error raw unpack --image "$1:$2" "$3" >/dev/null; }

treediff() {
	[ -x "$WORK/bin/treediff" ] || (cd "$ROOT" && go build -o "$WORK/bin/treediff" ./internal/e2e/treediff)
	"$WORK/bin/treediff" "$@"
}

# portable DIR PROGRAM...: programs with what they need in DIR/opt/e2e, as a folder that any guest can run them
# from: /opt/e2e/ld --library-path /opt/e2e/lib /opt/e2e/PROGRAM.
portable() {
	local to=$1/opt/e2e program
	mkdir -p "$to/lib"
	for program in "${@:2}"; do
		program=$(command -v "$program")
		cp -L "$program" "$to/"
		ldd "$program" | awk '$2 == "=>" { print $3 }' | xargs cp -L -t "$to/lib"
		ldd "$program" | awk '$1 ~ /ld-linux/ { print $1 }' | xargs -I{} cp -L {} "$to/ld"
	done
}

# fio_pattern [PREFIX...]: publishes, by rivulet run by PREFIX, a disk named pattern with a
# file that fio wrote, checksums in each block, and sets FIO_PATTERN to what has fio read
# and verify it. fio checks a block's offset on the device too, so a first disk, with a file
# of zeros and ones, tells where the file will lie. Needs debugfs.
fio_pattern() {
	local size=$((64 << 20)) at tree=$WORK/pattern.tree
	FIO_PATTERN=(--name=verify --bs=4k --verify=crc32c --verify_fatal=1 --verify_state_save=0 "--size=$size" --randrepeat=1 --minimal)
	mkdir "$tree"
	head -c $size /dev/zero | tr '\0' '\1' >"$tree/pattern"
	at=$(pattern_offset "$tree" "$@") || fail "fio: the pattern is not one extent"
	fio "${FIO_PATTERN[@]}" --rw=write --do_verify=0 --ioengine=psync --offset="$at" --filename="$WORK/pattern" >/dev/null
	dd if="$WORK/pattern" of="$tree/pattern" bs=1M iflag=skip_bytes,count_bytes skip="$at" count=$size status=none
	[ "$(pattern_offset "$tree" "$@")" = "$at" ] || fail "fio: the pattern moved when its content changed"
	FIO_PATTERN+=(--rw=randread --offset="$at")
}

# pattern_offset TREE [PREFIX...]: publishes TREE as pattern; prints where the file begins in bytes.
pattern_offset() {
	"${@:2}" "$WORK/bin/rivulet" publish "dir:$1" --name pattern >/dev/null
	"${@:2}" "$WORK/bin/rivulet" export pattern "$WORK/pattern-disk" --cache none
	debugfs -R 'blocks /pattern' "$WORK/pattern-disk" 2>/dev/null |
		awk '{ for (i = 2; i <= NF; i++) if ($i != $(i-1) + 1) exit 1; print $1 * 4096 }' || return 1
	rm "$WORK/pattern-disk"
}
