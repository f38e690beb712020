#!/usr/bin/env bash
# functions.sh [packages|known|zipf] [IMAGES_DIR]: measures Python packages as parts of
# disks, and prints Markdown for doc/benchmarks-functions.md.
#
#   packages  for each of PACKAGES: pip into a fresh folder of a copy of the image, and the
#             import; beside it rivulet the first time, for a second disk, and for a third
#             from a host that has nothing but the store; and the import on a host that has
#             nothing and on one that has read it before
#   known     a disk of KNOWN packages that are stored, and a handler of 1 MiB
#   zipf      FUNCTIONS disks, each with 1 to 4 packages and what they need, drawn by Zipf from the
#             200 of functions-packages.txt, and a handler: stored bytes beside the bytes of the
#             trees. Other load changes no byte
#
# With RUN=CMD, each publication is run by CMD. zipf publishes AT_ONCE disks at once, by default 4.
#
# With PLOT=DIR, packages and zipf draw what they measured, as DIR/functions-packages.svg and
# DIR/functions-zipf.svg.
#
# Needs root, pip, for zipf uv, the index, bubblewrap, jq, zip, and an OCI layout with the image IMAGE
# (default python3) in IMAGES_DIR or RIVULET_E2E_IMAGES. A number from a machine that does
# something else beside is invalid.
source "$(dirname "${BASH_SOURCE[0]}")/../internal/e2e/harness.sh"

BENCH=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
WHAT=${1:-packages}
IMAGES=$(images "${2:-}")
BASE=oci:$IMAGES:${IMAGE:-python3}
PACKAGES=${PACKAGES:-numpy pandas scipy matplotlib requests flask django pillow jinja2 pyyaml sqlalchemy cryptography lxml boto3 pydantic click rich aiohttp httpx pytest}
KNOWN=${KNOWN:-$PACKAGES tqdm psutil networkx openpyxl beautifulsoup4 jsonschema tenacity redis pyjwt websockets}
FUNCTIONS=${FUNCTIONS:-1000}
RUN=${RUN:-}
AT_ONCE=${AT_ONCE:-4}
PLOT=${PLOT:-}
need_root
need jq python3 bwrap zip mountpoint
build
export RIVULET_PACKAGES=$WORK/packages

declare -A modules=([pillow]=PIL [pyyaml]=yaml)
module() { echo "${modules[$1]:-$1}"; }
now() { date +%s.%N; }
# took SINCE: the seconds since then.
took() { awk -v a="$1" -v b="$(now)" 'BEGIN { printf "%.2f", b - a }'; }
# inside ROOT CMD...: runs CMD in a root, with a /tmp of its own.
inside() {
	# shellcheck disable=SC2016
	unshare --fork --pid --mount --mount-proc="$1/proc" sh -c 'mount -t tmpfs tmpfs "$1/tmp" && exec chroot "$@"' sh "$1" env -i PATH=/usr/local/bin:/usr/bin:/bin HOME=/tmp "${@:2}"
}
# shellcheck disable=SC2086
publish() { $RUN "$WORK/bin/rivulet" publish "$BASE" "$@" --json 2>>"$WORK/publish.log"; }
# mounted NAME DIR: mounts a disk by a process of its own, without a cache.
mounted() {
	mkdir -p "$2"
	start "$WORK/mount.log" "$WORK/bin/rivulet" mount "$1" "$2" --foreground
	await 30 mountpoint -q "$2" || fail "$1: not mounted"
}

publish --name base >/dev/null
rivulet publish "$BASE" pip:six --name prepared >/dev/null 2>&1 # unpacks the image, once a host

