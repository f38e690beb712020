package main

import (
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
