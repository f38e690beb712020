#!/usr/bin/env bash
# containerd.sh [IMAGES_DIR] [NAME...]: containers of images that were not downloaded.
#
# Proves, with a real containerd, registry and runc, for the named images of an OCI layout
# (default python3, nginx, nodejs): published, the second one into its own repository, they are pulled without one request for a layer, and
# run, their first work included. Of the first image, a container that reads and writes
# goes on while snapshotter, agent, host cache and containerd are killed with -9 one after another and
# started again; exec, stop and start work; with the registry and the store gone, and
# everything restarted, it starts again, and so does another one. An image on the same lowest
# layer that nobody has published runs too, pulled before and after it; its
# layers are downloaded then. When the images are removed, nothing is mounted or attached any more, and
# no file of theirs is left.
#
# The first image runs in a pod too, as a kubelet would have it (crictl), and again when all is restarted.
#
# The last one first lies with its disk in a registry that wants a login, which crictl gives with the pull
# to the snapshotter's image service, and nobody else has.
#
# Needs root, /dev/fuse, a loop device, containerd, ctr, crictl, its shim, runc, umoci, busybox, skopeo, the
# distribution registry, curl, jq, python3.
#
# CONTAINERD=DIR tries the containerd, ctr and shim that are in a folder (1.7 and later). Before 2.1 only the CRI
# plugin tells a snapshotter of the image that it unpacks, so that all images are pulled by that.
#
# NERDCTL=DIR also has the nerdctl of a folder pull and run the first image, and push, save, commit and convert it.
#
# KUBELET=DIR also has the kubelet of a folder, without a cluster, run the first image in a static pod.
#
# BUILDKIT=DIR also builds with the buildkitd and buildctl of a folder: FROM the first image, without downloading it.

# In mounts of its own, as agent.sh has it.
if [ "$(id -u)" = 0 ] && [ "${OWN_MOUNTS:-}" != 1 ]; then
	OWN_MOUNTS=1 exec unshare --mount --propagation private "${BASH_SOURCE[0]}" "$@"
fi
source "$(dirname "${BASH_SOURCE[0]}")/harness.sh"

