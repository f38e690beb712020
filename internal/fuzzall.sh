#!/usr/bin/env bash
# fuzzall.sh TIME: runs every fuzz target of the module for TIME each: 30s, or 1000x
# for a number of inputs.
#
# Each package is linked once for all of its targets, and only the module's own code
# is instrumented to guide the fuzzer: so what it imports is compiled as for other tests.
# New inputs are kept where 'go test -fuzz' keeps them.
set -euo pipefail
[ $# -gt 0 ] || { sed -n '2s/^# /usage: /p' "$0" >&2; exit 2; }

if [ "$1" = -exec ]; then # by go test, in a package's folder: -exec TIME ROOT CACHE PROGRAM…
	folder=${PWD#"$3"}
	"$5" -test.list '^Fuzz' | while read -r target; do
		echo "--- ${folder#/} $target"
		"$5" -test.run '^$' -test.fuzz "^$target\$" -test.fuzztime "$2" -test.fuzzcachedir "$4$folder"
	done
	exit
fi

module=$(go list -m)
mapfile -t folders < <(grep -rlE --include='*_test.go' '^func Fuzz' . | xargs -n 1 dirname | sort -u)
go test -v -count 1 -timeout 0 -gcflags="$module/...=-d=libfuzzer" \
	-exec "$(realpath "$0") -exec $1 $PWD $(go env GOCACHE)/fuzz/$module" "${folders[@]}"
