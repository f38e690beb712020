#!/usr/bin/env bash
# registries.sh [IMAGES_DIR] NAME...: origins in registries, with the referrers API and
# without, behind networks and servers that misbehave.
#
# Proves, for each named image of an OCI layout: published to a registry through a proxy
# that resets connections, loses answers and cuts them short, it has the digest that it
# has in a directory; published again, nothing new is stored; exported, and read over NBD
# while the proxy flips bits too, it has the same bytes; and so has the first, when all
# were carried into a new generation and the old one was deleted. The first, pushed as a
# plain image and published with --converted, is at its tag as it was, and at another one
# with its disk, which has the same bytes read by that tag, also when the generation is gone. A registry that is not
# there, and a bad address, get one line that says what to do.
#
# Needs the distribution registry, curl, jq, nbdcopy, python3, go.
source "$(dirname "${BASH_SOURCE[0]}")/harness.sh"

[ $# -gt 0 ] || { sed -n '2s/^# /usage: /p' "$0" >&2; exit 2; }
if [ -d "$1" ]; then IMAGES=$(images "$1"); shift; else IMAGES=$(images); fi
need jq nbdcopy python3 go curl
PATH=$(go env GOPATH)/bin:$PATH need registry
build

# distribution_server: starts a registry without referrers; REGISTRY is its HOST:PORT.
distribution_server() {
	REGISTRY=127.0.0.1:$(free_port)
	cat >"$WORK/registry.yml" <<-CONFIG
		version: 0.1
		log: {accesslog: {disabled: true}, level: error}
		storage:
		  filesystem: {rootdirectory: $WORK/registry}
		  delete: {enabled: true}
		http: {addr: $REGISTRY, secret: e2e}
	CONFIG
	start "$WORK/registry.log" "$(PATH=$(go env GOPATH)/bin:$PATH command -v registry)" serve "$WORK/registry.yml"
}

# oci_server: starts a registry with referrers; REGISTRY is its HOST:PORT.
oci_server() {
	(cd "$ROOT" && go build -o "$WORK/bin/ociserver" ./internal/ociserver)
	REGISTRY=127.0.0.1:$(free_port)
	start "$WORK/oci.log" "$WORK/bin/ociserver" "$REGISTRY"
}

# refuses TEXT ARG...: rivulet ARG... fails with one line that has TEXT.
refuses() {
	local text=$1
	shift
	if rivulet "$@" >/dev/null 2>"$WORK/err"; then fail "rivulet $*: no error"; fi
	[ "$(grep -c '^rivulet: ' "$WORK/err")" = 1 ] || fail "rivulet $*: want one error line: $(cat "$WORK/err")"
	grep -qF -- "$text" "$WORK/err" || fail "rivulet $*: error does not say $text: $(cat "$WORK/err")"
}

# same NAME: the image exported from $write, and read over NBD from $read, has the bytes
# of the one on disk.
same() {
	rivulet --store "$write" export "$1" "$WORK/got"
	cmp "$WORK/disk" "$WORK/got" || fail "$1 exported from $write: other bytes"
	rm "$WORK/got"
	RIVULET_STORE=$read serving "$1"
	nbdcopy "$URI" "$WORK/got" || fail "$1 from $read: nbdcopy"
	stop "$SERVER"
	cmp "$WORK/disk" "$WORK/got" || fail "$1 from $read: other bytes"
	rm "$WORK/got"
}

# tagged NAME: the same, of the disk at the tag NAME-rivulet.
tagged() {
	rivulet export "$write:$1-rivulet" "$WORK/got"
	cmp "$WORK/disk" "$WORK/got" || fail "$1 exported from $write:$1-rivulet: other bytes"
	rm "$WORK/got"
	RIVULET_STORE=$read:$1-rivulet serving "${read#oci://}:$1-rivulet"
	nbdcopy "$URI" "$WORK/got" || fail "$1 from $read:$1-rivulet: nbdcopy"
	stop "$SERVER"
	cmp "$WORK/disk" "$WORK/got" || fail "$1 from $read:$1-rivulet: other bytes"
	rm "$WORK/got"
}

# push NAME: pushes an image of the layout to $REGISTRY/lab/images:NAME.
push() {
	local manifest digest at base=http://$REGISTRY/v2/lab/images
	manifest=$IMAGES/blobs/sha256/$(jq -r --arg name "$1" \
		'.manifests[] | select(.annotations["org.opencontainers.image.ref.name"] == $name) | .digest | ltrimstr("sha256:")' "$IMAGES/index.json")
	for digest in $(jq -r '.config.digest, .layers[].digest' "$manifest"); do
		at=$(curl -sf -X POST -D - -o /dev/null "$base/blobs/uploads/" | tr -d '\r' | sed -n 's/^[Ll]ocation: //p')
		case $at in /*) at=http://$REGISTRY$at ;; esac
		case $at in *\?*) at="$at&digest=$digest" ;; *) at="$at?digest=$digest" ;; esac
		curl -sf -X PUT -H 'Content-Type: application/octet-stream' --data-binary "@$IMAGES/blobs/sha256/${digest#sha256:}" "$at" -o /dev/null
	done
	curl -sf -X PUT -H "Content-Type: $(jq -r .mediaType "$manifest")" --data-binary "@$manifest" "$base/manifests/$1" -o /dev/null
}

# manifest TAG: what a client gets at $REGISTRY/lab/images:TAG.
manifest() {
	curl -sf -H 'Accept: application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json' \
		"http://$REGISTRY/v2/lab/images/manifests/$1"
}

for server in distribution oci; do
	"${server}_server"
	await 20 curl -sf -o /dev/null "http://$REGISTRY/v2/" || fail "registry $server: not ready after 20 s"
	fault_proxy -latency 2ms -fault reset=0.01 -fault lost-answer=0.01 -fault truncate=0.01 -fault half-close=0.01 -fault 503=0.01 "$REGISTRY"
	write=oci://$PROXY/lab/images
	fault_proxy -latency 2ms -fault reset=0.01 -fault truncate=0.01 -fault short=0.01 -fault flip=0.02 -fault 429=0.01 "$REGISTRY"
	read=oci://$PROXY/lab/images
	for name; do
		step "$server: $name"
		near=$(rivulet --store "dir:$WORK/near" publish "oci:$IMAGES:$name" --name "$name" --json | result digest)
		far=$(rivulet --store "$write" publish "oci:$IMAGES:$name" --name "$name" --json | result digest)
		[ -n "$near" ] && [ "$near" = "$far" ] || fail "$name: digest $far in a registry, $near in a directory"
		new=$(rivulet --store "$write" publish "oci:$IMAGES:$name" --name "$name" --json | result new_chunks)
		[ "$new" = 0 ] || fail "$name: published again, $new chunks are new"
		rivulet --store "dir:$WORK/near" export "$name" "$WORK/disk"
		same "$name"
		rm "$WORK/disk"
	done
	step "$server: $1, converted"
	push "$1"
	manifest "$1" >"$WORK/plain"
	converted=$(rivulet --store "$write" publish "${write#oci://}:$1" --name "$1" --converted --json | result converted)
	manifest "$1" | cmp - "$WORK/plain" || fail "$1: its tag leads to something else"
	manifest "$1-rivulet" >"$WORK/converted"
	[ "${converted#*@}" = "sha256:$(sha256sum <"$WORK/converted" | cut -d' ' -f1)" ] || fail "$1: converted to $converted"
	plain=sha256:$(sha256sum <"$WORK/plain" | cut -d' ' -f1)
	jq -e --arg plain "$plain" '.manifests | length == 2 and .[0].digest == $plain and .[0].platform.os == "linux"
		and .[1].artifactType == "application/vnd.rivulet.disk.v1" and .[1].annotations["com.github.rivuletfs.image"] == $plain' \
		"$WORK/converted" >/dev/null || fail "$1: what is at $1-rivulet: $(cat "$WORK/converted")"

	rivulet --store "dir:$WORK/near" export "$1" "$WORK/disk"
	tagged "$1"

	step "$server: a generation goes"
	collect "$write"
	same "$1"
	tagged "$1"
	rm "$WORK/disk"
done

step "refusals"
refuses "cannot be reached" --store "oci://127.0.0.1:1/a" ls
refuses "not found" --store "oci://$REGISTRY/a:tag" ls
refuses "leave out the tag" --store "oci://$REGISTRY/a:tag" publish "oci:$IMAGES:$1" --name x
refuses "docker login" --store "oci://user:password@$REGISTRY/a" ls
echo "registries: passed"
