# shellcheck shell=bash disable=SC2154
# attach.sh: part of run.sh. What an attachment costs an agent that holds others: of
# one image, 200 at once, and of 40 different ones; by NBD, as a file and mounted. And
# what a process with one disk takes, and the one that holds descriptors.
image=python3
export XDG_STATE_HOME=$WORK/state
rivulet publish "oci:$IMAGES:$image" --name "$image" >/dev/null 2>&1
small=()
for i in $(seq 40); do
	mkdir -p "$WORK/tree"
	head -c 300000 /dev/urandom >"$WORK/tree/f"
	rivulet publish "dir:$WORK/tree" --name "small$i" >/dev/null 2>&1
	small+=("small$i")
done

# attached FRONTEND N IMAGE...: a row, of medians over the rounds, each with a new agent.
attached() {
	local frontend=$1 n=$2 row
	shift 2
	: >"$WORK/rows"
	for _ in $(seq "$ROUNDS"); do
		start "$WORK/agent.log" "$WORK/bin/rivulet" agent
		await 30 rivulet agent ls || fail "agent"
		attach -agent "$XDG_RUNTIME_DIR/rivulet/agent.sock" -pid "$!" -store "$RIVULET_STORE" -n "$n" -frontend "$frontend" "$@" >>"$WORK/rows"
		stop "${PIDS[-1]}"
	done
	row=$(jq -rs 'def median: sort | .[length / 2 | floor];
		"\(map(.cpu_us) | median | round) | \(map(.memory_kib) | median | round) | \(map(.descriptors) | median | . * 10 | round / 10) | \(map(.median_wait_ms) | median | round) | \(map(.p99_wait_ms) | median | round) | \(map(.detach_cpu_us) | median | round)"' "$WORK/rows")
	printf '| %s, %s of %s | %s |\n' "$frontend" "$n" "$#" "$row"
}

resident() { awk '/^VmRSS/ { rss = $2 } /^RssAnon/ { anon = $2 } END { printf "%.1f | %.1f", rss / 1024, anon / 1024 }' "/proc/$1/status"; }

# idle NAME PID: a row.
idle() { printf '| %s | %s |\n' "$1" "$(resident "$2")"; }

printf '\n| attached at once: disks of images | CPU µs each | KiB each | descriptors each | median ms | p99 ms | detach: CPU µs each |\n| --- | ---: | ---: | ---: | ---: | ---: | ---: |\n'
attached nbd 200 "$image"
attached nbd 40 "${small[@]}"
attached file 100 "$image"
attached file 40 "${small[@]}"
attached mount 20 "$image"

printf '\n| process, idle | resident MiB | of it, not of files |\n| --- | ---: | ---: |\n'
serving "$image" --nbd "unix:$WORK/one.sock"
sleep 3
idle "serve, one disk" "$SERVER"
stop "$SERVER"
mkdir -p "$WORK/mnt"
start "$WORK/mount.log" "$WORK/bin/rivulet" mount --foreground "$image" "$WORK/mnt"
await 30 grep -q '^ready' "$WORK/mount.log"
sleep 3
idle "mount, one disk" "${PIDS[-1]}"
stop "${PIDS[-1]}"
start "$WORK/agent.log" "$WORK/bin/rivulet" agent
await 30 rivulet agent ls
sleep 1
idle "agent, nothing attached" "${PIDS[-1]}"
rivulet mount "$image" "$WORK/mnt"
idle "agent hold" "$(pgrep -f "$WORK/bin/rivulet agent hold")"
rivulet agent detach --all
stop "${PIDS[-1]}"
