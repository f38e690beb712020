#!/usr/bin/env bash
# rules.sh: what Prometheus itself says of deploy/.
#
# Proves: Prometheus takes the alert rules, they do what is meant with made-up
# measurements (rivulet.rules_test.yml), and it takes every query of the dashboard, with
# something put in for Grafana's variables.
#
# Needs promtool and jq.
source "$(dirname "${BASH_SOURCE[0]}")/harness.sh"
need promtool jq

step "alert rules"
cd "$ROOT/deploy/prometheus"
promtool check rules rivulet.rules.yml
promtool test rules rivulet.rules_test.yml

step "queries of the dashboard"
# As rules that record them: promtool has no other way to have many queries parsed.
jq '{groups: [{name: "dashboard", rules: [.panels[].targets[]?.expr
	| gsub("\\$__rate_interval"; "5m") | gsub("\\$instance"; ".*")]
	| to_entries | map({record: "panel:query\(.key)", expr: .value})}]}' ../grafana/rivulet.json >"$WORK/dashboard.json"
[ "$(jq '.groups[0].rules | length' "$WORK/dashboard.json")" -gt 20 ] || fail "few queries in the dashboard"
if jq -e '.groups[0].rules[] | select(.expr | contains("$"))' "$WORK/dashboard.json"; then fail "a variable that is not known here"; fi
promtool check rules "$WORK/dashboard.json" # JSON is YAML
echo "rules: ok"
