package main

import (
	"os"
	"path/filepath"
	"testing"
)

// TestHas: a run goes on with what the file of one before has not.
func TestHas(t *testing.T) {
	name := filepath.Join(t.TempDir(), "results")
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range []result{
		{Kind: kindMachine, Facts: []string{"one"}},
		{Kind: kindStart, Link: farLink, Image: "base", Contender: plain, Round: 1, Pull: 5},
		{Kind: kindSteady, Image: steadyImage, Contender: plain, Round: 1, Work: "stat", Rate: 10},
	} {
		if err := writeResult(f, &r); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	p := plan{}
	if p.had, err = readFile(name); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		kind, link, image, contender string
		round                        int
		want                         bool
	}{
		{kindStart, farLink, "base", plain, 1, true},
		{kindStart, farLink, "base", plain, 2, false},
		{kindStart, farLink, "base", rivuletCold, 1, false},
		{kindStart, "loopback", "base", plain, 1, false},
		{kindSecond, farLink, "base", plain, 1, false},
		{kindSteady, "", steadyImage, plain, 1, true},
	} {
		if has := p.has(tc.kind, tc.link, tc.image, tc.contender, tc.round); has != tc.want {
			t.Errorf("%+v: has %v", tc, has)
		}
	}
}
