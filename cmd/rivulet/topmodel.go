package main

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
	"unicode/utf8"

	"github.com/rivuletfs/rivulet/host"
	"github.com/rivuletfs/rivulet/host/control"
)

// A topModel is what top shows: the difference of two observations.
type topModel struct {
	before, now   *observation // before may be nil: nothing is known of rates
	order         topOrder
	width, height int // of the screen; 0: as much as there is to show
}

// A topOrder is what disks are sorted by.
type topOrder struct {
	key     byte
	name    string
	compare func(a, b *topRow) int
}

func most[T cmp.Ordered](of func(*topRow) T) func(a, b *topRow) int {
	return func(a, b *topRow) int { return cmp.Compare(of(b), of(a)) }
}

// topOrders are the orders there are, the default first.
var topOrders = []topOrder{
	{'r', "reads", most(func(r *topRow) float64 { return r.reads })},
	{'b', "bytes", most(func(r *topRow) float64 { return r.bytes })},
	{'m', "misses", most(func(r *topRow) int64 { return r.from.total() - r.from.memory })},
	{'o', "origin", most(func(r *topRow) int64 { return r.from.origin })},
	{'s', "slow", most(func(r *topRow) float64 { return r.slow })},
	{'w', "waiting", most(func(r *topRow) time.Duration { return r.info.LongestWait })},
	{'n', "name", func(a, b *topRow) int { return cmp.Compare(a.info.Spec.Image, b.info.Spec.Image) }},
}

// topOrderOf finds an order by its name.
func topOrderOf(name string) (topOrder, error) {
	var names []string
	for _, o := range topOrders {
		if o.name == name {
			return o, nil
		}
		names = append(names, o.name)
	}
	return topOrder{}, usagef("--sort %q: want %s", name, strings.Join(names, ", "))
}

// A topRow is one disk's line.
type topRow struct {
	info               *host.Info
	reads, bytes, slow float64 // a second
	from               answered
}

// A topLine is a line of the screen.
type topLine struct {
	text  string
	style topStyle
}

type topStyle uint8

const (
	plainStyle topStyle = iota
	headStyle           // of the table
	badStyle            // needs somebody's eyes
)

// rate is how much a counter rose a second. One that fell was begun anew.
func (m *topModel) rate(before, now int64) float64 {
	if m.before == nil {
		return 0
	}
	seconds := m.now.at.Sub(m.before.at).Seconds()
	if seconds <= 0 {
		return 0
	}
	if now < before {
		before = 0
	}
	return float64(now-before) / seconds
}

// rows are the disks in their order, and what all of them did; what shared ones asked
// of tiers counts once.
func (m *topModel) rows() (rows []topRow, all topRow) {
	old := map[string]*host.Info{}
	if m.before != nil {
		for i := range m.before.infos {
			old[m.before.infos[i].ID] = &m.before.infos[i]
		}
	}
	counted := map[string]bool{}
	for n := range m.now.infos {
		i := &m.now.infos[n]
		r := topRow{info: i}
		was := old[i.ID]
		if was == nil {
			was = &host.Info{}
		}
		r.slow = m.rate(was.SlowReads, i.SlowReads)
		r.reads, r.bytes = m.rate(was.Served.Reads, i.Served.Reads), m.rate(was.Served.Bytes, i.Served.Bytes)
		r.from = answeredBy(i.Reads)
		if was.Reads != nil && i.Reads != nil && was.Reads.Reads <= i.Reads.Reads {
			r.from = r.from.minus(answeredBy(was.Reads))
		}
		rows = append(rows, r)
		all.reads, all.bytes, all.slow = all.reads+r.reads, all.bytes+r.bytes, all.slow+r.slow
		if key := diskKey(i); !counted[key] {
			counted[key] = true
			all.from = all.from.plus(r.from)
		}
	}
	slices.SortStableFunc(rows, func(a, b topRow) int {
		return cmp.Or(m.order.compare(&a, &b), cmp.Compare(a.info.Spec.Image, b.info.Spec.Image), cmp.Compare(a.info.ID, b.info.ID))
	})
	return rows, all
}

// render returns the lines of the screen, cut to its size.
func (m *topModel) render() []topLine {
	rows, all := m.rows()
	lines := m.head(&all)
	lines = append(lines, topLine{})
	table := m.table(rows)
	if m.height > 0 {
		if room := max(1, m.height-len(lines)-1); len(table) > room {
			hidden := len(table) - room + 1
			table = append(table[:room-1], topLine{text: fmt.Sprintf("… %d more", hidden)})
		}
	}
	lines = append(lines, table...)
	if m.height > 0 {
		lines = lines[:min(len(lines), m.height-1)]
		lines = append(lines, topLine{text: m.keys()})
	}
	for i := range lines {
		lines[i].text = cut(lines[i].text, m.width)
	}
	return lines
}

