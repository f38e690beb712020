# shellcheck shell=bash disable=SC2154
# zone.sh: part of run.sh. Reading chunks from the servers of a zone, by each scheme,
# while all are well and while one is not; a chunk that many want; and what one read
# is made of. It needs no images.
need redis-server

printf '\n## Schemes\n\n'
zone -rounds "$ROUNDS" -reads "${READS:-800}" -plot "${PLOT:-$WORK/zone.svg}"
printf '\n## Many want one chunk\n\n'
zone -hot -rounds "$ROUNDS"
printf '\n## What a read is made of\n\n```\n'
(cd "$ROOT" && go test ./store/zone -run '^$' -bench Hit -benchtime 1000x -count "$ROUNDS" | grep ^Benchmark)
printf '```\n'