packages() {
	local p t pip pip_import first second host cold warm settings=()
	mounted base "$WORK/base"
	later rivulet umount "$WORK/base"
	mkdir "$WORK/upper" "$WORK/copy"
	mount -t overlay overlay -o "lowerdir=$WORK/base,upperdir=$(mkdir -p "$WORK/upper/u" && echo "$WORK/upper/u"),workdir=$(mkdir -p "$WORK/upper/w" && echo "$WORK/upper/w")" "$WORK/copy"
	later umount "$WORK/copy"
	mkdir -p "$WORK/copy/opt/pip"
	cp -r "$(python3 -c 'import pip; print(pip.__path__[0])')" "$WORK/copy/opt/pip/pip"
	cat /etc/resolv.conf >"$WORK/copy/etc/resolv.conf"
	cat /etc/hosts >"$WORK/copy/etc/hosts"
	for v in $(compgen -e | grep -iE '^(pip_(index_url|extra_index_url|default_timeout|trusted_host)|(https?|no|all)_proxy)$' || true); do settings+=("$v=${!v}"); done
	if [ -n "${PIP_CERT:-}" ]; then
		cp "$PIP_CERT" "$WORK/copy/opt/certs.pem"
		settings+=(PIP_CERT=/opt/certs.pem)
	fi
	echo '| package | pip: download, install, s | import, s | rivulet: first time, s | second disk, s | cold host, s | import, cold host, s | warm, s |'
	echo '| --- | --- | --- | --- | --- | --- | --- | --- |'
	for p in $PACKAGES; do
		t=$(now)
		inside "$WORK/copy" "${settings[@]}" python3 /opt/pip/pip install -q --no-cache-dir --target "/opt/fresh/$p" --only-binary :all: --disable-pip-version-check "$p" >>"$WORK/pip.log" 2>&1 || fail "pip install $p"
		pip=$(took "$t")
		t=$(now)
		inside "$WORK/copy" PYTHONPATH="/opt/fresh/$p" python3 -c "import $(module "$p")"
		pip_import=$(took "$t")
		rivulet packages rm --all 2>/dev/null
		t=$(now)
		publish "pip:$p" --name "first-$p" --lock "$WORK/$p.toml" >/dev/null
		first=$(took "$t")
		echo "print()" >"$WORK/handler.py"
		(cd "$WORK" && zip -q "h-$p.zip" handler.py)
		t=$(now)
		publish "pylock:$WORK/$p.toml" "zip:$WORK/h-$p.zip@/var/task" --name "second-$p" >/dev/null
		second=$(took "$t")
		echo "print(1)" >"$WORK/handler.py"
		(cd "$WORK" && zip -q "c-$p.zip" handler.py)
		t=$(now)
		RIVULET_PACKAGES=$WORK/cold-$p publish "pylock:$WORK/$p.toml" "zip:$WORK/c-$p.zip@/var/task" --name "third-$p" >/dev/null
		host=$(took "$t")
		[ -z "$(ls "$WORK/cold-$p/installed")" ] || fail "$p: the cold host has installed something"
		echo 3 >/proc/sys/vm/drop_caches
		t=$(now)
		mounted "second-$p" "$WORK/m-$p"
		inside "$WORK/m-$p" python3 -c "import $(module "$p")"
		cold=$(took "$t")
		t=$(now)
		inside "$WORK/m-$p" python3 -c "import $(module "$p")"
		warm=$(took "$t")
		rivulet umount "$WORK/m-$p"
		echo "| $p | $pip | $pip_import | $first | $second | $host | $cold | $warm |" | tee -a "$WORK/packages.rows"
	done
	[ -z "$PLOT" ] || python3 "$BENCH/functionsplot.py" packages "$WORK/packages.rows" "$PLOT/functions-packages.svg"
}

known() {
	local p sources=() t result i
	for p in $KNOWN; do sources+=("pip:$p"); done
	publish "${sources[@]}" --name known --lock "$WORK/known.toml" >/dev/null
	echo '| packages | handler, bytes | published in, s | new bytes |'
	echo '| --- | --- | --- | --- |'
	for i in 1 2 3 4 5; do
		head -c 1048576 /dev/urandom >"$WORK/handler.bin"
		(cd "$WORK" && zip -q "handler$i.zip" handler.bin)
		t=$(now)
		result=$(publish "pylock:$WORK/known.toml" "zip:$WORK/handler$i.zip@/var/task" --name "known$i")
		echo "| $(grep -c '^\[\[packages]]' "$WORK/known.toml") | 1048576 | $(took "$t") | $(jq .new_bytes <<<"$result") |"
	done
}

