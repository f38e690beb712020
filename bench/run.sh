#!/usr/bin/env bash
# run.sh [publish|serve|overlay|cold|dedupe|codec|s3|zone|attach|vhost|cached|commit|start|hello|evict|all] [IMAGES_DIR]: measures rivulet beside other
# programs that do the same, and prints Markdown for doc/benchmarks.md.
#
# IMAGES_DIR (or RIVULET_E2E_IMAGES) is an OCI layout with the test images. ROUNDS
# (default 5) is how often each figure is taken; the subjects of one table take turns
# in each round. A number from a machine that does something else beside is invalid.
#
# Needs root and, by part, umoci, mke2fs, casync, igzip, GNU time (publish), fio with the nbd
# engine, nbdkit, qemu-nbd, nbdinfo, nbdcopy (serve, overlay), qemu-storage-daemon with its
# curl driver (cold) or alone (vhost), versitygw and rclone (s3; start without the latter), redis-server (zone, cached); always jq. The part
# evict, for doc/benchmarks-eviction.md and not in all, is a simulation, and needs Go alone. The part
# hello, for doc/benchmarks-hello.md and not in all, takes hours: hello.sh says how to choose from it.
# shellcheck disable=SC2034
[ "${1:-}" != hello ] || exec "$(dirname "${BASH_SOURCE[0]}")/hello.sh" "${2:-${RIVULET_E2E_IMAGES:-}}" # which signals are for
source "$(dirname "${BASH_SOURCE[0]}")/../internal/e2e/harness.sh"

BENCH=$ROOT/bench
ROUNDS=${ROUNDS:-5}
WHAT=${1:-all}
case $WHAT in publish | serve | overlay | cold | dedupe | codec | s3 | zone | attach | vhost | cached | commit | start | all) ;;
evict) (cd "$ROOT" && go run ./bench/evict -plot doc/img/eviction.svg); exit ;;
*) sed -n '2s/^# /usage: /p' "$0" >&2; exit 2 ;; esac
[ "$WHAT" = zone ] || IMAGES=$(images "${2:-}")
PATH=$WORK/bin:$PATH
need jq
need_root
build
for tool in "$BENCH"/*/main.go "$BENCH"/*/main_linux.go; do
	(cd "$ROOT" && go build -o "$WORK/bin/" "./bench/$(basename "$(dirname "$tool")")")
done

# timed CMD...: runs CMD; prints seconds, MiB of the largest process of it, and CPU
# seconds.
timed() {
	/usr/bin/time -o "$WORK/time" -f '%e %M %U %S' "$@" >"$WORK/log" 2>&1 || { cat "$WORK/log" >&2; fail "$*"; }
	awk 'END { printf "%s %.0f %.2f\n", $1, $2 / 1024, $3 + $4 }' "$WORK/time"
}

# note CASE SUBJECT VALUE: one measurement, for median.
note() { printf '%s\t%s\t%s\n' "$1" "$2" "$3"; }

# random_read URI NAME=VALUE...: reads by fio's nbd engine; prints its read object.
random_read() {
	local uri=$1
	shift
	fio --name=read --ioengine=nbd --uri="$uri" --output-format=json --output="$WORK/fio.json" "$@" >"$WORK/log" 2>&1 ||
		{ cat "$WORK/log" >&2; fail "fio on $uri"; }
	jq '.jobs[0].read' "$WORK/fio.json"
}

# densest URI BYTES: where the window of BYTES begins that has the most data in it,
# and how many per cent of it are data. Reads of holes would flatter everybody.
densest() {
	nbdinfo --map --json "$1" | jq -r '.[] | select(.type == 0) | "\(.offset) \(.length)"' | awk -v window="$2" '
		{ from = $1; end = $1 + $2
		  while (from < end) { w = int(from / window); stop = (w + 1) * window; if (stop > end) stop = end; data[w] += stop - from; from = stop } }
		END { for (w in data) if (data[w] > most) { most = data[w]; best = w } printf "%d %d\n", best * window, 100 * most / window }'
}

machine() {
	printf '%s, %s processors, %s GiB, Linux %s, %s\n' "$(sed -n 's/^model name.*: //p' /proc/cpuinfo | sort -u)" "$(nproc)" \
		"$(awk '/MemTotal/ { printf "%.0f", $2 / 1048576 }' /proc/meminfo)" "$(uname -r)" "$(cd "$ROOT" && go version)"
}

# shellcheck disable=SC2016
printf 'Made by `bench/run.sh %s` on %s; load before: %s.\n' "$WHAT" "$(machine)" "$(cut -d ' ' -f 1-3 /proc/loadavg)"
for part in publish dedupe codec serve vhost overlay cold s3 zone attach cached commit start; do
	# shellcheck source=/dev/null
	if [ "$WHAT" = all ] || [ "$WHAT" = $part ]; then source "$BENCH/$part.sh"; fi
done
