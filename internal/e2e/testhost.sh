#!/usr/bin/env bash
# testhost.sh [IMAGES_DIR]: three hosts, five zone nodes and one S3 server, under load
# and faults.
#
# Proves, with two images of an OCI layout (base and python3), each host with a host
# cache, an agent and rivulet serve, and a zone of redis and memcached (hosts.sh),
# every byte read being compared with the exported image:
#   - STARTS at once, each attaching a disk of its own to an agent, caches empty: a chunk leaves the origin once per host at most,
#     and the rate at which a host asks stays under its limit; again: not at all; with
#     empty host caches and a primed zone: once for all hosts at most;
#   - zone nodes, daemons, agents and servers killed by -9 or frozen at random under
#     readers, of whom fio verifies what it wrote (by a server that lives, as fio does not connect again), for FAULT_TIME seconds: no wrong byte, no read that fails or takes more
#     than BOUND seconds, and no leak of memory, descriptors, threads or goroutines;
#   - flipped bits in every region of cache files, while the daemon runs and while it
#     does not, and of stripes: caught and healed;
#   - origin and network gone: what a host cache holds is served, after a restart too.
# SEED repeats a run's choices.
#
# Needs root, network namespaces, redis-server, memcached, versitygw, fio with the nbd engine, debugfs, jq, curl.
source "$(dirname "${BASH_SOURCE[0]}")/harness.sh"
source "$E2E/hosts.sh"

: "${STARTS:=500}" "${RANGES:=48}" "${LIMIT:=20}" "${FAULT_TIME:=30}" "${BOUND:=20}" "${SEED:=$$}"
RANDOM=$SEED
IMAGES=$(images "$@")
NAMES=(base python3)
LOAD=()
PATH=$PATH:$(go env GOPATH 2>/dev/null || true)/bin
need_hosts
build

# zone_filled: the zone, which was empty, has what host 1 has.
zone_filled() { [ "$(redis 1 DBSIZE)" -ge "$(stat_of 1 chunks)" ] && [ "$(redis 3 DBSIZE)" -ge "$(stat_of 1 chunks)" ]; }

starts() {
	local n peak long
	: >"$ORIGIN_LOG"
	load attached -starts "$STARTS" -ranges "$RANGES" -bound 120s -- 1 2 3
	n=$(most_gets 0)
	peak=$(peak 1) long=$(peak 5)
	echo "$(chunk_gets | wc -l) chunks fetched, $(chunk_gets | cut -d' ' -f2 | sort -u | wc -l) distinct; most by one host: $n; at most $peak in a second by one host, $long in 5 s"
	[ "$n" = 1 ] || fail "a host fetched a chunk $n times, want once"
	# Requests are seen when they arrive, and a busy machine holds some up for others to
	# catch up with them: up to half a second.
	[ "$long" -le $((LIMIT * 55 / 10 + 2)) ] || fail "a host fetched $long chunks in 5 s, its limit is $LIMIT a second and a tenth"
	[ "$peak" -le $((LIMIT * 15 / 10 + 2)) ] || fail "a host fetched $peak chunks in a second, its limit is $LIMIT and a half"
	[ "$peak" -ge $((LIMIT / 2)) ] || fail "the limit of $LIMIT was not in anybody's way"

	seen

	: >"$ORIGIN_LOG"
	load attached -starts "$STARTS" -ranges "$RANGES" -bound 120s -- 1 2 3
	n=$(chunk_gets | wc -l)
	[ "$n" = 0 ] || fail "$n chunks were fetched that the host caches have"

	fresh
	zone_flush
	hosts_up
	load attached -starts 2 -ranges "$RANGES" -- 1 >/dev/null
	await 30 zone_filled || echo "the zone was not filled in 30 s"
	: >"$ORIGIN_LOG"
	load attached -starts "$STARTS" -ranges "$RANGES" -bound 120s -- 2 3
	n=$(most_gets 2)
	echo "with a primed zone: $(chunk_gets | wc -l) chunks fetched"
	[ "$n" -le 1 ] || fail "a chunk left the origin $n times, want once"
	[ "$(chunk_gets | wc -l)" -le 5 ] || fail "the zone was primed, and the origin asked"
}

