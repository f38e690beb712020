#!/usr/bin/env bash
# hello.sh IMAGES_DIR: part of run.sh, which see: HelloBench. Containers start from images that
# their host does not have, over links of some bandwidth and delay, by containerd's own means, by
# those of others, and by rivulet. Prints tables as Markdown, compares the ratios with those of
# doc/hellobench.jsonl, and fails if one got worse.
#
# IMAGES      workloads (default all starts); "whole" stands for those that read everything
# LINKS       loopback, 1gbit-1ms, 100mbit-30ms (default all)
# CONTENDERS  see bench/hello/contenders_linux.go (default all that have their programs)
# CYCLES      deploy, develop, steady (default deploy)
# ROUNDS      how often each is measured (default 5)
# HELLO_DIR   folder for the registry's content, which takes long to make: kept, and used again. What
#             another build of rivulet has published there stays and is not used.
# FACTS       versions of programs that do not tell them, for the report; separated by semicolons
# RESULTS     file that the results are appended to; what it has is not measured again, so that a run
#             that was stopped can go on
#
# For example, in some minutes:
#   IMAGES="python3 nginx" LINKS=100mbit-30ms CONTENDERS="plain rivulet rivulet-profile" ROUNDS=2 bench/run.sh hello DIR
#
# Needs root, containerd, its shim, runc, the distribution registry, ip, tc, nsenter, curl; and on
# PATH, where their contenders are wanted, containerd-stargz-grpc and ctr-remote, soci and
# soci-snapshotter-grpc, mkfs.erofs 1.8 or later, redis-server. Some 10 GB of disk.
set -euo pipefail
if [ "${OWN_NAMESPACES:-}" != 1 ]; then # processes, mounts and networks end with it, even if it is killed
	OWN_NAMESPACES=1 exec unshare --mount --propagation private --pid --fork --kill-child --mount-proc "${BASH_SOURCE[0]}" "$@"
fi
mkdir -p /run/netns
mount -t tmpfs netns /run/netns
BENCH=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
IMAGES_DIR=$(cd "${1:?an OCI layout with the test images}" && pwd)
WORK=$(mktemp -d)
trap 'rm -rf --one-file-system "$WORK"' EXIT
mkdir "$WORK/bin"
(cd "$BENCH/.." && go build -o "$WORK/bin/" ./bench/hello ./cmd/rivulet ./cmd/containerd-rivulet)
PATH=$WORK/bin:$PATH:$(go env GOPATH)/bin:/usr/sbin:/sbin

DIR=${HELLO_DIR:-$WORK/kept}
RESULTS=${RESULTS:-$WORK/results.jsonl}
chosen=(-images "${IMAGES:-}" -contenders "${CONTENDERS:-}")
hello prepare -dir "$DIR" -layout "$IMAGES_DIR" "${chosen[@]}"
hello run -dir "$DIR" -out "$RESULTS" "${chosen[@]}" -links "${LINKS:-}" -cycles "${CYCLES:-deploy}" -rounds "${ROUNDS:-5}" \
	-facts "rivulet $(git -C "$BENCH" rev-parse --short=12 HEAD 2>/dev/null || echo of no repository);${FACTS:-}"
cat "$DIR/needs.jsonl" >>"$RESULTS" 2>/dev/null || true # what starts need, if disks were published
hello report -markdown /dev/stdout "$RESULTS"
[ ! -e "$BENCH/../doc/hellobench.jsonl" ] || hello gate "$BENCH/../doc/hellobench.jsonl" "$RESULTS"
