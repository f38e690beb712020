#!/usr/bin/env bash
# fuzzall.sh TIME: runs every fuzz target of the module for TIME each: 30s, or 1000x
# for a number of inputs.
set -euo pipefail
time=${1:?usage: fuzzall.sh TIME, such as 30s}
grep -rlE --include='*_test.go' '^func Fuzz' . | sort | while read -r file; do
	sed -n 's/^func \(Fuzz[A-Za-z0-9_]*\)(.*/\1/p' "$file" | while read -r target; do
		echo "--- $(dirname "$file") $target"
		go test "$(dirname "$file")" -run '^$' -fuzz "^$target\$" -fuzztime "$time"
	done
done
