package main

import (
	"bytes"
	"strings"
	"testing"
)

// starts returns a run in which contenders take some times of a plain pull.
func runOf(scale float64, ratios map[string]float64) *figures {
	var list []result
	for i, image := range []string{"base", "python3", "nginx"} {
		seconds := scale * float64(5+i)
		for round := 1; round <= 3; round++ {
			list = append(list, result{Kind: kindStart, Link: farLink, Image: image, Contender: plain, Round: round, Pull: seconds})
			for c, ratio := range ratios {
				list = append(list, result{Kind: kindStart, Link: farLink, Image: image, Contender: c, Round: round, Pull: ratio * seconds / 2, Ready: ratio * seconds / 2})
			}
		}
	}
	return analyse(list)
}

func TestGate(t *testing.T) {
	recorded := map[string]float64{rivuletCold: 0.4, stargz: 0.5}
	tests := []struct {
		name   string
		after  *figures
		reason string
	}{
		{"the same on a machine twice as slow", runOf(2, recorded), ""},
		{"a little slower", runOf(1, map[string]float64{rivuletCold: 0.42, stargz: 0.5}), ""},
		{"slower at the median", runOf(1, map[string]float64{rivuletCold: 0.46, stargz: 0.5}), "at most 1.10"},
		{"a peer slower", runOf(1, map[string]float64{rivuletCold: 0.4, stargz: 0.9}), ""},
		{"nothing in common", runOf(1, map[string]float64{rivuletL2: 0.4}), "nothing in common"},
		{"ours failed", runOf(1, map[string]float64{stargz: 0.5}), "nothing in common"},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			var out bytes.Buffer
			err := gate(&out, runOf(1, recorded), tc.after)
			switch {
			case tc.reason == "" && err != nil:
				t.Errorf("gate: %v", err)
			case tc.reason != "" && (err == nil || !strings.Contains(err.Error(), tc.reason)):
				t.Errorf("gate: %v, want an error with %q", err, tc.reason)
			}
		})
	}
}

// One image that got much slower hides in no median.
func TestGateOneImage(t *testing.T) {
	before, after := runOf(1, map[string]float64{rivuletCold: 0.4}), runOf(1, map[string]float64{rivuletCold: 0.4})
	after.cells[key{kindStart, farLink, "nginx", rivuletCold}].total *= 1.5
	var out bytes.Buffer
	if err := gate(&out, before, after); err == nil || !strings.Contains(err.Error(), "nginx") {
		t.Errorf("gate: %v, want nginx named", err)
	}
}

// One or two images are no median.
func TestGateFewImages(t *testing.T) {
	before, after := runOf(1, map[string]float64{rivuletCold: 0.4}), runOf(1, map[string]float64{rivuletCold: 0.5})
	after.images = after.images[:gateImages-1]
	var out bytes.Buffer
	if err := gate(&out, before, after); err != nil {
		t.Errorf("gate: %v", err)
	}
	after.images = after.images[:gateImages]
	if err := gate(&out, before, after); err == nil {
		t.Error("the gate passes three images that take 1.25 × what they took")
	}
}

// Who reads of a ratio that grew wants to know what else is another.
func TestGateFacts(t *testing.T) {
	before, after := runOf(1, map[string]float64{rivuletCold: 0.4}), runOf(1, map[string]float64{rivuletCold: 0.4})
	before.facts, after.facts = []string{"Linux 6", "two slow processors"}, []string{"Linux 6", "two fast processors"}
	var out bytes.Buffer
	if err := gate(&out, before, after); err != nil {
		t.Fatalf("gate: %v", err)
	}
	if want := "only before: two slow processors\nonly now: two fast processors\n"; !strings.HasPrefix(out.String(), want) {
		t.Errorf("gate printed %q, want %q first", out.String(), want)
	}
}
