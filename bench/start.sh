# shellcheck shell=bash disable=SC2154
# start.sh: part of run.sh. From attaching an image that is not here to its workload's
# ready line (/lab/hello, in a chroot), the store being S3 (versitygw) behind 30 ms a
# request and 1 Gbit/s (slowhttp). STARTS are the images; ROUNDS the runs of each:
#
#   profile    nothing is here; one host's recorded start is followed on another
#   pack       the same, and what the start reads is in a start pack
#   predicted  nobody has started it: what publishing predicted is followed
#   lazy       the same without a profile
#   neighbours the same, with the chunks brought that lie behind those that are read
#   export     the whole disk first, by rivulet export, then a loop device
#   pull       the image first, by containerd, from a registry over a way as far and wide
#   local      the whole disk is here, in a file behind a loop device
#
# Then how what was predicted compares with what a start reads, and what the metadata object
# is worth: mounting the last image and walking its tree, with the object and, as it was
# published before there was one, without.
#
# A host is an agent with a state folder, a memory and a store's connections of its own.
PATH=$(go env GOPATH 2>/dev/null || true)/bin:$PATH
need jq curl losetup chroot registry skopeo containerd ctr
s3_server
unset AWS_CA_BUNDLE
STARTS=${STARTS:-python3 nodejs nginx redis postgres openjdk}
DELAY=${DELAY:-30ms} BANDWIDTH=${BANDWIDTH:-125000000}
start "$WORK/slow.log" slowhttp -delay "$DELAY" -bandwidth "$BANDWIDTH" -to "http://$S3_ADDR"
await 20 grep -q '^ready ' "$WORK/slow.log" || fail "slowhttp: $(cat "$WORK/slow.log")"
FAR=$(sed -n 's/^ready //p' "$WORK/slow.log")
# The registry, and another way of that kind to it: nothing of it is under way beside the rest.
registry=127.0.0.1:$(free_port)
cat >"$WORK/registry.yml" <<-CONFIG
	version: 0.1
	log: {level: error}
	storage: {filesystem: {rootdirectory: $WORK/registry}}
	http: {addr: $registry, secret: start}
CONFIG
OTEL_TRACES_EXPORTER=none start "$WORK/registry.log" registry serve "$WORK/registry.yml"
await 30 curl -sf -o /dev/null "http://$registry/v2/" || fail "registry: not ready"
start "$WORK/slowregistry.log" slowhttp -delay "$DELAY" -bandwidth "$BANDWIDTH" -to "http://$registry"
await 20 grep -q '^ready ' "$WORK/slowregistry.log" || fail "slowhttp: $(cat "$WORK/slowregistry.log")"
far_registry=$(sed -n 's,^ready http://,,p' "$WORK/slowregistry.log")
export CONTAINERD_ADDRESS=$WORK/containerd.sock CONTAINERD_NAMESPACE=start
cat >"$WORK/containerd.toml" <<-CONFIG
	version = 3
	root = "$WORK/containerd/root"
	state = "$WORK/containerd/state"
	disabled_plugins = ["io.containerd.nri.v1.nri", "io.containerd.internal.v1.tracing", "io.containerd.tracing.processor.v1.otlp", "io.containerd.grpc.v1.cri", "io.containerd.cri.v1.images", "io.containerd.cri.v1.runtime"]
	[grpc]
	  address = "$CONTAINERD_ADDRESS"
	[ttrpc]
	  address = "$CONTAINERD_ADDRESS.ttrpc"
CONFIG
start "$WORK/containerd.log" containerd --config "$WORK/containerd.toml"
await 30 ctr version >"$WORK/log" || fail "containerd: $(tail -n 5 "$WORK/containerd.log")"

# pull: the image from the registry, unpacked and mounted, as containerd has it.
pull() {
	local ref=$far_registry/start/$image:1
	began=$EPOCHREALTIME
	ctr images pull --local --plain-http --snapshotter overlayfs "$ref" >"$WORK/log" 2>&1 || { cat "$WORK/log" >&2; fail "pull $image"; }
	pulled=$EPOCHREALTIME
	ctr images mount --snapshotter overlayfs "$ref" "$WORK/local" >/dev/null
	hello "$WORK/local"
	ctr images unmount --snapshotter overlayfs --rm "$WORK/local" >/dev/null
	ctr images rm --sync "$ref" >/dev/null
}