# seen: what processes tell of themselves since they began agrees with what the origin
# was asked meanwhile, and with what was read.
seen() {
	local h n told=0 gets
	for h in "${HOSTS[@]}"; do
		told=$((told + $(metric "$h" 0 rivulet_cached_downloads_total)))
		for n in $(seq "$DISKS_EACH"); do
			told=$((told + $(metric "$h" "$n" 'rivulet_origin_requests_total{kind="chunk"')))
			[ "$(metric "$h" "$n" 'rivulet_hung_reads_total{')" = 0 ] || fail "process $n of host $h tells of hung reads"
		done
		[ "$(metric "$h" 1 'rivulet_read_bytes_total{frontend="nbd"')" -gt 0 ] || fail "the agent of host $h tells of no reads"
		[ "$(metric "$h" 1 'rivulet_tier_requests_total{outcome="had",tier="cache"}')" -gt 0 ] || fail "the agent of host $h tells of no hits"
		[ "$(metric "$h" 0 'rivulet_cached_chunks ')" = "$(stat_of "$h" chunks)" ] || fail "host $h: two numbers of chunks"
	done
	gets=$(chunk_gets | wc -l)
	echo "metrics tell of $told chunks asked of the origin, which was asked for $gets"
	[ "$told" = "$gets" ] || fail "metrics and the origin differ"
}

# settled FILE: measures all processes when they have calmed down.
settled() {
	local h n
	sleep 3
	for h in "${HOSTS[@]}"; do
		echo "cached.$h $(measure "${CACHED[$h]}")"
		for n in $(seq "$DISKS_EACH"); do echo "serve.$h.$n $(measure "${SERVE[$h.$n]}")"; done
	done >"$1"
}

# leaks BEFORE AFTER: fails if a process has more than the most that one of its kind had.
leaks() {
	awk -v fds=24 -v threads=24 -v rss=40960 '
		{ split($1, kind, "."); k = kind[1] }
		NR == FNR { if ($2 > f[k]) f[k] = $2; if ($3 > t[k]) t[k] = $3; if ($4 > r[k]) r[k] = $4; next }
		{ print $1 ": descriptors " $2 " (before " f[k] ") and " $5 " of chunks, threads " $3 " (" t[k] "), KiB " $4 " (" r[k] ")" }
		$2 > f[k] + fds || $3 > t[k] + threads || $4 > 1.5 * r[k] + rss || $6 > 0 { print "leak: " $1; bad = 1 }
		END { exit bad }' "$1" "$2"
}

# goroutines PID LOG: ends a process; GOROUTINES is how many it had.
goroutines() {
	kill -QUIT "$1"
	wait "$1" 2>/dev/null || true
	GOROUTINES=$(grep -c '^goroutine ' "$2") || fail "no goroutines in $2"
}

# hurt: kills something and starts it again, or freezes it for a while.
hurt() {
	local what=$((RANDOM % 3)) how=$((RANDOM % 2)) h=$((RANDOM % 3 + 1)) n=$((RANDOM % DISKS_EACH + 1)) z=$((RANDOM % 5 + 1))
	local pid again name
	case $what in
	0) pid=${NODE[$z]} again=(node $z) name="zone node $z" ;;
	1) pid=${CACHED[$h]} again=(daemon $h) name="daemon of host $h" ;;
	2) pid=${SERVE[$h.$n]} again=(disks $h $n) name="$([ $n = 1 ] && echo agent || echo server) of host $h" ;;
	esac
	if [ $how = 0 ]; then
		echo "kill -9: $name"
		kill -9 "$pid"
		wait "$pid" 2>/dev/null || true
		sleep "0.$((RANDOM % 10))"
		"${again[@]}"
	else
		echo "freeze: $name"
		kill -STOP "$pid"
		sleep "$((RANDOM % 4)).$((RANDOM % 10))"
		kill -CONT "$pid"
	fi
	sleep "0.$((RANDOM % 10))"
}

