# shellcheck shell=bash disable=SC2154
# cached.sh: part of run.sh. Reading through an agent and the host cache: fio over NBD
# beside nbdkit on the raw image, in pairs; what a read takes inside the agent, of what
# the host cache has and of what the zone behind it has; and 200 disks of one image
# attached and read at once, behind an origin that answers after 5 ms.
need fio nbdkit nbdinfo curl redis-server
fio --enghelp=nbd >/dev/null 2>&1 || skip "fio with the nbd engine"

image=${IMAGE:-python3} window=$((64 << 20)) seconds=${SECONDS_A_RUN:-3} delay=5
export XDG_STATE_HOME=$WORK/state RIVULET_CACHED=$WORK/cached.sock
rivulet publish "oci:$IMAGES:$image" --name "$image" --open >/dev/null 2>&1
rivulet export "$image" "$WORK/disk" --cache none
mkdir "$WORK/tree"
head -c 64M /dev/urandom >"$WORK/tree/f"
rivulet publish "dir:$WORK/tree" --name random --open >/dev/null 2>&1 # whose chunks do not compress

# host_cache FOLDER OPTION...: starts the daemon; CACHED is its process.
host_cache() {
	rm -f "$RIVULET_CACHED"
	start "$WORK/cached.log" "$WORK/bin/rivulet" cached --dir "$WORK/$1" --socket "$RIVULET_CACHED" --size 4G --min-free 0 --scrub-rate 0 "${@:2}"
	CACHED=${PIDS[-1]}
	await 30 test -S "$RIVULET_CACHED" || fail "host cache"
}

# an_agent OPTION...: starts an agent; AGENT is its process.
an_agent() {
	start "$WORK/agent.log" "$WORK/bin/rivulet" agent --keep none "$@"
	AGENT=${PIDS[-1]}
	await 30 eval 'rivulet agent ls >/dev/null' || fail "agent"
}

load() { cut -d ' ' -f 1 /proc/loadavg; }

host_cache l1
for name in random "$image"; do
	printf '\n### Inside the agent, chunks in the host cache (%s, load %s)\n\n' "$name" "$(load)"
	hit -reads "${READS:-10000}" -store "$RIVULET_STORE" -cache "$RIVULET_CACHED" "$name"
done

