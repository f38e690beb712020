package main

import (
	"encoding/xml"
	"errors"
	"io"
	"regexp"
	"strings"
	"testing"
)

// measured is a run with all kinds of results.
func measured() []result {
	list := []result{
		{Kind: kindMachine, Facts: []string{"a machine <of two> processors"}},
		{Kind: kindNeeds, Image: "base", Needed: 1e6, Compressed: 40e6},
		{Kind: kindSteady, Contender: plain, Work: "stat", Rate: 1000}, {Kind: kindSteady, Contender: rivuletProfile, Work: "stat", Rate: 940},
		{Kind: kindSteady, Contender: plain, Work: "cold", Rate: 100}, {Kind: kindSteady, Contender: rivuletProfile, Work: "cold", Rate: 85},
		{Kind: kindDevelop, Link: farLink, Image: "base", Contender: plain, Publish: 1, Pull: 1, Up: 5e3},
	}
	for _, image := range []string{"base", "nginx", "walk"} {
		for c, seconds := range map[string]float64{plain: 5, stargzBest: 2, rivuletCold: 2, rivuletProfile: 1} {
			if image == "nginx" && c == rivuletCold {
				seconds = 3
			}
			list = append(list, result{Kind: kindStart, Link: farLink, Image: image, Contender: c, Pull: seconds / 2, Create: seconds / 4, Ready: seconds / 4, Bytes: int64(seconds * 1e6), Requests: 7})
			list = append(list, result{Kind: kindSecond, Link: farLink, Image: image, Contender: c, Ready: 0.25})
		}
	}
	return list
}

func TestBounds(t *testing.T) {
	f := analyse(measured())
	want := map[string]string{
		"at most 0.5 × a plain pull":  missed, // nginx takes 0.6
		"ahead of soci":               notMeasured,
		"at most 0.25 × a plain pull": met,
		"at most 0.6 × eStargz":       met,
		"beside the floor":            "reported",
		"reading everything":          met,
		"stat of every file":          missed,
		"reading every file, warm":    notMeasured,
		"reading every file, page":    met,
	}
	for part, result := range want {
		found := false
		for _, b := range f.bounds() {
			if strings.Contains(b.Goal, part) {
				found = true
				if b.Met != result {
					t.Errorf("%s: %s (%s), want %s", b.Goal, b.Met, b.How, result)
				}
			}
		}
		if !found {
			t.Errorf("no goal with %q", part)
		}
	}
	// Local start 0.25 s, 1 MB at 100 Mbit/s, five times 30 ms.
	if floor := f.floor(links[2], "base"); floor < 0.479 || floor > 0.481 {
		t.Errorf("floor %v, want 0.48", floor)
	}
}

// TestPage: the page is whole, needs nothing from elsewhere, and takes no text for markup.
func TestPage(t *testing.T) {
	page, err := analyse(measured()).html([]string{"a <note>"})
	if err != nil {
		t.Fatal(err)
	}
	text := string(page)
	for _, part := range []string{"<svg", "a &lt;note&gt;", "a machine &lt;of two&gt; processors", "0.60"} {
		if !strings.Contains(text, part) {
			t.Errorf("the page has no %q", part)
		}
	}
	if outside := regexp.MustCompile(`(src|href)=|url\(|@import`).FindString(text); outside != "" {
		t.Errorf("the page asks for something elsewhere: %s", outside)
	}
	for i, picture := range regexp.MustCompile(`(?s)<svg.*?</svg>`).FindAllString(text, -1) {
		d := xml.NewDecoder(strings.NewReader(picture))
		for {
			_, err := d.Token()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatalf("picture %d: %v", i, err)
			}
		}
		if strings.Contains(picture, "NaN") || strings.Contains(picture, "Inf") {
			t.Errorf("picture %d has a place that is no number", i)
		}
	}
}

func TestEar(t *testing.T) {
	e := newEar("ready to accept")
	for _, part := range []string{strings.Repeat("x", 3*earKeeps), "it is rea", "dy to acc"} {
		_, _ = e.Write([]byte(part)) // never fails
	}
	select {
	case <-e.found:
		t.Fatal("heard what was not said")
	default:
	}
	_, _ = e.Write([]byte("ept\n" + strings.Repeat("y", 2*earKeeps)))
	select {
	case <-e.found:
	default:
		t.Fatal("a line that came in parts was not heard")
	}
	if n := len(e.said()); n > earKeeps {
		t.Errorf("keeps %d bytes, want %d at most", n, earKeeps)
	}
}

func TestWorkloads(t *testing.T) {
	all, err := workloads(nil)
	if err != nil || len(all) != 22 {
		t.Fatalf("%d workloads, %v, want 22", len(all), err)
	}
	if some, err := workloads([]string{"redis", "whole"}); err != nil || len(some) != 4 || some[0].Want == "" {
		t.Errorf("redis and whole: %+v, %v", some, err)
	}
	if _, err := workloads([]string{"reddis"}); err == nil || !strings.Contains(err.Error(), "redis") {
		t.Errorf("reddis: %v, want the names that there are", err)
	}
}
