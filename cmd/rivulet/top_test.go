package main

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/rivuletfs/rivulet/disk"
	"github.com/rivuletfs/rivulet/host"
	"github.com/rivuletfs/rivulet/host/control"
)

// observed is a host with disks that have read so many times each.
func observed(at time.Time, reads ...int64) *observation {
	o := &observation{
		at: at, socket: "/run/agent.sock", agent: control.Agent{Version: "v1", PID: 7, Since: at.Add(-90 * time.Minute)},
		cacheSocket: "/run/cached.sock",
		cache: map[string]int64{
			"bytes": 3 << 30, "max_bytes": 4 << 30, "hits": 100 * reads[0], "flights": reads[0], "downloads": 2 * reads[0], "downloaded_bytes": reads[0] << 20,
			"zone_hits": reads[0], "zone_misses": reads[0],
		},
	}
	for i, n := range reads {
		o.infos = append(o.infos, host.Info{
			ID: fmt.Sprintf("id%d", i), Spec: host.Spec{Image: string(rune('z' - i)), Store: "dir:/s", Where: "/mnt"}, Digest: fmt.Sprint("digest", i),
			State: host.Ready, SlowReads: n / 10, Served: host.Served{Reads: n, Bytes: n << 10},
			Reads: &disk.Stats{Reads: n, Bytes: n << 10, Hits: 6 * n, Near: n, FromCache: n, FromZone: n, FromOrigin: n},
		})
	}
	return o
}

func text(lines []topLine) string {
	var b strings.Builder
	for _, l := range lines {
		b.WriteString(l.text + "\n")
	}
	return b.String()
}

// fields returns the fields of a disk's line.
func fields(t *testing.T, m *topModel, id string) []string {
	t.Helper()
	for _, l := range m.render() {
		if f := strings.Fields(strings.ReplaceAll(l.text, " %", "%")); len(f) > 0 && f[0] == id {
			return f
		}
	}
	t.Fatalf("no line of %s:\n%s", id, text(m.render()))
	return nil
}

// TestTopRates has two looks two seconds apart.
func TestTopRates(t *testing.T) {
	at := time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)
	m := &topModel{order: topOrders[0], before: observed(at, 100, 5000, 7), now: observed(at.Add(2*time.Second), 300, 5100, 7)}
	want := "id0 z ready 100 100.0 KiB 60.0% 50.0% 50.0% 100 10 30 - /mnt"
	if got := strings.Join(fields(t, m, "id0"), " "); got != want {
		t.Errorf("line of a disk\n%s, want\n%s", got, want)
	}
	want = "id2 x ready 0 0 B - - - 0 0 0 - /mnt"
	if got := strings.Join(fields(t, m, "id2"), " "); got != want {
		t.Errorf("line of an idle disk\n%s, want\n%s", got, want)
	}
	all := text(m.render())
	for _, want := range []string{
		"rivulet top  12:00:02  agent v1 up 1 h 30 min  disks: 3",
		"disks   150 reads/s  150.0 KiB/s  hits: memory 60.0 %  cache 50.0 %  zone 50.0 %  slow 15/s",
		"cache   3.0 GiB of 4.0 GiB (75.0 %)  10.1k requests/s, 10.0k at once  200 downloads/s, 100.0 MiB/s  zone 100 of 200/s",
	} {
		if !strings.Contains(all, want) {
			t.Errorf("without %q:\n%s", want, all)
		}
	}

	// Counters that begin anew, a disk that comes, two attachments of one disk.
	m.now = observed(at.Add(2*time.Second), 50, 5100, 7, 40)
	if f := fields(t, m, "id0"); f[3] != "25" {
		t.Errorf("reads of a disk that was opened anew: %q", f)
	}
	if f := fields(t, m, "id3"); f[3] != "20" {
		t.Errorf("reads of a new disk: %q", f)
	}
	m.now.infos[1].Digest = m.now.infos[0].Digest
	if _, all := m.rows(); all.reads != 25+50+20 || all.from.origin != 50+0+40 {
		t.Errorf("%v reads of all disks, %+v; want what shared ones asked of tiers once", all.reads, all.from)
	}

	// One look alone knows no rates.
	m.before = nil
	if f := fields(t, m, "id1"); f[3] != "0" || f[6] == "-" {
		t.Errorf("line after one look: %q", f)
	}
}