# With hardly any memory every read is one of the host cache's files.
declare -A uri=(["nbdkit file"]="nbd+unix:///?socket=$WORK/nbdkit.sock")
start "$WORK/nbdkit.log" nbdkit -f -r -U "$WORK/nbdkit.sock" file "$WORK/disk"
await 10 test -S "$WORK/nbdkit.sock"
read -r at share < <(densest "${uri[nbdkit file]}" $window)
for memory in 256M 4M; do
	an_agent --memory $memory
	uri[agent, $memory]=$(rivulet agent attach "$image" --profile off --nbd "unix:$WORK/agent.$memory.sock" --json | jq -r .address)
	for ((round = 1; round <= ROUNDS; round++)); do
		for work in "4 KiB random, depth 1:--bs=4k --rw=randread --iodepth=1" "4 KiB random, depth 16:--bs=4k --rw=randread --iodepth=16" \
			"256 KiB sequential, depth 8:--bs=256k --rw=read --iodepth=8"; do
			pair=("agent, $memory" "nbdkit file")
			for subject in "${pair[@]:round % 2}" "${pair[@]:0:round % 2}"; do
				random_read "${uri[$subject]}" --bs=256k --rw=read --iodepth=8 --offset="$at" --size=$window >/dev/null
				# shellcheck disable=SC2086
				read -r rate < <(random_read "${uri[$subject]}" ${work#*:} --offset="$at" --size=$window --time_based --runtime="$seconds" | jq .iops)
				note "${work%%:*}" "$subject" "$rate" >>"$WORK/rates.$memory"
			done
		done
	done
	printf '\n### fio over NBD, %s of memory (window of %d MiB, %d %% of it data, load %s)\n\n' "$memory" $((window >> 20)) "$share" "$(load)"
	median -unit 'reads/s' <"$WORK/rates.$memory"
	rivulet agent detach --all
	stop "$AGENT"
done
stop "$CACHED"

nodes=()
for i in 1 2 3 4 5; do
	port=$(free_port)
	start "$WORK/redis.$i.log" redis-server --port "$port" --save '' --appendonly no --dir "$WORK"
	await 10 bash -c "exec 3<>/dev/tcp/127.0.0.1/$port" || fail "redis-server"
	nodes+=("127.0.0.1:$port")
done
zone="redis://$(IFS=,; echo "${nodes[*]}")?scheme=4of5"
host_cache first --zone "$zone"
for name in random "$image"; do hit -once -store "$RIVULET_STORE" -cache "$RIVULET_CACHED" "$name" >/dev/null; done # fills the zone
sleep 1
stop "$CACHED"
printf '\n### Inside the agent, chunks in the zone (load %s)\n\n| | median µs | p99 µs | reads | CPU µs | of them from the zone |\n| --- | ---: | ---: | ---: | ---: | ---: |\n' "$(load)"
for ((round = 1; round <= ROUNDS; round++)); do
	for name in random "$image"; do
		host_cache empty --zone "$zone"
		hit -once -zone "$zone" -store "$RIVULET_STORE" -cache "$RIVULET_CACHED" "$name" >"$WORK/rows"
		found=$(rivulet cache stats --json | jq .zone_hits)
		[ "$found" -gt 0 ] || fail "nothing came from the zone: $(rivulet cache stats)"
		row=$(head -n 1 "$WORK/rows")
		echo "${row/| 4 KiB/| $name, 4 KiB} $found |"
		sed -n "2s/^| |/| $name |/p" "$WORK/rows" >>"$WORK/parts"
		stop "$CACHED"
		rm -r "$WORK/empty"
	done
done

printf '\n| median µs of the parts of such a read, each by itself | network | crypto | copies | all else |\n| --- | ---: | ---: | ---: | ---: |\n'
cat "$WORK/parts"

start "$WORK/slow.log" slowhttp -delay ${delay}ms "${RIVULET_STORE#dir:}"
await 20 grep -q '^ready ' "$WORK/slow.log" || fail "slowhttp"
far=$(sed -n 's/^ready //p' "$WORK/slow.log")
: >"$WORK/attach.rows"
for ((round = 1; round <= ROUNDS; round++)); do
	for n in 1 200; do
		host_cache "herd$round.$n"
		an_agent
		before=$(curl -sf "$far/.stats" | jq .requests)
		attach -agent "$XDG_RUNTIME_DIR/rivulet/agent.sock" -pid "$AGENT" -store "$far" -n $n -read "$at" "$image" >"$WORK/row"
		jq -c --argjson n $n --argjson requests $(($(curl -sf "$far/.stats" | jq .requests) - before)) \
			--argjson chunks "$(rivulet cache stats --json | jq .chunks)" --argjson fetched "$(rivulet cache stats --json | jq .downloads)" \
			'. + {n: $n, requests: $requests, chunks: $chunks, fetched: $fetched}' "$WORK/row" >>"$WORK/attach.rows"
		stop "$AGENT"
		stop "$CACHED"
		rm -rf "$XDG_STATE_HOME"
	done
done
printf '\n### Attached and read at once, an origin of %d ms (%s, load %s)\n\n| disks | p99 of the first read, ms | CPU µs each | requests to the origin | downloads | distinct chunks |\n| ---: | ---: | ---: | ---: | ---: | ---: |\n' $delay "$image" "$(load)"
jq -rs 'def median: sort | .[length / 2 | floor];
	group_by(.n)[] | "| \(.[0].n) | \(map(.p99_read_ms) | median) | \(map(.cpu_us) | median | round) | \(map(.requests) | median) | \(map(.fetched) | median) | \(map(.chunks) | median) |"' "$WORK/attach.rows"
rm "$WORK/disk"
