# shellcheck shell=bash disable=SC2034
# hosts.sh: three hosts, five zone nodes and an S3 server, each in a network namespace
# of its own, and what runs there. Sourced, after harness.sh, and never run.
#
# The bridge that connects them is in a namespace too, so that nothing of the machine's
# own network is touched. All namespaces are removed at the end. Hosts share the file
# system: a host's folder is $WORK/hN, and its unix sockets can be reached from here.
#
# IMAGES names the OCI layout, NAMES the images that are published from it; what they
# hold is in $WORK/NAME.disk. $ORIGIN_LOG has the requests that reached the S3 server.

NS=rv$$
SUBNET=10.77.0
HOSTS=(1 2 3)
NODES=(1 2 3 4 5) # 1 to 3 are redis-server, 4 and 5 memcached
ORIGIN_LOG=$WORK/origin.log
DISKS_EACH=2 # processes that serve disks, of each host
declare -A CACHED SERVE NODE # process IDs by host, "HOST.N" and node
declare -A CACHED_OPTIONS    # by host

need_hosts() {
	need_root
	need ip redis-server redis-cli memcached jq curl versitygw awk cmp shuf
	later ip netns del "$NS-probe"
	ip netns add "$NS-probe" 2>/dev/null || skip "network namespaces"
	ip netns del "$NS-probe"
}

# on NAME CMD...: runs CMD in the namespace of NAME.
on() { ip netns exec "$NS-$1" "${@:2}"; }

# start_on NAME LOG CMD...: start, in the namespace of NAME. What an earlier process wrote
# to LOG is gone before it returns.
start_on() {
	rm -f "$2"
	start "$2" ip netns exec "$NS-$1" "${@:3}"
}

# network: makes all namespaces: hN at .N, zN at .10+N, origin at .100.
network() {
	local name n=0
	later_thaw
	later ip netns del "$NS-net"
	ip netns add "$NS-net"
	ip -n "$NS-net" link add br0 type bridge
	ip -n "$NS-net" link set br0 up
	for name in h1:1 h2:2 h3:3 z1:11 z2:12 z3:13 z4:14 z5:15 origin:100; do
		later ip netns del "$NS-${name%:*}"
		ip netns add "$NS-${name%:*}"
		n=$((n + 1))
		ip -n "$NS-net" link add "p$n" type veth peer name eth0 netns "$NS-${name%:*}"
		ip -n "$NS-net" link set "p$n" master br0 up
		ip -n "$NS-${name%:*}" addr add "$SUBNET.${name#*:}/24" dev eth0
		ip -n "$NS-${name%:*}" link set eth0 up
		ip -n "$NS-${name%:*}" link set lo up
	done
}

# later_thaw: processes that are frozen at the end could not be ended.
later_thaw() { later thaw; }
thaw() {
	local pid
	for pid in "${PIDS[@]}"; do ! child "$pid" || kill -CONT "$pid"; done
}

# origin OPTION...: starts the S3 server and the proxy before it, publishes NAMES, and
# exports them. STORE is the store's URL, and PROXY_PID the proxy.
origin() {
	local name
	s3_server ip netns exec "$NS-origin"
	(cd "$ROOT" && go build -o "$WORK/bin/faultproxy" ./internal/e2e/faultproxy && go build -o "$WORK/bin/nbdload" ./internal/e2e/nbdload)
	start_on origin "$WORK/proxy.log" "$WORK/bin/faultproxy" -listen "$SUBNET.100:8080" -log "$ORIGIN_LOG" "$@" "$S3_ADDR"
	PROXY_PID=$!
	await 60 grep -q '^ready ' "$WORK/proxy.log" || fail "the origin's proxy is not ready after 60 s"
	export RIVULET_STORE="s3://bucket/images?endpoint=http://$SUBNET.100:8080&insecure=true"
	for name in "${NAMES[@]}"; do
		on origin "$WORK/bin/rivulet" publish "oci:$IMAGES:$name" --name "$name" >/dev/null
		on origin "$WORK/bin/rivulet" export "$name" "$WORK/$name.disk" --cache none >/dev/null
		LOAD+=(-disk "$name=$WORK/$name.disk")
	done
}

