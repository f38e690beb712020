package telemetry

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"unicode"

	"github.com/prometheus/client_golang/prometheus"
	"go.yaml.in/yaml/v3"
)

var update = flag.Bool("update", false, "write the tables of doc/metrics.md")

// groups are the metrics by who has them, in the order of doc/metrics.md.
var groups = []struct {
	title string
	set   set
}{
	{"Every process", processSet},
	{"Processes that hold disks: agent, serve, mount", append(append(set{}, hostSet...), originSet...)},
	{"Bounds of what is asked: of origins (processes that hold disks), of downloads and the zone (cached)", limitSet},
	{"The host cache: cached", daemonSet},
	{"The zone, as a host cache sees it", zoneSet},
}

var docPath = filepath.Join("..", "doc", "metrics.md")

const begin, end = "<!-- The tables are written by 'go test ./telemetry -update'. -->\n", "<!-- end of the tables -->\n"

// tables is what the document has to say of all metrics.
func tables() string {
	var b strings.Builder
	for _, g := range groups {
		fmt.Fprintf(&b, "\n### %s\n\n| metric | type | labels | |\n| --- | --- | --- | --- |\n", g.title)
		for _, m := range g.set {
			fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", m.name, m.kind, strings.Join(m.labels, ", "), m.help)
		}
	}
	return b.String() + "\n"
}