near_store="s3://bucket/start?endpoint=http://$S3_ADDR" far_store="s3://bucket/start?endpoint=$FAR"

# hello DIR: runs the workload in DIR, read-only, with a place to write of its own.
hello() {
	local root=$WORK/root line
	mkdir -p "$root" "$WORK/scratch"
	mount -t tmpfs scratch "$WORK/scratch"
	mkdir "$WORK/scratch/upper" "$WORK/scratch/work"
	mount -t overlay -o "lowerdir=$1,upperdir=$WORK/scratch/upper,workdir=$WORK/scratch/work" start "$root"
	mount -t proc proc "$root/proc"
	mount --rbind --make-rslave /dev "$root/dev"
	# With the environment of the image and no other: a locale of this machine would be read.
	line=$(env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin PORT="$(free_port)" chroot "$root" /lab/hello 2>"$WORK/hello.log" | tail -n 1) || true
	ended=$EPOCHREALTIME
	umount -R -l "$root/dev"
	umount "$root/proc" "$root" "$WORK/scratch"
	[ "${line%% *}" = HELLO ] || { cat "$WORK/hello.log" >&2; fail "/lab/hello of $image: $line"; }
}

# host NAME: a host with nothing on it, and AGENT.
host() {
	export XDG_STATE_HOME=$WORK/hosts/$1/state XDG_RUNTIME_DIR=$WORK/hosts/$1/run
	rm -rf "$WORK/hosts/$1"
	mkdir -p -m 700 "$XDG_STATE_HOME" "$XDG_RUNTIME_DIR"
	start "$WORK/agent.log" "$WORK/bin/rivulet" --store "$far_store" agent --cache none
	AGENT=$!
	await 30 rivulet agent ls || fail "agent: $(cat "$WORK/agent.log")"
}

asked() { curl -sf "$FAR/.stats" | jq ".$1"; }
took() { awk -v from="$began" -v to="$ended" 'BEGIN { print to - from }'; }

# far USE: a start on a new host; sets the times, what was fetched and STATUS, a JSON
# object that tells of it.
far() {
	local requests bytes
	host "$1"
	requests=$(asked requests) bytes=$(asked bytes)
	began=$EPOCHREALTIME
	local options=(--profile "$1")
	# A workload that nobody has started has no profile, or the predicted one.
	case ${3:-} in
	predicted) options=(--profile replay --workload new) ;;
	neighbours) options=(--profile replay --workload none --neighbours) ;;
	esac
	rivulet --store "$far_store" mount "$image" "$WORK/mnt" "${options[@]}" >"$WORK/log" 2>&1 || { cat "$WORK/log" >&2; fail "mount $image"; }
	hello "$WORK/mnt"
	[ "$1" != record ] || rivulet profile mark "$WORK/mnt"
	STATUS=$(rivulet agent ls --json | jq -c "${2:-.}")
	REQUESTS=$(($(asked requests) - requests)) BYTES=$(($(asked bytes) - bytes))
	[ "$1" != record ] || await 30 kept || fail "the start of $image was not kept: $STATUS"
	rivulet umount "$WORK/mnt" >/dev/null
	stop "$AGENT"
}
kept() { rivulet agent ls --json | jq -e 'first(.. | .start? // empty) | .kept == "origin"' >/dev/null; }