# node N: starts a zone's server.
node() {
	local addr=$SUBNET.$((10 + $1))
	case $1 in
	[123]) start_on "z$1" "$WORK/z$1.log" redis-server --bind "$addr" --port 6379 --protected-mode no --save '' --appendonly no --dir "$WORK" --maxmemory 512mb --maxmemory-policy allkeys-lru ;;
	*) start_on "z$1" "$WORK/z$1.log" memcached -u root -l "$addr" -p 11211 -m 512 -I 2m -t 1 ;;
	esac
	NODE[$1]=$!
	await 20 on "z$1" bash -c "exec 3<>/dev/tcp/$addr/$([ "$1" -le 3 ] && echo 6379 || echo 11211)" || fail "zone node $1: not ready after 20 s"
}

ZONE="redis://$SUBNET.11:6379,$SUBNET.12:6379,$SUBNET.13:6379,memcached://$SUBNET.14:11211,$SUBNET.15:11211"

redis() { on "z$1" redis-cli -h "$SUBNET.$((10 + $1))" "${@:2}"; }

zone_flush() {
	local n
	for n in 1 2 3; do redis $n FLUSHALL >/dev/null; done
	for n in 4 5; do printf 'flush_all\r\nquit\r\n' | on "z$n" timeout 5 bash -c "exec 3<>/dev/tcp/$SUBNET.$((10 + n))/11211; cat >&3; cat <&3" >/dev/null; done
}

# daemon HOST: starts its host cache.
daemon() {
	local dir=$WORK/h$1
	mkdir -p "$dir"
	# shellcheck disable=SC2086
	start_on "h$1" "$dir/cached.log" "$WORK/bin/rivulet" cached --dir "$dir/cache" --socket "$dir/cached.sock" \
		--telemetry "unix:$dir/seen0.sock" --min-free 1% --scrub-rate 0 --zone "$ZONE" ${CACHED_OPTIONS[$1]:-}
	CACHED[$1]=$!
	await 30 grep -q '^ready ' "$dir/cached.log" || fail "host cache of host $1: not ready after 30 s"
}

stats() { "$WORK/bin/rivulet" cache stats --json --cache "$WORK/h$1/cached.sock"; }
stat_of() { stats "$1" | jq ".$2"; }

# metric HOST N NAME: the sum of a metric of process N of a host's, 0 being its cache, 1
# and 2 those that serve disks; NAME may end within the labels.
metric() {
	curl -sSf --max-time 20 --unix-socket "$WORK/h$1/seen$2.sock" http://process/metrics |
		awk -v name="$3" 'index($0, name) == 1 { sum += $NF; n++ } END { if (!n) exit 1; printf "%d", sum }' || fail "host $1, process $2 has no $3"
}

# disks HOST N: starts process N of those that serve a host's disks: 1 is the agent,
# which knows what it had when it is started again, 2 is rivulet serve. They read what
# they are asked for, and nothing ahead, for it is counted.
disks() {
	local dir=$WORK/h$1 name
	case $2 in
	1)
		start_on "h$1" "$dir/serve1.log" env XDG_RUNTIME_DIR="$dir" "$WORK/bin/rivulet" agent --state "$dir/state" --agent "$dir/agent.sock" \
			--cache "$dir/cached.sock" --memory "${MEMORY:-8M}" --keep none --telemetry "unix:$dir/seen1.sock"
		SERVE[$1.1]=$!
		await 60 grep -q '^ready ' "$dir/serve1.log" || fail "agent of host $1: not ready after 60 s"
		[ -e "$dir/attached" ] && return
		for name in "${NAMES[@]}"; do
			on "h$1" "$WORK/bin/rivulet" agent attach "$name" --profile off --agent "$dir/agent.sock" --nbd "unix:$dir/nbd1.$name.sock" >/dev/null
		done
		touch "$dir/attached"
		;;
	2)
		start_on "h$1" "$dir/serve2.log" "$WORK/bin/rivulet" serve "${NAMES[@]}" --profile off --nbd "unix:$dir/nbd2.sock" --agent none --cache "$dir/cached.sock" --memory "${MEMORY:-8M}" \
			--telemetry "unix:$dir/seen2.sock"
		SERVE[$1.2]=$!
		await 60 grep -q '^ready ' "$dir/serve2.log" || fail "rivulet serve on host $1: not ready after 60 s"
		;;
	esac
}

