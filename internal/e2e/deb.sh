#!/usr/bin/env bash
# deb.sh: the Debian package.
#
# Proves that deploy/debian/build.sh makes a package that dpkg installs into an empty root;
# that what its units and its manual pages name is there and runs; that completions are
# scripts of their shells; that an upgrade keeps settings; and that purging it leaves nothing, caches and state
# included.
#
# Needs root, dpkg, nfpm, bash.
source "$(dirname "${BASH_SOURCE[0]}")/harness.sh"

need_root
PATH=$(go env GOPATH 2>/dev/null || true)/bin:$PATH
need dpkg dpkg-deb nfpm gzip
step "build"
(cd "$ROOT" && make -s build containerd)
"$ROOT/deploy/debian/build.sh" v1.2.3-4-gabcdef "$WORK/out" >/dev/null
"$ROOT/deploy/debian/build.sh" v1.3.0 "$WORK/out" >/dev/null
dpkg --compare-versions "$(dpkg-deb -f "$WORK"/out/rivulet_1.2.3*.deb Version)" lt "$(dpkg-deb -f "$WORK"/out/rivulet_1.3.0_*.deb Version)" || fail "versions: $(ls "$WORK/out")"

step "install"
TARGET=$WORK/root
mkdir -p "$TARGET"/var/lib/dpkg/{info,updates,triggers} "$TARGET/etc/default"
touch "$TARGET"/var/lib/dpkg/{status,available}
find "$TARGET" | sort >"$WORK/before"
package() { dpkg --root="$TARGET" --force-script-chrootless --force-depends --log=/dev/null "$@" >"$WORK/dpkg.log" 2>&1 || { cat "$WORK/dpkg.log" >&2; fail "dpkg $*"; }; }
package -i "$WORK"/out/rivulet_1.2.3*.deb
for program in rivulet containerd-rivulet; do
	"$TARGET/usr/bin/$program" --help >/dev/null || fail "$program does not run"
done
[ -x "$TARGET/usr/lib/rivulet/rivulet-init" ] || fail "no rivulet-init"
for unit in rivulet-agent rivulet-cached containerd-rivulet; do
	while read -r program command; do
		[ -x "$TARGET$program" ] || fail "$unit: no $program"
		"$TARGET$program" ${command:+"$command"} --help >"$WORK/help" 2>&1 || fail "$unit: $program $command --help"
		for flag in $(grep "$program $command" "$TARGET/usr/lib/systemd/system/$unit.service" | grep -o -- ' --[a-z-]*'); do
			grep -q -- "$flag" "$WORK/help" || fail "$unit: $program $command has no $flag"
		done
	done < <(sed -n 's/^Exec[A-Za-z]*=\([^ ]*\) \([a-z]*\).*/\1 \2/p' "$TARGET/usr/lib/systemd/system/$unit.service")
	page=$(sed -n 's/^Documentation=man:\(.*\)(1)$/\1/p' "$TARGET/usr/lib/systemd/system/$unit.service")
	gzip -dc "$TARGET/usr/share/man/man1/$page.1.gz" | grep -q '^\.TH' || fail "$unit: no manual page $page"
done
bash -n "$TARGET/usr/share/bash-completion/completions/rivulet" || fail "the completions for bash"
grep -q '^#compdef rivulet' "$TARGET/usr/share/zsh/vendor-completions/_rivulet" || fail "the completions for zsh"
grep -q 'complete -c rivulet' "$TARGET/usr/share/fish/vendor_completions.d/rivulet.fish" || fail "the completions for fish"

step "upgrade"
echo 'OPTIONS=--size 1G' >"$TARGET/etc/default/rivulet-cached"
package -i "$WORK"/out/rivulet_1.3.0_*.deb
grep -q 1G "$TARGET/etc/default/rivulet-cached" || fail "the settings are gone"
rm "$TARGET/etc/default/rivulet-cached"

step "purge"
mkdir -p "$TARGET/var/cache/rivulet/chunks" "$TARGET/var/lib/rivulet/agent"
package -P rivulet
find "$TARGET" -not -path "$TARGET/var/lib/dpkg/*" | sort >"$WORK/after"
left=$(grep -v "^$TARGET/var/lib/dpkg/" "$WORK/before" | comm -13 - "$WORK/after" | grep -v -x "$TARGET/var/cache" || true)
[ -z "$left" ] || fail "left behind: $left"
echo "deb: ok ($SECONDS s)"