faults() {
	local h end before after load fio serve
	fresh
	for h in "${HOSTS[@]}"; do CACHED_OPTIONS[$h]="--size 32M"; done # less than the images: there is always something to fetch
	hosts_up
	load served -for 6s -workers 24 -bound "${BOUND}s" -- 1 2 3 >/dev/null
	settled "$WORK/before"
	goroutines "${CACHED[2]}" "$WORK/h2/cached.log"
	before=$GOROUTINES
	daemon 2
	start_on h1 "$WORK/serve3.log" "$WORK/bin/rivulet" serve pattern --profile off --nbd "unix:$WORK/h1/nbd3.sock" --agent none --cache "$WORK/h1/cached.sock" --memory 8M
	serve=$!
	await 60 grep -q '^ready ' "$WORK/serve3.log" || fail "the server for fio: not ready after 60 s"
	timeout $((FAULT_TIME + 60)) fio "${FIO_PATTERN[@]}" --ioengine=nbd --uri="nbd+unix:///pattern?socket=$WORK/h1/nbd3.sock" --iodepth=4 --loops=1000 --time_based --runtime=$((FAULT_TIME - 2)) >"$WORK/fio.log" 2>&1 &
	fio=$!
	mapfile -t URIS < <(served 1 2 3)
	start "$WORK/load.log" "$WORK/bin/nbdload" "${LOAD[@]}" -for "${FAULT_TIME}s" -workers 24 -bound "${BOUND}s" "${URIS[@]}"
	load=$!
	end=$((SECONDS + FAULT_TIME - 5))
	while [ $SECONDS -lt $end ]; do
		kill -0 "$load" 2>/dev/null || break
		hurt
	done
	wait "$load" || { cat "$WORK/load.log" >&2; fail "reads under faults (SEED=$SEED)"; }
	cat "$WORK/load.log"
	wait "$fio" || { cat "$WORK/fio.log" >&2; fail "fio's verify under faults (SEED=$SEED)"; }
	echo "fio verified $(($(tail -n 1 "$WORK/fio.log" | cut -d';' -f6) / 1024)) MiB meanwhile"
	stop "$serve"
	for h in "${HOSTS[@]}"; do echo "host $h: $(stats "$h" | jq -c '{hits, misses, flights, timeouts, downloads, failed_downloads, zone_hits, evictions, damaged}')"; done
	settled "$WORK/after"
	leaks "$WORK/before" "$WORK/after" || fail "leak (SEED=$SEED)"
	goroutines "${CACHED[2]}" "$WORK/h2/cached.log"
	after=$GOROUTINES
	echo "goroutines of a daemon: $after (before $before)"
	[ "$after" -le $((before + 24)) ] || fail "$after goroutines, before $before (SEED=$SEED)"
	daemon 2
}

# flip_files N: flips a byte of N files each in the header, a frame, the page checksums
# and the trailer. Files that were damaged before are left alone.
flip_files() {
	local file size i=0
	while read -r file; do
		size=${file##*.}
		chmod u+w "$file"
		case $((i % 4)) in
		0) flip "$file" $((RANDOM % 100)) ;;
		1) flip "$file" $((size / 2 + RANDOM % (size / 3))) ;;
		2) flip "$file" $((size + RANDOM % 8)) ;;
		3) flip "$file" $(($(stat -c %s "$file") - 1 - RANDOM % 16)) ;;
		esac
		i=$((i + 1))
	done < <(find "$WORK/h1/cache/chunks" -type f | shuf --random-source=<(yes "$SEED $1") | head -n $((4 * $1)))
	echo "$i files damaged"
}