# served HOST...: URIs of the disks that are served there, by_agent and by_server.
served() { by_agent "$@"; by_server "$@"; }

by_agent() {
	local h name
	for h; do for name in "${NAMES[@]}"; do echo "nbd+unix:///$name?socket=$WORK/h$h/nbd1.$name.sock"; done; done
}

by_server() {
	local h name
	for h; do for name in "${NAMES[@]}"; do echo "nbd+unix:///$name?socket=$WORK/h$h/nbd2.sock"; done; done
}

# attached HOST...: what makes nbdload attach disks to the agents there.
attached() {
	local h name
	for h; do for name in "${NAMES[@]}"; do echo "agent:///$name?socket=$WORK/h$h/agent.sock"; done; done
}

# load WHICH OPTION... -- HOST...: runs nbdload on the disks that WHICH lists.
load() {
	local which=$1 options=()
	shift
	while [ "$1" != -- ]; do options+=("$1"); shift; done
	shift
	mapfile -t URIS < <($which "$@")
	"$WORK/bin/nbdload" "${LOAD[@]}" "${options[@]}" "${URIS[@]}"
}

# hosts_up: starts daemons and disks of all hosts; hosts_down ends them, and fresh
# empties the caches too.
hosts_up() {
	local h n
	for h in "${HOSTS[@]}"; do
		daemon "$h"
		for n in $(seq "$DISKS_EACH"); do disks "$h" "$n"; done
	done
}

hosts_down() {
	local key
	for key in "${!SERVE[@]}"; do stop "${SERVE[$key]}"; done
	for key in "${!CACHED[@]}"; do stop "${CACHED[$key]}"; done
	SERVE=() CACHED=()
}

fresh() {
	hosts_down
	rm -rf "$WORK"/h?/cache
}

# chunk_gets: of the log: client and object of each GET of a chunk.
chunk_gets() { awk '$3 == "GET" && $4 ~ "/chunks/" { print $2, $4 }' "$ORIGIN_LOG"; }

# most_gets FIELD: how often the object that was fetched most often was, by one host
# (FIELD 0) or all (FIELD 2); 0 if none was.
most_gets() { chunk_gets | awk -v f="$1" '{ n[f ? $f : $0]++ } END { for (k in n) if (n[k] > m) m = n[k]; print m + 0 }'; }

# peak SECONDS: the most GETs of chunks by one host in any time of that length.
peak() {
	awk -v window="$1" '$3 == "GET" && $4 ~ "/chunks/" {
		c = $2; at[c, ++n[c]] = $1
		if (!(c in first)) first[c] = 1
		while (at[c, first[c]] <= $1 - window) first[c]++
		if (n[c] - first[c] + 1 > most) most = n[c] - first[c] + 1
	} END { print most + 0 }' "$ORIGIN_LOG"
}

# measure PID: descriptors but those of chunks in the cache, threads, RSS in KiB, and
# descriptors of chunks, how many of them second ones of one chunk.
measure() {
	find "/proc/$1/fd" -mindepth 1 -printf '%l\n' >"$WORK/fds"
	echo "$(grep -vc /cache/chunks/ "$WORK/fds" || true) $(awk '/^Threads/ { print $2 }' "/proc/$1/status") $(awk '/^VmRSS/ { print $2 }' "/proc/$1/status")" \
		"$(grep -c /cache/chunks/ "$WORK/fds" || true) $(grep -o '/cache/chunks/../[0-9a-f]*' "$WORK/fds" | sort | uniq -d | wc -l)"
}