mkdir -p "$WORK/mnt" "$WORK/local"
: >"$WORK/times" >"$WORK/costs" >"$WORK/predictions"
for image in $STARTS; do
	rivulet --store "$near_store" publish "oci:$IMAGES:$image" --name "$image" >/dev/null 2>&1
	skopeo copy -q --dest-tls-verify=false "oci:$IMAGES:$image" "docker://$registry/start/$image:1"
	rivulet --store "$near_store" export "$image" "$WORK/disk"
	rivulet --store "$near_store" profile export "$image" "$WORK/predicted"
	rivulet --store "$near_store" profile import "$image" "$WORK/predicted" --workload new >/dev/null
	far record
	rivulet --store "$near_store" profile predict "$image" --try --json |
		jq -r --arg image "$image" '"| \($image) | \(.compared.read) | \(.frames) | \(.compared.hit) | \(.compared.read_bytes / 1e6) | \(.bytes / 1e6) | \(.compared.hit_bytes / 1e6) |"' |
		awk '{ for (i = 10; i <= 14; i += 2) $i = sprintf("%.1f", $i); print }' >>"$WORK/predictions"
	note "$image: MB of frames that a start reads, coded" touched "$(rivulet --store "$near_store" profile show "$image" --json | jq '.stored_bytes / 1e6')" >>"$WORK/costs"
	for ((round = 1; round <= ROUNDS; round++)); do
		far replay
		note "$image" profile "$(took)" >>"$WORK/times"
		note "$image: MB fetched" profile "$(awk -v n="$BYTES" 'BEGIN { print n / 1e6 }')" >>"$WORK/costs"
		note "$image: requests" profile "$REQUESTS" >>"$WORK/costs"
		note "$image: frames brought and not read" profile "$(jq 'first(.. | .start? // empty) | .replay.unused // 0' <<<"$STATUS")" >>"$WORK/costs"
		rivulet --store "$near_store" profile pack "$image" >/dev/null
		far replay
		rivulet --store "$near_store" profile pack "$image" --remove
		note "$image" pack "$(took)" >>"$WORK/times"
		note "$image: MB fetched" pack "$(awk -v n="$BYTES" 'BEGIN { print n / 1e6 }')" >>"$WORK/costs"
		note "$image: requests" pack "$REQUESTS" >>"$WORK/costs"
		far off . predicted
		note "$image" predicted "$(took)" >>"$WORK/times"
		note "$image: MB fetched" predicted "$(awk -v n="$BYTES" 'BEGIN { print n / 1e6 }')" >>"$WORK/costs"
		note "$image: requests" predicted "$REQUESTS" >>"$WORK/costs"
		note "$image: frames brought and not read" predicted "$(jq 'first(.. | .start? // empty) | .replay.unused // 0' <<<"$STATUS")" >>"$WORK/costs"
		far off
		note "$image" lazy "$(took)" >>"$WORK/times"
		note "$image: MB fetched" lazy "$(awk -v n="$BYTES" 'BEGIN { print n / 1e6 }')" >>"$WORK/costs"
		note "$image: requests" lazy "$REQUESTS" >>"$WORK/costs"
		far off . neighbours
		note "$image" neighbours "$(took)" >>"$WORK/times"
		note "$image: MB fetched" neighbours "$(awk -v n="$BYTES" 'BEGIN { print n / 1e6 }')" >>"$WORK/costs"
		note "$image: requests" neighbours "$REQUESTS" >>"$WORK/costs"
		pull
		note "$image" pull "$(took)" >>"$WORK/times"
		note "$image: of a pull, without the start, s" pull "$(awk -v from="$began" -v to="$pulled" 'BEGIN { print to - from }')" >>"$WORK/costs"
		for subject in export local; do
			began=$EPOCHREALTIME
			if [ $subject = export ]; then
				rm -f "$WORK/disk"
				rivulet --store "$far_store" export "$image" "$WORK/disk"
			else
				dd if="$WORK/disk" iflag=nocache count=0 status=none # no page of it is in memory
				began=$EPOCHREALTIME
			fi
			mount -o loop,ro,noload "$WORK/disk" "$WORK/local"
			hello "$WORK/local"
			umount "$WORK/local"
			note "$image" $subject "$(took)" >>"$WORK/times"
		done
	done