# healed: every file of host 1's cache has the object that the origin has.
healed() {
	local file id size bad=0 n=0
	while read -r file; do
		size=${file##*.} id=$(basename "${file%.*}") n=$((n + 1))
		cmp -s -n "$size" "$file" "$S3_DIR/bucket/images/generations/1/chunks/${id:0:2}/$id" || { echo "$id: other bytes"; bad=$((bad + 1)); }
	done < <(find "$WORK/h1/cache/chunks" -type f)
	[ "$n" -gt 50 ] || fail "only $n files in the cache"
	[ $bad = 0 ] || fail "$bad of $n cache files are still damaged"
}

# mended DAMAGED: after reads and a scrub all files are right, and DAMAGED were noticed.
mended() {
	local n
	load served -starts 8 -ranges 200 -bound 60s -- 1 >/dev/null
	"$WORK/bin/rivulet" cache scrub --json --cache "$WORK/h1/cached.sock"
	n=$(stat_of 1 damaged)
	echo "$n damaged files noticed"
	[ "$n" -ge "$1" ] || fail "$n damaged files were noticed, want $1"
	healed
}

damaged_files() {
	local h
	fresh
	for h in "${HOSTS[@]}"; do CACHED_OPTIONS[$h]="--size 1G"; done
	hosts_up
	load served -starts 8 -ranges 200 -- 1 >/dev/null
	flip_files 8 # under readers that have them open
	mended 32
	stop "${SERVE[1.1]}"
	stop "${CACHED[1]}"
	flip_files 9
	daemon 1
	disks 1 1
	mended 36
}

# spoiled NODES: how many stripes have what damaged_stripes wrote.
spoiled() {
	local z
	for z in $1; do
		redis "$z" --scan | awk '{ print "GETRANGE " $1 " 0 5004" }' | redis "$z" --raw | grep -ac RVLT || true
	done | awk '{ n += $1 } END { print n }'
}

# damaged_stripes: spoils each stripe that a redis node has, in header, checksum and
# payload in turn, one node after another and then all three at once. A read takes the
# first four stripes of five that arrive, so it can take some reads until all are met.
damaged_stripes() {
	local set z n round HOSTS=(1)
	for set in 1 2 3 "1 2 3"; do
		fresh
		zone_flush
		hosts_up
		load served -starts 2 -ranges "$RANGES" -- 1 >/dev/null
		await 30 zone_filled || echo "the zone was not filled in 30 s"
		for z in $set; do
			redis "$z" --scan | awk 'BEGIN { split("1 6 20 41 45 60 5000", at, " ") } { printf "SETRANGE %s %d RVLT\n", $1, at[NR % 7 + 1] }' | redis "$z" >/dev/null
		done
		n=$(spoiled "$set")
		[ "$n" -gt 50 ] || fail "only $n stripes were damaged"
		for round in 1 2 3 4 5 6 7 8; do
			fresh
			hosts_up
			: >"$ORIGIN_LOG"
			load served -starts 2 -ranges "$RANGES" -bound 60s -- 1 >/dev/null
			sleep 0.5
			echo "node $set, read $round: $n stripes damaged, $(chunk_gets | wc -l) chunks from the origin, $(stat_of 1 zone_hits) from the zone; then $(spoiled "$set") damaged"
			[ "$(most_gets 0)" -le 1 ] || fail "chunks were fetched again and again"
			if [ "$set" != "1 2 3" ]; then
				[ "$(chunk_gets | wc -l)" -le 2 ] || fail "the origin was asked though four stripes of five are good"
			fi
			n=$(spoiled "$set")
			[ "$n" != 0 ] || break
		done
		[ "$n" = 0 ] || fail "$n stripes were not healed"
	done
}

# alone: the agent reads, and when origin and network are gone rivulet serve, which has
# nothing of it yet, reads the same.
alone() {
	local before
	fresh
	hosts_up
	load by_agent -starts 4 -ranges "$RANGES" -- 1 >/dev/null
	before=$(stat_of 1 chunks)
	kill -STOP "$PROXY_PID"
	load by_agent -starts 100 -ranges "$RANGES" -bound "${BOUND}s" -- 1
	ip -n "$NS-h1" link set eth0 down
	kill -CONT "$PROXY_PID"
	stop "${CACHED[1]}"
	daemon 1
	[ "$(stat_of 1 chunks)" = "$before" ] || fail "restarted: $(stat_of 1 chunks) chunks of $before"
	load by_server -starts 100 -ranges "$RANGES" -bound "${BOUND}s" -- 1
	# Once a chunk: a reader goes on with what it was handed.
	[ $((2 * $(stat_of 1 hits))) -ge "$before" ] || fail "the restarted daemon was asked $(stat_of 1 hits) times for $before chunks"
	kill -9 "${CACHED[1]}"
	wait "${CACHED[1]}" 2>/dev/null || true
	daemon 1
	[ "$(stat_of 1 chunks)" = "$before" ] || fail "restarted after kill -9: $(stat_of 1 chunks) chunks of $before"
	load served -starts 100 -ranges "$RANGES" -bound "${BOUND}s" -- 1
	ip -n "$NS-h1" link set eth0 up
}

step "network, zone, origin"
network
for n in "${NODES[@]}"; do node "$n"; done
origin -latency 5ms
fio_pattern on origin
for h in "${HOSTS[@]}"; do CACHED_OPTIONS[$h]="--size 1G --origin-requests $LIMIT"; done
hosts_up
step "$STARTS starts at once ($SECONDS s)"; starts
step "killed and frozen at random, SEED=$SEED ($SECONDS s)"; faults
step "bits of cache files ($SECONDS s)"; damaged_files
step "bits of stripes ($SECONDS s)"; damaged_stripes
step "no origin, no network ($SECONDS s)"; alone
echo "testhost: ok ($SECONDS s)"