// TestDocument compares doc/metrics.md with the metrics there are: none is missing in
// it, and none is in it that there is not.
func TestDocument(t *testing.T) {
	text, err := os.ReadFile(docPath)
	if err != nil {
		t.Fatal(err)
	}
	head, rest, ok := strings.Cut(string(text), begin)
	old, tail, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		t.Fatalf("%s has no place for the tables", docPath)
	}
	if *update {
		if err := os.WriteFile(docPath, []byte(head+begin+tables()+end+tail), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if old != tables() {
		t.Errorf("%s does not tell of the metrics that there are; run 'go test ./telemetry -update'", docPath)
	}
	for _, name := range regexp.MustCompile(`rivulet_[a-z_]+`).FindAllString(string(text), -1) {
		base := strings.TrimSuffix(name, "_bucket")
		if documented()[base] == nil {
			t.Errorf("%s tells of %s, which there is not", docPath, name)
		}
	}
	described := make(map[string]bool)
	for _, c := range []prometheus.Collector{process{}, &Host{}, &Daemon{}} {
		ch := make(chan *prometheus.Desc, 1000)
		c.Describe(ch)
		close(ch)
		for d := range ch {
			described[regexp.MustCompile(`fqName: "([a-z0-9_]+)"`).FindStringSubmatch(d.String())[1]] = true
		}
	}
	for name := range documented() {
		if !described[name] {
			t.Errorf("%s is documented, and no collector describes it", name)
		}
		delete(described, name)
	}
	for name := range described {
		t.Errorf("%s is described, and not documented", name)
	}
}

// documented are the metrics of the tables, by name.
func documented() map[string]*metric {
	all := make(map[string]*metric)
	for _, g := range groups {
		for _, m := range g.set {
			all[m.name] = m
		}
	}
	return all
}

// TestNames wants names as Prometheus's conventions have them.
func TestNames(t *testing.T) {
	for name, m := range documented() {
		switch total := strings.HasSuffix(name, "_total"); {
		case !regexp.MustCompile(`^rivulet_[a-z]+(_[a-z]+)*$`).MatchString(name):
			t.Errorf("%s: want words", name)
		case total != (m.kind == "counter"):
			t.Errorf("%s is a %s: counters, and no others, end in _total", name, m.kind)
		case (m.kind == "histogram") != strings.HasSuffix(name, "_duration_seconds"):
			t.Errorf("%s is a %s: times end in _duration_seconds", name, m.kind)
		case regexp.MustCompile(`_(ms|us|ns|millis|mib|kib|mb|kb|percent)(_|$)`).MatchString(name):
			t.Errorf("%s: want base units", name)
		}
		if !strings.HasSuffix(m.help, ".") || !unicode.IsUpper([]rune(m.help)[0]) && m.help[0] != '1' {
			t.Errorf("%s: help %q: want sentences", name, m.help)
		}
	}
}

// A rulesFile is a file of alerting rules of Prometheus.
type rulesFile struct {
	Groups []struct {
		Name  string
		Rules []struct {
			Alert, Expr, For string
			Labels           map[string]string
			Annotations      map[string]string
		}
	}
}

// TestRules wants alert rules of metrics that there are, with their labels, and whose
// brackets close. internal/e2e/rules.sh has Prometheus say the rest.
func TestRules(t *testing.T) {
	text, err := os.ReadFile(filepath.Join("..", "deploy", "prometheus", "rivulet.rules.yml"))
	if err != nil {
		t.Fatal(err)
	}
	var f rulesFile
	d := yaml.NewDecoder(strings.NewReader(string(text)))
	d.KnownFields(true)
	if err := d.Decode(&f); err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, g := range f.Groups {
		for _, r := range g.Rules {
			n++
			if r.Alert == "" || r.Labels["severity"] == "" || r.Annotations["summary"] == "" || r.Annotations["description"] == "" {
				t.Errorf("rule %+v: want an alert with a severity, a summary and a description", r)
			}
			checkExpr(t, "alert "+r.Alert, r.Expr)
		}
	}
	if n < 8 {
		t.Errorf("%d rules", n)
	}
}

// TestDashboard wants a dashboard of metrics that there are.
func TestDashboard(t *testing.T) {
	text, err := os.ReadFile(filepath.Join("..", "deploy", "grafana", "rivulet.json"))
	if err != nil {
		t.Fatal(err)
	}
	var d struct {
		Title, UID    string
		SchemaVersion int
		Panels        []struct {
			ID      int
			Title   string
			Type    string
			GridPos struct{ X, Y, W, H int }
			Targets []struct{ Expr, LegendFormat, RefID string }
		}
	}
	if err := json.Unmarshal(text, &d); err != nil {
		t.Fatal(err)
	}
	ids := make(map[int]bool)
	for _, p := range d.Panels {
		if ids[p.ID] || p.Title == "" || p.GridPos.W == 0 || p.GridPos.X+p.GridPos.W > 24 {
			t.Errorf("panel %d %q: want an id and a place of its own, and a title", p.ID, p.Title)
		}
		ids[p.ID] = true
		if p.Type != "row" && len(p.Targets) == 0 {
			t.Errorf("panel %q shows nothing", p.Title)
		}
		for _, target := range p.Targets {
			checkExpr(t, "panel "+p.Title, target.Expr)
		}
	}
	if d.Title == "" || d.UID == "" || d.SchemaVersion == 0 || len(d.Panels) < 10 {
		t.Errorf("dashboard %q %q, version %d, of %d panels", d.Title, d.UID, d.SchemaVersion, len(d.Panels))
	}
}

var (
	metricName = regexp.MustCompile(`\b(rivulet_[a-z0-9_]+)(\{[^}]*\})?`)
	matcher    = regexp.MustCompile(`([a-z_]+)\s*(?:=~|!~|!=|=)\s*"`)
	grouping   = regexp.MustCompile(`\b(?:by|without|on|ignoring)\s*\(([^)]*)\)`)
)

// checkExpr wants expr to name metrics that there are, to select by labels that these
// have, and to close its brackets.
func checkExpr(t *testing.T, where, expr string) {
	t.Helper()
	all := documented()
	known := map[string]bool{"instance": true, "job": true, "le": true}
	found := metricName.FindAllStringSubmatch(expr, -1)
	if len(found) == 0 && !strings.Contains(expr, "process_") && !strings.Contains(expr, "go_") && !strings.Contains(expr, "up{") {
		t.Errorf("%s: %q names no metric", where, expr)
	}
	for _, f := range found {
		m := all[f[1]]
		for _, part := range []string{"_bucket", "_sum", "_count"} {
			if base := all[strings.TrimSuffix(f[1], part)]; m == nil && base != nil && base.kind == "histogram" {
				m = base
			}
		}
		if m == nil {
			t.Errorf("%s: there is no metric %s", where, f[1])
			continue
		}
		own := map[string]bool{"instance": true, "job": true, "le": m.kind == "histogram"}
		for _, l := range m.labels {
			own[l], known[l] = true, true
		}
		for _, l := range matcher.FindAllStringSubmatch(f[2], -1) {
			if !own[l[1]] {
				t.Errorf("%s: %s has no label %s", where, f[1], l[1])
			}
		}
		if m.kind == "counter" && !regexp.MustCompile(`(rate|increase|resets)\(\s*`+f[1]).MatchString(expr) {
			t.Errorf("%s: counter %s is shown without rate or increase", where, f[1])
		}
	}
	for _, g := range grouping.FindAllStringSubmatch(expr, -1) {
		for l := range strings.SplitSeq(g[1], ",") {
			if l = strings.TrimSpace(l); l != "" && !known[l] {
				t.Errorf("%s: %q groups by %s, which no metric in it has", where, expr, l)
			}
		}
	}
	var open []rune
	pairs := map[rune]rune{')': '(', ']': '[', '}': '{'}
	for _, c := range expr {
		switch c {
		case '(', '[', '{':
			open = append(open, c)
		case ')', ']', '}':
			if len(open) == 0 || open[len(open)-1] != pairs[c] {
				t.Errorf("%s: %q: a bracket that nobody opened", where, expr)
				return
			}
			open = open[:len(open)-1]
		}
	}
	if len(open) > 0 {
		t.Errorf("%s: %q: a bracket is not closed", where, expr)
	}
}