// TestTopOrders sorts by every key.
func TestTopOrders(t *testing.T) {
	at := time.Now()
	m := &topModel{before: observed(at, 0, 0, 0), now: observed(at.Add(time.Second), 10, 30, 20)}
	m.now.infos[0].LongestWait = time.Second
	m.now.infos[0].Waits = 1
	for _, o := range topOrders {
		m.order = o
		rows, _ := m.rows()
		want := map[string]string{"waiting": "id0", "name": "id2"}[o.name]
		if want == "" {
			want = "id1"
		}
		if rows[0].info.ID != want {
			t.Errorf("by %s, %s comes first, want %s", o.name, rows[0].info.ID, want)
		}
		if found, err := topOrderOf(o.name); err != nil || found.key != o.key {
			t.Errorf("order %q: %v", o.name, err)
		}
	}
	if _, err := topOrderOf("age"); err == nil {
		t.Error("sorts by what there is not")
	}
}

// TestTopFits draws on screens of many sizes.
func TestTopFits(t *testing.T) {
	at := time.Now()
	m := &topModel{order: topOrders[0], now: observed(at, make([]int64, 40)...)}
	m.now.infos[3].Spec.Image = "\x1b[2Jnasty"
	m.now.infos[3].Spec.Where = strings.Repeat("ä", 100)
	m.now.infos[4].LongestWait = hungAfter
	for _, size := range [][2]int{{1, 2}, {10, 3}, {80, 24}, {81, 6}, {500, 100}} {
		m.width, m.height = size[0], size[1]
		lines := m.render()
		if len(lines) > m.height {
			t.Errorf("%d lines on a screen of %d", len(lines), m.height)
		}
		for _, l := range lines {
			if n := utf8.RuneCountInString(l.text); n > m.width || strings.ContainsAny(l.text, "\x1b\n") {
				t.Errorf("line of %d characters on a screen of %d: %q", n, m.width, l.text)
			}
		}
	}
	m.width, m.height = 80, 12
	if s := text(m.render()); !strings.Contains(s, "\n… 35 more\n") || !strings.Contains(s, "\nq quits; sort by r reads* b bytes ") {
		t.Errorf("of 40 disks, 12 lines are\n%s", s)
	}
	m.height = 100
	s := draw(m.render())
	if !strings.HasPrefix(s, topLeft) || !strings.HasSuffix(s, eraseLine+eraseBelow) || strings.Count(s, styles[badStyle]) != 1 || strings.Count(s, styles[headStyle]) != 1 {
		t.Errorf("drawn as %q", s)
	}
}

// TestTopWithoutAgent says what to do.
func TestTopWithoutAgent(t *testing.T) {
	m := &topModel{order: topOrders[0], now: &observation{at: time.Now(), socket: "/run/x", failed: control.ErrNoAgent}}
	if s := text(m.render()); !strings.Contains(s, "agent   no agent answers at /run/x; start one with 'rivulet agent'") || !strings.Contains(s, "no host cache runs") {
		t.Errorf("shown as\n%s", s)
	}
	m.now = &observation{at: time.Now(), failed: errors.New("odd"), cacheSocket: "x", cacheFailed: errors.New("away")}
	bad := 0
	for _, l := range m.render() {
		if l.style == badStyle && (strings.HasSuffix(l.text, "odd") || strings.HasSuffix(l.text, "away")) {
			bad++
		}
	}
	if bad != 2 {
		t.Errorf("shown as\n%s", text(m.render()))
	}
}

func TestRatios(t *testing.T) {
	for in, want := range map[answered]string{
		{}:            "- - -",
		{10, 0, 0, 0}: "100.0 % - -",
		{5, 0, 0, 5}:  "50.0 % - -",
		{5, 3, 0, 2}:  "50.0 % 60.0 % -",
		{0, 5, 1, 4}:  "0.0 % 50.0 % 20.0 %",
	} {
		r := in.ratios()
		if got := share(r.Memory) + " " + share(r.Cache) + " " + share(r.Zone); got != want {
			t.Errorf("%+v: %s, want %s", in, got, want)
		}
	}
	if total := (answered{1, 2, 3, 4}).total(); total != 10 {
		t.Errorf("total %d", total)
	}
}

func TestSpan(t *testing.T) {
	for d, want := range map[time.Duration]string{
		1500: "1 µs", 20 * time.Millisecond: "20 ms", 1500 * time.Millisecond: "1.5 s", 61 * time.Second: "1 min 1 s",
		3*time.Hour + 4*time.Minute: "3 h 4 min", 51 * time.Hour: "2 days 3 h",
	} {
		if got := span(d); got != want {
			t.Errorf("%v is written as %q, want %q", d, got, want)
		}
	}
}