// head says how the agent and the host cache are.
func (m *topModel) head(all *topRow) (lines []topLine) {
	o := m.now
	add := func(style topStyle, format string, args ...any) {
		lines = append(lines, topLine{fmt.Sprintf(format, args...), style})
	}
	up := ""
	if o.agent.PID != 0 {
		up = fmt.Sprintf("  agent %s up %s", printable(o.agent.Version), span(o.at.Sub(o.agent.Since)))
	}
	add(plainStyle, "rivulet top  %s%s  disks: %d", o.at.Format(time.TimeOnly), up, len(o.infos))
	if o.failed != nil {
		style := badStyle
		if errors.Is(o.failed, control.ErrNoAgent) {
			style = plainStyle
		}
		add(style, "agent   %s", printable(o.agentProblem()))
	} else {
		r := all.from.ratios()
		add(plainStyle, "disks   %s reads/s  %s/s  hits: memory %s  cache %s  zone %s  slow %s/s",
			amount(all.reads), size(int64(all.bytes)), share(r.Memory), share(r.Cache), share(r.Zone), amount(all.slow))
	}
	switch n := o.cache; {
	case o.cacheSocket == "":
		add(plainStyle, "cache   no host cache runs")
	case o.cacheFailed != nil:
		add(badStyle, "cache   %s", printable(o.cacheFailed.Error()))
	case n == nil:
		add(plainStyle, "cache   answers; its numbers are for root and its own user")
	default:
		var old map[string]int64
		if m.before != nil {
			old = m.before.cache
		}
		rate := func(name string) float64 { return m.rate(old[name], n[name]) }
		if old == nil {
			rate = func(string) float64 { return 0 }
		}
		add(plainStyle, "cache   %s of %s (%s)  %s requests/s, %s at once  %s downloads/s, %s/s  zone %s of %s/s  %s evictions/s",
			size(n["bytes"]), size(n["max_bytes"]), percent(n["bytes"], n["max_bytes"]),
			amount(rate("hits")+rate("flights")), amount(rate("hits")), amount(rate("downloads")), size(int64(rate("downloaded_bytes"))),
			amount(rate("zone_hits")), amount(rate("zone_hits")+rate("zone_misses")), amount(rate("evictions")))
	}
	return lines
}

// table is the disks' part.
func (m *topModel) table(rows []topRow) []topLine {
	var text strings.Builder
	w := tabwriter.NewWriter(&text, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "DISK\tIMAGE\tSTATE\tREADS/S\tBYTES/S\tMEMORY\tCACHE\tZONE\tORIGIN/S\tSLOW/S\tSLOW\tWAITING\tWHERE")
	for i := range rows {
		r := &rows[i]
		ratios, waits := r.from.ratios(), "-"
		if r.info.Waits > 0 {
			waits = span(r.info.LongestWait)
		}
		where := r.info.Address
		if where == "" {
			where = r.info.Spec.Where
		}
		var seconds float64 = 1
		if m.before != nil {
			seconds = max(m.now.at.Sub(m.before.at).Seconds(), 1e-3)
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%d\t%s\t%s\n", r.info.ID, cut(printable(r.info.Spec.Image), 30), r.info.State,
			amount(r.reads), size(int64(r.bytes)), share(ratios.Memory), share(ratios.Cache), share(ratios.Zone),
			amount(float64(r.from.origin)/seconds), amount(r.slow), r.info.SlowReads, waits, printable(where))
	}
	_ = w.Flush() // into memory
	var lines []topLine
	for i, line := range strings.Split(strings.TrimSuffix(text.String(), "\n"), "\n") {
		l := topLine{text: strings.TrimRight(line, " ")}
		if i == 0 {
			l.style = headStyle
		} else if r := &rows[i-1]; r.info.State != host.Ready || r.info.LongestWait >= hungAfter {
			l.style = badStyle
		}
		lines = append(lines, l)
	}
	return lines
}

// keys is the line that says which keys there are.
func (m *topModel) keys() string {
	text := "q quits; sort by"
	for _, o := range topOrders {
		mark := ""
		if o.key == m.order.key {
			mark = "*"
		}
		text += fmt.Sprintf(" %c %s%s", o.key, o.name, mark)
	}
	return text
}

// amount writes a rate for people.
func amount(v float64) string {
	switch {
	case v == 0:
		return "0"
	case v < 10:
		return fmt.Sprintf("%.1f", v)
	case v < 10_000:
		return fmt.Sprintf("%.0f", v)
	case v < 10_000_000:
		return fmt.Sprintf("%.1fk", v/1e3)
	}
	return fmt.Sprintf("%.1fM", v/1e6)
}

// cut shortens text to a number of characters; 0: not at all.
func cut(text string, width int) string {
	if width <= 0 || utf8.RuneCountInString(text) <= width {
		return text
	}
	runes := []rune(text)
	return string(runes[:width-1]) + "…"
}