done
# walk SUBJECT: mounts the image on a new host and lists all of its files.
walk() {
	local requests
	host walk
	requests=$(asked requests)
	began=$EPOCHREALTIME
	rivulet --store "$far_store" mount "$image" "$WORK/mnt" --profile off >"$WORK/log" 2>&1 || { cat "$WORK/log" >&2; fail "mount $image"; }
	find "$WORK/mnt" -xdev >"$WORK/files"
	ended=$EPOCHREALTIME
	note "$image: mount and walk, s" "$1" "$(took)" >>"$WORK/walks"
	note "$image: requests" "$1" $(($(asked requests) - requests)) >>"$WORK/walks"
	rivulet umount "$WORK/mnt" >/dev/null
	stop "$AGENT"
}
: >"$WORK/walks"
mkdir "$WORK/aside"
for ((round = 1; round <= ROUNDS; round++)); do
	walk "metadata object"
	# A pack begins with its name (doc/format/pack.md).
	find "$S3_DIR/bucket/start" -path '*/objects/*' -type f -exec sh -c 'test "$(head -c 8 "$1" | tr -d "\0")" = RVFRPACK && mv "$1" "$2" && printf "%s\n" "$1" >>"$2/places"' - {} "$WORK/aside" \; || true
	walk chunks
	while read -r place; do mv "$WORK/aside/${place##*/}" "$place"; done <"$WORK/aside/places"
	rm "$WORK/aside/places"
done
printf '\n### From attaching to the ready line, S3 behind %s a request and %d MB/s, seconds\n\n' "$DELAY" $((BANDWIDTH / 1000000))
median -unit seconds -digits 2 ${PLOT:+-plot "$PLOT"} <"$WORK/times"
# The bound is all local, what came by the bandwidth, and five round trips.
printf '\n### What was to be held\n\n'
awk -F '\t' -v bandwidth="$BANDWIDTH" -v delay="${DELAY%ms}" '
	function add(key, v,   i) { for (i = n[key]++; i > 0 && all[key, i - 1] > v; i--) all[key, i] = all[key, i - 1]; all[key, i] = v }
	function median(key,   m) { m = n[key]; return m % 2 ? all[key, (m - 1) / 2] : (all[key, m / 2 - 1] + all[key, m / 2]) / 2 }
	FNR == NR { if (!seen[$1]++) order[images++] = $1; add($1 SUBSEP $2, $3 + 0); next }
	$1 ~ /: MB fetched$/ { sub(/: MB fetched$/, "", $1); add($1 SUBSEP $2 SUBSEP "MB", $3 + 0) }
	$2 == "touched" { sub(/:.*/, "", $1); touched[$1] = $3 }
	END {
		print "| image | profile, s | bound | pack, s | bound |\n| --- | ---: | ---: | ---: | ---: |"
		for (i = 0; i < images; i++) {
			image = order[i]; here = median(image SUBSEP "local")
			printf "| %s |", image
			for (s = split("profile pack", subject, " "); s >= 1; s--) {
				key = image SUBSEP subject[3 - s]
				printf " %.3f | %.3f |", median(key), here + median(key SUBSEP "MB") * 1e6 / bandwidth + 5 * delay / 1000
			}
			print ""
		}
		modes = split("profile pack predicted lazy neighbours", mode, " ")
		split("pull export", first, " ")
		for (table = 0; table < 3; table++) {
			print (table == 2 ? "\nBytes fetched ÷ coded frames that a start reads (at most 1.15):\n" : table ? "\nThe same of an export'"'"'s:\n" : "\nWait added over all local, as a share of a pull'"'"'s (at most 0.2):\n")
			printf "| image |"; for (s = 1; s <= modes; s++) printf " %s |", mode[s]
			printf "\n| --- |"; for (s = 1; s <= modes; s++) printf " ---: |"
			print ""
			for (i = 0; i < images; i++) {
				image = order[i]; here = median(image SUBSEP "local")
				printf "| %s |", image
				for (s = 1; s <= modes; s++) {
					key = image SUBSEP mode[s]
					printf " %.2f |", table == 2 ? median(key SUBSEP "MB") / touched[image] : (median(key) - here) / (median(image SUBSEP first[table + 1]) - here)
				}
				print ""
			}
		}
	}' "$WORK/times" "$WORK/costs"
printf '\n### What that cost\n\n'
median -unit '' -digits 1 <"$WORK/costs"
printf '\n### What publishing predicts, beside what a start reads\n\n'
printf '| image | frames read | predicted | both | MB read | predicted | both |\n| --- | ---: | ---: | ---: | ---: | ---: | ---: |\n'
cat "$WORK/predictions"
printf '\n### Metadata in one object\n\n'
median -unit '' -digits 2 <"$WORK/walks"
