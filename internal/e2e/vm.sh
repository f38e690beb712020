#!/usr/bin/env bash
# vm.sh [IMAGES_DIR] [NAME]: an image's command runs in a virtual machine.
#
# Proves, with an emulated guest of Debian's cloud kernel: streams, exit status,
# environment, user, folder and signals of `rivulet vm run` are a process's; the root
# can be written and is the image again in the next machine; the image's own first
# work (/lab/hello) is done; mistakes are told in one line.
#
# Needs QEMU, root only if the kernel must be fetched.
source "$(dirname "${BASH_SOURCE[0]}")/harness.sh"

if [ $# -gt 0 ] && [ -d "$1" ]; then IMAGES=$(images "$1"); shift; else IMAGES=$(images); fi
name=${1:-python3}
need qemu-system-x86_64 jq
kernel=$("$E2E/guest-kernel.sh")
build
(cd "$ROOT" && CGO_ENABLED=0 GOOS=linux go build -trimpath -ldflags '-s -w' -o "$WORK/bin/rivulet-init" ./cmd/rivulet-init)
export XDG_DATA_HOME=$WORK/data RIVULET_AGENT=none

# run ARG...: the command in a machine, a wrong end of which shows its console.
run() { rivulet vm run --accel tcg "$@" </dev/null; }

step "kernel"
rivulet vm kernel --from-tree "$kernel"
[ "$(rivulet vm kernel --json | jq -r .arch)" = amd64 ] || fail "the kernel is not listed"

step "publish $name"
rivulet publish "oci:$IMAGES:$name" --name "$name" >/dev/null 2>&1

step "streams, exit status, environment, user and folder"
status=0
echo "from the host" | rivulet vm run --accel tcg --env "GREETING=hello there" --user nobody --workdir /var/tmp "$name" -- \
	sh -c 'cat; echo "$GREETING"; id -un; pwd; hostname; echo complaint >&2; exit 42' >"$WORK/out" 2>"$WORK/err" || status=$?
[ $status = 42 ] || { cat "$WORK/err"; fail "exit status $status, want 42"; }
diff "$WORK/out" - <<-END || fail "output"
	from the host
	hello there
	nobody
	/var/tmp
	rivulet
END
grep -qx complaint "$WORK/err" || fail "standard error"

step "the root can be written"
run "$name" -- sh -c 'echo changed >/etc/issue && rm /bin/true && cat /etc/issue' | grep -qx changed || fail "the root cannot be written"

step "the image's own work"
run "$name" -- /lab/hello | grep "^HELLO $name"

step "over NBD, and much output comes whole"
run --nbd "$name" -- head -c 3000000 /dev/zero | wc -c | grep -qx 3000000 || fail "output is cut"

step "a disk that can be written, and is committed"
run --writable --overlay "$WORK/overlay" "$name" -- sh -c 'echo kept >/srv/file'
run --writable --overlay "$WORK/overlay" "$name" -- cat /srv/file | grep -qx kept || fail "what was written is not kept"
rivulet commit "$WORK/overlay" "$name-kept" >/dev/null 2>&1
run "$name-kept" -- cat /srv/file | grep -qx kept || fail "what was written is not committed"
run "$name" -- sh -c '! test -e /srv/file && test -x /bin/true && ! grep -q changed /etc/issue' || fail "a machine has left something in the image"

step "a signal ends it"
"$WORK/bin/rivulet" vm run --accel tcg "$name" -- sh -c 'trap "echo told; exit 5" TERM; echo up; while :; do sleep 0.1; done' >"$WORK/told" 2>"$WORK/err" </dev/null &
machine=$!
PIDS+=("$machine")
LOGS+=("$WORK/err")
for _ in $(seq 600); do grep -q up "$WORK/told" && break; sleep 0.1; done
kill -TERM "$machine"
status=0
wait "$machine" || status=$?
[ $status = 5 ] && grep -qx told "$WORK/told" || { cat "$WORK/told" "$WORK/err"; fail "exit status $status after SIGTERM, want 5"; }

step "mistakes"
mistake() { # STATUS TEXT ARG...
	local want=$1 text=$2 status=0
	shift 2
	run "$@" >"$WORK/out" 2>"$WORK/err" || status=$?
	[ $status = "$want" ] && grep -qF -- "$text" "$WORK/err" || { cat "$WORK/err"; fail "exit status $status, want $want and: $text"; }
}
mistake 1 'in no folder of PATH' "$name" -- no-such-command
mistake 1 'no such user' --user nobody-at-all "$name" -- true
mistake 1 'over vhost-user-blk only' --vmm firecracker --nbd "$name" -- true
mistake 2 'neither a folder nor a version' --kernel 1.2.3 "$name" -- true
echo "vm.sh: passed"
