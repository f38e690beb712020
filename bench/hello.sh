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
#             that was stopped can go on, with the same build of rivulet and on the same machine
#
# For example, in some minutes:
#   IMAGES="python3 nginx" LINKS=100mbit-30ms CONTENDERS="plain rivulet rivulet-profile" ROUNDS=2 bench/run.sh hello DIR
#
# Needs root, containerd, its shim, runc, the distribution registry, ip, tc, nsenter, curl; and on
# PATH, where their contenders are wanted, containerd-stargz-grpc and ctr-remote, soci and
# soci-snapshotter-grpc, mkfs.erofs 1.8 or later, redis-server. Some 10 GB of disk.
#
# SIGINT and SIGTERM stop it, and nothing is left. If it is killed, processes, mounts and networks end
# with it; its temporary folder stays, and control groups of containers do.
set -euo pipefail
if [ "${OWN_NAMESPACES:-}" != 1 ]; then
	# unshare holds off the signals that are to stop it, so its whole group gets them.
	set -m
	OWN_NAMESPACES=1 setpriv --pdeathsig KILL unshare --mount --propagation private --pid --fork --kill-child --mount-proc "${BASH_SOURCE[0]}" "$@" &
	trap 'signalled=1; kill -TERM -- "-$!" 2>/dev/null || true' INT TERM
	while
		signalled=0 status=0
		wait "$!" || status=$?
		[ $signalled = 1 ] # the signal ended the wait, and not the run
	do :; done
	exit $status
fi
trap 'exit 143' TERM # process 1 is sent no signal that it does not ask for
mkdir -p /run/netns
mount -t tmpfs netns /run/netns
BENCH=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
IMAGES_DIR=$(cd "${1:?an OCI layout with the test images}" && pwd)
WORK=$(mktemp -d)
trap 'rm -rf --one-file-system "$WORK"' EXIT
mkdir "$WORK/bin"
# Equal sources are the same build, whatever the commit.
(cd "$BENCH/.." && go build -buildvcs=false -o "$WORK/bin/" ./bench/hello ./cmd/rivulet ./cmd/containerd-rivulet)
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
