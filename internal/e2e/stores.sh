#!/usr/bin/env bash
# stores.sh [IMAGES_DIR] NAME...: far stores, behind networks and servers that misbehave.
#
# Proves, for each named image of an OCI layout: published to an S3 server through a
# proxy that resets connections, loses answers and cuts them short, it has the digest
# that it has in a directory; exported, and read over NBD while the proxy flips bits
# too, it has the same bytes; so it has when its directory is read through web servers,
# one that knows ranges and one that does not. So has the first on S3, when all were
# carried into a new generation and the old one was deleted. No output and no command
# line has the secret. A bucket that is not there, a wrong secret and a store that can
# only be read get one line that says what to do.
#
# Needs versitygw, curl, jq, nbdcopy, python3, busybox.
source "$(dirname "${BASH_SOURCE[0]}")/harness.sh"

[ $# -gt 0 ] || { sed -n '2s/^# /usage: /p' "$0" >&2; exit 2; }
if [ -d "$1" ]; then IMAGES=$(images "$1"); shift; else IMAGES=$(images); fi
need jq nbdcopy python3 busybox go
build
s3_server
: >"$WORK/output"

# noted ARG...: rivulet ARG..., whose output is searched for secrets at the end.
noted() {
	local status=0
	"$WORK/bin/rivulet" "$@" >"$WORK/out" 2>"$WORK/err" || status=$?
	cat "$WORK/out" "$WORK/err" >>"$WORK/output"
	[ $status = 0 ] || { tail -n 5 "$WORK/err" >&2; return $status; }
	cat "$WORK/out"
}

# refuses TEXT ARG...: rivulet ARG... fails with one line that has TEXT.
refuses() {
	local text=$1
	shift
	if noted "$@" 2>/dev/null; then fail "rivulet $*: no error"; fi
	[ "$(grep -c '^rivulet: ' "$WORK/err")" = 1 ] || fail "rivulet $*: want one error line: $(cat "$WORK/err")"
	grep -qF -- "$text" "$WORK/err" || fail "rivulet $*: error does not say $text: $(cat "$WORK/err")"
}

# web_server SERVER...: starts a web server over the directory store; WEB is its URL.
web_server() {
	local port
	port=$(free_port)
	case $1 in
	ranges) start "$WORK/web.log" busybox httpd -f -p "127.0.0.1:$port" -h "$WORK/near" ;;
	plain) start "$WORK/web.log" python3 -m http.server --bind 127.0.0.1 --directory "$WORK/near" "$port" ;;
	esac
	WEB=127.0.0.1:$port
	await 20 curl -sf -o /dev/null "http://$WEB/version" || fail "web server $1: not ready after 20 s"
}

# same NAME STORE: the image read over NBD from STORE has the bytes of the one on disk.
same() {
	RIVULET_STORE=$2 serving "$1"
	nbdcopy "$URI" "$WORK/got" || fail "$1 from $2: nbdcopy"
	tr '\0' ' ' <"/proc/$SERVER/cmdline" >>"$WORK/output"
	stop "$SERVER"
	cat "$WORK"/serve.* >>"$WORK/output"
	cmp "$WORK/disk" "$WORK/got" || fail "$1 from $2: other bytes"
	rm "$WORK/got"
}

fault_proxy -latency 2ms -fault reset=0.01 -fault lost-answer=0.01 -fault truncate=0.01 -fault half-close=0.01 -fault 503=0.01 "$S3_ADDR"
WRITE="s3://bucket/images?endpoint=http://$PROXY"
fault_proxy -latency 2ms -fault reset=0.01 -fault truncate=0.01 -fault short=0.01 -fault flip=0.02 -fault 429=0.01 "$S3_ADDR"
READ="s3://bucket/images?endpoint=http://$PROXY"
for name; do noted --store "dir:$WORK/near" publish "oci:$IMAGES:$name" --name "$name" >/dev/null; done
web_server ranges
RANGES=$WEB
web_server plain
fault_proxy -fault reset=0.01 -fault truncate=0.01 -fault short=0.01 -fault flip=0.02 "$RANGES"

for name; do
	step "$name"
	near=$(noted --store "dir:$WORK/near" publish "oci:$IMAGES:$name" --name "$name" --json | result digest)
	far=$(noted --store "$WRITE" publish "oci:$IMAGES:$name" --name "$name" --json | result digest)
	[ -n "$near" ] && [ "$near" = "$far" ] || fail "$name: digest $far on S3, $near in a directory"
	again=$(noted --store "$WRITE" publish "oci:$IMAGES:$name" --name "$name" --json | result digest)
	[ "$again" = "$near" ] || fail "$name: digest $again when published again"
	noted --store "dir:$WORK/near" export "$name" "$WORK/disk"
	noted --store "$WRITE" export "$name" "$WORK/got"
	cmp "$WORK/disk" "$WORK/got" || fail "$name: exported from S3, other bytes"
	rm "$WORK/got"
	same "$name" "$READ"
	same "$name" "http://$PROXY"
	same "$name" "http://$WEB"
	rm "$WORK/disk"
done

step "a generation goes"
collect "$WRITE"
noted --store "dir:$WORK/near" export "$1" "$WORK/disk"
same "$1" "$READ"
rm "$WORK/disk"

step "refusals"
refuses "there is no bucket other" --store "s3://other?endpoint=http://$S3_ADDR" ls
refuses "ca=" --store "s3://bucket/images?endpoint=https://$S3_ADDR&ca=/nowhere" ls
refuses "cannot list" --store "http://$WEB" ls
refuses "can only be read" --store "http://$WEB" publish "oci:$IMAGES:$1" --name x
AWS_SECRET_ACCESS_KEY=wrong refuses "does not know these credentials" --store "s3://bucket/images?endpoint=http://$S3_ADDR" ls

if grep -qF -- "$AWS_SECRET_ACCESS_KEY" "$WORK/output"; then fail "the secret is in an output or a command line"; fi
echo "stores: passed"