if [ $# -gt 0 ] && [ -d "$1" ]; then IMAGES=$(images "$1"); shift; else IMAGES=$(images); fi
[ $# -gt 0 ] || set -- python3 nginx nodejs
PLAIN=base # on the same lowest layer, and published by nobody
need_root
PATH=${CONTAINERD:+$(cd "$CONTAINERD" && pwd):}$(go env GOPATH 2>/dev/null || true)/bin:$PATH
need mount losetup containerd ctr crictl containerd-shim-runc-v2 runc skopeo umoci busybox registry curl jq python3
[ -c /dev/fuse ] || skip "/dev/fuse"
build
if [ -n "${CONTAINERD_RIVULET:-}" ]; then # one that is built already
	cp "$CONTAINERD_RIVULET" "$WORK/bin/containerd-rivulet"
else
	(cd "$ROOT" && go build -o "$WORK/bin/containerd-rivulet" ./cmd/containerd-rivulet)
fi

export XDG_STATE_HOME=$WORK/state RIVULET_CACHED=$WORK/run/cached.sock
DISKS=$WORK/snapshotter/disks
REGISTRY=127.0.0.1:$(free_port)
ref() { echo "$REGISTRY/lab/$1:1"; }
PRIVATE=127.0.0.1:$(free_port) # wants a login
SECRET=e2e-password
mkdir "$WORK/docker"
jq -n --arg host "$PRIVATE" --arg auth "$(printf 'e2e:%s' $SECRET | base64)" '{auths: {($host): {auth: $auth}}}' >"$WORK/docker/config.json"
VERSION=$(containerd --version | sed 's/.* v\{0,1\}\([0-9]*\.[0-9]*\)\..*/\1/')
# since VERSION: whether containerd is of that one or a later one.
since() { printf '%s\n' "$1" "$VERSION" | sort -CV; }
export CONTAINERD_ADDRESS=$WORK/containerd.sock CONTAINERD_NAMESPACE=e2e
since 2.1 || CONTAINERD_NAMESPACE=k8s.io # the CRI plugin's
cat >"$WORK/registry.yml" <<-CONFIG
	version: 0.1
	log: {level: error}
	storage: {filesystem: {rootdirectory: $WORK/registry}}
	http: {addr: $REGISTRY, secret: e2e}
CONFIG
cat >"$WORK/private.yml" <<-CONFIG
	version: 0.1
	log: {level: error}
	storage: {filesystem: {rootdirectory: $WORK/private}}
	http: {addr: $PRIVATE, secret: e2e}
	auth: {htpasswd: {realm: e2e, path: $WORK/htpasswd}}
CONFIG
echo 'e2e:$2a$05$v39FzOCK2UxRrhAzf5qL8.rxaM.8KqZTkPNCnfqsI4wB.Qvhp.hXy' >"$WORK/htpasswd" # of $SECRET, by bcrypt
cat >"$WORK/containerd.toml" <<-CONFIG
	version = $(since 2.0 && echo 3 || echo 2)
	root = "$WORK/containerd/root"
	state = "$WORK/containerd/state"
	disabled_plugins = ["io.containerd.nri.v1.nri", "io.containerd.internal.v1.tracing", "io.containerd.tracing.processor.v1.otlp"]
	[grpc]
	  address = "$CONTAINERD_ADDRESS"
	[ttrpc]
	  address = "$CONTAINERD_ADDRESS.ttrpc"
	[proxy_plugins.rivulet]
	  type = "snapshot"
	  address = "$WORK/run/rivulet/containerd.sock"
	  [proxy_plugins.rivulet.exports]
	    root = "$WORK/snapshotter"
	    enable_remote_snapshot_annotations = "true"
CONFIG
# BuildKit asks snapshotters of some names alone.
[ -z "${BUILDKIT:-}" ] || cat >>"$WORK/containerd.toml" <<-CONFIG
	[proxy_plugins.stargz]
	  type = "snapshot"
	  address = "$WORK/run/rivulet/buildkit.sock"
CONFIG
since 2.0 && cat >>"$WORK/containerd.toml" <<-CONFIG
	[plugins."io.containerd.transfer.v1.local"]
	  [[plugins."io.containerd.transfer.v1.local".unpack_config]]
	    platform = "linux/$(uname -m | sed 's/x86_64/amd64/; s/aarch64/arm64/')"
	    snapshotter = "rivulet"
CONFIG
# A host may allow no lower OOM score, so none is asked for.
if since 2.0; then
	cat >>"$WORK/containerd.toml" <<-CONFIG
		[plugins."io.containerd.cri.v1.images"]
		  snapshotter = "rivulet"
		  disable_snapshot_annotations = false
		  [plugins."io.containerd.cri.v1.images".pinned_images]
		    sandbox = "$(ref pause)"
		[plugins."io.containerd.cri.v1.runtime"]
		  restrict_oom_score_adj = true
		  [plugins."io.containerd.cri.v1.runtime".cni]
		    $(since 2.1 && echo "bin_dirs = [\"$WORK/cni\"]" || echo "bin_dir = \"$WORK/cni\"")
		    conf_dir = "$WORK/cni"
	CONFIG
else
	cat >>"$WORK/containerd.toml" <<-CONFIG
		[plugins."io.containerd.grpc.v1.cri"]
		  sandbox_image = "$(ref pause)"
		  restrict_oom_score_adj = true
		  [plugins."io.containerd.grpc.v1.cri".containerd]
		    snapshotter = "rivulet"
		    disable_snapshot_annotations = false
		  [plugins."io.containerd.grpc.v1.cri".cni]
		    bin_dir = "$WORK/cni"
		    conf_dir = "$WORK/cni"
	CONFIG
fi

# The processes, and how to tell that they are there.
start_registry() {
	OTEL_TRACES_EXPORTER=none start "$WORK/registry.log" registry serve "$WORK/registry.yml"
	REGISTRY_PID=$!
	await 30 curl -sf -o /dev/null "http://$REGISTRY/v2/" || fail "registry: not ready"
}
start_cached() {
	start "$WORK/cached.$((++STARTS)).log" "$WORK/bin/rivulet" cached --dir "$WORK/cache" --socket "$RIVULET_CACHED"
	CACHED=$!
	await 30 grep -q '^ready ' "$WORK/cached.$STARTS.log" || fail "cached: not ready"
}
start_agent() {
	start "$WORK/agent.$((++STARTS)).log" "$WORK/bin/rivulet" agent --hold 120s
	AGENT=$!
	await 60 grep -q '^ready ' "$WORK/agent.$STARTS.log" || fail "agent: not ready"
}
start_snapshotter() {
	start "$WORK/snapshotter.$((++STARTS)).log" "$WORK/bin/containerd-rivulet" --root "$WORK/snapshotter" --store "$RIVULET_STORE" --own-repository \
		--image-service "$IMAGE_SERVICE" --containerd "$CONTAINERD_ADDRESS" --keep-logins
	SNAPSHOTTER=$!
	await 30 grep -q '^ready ' "$WORK/snapshotter.$STARTS.log" || fail "snapshotter: not ready"
}
IMAGE_SERVICE=$WORK/images.sock
start_containerd() {
	start "$WORK/containerd.$((++STARTS)).log" containerd --config "$WORK/containerd.toml"
	CONTAINERD=$!
	await 60 ctr version >/dev/null || fail "containerd: not ready"
}
STARTS=0

# crash PID: kills it with -9 and waits for it.
crash() {
	kill -9 "$1"
	wait "$1" 2>/dev/null || true
}

# tidy: takes down what containers and mounts are left if this script fails.
tidy() {
	local id
	for id in $(ctr tasks ls -q); do
		ctr tasks kill -s KILL "$id"
		ctr tasks rm -f "$id"
	done
	rivulet agent detach --all --force
	awk -v work="$WORK/" 'index($5, work) == 1 { print $5 }' /proc/self/mountinfo | tac | xargs -r -n 1 umount -l
}
later tidy

# ctr: containerd's client, for a bounded time, without what it says of this host.
ctr() { timeout 120 ctr "$@" 2> >(grep -v 'level=warning' >&2); }
# crictl: what a kubelet says to containerd.
crictl() { command crictl --config /dev/null --runtime-endpoint "unix://$CONTAINERD_ADDRESS" --image-endpoint "unix://$IMAGE_SERVICE" --timeout 60s "$@"; }
push() { skopeo copy -q --dest-tls-verify=false "oci:$IMAGES:$1" "docker://$(ref "$1")"; }
pull() {
	if since 2.1; then ctr images pull --plain-http --snapshotter rivulet "$(ref "$1")"; else crictl pull "$(ref "$1")"; fi >"$WORK/pull.log" 2>&1 ||
		{ tail -n 5 "$WORK/pull.log" >&2; fail "pull $1"; }
}
# remove REFERENCE: takes an image away; also the name by its ID, which the CRI plugin gives all images of its namespace.
remove() { if since 2.1; then ctr images rm --sync "$1"; else crictl rmi "$1"; fi >/dev/null; }
# asked_anew: from here on fetched counts. The registry notes a request a moment after it has answered: it is asked once
# more, and has noted what was asked before when it has noted that.
asked_anew() {
	local mark
	mark=mark-$(unique)
	curl -s -o /dev/null "http://$REGISTRY/v2/$mark/tags/list"
	await 30 grep -q "$mark" "$WORK/registry.log" || fail "registry: notes nothing"
	ASKED=$(wc -l <"$WORK/registry.log")
}
# fetched NAME: how many of the image's layers the registry was asked for.
fetched() {
	local blob n=0
	for blob in $(skopeo inspect --raw "oci:$IMAGES:$1" | jq -r '.layers[].digest'); do
		[ "$(tail -n +$((ASKED + 1)) "$WORK/registry.log" | grep -c "GET /v2/[^ ]*/blobs/$blob")" = 0 ] || n=$((n + 1))
	done
	echo $n
}
# hello NAME: runs a container once, with the image's own first work.
hello() {
	ctr run --rm --snapshotter rivulet "$(ref "$1")" "once-$(unique)" >"$WORK/hello.log" 2>&1 || { cat "$WORK/hello.log" >&2; fail "run $1"; }
	grep -q HELLO "$WORK/hello.log" || fail "$1 said: $(cat "$WORK/hello.log")"
}
# unique: another number each time; a counter would not outlive the subshell of $(...).
unique() { echo "${EPOCHREALTIME//[!0-9]/}"; }

# worker: the container that reads and writes all the time: every file of a folder, and
# a line a round; a file that differs from what it was at first ends it.
WORKER='set -e
sum() { find /usr/bin /usr/lib/python3* /etc -xdev -type f 2>/dev/null | sort | awk "NR % 20 == 1" | xargs cat | cksum; }
first=$(sum)
i=$(cat /rounds 2>/dev/null || echo 0)
while [ ! -e /stop ]; do
	[ "$(sum)" = "$first" ]
	i=$((i + 1))
	echo $i >/rounds.new && mv /rounds.new /rounds
done'
# rounds: how many it has done; by another exec each time, so that this is tried too.
rounds() { ctr tasks exec --exec-id "look-$(unique)" worker cat /rounds; }
# goes_on WHAT: it does two more rounds.
goes_on() {
	local from now end=$((SECONDS + 120))
	from=$(rounds) || fail "after $1: exec: $from"
	while now=$(rounds) && [ "$now" -lt $((from + 2)) ]; do
		[ $SECONDS -lt $end ] || fail "after $1: the container does not go on"
		sleep 0.2
	done
	[ "$now" -gt "$from" ] || fail "after $1: the container is gone: $(ctr tasks ls)"
}
stop_worker() {
	ctr tasks kill -s KILL worker
	await 30 eval '[ "$(ctr tasks ls | grep -c "^worker.*STOPPED")" = 1 ]' || fail "the container does not stop"
	ctr tasks rm worker >/dev/null
}
# pause: what holds a pod's namespaces: an image that nobody has published.
pause() {
	mkdir "$WORK/pause"
	cp "$(command -v busybox)" "$WORK/pause/busybox"
	umoci init --layout "$WORK/pause.oci"
	umoci new --image "$WORK/pause.oci:1"
	umoci insert --image "$WORK/pause.oci:1" "$WORK/pause" /bin
	umoci config --image "$WORK/pause.oci:1" --config.entrypoint /bin/busybox --config.entrypoint sleep --config.entrypoint 100000
	skopeo copy -q --dest-tls-verify=false "oci:$WORK/pause.oci:1" "docker://$(ref pause)"
}
# in_pod NAME [IMAGE]: what a kubelet asks for: pod, container, its output, exec, stop. The pod is in
# the host's network, so that it needs no plugins for that.
in_pod() {
	local pod container
	jq -n --arg dir "$WORK" '{metadata: {name: "pod", namespace: "e2e", uid: "1"}, log_directory: $dir,
	  linux: {cgroup_parent: "/e2e", security_context: {namespace_options: {network: 2}}}}' >"$WORK/pod.json"
	jq -n --arg name "$1" --arg image "${2:-$(ref "$1")}" '{metadata: {name: $name}, image: {image: $image}, log_path: "container.log",
	  command: ["sh", "-c", "/lab/hello; sleep 1000"], linux: {}}' >"$WORK/container.json"
	pod=$(crictl runp "$WORK/pod.json")
	container=$(crictl create "$pod" "$WORK/container.json" "$WORK/pod.json")
	crictl start "$container" >/dev/null
	await 60 eval 'crictl logs "$container" 2>/dev/null | grep -q HELLO' || fail "$1 in a pod: $(crictl logs "$container" 2>&1)"
	# Not by a pipe to grep -q, which may end before crictl does, and that fails then.
	[ "$(crictl exec -s "$container" sh -c 'echo kept >/written; cat /written')" = kept ] || fail "$1: exec in a pod"
	crictl stop -t 1 "$container" >/dev/null
	crictl rm "$container" >/dev/null
	crictl rmp -f "$pod" >/dev/null
}
# private NAME: an image in a registry that only the pull has a login for: not pulled without, or with a wrong
# one; its disk is found and read by the right one, also by an agent and a snapshotter that are started anew.
private() {
	local image=$PRIVATE/lab/$1:1
	OTEL_TRACES_EXPORTER=none start "$WORK/private.log" registry serve "$WORK/private.yml"
	await 30 eval '[ "$(curl -s -o /dev/null -w "%{http_code}" "http://$PRIVATE/v2/")" = 401 ]' || fail "private registry: not ready"
	skopeo copy -q --authfile "$WORK/docker/config.json" --dest-tls-verify=false "oci:$IMAGES:$1" "docker://$image"
	DOCKER_CONFIG=$WORK/docker rivulet --store "oci://$PRIVATE/lab/$1" publish "$image" --name "$1" 2>/dev/null
	local published
	published=$(wc -l <"$WORK/private.log") # with lines of the layers that it read
	! crictl pull "$image" >/dev/null 2>&1 || fail "$1 was pulled without a login"
	! crictl pull --creds e2e:wrong "$image" >/dev/null 2>&1 || fail "$1 was pulled by a wrong password"
	crictl pull --creds "e2e:$SECRET" "$image" >"$WORK/pull.log" 2>&1 || fail "$1: $(cat "$WORK/pull.log")"
	[ "$(attached)" = 1 ] || fail "$1 is not read from its disk: $(tail -n 5 "$WORK/snapshotter.$STARTS.log")"
	! grep -q "GET /v2/[^ ]*/blobs/$(skopeo inspect --raw "oci:$IMAGES:$1" | jq -r '.layers[-1].digest')" <(tail -n +$((published + 1)) "$WORK/private.log") || fail "$1: layers were downloaded"
	crash "$AGENT"
	crash "$SNAPSHOTTER"
	start_agent
	start_snapshotter
	in_pod "$1" "$image"
	! grep -rqF "$SECRET" "$WORK"/*.log "$XDG_STATE_HOME" || fail "the password is in a log, or in the agent's state"
	[ "$(stat -c %a "$WORK/snapshotter/logins.json")" = 600 ] || fail "others may read the logins"
	crictl rmi "$image" >/dev/null
	await 30 eval '[ "$(attached)" = 0 ]' || fail "still attached: $(rivulet agent ls)"
}
# nerdctl: of a namespace and folders of its own.
nerdctl() {
	NERDCTL_TOML=/dev/null DOCKER_CONFIG=$WORK/docker timeout 120 "$NERDCTL/nerdctl" --address "$CONTAINERD_ADDRESS" --namespace nerdctl --snapshotter rivulet \
		--data-root "$WORK/nerdctl" --cni-path "$WORK/cni" --cni-netconfpath "$WORK/cni" "$@" 2>"$WORK/nerdctl.log" || fail "nerdctl $1: $(tail -n 5 "$WORK/nerdctl.log")"
}
# nerdctls NAME: nerdctl pulls an image and runs it without downloading. It downloads by itself what it pushes, and has all for
# the rest then.
nerdctls() {
	local image=$REGISTRY/nerdctl/$1 missing made
	nerdctl pull "$(ref "$1")" >/dev/null
	nerdctl run --rm --net host "$(ref "$1")" >"$WORK/hello.log"
	grep -q HELLO "$WORK/hello.log" || fail "$1 said to nerdctl: $(cat "$WORK/hello.log")"
	nerdctl run -d --name writer --net host "$(ref "$1")" sh -c 'echo kept >/written; sleep 1000' >/dev/null
	missing=$(skopeo inspect --raw "oci:$IMAGES:$1" | jq '.layers | length')
	[ "$(fetched "$1")" = 0 ] || fail "$1: nerdctl downloaded $(fetched "$1") layers"
	nerdctl tag "$(ref "$1")" "$image:pushed" >/dev/null
	nerdctl push "$image:pushed" >/dev/null
	[ "$(fetched "$1")" = "$missing" ] || fail "$1: $(fetched "$1") layers were downloaded for a push, want $missing"
	cmp <(skopeo inspect --raw --tls-verify=false "docker://$image:pushed") <(skopeo inspect --raw --tls-verify=false "docker://$(ref "$1")") || fail "nerdctl pushed another image"
	nerdctl save -o "$WORK/saved.tar" "$(ref "$1")"
	cmp <(skopeo inspect --raw "oci-archive:$WORK/saved.tar") <(skopeo inspect --raw --tls-verify=false "docker://$(ref "$1")") || fail "nerdctl saved another image"
	rm "$WORK/saved.tar"
	nerdctl commit writer "$image:committed" >/dev/null
	nerdctl image convert --oci --zstd "$(ref "$1")" "$image:converted" >/dev/null
	for made in committed converted; do
		nerdctl push "$image:$made" >/dev/null
		nerdctl rmi "$image:$made" >/dev/null
		nerdctl pull "$image:$made" >/dev/null
	done
	[ "$(nerdctl run --rm --net host "$image:committed" cat /written)" = kept ] || fail "what nerdctl committed is not what was written"
	nerdctl run --rm --net host "$image:converted" | grep HELLO >/dev/null || fail "what nerdctl converted does not run"
	nerdctl rm -f writer >/dev/null
	nerdctl rmi -f "$(ref "$1")" "$image:pushed" "$image:committed" "$image:converted" >/dev/null
	asked_anew # layers were downloaded, and what was made is pushed and pulled
}
# by_kubelet NAME: a kubelet that has no cluster runs a pod by its manifest, and ends it when that is gone.
by_kubelet() {
	local kubelet
	mkdir "$WORK/manifests"
	# Nothing is kept free or evicted, and no cgroup made but the pod's.
	jq -n --arg dir "$WORK" --arg containerd "unix://$CONTAINERD_ADDRESS" --arg images "unix://$IMAGE_SERVICE" '{
	  kind: "KubeletConfiguration", apiVersion: "kubelet.config.k8s.io/v1beta1", containerRuntimeEndpoint: $containerd, imageServiceEndpoint: $images,
	  staticPodPath: ($dir + "/manifests"), fileCheckFrequency: "1s", podLogsDir: ($dir + "/pods"), volumePluginDir: ($dir + "/plugins"), enableServer: false,
	  authentication: {anonymous: {enabled: true}, webhook: {enabled: false}}, authorization: {mode: "AlwaysAllow"},
	  cgroupDriver: "cgroupfs", cgroupsPerQOS: false, enforceNodeAllocatable: [], failSwapOn: false, failCgroupV1: false, oomScoreAdj: 0,
	  localStorageCapacityIsolation: false, imageGCHighThresholdPercent: 100, makeIPTablesUtilChains: false, resolvConf: "", evictionHard: {"memory.available": "0%"}}' >"$WORK/kubelet.json"
	jq -n --arg image "$(ref "$1")" '{apiVersion: "v1", kind: "Pod", metadata: {name: "static", namespace: "e2e"}, spec: {hostNetwork: true, enableServiceLinks: false,
	  terminationGracePeriodSeconds: 1, containers: [{name: "hello", image: $image, imagePullPolicy: "Always", command: ["sh", "-c", "/lab/hello; sleep 1000"]}]}}' >"$WORK/manifests/static.json"
	# It makes sockets in /var/lib/kubelet, whatever its root folder is: in one that only it sees.
	start "$WORK/kubelet.log" unshare --mount --propagation slave sh -c 'mount -t tmpfs none /var/lib && exec "$@"' - "$KUBELET/kubelet" --config "$WORK/kubelet.json" --root-dir "$WORK/kubelet" --hostname-override e2e
	kubelet=$!
	await 120 grep -rqs HELLO "$WORK/pods" || fail "no kubelet's pod: $(tail -n 20 "$WORK/kubelet.log")"
	rm "$WORK/manifests/static.json"
	await 60 eval '[ -z "$(crictl pods -q)" ]' || fail "the kubelet's pod does not end"
	stop "$kubelet"
}
# build OUTPUT: what the Dockerfile says.
build() {
	timeout 120 "$BUILDKIT/buildctl" --addr "unix://$WORK/buildkit.sock" build --frontend dockerfile.v0 --local context="$WORK/build" --local dockerfile="$WORK/build" \
		--output "$1" >"$WORK/build.log" 2>&1 || fail "build: $(tail -n 20 "$WORK/build.log")"
}
# builds NAME: BuildKit's containerd worker builds on an image, which is read from its disk: no layer is downloaded. Only
# to push what is built on it, BuildKit needs them.
builds() {
	local daemon
	printf '[registry."%s"]\n  http = true\n' "$REGISTRY" >"$WORK/buildkitd.toml"
	start "$WORK/buildkitd.log" "$BUILDKIT/buildkitd" --config "$WORK/buildkitd.toml" --root "$WORK/buildkit" --addr "unix://$WORK/buildkit.sock" --oci-worker=false \
		--containerd-worker=true --containerd-worker-addr "$CONTAINERD_ADDRESS" --containerd-worker-namespace buildkit --containerd-worker-snapshotter stargz --containerd-worker-net host
	daemon=$!
	await 60 "$BUILDKIT/buildctl" --addr "unix://$WORK/buildkit.sock" debug workers >/dev/null || fail "buildkitd: not ready"
	mkdir "$WORK/build"
	printf 'FROM %s AS base\nRUN /lab/hello >/said\nFROM scratch\nCOPY --from=base /said /said\n' "$(ref "$1")" >"$WORK/build/Dockerfile"
	build "type=local,dest=$WORK/built"
	grep -q HELLO "$WORK/built/said" || fail "built: $(cat "$WORK/built/said")"
	[ "$(fetched "$1")" = 0 ] || fail "$1: $(fetched "$1") layers were downloaded for a build"
	printf 'FROM %s\nRUN /lab/hello >/said\n' "$(ref "$1")" >"$WORK/build/Dockerfile"
	build "type=image,name=$REGISTRY/built/$1:1,push=true"
	ctr images pull --plain-http --snapshotter rivulet "$REGISTRY/built/$1:1" >"$WORK/pull.log" 2>&1 || fail "pull what was built: $(tail -n 5 "$WORK/pull.log")"
	ctr run --rm --snapshotter rivulet "$REGISTRY/built/$1:1" built cat /said | grep -q HELLO || fail "what was built does not run"
	remove "$REGISTRY/built/$1:1"
	"$BUILDKIT/buildctl" --addr "unix://$WORK/buildkit.sock" prune --all >/dev/null
	stop "$daemon"
	stop "$BUILDS"
	rivulet agent ls --json | jq -r '.[] | .spec.where | select(contains("buildkit.snapshots"))' | while read -r dir; do rivulet agent detach "$dir"; done
	asked_anew # what was built was pushed, and pulled
}
attached() { rivulet agent ls --json | jq 'length'; }

step "begin"
start_registry
for name in "$@"; do
	push "$name"
	store=$RIVULET_STORE
	[ "$name" != "${2:-}" ] || store=oci://$REGISTRY/lab/$name # that of the image
	rivulet --store "$store" publish "$(ref "$name")" --name "$name" 2>/dev/null
done
push $PLAIN
pause
asked_anew # publishing has fetched
start_cached
start_agent
start_snapshotter
if [ -n "${BUILDKIT:-}" ]; then # one of its own, before containerd looks for it
	start "$WORK/buildkit.snapshotter.log" "$WORK/bin/containerd-rivulet" --root "$WORK/buildkit.snapshots" --address "$WORK/run/rivulet/buildkit.sock" --store "$RIVULET_STORE" \
		--containerd "$CONTAINERD_ADDRESS" --logins "$WORK/run/builds.logins.sock"
	BUILDS=$!
	await 30 grep -q '^ready ' "$WORK/buildkit.snapshotter.log" || fail "snapshotter for builds: not ready"
fi
start_containerd
ctr plugins ls >"$WORK/plugins"
grep -q '^io.containerd.snapshotter.v1  *rivulet .*ok' "$WORK/plugins" || fail "$(cat "$WORK/plugins")"

step "a registry that wants a login: ${!#}"
private "${!#}"

step "pull and run without downloading: $*"
for name in "$@"; do
	begun=$(date +%s%N)
	pull "$name"
	pulled=$(date +%s%N)
	hello "$name"
	printf '%s: pulled in %d ms, first run %d ms\n' "$name" $(((pulled - begun) / 1000000)) $((($(date +%s%N) - pulled) / 1000000))
	[ "$(fetched "$name")" = 0 ] || fail "$name: $(fetched "$name") layers were downloaded"
done
[ "$(attached)" = $# ] || fail "attached: $(rivulet agent ls)"
hello "$1"
[ "$(attached)" = $# ] || fail "a disk of its own for a container: $(rivulet agent ls)"

step "as a kubelet does"
crictl pull "$(ref "$1")" >/dev/null
in_pod "$1"
[ "$(fetched "$1")" = 0 ] || fail "$1 in a pod: $(fetched "$1") layers were downloaded"
[ "$(attached)" = $# ] || fail "a disk of its own for a pod: $(rivulet agent ls)"
crictl imagefsinfo -o json | jq -e --arg root "$WORK/snapshotter" '.. | .mountpoint? // empty | select(startswith($root))' >/dev/null || fail "the snapshotter is not in $(crictl imagefsinfo)"

if [ -n "${KUBELET:-}" ]; then
	step "a kubelet"
	by_kubelet "$1"
	[ "$(fetched "$1")" = 0 ] || fail "$1 by a kubelet: $(fetched "$1") layers were downloaded"
fi

if [ -n "${NERDCTL:-}" ]; then
	step "nerdctl"
	nerdctls "$1"
	[ "$(attached)" = $# ] || fail "left by nerdctl: $(rivulet agent ls)"
fi

if [ -n "${BUILDKIT:-}" ]; then
	step "a build on it"
	builds "$1"
	[ "$(attached)" = $# ] || fail "left by a build: $(rivulet agent ls)"
fi

step "an image without a disk on the same lowest layer"
pull $PLAIN
hello $PLAIN
[ "$(fetched $PLAIN)" = 2 ] || fail "$PLAIN: $(fetched $PLAIN) layers were downloaded, want 2"
hello "$1"

step "kill -9 under a container that reads and writes"
snapshots() { ctr snapshots --snapshotter rivulet ls >/dev/null 2>&1; }
ctr run -d --snapshotter rivulet "$(ref "$1")" worker sh -c "$WORKER"
await 60 rounds >/dev/null || fail "the container does not begin"
goes_on nothing
crash "$SNAPSHOTTER"
goes_on "the end of the snapshotter"
start_snapshotter
goes_on "another snapshotter"
await 30 snapshots # containerd tries again when it has waited for a while
hello "$1"
crash "$AGENT"
start_agent
goes_on "another agent"
crash "$CACHED"
start_cached
goes_on "another host cache"
crash "$CONTAINERD"
start_containerd
goes_on "another containerd"
hello "$1"

step "push, export, commit"
# Of an image whose layers were not downloaded: they are fetched for it.
(cd "$ROOT" && go build -o "$WORK/bin/commitimage" ./internal/commitimage)
complete() { "$WORK/bin/containerd-rivulet" fetch --containerd "$CONTAINERD_ADDRESS" --namespace "$CONTAINERD_NAMESPACE" "$(ref "$1")"; }
! ctr images export "$WORK/export.tar" "$(ref "$1")" 2>/dev/null || fail "$1 was exported without its layers"
complete "$1" >"$WORK/fetch.log" || fail "fetch $1"
complete "$1" | grep -q ' 0 layers' || fail "fetched twice: $(cat "$WORK/fetch.log")"
ctr images export "$WORK/export.tar" "$(ref "$1")"
skopeo inspect --raw "oci-archive:$WORK/export.tar" >"$WORK/exported" || fail "the export of $1 is no image"
cmp "$WORK/exported" <(skopeo inspect --raw --tls-verify=false "docker://$(ref "$1")") || fail "the export of $1 is another image"
rm "$WORK/export.tar"
ctr images push --plain-http "$REGISTRY/pushed/$1:1" "$(ref "$1")" >"$WORK/push.log" 2>&1 || fail "push $1: $(tail -n 5 "$WORK/push.log")"
own_snapshot() { ctr containers info "$1" | jq -r .SnapshotKey; }
ctr tasks kill -s SIGSTOP worker # as it would be paused: files do not go away under who reads them
sleep 1
"$WORK/bin/commitimage" "$CONTAINERD_ADDRESS" "$CONTAINERD_NAMESPACE" rivulet "$(own_snapshot worker)" "$(ref "$1")" "$REGISTRY/committed/$1:1" || fail "commit of a container"
ctr tasks kill -s SIGCONT worker
ctr images push --plain-http "$REGISTRY/committed/$1:1" >"$WORK/push.log" 2>&1 || fail "push what was committed: $(tail -n 5 "$WORK/push.log")"
remove "$REGISTRY/committed/$1:1"
ctr images pull --plain-http --snapshotter rivulet "$REGISTRY/committed/$1:1" >"$WORK/pull.log" 2>&1 || fail "pull what was committed: $(tail -n 5 "$WORK/pull.log")"
ctr run --rm --snapshotter rivulet "$REGISTRY/committed/$1:1" committed sh -c '[ "$(cat /rounds)" -gt 0 ] && /lab/hello' | grep -q HELLO || fail "what was committed does not run"
remove "$REGISTRY/committed/$1:1"

step "disks of containers' own"
DISKS_OF_IMAGES=$#
# Of 32 MiB: what is written counts, a file too many is a full disk, and all is given back.
QUOTA=$((32 << 20))
ctr run -d --snapshotter rivulet --snapshotter-label "containerd.io/snapshot/max-size=$QUOTA" "$(ref "$1")" own sh -c 'sleep 1000'
own() { ctr tasks exec --exec-id "own-$(unique)" own sh -c "$1"; }
own 'head -c 20971520 /dev/zero | tr "\0" x >/first && sync' || fail "a disk of its own cannot be written"
used=$(ctr snapshots --snapshotter rivulet usage own | awk 'END { print $2 $3 }')
[[ $used == 2[0-9].*MiB ]] || fail "20 MiB were written, and used are $used"
! own 'head -c 20971520 /dev/zero >/second' 2>"$WORK/full" || fail "the quota is no bound"
own 'rm /first /second; head -c 20971520 /dev/zero | tr "\0" y >/second; sync; cksum /second' >"$WORK/second" || fail "no room after a file was removed"
crash "$AGENT"
start_agent
own 'cksum /second' | cmp - "$WORK/second" || fail "what was written is lost with the agent"
ctr tasks kill -s KILL own
await 30 eval '[ "$(ctr tasks ls | grep -c "^own.*STOPPED")" = 1 ]' || fail "the container does not stop"
ctr tasks rm own >/dev/null
ctr tasks start -d own
own 'cksum /second' | cmp - "$WORK/second" || fail "what was written is lost with the container's task"
ctr tasks kill -s KILL own
await 30 eval '[ "$(ctr tasks ls | grep -c "^own.*STOPPED")" = 1 ]' || fail "the container does not stop"
ctr tasks rm own >/dev/null
ctr containers rm own
ctr leases delete --sync "$(ctr leases create)" >/dev/null # has garbage collected
await 30 eval '[ "$(attached)" = "$DISKS_OF_IMAGES" ]' || fail "a disk of a container that is gone: $(rivulet agent ls)"

step "stop and start"
before=$(rounds)
stop_worker
# Nothing in memory: all that a start reads is in the host cache from now on.
crash "$AGENT"
echo 3 >/proc/sys/vm/drop_caches
start_agent
ctr tasks start -d worker
goes_on "a restart"
[ "$(rounds)" -gt "$before" ] || fail "the container has lost what it wrote"
hello "$1"

step "everything restarted, with registry and store gone"
stop_worker
stop "$REGISTRY_PID"
mv "$WORK/store" "$WORK/store.away"
for pid in "$CONTAINERD" "$SNAPSHOTTER" "$AGENT" "$CACHED"; do crash "$pid"; done
echo 3 >/proc/sys/vm/drop_caches
start_cached
start_agent
start_snapshotter
start_containerd
ctr tasks start -d worker
goes_on "everything"
hello "$1"
in_pod "$1"

step "remove"
mv "$WORK/store.away" "$WORK/store"
start_registry
stop_worker
ctr containers rm worker
crictl rmi "$(ref "$1")" "$(ref pause)" >/dev/null
for name in "$@" $PLAIN; do [ "$name" = "$1" ] && ! since 2.1 || remove "$(ref "$name")"; done
ctr leases delete --sync "$(ctr leases create)" >/dev/null # has garbage collected
await 60 eval '[ "$(attached)" = 0 ]' || fail "still attached: $(rivulet agent ls)"
await 30 eval '! grep -qF "$WORK/snapshotter" /proc/self/mountinfo' || fail "still mounted: $(grep -F "$WORK/snapshotter" /proc/self/mountinfo)"
left=$(find "$WORK/snapshotter" -mindepth 2)
[ -z "$left" ] || fail "left behind: $left"

step "passed"
