package main

import (
	"encoding/xml"
	"math"
	"strings"
	"testing"
)

func TestTable(t *testing.T) {
	in := "a\tours\t10\na\ttheirs\t5\na\tours\t30\na\ttheirs\t10\na\tours\t20\na\ttheirs\t20\nb\tours\t1.5\n"
	tab, err := read(strings.NewReader(in))
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	if err := tab.write(&out, "reads/s", 1); err != nil {
		t.Fatal(err)
	}
	want := `| reads/s | ours | theirs | ours / theirs |
| --- | ---: | ---: | ---: |
| a | 20.0 (10.0 to 30.0) | 10.0 (5.0 to 20.0) | 2.00 |
| b | 1.5 | – | – |
`
	if out.String() != want {
		t.Errorf("got\n%swant\n%s", &out, want)
	}
}

func TestMalformedInput(t *testing.T) {
	for _, in := range []string{"", "a\tb\n", "a\tb\tmany\n"} {
		if _, err := read(strings.NewReader(in)); err == nil {
			t.Errorf("read(%q): no error", in)
		}
	}
}

func TestDraw(t *testing.T) {
	tab, err := read(strings.NewReader("a & b\tours\t10\na & b\ttheirs\t5\nc\tours\t30\n"))
	if err != nil {
		t.Fatal(err)
	}
	svg := string(tab.draw("s"))
	if n := strings.Count(svg, "stroke=\"black\""); n != 3 {
		t.Errorf("%d bars, want 3", n)
	}
	if err := xml.Unmarshal([]byte(svg), new(struct{})); err != nil {
		t.Errorf("no well-formed picture: %v", err)
	}
	seen := make(map[string]bool)
	for k := range 20 {
		if c := colour(k); seen[c] {
			t.Errorf("subject %d has the colour of another: %s", k, c)
		} else {
			seen[c] = true
		}
	}
	for most, want := range map[float64]float64{0: 1, 30: 10, 0.9: 0.2, 5: 1, 26: 10, 24: 5} {
		if got := tickStep(most); math.Abs(got-want) > 1e-9 {
			t.Errorf("ticks to %v are %v apart, want %v", most, got, want)
		}
	}
}