# most_used: the packages to draw from, of a file that says how they were found.
most_used() { grep -v '^#' "$BENCH/functions-packages.txt" | tr -s ' ' '\n'; }

# slot waits until one more may be published beside the others.
slot() { while [ "$(jobs -rp | wc -l)" -ge "$AT_ONCE" ]; do wait -n || true; done; }

# function_of N: publishes what was drawn, with a handler of its own.
function_of() {
	local sources=("pylock:$WORK/functions/$1.toml")
	echo "handler $1" >"$WORK/functions/$1.txt"
	(cd "$WORK/functions" && zip -q "$1.zip" "$1.txt")
	# Packages that need different versions of another are resolved together.
	[ -f "$WORK/functions/$1.toml" ] || mapfile -t sources <"$WORK/functions/$1.specs"
	publish "${sources[@]}" "zip:$WORK/functions/$1.zip@/var/task" --name "f$1" --lock "$WORK/functions/$1.lock" >/dev/null || {
		printf 'left out: function %d, %s\n' "$1" "${sources[*]}" >&2
		rm -f "$WORK/functions/$1.lock"
	}
}

# fill stores each of the packages, and keeps its lock.
fill() {
	local p
	mkdir "$WORK/locks"
	# Each is resolved by itself, with what it needs: so some come in several versions.
	for p in $(most_used); do
		slot
		publish "pip:$p" --name "p-$p" --lock "$WORK/locks/$p.toml" >/dev/null &
	done
	wait
}

zipf() {
	local p i n begin base trees known=() bytes
	fill
	mkdir "$WORK/functions"
	for p in $(most_used); do
		if [ -f "$WORK/locks/$p.toml" ]; then known+=("$p"); else printf 'left out: %s\n' "$p" >&2; fi
	done
	python3 "$BENCH/functionsdraw.py" draw "$WORK" "$FUNCTIONS" "${known[@]}"
	declare -A tells
	for i in 1 2 5 10 20 50 100 200 300 500 700 1000 "$FUNCTIONS"; do tells[$i]=yes; done
	base=$(rivulet inspect base --json | jq .plaintext_bytes)
	begin=$(du -sb "$WORK/store" | cut -f1)
	rivulet packages ls --json >"$WORK/installed.json"
	printf 'Of %d packages and what they need, %d in all, ' "${#known[@]}" "$(jq length "$WORK/installed.json")"
	printf 'and the image, the store has %d MiB.\n\n' $((begin >> 20))
	echo '| functions | bytes of the trees, MiB | stored, MiB | ratio |'
	echo '| --- | --- | --- | --- |'
	for ((i = 0; i < FUNCTIONS; i++)); do
		slot
		function_of "$i" &
		[ -n "${tells[$((i + 1))]:-}" ] || continue
		wait
		rivulet packages ls --json >"$WORK/installed.json"
		trees=$(python3 "$BENCH/functionsdraw.py" bytes "$base" "$WORK/installed.json" "$WORK"/functions/*.lock)
		bytes=$(du -sb "$WORK/store" | cut -f1)
		n=$(find "$WORK/functions" -name '*.lock' | wc -l)
		awk -v n="$n" -v t="$trees" -v s="$bytes" 'BEGIN { printf "| %d | %.0f | %.1f | %.1f |\n", n, t / 2^20, s / 2^20, t / s }' | tee -a "$WORK/zipf.rows"
	done
	echo
	printf '%d of them were resolved together.\n' "$(find "$WORK/functions" -name '*.specs' | wc -l)"
	awk -v a="$begin" -v b="$(du -sb "$WORK/store" | cut -f1)" -v n="$n" 'BEGIN { printf "A function adds %.1f KiB on average to a store that has the packages.\n", (b - a) / n / 1024 }'
	[ -z "$PLOT" ] || python3 "$BENCH/functionsplot.py" zipf "$WORK/zipf.rows" "$PLOT/functions-zipf.svg"
}

case $WHAT in packages | known | zipf) "$WHAT" ;; *) sed -n '2s/^# /usage: /p' "$0" >&2; exit 2 ;; esac
