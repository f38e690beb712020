#!/usr/bin/env bash
# functions.sh [IMAGES_DIR] [NAME]: Python packages and zip files as parts of a disk.
#
# Proves, for one image of an OCI layout that has Python (default python3), with packages
# from the index that pip is set up for: the disk with them runs programs that use them;
# it has the tree that pip makes of a copy of the image, but for what functions.py
# lists; published from its lock, with nothing kept, it is the same disk; published again
# it adds no chunk and installs nothing; two publishers at once install each package once.
# A host that has nothing publishes by the records of a publisher whom it trusts, without an
# index, and installs itself what others have recorded; a plan has what imports read; uv
# chooses what pip does; namespaces that packages share work. A publication that is killed
# leaves nothing behind.
# With npm's packages, a disk has the tree that npm makes. Hostile zip files and wheels are
# refused, and builds that fork, fill memory or disk, open sockets, or want the machine's
# files are stopped, each in one line. In a virtual machine with control groups of version 2, a
# sandbox's bounds are beneath its publisher's, and hold.
#
# Needs pip, uv, bubblewrap, busybox-static, jq, zip, QEMU, root, the indexes, the image nodejs, and
# node-npm or npm.
source "$(dirname "${BASH_SOURCE[0]}")/harness.sh"

if [ $# -gt 0 ] && [ -d "$1" ]; then IMAGES=$(images "$1"); shift; else IMAGES=$(images); fi
NAME=${1:-python3}
PACKAGES=(numpy pandas 'requests[socks]>=2.30,<3' flask)
need_root
need jq python3 bwrap prlimit setarch setpriv unshare mountpoint zip uv busybox ldd qemu-system-x86_64
python3 -m pip --version >/dev/null 2>&1 || skip "pip"
mkdir "$WORK/probe"
python3 -m pip download -q --no-deps -d "$WORK/probe" six >/dev/null 2>&1 || skip "a package index"
build
export RIVULET_PACKAGES=$WORK/packages
BASE=oci:$IMAGES:$NAME

publish() { rivulet publish "$BASE" "$@" --json 2>>"$WORK/publish.log"; }

step "packages of the index"
mkdir -p "$WORK/task"
cat >"$WORK/task/handler.py" <<'HANDLER'
import flask, numpy, pandas, requests

app = flask.Flask(__name__)


@app.get("/sum")
def total():
    return str(pandas.Series(numpy.arange(10)).sum())


if __name__ == "__main__":
    answer = app.test_client().get("/sum")
    print(answer.status_code, answer.text)
HANDLER
(cd "$WORK/task" && zip -q "$WORK/handler.zip" handler.py)
sources=()
for p in "${PACKAGES[@]}"; do sources+=("pip:$p"); done
result=$(publish "${sources[@]}" "zip:$WORK/handler.zip@/var/task" --name function --lock "$WORK/pylock.toml")
digest=$(jq -r .digest <<<"$result")
rivulet packages why function idna | grep -q '^requests > idna$' || fail "why: $(rivulet packages why function idna)"
rivulet packages why function idna --json | jq -e '. == [["requests", "idna"]]' >/dev/null || fail "why: $(rivulet packages why function idna --json)"
rivulet packages show idna --json | jq -e 'length == 1 and .[0].name == "idna" and .[0].images == ["function"]' >/dev/null || fail "show: $(rivulet packages show idna --json)"

rivulet packages show numpy --json | jq -e '.[0] | .modules == ["numpy"] and .import_seconds > 0 and .import_bytes > 1000000' >/dev/null || fail "show: $(rivulet packages show numpy --json)"
[ "$(jq .imports <<<"$result")" -gt 50 ] || fail "no plan of imports: $result"
rivulet profile ls function --json | jq -e 'length == 1' >/dev/null || fail "no plan: $(rivulet profile ls function --json)"

step "from the lock, twice at once, with nothing kept"
export RIVULET_PACKAGES=$WORK/packages2
publish "pylock:$WORK/pylock.toml" "zip:$WORK/handler.zip@/var/task" --no-records --name again1 >"$WORK/again1" &
first=$!
publish "pylock:$WORK/pylock.toml" "zip:$WORK/handler.zip@/var/task" --no-records --name again2 >"$WORK/again2"
wait "$first"
for i in 1 2; do
	[ "$(jq -r .digest "$WORK/again$i")" = "$digest" ] || fail "from the lock: another disk"
	[ "$(jq -r .new_chunks "$WORK/again$i")" = 0 ] || fail "from the lock: $(cat "$WORK/again$i")"
done
[ "$(rivulet packages ls --json | jq length)" = "$(grep -c '^\[\[packages]]' "$WORK/pylock.toml")" ] || fail "not each package is installed once"
[ -z "$(find "$RIVULET_PACKAGES" -path '*/root/*' -prune -o -name '.*' -print)" ] || fail "left behind: $(find "$RIVULET_PACKAGES" -path '*/root/*' -prune -o -name '.*' -print)"

step "a host that has nothing, and no index"
export RIVULET_PACKAGES=$WORK/packages3
echo '# cold' >"$WORK/task/cold.py"
(cd "$WORK/task" && zip -q "$WORK/cold.zip" cold.py)
begin=$(date +%s%N)
result=$(PIP_INDEX_URL=http://127.0.0.1:1 publish "pylock:$WORK/pylock.toml" "zip:$WORK/cold.zip@/var/task" --name cold)
printf 'published in %d ms\n' $((($(date +%s%N) - begin) / 1000000))
[ "$(jq '.layers - .layers_known' <<<"$result")" = 1 ] || fail "more than the handler was read: $result"
[ -z "$(ls "$RIVULET_PACKAGES/installed" "$RIVULET_PACKAGES/files" "$RIVULET_PACKAGES/bases" | grep -v :)" ] || fail "something was installed"
export RIVULET_PACKAGES=$WORK/packages2

step "known, with another handler"
echo '# changed' >>"$WORK/task/handler.py"
(cd "$WORK/task" && zip -q "$WORK/handler2.zip" handler.py)
begin=$(date +%s%N)
result=$(publish "pylock:$WORK/pylock.toml" "zip:$WORK/handler2.zip@/var/task" --name function2)
printf 'published in %d ms: %s new bytes\n' $((($(date +%s%N) - begin) / 1000000)) "$(jq .new_bytes <<<"$result")"
[ "$(jq '.layers - .layers_known' <<<"$result")" = 1 ] || fail "more than the handler was read: $result"
[ "$(jq .new_bytes <<<"$result")" -lt 1048576 ] || fail "more than metadata and the handler is new: $result"

step "the disk runs it"
mkdir "$WORK/disk"
start "$WORK/mount.log" "$WORK/bin/rivulet" mount function "$WORK/disk" --foreground
later rivulet umount "$WORK/disk"
await 30 mountpoint -q "$WORK/disk" || fail "not mounted after 30 s"
inside() { # ROOT CMD...: runs CMD in a root, as its own process tree
	unshare --fork --pid --mount --mount-proc="$1/proc" chroot "$1" env -i PATH=/usr/local/bin:/usr/bin:/bin HOME=/tmp "${@:2}"
}
inside "$WORK/disk" python3 -c 'import numpy, pandas, requests; print(numpy.__version__, pandas.__version__, requests.__version__)'
got=$(inside "$WORK/disk" python3 -B /var/task/handler.py)
[ "$got" = "200 45" ] || fail "the handler says $got"
inside "$WORK/disk" flask --version | grep -q Flask || fail "flask's script does not run"

step "uv chooses what pip does"
pinned() { # LOCK: what it has installed, by name
	python3 -c 'import sys, tomllib
for p in sorted(tomllib.load(open(sys.argv[1], "rb"))["packages"], key=lambda p: p["name"].lower()): print(p["name"].lower(), p["version"], p["wheels"][0]["hashes"]["sha256"])' "$1"
}
for r in pip uv; do
	publish 'pip:requests[socks]>=2.30,<3' pip:flask --resolver "$r" --name "by-$r" --lock "$WORK/$r.toml" >/dev/null
	mkdir "$WORK/by-$r"
	start "$WORK/mount-$r.log" "$WORK/bin/rivulet" mount "by-$r" "$WORK/by-$r" --foreground
	later rivulet umount "$WORK/by-$r"
	await 30 mountpoint -q "$WORK/by-$r" || fail "not mounted after 30 s"
done
diff <(pinned "$WORK/pip.toml") <(pinned "$WORK/uv.toml") || fail "uv chose otherwise"
diff -r --no-dereference "$WORK/by-pip/usr/local" "$WORK/by-uv/usr/local" || fail "another tree by uv"
rivulet packages why by-uv idna | grep -q '^requests > idna$' || fail "why, by uv: $(rivulet packages why by-uv idna)"

step "namespaces that packages share"
python3 "$E2E/functions.py" namespaces "$WORK/spaces"
spaces=("wheel:$WORK/spaces/space_one-1.0-py3-none-any.whl" "wheel:$WORK/spaces/space_two-1.0-py3-none-any.whl")
publish "${spaces[@]}" --name spaces >/dev/null
publish "${spaces[@]}" --name spaces-apart --packages-apart >/dev/null
for n in spaces spaces-apart; do
	mkdir "$WORK/$n.mnt"
	start "$WORK/mount-$n.log" "$WORK/bin/rivulet" mount "$n" "$WORK/$n.mnt" --foreground
	later rivulet umount "$WORK/$n.mnt"
	await 30 mountpoint -q "$WORK/$n.mnt" || fail "not mounted after 30 s"
	inside "$WORK/$n.mnt" python3 -c 'import newspace.one, newspace.two, oldspace.one, oldspace.two, midspace.one, midspace.two' || fail "$n: a namespace is not whole"
done
[ -f "$WORK/spaces-apart.mnt/packages/space-one==1.0/newspace/one.py" ] || fail "it does not lie apart"

step "the tree is pip's"
publish --name base >/dev/null
mkdir "$WORK/base" "$WORK/upper" "$WORK/work" "$WORK/copy"
start "$WORK/mount-base.log" "$WORK/bin/rivulet" mount base "$WORK/base" --foreground
later rivulet umount "$WORK/base"
await 30 mountpoint -q "$WORK/base" || fail "not mounted after 30 s"
mount -t tmpfs tmpfs "$WORK/upper"
later umount "$WORK/upper"
mkdir "$WORK/upper/u" "$WORK/upper/w"
mount -t overlay overlay -o "lowerdir=$WORK/base,upperdir=$WORK/upper/u,workdir=$WORK/upper/w" "$WORK/copy"
later umount "$WORK/copy"
mkdir -p "$WORK/copy/tmp/pip"
cp -r "$(python3 -c 'import pip; print(pip.__path__[0])')" "$WORK/copy/tmp/pip/pip"
cat /etc/resolv.conf >"$WORK/copy/etc/resolv.conf"
cat /etc/hosts >"$WORK/copy/etc/hosts"
settings=()
for v in $(compgen -e | grep -iE '^(pip_(index_url|extra_index_url|default_timeout|trusted_host)|(https?|no|all)_proxy)$' || true); do settings+=("$v=${!v}"); done
if [ -n "${PIP_CERT:-}" ]; then
	cp "$PIP_CERT" "$WORK/copy/tmp/certs.pem"
	settings+=(PIP_CERT=/tmp/certs.pem)
fi
# The versions of the lock: the index may have got others meanwhile.
python3 - "$WORK/pylock.toml" >"$WORK/copy/tmp/pinned.txt" <<'PINNED'
import sys, tomllib

for p in tomllib.load(open(sys.argv[1], "rb"))["packages"]:
    print(f"{p['name']}=={p['version']}")
PINNED
(umask 022 && inside "$WORK/copy" "${settings[@]}" python3 /tmp/pip/pip install -q --no-cache-dir --break-system-packages \
	--root-user-action ignore --disable-pip-version-check --only-binary :all: -c /tmp/pinned.txt "${PACKAGES[@]}")
python3 "$E2E/functions.py" "$WORK/disk/usr/local" "$WORK/copy/usr/local"

step "a source distribution"
mkdir -p "$WORK/src/built-1.0"
cat >"$WORK/src/built-1.0/setup.py" <<'SETUP'
from setuptools import setup

setup(name="built", version="1.0", py_modules=["built"])
SETUP
echo 'answer = 42' >"$WORK/src/built-1.0/built.py"
tar -C "$WORK/src" -czf "$WORK/built-1.0.tar.gz" built-1.0
publish "sdist:$WORK/built-1.0.tar.gz" --name built >/dev/null
rivulet cat built "$(cd "$WORK/disk" && find usr/local -name site-packages -o -name dist-packages | head -1)/built.py" | grep -qx 'answer = 42' || fail "it was not built"

step "by somebody who trusts nobody, and by somebody who does"
rivulet salt grant "$(RIVULET_KEYS=$WORK/keys2 rivulet keys --json 2>/dev/null | jq -r '.recipients[0]')" 2>>"$WORK/publish.log"
RIVULET_KEYS=$WORK/keys2 RIVULET_PACKAGES=$WORK/packages4 publish "${spaces[@]}" --name trusting --trust-publisher "$(rivulet keys --json | jq -r .publisher)" >/dev/null
[ -z "$(ls "$WORK/packages4/installed")" ] || fail "something was installed that a trusted publisher has recorded"
RIVULET_KEYS=$WORK/keys3 rivulet keys >/dev/null 2>&1
rivulet salt grant "$(RIVULET_KEYS=$WORK/keys3 rivulet keys --json | jq -r '.recipients[0]')" 2>>"$WORK/publish.log"
RIVULET_KEYS=$WORK/keys3 RIVULET_PACKAGES=$WORK/packages5 publish "${spaces[0]}" --name third >/dev/null
grep -q 'space-one .*: the store has a record of it by .*not trusted' "$WORK/publish.log" || fail "of records by others, nothing is said"
ls "$WORK/packages5/installed"/*.tar >/dev/null || fail "what nobody trusted has recorded was not installed"

step "a publication that is killed"
mkdir -p "$WORK/src/slow-1.0" "$WORK/temp"
printf '[build-system]\nrequires = []\nbuild-backend = "slow"\nbackend-path = ["."]\n' >"$WORK/src/slow-1.0/pyproject.toml"
MARK=$((4000000 + $$))
printf 'import subprocess\n\n\ndef build_wheel(*_):\n    subprocess.run(["sleep", "%s"])\n' "$MARK" >"$WORK/src/slow-1.0/slow.py"
tar -C "$WORK/src" -czf "$WORK/slow-1.0.tar.gz" slow-1.0
sleeps() { [ -n "$(grep -lzx "[4]${MARK:1}" /proc/[0-9]*/cmdline 2>/dev/null || true)" ]; } # not grep itself
"$WORK/bin/rivulet" publish "$BASE" "sdist:$WORK/slow-1.0.tar.gz" --name slow --temp "$WORK/temp" >/dev/null 2>&1 &
killed=$!
await 30 sleeps || fail "it does not build"
kill -9 "$killed"
wait "$killed" 2>/dev/null || true
gone() { ! sleeps; }
await 60 gone || fail "the build has outlived it"
[ -n "$(compgen -G "$WORK/temp/rivulet-build-*")" ] || fail "there is nothing to clean up"
publish "sdist:$WORK/built-1.0.tar.gz" pip:six --temp "$WORK/temp" --name after >/dev/null
[ -z "$(ls -A "$WORK/temp")" ] || fail "left behind: $(ls -A "$WORK/temp")"

step "npm's packages"
NPM_IMAGE=node-npm # has npm, so that this machine need not
if ! jq -e --arg name "$NPM_IMAGE" 'any(.manifests[]; .annotations["org.opencontainers.image.ref.name"] == $name)' "$IMAGES/index.json" >/dev/null; then
	command -v npm >/dev/null || skip "npm, or the image $NPM_IMAGE"
	npm_here() { (cd "$1" && npm "${@:2}" --no-audit --no-fund --loglevel=error >/dev/null); }
else
	rivulet publish "oci:$IMAGES:$NPM_IMAGE" --name npm >/dev/null 2>>"$WORK/publish.log"
	mkdir "$WORK/npm" "$WORK/npm-copy" "$WORK/upper/nu" "$WORK/upper/nw"
	start "$WORK/mount-npm.log" "$WORK/bin/rivulet" mount npm "$WORK/npm" --foreground
	later rivulet umount "$WORK/npm"
	await 30 mountpoint -q "$WORK/npm" || fail "not mounted after 30 s"
	mount -t overlay overlay -o "lowerdir=$WORK/npm,upperdir=$WORK/upper/nu,workdir=$WORK/upper/nw" "$WORK/npm-copy"
	later umount "$WORK/npm-copy"
	cat /etc/resolv.conf >"$WORK/npm-copy/etc/resolv.conf"
	cat /etc/hosts >"$WORK/npm-copy/etc/hosts"
	npm_settings=()
	for v in $(compgen -e | grep -iE '^(npm_config_registry|(https?|no|all)_proxy)$' || true); do npm_settings+=("$v=${!v}"); done
	if [ -n "${NODE_EXTRA_CA_CERTS:-}" ]; then
		cp "$NODE_EXTRA_CA_CERTS" "$WORK/npm-copy/tmp/certs.pem"
		npm_settings+=(NODE_EXTRA_CA_CERTS=/tmp/certs.pem)
	fi
	npm_here() { # DIR ARGUMENT...
		rm -rf "$WORK/npm-copy/tmp/app" && cp -r "$1" "$WORK/npm-copy/tmp/app"
		inside "$WORK/npm-copy" "${npm_settings[@]}" sh -c 'cd /tmp/app && npm "$@" --no-audit --no-fund --loglevel=error >/dev/null' sh "${@:2}"
		cp -r "$WORK/npm-copy/tmp/app/." "$1"
	}
fi
mkdir "$WORK/app"
cat >"$WORK/app/package.json" <<'MANIFEST'
{"name": "function", "version": "1.0.0", "dependencies": {"express": "^4", "semver": "*"}, "devDependencies": {"left-pad": "*"}}
MANIFEST
npm_here "$WORK/app" install --package-lock-only --ignore-scripts
rivulet publish "oci:$IMAGES:nodejs" "npm:$WORK/app/package-lock.json@/var/task" --name node >/dev/null 2>>"$WORK/publish.log"
npm_here "$WORK/app" ci --omit=dev --ignore-scripts
mkdir "$WORK/node"
start "$WORK/mount-node.log" "$WORK/bin/rivulet" mount node "$WORK/node" --foreground
later rivulet umount "$WORK/node"
await 30 mountpoint -q "$WORK/node" || fail "not mounted after 30 s"
rm "$WORK/app/node_modules/.package-lock.json"
listed() { (cd "$1" && find . -printf '%P %m %l\n' | sort); }
diff <(listed "$WORK/node/var/task/node_modules") <(listed "$WORK/app/node_modules") || fail "another tree than npm's"
diff -r --no-dereference "$WORK/node/var/task/node_modules" "$WORK/app/node_modules" || fail "other contents than npm's"
got=$(inside "$WORK/node" sh -c 'cd /var/task && node -e "console.log(typeof require(\"express\"))" && ./node_modules/.bin/semver 1.2.3')
[ "$got" = $'function\n1.2.3' ] || fail "node says $got"

step "hostile archives, wheels and builds"
refused() { # WORDS SOURCE...: publishing fails in one line that has WORDS
	local words=$1 said
	shift
	if said=$(rivulet publish "$BASE" "$@" --name bad 2>&1 >/dev/null); then fail "$* was published"; fi
	[ "$(wc -l <<<"$said")" = 1 ] && grep -qF "$words" <<<"$said" || fail "$*: $said"
}
PORT=$(free_port)
export PORT
start "$WORK/listener.log" python3 -m http.server --bind 127.0.0.1 "$PORT"
await 60 python3 -c "import socket; socket.create_connection(('127.0.0.1', $PORT))" || fail "no server to look for"
python3 "$E2E/functions.py" hostile "$WORK/hostile"
while IFS=$'\t' read -r file words; do refused "$words" "$file"; done <"$WORK/hostile/list"
refused 'Could not find a version' 'pip:rivulet-there-is-no-such-package'
refused "an option is none" 'pip:--index-url=http://127.0.0.1:1'
rivulet ls --json | jq -e 'all(.name != "bad")' >/dev/null || fail "a hostile archive was published"

step "control groups of version 2, in a virtual machine"
kernel=$("$E2E/guest-kernel.sh")
mkdir -p "$WORK/guest/usr/local/bin" "$WORK/guest/usr/local/lib/bwrap"
(cd "$ROOT" && CGO_ENABLED=0 GOOS=linux go build -trimpath -ldflags '-s -w' -o "$WORK/bin/rivulet-init" ./cmd/rivulet-init)
(cd "$ROOT" && CGO_ENABLED=0 go test -c -trimpath -o "$WORK/guest/usr/local/bin/sandbox.test" ./packages/sandbox)
cp "$(command -v bwrap)" "$(command -v busybox)" "$WORK/guest/usr/local/bin"
ldd "$(command -v bwrap)" | awk '$3 ~ /^\// && $1 !~ /^libc\.so/ { print $3 }' | xargs -I '{}' cp -L '{}' "$WORK/guest/usr/local/lib/bwrap"
XDG_DATA_HOME=$WORK/data rivulet vm kernel --from-tree "$kernel"
publish "dir:$WORK/guest" --name guest >/dev/null
# shellcheck disable=SC2016
XDG_DATA_HOME=$WORK/data RIVULET_AGENT=none rivulet vm run --accel tcg guest -- sh -c 'set -e
	mount -t cgroup2 none /sys/fs/cgroup
	export LD_LIBRARY_PATH=/usr/local/lib/bwrap RIVULET_E2E_STRICT=1
	cd /tmp
	sandbox.test -test.v -test.run "^TestGroup"' </dev/null >"$WORK/guest.log" 2>&1 || { cat "$WORK/guest.log"; fail "in the virtual machine"; }
for t in TestGroupBeneath TestGroupSwept TestGroupKills TestGroupHoldsRun; do
	grep -q -e "--- PASS: $t " "$WORK/guest.log" || { cat "$WORK/guest.log"; fail "$t did not run"; }
done

step "passed"
